"""Compare `preimage.compat.cyvlfeat` with the real VLFeat called as cyvlfeat does, stored and live."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import skimage.data

import paths
import tolerances
import vlfeat
from golden.make_cyvlfeat import CASES, arguments, results
from preimage.compat import cyvlfeat

pytestmark = pytest.mark.instruction_set

GOLDEN = dict(np.load(paths.GOLDEN / "cyvlfeat.npz"))
FUNCTIONS = {
    "hog": cyvlfeat.hog.hog,
    "dsift": cyvlfeat.sift.dsift,
    "phow": cyvlfeat.sift.phow,
    "sift": cyvlfeat.sift.sift,
}
needs_vlfeat = pytest.mark.skipif(vlfeat.library() is None, reason="libvl.so.1 (package libvlfeat1) is not installed")


def check(function: str, options: dict[str, Any], ours: list[np.ndarray], right: list[np.ndarray]) -> None:
    """Check that shapes, dtypes and values are those of cyvlfeat, and that arrays are contiguous."""
    assert [found.shape for found in ours] == [expected.shape for expected in right]
    assert [found.dtype for found in ours] == [expected.dtype for expected in right]
    assert all(found.flags.c_contiguous for found in ours)
    if function == "hog":
        assert np.abs(ours[0] - right[0]).max() <= tolerances.HOG
        for drawn, expected in zip(ours[1:], right[1:], strict=True):
            assert np.abs(drawn.astype(int) - expected).max() <= 1  # a value at the border of two integers
        return
    if function == "sift":
        assert np.abs(ours[0] - right[0]).max() <= tolerances.SIFT_ANGLE
    else:
        assert np.array_equal(ours[0][:, :2], right[0][:, :2])
        norms = 1 if function == "dsift" else 1 / 255
        assert np.abs(ours[0] - right[0]).max() <= norms * tolerances.CYVLFEAT_NORMS
    fast = function != "sift" and options.get("fast", function == "phow")
    for found, expected in zip(ours[1:], right[1:], strict=True):
        if found.dtype == np.uint8:
            difference = np.abs(found.astype(int) - expected)
            assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
        else:
            apart = tolerances.CYVLFEAT["fast" if fast else "sift" if function == "sift" else "dsift"]
            assert np.abs(found - expected).max() <= apart


@pytest.mark.parametrize("name", CASES)
def test_stored_values(name: str) -> None:
    function, pixels, options = arguments(name, GOLDEN["image"])
    ours = results(FUNCTIONS[function](pixels, **options))
    check(function, options, ours, [GOLDEN[f"{name}.{index}"] for index in range(len(ours))])


@needs_vlfeat
@pytest.mark.parametrize("name", CASES)
def test_live_values(name: str) -> None:
    import real_cyvlfeat  # noqa: PLC0415 - needs SciPy

    function, pixels, options = arguments(name, skimage.data.coffee()[100:261, 201:402])
    right = results(getattr(real_cyvlfeat, function)(pixels, **options))
    check(function, options, results(FUNCTIONS[function](pixels, **options)), right)


@needs_vlfeat
@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("variant", ["UoCTTI", "DalalTriggs"])
def test_live_hog_of_other_channels(variant: str, channels: int) -> None:
    import real_cyvlfeat  # noqa: PLC0415

    image = np.random.default_rng(0).uniform(0, 9, (40, 47, channels)).astype(np.float32)
    right = real_cyvlfeat.hog(image, 6, variant)
    assert np.abs(cyvlfeat.hog.hog(image, 6, variant) - right).max() <= tolerances.HOG


@needs_vlfeat
@pytest.mark.parametrize("variant", ["UoCTTI", "DalalTriggs"])
@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("kind", ["directed", "undirected"])
def test_live_polar_fields(kind: str, bilinear: bool, variant: str) -> None:
    import real_cyvlfeat  # noqa: PLC0415

    generator = np.random.default_rng(0)
    field = np.stack([generator.uniform(-1, 5, (40, 47)), generator.uniform(-4, 9, (40, 47))], axis=2)
    options = {f"{kind}_polar_field": True, "bilinear_interpolation": bilinear, "n_orientations": 6}
    field = field.astype(np.float32)
    right = real_cyvlfeat.hog(field, 7, variant, **options)
    assert np.abs(cyvlfeat.hog.hog(field, 7, variant, **options) - right).max() <= tolerances.HOG


@needs_vlfeat
@pytest.mark.parametrize(("cell_size", "shape"), [(16, (100, 133)), (10, (45, 31)), (20, (39, 40))])
def test_live_lbp(cell_size: int, shape: tuple[int, int]) -> None:
    image = skimage.data.camera()[: shape[0], : shape[1]].astype(np.float32)
    features = cyvlfeat.misc.lbp(image, cell_size)
    right = vlfeat.lbp(image, cell_size).transpose(1, 2, 0)
    assert features.shape == (shape[0] // cell_size, shape[1] // cell_size, 58) and features.flags.c_contiguous
    assert np.abs(features - right).max() <= tolerances.LBP
