"""Test maps of gradients from keypoints: positions and directions of histograms."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from conftest import photographs
from preimage.inverters import Inverter, UShapedConfig, keypoint_splat
from preimage.inverters.keypoint_splat import ORIENTATIONS, KeypointSplat
from preimage.keypoints import Keypoints
from preimage.ops.sift_grid import sift_grid
from preimage.representations import create_representation

SIFT = create_representation("sift", variant="opencv")
NETWORK = UShapedConfig(
    widths=(8, 8), blocks_down=(0, 0), blocks_up=(0,), head=(4, 4), entry=("c3/2 8",), splat_levels=3
)


def one_keypoint(x: float, y: float, scale: float, angle: float, descriptor: torch.Tensor) -> torch.Tensor:
    """Return the grid (1, 133, 64, 64) of a single keypoint."""
    value = [torch.tensor([float(number)]) for number in (x, y, scale, angle, 0)]
    return sift_grid(Keypoints(*value, descriptor[None], torch.tensor([0, 1])), (256, 256))


def single_bin(row: int, column: int, orientation: int) -> torch.Tensor:
    descriptor = torch.zeros(128)
    descriptor[orientation + 8 * column + 32 * row] = 1
    return descriptor


@pytest.mark.parametrize("angle", [0.0, math.pi / 2, 2.1, 5.5])
@pytest.mark.parametrize(("row", "column", "orientation"), [(0, 0, 0), (3, 1, 2), (1, 3, 5)])
def test_a_bin_lands_where_it_was_taken(angle: float, row: int, column: int, orientation: int) -> None:
    scale, x, y = 2.5, 120.3, 131.7
    maps = KeypointSplat(4, 8, 3)(one_keypoint(x, y, scale, angle, single_bin(row, column, orientation)))[0]
    amounts = maps[:ORIENTATIONS] * (maps[ORIENTATIONS] > 0)
    # Undo the averaging: weights w come out as w / (w + 0.5).
    weight = 0.5 * maps[ORIENTATIONS] / (1 - maps[ORIENTATIONS])
    deposited = amounts * (weight + 0.02) / 4
    along, down = 3 * scale * (column - 1.5), 3 * scale * (row - 1.5)
    expected_x = x + 0.5 + math.cos(angle) * along - math.sin(angle) * down
    expected_y = y + 0.5 + math.sin(angle) * along + math.cos(angle) * down
    centers = 8 * (torch.arange(32) + 0.5)
    at = deposited.sum(0) / deposited.sum()
    assert (at.sum(0) * centers).sum() == pytest.approx(expected_x, abs=1e-3)
    assert (at.sum(1) * centers).sum() == pytest.approx(expected_y, abs=1e-3)
    directions = torch.arange(ORIENTATIONS) * 2 * math.pi / ORIENTATIONS
    by_direction = deposited.sum(dim=(1, 2))
    mean = torch.atan2((by_direction * directions.sin()).sum(), (by_direction * directions.cos()).sum()).item()
    off = (mean - angle - orientation * math.pi / 4 + math.pi) % (2 * math.pi) - math.pi
    assert abs(off) < math.radians(6)  # 8 bins interpolated at 12 positions


@pytest.mark.parametrize(("scale", "level"), [(0.9, 0), (2.5, 0), (3.9, 1), (7.6, 2), (40.0, 2)])
def test_large_keypoints_go_to_coarse_maps(scale: float, level: int) -> None:
    maps = KeypointSplat(4, 8, 3)(one_keypoint(128, 128, scale, 0.3, single_bin(1, 1, 0)))
    used = [bool((part[:, -1] > 0).any()) for part in maps.split(ORIENTATIONS + 1, dim=1)]
    assert used == [index == level for index in range(3)]


def test_where_keypoints_overlap_their_histograms_are_averaged() -> None:
    torch.manual_seed(0)
    features = SIFT.grid(SIFT.keypoints(torch.rand(1, 3, 64, 64)), (64, 64))
    maps = KeypointSplat(4, 8, 2)(features)
    assert maps.shape == (1, 2 * (ORIENTATIONS + 1), 8, 8)
    assert maps.isfinite().all()
    assert (maps >= 0).all()
    assert (maps[:, ORIENTATIONS] < 1).all()
    assert maps[:, :ORIENTATIONS].max() < 4 * 1.6  # no descriptor value is above 1; the window divides by 0.57 at most


def test_maps_agree_with_the_gradients_of_a_photograph() -> None:
    """Directions agree with those of the image's gradient where descriptors cover the image."""
    image = torch.from_numpy(photographs()["astronaut"][:256, 100:356]).permute(2, 0, 1)[None]
    maps = KeypointSplat(4, 8, 1)(SIFT(image))[0]
    gray = F.avg_pool2d(image.float().mean(dim=1, keepdim=True) / 255, 3, 1, 1)[0, 0]
    down, right = torch.gradient(gray)
    position = torch.atan2(down, right) % (2 * math.pi) / (2 * math.pi) * ORIENTATIONS
    bins = torch.arange(ORIENTATIONS)[:, None, None]
    away = ((position - bins + ORIENTATIONS / 2) % ORIENTATIONS - ORIENTATIONS / 2).abs()
    votes = F.avg_pool2d((1 - away * 2 / 3).clamp_min(0) * (down**2 + right**2).sqrt(), 8)
    covered = maps[ORIENTATIONS] > 0.5
    told, there = (values[:, covered] - values[:, covered].mean(dim=0) for values in (maps[:ORIENTATIONS], votes))
    cosine = F.cosine_similarity(told, there, dim=0).mean()
    assert cosine > 0.5
    assert F.cosine_similarity(told.roll(3, 0), there, dim=0).mean() < 0


