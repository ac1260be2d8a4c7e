"""Distribute work over the workers of a Ray cluster, with Ray Data."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, TypeVar

from preimage.errors import brief
from preimage.optional import import_optional

ENGINES = ("local", "ray")

T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

_ATTEMPTS = 4  # at an item whose worker dies, so that one that kills every worker ends the run


class Job(Protocol[T_contra, R_co]):
    """Work on items, pickled once for all workers. Repeating an item must do no harm: after a failure it is retried."""

    def start(self) -> Callable[[T_contra], R_co]:
        """Prepare a worker, in its process, and return the function that processes an item."""
        ...


@dataclass(frozen=True)
class WorkerPool:
    """Workers of a job.

    Attributes:
        size: Number of workers.
        threads: Number of CPUs, and threads, of each.
        gpus: Number of GPUs of each, 0 or 1.
    """

    size: int
    threads: int
    gpus: int


@contextlib.contextmanager
def connect(engine: str, workers: int | None) -> Iterator[Cluster | None]:
    """Yield the Ray cluster on which an engine computes; ``None`` for the local engine.

    A connection of the caller (``ray.init``) is used and kept. Without one this connects to the cluster of the
    environment variable ``RAY_ADDRESS``, or else starts one on this machine that ends with the block.

    Args:
        engine: ``"local"`` or ``"ray"``.
        workers: Number of workers on Ray; ``None`` uses the whole cluster.

    Raises:
        ValueError: Another engine, or a number of workers that is out of range or given to the local engine.
        ImportError: Ray is not installed.
        ConnectionError: There is no cluster at ``RAY_ADDRESS``.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be {' or '.join(ENGINES)}, got {engine!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if engine == "local":
        if workers is not None:
            raise ValueError(f"workers applies to engine 'ray' only (--engine ray), got {workers}")
        yield None
        return
    ray = import_optional("ray")
    import_optional("ray", "ray.data")
    started = not ray.is_initialized()
    if started:
        _start(ray)
    try:
        yield Cluster(ray, workers)
    finally:
        if started:
            ray.shutdown()


def _start(ray: ModuleType) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if "RAY_ADDRESS" in os.environ:
        ray.init(address="auto", **quiet)
        return
    # Not "auto", which would find a cluster that another program has started for itself on this machine.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)


class Cluster:
    """A connected Ray cluster.

    Args:
        ray: Ray's module.
        workers: Number of workers; ``None`` uses the whole cluster.
    """

    def __init__(self, ray: ModuleType, workers: int | None) -> None:
        self._ray, self._workers = ray, workers

    def gives_gpus(self, device: str) -> bool:
        """Return whether each worker is to have a GPU.

        Args:
            device: ``"auto"`` (a GPU if the cluster has any), ``"cpu"`` or ``"cuda"``.

        Raises:
            ValueError: Another device, or ``"cuda"`` without a GPU in the cluster.
        """
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(
                f"device must be auto, cpu or cuda with engine 'ray', which assigns the GPUs, got {device!r}"
            )
        has_gpu = any(gpus >= 1 for _, gpus in self._nodes())
        if device == "cuda" and not has_gpu:
            raise ValueError("device 'cuda' is not available: no node of the Ray cluster has a GPU")
        return has_gpu and device != "cpu"

    def pool(self, *, gpu: bool) -> WorkerPool:
        """Return the workers: by default one for each GPU, or one for each node with all its CPUs.

        All workers have equally many CPUs. If the nodes differ, the one with the fewest decides how many, and the
        others have several workers.

        Args:
            gpu: Whether each worker has a GPU.

        Raises:
            ValueError: More workers than the cluster has room for.
        """
        nodes = [(cpus, gpus) for cpus, gpus in self._nodes() if cpus and (gpus or not gpu)]
        if not nodes:
            raise ValueError(f"no node of the Ray cluster has a {'GPU and a CPU' if gpu else 'CPU'} for a worker")
        most = sum(min(cpus, gpus) if gpu else cpus for cpus, gpus in nodes)
        if self._workers is not None and self._workers > most:
            unit = "GPU" if gpu else "CPU"
            raise ValueError(f"workers must be at most {most}, one for each {unit} of the cluster, got {self._workers}")
        for threads in range(max(cpus for cpus, _ in nodes), 1, -1):
            room = [min(cpus // threads, gpus) if gpu else cpus // threads for cpus, gpus in nodes]
            if self._workers is not None:
                enough = sum(room) >= self._workers
            else:
                enough = sum(room) == most if gpu else all(room)
            if enough:
                return WorkerPool(self._workers or sum(room), threads, int(gpu))
        return WorkerPool(self._workers or most, 1, int(gpu))

    def map(self, job: Job[T, R], items: Sequence[T], *, gpu: bool = False) -> Generator[R, None, None]:
        """Yield the results of a job for each item, in the order in which they are finished.

        An item whose worker dies is given to another one. Closing the generator stops the workers.

        Args:
            job: Work to do; it, the items and the results are pickled.
            items: Items, at most some 100,000, because Ray Data keeps a block for each.
            gpu: Whether each worker has a GPU.

        Raises:
            Exception: The error of a worker's function, of the same type.
            ValueError: A job that cannot be pickled.
            RuntimeError: Ray failed, or workers died repeatedly with the same item.
        """
        if not items:
            return
        with _quiet(self._ray.data):
            batches = self._batches(job, items, gpu=gpu)
            try:
                for batch in batches:
                    for result in batch["result"]:
                        yield _unpacked(result)
            except self._ray.exceptions.RayError as error:
                raise RuntimeError(f"a worker of the Ray cluster failed: {brief(error)}") from error
            finally:
                del batches  # otherwise an error that the caller keeps would keep the workers, and their CPUs

    def _batches(self, job: Job[T, R], items: Sequence[T], *, gpu: bool) -> Generator[dict[str, Any], None, None]:
        """Yield batches of results, pickled."""
        ray, data = self._ray, self._ray.data
        pool = self.pool(gpu=gpu)
        shared = ray.put(self._pickled(job))
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Attempts).remote()
        rows = [{"item": pickle.dumps((number, pickle.dumps(item)))} for number, item in enumerate(items)]
        results = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Worker,
            batch_size=1,
            fn_constructor_args=(shared, attempts, _current_folder(), sys.path, pool.threads),
            compute=data.ActorPoolStrategy(size=min(pool.size, len(rows)), max_tasks_in_flight_per_actor=1),
            num_cpus=pool.threads,
            num_gpus=pool.gpus or None,
        )
        yield from results.iter_batches(batch_size=None, prefetch_batches=0)

    def _pickled(self, job: Job[Any, Any]) -> bytes:
        try:
            pickled: bytes = self._ray.cloudpickle.dumps(job)
        except Exception as error:  # of any object of the user
            raise ValueError(
                f"the representation or inverter cannot be sent to the workers, because it cannot be pickled "
                f"({brief(error)}): use --engine local, or --shard in several processes"
            ) from error
        return pickled

    def _nodes(self) -> list[tuple[int, int]]:
        """Return the numbers of CPUs and GPUs of each living node."""
        resources = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return [(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in resources]


def _current_folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # a folder of Ray's jobs may be deleted while they run
        return None


class _Attempts:
    """Actor that counts how often each item was begun, because Ray Data repeats an item without end."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        """Count and return the attempts at an item, this one included."""
        self._counts[number] += 1
        return self._counts[number]


class _Worker:
    """Worker of `Cluster.map`: an actor of Ray Data.

    Errors are returned as results, because Ray would wrap them and print their tracebacks.

    Args:
        job: Reference of the pickled job.
        attempts: Handle of the actor `_Attempts`.
        folder: Current folder of the driver, to which relative paths refer and from which modules may be imported;
            ``None`` keeps that of the worker.
        path: Import path of the driver, for the modules of its script.
        threads: Number of threads.
    """

    def __init__(self, job: Any, attempts: Any, folder: str | None, path: list[str], threads: int) -> None:
        self._ray, self._job, self._attempts, self._threads = import_optional("ray"), job, attempts, threads
        self._work: Callable[[Any], Any] | None = None
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if folder is not None:
            with contextlib.suppress(OSError):  # without it, images with relative paths are reported as missing
                os.chdir(folder)
            path = [*path, folder]
        # At the end, so that no file in the current folder replaces an installed module.
        sys.path += [entry for entry in path if entry not in sys.path]

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"result": [self._result(item) for item in batch["item"]]}

    def _result(self, item: bytes) -> bytes:
        try:
            number, pickled = pickle.loads(item)
            attempt = self._ray.get(self._attempts.begin.remote(number))
            if attempt > _ATTEMPTS:
                raise RuntimeError(f"workers of the Ray cluster died {_ATTEMPTS} times at the same images")
            if self._work is None:  # not in the constructor, because a worker that dies there is restarted without end
                self._work = self._started()
            return pickle.dumps((self._work(_loaded(pickled)), None, ""))
        except Exception as error:
            return _packed_error(error)

    def _started(self) -> Callable[[Any], Any]:
        job: Job[Any, Any] = _loaded(self._ray.get(self._job))
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._threads)
        return job.start()


def _loaded(pickled: bytes) -> Any:
    try:
        return pickle.loads(pickled)
    except ImportError as error:
        raise ImportError(
            f"{error}, on a worker of the Ray cluster: install it on all nodes, or start in a shared folder that has it"
        ) from error


class _WorkerError(Exception):
    """Traceback of a worker, as the cause of its error."""


def _packed_error(error: Exception) -> bytes:
    text = traceback.format_exc()
    with contextlib.suppress(Exception):
        packed = pickle.dumps((None, error, text))
        pickle.loads(packed)  # some errors can be pickled, but not unpickled
        return packed
    return pickle.dumps((None, RuntimeError(brief(error)), text))


def _unpacked(result: bytes) -> Any:
    value, error, text = pickle.loads(result)
    if error is not None:
        raise error from _WorkerError(f"\n{text}")
    return value


@contextlib.contextmanager
def _quiet(data: ModuleType) -> Iterator[None]:
    """Show no progress bars and messages of Ray Data; our own progress is shown, and the messages are in its log."""
    context = data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    handlers = [one for one in logging.getLogger("ray.data").handlers if isinstance(one, logging.StreamHandler)]
    levels = [handler.level for handler in handlers]
    try:
        for handler in handlers:
            handler.setLevel(logging.CRITICAL)
        yield
    finally:
        context.enable_progress_bars = bars
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)
