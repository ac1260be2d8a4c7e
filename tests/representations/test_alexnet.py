"""Compare AlexNet's layers with an independent forward pass, and with statistics measured elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

import tolerances
from preimage.pipelines.image_loading import as_sources, load
from preimage.pipelines.weights import import_weights
from preimage.representations import create_representation, representation_from_spec
from preimage.representations.alexnet_network import LAYERS, build, channels, parameter_shapes
from preimage.representations.network_layers import layer_outputs
from preimage.spec import Spec

PARAMETERS = {"caffenet": 60_965_224, "bvlc": 60_965_224, "torchvision": 61_100_840}
Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for imported weights, used by this test only."""
    monkeypatch.setenv("PREIMAGE_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def random_weights(variant: str, last: str) -> Tensors:
    """Return weights that preserve the size of activations, so that the outputs of all layers are meaningful."""
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for name, shape in parameter_shapes(variant).items():
        if LAYERS.index(name.partition(".")[0]) <= LAYERS.index(last):
            values = torch.randn(shape, generator=generator)
            weights[name] = values * (2 / values[0].numel()) ** 0.5 if name.endswith("weight") else values * 0.1
    return weights


def save(folder: Path, weights: Tensors) -> Path:
    np.savez(folder / "w.npz", **{name: values.numpy() for name, values in weights.items()})
    return folder / "w.npz"


def convolved(x: torch.Tensor, weights: Tensors, name: str, groups: int = 1, **options: int) -> torch.Tensor:
    """Compute a convolution and ReLU, in groups of channels."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    parts = zip(x.chunk(groups, 1), weight.chunk(groups), bias.chunk(groups), strict=True)
    return torch.cat([F.conv2d(part, w, b, **options) for part, w, b in parts], 1).clamp(min=0)


def pooled(x: torch.Tensor, ceil: bool) -> torch.Tensor:
    """Compute 3×3 max pooling with stride 2, with or without incomplete windows at the edge."""
    if ceil:
        x = F.pad(x, (0, (x.shape[3] - 3) % 2, 0, (x.shape[2] - 3) % 2), value=-torch.inf)
    return x.unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))


def normalized(x: torch.Tensor) -> torch.Tensor:
    """Compute x / (1 + 1e-4 / 5 · sum of squares over five channels) ** 0.75."""
    squares = F.pad(x.square(), (0, 0, 0, 0, 2, 2))
    total = sum(squares[:, first : first + x.shape[1]] for first in range(5))
    return x / (1 + 1e-4 / 5 * total) ** 0.75


def forward(variant: str, x: torch.Tensor, w: Tensors) -> Tensors:
    """Compute the outputs of all layers, as in the prototxts and in torchvision's source."""
    if variant == "torchvision":
        out = {"conv1": pooled(convolved(x, w, "conv1", stride=4, padding=2), ceil=False)}
        out["conv2"] = pooled(convolved(out["conv1"], w, "conv2", padding=2), ceil=False)
        out["conv3"] = convolved(out["conv2"], w, "conv3", padding=1)
        out["conv4"] = convolved(out["conv3"], w, "conv4", padding=1)
        out["conv5"] = pooled(convolved(out["conv4"], w, "conv5", padding=1), ceil=False)
    else:
        pool_first = variant == "caffenet"

        def finished(x: torch.Tensor) -> torch.Tensor:
            return normalized(pooled(x, ceil=True)) if pool_first else pooled(normalized(x), ceil=True)

        out = {"conv1": finished(convolved(x, w, "conv1", stride=4))}
        out["conv2"] = finished(convolved(out["conv1"], w, "conv2", groups=2, padding=2))
        out["conv3"] = convolved(out["conv2"], w, "conv3", padding=1)
        out["conv4"] = convolved(out["conv3"], w, "conv4", groups=2, padding=1)
        out["conv5"] = pooled(convolved(out["conv4"], w, "conv5", groups=2, padding=1), ceil=True)
    if "fc6.weight" in w:
        out["fc6"] = (out["conv5"].reshape(len(x), -1) @ w["fc6.weight"].T + w["fc6.bias"]).clamp(min=0)
        out["fc7"] = (out["fc6"] @ w["fc7.weight"].T + w["fc7.bias"]).clamp(min=0)
        out["fc8"] = out["fc7"] @ w["fc8.weight"].T + w["fc8.bias"]
        out["prob"] = out["fc8"].exp() / out["fc8"].exp().sum(1, keepdim=True)
    return out


def assert_close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= tolerances.ALEXNET * expected.abs().max()


@pytest.mark.parametrize(
    ("variant", "side", "cells"), [("caffenet", 231, 28), ("bvlc", 231, 28), ("torchvision", 228, 27)]
)
def test_convolutions_against_a_forward_pass_written_anew(variant: str, side: int, cells: int) -> None:
    """Uses a size for which Caffe's pooling, which keeps the last window, differs from torchvision's."""
    weights = random_weights(variant, "conv5")
    network = build(variant, "conv5").requires_grad_(False)
    network.load_state_dict(weights)
    pixels = (
        torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 100
    )  # so that normalization matters
    expected = forward(variant, pixels, weights)
    ours = layer_outputs(network, LAYERS[:5], pixels)
    assert list(ours) == list(LAYERS[:5])
    assert expected["conv1"].shape[2] == cells
    for name in ours:
        assert_close(ours[name], expected[name])
    assert torch.equal(network(pixels), ours["conv5"])
    if variant != "torchvision":
        other = forward("bvlc" if variant == "caffenet" else "caffenet", pixels, weights)
        difference = (other["conv1"] - expected["conv1"]).abs().max() / expected["conv1"].abs().max()
        assert difference > 100 * tolerances.ALEXNET, "the order of pooling and normalization shows"


@pytest.mark.parametrize("variant", ["caffenet", pytest.param("torchvision", marks=pytest.mark.nightly)])
def test_the_whole_network(variant: str, tmp_path: Path) -> None:
    weights = random_weights(variant, "fc8")
    weights["fc8.weight"] *= 0.01  # otherwise the exponentials overflow
    assert sum(values.numel() for values in weights.values()) == PARAMETERS[variant]
    summary = import_weights(save(tmp_path, weights), variant=variant)
    assert (summary.parameters, summary.layers, summary.notes) == (PARAMETERS[variant], LAYERS[:8], ())
    prob = create_representation("alexnet-prob", variant=variant)
    side = prob.image_side
    assert side == (224 if variant == "torchvision" else 227)
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    if variant == "caffenet":
        pixels = images.flip(1) * 255 - torch.tensor([104.007, 116.669, 122.679])[:, None, None]
    else:
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
        pixels = (images - mean[:, None, None]) / std[:, None, None]
    expected = forward(variant, pixels, weights)
    assert_close(prob(images), expected["prob"])
    for layer in LAYERS:
        representation = create_representation(f"alexnet-{layer}", variant=variant)
        features = representation(images)
        assert_close(features, expected[layer])
        assert features.shape[1:] == (representation.spec.channels, *(representation.feature_size(side, side) or ()))
        assert (representation.spec.stride is None) == (features.dim() == 2)
        assert representation.image_size(*features.shape[2:] or (1, 1)) == (side, side)


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameters_of_each_variant(variant: str) -> None:
    shapes = parameter_shapes(variant)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == PARAMETERS[variant]
    assert [channels(variant, layer) for layer in LAYERS[5:]] == [4096, 4096, 1000, 1000]


def test_networks_end_where_they_are_asked_to() -> None:
    network = build("caffenet", "conv2", device="meta")
    assert [name for name, _ in network.named_children()] == ["conv1", "conv2"]
    with pytest.raises(ValueError, match=r"layer.*'pool5'.*conv1"):
        build("caffenet", "pool5")
    with pytest.raises(ValueError, match=r"variant.*caffenet, bvlc, torchvision.*'zf'"):
        create_representation("alexnet-conv1", variant="zf")


@pytest.fixture
def convolutions(tmp_path: Path) -> Path:
    """Import random weights of conv1 to conv3."""
    return import_weights(save(tmp_path, random_weights("caffenet", "conv3")), variant="caffenet").path


def test_specs_there_and_back(convolutions: Path) -> None:
    conv2 = create_representation("alexnet-conv2")
    spec = conv2.spec
    assert (spec.representation, spec.variant, spec.channels, spec.stride) == ("alexnet-conv2", "caffenet", 256, 16)
    digest = spec.parameters["weights"]
    assert convolutions.name == f"alexnet-caffenet-{digest}.safetensors"
    assert spec.parameters["order"] == "bgr"
    again = representation_from_spec(Spec.from_json(spec.to_json()))
    assert again == create_representation("alexnet-conv2", weights=digest, preprocessing="caffe-bgr")
    assert again.spec == spec
    assert create_representation("alexnet-conv2", weights=str(convolutions)).spec == spec
    assert create_representation("alexnet-conv2", weights=convolutions).spec == spec
    other = create_representation("alexnet-conv2", preprocessing="imagenet-rgb").spec
    assert other != spec
    assert representation_from_spec(other).spec == other


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "../../etc/passwd"}, r"16 hex.*'\.\./\.\./etc/passwd'"),
        ({"weights": None}, r"16 hex.*None"),
        ({"mean": "1,2,3"}, r"preprocessing.*'mean': '1,2,3'"),
        ({"extra": 1}, "preprocessing"),
    ],
)
def test_specs_of_others(convolutions: Path, changes: dict[str, object], words: str) -> None:
    spec = create_representation("alexnet-conv1").spec
    fields = spec.to_dict()
    fields["parameters"] |= changes
    with pytest.raises(ValueError, match=words):
        representation_from_spec(Spec.from_dict(fields))


