"""Test the errors for arguments that are not layers, networks or feature maps."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

import preimage
from networks import SIDE, Cnn, Odd, Rows

PREPROCESSING = preimage.Preprocessing(SIDE)
UNIT = preimage.Preprocessing(SIDE, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def cnn() -> Cnn:
    torch.manual_seed(0)
    return Cnn().eval()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("feature.3", r"'feature\.3'.*'features\.3'"),
        ("features.9", r"'features\.9'.*'features\.\d'.*'features\.0', 'features\.1'|'features\.3'"),
        ("xyz", r"'xyz'.*'features', 'again', 'pool', 'classifier', 'spare'"),
    ],
)
def test_wrong_names_are_answered_with_the_nearest(cnn: Cnn, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        preimage.Network(cnn, PREPROCESSING).representation(name)


def test_a_layer_that_is_never_called(cnn: Cnn, images: torch.Tensor) -> None:
    layer = preimage.Network(cnn, PREPROCESSING).representation("spare")
    words = r"'spare' \(Linear\).*'features\.0', 'features\.1'.*'classifier'"
    for attempt in (lambda: layer(images), lambda: layer.spec, lambda: layer.feature_size(SIDE, SIDE)):
        with pytest.raises(ValueError, match=words):
            attempt()
    assert "spare" not in [found.name for found in layer.network.trace()]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda x: (x, None),
            TypeError,
            r"'odd'.*tuple \(tensor \(1, 3, 32, 32\) float32, None\)",
        ),
        (lambda x: [x], TypeError, r"list \(tensor .*layer"),
        (lambda x: {"out": x, "aux": x}, TypeError, r"dict.*out, aux"),
        (lambda x: OrderedDict(logits=x), TypeError, r"OrderedDict.*logits"),
        (lambda x: None, TypeError, r"None.*tensor"),
        (lambda x: x.argmax(1), TypeError, r"\(1, 32, 32\) int64"),
        (lambda x: x.transpose(0, 1), ValueError, r"\(3, 1, 32, 32\) float32.*1 image"),
        (lambda x: x[:, 0, 0, 0], ValueError, "first axis"),
        (lambda x: x[..., None], ValueError, "'vector'"),
        (
            lambda x: x.flatten(2).transpose(1, 2)[:, :140],
            ValueError,
            r"140 tokens.*11² = 121.*vector",
        ),
        (lambda x: x[:, :, :0], ValueError, "each"),
    ],
)
def test_outputs_that_are_no_features(make: object, error: type[Exception], words: str, images: torch.Tensor) -> None:
    with pytest.raises(error, match=words):
        preimage.Network(Odd(make), UNIT).representation("odd")(images)


def test_a_recurrent_layer_returns_a_tuple(images: torch.Tensor) -> None:
    with pytest.raises(TypeError, match=r"'rows'.*tuple \(tensor \(1, 32, 7\) float32, tuple"):
        preimage.Network(Rows(), UNIT).representation("rows")(images)


def test_features_that_depend_on_the_other_images_are_refused() -> None:
    layer = preimage.Network(Odd(lambda x: x[:, :, : len(x)]), UNIT).representation("odd")
    with pytest.raises(ValueError, match=r"\(3, 2, 32\).*\(3, 1, 32\)"):
        layer(torch.rand(2, 3, SIDE, SIDE))


def test_images_that_do_not_fit(cnn: Cnn) -> None:
    layer = preimage.Network(cnn, PREPROCESSING).representation("pool")
    with pytest.raises(ValueError, match=r"32×32.*31×32"):
        layer(torch.rand(1, 3, 31, SIDE))
    with pytest.raises(ValueError, match=r"32×32.*31×32"):
        layer.feature_size(31, SIDE)


def test_a_network_that_fails_on_images_of_its_size() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(7, 2))
    with pytest.raises(
        ValueError,
        match=r"Sequential.*32×32.*'1' \(Linear\): RuntimeError: .*shapes",
    ):
        preimage.Network(module, UNIT).representation("1").feature_size(SIDE, SIDE)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"preprocess": torch.relu}, ValueError, "image_size"),
        ({"preprocess": torch.relu, "image_size": 0}, ValueError, r"image_size.*at least 1.*0"),
        ({"preprocess": 3}, TypeError, r"preimage.Preprocessing.*3"),
        ({"preprocess": UNIT, "image_size": 8}, ValueError, r"image_size.*32.*8"),
        ({"preprocess": UNIT, "module": torch.relu}, TypeError, r"torch.nn.Module.*builtin"),
        ({"preprocess": UNIT, "output_layout": "hwc"}, ValueError, r"auto, nchw, nhwc, vector.*'hwc'"),
        ({"preprocess": UNIT, "layer": 3}, TypeError, r"'features\.4'.*3"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, object], error: type[Exception], words: str) -> None:
    of_layer = {"layer": "", **{name: arguments.pop(name) for name in ("layer", "output_layout") if name in arguments}}
    with pytest.raises(error, match=words):
        preimage.Network(**{"module": nn.Identity(), **arguments}).representation(**of_layer)  # type: ignore[arg-type]
