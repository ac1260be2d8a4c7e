"""Builds the package with CUDA into a folder of its own: nothing of the system or of an environment is touched."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

from _check_run import Commands, Outcome

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("pip", "cmake", "torch-headers")

# Stands in for pybind11's own package; torch carries the headers.
SHIM = """\
function(pybind11_add_module target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "NO_EXTRAS" "" "")
  Python_add_library(${{target}} MODULE WITH_SOABI ${{arg_UNPARSED_ARGUMENTS}})
  target_include_directories(${{target}} SYSTEM PRIVATE "{include}")
endfunction()
"""
SHIM_VERSION = "set(PACKAGE_VERSION {version})\nset(PACKAGE_VERSION_COMPATIBLE TRUE)\n"

PROBE = """\
import json, preimage, preimage.ops._native as native
print(json.dumps({"file": native.__file__, "compiler": native.compiler, **native.cuda_devices()}))
"""


def has(module: str) -> bool:
    """Can it be imported? Asks the folders alone: setuptools' own finder acts, and warns, when asked for pip."""
    return importlib.machinery.PathFinder.find_spec(module) is not None


def find_nvcc() -> str | None:
    """On PATH, or where CUDA installs it."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def method_here() -> str:
    """The way to build with what is installed: as a user would, or else with CMake alone."""
    if has("pip") and has("scikit_build_core") and has("pybind11"):
        return "pip"
    return "cmake" if has("pybind11") else "torch-headers"


def torch_headers() -> tuple[Path, str] | None:
    """The folder with torch's copy of pybind11's headers, and their version; None where it has none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    include = Path(spec.origin).parent / "include"
    common = include / "pybind11" / "detail" / "common.h"
    if not common.exists():
        return None
    found = dict(re.findall(r"#define PYBIND11_VERSION_(MAJOR|MINOR) +(\d+)", common.read_text()))
    return include, f"{found['MAJOR']}.{found['MINOR']}"


def write_shim(folder: Path) -> None:
    """A CMake package `pybind11` around torch's headers."""
    headers = torch_headers()
    if headers is None:
        raise FileNotFoundError("neither pybind11 nor a torch that carries its headers is installed")
    include, version = headers
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pybind11Config.cmake").write_text(SHIM.format(include=include))
    (folder / "pybind11ConfigVersion.cmake").write_text(SHIM_VERSION.format(version=version))


class Build:
    """One build of the tree into `site`, to be put on PYTHONPATH."""

    def __init__(self, commands: Commands, folder: Path, architecture: str, device: str) -> None:
        self.commands = commands
        self.folder = folder
        self.site = folder / "site"
        self.nvcc = find_nvcc()
        self._device = device
        self._options = {"PREIMAGE_CUDA": "ON" if self.nvcc else "OFF"}
        if self.nvcc:
            self._options |= {"CMAKE_CUDA_ARCHITECTURES": architecture, "CMAKE_CUDA_COMPILER": self.nvcc}

    def run(self, method: str, limit: float) -> Outcome:
        """Builds by the given method; by CMake alone where pip's way fails."""
        if self.nvcc is None and self._device == "cuda":
            return Outcome("failed", "there is no nvcc, on PATH or in /usr/local/cuda/bin, so no CUDA kernels")
        tried = ""
        if method == "pip":
            if self._pip(limit):
                return self._probe("pip install --no-build-isolation")
            tried = "pip failed, then "
            method = "cmake" if has("pybind11") else "torch-headers"
        if not self._cmake(method, limit):
            return Outcome("failed", f"{tried}CMake failed: {self.commands.logs / 'build.log'}")
        told = "CMake alone" if method == "cmake" else "CMake alone, with torch's copy of pybind11's headers"
        return self._probe(tried + told)

    def _pip(self, limit: float) -> bool:
        shutil.rmtree(self.site, ignore_errors=True)
        options = [f"cmake.define.{name}={value}" for name, value in self._options.items()]
        # A build folder of its own: the usual one must not remember these options.
        options.append(f"build-dir={self.folder / 'wheel'}")
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-index", "--no-deps"]
        command += ["--no-build-isolation", "--target", str(self.site), "-v"]
        command += [part for option in options for part in ("-C", option)]
        return self.commands.run("build", [*command, "."], limit, show=1, **self._parallel())[0] == 0

    def _cmake(self, method: str, limit: float) -> bool:
        cmake = [shutil.which("cmake") or ""]
        if not cmake[0]:
            if not has("cmake"):
                raise FileNotFoundError("there is no cmake, neither on PATH nor as a Python package")
            cmake = [sys.executable, "-m", "cmake"]
        work = self.folder / method
        options = [f"-D{name}={value}" for name, value in self._options.items()]
        options += ["-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"]
        if shutil.which("ninja"):
            options += ["-G", "Ninja"]
        if method == "torch-headers":
            write_shim(self.folder / "pybind11")
            options.append(f"-Dpybind11_DIR={self.folder / 'pybind11'}")
        shutil.rmtree(work, ignore_errors=True)
        for command in ([*cmake, "-S", str(ROOT), "-B", str(work), *options], [*cmake, "--build", str(work)]):
            if self.commands.run("build", command, limit, show=1, **self._parallel())[0] != 0:
                return False
        self._assemble(work)
        return True

    def _parallel(self) -> dict[str, str]:
        return {"CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)}

    def _assemble(self, work: Path) -> None:
        """What pip would have installed: the package, the module, and the version that it asks for."""
        shutil.rmtree(self.site, ignore_errors=True)
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / "python" / "preimage", self.site / "preimage", ignore=ignored)
        for module in work.glob("_native*.so"):
            shutil.copy2(module, self.site / "preimage" / "ops")
        match = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        version = match[1] if match else "0"
        information = self.site / f"preimage-{version}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: preimage\nVersion: {version}\n")

    def _probe(self, how: str) -> Outcome:
        """Is what is imported now what was built, with kernels for the device?"""
        code, output = self.commands.run("build", [sys.executable, "-c", PROBE], 60, PYTHONPATH=str(self.site), show=0)
        if code != 0:
            return Outcome("failed", f"built ({how}), but it does not import")
        found = json.loads(output.splitlines()[-1])
        if not Path(found["file"]).is_relative_to(self.site):
            return Outcome("failed", f"built ({how}), but Python imports {found['file']}")
        if self._device == "cuda" and not (found["built"] and found["devices"]):
            return Outcome("failed", f"built ({how}), but it finds no device: {found['reason']}")
        kernels = f"CUDA for sm_{self._options['CMAKE_CUDA_ARCHITECTURES']}" if found["built"] else "no CUDA: no nvcc"
        return Outcome("ok", f"{how}; {found['compiler']}; {kernels}")
