"""Test the grid of sparse keypoints: its definition, the random choice, and wrong arguments."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
import skimage.data
import torch

import preimage
import tolerances
from preimage import Keypoints, reference
from preimage.ops import sift_grid_torch as _sift_grid  # registers its op
from preimage.reference.sift_grid import draw_key

del _sift_grid

OP = torch.ops.preimage.sift_grid.default


def made(x: Any, y: Any, counts: list[int] | None = None, seed: int = 0) -> Keypoints:
    """Return keypoints at the given positions, with other fields at random."""
    rng = np.random.default_rng(seed)
    count = len(x)
    floats = {
        "x": np.asarray(x),
        "y": np.asarray(y),
        "scale": rng.uniform(0.5, 40, count),
        "angle": rng.uniform(0, 2 * math.pi, count),
        "response": rng.random(count),
        "descriptors": rng.random((count, 128)),
    }
    offsets = torch.tensor([0, *np.cumsum(counts if counts is not None else [count])])
    return Keypoints(**{name: torch.tensor(v, dtype=torch.float32) for name, v in floats.items()}, offsets=offsets)


def with_random_colors(keypoints: Keypoints, seed: int = 0) -> Keypoints:
    """Return keypoints with colors at random, some of them unknown."""
    rng = np.random.default_rng(seed)
    colors = rng.random((len(keypoints.x), 3)).astype(np.float32)
    colors[rng.random(colors.shape) < 0.2] = np.nan
    return dataclasses.replace(keypoints, colors=torch.from_numpy(colors))


def defined(keypoints: Keypoints, *arguments: Any, **options: Any) -> torch.Tensor:
    """Compute the grid by the plain definition."""
    options["colors"] = keypoints.colors
    names = ("x", "y", "scale", "angle", "descriptors", "offsets")
    return reference.sift_grid(*(getattr(keypoints, name) for name in names), *arguments, **options)


def check(grid: torch.Tensor, expected: torch.Tensor) -> None:
    """Check that the same keypoints are chosen, with descriptors and positions equal to the bit."""
    assert grid.shape == expected.shape and grid.dtype == torch.float32 and grid.is_contiguous()
    assert torch.equal(grid[:, :130], expected[:, :130])
    assert (grid[:, 130:133] - expected[:, 130:133]).abs().max() <= tolerances.SIFT_GRID if grid.numel() else True
    assert torch.equal(grid[:, 133:], expected[:, 133:])


places = arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(-3, 30, width=32))


@hypothesis.given(
    x=places,
    size=st.tuples(st.integers(1, 25), st.integers(1, 25)),
    cell=st.integers(1, 30),
    seed=st.integers(-(2**63), 2**64 - 1),
    scale=st.sampled_from([1.0, 2.5, 0.0]),
    cut=st.integers(0, 40),
)
def test_grid_follows_the_definition(
    x: np.ndarray, size: tuple[int, int], cell: int, seed: int, scale: float, cut: int
) -> None:
    cut = min(cut, len(x))
    keypoints = made(x, np.roll(x, 1) * np.float32(0.9), [cut, 0, len(x) - cut])
    options = {"seed": seed, "descriptor_scale": scale}
    grid = preimage.sift_grid(keypoints, size, cell, **options)
    check(grid, defined(keypoints, size, cell, **options))
    keypoints = with_random_colors(keypoints)
    in_color = preimage.sift_grid(keypoints, size, cell, **options)
    check(in_color, defined(keypoints, size, cell, **options))
    assert in_color.shape[1] == 136 and torch.equal(in_color[:, :133], grid)
    arrays = preimage.sift_grid(keypoints.to_numpy(), size, cell, dtype="float16", **options)
    assert np.array_equal(arrays, in_color.half().numpy())


@pytest.mark.parametrize("cell", [1, 3, 4, 8, 400])
def test_photographs(cell: int) -> None:
    images = np.stack([getattr(skimage.data, name)()[:210, :253] for name in ("astronaut", "chelsea", "coffee")])
    keypoints = preimage.sift(images.transpose(0, 3, 1, 2)).to_torch()
    grid = preimage.sift_grid(keypoints, (210, 253), cell, seed=3)
    check(grid, defined(keypoints, (210, 253), cell, seed=3))
    held = (grid[:, 130:132].square().sum(dim=1) > 0.5).sum()
    assert 0 < held <= len(keypoints.x)


def test_channels() -> None:
    keypoints = made([5.0], [9.25])
    grid = preimage.sift_grid(keypoints, (16, 20), 4, descriptor_scale=3.0)
    assert grid.shape == (1, 133, 4, 5)
    cell = grid[0, :, 2, 1]
    assert torch.equal(cell[:128], keypoints.descriptors[0] * 3)
    assert cell[128:130].tolist() == [1.5, 1.75]
    rest = torch.stack((keypoints.angle.sin(), keypoints.angle.cos(), keypoints.scale.log()), dim=1)[0]
    assert (cell[130:] - rest).abs().max() <= tolerances.SIFT_GRID
    grid[0, :, 2, 1] = 0
    assert not grid.any()


def test_pixels_span_half_a_pixel_on_either_side() -> None:
    below_half = float(np.nextafter(np.float32(-0.5), np.float32(-1)))
    for x, column in ((-0.5, 0), (3.4999, 0), (3.5, 1), (7.4, 1), (7.5, None), (below_half, None), (1e9, None)):
        held = preimage.sift_grid(made([x], [0.0]), (4, 8), 4)[0, 130:132].abs().sum(dim=0)
        assert held.nonzero().tolist() == ([] if column is None else [[0, column]])
        held = preimage.sift_grid(made([0.0], [x]), (8, 4), 4)[0, 130:132].abs().sum(dim=0)
        assert held.nonzero().tolist() == ([] if column is None else [[column, 0]])


def test_an_image_whose_sides_are_no_multiple_of_the_cell() -> None:
    grid = preimage.sift_grid(made([4.0, 5.0], [2.0, 2.0]), (3, 5), 2)
    assert grid.shape == (1, 133, 2, 3)
    assert grid[0, 131].nonzero().tolist() == [[1, 2]]  # the second is outside


def test_no_images_and_no_keypoints() -> None:
    assert preimage.sift_grid(made([], [], []), (8, 9)).shape == (0, 133, 2, 3)
    grid = preimage.sift_grid(made([], [], [0, 0]), (8, 9))
    assert grid.shape == (2, 133, 2, 3) and not grid.any()


def test_no_keypoints_in_arrays_without_strides() -> None:
    """NumPy arrays may have such strides."""
    none, described = torch.empty_strided((0,), (0,)), torch.empty_strided((0, 128), (0, 0))
    keypoints = Keypoints(none, none, none, none, none, described, torch.tensor([0, 0]))
    assert not preimage.sift_grid(keypoints, (8, 8)).any()


# ---- The draw ----


def test_the_keys_are_splitmix64s() -> None:
    """Checks the published first numbers for the seed 1234567."""
    keys = [(int(key) + 2**63) % 2**64 for key in draw_key(torch.arange(3), 1234567)]
    assert keys == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_all_seeds_together_draw_evenly() -> None:
    keypoints = made([1.0, 1.1, 1.2, 30.0], [1.0, 1.1, 1.2, 30.0])
    first = [float(preimage.sift_grid(keypoints, (32, 32), 4, seed=seed)[0, 128, 0, 0]) for seed in range(1500)]
    shares = np.unique(np.round(first, 3), return_counts=True)[1] / len(first)
    assert len(shares) == 3
    assert np.abs(shares - 1 / 3).max() < 5 * math.sqrt(2 / 9 / len(first))


def test_a_draw_depends_on_the_seed_and_the_index_in_the_image_alone() -> None:
    keypoints = made([1.0, 1.5, 2.0], [1.0, 1.5, 2.0])
    batch = Keypoints.cat([made([9.0, 9.5], [1.0, 1.0]), keypoints, keypoints])
    for seed in range(20):
        alone = preimage.sift_grid(keypoints, (12, 12), seed=seed)
        together = preimage.sift_grid(batch, (12, 12), seed=seed)
        assert torch.equal(together[1:2], alone) and torch.equal(together[2:], alone)
        assert torch.equal(preimage.sift_grid(batch, (12, 12), seed=seed), together)
    assert torch.equal(
        preimage.sift_grid(batch, (12, 12), seed=-1), preimage.sift_grid(batch, (12, 12), seed=2**64 - 1)
    )


# ---- The op, and errors ----


@pytest.mark.parametrize("counts", [[5], [2, 0, 3], [0], []], ids=str)
def test_opcheck(counts: list[int]) -> None:
    count = sum(counts)
    keypoints = made(np.arange(count), np.arange(count) * 2, counts)
    names = ("x", "y", "scale", "angle", "descriptors", "offsets")
    fields = [getattr(keypoints, name) for name in names]
    torch.library.opcheck(OP, (*fields, [13, 9], 4, 7, 2.0))
    colors = with_random_colors(keypoints).colors
    torch.library.opcheck(OP, (*fields, [13, 9], 4, 7, 2.0, colors))
    strided_colors = torch.stack((colors, colors), dim=-1)[..., 0]
    in_color = OP(*fields, [13, 9], 4, 7, 2.0, colors)
    assert torch.equal(OP(*fields, [13, 9], 4, 7, 2.0, strided_colors), in_color)
    strided = [torch.stack((field, field), dim=-1)[..., 0] for field in fields[:5]]
    assert torch.equal(OP(*strided, fields[5], [13, 9], 4, 7, 2.0), OP(*fields, [13, 9], 4, 7, 2.0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["x", "y", "angle", "scale"])
def test_keypoints_that_are_not_finite(name: str, value: float) -> None:
    keypoints = made([1.0, 2.0], [1.0, 2.0])
    field = getattr(keypoints, name).clone()
    field[1] = value
    with pytest.raises(ValueError, match=rf"finite.*{name}.*keypoint 1"):
        preimage.sift_grid(dataclasses.replace(keypoints, **{name: field}), (8, 8))


@pytest.mark.parametrize("value", [1.01, -0.1, float("inf")])
def test_colors_out_of_range(value: float) -> None:
    keypoints = made([1.0, 2.0], [1.0, 2.0])
    colors = torch.full((2, 3), 0.5)
    keypoints = dataclasses.replace(keypoints, colors=colors)
    colors[1, 2] = value  # after the check of `Keypoints`
    with pytest.raises(ValueError, match=r"colors.*\[0, 1\].*keypoint 1"):
        preimage.sift_grid(keypoints, (8, 8))


def test_channels_of_colors() -> None:
    keypoints = dataclasses.replace(made([5.0, 17.0], [9.25, 1.0]), colors=torch.tensor([[0, 0.25, 1], [0, 1, np.nan]]))
    grid = preimage.sift_grid(keypoints, (16, 20), 4)
    assert grid[0, 133:, 2, 1].tolist() == [-0.5, -0.25, 0.5]
    assert grid[0, 131, 0, 4] != 0 and not grid[0, 133:, 0, 4].any()


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_scales_must_be_above_zero(scale: float) -> None:
    keypoints = dataclasses.replace(made([1.0], [1.0]), scale=torch.tensor([scale]))
    with pytest.raises(ValueError, match=r"scale.*above 0.*keypoint 0"):
        preimage.sift_grid(keypoints, (8, 8))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (((8,),), {}, TypeError, r"image_size.*\(height, width\)"),
        ((8,), {}, TypeError, "image_size"),
        (((0, 8),), {}, ValueError, r"height.*1"),
        (((8, 8.0),), {}, TypeError, r"width.*int"),
        (((8, 8), 0), {}, ValueError, r"cell.*1"),
        (((8, 8), 4.0), {}, TypeError, r"cell.*int"),
        (((8, 2**70), 2**69), {}, ValueError, r"2\^30.*8 x"),
        (((8, 8),), {"seed": 1.0}, TypeError, r"seed.*int"),
        (((8, 8),), {"descriptor_scale": float("inf")}, ValueError, r"descriptor_scale.*finite"),
    ],
)
def test_wrong_arguments(arguments: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        preimage.sift_grid(made([1.0], [1.0]), *arguments, **options)
    with pytest.raises(TypeError, match=r"keypoints.*preimage\.Keypoints.*list"):
        preimage.sift_grid([1.0], (8, 8))  # type: ignore[arg-type]
