"""Whether a kernel's configuration computes its pass rightly, on the very device.

Compilers have been seen to get single configurations wrong: every one is compared with the reference, on random data,
with outputs that begin as NaN, and has to give the same bits twice.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from preimage.ops.upconv import plain

Inputs = tuple[torch.Tensor | None, ...]
Outputs = tuple[torch.Tensor, ...]

# What each pass takes: maps of the layer's input ("low") or output ("high") size, the weight, the bias, images.
ROLES = {
    "forward": ("low", "weight", "bias"),
    "dgrad": ("high", "weight", "low"),
    "wgrad": ("low", "high"),
    "image_backward": ("low", "high", "weight"),
    "distance_backward": ("low", "high", "target", "mean", "scale", "weight"),
}

# The largest error ‖ours - reference‖ / ‖reference‖ of any output, by dtype; "tf32" where float32 may be rounded to it.
# float32: sums of up to 2^15 products come 4e-6 off when added one after the other (2^-23 · √n / 5), less in blocks.
# tf32: both factors lose up to 2^-10, by truncation and so always towards zero: 7e-4 on average, and 3e-4 of noise.
# bfloat16, float16: products are exact in float32, so what is left is the rounding of the result, 2^-9 and 2^-12 at
# most and half as much in the mean; of twice and four times that a kernel that rounds a sum in between stays below.
TOLERANCE = {"float32": 1e-5, "tf32": 2e-3, "bfloat16": 4e-3, "float16": 1e-3}
# A single element may be off by this many times the tolerance, of its own size and the typical one together: over
# 10^7 elements noise comes to six times its mean, while one pixel's missing tap is a third of the typical size.
_ELEMENT = 4.0

_CHECKED_PIXELS = 1 << 15  # of the layer's input
_CHECKED_SIDE = 128
_CHECKED_OPERATIONS = 2e10  # of the reference in float64: half a second on cards that are slow at it


def geometry(which: str, tensors: Inputs) -> tuple[int, int, int, int, int]:
    """(B, Ci, Co, H, W), the last two at low resolution."""
    batch = in_channels = out_channels = height = width = 0
    for role, tensor in zip(ROLES[which], tensors, strict=True):
        if tensor is None or role not in ("low", "high", "weight"):
            continue
        if role == "low":
            batch, in_channels, height, width = tensor.shape
        elif role == "high":
            batch, out_channels, height, width = tensor.shape[0], tensor.shape[1], *(s // 2 for s in tensor.shape[2:])
        else:
            out_channels, in_channels = tensor.shape[:2]
    return batch, in_channels, out_channels, height, width


def run_torch(which: str, inputs: Inputs, negative_slope: float | None) -> Any:
    """The pass as it runs without a kernel."""
    return getattr(plain, which)(*_arguments(which, inputs, negative_slope))


def run_kernel(which: str, inputs: Inputs, negative_slope: float | None, config: Any) -> Any:
    """The pass by a kernel."""
    kernels = importlib.import_module("preimage.ops.upconv.kernels")  # imports triton, which not every system has
    return getattr(kernels, which)(*_arguments(which, inputs, negative_slope), config)


def poisoned() -> contextlib.AbstractContextManager[Any]:
    """Outputs of kernels begin as NaN."""
    return importlib.import_module("preimage.ops.upconv.kernels").poisoned()


def _arguments(which: str, inputs: Inputs, negative_slope: float | None) -> tuple[Any, ...]:
    return inputs if which == "wgrad" else (*inputs, negative_slope)


def outputs(result: torch.Tensor | Outputs) -> Outputs:
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


def random_inputs(which: str, like: Inputs, shape: tuple[int, ...], generator: torch.Generator) -> Inputs:
    """Inputs of another size: maps of mean 0 and variance 1, channels last; a weight that keeps that."""
    batch, in_channels, out_channels, height, width = shape
    sizes = {
        "low": (batch, in_channels, height, width),
        "high": (batch, out_channels, 2 * height, 2 * width),
        "weight": (out_channels, in_channels, 5, 5),
        "bias": (out_channels,),
        "target": (batch, out_channels, 2 * height, 2 * width),
        "mean": (out_channels,),
        "scale": (batch,),
    }
    made: list[torch.Tensor | None] = []
    for role, tensor in zip(ROLES[which], like, strict=True):
        if tensor is None:
            made.append(None)
            continue
        value = torch.empty(sizes[role], device=tensor.device, dtype=tensor.dtype)
        if role == "weight":
            value = torch.empty_like(tensor, requires_grad=False)
        elif role in ("low", "high", "target"):
            value = value.to(memory_format=torch.channels_last)
        if role == "target":
            made.append(value.random_(0, 256, generator=generator))
            continue
        value.normal_(generator=generator)
        if role == "weight":
            value *= (25 * in_channels / 4) ** -0.5
        if role == "low":
            value.masked_fill_(value.abs() < 0.01, 0)  # an activation that is exactly zero takes the slope
        made.append(value)
    return tuple(made)


def small_inputs(which: str, like: Inputs, generator: torch.Generator) -> Iterator[Inputs]:
    """The shape in question, bounded, and an awkward one: kernels are compiled anew where sizes divide by less."""
    batch, in_channels, out_channels, height, width = geometry(which, like)
    height, width = min(height, _CHECKED_SIDE), min(width, _CHECKED_SIDE)
    pixels = min(_CHECKED_PIXELS, _CHECKED_OPERATIONS / (50 * in_channels * out_channels))
    images = max(1, min(batch, int(pixels / (height * width))))
    yield random_inputs(which, like, (images, in_channels, out_channels, height, width), generator)
    side = (7, 5) if which == "forward" else (height, width)  # forward's choice holds for maps of any size
    yield random_inputs(which, like, (3, in_channels, out_channels, *side), generator)


class Check:
    """Random inputs and what the reference makes of them, in float64: no flag of the process changes that."""

    def __init__(self, which: str, inputs: Inputs, negative_slope: float | None, tf32: bool) -> None:
        self.inputs = inputs
        self.tolerance = tolerance(inputs, tf32)
        exact = tuple(None if tensor is None else tensor.double() for tensor in inputs)
        self.expected = outputs(run_torch(which, exact, negative_slope))


def tolerance(inputs: Inputs, tf32: bool) -> float:
    """The pass's relative tolerance, by the dtype of its maps."""
    dtype = next(tensor.dtype for tensor in inputs if tensor is not None)
    return TOLERANCE["tf32" if tf32 and dtype == torch.float32 else str(dtype).removeprefix("torch.")]


