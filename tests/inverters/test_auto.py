"""Test networks generated for features of any shape, the paper's for AlexNet, and their output regions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preimage.inverters import Inverter, OutputRegion, plan
from preimage.inverters.auto import BUDGET, auto
from preimage.inverters.output_region import placed
from preimage.representations.registry import class_of
from preimage.spec import Spec

PAPER = {
    "alexnet-conv1": (96, 27, 216, 1_864_899),
    "alexnet-conv2": (256, 13, 208, 2_848_067),
    "alexnet-conv3": (384, 13, 208, 3_142_979),
    "alexnet-conv4": (384, 13, 208, 3_142_979),
    "alexnet-conv5": (256, 6, 192, 4_486_723),
    "alexnet-fc6": (4096, None, 128, 53_060_419),
    "alexnet-fc7": (4096, None, 128, 53_060_419),
    "alexnet-fc8": (1000, None, 128, 40_379_203),
    "alexnet-prob": (1000, None, 128, 40_379_203),
}


def inverter_of(
    channels: int, cells: int | None, image_size: int, name: str = "network", **options: object
) -> Inverter:
    stride = None if cells is None else max(1, round(image_size / cells))
    spec = Spec(name, "v", channels, stride, {"image_size": image_size})
    square = None if cells is None else (cells, cells)
    chosen = plan(spec, options.pop("preset", "auto"), cells=square, image_size=image_size, **options)  # type: ignore[arg-type]
    return Inverter(spec, chosen.config, output_region=chosen.output_region)


def features_of(channels: int, cells: int | None, count: int = 2) -> torch.Tensor:
    return torch.rand(count, channels, *([] if cells is None else [cells, cells]))


@pytest.mark.parametrize("layer", PAPER)
@pytest.mark.parametrize("any_network", [False, True])
def test_the_papers_networks_for_alexnet(layer: str, any_network: bool) -> None:
    """Checks image sizes and parameter counts of the paper's section 3, with 3×3 layers before up-convolutions."""
    channels, cells, size, parameters = PAPER[layer]
    with torch.device("meta"):
        inverter = inverter_of(channels, cells, 227, "network" if any_network else layer, preset="paper")
        assert sum(weight.numel() for weight in inverter.parameters()) == parameters
        assert inverter.reconstruct(features_of(channels, cells)).shape == (2, 3, size, size)
    assert inverter.output_region == OutputRegion(227, 227 if cells is None else size, size)
    assert inverter.network.layers[-1].negative_slope is None


def test_presets_of_a_representation_with_images_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, layers, cells, region in (
        ("alexnet-conv5", ["c3/1 8", "up 8", "up 3"], 6, OutputRegion(227, 24, 24)),
        ("alexnet-fc6", ["fc 128", "grid 4 8", *["up 8"] * 4, "up 3"], None, OutputRegion(227, 227, 128)),
    ):
        presets = {"small": {"architecture": "single-stream", "layers": layers}}
        monkeypatch.setattr(class_of(name), "presets", presets)
        assert inverter_of(16, cells, 227, name, preset="small").output_region == region


@pytest.mark.parametrize(
    ("cells", "widths", "crop", "size"),
    [
        (112, (3,), 224, 224),
        (28, (64, 32, 3), 224, 224),
        (14, (128, 64, 32, 3), 224, 224),
        (7, (256, 128, 64, 32, 3), 224, 224),
        (3, (256, 256, 128, 64, 32, 3), 192, 192),
        (1, (256, 256, 256, 256, 128, 64, 32, 3), 224, 256),  # covers more than the image
        (16, (128, 64, 32, 3), 224, 256),
    ],
)
def test_the_papers_network_for_other_maps(cells: int, widths: tuple[int, ...], crop: int, size: int) -> None:
    with torch.device("meta"):
        inverter = inverter_of(40, cells, 224, preset="paper")
        assert inverter.reconstruct(features_of(40, cells)).shape == (2, 3, size, size)
    assert inverter.config.layers == (*["c3/1 256"] * 3, *(f"up {width}" for width in widths))
    assert inverter.output_region == OutputRegion(224, crop, size)


SHAPES = [
    (256, 6, 227, 227),
    (1024, 7, 224, 224),
    (384, 16, 224, 256),  # patches of 14 pixels
    (2048, 1, 224, 256),
    (7, None, 64, 128),
]
MORE_SHAPES = [
    (96, 27, 227, 227),
    (384, 13, 227, 227),
    (256, 28, 224, 224),
    (1056, 14, 224, 224),
    (64, 56, 224, 224),
    (64, 112, 224, 224),
    (512, 55, 227, 227),
    (1024, None, 224, 128),
    (4096, None, 227, 128),
]


