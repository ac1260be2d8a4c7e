"""Test the choice of layers to look into."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import preimage as pi
from look_networks import SIDE, ResNet, ViT, plain
from preimage.studies.look_layers import choose_layers, parse_layers


def chosen(module: nn.Module, count: int = 4) -> list[str]:
    network = pi.Network(module, pi.Preprocessing(SIDE))
    return [layer.label for layer in choose_layers(network.trace(), SIDE, count)]


def test_stages_of_a_residual_network_and_its_pooled_vector() -> None:
    assert chosen(ResNet()) == ["layer1", "layer3", "layer4", "avgpool"]
    assert chosen(ResNet(), 2) == ["layer4", "avgpool"]
    assert chosen(ResNet(), 9) == ["layer1", "layer2", "layer3", "layer4", "avgpool"]


def test_blocks_of_a_transformer_and_its_class_token() -> None:
    assert chosen(ViT()) == ["blocks.1", "blocks.3", "blocks.5", "fc_norm"]
    assert chosen(ViT(pools=False)) == ["blocks.1", "blocks.3", "blocks.5", "output"]
    assert chosen(ViT(), 1) == ["blocks.5"]


def test_a_class_token_that_is_no_layer_is_taken_from_the_tokens_and_not_from_the_classes() -> None:
    blocks = ["blocks.1", "blocks.3", "blocks.5"]
    assert chosen(ViT(pools=False, classes=5)) == [*blocks, "norm:class-token"]
    assert chosen(ViT(pools=False, classes=5, class_token=False)) == [*blocks, "norm:mean"]
    assert chosen(ViT(tokens_out=True)) == [*blocks, "norm:class-token"]


def test_layers_in_a_row_are_chosen_at_equal_distances() -> None:
    assert chosen(plain()) == ["2", "4", "7", "7:mean"]
    assert chosen(nn.Sequential(plain(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))) == [
        *("0.2", "0.4", "0.7", "1")
    ]


def test_a_head_that_begins_with_pooling_gives_the_pooled_vector_and_not_the_classes() -> None:
    head = nn.Sequential()
    head.add_module("global_pool", nn.AdaptiveAvgPool2d(1))
    head.add_module("flatten", nn.Flatten())
    head.add_module("fc", nn.Linear(16, 5))
    module = nn.Sequential()
    module.add_module("features", plain())
    module.add_module("head", head)
    assert chosen(module)[-1] == "head.global_pool"


def test_maps_too_fine_for_an_inverter_and_layers_called_twice_are_left_out() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine, self.relu = nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU()
            self.a, self.b = nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(self.b(self.relu(self.a(self.fine(x)))))

    assert chosen(Net(), 3) == ["a", "b", "b:mean"]


def test_channels_last_need_no_layout() -> None:
    class Last(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            given = x if x.shape[1] == 3 else x.permute(0, 3, 1, 2)
            return super().forward(given).permute(0, 2, 3, 1)

    network = pi.Network(nn.Sequential(Last(3, 6, 3, 2, 1), Last(6, 7, 3, 2, 1)), pi.Preprocessing(SIDE))
    layers = choose_layers(network.trace(), SIDE)
    assert [(one.name, one.output_layout) for one in layers] == [("0", "nhwc"), ("1", "nhwc")]
    assert parse_layers(["0"], network)[0].output_layout == "nhwc"


def test_names_with_a_layout() -> None:
    network = pi.Network(ViT(), pi.Preprocessing(SIDE))
    layers = parse_layers(["blocks.2", "norm:class-token", "norm", ""], network)
    assert [one.folder for one in layers] == ["blocks.2", "norm-class-token", "norm", "output"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "none"),
        (["blocks.9"], r"blocks\.9.*blocks\.5"),
        (["norm:first"], r"output_layout.*class-token.*'first'"),
        (["norm", "norm"], "norm twice"),
        (["fc_norm:class-token"], "fc_norm.*class-token"),
        (["patch_embed:grid"], "patch_embed.*grid"),
    ],
)
def test_bad_names(names: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_layers(names, pi.Network(ViT(), pi.Preprocessing(SIDE)))
    with pytest.raises(ValueError, match="mean"):
        parse_layers(["norm:class-token"], pi.Network(ViT(class_token=False), pi.Preprocessing(SIDE)))


def test_no_layer_or_no_features() -> None:
    with pytest.raises(ValueError, match=r"layer_count.*0"):
        chosen(ResNet(), 0)

    class Tuples(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            return x, 1

    with pytest.raises(ValueError, match="preimage layers"):
        chosen(Tuples())
