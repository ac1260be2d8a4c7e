"""Test training in several processes: equal to one process, resumed by another number, and ended together."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from distributed_runs import InterruptAt, gradients, results_of, run, start
from paths import HELPERS
from preimage.inverters import Inverter, preset
from preimage.io import list_images
from preimage.representations import create_representation
from preimage.training import TrainConfig, checkpoint, distributed
from preimage.training.builders import build_state
from preimage.training.dataset_factory import open_dataset
from preimage.training.distributed import SINGLE_PROCESS, Processes, joined_processes
from preimage.training.images import ImageSet
from preimage.training.sampling import batch_images
from preimage.training.step import EagerStep
from toys import SIDE, introduce
from training_runs import metrics_without_time, small_config, weights

pytestmark = [
    pytest.mark.usefixtures("toys", "one_thread"),
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed"),
]

RANKS = 2
_BAD = "coffee-1"
# The images of the batch that two processes share are the same, and so are the losses up to rounding.
LOSS_TOLERANCE = 1e-4


def _corrupt(path: Path) -> None:
    """Write a lossless WebP with a valid header and length whose pixels cannot be decoded."""
    done, data = cv2.imencode(".webp", np.zeros((40, 40, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 101])
    assert done
    path.write_bytes(bytes(data)[:25] + b"\xff" * (len(data) - 25))


@pytest.fixture(scope="module")
def photos(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 20 images, one of which only decoding finds to be bad."""
    folder = Path(shutil.copytree(photo_folder, tmp_path_factory.mktemp("distributed") / "photos"))
    _corrupt(folder / f"{_BAD}.jpg")
    return folder


def _configs(photos: Path, folder: Path) -> dict[str, TrainConfig]:
    """Return the settings of all runs that are compared with a single process, one of them on a tar shard."""
    shard = folder / "shard.tar"
    with tarfile.open(shard, "w") as tar:
        for path in sorted(photos.iterdir()):
            tar.add(path, path.name)
    quick: dict[str, Any] = {"skip_bad": True, "steps": 6, "eval_every": 3, "save_every": 3, "cache": "off"}
    features = folder / "features.npz"
    vectors = np.random.default_rng(0).random((20, 7), dtype=np.float32)
    np.savez(features, **dict(zip((source.key for source in list_images(photos)), vectors, strict=True)))
    precomputed = {"representation": None, "features": str(features), "size": SIDE}
    torch.manual_seed(0)
    spec = create_representation("hog").spec
    inverter = Inverter(spec, preset("hog", "tiny")).save(folder / "inverter")
    network = {"representation": "network", "preset": "auto", "budget": 30_000, "size": None, "finetune": True}
    changes: dict[str, dict[str, Any]] = {
        "hog": {"steps": 20, "eval_every": 10, "save_every": 10},
        "muon": {"optimizer": "muon"},
        "sift": {"representation": "sift", "steps": 3, "batch_size": 2},
        "cached": {"cache": "on", "cache_crops": 4, "representation": "toy-maps", "size": None},
        "precomputed": precomputed,
        "finetuned": network,
        "sampler": {"preset": None, "init": str(inverter), "sampler": True},
        "timed": {"max_hours": 1.0, "save_every": "0.05s", "log_every": "1s"},
    }
    sources = dict.fromkeys(changes, photos) | {"muon": shard}
    return {name: small_config(sources[name], folder / name, **quick | change) for name, change in changes.items()}


@dataclasses.dataclass(frozen=True)
class Session:
    """The folders of runs in several processes and of the same runs in one process, and what the former returned."""

    several: Path
    one: Path
    results: list[dict[str, dict[str, Any]]]  # of every rank, by scenario

    def losses(self, name: str) -> tuple[list[float], list[float]]:
        """Return the losses of both, of all log lines."""
        one, several = (
            [line["loss"] for line in metrics_without_time(folder / name) if "loss" in line]
            for folder in (self.one, self.several)
        )
        return one, several


CUT, TERMINATED, FAILED, KILLED = 7, 4, 12, 16  # steps


