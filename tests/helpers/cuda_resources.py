"""Report the resources that the CUDA kernels need on each architecture, without a GPU.

`python tests/helpers/cuda_resources.py` prints a table; with `--csrc` that of another source tree, for comparison. The
numbers of SASS instructions, without padding, need cuobjdump, of CUDA or of Triton.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from paths import ROOT

CSRC = ROOT / "csrc"
ARCHITECTURES = (80, 90, 100, 120)

_OPTIONS = re.compile(r"\$<\$<COMPILE_LANGUAGE:CUDA>:([^>]*)>")  # in CMakeLists.txt
_ENTRY = re.compile(r"Compiling entry function '(\S+)' for 'sm_(\d+)\w?'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
_FUNCTION = re.compile(r"^\s*Function : (\S+)")
_TARGET = re.compile(r"^arch = sm_(\d+)")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?(?!NOP)[A-Z]")


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
    instructions: int | None  # None without cuobjdump


def sources(csrc: Path = CSRC) -> list[Path]:
    """Return the files with kernels."""
    return sorted(csrc.glob("*/*_cuda.cu"))


def resources(source: Path, architectures: tuple[int, ...]) -> list[Resources]:
    """Return the resources of every kernel in a file `<csrc>/*/*_cuda.cu`, according to the assembler's report."""
    nvcc = shutil.which("nvcc")
    assert nvcc is not None
    csrc = source.parents[1]
    options = _OPTIONS.findall((csrc.parent / "CMakeLists.txt").read_text())
    assert len(options) == 1, "CMakeLists.txt must set the options of CUDA files in one place"
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in architectures]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.o")
        command = [nvcc, "-std=c++17", "-O3", *options[0].split(), f"-I{csrc}", *targets, "--threads=2", "-Xptxas=-v"]
        command.append("-Werror=all-warnings")
        done = subprocess.run(
            [*command, "-c", str(source), "-o", str(out)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        counts = _instructions(out)
    found, entry, frame = [], None, (0, 0)
    for line in done.stderr.splitlines():
        if match := _ENTRY.search(line):
            entry = match[1], int(match[2])
        elif match := _SPILLS.search(line):
            frame = int(match[1]), int(match[2]) + int(match[3])
        elif (match := _USED.search(line)) and entry is not None:
            name, architecture = entry
            numbers = int(match[1]), int(match[2] or 0), *frame
            found.append(Resources(source.name, _readable(name), architecture, *numbers, counts.get(entry)))
            entry = None
    return found


def _instructions(binary: Path) -> Counter[tuple[str, int]]:
    """Return the number of instructions of every kernel and architecture; nothing without cuobjdump."""
    path = os.environ["PATH"]
    if (triton := importlib.util.find_spec("triton")) is not None and triton.origin is not None:
        path += os.pathsep + str(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    counts: Counter[tuple[str, int]] = Counter()
    if (cuobjdump := shutil.which("cuobjdump", path=path)) is None:
        return counts
    command = [cuobjdump, "-sass", str(binary)]  # calls nvdisasm
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True)
    architecture, kernel = 0, ""
    for line in done.stdout.splitlines():
        if match := _TARGET.search(line):
            architecture = int(match[1])
        elif match := _FUNCTION.search(line):
            kernel = match[1]
        elif _INSTRUCTION.search(line):
            counts[kernel, architecture] += 1
    return counts


def _readable(name: str) -> str:
    filter_ = shutil.which("c++filt")
    if filter_ is None:
        return name
    text = subprocess.run([filter_, name], capture_output=True, text=True, check=True).stdout.strip()
    text = re.sub(r"preimage::(\w+::)?|\(anonymous namespace\)::|^void |\([\w:]+\)(?=\d)", "", text)
    return text.split("(")[0]


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="stems of files, as in hog_cuda; all if omitted")
    parser.add_argument("--csrc", type=Path, default=CSRC)
    parser.add_argument("--architectures", nargs="*", type=int, default=list(ARCHITECTURES))
    options = parser.parse_args()
    print("| file | kernel | sm | registers | shared memory | stack | spilled | instructions |")
    print("|---|---|---|---|---|---|---|---|")
    for source in sources(options.csrc.resolve()):
        if options.files and source.stem not in options.files:
            continue
        found = resources(source, tuple(options.architectures))
        for row in sorted(found, key=lambda row: (row.kernel, row.architecture)):
            print(
                f"| {row.source} | `{row.kernel}` | {row.architecture} | {row.registers} | {row.shared} "
                f"| {row.stack} | {row.spilled} | {row.instructions} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
