"""Small training runs of toys with a cache of features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preimage.training import Display, TrainConfig
from training_runs import small_config

VIEWS = 4


class Notes(Display):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def toy_config(images: Path, output: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "representation": "toy-maps",
        "image_size": None,
        "cache": "on",
        "cache_views": VIEWS,
        "steps": 30,
    }
    return small_config(images, output, **settings | changes)


class StopAt(Display):
    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, progress: object, loss: float) -> None:
        if progress.step >= self.step:  # type: ignore[attr-defined]
            raise OSError("the machine went away")