def test_weights_that_are_not_there(convolutions: Path, folder: Path, tmp_path: Path) -> None:
    conv1 = create_representation("alexnet-conv1", variant="torchvision")
    with pytest.raises(FileNotFoundError, match=r"torchvision.*alexnet-owt-7be5be79\.pth"):
        _ = conv1.spec
    spec = create_representation("alexnet-conv1").spec
    fields = spec.to_dict()
    fields["parameters"]["weights"] = "0" * 16
    command = r"weights import bvlc_reference_caffenet\.caffemodel --variant caffenet"
    with pytest.raises(FileNotFoundError, match=rf"0000000000000000.*{command}"):
        representation_from_spec(Spec.from_dict(fields))
    fc6 = create_representation("alexnet-fc6")
    with pytest.raises(ValueError, match=r"alexnet-fc6.*conv3"):
        fc6(torch.zeros(1, 3, 227, 227))
    with pytest.raises(ValueError, match=r"variant 'caffenet'.*'bvlc'"):
        _ = create_representation("alexnet-conv1", variant="bvlc", weights=str(convolutions)).spec
    import_weights(save(tmp_path, random_weights("caffenet", "conv2")), variant="caffenet")
    with pytest.raises(ValueError, match=r"2 weights.*[0-9a-f]{16}, [0-9a-f]{16}"):
        _ = create_representation("alexnet-conv1").spec


