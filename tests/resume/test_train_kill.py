"""Test ``kill -9`` at random moments of a training run: it resumes to the same bits, and no file is partial."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paths import HELPERS
from preimage import training
from preimage.inverters import Inverter
from preimage.training import checkpoint
from training_runs import metrics_without_time, small_config, weights

# PREIMAGE_KILLS=50 runs the long version of this test.
KILLS = int(os.environ.get("PREIMAGE_KILLS", "2"))

_HELPERS = str(HELPERS)
_PATH = os.pathsep.join(filter(None, (_HELPERS, os.environ.get("PYTHONPATH"))))
_RUN = """
import sys
import training_runs  # knows the tiny network
from preimage.training import TrainConfig, run
run(TrainConfig.from_json(sys.argv[1]), resume=True)
"""


@pytest.mark.parametrize("round_", range(max(1, KILLS // 5)))
def test_killed_runs_end_like_uninterrupted_ones(photo_folder: Path, tmp_path: Path, round_: int) -> None:
    full = small_config(photo_folder, tmp_path / "full", steps=60, save_every=3, eval_every=15)
    training.run(full)
    cut = small_config(photo_folder, tmp_path / "cut", steps=60, save_every=3, eval_every=15)
    moments = random.Random(round_)
    kills = 0
    while kills < min(KILLS, 5):
        command = [sys.executable, "-c", _RUN, cut.to_json()]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": _PATH})
        _wait_for_progress(tmp_path / "cut", process)
        time.sleep(moments.uniform(0, 0.6))
        through = process.poll() is not None  # before the kill came
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if through:
            break
        kills += 1
        _nothing_is_half_written(tmp_path / "cut")
    training.run(cut, resume=True)
    assert kills > 0
    assert weights(tmp_path / "full") == weights(tmp_path / "cut")
    assert metrics_without_time(tmp_path / "full") == metrics_without_time(tmp_path / "cut")


def _wait_for_progress(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the process has resumed the run and written to its folder."""
    started = time.time()
    while process.poll() is None and time.time() - started < 60:
        metrics = folder / "metrics.jsonl"
        if metrics.exists() and metrics.stat().st_mtime >= started - 0.01:
            return
        time.sleep(0.01)


def _nothing_is_half_written(folder: Path) -> None:
    path = folder / checkpoint.CHECKPOINT
    if path.exists():
        checkpoint.read_header(path)
    if (folder / "config.json").exists():
        try:
            Inverter.load(folder)
        except ValueError as error:  # killed between the two renames, which is detected, and repaired by resuming
            assert "config.json" in str(error)
