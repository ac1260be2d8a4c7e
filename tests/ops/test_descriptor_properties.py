"""Test properties that HOG, LBP and dense SIFT have for any image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tolerances
from conftest import photographs
from implementations import IMPLEMENTATIONS, KERNELS

DESCRIPTORS = ["hog", "lbp", "dense_sift"]
HOG, LBP, DENSE_SIFT = (IMPLEMENTATIONS[op] for op in DESCRIPTORS)
CODES = IMPLEMENTATIONS["lbp_codes"]

every_implementation = pytest.mark.parametrize(
    ("op", "name"), [(op, name) for op in DESCRIPTORS for name in IMPLEMENTATIONS[op]]
)
every_hog = pytest.mark.parametrize("name", HOG)
every_lbp = pytest.mark.parametrize("name", LBP)
every_dense_sift = pytest.mark.parametrize("name", DENSE_SIFT)
seeds = st.integers(0, 2**32 - 1)
windows = st.sampled_from(["gaussian", "flat"])


def random_image(seed: int, height: int, width: int) -> np.ndarray:
    """Return continuous values: gradients without ties between directions."""
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


# ---- All three ----


@every_implementation
@given(value=st.integers(0, 255), height=st.integers(16, 50), width=st.integers(16, 160), window=windows)
def test_constant_image(op: str, name: str, value: int, height: int, width: int, window: str) -> None:
    """There are no gradients; for LBP, all 256 pixels of a block have one label, which gives the largest sums."""
    image = np.full((3, height, width), value, dtype=np.uint8)
    options = {"hog": ({}, {"color": "strongest"}), "lbp": ({},), "dense_sift": ({"window": window},)}[op]
    for parameters in options:
        features = IMPLEMENTATIONS[op][name](image, **parameters)
        flat = torch.zeros(features.shape[0])
        flat[56:57] = float(op == "lbp")
        assert torch.equal(features, flat[:, None, None].expand_as(features))


def mirrored_labels() -> list[int]:
    """Return the label of each label's mirror image: a run of length j from bit i then ends at bit 4 - i."""
    runs = [7 * ((4 - first - length + 1) % 8) + length - 1 for first in range(8) for length in range(1, 8)]
    return [*runs, 56, 57]


