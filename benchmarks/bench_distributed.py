"""Training images per second of several processes beside one process with as many threads, on the CPU.

The compact network for HOG, with the trainer's own step and its images prepared while it runs. All contenders have
processes of their own, which take turns, and are appended to distributed-cpu.csv. `speed` is how many times the images
per second of one process with all threads a contender reached, in the same rounds; `cpu_per_image` is the processor
time of all its processes and threads for an image in milliseconds, which does not depend on other work on the machine.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

import torch

from _harness import Run, Runner, parser, write_crops
from preimage.training import TrainConfig
from preimage.training.builders import build_state
from preimage.training.dataset_factory import open_dataset
from preimage.training.distributed import joined_processes
from preimage.training.step import EagerStep
from preimage.training.streaming import batches_ahead

COLUMNS = (
    *("preset", "image_size", "batch", "dtype", "processes", "threads"),
    *("images_per_second", "median", "min", "speed", "spread", "cpu_per_image", "remark"),
)
WORKER = "--worker"


def work(config: TrainConfig) -> None:
    """Train as many steps as each line of standard input says, and answer with the processor time used so far."""
    device = torch.device("cpu")
    with joined_processes("cpu") as processes:
        config, dataset = open_dataset(config, processes=processes)
        dataset.local_rows = processes.rows(config.batch_size)
        state = build_state(config, dataset, device, processes)
        step, taken = EagerStep(state), 0
        with closing(batches_ahead(dataset, itertools.count(), device, workers=1)) as batches:
            for line in sys.stdin:
                for batch in itertools.islice(batches, int(line)):
                    step(batch.images, taken, batch.features)
                    processes.any(False)  # as after every step of a run
                    taken += 1
                print(json.dumps([time.process_time(), str(state.dtype)]), flush=True)


class Contender:
    """A number of processes that train together.

    Attributes:
        steps: Number of steps taken.
        dtype: Precision of the network.
    """

    def __init__(self, config: TrainConfig, processes: int, threads: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        self.steps, self.dtype = 0, ""
        self._workers = [
            subprocess.Popen(
                [sys.executable, __file__, WORKER, config.to_json()],
                env=os.environ | common | {"RANK": str(rank), "OMP_NUM_THREADS": str(threads)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(processes)
        ]

    def run(self, steps: int) -> float:
        """Train some steps, and return the seconds of processor time used so far."""
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.write(f"{steps}\n")
            worker.stdin.flush()
        used = 0.0
        for worker in self._workers:
            assert worker.stdout is not None
            seconds, self.dtype = json.loads(worker.stdout.readline())
            used += seconds
        self.steps += steps
        return used

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.kill()
            worker.communicate()


def compare(run: Run, config: TrainConfig, count: int, steps: int, seconds: float) -> None:
    """Time one process with one thread, one with `count` threads, and `count` processes, in turns of `steps` steps."""
    table = run.table("distributed", COLUMNS)
    shapes = {"one": (1, 1), "threads": (1, count), "processes": (count, 1)}
    with ExitStack() as stack:
        contenders = {name: stack.enter_context(closing(Contender(config, *shape))) for name, shape in shapes.items()}
        begun = {name: (contender.run(2), contender.steps) for name, contender in contenders.items()}
        runners: dict[str, Runner] = {
            name: lambda contender=contender: contender.run(steps)  # type: ignore[misc]
            for name, contender in contenders.items()
        }
        times = run.time(runners, seconds, threads=1, wall=True)
        for name, contender in contenders.items():
            processes, threads = shapes[name]
            before, taken = begun[name]
            cpu = 1e3 * (contender.run(0) - before) / (contender.steps - taken) / config.batch_size
            found, speed = times[name], times["threads"].ratio(times[name])
            table.add(
                preset=config.preset,
                image_size=config.size,
                batch=config.batch_size,
                dtype=contender.dtype.removeprefix("torch."),
                processes=processes,
                threads=threads,
                images_per_second=1e3 * config.batch_size * steps / found.median,
                median=found.median / steps,
                min=found.min / steps,
                speed=speed,
                spread=found.spread,
                cpu_per_image=cpu,
                remark=f"{len(found.rounds)} rounds",
            )
            run.highlights.append(f"{processes} × {threads}: {speed:.2f}")


def main(arguments: list[str] | None = None) -> int:
    """Append to the CSV."""
    made = parser(__doc__, "python benchmarks/bench_distributed.py --quick photographs/")
    made.add_argument("images", nargs="?", metavar="PATH", help="folder or tar (default: scikit-image's photographs)")
    made.add_argument("--processes", type=int, default=2, help="number of processes")
    made.add_argument("--seconds", type=float, default=120.0, help="time after which no new round begins")
    made.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    options = made.parse_args(arguments)
    run = Run(options)
    size, batch = (64, 2 * options.processes) if run.quick else (256, 16)
    with tempfile.TemporaryDirectory(prefix="preimage-distributed-") as folder:
        config = TrainConfig(
            representation="hog",
            images=(options.images or write_crops(Path(folder) / "images", 2 if run.quick else 24),),
            output=f"{folder}/run",
            val_count=2,
            preset="compact",
            size=size,
            batch_size=batch,
            precision=options.precision,
            device="cpu",
            cache="off",
        )
        compare(run, config, options.processes, 1 if run.quick else 3, options.seconds)
    return run.finish()


if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER]:
        work(TrainConfig.from_json(sys.argv[2]))
    else:
        raise SystemExit(main())
