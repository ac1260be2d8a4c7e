"""Test import of weights: every format, rejected files, and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import caffemodels
from conftest import Run
from preimage.errors import FileFormatError
from preimage.io.weights import open_weights, write_tensors
from preimage.pipelines.weights import WeightsSummary, convert_weights, import_weights
from preimage.representations import alexnet_weights
from preimage.representations.alexnet import alexnet
from preimage.representations.alexnet_network import LAYERS, parameter_shapes
from preimage.representations.alexnet_weights import TORCHVISION_NAMES

Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for imported weights, used by this test only."""
    monkeypatch.setenv("PREIMAGE_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def arrays_of(variant: str, last: str) -> Arrays:
    """Return weights that float16 represents exactly."""
    rng = np.random.default_rng(5)
    layers = LAYERS[: LAYERS.index(last) + 1]
    shapes = {name: shape for name, shape in parameter_shapes(variant).items() if name.partition(".")[0] in layers}
    return {name: rng.integers(-128, 128, shape).astype(np.float32) / 64 for name, shape in shapes.items()}


CONV2 = arrays_of("caffenet", "conv2")


def as_layers(arrays: Arrays, first: str = "pool1", then: str = "norm1") -> list[tuple[str, list[np.ndarray]]]:
    """Return layers as in a caffemodel, some of which have no blobs."""
    layers: list[tuple[str, list[np.ndarray]]] = [("data", [])]
    for layer in dict.fromkeys(name.partition(".")[0] for name in arrays):
        layers += [(layer, [arrays[f"{layer}.weight"], arrays[f"{layer}.bias"]]), (f"relu{layer[-1]}", [])]
        layers += [(first, []), (then, [])] if layer == "conv1" else []
    return layers


def write(path: Path, arrays: Arrays) -> Path:
    match path.suffix:
        case ".npz":
            np.savez(path, **arrays)
        case ".safetensors":
            safetensors.numpy.save_file(arrays, path)
        case ".pth":
            torch.save({name: torch.from_numpy(values) for name, values in arrays.items()}, path)
        case ".caffemodel":
            path.write_bytes(caffemodels.v2(as_layers(arrays)))
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth", ".caffemodel"])
def test_equal_weights_have_one_digest_whatever_they_come_in(tmp_path: Path, suffix: str) -> None:
    expected = import_weights(write(tmp_path / "a.npz", CONV2), variant="caffenet", output=tmp_path)
    summary = import_weights(write(tmp_path / f"b{suffix}", CONV2), variant="caffenet")
    assert summary.digest == expected.digest
    assert (summary.layers, summary.preprocessing) == (("conv1", "conv2"), "caffe-bgr")
    assert summary.path == tmp_path / "weights" / f"alexnet-caffenet-{summary.digest}.safetensors"
    with safetensors.safe_open(summary.path, "np") as file:
        for name, values in CONV2.items():
            assert np.array_equal(file.get_tensor(name), values)
    again = import_weights(summary.path)
    assert again == summary, "it tells its variant"


def test_half_precision_is_kept_and_other_precisions_become_single(tmp_path: Path) -> None:
    digest = import_weights(write(tmp_path / "a.npz", CONV2), variant="caffenet").digest
    kinds = {"float16": "F16", "float64": "F32"}
    for kind, kept in kinds.items():
        arrays = {name: values.astype(kind) for name, values in CONV2.items()}
        summary = import_weights(write(tmp_path / "b.npz", arrays), variant="caffenet")
        assert summary.digest == digest
        with safetensors.safe_open(summary.path, "np") as file:
            assert {file.get_slice(name).get_dtype() for name in CONV2} == {kept}
    tensors = {name: torch.from_numpy(values).bfloat16() for name, values in CONV2.items()}
    safetensors.torch.save_file(tensors, tmp_path / "c.safetensors")
    torch.save({"state_dict": tensors, "epoch": 90}, tmp_path / "c.pth")
    digests = {import_weights(tmp_path / f"c{s}", variant="caffenet").digest for s in (".safetensors", ".pth")}
    assert len(digests) == 1


def test_torchvisions_names(tmp_path: Path) -> None:
    arrays = arrays_of("torchvision", "conv5")
    ours = import_weights(write(tmp_path / "a.npz", arrays))
    assert (ours.variant, ours.preprocessing) == ("torchvision", "imagenet-rgb")
    theirs = {layer: name for name, layer in TORCHVISION_NAMES.items()}
    renamed = {f"{theirs[name.split('.')[0]]}.{name.split('.')[1]}": values for name, values in arrays.items()}
    assert "features.10.bias" in renamed
    assert import_weights(write(tmp_path / "alexnet.pth", renamed)).digest == ours.digest


def _torchvisions() -> dict[str, torch.Tensor]:
    theirs = {layer: name for name, layer in TORCHVISION_NAMES.items()}
    arrays = arrays_of("torchvision", "conv2")
    return {f"{theirs[name.split('.')[0]]}.{name.split('.')[1]}": torch.from_numpy(a) for name, a in arrays.items()}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("features.", "features.module."),
        ("", "module."),
        ("", "_orig_mod.module."),
        ("features.", "module.features._orig_mod."),
        ("", "model."),
        ("", "net.backbone."),
    ],
)
@pytest.mark.parametrize("file", ["a.pth", "a.pth.tar", "a.tar", "a", "a.ckpt", "a.safetensors"])
def test_names_with_wrappers(tmp_path: Path, before: str, after: str, file: str) -> None:
    plain = _torchvisions()
    torch.save(plain, tmp_path / "plain.pth")
    digest = import_weights(tmp_path / "plain.pth").digest
    named = {after + name.removeprefix(before): values for name, values in plain.items()}
    if file.endswith(".safetensors"):
        safetensors.torch.save_file(named, tmp_path / file)
    else:
        torch.save({"epoch": 90, "best_acc1": torch.tensor(50), "state_dict": named}, tmp_path / file)
    assert import_weights(tmp_path / file).digest == digest


