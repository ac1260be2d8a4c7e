"""Every CUDA kernel compiles for every architecture we ship, without spilling registers. Needs nvcc, no GPU."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import cuda_resources

SHARED_MEMORY = 48 << 10  # static, of any architecture


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("source", cuda_resources.sources(), ids=lambda path: path.stem)
def test_kernels_do_not_spill(source: Path) -> None:
    found = cuda_resources.resources(source)
    assert {row.architecture for row in found} == set(cuda_resources.ARCHITECTURES)
    for row in found:
        assert row.spilled == 0, row
        assert row.shared <= SHARED_MEMORY, row
