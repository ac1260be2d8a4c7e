"""Training on a GPU: the trainer's own step against the same network and step written in plain torch.

On the CPU a rehearsal of the same code, small and without CUDA graphs.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch

from _timing import load, processor
from _training_plain import Loss, PlainStep
from _training_setup import OURS, Scale, TrainingTable, config, disagreements, train_state
from _turns import Measure, Times, in_turns
from preimage.pipelines.prefetch import in_order
from preimage.training import TrainConfig
from preimage.training.dataset import Dataset
from preimage.training.graphed_step import GraphedStep, cuda_graph
from preimage.training.step import Step

EAGER, COMPILED, GRAPHS = "torch", "torch.compile", "torch.compile, CUDA graphs"
WITH_DATA = "preimage, its images prepared anew"
FULL = Scale("paper", 256, 64, 20, 10.0)
QUICK = dataclasses.replace(FULL, seconds=3.0)
REHEARSAL = Scale("paper", 64, 1, 1, 0.0)
TARGETS = {EAGER: 1.4, COMPILED: 1.3}  # their time over ours
WARM_UP, REHEARSED_WARM_UP = 3, 1  # steps
BATCHES = 4  # that repeat: what the network costs is asked, not what the images do
MOST_WORKERS = 8


class HasLoss(Protocol):
    """Whatever sums its losses."""

    loss_sum: torch.Tensor


class Contender:
    """A step, taken again and again on the same few batches."""

    def __init__(self, step: Step, losses: HasLoss, batches: list[torch.Tensor]) -> None:
        self.step = step
        self._losses = losses
        self._batches = itertools.cycle(batches)
        self.steps = 0

    def run(self, count: int) -> None:
        """So many steps, without waiting for the device."""
        for _ in range(count):
            self.step(next(self._batches), self.steps)
            self.steps += 1

    def mean_loss(self) -> float:
        """Over all steps; waits for the device."""
        return self._losses.loss_sum.item() / self.steps


class GpuPart:
    """One run on one device; what is wrong is told in `failures`."""

    def __init__(self, options: argparse.Namespace, images: str, output: Path, scale: Scale) -> None:
        self.rehearsal = options.device == "rehearsal"
        self.scale = scale
        self.device = torch.device("cpu" if self.rehearsal else "cuda:0")
        name = f"none, rehearsed on {processor()}" if self.rehearsal else torch.cuda.get_device_name(self.device)
        self.table = TrainingTable(options.results / "training-gpu.csv", {"gpu": name, "load": load()})
        workers = 1 if self.rehearsal else max(1, min(MOST_WORKERS, (os.cpu_count() or 2) - 1))
        self.settings = config(scale, images, output, str(self.device), workers)
        self.warm_up = REHEARSED_WARM_UP if self.rehearsal else WARM_UP
        self.failures: list[str] = []
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True

    def measure(self) -> None:
        """All rows."""
        torch.compiler.reset()
        batches = self._batches()
        contenders: dict[str, Contender] = {}
        about = {"dtype": "", "threads": torch.get_num_threads()}
        for name, compile_loss in self._compilers().items():
            made, _ = train_state(self.settings)
            about["dtype"] = str(made.dtype).removeprefix("torch.")
            try:
                plain = PlainStep(made, compile_loss) if name != OURS else None
                # Not the trainer's own choice, which would be the eager step where no graph can be made.
                step: Step = plain or GraphedStep(made, 0, _at_once if self.rehearsal else cuda_graph)
                contender = Contender(step, plain or made, batches)
                contender.run(self.warm_up)
                contender.mean_loss()
            except Exception as error:  # one that does not run must not stop the others
                self._wrong(about, name, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            else:
                contenders[name] = contender
        if OURS not in contenders:
            return
        for name, problem in disagreements({name: one.mean_loss() for name, one in contenders.items()}).items():
            self._wrong(about, name, problem)
            del contenders[name]
        steps = self.scale.steps
        runs = {name: functools.partial(one.run, steps) for name, one in contenders.items()}
        least = 1 if self.rehearsal else 5
        times = in_turns(runs, self.scale.seconds, least=least, measure=whole_steps(self.device, steps))
        for name, measured in times.items():
            self.table.measured(about, self.scale, name, measured, times[OURS])
        waiting, measured = self._with_data(contenders[OURS].step, contenders[OURS].steps)
        self.table.measured(about, self.scale, WITH_DATA, measured, times[OURS], waiting)
        for name, goal in () if self.rehearsal else TARGETS.items():
            ratio = times[name].ratio(times[OURS]) if name in times else None
            told = "not measured" if ratio is None else "met" if ratio >= goal else "missed"
            print(f"at least {goal:.1f} times as fast as {name}: {told}")

    def _compilers(self) -> dict[str, Callable[[Loss], Loss] | None]:
        backend = "aot_eager" if self.rehearsal else "inductor"
        found: dict[str, Callable[[Loss], Loss] | None] = {
            OURS: None,
            EAGER: None,
            COMPILED: functools.partial(torch.compile, backend=backend, dynamic=False),
        }
        if not self.rehearsal:
            found[GRAPHS] = functools.partial(torch.compile, mode="reduce-overhead", dynamic=False)
        return found

    def _wrong(self, about: dict[str, str | int], name: str, problem: str) -> None:
        self.table.wrong(about, self.scale, name, problem)
        self.failures.append(f"{name}: {problem}")

    def _batches(self) -> list[torch.Tensor]:
        """Some batches, in memory that the device can fetch from by itself."""
        _, dataset = train_state(self.settings)
        found = list(_prepared(self.settings, dataset, BATCHES))
        return found if self.rehearsal else [batch.pin_memory() for batch in found]

    def _with_data(self, step: Step, taken: int) -> tuple[float, Times]:
        """The step on images that are prepared while it runs: (share of the time spent waiting for them, its time)."""
        _, dataset = train_state(self.settings)
        count = 1 if self.rehearsal else 2 * self.scale.steps
        waited = 0.0
        batches = _prepared(self.settings, dataset, count + self.warm_up)
        begin = time.perf_counter()
        for index in range(count + self.warm_up):
            if index == self.warm_up:  # the images are decoded the first time
                _wait(self.device)
                begin, waited = time.perf_counter(), 0.0
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            step(batch, taken + index)
        _wait(self.device)
        total = time.perf_counter() - begin
        return waited / total, Times((1e3 * total / count,))


def _prepared(settings: TrainConfig, dataset: Dataset, count: int) -> Iterator[torch.Tensor]:
    """The images of the trainer's own batches; HOG's features are computed by the step."""
    workers = settings.workers
    batches = in_order(dataset.batch, range(count), workers=workers, ahead=workers + 2, name="batch")
    return (batch.images for batch in batches)


def _at_once(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """In place of a CUDA graph."""
    return work


def whole_steps(device: torch.device, steps: int) -> Measure:
    """Milliseconds a step of work that is so many steps, from a quiet device until it is quiet again."""

    def measure(run: Callable[[], object]) -> float:
        _wait(device)
        begin = time.perf_counter()
        run()
        _wait(device)
        return 1e3 * (time.perf_counter() - begin) / steps

    return measure


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
