"""Test the source of the GPU kernels of HOG's variant dalal-triggs on the host, with sanitizers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from host_blocks import ORDERS, needs_compiler, pixels, run_blocks
from preimage import hog
from preimage.ops._block_options import BLOCK_NORMS, BlockOptions
from tolerances import HOG_BLOCKS_GRADIENT, HOG_DALAL_TRIGGS_PRECISION

# (B, C, H, W) and options: one cell, one block, remainders of cells, more cells than a block of threads has, more rows
# than a cell has threads, and more orientations than are summed at once.
CASES: dict[str, tuple[tuple[int, int, int, int], dict[str, Any]]] = {
    "one cell": ((2, 1, 8, 8), {"block_size": (1, 1)}),
    "cells of 1": ((1, 3, 3, 4), {"cell_size": (1, 1), "block_size": (2, 1)}),
    "one block": ((1, 3, 24, 24), {}),
    "odd": ((2, 3, 43, 61), {"block_norm": "L1-sqrt"}),
    "wide": ((1, 1, 25, 280), {"block_norm": "L1", "orientations": 8}),
    "tall cells": ((1, 3, 75, 40), {"cell_size": (37, 5), "block_size": (1, 4), "block_norm": "L2"}),
    "many orientations": ((1, 1, 40, 40), {"orientations": 33}),
    "strongest": ((2, 3, 40, 50), {"color": "strongest", "block_size": (2, 3)}),
    "strongest, roots": ((1, 3, 40, 50), {"color": "strongest", "transform_sqrt": True}),
    "roots of luma": ((1, 3, 40, 50), {"transform_sqrt": True}),
}


def run(order: str, images: np.ndarray, options: BlockOptions, gradient: np.ndarray | None = None) -> np.ndarray:
    numbers = (
        images.dtype.itemsize,
        *images.shape,
        *options.cell_size,
        *options.block_size,
        options.orientations,
        int(options.color == "strongest"),
        BLOCK_NORMS.index(options.block_norm),
        int(options.transform_sqrt),
        int(gradient is not None),
    )
    parts = [images] if gradient is None else [images, gradient]
    data = np.frombuffer(b"".join(part.tobytes() for part in parts), np.uint8)
    return run_blocks("dalal_triggs", order, data, *numbers)


def options_of(case: str) -> BlockOptions:
    return BlockOptions(**CASES[case][1])


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_features(case: str) -> None:
    shape, options = CASES[case]
    for dtype in (np.uint8, np.float32, np.float64):
        images = pixels(shape, np.uint8 if dtype == np.uint8 else np.float32).astype(dtype)
        results = [run(order, images, options_of(case)) for order in ORDERS]
        assert all(result.tobytes() == results[0].tobytes() for result in results[1:])
        expected = hog(images, variant="dalal-triggs", **options)
        # NaN where a value was not written.
        assert np.abs(results[0].reshape(expected.shape) - expected).max() <= HOG_DALAL_TRIGGS_PRECISION


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_gradient(case: str) -> None:
    shape, options = CASES[case]
    images = pixels(shape, np.float32)
    source = torch.from_numpy(images).requires_grad_()
    features = hog(source, variant="dalal-triggs", **options)
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    (expected,) = torch.autograd.grad((features * weights).sum(), source)
    results = [run(order, images, options_of(case), weights.numpy()) for order in ORDERS]
    assert all(result.tobytes() == results[0].tobytes() for result in results[1:])
    difference = torch.from_numpy(results[0]).reshape(shape) - expected
    assert difference.norm() <= HOG_BLOCKS_GRADIENT * expected.norm()


@needs_compiler
def test_values_that_are_not_finite() -> None:
    images = pixels((1, 1, 64, 64), np.float32)
    images[0, 0, 0, 5], images[0, 0, 40, 30] = np.nan, np.inf
    expected = hog(images, variant="dalal-triggs").ravel()
    result = run("forward", images, BlockOptions())
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    np.testing.assert_allclose(result, expected, rtol=0, atol=HOG_DALAL_TRIGGS_PRECISION)
