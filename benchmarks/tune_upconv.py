"""Measure the up-convolution's kernel configurations on this GPU and write the table of its architecture.

For every layer and pass of the chosen networks each candidate is first compared with the plain pass in float64; those
that are right are timed beside torch, in CUDA graphs, in turns. The fastest goes into the table,
python/preimage/ops/upconv/tables/sm_*.json, which is written after every pass: a run may be stopped at any time.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import functools
import importlib
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from _harness import Runner, allow_tf32, cuda_graph, take_turns
from bench_upconv import DECODERS, SLOPE, LayerShape
from preimage.inverters.architectures import UShapedConfig, build
from preimage.inverters.auto import like_alexnet
from preimage.inverters.presets import preset, preset_names
from preimage.io.atomic import atomic_write
from preimage.nn import UpConv2d
from preimage.ops.upconv import kernel_choice, kernel_configs, torch_passes
from preimage.ops.upconv.kernel_choice import DTYPES, Capability, Entry
from preimage.ops.upconv.kernel_configs import Config
from preimage.representations import list_representations

IMAGE_SIZE, BATCH = 256, 64  # of a training step
ALEXNET = {"conv1": 27, "conv2": 13, "conv5": 6, "fc6": None}  # cells of layers with different networks
WIN = 0.98  # of torch's time: what is no faster than this is noise
SECONDS = 0.5  # of timing a pass
# What each pass takes: maps of the layer's input ("low") or output ("high") size, the weight, the bias, images.
ROLES = {
    "forward": ("low", "weight", "bias"),
    "dgrad": ("high", "weight", "low"),
    "wgrad": ("low", "high"),
    "image_backward": ("low", "high", "weight"),
    "distance_backward": ("low", "high", "target", "mean", "scale", "weight"),
}
# A single element may be off by this many times the tolerance, of its own size and the typical one together: over
# 10^7 elements noise comes to six times its mean, while one missing tap is a third of the typical size.
ELEMENT = 4.0

Inputs = tuple[torch.Tensor, ...]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A pass of a layer, on maps of side × side at low resolution."""

    which: str
    in_channels: int
    out_channels: int
    side: int
    batch: int

    @property
    def shape(self) -> tuple[str, int, int, int]:
        """Pass, Ci, Co and pixels: the first arguments of `kernel_configs.candidates`."""
        return self.which, self.in_channels, self.out_channels, self.batch * self.side**2

    def run(self, config: Config | None, inputs: Inputs) -> Inputs:
        """Return the outputs by a kernel, or by torch where there is no configuration."""
        home = torch_passes if config is None else importlib.import_module("preimage.ops.upconv.kernels")
        slope = () if self.which == "wgrad" else (SLOPE,)
        result = getattr(home, self.which)(*inputs, *slope, *([] if config is None else [config]))
        return (result,) if isinstance(result, torch.Tensor) else tuple(result)

    def inputs(self, dtype: torch.dtype, device: torch.device | str, *, awkward: bool = False) -> Inputs:
        """Return random inputs: maps of mean 0 and variance 1, channels last, and a weight that keeps that.

        `awkward`: of a number of pixels that fills no tile; of another side only where the kernels take the side as a
        number, since others would be compiled anew.
        """
        generator = None if device == "meta" else torch.Generator(device).manual_seed(int(awkward))
        batch, height, width = (3 if awkward else self.batch), self.side, self.side
        if awkward and self.which in ("forward", "dgrad"):
            height, width = 7, 5
        high = (batch, 2 * height, 2 * width, self.out_channels)
        shapes: dict[str, tuple[int, ...]] = {
            "low": (batch, height, width, self.in_channels),
            "high": high,
            "weight": (self.in_channels, 5, 5, self.out_channels),
            "bias": (self.out_channels,),
            "target": high,
            "mean": (self.out_channels,),
            "scale": (batch,),
        }
        kinds = {"target": torch.uint8, "mean": torch.float32, "scale": torch.float32}
        made = []
        for role in ROLES[self.which]:
            value = torch.empty(shapes[role], device=device, dtype=kinds.get(role, dtype))
            if role == "target":
                value.random_(0, 256, generator=generator)
            else:
                value.normal_(generator=generator)
            if role == "weight":
                value *= (25 * self.in_channels / 4) ** -0.5
            if role == "low":
                value.masked_fill_(value.abs() < 0.01, 0)  # an activation that is exactly zero takes the slope
            made.append(value.permute(0, 3, 1, 2) if value.dim() == 4 else value)
        return tuple(made)

    def tolerance(self, dtype: torch.dtype) -> float:
        """Return the largest relative error ‖ours - exact‖ / ‖exact‖ that a right kernel's arithmetic explains.

        Results are rounded to their dtype, by half its epsilon at most; so is the image's gradient on its way into the
        passes of "distance_backward". TF32 cuts both factors of a product to 10 bits, by less than 2^-10 each. Other
        products are exact in float32, and sums of n of them in float32 wander by 2^-23 · √n at most.
        """
        rounding = torch.finfo(dtype).eps / 2 * (2 if self.which == "distance_backward" else 1)
        factors = 2 * 2.0**-10 if dtype == torch.float32 else 0.0
        most = max(9 * self.in_channels, 25 * self.out_channels, self.batch * self.side**2)
        return rounding + factors + 2.0**-23 * math.sqrt(most)


