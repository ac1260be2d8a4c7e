"""Test training images in the device's memory: runs see the same crops as if they were streamed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from cache_runs import Notes, StopAt, built, settings_of, toy_config
from preimage import training
from preimage.errors import FileFormatError
from preimage.inverters import keypoint_splat
from preimage.representations import create_representation
from preimage.training import TrainConfig, checkpoint, image_store, trainer
from preimage.training.cached_dataset import CachedDataset
from preimage.training.dataset import Dataset
from preimage.training.dataset_factory import open_dataset
from preimage.training.graphed_step import GraphedStep
from preimage.training.image_store import ImageStore, store_images
from preimage.training.step import Step, TrainState
from tolerances import training_loss
from training_runs import metrics_without_time, small_config, weights

CPU = torch.device("cpu")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that gives the CPU as much free memory as a GPU."""

    def give(free: int) -> None:
        monkeypatch.setattr(image_store, "free_bytes", lambda device: free)

    return give


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose the graphed step also on a CPU."""

    def choose(state: TrainState, step: int, note: Callable[[str], None]) -> Step:
        return GraphedStep(state, step, lambda work, device: work)

    monkeypatch.setattr(trainer, "choose_step", choose)


def stored(dataset: Dataset) -> ImageStore:
    """Return the dataset's images on the CPU, and let it use them."""
    store = store_images(
        dataset.images,
        dataset.config.side,
        dataset.config.min_crop,
        CPU,
        crops=len(dataset.images),
        note=lambda sentence: None,
        interrupted=threading.Event(),
    )
    assert store is not None
    dataset.store = store
    return store


def assert_same_batches(dataset: Dataset, mean: float, most: int) -> None:
    """Check that crops cut out of stored images differ by at most these numbers of levels, and features by nothing."""
    streamed = [dataset.batch(step) for step in range(6)]
    store = stored(dataset)
    for step, batch in enumerate(streamed):
        numbers, features = dataset.batch(step)
        assert numbers.shape == (dataset.config.batch_size, 7)
        crops = store.cut(numbers)
        assert crops.is_contiguous(memory_format=torch.channels_last)
        difference = (crops.int() - batch.images.int()).abs().float()
        assert difference.mean() <= mean and difference.max() <= most
        assert (features is None) == (batch.features is None)
        assert features is None or torch.equal(features, batch.features)


def test_crops_equal_streamed_ones(photo_folder: Path, tmp_path: Path, memory: Callable[[int], None]) -> None:
    """Images of 96 pixels are as they were if they fit, or else shrunk before crops are cut."""
    dataset = open_dataset(small_config(photo_folder, tmp_path))[1]
    for free, side, mean, most in ((1 << 30, 96, 0.001, 1), (800_000, 91, 1.5, 40)):
        memory(free)
        dataset.store = None
        assert_same_batches(dataset, mean, most)
        assert dataset.store is not None
        assert dataset.store.nbytes == 16 * 3 * side**2
        assert (dataset.store.shapes == 96).all()


@pytest.mark.usefixtures("toys")
def test_cached_and_precomputed_features_keep_their_crops(
    photo_folder: Path, tmp_path: Path, memory: Callable[[int], None]
) -> None:
    memory(1 << 30)
    config = toy_config(photo_folder, tmp_path / "run")
    dataset, cache = built(config, tmp_path / "cache")
    assert_same_batches(CachedDataset(dataset, settings_of(dataset), cache), 0.001, 1)
    training_features = tmp_path / "features.npz"
    np.savez(training_features, **{source.key: np.ones(5, np.float32) for source in dataset.images.sources})
    config = dataclasses.replace(
        config, representation=None, features=str(training_features), allow_missing=True, cache="off", size=32
    )
    assert_same_batches(open_dataset(config)[1], 0, 0)


