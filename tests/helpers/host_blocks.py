"""Run the block programs of the CUDA kernels on the host, with AddressSanitizer and UndefinedBehaviorSanitizer.

`tests/native/<name>_blocks.cpp` is compiled once per test run; its program is called as
`program ORDER INPUT OUTPUT NUMBER...`, with the arrays as raw bytes in files.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from conftest import photographs
from paths import ROOT, TESTS

ORDERS = ("forward", "reverse", "shuffled")
_COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or ""
_OPTIONS = "-std=c++17 -O1 -g -ffp-contract=off -fsanitize=address,undefined -fno-sanitize-recover=all -Wall -Wextra"

needs_compiler = pytest.mark.skipif(not _COMPILER, reason="no C++ compiler")


@functools.cache
def program(name: str) -> Path:
    """Return the compiled `native/<name>_blocks.cpp`."""
    path = Path(tempfile.mkdtemp(prefix="preimage-blocks-")) / name
    source = TESTS / "native" / f"{name}_blocks.cpp"
    command = [_COMPILER, *_OPTIONS.split(), f"-I{ROOT / 'csrc'}", str(source), "-o", str(path)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return path


def run_blocks(name: str, order: str, array: np.ndarray, *numbers: float) -> np.ndarray:
    """Return the output of the program as flat float32, with the threads of every phase in the given order."""
    with tempfile.TemporaryDirectory() as folder:
        array.tofile(f"{folder}/in")
        command = [str(program(name)), order, f"{folder}/in", f"{folder}/out", *map(str, numbers)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return np.fromfile(f"{folder}/out", dtype=np.float32)


def pixels(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Return a batch (B, C, H, W) of crops of photographs, uint8 or float32 in [0, 1]."""
    batch, channels, height, width = shape
    photos = [
        np.resize(photo.transpose(2, 0, 1)[:channels], (channels, height, width)) for photo in photographs().values()
    ]
    images = np.stack(photos[:batch])
    return images if dtype is np.uint8 else images.astype(np.float32) / np.float32(255)
