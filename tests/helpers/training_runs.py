"""Configure small training runs for several test files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from preimage.inverters import UShapedConfig
from preimage.inverters.architectures import config_to_dict
from preimage.representations.hog import Hog
from preimage.representations.sift import Sift
from preimage.training import TrainConfig

# A network that takes a step in milliseconds.
_TINY = UShapedConfig(widths=(16, 24, 32), blocks_down=(1, 1, 1), blocks_up=(1, 1), head=(16, 8), repeat_edges=1)
_TINY_SIFT = UShapedConfig(
    widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), head=(8, 4), entry=("c3/2 16",), splat_levels=2
)
Hog.presets = {**Hog.presets, "tiny": config_to_dict(_TINY)}
Sift.presets = {**Sift.presets, "tiny": config_to_dict(_TINY_SIFT)}


def small_config(images: Path, output: Path, **changes: Any) -> TrainConfig:
    """Return the settings of a run of a few seconds with a tiny network on 64² images."""
    settings: dict[str, Any] = {
        "representation": "hog",
        "images": (str(images),),
        "output": str(output),
        "preset": "tiny",
        "val_count": 4,
        "size": 64,
        "steps": 40,
        "batch_size": 4,
        "warmup_steps": 4,
        "precision": "float32",
        "log_every": 1,
        "eval_every": 30,
        "save_every": 10,
    }
    return TrainConfig(**settings | changes)


def weights(folder: Path) -> str:
    """Return a digest of the run's inverter."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def metrics_without_time(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl`` without fields that depend on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("seconds", "waited")} for line in lines]
