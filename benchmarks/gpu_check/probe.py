"""Single measurements of gpu_check, each in a process of its own: `probe.py NAME DEVICE` prints facts as JSON."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

PACKAGES = ("torch", "triton", "numpy", "opencv-python-headless", "opencv-python", "scikit-image", "pytest", "pybind11")
QUERY = "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit"
# Networks whose kernels the other steps run, and in which dtype: `invert` runs the last one, forward only.
NETS = {"H": "bfloat16", "hog/paper": "bfloat16", "hog/compact": "float32"}
FRAMES = 2  # number of images of the profiled kernels
METRICS = (
    "gpu__time_duration.sum",
    "sm__inst_issued.avg.pct_of_peak_sustained_active",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    "dram__bytes.sum",
    "lts__t_sector_hit_rate.pct",
    "l1tex__data_pipe_lsu_wavefronts.avg.pct_of_peak_sustained_elapsed",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "smsp__inst_executed.sum",
    "launch__registers_per_thread",
    "launch__waves_per_multiprocessor",
)


def print_fact(**fact: Any) -> None:
    """Print a fact."""
    print(json.dumps(fact), flush=True)


def version(package: str) -> str | None:
    """Return the version of an installed package, or ``None``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def facts(device: str) -> None:
    """Print the machine, the versions, and the speeds of copying and of matrix products, on random data."""
    print_fact(python=platform.python_version(), system=platform.platform(), cores=os.cpu_count())
    print_fact(versions={package: version(package) for package in PACKAGES})
    tools = ("nvcc", "cmake", "ninja", "make", "g++", "ncu", "compute-sanitizer", "timeout")
    print_fact(tools={name: shutil.which(name) for name in tools})
    import torch  # noqa: PLC0415 - the facts above do not wait for it

    if device == "cuda":
        smi = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
        output = subprocess.run(smi, capture_output=True, text=True, check=False).stdout
        print_fact(**dict(zip(QUERY.split(","), [value.strip() for value in output.split(",")], strict=False)))
        print_fact(cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(), gpu=torch.cuda.get_device_name(0))
    size, side = (1 << 30, 8192) if device == "cuda" else (1 << 20, 128)
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    a, b = torch.randn(2, side, side, device=device).bfloat16()
    copy = milliseconds(device, lambda: target.copy_(source))
    product = milliseconds(device, lambda: a @ b)
    print_fact(copy_gigabytes_per_second=round(2 * size / copy / 1e6, 1), bytes=size)
    print_fact(bf16_teraflops=round(2 * side**3 / product / 1e9, 1), side=side)
    print(f"copy {2 * size / copy / 1e9:.3g} TB/s, bf16 matrix product {2 * side**3 / product / 1e9:.3g} TFLOP/s")


def milliseconds(device: str, run: Callable[[], object]) -> float:
    """Return the median time of a call."""
    if device == "cuda":
        from triton.testing import do_bench  # noqa: PLC0415 - where there is a GPU

        return float(do_bench(run, warmup=20, rep=100, return_mode="median"))
    return min(timeit.repeat(run, number=1, repeat=3)) * 1e3


def warm_up(device: str) -> None:
    """Compile the kernels that the tables choose for the networks of later steps, in parallel, into Triton's cache."""
    import torch  # noqa: PLC0415

    from preimage.ops.upconv.kernel_choice import choose  # noqa: PLC0415
    from tune_upconv import compile_all, group_by_kernel, networks, problems  # noqa: PLC0415

    capability = torch.cuda.get_device_capability() if device == "cuda" else (9, 0)
    known, wanted, chosen = networks(), {}, {}
    for net, name in NETS.items():
        dtype = getattr(torch, name)
        for problem in problems(known[net]):
            if dtype == torch.bfloat16 or problem.which == "forward":
                config = choose(*problem.shape, dtype, capability, tf32=True)
                chosen[" ".join(map(str, (*problem.shape, name)))] = str(config or "torch")
                if config is not None:
                    wanted[problem, dtype, config] = None
    print_fact(chosen=chosen)
    processes = min(16, os.cpu_count() or 1) if device == "cuda" else 1
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(compile_all, group_by_kernel(wanted)))
    print(f"{len(wanted)} kernels for {', '.join(NETS)}")


