"""Test that the installed native module needs only what every Linux has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from elf import is_elf, read_dynamic
from preimage.ops import _native

MODULE = Path(_native.__file__)
# Of manylinux's list. Python's own symbols come from the interpreter, CUDA's runtime is linked statically, and the
# driver (libcuda) is opened by that runtime when a device is first asked for.
ALLOWED = re.compile(r"(libstdc\+\+|libgcc_s|libm|libc|libpthread|librt|libdl|ld-linux[-\w]*)\.so(\.\d+)*")

needs_elf = pytest.mark.skipif(not is_elf(MODULE), reason="the native module is no 64-bit ELF file")


@needs_elf
def test_module_needs_neither_torch_nor_cuda_nor_python() -> None:
    """One wheel serves every version of torch, and can be imported without a driver."""
    needed, search = read_dynamic(MODULE)
    assert needed
    assert [name for name in needed if not ALLOWED.fullmatch(name)] == []
    assert search == ()


@needs_elf
@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
@pytest.mark.parametrize("path", [MODULE, Path(sys.executable).resolve()], ids=["module", "python"])
def test_dynamic_section_is_read_as_readelf_does(path: Path) -> None:
    listing = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    found = read_dynamic(path)
    assert list(found.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", listing)
    assert list(found.search) == re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", listing)
