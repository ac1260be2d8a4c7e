"""A pass of a layer with random inputs, and whether a kernel's configuration computes it rightly on this device.

Compilers have been seen to get single configurations wrong. So each is compared with the plain pass in float64, at an
awkward size and in full; its outputs begin as NaN, and two runs must give the same bits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch

from preimage.ops.upconv import plain

SLOPE = 0.2
# What each pass takes: maps of the layer's input ("low") or output ("high") size, the weight, the bias, images.
ROLES = {
    "forward": ("low", "weight", "bias"),
    "dgrad": ("high", "weight", "low"),
    "wgrad": ("low", "high"),
    "image_backward": ("low", "high", "weight"),
    "distance_backward": ("low", "high", "target", "mean", "scale", "weight"),
}
# A single element may be off by this many times the tolerance, of its own size and the typical one together: over
# 10^7 elements noise comes to six times its mean, while one missing tap is a third of the typical size.
ELEMENT = 4.0

Inputs = tuple[torch.Tensor, ...]
Run = Callable[[Inputs], "torch.Tensor | Inputs"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A pass of a layer, on maps of side × side at low resolution."""

    which: str
    in_channels: int
    out_channels: int
    side: int
    batch: int

    def __str__(self) -> str:
        return f"{self.which} {self.in_channels}→{self.out_channels} at {self.batch}×{self.side}²"

    @property
    def shape(self) -> tuple[str, int, int, int]:
        """Pass, Ci, Co and pixels: the first arguments of `configs.candidates`."""
        return self.which, self.in_channels, self.out_channels, self.batch * self.side**2

    def arguments(self, inputs: Inputs) -> tuple[Any, ...]:
        """Return what the pass takes, in `plain` and before the configuration in `kernels`."""
        return inputs if self.which == "wgrad" else (*inputs, SLOPE)

    def inputs(
        self,
        dtype: torch.dtype,
        device: torch.device | str,
        generator: torch.Generator | None = None,
        *,
        awkward: bool = False,
    ) -> Inputs:
        """Return random inputs: maps of mean 0 and variance 1, channels last, and a weight that keeps that.

        `awkward`: of a number of pixels that fills no tile; of another side only where the kernels take the side as a
        number, since others would be compiled anew.
        """
        batch, height, width = (3 if awkward else self.batch), self.side, self.side
        if awkward and self.which in ("forward", "dgrad"):
            height, width = 7, 5
        high = (batch, 2 * height, 2 * width, self.out_channels)
        shapes: dict[str, tuple[int, ...]] = {
            "low": (batch, height, width, self.in_channels),
            "high": high,
            "weight": (5, 5, self.in_channels, self.out_channels),
            "bias": (self.out_channels,),
            "target": high,
            "mean": (self.out_channels,),
            "scale": (batch,),
        }
        kinds = {"target": torch.uint8, "mean": torch.float32, "scale": torch.float32}
        orders = {"weight": (2, 3, 0, 1), "low": (0, 3, 1, 2), "high": (0, 3, 1, 2), "target": (0, 3, 1, 2)}
        made = []
        for role in ROLES[self.which]:
            value = torch.empty(shapes[role], device=device, dtype=kinds.get(role, dtype))
            if role == "target":
                value.random_(0, 256, generator=generator)
            else:
                value.normal_(generator=generator)
            if role == "weight":
                value *= (25 * self.in_channels / 4) ** -0.5
            if role == "low":
                value.masked_fill_(value.abs() < 0.01, 0)  # an activation that is exactly zero takes the slope
            made.append(value.permute(orders.get(role, (0,))))
        return tuple(made)


def tolerance(problem: Problem, dtype: torch.dtype) -> float:
    """Return the largest relative error ‖ours - exact‖ / ‖exact‖ that the arithmetic of a right kernel explains.

    Results are rounded to their dtype, by half its epsilon at most; so is the image's gradient on its way into the
    passes of "distance_backward". TF32 cuts both factors of a product to 10 bits, by less than 2^-10 each. Other
    products are exact in float32, and sums of n of them in float32 wander by 2^-23 · √n at most.
    """
    _, in_channels, out_channels, pixels = problem.shape
    rounding = torch.finfo(dtype).eps / 2 * (2 if problem.which == "distance_backward" else 1)
    factors = 2 * 2.0**-10 if dtype == torch.float32 else 0.0
    return rounding + factors + 2.0**-23 * math.sqrt(max(9 * in_channels, 25 * out_channels, pixels))


class Check:
    """Inputs of a problem at two sizes, and what is right for them, in float64."""

    def __init__(self, problem: Problem, dtype: torch.dtype, device: torch.device | str) -> None:
        generator = torch.Generator(device).manual_seed(0)
        self.tolerance = tolerance(problem, dtype)
        self._cases = []
        for awkward in (True, False):
            self.inputs = problem.inputs(dtype, device, generator, awkward=awkward)  # in full in the end
            exact = tuple(value.double() if value.is_floating_point() else value for value in self.inputs)
            expected = _outputs(getattr(plain, problem.which)(*problem.arguments(exact)))
            self._cases.append((self.inputs, expected))

    def fault(self, run: Run) -> str | None:
        """Return what is wrong with the results of `run`, or ``None``."""
        try:
            for inputs, expected in self._cases:
                ours, again = _outputs(run(inputs)), _outputs(run(inputs))
                if found := _difference(ours, expected, self.tolerance):
                    return found
                if not all(map(torch.equal, ours, again)):
                    return "two runs differ"
        except Exception as error:  # whatever a compiler or a launch may raise
            return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return None


def _outputs(result: torch.Tensor | Inputs) -> Inputs:
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


def _difference(ours: Inputs, expected: Inputs, bound: float) -> str | None:
    """Return which output is wrong and how, or ``None``."""
    for number, (mine, right) in enumerate(zip(ours, expected, strict=True)):
        if mine.shape != right.shape:
            return f"output {number} has shape {tuple(mine.shape)} instead of {tuple(right.shape)}"
        if not torch.isfinite(mine).all():
            return f"output {number} is not finite everywhere"
        away = mine.double() - right
        size = float(torch.linalg.vector_norm(right.double()))
        error = float(torch.linalg.vector_norm(away)) / size
        if not error <= bound:
            return f"output {number} has error {error:.2g}, more than {bound:.2g}"
        typical = size / math.sqrt(right.numel())
        worst = float((away.abs() / (right.abs() + typical)).max())
        if not worst <= ELEMENT * bound:
            return f"output {number} has error {worst:.2g} at one place, more than {ELEMENT * bound:.2g}"
    return None
