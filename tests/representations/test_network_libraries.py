"""Test networks of timm and of transformers by name: preprocessing, weights on this machine, outputs of layers."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import preimage as pi
from look_networks import SIDE, ViT
from preimage.representations.network_factory import load_network
from preimage.representations.network_libraries import TransformersNetwork, timm_preprocessing

CONFIG = {"input_size": (3, SIDE, SIDE), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


class FakeTimm(types.ModuleType):
    """The functions of timm that are used, for one network, ``toy``, whose weights have a place in the Hub's cache."""

    def __init__(self, cached: Path | None) -> None:
        super().__init__("timm")
        self.cached, self.calls = cached, list[dict[str, Any]]()
        self.data = types.ModuleType("timm.data")
        self.data.resolve_model_data_config = lambda module: module.pretrained_cfg  # type: ignore[attr-defined]

    def is_model(self, name: str) -> bool:
        return name == "toy"

    def list_models(self, pattern: str) -> list[str]:
        return ["toy"] if "toy" in pattern else []

    def get_pretrained_cfg(self, name: str) -> Any:
        config = {"hf_hub_id": "timm/toy", "url": "https://example.org/toy-1234.pth"}
        return types.SimpleNamespace(to_dict=lambda: config)

    def create_model(self, name: str, **options: Any) -> nn.Module:
        if "img_size" in options:
            raise TypeError("no argument img_size")
        self.calls.append(options)
        module = ViT()
        nn.init.normal_(module.patch_embed.weight)  # of the global seed, unlike the rest
        if options["pretrained"]:
            module.load_state_dict(load_file(options["pretrained_cfg_overlay"]["file"]))
        module.pretrained_cfg = CONFIG
        return module


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        save_file(
            {name: torch.randn_like(value) for name, value in ViT().state_dict().items()}, tmp_path / "w.safetensors"
        )
    return tmp_path / "w.safetensors"


@pytest.fixture
def timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTimm:
    fake = FakeTimm(None)
    hub = types.ModuleType("huggingface_hub")
    hub.try_to_load_from_cache = lambda repository, file: (  # type: ignore[attr-defined]
        str(fake.cached) if fake.cached and (repository, file) == ("timm/toy", "model.safetensors") else None
    )
    for name, module in (("timm", fake), ("timm.data", fake.data), ("huggingface_hub", hub)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return fake


def test_timm_with_a_file_of_weights(timm: FakeTimm, weights: Path) -> None:
    network = load_network("timm:toy", weights=str(weights))
    assert torch.equal(network.module.norm.weight, load_file(weights)["norm.weight"])
    assert not network.module.training
    assert network.name == "timm:toy"
    assert (
        network.described_preprocessing()
        == pi.Preprocessing(SIDE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)).parameters()
    )
    layer = pi.create_representation("timm:toy", layer="blocks.2", weights=str(weights))
    assert layer.spec == network.representation("blocks.2").spec
    assert layer(torch.rand(2, 3, SIDE, SIDE)).shape == (2, 24, 4, 4)


def test_timm_with_weights_in_a_cache(timm: FakeTimm, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"timm:toy.*timm/toy.*toy-1234\.pth.*weights=FILE.*weights=random"):
        load_network("timm:toy")
    timm.cached = weights
    assert torch.equal(load_network("timm:toy").module.norm.weight, load_file(weights)["norm.weight"])
    timm.cached = None
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "toy-1234.pth").write_bytes(weights.read_bytes())
    assert torch.equal(load_network("timm:toy").module.norm.weight, load_file(weights)["norm.weight"])
    assert all(one["pretrained_cfg_overlay"]["hf_hub_id"] is None for one in timm.calls), "never from the Hub"


