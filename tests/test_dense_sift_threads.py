"""Dense SIFT under threads and many calls: the same numbers, no growing memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from preimage.ops.sift import dense_sift
from sift_implementations import KERNELS

every_kernel = pytest.mark.parametrize("name", KERNELS)


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@every_kernel
@pytest.mark.parametrize("window", ["gaussian", "flat"])
@pytest.mark.parametrize("grid", [(4, 4), (5, 3)], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 500, 600), (2, 3, 301, 240), (5, 1, 133, 200), (20, 3, 70, 80)], ids=str)
def test_threads_do_not_change_the_numbers(
    name: str, window: str, grid: tuple[int, int], shape: tuple[int, ...]
) -> None:
    """The shapes cut an image into bands, a batch into images, and a batch into bands of images."""
    images = torch.rand(shape)
    options = {"step": grid[0], "bin_size": grid[1], "window": window, "norms": True}
    torch.set_num_threads(1)
    expected = KERNELS[name](images, **options)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        for part, right in zip(KERNELS[name](images, **options), expected, strict=True):
            assert torch.equal(part, right)


@every_kernel
def test_alone_or_in_a_batch(name: str) -> None:
    images = torch.randint(0, 256, (9, 3, 130, 170), dtype=torch.uint8)
    torch.set_num_threads(4)
    features = KERNELS[name](images)
    for image, expected in zip(images, features, strict=True):
        assert torch.equal(KERNELS[name](image)[0], expected)


def test_many_python_threads_at_once() -> None:
    images = [torch.rand(2, 3, 60 + 10 * index, 200) for index in range(8)]
    expected = [dense_sift(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for features, right in zip(pool.map(dense_sift, images), expected, strict=True):
                assert torch.equal(features, right)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_does_not_grow() -> None:
    torch.set_num_threads(2)
    images = torch.rand(2, 3, 60, 60)

    def many_calls() -> None:
        for _ in range(500):
            dense_sift(images)
            with pytest.raises(ValueError, match="step"):
                dense_sift(images, step=0)

    many_calls()
    before = resident_bytes()
    many_calls()
    # One leaked output of a call would be 150 kB: 75 MB in all.
    assert resident_bytes() - before < 8 << 20
