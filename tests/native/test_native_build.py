"""Test the native build: symbols that it must not contain, and its errors."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paths import ROOT
from preimage.ops import _native

CMAKE = shutil.which("cmake")
COMPILER = shutil.which("g++") or shutil.which("clang++")

needs_cmake = pytest.mark.skipif(CMAKE is None or COMPILER is None, reason="CMake or a C++ compiler is not installed")


def configure(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(CMAKE), "-S", str(ROOT), "-B", str(folder), f"-DPython_EXECUTABLE={sys.executable}", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@needs_cmake
def test_cuda_on_without_nvcc_fails_at_once_and_says_so(tmp_path: Path) -> None:
    begin = time.monotonic()
    result = configure(tmp_path, "-DPREIMAGE_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={tmp_path}/nvcc")
    assert time.monotonic() - begin < 60  # seconds of work; the rest is for busy machines
    assert result.returncode != 0
    message = " ".join(result.stderr.split())
    assert "PREIMAGE_CUDA=ON needs nvcc, and no working one was found: put it on PATH" in message
    assert not (tmp_path / "build.ninja").exists() and not (tmp_path / "Makefile").exists()


@needs_cmake
def test_cuda_option_is_checked(tmp_path: Path) -> None:
    result = configure(tmp_path, "-DPREIMAGE_CUDA=YES")
    assert result.returncode != 0
    assert "PREIMAGE_CUDA must be AUTO, ON or OFF, got 'YES'" in result.stderr


@needs_cmake
def test_cuda_auto_without_nvcc_goes_on(tmp_path: Path) -> None:
    result = configure(tmp_path, f"-DCMAKE_CUDA_COMPILER={tmp_path}/nvcc")
    assert "CUDA code: FALSE" in result.stdout


@needs_cmake
def test_prebuilt_kernels_must_be_of_these_sources(tmp_path: Path) -> None:
    """The digest is in the source that the build writes; here a file with that text stands in for the archive."""
    assert configure(tmp_path / "kernels", "-DPREIMAGE_CUDA=OFF").returncode == 0
    text = (tmp_path / "kernels" / "digest.cpp").read_text()
    archive = tmp_path / "libpreimage_kernels.a"

    def use(contents: str, *options: str) -> subprocess.CompletedProcess[str]:
        archive.write_bytes(b"!<arch>\n\0" + contents.encode() + b"\0")
        shutil.rmtree(tmp_path / "build", ignore_errors=True)
        return configure(tmp_path / "build", f"-DPREIMAGE_KERNELS_ARCHIVE={archive}", *options)

    assert use(text).returncode == 0
    refused = use(text.replace("kernels ", "kernels 0"))
    assert refused.returncode != 0 and "was built from other sources" in " ".join(refused.stderr.split())
    refused = use(text, "-DCMAKE_CUDA_ARCHITECTURES=90-real")
    assert refused.returncode != 0 and "is for cpu, not 90-real" in " ".join(refused.stderr.split())


@pytest.mark.skipif(COMPILER is None or shutil.which("nm") is None, reason="no compiler or no nm")
@pytest.mark.skipif("avx2" not in (ROOT / "CMakeLists.txt").read_text(), reason="no x86 kernels")
@pytest.mark.parametrize("descriptor", ["hog", "dalal_triggs", "lbp", "dense_sift", "sift"])
@pytest.mark.parametrize("kernel", ["avx2", "avx512"])
def test_kernels_for_newer_processors_share_no_symbol(kernel: str, descriptor: str, tmp_path: Path) -> None:
    """A weak symbol (an inline function, a template) in such an object may be the copy that the linker keeps for
    the whole module, which then dies of an illegal instruction on an older processor. Without optimization nothing is
    inlined by luck."""
    flags = {"avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"]}[kernel]
    source = ROOT / "csrc" / descriptor / f"{descriptor}_cpu_kernel.cpp"
    target = tmp_path / "kernel.o"
    include = f"-I{ROOT / 'csrc'}"
    defines = ["-DPREIMAGE_X86_KERNELS", f"-DPREIMAGE_ISA={kernel}"]
    command = [str(COMPILER), "-std=c++17", "-O0", *defines, include, *flags, "-c", str(source)]
    probe = subprocess.run(
        [str(COMPILER), "-mavx512f", "-E", "-x", "c++", "/dev/null"], capture_output=True, check=False
    )
    if probe.returncode != 0:
        pytest.skip("the compiler is not for x86-64")
    subprocess.run([*command, "-o", str(target)], check=True, timeout=300)
    listing = subprocess.run(["nm", "-C", str(target)], capture_output=True, text=True, check=True).stdout
    shared = re.findall(r"^[0-9a-f]+ ([A-Zuv]) (.*)$", listing, re.MULTILINE)
    functions = {"lbp": ["band", "code_band"], "sift": ["kernels"]}.get(descriptor, ["band"])
    assert sorted((kind, re.sub(r"\(.*", "", name)) for kind, name in shared) == [
        ("T", f"preimage::{descriptor}::{kernel}::{function}") for function in functions
    ]


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_module_exports_only_its_entry() -> None:
    """A second copy of the CUDA runtime's symbols in view of torch's would end in one using the other's memory."""
    listing = subprocess.run(["nm", "-D", _native.__file__], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^[0-9a-f]+ [TDB] (.*)$", listing, re.MULTILINE) == ["PyInit__native"]


def test_cuda_report_explains_itself() -> None:
    report = _native.cuda_devices()
    assert set(report) == {"built", "driver_version", "runtime_version", "devices", "reason"}
    assert bool(report["devices"]) != bool(report["reason"])
    assert report["built"] == (report["runtime_version"] > 0)
    for name, (major, _), memory in report["devices"]:
        assert name and major >= 5 and memory > 1 << 28
