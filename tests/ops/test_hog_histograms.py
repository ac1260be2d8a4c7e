"""Compare the histograms that HOG normalizes with the definition in NumPy, and with HOG."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import preimage
import tolerances
from conftest import photographs
from preimage.compat.cyvlfeat.hog.histograms import cell_histograms, image_votes, normalized
from preimage.ops.hog import histograms

pytestmark = pytest.mark.instruction_set

PHOTOGRAPH = np.ascontiguousarray(photographs()["astronaut"][30:231, 20:190].transpose(2, 0, 1))  # (3, 201, 170) uint8


@pytest.mark.parametrize("size", [(5, 5), (5, 200), (16, 17), (27, 33), (63, 71), (201, 170)])
@pytest.mark.parametrize("cell_size", [1, 3, 8, 10])
@pytest.mark.parametrize("channels", [1, 3])
def test_definition(size: tuple[int, int], cell_size: int, channels: int) -> None:
    image = np.resize(PHOTOGRAPH, (channels, *size)).astype(np.float32)
    found = histograms(image, cell_size=cell_size, color="strongest")
    votes = image_votes(image, orientations=9, bilinear=False)
    expected = cell_histograms(votes, count=18, cell_size=cell_size, size=size)
    assert found.dtype == np.float32 and found.shape == expected.shape and found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.max())


def test_batches_and_memory_layouts() -> None:
    batch = np.stack([PHOTOGRAPH, PHOTOGRAPH[:, ::-1], PHOTOGRAPH[::-1]])
    whole = histograms(batch, cell_size=8, color="luma")
    assert whole.shape == (3, 18, 25, 21)
    for image, right in zip(batch, whole, strict=True):
        assert np.array_equal(histograms(image, cell_size=8, color="luma"), right)
        assert np.array_equal(histograms(np.asfortranarray(image), cell_size=8, color="luma"), right)
    assert histograms(batch[:0], cell_size=8, color="luma").shape == (0, 18, 25, 21)
    assert np.array_equal(histograms(batch[:, None], cell_size=8, color="luma"), whole[:, None])
    assert histograms(PHOTOGRAPH[0], cell_size=8, color="luma").shape == (18, 25, 21)


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("cell_size", [5, 8])
def test_hog_normalizes_them(cell_size: int, threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    features = normalized(histograms(PHOTOGRAPH, cell_size=cell_size, color="strongest"), "UoCTTI")
    right = preimage.hog(PHOTOGRAPH, cell_size=cell_size, color="strongest")
    assert np.abs(features - right).max() <= tolerances.HOG


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"cell_size": 0}, ValueError, "cell_size.*0"),
        ({"cell_size": (8, 8)}, TypeError, "cell_size.*8, 8"),
        ({"cell_size": 500}, ValueError, "250 x 250.*201 x 170"),
        ({"color": "first"}, ValueError, "color.*first"),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], match: str) -> None:
    given: dict[str, Any] = {"cell_size": 8, "color": "luma", **options}
    with pytest.raises(error, match=match):
        histograms(PHOTOGRAPH, **given)