@pytest.mark.parametrize(
    ("channels", "cells", "image_size", "size"),
    [*SHAPES, *(pytest.param(*shape, marks=pytest.mark.nightly) for shape in MORE_SHAPES)],
)
def test_auto_trains_on_features_of_any_shape(channels: int, cells: int | None, image_size: int, size: int) -> None:
    torch.manual_seed(0)
    inverter = inverter_of(channels, cells, image_size)
    count = sum(weight.numel() for weight in inverter.parameters())
    assert 0.5 * BUDGET < count <= BUDGET
    images = torch.randint(0, 256, (2, 3, image_size, image_size), dtype=torch.uint8)
    features = features_of(channels, cells)
    assert inverter(features).shape == inverter.target(images).shape == (2, 3, size, size)
    distances = inverter.distances(features, images)
    apart = torch.linalg.vector_norm(
        inverter.reconstruct(features) - inverter.target(images).float() / 255, dim=(1, 2, 3)
    )
    torch.testing.assert_close(distances, apart)
    distances.mean().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in inverter.parameters())


@pytest.mark.parametrize(("cells", "image_size"), [(27, 227), (13, 227), (6, 227), (14, 224), (16, 224), (55, 227)])
def test_features_stay_where_they_were_seen(cells: int, image_size: int) -> None:
    """The middle cell is in the middle of the reconstruction, up to half a cell."""
    inverter = inverter_of(1, cells, image_size)
    assert inverter.output_region is not None
    stride, size = inverter.network.stride, inverter.output_region.size
    before, after, first = placed(cells, inverter.network.multiple, stride, size)
    middle = (before + cells / 2) * stride - first
    assert abs(middle - size / 2) <= max(0.5, stride / 2 * ((before + after) % 2))
    assert (before + cells + after) % inverter.network.multiple == 0
    assert first >= 0 and first + size <= (before + cells + after) * stride


@given(st.integers(1, 80), st.integers(1, 16), st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(1, 700))
def test_placed_always_holds_the_pixels_wanted(cells: int, multiple: int, stride: int, size: int) -> None:
    before, after, first = placed(cells, multiple, stride, size)
    total = before + cells + after
    assert min(before, after, first) >= 0 and abs(before - after) <= 1
    assert total % multiple == 0 and first + size <= total * stride
    assert total - multiple < max(cells, -(-size // stride))


def test_sizes_and_budgets_are_kept_to() -> None:
    small = auto(384, 13, 227, output_size=120, budget=1_000_000)
    assert small[1] == OutputRegion(227, 227, 114)
    assert auto(1024, None, 224, output_size=192)[1].size == 192
    inverter = inverter_of(384, 13, 227, output_size=120, budget=1_000_000)
    assert sum(weight.numel() for weight in inverter.parameters()) <= 1_000_000
    assert inverter(features_of(384, 13)).shape == (2, 3, 114, 114)


def test_networks_of_probabilities_see_the_small_ones() -> None:
    torch.manual_seed(0)
    inverter = inverter_of(20, None, 64, probabilities=True)
    scores = 6 * torch.randn(64, 20)
    probabilities = scores.softmax(dim=1)
    measured = inverter.measured(probabilities)
    torch.testing.assert_close(measured, probabilities.clamp_min(1e-7).log())
    inverter.feature_mean.copy_(measured.mean(0))
    inverter.feature_deviation.copy_(measured.std(0))
    changed = probabilities.clone()
    changed[:, probabilities.argmin(dim=1)] *= 3  # negligible compared with the largest
    assert (inverter(changed) - inverter(probabilities)).abs().max() > 1e-4
    assert inverter(torch.zeros(1, 20)).isfinite().all()


@pytest.mark.parametrize(("cells", "size"), [(None, 6), (None, 1024), (None, 1792), (1, 1024), (28, 7168)])
def test_sizes_far_from_the_images(cells: int | None, size: int) -> None:
    with torch.device("meta"):
        inverter = inverter_of(16, cells, 224, output_size=size)
    assert inverter.output_region == OutputRegion(224, 224, size)
    assert size in (inverter.network.side, (cells or 0) * inverter.network.stride)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"output_size": 100, "cells": None}, r"3.*7.*two"),
        ({"budget": 100}, "smallest network"),
        ({"cells": 224}, r"images.*224"),
        ({"budget": 0}, "smallest network"),
        ({"output_size": 0}, r"output_size.*0"),
        ({"output_size": 0, "cells": None}, r"output_size.*0"),
        ({"output_size": 5, "cells": None}, r"3.*7.*two"),
        ({"preset": "huge"}, r"preset.*auto, compact, wide.*'huge'"),
    ],
)
def test_what_no_network_can_do_is_said(options: dict[str, object], problem: str) -> None:
    cells = options.pop("cells", 14)
    with pytest.raises(ValueError, match=problem):
        inverter_of(64, cells, 224, **options)  # type: ignore[arg-type]


