"""Reconstructions and samples by an inverter: milliseconds per image on one thread and two.

Appended to samples-cpu.csv. `ratio` is how many times the time of the reconstruction a contender takes, in the same
rounds; n samples share one pass of the encoder. Batches are of one image, and of eight.
"""

from __future__ import annotations

import functools
import sys

import torch

from _harness import Run, Runner, parser
from preimage.inverters import Inverter, load_inverter
from preimage.inverters.sampler import Sampler, SamplerConfig

COLUMNS = ("inverter", "side", "batch", "threads", "contender", "median", "ratio", "spread")
NAMES = RECONSTRUCTION, ONE, FOUR, MOMENTS = "reconstruction", "1 sample", "4 samples", "moments of 16"


def contenders(inverter: Inverter, features: torch.Tensor) -> dict[str, Runner]:
    """Return what is timed, on one batch of features."""
    return {
        RECONSTRUCTION: functools.partial(inverter, features),
        ONE: functools.partial(inverter.sample, features, 1),
        FOUR: functools.partial(inverter.sample, features, 4),
        MOMENTS: functools.partial(inverter.moments, features, 16),
    }


def main(arguments: list[str] | None = None) -> int:
    made = parser(__doc__, "python benchmarks/bench_samples.py --inverter hog-compact")
    made.add_argument("--inverter", default="hog-compact", help="name or folder; one without a sampler gets a new one")
    made.add_argument("--threads", default="1,2", help="numbers of threads of torch")
    options = made.parse_args(arguments)
    run = Run(options)
    table = run.table("samples", COLUMNS)
    inverter = load_inverter(options.inverter, device="cpu")
    if inverter.sampler is None:  # the weights do not matter for the time
        inverter.sampler = Sampler(inverter.network, SamplerConfig()).eval().requires_grad_(False)
    side = 64 if run.quick else 256
    stride = inverter.spec.stride
    if stride is None or inverter.output_region is not None:
        raise SystemExit(f"{options.inverter} reconstructs images of one size: choose an inverter of maps of any size")
    cells = (side // stride - sum(inverter.network.margin),) * 2
    for batch in (1,) if run.quick else (1, 8):
        features = torch.rand(batch, inverter.spec.channels, *cells)
        for threads in map(int, options.threads.split(",")):
            with torch.inference_mode():
                times = run.time(contenders(inverter, features), 20, threads=threads)
            for name, measured in times.items():
                table.add(
                    inverter=options.inverter,
                    side=side,
                    batch=batch,
                    threads=threads,
                    contender=name,
                    median=measured.median / batch,
                    ratio=measured.ratio(times[RECONSTRUCTION]),
                    spread=measured.spread,
                )
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
