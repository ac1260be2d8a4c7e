"""Test what the installed wheel consists of: files, licenses, tags and versions."""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, distribution
from pathlib import PurePosixPath

import pytest

import preimage
from paths import ROOT


@pytest.fixture(scope="module")
def wheel() -> Distribution:
    found = distribution("preimage")
    if not found.files or found.read_text("WHEEL") is None:
        pytest.skip("preimage is not installed from a wheel")
    return found


@pytest.fixture(scope="module")
def files(wheel: Distribution) -> set[PurePosixPath]:
    return {PurePosixPath(path.as_posix()) for path in wheel.files or [] if path.suffix != ".pyc"}


def test_files_are_the_package_its_metadata_and_its_command(wheel: Distribution, files: set[PurePosixPath]) -> None:
    information = f"preimage-{wheel.version}.dist-info"
    others = {path for path in files if path.parts[0] not in ("preimage", information)}
    assert {path.stem for path in others} <= {"preimage"}, others  # the command, in bin or Scripts
    suffixes = {path.suffix for path in files if path.parts[0] == "preimage"}
    page = {".js", ".css", ".html"}
    assert suffixes <= page | {".py", ".pyi", ".typed", ".json", ".md", ".safetensors", ".so", ".pyd", ""}
    assert not any({"tests", "docs", "benchmarks", "csrc"} & set(path.parts) for path in files)


def test_one_native_module_for_this_interpreter(wheel: Distribution, files: set[PurePosixPath]) -> None:
    native = [path for path in files if path.suffix in (".so", ".pyd")]
    assert [str(path.parent) for path in native] == ["preimage/ops"]
    tags = re.findall(r"^Tag: (.*)$", wheel.read_text("WHEEL") or "", re.MULTILINE)
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert tags and all(tag.startswith(f"{python}-{python}") for tag in tags)


def test_types_and_licenses_come_along(wheel: Distribution, files: set[PurePosixPath]) -> None:
    assert PurePosixPath("preimage/py.typed") in files
    assert PurePosixPath("preimage/ops/_native.pyi") in files
    assert any(path.name == "LICENSE" and path.parts[0].endswith(".dist-info") for path in files)
    assert wheel.metadata["License"] == "Apache-2.0" or wheel.metadata["License-Expression"] == "Apache-2.0"


@pytest.mark.parametrize("name", preimage.list_inverters())
def test_pretrained_inverters_come_along_with_their_cards(name: str, files: set[PurePosixPath]) -> None:
    folder = PurePosixPath("preimage/inverters/weights") / name
    assert {folder / file for file in ("model.safetensors", "config.json", "MODEL_CARD.md")} <= files


def test_version_is_the_same_everywhere(wheel: Distribution) -> None:
    assert preimage.__version__ == wheel.version
    if not (ROOT / "CHANGELOG.md").exists():
        return  # the tests are here without the sources
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert re.findall(r'^version = "(.*)"$', project, re.MULTILINE) == [wheel.version]
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.findall(r"^## (\d+\.\d+\.\d+)", changes, re.MULTILINE)[0] == wheel.version
