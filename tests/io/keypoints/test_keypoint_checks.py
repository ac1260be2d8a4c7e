"""Test units and positions of keypoints: impossible values are rejected, suspicious ones noted."""

import re

import numpy as np
import pytest
import torch

from keypoint_files import colmap_arrays, colmap_database
from preimage.errors import FileFormatError
from preimage.io import read_keypoints
from preimage.io.keypoints.checks import examine
from preimage.io.keypoints.convert import as_keypoints
from preimage.keypoints import Keypoints

COUNT = 80
SIZE = (300, 400)  # height, width
random = np.random.default_rng(3)
FRAMES = np.column_stack(
    [
        random.uniform(5, 395, COUNT),
        random.uniform(5, 295, COUNT),
        random.uniform(1, 4, COUNT),
        random.uniform(0, 6, COUNT),
    ]
)
# As sparse as SIFT, so that the sums of unit descriptors are those of photographs.
DESCRIPTORS = random.exponential(1, (COUNT, 128)) ** 1.4


def read(frames=FRAMES, descriptors=DESCRIPTORS, **options):
    options = {"lowe_order": False, "normalization": "l2"} | options
    return as_keypoints(np.array(frames), np.array(descriptors), **options)


def test_correct_keypoints_get_no_note():
    assert examine(read(), SIZE) == {}
    assert examine(read(FRAMES * [1, 1, 1, 57.3], degrees=True), SIZE) == {}
    assert examine(read(descriptors=DESCRIPTORS / DESCRIPTORS.max()), SIZE) == {}
    assert examine(read(descriptors=np.minimum(DESCRIPTORS * 20, 255).astype(np.uint8)), SIZE) == {}
    assert examine(read(FRAMES[:0], DESCRIPTORS[:0]), SIZE) == {}
    upright = read(FRAMES * [1, 1, 1, 0], degrees=True)
    assert examine(upright, SIZE) == {}


@pytest.mark.parametrize(
    ("factors", "degrees", "words"),
    [
        ([1 / 400, 1 / 300, 1, 1], False, r"positions.*pixels.*80.*0.*0"),
        ([1, 1, 1 / 400, 1], False, r"scales.*pixels.*0\.0"),
        ([1, 1, -1, 1], False, "scales.*-"),
        ([1, 1, 1, 57.3], False, r"angle.*radians.*34.*degrees"),
        ([1, 1, 1, 1], True, r"angles.*degrees.*5\.9.*radians"),
        ([1, 1, 1, 1000], True, r"angle.*degrees.*59"),
    ],
)
def test_other_units_are_rejected(factors, degrees, words):
    with pytest.raises(ValueError, match=words):
        read(FRAMES * factors, degrees=degrees)


@pytest.mark.parametrize(
    ("descriptors", "words"),
    [
        (DESCRIPTORS * 0, r"80 descriptors.*zero"),
        (DESCRIPTORS - 1, r"negative.*-1"),
        (np.where(DESCRIPTORS > 3, np.nan, DESCRIPTORS), "finite"),
        (np.where(DESCRIPTORS > 3, np.inf, DESCRIPTORS), "finite"),
        (DESCRIPTORS[:, :64], r"descriptors.*\(80, 64\)"),
    ],
)
def test_descriptors_other_than_sift_are_rejected(descriptors, words):
    with pytest.raises(ValueError, match=words):
        read(descriptors=descriptors)


def test_keypoints_outside_of_the_image():
    height, width = SIZE
    with pytest.raises(ValueError, match=r"\d+ of 80 keypoints.*300×400.*exchanged"):
        examine(read(), (width, height))
    with pytest.raises(ValueError, match=r"7\d of 80 .*100×100 .*\(\d+, \d+\).*\(3\d\d, 29\d\)"):
        examine(read(), (100, 100))
    some = FRAMES.copy()
    some[:2, 0] = 401
    assert re.search("2 of 80 keypoints.*400×300", examine(read(some), SIZE)["outside"])
    with pytest.raises(ValueError, match="1 of 1 keypoints"):
        examine(read(some[:1], DESCRIPTORS[:1]), SIZE)
    with pytest.raises(ValueError, match=r"scales.*80 of 80"):
        examine(read(FRAMES * [1, 1, 300, 1]), SIZE)


def test_suspicious_keypoints_get_a_note():
    def kinds(*arguments, size=SIZE, **options):
        return list(examine(read(*arguments, **options), size))

    assert kinds(size=(600, 800)) == ["reach"]
    assert kinds(FRAMES / [1, 1, 4, 1]) == ["scale"]
    assert kinds(descriptors=DESCRIPTORS**0.5) == ["root"]
    assert kinds(descriptors=DESCRIPTORS**0.5, normalization="l1_root") == []
    assert kinds(normalization="l1_root") == ["square"]
    assert kinds(descriptors=DESCRIPTORS * (np.arange(COUNT) > 9)[:, None]) == ["zero"]


def test_both_normalizations_of_colmap_are_distinguished():
    """The databases were written by COLMAP; only images with enough keypoints are examined."""
    for name, wrong, kind in (("colmap_l2.db", "l1_root", "square"), ("colmap_l1_root.db", "l2", "root")):
        affine, descriptors = colmap_arrays(name)
        frames = np.column_stack([affine[:, :2], affine[:, 2], np.zeros(len(affine))])
        frames[:, 2] = 2
        found = {
            normalization: examine(
                as_keypoints(frames, descriptors, lowe_order=True, normalization=normalization), (128, 160)
            )
            for normalization in ("l2", "l1_root")
        }
        assert list(found.pop(wrong)) == [kind]
        assert list(found.values()) == [{}]


def test_affine_shapes_are_noted(tmp_path):
    similar = np.array([[20, 20, 2, -1, 1, 2], [9, 9, 3, 0, 0, 3]], np.float32)
    sheared = np.array([[20, 20, 2, -1, 0, 2], [9, 9, 3, 0, 0, 3]], np.float32)
    descriptors = np.ones((2, 128), np.uint8)
    file = read_keypoints(
        colmap_database(tmp_path / "a.db", {"a": (similar, descriptors), "b": (sheared, descriptors)})
    )
    assert isinstance(file[0], Keypoints)
    assert file.notes == {}
    assert torch.allclose(file["b"].scale[0], torch.tensor((2 + 5**0.5) / 2))
    assert re.search("1 of 2 keypoints.*affine", file.sized((30, 40)).notes["b"]["affine"])


def test_units_in_files_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", keypoints=FRAMES / [400, 300, 1, 1], descriptors=DESCRIPTORS)
    with pytest.raises(FileFormatError, match=r"a\.npz: 'a'.*positions.*pixels.*80 positions"):
        read_keypoints(tmp_path / "a.npz")[0]
