"""Training images a second, with the trainer's own step, for an inverter of HOG.

On the CPU the compact network, with the package's own up-convolutions and with torch's (PREIMAGE_UPCONV=plain), each in
a process of its own, in turns, and the share of the time in which a step waits for its images; appended to
results/training-cpu.csv. On a GPU (where there is one) the paper's network: the trainer's step as a CUDA graph, against
the same network and step in plain torch, eager and compiled; appended to results/training-gpu.csv. Every contender's
losses are compared with ours on the same images. `ratio` is how many times our time a step took, in milliseconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch

import _training_cpu
from _training_setup import write_crops


def measure_gpu(options: argparse.Namespace, images: str, output: Path) -> list[str]:
    """Prints and keeps the GPU's rows; what was wrong."""
    import _training_gpu as gpu  # noqa: PLC0415 - its parts may ask for Triton

    scale = gpu.REHEARSAL if options.device == "rehearsal" else gpu.QUICK if options.quick else gpu.FULL
    part = gpu.GpuPart(options, images, output, scale)
    part.measure()
    return part.failures


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    devices = ("auto", "cpu", "cuda", "rehearsal")
    parser.add_argument(
        "--device",
        choices=devices,
        default="auto",
        help="auto: CUDA where there is one; rehearsal: the GPU's part on the CPU, small, to try its code",
    )
    parser.add_argument("--images", default="", metavar="PATH", help="a folder or tar; else scikit-image's photographs")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="CPU (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="few steps; on the CPU of small images")
    parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results", metavar="DIR")
    return parser.parse_args()


def main() -> int:
    """Prints the rows and appends them to the CSV; 1 where a contender was wrong."""
    options = arguments()
    there = torch.cuda.is_available()
    if options.device == "cuda" and not there:
        print(f"torch {torch.__version__} sees no CUDA device", file=sys.stderr)
        return 1
    on_gpu = options.device in ("cuda", "rehearsal") or (options.device == "auto" and there)
    with tempfile.TemporaryDirectory(prefix="preimage-training-") as temporary:
        folder = Path(temporary)
        images = options.images or str(write_crops(folder / "images"))
        if on_gpu:
            failures = measure_gpu(options, images, folder / "run")
        else:
            scale = _training_cpu.QUICK if options.quick else _training_cpu.FULL
            failures = _training_cpu.measure(options, images, folder / "run", scale)
    for failure in failures:
        print(f"FAILED: {failure}")
    print(f"{len(failures)} wrong; appended to {options.results}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
