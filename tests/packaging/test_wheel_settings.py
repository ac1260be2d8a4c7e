"""Test the settings that the wheels of all platforms are built with, as far as this is possible without building."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

from paths import ROOT

PLATFORMS = {
    "linux": {"manylinux_x86_64", "manylinux_aarch64"},
    "macos": {"macosx_arm64", "macosx_x86_64"},
    "windows": {"win_amd64"},
}


@pytest.mark.skipif(importlib.util.find_spec("cibuildwheel") is None, reason="cibuildwheel is not installed")
@pytest.mark.parametrize("platform", PLATFORMS)
def test_cibuildwheel_builds_every_platform_and_version(platform: str) -> None:
    command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", platform, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = {tuple(line.split("-", 1)) for line in done.stdout.split()}
    assert found == {(f"cp3{minor}", name) for minor in (10, 11, 12, 13) for name in PLATFORMS[platform]}


@pytest.mark.skipif(importlib.util.find_spec("scikit_build_core") is None, reason="scikit-build-core is not installed")
def test_source_distribution_has_what_a_build_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scikit_build_core.build import build_sdist  # noqa: PLC0415 - need not be installed

    monkeypatch.chdir(ROOT)
    name = build_sdist(str(tmp_path))
    with tarfile.open(f"{tmp_path}/{name}") as archive:
        files = {member.name.split("/", 1)[1] for member in archive if member.isfile()}
    assert {"CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", "PKG-INFO"} <= files
    wanted = [path for folder in ("csrc", "cmake") for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert wanted and {path.relative_to(ROOT).as_posix() for path in wanted} <= files
    assert {"python/preimage/py.typed", "python/preimage/inverters/weights/hog-compact/model.safetensors"} <= files
    tops = {file.split("/", 1)[0] for file in files}
    assert not tops & {"tests", "docs", "models", "examples", "benchmarks", ".github", ".ci", "build", "dist"}
    assert not [file for file in files if file.endswith((".so", ".pyd", ".pyc", ".o", ".a"))]


@pytest.mark.nightly
@pytest.mark.skipif(importlib.util.find_spec("build") is None, reason="build is not installed")
def test_source_distribution_builds_from_nothing(tmp_path: Path) -> None:
    """In a new environment with pip only, in a folder that is no repository, without CUDA; needs a package index."""
    build = [sys.executable, "-m", "build", "--sdist", "-o", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, timeout=1200)
    (archive,) = tmp_path.glob("preimage-*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    options = ["--config-settings", "cmake.define.PREIMAGE_CUDA=OFF", "--no-deps"]
    subprocess.run([python, "-m", "pip", "install", *options, source], check=True, timeout=3600)
    subprocess.run([python, "-m", "pip", "install", "numpy"], check=True, timeout=1200)
    # Descriptors of NumPy arrays need nothing else.
    code = "import numpy, preimage; print(preimage.hog(numpy.zeros((3, 64, 64), 'uint8')).shape)"
    found = subprocess.run([python, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert found.stdout.strip() == "(31, 8, 8)"
