"""What must hold for HOG of any image."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tolerances
from conftest import photographs
from hog_implementations import IMPLEMENTATIONS, KERNELS

every_implementation = pytest.mark.parametrize("name", IMPLEMENTATIONS)

LARGEST_DIRECTED = 0.5 * 4 * 0.2
LARGEST_TEXTURE = 9 * 0.2 / 18**0.5

# Where each channel's counterpart is after a left-right flip: directions k · 20° go to 180° - k · 20°.
MIRRORED = [
    *((9 - k) % 18 for k in range(18)),
    *(18 + (9 - k) % 9 for k in range(9)),
    *(28, 27, 30, 29),
]
# After half a turn: the opposite directions, the opposite squares.
TURNED = [*((k + 9) % 18 for k in range(18)), *range(18, 27), 30, 29, 28, 27]


@every_implementation
@given(
    images=arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, min_side=4, max_side=40),
        elements=st.floats(0, 1, width=32),
    ),
    cell_size=st.integers(1, 8),
)
def test_shape_and_range(name: str, images: np.ndarray, cell_size: int) -> None:
    features = IMPLEMENTATIONS[name](images, cell_size=cell_size)
    rows, columns = ((side + cell_size // 2) // cell_size for side in images.shape)
    assert features.shape == (31, rows, columns)
    assert torch.isfinite(features).all() and (features >= 0).all()
    assert features[:27].max() <= LARGEST_DIRECTED + tolerances.HOG
    assert features[27:].max() <= LARGEST_TEXTURE + tolerances.HOG


@every_implementation
@given(value=st.integers(0, 255), height=st.integers(4, 50), width=st.integers(4, 50))
def test_constant_image_has_no_features(name: str, value: int, height: int, width: int) -> None:
    image = np.full((3, height, width), value, dtype=np.uint8)
    for color in ("luma", "strongest"):
        assert not IMPLEMENTATIONS[name](image, color=color).any()


@every_implementation
@given(y=st.integers(0, 39), x=st.integers(0, 47), value=st.floats(2.0**-20, 1, width=32))
def test_one_bright_pixel(name: str, y: int, x: int, value: float) -> None:
    """Its four neighbors vote once each, in directions 0°, 180° and, for a vertical gradient, bins 4 and 13."""
    image = np.zeros((40, 48), dtype=np.float32)
    image[y, x] = value
    features = IMPLEMENTATIONS[name](image)
    assert torch.isfinite(features).all()
    used = features[:18].amax(dim=(1, 2)).nonzero().flatten().tolist()
    assert set(used) <= {0, 4, 9, 13}


@every_implementation
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), columns=st.integers(1, 5))
def test_left_right_flip_permutes_channels(name: str, seed: int, rows: int, columns: int) -> None:
    # Continuous values: exact ties (vertical gradients) go to the lower bin before as after the flip.
    image = np.random.default_rng(seed).random((8 * rows, 8 * columns), dtype=np.float32)
    features = IMPLEMENTATIONS[name](image)
    flipped = IMPLEMENTATIONS[name](image[:, ::-1])
    assert (features.flip(2)[MIRRORED] - flipped).abs().max() <= tolerances.HOG_SYMMETRY


@every_implementation
@pytest.mark.parametrize("photograph", ["astronaut", "coffee", "chelsea"])
def test_half_a_turn_permutes_channels(name: str, photograph: str) -> None:
    """On photographs, with all their ties."""
    image = photographs()[photograph][40:200, 60:300].transpose(2, 0, 1)
    for color in ("luma", "strongest"):
        features = IMPLEMENTATIONS[name](image, color=color)
        turned = IMPLEMENTATIONS[name](image[:, ::-1, ::-1], color=color)
        assert (features.flip(1, 2)[TURNED] - turned).abs().max() <= tolerances.HOG_SYMMETRY


@every_implementation
@given(seed=st.integers(0, 2**32 - 1), top=st.integers(0, 2), left=st.integers(0, 2))
def test_moving_by_a_cell_moves_the_features(name: str, seed: int, top: int, left: int) -> None:
    image = np.random.default_rng(seed).random((72, 72), dtype=np.float32)
    features = IMPLEMENTATIONS[name](image)
    moved = IMPLEMENTATIONS[name](image[8 * top :, 8 * left :])
    # Two cells away from the new border nothing knows of it.
    difference = features[..., top + 2 :, left + 2 :] - moved[..., 2:, 2:]
    assert difference.abs().max() <= tolerances.HOG_SYMMETRY


def touched_cells(y: int, x: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """For a bad pixel of cell size 8: the cells its neighbors vote for, and those plus the cells next to them."""
    votes = np.zeros((rows, columns), dtype=bool)
    for voter_y, voter_x in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
        if 1 <= voter_y < 8 * rows - 1 and 1 <= voter_x < 8 * columns - 1:
            top, left = (voter_y + 4) // 8 - 1, (voter_x + 4) // 8 - 1
            votes[max(top, 0) : top + 2, max(left, 0) : left + 2] = True
    spread = np.zeros_like(votes)
    for row, column in np.argwhere(votes):
        spread[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
    return votes, spread


@every_implementation
@pytest.mark.parametrize("channels", [1, 3])
@given(y=st.integers(0, 55), x=st.integers(0, 87), channel=st.integers(0, 2), bad=st.sampled_from([np.nan, np.inf]))
def test_bad_pixels_reach_the_cells_they_touch_and_no_further(
    name: str, channels: int, y: int, x: int, channel: int, bad: float
) -> None:
    image = np.random.default_rng(5).random((channels, 56, 88), dtype=np.float32)
    expected = IMPLEMENTATIONS[name](image, color="strongest")
    image[channel % channels, y, x] = bad
    features = IMPLEMENTATIONS[name](image, color="strongest")
    votes, spread = touched_cells(y, x, 7, 11)
    assert torch.equal(features[:, ~spread], expected[:, ~spread])
    if np.isnan(bad):
        assert features[:, votes].isnan().all()
        assert features[:27, spread].isnan().all()


@pytest.mark.parametrize("name", KERNELS)
def test_nan_in_a_bad_image_leaves_the_rest_of_the_batch(name: str) -> None:
    batch = torch.rand(3, 3, 64, 64)
    expected = KERNELS[name](batch)
    batch[1] = torch.nan
    features = KERNELS[name](batch)
    assert features[1].isnan().all()
    assert torch.equal(features[0], expected[0]) and torch.equal(features[2], expected[2])
