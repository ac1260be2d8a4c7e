"""What must hold for dense SIFT of any image."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tolerances
from dense_sift_implementations import IMPLEMENTATIONS, KERNELS

every_implementation = pytest.mark.parametrize("name", IMPLEMENTATIONS)
windows = st.sampled_from(["gaussian", "flat"])

# Channels after the image is turned around, as functions of orientation, spatial column and row.
TURNS = {
    "left-right": (lambda image: image[:, ::-1], lambda t, x, y: ((4 - t) % 8, 3 - x, y), (2,)),
    "up-down": (lambda image: image[::-1], lambda t, x, y: ((8 - t) % 8, x, 3 - y), (1,)),
    "half a turn": (lambda image: image[::-1, ::-1], lambda t, x, y: ((t + 4) % 8, 3 - x, 3 - y), (1, 2)),
}


def random_image(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


@every_implementation
@given(
    image=arrays.arrays(
        np.float32, st.tuples(st.integers(4, 40), st.integers(4, 40)), elements=st.floats(0, 1, width=32)
    ),
    step=st.integers(1, 7),
    bin_size=st.integers(1, 6),
    window=windows,
)
def test_shape_and_range(name: str, image: np.ndarray, step: int, bin_size: int, window: str) -> None:
    options = {"step": step, "bin_size": bin_size, "window": window, "norms": True}
    if min(image.shape) <= 3 * bin_size:
        with pytest.raises(ValueError, match=f"{3 * bin_size + 1} x {3 * bin_size + 1} pixels"):
            IMPLEMENTATIONS[name](image, **options)
        return
    features, norms = IMPLEMENTATIONS[name](image, **options)
    rows, columns = ((side - 1 - 3 * bin_size) // step + 1 for side in image.shape)
    assert features.shape == (128, rows, columns) and norms.shape == (1, rows, columns)
    assert torch.isfinite(features).all() and (features >= 0).all()
    assert torch.isfinite(norms).all() and (norms >= 0).all()
    lengths = features.square().sum(0).sqrt()
    assert ((lengths <= 1 + 1e-5) & ((lengths >= 0.99) | (lengths == 0))).all()


@every_implementation
@given(value=st.floats(0, 1, width=32), height=st.integers(13, 50), width=st.integers(13, 90), window=windows)
def test_constant_image_has_no_features(name: str, value: float, height: int, width: int, window: str) -> None:
    image = np.full((height, width), value, dtype=np.float32)
    features, norms = IMPLEMENTATIONS[name](image, window=window, norms=True)
    assert not features.any() and not norms.any()


@every_implementation
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(13, 30), width=st.integers(13, 90), window=windows)
def test_near_flat_image_has_zeros(name: str, seed: int, height: int, width: int, window: str) -> None:
    """Squared gradients below 1e-8, where VLFeat divides by next to nothing."""
    image = 0.5 + 5e-5 * random_image(seed, height, width)
    features, norms = IMPLEMENTATIONS[name](image, window=window, norms=True)
    assert not features.any() and not norms.any()


@every_implementation
@given(exponent=st.floats(-14, 0), seed=st.integers(0, 2**32 - 1))
def test_faint_images_are_finite(name: str, exponent: float, seed: int) -> None:
    """All the way through the threshold of near-flat patches."""
    image = np.float32(10**exponent) * random_image(seed, 20, 25)
    features = IMPLEMENTATIONS[name](image, step=2)
    lengths = features.square().sum(0).sqrt()
    assert torch.isfinite(features).all() and (lengths <= 1 + 1e-5).all()


@every_implementation
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.05, 1), shift=st.floats(0, 0.5), window=windows)
def test_contrast_hardly_matters(name: str, seed: int, scale: float, shift: float, window: str) -> None:
    image = random_image(seed, 24, 41)
    changed = np.float32(scale) * image + np.float32(shift)
    features, norms = IMPLEMENTATIONS[name](image, window=window, norms=True)
    other, other_norms = IMPLEMENTATIONS[name](changed, window=window, norms=True)
    assert (features - other).abs().max() <= 5e-4  # gradients are rounded, and FLT_EPSILON is added to |gy|
    assert torch.allclose(other_norms, np.float32(scale) * norms, rtol=1e-3)


@every_implementation
@pytest.mark.parametrize("turn", TURNS)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 3),
    columns=st.integers(1, 20),
    grid=st.sampled_from([(4, 4), (3, 2), (1, 3)]),
    window=windows,
)
def test_turning_the_image_permutes_channels(
    name: str, turn: str, seed: int, rows: int, columns: int, grid: tuple[int, int], window: str
) -> None:
    step, bin_size = grid
    height, width = (3 * bin_size + 1 + step * (count - 1) for count in (rows, columns))
    image = random_image(seed, height, width)
    turned, moved, axes = TURNS[turn]
    permuted = [0] * 128
    for channel in range(128):
        orientation, column, row = moved(channel % 8, channel // 8 % 4, channel // 32)
        permuted[orientation + 8 * column + 32 * row] = channel
    dense_sift = IMPLEMENTATIONS[name]
    options = {"step": step, "bin_size": bin_size, "window": window}
    expected = dense_sift(image, **options)[permuted].flip(axes)
    found = dense_sift(np.ascontiguousarray(turned(image)), **options)
    assert (found - expected).abs().max() <= tolerances.DENSE_SIFT_SYMMETRY


@every_implementation
@given(seed=st.integers(0, 2**32 - 1), top=st.integers(0, 9), left=st.integers(0, 40), window=windows)
def test_bounds_choose_among_the_same_descriptors(name: str, seed: int, top: int, left: int, window: str) -> None:
    image = random_image(seed, 30, 70)
    options = {"step": 1, "bin_size": 4, "window": window}
    all_of_them = IMPLEMENTATIONS[name](image, **options)
    some = IMPLEMENTATIONS[name](image, bounds=(top, left, 29, 69), **options)
    assert torch.equal(some, all_of_them[..., top:, left:])


@every_implementation
@given(
    y=st.integers(0, 39),
    x=st.integers(0, 89),
    bad=st.sampled_from([np.nan, np.inf]),
    grid=st.sampled_from([(4, 4), (3, 5), (9, 1)]),
    window=windows,
)
def test_bad_pixels_reach_the_descriptors_they_vote_for_and_no_others(
    name: str, y: int, x: int, bad: float, grid: tuple[int, int], window: str
) -> None:
    step, bin_size = grid
    image = random_image(5, 40, 90)
    options = {"step": step, "bin_size": bin_size, "window": window, "norms": True}
    expected, expected_norms = IMPLEMENTATIONS[name](image, **options)
    image[y, x] = bad
    features, norms = IMPLEMENTATIONS[name](image, **options)
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


@pytest.mark.parametrize("name", KERNELS)
def test_nan_in_a_bad_image_leaves_the_rest_of_the_batch(name: str) -> None:
    batch = torch.rand(3, 3, 40, 80)
    expected = KERNELS[name](batch)
    batch[1] = torch.nan
    features = KERNELS[name](batch)
    assert features[1].isnan().all()
    assert (KERNELS[name](batch, dtype=torch.uint8)[1] == 255).all()
    assert torch.equal(features[0], expected[0]) and torch.equal(features[2], expected[2])
