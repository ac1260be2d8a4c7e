"""What dense SIFT accepts, in which layouts, and what it says about everything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_hog_input import ARRAY_LAYOUTS, described

from dense_sift_implementations import IMPLEMENTATIONS, KERNELS
from preimage import dense_sift_frames, reference
from preimage.ops import _native
from preimage.ops.dense_sift import dense_sift

every_implementation = pytest.mark.parametrize("name", IMPLEMENTATIONS)
every_kernel = pytest.mark.parametrize("name", KERNELS)

BATCH = np.random.default_rng(3).integers(0, 256, (3, 3, 33, 47), dtype=np.uint8)


@every_kernel
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("layout", ARRAY_LAYOUTS)
def test_array_layouts(name: str, dtype: type, layout: str) -> None:
    batch = BATCH if dtype == np.uint8 else BATCH.astype(np.float32) / 255
    values = ARRAY_LAYOUTS[layout](batch)
    assert torch.equal(KERNELS[name](values), KERNELS[name](batch))
    assert torch.equal(KERNELS[name](values[:, :1]), KERNELS[name](np.ascontiguousarray(batch[:, :1])))


@every_kernel
@pytest.mark.parametrize("window", ["gaussian", "flat"])
def test_tensor_layouts(name: str, window: str) -> None:
    def compute(images: torch.Tensor) -> torch.Tensor:
        return KERNELS[name](images, window=window)

    batch = torch.from_numpy(BATCH.astype(np.float32) / 255)
    expected = compute(batch)
    assert torch.equal(compute(batch.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(compute(batch.mT.contiguous().mT), expected)
    assert torch.equal(compute(batch[1:2].expand(5, -1, -1, -1))[4], expected[1])
    assert torch.equal(compute(torch.cat([batch, batch], dim=3)[..., : batch.shape[3]]), expected)


@every_implementation
def test_ranks_and_batches(name: str) -> None:
    compute = IMPLEMENTATIONS[name]
    batch = torch.from_numpy(BATCH)
    features, norms = compute(batch, norms=True)
    assert features.shape == (3, 128, 6, 9) and norms.shape == (3, 1, 6, 9)
    assert features.dtype == norms.dtype == torch.float32
    assert features.is_contiguous() and norms.is_contiguous()
    assert torch.equal(compute(batch[1]), features[1])  # alone as in a batch
    assert torch.equal(compute(batch[0, 0]), compute(batch[0, :1]))
    assert torch.equal(compute(batch[0, :1]), compute(batch[:1, :1])[0])
    assert compute(batch[:0]).shape == (0, 128, 6, 9)
    assert compute(BATCH[:0], bin_size=3, step=2).shape == (0, 128, 12, 19)


@every_kernel
def test_bytes_and_floats_agree_to_the_bit(name: str) -> None:
    floats = BATCH.astype(np.float32) / np.float32(255)
    assert torch.equal(KERNELS[name](BATCH), KERNELS[name](floats))


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_are_converted(name: str, dtype: torch.dtype) -> None:
    images = (torch.from_numpy(BATCH) / 255).to(dtype)
    expected = KERNELS[name](images.float())
    assert torch.equal(KERNELS[name](images), expected)
    if dtype != torch.bfloat16:
        assert torch.equal(KERNELS[name](images.numpy()), expected)


@every_implementation
def test_bounds_of_the_whole_image_are_the_default(name: str) -> None:
    for bounds in ((0, 0, 32, 46), [0, 0, 32, 46]):
        assert torch.equal(IMPLEMENTATIONS[name](BATCH, bounds=bounds), IMPLEMENTATIONS[name](BATCH))


IMAGE = torch.rand(3, 16, 16)
WRONG = {
    "a list": (lambda sift: sift([[0.0] * 16] * 16), TypeError, r"torch\.Tensor.*numpy\.ndarray.*list"),
    "int64 tensor": (lambda sift: sift(torch.zeros(16, 16, dtype=torch.int64)), TypeError, "int64"),
    "int64 array": (lambda sift: sift(np.zeros((16, 16), dtype=np.int64)), TypeError, "int64"),
    "rank 1": (lambda sift: sift(torch.zeros(16)), ValueError, r"\(B, C, H, W\).*\(16,\)"),
    "two channels": (lambda sift: sift(torch.zeros(2, 16, 16)), ValueError, r"\(2, 16, 16\)"),
    "too low": (lambda sift: sift(torch.zeros(12, 40)), ValueError, r"13 x 13.*12 x 40"),
    "too narrow": (lambda sift: sift(torch.zeros(40, 12)), ValueError, r"13 x 13.*40 x 12"),
    "huge bin": (lambda sift: sift(IMAGE, bin_size=2**70), ValueError, "16 x 16"),
    "step of 0": (lambda sift: sift(IMAGE, step=0), ValueError, r"step.*1.*0"),
    "step of 2.0": (lambda sift: sift(IMAGE, step=2.0), TypeError, r"step.*2\.0"),
    "bin of -1": (lambda sift: sift(IMAGE, bin_size=-1), ValueError, r"bin_size.*1.*-1"),
    "bin of True": (lambda sift: sift(IMAGE, bin_size=True), TypeError, r"int.*True"),
    "bounds below 0": (lambda sift: sift(IMAGE, bounds=(-1, 0, 15, 15)), ValueError, "16 x 16"),
    "bounds past the end": (lambda sift: sift(IMAGE, bounds=(0, 0, 15, 16)), ValueError, r"\(0, 0, 15, 16\)"),
    "bounds turned": (lambda sift: sift(IMAGE, bounds=(15, 0, 0, 15)), ValueError, r"\(15, 0, 0, 15\)"),
    "bounds too close": (lambda sift: sift(IMAGE, bounds=(0, 0, 15, 11)), ValueError, "16 x 12"),
    "float bounds": (lambda sift: sift(IMAGE, bounds=(0, 0, 15.0, 15)), TypeError, "four"),
    "window": (lambda sift: sift(IMAGE, window="box"), ValueError, r"gaussian, flat.*'box'"),
    "window of 0": (lambda sift: sift(IMAGE, window_size=0.0), ValueError, r"window_size.*0"),
    "window of nan": (lambda sift: sift(IMAGE, window_size=float("nan")), ValueError, "window_size"),
    "dtype": (lambda sift: sift(IMAGE, dtype=torch.int32), ValueError, r"dtype.*torch\.int32"),
    "meta device": (lambda sift: sift(IMAGE.to("meta")), ValueError, "meta"),
}


@pytest.mark.parametrize("name", ["reference", next(iter(KERNELS))])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_named(name: str, case: str) -> None:
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call(IMPLEMENTATIONS[name])


@pytest.mark.parametrize("frames", [dense_sift_frames, reference.dense_sift_frames])
def test_frames_check_too(frames: Any) -> None:
    with pytest.raises(ValueError, match="12 x 40"):
        frames(12, 40)
    with pytest.raises(ValueError, match="inside"):
        frames(40, 40, bounds=(0, 0, 40, 39))
    with pytest.raises(TypeError, match="step"):
        frames(40, 40, step="2")


def test_huge_steps_and_windows() -> None:
    image = torch.rand(30, 40)
    assert dense_sift(image, step=2**29).shape == (128, 1, 1)
    assert torch.isfinite(dense_sift(image, window_size=1e-3)).all()
    assert torch.isfinite(dense_sift(image, window_size=1e20)).all()


def test_defaults_of_torch_do_not_matter() -> None:
    expected = dense_sift(IMAGE)
    torch.set_default_dtype(torch.float64)
    try:
        assert dense_sift(IMAGE).dtype == torch.float32
        with torch.device("meta"):
            assert torch.equal(dense_sift(IMAGE), expected)
            assert isinstance(dense_sift_frames(16, 16), np.ndarray)
    finally:
        torch.set_default_dtype(torch.float32)


NATIVE_IMAGE = np.zeros((1, 1, 16, 20), dtype=np.float32)
NATIVE_FEATURES = np.zeros((1, 128, 1, 2), dtype=np.float32)
NATIVE_NORMS = np.zeros((1, 1, 1, 2), dtype=np.float32)
RIGHT = {"step": 4, "bin_size": 4, "window": "flat", "window_size": 2.0, "bounds": (0, 0, 15, 19)}


@pytest.mark.parametrize(
    ("tensors", "options", "message"),
    [
        ({"images": {"address": 0}}, {}, "address"),
        ({"images": {"shape": (1, 2, 8, 20)}}, {}, "1 or 3 channels"),
        ({"images": {"dtype": "float16", "strides": (8, 8, 40, 2)}}, {}, "uint8 or float32"),
        ({"images": {"device": "cuda:0"}}, {}, r"cpu.*cuda:0"),
        ({"features": {"shape": (1, 128, 2, 1)}}, {}, "features"),
        ({"features": {"strides": (1024, 8, 8, 8)}}, {}, "features"),
        ({"features": {"dtype": "uint8"}}, {}, "features"),
        ({"norms": {"shape": (1, 2, 1, 1)}}, {}, "norms"),
        ({"norms": {"dtype": "uint8", "strides": (2, 2, 2, 1)}}, {}, "norms"),
        ({}, {"step": 0}, "step"),
        ({}, {"bin_size": 2**40}, "bin_size"),
        ({}, {"bin_size": 6}, "too small"),
        ({}, {"window": "box"}, "'box'"),
        ({}, {"window_size": float("inf")}, "window_size"),
        ({}, {"window_size": float("nan")}, "window_size"),
        ({}, {"bounds": (0, 0, 16, 19)}, "inside"),
        ({}, {"bounds": (0, -1, 15, 19)}, "inside"),
        ({}, {"bounds": (3, 0, 2, 19)}, "inside"),
    ],
)
def test_native_boundary_checks_again(
    tensors: dict[str, dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    arrays = {"images": NATIVE_IMAGE, "features": NATIVE_FEATURES, "norms": NATIVE_NORMS}
    views = {name: described(array, **tensors.get(name, {})) for name, array in arrays.items()}
    with pytest.raises(ValueError, match=message):
        _native.dense_sift(**views, **(RIGHT | options), instruction_set="", threads=1)
