"""Test ONNX files of inverters: their images against torch's in onnxruntime, their metadata, and refusals."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import preimage
from conftest import Run
from hub_cache import add_to_cache
from paths import ROOT
from preimage.errors import FileFormatError
from preimage.inverters import Inverter, OutputRegion, SingleStreamConfig, UShapedConfig, find_inverter, preset
from preimage.inverters.architectures import ArchitectureConfig, config_from_dict, config_to_dict
from preimage.inverters.auto import auto, like_alexnet
from preimage.inverters.presets import preset_names
from preimage.pipelines.export import export
from preimage.representations import create_representation
from preimage.spec import Spec
from tolerances import ONNX, ONNX_FLOAT16

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

DENSE = [find_inverter(create_representation(name).spec) for name in ("hog", "dense-sift", "lbp")]
MODELS = sorted((ROOT / "models").glob("*-compact"))
NARROWER = 16  # networks of presets have a 16th of their channels here


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def features_of(inverter: Inverter, batch: int, *cells: int) -> torch.Tensor:
    """Return random features with the mean and deviation of the inverter's."""
    shape = (-1, *(1 for _ in cells))
    values = torch.randn(batch, inverter.spec.channels, *cells, generator=torch.Generator().manual_seed(batch))
    features = inverter.feature_mean.view(shape) + inverter.feature_deviation.view(shape) * values
    return features.exp() if inverter.network.log_floor > 0 else features


def error(path: Path, inverter: Inverter, *sizes: tuple[int, ...]) -> float:
    """Return the largest difference between onnxruntime's and torch's images, for features of sizes (N, h, w)."""
    runtime, largest = session(path), 0.0
    for size in sizes:
        features = features_of(inverter, *size)
        (images,) = runtime.run(["images"], {"features": features.numpy()})
        wanted = inverter(features).numpy()
        assert images.dtype == np.float32
        assert images.shape == wanted.shape
        assert wanted.std() > 1e-3  # not all clamped to one value
        largest = max(largest, float(np.abs(images - wanted).max()))
    return largest


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_pretrained_inverters_equal_torch(name: str, weights: str, tmp_path: Path) -> None:
    """Their weights are stored as int8, so that int8 is as exact as float32."""
    inverter = Inverter.load(name)
    summary = export(name, tmp_path / "a.onnx", weights=weights)
    assert summary.bytes == (tmp_path / "a.onnx").stat().st_size
    assert summary.parameters < summary.bytes * (4 if weights == "int8" else 1)
    assert error(tmp_path / "a.onnx", inverter, (1, 16, 16), (3, 7, 21)) < ONNX


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_inverters_of_networks_equal_torch(folder: Path, tmp_path: Path) -> None:
    inverter = Inverter.load(folder)
    cells = inverter.training_notes["feature_shape"][1:]
    export(folder, tmp_path / "a.onnx", weights="int8")
    others = [(3, *(side + 1 - axis * 3 for axis, side in enumerate(cells)))]  # such as 14×11 for 13×13
    assert error(tmp_path / "a.onnx", inverter, (1, *cells), *others) < ONNX


