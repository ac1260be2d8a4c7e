"""Test interrupted runs: no finished step is lost, and no valid file is overwritten."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import safetensors.torch
import torch

from cache_runs import Notes, toy_config
from conftest import Run
from preimage import training
from preimage.errors import FileFormatError
from preimage.inverters import Inverter
from preimage.io import atomic, atomic_write
from preimage.training import Display, TrainConfig, TrainingDivergedError, checkpoint, trainer
from preimage.training import step as training_step
from preimage.training.display import Metrics
from preimage.training.process_state import interruptible
from training_runs import metrics_without_time, weights

pytestmark = pytest.mark.usefixtures("toys")


def config_of(photos: Path, output: Path, **changes: Any) -> TrainConfig:
    return toy_config(photos, output, **{"cache": "off", "steps": 24, "eval_every": 12, **changes})


class Ends(Notes):
    """Display that raises an error when it is called."""

    def __init__(self, step: int, where: str) -> None:
        super().__init__()
        self.step, self.where = step, where

    def update(self, progress: object, loss: float) -> None:
        self._end(progress, "update")

    def validated(self, progress: object, report: object) -> None:
        self._end(progress, "validated")

    def _end(self, progress: Any, where: str) -> None:
        if where == self.where and progress.step >= self.step:
            raise RuntimeError("the terminal went away")


@pytest.mark.parametrize(("step", "where"), [(7, "update"), (12, "update"), (12, "validated"), (24, "validated")])
def test_an_error_costs_no_step(photo_folder: Path, tmp_path: Path, step: int, where: str) -> None:
    """This also holds between a step and the logging, validation and checkpoint that are due after it."""
    settings = {"log_every": 3 if step % 3 == 0 else 7, "save_every": 1000}
    training.run(config_of(photo_folder, tmp_path / "full", **settings))
    cut, display = config_of(photo_folder, tmp_path / "cut", **settings), Ends(step, where)
    with pytest.raises(RuntimeError, match="went away"):
        training.run(cut, display=display)
    assert checkpoint.read_header(tmp_path / "cut" / checkpoint.CHECKPOINT)[1].step == step
    assert f"{step} steps" in display.notes[-1]
    training.run(cut, resume=True)
    assert weights(tmp_path / "full") == weights(tmp_path / "cut")
    assert metrics_without_time(tmp_path / "full") == metrics_without_time(tmp_path / "cut")


def test_a_half_done_step_is_not_saved(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(photo_folder, tmp_path / "run", save_every=5)
    move, calls = training_step._update_average, []

    def fails(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 8:
            raise MemoryError("out of memory")
        move(*arguments)

    monkeypatch.setattr(training_step, "_update_average", fails)
    with pytest.raises(MemoryError):
        training.run(config)
    assert checkpoint.read_header(tmp_path / "run" / checkpoint.CHECKPOINT)[1].step == 5
    assert training.run(config, resume=True).steps == 24


def test_an_error_before_the_first_step_leaves_no_run(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command can be repeated when the cause is fixed."""
    config = config_of(photo_folder, tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(training_step, "batch_loss", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            training.run(config)
    assert training.run(config).steps == 24


def test_weights_that_are_not_finite_replace_nothing(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This also holds if the loss of the last step was finite."""
    config = config_of(photo_folder, tmp_path / "run", log_every=1000, eval_every=6, save_every=6)
    move, calls = training_step._update_average, []

    def corrupts(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
        move(average, model, decay)
        calls.append(1)
        if len(calls) == 12:
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))

    monkeypatch.setattr(training_step, "_update_average", corrupts)
    with pytest.raises(TrainingDivergedError, match=r"weights.*NaN.*12"):
        training.run(config)
    assert checkpoint.read_header(tmp_path / "run" / checkpoint.CHECKPOINT)[1].step == 6
    inverter = Inverter.load(tmp_path / "run")
    assert inverter.training_notes["steps"] == 6
    assert all(bool(weight.isfinite().all()) for weight in inverter.parameters())


class _Full:
    """File on a full disk."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk_is_named_and_keeps_the_last_checkpoint(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(photo_folder, tmp_path / "run", save_every=5)
    write, calls = checkpoint.write, []

    def fills(path: Path, contents: checkpoint.Snapshot) -> None:
        calls.append(1)
        if len(calls) > 1:
            with atomic_write(path) as file:
                _Full(file).write(b"")
        write(path, contents)

    monkeypatch.setattr(checkpoint, "write", fills)
    with pytest.raises(OSError, match="No space left") as caught:
        training.run(config)
    assert caught.value.filename == str(tmp_path / "run" / checkpoint.CHECKPOINT)
    assert len(calls) == 3, "once more at the end, in vain"
    assert checkpoint.read_header(tmp_path / "run" / checkpoint.CHECKPOINT)[1].step == 5
    assert not list((tmp_path / "run").glob(".preimage-*"))
    monkeypatch.undo()


def test_a_full_disk_under_the_metrics_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", keep_until=0)

    def full(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("preimage.training.display.json.dumps", full)  # inside the block that writes
    with pytest.raises(OSError, match="No space left") as caught:
        metrics.write(step=1)
    assert caught.value.filename == str(tmp_path / "metrics.jsonl")
    with pytest.raises(OSError, match="read") as other, atomic.naming_full_disk(tmp_path / "out"):
        raise OSError(errno.EIO, "read error")
    assert other.value.filename is None, "another file may have failed"


def test_one_run_at_a_time(photo_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    config = config_of(photo_folder, tmp_path / "run")
    started, goes_on = threading.Event(), threading.Event()

    class Waits(Display):
        def update(self, progress: object, loss: float) -> None:
            started.set()
            assert goes_on.wait(60)

    thread = threading.Thread(target=training.run, args=(config,), kwargs={"display": Waits()})
    thread.start()
    assert started.wait(60)
    try:
        with pytest.raises(ValueError, match=r"another run.*run"):
            training.run(config, resume=True)
    finally:
        goes_on.set()
        thread.join()
    assert training.run(config, resume=True).steps == 24


@pytest.mark.parametrize("below", ["", "run"])
def test_an_output_that_is_a_file(photo_folder: Path, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="is a file"):
        training.run(config_of(photo_folder, tmp_path / "file" / below))
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_that_cannot_be_written_to(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError, match="written") as caught:
        training.run(config_of(photo_folder, tmp_path / "a" / "run"))
    assert caught.value.filename == str(tmp_path)


def test_a_run_of_another_version(photo_folder: Path, tmp_path: Path) -> None:
    config = config_of(photo_folder, tmp_path / "run", steps=1)
    training.run(config)
    path = tmp_path / "run" / checkpoint.CHECKPOINT
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(path)
    settings = json.dumps(json.loads(metadata["config"]) | {"dropout": 0.5})
    for change, words in (
        ({"format_version": "6"}, r"checkpoint\.safetensors.*version 6.*5"),
        ({"format_version": "2"}, r"checkpoint\.safetensors.*version 2.*orientation"),
        ({"config": settings}, r"checkpoint\.safetensors.*dropout"),
    ):
        checkpoint.write(path, checkpoint.Snapshot(tensors, metadata | change))
        with pytest.raises(FileFormatError, match=words):
            training.run(config, resume=True)
    images = {"images": torch.zeros(3, dtype=torch.uint8)}
    checkpoint.write(path, checkpoint.Snapshot(tensors | images, metadata))
    with pytest.raises(FileFormatError, match="list of images"):
        training.run(config, resume=True)


def test_the_second_ctrl_c_stops_at_once_but_not_the_second_sigterm() -> None:
    """Slurm sends SIGTERM to all processes of a job, and torchrun passes on its own."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with pytest.raises(KeyboardInterrupt), interruptible() as interrupted:
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
            assert interrupted.is_set()
            signal.raise_signal(signal.SIGINT)
        assert {number: signal.getsignal(number) for number in handlers} == handlers
    finally:
        for number, handler in before.items():  # SIGINT may be ignored, as in the background of a shell
            signal.signal(number, handler)


def test_errors_are_one_line_on_the_command_line(run: Run, photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    options = ("--steps", 2, "--batch-size", 2, "--val-count", 4, "--precision", "float32", "--cache", "off")
    code, _, err = run("train", "toy-maps", photo_folder, "-o", tmp_path / "file", *options)
    assert (code, err.count("\n"), err.startswith(f"error: {tmp_path / 'file'}: ")) == (1, 1, True)


def test_other_settings_are_refused_before_the_images_are_inspected(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(photo_folder, tmp_path / "run", steps=1)
    training.run(config)
    monkeypatch.setattr(trainer, "open_dataset", lambda *arguments, **options: pytest.fail("opened"))
    with pytest.raises(ValueError, match="batch_size: 2 != 4"):
        training.run(dataclasses.replace(config, batch_size=2), resume=True)
