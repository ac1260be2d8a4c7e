"""Test files of inverters: those of version 0.1, and int8 weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from own_files import change_config
from preimage.errors import FileFormatError
from preimage.inverters import Inverter, OutputRegion, SingleStreamConfig
from preimage.inverters.architectures import config_to_dict
from preimage.inverters.layers import upconv_weights
from preimage.spec import Spec

VECTORS = SingleStreamConfig(layers=("fc 64", "grid 4 4", "res", "up 48", "up 3"), log_floor=1e-6)
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def inverter() -> Inverter:
    """Return an inverter of vectors with all types of layers, some with enough weights to be quantized."""
    torch.manual_seed(0)
    spec = Spec("hog", "pooled", 128, None, {"color": "luma"})
    made = Inverter(spec, VECTORS, {"normalized_error": 0.5}, OutputRegion(64, 32, 16)).eval().requires_grad_(False)
    for weight in made.parameters():
        weight.add_(0.05 * torch.randn_like(weight))
    return made


def rewritten(folder: Path, change: Callable[[Tensors], Tensors], **fields: object) -> Path:
    """Change an inverter's tensors, and fields of its config; ``None`` removes one."""
    tensors = change(safetensors.torch.load_file(folder / "model.safetensors"))
    safetensors.torch.save_file(
        {name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors"
    )
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    changes = {"format_version": 2, "sha256": None, "weights_sha256": digest} | fields
    change_config(folder, {name: ... if value is None and name != "view" else value for name, value in changes.items()})
    return folder


def test_an_inverter_of_version_0_1_loads(inverter: Inverter, tmp_path: Path) -> None:
    names = upconv_weights(inverter)
    assert names

    def turned(tensors: Tensors) -> Tensors:
        """Return the weights in the orientation of `conv2d`."""
        return {n: v.transpose(0, 1).flip(2, 3) if n in names else v for n, v in tensors.items()}

    spec = inverter.spec.to_dict() | {"parameters": {"colour": "luma"}}
    network = config_to_dict(VECTORS)
    network["logarithm_from"] = network.pop("log_floor")
    folder = rewritten(
        inverter.save(tmp_path / "old"),
        turned,
        format_version=1,
        spec=spec,
        network=network,
        view={"image_size": 64, "crop": 32, "size": 16},
        output_region=None,
        training={"normalised_error": 0.5},
    )
    config = json.loads((folder / "config.json").read_text())
    assert "output_region" not in config and "view" in config
    old = Inverter.load(folder)
    assert (old.spec, old.output_region, old.config) == (inverter.spec, inverter.output_region, VECTORS)
    assert old.training_notes == {"normalized_error": 0.5}
    features = torch.rand(2, 128)
    torch.testing.assert_close(old(features), inverter(features))
    # A new file has the present names.
    config = json.loads((old.save(tmp_path / "new") / "config.json").read_text())
    assert config["format_version"] == 4 and config["output_region"] == {"image_size": 64, "crop": 32, "size": 16}
    assert "view" not in config and config["spec"]["parameters"] == {"color": "luma"}


def test_weights_as_int8(inverter: Inverter, tmp_path: Path) -> None:
    folder = inverter.save(tmp_path / "int8", dtype=torch.int8)
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    small = {name: value for name, value in stored.items() if value.dtype == torch.int8}
    assert small.keys() == {"network.layers.0.weight", "network.layers.3.weight"}
    for name, value in small.items():
        channels = 1 if name in upconv_weights(inverter) else 0
        shape = [1] * value.dim()
        shape[channels] = value.shape[channels]
        assert list(stored[f"{name}.scale"].shape) == shape
        assert value.to(torch.int16).abs().amax() == 127
    again = Inverter.load(folder)
    for name, value in again.state_dict().items():
        kept = inverter.state_dict()[name]
        assert value.dtype == torch.float32
        if name in small:
            assert ((value - kept).abs() <= stored[f"{name}.scale"] / 2 * 1.001).all()
        else:
            assert torch.equal(value, kept)
    twice = safetensors.torch.load_file(again.save(tmp_path / "twice", dtype=torch.int8) / "model.safetensors")
    assert twice.keys() == stored.keys() and all(torch.equal(twice[name], small[name]) for name in small)


def test_a_channel_of_zeros_stays_one(inverter: Inverter, tmp_path: Path) -> None:
    weight = inverter.get_parameter("network.layers.0.weight")
    weight[3] = 0
    assert (
        Inverter.load(inverter.save(tmp_path, dtype=torch.int8)).get_parameter("network.layers.0.weight")[3] == 0
    ).all()


@pytest.mark.parametrize(
    "scale",
    [
        None,
        torch.ones(64, 128),
        torch.ones(64),
        torch.ones(1, 64),
        torch.ones(64, 1, 1),
        torch.ones(64, 1, dtype=torch.float64),
    ],
    ids=lambda scale: "none" if scale is None else f"{tuple(scale.shape)} {scale.dtype}",
)
def test_int8_weights_with_other_scales_are_refused(
    inverter: Inverter, tmp_path: Path, scale: torch.Tensor | None
) -> None:
    name = "network.layers.0.weight"

    def changed(tensors: Tensors) -> Tensors:
        del tensors[f"{name}.scale"]
        return tensors if scale is None else tensors | {f"{name}.scale": scale}

    folder = rewritten(inverter.save(tmp_path, dtype=torch.int8), changed)
    with pytest.raises(FileFormatError, match=rf"int8 weights {name} \(64, 128\) have"):
        Inverter.load(folder)


def test_other_dtypes_are_refused(inverter: Inverter, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"int8, got torch\.int32"):
        inverter.save(tmp_path, dtype=torch.int32)