def find_fault(run: Callable[[Inputs], Inputs], cases: Iterable[tuple[Inputs, Inputs]], bound: float) -> str | None:
    """Return what is wrong with the results of `run` for pairs of inputs and expected outputs, or ``None``."""
    try:
        for inputs, expected in cases:
            outputs, again = run(inputs), run(inputs)
            if found := difference(outputs, expected, bound):
                return found
            if not all(map(torch.equal, outputs, again)):
                return "two runs differ"
    except Exception as error:  # whatever a compiler or a launch may raise
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None


def difference(outputs: Inputs, expected: Inputs, bound: float) -> str | None:
    """Return which output is wrong and how, or ``None``."""
    for number, (mine, right) in enumerate(zip(outputs, expected, strict=True)):
        if mine.shape != right.shape:
            return f"output {number} has shape {tuple(mine.shape)} instead of {tuple(right.shape)}"
        away, size = mine.double() - right, float(right.double().norm())
        error = float(away.norm()) / size
        if not error <= bound:  # also where it is NaN
            return f"output {number} has error {error:.2g}, more than {bound:.2g}"
        typical = size / math.sqrt(right.numel())
        worst = float((away.abs() / (right.abs() + typical)).max())
        if not worst <= ELEMENT * bound:
            return f"output {number} has error {worst:.2g} at one place, more than {ELEMENT * bound:.2g}"
    return None


