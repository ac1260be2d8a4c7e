"""Compare layers of networks as representations with direct calls of the network's submodules."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import nn

import preimage
from networks import SIDE, Careful, Cnn, Counting, Mixer, Odd, Rows, Shared, Vit
from preimage.representations import Network, network, network_state
from preimage.representations.network_identity import digest
from tolerances import NETWORK

PREPROCESSING = preimage.Preprocessing(SIDE)
UNIT = preimage.Preprocessing(SIDE, mean=(0, 0, 0), std=(1, 1, 1))


def close(ours: torch.Tensor, expected: torch.Tensor) -> bool:
    return ours.shape == expected.shape and bool((ours - expected).abs().max() < NETWORK)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def cnn() -> Cnn:
    torch.manual_seed(0)
    return Cnn().eval()


def test_a_layer_equals_the_networks_part_called_by_hand(cnn: Cnn, images: torch.Tensor) -> None:
    expected = cnn.features[:2](PREPROCESSING(images))
    layer = Network(cnn, PREPROCESSING).representation("features.1")
    assert close(layer(images), expected)
    assert layer.feature_size(SIDE, SIDE) == (16, 16)
    assert layer.image_size(16, 16) == (SIDE, SIDE)
    assert layer.image_side == SIDE
    assert (layer.spec.representation, layer.spec.channels, layer.spec.stride) == ("network", 6, 2)


def test_a_pickled_layer_has_the_same_features(cnn: Cnn, images: torch.Tensor) -> None:
    layer = Network(cnn, PREPROCESSING).representation("features.3")
    expected = layer(images)
    again = pickle.loads(pickle.dumps(layer))
    assert again.spec == layer.spec
    assert torch.equal(again(images), expected)


def test_uint8_images_are_the_same_as_floating_ones(cnn: Cnn) -> None:
    pixels = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    layer = Network(cnn, PREPROCESSING).representation("features.3")
    assert (layer(pixels) - layer(pixels.double() / 255)).abs().max() < 1e-5


def test_the_networks_own_output_is_the_layer_without_a_name(cnn: Cnn, images: torch.Tensor) -> None:
    layer = Network(cnn, PREPROCESSING).representation("")
    assert close(layer(images), cnn(PREPROCESSING(images)))
    assert (layer.spec.channels, layer.spec.stride, layer.feature_size(SIDE, SIDE)) == (5, None, None)


def test_a_map_of_one_cell_is_a_vector(cnn: Cnn, images: torch.Tensor) -> None:
    assert Network(cnn, PREPROCESSING).representation("pool")(images).shape == (3, 8)


def test_several_layers_in_one_pass_equal_one_at_a_time_though_relu_works_in_place(
    cnn: Cnn, images: torch.Tensor
) -> None:
    names = ["pool", "features.1", "features.2", "features.0"]
    network = Network(cnn, PREPROCESSING)
    together = network.layers(images, names)
    assert list(together) == names
    for name in names:
        assert close(together[name], network.representation(name)(images))
    assert together["features.1"].min() < 0 <= together["features.2"].min()


def test_nothing_behind_the_wanted_layer_runs(images: torch.Tensor) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), Counting(), nn.ReLU(), Counting())
    network = Network(module, PREPROCESSING)
    network.layers(images, ["0", "2"])
    assert (module[1].passes, module[3].passes) == (2, 0)  # the probe, and the images
    assert [len(part._forward_hooks) for part in module.modules()] == [0] * 5


def test_networks_that_swallow_exceptions_are_stopped_all_the_same(images: torch.Tensor) -> None:
    module = Careful()
    assert Network(module, PREPROCESSING).representation("inner")(images).shape == (3, 2, SIDE, SIDE)
    assert module.after.passes == 0


def test_a_layer_called_twice_returns_the_output_of_its_first_call(cnn: Cnn, images: torch.Tensor) -> None:
    layer = Network(cnn, PREPROCESSING).representation("again")
    assert close(layer(images), cnn.again(cnn.features(PREPROCESSING(images))))
    traced = {found.name: found for found in layer.network.trace()}
    assert (traced["again"].calls, traced["features.0"].calls) == (2, 1)


def test_a_shared_layer_has_each_of_its_names(images: torch.Tensor) -> None:
    module = Shared()
    both = Network(module, UNIT).layers(images, ["first", "second", ""])
    assert close(both["first"], module.first(images))
    assert close(both["second"], both["first"])
    assert close(both[""], module.first(both["first"]))


@pytest.mark.parametrize("prefix", [1, 5])
def test_tokens_of_a_transformer_lie_on_their_grid(images: torch.Tensor, prefix: int) -> None:
    torch.manual_seed(0)
    vit = Vit(prefix).eval()
    with torch.no_grad():
        tokens = vit.blocks[:2](vit.tokens(PREPROCESSING(images)))
    layer = Network(vit, PREPROCESSING).representation("blocks.1")
    features = layer(images)
    assert features.shape == (3, 8 * (1 + prefix), 4, 4)
    assert (layer.spec.stride, layer.spec.parameters["prefix_tokens"]) == (8, prefix)
    for row, column in ((0, 0), (1, 2), (3, 3)):
        assert close(features[:, :8, row, column], tokens[:, prefix + 4 * row + column])
        assert close(features[:, 8:, row, column], tokens[:, :prefix].flatten(1))


def test_a_mixers_tokens(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    mixer = Mixer().eval()
    with torch.no_grad():
        expected = mixer(PREPROCESSING(images)).transpose(1, 2).reshape(3, 8, 4, 4)
    layer = Network(mixer, PREPROCESSING).representation("")
    assert close(layer(images), expected)
    assert layer.spec.parameters["prefix_tokens"] == 0


def test_channels_last(images: torch.Tensor) -> None:
    module = Odd(lambda x: x.permute(0, 2, 3, 1))
    assert close(Network(module, UNIT).representation("odd", "nhwc")(images), images)


def test_rows_of_a_recurrent_network_are_tokens_too(images: torch.Tensor) -> None:
    network = Network(Rows(), UNIT)
    assert network.layers(images, ["head"])["head"].shape == (3, 4 * 8, 5, 5)  # 32 rows: 5² tokens, 7 before them
    assert network.layers(images, ["head"], "vector")["head"].shape == (3, 4 * 32)


def test_everything_flattened(cnn: Cnn, images: torch.Tensor) -> None:
    maps = Network(cnn, PREPROCESSING).representation("features.0")
    flat = Network(cnn, PREPROCESSING).representation("features.0", "vector")
    assert close(flat(images), maps(images).flatten(1))
    assert (flat.spec.channels, flat.spec.stride) == (6 * 16 * 16, None)


def test_maps_that_are_not_square_and_strides_that_are_not_whole(images: torch.Tensor) -> None:
    wide = Network(nn.Conv2d(3, 2, (5, 1), (5, 1)), UNIT).representation("")
    assert wide(images).shape == (3, 2, 6, 32)
    assert (wide.feature_size(SIDE, SIDE), wide.spec.stride) == ((6, 32), 5)
    large = Network(nn.ConvTranspose2d(3, 2, 4, 4), UNIT).representation("")
    assert (large(images).shape[2], large.spec.stride) == (128, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_are_float32_whatever_the_network_computes_in(images: torch.Tensor, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(3, 4, 3)
    expected = module(images)
    features = Network(module.to(dtype), UNIT).representation("")(images)
    assert features.dtype == torch.float32
    assert (features - expected).abs().max() < 0.02


def test_nan_and_infinity_stay(images: torch.Tensor) -> None:
    module = Odd(lambda x: x / 0 - x)
    assert not torch.isfinite(Network(module, UNIT).representation("odd")(images)).any()


def test_an_image_alone_has_the_features_that_it_has_among_others(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    for module, names in ((Cnn(), ["features.3", "again", ""]), (Vit(), ["blocks.0", ""]), (Mixer(), ["across", ""])):
        network = Network(module.train(), PREPROCESSING)  # dropout and batch statistics must be off
        for name, together in network.layers(images, names).items():
            alone = torch.cat([network.layers(image[None], [name])[name] for image in images])
            assert close(alone, together)


def test_the_module_stays_as_it_was(cnn: Cnn, images: torch.Tensor) -> None:
    expected = Network(copy.deepcopy(cnn), PREPROCESSING).representation("")(images)
    cnn.train()
    cnn.features[1].eval()  # a part that the caller has frozen
    cnn.again.bias.requires_grad_(False)
    state = {name: value.clone() for name, value in cnn.state_dict().items()}

    def flags() -> list[bool]:
        return [part.training for part in cnn.modules()] + [one.requires_grad for one in cnn.parameters()]

    before = flags()
    layer = Network(cnn, PREPROCESSING).representation("")
    assert close(layer(images), expected), "dropout and batch statistics are off"
    layer(images.clone().requires_grad_()).sum().backward()
    assert [found.name for found in layer.network.trace()][-1] == ""
    with pytest.raises(ValueError, match="called"):
        layer.network.layers(images, ["spare"])
    assert layer.spec.channels == 5
    assert flags() == before
    assert all(value.grad is None for value in cnn.parameters())
    assert all(torch.equal(value, state[name]) for name, value in cnn.state_dict().items())
    cnn(images).sum().backward()
    assert cnn.again.weight.grad is not None, "and goes on training"


class _Merging(nn.Conv2d):
    """Layer whose ``eval`` changes its weights, like layers with adapters."""

    def train(self, mode: bool = True) -> _Merging:
        with torch.no_grad():
            self.weight += 1
        return super().train(mode)


def test_a_modules_own_eval_is_not_called(images: torch.Tensor) -> None:
    module = _Merging(3, 2, 1)
    before = module.weight.clone()
    Network(module, UNIT).layers(images, [""])
    assert torch.equal(module.weight, before)
    assert module.training


def test_the_precision_is_the_networks_also_inside_of_autocast(cnn: Cnn, images: torch.Tensor) -> None:
    layer = Network(cnn, PREPROCESSING).representation("features.3")
    expected = layer(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(images), expected)


def test_gradients_flow_to_the_images_and_only_if_they_want_any(cnn: Cnn, images: torch.Tensor) -> None:
    layer = Network(cnn, PREPROCESSING).representation("features.3")
    assert not layer(images).requires_grad
    with torch.inference_mode():
        layer(images)
    wanting = images.double().requires_grad_()
    layer(wanting).square().sum().backward()
    by_hand = images.double().requires_grad_()
    (expected,) = torch.autograd.grad(cnn.features(PREPROCESSING(by_hand)).square().sum(), by_hand)
    assert close(wanting.grad, expected)
    assert all(value.grad is None for value in cnn.parameters())
    with torch.no_grad():
        assert not layer(wanting).requires_grad


def test_first_used_in_inference_mode_a_network_still_gives_gradients(cnn: Cnn, images: torch.Tensor) -> None:
    with torch.inference_mode():
        layer = Network(cnn, PREPROCESSING).representation("again")
        layer(images)
    layer(images.clone().requires_grad_()).sum().backward()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_features_are_computed_where_the_images_are(cnn: Cnn, images: torch.Tensor, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    layer = Network(cnn, PREPROCESSING).representation("features.3")
    before, spec = layer(images), layer.spec
    with torch.inference_mode():
        there = layer(images.to(device))
    assert there.device.type == device
    assert (there.cpu() - before).abs().max() < 1e-2  # TF32 on a GPU
    layer(images.to(device).requires_grad_()).sum().backward()
    assert close(layer(images), before)
    assert {value.device.type for value in cnn.state_dict().values()} == {"cpu"}
    assert digest(cnn) == spec.parameters["weights"]


def test_another_device_gets_a_copy_made_once_for_each_state_of_the_weights(
    cnn: Cnn, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uses the meta device, which every machine has and which computes only shapes."""
    copies: list[nn.Module] = []

    def copied(*arguments: Any) -> nn.Module:
        copies.append(network_state.copied_to(*arguments))
        return copies[-1]

    monkeypatch.setattr(network, "copied_to", copied)
    layer = Network(cnn.train(), PREPROCESSING).representation("features.3")
    for _ in range(2):
        assert (layer(images.to("meta")).device.type, layer(images).device.type) == ("meta", "cpu")
    assert len(copies) == 1
    assert {value.device.type for value in copies[0].state_dict().values()} == {"meta"}
    assert {value.device.type for value in cnn.state_dict().values()} == {"cpu"}
    assert cnn.training
    with torch.no_grad():
        cnn.again.weight.mul_(2)
    layer(images.to("meta"))
    assert len(copies) == 2
    cnn.lock = threading.Lock()  # type: ignore[assignment]
    cnn.again.bias = nn.Parameter(torch.ones(8))
    with pytest.raises(ValueError, match=r"networks\.Cnn.*meta.*TypeError: .*lock"):
        layer(images.to("meta"))


