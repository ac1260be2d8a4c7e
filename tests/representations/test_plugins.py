"""Test representations of other packages, installed on the path."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import Run
from paths import EXAMPLES
from preimage.representations import (
    create_representation,
    describe_representation,
    list_representations,
    plugins,
    registry,
    representation_from_spec,
)

EXAMPLE = EXAMPLES / "third_party"
OURS = list_representations()
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function (name, entry points, modules) that puts a package on the path until the end of the test."""
    for name in OURS:
        describe_representation(name)  # imports its module, which registers it for good
    monkeypatch.setattr(registry, "_REGISTER", dict(registry._REGISTER))
    monkeypatch.setattr(plugins, "_tried", {})

    def put(package: str, points: dict[str, str], modules: dict[str, str]) -> None:
        folder = tmp_path / package
        information = folder / f"{package.replace('-', '_')}-1.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (information / "entry_points.txt").write_text("\n".join(["[preimage.representations]", *lines, ""]))
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(text)
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(folder)

    return put


@pytest.fixture
def mean_color(install: Install) -> None:
    text = (EXAMPLE / "pyproject.toml").read_text()
    point = 'mean-color = "mean_color:MeanColor"'
    assert point in text
    install(
        "preimage-mean-color",
        {"mean-color": "mean_color:MeanColor"},
        {"mean_color": (EXAMPLE / "mean_color.py").read_text()},
    )


@pytest.mark.usefixtures("mean_color")
def test_the_example_is_known_by_its_name() -> None:
    chosen = create_representation("mean-color", cell_size=8)
    images = torch.rand(2, 3, 16, 24)
    features = chosen(images)
    assert features.shape == (2, 3, 2, 3)
    assert (features[0, 1, 1, 2] - images[0, 1, 8:, 16:].mean()).abs() < 1e-6
    assert representation_from_spec(chosen.spec) == chosen
    assert list_representations() == sorted([*OURS, "mean-color"])
    described = describe_representation("mean-color")
    assert (described.title, described.summary) == ("mean color", "Mean color of square cells.")
    assert [(one.name, one.type, one.default) for one in described.parameters] == [
        ("cell_size", "int", 16),
        ("variant", "str", "rgb"),
    ]
    with pytest.raises(ValueError, match=r"15×40 pixels.*at least 16"):
        create_representation("mean-color").feature_size(15, 40)
    with pytest.raises(ValueError, match=r"variant.*'hsv'"):
        create_representation("mean-color", variant="hsv")


@pytest.mark.usefixtures("mean_color")
def test_the_example_on_the_command_line(run: Run, photo_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "f"
    code, out, err = run("extract", "mean-color", photo_folder, "-o", output, "-p", "cell_size=32", "--json")
    assert code == 0, err
    assert json.loads(out)["spec"]["parameters"] == {"cell_size": 32}


def test_no_plugin_is_loaded_for_names_that_are_known(install: Install) -> None:
    install("never", {"never": "never:boom"}, {"never": "raise SystemExit('loaded')"})
    assert create_representation("hog").name == "hog"
    assert "never" not in sys.modules


CLASS = """
import dataclasses
from preimage.representations import hog, register
@dataclasses.dataclass(frozen=True)
class Copy(hog.Hog):
    name = {name!r}
"""


def test_a_function_may_register_several_and_a_class_itself(install: Install) -> None:
    several = CLASS.format(name="one") + "def both():\n    register(Copy)\n"
    itself = CLASS.format(name="two") + "register(Copy)\n"
    install("good", {"a": "several:both", "b": "itself:Copy"}, {"several": several, "itself": itself})
    assert {"one", "two"} <= set(list_representations())
    assert plugins.failures() == []


def test_a_broken_plugin_is_named_and_does_not_break_the_others(install: Install) -> None:
    install("broken", {"bad": "bad_one:X", "worse": "no_such_module:X"}, {"bad_one": "raise RuntimeError('boom')"})
    install("wrong", {"wrong": "wrong_one:Thing"}, {"wrong_one": "class Thing: name = 'thing'"})
    install("thief", {"hog": "thief_one:Copy"}, {"thief_one": CLASS.format(name="hog")})
    install("good", {"copy": "good_one:Copy"}, {"good_one": CLASS.format(name="copy")})
    assert create_representation("copy").name == "copy"
    assert set(list_representations()) == {*OURS, "copy"}
    with pytest.raises(ValueError, match=r"representation.*'bad'") as raised:
        create_representation("bad")
    for words in (
        r"'bad'.*broken.*\(bad_one:X\).*RuntimeError: boom",
        r"'worse'.*broken.*\(no_such_module:X\).*ModuleNotFoundError",
        r"'wrong'.*wrong.*\(wrong_one:Thing\).*TypeError: .*subclass",
        r"'hog'.*thief.*\(thief_one:Copy\).*ValueError: .*'hog'",
    ):
        assert re.search(words, str(raised.value))


def test_the_documentation_shows_the_example_as_it_is() -> None:
    page = (EXAMPLE.parents[1] / "docs" / "any-network.md").read_text()
    assert (EXAMPLE / "mean_color.py").read_text() in page
    assert 'mean-color = "mean_color:MeanColor"' in page


def test_a_name_imports_its_module_only() -> None:
    """Also one that another package may define, and that starts with a name of ours."""
    script = """
import sys
from preimage.representations import create_representation, list_representations
create_representation("hog")
ours = {name.rpartition(".")[2] for name in sys.modules if name.startswith("preimage.representations.")}
assert ours == {"base", "cells", "hog", "plugins", "registry"}, ours
names = list_representations()
assert not {"torch", "cv2"} & set(sys.modules)
assert len(names) == 14, names
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_plugin_may_extend_a_name_of_ours(install: Install) -> None:
    install("more", {"hog-copy": "more_one:Copy"}, {"more_one": CLASS.format(name="hog-copy")})
    assert create_representation("hog-copy", cell_size=4).spec.representation == "hog-copy"


@pytest.mark.parametrize("name", [*OURS, "torch:package:factory"])
def test_every_representation_is_described(name: str) -> None:
    described = describe_representation(name)
    assert described.name == name and described.title
    for text in (described.summary, *(one.help for one in described.parameters)):
        assert text.endswith(".") and text[0].isupper() and len(text) <= 120, text
    assert all(one.type in ("bool", "int", "float", "str", "int | None", "str | None") for one in described.parameters)
