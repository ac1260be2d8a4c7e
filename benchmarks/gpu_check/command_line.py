"""Build, verify and measure the package on a machine with a GPU, within minutes and without network.

Needs a CUDA toolkit, CMake and Python with torch, and changes nothing outside build/. Every fact is a line of JSON in
facts.jsonl, on disk at once; summary.txt has the outcome of each step. Both are in the folder that the environment
variable OUT names, or in build/gpu-check/results/. Another run repeats only what is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from gpu_check import packing
from gpu_check.plan import BENCHMARKS, ROOT, Plan
from gpu_check.runner import Facts, Runner, Step, last_outcomes, read_facts, run_name

SECONDS = 300.0
SOURCES = ("CMakeLists.txt", "cmake/*", "csrc/**/*.*", "python/preimage/**/*.py", "python/preimage/**/tables/*")
CACHES = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor", "CUDA_CACHE_PATH": "cuda"}


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = {
        "run": "run the steps on this machine",
        "pack": "compile the CUDA kernels into build/gpu-check/carry and move large files aside",
        "unpack": "move the files back",
    }
    description = "; ".join(f"{name}: {what}" for name, what in actions.items())
    parser.add_argument("action", nargs="?", choices=list(actions), default="run", help=description)
    parser.add_argument("--dry-run", action="store_true", help="run every step on the CPU, with tiny problems")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit of all steps (default: %(default)s)")
    parser.add_argument(
        "--steps",
        default="",
        help="run only the build and these steps: names or their first words, separated by commas",
    )
    parser.add_argument("--fresh", action="store_true", help="repeat what earlier runs have done")
    parser.add_argument(
        "--architecture", default="90", help="compute capability to `pack` kernels for (default: %(default)s)"
    )
    return parser.parse_args()


def find_gpu() -> tuple[str, str] | None:
    """Return (name, compute capability without the point) of the first GPU."""
    query = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        output = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    name, _, capability = output.splitlines()[0].rpartition(",")
    return name.strip(), capability.strip().replace(".", "")


def source_digest() -> str:
    """Return a digest of the package's sources; results of other sources do not count."""
    total = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern) if path.is_file()):
        total.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return total.hexdigest()[:16]


def selected(stages: list[list[Step]], names: list[str]) -> list[list[Step]]:
    """Return the steps with these names or first words, and the build; raises `SystemExit` for unknown names."""
    known = {name for stage in stages for step in stage for name in (step.name, step.name.split()[0])}
    if unknown := sorted(set(names) - known):
        raise SystemExit(f"--steps takes {', '.join(sorted(known))}, got {', '.join(unknown)}")
    wanted = {"build", *names} if names else known
    return [[step for step in stage if {step.name, step.name.split()[0]} & wanted] for stage in stages]


def run(options: argparse.Namespace) -> int:
    """Run the steps; 1 where one failed or there is no GPU."""
    gpu = None if options.dry_run else find_gpu()
    if gpu is None and not options.dry_run:
        advice = "run it on a machine with an NVIDIA GPU, or try `python benchmarks/gpu_check --dry-run`"
        print(f"gpu_check needs a CUDA device, and nvidia-smi finds none: {advice}", file=sys.stderr)
        return 1
    work = packing.work_folder(ROOT)
    local = work / ("dry-run" if options.dry_run else "results")
    out = Path(os.environ.get("OUT") or local)
    # OUT may be emptied between runs. A dry run keeps to one folder.
    folders = [out] if options.dry_run or out == local else [local, out]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    device, architecture = gpu or ("none", None)
    about = {"device": device, "source": source_digest()}
    paths = [folder / "facts.jsonl" for folder in folders]
    names = [name.strip() for name in options.steps.split(",") if name.strip()]
    earlier = [] if options.fresh else read_facts([packing.carry_folder(ROOT) / "facts.jsonl", *paths])
    plan = Plan(out, work / "site", packing.carry_folder(ROOT) / "libpreimage_kernels.a", architecture)
    stages = selected(plan.stages(), names)
    facts = Facts(paths, {"run": run_name(), **about})
    title = f"{'dry run' if options.dry_run else device}, sources {about['source']}"
    runner = Runner(title, out, facts, last_outcomes(earlier, **about), options.seconds)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: runner.stop())
    inherited = os.environ.get("PYTHONPATH", "") if options.dry_run else str(plan.site)
    os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (inherited, str(BENCHMARKS)) if part)
    os.environ["PYTHONUNBUFFERED"] = "1"
    os.environ |= {name: str(work / "caches" / folder) for name, folder in CACHES.items()}
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"
    failed: list[str] = []
    for stage in stages:
        failed += runner.run(stage, (os.cpu_count() or 1) if options.dry_run else len(stage))
        if "build" in failed:
            break
    print(f"\n{runner.summary()}\n\nfacts, log and CSVs: {out}")
    return 1 if failed else 0


def pack(architecture: str) -> int:
    """Prepare the tree for copying; 1 where it is too large."""
    try:
        archive = packing.build_archive(ROOT, architecture)
        print(f"\nkernels for sm_{architecture}: {archive.relative_to(ROOT)}, {archive.stat().st_size / 2**20:.1f} MiB")
    except (subprocess.CalledProcessError, SystemExit) as error:
        print(f"no archive of the kernels, they will be compiled on the other machine: {error}", file=sys.stderr)
    size = packing.pack(ROOT)
    carry = packing.carry_folder(ROOT).relative_to(ROOT)
    print(f"{len(packing.read_list(ROOT))} large files are in {packing.work_folder(ROOT).relative_to(ROOT)}/aside")
    print(f"to copy, {size / 2**20:.1f} MiB: the files that git does not ignore, and {carry}")
    print("afterwards put the large files back: python benchmarks/gpu_check unpack")
    if size > packing.LIMIT:
        largest = ", ".join(f"{path} {count / 2**20:.1f} MiB" for count, path in packing.sizes(ROOT)[:10])
        print(f"more than {packing.LIMIT >> 20} MiB; the largest: {largest}", file=sys.stderr)
    return int(size > packing.LIMIT)


def unpack() -> int:
    """Restore the tree; 1 where a file could not be restored."""
    count = len(packing.read_list(ROOT))
    problems = packing.unpack(ROOT)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{count - len(problems)} of {count} large files are back" if count else "no files were moved aside")
    return int(bool(problems))


def main() -> int:
    """Run the action given on the command line."""
    options = arguments()
    if options.action == "run":
        return run(options)
    return pack(options.architecture) if options.action == "pack" else unpack()
