"""Measures the up-convolution's kernel configurations on this GPU and writes the table of its architecture.

For every layer and pass of the chosen networks each candidate is first compared with the plain pass in float64; those
that are right are timed beside torch, in CUDA graphs, in turns, with the caches emptied. The fastest goes into the
table, python/preimage/ops/upconv/tables/sm_*.json, which is written after every pass: a run may be stopped at any time.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import functools
import importlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from _clock import CudaClock
from _decoders import LayerShape
from _turns import in_turns
from _upconv_check import Check, Inputs, Problem
from _upconv_networks import networks, problems
from preimage.io.atomic import atomic_write
from preimage.ops.upconv import choice, configs, plain
from preimage.ops.upconv.choice import DTYPES, Capability, Entry
from preimage.ops.upconv.configs import Config

WIN = 0.98  # of torch's time: what is no faster than this is noise
SECONDS = 0.3  # of timing a pass


class Table:
    """The table of an architecture, written anew at every change.

    Args:
        path: of the file, which need not exist.
        measured: GPU, versions and date of the measurements to come; ``None`` for estimates. Times that another GPU or
            other versions gave are forgotten: their entries become estimates.
    """

    def __init__(self, path: Path, measured: dict[str, str] | None) -> None:
        self.path = path
        before, entries = choice.read_table(path) if path.exists() else (None, [])
        self.measured = before if measured is None else measured
        if {**(before or {}), "date": ""} != {**(self.measured or {}), "date": ""}:
            entries = [dataclasses.replace(entry, milliseconds=None, torch_milliseconds=None) for entry in entries]
        self.entries = entries

    def put(self, entries: Sequence[Entry]) -> None:
        """Add entries in place of those for the same pixels and of all estimates for the same layers."""
        keys, sizes = {entry.key for entry in entries}, {(entry.key, entry.pixels) for entry in entries}
        kept = [
            entry
            for entry in self.entries
            if (entry.key, entry.pixels) not in sizes and (entry.key not in keys or entry.milliseconds is not None)
        ]
        self.entries = sorted([*kept, *entries], key=_order)
        lines = ",\n".join(f"  {json.dumps(entry.to_dict())}" for entry in self.entries)
        text = f'{{\n "measured": {json.dumps(self.measured)},\n "entries": [\n{lines}\n ]\n}}\n'
        with atomic_write(self.path) as file:
            file.write(text.encode())

    def estimate(self, capability: Capability) -> None:
        """Replace all estimates by what `choice.rule` says, for every layer of every network."""
        self.entries = [entry for entry in self.entries if entry.milliseconds is not None]
        known = {entry.key for entry in self.entries}
        found: dict[choice.Key, list[Entry]] = {}
        for problem in problems(layer for net in networks().values() for layer in net):
            for name, dtypes in DTYPES.items():
                config = choice.rule(*problem.shape, dtypes[0], capability, tf32=True)
                entry = Entry(*problem.shape, name, config)
                of_layer = found.setdefault(entry.key, [])
                # The nearest entry serves all sizes: one is enough where the rule does not depend on them.
                if entry.key not in known and config not in [other.config for other in of_layer]:
                    of_layer.append(entry)
        self.put([entry for entries in found.values() for entry in entries])


def _order(entry: Entry) -> tuple[Any, ...]:
    which, in_channels, out_channels, dtype = entry.key
    return configs.PASSES.index(which), -in_channels, -out_channels, dtype, entry.pixels


class Kernels:
    """What runs on the GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.clock = CudaClock(device)
        self.capability = torch.cuda.get_device_capability(device)

    def candidates(self, problem: Problem, dtype: torch.dtype) -> tuple[Config, ...]:
        return configs.candidates(*problem.shape, dtype, self.capability, tf32=True)

    def run(self, problem: Problem, config: Config | None, inputs: Inputs) -> Any:
        """Run a pass by a kernel, or by torch where there is no configuration."""
        home = plain if config is None else importlib.import_module("preimage.ops.upconv.kernels")
        arguments = problem.arguments(inputs)
        return getattr(home, problem.which)(*arguments, *([] if config is None else [config]))

    def poisoned(self) -> contextlib.AbstractContextManager[Any]:
        """Within, outputs of kernels begin as NaN."""
        return importlib.import_module("preimage.ops.upconv.kernels").poisoned()


