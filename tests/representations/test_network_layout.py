"""Test the arrangement of tokens on their grid: counts, positions, and prefix tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preimage.representations.network_layout import (
    MOST_PREFIX_TOKENS,
    as_features,
    check_output_layout,
    grid_of_tokens,
)


@given(st.integers(-3, 5000))
def test_the_largest_square_with_at_most_eight_tokens_left_over(count: int) -> None:
    side = next((side for side in range(80, 0, -1) if 0 <= count - side**2 <= MOST_PREFIX_TOKENS), None)
    if count < 1 or side is None or side != math.isqrt(count):
        with pytest.raises(ValueError, match=r"grid|nonnegative"):
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


@pytest.mark.parametrize("extra", [1, 3])
@pytest.mark.parametrize(
    ("layout", "before"),
    [("auto", 0), ("tokens-middle", 8), ("tokens-last", 16), ("tokens-at-0", 0), ("tokens-at-5", 5)],
)
def test_tokens_beside_the_grid_wherever_they_are(layout: str, before: int, extra: int) -> None:
    """A class token is in front (ViT), in the middle (Vision Mamba) or at the end."""
    grid = torch.arange(2 * 16 * 3).view(2, 16, 3).float()
    beside = torch.full((2, extra, 3), 999.0)
    tokens = torch.cat([grid[:, :before], beside, grid[:, before:]], 1)
    features, shape = as_features(tokens, layout, 2, "x")
    assert shape.prefix_tokens == extra
    assert torch.equal(features[:, :3].flatten(2).transpose(1, 2), grid)
    assert (features[:, 3:] == 999).all()


def test_tokens_elsewhere_are_for_tokens_only() -> None:
    with pytest.raises(ValueError, match=r"'tokens-last'.*\(B, N, C\)"):
        as_features(torch.rand(2, 3, 4, 4), "tokens-last", 2, "x")
    with pytest.raises(ValueError, match=r"16.*'tokens-at-17'"):
        as_features(torch.rand(2, 17, 3), "tokens-at-17", 2, "x")
    for layout in ("tokens-at-", "tokens-at-N", "tokens-at-01", "tokens-at--1", "tokens-first", "tokens-at-1\n"):
        with pytest.raises(ValueError, match="auto"):
            check_output_layout(layout)


@pytest.mark.parametrize("shape", [(2, 7, 7, 96), (2, 28, 28, 1), (2, 1, 1, 5)])
def test_a_map_that_is_square_with_its_channels_last_only(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"'x'.*channels.*'nhwc'.*'nchw'"):
        as_features(torch.rand(shape), "auto", 2, "x")
    assert as_features(torch.rand(shape), "nchw", 2, "x")[1].features == shape[1:]
    assert as_features(torch.rand(shape), "nhwc", 2, "x")[0].shape[:2] == (2, shape[3])


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


def test_a_part_of_the_tokens() -> None:
    tokens = torch.rand(2, 19, 5)  # 16 of a grid after 3 others
    assert torch.equal(as_features(tokens, "class-token", 2, "x")[0], tokens[:, 0])
    grid, shape = as_features(tokens, "grid", 2, "x")
    assert (shape.features, shape.prefix_tokens) == ((5, 4, 4), 0)
    assert torch.equal(grid.flatten(2).transpose(1, 2), tokens[:, 3:])
    assert torch.allclose(as_features(tokens, "mean", 2, "x")[0], tokens[:, 3:].mean(1))


@pytest.mark.parametrize(("shape", "axes"), [((2, 5, 4, 4), (2, 3)), ((2, 4, 4, 5), (1, 2))])
def test_the_mean_of_a_map(shape: tuple[int, ...], axes: tuple[int, int]) -> None:
    maps = torch.rand(shape)
    features, found = as_features(maps, "mean", 2, "x")
    assert found.features == (5,)
    assert torch.allclose(features, maps.mean(axes))


@pytest.mark.parametrize(
    ("layout", "shape", "words"),
    [
        ("class-token", (2, 16, 5), "'mean'"),
        ("class-token", (2, 5, 4, 4), "class-token.*tokens"),
        ("grid", (2, 5), "grid.*tokens"),
        ("mean", (2, 5), "mean.*map"),
        ("mean", (2, 45, 5), "grid"),
    ],
)
def test_parts_that_do_not_exist(layout: str, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=rf"'x'.*{words}"):
        as_features(torch.rand(shape), layout, 2, "x")
