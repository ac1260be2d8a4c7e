"""Test ``kill -9`` at every operation on files and at random moments: what is on disk is complete, unfinished in a way
that is noticed, or what was there before, and the repeated command ends with the same bytes as an uninterrupted one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import TRIALS, WORK, FaultServer, spread
from preimage.training.display import Metrics

_QUICK = ("checkpoint", "inverter", "merge")  # interrupted at every operation by default, too
_REPRESENTATIONS = ("extract-lbp", "extract-dense-sift", "extract-sift", "extract-convolution")


@pytest.mark.parametrize(
    "work", spread(WORK, "extract", "train", "cache", "extract.npy", "extract.npz", "convert", "invert", *_QUICK)
)
def test_killed_at_every_operation(faults: FaultServer, photo_folder: Path, tmp_path: Path, work: str) -> None:
    trials = 0 if TRIALS >= 50 or work in _QUICK else TRIALS
    result = faults.interrupt(work, "kill", photo_folder, tmp_path, trials)
    assert result["problems"] == []
    assert result["interrupted"] >= (trials or 10)


@pytest.mark.parametrize("work", spread((*WORK, *_REPRESENTATIONS), "extract", "extract-convolution", "train"))
def test_killed_at_random_moments(faults: FaultServer, photo_folder: Path, tmp_path: Path, work: str) -> None:
    result = faults.interrupt(work, "random", photo_folder, tmp_path, TRIALS)
    assert result["problems"] == []
    assert result["interrupted"] == TRIALS


@pytest.mark.parametrize("rest", [b'{"step": 3, "lo', b"\0\0\0", b'{"step": 3}\n{"st', b"\xff"])
def test_half_a_line_of_the_log_is_dropped(tmp_path: Path, rest: bytes) -> None:
    """A resumed run repeats the steps of lines that the kill or the loss of power has cut."""
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, keep_until=0)
    for step in (1, 2):
        metrics.write(step=step, loss=0.5)
    whole = path.read_bytes()
    path.write_bytes(whole + rest)
    Metrics(path, keep_until=2).write(step=3, loss=0.25)
    assert path.read_bytes() == whole + b'{"step": 3, "loss": 0.25}\n'
