"""Run scenarios of training in several processes: a module for tests, and the script that every process runs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import preimage
import toys
import training_runs  # noqa: F401 - registers the tiny networks
from networks import SIDE, Cnn
from paths import HELPERS
from preimage import training
from preimage.representations import Representation
from preimage.training import Display, TrainConfig
from preimage.training.builders import build_state
from preimage.training.dataset import Dataset
from preimage.training.dataset_factory import open_dataset
from preimage.training.distributed import TIMEOUT, Processes, joined_processes
from preimage.training.step import EagerStep


class InterruptAt(Display):
    """Send a signal to the main process after a step."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def update(self, progress: Any, loss: float) -> None:
        if progress.step == self.step:
            os.kill(os.getpid(), self.number)


def representation_of(config: TrainConfig) -> Representation | None:
    """Return the layer of a small network, if the run fine-tunes one."""
    if not config.finetune:
        return None
    torch.manual_seed(0)
    return preimage.Network(Cnn(), preimage.Preprocessing(SIDE), name="cnn").representation("again")


def gradients(config: TrainConfig, dtype: torch.dtype, processes: Processes) -> torch.Tensor:
    """Return all gradients of the first batch, before clipping: (N,) of `dtype`."""
    torch.set_num_threads(1)
    config = dataclasses.replace(config, grad_clip=1e9, cache="off")
    config, dataset = open_dataset(config, representation_of(config), processes=processes)
    dataset.local_rows = processes.rows(config.batch_size)
    state = build_state(config, dataset, torch.device("cpu"), processes)
    for module in state.modules.values():
        module.to(dtype)
    images, features = dataset.batch(0)
    EagerStep(state)(images, 0, features)
    return torch.cat([weight.grad.flatten() for weight in state.trained if weight.grad is not None])


def run(config: TrainConfig, **options: Any) -> dict[str, Any]:
    """Train, and return how that ended, as JSON values."""
    torch.set_num_threads(1)
    try:
        summary = training.run(config, representation=representation_of(config), **options)
    except KeyboardInterrupt:
        return {"error": "KeyboardInterrupt"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"steps": summary.steps, "normalized_error": summary.error, "skipped": [key for key, _ in summary.skipped]}


@contextlib.contextmanager
def at_batch(step: int, action: Callable[[], object]) -> Iterator[None]:
    """Call a function in this process when the batch of a step is prepared."""
    original = Dataset.batch

    def batch(self: Dataset, which: int) -> Any:
        if which == step:
            action()
        return original(self, which)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Dataset, "batch", batch)
        yield


def _fail() -> None:
    raise OSError("the disk of this process went away")


def scenario(name: str, config: TrainConfig, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a scenario in this process, and return its result as JSON values."""
    if "gradients" in arguments:
        with joined_processes("cpu") as processes:
            found = {str(dtype): gradients(config, dtype, processes) for dtype in (torch.float32, torch.float64)}
        torch.save(found, Path(config.output).with_suffix(f".{os.environ['RANK']}.pt"))
        return {}
    resume, last = arguments.get("resume", False), os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)
    display = InterruptAt(arguments["interrupt"]) if "interrupt" in arguments else None
    actions: dict[str, Callable[[], object]] = {
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "terminate": lambda: os.kill(os.getpid(), signal.SIGTERM),
        "fail": _fail,
        "hang": lambda: time.sleep(3 * arguments["timeout"]),
    }
    with contextlib.ExitStack() as stack:
        if "timeout" in arguments:
            stack.enter_context(pytest.MonkeyPatch.context()).setenv(TIMEOUT, str(arguments["timeout"]))
        for action in actions.keys() & arguments.keys():
            if last and not (arguments.get("first_attempt") and os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"):
                stack.enter_context(at_batch(arguments[action], actions[action]))
        if arguments.get("fatal"):
            training.run(config, resume=resume, display=display)
            return {}
        return run(config, resume=resume, display=display)


def start(work: Sequence[tuple[str, TrainConfig, dict[str, Any]]], results: Path, *, ranks: int = 2) -> list[int]:
    """Run scenarios one after the other in new processes, and return their exit codes.

    The results of rank R are written to ``<results>.R.json``, one for each scenario.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = json.dumps([(name, config.to_json(), arguments) for name, config, arguments in work])
    path = os.pathsep.join(filter(None, (str(HELPERS), os.environ.get("PYTHONPATH"))))
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": path}
    processes = []
    for rank in range(ranks):
        environment = os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "error", str(Path(__file__)), lines, f"{results}.{rank}.json"]
        processes.append(subprocess.Popen(command, env=environment))
    try:
        return [process.wait(600) for process in processes]  # far longer than needed, for busy machines
    finally:
        for process in processes:
            process.kill()
            process.wait()


def results_of(results: Path, rank: int) -> list[dict[str, Any]]:
    """Return the results of a rank, one for each scenario of `start`."""
    found: list[dict[str, Any]] = json.loads(Path(f"{results}.{rank}.json").read_text())
    return found


def _main() -> None:
    found = []
    with pytest.MonkeyPatch.context() as patched:
        toys.introduce(patched)
        for name, config, arguments in json.loads(sys.argv[1]):
            found.append(scenario(name, TrainConfig.from_json(config), arguments))
            Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    _main()
