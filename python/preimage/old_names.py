"""Names in files that version 0.1 wrote, and what they are called now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SPEC_PARAMETERS = {"colour": "color"}
TRAIN_SETTINGS = {
    "cache_views": "cache_crops",
    "checkpoint_every": "save_every",
    "clip_norm": "grad_clip",
    "image_size": "size",
    "learning_rate": "lr",
    "muon_rate": "muon_lr",
    "optimiser": "optimizer",
    "validate_every": "eval_every",
    "validation_count": "val_count",
    "validation_images": "val_images",
}
ARCHITECTURE_FIELDS = {"logarithm_from": "log_floor"}
INVERTER_FIELDS = {"view": "output_region"}
TRAINING_NOTES = {"normalised_error": "normalized_error"}


def renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields under their present names, in the same order."""
    return {names.get(name, name): value for name, value in fields.items()}
