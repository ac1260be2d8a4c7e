"""Test drawings of features and keypoints."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

import preimage
from conftest import photographs
from preimage.representations import create_representation
from preimage.viz.glyphs import hog_block_glyphs, hog_glyphs, keypoint_grid, lbp_map, sift_glyphs, sift_keypoints


def _one_cell(channel: int, cell_pixels: int = 32) -> np.ndarray:
    features = np.zeros((31, 1, 1), np.float32)
    features[channel] = 0.4
    return hog_glyphs(features, cell_pixels)[:, :, 0].astype(float)


def _stroke_angle(picture: np.ndarray) -> float:
    """Return the direction of a stroke in degrees, [0, 180), y down, from its second moments."""
    y, x = np.indices(picture.shape) - (picture.shape[0] - 1) / 2
    weight = picture / picture.sum()
    angle = 0.5 * math.atan2(2 * (weight * x * y).sum(), (weight * x * x).sum() - (weight * y * y).sum())
    return math.degrees(angle) % 180


@pytest.mark.parametrize("channel", range(27))
def test_a_stroke_stands_perpendicular_to_its_gradient(channel: int) -> None:
    expected = (channel % 9 * 20 + 90) % 180
    difference = abs(_stroke_angle(_one_cell(channel)) - expected)
    assert min(difference, 180 - difference) < 1.5


@pytest.mark.parametrize(("orientations", "block_size"), [(9, 3), (4, 2), (7, 1)])
def test_a_stroke_of_a_block_is_perpendicular_and_in_its_cell(orientations: int, block_size: int) -> None:
    for channel in range(0, orientations * block_size**2, 3):
        cell, orientation = divmod(channel, orientations)
        row, column = divmod(cell, block_size)
        features = np.zeros((orientations * block_size**2, 1, 2), np.float32)
        features[channel, 0, 1] = 0.4
        picture = hog_block_glyphs(features, block_size, 32, full_scale=1)[:, :, 0].astype(float)
        assert picture.shape == (32 * block_size, 32 * (block_size + 1))
        place = np.s_[32 * row : 32 * row + 32, 32 * column + 32 : 32 * column + 64]
        assert picture[place].sum() == picture.sum() > 0
        difference = abs(_stroke_angle(picture[place]) - ((orientation + 0.5) * 180 / orientations + 90) % 180)
        assert min(difference, 180 - difference) < 1.5


def test_a_cell_of_several_blocks_is_their_mean() -> None:
    image = np.zeros((64, 64), np.float32)
    image[:, 36:] = 1  # a vertical edge in the fifth column of cells
    features = preimage.hog(image, variant="dalal-triggs", block_size=2)
    picture = hog_block_glyphs(features, 2, 16, full_scale=1)[:, :, 0].astype(float)
    assert picture.shape == (8 * 16, 8 * 16)
    assert picture[:, 64:80].sum() == picture.sum()
    assert abs(_stroke_angle(picture[48:64, 64:80]) - 90) < 12
    # The edge votes for one orientation, in the left or the right column of the blocks that contain it.
    assert picture[48:64, 64:80].max() / 255 == pytest.approx(features.max(), abs=0.02)


def test_an_edge_is_drawn_along_itself() -> None:
    image = np.zeros((64, 64), np.float32)
    image[:, 32:] = 1  # a vertical edge
    picture = hog_glyphs(preimage.hog(image), 16)[:, :, 0]
    edge = picture[48:64, 48:80].astype(float)
    assert edge.max() > 150
    assert abs(_stroke_angle(picture[48:64, 48:64].astype(float)) - 90) < 3
    assert picture[:, :32].max() == 0


def test_brightness_grows_with_the_weight_and_crossings_do_not_outshine() -> None:
    features = np.zeros((31, 1, 3), np.float32)
    features[18, 0, 0], features[18, 0, 1] = 0.2, 0.4
    features[18:27, 0, 2] = 0.4
    weak, strong, star = np.split(hog_glyphs(features, 16, full_scale=0.8)[:, :, 0].astype(int), 3, axis=1)
    assert strong.max() == pytest.approx(2 * weak.max(), abs=2)
    assert star.max() == round(255 * 0.4 / 0.8), "nine strokes of 0.4 cross and give 0.4"


def test_glyphs_survive_non_finite_features_and_refuse_other_shapes() -> None:
    features = np.full((31, 2, 3), np.nan, np.float32)
    assert hog_glyphs(features, 8).shape == (16, 24, 3)
    assert hog_glyphs(features, 8).max() == 0
    with pytest.raises(ValueError, match=r"\(31, h, w\).*\(30, 2, 3\)"):
        hog_glyphs(features[:30])
    assert hog_block_glyphs(np.full((36, 2, 3), np.nan, np.float32), 2, 8).shape == (24, 32, 3)
    with pytest.raises(ValueError, match=r"block_size of 2.*\(31, 2, 3\)"):
        hog_block_glyphs(features, 2)
    with pytest.raises(ValueError, match=r"cell_pixels.*4.*2"):
        hog_glyphs(features, 2)


def _one_lbp_cell(channels: dict[int, float], cell_pixels: int = 32) -> np.ndarray:
    features = np.zeros((58, 1, 1), np.float32)
    for channel, share in channels.items():
        features[channel] = math.sqrt(share)
    return lbp_map(features, cell_pixels).astype(float)


@pytest.mark.parametrize(("start", "run"), [(0, 4), (2, 4), (5, 3), (7, 5), (3, 2)])
def test_an_lbp_stroke_stands_across_the_run_of_brighter_neighbors(start: int, run: int) -> None:
    picture = _one_lbp_cell({start * 7 + run - 1: 1.0})
    direction = (2 * start + run - 1) * 22.5
    difference = abs(_stroke_angle(picture.sum(axis=2)) - (direction + 90) % 180)
    assert min(difference, 180 - difference) < 1.5
    red, green, blue = (picture[..., channel].sum() for channel in range(3))
    if direction == 67.5:
        assert green > max(red, blue), "brighter below"


def test_lbp_noise_is_a_shade_and_flat_cells_are_black() -> None:
    noise, flat = _one_lbp_cell({57: 1.0}), _one_lbp_cell({56: 1.0})
    assert noise.min() == noise.max() > 40
    assert flat.max() == 0
    even = _one_lbp_cell({channel: 1 / 56 for channel in range(56)})
    assert even.max() < 1, "what all directions share is no edge"


def test_a_sift_star_has_its_arms_where_the_bins_are() -> None:
    for t, binx, biny in [(0, 0, 0), (2, 3, 1), (4, 1, 3), (6, 2, 2)]:
        features = np.zeros((128, 1, 1), np.float32)
        features[t + 8 * binx + 32 * biny] = 0.3
        picture = sift_glyphs(features, 192).astype(float).sum(axis=2)
        assert picture.shape == (192, 192)
        y, x = np.nonzero(picture > picture.min() + 60)
        step = 0.92 * 48
        star = 96 + (np.array([biny, binx]) - 1.5) * step
        toward = np.array([math.sin(t * math.pi / 4), math.cos(t * math.pi / 4)])
        middle = np.array([y.mean() + 0.5, x.mean() + 0.5]) - star
        assert np.abs(middle - 0.34 * step * toward).max() < 3


def test_as_many_sift_descriptors_are_left_out_as_it_takes() -> None:
    features = np.random.default_rng(0).random((128, 61, 40)).astype(np.float32)
    assert sift_glyphs(features, 320).shape == (13 * 24, 8 * 24, 3)
    assert sift_glyphs(features[:, :3, :2], 320).shape == (318, 212, 3)


@pytest.mark.parametrize(("drawing", "channels"), [(lbp_map, 58), (sift_glyphs, 128)])
def test_other_glyphs_survive_non_finite_features_and_refuse_other_shapes(
    drawing: Callable[..., np.ndarray], channels: int
) -> None:
    picture = drawing(np.full((channels, 2, 3), np.nan, np.float32))
    assert picture.dtype == np.uint8
    assert picture.max() < 60
    with pytest.raises(ValueError, match=rf"\({channels}, h, w\).*\(31, 2, 3\)"):
        drawing(np.zeros((31, 2, 3), np.float32))
    with pytest.raises(ValueError, match="at least"):
        lbp_map(np.zeros((58, 1, 1)), 3)
    with pytest.raises(ValueError, match="12"):
        sift_glyphs(np.zeros((128, 1, 1)), glyph_pixels=5)


def _keypoint(angle: float, **options: object) -> np.ndarray:
    """Draw a keypoint of scale 8 in the middle of 64 × 64 pixels, without resizing."""
    middle, scale = np.array([31.5]), np.array([8.0])
    return sift_keypoints(middle, middle, scale, np.array([angle]), (64, 64), tile=64, **options)  # type: ignore[arg-type]


def test_a_keypoint_is_a_circle_of_one_and_a_half_scales_with_a_hand_along_its_angle() -> None:
    y, x = np.indices((64, 64)) - 31.5
    for angle in (0.0, 0.7, math.pi / 2, 4.0):
        light = _keypoint(angle).astype(float).max(axis=2) - 14
        distance = np.hypot(x, y)
        ring, inside = light * (distance > 9), np.where(distance < 9, light, 0).clip(min=0)
        assert (ring * distance).sum() / ring.sum() == pytest.approx(12, abs=0.3)
        hand = math.atan2((inside * y).sum(), (inside * x).sum())
        assert abs((hand - angle + math.pi) % (2 * math.pi) - math.pi) < 0.05
    red, green, blue = (_keypoint(0.0)[..., channel].sum() for channel in range(3))
    assert red > 1.1 * max(green, blue), "red to the right, as everywhere"


def test_keypoints_lie_over_their_image_in_gray_and_darker() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32, 0] = 250
    picture = _keypoint(0.0, image=image)
    assert picture.shape == (64, 64, 3)
    left, right = picture[0, 0], picture[0, -1]
    assert left.min() == left.max() > right.max() == 14
    assert left.max() < 80
    with pytest.raises(ValueError, match=r"64 × 64.*\(32, 64, 3\)"):
        _keypoint(0.0, image=image[:32])


def test_of_too_many_keypoints_the_largest_are_drawn() -> None:
    x, y, scale, angle = np.array([16.0, 48.0, 32.0]), np.full(3, 16.0), np.array([1.0, 3.0, np.nan]), np.zeros(3)
    drawn = sift_keypoints(x, y, scale, angle, (32, 64), tile=64, most=1)
    columns = np.flatnonzero((drawn.max(axis=2) > 100).any(axis=0))
    assert (columns.min(), columns.max()) == pytest.approx((43, 53), abs=1)
    assert sift_keypoints(x, y, scale, angle, (32, 64), tile=64)[:, :32].max() > 100
    assert sift_keypoints(x[:0], y[:0], scale[:0], angle[:0], (32, 64), tile=64).max() == 14


def test_a_grid_is_drawn_as_the_keypoints_that_are_in_it() -> None:
    random = np.random.default_rng(0)
    fields = (random.random((4, 12)) * np.array([[79], [59], [6], [6]]) + 0.5).astype(np.float32)
    x, y, scale, angle = (torch.from_numpy(values) for values in fields)
    keypoints = preimage.Keypoints(x, y, scale, angle, x, torch.ones(12, 128), torch.tensor([0, 12]))
    grid = preimage.sift_grid(keypoints, (61, 80), 4)[0].numpy()
    filled = (grid[130:132] != 0).any(axis=0).sum()
    image = photographs()["chelsea"][:61, :80]
    over = keypoint_grid(grid, 4, image=image, tile=160)
    assert over.shape == (122, 160, 3)
    assert filled == 12, "no two in a cell"
    alone = sift_keypoints(*fields, (61, 80), image=image, tile=160)
    assert np.abs(over.astype(int) - alone).max() <= 8
    sift = create_representation("sift")
    assert np.array_equal(sift.draw(sift.spec, grid, 160, image), over)
    assert np.shape(sift.draw(sift.spec, grid, 160)) == (128, 160, 3)
    with pytest.raises(ValueError, match=r"16 × 20.*4 pixels.*64 × 90"):
        keypoint_grid(grid, 4, image=np.zeros((64, 90), np.uint8))


def test_a_grid_of_anything_is_drawn() -> None:
    grid = np.full((133, 3, 4), np.nan, np.float32)
    assert keypoint_grid(grid, 4, tile=64).max() == 14
    grid[:] = 1e30
    assert keypoint_grid(grid, 4, tile=64).shape == (48, 64, 3)
    with pytest.raises(ValueError, match=r"\(133, h, w\).*\(128, 3, 4\)"):
        keypoint_grid(grid[:128], 4)
