"""The steps of gpu_check, the most telling first: a run may end at any time."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from gpu_check.runner import Step

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
HERE = BENCHMARKS / "gpu_check"
KERNEL_TESTS = ROOT / "tests" / "ops" / "upconv" / "test_upconv_kernels.py"
DRY_LIMIT = 300
# A process for each, since an error of CUDA lasts as long as the process.
FAMILIES = {
    "hog": "hog",
    "lbp": "lbp,lbp_codes",
    "dense_sift": "dense_sift",
    "training": "adam,crop_resize",
    "upconv": "upconv",
    "forward": "forward",
    "dgrad": "dgrad",
    "wgrad": "wgrad",
    "image": "image_backward,distance_backward",
}
# Without torch's cache of device memory every tensor is an allocation, whose ends can be watched.
WATCHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


class Plan:
    """Steps on a GPU, or for a dry run the same commands on the CPU with tiny problems.

    Args:
        results: Folder for the CSVs of the benchmarks.
        site: Folder to build the package in.
        archive: Prebuilt kernels, which need not exist.
        architecture: Compute capability without a point, or ``None`` for a dry run.
    """

    def __init__(self, results: Path, site: Path, archive: Path, architecture: str | None) -> None:
        self.results, self.site, self.archive, self.architecture = results, site, archive, architecture
        self.dry = architecture is None
        self.device = "cpu" if self.dry else "cuda"
        # All threads, since batches are copied by the CPU.
        self.unbound = {} if self.dry else {"OMP_NUM_THREADS": ""}

    def stages(self) -> list[list[Step]]:
        """Return the steps; those of one stage run at the same time.

        The limits up to the sanitizers add up to 300 s. What a stage leaves over of its limit, later ones may use.
        """
        warm_up = self._probe("warm-up", 45, serves=("upconv", "training", "invert", "counters"))
        if not self.dry:  # the verdicts come first, also among processes
            warm_up = dataclasses.replace(warm_up, command=["nice", "-n", "10", *warm_up.command])
        stages = [
            [*(self._kernels(f"verdict {name}", 45, ops) for name, ops in FAMILIES.items()), warm_up],
            *([step] for step in self._measurements()),
            [self._sanitizer("memcheck"), self._sanitizer("racecheck")],
            [self._benchmark("compiled upconv", "upconv", 75, "--nets", "H", "--compile")],
            [self._benchmark("samples", "samples", 20)],
            [self._benchmark("compiled training", "training", 75, "--compile", environment=self.unbound)],
            [self._tests()],
        ]
        steps = [step for stage in stages for step in stage]
        # The first import of torch on a machine may take 40 s alone.
        facts = dataclasses.replace(self._probe("facts", 40), until=60.0)
        first = [facts, self._build([step.name for step in steps])]
        if not self.dry:
            return list(_with_what_is_left([first, *stages]))
        # Nothing is timed, on a machine that may be busy.
        return [[dataclasses.replace(step, limit=DRY_LIMIT) for step in stage] for stage in (first, steps)]

    def _measurements(self) -> Iterator[Step]:
        yield self._benchmark("rooflines", "descriptors", 30, "--only", "hog,lbp,dense_sift")
        yield self._benchmark("upconv", "upconv", 35, "--nets", "H")
        yield self._benchmark("training", "training", 30, environment=self.unbound)
        options = ("--size", "64") if self.dry else ("--disk", "/dev/shm")
        yield self._benchmark("extract", "extraction", 25, "--quick", "--only", "hog,dense-sift", *options)
        yield self._benchmark("invert", "commands", 20, "--quick")
        absent = "ncu is not installed" if shutil.which("ncu") is None and not self.dry else ""
        yield self._probe("counters", 35, absent=absent)

    def _build(self, serves: list[str]) -> Step:
        if self.dry:
            return Step("build", [sys.executable, "-c", "import preimage; print(preimage.__file__)"], 30, serves=serves)
        command = [sys.executable, HERE / "build_package.py", self.site, str(self.architecture), self.archive]
        # Without it nothing runs, so that it may take all the time there is.
        return Step("build", command, 40, {"PYTHONPATH": ""}, until=math.inf, serves=serves)

    def _probe(self, name: str, limit: float, *, serves: tuple[str, ...] = (), absent: str = "") -> Step:
        return Step(name, [sys.executable, HERE / "probe.py", name, self.device], limit, serves=serves, absent=absent)

    def _kernel_command(self, ops: str, *, small: bool) -> list[str | Path]:
        script = ROOT / "tests" / "helpers" / "gpu_kernels.py"
        command = [sys.executable, script, "--device", self.device, "--only", ops]
        return [*command, "--small"] if small else command

    def _kernels(self, name: str, limit: float, ops: str) -> Step:
        # These are what a run is for: they may take a part of the later steps' time.
        return Step(name, self._kernel_command(ops, small=self.dry), limit, until=120.0)

    def _sanitizer(self, tool: str) -> Step:
        path = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
        command = self._kernel_command("hog,lbp,dense_sift", small=True)
        if path:
            options = ["--tool", tool, "--error-exitcode", "9", "--kernel-name", "kns=preimage"]
            return Step(tool, [path, *options, *command], 40, WATCHED, prints="SUMMARY")
        return Step(tool, command, 40, absent="" if self.dry else "compute-sanitizer is not installed")

    def _benchmark(
        self, name: str, script: str, limit: float, *options: str, environment: dict[str, str] | None = None
    ) -> Step:
        command = [sys.executable, BENCHMARKS / f"bench_{script}.py", "--json", "--output", self.results]
        command += ["--device", "rehearsal" if self.dry else "cuda", *options]
        return Step(name, command, limit, environment or {})

    def _tests(self) -> Step:
        if importlib.util.find_spec("pytest") is None:
            return Step("pytest", [], 0, absent="pytest is not installed")
        # Warnings are errors in the tests' own environment; other versions of torch or NumPy give others.
        command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-W", "default", "-m", "gpu"]
        if self.dry:
            return Step("pytest", [*command, "--collect-only", KERNEL_TESTS], 60)
        shared = ["-n", "4"] if importlib.util.find_spec("xdist") else []
        return Step("pytest", [*command, *shared, "--durations=5", ROOT / "tests"], 300)


def _with_what_is_left(stages: list[list[Step]]) -> Iterator[list[Step]]:
    """Yield the stages; each may take until the limits up to its own are over."""
    planned = 0.0
    for stage in stages:
        planned += max(step.limit for step in stage)
        yield [dataclasses.replace(step, until=max(step.until, planned)) for step in stage]
