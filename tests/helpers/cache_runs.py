"""Small training runs of toys with a cache of features."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from preimage.store import FeatureStore
from preimage.training import Display, TrainConfig, trainer
from preimage.training.cached_dataset import CacheBuilder, CacheSettings, cache_settings, view_key
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
        "size": None,
        "cache": "on",
        "cache_crops": VIEWS,
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


def settings_of(dataset: CropDataset, views: int = VIEWS) -> CacheSettings:
    return cache_settings(dataset.config, dataset.representation, dataset.images, views)


def row(store: FeatureStore, index: int) -> np.ndarray:
    """The features of a view, counted through all images."""
    return store[view_key(*divmod(index, VIEWS))]


def built(config: TrainConfig, folder: Path, notes: list[str] | None = None) -> tuple[CropDataset, FeatureStore]:
    dataset, made = builder(config, folder, notes)
    return dataset, made.build()


def builder(
    config: TrainConfig, folder: Path, notes: list[str] | None = None, interrupted: threading.Event | None = None
) -> tuple[CropDataset, CacheBuilder]:
    dataset = dataset_of(config)
    settings = settings_of(dataset, config.cache_crops)
    note: Callable[[str], None] = (notes if notes is not None else []).append
    return dataset, CacheBuilder(
        settings,
        folder / settings.digest(),
        dataset.representation,
        dataset.images,
        device=torch.device("cpu"),
        workers=1,
        note=note,
        interrupted=interrupted or threading.Event(),
    )