@pytest.fixture(scope="module")
def session(photos: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Session:
    """Train in two processes, one run after the other, and in one process."""
    one, several = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("several")
    work: list[tuple[str, TrainConfig, dict[str, Any]]] = []
    work += [(name, config, {}) for name, config in _configs(photos, several).items()]
    hog = _configs(photos, several)["hog"]
    for name in ("hog", "finetuned"):
        config = dataclasses.replace(_configs(photos, several)[name], output=str(several / f"gradients-{name}"))
        work.append((f"gradients-{name}", config, {"gradients": True}))
    cut, stopped = (dataclasses.replace(hog, output=str(several / name)) for name in ("cut", "stopped"))
    stopped = dataclasses.replace(stopped, save_every=1000)
    work.append(("cut", cut, {"interrupt": CUT}))
    work.append(("terminated", stopped, {"terminate": TERMINATED}))
    work.append(("failed", stopped, {"resume": True, "fail": FAILED}))
    with pytest.MonkeyPatch.context() as patched:
        introduce(patched)
        codes = start(work, several / "first", ranks=RANKS)
        assert codes == [0] * RANKS
        for config in _configs(photos, one).values():
            run(config)
        names = [name for name, _, _ in work]
        results = [dict(zip(names, results_of(several / "first", rank), strict=True)) for rank in range(RANKS)]
    return Session(several, one, results)


@pytest.mark.parametrize("name", ["hog", "muon", "sift", "cached", "precomputed", "finetuned", "sampler", "timed"])
def test_the_loss_is_that_of_one_process(session: Session, name: str) -> None:
    one, several = session.losses(name)
    assert session.results[0][name] == session.results[1][name]
    assert session.results[0][name]["skipped"] == [_BAD], "found by one process, listed by the main one"
    if name != "timed":  # where the learning rate depends on the clock
        rtol = LOSS_TOLERANCE if name == "sampler" else 0  # its score is many times as large as a distance
        np.testing.assert_allclose(several, one, rtol=rtol, atol=LOSS_TOLERANCE)
    assert len(one) >= 1
    assert weights(session.one / name) != "" != weights(session.several / name)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", ["hog", "finetuned"])
def test_gradients_are_those_of_one_process(
    session: Session, photos: Path, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    expected = gradients(_configs(photos, session.one)[name], dtype, SINGLE_PROCESS)
    found = [torch.load(session.several / f"gradients-{name}.{rank}.pt")[str(dtype)] for rank in range(RANKS)]
    assert torch.equal(*found), "all processes have the same"
    assert found[0].dtype == dtype
    assert (found[0] - expected).norm() <= tolerance * expected.norm()


def test_a_signal_to_any_process_stops_all_after_the_same_step(session: Session) -> None:
    for name in ("cut", "terminated"):
        assert {result[name]["error"] for result in session.results} == {"KeyboardInterrupt"}
    path = session.several / "cut" / checkpoint.CHECKPOINT
    assert checkpoint.read_header(path)[1].step == CUT


def test_an_error_in_one_process_is_that_of_the_others(session: Session) -> None:
    first, second = (result["failed"]["error"] for result in session.results)
    assert second == "OSError: the disk of this process went away"
    assert first.startswith("ProcessFailedError")
    assert "rank 1" in first
    assert second in first
    path = session.several / "stopped" / checkpoint.CHECKPOINT
    assert checkpoint.read_header(path)[1].step == FAILED, "finished steps are saved"


def test_another_number_of_processes_resumes(session: Session, photos: Path) -> None:
    """Two processes began, one continues, and two end the run, which one of two that is killed does not undo."""
    cut = dataclasses.replace(_configs(photos, session.several)["hog"], output=str(session.several / "cut"))
    stopped = dataclasses.replace(cut, output=str(session.several / "stopped"), save_every=1000)
    assert run(cut, resume=True, display=InterruptAt(13)) == {"error": "KeyboardInterrupt"}
    work = [("cut", cut, {"resume": True}), ("killed", stopped, {"resume": True, "kill": KILLED})]
    assert start(work, session.several / "second", ranks=RANKS) == [0, -9]
    ended, killed = results_of(session.several / "second", 0)
    assert (ended["steps"], ended["skipped"]) == (20, [_BAD])
    assert killed["error"].startswith("ProcessFailedError")
    step = checkpoint.read_header(session.several / "stopped" / checkpoint.CHECKPOINT)[1].step
    assert FAILED < step <= KILLED, "finished steps are saved; the batch of the last one was prepared ahead"
    assert run(stopped, resume=True)["steps"] == 20
    one, _ = session.losses("hog")
    for name in ("cut", "stopped"):
        found = [line["loss"] for line in metrics_without_time(session.several / name) if "loss" in line]
        np.testing.assert_allclose(found, one, rtol=0, atol=LOSS_TOLERANCE)


class _Share(Processes):
    """One of several processes that do not communicate."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_photograph_once_per_epoch(photos: Path, size: int) -> None:
    batch_size, steps = 6, 10  # three epochs of 20 images
    shares = [_Share(rank, size).rows(batch_size) for rank in range(size)]
    sources = [source for source in list_images(photos) if source.key != _BAD]
    images = [ImageSet(sources) for _ in shares]
    seen = [
        index
        for step in range(steps)
        for own, rows in zip(images, shares, strict=True)
        for index in batch_images(own, step, batch_size, 0, rows)[0].images.tolist()
    ]
    count = len(sources)
    for first in range(0, len(seen) - count + 1, count):
        assert sorted(seen[first : first + count]) == list(range(count))


@pytest.mark.parametrize(("name", "representation"), [("crops", "hog"), ("workers", "sift")])
def test_the_shares_are_the_batch(photos: Path, tmp_path: Path, name: str, representation: str) -> None:
    """Give each process its rows of the batch, whether or not it decodes the bad image."""
    config = small_config(photos, tmp_path, representation=representation, skip_bad=True, batch_size=6)
    whole = open_dataset(config)[1]
    shares = [open_dataset(config)[1] for _ in range(3)]
    for rank, dataset in enumerate(shares):
        dataset.local_rows = _Share(rank, 3).rows(6)
    for step in range(4):
        expected, found = whole.batch(step), [dataset.batch(step) for dataset in shares]
        assert torch.equal(expected.images, torch.cat([batch.images for batch in found]))
        if expected.features is not None:
            assert torch.equal(expected.features, torch.cat([batch.features for batch in found]))


def test_gradients_are_exchanged_during_the_backward_pass(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exchange the fused decoder's gradients before the first layer's are computed."""
    address = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in address.items():
        monkeypatch.setenv(name, value)
    group = distributed.ProcessGroup("cpu")
    try:
        group.join()
        config = small_config(photos, tmp_path, preset="compact", skip_bad=True, batch_size=2)
        config, dataset = open_dataset(config)
        state = build_state(config, dataset, torch.device("cpu"), group)
        step, events = EagerStep(state), []
        names = {parameter: name for name, parameter in state.model.named_parameters()}

        def exchange(state, bucket):  # without annotations, which torch compares with its classes
            events.append({names[parameter] for parameter in bucket.parameters()})
            future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        step._loss.register_comm_hook(None, exchange)
        state.model.get_parameter("network.stem.conv.weight").register_hook(lambda _: events.append({"stem"}))
        for number in range(2):
            events.clear()  # torch sorts the gradients by when they are ready, after the first step
            step(dataset.batch(number).images, number)
    finally:
        group.leave()
    before = set().union(*events[: events.index({"stem"})])
    assert {name for name in names.values() if name.startswith("network.head")} <= before
    assert "network.stem.conv.weight" not in before


def test_a_batch_that_cannot_be_divided() -> None:
    with pytest.raises(ValueError, match=r"batch_size.*8 .*3 "):
        _Share(0, 3).rows(8)


def test_the_environment_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", distributed.TIMEOUT):
        monkeypatch.delenv(name, raising=False)
    with joined_processes("cpu") as processes:
        assert processes is SINGLE_PROCESS
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"RANK.*torchrun"), joined_processes("cpu"):
        pass
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match=r"device.*'cuda:1'"), joined_processes("cuda:1"):
        pass
    assert not distributed.is_main_process()
    monkeypatch.setenv(distributed.TIMEOUT, "soon")
    with pytest.raises(ValueError, match=rf"{distributed.TIMEOUT}.*'soon'"), joined_processes("cpu"):
        pass


