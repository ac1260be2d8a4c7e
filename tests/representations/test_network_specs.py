"""Test the specs of network layers, which never cause code to be imported."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import preimage
from networks import SIDE, Cnn
from preimage.representations import representation_from_spec
from preimage.representations.network_identity import digest
from preimage.spec import Spec
from tolerances import NETWORK

PREPROCESSING = preimage.Preprocessing(SIDE)
UNIT = preimage.Preprocessing(SIDE, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def cnn() -> Cnn:
    torch.manual_seed(0)
    return Cnn().eval()


def test_a_spec_says_everything_that_decides_the_numbers(cnn: Cnn) -> None:
    spec = preimage.Network(cnn, PREPROCESSING).representation("features.3").spec
    assert spec == Spec(
        "network",
        "networks.Cnn",
        8,
        4,
        {
            "layer": "features.3",
            "output_layout": "auto",
            "prefix_tokens": 0,
            "weights": digest(cnn),
            "image_size": SIDE,
            "order": "rgb",
            "scale": 1.0,
            "mean": "0.485,0.456,0.406",
            "std": "0.229,0.224,0.225",
        },
    )
    named = preimage.Network(cnn, PREPROCESSING, name="mine").representation("features.3").spec
    assert spec.differences(named) == ["variant: 'networks.Cnn' != 'mine'"]
    with torch.no_grad():
        cnn.spare.bias[0] += 1
    other = preimage.Network(cnn, PREPROCESSING).representation("features.3").spec
    assert [one.partition(":")[0] for one in spec.differences(other)] == ["parameters.weights"]


def test_a_spec_of_version_0_1_names_its_layout(cnn: Cnn) -> None:
    spec = preimage.Network(cnn, PREPROCESSING).representation("features.3").spec
    fields = spec.to_dict()
    fields["parameters"]["layout"] = fields["parameters"].pop("output_layout")
    assert Spec.from_dict(fields) == spec


def test_a_single_image_gives_features_without_a_batch(cnn: Cnn) -> None:
    representation = preimage.Network(cnn, PREPROCESSING).representation("features.3")
    images = torch.rand(2, 3, SIDE, SIDE)
    assert torch.equal(representation(images[0]), representation(images[:1])[0])


def test_a_digest_is_of_the_weights_not_of_where_or_how_they_lie() -> None:
    module = nn.Linear(3, 4)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    before = digest(module)
    assert len(before) == 16
    module.weight.data = module.weight.data.t().contiguous().t()
    assert digest(module) == before
    other = nn.Linear(3, 4)
    assert digest(other) != before
    other.load_state_dict(state)
    assert digest(other) == before
    assert digest(other.double()) != before
    assert digest(nn.Identity()) == digest(nn.ReLU())


@pytest.mark.parametrize(
    "change",
    [
        lambda cnn: cnn.again.weight.mul_(2),
        lambda cnn: cnn.features[1].running_mean.add_(1),
        lambda cnn: setattr(cnn.again.weight, "data", cnn.again.weight * 2),
        lambda cnn: setattr(cnn, "again", nn.Conv2d(8, 8, 3, padding=1)),
        lambda cnn: cnn.load_state_dict({name: value + 1 for name, value in cnn.state_dict().items()}, assign=True),
        lambda cnn: cnn.bfloat16(),
    ],
)
def test_the_spec_follows_weights_that_change(cnn: Cnn, images: torch.Tensor, change: Callable[[Cnn], object]) -> None:
    layer = preimage.Network(cnn, PREPROCESSING).representation("again")
    first, features = layer.spec, layer(images)
    with torch.no_grad():
        change(cnn)
    assert first.differences(layer.spec) == [f"parameters.weights: {first.parameters['weights']!r} != {digest(cnn)!r}"]
    assert not torch.equal(layer(images), features)


def test_a_part_may_be_exchanged_for_one_of_another_shape(cnn: Cnn, images: torch.Tensor) -> None:
    layer = preimage.Network(cnn, PREPROCESSING).representation("")
    assert layer.spec.channels == 5
    cnn.classifier[2] = nn.Linear(8, 7)
    assert layer(images).shape == (3, 7)
    assert layer.spec.channels == 7


def test_the_digest_is_computed_once_for_each_state_of_the_weights(cnn: Cnn, images: torch.Tensor) -> None:
    computed: list[str] = []

    def identify(module: nn.Module) -> str:
        computed.append(digest(module))
        return "mine"

    layer = preimage.Network(cnn.train(), PREPROCESSING, identify=identify).representation("again")
    assert computed == []
    for _ in range(2):
        layer(images)
        assert layer.spec.parameters["weights"] == "mine"
    assert computed == [digest(cnn)]
    optimizer = torch.optim.SGD(cnn.parameters(), 0.1)
    optimizer.step()  # no gradients, no step
    assert layer.network.weights == "mine"
    assert len(computed) == 1
    cnn(images).sum().backward()
    optimizer.step()
    assert layer.network.weights == "mine"
    assert computed[1:] == [digest(cnn)]


def test_no_spec_makes_us_import_a_network(cnn: Cnn) -> None:
    layer = preimage.Network(cnn, PREPROCESSING).representation("pool")
    words = r"'pool'.*networks\.Cnn: .*--representation torch:.*layer=pool"
    with pytest.raises(ValueError, match=words):
        representation_from_spec(layer.spec)


def test_a_compiled_network_is_taken_uncompiled(cnn: Cnn, images: torch.Tensor) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._orig_mod = cnn

    expected = preimage.Network(cnn, PREPROCESSING).representation("again")
    layer = preimage.Network(Wrapped(), PREPROCESSING).representation("again")
    assert (layer(images) - expected(images)).abs().max() < NETWORK
    assert layer.spec == expected.spec