def test_random_weights_are_the_same_at_each_call_and_part_of_the_name(timm: FakeTimm) -> None:
    first, second = (load_network("timm:toy", weights="random") for _ in range(2))
    assert first.weights == second.weights
    assert first.name == "timm:toy, random weights"
    before = torch.random.get_rng_state()
    load_network("timm:toy", weights="random")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_preprocessing_and_size_can_be_given(timm: FakeTimm) -> None:
    network = load_network("timm:toy", weights="random", input_size=64, preprocessing="unit")
    assert (network.image_size, network.described_preprocessing()["mean"]) == (64, "0,0,0")
    with pytest.raises(ValueError, match=r"preprocessing.*'tf'"):
        load_network("timm:toy", weights="random", preprocessing="tf")
    with pytest.raises(ValueError, match=r"input_size.*0"):
        load_network("timm:toy", weights="random", input_size=0)


def test_a_module_of_timm_has_its_preprocessing(timm: FakeTimm) -> None:
    module = timm.create_model("toy", pretrained=False)
    assert timm_preprocessing(module).mean == (0.5, 0.4, 0.3)
    module.pretrained_cfg = CONFIG | {"input_size": (3, 32, 64)}
    with pytest.raises(ValueError, match=r"square.*32, 64"):
        timm_preprocessing(module)
    module.pretrained_cfg = CONFIG | {"mean": (0.5,)}
    with pytest.raises(ValueError, match=r"three numbers.*0\.5"):
        timm_preprocessing(module)


