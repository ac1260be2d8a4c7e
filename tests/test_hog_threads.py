"""HOG under threads, forks and many calls: the same numbers, no dead child, no growing memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from hog_implementations import KERNELS
from preimage.ops.hog import hog

every_kernel = pytest.mark.parametrize("name", KERNELS)


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@every_kernel
@pytest.mark.parametrize("cell_size", [8, 6])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1200, 900), (1, 3, 700, 1111), (2, 3, 801, 640), (5, 1, 333, 400), (40, 3, 96, 120)],
    ids=str,
)
def test_threads_do_not_change_the_numbers(name: str, cell_size: int, shape: tuple[int, ...]) -> None:
    """The shapes cut an image into bands, a batch into images, and a batch into bands of images."""
    images = torch.rand(shape)
    colour = "strongest" if shape[2] % 2 else "luma"
    torch.set_num_threads(1)
    expected = KERNELS[name](images, cell_size=cell_size, colour=colour)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        assert torch.equal(KERNELS[name](images, cell_size=cell_size, colour=colour), expected)


@every_kernel
def test_alone_or_in_a_batch(name: str) -> None:
    images = torch.randint(0, 256, (9, 3, 130, 170), dtype=torch.uint8)
    torch.set_num_threads(4)
    features = KERNELS[name](images)
    for image, expected in zip(images, features, strict=True):
        assert torch.equal(KERNELS[name](image)[0], expected)


def test_many_python_threads_at_once() -> None:
    images = [torch.rand(2, 3, 150 + 10 * index, 400) for index in range(8)]
    expected = [hog(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for features, right in zip(pool.map(hog, images), expected, strict=True):
                assert torch.equal(features, right)


# Python 3.12 warns of every fork of a process with threads; that such a fork works is what is tested.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_child_computes() -> None:
    torch.set_num_threads(2)
    images = torch.rand(4, 1, 400, 400)
    expected = hog(images).numpy()  # threads have run in the parent
    child = os.fork()
    if child == 0:  # no assertion may leave the child alive inside pytest
        code = 1
        try:
            # Compared by NumPy: after a fork, torch's own operations wait for ever for OpenMP's lost threads.
            code = 0 if np.array_equal(hog(images).numpy(), expected) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


class FeatureSet(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return hog(torch.full((1, 64, 64), index / 8) * torch.linspace(0, 1, 64))[0]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_data_loader_workers() -> None:
    torch.set_num_threads(2)
    dataset = FeatureSet()
    expected = torch.stack([dataset[index] for index in range(8)])
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=2)
    assert torch.equal(torch.cat(list(loader)), expected)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_does_not_grow() -> None:
    torch.set_num_threads(2)
    images = torch.rand(2, 3, 200, 200)

    def many_calls() -> None:
        for _ in range(1000):
            hog(images)
            with pytest.raises(ValueError, match="cell_size"):
                hog(images, cell_size=0)

    many_calls()
    before = resident_bytes()
    many_calls()
    # One leaked output of a call would be 77 kB, a leaked working memory as much: 77 MB in all.
    assert resident_bytes() - before < 8 << 20