def test_a_process_group_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, and remains."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match=r"destroy_process_group"), joined_processes("cpu"):
            pass
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()


def test_processes_of_other_versions_disconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    store, init = torch.distributed.HashStore(), torch.distributed.init_process_group
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(distributed, "_shared_store", lambda *arguments: store)
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda *arguments, **options: init(*arguments, **options | {"world_size": 1}),
    )
    monkeypatch.setattr(distributed.ProcessGroup, "gather", lambda self, value: [value, ("another", *value[1:])])
    with pytest.raises(ValueError, match=r"versions.*another"), joined_processes("cpu"):
        pass
    assert not torch.distributed.is_initialized()


def test_a_process_that_never_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others do not wait longer than the timeout."""
    settings = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in (settings | {distributed.TIMEOUT: "1"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(distributed.ProcessFailedError, match=rf"1 s.*{distributed.TIMEOUT}"), joined_processes("cpu"):
        pass


@contextmanager
def _torchrun(
    config: TrainConfig, results: Path, arguments: dict[str, Any], restarts: int = 0
) -> Iterator[subprocess.Popen[str]]:
    """Start a scenario in two processes by ``torchrun``."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    command += ["--max-restarts", str(restarts), str(HELPERS / "distributed_runs.py")]
    command += [json.dumps([("run", config.to_json(), arguments)]), str(results)]
    path = os.pathsep.join(filter(None, (str(HELPERS), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()  # and with it, the processes that it has started


@pytest.mark.nightly
def test_torchrun_restarts_after_a_process_was_killed(session: Session, photos: Path) -> None:
    config = dataclasses.replace(_configs(photos, session.several)["hog"], output=str(session.several / "restarted"))
    arguments = {"resume": True, "kill": 8, "first_attempt": True, "fatal": True}
    with _torchrun(config, session.several / "restarted-result", arguments, restarts=1) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    found = [line["loss"] for line in metrics_without_time(session.several / "restarted") if "loss" in line]
    np.testing.assert_allclose(found, session.losses("hog")[0], rtol=0, atol=LOSS_TOLERANCE)


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_torchrun_save_a_checkpoint(session: Session, photos: Path, number: int) -> None:
    folder = session.several / f"signal-{number}"
    config = dataclasses.replace(
        _configs(photos, session.several)["hog"], output=str(folder), steps=100_000, save_every=100_000
    )
    with _torchrun(config, session.several / f"result-{number}", {"fatal": True}) as process:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not (folder / "samples").is_dir():  # until the first validation
            time.sleep(0.1)
        process.send_signal(number)
        process.communicate(timeout=100)
    assert process.returncode != 0
    assert checkpoint.read_header(folder / checkpoint.CHECKPOINT)[1].step >= config.eval_every


@pytest.mark.nightly
def test_torchrun_shows_the_error_of_the_process_that_failed(session: Session, photos: Path) -> None:
    config = dataclasses.replace(_configs(photos, session.several)["hog"], output=str(session.several / "torchrun"))
    with _torchrun(config, session.several / "torchrun-result", {"fail": 5, "fatal": True}) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    root = errors[errors.index("Root Cause") :]
    assert "rank      : 1" in root
    assert "the disk of this process went away" in root


@pytest.mark.nightly
def test_a_process_that_hangs_is_not_waited_for_longer_than_the_timeout(photos: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(_configs(photos, tmp_path)["hog"], output=str(tmp_path / "run"))
    arguments = {"hang": 15, "timeout": 10}
    assert start([("hang", config, arguments)], tmp_path / "result", ranks=RANKS) == [0] * RANKS
    first, second = (results_of(tmp_path / "result", rank)[0]["error"] for rank in range(RANKS))
    assert first.startswith("ProcessFailedError")
    assert "10 s" in first
    assert second.startswith("ProcessFailedError"), "when it goes on"
    step = checkpoint.read_header(tmp_path / "run" / checkpoint.CHECKPOINT)[1].step
    assert step == 15
    assert run(config, resume=True)["steps"] == 20
