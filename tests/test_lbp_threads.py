"""LBP under threads, forks and many calls: the same numbers, no dead child, no growing memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import implementations
from lbp_implementations import KERNELS
from preimage.ops.lbp import lbp, lbp_codes
from test_hog_threads import resident_bytes

every_kernel = pytest.mark.parametrize("name", KERNELS)
CODE_KERNELS = implementations.kernels(lbp_codes)


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@every_kernel
@pytest.mark.parametrize("cell_size", [16, 6, 0])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1200, 900), (1, 3, 700, 1111), (2, 3, 801, 640), (5, 1, 333, 400), (40, 3, 96, 120)],
    ids=str,
)
def test_threads_do_not_change_the_numbers(name: str, cell_size: int, shape: tuple[int, ...]) -> None:
    """The shapes cut an image into bands, a batch into images, and a batch into bands of images. 0: the labels."""
    images = torch.rand(shape)

    def compute() -> torch.Tensor:
        return KERNELS[name](images, cell_size=cell_size) if cell_size else CODE_KERNELS[name](images)

    torch.set_num_threads(1)
    expected = compute()
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        assert torch.equal(compute(), expected)


@every_kernel
def test_alone_or_in_a_batch(name: str) -> None:
    images = torch.randint(0, 256, (9, 3, 130, 170), dtype=torch.uint8)
    torch.set_num_threads(4)
    for op in (KERNELS[name], CODE_KERNELS[name]):
        for image, expected in zip(images, op(images), strict=True):
            assert torch.equal(op(image)[0], expected)


def test_many_python_threads_at_once() -> None:
    images = [torch.rand(2, 3, 150 + 10 * index, 400) for index in range(8)]
    expected = [lbp(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for features, right in zip(pool.map(lbp, images), expected, strict=True):
                assert torch.equal(features, right)


# Python 3.12 warns of every fork of a process with threads; that such a fork works is what is tested.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_child_computes() -> None:
    torch.set_num_threads(2)
    images = torch.rand(4, 1, 400, 400)
    expected = lbp(images).numpy()  # threads have run in the parent
    child = os.fork()
    if child == 0:  # no assertion may leave the child alive inside pytest
        code = 1
        try:
            # Compared by NumPy: after a fork, torch's own operations wait for ever for OpenMP's lost threads.
            code = 0 if np.array_equal(lbp(images).numpy(), expected) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_does_not_grow() -> None:
    torch.set_num_threads(2)
    images = torch.rand(2, 3, 200, 200)

    def many_calls() -> None:
        for _ in range(700):
            lbp(images)
            lbp_codes(images)
            with pytest.raises(ValueError, match="cell_size"):
                lbp(images, cell_size=0)

    many_calls()
    before = resident_bytes()
    many_calls()
    # One leaked output of a call would be 67 kB or 80 kB, a leaked working memory as much: 50 MB in all.
    assert resident_bytes() - before < 8 << 20
