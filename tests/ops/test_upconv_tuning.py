"""Dispatch by measurement, without a GPU: who is chosen, and that a wrong one never is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from preimage.ops.upconv import tuning, tuning_check, tuning_trials
from tuning_world import DTYPES, OTHERS, PASSES, SPOILED, FakeConfig, World, a_world, choose, inputs_of


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    yield from a_world(monkeypatch, tmp_path)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("which", PASSES)
def test_the_fastest_right_one_is_chosen_and_never_a_wrong_one(world: World, which: str, dtype: torch.dtype) -> None:
    wrong = [FakeConfig(name, 0.1) for name in (*SPOILED, *OTHERS)]
    fastest = FakeConfig("right", 0.5)
    world.configs = (FakeConfig("right", 0.9), *wrong, fastest, FakeConfig("right", 0.6))
    assert choose(which, dtype, shape=(40, 4, 6, 8, 5)) == fastest
    trials = tuning.entries()[0].entry.trials
    assert trials[0] == tuning.Trial("torch", None, 1.0, None, None)
    assert len(trials) == 1 + len(world.configs)
    for trial in trials[1:]:
        name = trial.name.split()[0]
        if name == "right":
            assert trial.reason is None
            assert trial.milliseconds == pytest.approx(float(trial.name.split()[1]))
            assert trial.error is not None
            assert trial.error <= tuning_check.TOLERANCE[str(dtype)[6:]]
        else:
            assert trial.milliseconds is None
            expected = SPOILED[name][1] if name in SPOILED else OTHERS[name]
            assert expected in (trial.reason or ""), trial


def test_the_lowest_layers_empty_sum_is_right(world: World) -> None:
    world.configs = (FakeConfig("right", 0.5),)
    dz, weight, _ = inputs_of("dgrad")
    assert tuning.choose("dgrad", (dz, weight, None), None) == world.configs[0]


@pytest.mark.parametrize(("milliseconds", "wins"), [(0.5, True), (0.97, True), (0.99, False), (1.0, False), (2, False)])
def test_a_tie_goes_to_torch(world: World, milliseconds: float, wins: bool) -> None:
    world.configs = (FakeConfig("right", milliseconds),)
    assert choose() == (world.configs[0] if wins else None)


def test_nothing_is_timed_where_nothing_is_right(world: World) -> None:
    world.configs = (FakeConfig("nan", 0.1), FakeConfig("raises", 0.1))
    assert choose() is None
    assert world.rounds == 0
    assert tuning.entries()[0].entry.chosen is None


def test_timing_a_key_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_trials, "clock", lambda: world.now / 1e3)
    world.configs = (FakeConfig("right", 20.0), FakeConfig("right", 1000.0))
    world.torch_milliseconds = 30.0
    assert choose() == world.configs[0]
    assert 4 + 8 <= world.rounds <= 4 + 9, "0.4 s for two in rounds of 50 ms; the hopeless third only at first"
    assert tuning.entries()[0].entry.trials[2].milliseconds == 1000.0


def test_tf32_is_allowed_its_rounding_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(which: str, inputs: Any, negative_slope: float | None, config: FakeConfig) -> Any:
        short = [(tensor.view(torch.int32) & ~0x1FFF).view(torch.float32) for tensor in inputs]  # as tensor cores do
        return world.run_torch(which, short, negative_slope)

    monkeypatch.setattr(tuning_check, "run_kernel", rounded)
    for tf32, right in ((True, True), (False, False)):
        trials = tuning_trials.run_trials("forward", inputs_of("forward"), 0.2, [FakeConfig("tf32", 0.5)], tf32)
        assert (trials[1].reason is None) == right, trials[1]
