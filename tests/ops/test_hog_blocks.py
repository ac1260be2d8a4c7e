"""Test the source of the GPU kernel on the host: sanitizers, three orders of threads, comparison with the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from host_blocks import ORDERS, needs_compiler, pixels, run_blocks
from preimage.ops.hog import hog
from tolerances import HOG

# (B, C, H, W), cell size, strip rows (0 for the number that a launch chooses)
SHAPES = {
    "one cell": ((1, 1, 8, 8), 8, 0),
    "half a cell": ((2, 1, 4, 5), 8, 0),
    "no interior": ((1, 3, 9, 2), 4, 0),
    "a strip": ((1, 3, 64, 504), 8, 0),
    "one column more than a strip": ((1, 1, 40, 512), 8, 0),
    "long strips": ((2, 1, 150, 131), 8, 32),
    "odd": ((3, 3, 75, 301), 8, 3),
    "cells of 5": ((1, 3, 64, 83), 5, 0),
    "cells of 1": ((1, 1, 9, 70), 1, 4),
}


@needs_compiler
@pytest.mark.parametrize("color", ["luma", "strongest"])
@pytest.mark.parametrize("case", SHAPES)
def test_block_program(case: str, color: str) -> None:
    shape, cell_size, rows = SHAPES[case]
    for dtype in (np.uint8, np.float32):
        images = pixels(shape, dtype)
        numbers = (int(dtype is np.uint8), *shape, cell_size, int(color == "strongest"), rows)
        results = [run_blocks("hog", order, images, *numbers) for order in ORDERS]
        assert all(result.tobytes() == results[0].tobytes() for result in results[1:])
        expected = hog(torch.from_numpy(images), cell_size=cell_size, color=color)
        difference = torch.from_numpy(results[0]).reshape(expected.shape) - expected
        assert difference.abs().max().item() <= HOG  # NaN where a value was not written
