"""Provide small training runs of toy representations with a feature cache."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from preimage.store import FeatureStore
from preimage.training import Display, TrainConfig
from preimage.training.cache_builder import CacheBuilder
from preimage.training.cached_dataset import CacheSettings, cache_settings, crop_key
from preimage.training.dataset import CropDataset
from preimage.training.dataset_factory import open_dataset
from training_runs import small_config

CROPS = 4


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
        "cache_crops": CROPS,
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
    dataset = open_dataset(config)[1]
    assert isinstance(dataset, CropDataset)
    return dataset


def settings_of(dataset: CropDataset, crops: int = CROPS) -> CacheSettings:
    return cache_settings(dataset.config, dataset.representation, dataset.images, crops)


def row(store: FeatureStore, index: int) -> np.ndarray:
    """Return the features of a crop, counted through all images."""
    return store[crop_key(*divmod(index, CROPS))]


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