def test_threads_take_turns(cnn: Cnn, images: torch.Tensor) -> None:
    network = Network(cnn, PREPROCESSING)
    names = ["features.0", "features.1", "features.3", "again", "pool", ""]
    expected = network.layers(images, names)
    wrong: list[str] = []

    def work(name: str) -> None:
        for _ in range(20):
            if not close(network.layers(images, [name])[name], expected[name]):
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def darken(images: torch.Tensor) -> torch.Tensor:
    return images * 0.5


def test_a_preprocessing_of_ones_own(images: torch.Tensor) -> None:
    layer = Network(nn.Identity(), darken, image_size=SIDE).representation("")
    assert close(layer(images), images * 0.5)
    assert (layer((images * 255).byte()) - images * 0.5).abs().max() < 1 / 255
    assert layer.spec.parameters["preprocess"] == f"custom:{__name__}.darken"
    assert layer.spec.parameters["image_size"] == SIDE
    with pytest.raises(ValueError, match="32×32 pixels"):
        layer(images[:, :, 1:])


def test_the_trace_lists_layers_in_the_order_in_which_they_answer(cnn: Cnn) -> None:
    traced = Network(cnn, PREPROCESSING).trace()
    names = [found.name for found in traced]
    assert names[:6] == ["features.0", "features.1", "features.2", "features.3", "features", "again"]
    assert names[-1] == ""
    first = traced[0]
    assert (first.kind, first.output) == ("Conv2d", "tensor (1, 6, 16, 16) float32")
    assert (first.features, first.parameters, first.problem) == ((6, 16, 16), 3 * 6 * 9 + 6, "")
    attention = next(one for one in Network(Vit(), PREPROCESSING).trace() if one.name == "blocks.0.attn")
    assert (attention.features, attention.output) == (None, "tuple (tensor (1, 17, 8) float32, None)")
    assert "layer 'blocks.0.attn' returns tuple" in attention.problem
