"""Make the tree small enough to be copied to another machine, and restore it.

Large files that no step reads are moved into build/, which is not copied, and moved back. The list of them is on disk
before the first is moved, so that `unpack` restores them whatever happened.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

from gpu_check import build_package

LIMIT = 16 << 20  # bytes of everything that is copied
LARGE = 512 << 10
UNUSED = ("models/", "python/preimage/inverters/weights/")
USED = ("python/preimage/inverters/weights/hog-compact/",)  # what the steps invert with


def work_folder(root: Path) -> Path:
    """Return the folder for builds, facts and files moved aside; git ignores it."""
    return root / "build" / "gpu-check"


def carry_folder(root: Path) -> Path:
    """Return the folder that is to be copied along, although git ignores it."""
    return work_folder(root) / "carry"


def files(root: Path, *options: str) -> list[str]:
    """Return the paths of files that git lists and that exist."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z", *options], check=True, stdout=subprocess.PIPE)
    return [path for path in dict.fromkeys(os.fsdecode(listed.stdout).split("\0")) if path and (root / path).is_file()]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_list(root: Path) -> dict[str, str]:
    """Return the digests of the files moved aside, by path."""
    path = work_folder(root) / "aside.json"
    return json.loads(path.read_text()) if path.exists() else {}  # type: ignore[no-any-return]


def pack(root: Path) -> int:
    """Move large files aside, and return the bytes that remain to be copied."""
    folder = work_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    moved = [
        path
        for path in files(root)
        if not path.startswith(USED) and (path.startswith(UNUSED) or (root / path).stat().st_size > LARGE)
    ]
    with open(folder / "aside.tmp", "w") as file:
        json.dump(read_list(root) | {path: digest(root / path) for path in moved}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(folder / "aside.tmp", folder / "aside.json")
    for path in moved:
        (folder / "aside" / path).parent.mkdir(parents=True, exist_ok=True)
        os.rename(root / path, folder / "aside" / path)
    return sum(size for size, _ in sizes(root))


def sizes(root: Path) -> list[tuple[int, str]]:
    """Return (bytes, path) of all files that are copied, largest first."""
    carried = [str(path.relative_to(root)) for path in carry_folder(root).rglob("*") if path.is_file()]
    paths = [*files(root, "--cached", "--others", "--exclude-standard"), *carried]
    return sorted(((root / path).stat().st_size, path) for path in paths)[::-1]


def unpack(root: Path) -> list[str]:
    """Move the files back, and return what could not be restored."""
    folder, problems = work_folder(root), []
    for path, expected in read_list(root).items():
        aside, place = folder / "aside" / path, root / path
        if aside.exists() and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            os.rename(aside, place)
        if not place.exists():
            problems.append(f"{path} is lost: git checkout -- {path}")
        elif digest(place) != expected:
            problems.append(
                f"{path} has changed since it was packed" + (f"; {aside} is the one packed" * aside.exists())
            )
    if not problems:
        shutil.rmtree(folder / "aside", ignore_errors=True)
        (folder / "aside.json").unlink(missing_ok=True)
    return problems


def build_archive(root: Path, architecture: str) -> Path:
    """Build the archive of the kernels for one architecture, and put pybind11 beside it for the bindings.

    Raises:
        subprocess.CalledProcessError: The build fails.
    """
    folder = work_folder(root) / f"archive-sm_{architecture}"
    cuda = ("-DPREIMAGE_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={architecture}-real")
    build_package.configure(folder, *cuda)
    build_package.build(folder, "preimage_kernels")
    carry = carry_folder(root)
    carry.mkdir(parents=True, exist_ok=True)
    spec = importlib.util.find_spec("pybind11")
    if spec is not None and spec.origin is not None:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(spec.origin).parent, carry / "pybind11", dirs_exist_ok=True, ignore=ignored)
    return Path(shutil.copy2(folder / "libpreimage_kernels.a", carry))
