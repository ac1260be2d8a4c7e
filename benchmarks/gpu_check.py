"""Everything that has to be seen on a GPU, in one go: build, tests, compute-sanitizer, benchmarks, a table at the end.

For a machine with a GPU, a CUDA toolkit and Python with torch; needs no network and changes nothing outside this
folder. Benchmark results are appended to benchmarks/results/. Where the environment variable OUT names a folder, logs,
results and table are copied there after every step.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

import _check_steps
from _check_build import METHODS, ROOT, Build, method_here
from _check_run import Checks, Commands, Step

FOLDER = ROOT / "build" / "gpu-check"
SECONDS = 480.0


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="what can be done without a GPU; keeps no results")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for everything (default: %(default)s)")
    parser.add_argument("--steps", default="", help="only these, with commas between; without `build`, what is there")
    parser.add_argument("--build", choices=METHODS, default=None, help="default: what is installed decides")
    return parser.parse_args()


def device_here() -> tuple[str, str] | str:
    """(name, architecture) of the first CUDA device, or the sentence that says why there is none."""
    if importlib.util.find_spec("torch") is None:
        return f"gpu-check needs PyTorch, and {sys.executable} has none"
    import torch  # noqa: PLC0415 - not before it is known to be there

    if not torch.cuda.is_available():
        return (
            f"gpu-check needs a CUDA device, and torch {torch.__version__} sees none: run it on a machine with an "
            "NVIDIA GPU, or `python benchmarks/gpu_check.py --dry-run` for what can be checked without one"
        )
    return torch.cuda.get_device_name(0), "".join(map(str, torch.cuda.get_device_capability(0)))


def environment() -> dict[str, str]:
    """Variables for every command: output at once, and what is compiled kept in our own folder."""
    caches = {
        "TRITON_CACHE_DIR": "triton",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "CUDA_CACHE_PATH": "cuda",
    }
    return {"PYTHONUNBUFFERED": "1", **{name: str(FOLDER / "caches" / folder) for name, folder in caches.items()}}


class Results:
    """Where benchmarks write, and what is copied to OUT."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._before = {path.name: path.stat().st_size for path in folder.glob("*.csv")}

    def publish(self, logs: Path, summary: str) -> None:
        """Table, logs as one file, and the CSVs that have grown, to OUT."""
        out = os.environ.get("OUT")
        if not out or not Path(out).is_dir():
            return
        (Path(out) / "summary.txt").write_text(summary + "\n")
        with (Path(out) / "log.txt").open("w", encoding="utf-8") as file:
            for log in sorted(logs.glob("*.log"), key=lambda path: path.stat().st_mtime):
                file.write(f"======== {log.stem}\n{log.read_text(encoding='utf-8', errors='replace')}\n")
        for path in self.folder.glob("*.csv"):
            if path.stat().st_size != self._before.get(path.name):
                shutil.copy2(path, out)


def steps(options: argparse.Namespace, commands: Commands, results: Path, device: str, architecture: str) -> list[Step]:
    """What is done, the most telling first: the time may not reach for all."""
    build = Build(commands, FOLDER, architecture, device)
    check = _check_steps.CheckSteps(commands, results, device)
    kernels = f"kernels on {'the GPU' if device == 'cuda' else 'the CPU'}"
    everything = {
        "environment": Step("environment", 60, check.environment),
        "build": Step("build", 200, functools.partial(build.run, options.build or method_here())),
        "kernels": Step(kernels, 120, check.kernels),
        **{
            f"{name}-tests": Step(f"GPU tests: {name}", 120, functools.partial(check.gpu_tests_of, name))
            for name in _check_steps.GPU_TESTS
        },
        **{
            name: Step(name, limit, functools.partial(check.gpu_benchmark_of, name))
            for name, limit in _check_steps.GPU_BENCHMARKS.items()
        },
        "tests": Step("tests on the GPU", 180, check.gpu_tests),
        "benchmarks": Step("benchmarks on the GPU", 150, check.gpu_benchmark),
        **{tool: Step(f"sanitizer {tool}", 120, check.sanitizer(tool)) for tool in _check_steps.SANITIZERS},
        "ops": Step("tests of the ops", 220, check.op_tests),
        "cpu": Step("benchmarks on the CPU", 90, check.cpu_benchmark),
        **{name: Step(name, 90, functools.partial(check.benchmark, name)) for name in _check_steps.other_benchmarks()},
    }
    wanted = [name.strip() for name in options.steps.split(",") if name.strip()]
    if unknown := sorted(set(wanted) - set(everything)):
        raise SystemExit(f"--steps takes {', '.join(everything)}; got {', '.join(unknown)}")
    if not wanted or "build" in wanted:
        commands.environment["PYTHONPATH"] = str(build.site)
    return [step for name, step in everything.items() if not wanted or name in wanted]


def main() -> int:
    """1 when a step failed or there is no GPU."""
    options = arguments()
    found = device_here()
    if isinstance(found, str) and not options.dry_run:
        print(found, file=sys.stderr)
        return 1
    device = "cpu" if options.dry_run else "cuda"
    architecture = "90" if isinstance(found, str) else found[1]
    with tempfile.TemporaryDirectory(prefix="preimage-results-") as temporary:
        results = Results(Path(temporary) if options.dry_run else ROOT / "benchmarks" / "results")
        commands = Commands(ROOT, FOLDER / "logs", os.environ | environment())
        checks = Checks(options.seconds, functools.partial(results.publish, commands.logs))
        for step in steps(options, commands, results.folder, device, architecture):
            checks.run(step)
    print(f"\n{checks.summary()}")
    if checks.failed:
        print(f"\nFAILED: {', '.join(checks.failed)}; logs: {commands.logs}")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