@functools.cache
def networks() -> dict[str, tuple[LayerShape, ...]]:
    """Return the layers of the benchmarks' decoders and of every preset, by name, for images of 256²."""
    found = {name: DECODERS[name] for name in ("H", "F")}
    configs = {
        f"{representation}/{name}": preset(representation, name)
        for representation in list_representations()
        for name in preset_names(representation)
    }
    configs |= {f"alexnet-{layer}/paper": like_alexnet(cells, 227)[0] for layer, cells in ALEXNET.items()}
    for name, config in configs.items():
        # Where keypoints are drawn depends on the features: here are none.
        fixed = dataclasses.replace(config, splat_levels=0) if isinstance(config, UShapedConfig) else config
        layers: list[LayerShape] = []

        def note(module: UpConv2d, inputs: Inputs, layers: list[LayerShape] = layers) -> None:
            side = inputs[0].shape[-1] + 2 * getattr(module, "repeat_edges", False)
            layers.append(LayerShape(side, *module.weight.shape[:2], module.negative_slope))

        with torch.device("meta"):
            network = build(64, fixed)
            cells = () if network.side else (IMAGE_SIZE // network.stride,) * 2
            for module in network.modules():
                if isinstance(module, UpConv2d):
                    module.register_forward_pre_hook(note)
            network(torch.empty(1, 64, *cells))
        found[name] = tuple(layers)
    return found


def problems(layers: Iterable[LayerShape]) -> list[Problem]:
    """Return every pass of the layers that a kernel may run, each once; forward also for one image, as in inference."""
    found = [
        Problem(which, layer.in_channels, layer.out_channels, layer.side, batch)
        for layer in layers
        for which in kernel_configs.PASSES
        for batch in ((BATCH, 1) if which == "forward" else (BATCH,))
        if which not in kernel_configs.IMAGE_PASSES or layer.out_channels <= kernel_configs.IMAGE_CHANNELS
    ]
    return list(dict.fromkeys(found))


class Table:
    """The table of an architecture, written anew at every change.

    Args:
        path: of the file, which need not exist.
        measured: GPU, versions and date of the measurements to come; ``None`` for estimates. Times that another GPU or
            other versions gave are forgotten: their entries become estimates.
    """

    def __init__(self, path: Path, measured: dict[str, str] | None) -> None:
        self.path = path
        before, entries = kernel_choice.read_table(path) if path.exists() else (None, [])
        self._measured = before if measured is None else measured
        if {**(before or {}), "date": ""} != {**(self._measured or {}), "date": ""}:
            entries = [dataclasses.replace(entry, milliseconds=None, torch_milliseconds=None) for entry in entries]
        self._entries = entries

    def put(self, entries: Sequence[Entry]) -> None:
        """Add entries in place of those for the same pixels and of all estimates for the same layers."""
        keys, sizes = {entry.key for entry in entries}, {(entry.key, entry.pixels) for entry in entries}
        kept = [
            entry
            for entry in self._entries
            if (entry.key, entry.pixels) not in sizes and (entry.key not in keys or entry.milliseconds is not None)
        ]
        self._entries = sorted([*kept, *entries], key=_order)
        lines = ",\n".join(f"  {json.dumps(entry.to_dict())}" for entry in self._entries)
        text = f'{{\n "measured": {json.dumps(self._measured)},\n "entries": [\n{lines}\n ]\n}}\n'
        with atomic_write(self.path) as file:
            file.write(text.encode())

    def estimate(self, capability: Capability) -> None:
        """Replace all estimates by what `kernel_choice.rule` says, for every layer of every network."""
        self._entries = [entry for entry in self._entries if entry.milliseconds is not None]
        known = {entry.key for entry in self._entries}
        found: dict[kernel_choice.Key, list[Entry]] = {}
        for problem in problems(layer for net in networks().values() for layer in net):
            for name, dtypes in DTYPES.items():
                config = kernel_choice.rule(*problem.shape, dtypes[0], capability, tf32=True)
                entry = Entry(*problem.shape, name, config)
                of_layer = found.setdefault(entry.key, [])
                # The nearest entry serves all sizes: one is enough where the rule does not depend on them.
                if entry.key not in known and config not in [other.config for other in of_layer]:
                    of_layer.append(entry)
        self.put([entry for entries in found.values() for entry in entries])


def _order(entry: Entry) -> tuple[Any, ...]:
    which, in_channels, out_channels, dtype = entry.key
    return kernel_configs.PASSES.index(which), -in_channels, -out_channels, dtype, entry.pixels


def right_candidates(
    problem: Problem, name: str, device: torch.device | str, candidates: Sequence[Config]
) -> tuple[list[Config], dict[Config, str]]:
    """Return the candidates that are right in every dtype of the name in `DTYPES`, and the faults of the others."""
    kernels = importlib.import_module("preimage.ops.upconv.kernels")
    faults: dict[Config, str] = {}
    for dtype in DTYPES[name]:
        cases = []
        for awkward in (True, False):
            inputs = problem.inputs(dtype, device, awkward=awkward)
            exact = tuple(value.double() if value.is_floating_point() else value for value in inputs)
            cases.append((inputs, problem.run(None, exact)))
        for config in candidates:
            with kernels.poisoned():  # outputs begin as NaN
                fault = find_fault(functools.partial(problem.run, config), cases, problem.tolerance(dtype))
            if fault is not None:
                faults[config] = f"{dtype}: {fault}"
    return [config for config in candidates if config not in faults], faults


def fastest(milliseconds: dict[Config | None, float]) -> Config | None:
    """Return the fastest kernel if it is faster than torch, which is None, by more than noise."""
    best = min(milliseconds, key=milliseconds.__getitem__)
    return best if milliseconds[best] < WIN * milliseconds[None] else None


def tune(problem: Problem, name: str, device: torch.device, candidates: Sequence[Config]) -> Entry:
    """Return the fastest of torch and the right candidates, and print what is wrong with each of the others."""
    right, faults = right_candidates(problem, name, device, candidates)
    inputs = problem.inputs(DTYPES[name][0], device)
    graphs: dict[str, Runner] = {}
    for config in (None, *right):
        try:
            graphs[str(config)] = cuda_graph(functools.partial(problem.run, config, inputs))
        except RuntimeError as error:
            if config is None:
                raise
            faults[config] = f"is not captured: {error}"
    for failed, fault in faults.items():
        print(f"    not {failed}: {fault}", flush=True)
    times = take_turns(graphs, seconds=SECONDS, gpu=True)
    medians = {config: times[str(config)].median for config in (None, *right) if str(config) in times}
    shown = sorted((milliseconds, str(config or "torch")) for config, milliseconds in medians.items())
    print("    " + ", ".join(f"{config}: {milliseconds:.4f} ms" for milliseconds, config in shown), flush=True)
    best = fastest(medians)
    return Entry(*problem.shape, name, best, *(round(medians[config], 5) for config in (best, None)))


Work = tuple[Problem, torch.dtype, Config]


def compile_all(work: Sequence[Work]) -> None:
    """Compile the kernels of passes into Triton's cache; errors are ignored here, and raised again by the tuning."""
    launches = importlib.import_module("preimage.ops.upconv.kernels._launch")
    allow_tf32()

    def warm(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        kernel.warmup(*arguments, grid=grid, **options)

    launch, launches.launch = launches.launch, warm
    try:
        for problem, dtype, config in work:
            for awkward in (False, True):
                with contextlib.suppress(Exception):
                    problem.run(config, problem.inputs(dtype, "meta", awkward=awkward))
    finally:
        launches.launch = launch


def group_by_kernel(work: Iterable[Work]) -> list[list[Work]]:
    """Return the work in groups that need the same compiled kernels, so that no two processes compile one."""
    groups: dict[tuple[Any, ...], list[Work]] = {}
    for problem, dtype, config in work:
        key = problem.shape[:3], dtype, dataclasses.replace(config, split=1)
        groups.setdefault(key, []).append((problem, dtype, config))
    return list(groups.values())


def measure(nets: Iterable[str], dtypes: Iterable[str], processes: int, output: Path | None) -> None:
    """Tune networks one after the other."""
    device = torch.device("cuda", torch.cuda.current_device())
    allow_tf32()
    capability = torch.cuda.get_device_capability(device)
    machine = {
        "gpu": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "triton": importlib.import_module("triton").__version__,
        "cudnn": str(torch.backends.cudnn.version()),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }
    table = Table(path_of(capability, output), machine)
    done: set[tuple[Problem, str]] = set()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for net in nets:
            wanted = [(problem, name) for name in dtypes for problem in problems(networks()[net])]
            todo = {
                (problem, name): kernel_configs.candidates(
                    *problem.shape, DTYPES[name][0], capability, tf32=True, spilling=True
                )
                for problem, name in wanted
                if (problem, name) not in done
            }
            work = [(pair[0], dtype, one) for pair, found in todo.items() for dtype in DTYPES[pair[1]] for one in found]
            list(pool.map(compile_all, group_by_kernel(work)))
            for (problem, name), candidates in todo.items():
                print(f"{problem} {name}", flush=True)
                table.put([tune(problem, name, device, candidates)])
            done |= set(todo)
    print(f"{len(done)} passes; written to {table.path}")


def path_of(capability: Capability, folder: Path | None) -> Path:
    return (folder or kernel_choice.TABLES) / f"sm_{capability[0]}{capability[1]}.json"


def main(arguments: list[str] | None = None) -> int:
    """Write a table; 1 without a GPU."""
    known = list(networks())
    made = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/tune_upconv.py --nets H hog/paper",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--nets", nargs="+", choices=known, default=known, metavar="NET", help=", ".join(known))
    made.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    made.add_argument("--processes", type=int, default=min(16, os.cpu_count() or 1), help="that compile")
    made.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder of the table (default: the package's)")
    description = "measure nothing: write the rule's estimates into the tables of these architectures, such as 80 90"
    made.add_argument("--estimates", nargs="+", metavar="SM", help=description)
    options = made.parse_args(arguments)
    if not options.estimates and not torch.cuda.is_available():
        print(f"tune_upconv needs a CUDA device, and torch {torch.__version__} sees none", file=sys.stderr)
        return 1
    for architecture in options.estimates or ():
        capability = int(architecture[:-1]), int(architecture[-1])
        Table(path_of(capability, options.output), None).estimate(capability)
    if not options.estimates:
        with torch.no_grad():
            measure(options.nets, options.dtypes, options.processes, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
