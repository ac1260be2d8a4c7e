"""Test the trainer: it learns, resumes bit for bit, and stops without losing steps."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from conftest import photographs
from preimage import training
from preimage.errors import FileFormatError
from preimage.inverters import Inverter, UShapedConfig
from preimage.io import list_images
from preimage.representations import create_representation
from preimage.training import Display, TrainConfig, TrainingDivergedError, checkpoint, trainer
from preimage.training import step as training_step
from preimage.training.dataset import Dataset
from preimage.training.dataset_factory import open_dataset
from preimage.training.images import ImageSet
from preimage.training.sampling import batch_images, cut_crops, random_crops
from training_runs import metrics_without_time, small_config, weights


class StopAt(Display):
    """Display that sends the process a signal, or raises an error, when a step is reached."""

    def __init__(self, step: int, number: int | None = None) -> None:
        self.step, self.number = step, number

    def update(self, progress: object, loss: float) -> None:
        if progress.step >= self.step:  # type: ignore[attr-defined]
            if self.number is None:
                raise OSError("the machine went away")
            os.kill(os.getpid(), self.number)


def test_learns_and_leaves_an_inverter(photo_folder: Path, tmp_path: Path) -> None:
    # Four validation images measure a chaotic path: seeds and precisions end at 0.71 to 0.92 of the first error.
    # This seed stays far below the bound in float32 and bfloat16, with one thread or two: 0.72 to 0.81.
    config = small_config(photo_folder, tmp_path / "run", steps=200, optimizer="muon", eval_every=20, seed=6)
    summary = training.run(config)
    assert summary.steps == 200
    assert summary.images_seen == 800
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])
    errors = {line["step"]: line["error"] for line in lines if "error" in line}
    assert list(errors) == list(range(20, 201, 20))
    assert summary.error == errors[200] < 0.9 * errors[20]
    inverter = Inverter.load(summary.folder)
    assert inverter.training_notes["images_seen"] == 800
    assert inverter.training_notes["normalized_error"] == summary.error
    assert inverter.feature_deviation.min() > 0
    samples = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert samples == [f"step-{step:07d}.png" for step in errors]


@pytest.mark.parametrize(
    ("stop", "optimizer", "precision"),
    [(7, "adam", "float32"), (20, "muon", "float32"), (21, "adam", "bfloat16"), (39, "muon", "bfloat16")],
)
def test_resumes_bit_for_bit(photo_folder: Path, tmp_path: Path, stop: int, optimizer: str, precision: str) -> None:
    full = small_config(photo_folder, tmp_path / "full", optimizer=optimizer, precision=precision)
    training.run(full)
    cut = small_config(photo_folder, tmp_path / "cut", optimizer=optimizer, precision=precision)
    with pytest.raises(OSError, match="went away"):
        training.run(cut, display=StopAt(stop))
    training.run(cut, resume=True)
    assert weights(tmp_path / "full") == weights(tmp_path / "cut")
    assert metrics_without_time(tmp_path / "full") == metrics_without_time(tmp_path / "cut")


def test_features_from_the_workers_are_reproducible(photo_folder: Path, tmp_path: Path) -> None:
    """Sparse SIFT is computed ahead with random augmentation, and batches are equal however a run is interrupted."""
    settings: dict[str, Any] = {"representation": "sift", "parameters": {"variant": "opencv"}, "steps": 12}
    settings |= {"eval_every": 12, "save_every": 4, "workers": 2}
    full = training.run(small_config(photo_folder, tmp_path / "full", **settings))
    assert 0 < full.error < 2
    with pytest.raises(OSError, match="went away"):
        training.run(small_config(photo_folder, tmp_path / "cut", **settings), display=StopAt(7))
    training.run(small_config(photo_folder, tmp_path / "cut", **settings), resume=True)
    assert weights(tmp_path / "full") == weights(tmp_path / "cut")
    assert metrics_without_time(tmp_path / "full") == metrics_without_time(tmp_path / "cut")
    lines = [json.loads(line) for line in (tmp_path / "full" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["waited"] >= 0 for line in lines if "loss" in line)


def test_only_waiting_for_batches_counts_as_waited(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uses a clock that advances only during calls of the display and the checkpoint."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    class Slow(Display):
        def update(self, progress: object, loss: float) -> None:
            clock.now += 10

        def validated(self, progress: object, report: object) -> None:
            clock.now += 1000

    clock = Clock()
    monkeypatch.setattr(trainer, "time", clock)
    summary = training.run(small_config(photo_folder, tmp_path / "run", steps=4, eval_every=2), display=Slow())
    assert (summary.waited, summary.seconds) == (0, 20)  # steps 1 and 3; after 2 and 4 comes a validation


def test_a_checkpoint_without_the_time_waited(photo_folder: Path, tmp_path: Path) -> None:
    config = small_config(photo_folder, tmp_path / "run", steps=3, save_every=1, eval_every=3)
    with pytest.raises(OSError, match="went away"):
        training.run(config, display=StopAt(2))
    path = tmp_path / "run" / checkpoint.CHECKPOINT
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    progress = json.loads(metadata["progress"])
    assert progress.pop("waited") >= 0
    assert metadata.pop("sha256")  # which checkpoints of version 4 do not have
    metadata |= {"format_version": "4", "progress": json.dumps(progress)}
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata)
    assert checkpoint.read_header(path)[1].waited == 0
    assert training.run(config, resume=True).steps == 3


def test_thinned_images_keep_some_of_their_keypoints() -> None:
    images = torch.from_numpy(np.stack([image[:200, :200] for image in photographs().values()])).permute(0, 3, 1, 2)
    sift = create_representation("sift", variant="opencv")
    full = (sift(images)[:, 132] != 0).flatten(1).sum(1)
    found = torch.stack([(sift.for_training(images, (0, 2, n))[:, 132] != 0).flatten(1).sum(1) for n in range(40)])
    fractions = found / full
    assert 0.4 < (fractions == 1).float().mean() < 0.75  # three quarters of three quarters are left alone
    assert fractions.min() < 0.5


def test_an_image_size_that_leaves_something_over_is_refused(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hog.*66×66.*64×64"):
        training.run(small_config(photo_folder, tmp_path / "run", size=66))


def test_ctrl_c_saves_and_raises(photo_folder: Path, tmp_path: Path) -> None:
    config = small_config(photo_folder, tmp_path / "run", save_every=1000)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        training.run(config, display=StopAt(13, signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is handler
    _, progress = checkpoint.read_header(tmp_path / "run" / checkpoint.CHECKPOINT)
    assert progress.step == 13  # the step in hand was finished and is not lost
    training.run(config, resume=True)
    training.run(full := small_config(photo_folder, tmp_path / "full"))
    assert weights(Path(config.output)) == weights(Path(full.output))


def test_threads_other_than_the_main_one_can_train(photo_folder: Path, tmp_path: Path) -> None:
    config = small_config(photo_folder, tmp_path / "run", steps=2)
    thread = threading.Thread(target=training.run, args=(config,))
    thread.start()
    thread.join()
    assert (tmp_path / "run" / "config.json").exists()


def test_non_finite_loss_stops_with_the_checkpoint_kept(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(photo_folder, tmp_path / "run", save_every=5)
    batch_loss = training_step.batch_loss
    calls = 0

    def loss_that_breaks(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return batch_loss(*arguments) * (float("nan") if calls > 12 else 1.0)

    monkeypatch.setattr(training_step, "batch_loss", loss_that_breaks)
    with pytest.raises(TrainingDivergedError, match=r"nan.*step 1\d.*checkpoint"):
        training.run(config)
    _, progress = checkpoint.read_header(tmp_path / "run" / checkpoint.CHECKPOINT)
    assert progress.step == 10
    monkeypatch.setattr(training_step, "batch_loss", batch_loss)
    assert training.run(config, resume=True).steps == config.steps


def test_an_existing_run_is_never_overwritten(photo_folder: Path, tmp_path: Path) -> None:
    config = small_config(photo_folder, tmp_path / "run", steps=4)
    training.run(config)
    before = weights(tmp_path / "run")
    with pytest.raises(ValueError, match="already"):
        training.run(config)
    with pytest.raises(ValueError, match="batch_size: 2 != 4"):
        training.run(small_config(photo_folder, tmp_path / "run", steps=4, batch_size=2), resume=True)
    assert weights(tmp_path / "run") == before
    metrics = metrics_without_time(tmp_path / "run")
    assert training.run(config, resume=True).steps == 4  # nothing left to do
    assert metrics_without_time(tmp_path / "run") == metrics


def test_damaged_checkpoint_is_named(photo_folder: Path, tmp_path: Path) -> None:
    config = small_config(photo_folder, tmp_path / "run", steps=2)
    training.run(config)
    path = tmp_path / "run" / checkpoint.CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FileFormatError, match="not a checkpoint"):
        training.run(config, resume=True)


def test_starts_from_an_inverter_and_its_statistics(photo_folder: Path, tmp_path: Path) -> None:
    training.run(small_config(photo_folder, tmp_path / "first", steps=30, lr=3e-3))
    first = Inverter.load(tmp_path / "first")
    others = tmp_path / "others"
    others.mkdir()
    for path in (*photo_folder.glob("camera-*"), *photo_folder.glob("rocket-*")):
        shutil.copy(path, others)
    second = small_config(others, tmp_path / "second", steps=1, lr=1e-9, init=str(tmp_path / "first"), ema_decay=0.0)
    training.run(second)
    for name, value in Inverter.load(tmp_path / "second").state_dict().items():
        torch.testing.assert_close(value, first.state_dict()[name], atol=1e-6, rtol=0)


def test_starts_from_an_inverter_with_another_network(photo_folder: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    network = UShapedConfig(widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), head=(8, 4))
    Inverter(create_representation("hog").spec, network).save(first)
    config = small_config(photo_folder, tmp_path / "run", init=str(first), preset=None, steps=4)
    with pytest.raises(OSError, match="went away"):
        training.run(config, display=StopAt(2))
    assert training.run(config, resume=True).steps == 4
    inverter = Inverter.load(tmp_path / "run")
    assert inverter.config == network
    assert inverter.training_notes["preset"] is None
    for changes, message in (
        ({"preset": "tiny"}, r"first has another network.*'tiny'.*leave out preset"),
        ({"parameters": {"cell_size": 16}}, r"first inverts other features.*parameters\.cell_size: 16 != 8"),
    ):
        with pytest.raises(ValueError, match=message):
            training.run(dataclasses.replace(config, output=str(tmp_path / "other"), **changes))


@pytest.mark.parametrize(
    ("changes", "preset"),
    [({}, "compact"), ({"init": "a"}, None), ({"init": "a", "budget": 10}, "compact"), ({"preset": "wide"}, "wide")],
)
def test_the_default_preset(changes: dict[str, Any], preset: str | None) -> None:
    assert TrainConfig(representation="hog", images=("a",), output="b", **changes).preset == preset


def test_absent_devices_are_refused(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'gpu'"):
        training.run(small_config(photo_folder, tmp_path / "run", device="gpu"))
    assert not (tmp_path / "run").exists()


def test_validation_images_are_not_trained_on(photo_folder: Path, tmp_path: Path) -> None:
    folder = str(photo_folder)
    with pytest.raises(ValueError, match="held out"):
        training.run(small_config(photo_folder, tmp_path / "run", val_images=(folder,)))
    with pytest.raises(ValueError, match="40"):
        training.run(small_config(photo_folder, tmp_path / "run", val_count=40))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, r"steps.*at least 1.*0"),
        ({"min_crop": 0.0}, r"min_crop.*\(0, 1\].*0\.0"),
        ({"precision": "float8"}, r"precision.*'auto', 'float32', 'bfloat16'.*'float8'"),
        ({"lr": -1.0}, r"lr.*above 0.*-1\.0"),
        ({"ema_decay": 1.0}, r"ema_decay.*\[0, 1\).*1\.0"),
        ({"images": ()}, "images.*empty"),
    ],
)
def test_refuses_settings(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"representation": "hog", "images": ("a",), "output": str(tmp_path), **change})


def test_config_survives_json(tmp_path: Path) -> None:
    config = TrainConfig(representation="hog", images=("a", "b"), output=str(tmp_path), parameters={"color": "luma"})
    assert TrainConfig.from_json(config.to_json()) == config


def test_batches_depend_on_seed_and_step_alone(photo_folder: Path) -> None:
    def opened(seed: int) -> Dataset:
        return open_dataset(small_config(photo_folder, Path("none"), seed=seed))[1]

    dataset = opened(1)
    first = dataset.batch(5).images
    assert not torch.equal(first, dataset.batch(6).images)
    assert torch.equal(first, opened(1).batch(5).images)
    assert not torch.equal(first, opened(2).batch(5).images)


def test_every_image_comes_once_an_epoch(photo_folder: Path) -> None:
    images = ImageSet(list_images([str(photo_folder)]))
    seen: list[int] = []
    for step in range(len(images)):
        seen += batch_images(images, step, 2, 0)[0].images.tolist()
    assert sorted(seen[: len(images)]) == sorted(seen[len(images) :]) == list(range(len(images)))
    assert seen[: len(images)] != seen[len(images) :]


def test_random_crops_stay_inside_and_mirror() -> None:
    ramp = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (120, 1, 3))
    drawn = random_crops(np.array([(120, 200)] * 200), 0.25, np.random.default_rng(0))
    assert all((at >= 0).all() and (at + drawn.side <= end).all() for at, end in ((drawn.top, 120), (drawn.left, 200)))
    crops = cut_crops([ramp] * 200, drawn, 60).int()
    assert crops.shape == (200, 3, 60, 60)
    widths = crops[:, 0, 0, -1] - crops[:, 0, 0, 0]
    assert 60 < (widths > 0).sum() < 140
    widths = widths.abs().tolist()
    assert 55 <= min(widths) < 75
    assert 105 < max(widths) <= 120
