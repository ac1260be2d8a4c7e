"""Reconstructions and samples by an inverter: milliseconds per image on one thread and two, or on a GPU.

Appended to samples-cpu.csv or samples-gpu.csv. `ratio` is how many times the time of the reconstruction a contender
takes, in the same rounds; n samples share one pass of the encoder. Batches are of one image and of eight, on a GPU also
of 64. On a GPU a sample is compared with that of the CPU before, which has the same noise.
"""

from __future__ import annotations

import functools
import sys

import torch

from _harness import Run, Runner, WrongResultError, check, parser
from preimage.inverters import Inverter, load_inverter
from preimage.inverters.sampler import Sampler, SamplerConfig

COLUMNS = ("inverter", "side", "batch", "threads", "contender", "median", "ratio", "spread")
_TOLERANCE = 5e-3  # relative, of samples on a GPU, whose products are TF32
NAMES = RECONSTRUCTION, ONE, FOUR, MOMENTS = "reconstruction", "1 sample", "4 samples", "moments of 16"


def contenders(inverter: Inverter, features: torch.Tensor) -> dict[str, Runner]:
    """Return what is timed, on one batch of features."""
    return {
        RECONSTRUCTION: functools.partial(inverter, features),
        ONE: functools.partial(inverter.sample, features, 1),
        FOUR: functools.partial(inverter.sample, features, 4),
        MOMENTS: functools.partial(inverter.moments, features, 16),
    }


def _finished(runner: Runner) -> None:
    runner()
    torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> int:
    made = parser(__doc__, "python benchmarks/bench_samples.py --inverter hog-compact", gpu=True)
    made.add_argument("--inverter", default="hog-compact", help="name or folder; one without a sampler gets a new one")
    made.add_argument("--threads", default="1,2", help="numbers of threads of torch, without a GPU")
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
    if run.gpu:
        features = torch.rand(2, inverter.spec.channels, *cells, generator=torch.Generator().manual_seed(0)) * 0.3
        expected = inverter.sample(features, 2).double()
        try:
            check("samples", inverter.to(run.device).sample(features, 2).cpu(), expected, _TOLERANCE)
        except WrongResultError as error:
            run.refuse("samples", error)
    for batch in (1,) if run.quick else (1, 8, 64) if run.gpu else (1, 8):
        features = torch.rand(batch, inverter.spec.channels, *cells, device=run.device)
        for threads in [1] if run.gpu else map(int, options.threads.split(",")):
            with torch.inference_mode():
                runners = contenders(inverter, features)
                if run.cuda:
                    runners = {name: functools.partial(_finished, runner) for name, runner in runners.items()}
                # By the wall clock, because the noise is drawn on the CPU.
                times = run.time(runners, 3 if run.gpu else 20, threads=threads, wall=True)
            for name, measured in times.items():
                table.add(
                    inverter=options.inverter,
                    side=side,
                    batch=batch,
                    threads=None if run.gpu else threads,
                    contender=name,
                    median=measured.median / batch,
                    ratio=measured.ratio(times[RECONSTRUCTION]),
                    spread=measured.spread,
                )
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
