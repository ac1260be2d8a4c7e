"""Representations of other packages, as an installer would leave them on the path."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import Run
from paths import EXAMPLES
from preimage import representations
from preimage.representations import base, plugins

EXAMPLE = EXAMPLES / "third_party"
OURS = list(base._MODULES)
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package (name, entry points by name, modules by name) on the path, and forgets it after the test."""
    for name in OURS:
        representations.parameters(name)  # imported now, they register for good
    monkeypatch.setattr(base, "_REGISTER", dict(base._REGISTER))
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
    chosen = representations.create("mean-color", cell_size=8)
    images = torch.rand(2, 3, 16, 24)
    features = chosen(images)
    assert features.shape == (2, 3, 2, 3)
    assert (features[0, 1, 1, 2] - images[0, 1, 8:, 16:].mean()).abs() < 1e-6
    assert representations.from_spec(chosen.spec) == chosen
    assert representations.names() == sorted([*OURS, "mean-color"])
    assert representations.parameters("mean-color") == {"cell_size": 16, "variant": "rgb"}


@pytest.mark.usefixtures("mean_color")
def test_the_example_on_the_command_line(run: Run, photo_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "f"
    code, out, err = run("extract", "mean-color", photo_folder, "-o", output, "-p", "cell_size=32", "--json")
    assert code == 0, err
    assert json.loads(out)["spec"]["parameters"] == {"cell_size": 32}


def test_no_plugin_is_loaded_for_names_that_are_known(install: Install) -> None:
    install("never", {"never": "never:boom"}, {"never": "raise SystemExit('loaded')"})
    assert representations.create("hog").name == "hog"
    assert "never" not in sys.modules


CLASS = """
import dataclasses
from preimage.representations import base, hog
@dataclasses.dataclass(frozen=True)
class Copy(hog.Hog):
    name = {name!r}
"""


def test_a_function_may_register_several_and_a_class_itself(install: Install) -> None:
    several = CLASS.format(name="one") + "def both():\n    base.register(Copy)\n"
    itself = CLASS.format(name="two") + "base.register(Copy)\n"
    install("good", {"a": "several:both", "b": "itself:Copy"}, {"several": several, "itself": itself})
    assert {"one", "two"} <= set(representations.names())
    assert plugins.failures() == []


def test_a_broken_plugin_is_named_and_does_not_break_the_others(install: Install) -> None:
    install("broken", {"bad": "bad_one:X", "worse": "no_such_module:X"}, {"bad_one": "raise RuntimeError('boom')"})
    install("wrong", {"wrong": "wrong_one:Thing"}, {"wrong_one": "class Thing: name = 'thing'"})
    install("thief", {"hog": "thief_one:Copy"}, {"thief_one": CLASS.format(name="hog")})
    install("good", {"copy": "good_one:Copy"}, {"good_one": CLASS.format(name="copy")})
    assert representations.create("copy").name == "copy"
    assert set(representations.names()) == {*OURS, "copy"}
    with pytest.raises(ValueError, match=r"representation.*'bad'") as told:
        representations.create("bad")
    for words in (
        r"'bad'.*broken.*\(bad_one:X\).*RuntimeError: boom",
        r"'worse'.*broken.*\(no_such_module:X\).*ModuleNotFoundError",
        r"'wrong'.*wrong.*\(wrong_one:Thing\).*TypeError: .*subclass",
        r"'hog'.*thief.*\(thief_one:Copy\).*ValueError: .*'hog'",
    ):
        assert re.search(words, str(told.value))


def test_the_documentation_shows_the_example_as_it_is() -> None:
    page = (EXAMPLE.parents[1] / "docs" / "any-network.md").read_text()
    assert (EXAMPLE / "mean_color.py").read_text() in page
    assert 'mean-color = "mean_color:MeanColor"' in page


def test_every_name_of_ours_is_that_of_its_module() -> None:
    for name in OURS:
        assert base._kind(name).name == name and base._kind(name).__module__ == base._MODULES[name]