def tune(problem: Problem, name: str, kernels: Kernels, seconds: float = SECONDS) -> tuple[Entry, dict[Config, str]]:
    """Return the fastest of torch and the right candidates, and what is wrong with each of the others.

    A candidate is checked in every dtype of the name in `DTYPES`, and timed in the first. It has to be faster than
    torch by more than noise.
    """
    faults: dict[Config, str] = {}
    with torch.no_grad():
        for dtype in reversed(DTYPES[name]):
            check = Check(problem, dtype, kernels.device)
            for config in kernels.candidates(problem, dtype):
                with kernels.poisoned():
                    fault = check.fault(functools.partial(kernels.run, problem, config))
                if fault is not None:
                    faults[config] = f"{dtype}: {fault}"
        replays: dict[Config | None, Any] = {}
        for config in (None, *kernels.candidates(problem, dtype)):
            if config in faults:
                continue
            replay = kernels.clock.graph(functools.partial(kernels.run, problem, config, check.inputs))
            if not isinstance(replay, str):
                replays[config] = replay
            elif config is None:
                raise RuntimeError(f"torch's own pass of {problem} is not captured: {replay}")
            else:
                faults[config] = f"is not captured: {replay}"
        runners = {str(config): replay for config, replay in replays.items()}
        times = in_turns(runners, seconds, least=9, most=101, measure=kernels.clock.once)
    medians = {config: times[str(config)].median for config in replays}
    best = min(medians, key=medians.__getitem__)
    if medians[best] >= WIN * medians[None]:
        best = None
    return Entry(*problem.shape, name, best, *(round(medians[config], 5) for config in (best, None))), faults


def compile_ahead(work: Iterable[tuple[Problem, torch.dtype, Config]], processes: int) -> None:
    """Compile the kernels of all configurations into Triton's cache, in processes of their own."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(compile_one, work))


def compile_one(work: tuple[Problem, torch.dtype, Config]) -> None:
    """Compile the kernels that a pass would launch. One that does not compile says so again when it is tried."""
    problem, dtype, config = work
    kernels, launches = (importlib.import_module(f"preimage.ops.upconv.kernels{part}") for part in ("", "._launch"))
    allow_tf32()

    def warm(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        kernel.warmup(*arguments, grid=grid, **options)

    launch, launches.launch = launches.launch, warm
    try:
        with contextlib.suppress(Exception):
            getattr(kernels, problem.which)(*problem.arguments(problem.inputs(dtype, "meta")), config)
    finally:
        launches.launch = launch


def allow_tf32() -> None:
    """Let float32 be computed in TF32, by torch and by our kernels."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True


def machine(device: torch.device) -> dict[str, str]:
    """Return what decides on the times, and the date."""
    return {
        "gpu": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "triton": importlib.import_module("triton").__version__,
        "cudnn": str(torch.backends.cudnn.version()),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def measure(options: argparse.Namespace, known: dict[str, tuple[LayerShape, ...]]) -> None:
    """Tune the wanted networks one after the other."""
    device = torch.device("cuda", torch.cuda.current_device())
    torch.backends.cudnn.benchmark = True
    allow_tf32()
    kernels = Kernels(device)
    table = Table(path_of(kernels.capability, options.output), machine(device))
    done: set[tuple[Problem, str]] = set()
    for net in options.nets:
        wanted = [(problem, name) for name in options.dtypes for problem in problems(known[net])]
        todo = [one for one in wanted if one not in done]
        dtypes = [(problem, dtype) for problem, name in todo for dtype in DTYPES[name]]
        work = [(*one, config) for one in dtypes for config in kernels.candidates(*one)]
        compile_ahead(work, options.processes)
        for problem, name in todo:
            entry, faults = tune(problem, name, kernels)
            table.put([entry])
            print(f"{problem} {name}: {entry.milliseconds:.4f} ms {entry.config or 'torch'}", flush=True)
            for config, fault in faults.items():
                print(f"    not {config}: {fault}", flush=True)
        done |= set(todo)
    print(f"{len(done)} passes; written to {table.path}")


def path_of(capability: Capability, folder: Path | None) -> Path:
    return (folder or choice.TABLES) / f"sm_{capability[0]}{capability[1]}.json"


def arguments(known: Iterable[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(known)
    parser.add_argument("--nets", nargs="+", choices=names, default=names, metavar="NET", help=", ".join(names))
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--processes", type=int, default=min(16, os.cpu_count() or 1), help="that compile")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the table (default: the package's)")
    parser.add_argument(
        "--estimates",
        nargs="+",
        metavar="SM",
        help="measure nothing: write the rule's estimates into the tables of these architectures, such as 80 90",
    )
    return parser.parse_args()


def main() -> int:
    """Writes a table; 1 without a GPU."""
    known = networks()
    options = arguments(known)
    if not options.estimates and not torch.cuda.is_available():
        print(f"tune_upconv needs a CUDA device, and torch {torch.__version__} sees none", file=sys.stderr)
        return 1
    for architecture in options.estimates or ():
        capability = int(architecture[:-1]), int(architecture[-1])
        Table(path_of(capability, options.output), None).estimate(capability)
    if not options.estimates:
        measure(options, known)
    return 0


if __name__ == "__main__":
    sys.exit(main())
