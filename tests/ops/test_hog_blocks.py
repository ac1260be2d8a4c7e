"""Test the source of the GPU kernel on the host: sanitizers, three orders of threads, comparison with the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from host_blocks import ORDERS, needs_compiler, pixels, run_blocks
from preimage.ops.hog import hog
from tolerances import HOG

# (B, C, H, W), cell size, strip rows (0 for the number that a launch chooses). Strips of 61 cells go over all images.
SHAPES = {
    "one cell": ((1, 1, 8, 8), 8, 0),
    "half a cell": ((2, 1, 4, 5), 8, 0),
    "no interior": ((1, 3, 9, 2), 4, 0),
    "rows of one load": ((4, 3, 8, 8), 8, 0),
    "two loads, half a cell": ((3, 3, 4, 16), 8, 0),
    "one column": ((3, 1, 61, 7), 8, 2),
    "a strip": ((1, 3, 64, 488), 8, 0),
    "one column more than a strip": ((1, 1, 40, 496), 8, 0),
    "long strips": ((2, 1, 150, 131), 8, 32),
    "several images a strip": ((5, 3, 40, 32), 8, 2),
    "odd": ((3, 3, 75, 301), 8, 3),
    "rows of strips": ((2, 1, 61, 504), 8, 1),
    "cells of 5": ((1, 3, 64, 83), 5, 0),
    "cells of 1": ((3, 1, 9, 70), 1, 4),
}
PLANAR, INTERLEAVED, GAPS, UNALIGNED = range(4)


def run(order: str, images: np.ndarray, cell_size: int, color: str, rows: int, layout: int = PLANAR) -> np.ndarray:
    numbers = (int(images.dtype == np.uint8), *images.shape, cell_size, int(color == "strongest"), rows, layout)
    return run_blocks("hog", order, images, *numbers)


@needs_compiler
@pytest.mark.parametrize("color", ["luma", "strongest"])
@pytest.mark.parametrize("case", SHAPES)
def test_block_program(case: str, color: str) -> None:
    shape, cell_size, rows = SHAPES[case]
    for dtype in (np.uint8, np.float32):
        images = pixels(shape, dtype)
        results = [run(order, images, cell_size, color, rows) for order in ORDERS]
        assert all(result.tobytes() == results[0].tobytes() for result in results[1:])
        expected = hog(torch.from_numpy(images), cell_size=cell_size, color=color)
        difference = torch.from_numpy(results[0]).reshape(expected.shape) - expected
        assert difference.abs().max().item() <= HOG  # NaN where a value was not written


@needs_compiler
@pytest.mark.parametrize("layout", [INTERLEAVED, GAPS, UNALIGNED])
@pytest.mark.parametrize("color", ["luma", "strongest"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(2, 3, 45, 64), (2, 3, 24, 61), (1, 1, 17, 16), (3, 3, 9, 8), (2, 3, 4, 16)])
def test_layouts(shape: tuple[int, int, int, int], dtype: type, color: str, layout: int) -> None:
    images = pixels(shape, dtype)
    expected = run("forward", images, 8, color, 2)
    assert run("forward", images, 8, color, 2, layout).tobytes() == expected.tobytes()


@needs_compiler
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    images = pixels((1, 1, 64, 64), np.float32)
    images[0, 0, 0, 5] = images[0, 0, 40, 30] = value
    expected = hog(images).ravel()
    result = run("forward", images, 8, "luma", 0)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    np.testing.assert_allclose(result, expected, rtol=0, atol=HOG)


def gradients(name: str) -> np.ndarray:
    """Return gradients (N, 2)."""
    rng = np.random.default_rng(0)
    differences = np.arange(-255, 256)
    of_bytes = (np.arange(256, dtype=np.float32) / np.float32(255))[rng.integers(256, size=(1_000_000, 4))]
    # A few units in the last place around the borders between bins, at any size.
    across = rng.uniform(1, 2, 200_000) * 2.0 ** rng.integers(-70, 60, 200_000)
    border = np.tan(np.radians(rng.choice([10, 30, 50, 70, 90], 200_000)))
    nudged = (across * border).astype(np.float32)
    nudged = (nudged.view(np.int32) + rng.integers(-64, 65, nudged.shape, dtype=np.int32)).view(np.float32)
    near = np.stack([across.astype(np.float32), nudged], -1) * rng.choice([-1, 1], (200_000, 2)).astype(np.float32)
    special = [0.0, 1e-45, 1e-38, 1e-30, 1e-20, 1e-19, 1.0, 1e19, 1e20, 3e38, np.inf, np.nan]
    special = [sign * value for value in special for sign in (1, -1)]
    return {
        "pairs of differences of bytes": np.stack(np.meshgrid(differences, differences), -1).reshape(-1, 2),
        "pixels of bytes": np.stack([of_bytes[:, 0] - of_bytes[:, 1], of_bytes[:, 2] - of_bytes[:, 3]], -1),
        "normal": rng.normal(size=(1_000_000, 2)),
        "bits": rng.integers(2**32, size=(1_000_000, 2), dtype=np.uint32).view(np.float32),
        "near borders": near,
        "special": np.stack(np.meshgrid(special, special), -1).reshape(-1, 2),
    }[name]


# Share of gradients whose bins are chosen exactly, which is slow: at least and at most.
UNCERTAIN = {
    "pairs of differences of bytes": (0, 1e-3),
    "pixels of bytes": (0, 1e-3),
    "normal": (0, 1e-4),
    "bits": (0, 0.5),  # lengths above 1e19 overflow
    "near borders": (0.5, 1),
    "special": (0, 1),
}


@needs_compiler
@pytest.mark.parametrize("name", UNCERTAIN)
def test_quick_bins(name: str) -> None:
    results = run_blocks("hog_bins", "forward", gradients(name).astype(np.float32)).reshape(-1, 3)
    quick, certain, exact = results.T
    assert np.array_equal(quick[certain == 1], exact[certain == 1])
    least, most = UNCERTAIN[name]
    assert least <= (certain == 0).mean() <= most
