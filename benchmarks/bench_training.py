"""Training images per second of an inverter of HOG, with the trainer's own step.

On the CPU the compact network, with the package's up-convolutions and with torch's; appended to training-cpu.csv. On a
GPU the paper's network, the step as one CUDA graph, against the same network and step in plain torch, eager or with
--compile compiled; appended to training-gpu.csv. Before the timing the losses of all contenders are compared with those
of the eager step in float32, and our loss curve with that of our eager step. `ratio` is how many times our time a
contender took, `waiting` the share of the time that a step waits for its images where they are prepared while it runs.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from _harness import Run, Runner, Table, WrongResultError, check, parser, write_crops
from preimage.inverters import Inverter, TwoStreamConfig
from preimage.inverters.architectures import config_to_dict
from preimage.inverters.layers import NEGATIVE_SLOPE
from preimage.nn import UpConv2d
from preimage.representations.hog import Hog
from preimage.training import TrainConfig
from preimage.training.builders import build_state
from preimage.training.dataset import Dataset
from preimage.training.dataset_factory import open_dataset
from preimage.training.graphed_step import GraphedStep, cuda_graph
from preimage.training.image_store import ImageStore
from preimage.training.step import EagerStep, Step, TrainState, average_decay, schedule
from preimage.training.streaming import batches_ahead

OURS, WITH_DATA, STORED = "preimage", "preimage, its images prepared anew", "preimage, its images on the device"
TORCH_UPCONV = "preimage, torch's up-convolutions"
EAGER, COMPILED, GRAPHS = "torch", "torch.compile", "torch.compile, CUDA graphs"
LOSS_TOLERANCE = 0.05  # of the mean loss: the rounding of bfloat16, some steps long
CHECKED_STEPS = 3
CURVE_POINTS, CURVE_STEPS, CURVE_TOLERANCE = 5, 10, 0.02
BATCHES = 4  # are repeated: the time of a step does not depend on what the images show
# A small network with the paper's structure, for rehearsals.
TINY = TwoStreamConfig(context=("c5/2 4", "up 4"), detail=("c5/1 4",), joint=("c3/1 8", "up 8", "up 4", "up 3"))
COLUMNS = (
    *("preset", "image_size", "batch", "dtype", "threads", "contender"),
    *("images_per_second", "median", "min", "ratio", "spread", "waiting", "remark"),
)

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def train_state(config: TrainConfig) -> tuple[TrainState, Dataset]:
    """Return what a training run starts with: equal settings give equal weights."""
    config, dataset = open_dataset(config)
    return build_state(config, dataset, torch.device(config.device)), dataset


class PlainNetwork(nn.Module):
    """The paper's two-stream network in torch's own layers, channels last, with the weights of an inverter."""

    def __init__(self, inverter: Inverter) -> None:
        super().__init__()
        network: Any = inverter.network
        self.streams = nn.ModuleList([plain_layers(network.context), plain_layers(network.detail)])
        self.joint = plain_layers(network.joint)
        self.register_buffer("mean", inverter.feature_mean[:, None, None])
        self.register_buffer("deviation", inverter.feature_deviation[:, None, None])
        self.register_buffer("color", inverter.image_mean[:, None, None])
        self.to(device=inverter.image_mean.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        standard = ((features - self.mean) / self.deviation).contiguous(memory_format=torch.channels_last)
        return self.joint(torch.cat([stream(standard) for stream in self.streams], dim=1)).float() + self.color


def plain_layers(chain: nn.Sequential) -> nn.Sequential:
    """Return the same layers as torch's own modules."""
    layers: list[nn.Module] = []
    for module in copy.deepcopy(chain):
        slope, layer = NEGATIVE_SLOPE, getattr(module, "conv", None)
        if isinstance(module, UpConv2d):
            layer, slope = nn.ConvTranspose2d(*module.weight.shape[:2], 5, 2, 2, 1), module.negative_slope
            layer.load_state_dict(module.state_dict())
        layers += [layer] if slope is None else [layer, nn.LeakyReLU(slope, inplace=True)]
    return nn.Sequential(*layers)


