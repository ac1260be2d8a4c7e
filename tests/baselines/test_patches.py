"""Test the reconstruction of images from the patches of a database."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from conftest import photographs
from preimage.baselines.patch_blending import Canvas, cut_patches
from preimage.baselines.patches import PatchDatabase
from preimage.errors import FileFormatError
from preimage.inspection import info
from preimage.io import write_png
from preimage.keypoints import Keypoints
from preimage.representations import create_representation
from preimage.representations.sift import Sift
from preimage.spec import Spec

SIZE = 96
ONE = 1.6  # scale at which the pixels of a patch of side 24 are as large as those of the image


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Return a photograph, (96, 96, 3) uint8."""
    return np.asarray(cv2.resize(photographs()["astronaut"][:400, 100:500], (SIZE, SIZE), interpolation=cv2.INTER_AREA))


@pytest.fixture(scope="module")
def own(photo: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> PatchDatabase:
    """Return the database of that photograph alone."""
    path = tmp_path_factory.mktemp("own") / "photo.png"
    write_png(path, photo)
    return PatchDatabase.build(path, size=SIZE)


@pytest.fixture(scope="module")
def many(photo_folder: Path) -> PatchDatabase:
    """Return a small database of 20 photographs."""
    return PatchDatabase.build(photo_folder, size=SIZE, side=8, most=400, seed=1)


def features_of(image: np.ndarray, sift: Sift | None = None) -> torch.Tensor:
    return (sift or Sift())(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None])


def distance(images: torch.Tensor, image: np.ndarray) -> float:
    return float((images[0].permute(1, 2, 0) - torch.from_numpy(image.copy()).float() / 255).norm())


def keypoints_at(*poses: tuple[float, float, float, float]) -> Keypoints:
    x, y, scale, angle = torch.tensor(poses, dtype=torch.float32).reshape(-1, 4).T.contiguous()
    descriptors = torch.zeros(len(x), 128)
    descriptors[:, 0] = 1
    return Keypoints(x, y, scale, angle, torch.zeros(len(x)), descriptors, torch.tensor([0, len(x)]))