def test_images_of_other_sizes(convolutions: Path) -> None:
    conv1 = create_representation("alexnet-conv1")
    with pytest.raises(ValueError, match=r"227×227.*224×224"):
        conv1(torch.zeros(1, 3, 224, 224))
    with pytest.raises(ValueError, match=r"227×227.*256×227"):
        conv1.feature_size(256, 227)


def test_gradients_only_where_images_ask_for_them(convolutions: Path) -> None:
    conv3 = create_representation("alexnet-conv3")
    images = torch.rand(1, 3, 227, 227)
    with torch.inference_mode():
        first = conv3(images)
    assert not conv3(images).requires_grad
    asking = images.clone().requires_grad_()
    features = conv3(asking)
    assert torch.equal(features.detach(), first)
    (gradient,) = torch.autograd.grad(features.square().sum(), asking)
    assert gradient.abs().max() > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv3(images), first)


def test_layers_share_a_network(convolutions: Path, tmp_path: Path) -> None:
    images = torch.rand(1, 3, 227, 227)
    conv1, conv3 = (create_representation(f"alexnet-conv{k}") for k in (1, 3))
    assert conv1.network is conv3.network
    assert create_representation("alexnet-conv1", weights=convolutions).network is conv1.network
    several = conv3.network.layers(images, ["conv3", "conv1"])
    assert list(several) == ["conv3", "conv1"]
    assert torch.equal(several["conv1"], conv1(images))
    path = save(tmp_path, random_weights("caffenet", "conv1"))
    first = create_representation("alexnet-conv1", weights=path).spec
    save(tmp_path, {name: values * 2 for name, values in random_weights("caffenet", "conv1").items()})
    os.utime(path, (0, 0))
    assert create_representation("alexnet-conv1", weights=path).spec.differences(first), "the file has changed"


