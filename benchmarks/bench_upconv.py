"""The up-convolution beside torch's own transposed convolution: whole decoders and their layers, forward and backward.

On the CPU against eager torch in both memory formats, appended to upconv-cpu.csv; on a GPU against eager torch and a
sub-pixel convolution by cuDNN, or with --compile against torch.compile, all in CUDA graphs, appended to upconv-gpu.csv.
Every result, gradients included, is compared with float64 before it is timed. `ratio` is how many times our time a
contender took.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from _harness import Run, Runner, Table, WrongResultError, check, cuda_graph, newest_rows, parser
from preimage import reference
from preimage.nn import UpConv2d, UpConvChain
from preimage.ops.upconv import kernel_configs

SLOPE = 0.2
SECONDS = 3.0  # of turns for a pass of a whole decoder
PASSES = ("forward", "forward+backward")
WHOLE, OURS, FLOOR = "whole", "preimage", "floor"
COLUMNS = ("net", "layer", "dtype", "batch", "pass", "contender", "median", "min", "ratio", "spread", "remark")
CPU_COLUMNS = (*COLUMNS[:4], "threads", *COLUMNS[4:])

# ‖result - float64's‖ / ‖float64's‖ of y, of gradients through one leaky ReLU, and through several: rounding puts
# some values on the other side of the kink. Measured: bfloat16 4e-3, 4e-3 and 8e-2, float32 1e-6 and up to 5e-3.
TOLERANCES = {torch.float32: (1e-5, 3e-2, 3e-2), torch.bfloat16: (1e-2, 3e-2, 2e-1)}
TF32_TOLERANCES = (5e-3, 3e-2, 1e-1)


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """An up-convolution of maps of side × side; the last layer has no slope."""

    side: int
    in_channels: int
    out_channels: int
    negative_slope: float | None = SLOPE

    @property
    def name(self) -> str:
        return f"{self.in_channels}→{self.out_channels} at {self.side}²"

    def flops(self, batch: int) -> int:
        """Return the operations of one pass: forward, the gradient of x, or that of the weight."""
        return 50 * self.in_channels * self.out_channels * batch * self.side**2

    def sizes(self, batch: int) -> tuple[int, int, int]:
        """Return the number of values in x, in the weight and in y."""
        pixels = batch * self.side**2
        return pixels * self.in_channels, 25 * self.in_channels * self.out_channels, 4 * pixels * self.out_channels


def decoder(side: int, *channels: int) -> tuple[LayerShape, ...]:
    """Return the layers from maps of side × side to an image."""
    pairs = list(itertools.pairwise(channels))
    slopes = [SLOPE] * (len(pairs) - 1) + [None]
    return tuple(LayerShape(side << i, *pair, slopes[i]) for i, pair in enumerate(pairs))


# F is that of the fully connected inverter, to 128²; H goes to 256²; "tiny" tries the benchmark itself.
DECODERS = {
    "H": decoder(4, 512, 512, 256, 128, 64, 32, 3),
    "F": decoder(4, 256, 256, 128, 64, 32, 3),
    "tiny": decoder(2, 16, 8, 3),
}


class Problem:
    """Input, weights, biases and the gradient of the output: exact in bfloat16, and so the same in every dtype."""

    def __init__(self, layers: tuple[LayerShape, ...], batch: int, device: torch.device) -> None:
        self.layers, self.batch, self.device = layers, batch, device
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
            return (torch.randn(shape, generator=generator) * scale).bfloat16().float()

        first, last = layers[0], layers[-1]
        self.x = normal(batch, first.in_channels, first.side, first.side)
        self.weights = [
            normal(one.in_channels, one.out_channels, 5, 5, scale=(one.in_channels * 6.25) ** -0.5) for one in layers
        ]
        self.biases = [normal(one.out_channels, scale=0.1) for one in layers]
        self.dy = normal(batch, last.out_channels, 2 * last.side, 2 * last.side)

    @functools.cached_property
    def expected(self) -> tuple[torch.Tensor, ...]:
        """In float64: y, the gradients of x, of the weights and of the biases."""
        contender = Contender("float64", self, torch.float64, memory_format=torch.contiguous_format)
        return tuple(result.detach() for result in contender.forward_backward())


Layer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # of x, weight and bias, without ReLU
Parameters = tuple[torch.Tensor, torch.Tensor]  # weight and bias


def plain_layer(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """torch's own transposed convolution."""
    return F.conv_transpose2d(x, weight, bias, stride=2, padding=2, output_padding=1)


