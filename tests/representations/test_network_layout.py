"""Tokens back on their grid: counts, places, and what lies beside."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preimage.representations.network_layout import MOST_PREFIX_TOKENS, as_features, grid_of_tokens


@given(st.integers(-3, 5000))
def test_the_largest_square_with_at_most_eight_tokens_left_over(count: int) -> None:
    side = next((side for side in range(80, 0, -1) if 0 <= count - side**2 <= MOST_PREFIX_TOKENS), None)
    if count < 1 or side is None or side != math.isqrt(count):
        with pytest.raises(ValueError, match=r"no square grid|nonnegative"):
            grid_of_tokens(count)
    else:
        assert grid_of_tokens(count) == (side, count - side**2)


@given(st.integers(1, 3), st.integers(2, 7), st.integers(0, MOST_PREFIX_TOKENS), st.integers(1, 5))
def test_every_token_is_found_again(batch: int, side: int, prefix: int, channels: int) -> None:
    side, prefix = grid_of_tokens(side**2 + prefix)
    tokens = torch.arange(batch * (side**2 + prefix) * channels).view(batch, -1, channels).float()
    features, shape = as_features(tokens, "auto", batch, "x")
    assert shape.features == features.shape[1:] == ((1 + prefix) * channels, side, side)
    assert shape.prefix_tokens == prefix
    assert torch.equal(features[:, :channels].flatten(2).transpose(1, 2), tokens[:, prefix:])
    beside = features[:, channels:].unflatten(1, (prefix, channels)) if prefix else features[:, channels:]
    for index in range(prefix):
        assert (beside[:, index] == tokens[:, index, :, None, None]).all()


@pytest.mark.parametrize(
    ("shape", "layout", "features"),
    [
        ((2, 5, 3, 4), "auto", (5, 3, 4)),
        ((2, 3, 4, 5), "nhwc", (5, 3, 4)),
        ((2, 5, 1, 1), "auto", (5,)),
        ((2, 1, 1, 5), "nhwc", (5,)),
        ((2, 5), "auto", (5,)),
        ((2, 5), "nhwc", (5,)),
        ((2, 1, 5), "auto", (5,)),
        ((2, 2, 5), "auto", (10,)),
        ((2, 3, 4, 5), "vector", (60,)),
        ((2, 3, 4, 5, 6), "vector", (360,)),
        ((0, 5, 3, 4), "auto", (5, 3, 4)),
    ],
)
def test_shapes(shape: tuple[int, ...], layout: str, features: tuple[int, ...]) -> None:
    made, found = as_features(torch.rand(shape), layout, shape[0], "x")
    assert found.features == features
    assert made.shape == (shape[0], *features)
    assert made.is_contiguous()