def launches(device: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the name and a call of each kernel to profile; inputs are created before the call."""
    import torch  # noqa: PLC0415

    import preimage  # noqa: PLC0415
    import tune_upconv as tune  # noqa: PLC0415
    from bench_upconv import DECODERS  # noqa: PLC0415
    from preimage.ops.adam import adam_step  # noqa: PLC0415
    from preimage.ops.upconv.kernel_choice import choose  # noqa: PLC0415

    on_gpu = device == "cuda"
    frames, height, width = (FRAMES, 1080, 1920) if on_gpu else (1, 32, 48)
    gray = torch.rand(frames, 1, height, width, device=device)
    color = torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, device=device)
    yield "hog gray f32", lambda: preimage.hog(gray)
    yield "hog RGB u8", lambda: preimage.hog(color)
    yield "lbp gray f32", lambda: preimage.lbp(gray)
    yield "dense_sift gaussian", lambda: preimage.dense_sift(gray, step=4, bin_size=4)
    yield "dense_sift flat", lambda: preimage.dense_sift(gray, step=4, bin_size=4, window="flat")
    count = 20_000_000 if on_gpu else 64
    flat = [torch.rand(count, device=device) for _ in range(5)]
    scale, scalars = torch.ones((), device=device), torch.full((4,), 0.1, device=device)
    half = torch.empty(count, dtype=torch.bfloat16, device=device)
    yield "adam", lambda: adam_step(*flat, half, scale, scalars)
    capability = torch.cuda.get_device_capability() if on_gpu else (9, 0)
    layers = DECODERS["H" if on_gpu else "tiny"]
    for problem in tune.problems(layers[-2:]):
        config = choose(*problem.shape, torch.bfloat16, capability, tf32=True)
        if problem.batch == tune.BATCH and config is not None and on_gpu:
            inputs = problem.inputs(torch.bfloat16, device)
            yield f"{problem.which} {config}", lambda p=problem, c=config, i=inputs: p.run(c, i)  # type: ignore[misc]


def launch(device: str) -> None:
    """Call each kernel once to compile it, and once within the range that a profiler records."""
    import torch  # noqa: PLC0415

    calls = list(launches(device))
    for _, call in calls:
        call()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStart()
    for _, call in calls:
        call()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()
    print(f"called: {', '.join(name for name, _ in calls)}")


def counters(device: str) -> None:
    """Print the hardware counters of each kernel by ncu; without ncu only make the calls."""
    ncu, command = shutil.which("ncu"), [sys.executable, __file__, "launch", device]
    if ncu is None:
        subprocess.run(command, check=True)
        print("called without ncu, which is not installed")
        return
    options = ["--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "raw"]
    # The second set is for a version of ncu that does not know one of the metrics.
    for metrics in (["--metrics", ",".join(METRICS)], ["--set", "basic"]):
        done = subprocess.run([ncu, *options, *metrics, *command], stdout=subprocess.PIPE, text=True, check=False)
        lines = done.stdout.splitlines()
        print("\n".join(line for line in lines if not line.startswith('"')), flush=True)
        table = csv.DictReader(line for line in lines if line.startswith('"'))
        rows = [row for row in table if row.get("ID")]  # the first has the units
        for row in rows:
            print_fact(
                kernel=row["Kernel Name"], grid=row["Grid Size"], **{key: row[key] for key in row if "__" in key}
            )
        if rows:
            print(f"{len(rows)} kernels profiled")
            return
    sys.exit("ncu profiled no kernel")


def main() -> None:
    """Run the measurement given on the command line."""
    known = {"facts": facts, "warm-up": warm_up, "launch": launch, "counters": counters}
    known[sys.argv[1]](sys.argv[2])


if __name__ == "__main__":
    main()
