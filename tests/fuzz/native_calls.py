"""Targets: functions of the native module, and of `preimage.ops`, with arrays as Python can construct them.

A description (address, shape, strides, dtype, device) given to the native module is true, because no function can
check whether an address belongs to an array; or it has one field that no array has, which must be rejected. Every
array ends where its memory ends, so that AddressSanitizer sees a read or write beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

import preimage
from fuzz.target import Target
from implementations import instruction_set
from layouts import ARRAY_LAYOUTS
from native_arguments import described
from preimage.ops import _native

T = TypeVar("T")

REJECTED = (ValueError, TypeError, MemoryError)  # MemoryError: for 2^40 images or more
SIDES = (33, 1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 31, 48, 65, 0)  # pixels
COUNTS = (1, 2, 3, 4, 5, 8, 16, 17, 32, 0, -1, 1 << 15, (1 << 15) + 1, (1 << 30) - 1, 1 << 30, (1 << 62), (1 << 63) - 1)
NUMBERS = (0.0, 0.5, 1.0, 2.0, 10.0, 1e-30, 1e29, 1e300, -1.0, float("nan"), float("inf"))
HUGE = (1 << 30, 1 << 31, 1 << 40, 1 << 62)
WRONG: tuple[dict[str, Any], ...] = (
    {"dtype": "int32"},
    {"dtype": ""},
    {"device": "cuda:0"},
    {"device": "cuda:99999999999"},
    {"device": "cpu:0"},
    {"address": 0},
    {"shape": (-1, 1, 8, 8)},
    {"shape": (1 << 62, 3, 8, 8)},
    {"strides": ((1 << 63) - 1,) * 4},
    {"shape": (1, 1, 8)},
)


class Choices:
    """Choices that bytes determine; zeros follow the last byte."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def number(self) -> int:
        """Return a number from 0 to 255."""
        self._position += 1
        return self._data[self._position - 1] if self._position <= len(self._data) else 0

    def one_of(self, values: Sequence[T]) -> T:
        return values[self.number() % len(values)]

    def seldom(self) -> bool:
        """Return whether something that is wrong is wanted."""
        return self.number() > 240


def values_of(choices: Choices, shape: Sequence[int], dtype: str) -> np.ndarray:
    """Return an array with values in [0, 1], some of them not finite, huge or tiny."""
    values = np.random.default_rng(choices.number()).integers(0, 256, shape).astype(dtype)
    if dtype != "uint8":
        values /= 255
        if choices.seldom() and values.size:
            values.flat[choices.number() % values.size] = choices.one_of((np.nan, np.inf, -np.inf, 3e38, 1e-45, -5))
    return values


def images_of(choices: Choices) -> np.ndarray:
    """Return images (B, C, H, W) in any memory layout, seldom of another type or of 2^30 pixels or more a side."""
    dtype = choices.one_of(
        ("uint8", "float32", "float32", "float16", "float64") if choices.seldom() else ("uint8", "float32")
    )
    channels = choices.one_of((0, 2, 4)) if choices.seldom() else choices.one_of((1, 3))
    shape = choices.one_of((1, 2, 3, 0)), channels, choices.one_of(SIDES), choices.one_of(SIDES)
    batch = values_of(choices, shape, dtype)
    if choices.seldom() and batch.size:
        axis = choices.one_of((0, 2, 3))
        sides = [1, 3, 2, 2]
        sides[axis] = choices.one_of(HUGE[2:] if axis == 0 else HUGE)
        return np.broadcast_to(batch[:1, :1, :1, :1], sides)
    return choices.one_of(list(ARRAY_LAYOUTS.values()))(batch)


