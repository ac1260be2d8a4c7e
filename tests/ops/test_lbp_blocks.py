"""Test the source of the GPU kernels on the host: sanitizers, three orders of threads, comparison with the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from host_blocks import ORDERS, needs_compiler, pixels, run_blocks
from preimage.ops.lbp import lbp, lbp_codes

# (B, C, H, W), cell size, strip rows (0 for the number that a launch chooses)
SHAPES = {
    "one cell": ((1, 1, 16, 16), 16, 0),
    "a strip": ((1, 3, 64, 248), 16, 0),
    "one column more than a strip": ((1, 1, 48, 264), 16, 0),
    "an image of one strip": ((2, 1, 48, 256), 16, 0),
    "an image of one strip and a column": ((1, 3, 33, 257), 16, 0),
    "an image of one strip and two columns": ((1, 1, 33, 258), 16, 0),
    "long strips": ((2, 1, 150, 131), 16, 32),
    "odd": ((3, 3, 85, 301), 16, 3),
    "cells of 5": ((1, 3, 37, 53), 5, 0),
    "cells of 1": ((1, 1, 4, 30), 1, 0),
    "cells of 8": ((2, 1, 41, 39), 8, 0),
    "sums of all rows still fit": ((1, 1, 153, 155), 152, 0),
    "sums of all rows do not fit": ((1, 1, 153, 155), 153, 0),
    "no interior": ((1, 1, 2, 9), 2, 0),
}
# What a program reads, given a contiguous batch.
LAYOUTS = {
    "planar": lambda images: images,
    "interleaved": lambda images: images.transpose(0, 2, 3, 1),
    "every other column": lambda images: np.repeat(images, 2, axis=3),
    "columns reversed": lambda images: images[..., ::-1],
}
MAPS = [(1, 1, 1, 1), (2, 3, 2, 5), (1, 1, 16, 256), (3, 1, 37, 260), (1, 3, 33, 264)]


@needs_compiler
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("case", SHAPES)
def test_block_programs(case: str, dtype: type) -> None:
    shape, cell_size, rows = SHAPES[case]
    images = pixels(shape, dtype)
    numbers = (int(dtype is np.uint8), *shape, cell_size, rows, 0)
    expected = lbp(torch.from_numpy(images), cell_size=cell_size).numpy()
    for order in ORDERS:
        assert run_blocks("lbp", order, images, *numbers).tobytes() == expected.tobytes()


@needs_compiler
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("cell_size", [16, 0])
@pytest.mark.parametrize("channels", [1, 3])
def test_layouts(channels: int, cell_size: int, dtype: type) -> None:
    """Aligned rows are read in groups of pixels, and others pixel by pixel."""
    shape = (2, channels, 40, 272)
    images = pixels(shape, dtype)
    batch = torch.from_numpy(images)
    expected = lbp(batch).numpy() if cell_size else lbp_codes(batch).numpy().astype(np.float32)
    for layout, function in enumerate(LAYOUTS.values()):
        numbers = (int(dtype is np.uint8), *shape, cell_size, 0, layout)
        array = np.ascontiguousarray(function(images))
        assert run_blocks("lbp", "shuffled", array, *numbers).tobytes() == expected.tobytes()


@needs_compiler
def test_values_that_are_no_numbers() -> None:
    """Comparisons with NaN are false, zeros of both signs are equal, and denormal numbers differ."""
    values = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 1.0, 2.0], dtype=np.float32)
    images = np.random.default_rng(0).choice(values, (1, 1, 48, 64))
    expected = lbp(torch.from_numpy(images)).numpy()
    assert run_blocks("lbp", "forward", images, 0, *images.shape, 16, 0, 0).tobytes() == expected.tobytes()


@needs_compiler
def test_blocks_of_one_label() -> None:
    """All 256 pixels of a block vote for one label, whose sums are the largest possible or cancel to zero."""
    flat = np.zeros((1, 1, 64, 256), dtype=np.float32)
    ramp = np.broadcast_to(np.arange(256, dtype=np.float32), flat.shape).copy()
    for images in (flat, ramp):
        expected = lbp(torch.from_numpy(images)).numpy()
        assert run_blocks("lbp", "shuffled", images, 0, *images.shape, 16, 0, 0).tobytes() == expected.tobytes()


@needs_compiler
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", MAPS, ids=str)
def test_maps_of_labels(shape: tuple[int, int, int, int], dtype: type) -> None:
    images = pixels(shape, dtype)
    expected = lbp_codes(torch.from_numpy(images)).numpy().astype(np.float32)
    for order in ORDERS:
        assert run_blocks("lbp", order, images, int(dtype is np.uint8), *shape, 0, 0, 0).tobytes() == expected.tobytes()