def test_no_keypoints_and_batches() -> None:
    splat = KeypointSplat(4, 8, 3)
    empty = torch.zeros(1, 133, 16, 24)
    assert not splat(empty).any()
    images = torch.from_numpy(np.stack([image[:96, :128] for image in photographs().values()])).permute(0, 3, 1, 2)
    features = torch.cat((SIFT(images), torch.zeros(1, 133, 24, 32)))
    maps = splat(features)
    for index in range(len(features)):
        torch.testing.assert_close(maps[index : index + 1], splat(features[index : index + 1]), atol=1e-6, rtol=0)


def crops() -> torch.Tensor:
    """Return features of photographs, 100 × 130 pixels each."""
    images = torch.from_numpy(np.stack([image[60:160, :130] for image in photographs().values()])).permute(0, 3, 1, 2)
    return SIFT(images)


def test_the_numbers_do_not_depend_on_threads() -> None:
    splat, before = KeypointSplat(4, 8, 3), torch.get_num_threads()
    features = crops().repeat(8, 1, 1, 1)
    try:
        torch.set_num_threads(1)
        expected = splat(features)
        for threads in (2, 3, 2):
            torch.set_num_threads(threads)
            assert torch.equal(splat(features), expected)
    finally:
        torch.set_num_threads(before)


