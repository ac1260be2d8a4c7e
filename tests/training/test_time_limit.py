"""Test runs limited by time: the learning rate follows the clock, and resumed runs keep the time used."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cache_runs import StopAt
from preimage import training
from preimage.training import Display, LineDisplay, TrainConfig, checkpoint, trainer
from preimage.training import step as training_step
from preimage.training.checkpoint import Progress
from preimage.training.step import schedule
from training_runs import small_config


class Clock:
    """Clock that advances only when a step is run."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Install a clock for which every step takes half a minute, and everything else no time."""
    clock, loss = Clock(), training_step.batch_loss

    def takes_time(*arguments: Any) -> torch.Tensor:
        clock.now += 30
        return loss(*arguments)

    monkeypatch.setattr(trainer, "time", clock)
    monkeypatch.setattr(training_step, "batch_loss", takes_time)
    return clock


class Rates(Display):
    """Collect the learning rate of every step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rates: list[float] = []

        def recorded(step: int, config: TrainConfig, seconds: float = 0.0) -> float:
            self.rates.append(schedule(step, config, seconds))
            return self.rates[-1]

        monkeypatch.setattr(training_step, "schedule", recorded)


def timed(images: Path, output: Path, **changes: Any) -> TrainConfig:
    """Return a run of five minutes, which is ten steps by the clock of these tests."""
    settings: dict[str, Any] = {"steps": None, "max_hours": 5 / 60, "warmup_steps": 2, "cache": "off"}
    return small_config(images, output, **settings | changes)


@pytest.mark.usefixtures("clock")
def test_a_run_ends_when_its_time_is_used(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = Rates(monkeypatch)
    summary = training.run(timed(photo_folder, tmp_path / "run"), display=rates)
    assert (summary.steps, summary.seconds) == (10, 300)
    cosine = [0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    assert rates.rates == pytest.approx([0.5 * cosine[0], *cosine[1:]])
    _, progress = checkpoint.read_header(tmp_path / "run" / checkpoint.CHECKPOINT)
    assert (progress.step, progress.step_finished, progress.error) == (10, True, summary.error)


def test_a_resumed_run_keeps_the_time_used(
    photo_folder: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = Rates(monkeypatch)
    config = timed(photo_folder, tmp_path / "run")
    with pytest.raises(OSError, match="went away"):
        training.run(config, display=StopAt(4))
    clock.now += 10_000  # until it is resumed
    summary = training.run(config, resume=True, display=rates)
    assert (summary.steps, summary.seconds) == (10, 300)
    assert rates.rates[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(4, 10)])
    assert training.run(config, resume=True).steps == 10, "its time is used"
    with pytest.raises(ValueError, match=r"max_hours: 1 != 0\.08"):
        training.run(timed(photo_folder, tmp_path / "run", max_hours=1), resume=True)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("steps", "ended"), [(6, 6), (40, 10)])
def test_of_both_limits_the_earlier_one_counts(photo_folder: Path, tmp_path: Path, steps: int, ended: int) -> None:
    assert training.run(timed(photo_folder, tmp_path / "run", steps=steps)).steps == ended


def test_the_schedule_follows_the_larger_fraction(tmp_path: Path) -> None:
    config = timed(tmp_path, tmp_path, steps=102)  # a hundred after the warm-up
    half = pytest.approx(0.5)
    assert schedule(52, config, 0.0) == schedule(10, config, 150.0) == schedule(52, config, 150.0) == half
    assert schedule(102, config, 0.0) == schedule(10, config, 300.0) == schedule(10, config, 400.0) == 0
    assert schedule(0, config, 150.0) == pytest.approx(0.25), "warm-up and decay multiply"


def test_limits(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"representation": "hog", "images": ("a",), "output": str(tmp_path)}
    assert (TrainConfig(**settings).steps, TrainConfig(**settings).max_hours) == (20_000, None)
    assert TrainConfig(**settings, max_hours=2.0).steps is None
    for hours in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"max_hours.*{hours}"):
            TrainConfig(**settings, max_hours=hours)


def test_lines_show_the_remaining_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    display = LineDisplay()
    for changes, position, remaining in (({}, "step 4 ", "0:04:00"), ({"steps": 5}, "step 4/5 ", "0:00:15")):
        display.start(timed(tmp_path, tmp_path, **changes), Progress(), 16, torch.float32)
        display.update(Progress(step=4, seconds=60.0), 0.25)
        started, line = capsys.readouterr().err.splitlines()
        assert "0.0833333 hours" in started
        assert position in line
        assert line.endswith(f"ETA {remaining}")
