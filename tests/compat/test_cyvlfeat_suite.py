"""Run the cases of cyvlfeat's own tests, on photographs of scikit-image."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest
import skimage.data
import skimage.filters

from preimage.compat import cyvlfeat
from preimage.compat.cyvlfeat.hog import hog
from preimage.compat.cyvlfeat.misc import lbp
from preimage.compat.cyvlfeat.sift.dsift import dsift
from preimage.compat.cyvlfeat.sift.phow import phow
from preimage.compat.cyvlfeat.sift.sift import sift

RGB = skimage.data.astronaut()[60:221, 150:331].astype(np.float32)
GRAY = skimage.data.camera()[60:260, 120:330].astype(np.float32)


# ---- hog_test.py ----


@pytest.mark.parametrize("cell_size", [8, 15, 24, 32])
@pytest.mark.parametrize("orientations", [4, 6, 9, 15])
@pytest.mark.parametrize("variant", ["DalalTriggs", "UoCTTI"])
def test_hog_shapes(cell_size: int, orientations: int, variant: str) -> None:
    height, width = (int((side + cell_size / 2) // cell_size) for side in RGB.shape[:2])
    channels = 4 + 3 * orientations if variant == "UoCTTI" else 4 * orientations
    features, drawn = hog(RGB, cell_size=cell_size, n_orientations=orientations, variant=variant, visualize=True)
    assert features.dtype == np.float32 and features.shape == (height, width, channels)
    assert drawn.dtype == np.uint8 and drawn.shape == (21 * height, 21 * width)
    alone = hog(RGB, cell_size=cell_size, n_orientations=orientations, variant=variant)
    assert np.array_equal(alone, features)


@pytest.mark.parametrize("variant", ["DalalTriggs", "UoCTTI"])
def test_hog_channel_order(variant: str) -> None:
    first = hog(RGB.transpose(2, 0, 1), 32, variant=variant, channels_first=True, visualize=True)
    last = hog(RGB, 32, variant=variant, visualize=True)
    assert all(np.array_equal(one, other) for one, other in zip(first, last, strict=True))
    assert np.array_equal(hog(GRAY[..., None], 16), hog(GRAY, 16))


# ---- dsift_test.py ----


def smoothed(bin_size: int = 4, magnification: int = 3) -> np.ndarray:
    """Return the image smoothed as SIFT does at the scale of these bins."""
    return skimage.filters.gaussian(GRAY, sigma=((bin_size / magnification) ** 2 - 0.25) ** 0.5)


def test_dsift_slow_and_fast() -> None:
    options = {"size": 4, "step": 10, "window_size": 5, "float_descriptors": True}
    (_, slow), (_, fast) = dsift(smoothed(), **options), dsift(smoothed(), fast=True, **options)
    assert np.std(fast - slow) / np.std(slow) < 0.1


@pytest.mark.parametrize("window_size", [5, 7.5, 10, 12.5, 20])
def test_dsift_is_sift_of_frames(window_size: float) -> None:
    centers, dense = dsift(smoothed(), size=4, step=10, window_size=window_size, float_descriptors=True)
    columns = np.full(len(centers), 4 / 3), np.zeros(len(centers))
    _, sparse = sift(
        GRAY,
        magnification=3,
        frames=np.column_stack([centers, *columns]),
        first_octave=-1,
        n_levels=5,
        compute_descriptor=True,
        float_descriptors=True,
        window_size=window_size,
    )
    assert np.std(dense - sparse) / np.std(dense) < 0.1


def test_dsift_dtypes_steps_and_norms() -> None:
    assert dsift(GRAY, step=4)[1].dtype == np.uint8
    assert dsift(GRAY, step=4, float_descriptors=True)[1].dtype == np.float32
    frames, descriptors = dsift(GRAY, step=[3, 4])
    assert len(frames) == len(range(0, 200 - 9, 3)) * len(range(0, 210 - 9, 4)) == len(descriptors)
    assert frames[:3].tolist() == [[4.5, 4.5], [4.5, 8.5], [4.5, 12.5]]
    every, dense = dsift(GRAY, norm=True)
    assert every.shape == ((200 - 9) * (210 - 9), 3) and every[:3, 1].tolist() == [4.5, 5.5, 6.5]
    assert np.array_equal(dense.reshape(191, 201, 128)[::3, ::4].reshape(-1, 128), descriptors)


# ---- phow_test.py ----


@pytest.mark.parametrize("color", ["gray", "rgb", "hsv", "opponent"])
def test_phow(color: str) -> None:
    frames, descriptors = phow(RGB, color=color, step=4)
    assert descriptors.shape == (len(frames), 128 if color == "gray" else 384)
    assert descriptors.dtype == np.uint8 and frames.shape[1] == 4 and set(frames[:, 3]) == {4, 6, 8, 10}


# ---- sift_test.py ----


def test_sift_shapes() -> None:
    frames, descriptors = sift(GRAY, compute_descriptor=True)
    assert frames.shape[1] == 4 and descriptors.shape == (len(frames), 128) and descriptors.dtype == np.uint8
    assert np.array_equal(sift(GRAY), frames)


def test_sift_of_detected_frames() -> None:
    options = {"first_octave": -1, "compute_descriptor": True, "float_descriptors": True, "norm_thresh": 0}
    frames, descriptors = sift(GRAY, **options)
    again, same = sift(GRAY, frames=frames[::-1], **options)
    order = np.abs(again[:, None] - frames[None]).sum(axis=2).argmin(axis=1)
    assert np.abs(again - frames[order]).max() == 0
    # A keypoint's own octave and level need not be those nearest to its scale.
    apart = np.linalg.norm(descriptors[order] - same, axis=1).mean() / np.linalg.norm(descriptors, axis=1).mean()
    assert apart < 0.1


def test_sift_sorts_frames_by_scale_in_place() -> None:
    frames = np.array([[50, 120, 2.5, 5.07], [60, 42, 1.84, 2.63], [22.1, 73.5, 4, 1.56]], np.float32)
    given = frames.copy()
    found, descriptors = sift(GRAY, frames=given, compute_descriptor=True)
    assert np.array_equal(found, frames[[1, 0, 2]]) and np.array_equal(given, found)
    alone = [sift(GRAY, frames=frame[None].astype(float), compute_descriptor=True)[1][0] for frame in found]
    assert np.array_equal(descriptors, np.stack(alone))
    doubles = frames.astype(float)
    given.setflags(write=False)
    for array in (doubles, given):  # neither can be sorted in place
        before = array.copy()
        assert np.array_equal(sift(GRAY, frames=array), found) and np.array_equal(array, before)


def test_sift_force_orientations() -> None:
    frames = sift(GRAY, peak_thresh=3)[:20]
    turned, descriptors = sift(GRAY, frames=frames * [1, 1, 1, 0], force_orientations=True, compute_descriptor=True)
    assert len(turned) == len(descriptors) >= 15 and turned[:, 3].any()


# ---- lbp_test.py ----


def test_lbp() -> None:
    features = lbp(GRAY, cell_size=100)
    assert features.shape == (2, 2, 58) and features.dtype == np.float32
    assert np.allclose(np.square(features).sum(axis=2), 1)
    assert np.array_equal(lbp(GRAY[..., None], 100), features)


# ---- The interface ----

SIGNATURES = {
    hog: "image cell_size variant='UoCTTI' n_orientations=9 directed_polar_field=False undirected_polar_field=False "
    "bilinear_interpolation=False verbose=False visualize=False channels_first=False",
    dsift: "image step=1 size=3 bounds=None window_size=-1 norm=False fast=False float_descriptors=False "
    "geometry=(4,4,8) verbose=False",
    phow: "image verbose=False fast=True sizes=(4,6,8,10) step=2 color='gray' float_descriptors=False magnification=6 "
    "window_size=1.5 contrast_threshold=0.005",
    sift: "image n_octaves=None n_levels=3 first_octave=0 peak_thresh=0 edge_thresh=10 norm_thresh=None "
    "magnification=3 window_size=2 frames=None force_orientations=False float_descriptors=False "
    "compute_descriptor=False verbose=False",
    lbp: "image cell_size",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__name__)
def test_signatures(function: object) -> None:
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    written = [
        name.name if name.default is name.empty else f"{name.name}={name.default!r}".replace(" ", "")
        for name in parameters
    ]
    assert " ".join(written) == SIGNATURES[function]
    assert all(name.kind is name.POSITIONAL_OR_KEYWORD for name in parameters)


def test_without_torch() -> None:
    code = """
import sys
import numpy as np
import preimage.compat.cyvlfeat as cyvlfeat
image = np.random.default_rng(0).random((60, 70), np.float32)
cyvlfeat.hog.hog(image, 8, visualize=True), cyvlfeat.sift.dsift(image), cyvlfeat.misc.lbp(image, 10)
cyvlfeat.sift.phow(image), cyvlfeat.sift.sift(image, compute_descriptor=True)
assert not {"torch", "cv2", "scipy"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_what_else_cyvlfeat_has() -> None:
    assert cyvlfeat.__version__ == "0.7.1"
    with pytest.raises(AttributeError, match="no fisher: use cyvlfeat"):
        cyvlfeat.fisher  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'sfit'"):
        cyvlfeat.sfit  # noqa: B018


def test_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    for call in (
        lambda: hog(GRAY, 8, verbose=True),
        lambda: dsift(GRAY, step=9, verbose=True),
        lambda: sift(GRAY, verbose=True),
    ):
        call()
        assert "200 x 210 pixels" in capsys.readouterr().out
    phow(RGB, step=9, color="lab", verbose=True)
    assert "HSV" in capsys.readouterr().out
