"""The steps of gpu_check.py, apart from the build."""

from __future__ import annotations

import concurrent.futures
import functools
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from _check_build import ROOT, find_nvcc, has
from _check_run import Commands, Outcome

TESTS = ROOT / "tests"
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
# Libraries' own kernels: slow to check, and not ours to mend. initcheck must see them, or what they write counts as
# unwritten.
FOREIGN_KERNELS = ("at6native", "cublas", "cutlass", "cudnn", "nchw", "nhwc")
# Name -> what the files of its tests begin with: each a step, so that one that takes too long does not hide the others.
GPU_TESTS = {"up-convolution": ("upconv",), "training": ("training", "graphed", "adam", "batch_stream")}
# On the GPU, or without one in a rehearsal of the same code; name -> seconds.
GPU_BENCHMARKS = {"bench_upconv": 150.0, "bench_training": 90.0}
OP_TESTS = ("descriptor", "hog", "lbp", "dense_sift", "phow", "upconv", "native", "cuda")

# Module -> what is missing without it.
OPTIONAL = {
    "pytest": "all tests",
    "hypothesis": "the tests of properties",
    "xdist": "tests of the ops on several cores",
    "skimage": "all tests and benchmarks: their photographs",
    "pip": "installing as a user would; built by CMake alone",
    "scikit_build_core": "installing as a user would; built by CMake alone",
    "pybind11": "its own headers; torch's copy serves",
    "ninja": "building with Ninja, unless the command is there",
    "triton": "Triton kernels",
    "tifffile": "tests of 16-bit images",
    "kornia": "its row in the benchmarks",
}


def other_benchmarks() -> list[str]:
    """All other benchmarks: every bench_*.py, called with --quick and --results DIR."""
    found = sorted(path.stem for path in (ROOT / "benchmarks").glob("bench_*.py"))
    return [name for name in found if name != "bench_descriptors" and name not in GPU_BENCHMARKS]