def narrowed(config: ArchitectureConfig) -> ArchitectureConfig:
    """Return a network of the same form with fewer channels."""

    def less(value: Any) -> Any:
        if isinstance(value, str) and value != "up 3":
            return re.sub(r"\d+$", lambda digits: str(int(digits[0]) // NARROWER), value)
        return value

    fields = {
        name: [less(one) for one in value] if isinstance(value, tuple) else value
        for name, value in config_to_dict(config).items()
    }
    for name in ("widths", "head"):
        if name in fields:
            fields[name] = [max(1, width // NARROWER) for width in fields[name]]
    return config_from_dict(fields)


def untrained(spec: Spec, config: ArchitectureConfig, region: OutputRegion | None = None) -> Inverter:
    """Return an inverter with random weights whose images are not all gray."""
    torch.manual_seed(0)
    inverter = Inverter(spec, config, output_region=region).requires_grad_(False).eval()
    for name, value in inverter.state_dict().items():
        if name.endswith("bias"):
            value.normal_(std=0.1)
        elif name.endswith("second.weight"):  # zero at first
            value.normal_(std=0.02)
    inverter.feature_mean.normal_()
    inverter.feature_deviation.uniform_(0.5, 2)
    inverter.image_mean.copy_(torch.tensor([0.4, 0.5, 0.6]))
    return inverter


PRESETS = [
    (name, preset_name)
    for name in ("hog", "lbp", "dense-sift", "sift")
    for preset_name in preset_names(name)
    if preset_name in ("compact", "paper") and (name, preset_name) != ("sift", "compact")  # has a splat
]


@pytest.mark.parametrize(("representation", "preset_name"), PRESETS)
def test_presets_equal_torch(representation: str, preset_name: str, tmp_path: Path) -> None:
    config = narrowed(preset(representation, preset_name))
    inverter = untrained(create_representation(representation).spec, config)
    export(inverter, tmp_path / "a.onnx")
    assert error(tmp_path / "a.onnx", inverter, (1, 4, 4), (2, 1, 5), (3, 19, 6)) < ONNX


@pytest.mark.parametrize(
    ("cells", "image_size", "sizes"),
    [(27, 227, [(1, 27, 27), (2, 3, 9)]), (6, 227, [(1, 6, 6), (3, 2, 17)]), (None, 224, [(1,), (3,)])],
)
def test_the_papers_networks_for_alexnet_equal_torch(
    cells: int | None, image_size: int, sizes: list[tuple[int, ...]], tmp_path: Path
) -> None:
    config, region = like_alexnet(cells, image_size)
    spec = Spec("own", "v", channels=48, stride=None if cells is None else 8)
    inverter = untrained(spec, narrowed(config), region)
    export(inverter, tmp_path / "a.onnx")
    assert error(tmp_path / "a.onnx", inverter, *sizes) < ONNX


def test_logarithms_of_probabilities_equal_torch(tmp_path: Path) -> None:
    config, region = auto(20, None, 224, 48, 40_000, probabilities=True)
    inverter = untrained(Spec("own", "v", channels=20, stride=None), config, region)
    export(inverter, tmp_path / "a.onnx")
    assert error(tmp_path / "a.onnx", inverter, (3,)) < ONNX
    features = torch.zeros(1, 20)  # below the smallest probability
    (images,) = session(tmp_path / "a.onnx").run(None, {"features": features.numpy()})
    assert np.abs(images - inverter(features).numpy()).max() < ONNX


def test_float16_weights_are_rounded(tmp_path: Path) -> None:
    name = DENSE[0]
    inverter = Inverter.load(name)
    sizes = {
        weights: export(name, tmp_path / f"{weights}.onnx", weights=weights).bytes for weights in ("float32", "float16")
    }
    assert sizes["float16"] < 0.51 * sizes["float32"]
    assert ONNX < error(tmp_path / "float16.onnx", inverter, (1, 16, 16)) < ONNX_FLOAT16


def test_int8_rounds_weights_as_a_saved_inverter_does(tmp_path: Path) -> None:
    config = UShapedConfig(widths=(16, 24), blocks_down=(1, 1), blocks_up=(1,), head=(16, 8))
    inverter = untrained(create_representation("hog").spec, config)
    rounded = Inverter.load(inverter.save(tmp_path / "rounded", dtype=torch.int8))
    export(inverter, tmp_path / "a.onnx", weights="int8")
    assert error(tmp_path / "a.onnx", rounded, (1, 6, 4)) < ONNX
    assert error(tmp_path / "a.onnx", inverter, (1, 6, 4)) > ONNX


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    name = DENSE[0]
    summary = export(name, tmp_path / "a.onnx")
    inverter = Inverter.load(name)
    assert (summary.inverter, summary.output, summary.weights) == (name, tmp_path / "a.onnx", "float32")
    runtime = session(tmp_path / "a.onnx")
    found = {one.name: tuple(one.shape) for one in (*runtime.get_inputs(), *runtime.get_outputs())}
    assert found == summary.shapes == {"features": ("N", 31, "h", "w"), "images": ("N", 3, "H", "W")}
    metadata = runtime.get_modelmeta().custom_metadata_map
    assert metadata.pop("model_card").startswith(f"# Model card: `{name}`")
    assert Spec.from_dict(json.loads(metadata.pop("spec"))) == inverter.spec
    assert metadata == {
        "preimage_version": preimage.__version__,
        "inverter": name,
        "stride": "8",
        "margin": "[0, 0]",
        "output_region": "null",
        "color_order": "RGB",
        "value_range": "[0, 1]",
    }


def test_an_inverter_from_the_hub_keeps_its_name_and_card(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    Inverter.load(tiny).save(tmp_path / "mine")
    (tmp_path / "mine" / "README.md").write_text("# Card")
    add_to_cache(tmp_path / "cache", "someone/mine", tmp_path / "mine")
    assert export("someone/mine@main", tmp_path / "a.onnx").inverter == "someone/mine@main"
    assert session(tmp_path / "a.onnx").get_modelmeta().custom_metadata_map["model_card"] == "# Card"


def test_operators_are_standard_and_old(tmp_path: Path) -> None:
    export(DENSE[1], tmp_path / "a.onnx", weights="int8")
    model = onnx.load(tmp_path / "a.onnx")
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    kinds = {node.op_type for node in model.graph.node}
    assert {"Conv", "DepthToSpace"} <= kinds
    assert "ConvTranspose" not in kinds


def test_inverters_of_vectors_have_a_fixed_size(tmp_path: Path) -> None:
    config = SingleStreamConfig(("fc 64", "grid 4 4", "up 3"))
    inverter = untrained(Spec("own", "v", channels=5, stride=None), config, OutputRegion(224, 200, 8))
    summary = export(inverter, tmp_path / "a.onnx")
    assert summary.shapes == {"features": ("N", 5), "images": ("N", 3, 8, 8)}
    assert summary.inverter == "own"
    metadata = session(tmp_path / "a.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(metadata["output_region"]) == dataclasses.asdict(inverter.output_region)
    assert metadata["stride"] == "null"
    assert "model_card" not in metadata
    assert error(tmp_path / "a.onnx", inverter, (2,)) < ONNX


def test_bad_input_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.onnx"
    target.write_bytes(b"earlier")
    with pytest.raises(ValueError, match=r"\.onnx.*'a\.pt'"):
        export(DENSE[0], tmp_path / "a.pt")
    with pytest.raises(ValueError, match="float32, float16 or int8, got 'int4'"):
        export(DENSE[0], target, weights="int4")
    with pytest.raises(ValueError, match=r"sift.*splat"):
        export("sift-compact", target)
    with pytest.raises(ValueError, match="no-such"):
        export("no-such", target)
    with pytest.raises(FileFormatError, match=r"config\.json"):
        export(tmp_path, target)
    with pytest.raises(OSError, match="absent"):
        export(DENSE[0], tmp_path / "absent" / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"onnx, which is not installed: pip install 'preimage\[onnx\]'"):
        export(DENSE[0], target)
    assert target.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [target]


def test_the_command(run: Run, tiny: Path, tmp_path: Path) -> None:
    code, out, err = run("export", tiny, "-o", tmp_path / "a.onnx", "--weights", "int8", "--json")
    assert (code, err.splitlines()[:2]) == (0, ["features (N, 31, h, w) float32", "images (N, 3, H, W) float32"])
    summary = json.loads(out)
    assert summary["bytes"] == (tmp_path / "a.onnx").stat().st_size
    assert summary["shapes"] == {"features": ["N", 31, "h", "w"], "images": ["N", 3, "H", "W"]}
    assert (summary["inverter"], summary["weights"], summary["opset"]) == (tiny.resolve().name, "int8", 17)
    code, out, err = run("export", tiny, "-o", tmp_path / "a")
    assert (code, out, err) == (1, "", "error: output must end with .onnx, got 'a'\n")


def test_functions_without_a_translation_are_named(tmp_path: Path) -> None:
    class Softplus(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.softplus(x)

    inverter = untrained(create_representation("hog").spec, UShapedConfig((8,), (0,), (), (8, 8)))
    inverter.network.stem = Softplus()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"softplus.*cannot be exported"):
        export(inverter, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []
