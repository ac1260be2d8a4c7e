"""Test perturbations of keypoints: the intended fields change, and no others."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from preimage import Keypoints, sift_grid
from preimage.studies.keypoint_perturbations import coordinates_only, descriptors_only, keep_percentage, positions_only

SIZE = (61, 90)  # cells of 4 stick out at both ends
COUNTS = (40, 0, 1, 57)
FIELDS = ("x", "y", "scale", "angle", "response", "descriptors")


@pytest.fixture
def keypoints() -> Keypoints:
    """Return keypoints of four images, some of them outside, some on the edge of a cell or of the image."""
    random = torch.Generator().manual_seed(3)
    count = sum(COUNTS)
    height, width = SIZE
    x, y = (torch.rand(count, generator=random) * (side + 6) - 3 for side in (width, height))
    x[:6] = torch.tensor([-0.5, width - 0.5, width - 0.6, 3.5, 7.4999, 88.0])
    y[:6] = torch.tensor([-0.5, 10.0, height - 0.6, 3.5, 7.5, height - 0.5])
    return Keypoints(
        x=x,
        y=y,
        scale=torch.rand(count, generator=random) * 5 + 0.5,
        angle=torch.rand(count, generator=random) * 6,
        response=torch.rand(count, generator=random),
        descriptors=torch.nn.functional.normalize(torch.rand(count, 128, generator=random), dim=1),
        offsets=torch.tensor([0, *COUNTS]).cumsum(0),
    )


def _rows(keypoints: Keypoints, image: int) -> set[tuple[float, ...]]:
    one = keypoints[image]
    return set(map(tuple, torch.stack([one.x, one.y, one.scale, one.angle, one.response], dim=1).tolist()))


def _same(a: Keypoints, b: Keypoints, *names: str) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in (*names, "offsets"))


def test_percentages_are_of_every_image_and_nested(keypoints: Keypoints) -> None:
    expected = {5: [2, 0, 1, 3], 10: [4, 0, 1, 6], 50: [20, 0, 1, 29], 99.9: [40, 0, 1, 57], 100: list(COUNTS)}
    before: Keypoints | None = None
    for percentage, counts in expected.items():
        kept = keep_percentage(keypoints, percentage, seed=4)
        assert kept.offsets.diff().tolist() == counts
        for image in range(len(COUNTS)):
            assert _rows(kept, image) <= _rows(keypoints, image)
            assert before is None or _rows(before, image) <= _rows(kept, image)
        before = kept
    assert before is not None
    assert _same(before, keypoints, *FIELDS)


def test_a_draw_depends_on_seed_and_image_alone(keypoints: Keypoints) -> None:
    full = keep_percentage(keypoints, 30, seed=1)
    parts = [keep_percentage(keypoints[image], 30, seed=1, first=image) for image in range(len(COUNTS))]
    assert _same(full, Keypoints.cat(parts), *FIELDS)
    assert _same(full, keep_percentage(keypoints, 30, seed=1), *FIELDS)
    assert _rows(full, 3) != _rows(keep_percentage(keypoints, 30, seed=2), 3)
    twins = keep_percentage(Keypoints.cat([keypoints[0], keypoints[0]]), 30)
    assert _rows(twins, 0) != _rows(twins, 1)


def test_every_keypoint_is_as_likely() -> None:
    count, draws = 20, 400
    one = Keypoints(
        x=torch.arange(count, dtype=torch.float32),
        **{name: torch.ones(count) for name in ("y", "scale", "angle", "response")},
        descriptors=torch.zeros(count, 128),
        offsets=torch.tensor([0, count]),
    )
    many = keep_percentage(Keypoints.cat([one] * draws), 25)
    frequency = many.x.long().bincount(minlength=count) / draws
    assert many.x.numel() == 5 * draws
    assert (frequency - 0.25).abs().max() < 5 * (0.25 * 0.75 / draws) ** 0.5


@pytest.mark.parametrize("percentage", [0, -5, 100.5, float("nan")])
def test_percentages_out_of_range(keypoints: Keypoints, percentage: float) -> None:
    with pytest.raises(ValueError, match=r"0.*100"):
        keep_percentage(keypoints, percentage)


def test_seeds_that_are_none(keypoints: Keypoints) -> None:
    with pytest.raises(ValueError, match=r"0.*-1"):
        keep_percentage(keypoints, 50, seed=-1)


def test_ablations_alter_only_what_they_say(keypoints: Keypoints) -> None:
    before = dataclasses.replace(keypoints, **{name: getattr(keypoints, name).clone() for name in FIELDS})
    coordinates = coordinates_only(keypoints)
    assert _same(coordinates, keypoints, "x", "y", "scale", "angle")
    assert not coordinates.descriptors.any()

    positions = positions_only(keypoints, 2.5)
    assert _same(positions, keypoints, "x", "y")
    assert (positions.scale == 2.5).all()
    assert not positions.angle.any()
    assert not positions.descriptors.any()

    descriptors = descriptors_only(keypoints, SIZE, 4, 2.5)
    assert _same(descriptors, keypoints, "descriptors")
    assert (descriptors.scale == 2.5).all()
    assert not descriptors.angle.any()
    for perturbed in (coordinates, positions, descriptors):
        assert not perturbed.response.any()
    assert _same(keypoints, before, *FIELDS), "what came is untouched"


@pytest.mark.parametrize("size", [SIZE, (64, 96), (57, 87)])
def test_on_the_grid_every_keypoint_stays_in_its_cell(keypoints: Keypoints, size: tuple[int, int]) -> None:
    grid = sift_grid(keypoints, size)
    held = (grid[:, 130:132] != 0).any(dim=1, keepdim=True)
    assert 60 < held.sum() < sum(COUNTS)

    coordinates = sift_grid(coordinates_only(keypoints), size)
    assert torch.equal(coordinates[:, 128:], grid[:, 128:])
    assert not coordinates[:, :128].any()

    constant = torch.cat((torch.tensor([2.0, 2.0, 0.0, 1.0]), torch.tensor([2.5]).log()))
    positions = sift_grid(positions_only(keypoints, 2.5), size)
    assert torch.equal(positions[:, 128:130], grid[:, 128:130])
    assert not positions[:, :128].any()
    assert torch.equal(positions[:, 130:], held * constant[2:, None, None])

    descriptors = sift_grid(descriptors_only(keypoints, size, 4, 2.5), size)
    assert torch.equal(descriptors[:, :128], grid[:, :128])
    assert torch.equal(descriptors[:, 130:], held * constant[2:, None, None])
    rows, columns = size[0] // 4, size[1] // 4
    whole_cells = descriptors[:, 128:130, :rows, :columns]
    assert torch.equal(whole_cells, held[:, :, :rows, :columns] * constant[:2, None, None])


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_are_none(keypoints: Keypoints, scale: float) -> None:
    with pytest.raises(ValueError, match=r"pixels.*0"):
        positions_only(keypoints, scale)
    with pytest.raises(ValueError, match=r"pixels.*0"):
        descriptors_only(keypoints, SIZE, 4, scale)