def subpixel_layer(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """One 3×3 convolution to the four phases of every output pixel, and a pixel shuffle."""
    return F.pixel_shuffle(F.conv2d(x, weight, bias, padding=1), 2)


def subpixel_parameters(weight: torch.Tensor, bias: torch.Tensor) -> Parameters:
    """Return the weight (4 Co, Ci, 3, 3) and the bias of `subpixel_layer`."""
    turned = weight.flip(2, 3).transpose(0, 1)
    phases = [F.pad(turned[:, :, a::2, b::2], (b, 0, a, 0)) for a in (0, 1) for b in (0, 1)]
    return torch.stack(phases, dim=1).flatten(0, 1), bias.repeat_interleave(4)


class Contender:
    """A way to compute a problem in one dtype and memory format.

    Args:
        name: for the table.
        layer: computes one layer; None is `preimage.nn.UpConvChain` for all.
        convert: makes a layer's own parameters from (Ci, Co, 5, 5) and (Co,).
        compile_options: compile the network by torch.compile with these.
    """

    def __init__(
        self,
        name: str,
        problem: Problem,
        dtype: torch.dtype,
        layer: Layer | None = plain_layer,
        *,
        convert: Callable[[torch.Tensor, torch.Tensor], Parameters] = lambda weight, bias: (weight, bias),
        memory_format: torch.memory_format = torch.channels_last,
        compile_options: dict[str, Any] | None = None,
    ) -> None:
        self.name, self._problem, self._convert = name, problem, convert
        placed: dict[str, Any] = {"device": problem.device, "dtype": dtype, "copy": True}
        self.x = problem.x.to(**placed, memory_format=memory_format).requires_grad_()
        self._dy = problem.dy.to(**placed, memory_format=memory_format)
        pairs = [convert(weight, bias) for weight, bias in zip(problem.weights, problem.biases, strict=True)]
        self._weights = [nn.Parameter(weight.to(**placed, memory_format=memory_format)) for weight, _ in pairs]
        self._biases = [nn.Parameter(bias.to(**placed)) for _, bias in pairs]
        slopes = [shape.negative_slope for shape in problem.layers]

        def network(x: torch.Tensor) -> torch.Tensor:
            assert layer is not None
            for weight, bias, slope in zip(self._weights, self._biases, slopes, strict=True):
                x = layer(x, weight, bias)
                x = x if slope is None else F.leaky_relu(x, slope)
            return x

        self._network: Callable[[torch.Tensor], torch.Tensor] = network
        if compile_options is not None:
            self._network = torch.compile(network, **compile_options)
        if layer is None:
            layers = [UpConv2d(*weight.shape[:2], slope) for weight, slope in zip(self._weights, slopes, strict=True)]
            for ours, weight, bias in zip(layers, self._weights, self._biases, strict=True):
                ours.weight, ours.bias = weight, bias
            self._network = UpConvChain(*layers)

    def forward(self) -> tuple[torch.Tensor, ...]:
        """Return y, as in inference."""
        with torch.no_grad():
            return (self._network(self.x),)

    def forward_backward(self) -> tuple[torch.Tensor, ...]:
        """Return y and the gradients of x, of the weights and of the biases; the weights count as just updated."""
        torch.autograd.graph.increment_version([*self._weights, *self._biases])
        y = self._network(self.x)
        return y, *torch.autograd.grad(y, [self.x, *self._weights, *self._biases], self._dy)

    def runner(self, which: str) -> Runner:
        return self.forward if which == "forward" else self.forward_backward

    def check(self, run: Runner) -> None:
        """Compare all results of a pass with float64; raises `WrongResultError`."""
        results: Any = run()
        count, expected = len(self._problem.layers), self._problem.expected
        tf32 = self.x.is_cuda and self.x.dtype == torch.float32 and kernel_configs.tf32_allowed()
        of_y, of_gradient, of_chained = TF32_TOLERANCES if tf32 else TOLERANCES[self.x.dtype]
        tolerance = of_gradient if count == 1 else of_chained
        check("y", results[0], expected[0], of_y)
        if len(results) > 1:
            check("dx", results[1], expected[1], tolerance)
            for index in range(count):
                dw, db = self._original(index, results[2 + index], results[2 + count + index])
                check(f"dw{index}", dw, expected[2 + index], tolerance)
                check(f"db{index}", db, expected[2 + count + index], tolerance)

    def _original(self, index: int, dw: torch.Tensor, db: torch.Tensor) -> Parameters:
        """Return gradients of (Ci, Co, 5, 5) and (Co,) from those of the converted parameters."""
        pair = [
            tensor[index].to(dw, copy=True).requires_grad_() for tensor in (self._problem.weights, self._problem.biases)
        ]
        found = torch.autograd.grad(self._convert(*pair), pair, (dw, db))
        return found[0], found[1]


def ready(run: Run, contender: Contender, which: str) -> Runner:
    """Return a pass that was checked, on a GPU as a CUDA graph, whose outputs are NaN before the check."""
    call = contender.runner(which)
    if run.cuda:
        call = cuda_graph(call)
        outputs: Any = call()
        for output in outputs:
            output.detach().fill_(float("nan"))
    contender.check(call)
    return call


def contenders(run: Run, problem: Problem, dtype: torch.dtype, *, zeros: bool, compiled: bool) -> Iterator[Contender]:
    """Yield ours, then torch's."""
    yield Contender(OURS, problem, dtype, None)
    if run.gpu and compiled:
        torch.compiler.reset()  # it gives up after some shapes of the same code
        options = {"backend": "aot_eager" if run.rehearsal else "inductor", "dynamic": False}
        yield Contender("torch.compile", problem, dtype, compile_options=options)
    elif run.gpu:
        yield Contender("torch", problem, dtype)
        yield Contender("cuDNN, sub-pixel", problem, dtype, subpixel_layer, convert=subpixel_parameters)
    else:
        yield Contender("torch, default layout", problem, dtype, memory_format=torch.contiguous_format)
        yield Contender("torch, channels_last", problem, dtype)
        if zeros:
            yield Contender("zeros inserted", problem, dtype, reference.upconv)


def measure(
    run: Run, table: Table, problem: Problem, dtype: torch.dtype, about: dict[str, Any], *, compiled: bool
) -> None:
    """Check and time both passes of all contenders."""
    whole = about["layer"] == WHOLE
    seconds = SECONDS / (1 if whole else 4) / (2 if run.gpu else 1)
    threads = about.get("threads", 1)
    torch.set_num_threads(threads)
    there = list(contenders(run, problem, dtype, zeros=whole and not run.quick, compiled=compiled))
    for which in PASSES:
        row = {**about, "pass": which}
        runners = {}
        for contender in there:
            try:
                runners[contender.name] = ready(run, contender, which)
            except (RuntimeError, WrongResultError) as error:  # also what a compiler or a capture raises
                name = " ".join(map(str, (*row.values(), contender.name)))
                table.add(**row, contender=contender.name, remark=run.refuse(name, error))
        times = run.time(runners, seconds, threads=threads)
        ours = times.get(OURS)
        for name, found in times.items():
            cells = {"median": found.median, "min": found.min, "spread": found.spread}
            ratio = found.ratio(ours) if ours else None
            table.add(**row, contender=name, **cells, ratio=ratio, remark=f"{len(found.rounds)} rounds")
            if ratio and whole and name != OURS:
                run.highlights.append(f"{about['net']} {which} {name} {ratio:.2f}×")
        if ours:
            flops, copied = rates(run, dtype, threads)
            least = floor(problem.layers, problem.batch, dtype, which, flops, copied)
            remark = f"matrix product: {flops / 1e6:.0f} GFLOP/s"
            table.add(**row, contender=FLOOR, median=least, ratio=least / ours.median, remark=remark)


@functools.cache
def rates(run: Run, dtype: torch.dtype, threads: int) -> tuple[float, float]:
    """Return the FLOPs of a large matrix product and the bytes of a large copy, per millisecond.

    The maps of a CPU's batches may lie in its cache: their copies count as nothing.
    """
    side = 128 if run.rehearsal else 8192 if run.gpu else 1536
    a, b = torch.randn(2, side, side, device=run.device).to(dtype)
    times = run.time({"matmul": lambda: a @ b}, 0.5, threads=threads)
    flops = 2 * side**3 / times["matmul"].min
    return flops, run.copy_speed() if run.gpu else float("inf")


def floor(
    layers: Iterable[LayerShape], batch: int, dtype: torch.dtype, which: str, flops: float, copied: float
) -> float:
    """Return the milliseconds that all passes take at these FLOPs and bytes per millisecond.

    Each pass of a layer takes its FLOPs or the fewest bytes that it moves, whichever takes longer. The forward pass
    reads x and w and writes y; that for dx reads dy, w, and x for its mask, and writes dx; that for dw reads x and dy.
    The layer of an image may do both of the latter at once.
    """
    total = 0.0
    for index, layer in enumerate(layers):
        x, w, y = (dtype.itemsize * count for count in layer.sizes(batch))
        passes = [(1, x + w + y)]
        if which != "forward" and layer.out_channels <= kernel_configs.IMAGE_CHANNELS:
            passes.append((2, 2 * x + y + 2 * w))
        elif which != "forward":
            passes += [(1, y + w + x + (x if index else 0)), (1, x + y + w)]
        total += sum(max(times * layer.flops(batch) / flops, moved / copied) for times, moved in passes)
    return total


def layer_class(row: dict[str, str]) -> str:
    """Return the decoder's name, or the class of a layer by its output channels."""
    if row["layer"] == WHOLE:
        return row["net"]
    channels = int(row["layer"].split("→")[1].split(" ")[0])
    return "RGB" if channels <= kernel_configs.IMAGE_CHANNELS else "Co ≥ 128" if channels >= 128 else f"Co = {channels}"


def markdown(path: Path) -> str:
    """Return a table of the newest run in a CSV: times of decoders and of classes of layers, summed, and ratios."""
    rows = newest_rows(path)
    names = [name for name in dict.fromkeys(row["contender"] for row in rows) if name != OURS]
    keys = [key for key in ("dtype", "batch", "threads", "pass") if key in rows[0]]
    groups: dict[tuple[str, ...], dict[str, list[dict[str, str]]]] = {}
    for row in sorted(rows, key=lambda row: row["layer"] != WHOLE):
        if row["median"]:
            group = groups.setdefault((layer_class(row), *(row[key] for key in keys)), {})
            group.setdefault(row["contender"], []).append(row)
    lines = [("layers", *keys, "preimage, ms", *names), ("---",) * (len(keys) + len(names) + 2)]
    for key, group in groups.items():
        if OURS in group:
            medians = {name: sum(float(row["median"]) for row in found) for name, found in group.items()}
            # A contender that failed on a layer of the group has no sum.
            whole = {name for name, found in group.items() if len(found) == len(group[OURS])}
            ratios = {name: medians[name] / medians[OURS] for name in whole}
            if len(group[OURS]) == 1:
                ratios |= {name: float(found[0]["ratio"]) for name, found in group.items() if found[0]["ratio"]}
            shown = [f"{ratios[name]:.2f}×" if name in ratios else "" for name in names]
            lines.append((*key, f"{medians[OURS]:.4g}", *shown))
    first = rows[0]
    machine = f"{first.get('machine') or first.get('gpu')}; {first['versions']}; load {first['load']}; {first['date']}."
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{machine}\n\n**Classes of layers and whole decoders**\n\n{table}"


def main(arguments: list[str] | None = None) -> int:
    """Append to the CSV and print its tables; 1 where a result was wrong."""
    made = parser(__doc__, "python benchmarks/bench_upconv.py --quick --nets F --threads 2", gpu=True)
    made.add_argument("--nets", default="H,F", help="decoders, separated by commas (default: %(default)s)")
    made.add_argument("--threads", default="1,2", help="CPU: numbers of threads (default: %(default)s)")
    made.add_argument("--float32", action="store_true", help="GPU: float32 (TF32) too")
    made.add_argument(
        "--compile", action="store_true", help="GPU: compare whole decoders with torch.compile instead of eager torch"
    )
    made.add_argument("--show", action="store_true", help="only print the newest results, as Markdown")
    options = made.parse_args(arguments)
    if options.show:
        for path in sorted(options.output.glob("upconv-*.csv")):
            print(f"{markdown(path)}\n")
        return 0
    run = Run(options)
    table = run.table("upconv", COLUMNS if run.gpu else CPU_COLUMNS)
    nets = ["tiny"] if run.rehearsal else options.nets.split(",")
    levels = (False,) if options.compile or (run.quick and not run.gpu) else (False, True)
    batches = (2,) if run.rehearsal else (64,) if run.gpu else (1,) if run.quick else (8, 1)
    dtypes = (torch.bfloat16, torch.float32) if options.float32 or not run.gpu else (torch.bfloat16,)
    threads = [{}] if run.gpu else [{"threads": int(count)} for count in options.threads.split(",")]
    for split, net, batch in itertools.product(levels, nets, batches):
        for layers in [(layer,) for layer in DECODERS[net]] if split else [DECODERS[net]]:
            problem = Problem(layers, batch, run.device)
            for dtype, of_threads in itertools.product(dtypes, threads):
                about = {"net": net, "layer": layers[0].name if split else WHOLE, "batch": batch, **of_threads}
                about["dtype"] = str(dtype).removeprefix("torch.")
                measure(run, table, problem, dtype, about, compiled=options.compile)
    print(f"\n{markdown(table.path)}\n")
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
