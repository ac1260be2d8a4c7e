"""Dispatch by measurement, without a GPU: when a layer is measured, what is remembered, and what is left alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from preimage.ops.upconv import tuning, tuning_check, tuning_trials
from tuning_world import DTYPES, IMAGE_PASSES, PASSES, FakeConfig, World, a_world, choose, inputs_of


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    yield from a_world(monkeypatch, tmp_path)


def test_what_is_known_is_measured_neither_again_nor_in_the_next_process(world: World) -> None:
    world.configs = (FakeConfig("right", 0.5),)
    for _ in range(3):
        assert choose() == world.configs[0]
    before = world.runs
    assert choose() == world.configs[0]
    assert world.runs == before
    world.forget()
    assert choose() == world.configs[0]
    assert world.runs == 0
    assert tuning.clear() == 1
    assert tuning.entries() == ()
    assert choose() == world.configs[0]
    assert world.runs > 0


def test_a_file_chooses_only_among_the_candidates(world: World) -> None:
    world.configs = (FakeConfig("right", 0.5),)
    choose()
    world.forget()
    world.configs = (FakeConfig("right", 0.6),)
    assert choose() is None
    world.forget()
    world.configs = ()
    assert choose() is None


def test_other_tensors_are_torchs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.configs = (FakeConfig("right", 0.5),)
    assert choose(dtype=torch.float64) is None
    assert choose(shape=(0, 4, 6, 5, 4)) is None
    monkeypatch.setattr(tuning, "_on_gpu", lambda tensor: tensor.is_cuda)
    assert choose() is None
    assert world.runs == 0


def test_keys_are_as_fine_as_what_they_decide(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(which: str, shape: tuple[int, ...] = (2, 4, 6, 5, 4), slope: float | None = 0.2, **how: Any) -> str:
        inputs = list(inputs_of(which, how.get("dtype", torch.float32), shape))
        if "without" in how:
            inputs[how["without"]] = None
        return tuning._key(which, tuple(inputs), slope)

    assert key("forward") == key("forward", (1, 4, 6, 7, 9)), "33 to 64 pixels are one"
    assert key("forward") == key("forward", (1, 4, 6, 8, 8)) != key("forward", (1, 4, 6, 5, 13))
    for which in PASSES[1:]:
        assert key(which, (5, 4, 6, 5, 4)) == key(which, (8, 4, 6, 5, 4)) != key(which, (9, 4, 6, 5, 4))
        assert key(which) != key(which, (2, 4, 6, 4, 5))
    kinds = [key(which) for which in PASSES]
    kinds += [key("forward", slope=None), key("forward", without=2), key("dgrad", without=2)]
    kinds += [key("forward", dtype=torch.bfloat16), key("forward", (2, 6, 4, 5, 4))]
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark)
    kinds.append(key("forward"))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not torch.backends.cudnn.allow_tf32)
    kinds.append(key("forward"))
    with_deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    kinds.append(key("forward"))
    torch.use_deterministic_algorithms(with_deterministic)
    assert len(set(kinds)) == len(kinds), kinds


def test_candidates_are_the_same_for_all_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "has_triton", lambda: True)
    monkeypatch.setattr(tuning, "_capability", lambda device: (9, 0))
    for which in PASSES:
        out_channels = 3 if which in IMAGE_PASSES else 32
        found = {
            tuning._candidates(which, inputs_of(which, shape=(batch, 32, out_channels, 16, 16))) for batch in (5, 7, 8)
        }
        assert len(found) == 1, which
        assert found.pop()


def test_tf32_is_what_the_kernels_take_it_for(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = pytest.importorskip("preimage.ops.upconv.kernels._launch")
    for allowed in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        assert tuning._flags()[0] == (launch.precision(torch.float32) == "tf32") == allowed


def test_no_measurement_while_capturing(world: World) -> None:
    world.configs = (FakeConfig("right", 0.5),)
    world.capturing = True
    assert choose() is None
    assert (world.runs, tuning.entries()) == (0, ())
    world.capturing = False
    assert choose() == world.configs[0], "what was asked in vain is measured at the next chance"
    world.forget()
    world.capturing = True
    assert choose() == world.configs[0], "what is known is known while capturing, too"
    assert world.runs == 0


def test_no_measurement_of_fake_tensors_or_in_a_trace(world: World) -> None:
    world.configs = (FakeConfig("right", 0.5),)
    found = []

    def traced(x: torch.Tensor) -> torch.Tensor:
        found.append(choose())
        return x * 2

    def asked() -> None:
        with FakeTensorMode():
            found.append(choose())
        make_fx(traced)(torch.ones(2))

    asked()
    assert (found, world.runs) == ([None, None], 0)
    choose()
    found.clear()
    asked()
    assert found == [world.configs[0]] * 2


def test_nothing_of_the_callers_is_touched(world: World) -> None:
    world.configs = (FakeConfig("right", 0.5),)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    inputs = inputs_of("forward")
    assert inputs[0] is not None
    inputs[0].requires_grad_()
    seen = []
    original = world.run_kernel

    def watching(*arguments: Any) -> Any:
        seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return original(*arguments)

    world.run_kernel = watching  # type: ignore[method-assign]
    tuning_trials.run_kernel = tuning_check.run_kernel = watching  # put back by the fixture
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tuning.choose("forward", inputs, 0.2) == world.configs[0]
        assert torch.is_autocast_enabled("cpu")
    assert torch.is_grad_enabled()
    assert set(seen) == {(False, False)}
    assert torch.equal(torch.get_rng_state(), state)
    assert all(not tensor.any() for tensor in inputs if tensor is not None)
    assert inputs[0].grad is None


def test_threads_measure_a_key_once(world: World) -> None:
    world.configs = (FakeConfig("right", 0.5),)
    choose("wgrad")
    alone = world.runs
    world.forget()
    tuning.clear()
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(choose("wgrad"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [world.configs[0]] * 8
    assert world.runs == alone


def test_a_lack_of_memory_is_not_remembered_on_disk(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.configs = (FakeConfig("right", 0.5), FakeConfig("no_memory", 0.1))
    assert choose() is None
    assert "out of memory" in caplog.text
    before = world.runs
    assert choose() is None
    assert world.runs == before, "this process does not try at every step"
    assert tuning.entries() == ()
    world.forget()
    world.configs = world.configs[:1]
    assert choose() == world.configs[0]


def test_the_pause_is_told_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "preimage")
    world.configs = (FakeConfig("right", 0.5),)
    for which in PASSES:
        choose(which)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "Fake 1" in caplog.text


def test_a_folder_that_cannot_be_written_is_warned_of_once(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PREIMAGE_CACHE", str(tmp_path / "file" / "cache"))
    world.configs = (FakeConfig("right", 0.5),)
    with pytest.warns(RuntimeWarning, match="kept for this process only.*Not a directory"):
        assert choose() == world.configs[0]
    assert choose("dgrad") == world.configs[0]
    tuning._choices.clear()
    before = world.runs
    assert choose() == world.configs[0]
    assert world.runs == before
    assert [record.key.split()[0] for record in tuning.entries()] == ["forward", "dgrad"]
    assert tuning.clear() == 0


def test_an_installation_without_triton_has_no_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "has_triton", lambda: False)
    monkeypatch.setattr(tuning, "_on_gpu", lambda tensor: True)
    assert choose(shape=(2, 3, 7, 5, 4)) is None


def test_the_launchers_get_their_passes_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one place where the launchers are called, against the names and order of the passes in `plain`."""
    calls: list[Any] = []
    names = SimpleNamespace(**{which: lambda *given, which=which: calls.append((which, given)) for which in PASSES})
    monkeypatch.setattr(tuning_check.importlib, "import_module", lambda name: names)
    for which in PASSES:
        inputs = inputs_of(which)
        tuning_check.run_kernel(which, inputs, None if which == "wgrad" else 0.2, "config")
        slope = () if which == "wgrad" else (0.2,)
        assert calls[-1][0] == which
        assert all(a is b for a, b in zip(calls[-1][1], (*inputs, *slope, "config"), strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("which", PASSES)
def test_on_a_device(which: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("preimage.ops.upconv.kernels")
    monkeypatch.setenv("PREIMAGE_CACHE", str(tmp_path))
    tuning._choices.clear()
    tuning._stores.clear()
    shape = (16, 32, 3, 16, 16) if which in IMAGE_PASSES else (16, 128, 64, 16, 16)
    inputs = tuple(None if tensor is None else tensor.cuda() for tensor in inputs_of(which, dtype, shape))
    state = torch.cuda.get_rng_state()
    chosen = tuning.choose(which, inputs, None if which == "wgrad" else 0.2)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    (record,) = tuning.entries()
    refused = {trial.name: trial.reason for trial in record.entry.trials if trial.reason}
    assert refused == {}, "every configuration that is offered runs and is right"
    assert (chosen is None) == (record.entry.chosen is None)
    tuning._choices.clear()
    tuning._stores.clear()
    monkeypatch.setattr(tuning_trials, "run_trials", None)
    assert tuning.choose(which, inputs, None if which == "wgrad" else 0.2) == chosen
    tuning._choices.clear()
    tuning._stores.clear()