@pytest.mark.parametrize("suffix", [".npz", ".pth", ".pth.tar", ".safetensors"])
def test_weights_by_path_are_those_imported(tmp_path: Path, suffix: str) -> None:
    """This also holds for the name of the function that creates the network."""
    weights = random_weights("torchvision", "conv2")
    path = tmp_path / f"w{suffix}"
    if suffix == ".npz":
        save(tmp_path, weights)
    elif suffix == ".safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save({"state_dict": weights}, path)
    by_path = create_representation("alexnet-conv2", variant="torchvision", weights=path)
    summary = import_weights(path)
    assert by_path.spec.parameters["weights"] == summary.digest
    assert by_path.spec == create_representation("alexnet-conv2", variant="torchvision").spec
    images = torch.rand(1, 3, 224, 224)
    named = create_representation("torch:preimage.representations.alexnet:alexnet", layer="conv2", weights=str(path))
    assert torch.equal(named(images), by_path(images))
    assert (named.spec.variant, named.spec.parameters["weights"]) == ("alexnet-torchvision", summary.digest)


def test_statistics_of_real_weights(shared_data: Path) -> None:
    """Mean, deviation, maximum and fraction of zeros on 200 photographs are those that the weights describe."""
    expected = {
        "conv1": (2.124, 3.212, 66.72, 0.24),
        "conv2": (2.068, 3.756, 98.38, 0.47),
        "conv3": (1.373, 3.099, 143.02, 0.66),
        "conv4": (1.093, 2.311, 98.96, 0.65),
        "conv5": (1.320, 2.898, 80.87, 0.66),
    }
    file = shared_data / "alexnet" / "alexnet-conv1-5.npz"
    summary = import_weights(file, variant="bvlc", preprocessing="imagenet-rgb")
    assert summary.digest == "6d6f520875f0f22f"
    sources = as_sources([str(shared_data / "images" / "val" / "val227.tar")])
    images = torch.stack([torch.from_numpy(item.pixels) for item in load(sources, None)]).permute(0, 3, 1, 2)
    assert images.shape == (200, 3, 227, 227)
    conv5 = create_representation("alexnet-conv5", variant="bvlc")
    parts = [conv5.network.layers(some, expected) for some in images.split(20)]
    for name, (mean, std, largest, zeros) in expected.items():
        features = torch.cat([part[name] for part in parts]).double()
        assert features.mean().item() == pytest.approx(mean, rel=1e-3), name
        assert features.std().item() == pytest.approx(std, rel=1e-3), name
        assert features.max().item() == pytest.approx(largest, abs=0.01), name
        assert (features == 0).double().mean().item() == pytest.approx(zeros, abs=0.006), name


def test_through_the_command_line(
    run: Callable[..., tuple[int, str, str]], convolutions: Path, photo_folder: Path, tmp_path: Path
) -> None:
    some = sorted(photo_folder.iterdir())[:2]
    output = tmp_path / "f.safetensors"
    code, out, err = run(
        "extract", "alexnet-conv3", *some, "-o", output, "--size", 227, "-p", f"weights={convolutions}"
    )
    assert (code, err) == (0, "")
    assert "alexnet-conv3 caffenet" in out
    code, _, err = run("extract", "alexnet-conv3", *some, "-o", output, "--size", 128)
    assert (code, "227×227" in err) == (1, True)
    code, _, err = run("extract", "alexnet-conv3", *some, "-o", output, "-p", "variant=torchvision")
    assert (code, "weights import alexnet-owt-7be5be79.pth" in err) == (1, True)
