"""Compare HOG of the variant dalal-triggs with scikit-image, and between implementations."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from skimage.feature import hog as skimage_hog

import implementations
import tolerances
from preimage import hog
from preimage.ops._block_options import BlockOptions
from preimage.ops.hog_dalal_triggs import dalal_triggs_into
from skimage_files import NAMES, rgb

IMPLEMENTATIONS, KERNELS = implementations.IMPLEMENTATIONS["hog"], implementations.KERNELS["hog"]
NORMS = ("L1", "L1-sqrt", "L2", "L2-Hys")
# (height, width): the smallest there are with the default cells, single rows of blocks, remainders of cells, and around
# the kernel's steps of 16 pixels and 16 blocks.
ODD_SIZES = [
    *((24, 24), (24, 25), (25, 24), (31, 31), (32, 31), (24, 200), (200, 24), (33, 47), (47, 33), (40, 41)),
    *((48, 49), (49, 48), (63, 65), (64, 64), (65, 63), (72, 88), (79, 81), (80, 80), (95, 97), (96, 111)),
    *((112, 127), (113, 129), (127, 143), (128, 144), (129, 145), (131, 151), (150, 152), (167, 135), (187, 129)),
    (191, 213),
]

every_kernel = pytest.mark.parametrize("name", KERNELS)


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def expected(image: np.ndarray, **options: Any) -> np.ndarray:
    """Return scikit-image's features of an image (H, W) or (3, H, W) in the order of `preimage.hog`.

    scikit-image computes the gradients of float32 images in float32, all others in float64.
    """
    values = image
    strongest = options.get("color") == "strongest" and image.ndim == 3
    if image.ndim == 3 and not strongest:
        values = image.astype(np.float64)
        values = 0.299 * values[0] + 0.587 * values[1] + 0.114 * values[2]
    blocks = skimage_hog(
        values,
        orientations=options.get("orientations", 9),
        pixels_per_cell=pair(options.get("cell_size", 8)),
        cells_per_block=pair(options.get("block_size", 3)),
        block_norm=options.get("block_norm", "L2-Hys"),
        transform_sqrt=options.get("transform_sqrt", False),
        feature_vector=False,
        channel_axis=0 if strongest else None,
    )
    rows, columns = blocks.shape[:2]
    return blocks.transpose(2, 3, 4, 0, 1).reshape(-1, rows, columns)


def check(image: np.ndarray, **options: Any) -> None:
    """Compare all implementations with scikit-image; NaN must be in the same places."""
    wanted = expected(image, **options)
    for name, implementation in IMPLEMENTATIONS.items():
        features = implementation(image, variant="dalal-triggs", **options).double().numpy()
        assert features.shape == wanted.shape
        np.testing.assert_allclose(features, wanted, rtol=0, atol=tolerances.HOG_DALAL_TRIGGS, err_msg=name)


@pytest.mark.parametrize("file", NAMES)
def test_photographs_against_skimage(file: str) -> None:
    image = rgb(file, 150).transpose(2, 0, 1)
    check(image[1])
    check(image, color="luma")
    check(image, color="strongest")
    check(image / np.float64(255), color="strongest")
    check(image / np.float32(255), color="luma")


@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_odd_sizes_against_skimage(size: tuple[int, int]) -> None:
    height, width = size
    image = rgb("coffee.png")[:height, 100 : 100 + width].transpose(2, 0, 1)
    check(image[0])
    check(image, color="strongest", cell_size=(7, 5), block_size=2)
    check(image[:, :60], cell_size=(4, 6), block_size=(1, 4))


@pytest.mark.parametrize(("norm", "root"), list(itertools.product(NORMS, (False, True))))
def test_options_against_skimage(norm: str, root: bool) -> None:
    image = rgb("coffee.png")[30:90, 100:175].transpose(2, 0, 1)
    for orientations in (1, 2, 3, 7, 8, 9, 12, 13, 36, 180):
        color = ("luma", "strongest")[orientations % 2]
        options = {"orientations": orientations, "block_norm": norm, "transform_sqrt": root, "color": color}
        check(image, **options)
        check(image / np.float32(255), **options)


@pytest.mark.parametrize("orientations", [2, 3, 4, 6, 8, 9, 12, 18, 20])
def test_ties_of_orientation_against_skimage(orientations: int) -> None:
    """Few gray levels: most gradients lie at a multiple of 45°, between two orientations, or are zero."""
    rng = np.random.default_rng(orientations)
    for levels in (2, 3, 5):
        image = rng.integers(0, levels, (3, 40, 53), dtype=np.uint8)
        for dtype in (np.uint8, np.float32):
            check(image[0].astype(dtype), orientations=orientations, cell_size=4)
            check(image.astype(dtype), orientations=orientations, cell_size=4, color="strongest")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_angles_next_to_180_degrees_against_skimage(dtype: type) -> None:
    """A tiny negative angle is 180° after rounding, which is no orientation, or the last: 180 / 7 is rounded up."""
    rng = np.random.default_rng(0)
    tiny = rng.choice([1, 1e-5, 1e-10, 1e-14, 1e-17, 1e-30], (40, 40))
    image = (rng.integers(-3, 4, (40, 40)) * tiny + np.arange(40) % 5).astype(dtype)
    image[:, ::2] = (rng.integers(-3, 4, (40, 20)) * tiny[:, ::2]).astype(dtype)
    for orientations in (1, 3, 7, 9, 11, 12):
        check(image, orientations=orientations, cell_size=5)


@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1e-6, 1e5, 1e17, 1e30])
def test_scale_of_floats_against_skimage(scale: float) -> None:
    image = (rgb("coffee.png")[30:90, 100:175].transpose(2, 0, 1) * scale).astype(np.float32)
    check(image, color="strongest")
    check(image, block_norm="L1")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("color", ["luma", "strongest"])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # in scikit-image
def test_values_that_are_not_finite_against_skimage(value: float, color: str) -> None:
    image = rgb("coffee.png")[30:110, 100:180].transpose(2, 0, 1).astype(np.float64)
    image[1, 40, 30] = image[2, 0, 70] = image[0, 79, 0] = value
    assert 0 < np.isnan(expected(image, color=color)).mean() < 1
    check(image, color=color)


@pytest.mark.filterwarnings("ignore:invalid value encountered in sqrt:RuntimeWarning")
def test_square_roots_of_negative_values_are_nan() -> None:
    image = np.ones((32, 32), np.float32)
    image[12, 12] = -1
    assert np.isnan(expected(image, transform_sqrt=True)).any()
    check(image, transform_sqrt=True)


def test_large_cells_against_skimage() -> None:
    image = rgb("coffee.png")[:, :, 0]
    check(image, cell_size=32, block_size=(2, 3))


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    cell = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    block = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    height, width = (c * b + draw(st.integers(0, 20)) for c, b in zip(cell, block, strict=True))
    shape = draw(st.sampled_from([(height, width), (1, height, width), (3, height, width)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    image = rng.integers(0, draw(st.sampled_from([2, 5, 256])), shape, dtype=np.uint8)
    dtype = draw(st.sampled_from([np.uint8, np.float16, np.float32, np.float64]))
    options = {
        "cell_size": cell,
        "block_size": block,
        "orientations": draw(st.integers(1, 24)),
        "block_norm": draw(st.sampled_from(NORMS)),
        "transform_sqrt": draw(st.booleans()),
        "color": draw(st.sampled_from(["luma", "strongest"])),
    }
    return image.astype(dtype), options


@hypothesis.given(cases())
@hypothesis.settings(max_examples=60)
def test_kernels_against_the_reference(case: tuple[np.ndarray, dict[str, Any]]) -> None:
    image, options = case
    wanted = IMPLEMENTATIONS["reference"](image, variant="dalal-triggs", dtype=torch.float64, **options)
    results = [kernel(image, variant="dalal-triggs", **options) for kernel in KERNELS.values()]
    for result in results:
        assert torch.equal(result, results[0])  # to the bit, whatever the instruction set
        assert (result - wanted).abs().max() <= tolerances.HOG_DALAL_TRIGGS_PRECISION


@every_kernel
@pytest.mark.parametrize("shape", [(1, 3, 301, 323), (5, 1, 90, 700), (0, 3, 40, 40), (2, 2, 3, 64, 64)])
def test_results_do_not_depend_on_threads(name: str, shape: tuple[int, ...]) -> None:
    images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 7):
        torch.set_num_threads(threads)
        try:
            results.append(KERNELS[name](images, variant="dalal-triggs", color="strongest"))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)
    assert results[0].shape == (*shape[:-3], 81, shape[-2] // 8 - 2, shape[-1] // 8 - 2)


def test_arrays_and_tensors_agree() -> None:
    image = rgb("coffee.png")[:100, :100].transpose(2, 0, 1)
    features = hog(image, variant="dalal-triggs")
    assert features.dtype == np.float32
    assert torch.equal(torch.from_numpy(features), hog(torch.from_numpy(image.copy()), variant="dalal-triggs"))
    for dtype in ("float16", "bfloat16"):
        rounded = hog(torch.from_numpy(image.copy()), variant="dalal-triggs", dtype=dtype)
        assert torch.equal(rounded, torch.from_numpy(features).to(getattr(torch, dtype)))
    half = hog(image, variant="dalal-triggs", dtype="float16")
    np.testing.assert_array_equal(half, features.astype(np.float16))


def test_float64_is_not_rounded() -> None:
    """Gradients of 1e-12 beside values of 1 are lost in float32."""
    image = 1 + 1e-12 * rgb("coffee.png")[:64, :64, 0]
    for values in (image, image.astype(">f8"), np.asfortranarray(image)):
        features = hog(values, variant="dalal-triggs", block_norm="L1")
        np.testing.assert_allclose(features, expected(image, block_norm="L1"), rtol=1e-5)
    assert torch.equal(
        hog(torch.from_numpy(image), variant="dalal-triggs", block_norm="L1"), torch.from_numpy(features)
    )


def test_features_of_the_wrong_shape_are_rejected() -> None:
    images = np.zeros((2, 1, 40, 48), np.uint8)
    for shape, dtype in (((2, 81, 3, 3), np.float32), ((1, 81, 3, 4), np.float32), ((2, 81, 3, 4), np.float64)):
        with pytest.raises(ValueError, match=r"output.*float32"):
            dalal_triggs_into(images, np.empty(shape, dtype), BlockOptions(), threads=1)