def test_takes_any_precision_and_gives_float32() -> None:
    splat, features = KeypointSplat(4, 8, 3), crops()
    expected = splat(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(splat(features), expected)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(splat(features.to(dtype)), splat(features.to(dtype).float()))
    assert not splat(features.requires_grad_()).requires_grad


def test_what_is_left_over_at_the_edge_has_no_cell() -> None:
    features = crops()
    assert features.shape[2:] == (25, 33)
    maps = KeypointSplat(4, 8, 3)(features)
    assert maps.shape == (len(features), 39, 12, 16)
    # Only the finest map, because coarser cells at the edge extend beyond the image.
    torch.testing.assert_close(maps[:, :13], KeypointSplat(4, 8, 3)(F.pad(features, (0, 3, 0, 3)))[:, :13, :12, :16])


@pytest.mark.parametrize(("channel", "value"), [(132, math.nan), (132, 500.0), (128, math.inf), (129, math.nan)])
def test_a_keypoint_beyond_reason_draws_nothing(channel: int, value: float) -> None:
    features = one_keypoint(40, 40, 2.5, 0.3, single_bin(1, 1, 0))
    ((row, column),) = features[0, 132].nonzero().tolist()
    features[0, channel, row, column] = value
    maps = KeypointSplat(4, 8, 3)(features)
    assert not maps.any()


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_all_cells_draw_what_those_with_keypoints_draw(precision: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU goes through all cells, without an operation whose result has a size that depends on the values."""
    splat, features = KeypointSplat(4, 8, 3), torch.cat((crops(), torch.zeros(1, 133, 25, 33))).to(precision)
    features[0, :128, 5, 7] = torch.inf  # stays in its image
    expected = splat(features)
    monkeypatch.setattr(keypoint_splat, "_cells_with_keypoints", keypoint_splat._every_cell)
    assert torch.equal(splat(features)[1:], expected[1:])
    assert not splat(features)[-1].any()
    refused = {torch.tensor, torch.as_tensor, torch.from_numpy}  # copies from the host, which wait for the device

    class NoCopies(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert function not in refused
            return function(*args, **(kwargs or {}))

    with FakeTensorMode(), NoCopies():  # tensors without values
        assert splat(torch.empty(2, 133, 25, 33)).shape == (2, 39, 12, 16)


# ---- Colors ----

IN_COLOR = create_representation("sift", variant="opencv", color=True)


def color_maps(maps: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """Return red, green, blue and their coverage, (B, 4, h, w), of each level."""
    return list(maps[:, levels * (ORIENTATIONS + 1) :].split(4, dim=1))


def colored_crops() -> torch.Tensor:
    """Return features of photographs, of which every second keypoint has no color."""
    images = torch.from_numpy(np.stack([image[60:160, :130] for image in photographs().values()])).permute(0, 3, 1, 2)
    keypoints = IN_COLOR.keypoints(images)
    keypoints.colors[::2] = torch.nan
    return IN_COLOR.grid(keypoints, (100, 130))


def test_the_maps_of_gradients_do_not_depend_on_colors() -> None:
    features = colored_crops()
    maps = KeypointSplat(4, 8, 3, 136)(features)
    assert maps.shape[1] == KeypointSplat(4, 8, 3, 136).out_channels == 3 * (13 + 4)
    assert torch.equal(maps[:, :39], KeypointSplat(4, 8, 3)(features[:, :133]))


def test_every_level_contains_the_mean_color_of_its_cells() -> None:
    """Far from the edge, a color is spread over the four nearest cells in proportion to the distance."""
    color = torch.tensor([0.9, 0.5, 0.1])
    features = torch.cat((one_keypoint(131.5, 99.5, 2.5, 0.3, single_bin(1, 1, 0)), torch.zeros(1, 3, 64, 64)), dim=1)
    ((row, column),) = features[0, 132].nonzero().tolist()
    features[0, 133:, row, column] = color - 0.5
    maps = KeypointSplat(4, 8, 3, 136)(features)
    finest = color_maps(maps, 3)[0][0]
    # In cells of 8 pixels, the keypoint is in the middle of columns 16 and 17 (at 16.5 - 0.5), in row 12.5 - 0.5.
    weights = 0.5 * finest[3] / (1 - finest[3])
    assert weights.sum() == pytest.approx(1, abs=1e-4)
    centers = 8 * (torch.arange(32) + 0.5)
    assert ((weights.sum(0) * centers).sum(), (weights.sum(1) * centers).sum()) == (
        pytest.approx(132, abs=1e-2),
        pytest.approx(100, abs=1e-2),
    )
    for level_map in color_maps(maps, 3):
        covered = level_map[0, 3] > 0.3
        assert covered.any()
        mean = level_map[0, :3, covered].mean(dim=1) / 4 + 0.5
        assert (mean - color).abs().max() < 0.1  # the averages are drawn toward gray where there is little
    areas = [int((level_map[0, 3] > 0.05).sum()) for level_map in color_maps(maps, 3)]
    assert areas[0] < areas[1] < areas[2]


def test_colors_of_several_keypoints_are_averaged() -> None:
    image = torch.from_numpy(photographs()["chelsea"][:256, :256]).permute(2, 0, 1)[None]
    maps = KeypointSplat(4, 8, 4, 136)(IN_COLOR(image))
    coarsest = color_maps(maps, 4)[-1][0]
    covered = coarsest[3] > 0.6
    expected = F.avg_pool2d(image.float() / 255, 8)[0, :, covered].mean(dim=1)
    assert (coarsest[:3, covered].mean(dim=1) / 4 + 0.5 - expected).abs().max() < 0.1


def test_without_known_colors_their_maps_are_empty() -> None:
    features = colored_crops()
    features[:, 133:] = 0
    assert not any(part.any() for part in color_maps(KeypointSplat(4, 8, 3, 136)(features), 3))


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_colors_of_all_cells_batches_and_threads(precision: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    splat, features = KeypointSplat(4, 8, 3, 136), torch.cat((colored_crops(), torch.zeros(1, 136, 25, 33)))
    features = features.to(precision)
    expected = splat(features)
    assert expected.dtype == torch.float32
    for index in range(len(features)):
        torch.testing.assert_close(expected[index : index + 1], splat(features[index : index + 1]), atol=1e-6, rtol=0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(splat(features), expected)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(keypoint_splat, "_cells_with_keypoints", keypoint_splat._every_cell)
    assert torch.equal(splat(features), expected)
    with FakeTensorMode():  # tensors without values
        assert splat(torch.empty(2, 136, 25, 33)).shape == (2, 51, 12, 16)


def test_a_network_with_colors_saves_loads_and_trains(tmp_path: object) -> None:
    torch.manual_seed(0)
    inverter = Inverter(IN_COLOR.spec, NETWORK)
    images = (255 * torch.rand(2, 3, 64, 64)).byte()
    features = IN_COLOR(images)
    inverter.distances(features, images).sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in inverter.parameters() if weight.dim() > 1)
    again = Inverter.load(inverter.save(str(tmp_path)))
    with torch.inference_mode():
        torch.testing.assert_close(again(features), inverter(features))


@pytest.mark.gpu
def test_cuda_draws_what_the_cpu_draws() -> None:
    splat, features = KeypointSplat(4, 8, 3), crops()
    expected = splat(features)
    splat, features = splat.cuda(), features.cuda()
    drawn = splat(features)
    torch.testing.assert_close(drawn.cpu(), expected, atol=1e-5, rtol=0)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert torch.equal(splat(features), drawn)
    assert not splat(torch.zeros_like(features)).any()
    in_color, features = KeypointSplat(4, 8, 3, 136), colored_crops()
    torch.testing.assert_close(in_color.cuda()(features.cuda()).cpu(), in_color.cpu()(features), atol=1e-5, rtol=0)


def test_a_network_with_a_splat_saves_loads_and_trains(tmp_path: object) -> None:
    torch.manual_seed(0)
    inverter = Inverter(SIFT.spec, NETWORK)
    images = (255 * torch.rand(2, 3, 64, 64)).byte()
    features = SIFT(images)
    inverter.distances(features, images).sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in inverter.parameters() if weight.dim() > 1)
    again = Inverter.load(inverter.save(str(tmp_path)))
    assert not [name for name in again.state_dict() if "splat" in name]
    with torch.inference_mode():
        torch.testing.assert_close(again(features, size=(61, 63)), inverter(features, size=(61, 63)))


@pytest.mark.parametrize("changes", [{"splat_levels": -1}, {"entry": ()}, {"entry": ("c3/2 8", "up 8")}])
def test_refuses_a_splat_without_an_entry_of_its_size(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"splat_levels.*0"):
        dataclasses.replace(NETWORK, **changes)


def test_refuses_features_of_other_channels() -> None:
    with pytest.raises(ValueError, match=r"133 or 136 channels.*SIFT.*31"):
        Inverter(create_representation("hog").spec, NETWORK)
