"""Report what is installed and what is missing."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

from preimage.errors import brief
from preimage.optional import OPTIONAL, import_optional

_PACKAGES = {  # distribution: module
    "preimage": "preimage",
    "torch": "torch",
    "numpy": "numpy",
    "opencv-python": "cv2",
    "safetensors": "safetensors.torch",
    "typer": "typer",
    "rich": "rich.progress",
}
# Triton exists for Linux only.
_OPTIONAL = {name: entry for name, entry in OPTIONAL.items() if name != "triton" or sys.platform == "linux"}
_FOLDERS = ("preimage.pipelines", "preimage.studies", "preimage.training")  # imported by commands


def doctor() -> dict[str, Any]:
    """Check the installation; a broken part is reported and does not stop the other checks.

    Returns:
        Findings by topic, ``None`` where a check failed, and ``problems``, one sentence each.
    """
    facts: dict[str, Any] = {"problems": []}
    probes: dict[str, Callable[[], Any]] = {
        "versions": _versions,
        "system": _system,
        "native": _native,
        "cuda": _cuda,
        "imports": _imports,
        "inverters": _inverters,
        "optional": _optional,
    }
    for name, probe in probes.items():
        try:
            facts[name] = probe()
        except Exception as error:  # a broken installation may raise any error
            facts[name] = None
            facts["problems"].append(f"{name}: {brief(error)}")
    facts["problems"] += _problems(facts)
    return facts


def _versions() -> dict[str, str | None]:
    import platform

    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        found[package] = _version(package)
    return found


def _version(package: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package != "opencv-python":
            return None
        return getattr(importlib.import_module("cv2"), "__version__", None)  # opencv-python-headless


def _system() -> dict[str, Any]:
    import platform

    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "executable": sys.executable,
    }


def _native() -> dict[str, Any]:
    native = importlib.import_module("preimage.ops._native")
    try:
        used = native.instruction_set()
    except ValueError as error:  # PREIMAGE_ISA names an instruction set that is not available
        used = f"none: {error}"
    return {
        "file": str(native.__file__),
        "compiler": native.compiler,
        "instruction_sets": native.instruction_sets(),  # best first
        "used": used,
    }


def _cuda() -> dict[str, Any]:
    torch = importlib.import_module("torch")
    found: dict[str, Any] = {
        "torch_built_for": torch.version.cuda,
        "torch_available": torch.cuda.is_available(),
        "torch_devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "kernels_built": False,
        "kernels_devices": [],
        "reason": "",
    }
    try:
        report = importlib.import_module("preimage.ops._native").cuda_devices()
    except ImportError:
        return found | {"reason": "the native module does not load"}
    devices = [
        {"name": name, "compute_capability": f"{major}.{minor}", "memory": memory}
        for name, (major, minor), memory in report["devices"]
    ]
    return found | {"kernels_built": report["built"], "kernels_devices": devices, "reason": report["reason"]}


def _inverters() -> list[str]:
    return list(importlib.import_module("preimage.inverters").list_inverters())


def _optional() -> dict[str, str | None]:
    return {package: _version(package) for package in _OPTIONAL}


def _imports() -> dict[str, str]:
    """Return why packages and modules that the commands use cannot be imported, by name."""
    problems = {name: _problem_of(module) for name, module in _PACKAGES.items()}
    intact = not any(problems.values())
    for package, entry in _OPTIONAL.items():
        if _version(package) is not None:
            found = [_problem_of(module, package) for module in entry.modules]
            problems[package] = next(filter(None, found), "")
    for folder in _FOLDERS if intact else ():  # a broken package breaks these as well
        names = [f"{folder}.{found.name}" for found in pkgutil.iter_modules(importlib.import_module(folder).__path__)]
        problems |= {name: _problem_of(name) for name in names}
    return {name: problem for name, problem in problems.items() if problem}


def _problem_of(module: str, optional: str = "") -> str:
    try:
        import_optional(optional, module) if optional else importlib.import_module(module)
    except Exception as error:  # incompatible packages raise anything
        return str(error) if optional else brief(error)
    return ""


def _problems(facts: dict[str, Any]) -> list[str]:
    """Return a sentence for each missing part, with the command that installs it."""
    problems = []
    for package, version in (facts["versions"] or {}).items():
        if version is None:
            problems.append(f"{package} is missing: pip install {package}")
    for package, version in (facts["optional"] or {}).items():
        if version is None:
            problems.append(f"{package} is missing ({_OPTIONAL[package].purpose}): {_OPTIONAL[package].install}")
    for name, reason in (facts["imports"] or {}).items():
        if (facts["versions"] or {}).get(name, "") is not None:  # not reported above
            problems.append(reason if name in _OPTIONAL else f"{name} does not import: {reason}")
    if facts["native"] is None:
        problems.append(
            "the native module does not load, so no features can be computed: reinstall with `pip install .` from "
            "the source folder (needs a C++17 compiler), or install a wheel for this Python and platform"
        )
    if facts["inverters"] == []:
        problems.append("this installation has no pretrained inverters: train one (`preimage train`)")
    return problems
