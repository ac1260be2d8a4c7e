"""Test descriptors with threads and in forked processes: equal results, no dead child."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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


def dense_sift_and_norms(images: torch.Tensor, **options: Any) -> torch.Tensor:
    """Return both outputs as one array."""
    return torch.cat(preimage.dense_sift(images, **options, norms=True), dim=-3)


DESCRIPTORS = {
    "hog": Descriptor(preimage.hog, [{}, {"cell_size": 6, "color": "strongest"}]),
    "lbp": Descriptor(preimage.lbp, [{}, {"cell_size": 6}]),
    "lbp_codes": Descriptor(preimage.lbp_codes),
    "dense_sift": Descriptor(dense_sift_and_norms, [{}, {"window": "flat"}, {"step": 5, "bin_size": 3}], scale=3),
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
