"""Test descriptors of NumPy arrays: container, leading dimensions, float16, memory layouts, no import of torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

import preimage
from conftest import photographs
from implementations import instruction_set
from preimage.ops import _native
from preimage.ops._images import cpu_threads
from preimage.representations import Representation, create_representation

DECODED = np.stack([photographs()[name][30:131, 20:170] for name in ("astronaut", "coffee")])  # (2, H, W, 3) uint8
BATCH = np.ascontiguousarray(DECODED.transpose(0, 3, 1, 2))

OPS: dict[str, Callable[..., Any]] = {
    "hog": preimage.hog,
    "hog, strongest": lambda images, **options: preimage.hog(images, color="strongest", cell_size=5, **options),
    "lbp": preimage.lbp,
    "lbp, cells of 5": lambda images, **options: preimage.lbp(images, cell_size=5, **options),
    "dense_sift": preimage.dense_sift,
}
REPRESENTATIONS: dict[str, Representation] = {
    "hog": create_representation("hog"),
    "hog, strongest": create_representation("hog", cell_size=5, color="strongest"),
    "lbp": create_representation("lbp"),
    "lbp, cells of 6": create_representation("lbp", cell_size=6),
    "dense-sift": create_representation("dense-sift"),
    "dense-sift, flat": create_representation("dense-sift", variant="vlfeat-dsift-flat", step=3),
    "sift": create_representation("sift"),
    "sift, opencv": create_representation("sift", variant="opencv", descriptor_scale=3.0),
}

every_op = pytest.mark.parametrize("name", OPS)
every_representation = pytest.mark.parametrize("name", REPRESENTATIONS)
every_instruction_set = pytest.mark.usefixtures("each_instruction_set")


@pytest.fixture(params=_native.instruction_sets())
def each_instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    with instruction_set(request.param):
        yield


@every_op
@pytest.mark.parametrize(
    "shape", [(101, 150), (1, 101, 150), (3, 101, 150), (2, 3, 101, 150), (2, 1, 3, 101, 150), (0, 4, 3, 101, 150)]
)
def test_arrays_give_arrays_tensors_give_tensors(name: str, shape: tuple[int, ...]) -> None:
    images = np.resize(BATCH, shape)
    features, of_tensors = OPS[name](images), OPS[name](torch.from_numpy(images))
    assert isinstance(features, np.ndarray) and isinstance(of_tensors, torch.Tensor)
    assert features.shape[:-3] == shape[:-3] and features.flags.c_contiguous
    assert features.dtype == np.float32 and np.array_equal(features, of_tensors.numpy())


@pytest.mark.parametrize("shape", [(101, 150), (3, 101, 150), (2, 1, 3, 101, 150)])
def test_second_results_and_codes_keep_the_dimensions(shape: tuple[int, ...]) -> None:
    images = np.resize(BATCH, shape)
    features, norms = preimage.dense_sift(images, norms=True)
    assert isinstance(norms, np.ndarray) and norms.shape == (*shape[:-3], 1, *features.shape[-2:])
    codes = preimage.lbp_codes(images)
    assert isinstance(codes, np.ndarray) and codes.shape == (*shape[:-3], 1, 101, 150)
    assert np.array_equal(codes, preimage.lbp_codes(torch.from_numpy(images)).numpy())
    (scale,) = preimage.phow(images, sizes=(4,))
    assert isinstance(scale.features, np.ndarray) and scale.features.shape[:-3] == shape[:-3]
    assert isinstance(scale.frames, np.ndarray) and scale.norms.shape == (*shape[:-3], 1, *scale.frames.shape[:2])


def test_keypoints_come_in_the_container_of_the_images() -> None:
    arrays, tensors = preimage.sift(BATCH), preimage.sift(torch.from_numpy(BATCH))
    assert isinstance(arrays.descriptors, np.ndarray) and isinstance(tensors.descriptors, torch.Tensor)
    assert np.array_equal(arrays.descriptors, tensors.descriptors.numpy()) and len(arrays.x) > 50
    grid, of_tensors = preimage.sift_grid(arrays, (101, 150), seed=3), preimage.sift_grid(tensors, (101, 150), seed=3)
    assert isinstance(grid, np.ndarray) and isinstance(of_tensors, torch.Tensor)
    assert np.array_equal(grid, of_tensors.numpy())
    assert len(preimage.sift(BATCH[:, None])) == 2


@every_op
@every_instruction_set
def test_float16_is_float32_rounded(name: str) -> None:
    for width in (150, 90, 33, 20):  # whole vectors, and rows of fewer features than a vector has
        features = OPS[name](BATCH[..., :width])
        rounded = torch.from_numpy(features).half().numpy()
        for dtype in ("float16", np.float16, torch.float16):
            half = OPS[name](BATCH[..., :width], dtype=dtype)
            assert half.dtype == np.float16 and np.array_equal(half, rounded)


@every_instruction_set
def test_float16_of_faint_and_bad_pixels() -> None:
    """Covers subnormal float16 values and NaN."""
    image = np.random.default_rng(0).random((80, 200), dtype=np.float32) * np.geomspace(
        1e-9, 1e-2, 200, dtype=np.float32
    )
    features, half = preimage.hog(image), preimage.hog(image, dtype="float16")
    assert ((half > 0) & (half < 2.0**-14)).any()
    assert np.array_equal(half, features.astype(np.float16))
    image[40, 100] = np.nan
    features, half = preimage.hog(image), preimage.hog(image, dtype="float16")
    assert np.isnan(half).any() and np.array_equal(half, features.astype(np.float16), equal_nan=True)


def test_float16_of_the_grid_has_signs_and_overflows() -> None:
    keypoints = preimage.sift(BATCH)
    for scale in (1.0, 1e-6, 3e5):
        grid = preimage.sift_grid(keypoints, (101, 150), descriptor_scale=scale)
        with np.errstate(over="ignore"):
            expected = grid.astype(np.float16)
        assert (grid < 0).any() and np.isinf(expected).any() == (scale > 1)
        half = preimage.sift_grid(keypoints, (101, 150), descriptor_scale=scale, dtype="float16")
        assert np.array_equal(half, expected)
        tensors = preimage.sift_grid(keypoints.to_torch(), (101, 150), descriptor_scale=scale, dtype=torch.float16)
        assert np.array_equal(tensors.numpy(), expected)


def test_wrong_dtypes_are_named() -> None:
    for op in (preimage.hog, preimage.lbp):
        with pytest.raises(ValueError, match=r"dtype.*float32, float16.*'bfloat16'"):
            op(BATCH, dtype="bfloat16")
        with pytest.raises(ValueError, match=r"dtype.*float32, float16, bfloat16.*float64"):
            op(torch.from_numpy(BATCH), dtype=torch.float64)
        assert op(torch.from_numpy(BATCH), dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"dtype.*float32, float16.*'uint8'"):
        preimage.sift_grid(preimage.sift(BATCH), (101, 150), dtype="uint8")


# ---- Representations ----


def allocated(representation: Representation, images: np.ndarray, dtype: str) -> np.ndarray:
    size = representation.feature_size(*images.shape[1:3])
    assert size is not None
    return np.full((len(images), representation.spec.channels, *size), np.nan, dtype)


@every_representation
@every_instruction_set
def test_compute_into_reads_decoded_images(name: str) -> None:
    """Channels-last images of any strides give the same bits as planes; float16 is rounded from float32."""
    representation = REPRESENTATIONS[name]
    assert representation.computes_arrays
    for width in (150, 49):  # with and without a remainder after whole vectors of pixels
        decoded = DECODED[:, :, :width]
        expected = representation(BATCH[..., :width])
        assert isinstance(expected, np.ndarray) and np.isfinite(expected).all()
        backwards = np.ascontiguousarray(decoded[..., ::-1])[..., ::-1]  # as OpenCV's, blue first in memory
        for images in (decoded, np.ascontiguousarray(decoded), backwards):
            for dtype in ("float32", "float16"):
                features = allocated(representation, images, dtype)
                representation.compute_into(images, features, threads=1)
                assert np.array_equal(features, expected.astype(dtype))


@every_representation
def test_compute_into_from_several_threads(name: str) -> None:
    representation = REPRESENTATIONS[name]
    expected = representation(BATCH)
    features = [allocated(representation, DECODED, "float32") for _ in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda out: representation.compute_into(DECODED, out, threads=2), features))
    assert all(np.array_equal(out, expected) for out in features)


@every_representation
def test_compute_into_rejects_what_does_not_fit(name: str) -> None:
    representation = REPRESENTATIONS[name]
    good = allocated(representation, DECODED, "float32")
    for features in (good[:1], good[..., :-1], good.astype(np.float64), good.swapaxes(2, 3), good.astype(">f4")):
        with pytest.raises(ValueError, match=r"must be|expected dtype"):
            representation.compute_into(DECODED, features, threads=1)
    good.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        representation.compute_into(DECODED, good, threads=1)
    good.flags.writeable = True
    with pytest.raises(ValueError, match=r"\(B, H, W, 3\).*\(2, 3, 101, 150\)"):
        representation.compute_into(BATCH, good, threads=1)
    with pytest.raises(TypeError, match=r"uint8.*float32"):
        representation.compute_into(DECODED.astype(np.float32), good, threads=1)


@every_representation
@pytest.mark.parametrize("images", [BATCH[0], BATCH, BATCH[:, None], BATCH[:0]], ids=lambda images: str(images.shape))
def test_representations_keep_container_and_dimensions(name: str, images: np.ndarray) -> None:
    features, of_tensors = REPRESENTATIONS[name](images), REPRESENTATIONS[name](torch.from_numpy(images))
    assert isinstance(features, np.ndarray) and isinstance(of_tensors, torch.Tensor)
    assert features.shape[:-3] == images.shape[:-3]
    assert np.array_equal(features, of_tensors.numpy())


def test_networks_do_not_compute_arrays() -> None:
    network = create_representation("alexnet-conv3")
    assert not network.computes_arrays
    with pytest.raises(TypeError, match=r"alexnet-conv3.*NumPy"):
        network.compute_into(DECODED, np.zeros((2, 384, 13, 13), np.float32), threads=1)


# ---- Threads, and no torch ----


def test_threads_are_those_of_the_environment_or_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("3", 3), ("5,2", 5)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert cpu_threads() == expected
    for value in ("", "0", "many", "-2"):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert 1 <= cpu_threads() <= (os.cpu_count() or 1)


WITHOUT_TORCH = """
import sys, tempfile, pathlib
import numpy as np
import preimage
from preimage import io
from preimage.representations import create_representation, list_representations, representation_from_spec

images = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 80), dtype=np.uint8)
features = preimage.hog(images), preimage.lbp(images), preimage.dense_sift(images), preimage.phow(images, sizes=(4,))
keypoints = preimage.sift(images)
preimage.sift_grid(keypoints[0], (64, 80)), keypoints.select(keypoints.x > 9), keypoints.mirrored(80)
for name in ("hog", "lbp", "dense-sift", "sift"):
    representation = create_representation(name)
    rows, columns = representation.feature_size(64, 80)
    out = np.empty((2, representation.spec.channels, rows, columns), np.float16)
    representation.compute_into(images.transpose(0, 2, 3, 1), out, threads=1)
    assert representation_from_spec(representation.spec) == representation
assert "alexnet-conv3" in list_representations()
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "image.png"
    io.write_png(path, images[0].transpose(1, 2, 0))
    assert io.decode_image(path.read_bytes(), name=path.name).shape == (64, 80, 3)
loaded = {"torch", "torchvision", "matplotlib", "pandas", "scipy"} & set(sys.modules)
assert not loaded, loaded
"""


def test_arrays_need_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_ops_are_registered_with_the_modules() -> None:
    call = "torch.ops.preimage.lbp_codes(torch.zeros(1, 3, 16, 16), 'vlfeat-uniform')"
    code = f"import torch, preimage.nn; print({call}.shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.strip() == "torch.Size([1, 1, 16, 16])", done.stderr
