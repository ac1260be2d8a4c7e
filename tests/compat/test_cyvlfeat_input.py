"""Test images and options that `preimage.compat.cyvlfeat` accepts and rejects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from preimage.compat.cyvlfeat.hog import hog
from preimage.compat.cyvlfeat.misc import lbp
from preimage.compat.cyvlfeat.sift import dsift, phow, sift

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 70)).astype(np.float32)
RGB = np.random.default_rng(1).random((60, 70, 3), np.float32)


def same(one: Any, other: Any) -> bool:
    """Return whether two results are equal to the bit."""
    pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
    return all(np.array_equal(*pair) for pair in pairs)


@pytest.mark.parametrize(
    "compute", [lambda i: hog(i, 8), lambda i: hog(i, 8, "DalalTriggs"), dsift, sift, lambda i: lbp(i, 16)]
)
def test_images_that_mean_the_same(compute: Any) -> None:
    right = compute(IMAGE)
    unwriteable = IMAGE.copy()
    unwriteable.setflags(write=False)
    swapped = IMAGE.astype(">f4")
    for image in (
        IMAGE[..., None],
        IMAGE.astype(np.uint8),
        IMAGE.T.copy().T,
        IMAGE.astype(float),
        unwriteable,
        swapped,
        IMAGE.tolist(),
    ):
        assert same(compute(image), right)


def test_gray_images_of_phow() -> None:
    right = phow(IMAGE, step=5)
    assert same(phow(IMAGE[..., None], step=5), right) and same(phow(IMAGE.astype(np.uint8), step=5), right)
    frames, thrice = phow(IMAGE[..., None], step=5, color="rgb")
    assert np.array_equal(frames, right[0]) and np.array_equal(thrice, np.tile(right[1], 3))


def test_equal_ints() -> None:
    right = dsift(IMAGE, step=2, size=3, bounds=[1, 2, 50, 60])
    assert same(dsift(IMAGE, np.int64(2), np.array([3, 3]), np.array([1, 2, 50, 60]), geometry=[4, 4, 8]), right)
    assert same(hog(IMAGE, np.int32(8)), hog(IMAGE, 8))


def test_no_descriptors() -> None:
    for options, channels in (({}, 128), ({"geometry": (2, 2, 4)}, 16)):
        frames, descriptors = dsift(IMAGE, size=80, norm=True, **options)
        assert frames.shape == (0, 3) and descriptors.shape == (0, channels) and descriptors.dtype == np.uint8
    flat = np.full((40, 40), 7, np.float32)
    frames, descriptors = sift(flat, compute_descriptor=True, float_descriptors=True)
    assert frames.shape == (0, 4) and descriptors.shape == (0, 128) and descriptors.dtype == np.float32
    assert not dsift(flat)[1].any() and not dsift(flat, geometry=(2, 2, 8))[1].any()
    none = np.zeros((0, 4), np.float32)
    assert sift(IMAGE, frames=none).shape == (0, 4) and sift(IMAGE, n_octaves=0).shape == (0, 4)


@pytest.mark.parametrize("image", [IMAGE, RGB])
def test_nan_reaches_the_same_features_of_all_variants(image: np.ndarray) -> None:
    """The native kernel and NumPy agree on which cells a pixel that is NaN affects."""
    image = image.copy()
    image[30, 33] = np.nan
    cells = [
        np.isnan(hog(image, 8, variant, n_orientations=orientations)).any(axis=2)
        for variant in ("UoCTTI", "DalalTriggs")
        for orientations in (9, 8)
    ]
    assert cells[0].any() and not cells[0].all() and all(np.array_equal(other, cells[0]) for other in cells)


def test_bytes_of_nan() -> None:
    """Descriptors that are NaN are 255 as bytes, with and without the native kernel, and without a warning."""
    image = IMAGE.copy()
    image[30, 33] = np.nan
    for geometry in ((4, 4, 8), (4, 4, 7)):
        floats = dsift(image, 4, 4, geometry=geometry, float_descriptors=True)[1]
        stored = dsift(image, 4, 4, geometry=geometry)[1]
        assert np.isnan(floats).any() and (stored[np.isnan(floats)] == 255).all()


def test_frames_outside_the_image() -> None:
    frames = np.array([[-30, 20, 2, 0], [20, 500, 3, 1], [1e6, 1e6, 4, 1], [30, 30, 5, 1]], np.float32)
    found, descriptors = sift(IMAGE, frames=frames, compute_descriptor=True)
    assert np.array_equal(found, frames) and descriptors.any(axis=1).tolist() == [False, False, False, True]
    turned = sift(IMAGE, frames=frames, force_orientations=True)
    assert len(turned) >= 1 and (turned[:, 0] == 30).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: hog(IMAGE, 0), "cell_size.*0"),
        (lambda: hog(IMAGE, 200), "100 x 100.*60 x 70"),
        (lambda: hog(IMAGE, 8, "dalal"), "variant.*dalal"),
        (lambda: hog(IMAGE, 8, n_orientations=0), "n_orientations.*0"),
        (lambda: hog(IMAGE, 8, directed_polar_field=True), "2 channels.*1"),
        (lambda: hog(IMAGE[None, None], 8), r"\(H, W, C\).*1, 1, 60, 70"),
        (lambda: hog(IMAGE[None, None], 8, channels_first=True), r"\(C, H, W\).*1, 1, 60, 70"),
        (lambda: hog(IMAGE[:0], 8), "empty.*0, 70"),
        (lambda: dsift(IMAGE[:0]), "empty.*0, 70"),
        (lambda: phow(RGB[:0]), "empty.*0, 70"),
        (lambda: sift(IMAGE[:, :0]), "empty.*60, 0"),
        (lambda: lbp(IMAGE[:0], 8), "empty.*0, 70"),
        (lambda: dsift(RGB), "shape.*3"),
        (lambda: dsift(IMAGE, step=0), "step.*0"),
        (lambda: dsift(IMAGE, step=[1, 2, 3]), "step.*2 ints"),
        (lambda: dsift(IMAGE, size=[0, 2]), "size.*1"),
        (lambda: dsift(IMAGE, bounds=[0, 0, 60, 69]), "60 x 70"),
        (lambda: dsift(IMAGE, bounds=[-1, 0, 50, 50]), "bounds.*0"),
        (lambda: dsift(IMAGE, bounds=[0, 0, 50]), "bounds.*4"),
        (lambda: dsift(IMAGE, bounds=5), "bounds.*4"),
        (lambda: dsift(IMAGE, geometry=[4, 4]), "geometry.*3"),
        (lambda: dsift(IMAGE, geometry=[4, 0, 8]), "geometry.*1"),
        (lambda: dsift(IMAGE, window_size=0), "window_size.*0"),
        (lambda: phow(RGB[..., :2]), "shape.*2"),
        (lambda: phow(RGB, magnification=0), "magnification.*0"),
        (lambda: sift(RGB), "shape.*3"),
        (lambda: sift(IMAGE, frames=np.zeros((3, 3))), "frames.*3, 3"),
        (lambda: sift(IMAGE, frames=np.zeros((1, 4))), "scales"),
        (lambda: sift(IMAGE, frames=np.full((1, 4), np.nan)), "finite"),
        (lambda: sift(IMAGE, n_octaves=-1), "n_octaves.*-1"),
        (lambda: sift(IMAGE, n_levels=0), "n_levels.*0"),
        (lambda: sift(IMAGE, edge_thresh=0), "edge_thresh.*0"),
        (lambda: sift(IMAGE, peak_thresh=-1), "peak_thresh.*-1"),
        (lambda: sift(IMAGE, norm_thresh=-1), "norm_thresh.*-1"),
        (lambda: sift(IMAGE, window_size=0.5), "window_size.*0"),
        (lambda: sift(IMAGE, magnification=0.5), "magnification.*0"),
        (lambda: lbp(IMAGE, 0), "cell_size.*0"),
        (lambda: lbp(None, 8), "image.*None"),  # type: ignore[arg-type]
        (lambda: lbp(IMAGE, 61), "61 x 61.*60 x 70"),
    ],
)
def test_errors(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