def dense_sift_channels(moved: Callable[[int, int, int], tuple[int, int, int]]) -> list[int]:
    """Return the source of each channel for a function of orientation, spatial column and row."""
    sources = [0] * 128
    for channel in range(128):
        orientation, column, row = moved(channel % 8, channel // 8 % 4, channel // 32)
        sources[orientation + 8 * column + 32 * row] = channel
    return sources


# The flipped axes of an image (C, H, W), and which channel of its features each channel of the flipped image's equals.
FLIPS: dict[tuple[str, str], tuple[tuple[int, ...], list[int]]] = {
    # Directions k · 20° become 180° - k · 20°.
    ("hog", "left-right"): (
        (2,),
        [*((9 - k) % 18 for k in range(18)), *(18 + (9 - k) % 9 for k in range(9)), 28, 27, 30, 29],
    ),
    # Opposite directions, opposite squares.
    ("hog", "half a turn"): ((1, 2), [*((k + 9) % 18 for k in range(18)), *range(18, 27), 30, 29, 28, 27]),
    ("lbp", "left-right"): ((2,), mirrored_labels()),
    ("dense_sift", "left-right"): ((2,), dense_sift_channels(lambda t, x, y: ((4 - t) % 8, 3 - x, y))),
    ("dense_sift", "up-down"): ((1,), dense_sift_channels(lambda t, x, y: ((8 - t) % 8, x, 3 - y))),
    ("dense_sift", "half a turn"): ((1, 2), dense_sift_channels(lambda t, x, y: ((t + 4) % 8, 3 - x, 3 - y))),
}
# LBP counts, so that nothing is rounded.
SYMMETRY = {"hog": tolerances.HOG_SYMMETRY, "lbp": 0.0, "dense_sift": tolerances.DENSE_SIFT_SYMMETRY}


@st.composite
def images_of_whole_cells(draw: Callable[..., Any], op: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw an image (H, W) whose cells or descriptors lie symmetrically in it, and parameters."""
    rows, columns, seed = draw(st.integers(1, 4)), draw(st.integers(1, 20 if op == "dense_sift" else 8)), draw(seeds)
    if op == "hog":
        return random_image(seed, 8 * rows, 8 * columns), {}
    if op == "lbp":
        return np.random.default_rng(seed).integers(0, 6, (16 * rows, 16 * columns)).astype(np.uint8), {}
    step, bin_size = draw(st.sampled_from([(4, 4), (3, 2), (1, 3)]))
    height, width = (3 * bin_size + 1 + step * (count - 1) for count in (rows, columns))
    return random_image(seed, height, width), {"step": step, "bin_size": bin_size, "window": draw(windows)}


@pytest.mark.parametrize(
    ("op", "flip", "name"), [(op, flip, name) for op, flip in FLIPS for name in IMPLEMENTATIONS[op]]
)
@given(data=st.data())
def test_flips_permute_channels(op: str, flip: str, name: str, data: st.DataObject) -> None:
    image, options = data.draw(images_of_whole_cells(op))
    axes, channels = FLIPS[op, flip]
    expected = IMPLEMENTATIONS[op][name](image, **options).flip(axes)[channels]
    found = IMPLEMENTATIONS[op][name](np.flip(image[None], axes), **options)
    assert (found - expected).abs().max() <= SYMMETRY[op]


# The step of the features, and how many of them from a new border no longer depend on it.
MOVES = {"hog": (8, 2), "lbp": (16, 1), "dense_sift": (4, 2)}


@every_implementation
@given(seed=seeds, top=st.integers(0, 2), left=st.integers(0, 2))
def test_moving_by_a_cell_moves_the_features(op: str, name: str, seed: int, top: int, left: int) -> None:
    step, margin = MOVES[op]
    image = random_image(seed, 80, 96)
    features = IMPLEMENTATIONS[op][name](image)
    moved = IMPLEMENTATIONS[op][name](image[step * top :, step * left :])
    difference = features[..., top + margin :, left + margin :] - moved[..., margin:, margin:]
    assert difference.abs().max() <= SYMMETRY[op]


@pytest.mark.parametrize(("op", "name"), [(op, name) for op in DESCRIPTORS for name in KERNELS[op]])
def test_nan_in_an_image_leaves_the_rest_of_the_batch(op: str, name: str) -> None:
    run = KERNELS[op][name]
    batch = torch.rand(3, 3, 64, 80)
    expected = run(batch)
    batch[1] = torch.nan
    features = run(batch)
    assert torch.equal(features[0], expected[0]) and torch.equal(features[2], expected[2])
    if op != "lbp":  # LBP only compares, and NaN is neither greater nor smaller
        assert features[1].isnan().all()
    if op == "dense_sift":
        assert (run(batch, dtype=torch.uint8)[1] == 255).all()


# ---- HOG ----

LARGEST_DIRECTED = 0.5 * 4 * 0.2
LARGEST_TEXTURE = 9 * 0.2 / 18**0.5


@every_hog
@given(
    images=arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, min_side=4, max_side=40),
        elements=st.floats(0, 1, width=32),
    ),
    cell_size=st.integers(1, 8),
)
def test_hog_shape_and_range(name: str, images: np.ndarray, cell_size: int) -> None:
    features = HOG[name](images, cell_size=cell_size)
    rows, columns = ((side + cell_size // 2) // cell_size for side in images.shape)
    assert features.shape == (31, rows, columns)
    assert torch.isfinite(features).all() and (features >= 0).all()
    assert features[:27].max() <= LARGEST_DIRECTED + tolerances.HOG
    assert features[27:].max() <= LARGEST_TEXTURE + tolerances.HOG


@every_hog
@given(value=st.integers(0, 255), height=st.integers(4, 15), width=st.integers(4, 15))
def test_hog_of_a_small_constant_image(name: str, value: int, height: int, width: int) -> None:
    image = np.full((3, height, width), value, dtype=np.uint8)
    assert not HOG[name](image).any() and not HOG[name](image, color="strongest").any()


@every_hog
@given(y=st.integers(0, 39), x=st.integers(0, 47), value=st.floats(2.0**-20, 1, width=32))
def test_hog_of_one_bright_pixel(name: str, y: int, x: int, value: float) -> None:
    """Its four neighbors vote once each, in directions 0°, 180° and, for a vertical gradient, bins 4 and 13."""
    image = np.zeros((40, 48), dtype=np.float32)
    image[y, x] = value
    features = HOG[name](image)
    assert torch.isfinite(features).all()
    used = features[:18].amax(dim=(1, 2)).nonzero().flatten().tolist()
    assert set(used) <= {0, 4, 9, 13}


@every_hog
@pytest.mark.parametrize("photograph", ["astronaut", "coffee", "chelsea"])
def test_half_a_turn_of_photographs_permutes_channels_of_hog(name: str, photograph: str) -> None:
    """Photographs have many ties between directions."""
    image = photographs()[photograph][40:200, 60:300].transpose(2, 0, 1)
    axes, channels = FLIPS["hog", "half a turn"]
    for color in ("luma", "strongest"):
        expected = HOG[name](image, color=color).flip(axes)[channels]
        assert (HOG[name](np.flip(image, axes), color=color) - expected).abs().max() <= tolerances.HOG_SYMMETRY


def touched_cells(y: int, x: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells of size 8 that a pixel's neighbors vote for, and those with the cells next to them."""
    votes = np.zeros((rows, columns), dtype=bool)
    for voter_y, voter_x in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
        if 1 <= voter_y < 8 * rows - 1 and 1 <= voter_x < 8 * columns - 1:
            top, left = (voter_y + 4) // 8 - 1, (voter_x + 4) // 8 - 1
            votes[max(top, 0) : top + 2, max(left, 0) : left + 2] = True
    spread = np.zeros_like(votes)
    for row, column in np.argwhere(votes):
        spread[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
    return votes, spread


@every_hog
@pytest.mark.parametrize("channels", [1, 3])
@given(y=st.integers(0, 55), x=st.integers(0, 87), channel=st.integers(0, 2), bad=st.sampled_from([np.nan, np.inf]))
def test_bad_pixels_reach_only_their_cells_of_hog(
    name: str, channels: int, y: int, x: int, channel: int, bad: float
) -> None:
    image = np.random.default_rng(5).random((channels, 56, 88), dtype=np.float32)
    expected = HOG[name](image, color="strongest")
    image[channel % channels, y, x] = bad
    features = HOG[name](image, color="strongest")
    votes, spread = touched_cells(y, x, 7, 11)
    assert torch.equal(features[:, ~spread], expected[:, ~spread])
    if np.isnan(bad):
        assert features[:, votes].isnan().all()
        assert features[:27, spread].isnan().all()


# ---- LBP ----

images_of_floats = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    elements=st.floats(-1, 1, width=32),
)
few_levels = arrays.arrays(
    np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, min_side=16, max_side=50), elements=st.integers(0, 3)
)


@every_lbp
@given(image=images_of_floats, cell_size=st.integers(1, 20))
def test_lbp_shapes_and_lengths(name: str, image: np.ndarray, cell_size: int) -> None:
    cell_size = min(cell_size, *image.shape)
    rows, columns = (side // cell_size for side in image.shape)
    features = LBP[name](image, cell_size=cell_size)
    assert features.shape == (58, rows, columns)
    assert (features >= 0).all()
    lengths = features.double().square().sum(0)
    assert ((lengths - 1).abs() < tolerances.LBP).logical_or(lengths == 0).all()
    if min(image.shape) <= 2:  # only border
        assert not features.any()
    elif cell_size > 2:  # every cell has pixels that vote
        assert lengths.min() > 0
    assert CODES[name](image).shape == (1, *image.shape)


@every_lbp
@given(image=few_levels, exponent=st.integers(-20, 20))
def test_lbp_depends_on_the_order_of_values_only(name: str, image: np.ndarray, exponent: int) -> None:
    expected, labels = LBP[name](image), CODES[name](image)
    scaled = image.astype(np.float32) * np.float32(2.0**exponent)
    bent = np.array([-7.5, -7.25, 0.0, 1e30], dtype=np.float32)[image]
    for other in (scaled, bent, scaled - np.float32(2.0**exponent)):
        assert torch.equal(CODES[name](other), labels)
        assert torch.equal(LBP[name](other), expected)


@every_lbp
@given(data=st.data())
def test_left_right_flip_permutes_labels(name: str, data: st.DataObject) -> None:
    image, _ = data.draw(images_of_whole_cells("lbp"))
    labels = CODES[name](image)[0].long().flip(1)
    expected = torch.tensor([*mirrored_labels(), *[255] * 198])[labels]
    assert torch.equal(CODES[name](image[:, ::-1])[0].long(), expected)


@every_lbp
def test_lbp_of_a_ramp_has_one_label(name: str) -> None:
    """Values rise to the right: greater are the right neighbors, bits 7, 0 and 1."""
    image = np.broadcast_to(np.arange(160, dtype=np.float32), (48, 160))
    features = LBP[name](image)
    assert (features[7 * 7 + 2] == 1).all() and features.sum() == 30


@every_lbp
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (2, 9), (3, 2)])
def test_lbp_of_images_of_border_only(name: str, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    assert (CODES[name](image) == 255).all()
    assert not LBP[name](image, cell_size=1).any()
    assert not LBP[name](image, cell_size=min(shape)).any()


@every_lbp
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_pixels_reach_only_their_neighbors_of_lbp(name: str, channels: int, bad: float) -> None:
    """NaN is neither greater nor smaller; only the eight neighbors change, and histograms stay normalized."""
    photo = photographs()["coffee"][40:90, 60:160].transpose(2, 0, 1)[:channels]
    image = photo.astype(np.float32) / np.float32(255)
    expected = CODES[name](image)[0]
    image[channels - 1, 20, 30] = bad
    labels = CODES[name](image)[0]
    changed = (labels != expected).nonzero()
    assert ((changed - torch.tensor([20, 30])).abs() <= 1).all()
    if np.isnan(bad):
        assert labels[20, 30] == 56
        lowest = image.copy()
        lowest[channels - 1, 20, 30] = -np.inf  # equal for its neighbors
        others = torch.ones_like(labels, dtype=torch.bool)
        others[20, 30] = False
        assert torch.equal(labels[others], CODES[name](lowest)[0][others])
    features = LBP[name](image)
    assert ((features.double().square().sum(0) - 1).abs() < tolerances.LBP).all()


@every_lbp
def test_negative_zero_is_zero(name: str) -> None:
    image = np.zeros((16, 16), dtype=np.float32)
    image[::2] = -0.0
    assert (CODES[name](image)[0, 1:-1, 1:-1] == 56).all()


# ---- Dense SIFT ----


@every_dense_sift
@given(
    image=arrays.arrays(
        np.float32, st.tuples(st.integers(4, 40), st.integers(4, 40)), elements=st.floats(0, 1, width=32)
    ),
    step=st.integers(1, 7),
    bin_size=st.integers(1, 6),
    window=windows,
)
def test_dense_sift_shape_and_range(name: str, image: np.ndarray, step: int, bin_size: int, window: str) -> None:
    options = {"step": step, "bin_size": bin_size, "window": window, "norms": True}
    if min(image.shape) <= 3 * bin_size:
        with pytest.raises(ValueError, match=f"{3 * bin_size + 1} x {3 * bin_size + 1} pixels"):
            DENSE_SIFT[name](image, **options)
        return
    features, norms = DENSE_SIFT[name](image, **options)
    rows, columns = ((side - 1 - 3 * bin_size) // step + 1 for side in image.shape)
    assert features.shape == (128, rows, columns) and norms.shape == (1, rows, columns)
    assert torch.isfinite(features).all() and (features >= 0).all()
    assert torch.isfinite(norms).all() and (norms >= 0).all()
    lengths = features.square().sum(0).sqrt()
    assert ((lengths <= 1 + tolerances.DENSE_SIFT_LENGTH) & ((lengths >= 0.99) | (lengths == 0))).all()


@every_dense_sift
@given(value=st.floats(0, 1, width=32), height=st.integers(13, 50), width=st.integers(13, 90), window=windows)
def test_norms_of_a_constant_image_are_zero(name: str, value: float, height: int, width: int, window: str) -> None:
    image = np.full((height, width), value, dtype=np.float32)
    features, norms = DENSE_SIFT[name](image, window=window, norms=True)
    assert not features.any() and not norms.any()


@every_dense_sift
@given(seed=seeds, height=st.integers(13, 30), width=st.integers(13, 90), window=windows)
def test_dense_sift_of_a_nearly_flat_image_is_zero(name: str, seed: int, height: int, width: int, window: str) -> None:
    """Squared gradients are below 1e-8, where VLFeat divides by next to nothing."""
    image = 0.5 + 5e-5 * random_image(seed, height, width)
    features, norms = DENSE_SIFT[name](image, window=window, norms=True)
    assert not features.any() and not norms.any()


@every_dense_sift
@given(exponent=st.floats(-14, 0), seed=seeds)
def test_dense_sift_of_faint_images_is_finite(name: str, exponent: float, seed: int) -> None:
    """The images are on both sides of the threshold for nearly flat patches."""
    image = np.float32(10**exponent) * random_image(seed, 20, 25)
    features = DENSE_SIFT[name](image, step=2)
    lengths = features.square().sum(0).sqrt()
    assert torch.isfinite(features).all() and (lengths <= 1 + tolerances.DENSE_SIFT_LENGTH).all()


@every_dense_sift
@given(seed=seeds, scale=st.floats(0.05, 1), shift=st.floats(0, 0.5), window=windows)
def test_contrast_hardly_changes_dense_sift(name: str, seed: int, scale: float, shift: float, window: str) -> None:
    image = random_image(seed, 24, 41)
    changed = np.float32(scale) * image + np.float32(shift)
    features, norms = DENSE_SIFT[name](image, window=window, norms=True)
    other, other_norms = DENSE_SIFT[name](changed, window=window, norms=True)
    assert (features - other).abs().max() <= tolerances.DENSE_SIFT_CONTRAST
    assert torch.allclose(other_norms, np.float32(scale) * norms, rtol=tolerances.DENSE_SIFT_CONTRAST_NORMS)


@every_dense_sift
@given(seed=seeds, top=st.integers(0, 9), left=st.integers(0, 40), window=windows)
def test_bounds_select_among_the_same_descriptors(name: str, seed: int, top: int, left: int, window: str) -> None:
    image = random_image(seed, 30, 70)
    options = {"step": 1, "bin_size": 4, "window": window}
    everywhere = DENSE_SIFT[name](image, **options)
    selected = DENSE_SIFT[name](image, bounds=(top, left, 29, 69), **options)
    assert torch.equal(selected, everywhere[..., top:, left:])


@every_dense_sift
@given(
    y=st.integers(0, 39),
    x=st.integers(0, 89),
    bad=st.sampled_from([np.nan, np.inf]),
    grid=st.sampled_from([(4, 4), (3, 5), (9, 1)]),
    window=windows,
)
def test_bad_pixels_reach_only_their_descriptors_of_dense_sift(
    name: str, y: int, x: int, bad: float, grid: tuple[int, int], window: str
) -> None:
    step, bin_size = grid
    image = random_image(5, 40, 90)
    options = {"step": step, "bin_size": bin_size, "window": window, "norms": True}
    expected, expected_norms = DENSE_SIFT[name](image, **options)
    image[y, x] = bad
    features, norms = DENSE_SIFT[name](image, **options)
    touched = np.zeros(features.shape[1:], dtype=bool)
    for voter_y, voter_x in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1), (y, x)):
        inside = 0 <= voter_y < 40 and 0 <= voter_x < 90
        at_border = voter_y in (0, 39) or voter_x in (0, 89)
        if inside and ((voter_y, voter_x) != (y, x) or at_border):
            rows, columns = (np.arange(count) * step for count in touched.shape)
            near_y = (rows - bin_size < voter_y) & (voter_y < rows + 4 * bin_size)
            near_x = (columns - bin_size < voter_x) & (voter_x < columns + 4 * bin_size)
            touched |= near_y[:, None] & near_x
    assert torch.equal(features[:, ~touched], expected[:, ~touched])
    assert torch.equal(norms[:, ~touched], expected_norms[:, ~touched])
    if np.isnan(bad):
        assert features[:, touched].isnan().all() and norms[:, touched].isnan().all()
