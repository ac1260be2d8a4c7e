"""Print the registers, shared memory and spills of every CUDA kernel: `python tests/helpers/cuda_resources.py`."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from paths import ROOT

CSRC = ROOT / "csrc"
ARCHITECTURES = (80, 90, 100, 120)
# As in CMakeLists.txt.
_OPTIONS = ["-std=c++17", "-O3", "-fmad=false", "--extended-lambda", f"-I{CSRC}"]

_ENTRY = re.compile(r"Compiling entry function '(\S+)' for 'sm_(\d+)\w?'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


@dataclass(frozen=True)
class Resources:
    """Resources of one kernel on one architecture; sizes in bytes."""

    source: str
    kernel: str
    architecture: int
    registers: int
    shared: int  # static
    stack: int
    spilled: int


def sources() -> list[Path]:
    """Return the files with kernels."""
    return sorted(CSRC.glob("*/*_cuda.cu"))


def resources(source: Path, architectures: tuple[int, ...]) -> list[Resources]:
    """Return the resources of every kernel in a file, according to the assembler's report."""
    nvcc = shutil.which("nvcc")
    assert nvcc is not None
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in architectures]
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, *_OPTIONS, *targets, "--threads=2", "-Xptxas=-v", "-c", str(source), "-o", f"{folder}/out.o"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, entry, frame = [], None, (0, 0)
    for line in done.stderr.splitlines():
        if match := _ENTRY.search(line):
            entry = match[1], int(match[2])
        elif match := _SPILLS.search(line):
            frame = int(match[1]), int(match[2]) + int(match[3])
        elif (match := _USED.search(line)) and entry is not None:
            name, architecture = entry
            numbers = int(match[1]), int(match[2] or 0), *frame
            found.append(Resources(source.name, _readable(name), architecture, *numbers))
            entry = None
    return found


def _readable(name: str) -> str:
    filter_ = shutil.which("c++filt")
    if filter_ is None:
        return name
    text = subprocess.run([filter_, name], capture_output=True, text=True, check=True).stdout.strip()
    text = re.sub(r"preimage::(\w+::)?|\(anonymous namespace\)::|^void ", "", text)
    return text.split("(")[0]


def main() -> None:
    """Print the table in Markdown."""
    print("| file | kernel | sm | registers | shared memory | stack | spilled |")
    print("|---|---|---|---|---|---|---|")
    for source in sources():
        for row in sorted(resources(source, ARCHITECTURES), key=lambda row: (row.kernel, row.architecture)):
            print(
                f"| {row.source} | `{row.kernel}` | {row.architecture} | {row.registers} | {row.shared} "
                f"| {row.stack} | {row.spilled} |"
            )


if __name__ == "__main__":
    main()
