"""Test paths between features: lines, arcs, probabilities, and grids of keypoints."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from conftest import photographs
from preimage.representations.sift import Sift
from preimage.spec import Spec
from preimage.studies.feature_paths import feature_path, has_arc, keypoint_path, linear_path, spherical_path

VECTOR = Spec("v", "toy", 5, None)
POSITIONS = torch.linspace(0, 1, 6)


def _vectors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 5))).float()
    return drawn[0], 3 * drawn[1]


def test_a_line_has_the_ends_and_even_steps() -> None:
    first, last = _vectors()
    path = feature_path(VECTOR, first, last, POSITIONS)
    assert torch.equal(path[0], first)
    assert torch.equal(path[-1], last)
    torch.testing.assert_close(path.diff(dim=0), ((last - first) / 5).expand(5, -1))
    maps = linear_path(first.view(5, 1, 1), last.view(5, 1, 1), POSITIONS)
    assert torch.equal(maps.flatten(1), path)


def test_an_arc_turns_evenly_and_its_norm_is_linear() -> None:
    first, last = _vectors()
    path = feature_path(VECTOR, first, last, POSITIONS, spherical=True)
    torch.testing.assert_close(path[[0, -1]], torch.stack((first, last)))
    torch.testing.assert_close(path.norm(dim=1), torch.lerp(first.norm(), last.norm(), POSITIONS))
    directions = path.double() / path.double().norm(dim=1, keepdim=True)
    angles = (directions[1:] * directions[:-1]).sum(dim=1).arccos()
    whole = math.acos(float(directions[0] @ directions[-1]))
    torch.testing.assert_close(angles, torch.full((5,), whole / 5, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    maps = spherical_path(first.view(5, 1, 1), last.view(5, 1, 1), POSITIONS)
    assert torch.equal(maps.flatten(1), path)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, -0.5, 0.0])
def test_without_an_arc_the_path_is_a_line(factor: float) -> None:
    first, _ = _vectors()
    for one, other in ((first, factor * first), (factor * first, first), (first, factor * first * (1 + 1e-7))):
        assert not has_arc(one, other)
        path = spherical_path(one, other, POSITIONS)
        assert path.isfinite().all()
        assert torch.equal(path, linear_path(one, other, POSITIONS))


@pytest.mark.parametrize("spherical", [False, True])
def test_probabilities_stay_probabilities(spherical: bool) -> None:
    first, last = (vector.softmax(dim=0) for vector in _vectors())
    one_class = torch.eye(5)[2]
    for one, other in ((first, last), (first, one_class), (torch.eye(5)[0], one_class)):
        path = feature_path(VECTOR, one, other, POSITIONS, spherical=spherical)
        assert (path >= 0).all()
        torch.testing.assert_close(path.sum(dim=1), torch.ones(6))


def _grids() -> tuple[torch.Tensor, torch.Tensor]:
    sift = Sift(variant="opencv")
    images = [torch.from_numpy(photographs()[name][:96, 200:296].copy()) for name in ("astronaut", "chelsea")]
    grids = sift(torch.stack(images).permute(0, 3, 1, 2).contiguous())
    return grids[0], grids[1]


def test_every_cell_of_a_keypoint_path_is_a_keypoint_or_empty() -> None:
    first, last = _grids()
    path = feature_path(Sift(variant="opencv").spec, first, last, POSITIONS, seed=4)
    torch.testing.assert_close(path[[0, -1]], torch.stack((first, last)))
    norms = path[:, 130:132].norm(dim=1)
    is_full = norms > 0
    torch.testing.assert_close(norms[is_full], torch.ones(int(is_full.sum())))
    assert not path.movedim(1, -1)[~is_full].any()
    in_first, in_last = is_full[0], is_full[-1]
    assert is_full[:, in_first & in_last].all()
    assert not is_full[:, ~in_first & ~in_last].any()
    only_first, only_last = in_first & ~in_last, in_last & ~in_first
    assert only_first.sum() > 9 and only_last.sum() > 9
    for cells, end, sign in ((only_first, first, -1), (only_last, last, 1)):
        steps = is_full[:, cells].int().diff(dim=0)
        assert (sign * steps >= 0).all(), "a keypoint appears or disappears once"
        assert len(set(steps.abs().argmax(dim=0).tolist())) > 2, "not all at one position"
        for grid, full in zip(path, is_full, strict=True):
            assert torch.equal(grid[:, full & cells], end[:, full & cells])
    assert torch.equal(path, keypoint_path(first, last, POSITIONS, 4))
    assert not torch.equal(path, keypoint_path(first, last, POSITIONS, 5))


def test_angles_turn_on_the_shorter_way() -> None:
    def grid(angle: float) -> torch.Tensor:
        values = torch.zeros(133, 1, 1)
        values[130], values[131], values[132] = math.sin(angle), math.cos(angle), 1 + angle
        return values

    middle = keypoint_path(grid(math.radians(170)), grid(math.radians(-170)), torch.tensor([0.5]))[0]
    assert middle[130:132].flatten().tolist() == pytest.approx([0, -1], abs=1e-6)
    assert float(middle[132]) == pytest.approx(1)
    opposite = keypoint_path(grid(0), grid(math.pi), torch.tensor([0.49, 0.5]))
    torch.testing.assert_close(opposite[:, 131].flatten(), torch.tensor([1.0, -1.0]))


def test_bad_features_are_named() -> None:
    first, last = _vectors()
    with pytest.raises(ValueError, match=r"\(5,\).*\(4,\)"):
        feature_path(VECTOR, first, last[:4], POSITIONS)
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"v features.*NaN"):
            feature_path(VECTOR, first, last.index_fill(0, torch.tensor([1]), bad), POSITIONS)
    with pytest.raises(ValueError, match="SIFT"):
        feature_path(Sift().spec, *_grids(), POSITIONS, spherical=True)