def test_the_papers_networks_have_sizes_of_their_own() -> None:
    with pytest.raises(ValueError, match="parameters"):
        inverter_of(96, 27, 227, "alexnet-conv1", preset="paper", budget=10**6)
    with pytest.raises(ValueError, match=r"preset.*paper, auto, compact, wide.*alexnet-conv1.*'large'"):
        inverter_of(96, 27, 227, "alexnet-conv1", preset="large")
    with pytest.raises(ValueError, match=r"features.*3×4"):
        plan(Spec("network", "v", 8, 16), "auto", cells=(3, 4), image_size=64)
    with pytest.raises(ValueError, match=r"features.*'paper'.*3×4"):
        plan(Spec("network", "v", 8, 16), "paper", cells=(3, 4), image_size=64)
    with pytest.raises(ValueError, match="parameters"):
        inverter_of(96, 27, 227, preset="paper", output_size=216)
    with pytest.raises(ValueError, match=r"preset.*dense-sift.*'paper'"):
        plan(Spec("dense-sift", "v", 8, 16), "paper", cells=(3, 3), image_size=64)


@pytest.mark.parametrize(("channels", "cells"), [(32, None), (24, 6)])
def test_an_output_region_is_saved_and_loaded(tmp_path: Path, channels: int, cells: int | None) -> None:
    torch.manual_seed(1)
    inverter = inverter_of(channels, cells, 227, budget=400_000).eval()
    again = Inverter.load(inverter.save(tmp_path / "inverter"))
    features = features_of(channels, cells)
    assert again.output_region == inverter.output_region and again.config == inverter.config
    assert torch.equal(again(features), inverter(features))
    single = again(features[0])
    assert single.shape == inverter(features).shape[1:]
    whole = again(features, size=(227, 227))
    assert whole.shape == (2, 3, 227, 227)


def test_features_of_another_kind_are_refused() -> None:
    vectors, maps = inverter_of(32, None, 64), inverter_of(32, 8, 64)
    with pytest.raises(ValueError, match=r"features.*\(B, 32\).*\(2, 32, 8, 8\)"):
        vectors(features_of(32, 8))
    with pytest.raises(ValueError, match=r"features.*\(B, 32, h, w\).*\(2, 32\)"):
        maps(features_of(32, None))
    with pytest.raises(ValueError, match=r"vectors.*maps"):
        Inverter(Spec("network", "v", 32, 8), vectors.config, output_region=vectors.output_region)
    with pytest.raises(ValueError, match="vectors"):
        Inverter(vectors.spec, vectors.config)
    with pytest.raises(ValueError, match=r"size.*at least 1.*\(0, 64\)"):
        maps(features_of(32, 8), size=(0, 64))
    with pytest.raises(ValueError, match=r"64×64.*32×32"):
        maps.distances(features_of(32, 8), torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


def test_an_output_region_resizes_without_aliasing() -> None:
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 1.0
    view = OutputRegion(64, 48, 12)
    assert view.of(stripes).shape == (1, 3, 12, 12)
    assert (view.of(stripes) - 0.5).abs().max() < 0.15
    pixels = view.of((stripes * 255).to(torch.uint8))
    assert pixels.dtype == torch.uint8 and (pixels.float() / 255 - 0.5).abs().max() < 0.15
    assert torch.equal(OutputRegion(64, 48, 48).of(stripes), stripes[:, :, 8:56, 8:56])
    with pytest.raises(ValueError, match=r"images.*\(B, 3, H, W\).*\(3, 64, 64\)"):
        view.of(stripes[0])
    with pytest.raises(ValueError, match=r"crop.*65.*64"):
        OutputRegion(64, 65, 12)
    with pytest.raises(ValueError, match=r"size.*1 to 8192.*0"):
        OutputRegion(64, 32, 0)
