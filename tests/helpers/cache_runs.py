"""Small training runs of toys with a cache of features."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from preimage.training import Display, TrainConfig, cache, trainer
from preimage.training.cache_files import CacheFolder
from preimage.training.dataset import CropDataset
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


def dataset_of(config: TrainConfig) -> CropDataset:
    dataset = trainer.open_dataset(config)[1]
    assert isinstance(dataset, CropDataset)
    return dataset


def built(config: TrainConfig, folder: Path, notes: list[str] | None = None) -> tuple[CropDataset, CacheFolder]:
    dataset, made = builder(config, folder, notes)
    return dataset, made.build()


def builder(
    config: TrainConfig, folder: Path, notes: list[str] | None = None, interrupted: threading.Event | None = None
) -> tuple[CropDataset, cache.CacheBuilder]:
    dataset = dataset_of(config)
    settings = cache.cache_settings(dataset.config, dataset.representation, dataset.images, config.cache_views)
    note: Callable[[str], None] = (notes if notes is not None else []).append
    return dataset, cache.CacheBuilder(
        settings,
        folder,
        dataset.representation,
        dataset.images,
        device=torch.device("cpu"),
        workers=1,
        note=note,
        interrupted=interrupted or threading.Event(),
    )
