"""The up-convolution on a GPU: whole decoders and their layers, everything in CUDA graphs, the caches emptied.

On the CPU a rehearsal of the same code, small and without graphs, so that it has run before it meets a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from _clock import CpuClock, CudaClock
from _decoders import DECODERS, PASSES, Contender, LayerShape, Ours, Plain, Problem, SubPixel
from _timing import Cells, load, processor
from _turns import Times, in_turns
from _upconv_tables import COMPILED, EAGER, OURS, REHEARSED, SUBPIXEL, WHOLE, UpconvTable
from preimage.ops.upconv import choice, configs

COLUMNS = (
    *("net", "layer", "dtype", "batch", "pass", "contender"),
    *("median", "min", "ratio", "spread", "remark"),
)
BATCH, REHEARSED_BATCH = 64, 2
SECONDS, QUICK_SECONDS = 1.0, 0.3
MATMUL, COPIED = 8192, 1 << 30  # side of matrices; bytes

Replay = Callable[[], object]


class GpuPart:
    """Measures decoders on one device; whatever is wrong is told in `failures` and not measured."""

    def __init__(self, results: Path, device: torch.device, *, quick: bool) -> None:
        self.device = device
        self.rehearsal = device.type != "cuda"
        self.clock = CpuClock() if self.rehearsal else CudaClock(device)
        self.batch = REHEARSED_BATCH if self.rehearsal else BATCH
        self.seconds = 0.0 if self.rehearsal else QUICK_SECONDS if quick else SECONDS
        name = f"{REHEARSED} {processor()}" if self.rehearsal else torch.cuda.get_device_name(device)
        self.table = UpconvTable(results / "upconv-gpu.csv", {"gpu": name, "load": load()}, COLUMNS)
        self.failures: list[str] = []
        self.absent: set[str] = set()
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        size = 1 << 20 if self.rehearsal else COPIED
        source, target = torch.ones(2, size, dtype=torch.uint8, device=device)
        self.copying = 2 * size / self._time({"copy": lambda: target.copy_(source)})["copy"].median

    def _time(self, runners: dict[str, Replay]) -> dict[str, Times]:
        least = 2 if self.rehearsal else 9
        return in_turns(runners, self.seconds, least=least, most=101, measure=self.clock.once)

    def measure(self, net: str, dtype: torch.dtype, *, layers: bool) -> None:
        """A decoder's rows as a whole, or those of its layers."""
        about = {"net": net, "dtype": str(dtype)[6:], "batch": self.batch}
        if not layers:
            self._problem(DECODERS[net], dtype, {**about, "layer": WHOLE})
        for layer in DECODERS[net] if layers else ():
            self._problem((layer,), dtype, {**about, "layer": layer.name})

    def _problem(self, layers: tuple[LayerShape, ...], dtype: torch.dtype, about: Cells) -> None:
        torch.compiler.reset()  # it would give up after some shapes of the same code
        problem = Problem(layers, self.batch, device=self.device)
        contenders = self._contenders(problem, dtype)
        rate = self._matmul_rate(dtype)
        for which in PASSES:
            row = {**about, "pass": which}
            replays = {one.name: self._ready(one, which, row) for one in contenders}
            times = self._time({name: replay for name, replay in replays.items() if replay is not None})
            ours = times.get(OURS)
            chosen = self._chosen(layers[0], which, dtype) if ours and len(layers) == 1 else ""
            for name, measured in times.items():
                self.table.measured(row, name, measured, ours, chosen if name == OURS else "")
            if ours:
                told = f"{rate / 1e9:.0f} TFLOP/s, {self.copying / 1e9:.2f} TB/s"
                self.table.floor(row, floor(layers, self.batch, dtype, which, rate, self.copying), ours, told)

    def _contenders(self, problem: Problem, dtype: torch.dtype) -> list[Contender]:
        plain = Plain(problem).to(self.device, dtype)
        backend = "aot_eager" if self.rehearsal else "inductor"
        compiled = torch.compile(plain, backend=backend, dynamic=False)
        return [
            Contender(OURS, Ours(problem), problem, dtype, self.device),
            Contender(EAGER, Plain(problem), problem, dtype, self.device),
            Contender(COMPILED, plain, problem, dtype, self.device, call=compiled),
            Contender(SUBPIXEL, SubPixel(problem), problem, dtype, self.device),
        ]

    def _ready(self, contender: Contender, which: str, row: Cells) -> Replay | None:
        """The pass as a CUDA graph whose results are right; None, and why is told, where that cannot be had."""
        try:
            for _ in range(1 if self.rehearsal else 3):  # what is measured, compiled or chosen once
                contender.runner(which)()
            graph = self.clock.graph(contender.runner(which))
            if isinstance(graph, str):
                if not self.rehearsal:
                    raise RuntimeError(f"no CUDA graph: {graph}")
                graph = contender.runner(which)
            else:
                contender.poison(graph())
            contender.check(which, graph)
        except Exception as error:  # a rival that does not run must not stop the others
            told = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            self.table.wrong(row, contender.name, told)
            where = " ".join(str(value) for value in row.values())
            self.failures.append(f"{where} {contender.name}: {told}")
            return None
        return graph

    def _matmul_rate(self, dtype: torch.dtype) -> float:
        """FLOPs a millisecond of a product of large matrices."""
        side = 128 if self.rehearsal else MATMUL
        a, b = torch.randn(2, side, side, device=self.device).to(dtype)
        return 2 * side**3 / self._time({"matmul": lambda: a @ b})["matmul"].median

    def _chosen(self, layer: LayerShape, which: str, dtype: torch.dtype) -> str:
        """What runs a layer's pass: the kernels' configurations, or torch."""
        capability = (0, 0) if self.rehearsal else torch.cuda.get_device_capability(self.device)
        size = layer.in_channels, layer.out_channels, self.batch * layer.side**2
        told = []
        # A first layer's backward is in two passes even where it makes an image.
        for name in ("forward",) if which == "forward" else ("forward", "dgrad", "wgrad"):
            config = choice.choose(name, *size, dtype, capability, tf32=configs.tf32_allowed())
            told.append(f"{name}: {config or 'torch'}")
        return "; ".join(told)


def floor(
    layers: tuple[LayerShape, ...], batch: int, dtype: torch.dtype, which: str, rate: float, copying: float
) -> float:
    """Milliseconds: each pass's FLOPs, or the fewest bytes it must move, whichever takes longer.

    A layer's forward reads x and w and writes y; dgrad reads dz, w, and the map below for its mask, and writes dx;
    wgrad reads x and dz and writes dw. An image's layer may do both of the latter at once, reading x and dz once.
    """
    total = 0.0
    for index, layer in enumerate(layers):
        x, w, y = (dtype.itemsize * numbers for numbers in layer.sizes(batch))
        passes = [(1, x + w + y)]
        if which != "forward" and layer.out_channels <= configs.IMAGE_CHANNELS:
            passes.append((2, 2 * x + y + 2 * w))
        elif which != "forward":
            passes += [(1, y + w + x + (x if index else 0)), (1, x + y + w)]
        total += sum(max(times * layer.flops(batch) / rate, moved / copying) for times, moved in passes)
    return total
