"""A world without a GPU for the tests of tuning: candidates that are wrong in every way we know of, and a clock."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from preimage.ops.upconv import plain, tuning, tuning_cache, tuning_check, tuning_trials

PASSES = ("forward", "dgrad", "wgrad", "image_backward", "distance_backward")
IMAGE_PASSES = PASSES[3:]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclasses.dataclass(frozen=True)
class FakeConfig:
    kernel: str
    milliseconds: float
    block: tuple[int, ...] = (1, 2)

    def __str__(self) -> str:
        return f"{self.kernel} {self.milliseconds}"

    def to_list(self) -> list[Any]:
        return [self.kernel, self.milliseconds, self.block]


def _scaled(outputs: list[torch.Tensor]) -> None:
    for output in outputs:
        output.mul_(1.02)


def _one_place(outputs: list[torch.Tensor]) -> None:
    output = outputs[0].view(-1)
    output[len(output) // 2] += 0.3 * output.float().square().mean().sqrt()


def _last_output(outputs: list[torch.Tensor]) -> None:
    outputs[-1] *= 0.9


def _nan(outputs: list[torch.Tensor]) -> None:
    outputs[-1].view(-1)[-1] = float("nan")


def _shape(outputs: list[torch.Tensor]) -> None:
    outputs[0] = outputs[0][..., :-1]


# How a fake kernel spoils its outputs, and what is said of it.
SPOILED: dict[str, tuple[Callable[[list[torch.Tensor]], None], str]] = {
    "scaled": (_scaled, "has error 0.02, more than"),
    "one_place": (_one_place, "more than"),
    "last_output": (_last_output, "has error 0.1, more than"),
    "nan": (_nan, "is not finite everywhere"),
    "shape": (_shape, "has shape"),
}
OTHERS = {
    "raises": "RuntimeError: out of resources: shared memory",
    "random": "two runs differ",
    "unwritten": "is not finite everywhere",
    "wrong_when_odd": "has error",
    "wrong_when_full": "in full size: ",
}


class World:
    """A device of our own: torch takes 1 ms for everything, a kernel what its configuration says."""

    def __init__(self) -> None:
        self.now = 0.0  # ms
        self.configs: tuple[FakeConfig, ...] = ()
        self.runs = 0
        self.rounds = 0
        self.poison = False
        self.capturing = False
        self.torch_milliseconds = 1.0

    def candidates(self, which: str, *_: Any) -> tuple[FakeConfig, ...]:
        return self.configs

    def run_torch(self, which: str, inputs: Any, negative_slope: float | None) -> Any:
        self.now += self.torch_milliseconds
        arguments = inputs if which == "wgrad" else (*inputs, negative_slope)
        return getattr(plain, which)(*arguments)

    def run_kernel(self, which: str, inputs: Any, negative_slope: float | None, config: FakeConfig) -> Any:
        self.runs += 1
        self.now += config.milliseconds
        dtype = inputs[0].dtype
        wide = tuple(None if tensor is None else tensor.double() for tensor in inputs)
        arguments = wide if which == "wgrad" else (*wide, negative_slope)
        result = getattr(plain, which)(*arguments)
        outputs = [result] if isinstance(result, torch.Tensor) else list(result)
        outputs = [output.to(torch.float32 if output.dim() == 1 else dtype).contiguous() for output in outputs]
        self._spoil(which, inputs, config.kernel, outputs)
        return outputs[0] if isinstance(result, torch.Tensor) else tuple(outputs)

    def _spoil(self, which: str, inputs: Any, kernel: str, outputs: list[torch.Tensor]) -> None:
        batch = tuning_check.geometry(which, inputs)[0]
        if kernel == "raises":
            raise RuntimeError("out of resources:\n shared memory")
        if kernel == "no_memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if kernel == "random":
            bits = outputs[0].view(-1).view({2: torch.int16, 4: torch.int32}[outputs[0].itemsize])
            bits[0] += self.runs % 2
        if kernel == "unwritten" and self.poison:
            outputs[0].view(-1)[0] = float("nan")
        if kernel in SPOILED:
            SPOILED[kernel][0](outputs)
        if (kernel == "wrong_when_odd" and batch == 3) or (kernel == "wrong_when_full" and batch == 40):
            _scaled(outputs)

    @contextlib.contextmanager
    def poisoned(self) -> Iterator[None]:
        self.poison = True
        yield
        self.poison = False

    def time_round(self, functions: Any, flush: Any) -> list[float]:
        assert not self.poison, "poisoning takes time of its own"
        self.rounds += 1
        spans = []
        for function in functions:
            begin = self.now
            function()
            spans.append(self.now - begin)
        return spans

    def forget(self) -> None:
        """As in a new process."""
        tuning._choices.clear()
        tuning._stores.clear()
        self.runs = self.rounds = 0


def a_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    """The world in the place of a GPU, for the length of a test."""
    made = World()
    monkeypatch.setenv("PREIMAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "_on_gpu", lambda tensor: True)
    monkeypatch.setattr(tuning, "_capturing", lambda: made.capturing)
    monkeypatch.setattr(tuning, "_capability", lambda device: (9, 0))
    monkeypatch.setattr(tuning, "_machine", lambda device: {"gpu": "Fake 1", "torch": "2", "kernels": "a"})
    monkeypatch.setattr(tuning, "_candidates", lambda which, tensors: made.candidates(which))
    monkeypatch.setattr(tuning, "_said", False)
    monkeypatch.setattr(tuning_cache, "_warned", False)
    monkeypatch.setattr(tuning_check, "_CHECKED_PIXELS", 1000)
    monkeypatch.setattr(tuning_check, "run_torch", made.run_torch)
    monkeypatch.setattr(tuning_trials, "run_torch", made.run_torch)
    monkeypatch.setattr(tuning_check, "run_kernel", made.run_kernel)
    monkeypatch.setattr(tuning_trials, "run_kernel", made.run_kernel)
    monkeypatch.setattr(tuning_check, "poisoned", made.poisoned)
    monkeypatch.setattr(tuning_trials, "flusher", lambda device: lambda: None)
    monkeypatch.setattr(tuning_trials, "time_round", made.time_round)
    monkeypatch.setattr(tuning_trials, "clock", lambda: made.now)  # a second each millisecond: few rounds
    made.forget()
    yield made
    made.forget()


def inputs_of(
    which: str, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (2, 4, 6, 5, 4)
) -> tuple[torch.Tensor | None, ...]:
    batch, in_channels, out_channels, height, width = shape
    made = {
        "low": torch.zeros(batch, in_channels, height, width, dtype=dtype),
        "high": torch.zeros(batch, out_channels, 2 * height, 2 * width, dtype=dtype),
        "weight": torch.zeros(out_channels, in_channels, 5, 5, dtype=dtype),
        "bias": torch.zeros(out_channels, dtype=dtype),
        "target": torch.zeros(batch, out_channels, 2 * height, 2 * width, dtype=torch.uint8),
        "mean": torch.zeros(out_channels),
        "scale": torch.zeros(batch),
    }
    return tuple(made[role] for role in tuning_check.ROLES[which])


def choose(which: str = "forward", dtype: torch.dtype = torch.float32, **how: Any) -> Any:
    return tuning.choose(which, inputs_of(which, dtype, **how), None if which == "wgrad" else 0.2)
