"""Test networks that are compiled, scripted, wrapped, quantized, exported, or not loaded yet."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import preimage
from networks import SIDE, Cnn, Lambda, Vit
from preimage.representations.network import Network
from preimage.representations.network_state import copied_to
from tolerances import NETWORK

PREPROCESSING = preimage.Preprocessing(SIDE)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit", "ignore:.*quantiz:DeprecationWarning", "ignore:.*quantiz:UserWarning"
)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def cnn() -> Cnn:
    torch.manual_seed(0)
    return Cnn().eval()


def _compiled_part(cnn: Cnn) -> nn.Module:
    cnn.features = torch.compile(cnn.features, backend="eager")  # type: ignore[assignment]
    return cnn


def _compiled_whole_and_part(cnn: Cnn) -> nn.Module:
    return torch.compile(_compiled_part(cnn), backend="eager")  # type: ignore[return-value]


def _compiled_in_place(cnn: Cnn) -> nn.Module:
    cnn.features.compile(backend="eager")
    return cnn


def _compiled_forward(cnn: Cnn) -> nn.Module:
    cnn.features.forward = torch.compile(cnn.features.forward, backend="eager")  # type: ignore[method-assign]
    return cnn


def _parallel_part(cnn: Cnn) -> nn.Module:
    cnn.features = nn.DataParallel(cnn.features)  # type: ignore[assignment]
    return cnn


def _parallel_and_compiled(cnn: Cnn) -> nn.Module:
    return nn.DataParallel(_compiled_part(cnn))


@pytest.mark.parametrize(
    "wrap",
    [
        _compiled_part,
        _compiled_whole_and_part,
        _compiled_in_place,
        _compiled_forward,
        _parallel_part,
        nn.DataParallel,
        _parallel_and_compiled,
    ],
)
def test_wrappers_change_nothing(cnn: Cnn, images: torch.Tensor, wrap: Callable[[Cnn], nn.Module]) -> None:
    plain = Network(copy.deepcopy(cnn), PREPROCESSING, name="net")
    wrapped = wrap(cnn)
    parts = dict(wrapped.named_modules())
    network = Network(wrapped, PREPROCESSING, name="net")
    assert [layer.name for layer in network.trace()] == [layer.name for layer in plain.trace()]
    for name in ("features.0", "features", "again", ""):
        layer = network.representation(name)
        assert layer.spec == plain.representation(name).spec
        assert (layer(images) - plain.representation(name)(images)).abs().max() < NETWORK
    assert dict(wrapped.named_modules()) == parts, "the caller's network is still wrapped"


@pytest.mark.parametrize(
    "make", [torch.jit.script, lambda module: torch.jit.trace(module, torch.rand(1, 3, SIDE, SIDE))]
)
def test_torchscript_has_its_output_only(
    cnn: Cnn, images: torch.Tensor, make: Callable[[nn.Module], nn.Module]
) -> None:
    part = cnn.features
    expected = Network(part, PREPROCESSING).representation("")
    network = Network(make(part), PREPROCESSING)
    assert (network.representation("")(images) - expected(images)).abs().max() < NETWORK
    assert network.weights == expected.network.weights
    assert [layer.name for layer in network.trace()] == [""]
    with pytest.raises(ValueError, match=r"'0'.*TorchScript"):
        network.representation("0")


def test_torchscript_stays_as_it_was(cnn: Cnn, images: torch.Tensor) -> None:
    expected = Network(cnn.features, PREPROCESSING).layers(images, [""])[""]
    module = torch.jit.script(cnn.features.train())
    network = Network(module, PREPROCESSING)
    features = network.layers(images.clone().requires_grad_(), [""])[""]
    assert (features - expected).abs().max() < NETWORK
    assert all(part.training for part in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())
    copied = copied_to(module, torch.device("cpu"), "it")  # to the meta device torch cannot move TorchScript
    assert all(parameter.is_leaf for parameter in copied.parameters())
    assert (copied.eval()(PREPROCESSING(images)) - expected).abs().max() < NETWORK


def test_a_part_in_torchscript(cnn: Cnn, images: torch.Tensor) -> None:
    expected = Network(copy.deepcopy(cnn), PREPROCESSING).layers(images, ["features", "again"])
    cnn.features = torch.jit.script(cnn.features)
    network = Network(cnn, PREPROCESSING)
    for name, features in network.layers(images, ["features", "again"]).items():
        assert (features - expected[name]).abs().max() < NETWORK
    with pytest.raises(ValueError, match=r"'features\.0'.*TorchScript.*'features'"):
        network.representation("features.0")


@pytest.mark.parametrize("pack", [torch.jit.freeze, torch.jit.optimize_for_inference])
def test_frozen_torchscript_differs_by_its_weights(
    images: torch.Tensor, pack: Callable[[nn.Module], nn.Module]
) -> None:
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
        networks.append(Network(pack(torch.jit.script(module)), PREPROCESSING))
    assert networks[0].layers(images, [""])[""].shape == (3, 4, 30, 30)
    assert networks[0].weights == networks[1].weights != networks[2].weights


def test_quantized_layers_differ_by_their_weights(images: torch.Tensor) -> None:
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 4)).eval()
        quantized = torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)
        networks.append(Network(quantized, PREPROCESSING))
    assert networks[0].layers(images, ["1"])["1"].shape == (3, 4)
    assert networks[0].weights == networks[1].weights != networks[2].weights


def test_graph_modules_and_parametrizations(cnn: Cnn, images: torch.Tensor) -> None:
    expected = Network(copy.deepcopy(cnn), PREPROCESSING).layers(images, ["again"])["again"]
    traced = Network(torch.fx.symbolic_trace(copy.deepcopy(cnn)), PREPROCESSING)
    assert (traced.layers(images, ["again"])["again"] - expected).abs().max() < NETWORK
    nn.utils.parametrizations.weight_norm(cnn.again)
    assert (Network(cnn, PREPROCESSING).layers(images, ["again"])["again"] - expected).abs().max() < NETWORK


def test_weights_without_numbers() -> None:
    with torch.device("meta"):
        meta = Vit()
    with pytest.raises(ValueError, match=r"Vit.*meta.*'prefix'.*more.*state_dict"):
        Network(meta, PREPROCESSING)
    with pytest.raises(ValueError, match=r"'0\.weight', '0\.bias'"):
        Network(nn.Sequential(nn.LazyConv2d(4, 3)), PREPROCESSING, name="net")


class _Head(nn.Module):
    """Layer that works on dark images only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.max() > 0.5:
            raise NotImplementedError("no light")
        return x


