"""Test that the native code compiles for other systems, and computes the same there where an emulator is installed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

import cross_compile
from paths import ROOT
from preimage.ops import _native

COMPILER = shutil.which("g++") or shutil.which("clang++")


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.skipif("avx2" not in _native.instruction_sets(), reason="no x86-64 processor with AVX2")
def test_processor_names_the_instruction_sets_that_the_compilers_runtime_does(tmp_path: Path) -> None:
    """Windows has no such runtime library, and asks the processor (common/x86_features.h)."""
    source = tmp_path / "features.cpp"
    source.write_text(
        '#include <cstdio>\n#include "common/x86_features.h"\n'
        "int main() { const auto [avx2, avx512] = preimage::x86_features(); "
        'std::printf("%s%s", avx512 ? "avx512 " : "", avx2 ? "avx2 " : ""); }\n'
    )
    command = [str(COMPILER), "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}", str(source)]
    subprocess.run([*command, "-o", str(tmp_path / "features")], check=True, timeout=120)
    found = subprocess.run([str(tmp_path / "features")], capture_output=True, text=True, check=True).stdout
    assert [*found.split(), "portable"] == _native.instruction_sets()


@pytest.mark.nightly
@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
@pytest.mark.parametrize("target", cross_compile.EMULATORS)
def test_kernels_compile_for_other_systems_and_agree(target: str, tmp_path: Path) -> None:
    found = cross_compile.run(target, cross_compile.compile_for(target, tmp_path))
    if found is None:
        return  # compiled; there is nothing here that runs it
    assert {name.split()[0] for name in found} >= {"portable"}
    for name, value in found.items():
        kind = name.split(" ", 1)[1]
        if not kind.split()[0].endswith("-bits"):  # these depend on the C library
            assert value == EXPECTED[kind], name


# From any compiler, system and instruction set: the image is drawn with integers, and the kernels fuse no operations.
EXPECTED = {
    "hog-8 15903": "1596f6489d4314cd",
    "hog-6 27900": "389fd9e195fea6bc",
    "lbp-16 6786": "7294ddd0d0bf660f",
    "lbp-10 18270": "8bbaf7a61ac33ab3",
    "dense-sift-flat 228480": "5db22678fdf335e6",
    "sift-frames 1550": "2541e0043235012d",
}
