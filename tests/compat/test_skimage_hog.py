"""Test preimage.compat.skimage.feature.hog against scikit-image's own function."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import skimage.feature
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import photographs
from preimage.compat.skimage import feature
from preimage.compat.skimage.feature import hog
from tolerances import HOG

COLOR = photographs()["astronaut"][40:113, 160:251]  # (73, 91, 3) uint8
GRAY = np.ascontiguousarray(COLOR[:, :, 1])
NORMS = ("L1", "L1-sqrt", "L2", "L2-Hys")
NOT_SQUARE: dict[str, Any] = {"pixels_per_cell": (7, 10), "cells_per_block": (3, 2), "orientations": 7}


def compare(image: Any, **options: Any) -> None:
    """Check that features, their shape and dtype, and the drawing are those of scikit-image."""
    expected, drawing = skimage.feature.hog(image, visualize=True, **options)
    features, drawn = hog(image, visualize=True, **options)
    for ours, theirs in ((features, expected), (drawn, drawing), (hog(image, **options), expected)):
        assert type(ours) is np.ndarray
        assert (ours.shape, ours.dtype, ours.flags.c_contiguous) == (theirs.shape, theirs.dtype, True)
        largest = max(1.0, float(np.nanmax(np.abs(theirs)))) if theirs.size else 1.0
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=HOG * largest)


def test_the_signature_is_that_of_scikit_image() -> None:
    ours, theirs = inspect.signature(hog), inspect.signature(skimage.feature.hog)
    assert [(one.name, one.kind, one.default) for one in ours.parameters.values()] == [
        (one.name, one.kind, one.default) for one in theirs.parameters.values()
    ]
    assert feature.hog is hog


@pytest.mark.parametrize(
    "image",
    [
        GRAY,
        GRAY.tolist(),
        GRAY > 100,
        GRAY.astype(np.int16) - 200,
        GRAY.astype(np.uint16) * 257,
        GRAY.astype(np.int64) * 100_000,
        (GRAY / 255).astype(np.float16),
        (GRAY / 255).astype(np.float32),
        (GRAY / 255).astype(">f4"),
        GRAY / 255,
        (GRAY / 255).astype(np.longdouble),
        GRAY[::-1, ::2],
        GRAY.T,
        np.asfortranarray(GRAY),
        np.zeros((24, 24)),
        np.full((30, 25), 7, np.uint8),
    ],
    ids=lambda image: f"{type(image).__name__}-{np.asarray(image).dtype}-{np.shape(image)}",
)
def test_images_of_every_dtype_and_layout(image: Any) -> None:
    compare(image)


@pytest.mark.parametrize("block_norm", NORMS)
@pytest.mark.parametrize("transform_sqrt", [False, True])
@pytest.mark.parametrize("sizes", [{}, NOT_SQUARE, {"cells_per_block": (1, 1)}])
def test_options(block_norm: str, transform_sqrt: bool, sizes: dict[str, Any]) -> None:
    for image in (GRAY, GRAY / 255):
        compare(image, block_norm=block_norm, transform_sqrt=transform_sqrt, feature_vector=False, **sizes)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_channels_on_every_axis(axis: int) -> None:
    for image in (COLOR, COLOR / 255, (COLOR / 255).astype(np.float32)):
        compare(np.moveaxis(image, -1, axis), channel_axis=axis)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("options", [{}, {"orientations": 4}, {"transform_sqrt": True}], ids=str)
def test_channels_are_compared_in_single_precision(dtype: type, options: dict[str, Any]) -> None:
    """Gradients of several channels have equal lengths at many pixels of a photograph divided by 255."""
    image = (photographs()["astronaut"][::2, ::2] / 255).astype(dtype)
    compare(image, channel_axis=-1, **options)
    compare(image[:, :, 1], **options)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_any_number_of_channels(channels: int) -> None:
    random = np.random.default_rng(channels)
    for image in (random.random((40, 37, channels)), random.integers(0, 256, (40, 37, channels), np.uint8)):
        compare(image, channel_axis=-1)
        compare(image, channel_axis=-1, **NOT_SQUARE)


@pytest.mark.parametrize("side", [2, 3, 4, 5, 9, 12, 31])
def test_drawings_of_small_and_large_cells(side: int) -> None:
    compare(GRAY, pixels_per_cell=(side, side), cells_per_block=(1, 2), orientations=11)
    compare(GRAY, pixels_per_cell=(side, 2 * side), cells_per_block=(1, 1))


def test_arguments_of_other_types() -> None:
    compare(GRAY, orientations=np.int32(5), pixels_per_cell=[6, 6], cells_per_block=np.array([2, 2]), transform_sqrt=1)
    compare(GRAY, pixels_per_cell=(48 / 6, np.float64(7)))


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    cell=st.tuples(st.integers(2, 12), st.integers(2, 12)),
    block=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    orientations=st.integers(1, 20),
    block_norm=st.sampled_from(NORMS),
    transform_sqrt=st.booleans(),
    color=st.booleans(),
    dtype=st.sampled_from(["uint8", "uint16", "float32", "float64"]),
    seed=st.integers(0, 9),
)
def test_any_options(
    size: tuple[int, int],
    cell: tuple[int, int],
    block: tuple[int, int],
    color: bool,
    dtype: str,
    seed: int,
    **options: Any,
) -> None:
    random = np.random.default_rng(seed)
    values = random.integers(0, 256, (*size, 3) if color else size)
    image = (values / 255 if dtype.startswith("float") else values).astype(dtype)
    options |= {"pixels_per_cell": cell, "cells_per_block": block, "channel_axis": -1 if color else None}
    if min(pixels // side - cells for pixels, side, cells in zip(size, cell, block, strict=True)) < 0:
        for function in (skimage.feature.hog, hog):
            with pytest.raises(ValueError, match=rf"least: {cell[0] * block[0]} rows and {cell[1] * block[1]} cols"):
                function(image, **options)
    else:
        compare(image, **options)


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (COLOR, {}, r"two spatial dimensions.*channel_axis.*\(73, 91, 3\)"),
        (GRAY, {"channel_axis": -1}, r"two spatial dimensions.*\(73, 91\)"),
        (GRAY.astype(complex), {}, "complex"),
        (GRAY, {"block_norm": "l2"}, "l2|normalization method"),
        (GRAY[:23], {}, "24 rows and 24 cols"),
        (GRAY[0], {}, "24 rows and 24 cols"),
        (COLOR, {"channel_axis": 3}, "axis"),
    ],
)
def test_the_same_errors(image: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError):
        skimage.feature.hog(image, **options)
    with pytest.raises(ValueError, match=words):
        hog(image, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pixels_per_cell": (0, 8)}, r"pixels_per_cell.*1.*\(0, 8\)"),
        ({"cells_per_block": (2, -1)}, r"cells_per_block.*1.*\(2, -1\)"),
        ({"pixels_per_cell": (8.5, 8)}, r"pixels_per_cell.*whole.*\(8.5, 8\)"),
        ({"orientations": 0}, "orientations.*1.*0"),
    ],
)
def test_sizes_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        hog(GRAY, **options)


@pytest.mark.parametrize("options", [{"cells_per_block": (2.0, 2.0)}, {"orientations": 9.0}, {"pixels_per_cell": "88"}])
def test_sizes_of_other_types(options: dict[str, Any]) -> None:
    for function in (skimage.feature.hog, hog):
        with pytest.raises(TypeError):
            function(GRAY, **options)


def test_empty_images() -> None:
    with pytest.raises(ValueError, match=r"empty.*\(0, 91\)"):
        hog(GRAY[:0])


def test_square_roots_of_negative_values() -> None:
    image = GRAY / 255 - 0.3
    with pytest.warns(RuntimeWarning, match="sqrt"):
        expected = skimage.feature.hog(image, transform_sqrt=True)
    with pytest.warns(RuntimeWarning, match="sqrt"):
        features = hog(image, transform_sqrt=True)
    assert (np.isnan(features) == np.isnan(expected)).all() and 0 < np.isnan(features).mean() < 1
    np.testing.assert_allclose(features, expected, rtol=0, atol=HOG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hog(image + 0.3, transform_sqrt=True)


def test_torch_is_not_imported() -> None:
    program = (
        "import sys, numpy as np, preimage.compat.skimage as skimage\n"
        "image = np.random.default_rng(0).random((40, 50, 3))\n"
        "assert skimage.feature.hog(image, channel_axis=-1, visualize=True)[1].any()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
