"""Test networks by name, ``torch:package.module:factory``, in the library and on the command line."""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import preimage
from conftest import Run
from preimage.inverters import Inverter, UShapedConfig
from preimage.representations import create_representation, representation_from_spec
from preimage.store import FeatureStore

SIDE = 32
SOURCE = """
import pathlib
import torch
import preimage
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 5, 4, 2))
        self.rows = nn.LSTM(6, 2, batch_first=True)
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        return self.head(self.rows(self.body(x).flatten(2).transpose(1, 2))[0][:, -1])

def make():
    return Net()

def with_weights(file, depth=3):
    net = Net()
    net.body[0].weight.data.fill_(float(pathlib.Path(file).read_text()))
    return net

def by_keyword(depth=3, weights=None):
    return make() if weights is None else with_weights(weights)

def network():
    return preimage.Network(Net(), preimage.Preprocessing(32), name="mine")

def representation():
    return network().representation("body.2")

def hog():
    return preimage.create_representation("hog")

class Tokens(nn.Module):
    def forward(self, x):
        return x.new_zeros(len(x), 17, 4)

class Last(nn.Module):
    def forward(self, x):
        return x.new_zeros(len(x), 4, 4, 6)

def tokens():
    return nn.Sequential(Tokens(), Last())

class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        if x.std() > 0.1:
            raise RuntimeError("index out of range in self")
        return self.part(x)

class Huge(nn.Module):
    def forward(self, x):
        return torch.empty(1 << 45) if x.std() > 0.1 else x

def leaves():
    raise SystemExit(3)

def fails():
    raise RuntimeError("no weights in the cupboard")

def number():
    return 3

def only_keywords(*, depth=3):
    return Net()

class Inside:
    @staticmethod
    def make():
        return Net()

def imports_later():
    from @LATER@ import answer
    return Net()

ready = Net()
"""
_numbers = itertools.count()


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a module with factories in the current folder, under a name that no other test has imported."""
    folder = tmp_path / "here"
    (folder / "some_package").mkdir(parents=True)
    number = next(_numbers)
    (folder / f"later_{number}.py").write_text("answer = 42")
    (folder / f"factories_{number}.py").write_text(SOURCE.replace("@LATER@", f"later_{number}"))
    monkeypatch.chdir(folder)
    return f"torch:factories_{number}"


def test_a_layer_by_name_is_the_one_made_in_python(factory: str) -> None:
    before = list(sys.path)
    layer = create_representation(f"{factory}:make", layer="body.2", input_size=SIDE)
    assert sys.path == before
    assert (layer.spec.representation, layer.spec.variant) == ("network", f"{factory}:make")
    assert (layer.spec.channels, layer.spec.stride) == (6, 8)
    module = sys.modules[factory.removeprefix("torch:")].make()
    ours = preimage.Network(module, preimage.Preprocessing(SIDE), name=f"{factory}:make").representation("body.2")
    assert ours.spec == layer.spec
    images = torch.rand(2, 3, SIDE, SIDE)
    assert (ours(images) - layer(images)).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["ready", "Net", "Inside.make", "imports_later", "only_keywords"])
def test_what_a_factory_may_be(factory: str, name: str) -> None:
    assert create_representation(f"{factory}:{name}", layer="", input_size=SIDE).spec.channels == 3


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [(None, preimage.Preprocessing(224)), ("unit", preimage.Preprocessing(224, "rgb", 1.0, (0, 0, 0), (1, 1, 1)))],
)
def test_preprocessings(factory: str, preprocessing: str | None, expected: preimage.Preprocessing) -> None:
    layer = create_representation(f"{factory}:make", layer="body.0", preprocessing=preprocessing)
    assert expected.parameters().items() <= layer.spec.parameters.items()
    assert layer.image_side == 224


@pytest.mark.parametrize("name", ["with_weights", "by_keyword"])
def test_weights_are_handed_to_the_factory(factory: str, name: str) -> None:
    Path("w.txt").write_text("0.25")
    layer: Any = create_representation(f"{factory}:{name}", layer="body.0", input_size=SIDE, weights="w.txt")
    assert (layer.network.module.body[0].weight == 0.25).all()
    plain = create_representation(f"{factory}:make", layer="body.0", input_size=SIDE)
    assert plain.spec.parameters["weights"] != layer.spec.parameters["weights"]
    assert "w.txt" not in layer.spec.to_json()


def test_factories_that_know_their_preprocessing(factory: str) -> None:
    layer = create_representation(f"{factory}:network", layer="body.2")
    assert layer.spec == create_representation(f"{factory}:representation").spec
    assert layer.spec.variant == "mine"
    assert create_representation(f"{factory}:hog") == create_representation("hog")


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("make", {}, r"-p layer=.*preimage layers torch:factories_\d+:make"),
        ("make", {"layer": "body.7"}, r"'body\.7'.*'body"),
        ("make", {"layer": "", "preprocessing": "zoom"}, r"imagenet-rgb, caffe-bgr, unit.*'zoom'"),
        ("make", {"layer": "", "output_layout": "up"}, r"auto, nchw, nhwc, vector.*'up'"),
        ("make", {"layer": "", "input_size": 0}, r"image_size.*at least 1.*0"),
        ("make", {"layer": "", "color": "luma"}, r"color.*layer, output_layout"),
        ("make", {"layer": "", "weights": "w"}, r"make.*weights"),
        ("only_keywords", {"layer": "", "weights": "w"}, r"only_keywords.*weights"),
        ("with_weights", {"layer": ""}, r"TypeError: .*'file'"),
        ("with_weights", {"layer": "", "weights": "none.txt"}, r"FileNotFoundError: .*none\.txt"),
        ("network", {"layer": "", "input_size": 8}, r"Network.*input_size"),
        ("representation", {"layer": ""}, r"Representation.*layer"),
        ("representation", {"preprocessing": "unit"}, r"Representation.*preprocessing"),
        ("ready", {"layer": "", "weights": "w"}, r"network.*weights"),
        ("fails", {"layer": ""}, r"RuntimeError: no weights in the cupboard \(.*\.py:\d+, in fails\)"),
        ("leaves", {"layer": ""}, r"SystemExit: 3 \(.*\.py:\d+, in leaves\)"),
        ("number", {"layer": ""}, r"torch\.nn\.Module.*preimage\.Network.*Representation.*int"),
        ("SIDE.x", {"layer": ""}, r"factories_\d+.*SIDE\.x"),
        ("__name__", {"layer": ""}, r"network.*str"),
    ],
)
def test_what_is_refused(factory: str, name: str, parameters: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        create_representation(f"{factory}:{name}", **parameters)


@pytest.mark.parametrize("name", ["", "a", "a:", "a b:c", "a:b:c", "../a:b", ".a:b"])
def test_names_of_another_form(name: str) -> None:
    with pytest.raises(ValueError, match=rf"torch:package\.module:factory.*'torch:{re.escape(name)}'"):
        create_representation(f"torch:{name}", layer="")


def test_modules_that_cannot_be_imported(factory: str) -> None:
    Path("broken_module.py").write_text("import no_such_thing")
    Path("no_python.py").write_text("def (")
    for name, words in [
        ("nowhere.at_all", r"ModuleNotFoundError: .*'nowhere'"),
        ("broken_module", r"ModuleNotFoundError: .*'no_such_thing'"),
        ("no_python", "SyntaxError: "),
    ]:
        with pytest.raises(ValueError, match=rf"torch:{name}:make: .*{name}.*{words}"):
            create_representation(f"torch:{name}:make", layer="")
        sys.modules.pop(name, None)


def test_a_file_that_names_a_factory_imports_nothing(factory: str) -> None:
    spec = preimage.Spec(f"{factory}:make", "x", 3, None, {"layer": ""})
    with pytest.raises(ValueError, match="name"):
        representation_from_spec(spec)
    with pytest.raises(ValueError, match="name"):
        representation_from_spec(preimage.Spec("network", f"{factory}:make", 3, None, {"layer": ""}))
    assert factory.removeprefix("torch:") not in sys.modules


def test_layers_on_the_command_line(run: Run, factory: str) -> None:
    code, out, err = run("layers", f"{factory}:make", "-p", f"input_size={SIDE}")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows[:8]] == ["layer", "body.0", "body.1", "body.2", "body", "rows", "head", "''"]
    assert rows[1] == ["body.0", "Conv2d", "tensor", "(1,", "4,", "16,", "16)", "float32", "4×16×16", "112"]
    assert rows[5][-2] == "-"
    code, out, _ = run("layers", f"{factory}:representation", "--json")
    found = json.loads(out)
    assert (code, found["network"], found["image_size"]) == (0, "mine", 32)
    assert [layer["name"] for layer in found["layers"]] == ["body.0", "body.1", "body.2", "body", "rows", "head", ""]
    assert found["layers"][2] == {
        "name": "body.2",
        "kind": "Conv2d",
        "output": "tensor (1, 6, 4, 4) float32",
        "features": [6, 4, 4],
        "prefix_tokens": 0,
        "problem": "",
        "channels_last": False,
        "parameters": 606,
        "calls": 1,
    }
    assert "returns tuple" in found["layers"][4]["problem"]
    code, out, _ = run("layers", f"{factory}:tokens", "-p", f"input_size={SIDE}")
    assert code == 0
    assert re.search(r"^0 .* 8×4×4 \+ 1 prefix token ", out, re.MULTILINE)
    assert re.search(r"-p output_layout=tokens-middle", out)
    assert re.search(r"^channels last.*-p output_layout=nhwc: 1, ''$", out, re.MULTILINE)
    code, _, err = run("layers", f"{factory}:hog")
    assert (code, "no layers" in err) == (1, True)
    assert run("layers", "hog")[2] == (
        "error: network must be torch:package.module:factory or a representation that is a layer, got 'hog'\n"
    )


def test_errors_of_the_networks_code_are_one_line(run: Run, factory: str, photo_folder: Path) -> None:
    named = ("-p", "layer=", "-p", f"input_size={SIDE}", "-o", "f.safetensors", "--batch-size", 2)
    code, out, err = run("extract", f"{factory}:Fails", photo_folder, *named)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert re.search(r"error: .*torch:\S+:Fails.*index out of range in self \(.*\.py:\d+, in f", err)
    code, out, err = run("extract", f"{factory}:Huge", photo_folder, *named)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert re.search(r"error: out of memory: .*allocate.*--batch-size", err)


def test_extract_invert_and_evaluate(run: Run, factory: str, photo_folder: Path) -> None:
    named = (f"{factory}:make", "-p", "layer=body.2", "-p", f"input_size={SIDE}", "-p", "preprocessing=unit")
    code, out, err = run("extract", *named[:1], photo_folder, "-o", "f.safetensors", *named[1:], "--size", SIDE)
    assert (code, err) == (0, "")
    assert "network" in out and "6 channels" in out
    spec = FeatureStore("f.safetensors").spec
    torch.manual_seed(0)
    config = UShapedConfig(widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), head=(8, 4))
    Inverter(spec, config).save(Path("tiny"))
    assert run("invert", "f.safetensors", "-o", "out", "--inverter", "tiny")[0] == 0

    evaluated = ("evaluate", "tiny", photo_folder, "--size", SIDE)
    code, _, err = run(*evaluated)
    assert code == 1
    assert "--representation torch:" in err
    code, out, err = run(*evaluated, "--representation", *named)
    assert (code, err) == (0, "")
    assert "normalized error" in out
    code, _, err = run(*evaluated, "--representation", *named, "-p", "output_layout=vector")
    assert (code, "channels: 6 != 96" in err) == (1, True)
    code, _, err = run(*evaluated, "-p", "layer=body.2")
    assert (code, bool(re.search("layer=body.2.*--representation", err))) == (2, True)


def test_a_sheet_of_a_factorys_representation(run: Run, factory: str, photo_folder: Path) -> None:
    name = f"{factory}:representation"
    config = UShapedConfig(widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), head=(8, 4))
    Inverter(create_representation(name).spec, config).save(Path("tiny"))
    sheet = ("sheet", min(photo_folder.iterdir()), "-o", "s.png", "--size", SIDE, "--inverter", "tiny")
    code, out, err = run(*sheet, "--representation", name)
    assert (code, err, re.search("1 image.*network.*tiny", out) is not None) == (0, "", True)
    code, _, err = run(*sheet)
    assert (code, "--representation" in err) == (1, True)
