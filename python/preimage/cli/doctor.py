"""``preimage doctor``: what is built, what this machine offers, and what is missing."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

from preimage.cli._shared import Json, Output, bytes_text, reporting
from preimage.errors import brief
from preimage.optional import OPTIONAL, import_optional

_PACKAGES = {  # and what is imported of each
    "preimage": "preimage",
    "torch": "torch",
    "numpy": "numpy",
    "opencv-python": "cv2",
    "safetensors": "safetensors.torch",
    "typer": "typer",
    "rich": "rich.progress",
}
# There is no Triton elsewhere than on Linux.
_OPTIONAL = {name: entry for name, entry in OPTIONAL.items() if name != "triton" or sys.platform == "linux"}
_COMMANDS = ("preimage.pipelines", "preimage.studies", "preimage.training")  # what commands import


@reporting
def doctor(json: Json = False) -> None:
    """Say what is built, what this machine has, and what is missing.

    Every finding stands by itself: a broken part is reported, it does not stop the rest.
    """
    show = Output(json)
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
        except Exception as error:  # the point of this command is to survive whatever is broken
            facts[name] = None
            facts["problems"].append(f"{name}: {brief(error)}")
    facts["problems"] += _problems(facts)
    for line in _lines(facts):
        show.say(line)
    show.finish(facts)


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
        return getattr(importlib.import_module("cv2"), "__version__", None)  # its headless twin has another name


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
    except ValueError as error:  # PREIMAGE_ISA names one that is not available
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
    """Why what the commands import does not import, by the name of the package or of our module."""
    problems = {name: _problem_of(module) for name, module in _PACKAGES.items()}
    sound = not any(problems.values())
    for package, entry in _OPTIONAL.items():
        if _version(package) is not None:
            found = [_problem_of(module, package) for module in entry.modules]
            problems[package] = next(filter(None, found), "")
    for folder in _COMMANDS if sound else ():  # a broken package would break them, too
        names = [f"{folder}.{found.name}" for found in pkgutil.iter_modules(importlib.import_module(folder).__path__)]
        problems |= {name: _problem_of(name) for name in names}
    return {name: problem for name, problem in problems.items() if problem}


def _problem_of(module: str, optional: str = "") -> str:
    try:
        import_optional(optional, module) if optional else importlib.import_module(module)
    except Exception as error:  # a package that does not fit its neighbors raises nearly anything
        return str(error) if optional else brief(error)
    return ""


def _problems(facts: dict[str, Any]) -> list[str]:
    """What is missing, each with the way to get it."""
    problems = []
    for package, version in (facts["versions"] or {}).items():
        if version is None:
            problems.append(f"{package} is missing: pip install {package}")
    for package, version in (facts["optional"] or {}).items():
        if version is None:
            problems.append(f"{package} is missing ({_OPTIONAL[package].purpose}): {_OPTIONAL[package].install}")
    for name, reason in (facts["imports"] or {}).items():
        if (facts["versions"] or {}).get(name, "") is not None:  # not said above
            problems.append(reason if name in _OPTIONAL else f"{name} does not import: {reason}")
    if facts["native"] is None:
        problems.append(
            "the native module does not load, so no features can be computed: reinstall with `pip install .` from "
            "the source folder (needs a C++17 compiler), or install a wheel for this Python and platform"
        )
    if facts["inverters"] == []:
        problems.append("no inverter is pretrained in this installation: train one (`preimage train`) and name it")
    return problems


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = [f"{name:<18} {version or 'missing'}" for name, version in (facts["versions"] or {}).items()]
    if system := facts["system"]:
        lines.append(f"{'system':<18} {system['platform']}, {system['cpus']} CPUs")
    if native := facts["native"]:
        lines.append(f"{'native module':<18} {native['file']} ({native['compiler']})")
        lines.append(f"{'instruction sets':<18} {', '.join(native['instruction_sets'])}; uses {native['used']}")
    else:
        lines.append(f"{'native module':<18} does not load")
    if cuda := facts["cuda"]:
        lines += _cuda_lines(cuda)
    if facts["inverters"]:
        lines.append(f"{'inverters':<18} {', '.join(facts['inverters'])}")
    lines += [f"{name:<18} {version or 'missing'}" for name, version in (facts["optional"] or {}).items()]
    lines += [f"problem: {problem}" for problem in facts["problems"]]
    return lines if facts["problems"] else [*lines, "nothing is missing"]


def _cuda_lines(cuda: dict[str, Any]) -> list[str]:
    built = f"built for CUDA {cuda['torch_built_for']}" if cuda["torch_built_for"] else "built without CUDA"
    devices = ", ".join(cuda["torch_devices"]) or "no device"
    lines = [f"{'torch and CUDA':<18} {built}; {devices}"]
    kernels = [
        f"{device['name']} (compute capability {device['compute_capability']}, {bytes_text(device['memory'])})"
        for device in cuda["kernels_devices"]
    ]
    state = "built" if cuda["kernels_built"] else "not built"
    lines.append(f"{'CUDA kernels':<18} {'; '.join([state, *kernels, *filter(None, [cuda['reason']])])}")
    return lines
