"""Test the presets: the paper's shapes, layer by layer, and properties of all presets."""

from __future__ import annotations

import pytest
import torch

from preimage.inverters import Inverter, preset
from preimage.inverters.architectures import SingleStreamConfig, TwoStreamConfig, UShapedConfig, build
from preimage.representations import create_representation
from preimage.representations.hog import Hog

SPEC = create_representation("hog").spec


def shapes_within(network: torch.nn.Module, image: torch.Tensor, parts: tuple[str, ...]) -> list[list[tuple[int, ...]]]:
    """Return (C, h, w) after every layer of the parts of a network."""
    shapes: list[list[tuple[int, ...]]] = []
    for part in parts:
        shapes.append([])
        for layer in network.get_submodule(part):
            layer.register_forward_hook(lambda _m, _i, y, into=shapes[-1]: into.append(tuple(y.shape[1:])))
    assert network(image).shape == (2, 3, 256, 256)
    return shapes


def test_paper_preset_for_hog_has_the_papers_shapes() -> None:
    """Checks the output of every layer for a 256² image against section 3 of the paper."""
    with torch.device("meta"):
        network = build(31, preset("hog", "paper"))
        context, detail, joint = shapes_within(network, torch.empty(2, 31, 32, 32), ("context", "detail", "joint"))
    assert context == [
        (256, 16, 16), (512, 8, 8), (1024, 4, 4), (512, 8, 8), (256, 16, 16), (128, 32, 32),
    ]  # fmt: skip
    assert detail == [(128, 32, 32), (128, 32, 32)]
    assert joint == [(256, 32, 32), (128, 32, 32), (64, 64, 64), (32, 128, 128), (3, 256, 256)]
    assert sum(p.numel() for p in network.parameters()) == 26_790_211  # 5×5 in every up-convolution, as in the text
    assert network.joint[-1].negative_slope is None  # the last layer has no activation


def test_paper_preset_for_lbp_has_the_papers_shapes() -> None:
    with torch.device("meta"):
        network = build(58, preset("lbp", "paper"))
        context, detail, joint = shapes_within(network, torch.empty(2, 58, 16, 16), ("context", "detail", "joint"))
    assert context == [(256, 8, 8), (512, 4, 4), (1024, 4, 4), (512, 8, 8), (256, 16, 16)]
    assert detail == [(128, 16, 16), (128, 16, 16)]
    assert joint == [(256, 16, 16), (128, 16, 16), (128, 32, 32), (64, 64, 64), (32, 128, 128), (3, 256, 256)]
    assert (network.stride, network.multiple) == (16, 4)
    assert sum(p.numel() for p in network.parameters()) == 26_934_723  # 5×5 in every up-convolution


def test_paper_preset_for_sparse_sift_has_the_papers_shapes() -> None:
    with torch.device("meta"):
        network = build(133, preset("sift", "paper"))
        (layers,) = shapes_within(network, torch.empty(2, 133, 64, 64), ("layers",))
    assert layers == [
        (256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4), (2048, 4, 4), (1024, 4, 4),
        (512, 8, 8), (256, 16, 16), (128, 32, 32), (64, 64, 64), (32, 128, 128), (3, 256, 256),
    ]  # fmt: skip
    assert (network.stride, network.multiple) == (4, 16)
    assert network.layers[-1].negative_slope is None
    assert sum(p.numel() for p in network.parameters()) == 99_716_419  # 5×5 in every up-convolution


@pytest.mark.parametrize("name", ["lbp", "sift", "dense-sift"])
@pytest.mark.parametrize("size", [(256, 256), (227, 253), (64, 90), (17, 21)])
def test_every_preset_gives_an_image_of_any_size(name: str, size: tuple[int, int]) -> None:
    representation = create_representation(name)
    cells = representation.feature_size(*size)
    assert cells is not None
    for kind in ("compact", "wide", *(["paper"] if name != "dense-sift" else [])):
        # Positions of keypoints depend on the features, which have no values on "meta".
        where = "cpu" if (name, kind) in (("sift", "compact"), ("sift", "wide")) else "meta"
        with torch.device(where), torch.inference_mode():
            inverter = Inverter(representation.spec, preset(name, kind))
            assert 2 * sum(p.numel() for p in inverter.parameters()) < (8e6 if kind == "compact" else 2e8)
            features = torch.zeros(1, representation.spec.channels, *cells)
            assert inverter(features, size=size).shape == (1, 3, *size)


@pytest.mark.parametrize("name", ["paper", "compact"])
def test_presets_take_any_size(name: str) -> None:
    with torch.device("meta"):
        inverter = Inverter(SPEC, preset("hog", name))
        assert inverter(torch.empty(1, 31, 5, 9)).shape == (1, 3, 40, 72)


@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["paper", "compact", "wide"])
def test_blocks_of_cells_are_placed_at_their_centers(name: str, block_size: int) -> None:
    representation = create_representation("hog", variant="dalal-triggs", block_size=block_size)
    config = preset(representation.spec, name)
    assert not isinstance(config, SingleStreamConfig)
    center = (config.margin[0] + 0.5) * 8  # of the output of the network for the first block
    assert 0 <= 8 * block_size / 2 - center < 8 / 2 + (block_size % 2 == 0)
    assert block_size % 2 == 0 or center == 8 * block_size / 2
    with torch.device("meta"):
        inverter = Inverter(representation.spec, config)
    for size in ((256, 256), (227, 253), (64, 90)):
        cells = representation.feature_size(*size)
        assert inverter.covered(*cells) == representation.image_size(*cells)
        features = torch.empty(1, representation.spec.channels, *cells, device="meta")
        assert inverter(features, size=size).shape == (1, 3, *size)
    assert inverter.covered(*representation.feature_size(256, 256)) == (256, 256), "training needs whole images"


def test_a_preset_by_name_is_that_of_the_default_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hog, "presets", {name: Hog.presets[name] for name in ("paper", "compact")})  # helpers add one
    assert preset("hog", "paper") == preset(SPEC, "paper") == TwoStreamConfig()
    assert preset("hog", "compact") == preset(SPEC, "compact") == UShapedConfig()
    with pytest.raises(ValueError, match=r"'narrow' for hog; known are paper, compact, wide"):
        preset(SPEC, "narrow")


def test_compact_fits_on_disk() -> None:
    with torch.device("meta"):
        inverter = Inverter(SPEC, preset("hog", "compact"))
    assert 2 * sum(p.numel() for p in inverter.parameters()) < 8e6