def output_of(choices: Choices, shape: Sequence[int], *dtypes: str) -> np.ndarray:
    """Return an output of this shape, as far as memory allows; seldom of another shape, type or layout."""
    sides = [min(max(side, 0), 200) for side in shape]
    dtype = choices.one_of(dtypes)
    if choices.seldom():
        sides[choices.number() % 4] += choices.one_of((1, -1)) if min(sides) else 1
    if choices.seldom():
        dtype = choices.one_of(("uint8", "float16", "float32"))
    output = np.full(sides, 77, dtype)
    return output.swapaxes(2, 3) if choices.seldom() else output


def description(choices: Choices, array: np.ndarray) -> tuple[Any, ...]:
    wrong = choices.one_of(WRONG) if choices.seldom() and array.size else {}
    return described(array, **wrong)


def quotient(pixels: int, step: int) -> int:
    return max(pixels, 0) // step if step > 0 else 1


def hog(choices: Choices) -> None:
    images = images_of(choices)
    cell, color, threads = choices.one_of(COUNTS), choices.one_of(("luma", "strongest", "")), choices.one_of(COUNTS[:8])
    sizes = [quotient(side + cell // 2, cell) for side in images.shape[2:]]
    features = output_of(choices, (images.shape[0], 31, *sizes), "float32", "float16")
    arguments = cell, color, threads
    _native.hog(description(choices, images), description(choices, features), *arguments)
    gradient = values_of(choices, features.shape, "float32")
    gradients = output_of(choices, images.shape, "float32")
    _native.hog_backward(
        description(choices, gradient), description(choices, images), description(choices, gradients), *arguments
    )
    copy, again = np.ascontiguousarray(images), np.empty_like(features)
    _native.hog(described(copy), described(again), cell, color, 1)
    assert np.array_equal(features, again, equal_nan=True), "the memory layout or the threads change the features"


def hog_dalal_triggs(choices: Choices) -> None:
    images = images_of(choices)
    if choices.seldom():
        images = images.astype("float64")
    cell, block = ((choices.one_of(COUNTS), choices.one_of(COUNTS)) for _ in range(2))
    count = choices.one_of((9, 1, 2, 8, 17, 180, 181, 0, -1))
    color, norm = choices.one_of(("luma", "strongest", "")), choices.one_of(("L2-Hys", "L1", "L1-sqrt", "L2", ""))
    threads = choices.one_of(COUNTS[:8])
    sizes = [quotient(images.shape[2 + axis], cell[axis]) - block[axis] + 1 for axis in (0, 1)]
    shape = images.shape[0], block[0] * block[1] * count, *sizes
    features = output_of(choices, shape, "float32", "float16")
    parameters = cell, color, count, block, norm, bool(choices.number() % 2)
    _native.hog_dalal_triggs(description(choices, images), description(choices, features), *parameters, threads)
    gradient = values_of(choices, features.shape, "float32")
    gradients = output_of(choices, images.shape, "float32")
    _native.hog_dalal_triggs_backward(
        description(choices, gradient),
        description(choices, images),
        description(choices, gradients),
        *parameters,
        threads,
    )
    copy, again = np.ascontiguousarray(images), np.empty_like(features)
    _native.hog_dalal_triggs(described(copy), described(again), *parameters, 1)
    assert np.array_equal(features, again, equal_nan=True), "the memory layout or the threads change the features"


def lbp(choices: Choices) -> None:
    images = images_of(choices)
    cell, threads = choices.one_of(COUNTS), choices.one_of(COUNTS[:8])
    codes = output_of(choices, (images.shape[0], 1, *images.shape[2:]), "uint8")
    _native.lbp_codes(description(choices, images), description(choices, codes), threads)
    sizes = [quotient(side, cell) for side in images.shape[2:]]
    features = output_of(choices, (images.shape[0], 58, *sizes), "float32", "float16")
    _native.lbp(description(choices, images), description(choices, features), cell, threads)
    copy, again = np.ascontiguousarray(images), np.empty_like(features)
    _native.lbp(described(copy), described(again), cell, 1)
    assert np.array_equal(features, again), "the memory layout or the threads change the features"


def dense_sift(choices: Choices) -> None:
    images = images_of(choices)
    step, size, threads = choices.one_of(COUNTS), choices.one_of(COUNTS), choices.one_of(COUNTS[:8])
    window, sigma = choices.one_of(("gaussian", "flat", "x")), choices.one_of(NUMBERS[3:]) if choices.seldom() else 2.0
    bounds = [0, 0, images.shape[2] - 1, images.shape[3] - 1]
    if choices.seldom():
        bounds[choices.number() % 4] += choices.one_of((1, -1, 1 << 31, 1 << 62))
    sizes = [quotient(bounds[2 + axis] - bounds[axis] - 3 * size, step) + 1 for axis in (0, 1)]
    features = output_of(choices, (images.shape[0], 128, *sizes), "float32", "float16", "uint8")
    norms = output_of(choices, (images.shape[0], 1, *sizes), "float32")
    arguments = step, size, window, sigma, bounds
    _native.dense_sift(
        description(choices, images), description(choices, features), description(choices, norms), *arguments, threads
    )
    grad_features = values_of(choices, features.shape, "float32")
    grad_norms = values_of(choices, norms.shape, "float32")
    gradients = output_of(choices, images.shape, "float32")
    _native.dense_sift_backward(
        description(choices, grad_features),
        description(choices, grad_norms),
        description(choices, images),
        description(choices, gradients),
        *arguments,
        threads,
    )
    copy, again = np.ascontiguousarray(images), np.empty_like(features)
    _native.dense_sift(described(copy), described(again), described(norms), *arguments, 1)
    assert np.array_equal(features, again, equal_nan=True), "the memory layout or the threads change the features"


def sift(choices: Choices) -> None:
    images = images_of(choices)
    levels, octave = choices.one_of((3, 1, 2, 5, 32, 33, 0, -1)), choices.one_of((0, -1, 1, 2, 5, 29, 30, -2))
    peak, edge = choices.one_of(NUMBERS), choices.one_of((10.0, *NUMBERS))
    threads = choices.one_of(COUNTS[:8])
    further: dict[str, Any] = {}
    if choices.seldom():
        further = {"octaves": choices.one_of((-1, 0, 1, 3, 99, -2)), "magnification": choices.one_of((3.0, *NUMBERS))}
        further |= {"window_size": choices.one_of((2.0, *NUMBERS)), "norm_threshold": choices.one_of(NUMBERS)}
    given = None
    if choices.seldom():
        given = values_of(choices, (1, 1, choices.one_of((3, 1, 0, 40)), 4), "float32")
        with np.errstate(over="ignore"):
            given *= np.float32(choices.one_of((1.0, 30.0, 1e5)))
        further |= {"frames": description(choices, given), "orient": choices.number() % 2 == 0}
    frames, descriptors, offsets = _native.sift(
        description(choices, images), levels, octave, peak, edge, threads, **further
    )
    assert frames.shape[0] == 5 and offsets[-1] == frames.shape[1] == len(descriptors)
    assert np.isfinite(frames).all() and np.isfinite(descriptors).all() and (frames[2] > 0).all()
    copy = np.ascontiguousarray(images)
    if given is not None:
        further["frames"] = described(given)
    again = _native.sift(described(copy), levels, octave, peak, edge, 1, **further)
    assert all(map(np.array_equal, (frames, descriptors, offsets), again)), "the memory layout or the threads matter"


def sift_grid(choices: Choices) -> None:
    count = choices.one_of((3, 1, 0, 40))
    scale = choices.one_of((1.0, 20.0, 1e9, 3e38))
    fields = [np.minimum(values_of(choices, (1, 1, 1, count), "float32"), 1) * np.float32(scale) for _ in range(4)]
    fields[2] += np.float32(choices.one_of((1e-3, 0, 1e-45)))
    descriptors = values_of(choices, (1, 1, count, 128), "float32")
    height, width = choices.one_of(SIDES), choices.one_of(SIDES)
    cell = choices.one_of(COUNTS)
    offsets = [0, choices.number() % (count + 1), count]
    if choices.seldom():
        offsets[choices.number() % 3] = choices.one_of((-1, 1 << 40, (1 << 63) - 1, count + 1))
    if choices.seldom():
        height, width = choices.one_of(COUNTS), choices.one_of(COUNTS)
    sizes = [quotient(side + cell - 1, cell) for side in (height, width)]
    colors: tuple[Any, ...] = ()
    if choices.number() % 2:
        values = values_of(choices, (1, 1, count, 3), "float32")
        colors = (description(choices, values if choices.seldom() else np.clip(values, 0, 1)),)
    grid = output_of(choices, (len(offsets) - 1, 136 if colors else 133, *sizes), "float32", "float16")
    _native.sift_grid(
        *(description(choices, field) for field in (*fields, descriptors)),
        offsets,
        description(choices, grid),
        (height, width),
        cell,
        choices.one_of((0, 1, -1, -(1 << 63), (1 << 63) - 1)),
        choices.one_of(NUMBERS),
        choices.one_of(COUNTS[:8]),
        *colors,
    )
    assert not (grid == 77).all() or not grid.size


OPS: tuple[tuple[Callable[..., Any], dict[str, Sequence[Any]]], ...] = (
    (preimage.hog, {"cell_size": COUNTS, "color": ("luma", "strongest", 3), "dtype": ("float32", "float16", "int8")}),
    (
        partial(preimage.hog, variant="dalal-triggs"),
        {
            "cell_size": (8, (3, 5), 1, *COUNTS),
            "block_size": (3, (1, 2), 0),
            "orientations": (9, 1, 8, 180, 0),
            "block_norm": ("L1", "L1-sqrt", "L2", ""),
            "transform_sqrt": (True, False, 1),
            "color": ("strongest", "luma"),
        },
    ),
    (preimage.lbp, {"cell_size": COUNTS, "dtype": ("float32", "float16", None)}),
    (preimage.lbp_codes, {}),
    (preimage.dense_sift, {"step": COUNTS, "bin_size": COUNTS, "window": ("gaussian", "flat"), "window_size": NUMBERS}),
    (preimage.phow, {"step": COUNTS, "sizes": ((4, 6), (2,), (0,), ()), "magnif": NUMBERS}),
    (preimage.sift, {"levels": (3, 1, 40), "first_octave": (0, -1, 3), "peak_threshold": NUMBERS}),
)


def public(choices: Choices) -> None:
    """Call a function of `preimage.ops`, and its gradient where it has one."""
    op, known = choices.one_of(OPS)
    options = {name: choices.one_of(values) for name, values in known.items() if choices.number() % 2}
    images: Any = images_of(choices)
    if max(images.shape) >= HUGE[0]:
        return  # a valid call, that takes hours
    if choices.number() % 2:
        images = torch.from_numpy(np.ascontiguousarray(images).astype(images.dtype.newbyteorder("=")))
        if choices.number() % 2 and images.is_floating_point():
            images.requires_grad_()
    result = op(images, **options)
    if isinstance(images, torch.Tensor) and images.requires_grad and isinstance(result, torch.Tensor):
        result.float().sum().backward()
        assert images.grad is not None and images.grad.shape == images.shape


def native(call: Callable[[Choices], None]) -> Target:
    """Return a target that calls a function with any instruction set."""

    def read(data: bytes) -> None:
        choices = Choices(data)
        with instruction_set(choices.one_of(_native.instruction_sets())):
            call(choices)

    # The first choices are valid everywhere.
    return Target(read, lambda: [bytes([kind, *([0] * 39)]) for kind in range(3)], REJECTED)


TARGETS = {
    f"native-{call.__name__.replace('_', '-')}": native(call)
    for call in (hog, hog_dalal_triggs, lbp, dense_sift, sift, sift_grid)
}
TARGETS["native-public"] = native(public)
