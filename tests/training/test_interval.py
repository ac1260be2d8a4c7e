"""Test the intervals between log lines, validations and checkpoints, in steps and in seconds."""

from __future__ import annotations

import ctypes
import math
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_time_limit import Clock, clock  # noqa: F401 - a fixture

from preimage import training
from preimage.training import TrainConfig, checkpoint
from preimage.training.interval import Interval, parse_interval
from preimage.training.process_state import cudnn_benchmark, freed_memory_kept
from training_runs import metrics_without_time, small_config


def test_values() -> None:
    assert parse_interval("eval_every", 7) == parse_interval("eval_every", "7") == Interval(steps=7)
    assert parse_interval("eval_every", "90s") == Interval(seconds=90)
    assert parse_interval("eval_every", "0.5s", gpu=True) == Interval(seconds=0.5)
    for name, steps, seconds in (("log_every", 20, 2), ("eval_every", 1000, 60), ("save_every", 250, 120)):
        assert parse_interval(name, None) == Interval(steps=steps)
        assert parse_interval(name, None, gpu=True) == Interval(seconds=seconds)
    for wrong in (0, -1, 2.5, True, "", "0", "0s", "-1s", "s", "60 s", "1m", "nans"):
        with pytest.raises(ValueError, match=rf"save_every.*{wrong!r}"):
            TrainConfig(representation="hog", images=("a",), output="b", save_every=wrong)  # type: ignore[arg-type]


def test_steps_and_seconds() -> None:
    assert [step for step in range(1, 13) if Interval(steps=4).is_over(step, math.inf)] == [4, 8, 12]
    assert [second for second in range(6) if Interval(seconds=2.5).is_over(7, second)] == [3, 4, 5]


def test_a_run_may_resume_with_other_intervals(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"representation": "hog", "images": ("a",), "output": str(tmp_path)}
    assert TrainConfig(**settings, eval_every="7").eval_every == 7
    stored = TrainConfig(**settings, workers=1, log_every=20, eval_every=1000, save_every=250)  # as version 0.1 wrote
    assert TrainConfig(**settings).changes(TrainConfig.from_json(stored.to_json())) == []
    assert TrainConfig(**settings).changes(TrainConfig(**settings, eval_every="60s", workers=3)) == []


def test_events_follow_the_clock(photo_folder: Path, tmp_path: Path, clock: Clock) -> None:  # noqa: F811
    """A step takes 30 seconds of this clock."""
    config = small_config(
        photo_folder, tmp_path / "run", steps=9, log_every="30s", eval_every="80s", save_every="100s", cache="off"
    )
    saved: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        write = checkpoint.write
        patch.setattr(checkpoint, "write", lambda path, contents: (saved.append(1), write(path, contents)))
        training.run(config)
    lines = metrics_without_time(tmp_path / "run")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 10))
    assert [line["step"] for line in lines if "error" in line] == [3, 6, 9]
    assert len(saved) == 3  # after the steps 4, 8, and 9, the last one


def test_cudnn_measures_during_the_whole_run() -> None:
    for device, chosen in (("cuda", True), ("cpu", False)):
        with pytest.raises(KeyError), cudnn_benchmark(torch.device(device)):
            assert torch.backends.cudnn.benchmark is chosen
            raise KeyError
        assert not torch.backends.cudnn.benchmark


_FILL = """
import resource, torch
from preimage.training.process_state import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

with freed_memory_kept(torch.device("cpu")):
    faults()  # the pages of these blocks are those of the next ones
    print(faults(), resident())
print(resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_freed_memory_is_kept_during_the_run() -> None:
    """The settings are those of a process, and pytest may run tests in other threads than the main one."""
    ran = subprocess.run([sys.executable, "-c", _FILL], capture_output=True, text=True, check=True)
    faults, inside, after = map(int, ran.stdout.split())
    assert faults < 100  # 300,000 if the memory were returned, 640 with huge pages
    assert after < inside - 2**25, "it is returned at the end"


def test_other_devices_do_not_change_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", None)
    with freed_memory_kept(torch.device("cuda")):
        pass
