"""Command ``preimage doctor``: report what is installed and what is missing."""

from __future__ import annotations

from typing import Any

from preimage.cli._options import Json
from preimage.cli._shared import Output, reporting
from preimage.facts import bytes_text


@reporting
def doctor(json: Json = False) -> None:
    """Check the installation.

    Reports packages, the native module, GPUs and pretrained inverters, and what is missing.

    Example: preimage doctor
    """
    from preimage.installation import doctor as run

    show = Output(json)
    facts = run()
    for line in _lines(facts):
        show.say(line)
    show.finish(facts)


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
