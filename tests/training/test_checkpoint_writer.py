"""Test checkpoints written in a thread: they contain the state at their step, and errors end the run."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from preimage import training
from preimage.training import Display, checkpoint
from preimage.training.checkpoint import CheckpointWriter, Snapshot
from training_runs import small_config


def test_the_run_continues_while_a_checkpoint_is_written(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first checkpoint, of step 3, is written when step 5 is done, and contains the state of step 3."""
    settings = {"steps": 20, "save_every": 3, "eval_every": 20}
    expected = small_config(photo_folder, tmp_path / "expected", **settings)
    write, written, later = checkpoint.write, [], threading.Event()

    class Releases(Display):
        def update(self, progress: object, loss: float) -> None:
            if progress.step == 5:  # type: ignore[attr-defined]
                later.set()

    class Stops(Display):
        def update(self, progress: object, loss: float) -> None:
            if progress.step == 3:  # type: ignore[attr-defined]
                raise OSError("the machine went away")

    with pytest.raises(OSError, match="went away"):
        training.run(expected, display=Stops())

    def waits(path: Path, contents: Snapshot) -> None:
        assert later.wait(60)
        write(path, contents)
        written.append(safetensors.torch.load_file(path))

    monkeypatch.setattr(checkpoint, "write", waits)
    training.run(
        small_config(photo_folder, tmp_path / "run", steps=20, save_every=3, eval_every=20), display=Releases()
    )
    assert len(written) == 7
    third = safetensors.torch.load_file(tmp_path / "expected" / checkpoint.CHECKPOINT)
    assert written[0].keys() == third.keys()
    assert all(torch.equal(value, third[name]) for name, value in written[0].items())


def test_errors_surface_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    writer, contents = CheckpointWriter(tmp_path / "checkpoint", 4), Snapshot({"a": torch.zeros(1)}, {})
    writer.start(contents, 5)
    writer.wait()
    assert writer.step == 5
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", lambda path, contents: (_ for _ in ()).throw(full))
        writer.start(contents, 6)
        with pytest.raises(OSError, match="No space"):
            writer.wait()
    assert writer.step == 5
    writer.poll()
    writer.start(contents, 7)
    writer.close()
    assert writer.step == 7
