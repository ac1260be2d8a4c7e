"""Test descriptors with threads, forks and many calls: equal results, no dead child, no growing memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import preimage
from implementations import kernels

# How images are cut: one into bands, a batch into images, a batch into bands of images.
SHAPES = [(1, 1, 1200, 900), (1, 3, 700, 1111), (2, 3, 801, 640), (5, 1, 333, 400), (40, 3, 96, 120)]


@dataclass(frozen=True)
class Descriptor:
    """A function with its arguments."""

    compute: Callable[..., Any]
    options: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    scale: int = 1  # images are smaller by this, where the work is more
    wrong: dict[str, int] = field(default_factory=lambda: {"cell_size": 0})


def dense_sift_and_norms(images: torch.Tensor, **options: Any) -> torch.Tensor:
    """Return both outputs as one array."""
    return torch.cat(preimage.dense_sift(images, **options, norms=True), dim=-3)


DESCRIPTORS = {
    "hog": Descriptor(preimage.hog, [{}, {"cell_size": 6, "color": "strongest"}]),
    "lbp": Descriptor(preimage.lbp, [{}, {"cell_size": 6}]),
    "lbp_codes": Descriptor(preimage.lbp_codes, wrong={"cell_size": 16}),
    "dense_sift": Descriptor(
        dense_sift_and_norms, [{}, {"window": "flat"}, {"step": 5, "bin_size": 3}], scale=3, wrong={"step": 0}
    ),
}
KERNELS = [(name, kernel) for name, one in DESCRIPTORS.items() for kernel in kernels(one.compute)]

every_descriptor = pytest.mark.parametrize("name", DESCRIPTORS)
every_kernel = pytest.mark.parametrize(("name", "kernel"), KERNELS, ids=lambda value: value)
# Python 3.12 warns of every fork of a process with threads; that such a fork works is what is tested.
forking = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@every_kernel
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_threads_do_not_change_the_numbers(name: str, kernel: str, shape: tuple[int, ...]) -> None:
    descriptor = DESCRIPTORS[name]
    compute = kernels(descriptor.compute)[kernel]
    images = torch.rand(*shape[:2], *(side // descriptor.scale for side in shape[2:]))
    for options in descriptor.options:
        torch.set_num_threads(1)
        expected = compute(images, **options)
        for threads in (2, 3, 8):
            torch.set_num_threads(threads)
            assert torch.equal(compute(images, **options), expected)


@every_kernel
def test_alone_or_in_a_batch(name: str, kernel: str) -> None:
    compute = kernels(DESCRIPTORS[name].compute)[kernel]
    images = torch.randint(0, 256, (9, 3, 130, 170), dtype=torch.uint8)
    torch.set_num_threads(4)
    for image, expected in zip(images, compute(images), strict=True):
        assert torch.equal(compute(image), expected)


@every_descriptor
def test_many_python_threads_at_once(name: str) -> None:
    compute = DESCRIPTORS[name].compute
    images = [torch.rand(2, 3, 60 + 10 * index, 200) for index in range(8)]
    expected = [compute(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for features, right in zip(pool.map(compute, images), expected, strict=True):
                assert torch.equal(features, right)


@forking
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@every_descriptor
def test_forked_child_computes(name: str) -> None:
    compute = DESCRIPTORS[name].compute
    torch.set_num_threads(2)
    images = torch.rand(4, 1, 400, 400)
    expected = compute(images).numpy()  # threads have run in the parent
    child = os.fork()
    if child == 0:  # no assertion may leave the child alive inside pytest
        code = 1
        try:
            # Compared by NumPy: after a fork, torch's own operations wait for ever for OpenMP's lost threads.
            code = 0 if np.array_equal(preimage_numbers(name, images), expected) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def preimage_numbers(name: str, images: torch.Tensor) -> np.ndarray:
    """Compute `DESCRIPTORS` without operations of torch."""
    if name == "dense_sift":
        return np.concatenate([part.numpy() for part in preimage.dense_sift(images, norms=True)], axis=1)
    features: torch.Tensor = DESCRIPTORS[name].compute(images)
    return features.numpy()


class FeatureSet(torch.utils.data.Dataset):
    """All descriptors of a small image in one vector."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        image = torch.full((1, 64, 64), index / 8) * torch.linspace(0, 1, 64)
        return torch.cat([one.compute(image).float().flatten() for one in DESCRIPTORS.values()])


@forking
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_data_loader_workers(context: str) -> None:
    torch.set_num_threads(2)
    dataset = FeatureSet()
    expected = torch.stack([dataset[index] for index in range(8)])
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=context)
    assert torch.equal(torch.cat(list(loader)), expected)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@every_descriptor
def test_memory_does_not_grow(name: str) -> None:
    descriptor = DESCRIPTORS[name]
    torch.set_num_threads(2)
    images = torch.rand(1, 3, 64, 64)
    large = torch.rand(2, 3, 160, 200)

    def many_calls(count: int) -> None:
        for index in range(count):
            descriptor.compute(images)
            if index % 20 == 0:
                descriptor.compute(large)
                with pytest.raises((ValueError, TypeError), match=next(iter(descriptor.wrong))):
                    descriptor.compute(images, **descriptor.wrong)

    many_calls(1000)
    before = resident_bytes()
    many_calls(10_000)
    # One leaked output of a call would be 3 kB or more, 30 MB in all.
    assert resident_bytes() - before < 5 << 20