class CheckSteps:
    """Each method is a step; `limit` is the seconds it has."""

    def __init__(self, commands: Commands, results: Path, device: str) -> None:
        self.commands = commands
        self.results = results
        self.device = device
        self._sanitized: dict[str, Outcome] = {}

    def environment(self, limit: float) -> Outcome:
        """What machine this is, and what it lacks."""
        print(f"    {platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()} {sys.executable}")
        packages = ("torch", "triton", "numpy", "pytest", "cmake", "pybind11", "scikit-build-core")
        print("    " + ", ".join(f"{name} {_version(name)}" for name in packages))
        commands = {
            "GPU": ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader"],
            "nvcc": [find_nvcc() or "nvcc", "--version"],
            "C++": [os.environ.get("CXX") or shutil.which("g++") or "clang++", "--version"],
            "CMake": ["cmake", "--version"],
            "compute-sanitizer": [_sanitizer() or "compute-sanitizer", "--version"],
        }
        absent = []
        for name, command in commands.items():
            if shutil.which(command[0]) is None:
                absent.append(f"{name}: there is no command {command[0]}")
                continue
            code, output = self.commands.run("environment", command, min(limit, 20), show=0)
            lines = [
                line.strip() for line in output.splitlines() if "release" in line.lower() or "version" in line.lower()
            ]
            print(f"    {name}: {(lines or output.splitlines() or [f'exit code {code}'])[0]}")
        absent += [f"{name}: without it no {use}" for name, use in OPTIONAL.items() if not has(name)]
        if not has_vlfeat():
            absent.append("libvl.so.1 (VLFEAT_LIBRARY names one elsewhere): without it no comparison with VLFeat")
        if not Path("/usr/include/dlib").is_dir():
            absent.append("dlib's headers: without them no row of dlib in the benchmarks")
        for line in absent:
            print(f"    absent: {line}")
        missing = ", ".join(line.split(":")[0].split(" ")[0] for line in absent)
        return Outcome("ok", f"absent: {missing}" if absent else "nothing is absent")

    def kernels(self, limit: float) -> Outcome:
        """Every op against the CPU."""
        return self.commands.judged("kernels", self._kernel_script(), limit, show=40)

    def _kernel_script(self) -> list[str | Path]:
        return [sys.executable, TESTS / "helpers" / "gpu_kernels.py", "--device", self.device]

    def gpu_tests(self, limit: float) -> Outcome:
        """The tests that need a GPU, but those of `GPU_TESTS`."""
        others = [f"--ignore={path}" for name in GPU_TESTS for path in _tests(GPU_TESTS[name])]
        return self._pytest("gpu-tests", ["-m", "gpu", "--durations=5", *others, "tests"], limit)

    def gpu_tests_of(self, name: str, limit: float) -> Outcome:
        """Those of one of `GPU_TESTS`."""
        return self._pytest(f"gpu-tests-{name}", ["-m", "gpu", "--durations=5", *_tests(GPU_TESTS[name])], limit)

    def op_tests(self, limit: float) -> Outcome:
        """All other tests of the ops."""
        shared = ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "loadfile"] if has("xdist") else []
        return self._pytest("op-tests", ["-m", "not gpu and not nightly", *shared, *_tests(OP_TESTS)], limit)

    def _pytest(self, name: str, selection: list[str], limit: float) -> Outcome:
        if not has("pytest"):
            return Outcome("skipped", "pytest is not installed")
        # Warnings are errors in the tests' own environment; other versions of torch or NumPy give others.
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", *selection]
        outcome = self.commands.judged(name, command, limit, show=12)
        if outcome.remark.startswith("exit code 5"):  # nothing was selected
            state = "failed" if self.device == "cuda" else "skipped"
            return Outcome(state, "no test here needs a GPU" + ("" if state == "failed" else ": there is none"))
        return outcome

    def sanitizer(self, tool: str) -> Callable[[float], Outcome]:
        """A step for one tool. The first runs them all at once, and the others wait for what came of theirs."""

        def run(limit: float) -> Outcome:
            if self.device != "cuda":
                return Outcome("skipped", "there is no GPU")
            if _sanitizer() is None:
                return Outcome("skipped", "compute-sanitizer is not installed")
            if not self._sanitized:
                with concurrent.futures.ThreadPoolExecutor(len(SANITIZERS)) as pool:
                    outcomes = pool.map(functools.partial(self._sanitize, limit), SANITIZERS)
                    self._sanitized = dict(zip(SANITIZERS, outcomes, strict=True))
            return self._sanitized[tool]

        return run

    def _sanitize(self, limit: float, tool: str) -> Outcome:
        command: list[str | Path] = [_sanitizer() or "", "--tool", tool, "--error-exitcode", "9"]
        if tool != "initcheck":
            command += ["--kernel-name-exclude", ",".join(f"kns={name}" for name in FOREIGN_KERNELS)]
        # Without torch's cache of device memory every tensor is an allocation, whose ends can be watched.
        # The up-convolution's kernels are called one by one: the layers themselves need not compile more of them.
        variables = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PREIMAGE_UPCONV": "plain"}
        code, output = self.commands.run(tool, [*command, *self._kernel_script()], limit, show=0, **variables)
        if "Device not supported" in output:
            return Outcome("skipped", "compute-sanitizer does not support this device")
        found = [line.strip("= ") for line in output.splitlines() if "SUMMARY" in line]
        if code is None:
            return Outcome("failed", f"stopped after {limit:.0f} s")
        if code == 0 and not found:
            return Outcome("failed", f"{tool} did not say what it found")
        return Outcome("ok" if code == 0 else "failed", found[-1] if found else f"exit code {code}")

    def gpu_benchmark(self, limit: float) -> Outcome:
        """The descriptors on the GPU; without one a rehearsal of the same code."""
        return self._descriptors("gpu-benchmark", limit, "cuda" if self.device == "cuda" else "rehearsal")

    def cpu_benchmark(self, limit: float) -> Outcome:
        """The descriptors on the CPU, shortly."""
        return self._descriptors("cpu-benchmark", limit, "cpu", "--quick")

    def _descriptors(self, name: str, limit: float, device: str, *options: str) -> Outcome:
        return self._benchmark(name, "bench_descriptors", limit, "--device", device, *options)

    def gpu_benchmark_of(self, name: str, limit: float) -> Outcome:
        """One of `GPU_BENCHMARKS`; without a GPU a rehearsal of the same code."""
        device = "cuda" if self.device == "cuda" else "rehearsal"
        return self._benchmark(name, name, limit, "--quick", "--device", device)

    def benchmark(self, name: str, limit: float) -> Outcome:
        """Another benchmark."""
        return self._benchmark(name, name, limit, "--quick")

    def _benchmark(self, name: str, script: str, limit: float, *options: str) -> Outcome:
        path = ROOT / "benchmarks" / f"{script}.py"
        command: list[str | Path] = [sys.executable, path, *options, "--results", self.results]
        return self.commands.judged(name, command, limit, show=60, OMP_NUM_THREADS="1")


def _tests(beginnings: tuple[str, ...]) -> list[str]:
    """The test files whose names begin so."""
    return list(dict.fromkeys(str(path) for name in beginnings for path in sorted(TESTS.glob(f"**/test_{name}*.py"))))


def _sanitizer() -> str | None:
    name = "compute-sanitizer"
    return shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def has_vlfeat() -> bool:
    """Does the real VLFeat load?"""
    sys.path.insert(0, str(TESTS / "helpers"))
    try:
        import vlfeat  # noqa: PLC0415 - only here
    finally:
        sys.path.pop(0)
    return vlfeat.library() is not None
