"""Test layers of timm's and torchvision's networks with random weights, if those packages are installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import preimage
from tolerances import NETWORK

PREPROCESSING = preimage.Preprocessing(224)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))


def by_hand(module: torch.nn.Module, layer: str, images: torch.Tensor) -> torch.Tensor:
    """Return the output of a layer in a complete pass."""
    found: list[torch.Tensor] = []
    module.get_submodule(layer).register_forward_hook(lambda _part, _inputs, output: found.append(output.clone()))
    with torch.no_grad():
        module(PREPROCESSING(images))
    return found[0]


@pytest.mark.parametrize(
    ("name", "layer", "layout", "features", "stride", "prefix"),
    [
        ("resnet18", "layer2.0", "auto", (128, 28, 28), 8, 0),
        ("resnet18", "layer2.0.bn1", "auto", (128, 28, 28), 8, 0),
        ("vit_tiny_patch16_224", "blocks.3", "auto", (2 * 192, 14, 14), 16, 1),
        ("vit_tiny_patch16_224", "blocks.3.attn", "auto", (2 * 192, 14, 14), 16, 1),
        ("convnext_atto", "stages.1", "auto", (80, 28, 28), 8, 0),
        ("gmixer_12_224", "blocks.2", "auto", (384, 14, 14), 16, 0),
        ("mixer_s32_224", "blocks.2", "auto", (512, 7, 7), 32, 0),
        ("swin_tiny_patch4_window7_224", "layers.1", "nhwc", (192, 28, 28), 8, 0),
    ],
)
def test_timm(
    images: torch.Tensor, name: str, layer: str, layout: str, features: tuple[int, ...], stride: int, prefix: int
) -> None:
    timm: Any = pytest.importorskip("timm")
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False).eval()
    expected = by_hand(module, layer, images)
    if expected.dim() == 3:
        grid = expected[:, prefix:].mT.unflatten(2, features[1:])
        beside = expected[:, :prefix].flatten(1)[..., None, None].expand(-1, -1, *features[1:])
        expected = torch.cat([grid, beside], 1)
    elif layout == "nhwc":
        expected = expected.permute(0, 3, 1, 2)
    representation = preimage.Network(module, PREPROCESSING).representation(layer, layout)
    spec = representation.spec
    ours = representation(images)
    assert (ours.shape[1:], spec.channels, spec.stride) == (features, features[0], stride)
    assert spec.parameters["prefix_tokens"] == prefix
    assert (ours - expected).abs().max() < NETWORK * expected.abs().max().clamp(min=1)
    assert (representation(images[1:]) - ours[1:]).abs().max() < NETWORK * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_the_output_of_timms_networks(images: torch.Tensor, name: str) -> None:
    timm: Any = pytest.importorskip("timm")
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False).eval()
    with torch.no_grad():
        expected = module(PREPROCESSING(images))
    output = preimage.Network(module, PREPROCESSING).representation("")
    assert (output(images) - expected).abs().max() < NETWORK * 5
    assert (output.spec.channels, output.spec.stride) == (1000, None)
    traced = output.network.trace()
    assert traced[-1].parameters == sum(value.numel() for value in module.parameters())
    usable = [layer.name for layer in traced if not layer.problem]
    together = output.network.layers(images[:1], usable)
    assert {layer.name: layer.features for layer in traced if not layer.problem} == {
        layer: tuple(features.shape[1:]) for layer, features in together.items()
    }


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1"])
def test_torchvision_with_relus_in_place(images: torch.Tensor, name: str) -> None:
    models: Any = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    module = getattr(models, name)().eval()
    layers = ["features.0", "features.1", "features.2", "features", ""]
    expected = [by_hand(module, layer, images) for layer in layers]
    together = preimage.Network(module, PREPROCESSING).layers(images, layers)
    assert together["features.0"].min() < 0 <= together["features.1"].min()
    for ours, theirs in zip(together.values(), expected, strict=True):
        assert (ours - theirs).abs().max() < NETWORK * 5
