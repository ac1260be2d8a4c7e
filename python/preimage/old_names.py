"""Translate the names in files that version 0.1 wrote to the present ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SPEC_PARAMETERS = {"colour": "color", "layout": "output_layout"}
ARCHITECTURE_FIELDS = {"logarithm_from": "log_floor"}
INVERTER_FIELDS = {"view": "output_region"}
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
TRAINING_NOTES = {
    "held_out_images": "val_images",
    "image_size": "size",
    "normalised_error": "normalized_error",
}
CHECKPOINT_TENSORS = {"optimiser": "optimizer"}  # first parts of the tensors' names
PROGRESS = {"settled": "step_finished"}
IMAGE_LIST = {"held_out": "val", "trained": "train"}
CACHE_DECISION = {"asked": "requested", "views": "crops"}
CACHE_SOURCE = {"views": "crops"}  # in the index of a feature cache
HDF5_ATTRIBUTES = {"layout": "convention"}
MATLAB_VARIABLES = {"preimage_layout": "preimage_convention"}


def renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return fields with their present names, in the same order."""
    return {names.get(name, name): value for name, value in fields.items()}


def original(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return fields with their names in version 0.1, in the same order."""
    return renamed(fields, {new: old for old, new in names.items()})