def error_of(
    which: str,
    inputs: Inputs,
    negative_slope: float | None,
    config: Any,
    checks: Sequence[Check],
    usual: Outputs,
    tf32: bool,
) -> float | str:
    """The largest relative error of a configuration, or why it may not be chosen."""
    try:
        largest = 0.0
        with poisoned():
            for check in checks:
                ours = outputs(run_kernel(which, check.inputs, negative_slope, config))
                again = outputs(run_kernel(which, check.inputs, negative_slope, config))
                found = _difference(ours, check.expected, check.tolerance, _ELEMENT)
                if isinstance(found, str):
                    return found
                if not all(torch.equal(a, b) for a, b in zip(ours, again, strict=True)):
                    return "two runs differ"
                largest = max(largest, found)
            # In full against torch, each with its own error, and sums over all pixels: what only large maps show.
            batch, _, _, height, width = geometry(which, inputs)
            bound = 2 * tolerance(inputs, tf32) + 2.0**-24 * math.sqrt(batch * height * width)
            ours = outputs(run_kernel(which, inputs, negative_slope, config))
            found = _difference(ours, usual, bound, None)
        return f"in full size: {found}" if isinstance(found, str) else largest
    except torch.OutOfMemoryError:
        raise  # says nothing of the configuration: another time there is more
    except Exception as error:  # whatever a compiler or a launch may raise
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _difference(ours: Outputs, expected: Outputs, bound: float, element: float | None) -> float | str:
    """The largest relative error of the outputs, or what is wrong with one of them."""
    largest = 0.0
    for number, (mine, right) in enumerate(zip(ours, expected, strict=True)):
        if mine.shape != right.shape:
            return f"output {number} has shape {tuple(mine.shape)} instead of {tuple(right.shape)}"
        if right.numel() == 0:  # the bias gradient where no layer lies below
            continue
        if not torch.isfinite(mine).all():
            return f"output {number} is not finite everywhere"
        wide = torch.promote_types(right.dtype, torch.float32)
        away = mine.to(right.dtype) - right
        size = float(torch.linalg.vector_norm(right, dtype=wide))
        error = float(torch.linalg.vector_norm(away, dtype=wide)) / max(size, 1e-30)
        if not error <= bound:
            return f"output {number} has error {error:.2g}, more than {bound:.2g}"
        if element is not None:
            typical = size / math.sqrt(max(1, right.numel()))
            worst = float((away.abs() / (right.abs() + typical)).max())
            if not worst <= element * bound:
                return f"output {number} has error {worst:.2g} at one place, more than {element * bound:.2g}"
        largest = max(largest, error)
    return largest
