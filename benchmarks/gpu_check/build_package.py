"""Build the package for this machine's Python and GPU, by CMake alone, into a folder for PYTHONPATH.

`build_package.py SITE ARCHITECTURE ARCHIVE`. If there is an archive of the kernels, only the bindings are compiled,
with the pybind11 that lies beside it; if it does not fit, or cannot be linked or loaded here, everything is. Another
run compiles only what has changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
import json, preimage.ops._native as native
print(json.dumps({"file": native.__file__, "compiler": native.compiler, **native.cuda_devices()}))
"""


def tool(name: str) -> str:
    """Return the path of a program, on PATH or beside Python.

    Raises:
        SystemExit: There is none.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    found = shutil.which(name, path=path)
    if found is None:
        raise SystemExit(f"{name} is not installed")
    return found


def configure(folder: Path, *options: str) -> None:
    """Configure a build folder; raises `subprocess.CalledProcessError`."""
    command = [tool("cmake"), "-S", str(ROOT), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release", *options]
    # Compressed, since line numbers take four times the space of the code.
    command += [f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_CUDA_FLAGS=-lineinfo -Xfatbin=-compress-all"]
    if not (folder / "CMakeCache.txt").exists() and (shutil.which("ninja") or not shutil.which("make")):
        command += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    subprocess.run(command, check=True)


def build(folder: Path, target: str) -> None:
    """Build a target; raises `subprocess.CalledProcessError`."""
    command = [tool("cmake"), "--build", str(folder), "--target", target, "--parallel", str(os.cpu_count() or 1)]
    subprocess.run(command, check=True)


def assemble(folder: Path, site: Path) -> None:
    """Put together what an installation would have: the package, the module and the version."""
    shutil.rmtree(site, ignore_errors=True)
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "python" / "preimage", site / "preimage", ignore=ignored)
    for module in folder.glob("_native*.so"):
        shutil.copy2(module, site / "preimage" / "ops")
    version = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]
    information = site / f"preimage-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: preimage\nVersion: {version}\n")


def probe(site: Path) -> dict[str, object]:
    """Return what the imported module says of itself; raises `subprocess.CalledProcessError`."""
    variables = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", PROBE], env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> int:
    """Build and probe; 1 where the result does not run on the GPU."""
    site, architecture, archive = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    attempts = {"prebuilt kernels": f"-DPREIMAGE_KERNELS_ARCHIVE={archive}"} if archive.exists() else {}
    attempts["kernels compiled here"] = "-DPREIMAGE_CUDA=ON"
    carried = archive.parent / "pybind11" / "share" / "cmake" / "pybind11"
    bindings = [f"-Dpybind11_DIR={carried}"] if carried.exists() else []
    for how, option in attempts.items():
        folder = site.parent / how.replace(" ", "-")
        try:
            configure(folder, option, f"-DCMAKE_CUDA_ARCHITECTURES={architecture}-real", *bindings)
            build(folder, "_native")
            assemble(folder, site)
            found = probe(site)
        except subprocess.CalledProcessError as error:
            print(f"{how}: {error}", flush=True)
            continue
        print(json.dumps({"build": how, **found}))
        if found["devices"] and str(found["file"]).startswith(str(site)):
            print(f"{how}; {found['compiler']}; sm_{architecture}")
            return 0
        print(f"{how}: {found['file']} finds no device: {found['reason']}")
        return 1
    return 1


if __name__ == "__main__":
    sys.exit(main())
