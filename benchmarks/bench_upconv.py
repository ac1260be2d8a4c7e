"""The up-convolution beside torch's own transposed convolution: whole decoders and their layers, forward and backward.

One run, in turns, every round in a fresh order, medians; every contender's result is compared with float64 before it is
measured. On the CPU against eager torch in both layouts, appended to results/upconv-cpu.csv; on a GPU (where there is
one) against eager torch, torch.compile and cuDNN's sub-pixel form, all in CUDA graphs, appended to
results/upconv-gpu.csv. `ratio` is how many times our time a contender took; times are milliseconds.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

import _upconv_tables as tables
from _timing import load, processor
from _upconv_cpu import CpuPart
from _upconv_gpu import GpuPart

SECONDS, QUICK_SECONDS = 3.0, 0.5  # a whole decoder's turns on the CPU; all of it takes some ten minutes


def measure_cpu(options: argparse.Namespace) -> list[str]:
    """Prints and keeps the CPU's tables; what was wrong."""
    threads = [int(count) for count in options.threads.split(",")] if options.threads else _thread_counts()
    part = CpuPart(options.results, QUICK_SECONDS if options.quick else SECONDS, threads)
    print(f"{processor()}, load {load()}; x: how many times preimage's time")
    for net in options.nets.split(","):
        part.measure(net, (1,) if options.quick else (8, 1), naive=not options.quick, layers=not options.quick)
    print(f"\n{tables.plain(tables.cpu_tables(tables.newest(options.results / 'upconv-cpu.csv')))}\n")
    return part.failures


def _thread_counts() -> list[int]:
    return [count for count in (1, 2) if count <= (os.cpu_count() or 1)]


def measure_gpu(options: argparse.Namespace) -> list[str]:
    """Prints and keeps the GPU's tables; what was wrong."""
    rehearsal = options.device == "rehearsal"
    dtypes = [torch.bfloat16, *([torch.float32] if options.float32 else [])]
    part = GpuPart(options.results, torch.device("cpu" if rehearsal else "cuda:0"), quick=options.quick)
    nets = ["tiny"] if rehearsal else options.nets.split(",")
    for layers in (False, True):  # the whole decoders first: the time may not reach for all
        for net in nets[:1] if layers and options.quick else nets:
            for dtype in dtypes:
                part.measure(net, dtype, layers=layers)
    print(f"\n{tables.plain(tables.gpu_tables(tables.newest(options.results / 'upconv-gpu.csv')))}\n")
    for line in sorted(part.absent):
        print(f"absent: {line}")
    return part.failures


def write_document(options: argparse.Namespace) -> None:
    """The newest runs' tables into a document."""
    for name, grids in (("upconv-cpu", tables.cpu_tables), ("upconv-gpu", tables.gpu_tables)):
        if not tables.write_into(options.markdown, name, grids, options.results / f"{name}.csv"):
            print(f"{name}: not yet measured")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    devices = ("auto", "cpu", "cuda", "rehearsal")
    parser.add_argument(
        "--device",
        choices=devices,
        default="auto",
        help="auto: CUDA where there is one; rehearsal: the GPU's part on the CPU, tiny, to try its code",
    )
    parser.add_argument("--nets", default="H,F", help="decoders, with commas between (default: %(default)s)")
    parser.add_argument("--threads", default="", help="CPU: numbers of threads, with commas between (default: 1,2)")
    parser.add_argument("--float32", action="store_true", help="GPU: float32 (tf32) too")
    parser.add_argument("--quick", action="store_true", help="few rounds; CPU: whole decoders, batch 1")
    parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results", metavar="DIR")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="measure nothing: put the newest runs' tables into this document"
    )
    return parser.parse_args()


def main() -> int:
    """Prints the tables and appends them to the CSVs; 1 where a contender was wrong."""
    options = arguments()
    if options.markdown:
        write_document(options)
        return 0
    there = torch.cuda.is_available()
    if options.device == "cuda" and not there:
        print(f"torch {torch.__version__} sees no CUDA device", file=sys.stderr)
        return 1
    on_gpu = options.device in ("cuda", "rehearsal") or (options.device == "auto" and there)
    failures = measure_gpu(options) if on_gpu else measure_cpu(options)
    for failure in failures:
        print(f"FAILED: {failure}")
    print(f"{len(failures)} wrong; appended to {options.results}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
