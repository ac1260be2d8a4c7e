"""Training on the CPU: the package's own up-convolutions against torch's, each in a process of its own, in turns."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _timing import load, processor
from _training_setup import OURS, Scale, TrainingTable, config, disagreements
from _turns import Times
from preimage.training import TrainConfig

PLAIN = "preimage, torch's up-convolutions"
FULL = Scale("compact", 256, 16, 2, 60.0)
QUICK = Scale("compact", 128, 4, 1, 5.0)
ROUNDS = 3  # at least


class Worker:
    """A contender's process, `_training_worker.py`."""

    def __init__(self, settings: TrainConfig, threads: int, mode: str) -> None:
        script = Path(__file__).resolve().parent / "_training_worker.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script), settings.to_json(), str(threads)],
            env=os.environ | {"PREIMAGE_UPCONV": mode},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.steps: list[float] = []
        self.waits: list[float] = []
        self.loss = float("nan")

    def dtype(self) -> str:
        """What it computes in; waits until it is ready."""
        return str(self._answer()["dtype"])

    def turn(self, steps: int, *, counts: bool) -> None:
        """So many steps; one more before them does not count: the caches are another's."""
        assert self._process.stdin is not None
        print(steps + 1, file=self._process.stdin, flush=True)
        answer = self._answer()
        self.loss = answer["loss"]
        if counts:
            self.steps += answer["steps"][1:]
            self.waits += answer["waits"][1:]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a contender's process ended with exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Closes its input, which ends it."""
        self._process.communicate()


def measure(options: argparse.Namespace, images: str, output: Path, scale: Scale) -> list[str]:
    """Prints and keeps the CPU's rows; what was wrong."""
    table = TrainingTable(options.results / "training-cpu.csv", {"machine": processor(), "load": load()})
    settings = config(scale, images, output, "cpu", workers=1)
    workers: dict[str, Worker] = {}
    try:
        for name, mode in ((OURS, "auto"), (PLAIN, "plain")):
            workers[name] = Worker(settings, options.threads, mode)
        dtypes = {worker.dtype() for worker in workers.values()}
        begin, rounds = time.monotonic(), 0
        while rounds <= ROUNDS or time.monotonic() - begin < scale.seconds:
            for name in random.Random(rounds).sample(list(workers), len(workers)):
                workers[name].turn(scale.steps, counts=rounds > 0)  # the first warms up
            rounds += 1
    finally:
        for worker in workers.values():
            worker.end()
    wrong = disagreements({name: worker.loss for name, worker in workers.items()})
    times = {name: Times(tuple(worker.steps)) for name, worker in workers.items()}
    about = {"dtype": " ".join(dtypes), "threads": options.threads}
    for name, worker in workers.items():
        if name in wrong:
            table.wrong(about, scale, name, wrong[name])
        else:
            waiting = sum(worker.waits) / sum(worker.steps)
            table.measured(about, scale, name, times[name], times[OURS], waiting)
    return [f"{name}: {problem}" for name, problem in wrong.items()]