def test_errors_of_the_networks_code_say_where(images: torch.Tensor) -> None:
    module = nn.Sequential(nn.Identity(), _Head())
    unit = preimage.Preprocessing(SIDE, mean=(0, 0, 0), std=(1, 1, 1))
    network = Network(module, unit, name="net")
    words = r"3 images.*32×32.*'1' \(_Head\): NotImpl\w+: no light \(.*kinds\.py:\d+, in "
    with pytest.raises(ValueError, match=words):
        network.layers(images, [""])
    assert not any(part._forward_hooks for part in module.modules())
    assert network.layers(images, ["0"])["0"].shape == images.shape
    with pytest.raises(ValueError, match=r"'0' \(Lambda\): ValueError: mine \(.*kinds\.py"):
        Network(nn.Sequential(Lambda(_raise_value_error)), unit).trace()


def _raise_value_error(_: torch.Tensor) -> torch.Tensor:
    raise ValueError("mine")


def test_memory_that_is_not_there_stays_an_error_of_memory(images: torch.Tensor) -> None:
    network = Network(Lambda(lambda x: torch.empty(1 << 50)), PREPROCESSING)
    with pytest.raises(RuntimeError, match="allocate"):
        network.layers(images, [""])


@pytest.mark.parametrize(
    ("preprocess", "error", "words"),
    [
        (lambda x: x.nothing, ValueError, r"preprocessing.*net.*AttributeError: .*kinds\.py:\d+"),
        (lambda x: None, TypeError, r"preprocessing.*net.*\(B, 3, H, W\).*None"),
        (lambda x: x[0], TypeError, r"\(3, 32, 32\) float32"),
    ],
)
def test_preprocessing_that_fails(
    images: torch.Tensor, preprocess: Callable[[torch.Tensor], torch.Tensor], error: type[Exception], words: str
) -> None:
    network = Network(nn.Identity(), preprocess, image_size=SIDE, name="net")
    with pytest.raises(error, match=words):
        network.layers(images, [""])