@pytest.mark.parametrize(
    "keys", [("model",), ("model_state",), ("model_state_dict",), ("student",), ("model", "state_dict")]
)
def test_checkpoints_of_training_programs(tmp_path: Path, keys: tuple[str, ...]) -> None:
    content: dict[str, Any] = _torchvisions()
    torch.save(content, tmp_path / "plain.pth")
    for key in reversed(keys):
        content = {"epoch": 3, key: content, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
    torch.save(content, tmp_path / "a.pth")
    assert import_weights(tmp_path / "a.pth").digest == import_weights(tmp_path / "plain.pth").digest


def test_names_of_several_networks_and_of_none(tmp_path: Path) -> None:
    plain = _torchvisions()
    torch.save(
        {f"{front}.{name}": a for front in ("student", "teacher") for name, a in plain.items()}, tmp_path / "a.pth"
    )
    with pytest.raises(FileFormatError, match=r"student\., teacher\."):
        import_weights(tmp_path / "a.pth")
    torch.save({"layer4.0.fc.weight": torch.ones(2, 2), "pos": torch.ones(2)}, tmp_path / "b.pth")
    with pytest.raises(FileFormatError, match=r"layer4\.0\.fc\.weight, pos$"):
        import_weights(tmp_path / "b.pth")


@pytest.mark.parametrize("version", ["v1", "v2", "v2 unpacked"])
def test_caffemodels(tmp_path: Path, version: str) -> None:
    """Both versions are read, with shapes of four numbers, double precision, and more than two blobs."""
    rng = np.random.default_rng(0)
    layers = [
        ("conv", [rng.standard_normal((4, 2, 3, 3)).astype(np.float32), rng.standard_normal(4).astype(np.float32)]),
        ("relu", []),
        ("fc", [rng.standard_normal((5, 7)), rng.standard_normal(5)]),
        ("scale", [np.ones((2, 1), np.float32), np.ones(1, np.float32), np.full(3, 2, np.float32)]),
    ]
    path = tmp_path / "n.caffemodel"
    path.write_bytes(caffemodels.v1(layers) if version == "v1" else caffemodels.v2(layers, packed=version == "v2"))
    file = open_weights(path)
    assert file.layers == ("conv", "relu", "fc", "scale")
    expected = {
        f"{name}.{('weight', 'bias', '2')[index]}": array
        for name, arrays in layers
        for index, array in enumerate(arrays)
    }
    assert [array.name for array in file.arrays] == list(expected)
    for array in file.arrays:
        values = array.load()
        assert (values.shape, values.dtype) == (array.shape, array.dtype)
        assert array.shape == expected[array.name].shape
        assert np.array_equal(values, expected[array.name])


def test_caffemodel_determines_the_order_of_pooling_and_normalization(tmp_path: Path) -> None:
    """This also holds for a converted file."""
    path = tmp_path / "n.caffemodel"
    for first, then, variant in (("pool1", "norm1", "caffenet"), ("norm1", "pool1", "bvlc")):
        path.write_bytes(caffemodels.v1(as_layers(CONV2, first, then)))
        convert_weights(path, tmp_path / "n.safetensors")
        summaries = [import_weights(tmp_path / name) for name in ("n.caffemodel", "n.safetensors")]
        assert summaries[0] == summaries[1]
        assert summaries[0].variant == variant
    with pytest.raises(ValueError, match=r"bvlc.*caffenet"):
        import_weights(path, variant="caffenet")
    with pytest.raises(ValueError, match="AlexNet"):
        import_weights(write(tmp_path / "a.npz", CONV2))


def _changed(**changes: np.ndarray | None) -> Arrays:
    arrays = {**CONV2, **{name.replace("_", "."): values for name, values in changes.items() if values is not None}}
    return {name: values for name, values in arrays.items() if changes.get(name.replace(".", "_"), values) is not None}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            arrays_of("torchvision", "conv1"),
            r"caffenet.*conv1\.weight.*64×3×11×11.*96×3×11×11.*conv1\.bias.*64.*96$",
        ),
        (_changed(conv2_weight=np.zeros((256, 96, 5, 5), np.float32)), r"conv2\.weight.*256×96×5×5.*256×48×5×5"),
        (_changed(conv1_weight=CONV2["conv1.weight"].T), r"conv1\.weight.*11×11×3×96"),
        (_changed(conv1_bias=None), r"conv1\.bias.*conv2"),
        (_changed(conv1_bias=None, conv1_weight=None), r"conv1\.weight, conv1\.bias.*conv2"),
        ({"a": np.zeros(3)}, "AlexNet"),
        (_changed(conv1_bias=np.full(96, np.nan, np.float32)), r"conv1\.bias.*infinite"),
        (_changed(conv1_bias=np.full(96, 1e300)), r"conv1\.bias.*infinite"),
        (_changed(conv1_bias=np.zeros(96, np.uint8)), r"conv1\.bias.*floating.*uint8"),
        ({**CONV2, "features.0.weight": CONV2["conv1.weight"]}, r"conv1\.weight.*twice"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_unused_weights_are_not_imported(tmp_path: Path, folder: Path, arrays: Arrays, words: str) -> None:
    path = write(tmp_path / "a.npz", arrays)
    with pytest.raises(FileFormatError, match=words) as caught:
        import_weights(path, variant="caffenet")
    assert str(path) in str(caught.value)
    assert list(folder.glob("*")) == []


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.zeros(3)}, "AlexNet"),
        ({"conv1.weight": np.zeros((64, 3, 7, 7))}, r"weight.*64×3×7×7.*96×3×11×11.*64×3×11×11"),
        ({"conv2.weight": CONV2["conv2.weight"]}, r"AlexNet.*conv1\.weight"),
    ],
)
def test_files_of_other_networks_are_not_asked_for_their_variant(tmp_path: Path, arrays: Arrays, words: str) -> None:
    with pytest.raises(FileFormatError, match=words):
        import_weights(write(tmp_path / "resnet.npz", arrays))


def test_a_folder_is_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        alexnet(str(tmp_path))


def test_wrong_options_and_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", CONV2)
    with pytest.raises(ValueError, match=r"variant.*'zf'"):
        import_weights(path, variant="zf")
    with pytest.raises(ValueError, match=r"imagenet-rgb, caffe-bgr, unit.*'gray'"):
        import_weights(path, variant="bvlc", preprocessing="gray")
    with pytest.raises(FileNotFoundError):
        import_weights(tmp_path / "nothing.npz", variant="bvlc")
    path = path.rename(tmp_path / "a.h5")
    with pytest.raises(FileFormatError, match=r"\.caffemodel.*\.h5"):
        import_weights(path, variant="bvlc")


def test_imported_files_notice_damage(tmp_path: Path) -> None:
    summary = import_weights(write(tmp_path / "a.npz", CONV2), variant="caffenet")
    path, data = summary.path, summary.path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for weights in ("", summary.digest, str(path)):
        with pytest.raises(FileFormatError, match=r"weights.*[0-9a-f]{16}"):
            alexnet(weights)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(FileFormatError, match="safetensors"):
        alexnet(str(path))
    path.write_bytes(data.replace(b'"dtype":"F32"', b'"dtype":"I32"'))
    with pytest.raises(FileFormatError, match="AlexNet"):
        alexnet(str(path))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("variant", "zf", r"variant.*'zf'"),
        ("variant", "torchvision", r"torchvision.*conv1\.weight.*96×3×11×11.*64×3×11×11"),
        ("preprocessing", "none", r"preprocessing.*'none'"),
    ],
)
def test_inconsistent_headers_are_rejected(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = import_weights(write(tmp_path / "a.npz", CONV2), variant="caffenet").path
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
    write_tensors(path, CONV2, metadata | {old: new})
    with pytest.raises(FileFormatError, match=words):
        alexnet(str(path))


def test_where_weights_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREIMAGE_WEIGHTS", str(tmp_path))
    assert alexnet_weights.weights_folder() == tmp_path
    monkeypatch.delenv("PREIMAGE_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert alexnet_weights.weights_folder() == tmp_path / "cache" / "preimage" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert alexnet_weights.weights_folder() == tmp_path / ".cache" / "preimage" / "weights"


def test_the_commands(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", CONV2 | {"mean": np.zeros(3, np.float32)})
    code, out, err = run("weights", "import", path, "--variant", "bvlc", "--preprocessing", "imagenet-rgb")
    assert (code, err) == (0, "")
    assert "imagenet-rgb" in out
    assert re.search("conv2.*alexnet-conv3", out)
    assert re.search("AlexNet.*: mean", out)
    code, out, _ = run("weights", "import", path, "--variant", "caffenet", "-o", tmp_path / "b", "--json")
    summary = json.loads(out)
    assert (code, summary["variant"], summary["layers"]) == (0, "caffenet", ["conv1", "conv2"])
    assert summary.keys() == WeightsSummary.__dataclass_fields__.keys()
    code, out, _ = run("info", summary["path"], "--json")
    facts = json.loads(out)
    assert (code, facts["kind"], facts["digest"]) == (0, "weights of AlexNet", summary["digest"])
    code, out, err = run("weights", "import", path)
    assert (code, out) == (1, "")
    assert re.search("--variant.*caffenet, bvlc or torchvision", err)
    (tmp_path / "n.caffemodel").write_bytes(caffemodels.v1(as_layers(CONV2)))
    code, out, err = run("weights", "convert", tmp_path / "n.caffemodel", "-o", tmp_path / "n.safetensors")
    assert (code, err) == (0, "")
    assert "conv2.weight  256×48×5×5\n" in out
    with safetensors.safe_open(tmp_path / "n.safetensors", "np") as file:
        assert {name: file.get_tensor(name).tobytes() for name in file.keys()} == {  # noqa: SIM118 - no dictionary
            name: values.tobytes() for name, values in CONV2.items()
        }
    code, _, err = run("weights", "convert", tmp_path / "n.caffemodel", "-o", tmp_path / "n.npz")
    assert (code, bool(re.search(r"\.safetensors.*'n\.npz'", err))) == (1, True)


def test_other_programs_read_what_is_written(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tensors = {
        "bytes": values.astype(np.uint8)[:, :, :3],  # of 18 bytes, and not contiguous
        "half": values.astype(np.float16),
        "swapped": values.astype(">f4"),
        "double": values.T.astype(np.float64),
        "scalar": np.float32(3).reshape(()),
        "empty": values[:0],
    }
    write_tensors(tmp_path / "all.safetensors", tensors, {"note": "größer"})
    found = safetensors.numpy.load_file(tmp_path / "all.safetensors")
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("<")
    with safetensors.safe_open(tmp_path / "all.safetensors", "np") as file:
        assert file.metadata() == {"note": "größer"}
