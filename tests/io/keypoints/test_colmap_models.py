"""Test the colors that keypoints get from COLMAP models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from colmap_models import write_model
from keypoint_files import GOLDEN, colmap_arrays, color_pictures, hloc_arrays, hloc_file, vlfeat_file
from preimage.errors import FileFormatError
from preimage.io import KeypointRecord, read_keypoints, write_keypoints
from preimage.io.keypoints.colmap_points import read_points
from preimage.ops.sift_colors import sample_colors

DATABASE = GOLDEN / "colmap_l1_root.db"
KEYS = ("face.png", "sub/coffee.png")
POINTS = {7: (255, 0, 51), 3: (10, 20, 30), 2**40: (0, 255, 255), 12: (1, 2, 3)}  # not in order


def model_images(**changes: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the images of a model of the golden database: every second keypoint is part of a point."""
    images = {}
    for key in KEYS:
        positions = colmap_arrays(DATABASE.name, key)[0][:, :2].astype(np.float64)
        ids = np.resize([7, -1, 2**40, -1, 3, -1], len(positions))
        images[key] = positions, ids
    return images | changes


@pytest.fixture(params=[False, True], ids=["binary", "text"])
def text(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_each_keypoint_has_the_color_of_its_point(tmp_path: Path, text: bool) -> None:
    model = write_model(tmp_path / "0", model_images(), POINTS, text=text)
    plain, file = read_keypoints(DATABASE), read_keypoints(DATABASE, model=model)
    assert list(file) == list(plain) and file.counts == plain.counts and file.sizes == plain.sizes
    for key in KEYS:
        keypoints = file[key]
        assert torch.equal(keypoints.descriptors, plain[key].descriptors) and torch.equal(keypoints.x, plain[key].x)
        expected = torch.tensor([POINTS[7], [0, 0, 0], POINTS[2**40], [0, 0, 0], POINTS[3], [0, 0, 0]]) / 255
        expected[1::2] = torch.nan
        count = len(keypoints.x)
        expected = expected.repeat(count // 6 + 1, 1)[:count]
        torch.testing.assert_close(keypoints.colors, expected, rtol=0, atol=1e-7, equal_nan=True)
        assert plain[key].colors is None


def test_colors_that_colmap_extracted(tmp_path: Path, text: bool) -> None:
    """COLMAP rounds the mean color of a point's observations, here of one, to integers."""
    suffix = ".txt" if text else ".bin"
    for name in ("images", "points3D"):
        shutil.copy(GOLDEN / "colmap_model" / f"{name}{suffix}", tmp_path)
    file = read_keypoints(DATABASE, model=tmp_path)
    for key, picture in color_pictures().items():
        keypoints = file[key].to_numpy()
        expected = sample_colors(picture.transpose(2, 0, 1)[None], keypoints)
        assert np.isnan(keypoints.colors[::2]).all()
        assert np.abs(keypoints.colors - expected)[1::2].max() <= 0.501 / 255


def test_images_outside_the_model_have_no_colors(tmp_path: Path, text: bool) -> None:
    images = model_images()
    del images["sub/coffee.png"]
    file = read_keypoints(DATABASE, model=write_model(tmp_path, images, POINTS, text=text))
    assert not file["face.png"].colors.isnan().all()
    assert file["sub/coffee.png"].colors.isnan().all()
    assert "not part of the model" in file.notes["sub/coffee.png"]["model"]
    assert "model" not in file.notes["face.png"]
    assert len(file["flat.png"].x) == 0  # has no keypoints


def test_a_model_without_observations(tmp_path: Path, text: bool) -> None:
    nothing = np.zeros((0, 2)), np.zeros(0, np.int64)
    images = {"other name.png": nothing} | model_images(**{"flat.png": nothing})
    file = read_keypoints(DATABASE, model=write_model(tmp_path, images, POINTS, text=text))
    assert len(file["flat.png"].x) == 0
    assert not file["face.png"].colors.isnan().all()


def test_both_formats_and_the_binary_one_first(tmp_path: Path) -> None:
    write_model(tmp_path, model_images(), POINTS, text=True)
    write_model(tmp_path, model_images(), POINTS | {7: (9, 9, 9)})
    assert (read_keypoints(DATABASE, model=tmp_path)["face.png"].colors[0] * 255).tolist() == [9, 9, 9]


def test_hloc(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    path = hloc_file(tmp_path / "f.h5", {"face.png": hloc_arrays(DATABASE.name, rootsift=True)})
    model = write_model(tmp_path / "sparse", model_images(), POINTS)
    expected = read_keypoints(DATABASE, model=model)["face.png"].colors
    found = read_keypoints(path, model=model)["face.png"].colors
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "sparse", model_images(), POINTS)
    path = vlfeat_file(tmp_path / "f.sift", np.array([[3.0, 4, 2, 1]]), np.full((1, 128), 128**-0.5))
    with pytest.raises(ValueError, match=r"colmap and hloc.*vlfeat"):
        read_keypoints(path, model=model)


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        read_keypoints(DATABASE, model=tmp_path / "missing")
    write_model(tmp_path / "sparse" / "0", model_images(), POINTS)
    with pytest.raises(ValueError, match=r"images\.bin and points3D\.bin.*sparse.0 is one"):
        read_keypoints(DATABASE, model=tmp_path / "sparse")
    other = write_model(tmp_path / "other", {"a.jpg": (np.ones((1, 2)), np.array([7]))}, POINTS)
    with pytest.raises(ValueError, match=r"none of the images.*1 images are 'a\.jpg'"):
        read_keypoints(DATABASE, model=other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda positions, ids: (positions[:-1], ids[:-1]), r"'face\.png'.*points2D.*keypoints"),
        (lambda positions, ids: (positions + 5, ids), r"7\.07 pixels.*undistorted"),
        (lambda positions, ids: (positions * np.nan, ids), "nan pixels"),
        (lambda positions, ids: (positions, np.where(ids == 7, 8, ids)), "no 3D point 8"),
    ],
)
def test_models_of_other_keypoints(tmp_path: Path, change: Callable[..., Any], words: str) -> None:
    images = model_images(**{"face.png": change(*model_images()["face.png"])})
    file = read_keypoints(DATABASE, model=write_model(tmp_path, images, POINTS))
    with pytest.raises(FileFormatError, match=rf"images\.bin.*{words}"):
        file["face.png"]
    assert file["sub/coffee.png"].colors is not None


def test_models_without_extracted_colors(tmp_path: Path, text: bool) -> None:
    model = write_model(tmp_path, model_images(), dict.fromkeys(POINTS, (0, 0, 0)), text=text)
    with pytest.raises(FileFormatError, match=r"points3D.*no colors.*4 points"):
        read_keypoints(DATABASE, model=model)


def test_points_are_sorted(tmp_path: Path, text: bool) -> None:
    write_model(tmp_path, {}, POINTS, text=text)
    points = read_points(tmp_path / ("points3D.txt" if text else "points3D.bin"))
    assert points.ids.tolist() == sorted(POINTS)
    assert [tuple(color) for color in points.colors.tolist()] == [POINTS[point] for point in sorted(POINTS)]
    empty = write_model(tmp_path / "empty", {}, {}, text=text)
    assert len(read_points(empty / ("points3D.txt" if text else "points3D.bin"))) == 0


def test_colors_are_kept_in_archives(tmp_path: Path) -> None:
    file = read_keypoints(DATABASE, model=write_model(tmp_path / "0", model_images(), POINTS))
    write_keypoints(tmp_path / "f.npz", file.records())
    again = read_keypoints(tmp_path / "f.npz")
    for key in KEYS:
        torch.testing.assert_close(again[key].colors, file[key].colors, rtol=0, atol=0, equal_nan=True)
    one = KeypointRecord("a", read_keypoints(DATABASE)["face.png"], (128, 160))
    write_keypoints(tmp_path / "plain.npz", [one])
    assert read_keypoints(tmp_path / "plain.npz")["a"].colors is None


def test_colors_in_archives_of_other_programs(tmp_path: Path) -> None:
    arrays = {"keypoints": np.array([[3.0, 4, 2, 1], [5.0, 6, 3, 1]]), "descriptors": np.ones((2, 128))}
    np.savez(tmp_path / "f.npz", **arrays, colors=np.array([[0, 51, 255], [1, 2, 3]], np.uint8))
    assert read_keypoints(tmp_path / "f.npz")["f"].colors[0].tolist() == pytest.approx([0, 0.2, 1])
    for colors, words in (
        (np.zeros((2, 4)), r"colors.*\(2, 3\).*\(2, 4\)"),
        (np.full((2, 3), 1.5), r"colors.*\[0, 1\]"),
        (np.full((2, 3), -np.inf), r"colors.*\[0, 1\]"),
    ):
        np.savez(tmp_path / "f.npz", **arrays, colors=colors)
        with pytest.raises(FileFormatError, match=words):
            read_keypoints(tmp_path / "f.npz")["f"]
