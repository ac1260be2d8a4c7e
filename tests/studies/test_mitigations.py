"""Test changes of features: what they keep, that they are deterministic, and the recall that is left."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import photographs
from preimage import Keypoints, sift
from preimage.studies.mitigations import (
    add_noise,
    drop_dimensions,
    list_mitigations,
    neighbor_overlap,
    project,
    quantize,
)

GENERATOR = torch.Generator().manual_seed(4)
SCALES = torch.linspace(0.1, 3, 12)
VECTORS = torch.randn(40, 12, generator=GENERATOR) * SCALES + 5
MAPS = torch.randn(6, 12, 3, 5, generator=GENERATOR) * SCALES.view(-1, 1, 1)
BOTH = pytest.mark.parametrize("values", [VECTORS, MAPS], ids=["vectors", "maps"])


@BOTH
def test_noise_is_relative_to_the_deviation_around_the_means(values: torch.Tensor) -> None:
    axes = [axis for axis in range(values.dim()) if axis != 1]
    deviation = (values - values.mean(dim=axes, keepdim=True)).square().mean().sqrt()
    noise = add_noise(values, 0.5, seed=3) - values
    assert float(noise.std()) == pytest.approx(0.5 * float(deviation), rel=0.1)
    assert torch.allclose(add_noise(values, 1.0, seed=3) - values, 2 * noise, atol=1e-5)
    assert torch.equal(add_noise(values, 0.5, seed=3) - values, noise)
    assert not torch.equal(add_noise(values, 0.5, seed=4) - values, noise)
    assert torch.equal(add_noise(values, 0), values)


@BOTH
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_quantization_rounds_to_few_values_of_each_dimension(values: torch.Tensor, bits: int) -> None:
    rounded = quantize(values, bits)
    for before, after in zip(values.movedim(1, 0), rounded.movedim(1, 0), strict=True):
        step = float(before.max() - before.min()) / 2**bits
        assert len(after.unique()) <= 2**bits
        assert float((before - after).abs().max()) <= step / 2 * 1.001


def test_quantization_keeps_a_constant_dimension() -> None:
    values = torch.tensor([[1.0, 2.0], [1.0, 3.0]])
    assert quantize(values, 1).tolist() == [[1, 2.25], [1, 2.75]]


@BOTH
def test_projection_keeps_a_subspace_around_the_means(values: torch.Tensor) -> None:
    projected = project(values, 4, seed=1)
    assert torch.allclose(project(projected, 4, seed=1), projected, atol=1e-4), "a second time changes nothing"
    flat = projected.movedim(1, -1).reshape(-1, 12)
    assert int(torch.linalg.matrix_rank(flat - flat.mean(dim=0), atol=1e-3)) == 4
    assert torch.allclose(flat.mean(dim=0), values.movedim(1, -1).reshape(-1, 12).mean(dim=0), atol=1e-4)
    assert torch.allclose(project(values, 12), values, atol=1e-4)


@BOTH
def test_dropping_keeps_nested_dimensions_and_sets_the_others_to_their_means(values: torch.Tensor) -> None:
    kept: list[set[int]] = []
    for count in (3, 6, 12):
        left = drop_dimensions(values, count, seed=2).movedim(1, 0)
        same = {number for number, (a, b) in enumerate(zip(values.movedim(1, 0), left, strict=True)) if a.equal(b)}
        assert len(same) == count
        for number in set(range(12)) - same:
            assert torch.allclose(left[number], values.movedim(1, 0)[number].mean())
        kept.append(same)
    assert kept[0] < kept[1] < kept[2]


@pytest.mark.parametrize("change", [project, drop_dimensions])
def test_values_out_of_range(change: object) -> None:
    assert callable(change)
    for dimensions in (0, 13):
        with pytest.raises(ValueError, match=rf"dimensions.*12.*{dimensions}"):
            change(VECTORS, dimensions)
    with pytest.raises(ValueError, match=r"bits.*17"):
        quantize(VECTORS, 17)
    with pytest.raises(ValueError, match=r"level.*-1"):
        add_noise(VECTORS, -1)


@BOTH
def test_the_list_of_changes(values: torch.Tensor) -> None:
    changes = list_mitigations(values, seed=1)
    assert [change.name for change in changes] == [
        *("noise, 0.1 σ", "noise, 0.25 σ", "noise, 0.5 σ", "noise, 1 σ"),
        *("quantization, 8 bits", "quantization, 4 bits", "quantization, 2 bits", "quantization, 1 bit"),
        *("projection, 6 of 12", "projection, 3 of 12", "projection, 1 of 12"),
        *("dropping, 6 of 12", "dropping, 3 of 12", "dropping, 1 of 12"),
    ]
    for change in changes:
        changed = change(values)
        assert isinstance(changed, torch.Tensor)
        assert changed.shape == values.shape and not torch.equal(changed, values)
        assert torch.equal(change(values), changed)
    assert torch.equal(changes[5](values), quantize(values, 4))  # type: ignore[arg-type]
    assert torch.equal(changes[-2](values), drop_dimensions(values, 3, 1))  # type: ignore[arg-type]


def test_features_of_one_dimension_are_not_reduced() -> None:
    kinds = {change.kind for change in list_mitigations(torch.randn(5, 1))}
    assert kinds == {"noise", "quantization"}


def test_changes_of_keypoints() -> None:
    image = photographs()["coffee"][:128, :160].transpose(2, 0, 1).copy()
    keypoints = Keypoints.cat([sift(torch.from_numpy(image)), sift(torch.from_numpy(image[:, :, ::-1].copy()))])
    changes = list_mitigations(keypoints)
    assert [change.setting for change in changes[-3:]] == ["50 %", "25 %", "10 %"]
    for change in changes:
        changed = change(keypoints)
        assert isinstance(changed, Keypoints) and len(changed) == 2
        norms = changed.descriptors.norm(dim=1)
        assert ((norms - 1).abs() < 1e-5).logical_or(norms == 0).all()
        assert (changed.descriptors >= 0).all()
        if change.kind == "fewer keypoints":
            assert len(changed.x) < len(keypoints.x)
        else:
            assert torch.equal(changed.x, keypoints.x)
            assert not torch.equal(changed.descriptors, keypoints.descriptors)


def test_the_overlap_of_neighbors() -> None:
    values = torch.tensor([[0.0], [1.0], [3.0], [7.0], [15.0]]) + 1e4
    assert neighbor_overlap(values, values, 2) == [1] * 5
    assert neighbor_overlap(values, -2 * values, 2) == [1] * 5
    swapped = values[[0, 1, 2, 4, 3]]
    # Neighbors of 0, 1, 3, 7 and 15, the last two exchanged.
    assert neighbor_overlap(values, swapped, 2) == [1, 1, 1, 0.5, 0.5]


def test_the_overlap_of_random_features_is_that_of_chance() -> None:
    values, other = torch.randn(300, 8, generator=GENERATOR), torch.randn(300, 8, generator=GENERATOR)
    assert np.mean(neighbor_overlap(values, other, 10)) == pytest.approx(10 / 299, abs=0.02)
