"""Test the container of sparse keypoints."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

import preimage
from preimage import Keypoints

FIELDS = ("x", "y", "scale", "angle", "response", "descriptors")


def made(counts: list[int]) -> Keypoints:
    """Return random keypoints with the given number for each image."""
    count = sum(counts)
    generator = torch.Generator().manual_seed(count)
    fields = {name: torch.rand(count, generator=generator) * 6 for name in FIELDS[:-1]}
    descriptors = torch.rand(count, 128, generator=generator)
    return Keypoints(**fields, descriptors=descriptors, offsets=torch.tensor([0, *torch.tensor(counts).cumsum(0)]))


def colored(counts: list[int]) -> Keypoints:
    """Return random keypoints with colors, of which every third is unknown."""
    keypoints = made(counts)
    colors = torch.rand(len(keypoints.x), 3, generator=torch.Generator().manual_seed(1))
    colors[::3] = torch.nan
    return dataclasses.replace(keypoints, colors=colors)


def same(one: Keypoints, other: Keypoints) -> bool:
    one, other = one.to_torch(), other.to_torch()
    if (one.colors is None) != (other.colors is None):
        return False
    if one.colors is not None and not torch.equal(one.colors.nan_to_num(-1), other.colors.nan_to_num(-1)):
        return False
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in (*FIELDS, "offsets"))


some_counts = st.lists(st.integers(0, 4), max_size=5)


@hypothesis.given(counts=some_counts, others=some_counts, random=st.sampled_from([made, colored]))
def test_images_and_batches(counts: list[int], others: list[int], random: Callable[[list[int]], Keypoints]) -> None:
    batch, rest = random(counts), random(others)
    assert len(batch) == len(counts)
    images = [batch[index] for index in range(len(batch))]
    assert [len(image.x) for image in images] == counts
    assert all(len(image) == 1 for image in images)
    assert same(Keypoints.cat(images), batch) or not counts  # a batch of no images has no colors
    both = Keypoints.cat([batch, rest])
    assert len(both) == len(counts) + len(others)
    assert same(Keypoints.cat([both[index] for index in range(len(counts))]), batch) or not counts


def test_indices() -> None:
    batch = made([2, 0, 3])
    assert same(batch[-1], batch[2]) and same(batch[-3], batch[0])
    assert torch.equal(batch[2].x, batch.x[2:])
    for index in (3, -4):
        with pytest.raises(IndexError, match=rf"3.*{index}"):
            batch[index]


def test_select() -> None:
    batch = made([2, 0, 3, 1])
    chosen = batch.select(torch.tensor([True, False, False, True, True, False]))
    assert chosen.offsets.tolist() == [0, 1, 1, 3, 3]
    assert torch.equal(chosen.descriptors, batch.descriptors[[0, 3, 4]])
    assert same(batch.select(torch.ones(6, dtype=torch.bool)), batch)
    for keep in (torch.ones(6), torch.ones(5, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"keep.*\(6,\)"):
            batch.select(keep)


def test_mirrored() -> None:
    """Mirrors a keypoint along +x whose gradients are at 45° on its right side."""
    angle = torch.tensor([0.0, math.pi / 2, 1.0])
    descriptors = torch.zeros(3, 128)
    descriptors[:, 1 + 8 * 2 + 32 * 3] = 1  # orientation 1, column 2, row 3
    batch = dataclasses.replace(made([3]), x=torch.tensor([0.0, 3.0, 5.5]), angle=angle, descriptors=descriptors)
    mirrored = batch.mirrored(7)
    assert mirrored.x.tolist() == [6.0, 3.0, 0.5]
    assert torch.equal(mirrored.y, batch.y) and torch.equal(mirrored.scale, batch.scale)
    assert mirrored.angle.tolist() == pytest.approx([math.pi, math.pi / 2, math.pi - 1])
    # Rows are to the right of columns: mirrored they are to the left, and orientations turn the other way.
    assert mirrored.descriptors.nonzero().tolist() == [[k, 7 + 8 * 2 + 32 * 0] for k in range(3)]
    twice = mirrored.mirrored(7)
    assert torch.equal(twice.descriptors, batch.descriptors)
    assert torch.cos(twice.angle - batch.angle).min() > 1 - 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": torch.zeros(4)}, r"y.*float32 \(5,\).*float32 \(4,\)"),
        ({"angle": torch.zeros(5, dtype=torch.float64)}, r"angle.*float32 \(5,\)"),
        ({"descriptors": torch.zeros(5, 64)}, r"descriptors.*float32 \(5, 128\)"),
        ({"offsets": torch.tensor([0, 2, 5], dtype=torch.int32)}, r"offsets.*int64"),
        ({"offsets": torch.zeros(0, dtype=torch.int64)}, r"offsets.*int64"),
        ({"offsets": torch.tensor([[0, 5]])}, r"offsets.*int64"),
        ({"offsets": torch.tensor([0, 4])}, r"offsets.*0.*5"),
        ({"offsets": torch.tensor([1, 5])}, r"offsets.*0"),
        ({"offsets": torch.tensor([0, 3, 2, 5])}, r"offsets.*0"),
    ],
)
def test_inconsistent_fields_are_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(made([2, 3]), **changes)


@pytest.mark.parametrize("scale", [torch.zeros(5, device="meta"), np.zeros(5, np.float32), [0.0] * 5])
def test_other_containers_are_rejected(scale: Any) -> None:
    with pytest.raises(TypeError, match=r"NumPy.*torch.*CPU"):
        dataclasses.replace(made([2, 3]), scale=scale)


@pytest.mark.parametrize("random", [made, colored])
def test_arrays_and_tensors_share_memory_and_agree(random: Callable[[list[int]], Keypoints]) -> None:
    tensors = random([2, 0, 3])
    arrays = tensors.to_numpy()
    assert arrays.to_numpy() is arrays and tensors.to_torch() is tensors
    keep = np.array([True, False, True, True, False])
    results = {
        "index": lambda keypoints: keypoints[2],
        "select": lambda keypoints: keypoints.select(keep),
        "mirrored": lambda keypoints: keypoints.mirrored(7),
        "cat": lambda keypoints: Keypoints.cat([keypoints, keypoints[0]]),
    }
    for compute in results.values():
        of_arrays, of_tensors = compute(arrays), compute(tensors)
        assert isinstance(of_arrays.x, np.ndarray) and isinstance(of_tensors.x, torch.Tensor)
        assert same(of_arrays, of_tensors)
    arrays.x[0] = 7
    assert tensors.x[0] == 7


@pytest.mark.parametrize("cell", [1, 4, 7])
def test_a_grid_of_cells_and_back(cell: int) -> None:
    keypoints = made([30, 0, 12])
    keypoints = dataclasses.replace(keypoints, scale=keypoints.scale + 0.1, x=keypoints.x * 7, y=keypoints.y * 5)
    grid = preimage.sift_grid(keypoints, (31, 44), cell, descriptor_scale=3.0)
    again = Keypoints.from_grid(grid, cell, descriptor_scale=3.0)
    assert len(again) == 3
    assert isinstance(again.x, torch.Tensor)
    cells = (grid[:, 130:132] != 0).any(dim=1).sum(dim=(1, 2))
    assert again.offsets.diff().tolist() == cells.tolist()
    for name in ("x", "y", "scale", "angle", "descriptors"):  # every keypoint is one of its image's
        values = getattr(again, name)
        for image in range(3):
            given = getattr(keypoints[image], name).reshape(-1, values[0].numel())
            found = values[again.offsets[image] : again.offsets[image + 1]].reshape(-1, values[0].numel())
            assert all((given - row).abs().amax(dim=1).min() < 1e-5 for row in found)
    torch.testing.assert_close(preimage.sift_grid(again, (31, 44), cell, descriptor_scale=3.0), grid)


def test_grids_of_other_types_and_with_gradients() -> None:
    grid = preimage.sift_grid(made([5]), (31, 44), 4)
    rounded = grid.bfloat16()
    expected = Keypoints.from_grid(rounded.float(), 4)
    for given in (rounded, rounded.float().requires_grad_(), rounded.double()):
        assert same(Keypoints.from_grid(given, 4), expected)


@pytest.mark.parametrize(("sine", "angle"), [(-1e-9, 0), (0, 0), (-1, 1.75 * math.pi), (1, 0.25 * math.pi)])
def test_angles_of_a_grid_are_below_a_full_turn(sine: float, angle: float) -> None:
    grid = np.zeros((1, 133, 1, 1), np.float32)
    grid[0, 130:132, 0, 0] = sine, 1
    found = Keypoints.from_grid(grid, 4).angle
    assert found == pytest.approx([angle]) and 0 <= found[0] < 2 * math.pi


def test_an_empty_grid_and_other_shapes() -> None:
    arrays = Keypoints.from_grid(np.zeros((2, 133, 3, 5), np.float16), 4)
    assert arrays.offsets.tolist() == [0, 0, 0]
    assert isinstance(arrays.x, np.ndarray)
    with pytest.raises(ValueError, match=r"133.*136.*\(133, 3, 5\)"):
        Keypoints.from_grid(np.zeros((133, 3, 5)), 4)


def test_colors_of_bytes_are_divided() -> None:
    keypoints = made([2])
    colors = torch.tensor([[0, 51, 255], [1, 2, 3]], dtype=torch.uint8)
    tensors = dataclasses.replace(keypoints, colors=colors)
    arrays = dataclasses.replace(keypoints.to_numpy(), colors=colors.numpy())
    assert same(arrays, tensors)
    assert tensors.colors.dtype == torch.float32 and arrays.colors.dtype == np.float32
    assert tensors.colors[0].tolist() == pytest.approx([0, 0.2, 1])


@pytest.mark.parametrize(
    ("colors", "error", "message"),
    [
        (torch.zeros(5, 4), ValueError, r"colors.*\(5, 3\).*\(5, 4\)"),
        (torch.zeros(5, 3, dtype=torch.float64), ValueError, r"colors.*float32.*float64"),
        (torch.full((5, 3), 1.5), ValueError, r"colors.*\[0, 1\]"),
        (torch.full((5, 3), -0.1), ValueError, r"colors.*\[0, 1\]"),
        (torch.full((5, 3), torch.inf), ValueError, r"colors.*\[0, 1\]"),
        (np.zeros((5, 3), np.float32), TypeError, "NumPy.*torch"),
        ([[0, 0, 0]] * 5, TypeError, "NumPy.*torch"),
    ],
)
def test_wrong_colors_are_rejected(colors: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dataclasses.replace(made([2, 3]), colors=colors)


def test_batches_with_and_without_colors() -> None:
    with_, without = colored([2]), made([3])
    both = Keypoints.cat([without, with_])
    assert both.colors[:3].isnan().all()
    assert same(both[1], with_)
    unknown = without.with_colors()
    assert unknown.colors.isnan().all() and unknown.colors.shape == (3, 3)
    assert with_.with_colors() is with_
    assert isinstance(without.to_numpy().with_colors().colors, np.ndarray)


@pytest.mark.parametrize("arrays", [False, True])
def test_colors_in_a_grid_and_back(arrays: bool) -> None:
    keypoints = dataclasses.replace(colored([9, 0, 4]), scale=torch.ones(13))
    grid = preimage.sift_grid(keypoints.to_numpy() if arrays else keypoints, (20, 20), 1)
    assert grid.shape == (3, 136, 20, 20)
    again = Keypoints.from_grid(grid, 1).to_torch()
    for image in range(3):
        given = keypoints[image].colors.nan_to_num(-1)
        assert all((given - row).abs().amax(dim=1).min() < 1e-6 for row in again[image].colors.nan_to_num(-1))
    assert again.colors.isnan().any() and not again.colors.isnan().all()