def test_errors_of_timm(timm: FakeTimm, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'toyish'.*toy"):
        load_network("timm:toyish", weights="random")
    with pytest.raises(ValueError, match=r"timm:NAME.*'timm:'"):
        load_network("timm:")
    with pytest.raises(ValueError, match=r"weights.*missing\.pth"):
        load_network("timm:toy", weights=str(tmp_path / "missing.pth"))
    save_file({"other": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"timm:toy failed.*Missing key"):
        load_network("timm:toy", weights=str(tmp_path / "other.safetensors"))


def test_without_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("timm", "transformers"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match="pip install timm"):
        load_network("timm:toy")
    with pytest.raises(ImportError, match="pip install transformers"):
        load_network("hf:toy")


def test_a_network_of_timm_itself(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    module = timm.create_model("vit_tiny_patch16_224")
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    trained = load_network("timm:vit_tiny_patch16_224", weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(trained.module.blocks[3].mlp.fc1.weight, module.blocks[3].mlp.fc1.weight)
    network = load_network("timm:vit_tiny_patch16_224", weights="random")
    assert network.described_preprocessing()["mean"] == "0.5,0.5,0.5"
    assert network.shapes(["blocks.3"])["blocks.3"].features == (384, 14, 14)
    assert load_network("timm:vit_tiny_patch16_224", weights="random", input_size=64).shapes(["norm"])
    assert load_network("timm:resnet10t", weights="random", input_size=64).shapes(["layer1"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small ViT of transformers, and its image processor's configuration."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("hf") / "tiny-vit"
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.ViTConfig(**shape, image_size=SIDE, patch_size=8)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        transformers.ViTModel(config).save_pretrained(folder)
    write_processor(folder, size={"height": SIDE, "width": SIDE})
    return folder


def write_processor(folder: Path, **fields: Any) -> None:
    processor = {"image_processor_type": "ViTImageProcessor", "do_rescale": True, "rescale_factor": 1 / 255}
    processor |= {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | fields))


def blocks(network: pi.Network) -> list[str]:
    """Return the names of the transformer's blocks, which depend on the version."""
    return [one.name for one in network.trace() if one.kind == "ViTLayer"]


def test_a_folder_of_transformers(saved: Path) -> None:
    network = load_network(f"hf:{saved}")
    assert (network.name, network.image_size) == ("hf:tiny-vit", SIDE)
    assert (
        network.described_preprocessing()
        == pi.Preprocessing(SIDE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)).parameters()
    )
    first, second = blocks(network)
    images = torch.rand(3, 3, SIDE, SIDE)
    found = network.layers(images, [first, second, "layernorm", ""])
    with torch.no_grad():
        pixels = (images - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
        states = network.module(pixels, output_hidden_states=True)
    tokens = states.hidden_states[1]
    assert torch.allclose(found[first][:, :16].flatten(2).transpose(1, 2), tokens[:, 1:], atol=1e-5)
    assert torch.equal(found["layernorm"], found[""]), "the first output of the network: its last hidden state"
    token = network.representation("layernorm", "class-token")(images)
    assert torch.allclose(token, states.last_hidden_state[:, 0], atol=1e-5)
    grid = network.representation("layernorm", "grid")(images)
    assert torch.allclose(network.representation("layernorm", "mean")(images), grid.mean((2, 3)), atol=1e-6)


def test_layers_that_return_tuples(saved: Path) -> None:
    class Tuples(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[None, torch.Tensor, int]:
            return None, x, 3

    network = TransformersNetwork(Tuples(), pi.Preprocessing(SIDE))
    assert network.shapes([""])[""].features == (3, SIDE, SIDE)
    assert network.trace()[0].features == (3, SIDE, SIDE)
    assert isinstance(network.with_module(Tuples()), TransformersNetwork)
    with pytest.raises(TypeError, match="tuple"):
        pi.Network(Tuples(), pi.Preprocessing(SIDE)).shapes([""])


def test_images_of_another_size(saved: Path) -> None:
    network = load_network(f"hf:{saved}", input_size=48)
    assert network.shapes(["layernorm"])["layernorm"].features == (32, 6, 6), "positions are interpolated"


def test_random_weights_and_preprocessing_of_transformers(saved: Path, tmp_path: Path) -> None:
    first, second = (load_network(f"hf:{saved}", weights="random") for _ in range(2))
    assert first.weights == second.weights != load_network(f"hf:{saved}").weights
    assert first.name.endswith("random weights")
    assert load_network(f"hf:{saved}", preprocessing="unit").described_preprocessing()["std"] == "1,1,1"
    with pytest.raises(ValueError, match=r"weights.*'w\.bin'"):
        load_network(f"hf:{saved}", weights="w.bin")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"size": {"shortest_edge": 40}, "crop_size": {"height": 48, "width": 48}, "do_center_crop": True},
            (48, "0.2"),
        ),
        ({"size": {"shortest_edge": 40}, "do_center_crop": False, "crop_size": 48}, (40, "0.2")),
        ({"size": 56, "do_normalize": False}, (56, "1")),
    ],
)
def test_fields_of_the_processor(
    saved: Path, tmp_path: Path, fields: dict[str, Any], expected: tuple[int, str]
) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_processor(tmp_path, **fields)
    network = load_network(f"hf:{tmp_path}")
    side, std = expected
    assert (network.image_size, network.described_preprocessing()["std"].split(",")[0]) == (side, std)


def test_errors_of_transformers(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no-such-model.*nothing is downloaded"):
        load_network("hf:nobody/no-such-model")
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_processor(tmp_path, size={"height": 32, "width": 64})
    with pytest.raises(ValueError, match=r"preprocessor_config.*64.*input_size"):
        load_network(f"hf:{tmp_path}")
    write_processor(tmp_path, size=32, image_mean=[0.5, 0.5])
    with pytest.raises(ValueError, match="three numbers"):
        load_network(f"hf:{tmp_path}")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"preprocessor_config.*preprocessing=imagenet-rgb"):
        load_network(f"hf:{tmp_path}")
    assert load_network(f"hf:{tmp_path}", preprocessing="imagenet-rgb").image_size == SIDE


def test_the_vision_tower_of_clip(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.CLIPConfig(
        vision_config=shape | {"image_size": SIDE, "patch_size": 8},
        text_config=shape | {"vocab_size": 20, "max_position_embeddings": 8},
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    write_processor(tmp_path, size=SIDE)
    network = load_network(f"hf:{tmp_path}")
    names = [one.name for one in network.trace()]
    assert not any("text" in name for name in names)
    (pooled,) = [name for name in names if name.endswith("post_layernorm")]
    assert network.shapes([pooled])[pooled].features == (16,)
