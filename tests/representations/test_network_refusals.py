"""What is no layer, no network and no feature map: each refused with what would be right."""

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
        ("feature.3", r"no layer 'feature.3'; near are 'features.3'"),
        ("features.9", r"no layer 'features.9'; near are 'features.\d'.*'features.0', 'features.1'|'features.3'"),
        ("xyz", r"no layer 'xyz'; near are 'features', 'again', 'pool', 'classifier', 'spare'"),
    ],
)
def test_wrong_names_are_answered_with_the_nearest(cnn: Cnn, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        preimage.Network(cnn, PREPROCESSING).representation(name)


def test_a_layer_that_is_never_called(cnn: Cnn, images: torch.Tensor) -> None:
    layer = preimage.Network(cnn, PREPROCESSING).representation("spare")
    words = r"layer 'spare' \(Linear\) is never called.*'features.0', 'features.1'.*'classifier'"
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
            r"layer 'odd' returns tuple \(tensor \(1, 3, 32, 32\) float32, None\), not one",
        ),
        (lambda x: [x], TypeError, r"returns list \(tensor .*choose a layer inside or behind it"),
        (lambda x: {"out": x, "aux": x}, TypeError, "returns dict with keys out, aux, not one tensor"),
        (lambda x: OrderedDict(logits=x), TypeError, "returns OrderedDict with keys logits"),
        (lambda x: None, TypeError, "returns None, not one tensor"),
        (lambda x: x.argmax(1), TypeError, r"returns tensor \(1, 32, 32\) int64; features are floating"),
        (lambda x: x.transpose(0, 1), ValueError, r"returns tensor \(3, 1, 32, 32\) float32 for 1 image"),
        (lambda x: x[:, 0, 0, 0], ValueError, "its first axis must be the images"),
        (lambda x: x[..., None], ValueError, "neither a map.*layout 'vector' flattens it"),
        (
            lambda x: x.flatten(2).transpose(1, 2)[:, :140],
            ValueError,
            r"140 tokens are no square.*11² = 121.*vector",
        ),
        (lambda x: x[:, :, :0], ValueError, "with something for each"),
    ],
)
def test_outputs_that_are_no_features(make: object, error: type[Exception], words: str, images: torch.Tensor) -> None:
    with pytest.raises(error, match=words):
        preimage.Network(Odd(make), UNIT).representation("odd")(images)


def test_a_recurrent_layer_returns_a_tuple(images: torch.Tensor) -> None:
    with pytest.raises(TypeError, match=r"layer 'rows' returns tuple \(tensor \(1, 32, 7\) float32, tuple"):
        preimage.Network(Rows(), UNIT).representation("rows")(images)


def test_features_that_depend_on_the_other_images_are_refused() -> None:
    layer = preimage.Network(Odd(lambda x: x[:, :, : len(x)]), UNIT).representation("odd")
    with pytest.raises(ValueError, match=r"has features \(3, 2, 32\) here but \(3, 1, 32\) for a single image"):
        layer(torch.rand(2, 3, SIDE, SIDE))


def test_images_that_do_not_fit(cnn: Cnn) -> None:
    layer = preimage.Network(cnn, PREPROCESSING).representation("pool")
    with pytest.raises(ValueError, match="takes images of 32×32 pixels, got 31×32"):
        layer(torch.rand(1, 3, 31, SIDE))
    with pytest.raises(ValueError, match="takes images of 32×32 pixels, got 31×32"):
        layer.feature_size(31, SIDE)


def test_a_network_that_fails_on_images_of_its_size() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(7, 2))
    with pytest.raises(
        ValueError,
        match=r"Sequential fails on an image of 32×32 pixels in layer '1' \(Linear\): RuntimeError: .*shapes",
    ):
        preimage.Network(module, UNIT).representation("1").feature_size(SIDE, SIDE)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"preprocess": torch.relu}, ValueError, "image_size, the side of the images in pixels, must be given"),
        ({"preprocess": torch.relu, "image_size": 0}, ValueError, "whole number of pixels >= 1, got 0"),
        ({"preprocess": 3}, TypeError, "a preimage.Preprocessing or a function of images, got 3"),
        ({"preprocess": UNIT, "image_size": 8}, ValueError, "image_size is 8 but preprocess has 32"),
        ({"preprocess": UNIT, "module": torch.relu}, TypeError, "a network is a torch.nn.Module, got builtin"),
        ({"preprocess": UNIT, "layout": "hwc"}, ValueError, "one of auto, nchw, nhwc, vector, .*got 'hwc'"),
        ({"preprocess": UNIT, "layer": 3}, TypeError, "named by a string such as 'features.4', got 3"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, object], error: type[Exception], words: str) -> None:
    of_layer = {"layer": "", **{name: arguments.pop(name) for name in ("layer", "layout") if name in arguments}}
    with pytest.raises(error, match=words):
        preimage.Network(**{"module": nn.Identity(), **arguments}).representation(**of_layer)  # type: ignore[arg-type]
