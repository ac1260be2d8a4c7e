"""Compile the native code for other systems with Zig's C++ compiler (`pip install ziglang`), and run what can be run.

    python tests/helpers/cross_compile.py [TARGET ...]

For every target, all sources without Python are compiled with warnings as errors and linked with
tests/native/descriptor_hashes.cpp. The program is run where an emulator is installed (qemu-user-static for arm64, Wine
for Windows), and its lines are compared with those of this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from paths import ROOT, TESTS

EMULATORS = {
    "x86_64-linux-gnu.2.17": [],
    "aarch64-linux-musl": ["qemu-aarch64-static"],
    "aarch64-macos": None,
    "x86_64-macos": None,
    "x86_64-windows-gnu": ["wine64"],
}
"""Command that starts programs of a target; ``None`` where they are only compiled."""

_WINE = "/usr/lib/wine"  # where Debian keeps wine64
_SETS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    # Zig disables 512-bit registers unless the last option is there.
    "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mevex512"],
}
_OPTIONS = (
    "-std=c++17 -O2 -Wall -Wextra -Wshadow -Wconversion -Werror -ffp-contract=off -fno-math-errno -fno-trapping-math"
)


def emulator(target: str) -> list[str] | None:
    """Return the command that starts a program for the target, or ``None`` if it cannot be run here."""
    command = EMULATORS[target]
    if command:
        path = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}{os.pathsep}{_WINE}")
        return [path] if path else None
    return command


def compile_for(target: str, folder: Path) -> Path:
    """Compile and link the program for a target; return its path.

    Raises:
        subprocess.CalledProcessError: The compiler refuses a source, or has a warning.
    """
    x86 = target.startswith("x86_64")
    sets = list(_SETS) if x86 else ["portable"]
    # Elsewhere Zig's runtime library lacks what __builtin_cpu_supports reads: the kernels are compiled and not linked.
    chosen = x86 and "windows" in target
    # Not "c++" of the machine: one compiler for all targets, so that only the target differs.
    command = [sys.executable, "-m", "ziglang", "c++", "-target", target, *_OPTIONS.split(), f"-I{ROOT / 'csrc'}"]
    command += ["-DPREIMAGE_X86_KERNELS"] * chosen
    objects = []
    sources = [path for path in (ROOT / "csrc").glob("*/*.cpp") if not path.stem.endswith("bindings")]
    for source in [*sorted(sources), TESTS / "native" / "descriptor_hashes.cpp"]:
        for name in sets if source.stem.endswith("_kernel") else ["portable"]:
            compiled = folder / f"{source.stem}-{name}.o"
            options = [f"-DPREIMAGE_ISA={name}", *_SETS[name], "-c", str(source), "-o", str(compiled)]
            subprocess.run([*command, *options], check=True)
            if chosen or name == "portable":
                objects.append(compiled)
    program = folder / ("descriptor_hashes.exe" if "windows" in target else "descriptor_hashes")
    subprocess.run([*command, *map(str, objects), "-o", str(program)], check=True)
    return program


def run(target: str, program: Path) -> dict[str, str] | None:
    """Return the hash of every descriptor ("portable hog-8", ...), or ``None`` if the program cannot be run here."""
    command = emulator(target)
    if command is None:
        return None
    environment = {**os.environ, "WINEPREFIX": str(program.parent / "wine"), "WINEDEBUG": "-all"}
    done = subprocess.run([*command, str(program)], env=environment, capture_output=True, text=True, check=True)
    return dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())


def main(targets: list[str]) -> None:
    """Print for each target what was compiled, and which lines differ from those of the first target that ran."""
    expected: dict[str, str] = {}
    for target in targets or list(EMULATORS):
        with tempfile.TemporaryDirectory() as folder:
            found = run(target, compile_for(target, Path(folder)))
        if found is None:
            print(f"{target}: compiled, not run")
            continue
        expected = expected or found
        different = sorted(name for name in found if found[name] != expected.get(name, found[name]))
        print(f"{target}: compiled and run, {len(found)} results, different: {', '.join(different) or 'none'}")


if __name__ == "__main__":
    main(sys.argv[1:])
