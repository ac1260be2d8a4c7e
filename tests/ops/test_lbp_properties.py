"""What must hold for LBP of any image."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import photographs
from lbp_implementations import CODES, IMPLEMENTATIONS

every_implementation = pytest.mark.parametrize("name", IMPLEMENTATIONS)

images_of_floats = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    elements=st.floats(-1, 1, width=32),
)
few_levels = arrays.arrays(
    np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, min_side=16, max_side=50), elements=st.integers(0, 3)
)


def mirrored_labels() -> list[int]:
    """Where each label's counterpart is after a left-right flip: a run from bit i, length j, then ends at bit 4 - i."""
    runs = [7 * ((4 - first - length + 1) % 8) + length - 1 for first in range(8) for length in range(1, 8)]
    return [*runs, 56, 57]


MIRRORED = mirrored_labels()


@every_implementation
@given(image=images_of_floats, cell_size=st.integers(1, 20))
def test_shapes_and_lengths(name: str, image: np.ndarray, cell_size: int) -> None:
    cell_size = min(cell_size, *image.shape)
    rows, columns = (side // cell_size for side in image.shape)
    features = IMPLEMENTATIONS[name](image, cell_size=cell_size)
    assert features.shape == (58, rows, columns)
    assert (features >= 0).all()
    lengths = features.double().square().sum(0)
    assert ((lengths - 1).abs() < 1e-6).logical_or(lengths == 0).all()
    if min(image.shape) <= 2:  # only border
        assert not features.any()
    elif cell_size > 2:  # every cell has pixels that vote
        assert lengths.min() > 0
    assert CODES[name](image).shape == (1, *image.shape)


@every_implementation
@given(image=few_levels, exponent=st.integers(-20, 20))
def test_only_the_order_counts(name: str, image: np.ndarray, exponent: int) -> None:
    expected, labels = IMPLEMENTATIONS[name](image), CODES[name](image)
    scaled = image.astype(np.float32) * np.float32(2.0**exponent)
    bent = np.array([-7.5, -7.25, 0.0, 1e30], dtype=np.float32)[image]
    for other in (scaled, bent, scaled - np.float32(2.0**exponent)):
        assert torch.equal(CODES[name](other), labels)
        assert torch.equal(IMPLEMENTATIONS[name](other), expected)


@every_implementation
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4), columns=st.integers(1, 10))
def test_left_right_flip_permutes_labels(name: str, seed: int, rows: int, columns: int) -> None:
    image = np.random.default_rng(seed).integers(0, 6, (16 * rows, 16 * columns)).astype(np.uint8)
    labels = CODES[name](image)[0].long().flip(1)
    expected = torch.tensor([*MIRRORED, *[255] * 198])[labels]
    assert torch.equal(CODES[name](image[:, ::-1])[0].long(), expected)
    features = IMPLEMENTATIONS[name](image).flip(2)
    assert torch.equal(IMPLEMENTATIONS[name](image[:, ::-1])[MIRRORED], features)


@every_implementation
@given(value=st.integers(0, 255), height=st.integers(16, 50), width=st.integers(16, 160))
def test_constant_image(name: str, value: int, height: int, width: int) -> None:
    """Blocks whose 256 pixels all have one label: their sums are the largest there are."""
    features = IMPLEMENTATIONS[name](np.full((3, height, width), value, dtype=np.uint8))
    assert (features[56] == 1).all()
    assert not features[torch.arange(58) != 56].any()


@every_implementation
def test_one_label_everywhere(name: str) -> None:
    """Rising to the right: greater are the right neighbors, bits 7, 0 and 1."""
    image = np.broadcast_to(np.arange(160, dtype=np.float32), (48, 160))
    features = IMPLEMENTATIONS[name](image)
    assert (features[7 * 7 + 2] == 1).all() and features.sum() == 30


@every_implementation
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (2, 9), (3, 2)])
def test_images_of_border_only(name: str, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    assert (CODES[name](image) == 255).all()
    assert not IMPLEMENTATIONS[name](image, cell_size=1).any()
    assert not IMPLEMENTATIONS[name](image, cell_size=min(shape)).any()


@every_implementation
@given(seed=st.integers(0, 2**32 - 1), top=st.integers(0, 2), left=st.integers(0, 2))
def test_moving_by_a_cell_moves_the_features(name: str, seed: int, top: int, left: int) -> None:
    image = np.random.default_rng(seed).random((80, 96), dtype=np.float32)
    features = IMPLEMENTATIONS[name](image)
    moved = IMPLEMENTATIONS[name](image[16 * top :, 16 * left :])
    # A cell away from the new border nothing knows of it.
    assert torch.equal(features[..., top + 1 :, left + 1 :], moved[..., 1:, 1:])


@every_implementation
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_pixels(name: str, channels: int, bad: float) -> None:
    """Not a number is neither greater nor exceeded; nobody beyond the eight neighbors notices, and sums stay sums."""
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
        lowest[channels - 1, 20, 30] = -np.inf  # in its neighbors' eyes the same
        others = torch.ones_like(labels, dtype=torch.bool)
        others[20, 30] = False
        assert torch.equal(labels[others], CODES[name](lowest)[0][others])
    features = IMPLEMENTATIONS[name](image)
    assert ((features.double().square().sum(0) - 1).abs() < 1e-6).all()


@every_implementation
def test_negative_zero_is_zero(name: str) -> None:
    image = np.zeros((16, 16), dtype=np.float32)
    image[::2] = -0.0
    assert (CODES[name](image)[0, 1:-1, 1:-1] == 56).all()