def textured(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


# ---- Geometry ----


@pytest.mark.parametrize("quarter", range(4))
def test_a_patch_is_rotated_so_that_its_columns_run_along_the_angle(quarter: int) -> None:
    image = textured(60)
    pose = [np.array([value]) for value in (10 + 11.5, 20 + 11.5, ONE, quarter * math.pi / 2)]
    (patch,) = cut_patches(image, *pose, side=24)
    np.testing.assert_array_equal(patch, np.rot90(image[20:44, 10:34], quarter))


def test_patches_of_large_keypoints_are_averages() -> None:
    image = textured(96)
    (patch,) = cut_patches(image, *(np.array([value]) for value in (47.5, 47.5, 4 * ONE, 0.0)), side=24)
    blocks = image.reshape(24, 4, 24, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(patch, blocks, atol=1.5)  # rounded twice


def test_outside_the_photograph_its_border_is_repeated() -> None:
    image = textured(30)
    (patch,) = cut_patches(image, *(np.array([value]) for value in (-0.5, 15.5, ONE, 0.0)), side=24)
    np.testing.assert_array_equal(patch[:, :12], np.broadcast_to(image[4:28, :1], (24, 12, 3)))


@pytest.mark.parametrize("angle", [0.0, 1.0, math.pi / 2, 4.0])
def test_a_patch_pasted_where_it_was_cut_is_the_image(angle: float) -> None:
    image = cv2.GaussianBlur(textured(64), (0, 0), 3)
    x, y, scale = 30.3, 33.8, 2.0
    (patch,) = cut_patches(image, *(np.array([value]) for value in (x, y, scale, angle)), side=32)
    canvas = Canvas((64, 64))
    canvas.paste(patch, x, y, scale, angle)
    rows, columns = np.mgrid[:64, :64]
    disc = (rows - y) ** 2 + (columns - x) ** 2 <= (6 * scale) ** 2
    np.testing.assert_array_equal(canvas.covered, disc)
    # A shift by one pixel would differ by about 8 on average.
    assert np.abs(canvas.finished()[disc].astype(int) - image[disc]).mean() < 1.5


def test_poses_far_outside_and_huge_ones_are_no_error() -> None:
    canvas = Canvas((20, 30))
    patch = np.full((8, 8, 3), 77, np.uint8)
    for pose in ((-500.0, 5.0, 2.0, 0.0), (5.0, 900.0, 2.0, 1.0), (15.0, 35.0, 0.8, 0.0)):
        canvas.paste(patch, *pose)
    assert not canvas.covered.any()
    with pytest.raises(ValueError, match="no patch"):
        canvas.finished()
    canvas.paste(patch, 1e4, 10.0, 1e6, 2.0)
    assert canvas.covered.all()
    assert (canvas.finished() == 77).all()


# ---- Stitching ----


def test_a_patch_takes_the_color_of_what_it_overlaps_with() -> None:
    canvas = Canvas((64, 64))
    canvas.paste(np.full((8, 8, 3), (100, 50, 200), np.uint8), 24.0, 32.0, 3.0, 0.0)
    canvas.paste(np.full((8, 8, 3), (160, 60, 90), np.uint8), 40.0, 32.0, 3.0, 0.0)
    assert canvas.covered[32, 54]  # by the second patch alone
    np.testing.assert_allclose(canvas.finished(), np.broadcast_to((100, 50, 200), (64, 64, 3)), atol=1)


def test_details_of_later_patches_are_on_top() -> None:
    canvas = Canvas((64, 64))
    canvas.paste(np.full((8, 8, 3), 120, np.uint8), 32.0, 32.0, 5.0, 0.0)
    striped = np.full((24, 24, 3), 30, np.uint8)
    striped[:, 10:14] = 90
    canvas.paste(striped, 31.5, 31.5, ONE, 0.0)
    image = canvas.finished().astype(int)
    assert (image[30:34, 30:34] - image[30:34, 26:28].mean()).mean() == pytest.approx(60, abs=6)
    np.testing.assert_allclose(image[32, 14:20], 120, atol=8)  # around it the first patch remains


def test_patches_without_overlap_keep_their_colors_and_the_rest_is_smooth() -> None:
    canvas = Canvas((40, 120))
    for value, x in ((50, 20.0), (200, 100.0)):
        canvas.paste(np.full((8, 8, 3), value, np.uint8), x, 20.0, 3.0, 0.0)
    image = canvas.finished()
    assert (image[20, 20], image[20, 100]) == (pytest.approx([50] * 3), pytest.approx([200] * 3))
    between = image[20, 38:83, 0].astype(int)
    assert (np.diff(between) >= 0).all() and np.diff(between).max() < 10
    np.testing.assert_allclose(image[20, 60], 125, atol=3)


# ---- The database ----


def test_a_database_of_the_image_itself_reproduces_it(own: PatchDatabase, photo: np.ndarray) -> None:
    again = own.invert(features_of(photo), own.spec)
    assert again.shape == (1, 3, SIZE, SIZE)
    assert again.dtype == torch.float32
    assert again.min() >= 0
    assert again.max() <= 1
    flat = torch.from_numpy(photo.mean(axis=(0, 1)) / 255).float().view(1, 3, 1, 1).expand(1, 3, SIZE, SIZE)
    assert distance(again, photo) < 0.5 * distance(flat, photo)


@pytest.mark.parametrize("quarter", [1, 2])
def test_patches_turn_with_the_keypoints(own: PatchDatabase, photo: np.ndarray, quarter: int) -> None:
    turned = np.rot90(photo, quarter)
    again = own.invert(features_of(turned), own.spec)
    assert distance(again, turned) < 0.75 * distance(again, photo)


def test_the_nearest_descriptor(many: PatchDatabase) -> None:
    units = many.descriptors.double() / 512
    queries = torch.cat((units[[5, 17]], torch.rand(4, 128, generator=torch.Generator().manual_seed(0)) / 8)).float()
    rounded = (queries * 512).round().double() / 512
    distances = (rounded[:, None] - units).norm(dim=2)
    index = many.nearest(queries)
    torch.testing.assert_close(distances.gather(1, index[:, None])[:, 0], distances.min(dim=1).values)
    assert torch.equal(many.descriptors[index[:2]], many.descriptors[[5, 17]])


def test_cells_of_another_size_and_longer_descriptors(own: PatchDatabase, photo: np.ndarray) -> None:
    same, other = Sift(cell_size=1), Sift(cell_size=1, descriptor_scale=8.0)
    images = [own.invert(features_of(photo, sift), sift.spec) for sift in (same, other)]
    assert torch.equal(*images)


def test_keypoints_and_their_grid_have_the_same_image(own: PatchDatabase, photo: np.ndarray) -> None:
    sift = Sift()
    features = features_of(photo)
    keypoints = Keypoints.from_grid(features, sift.cell_size)
    assert torch.equal(own.reconstruct(keypoints, (SIZE, SIZE)), own.invert(features, sift.spec))


def test_a_sample_is_reproducible_and_nested(photo_folder: Path) -> None:
    def rows(most: int, seed: int = 0) -> set[bytes]:
        database = PatchDatabase.build(photo_folder, size=64, side=4, most=most, seed=seed)
        assert len(database) == most
        return {
            descriptor.tobytes() + patch.tobytes()
            for descriptor, patch in zip(database.descriptors.numpy(), database.patches.numpy(), strict=True)
        }

    few = rows(20)
    assert few == rows(20)
    assert few <= rows(90)
    assert few != rows(20, seed=1)


def test_more_rows_than_keypoints_keep_all(photo_folder: Path) -> None:
    sizes = [len(PatchDatabase.build(photo_folder, size=64, side=4, most=most)) for most in (10**6, 10**9)]
    assert sizes[0] == sizes[1] > 90


def test_inverting_is_deterministic_and_does_not_depend_on_the_batch(many: PatchDatabase, photo: np.ndarray) -> None:
    features = torch.cat((features_of(photo), features_of(photo[::-1])))
    done: list[tuple[int, int]] = []
    both = many.invert(features, many.spec, progress=lambda *counts: done.append(counts))
    assert done == [(1, 2), (2, 2)]
    assert torch.equal(both[1:], many.invert(features[1:].double(), many.spec))


def test_an_image_without_keypoints_has_the_mean_color(many: PatchDatabase) -> None:
    images = many.invert(torch.zeros(2, 133, 6, 8), many.spec, size=(21, 32))
    assert images.shape == (2, 3, 21, 32)
    np.testing.assert_allclose(images[1, :, 20, 31], many.mean_color, atol=0.5 / 255 + 1e-6)
    outside = many.reconstruct(keypoints_at((-300, 0, 2, 0)), (21, 32))
    assert torch.equal(outside, images[:1])


def test_saving_and_loading(many: PatchDatabase, photo: np.ndarray, tmp_path: Path) -> None:
    path = many.save(tmp_path / "patches.safetensors")
    again = PatchDatabase.load(path, device="cpu")
    assert (again.spec, again.photographs, len(again)) == (many.spec, 20, 400)
    features = features_of(photo)
    assert torch.equal(again.invert(features, again.spec), many.invert(features, many.spec))
    assert [file.name for file in tmp_path.iterdir()] == ["patches.safetensors"]


def test_info_describes_the_file(many: PatchDatabase, tmp_path: Path) -> None:
    facts = info(many.save(tmp_path / "patches.safetensors"))
    assert (facts["kind"], facts["spec"]) == ("database of patches", many.spec)
    assert (facts["patches"], facts["patch_size"], facts["photographs"]) == (400, 8, 20)


def test_files_that_cannot_be_read(many: PatchDatabase, tmp_path: Path) -> None:
    data = many.save(tmp_path / "patches.safetensors").read_bytes()
    for name, damaged in {
        "short": data[:-9],
        "text": b"photographs",
        "format": data.replace(b"preimage-patches", b"preimage-nothing"),
        "version": data.replace(b'"format_version":"2"', b'"format_version":"9"'),
        "spec": data.replace(b'representation\\": \\"sift', b'representation\\": \\"sofa'),
    }.items():
        path = tmp_path / name
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=name):
            PatchDatabase.load(path)


# ---- Errors ----


def broken(value: float) -> torch.Tensor:
    features = torch.zeros(3, 133, 4, 4)
    features[1, 5, 2, 2] = value
    return features


@pytest.mark.parametrize(
    ("features", "spec", "size", "error", "message"),
    [
        (broken(math.nan), Sift().spec, None, ValueError, "finite.*image 1"),
        (broken(math.inf), Sift().spec, None, ValueError, "finite.*image 1"),
        (broken(0).long(), Sift().spec, None, TypeError, "floating.*int64"),
        (torch.zeros(1, 128, 4, 4), Sift().spec, None, ValueError, r"133.*\(1, 128, 4, 4\)"),
        (torch.zeros(1, 31, 4, 4), create_representation("hog").spec, None, ValueError, "hog"),
        (broken(0), Sift(variant="opencv").spec, None, ValueError, "variant.*vlfeat.*opencv"),
        (broken(0), Sift().spec, (16, 17), ValueError, "16×16.*16×17"),
        (broken(0), Sift().spec, (12, 16), ValueError, "16×16.*12×16"),
    ],
)
def test_wrong_features(
    many: PatchDatabase,
    features: torch.Tensor,
    spec: Spec,
    size: tuple[int, int] | None,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        many.invert(features, spec, size=size)


@pytest.mark.parametrize(("field", "value"), [("x", math.nan), ("scale", math.inf), ("scale", 0.0), ("scale", -1.0)])
def test_wrong_keypoints(many: PatchDatabase, field: str, value: float) -> None:
    keypoints = dataclasses.replace(keypoints_at((5, 5, 2, 0)), **{field: torch.tensor([value])})
    with pytest.raises(ValueError, match=field):
        many.reconstruct(keypoints, (16, 16))


@pytest.mark.parametrize(
    ("options", "message"), [({"most": 0}, "most.*0"), ({"side": 3}, "side.*3"), ({"size": 0}, "size.*0")]
)
def test_wrong_options(photo_folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchDatabase.build(photo_folder, **options)


def test_photographs_without_keypoints(tmp_path: Path) -> None:
    write_png(tmp_path / "flat.png", np.full((64, 64, 3), 90, np.uint8))
    with pytest.raises(ValueError, match=r"no keypoint.*1 photograph"):
        PatchDatabase.build(tmp_path, size=64)


def test_tensors_that_do_not_fit(many: PatchDatabase) -> None:
    with pytest.raises(ValueError, match=r"descriptors.*128.*float32"):
        PatchDatabase(many.spec, many.descriptors.float(), many.patches, many.mean_color, 1)
    with pytest.raises(ValueError, match=r"patches.*400"):
        PatchDatabase(many.spec, many.descriptors, many.patches[1:], many.mean_color, 1)
