"""Test the source of the GPU kernels on the host: sanitizers, three orders of threads, comparison with the CPU op."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from conftest import photographs
from host_blocks import ORDERS, needs_compiler, run_blocks
from preimage.ops.dense_sift import dense_sift
from tolerances import DENSE_SIFT_BLOCKS, DENSE_SIFT_BLOCKS_GRADIENT, DENSE_SIFT_BLOCKS_STORED


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    options: dict[str, Any]
    frames: int = 0  # frames of a block; 0 for the number that a launch chooses
    shared: int = 228  # KiB of shared memory per multiprocessor


CASES = {
    "smallest": Case((1, 1, 13, 13), {}),
    "one descriptor, bins of 1": Case((1, 1, 4, 5), {"bin_size": 1, "step": 3}),
    "odd": Case((2, 3, 61, 83), {}),
    "odd, small multiprocessors": Case((2, 3, 61, 83), {}, shared=100),
    "two turns a row": Case((1, 1, 33, 173), {}),
    "two blocks a row": Case((1, 1, 25, 263), {}),
    "two blocks a row, small multiprocessors": Case((1, 1, 25, 263), {}, shared=100),
    "every pixel": Case((1, 1, 19, 51), {"step": 1, "bin_size": 3}),
    "step 2, bins of 8": Case((1, 1, 40, 65), {"step": 2, "bin_size": 8}, 7),
    "step 3, bins of 5": Case((1, 3, 50, 47), {"step": 3, "bin_size": 5, "bounds": (2, 3, 44, 40)}, 3),
    "step 5, bins of 4": Case((1, 1, 37, 90), {"step": 5, "window_size": 1.0}),
    "step 2, bins of 6": Case((1, 3, 45, 77), {"step": 2, "bin_size": 6}),
    "step 17, bins of 5": Case((1, 1, 60, 130), {"step": 17, "bin_size": 5}),
    "far apart": Case((1, 1, 60, 130), {"step": 23, "bin_size": 2}),
    "bounds": Case((1, 1, 40, 50), {"bounds": (11, 0, 30, 49)}),
    "largest bins": Case((1, 1, 430, 432), {"bin_size": 143, "step": 1}),
}

TYPES = ("uint8", "float16", "bfloat16", "float32")  # in the order of ScalarType


def pixels(case: Case, dtype: type) -> np.ndarray:
    """Return a batch of crops of photographs, with a little noise so that no patch is nearly flat."""
    batch, channels, height, width = case.shape
    crops = [photo[60 : 60 + height, 80 : 80 + width, :channels] for photo in photographs().values()]
    images = np.stack(crops[:batch]).transpose(0, 3, 1, 2)
    noise = np.random.default_rng(0).integers(0, 8, images.shape, dtype=np.uint8)
    images = np.ascontiguousarray(np.minimum(images, 247) + noise)
    return images if dtype is np.uint8 else images.astype(np.float32) / np.float32(255)


def run(case: Case, images: np.ndarray, window: str, *gradients: torch.Tensor, dtype: str = "float32") -> np.ndarray:
    """Return the output of the program, which must be the same in every order of the threads, as float32.

    dtype: That of the descriptors; if another, their bytes.
    """
    height, width = case.shape[2:]
    given = case.options
    numbers = (
        *(int(images.dtype == np.uint8), *case.shape),
        *(given.get("step", 4), given.get("bin_size", 4), int(window == "flat"), given.get("window_size", 2.0)),
        *given.get("bounds", (0, 0, height - 1, width - 1)),
        *(case.frames, int(bool(gradients)), TYPES.index(dtype), case.shared << 10),
    )
    parts = [images, *(gradient.numpy() for gradient in gradients)]
    array = np.concatenate([part.ravel().view(np.uint8) for part in parts])
    results = [run_blocks("dense_sift", order, array, *numbers) for order in ORDERS]
    assert all(result.tobytes() == results[0].tobytes() for result in results[1:])
    return results[0]


@needs_compiler
@pytest.mark.parametrize("window", ["gaussian", "flat"])
@pytest.mark.parametrize("name", CASES)
def test_descriptors(name: str, window: str) -> None:
    case = CASES[name]
    for dtype in (np.uint8, np.float32):
        images = pixels(case, dtype)
        found = torch.from_numpy(run(case, images, window))
        features, norms = dense_sift(torch.from_numpy(images), window=window, norms=True, **case.options)
        expected = torch.cat([features.flatten(), norms.flatten()])
        assert (found - expected).abs().max().item() <= DENSE_SIFT_BLOCKS


@needs_compiler
@pytest.mark.parametrize("dtype", DENSE_SIFT_BLOCKS_STORED)
def test_stored_dtypes(dtype: str) -> None:
    case = CASES["odd"]
    images = pixels(case, np.uint8)
    expected, norms = dense_sift(torch.from_numpy(images), norms=True, dtype=dtype)
    found = run(case, images, "gaussian", dtype=dtype).view(np.uint8)
    assert found.size == expected.nbytes + norms.nbytes
    descriptors = torch.from_numpy(found[: expected.nbytes]).view(expected.dtype).reshape(expected.shape)
    assert (descriptors.float() - expected.float()).abs().max().item() <= DENSE_SIFT_BLOCKS_STORED[dtype]


@needs_compiler
@pytest.mark.parametrize("window", ["gaussian", "flat"])
@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, window: str) -> None:
    case = CASES[name]
    images = torch.from_numpy(pixels(case, np.float32)).requires_grad_()
    outputs = dense_sift(images, window=window, norms=True, **case.options)
    weights = [torch.linspace(-40, 50, output.numel()).sin().reshape(output.shape) for output in outputs]
    (expected,) = torch.autograd.grad(outputs, images, weights)
    found = torch.from_numpy(run(case, images.detach().numpy(), window, *weights)).reshape(expected.shape)
    assert (found - expected).norm().item() <= DENSE_SIFT_BLOCKS_GRADIENT * expected.norm().item()


@needs_compiler
def test_too_large_bins_are_rejected() -> None:
    case = Case((1, 1, 433, 433), {"bin_size": 144})
    with pytest.raises(AssertionError, match=r"bin_size.*143"):
        run(case, np.zeros(case.shape, dtype=np.float32), "gaussian")
