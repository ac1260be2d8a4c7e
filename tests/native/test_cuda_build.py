"""Test that every CUDA kernel compiles for all architectures of wheels, with all of its variables in registers.

The tests need nvcc only and do not depend on how the package under test was built.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import cuda_resources

SHARED_MEMORY = 48 << 10  # static, of any architecture


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("source", cuda_resources.sources(), ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "architectures", [(90,), pytest.param(cuda_resources.ARCHITECTURES, marks=pytest.mark.nightly)], ids=str
)
def test_kernels_keep_everything_in_registers(source: Path, architectures: tuple[int, ...]) -> None:
    found = cuda_resources.resources(source, architectures)
    assert {row.architecture for row in found} == set(architectures)
    for row in found:
        assert row.spilled == 0, row
        assert row.stack == 0, row  # an array with a computed index lies there without being spilled
        assert row.shared <= SHARED_MEMORY, row