def test_images_of_any_shape_lie_upright(tmp_path: Path, memory: Callable[[int], None]) -> None:
    memory(1 << 30)
    images, random = tmp_path / "images", np.random.default_rng(0)
    images.mkdir()
    for index, shape in enumerate(((40, 200), (300, 70), (64, 64), (1, 90), (33, 47), (90, 60))):
        smooth = cv2.resize(random.integers(0, 256, (4, 5, 3), np.uint8), shape[::-1])
        cv2.imwrite(str(images / f"{index}.png"), smooth)
    turned = cv2.imencode(".jpg", cv2.resize(random.integers(0, 256, (4, 5, 3), np.uint8), (300, 130)))[1].tobytes()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    (images / "turned.jpg").write_bytes(
        turned[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + turned[2:]
    )
    dataset = open_dataset(small_config(images, tmp_path, size=32, val_count=2))[1]
    assert_same_batches(dataset, 0.5, 12)
    assert dataset.store is not None
    assert (300, 130) in map(tuple, dataset.store.shapes.tolist())


@pytest.mark.usefixtures("graphed")
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_run_learns_as_one_that_streams(
    photo_folder: Path, tmp_path: Path, memory: Callable[[int], None], optimizer: str
) -> None:
    settings = {"optimizer": optimizer, "steps": 12}
    training.run(small_config(photo_folder, tmp_path / "streamed", **settings))
    memory(1 << 30)
    notes = Notes()
    training.run(small_config(photo_folder, tmp_path / "stored", **settings), display=notes)
    assert any("kept in the GPU's memory: 0.4 MB" in note for note in notes.notes)
    curves = [
        torch.tensor([line["loss"] for line in metrics_without_time(tmp_path / name) if "loss" in line])
        for name in ("stored", "streamed")
    ]
    assert (curves[0] / curves[1] - 1).abs().max() < training_loss(torch.bfloat16, 12)[-1]


@pytest.mark.parametrize("kind", ["graphed", "eager"])
def test_a_run_resumes_bit_for_bit(
    photo_folder: Path, tmp_path: Path, memory: Callable[[int], None], kind: str, request: pytest.FixtureRequest
) -> None:
    memory(1 << 30)
    if kind == "graphed":
        request.getfixturevalue("graphed")
    full, cut = (small_config(photo_folder, tmp_path / name, steps=14, save_every=4) for name in ("full", "cut"))
    training.run(full)
    with pytest.raises(OSError, match="went away"):
        training.run(cut, display=StopAt(6))
    training.run(cut, resume=True)
    assert weights(tmp_path / "full") == weights(tmp_path / "cut")
    assert metrics_without_time(tmp_path / "full") == metrics_without_time(tmp_path / "cut")


def test_memory_decides(photo_folder: Path, tmp_path: Path, memory: Callable[[int], None]) -> None:
    dataset = open_dataset(small_config(photo_folder, tmp_path))[1]
    needed = 16 * 3 * 91**2  # 64 pixels for half of the area of an image
    notes: list[str] = []

    def decide(free: int, crops: float = 1e9, min_crop: float = 0.5) -> bool:
        memory(free)
        notes.clear()
        options: dict[str, Any] = {"crops": crops, "note": notes.append, "interrupted": threading.Event()}
        return store_images(dataset.images, 64, min_crop, CPU, **options) is not None

    assert decide(2 * needed)
    assert "0.4 MB" in notes[0]
    assert not decide(2 * needed - 2)
    assert "0.4 MB do not fit" in notes[0]
    assert not decide(0) and not notes
    assert not decide(1 << 30, crops=15) and not notes
    assert decide(1 << 30, crops=16)
    assert not decide(1 << 30, min_crop=0.05)


def test_a_cpu_keeps_images_in_its_own_way() -> None:
    assert image_store.free_bytes(CPU) == 0


def damage(path: Path) -> None:
    """Write a lossless WebP with a valid header whose pixels cannot be decoded."""
    data = cv2.imencode(".webp", np.zeros((40, 40, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    path.write_bytes(data[:25] + b"\xff" * (len(data) - 25))


def test_damaged_images(photo_folder: Path, tmp_path: Path, memory: Callable[[int], None]) -> None:
    """They end the run, or are left out and replaced by the same images as in a streamed run."""
    memory(1 << 30)
    photos = Path(shutil.copytree(photo_folder, tmp_path / "photos"))
    for name in ("rocket-1", "coffee-2"):
        damage(photos / f"{name}.jpg")
    config = small_config(photos, tmp_path / "run")
    with pytest.raises(FileFormatError, match=r"(rocket-1|coffee-2)\.jpg"):
        stored(open_dataset(config)[1])
    dataset = open_dataset(dataclasses.replace(config, skip_bad=True))[1]
    assert_same_batches(dataset, 0.001, 1)
    assert sorted(dataset.images.sources[index].key for index in dataset.images.bad) == ["coffee-2", "rocket-1"]
    summary = training.run(dataclasses.replace(config, skip_bad=True, steps=4))
    assert [key for key, _ in summary.skipped] == ["coffee-2", "rocket-1"]
    for path in photos.iterdir():
        damage(path)
    dataset.images.bad.update(dict.fromkeys(range(16), "damaged"))
    with pytest.raises(ValueError, match=r"16 images.*damaged"):
        stored(dataset)


def test_ctrl_c_while_images_are_decoded(photo_folder: Path, tmp_path: Path) -> None:
    dataset, interrupted = open_dataset(small_config(photo_folder, tmp_path))[1], threading.Event()
    interrupted.set()
    with pytest.raises(KeyboardInterrupt):
        ImageStore(dataset.images, 64, 96, CPU).load(lambda sentence: None, interrupted)


@pytest.mark.usefixtures("graphed")
def test_features_from_the_workers_are_part_of_the_graph(
    photo_folder: Path, tmp_path: Path, memory: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sparse SIFT is computed from the streamed crops, and the step splats all cells as on a GPU."""
    memory(1 << 30)
    settings: dict[str, Any] = {"representation": "sift", "parameters": {"variant": "opencv"}, "steps": 4}
    notes, curves = Notes(), []
    for name in ("graphed", "eager"):
        if name == "graphed":
            monkeypatch.setattr(keypoint_splat, "_cells_with_keypoints", keypoint_splat._every_cell)
        training.run(small_config(photo_folder, tmp_path / name, **settings), display=notes)
        monkeypatch.undo()
        curves.append([line["loss"] for line in metrics_without_time(tmp_path / name) if "loss" in line])
    assert not notes.notes
    assert curves[0] == pytest.approx(curves[1], rel=training_loss(torch.float32, 4)[-1].item())
    config = TrainConfig(**json.loads((tmp_path / "eager" / "train.json").read_text()))
    dataset = open_dataset(config, create_representation("sift", variant="opencv"))[1]
    batch = dataset.batch(0)
    assert batch.features is not None
    assert batch.features.shape[1:] == dataset.feature_shape
    assert checkpoint.read_header(tmp_path / "graphed" / checkpoint.CHECKPOINT)[1].step == 4