class PlainStep:
    """The step in plain torch: mixed precision, clipping, fused Adam, a moving average of the weights."""

    def __init__(self, state: TrainState, compile_loss: Callable[[Loss], Loss] | None = None) -> None:
        self._state = state
        self._network = PlainNetwork(state.model)
        self._parameters = list(self._network.parameters())
        self._average = [parameter.detach().clone() for parameter in self._parameters]
        self._adam = torch.optim.Adam(self._parameters, state.config.lr, fused=state.device.type == "cuda")
        self._loss = compile_loss(self._plain_loss) if compile_loss else self._plain_loss

    def _plain_loss(self, features: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        images = batch.float().div_(255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(features.device.type, self._state.dtype, enabled=self._state.dtype != torch.float32):
            reconstructions = self._network(features)
        distances = torch.linalg.vector_norm(images - reconstructions, dim=(1, 2, 3))
        return distances.mean() / math.sqrt(images[0].numel())

    def __call__(self, batch: torch.Tensor, step: int, features: torch.Tensor | None = None) -> None:
        state, config = self._state, self._state.config
        assert state.representation is not None
        batch = batch.to(state.device, non_blocking=True)
        self._adam.zero_grad(set_to_none=True)
        loss = self._loss(state.representation(batch), batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, config.grad_clip)
        self._adam.param_groups[0]["lr"] = schedule(step, config) * config.lr
        self._adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._parameters, 1 - average_decay(step, config))
        state.loss_sum += loss.detach()


class Contender:
    """A step that is taken again and again on the same few batches."""

    def __init__(self, state: TrainState, step: Step, batches: list[torch.Tensor], *, plain_upconv: bool) -> None:
        self._state, self._step, self._taken = state, step, 0
        self._batches, self._mode = itertools.cycle(batches), "plain" if plain_upconv else "auto"

    def run(self, count: int, batch: torch.Tensor | None = None) -> None:
        os.environ["PREIMAGE_UPCONV"] = self._mode
        for _ in range(count):
            self._step(next(self._batches) if batch is None else batch, self._taken)
            self._taken += 1

    def mean_loss(self) -> torch.Tensor:
        """Wait for the device and return the mean loss of all steps: [] float64."""
        return self._state.loss_sum.cpu() / self._taken


def makers(run: Run, *, compiled: bool) -> dict[str, Callable[[TrainState], Step]]:
    """Return what makes the steps to compare, ours first."""
    if not run.gpu:
        return {OURS: EagerStep, TORCH_UPCONV: EagerStep}
    capture = (lambda work, device: work) if run.rehearsal else cuda_graph
    backend = "aot_eager" if run.rehearsal else "inductor"
    compile_network = functools.partial(torch.compile, backend=backend, dynamic=False)
    found: dict[str, Callable[[TrainState], Step]] = {OURS: lambda state: GraphedStep(state, 0, capture)}
    found |= {COMPILED: lambda state: PlainStep(state, compile_network)} if compiled else {EAGER: PlainStep}
    if run.cuda and compiled:
        graphs = functools.partial(torch.compile, mode="reduce-overhead", dynamic=False)
        found[GRAPHS] = lambda state: PlainStep(state, graphs)
    return found


def prepared(config: TrainConfig, count: int, dataset: Dataset | None = None) -> Iterator[torch.Tensor]:
    """Yield the trainer's own batches, prepared ahead: images, or crops of those that are on the device."""
    dataset = dataset or open_dataset(config)[1]
    device = torch.device(config.device)
    workers = config.worker_count(gpu=device.type == "cuda" and dataset.store is None)
    batches = batches_ahead(dataset, range(count), device, workers=workers)
    return (batch.images for batch in batches)


def on_device(config: TrainConfig) -> tuple[TrainState, Dataset]:
    """Return the state and dataset of a training run whose images are in the device's memory."""
    state, dataset = train_state(config)
    dataset.store = state.store = ImageStore(dataset.images, config.side, 3 * config.side, state.device)
    state.store.load(lambda _: None, threading.Event())
    return state, dataset


def with_data(config: TrainConfig, contender: Contender, count: int, dataset: Dataset | None) -> tuple[float, float]:
    """Return the share of the time spent waiting for images that are prepared meanwhile, and milliseconds per step."""
    skipped = 3  # while the workers start
    waited = begin = 0.0
    batches = prepared(config, count + skipped, dataset)
    for index in range(count + skipped):
        if index == skipped:
            contender.mean_loss()  # waits for the device
            begin, waited = time.perf_counter(), 0.0
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        contender.run(1, batch)
    contender.mean_loss()
    total = time.perf_counter() - begin
    return waited / total, 1e3 * total / count


def compare_curves(run: Run, config: TrainConfig, contender: Contender, batches: list[torch.Tensor]) -> None:
    """Compare our loss curve with that of our own eager step on the same images."""
    state, _ = train_state(config)
    eager = Contender(state, EagerStep(state), batches, plain_upconv=False)
    eager.run(CHECKED_STEPS)
    for _ in range(1 if run.rehearsal else CURVE_POINTS):
        for one in (contender, eager):
            one.run(1 if run.rehearsal else CURVE_STEPS)
        ours, theirs = contender.mean_loss(), eager.mean_loss()
        check("the mean loss beside that of our eager step", ours, theirs, CURVE_TOLERANCE)
    graph = "a CUDA graph" if run.cuda else "a graph rehearsed"
    run.highlights.append(f"{graph}; mean loss {ours:.4f}, of our eager step {theirs:.4f}")


def measure(
    run: Run, table: Table, config: TrainConfig, steps: int, seconds: float, threads: int, *, compiled: bool
) -> None:
    """Check all contenders, and time them in turns of `steps` steps."""
    torch.set_num_threads(threads)
    torch.compiler.reset()
    about = {"preset": config.preset, "image_size": config.size, "batch": config.batch_size, "threads": threads}
    batches = [batch.pin_memory() if run.cuda else batch for batch in prepared(config, BATCHES)]
    exact, _ = train_state(dataclasses.replace(config, precision="float32"))
    reference = Contender(exact, EagerStep(exact), batches, plain_upconv=True)
    reference.run(CHECKED_STEPS)
    contenders: dict[str, Contender] = {}
    for name, make in makers(run, compiled=compiled).items():
        state, _ = train_state(config)
        about["dtype"] = str(state.dtype).removeprefix("torch.")
        try:
            contender = Contender(state, make(state), batches, plain_upconv=name == TORCH_UPCONV)
            contender.run(CHECKED_STEPS)
            check("the mean loss", contender.mean_loss(), reference.mean_loss(), LOSS_TOLERANCE)
            if run.gpu and name == OURS:
                compare_curves(run, config, contender, batches)
        except (RuntimeError, WrongResultError) as error:  # also what a compiler or a capture raises
            table.add(**about, contender=name, remark=run.refuse(name, error))
        else:
            contenders[name] = contender
    runners: dict[str, Runner] = {name: functools.partial(one.run, steps) for name, one in contenders.items()}
    times = run.time(runners, seconds, threads=threads, wall=True)
    for name, found in times.items():
        cells = {"median": found.median / steps, "min": found.min / steps, "spread": found.spread}
        cells["images_per_second"] = 1e3 * config.batch_size * steps / found.median
        ratio = found.ratio(times[OURS]) if OURS in times else None
        table.add(**about, contender=name, **cells, ratio=ratio, remark=f"{len(found.rounds)} rounds")
        run.highlights.append(f"{name} {cells['images_per_second']:.0f} images/s")
    if OURS in contenders and not compiled:
        count = 1 if run.rehearsal else 2 * max(steps, 10)
        for name in (WITH_DATA, STORED) if run.gpu else (WITH_DATA,):
            contender, dataset = contenders[OURS], None
            if name == STORED:
                state, dataset = on_device(config)
                contender = Contender(state, makers(run, compiled=False)[OURS](state), batches, plain_upconv=False)
            waiting, milliseconds = with_data(config, contender, count, dataset)
            ratio, speed = milliseconds * steps / times[OURS].median, 1e3 * config.batch_size / milliseconds
            cells = {"median": milliseconds, "images_per_second": speed, "ratio": ratio, "waiting": waiting}
            table.add(**about, contender=name, **cells, remark=f"{count} steps")
            run.highlights.append(f"{name} {speed:.0f} images/s")


def main(arguments: list[str] | None = None) -> int:
    """Append to the CSV; 1 where a contender was wrong."""
    made = parser(__doc__, "python benchmarks/bench_training.py --quick photographs/", gpu=True)
    made.add_argument("images", nargs="?", metavar="PATH", help="folder or tar (default: scikit-image's photographs)")
    made.add_argument("--threads", type=int, help="CPU threads (default: one per core with a GPU, else at most 2)")
    made.add_argument("--compile", action="store_true", help="GPU: compare with torch.compile instead of eager torch")
    options = made.parse_args(arguments)
    run = Run(options)
    if run.rehearsal:
        Hog.presets = {**Hog.presets, "tiny": config_to_dict(TINY)}
    size, batch = (32, 2) if run.rehearsal else (256, 64) if run.gpu else (128, 4) if run.quick else (256, 16)
    with tempfile.TemporaryDirectory(prefix="preimage-training-") as folder:
        config = TrainConfig(
            representation="hog",
            images=(options.images or write_crops(Path(folder) / "images", 2 if run.rehearsal else 24),),
            output=f"{folder}/run",
            val_count=2,
            preset="tiny" if run.rehearsal else "paper" if run.gpu else "compact",
            size=size,
            batch_size=batch,
            warmup_steps=0,  # so that every step changes the weights
            steps=1_000_000,
            device=str(run.device),
            workers=max(1, min(8, (os.cpu_count() or 2) - 1)) if run.cuda else 1,
        )
        table = run.table("training", COLUMNS)
        steps, seconds = (20, 5.0) if run.cuda else (1, 60.0)
        threads = options.threads or min(os.cpu_count() or 1, 64 if run.cuda else 2)
        measure(run, table, config, steps, seconds, threads, compiled=options.compile)
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
