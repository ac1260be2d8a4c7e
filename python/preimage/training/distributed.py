"""Train in several processes, started by ``torchrun``: what they tell each other, and how they end together.

Every process takes an equal share of the rows of each batch. The main process, of rank 0, alone inspects the images,
validates, shows progress and writes files.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from preimage import __version__
from preimage.errors import brief
from preimage.inverters import resolve_device
from preimage.inverters.precision import fastest_dtype

T = TypeVar("T")

TIMEOUT = "PREIMAGE_PROCESS_TIMEOUT"  # environment variable

_TIMEOUT = 600.0  # seconds
# The main process may inspect images or compute a cache for hours. One that is killed is noticed at once nevertheless,
# because its connections are closed.
_LONG = timedelta(days=365)
# Gradients are exchanged in parts of this size, as soon as the backward pass has computed them. With torch's default of
# 25 MB, nearly all gradients of a compact network would be one part, exchanged after the backward pass.
_BUCKET_MB = 4
_FAILURE = "failure"  # key in the store that all processes share
_CONNECTION = re.compile(r"closed by peer|reset by peer|broken pipe|timed out|timeout|gloo|nccl", re.IGNORECASE)

_runs = itertools.count()  # runs of this process; all processes have the same ones


class ProcessFailedError(RuntimeError):
    """Another process of the run failed, ended, or did not answer in time."""


class Processes:
    """The processes of a run: this one only. `ProcessGroup` is several of them.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
    """

    rank = 0
    size = 1

    @property
    def is_main(self) -> bool:
        """Return whether this is the process that writes files."""
        return self.rank == 0

    def rows(self, batch_size: int) -> slice:
        """Return the rows of every batch that this process computes.

        Raises:
            ValueError: The batch cannot be divided evenly.
        """
        if batch_size % self.size:
            raise ValueError(
                f"batch_size must be a multiple of the number of processes, got {batch_size} images for {self.size} "
                "processes"
            )
        count = batch_size // self.size
        return slice(self.rank * count, (self.rank + 1) * count)

    def device(self, name: str) -> torch.device:
        """Return the device of this process for the setting ``device``."""
        return resolve_device(name)

    def from_main(self, compute: Callable[[], T]) -> T:
        """Return the result of a function that the main process alone calls, however long it takes."""
        return compute()

    def barrier(self) -> None:
        """Wait for all processes, however long they take."""

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes."""
        return [value]

    def agree(self, number: float) -> float:
        """Return the main process's number."""
        return number

    def any(self, flag: bool) -> bool:
        """Return whether the flag of any process is set."""
        return flag

    def mean(self, value: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to compute the mean of a tensor over the processes; the function that is returned waits for it."""
        return lambda: value

    def synchronize(self, modules: Iterable[nn.Module]) -> None:
        """Replace all tensors of modules by those of the main process."""

    def data_parallel(self, loss: nn.Module) -> nn.Module:
        """Return a module whose backward pass gives the gradients of the loss averaged over the processes."""
        return loss

    def naming_failures(self) -> AbstractContextManager[None]:
        """Raise a `ProcessFailedError` where communication fails."""
        return nullcontext()


SINGLE_PROCESS = Processes()


class ProcessGroup(Processes):
    """Several processes, each with one device, that run the same calls in the same order.

    They communicate by NCCL on CUDA devices and by Gloo on CPUs, always by Gloo about anything but weights and
    gradients. Where one of them fails, the next call in the others raises a `ProcessFailedError`.

    Args:
        device: The setting ``device`` of the run.

    Raises:
        ValueError: The environment is not that of ``torchrun``; the device is a numbered one or does not exist; or
            these processes are a group of ``torch.distributed`` already.
    """

    def __init__(self, device: str) -> None:
        if not dist.is_available():
            raise ValueError("this build of torch lacks torch.distributed, which several processes need")
        if dist.is_initialized():
            raise ValueError("torch.distributed is initialized already: destroy_process_group() must come before")
        self.rank, self.size = _number("RANK"), _number("WORLD_SIZE")
        self._timeout = timedelta(seconds=_timeout())
        self._device = self.device(device)
        self._store: Any = None  # a Store of torch.distributed, whose stubs lack it
        self._untimed: Any = None  # groups of all processes, without and with a timeout; the default one if `None`
        self._timed: Any = None

    def join(self) -> None:
        """Connect to the other processes.

        Raises:
            ValueError: The processes have other versions or instructions than each other, with which their weights
                would diverge.
            ProcessFailedError: Another process failed, or did not start in time.
        """
        gpu = self._device.type == "cuda"
        if gpu:
            torch.cuda.set_device(self._device)
        with self.naming_failures():
            # Keys of earlier runs of these processes, and of those before a restart by torchrun, may still be there.
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            shared = _shared_store(os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT"), self._timeout)
            self._store = dist.PrefixStore(f"preimage/{attempt}/{next(_runs)}", shared)  # type: ignore[attr-defined]
            dist.init_process_group(
                "nccl" if gpu else "gloo",
                store=self._store,
                rank=self.rank,
                world_size=self.size,
                timeout=self._timeout,
            )
            self._untimed = dist.new_group(backend="gloo", timeout=_LONG)
            if gpu:
                self._timed = dist.new_group(backend="gloo", timeout=self._timeout)
        kinds = self.gather((__version__, torch.__version__, str(fastest_dtype(self._device))))
        if len(set(kinds)) > 1:
            found = "; ".join(", ".join(kind) for kind in sorted(set(kinds)))
            raise ValueError(f"all processes must have the same versions and fastest precision, got {found}")

    def device(self, name: str) -> torch.device:
        if torch.cuda.is_available() and name in ("auto", "cuda"):
            return resolve_device(f"cuda:{_number('LOCAL_RANK')}")
        if name.startswith("cuda:"):
            raise ValueError(f"device must be 'auto', 'cpu' or 'cuda' for several processes, got {name!r}")
        return resolve_device(name)

    def from_main(self, compute: Callable[[], T]) -> T:
        values: list[Any] = [compute() if self.is_main else None]
        with self.naming_failures():
            dist.broadcast_object_list(values, 0, self._untimed)
        result: T = values[0]
        return result

    def barrier(self) -> None:
        with self.naming_failures():
            dist.barrier(self._untimed)

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        with self.naming_failures():
            dist.all_gather_object(values, value, self._untimed)
        return values

    def agree(self, number: float) -> float:
        return self._sum(number if self.is_main else 0.0)

    def any(self, flag: bool) -> bool:
        return self._sum(float(flag)) > 0

    def _sum(self, number: float) -> float:
        total = torch.tensor(number, dtype=torch.float64)
        with self.naming_failures():
            dist.all_reduce(total, group=self._timed)
        return total.item()

    def mean(self, value: torch.Tensor) -> Callable[[], torch.Tensor]:
        total = value.to(torch.float64, copy=True)
        with self.naming_failures():
            work = dist.all_reduce(total, async_op=True)

        def result() -> torch.Tensor:
            with self.naming_failures():
                work.wait()
            return total / self.size

        return result

    def synchronize(self, modules: Iterable[nn.Module]) -> None:
        self.barrier()  # the main process may have more to compute first
        with self.naming_failures(), torch.no_grad():
            for module in modules:
                for tensor in module.state_dict().values():
                    dense = tensor.contiguous()
                    dist.broadcast(dense, 0)
                    tensor.copy_(dense)

    def data_parallel(self, loss: nn.Module) -> nn.Module:
        self.barrier()  # others may still prepare images
        with self.naming_failures():
            return nn.parallel.DistributedDataParallel(loss, bucket_cap_mb=_BUCKET_MB, gradient_as_bucket_view=True)

    @contextmanager
    def naming_failures(self) -> Iterator[None]:
        try:
            yield
        except ProcessFailedError:  # of a call within
            raise
        except RuntimeError as error:
            rank, text = self._reported()
            if rank is not None and not text:
                raise KeyboardInterrupt from error
            if rank is not None:
                raise ProcessFailedError(f"the process of rank {rank} failed: {text}") from error
            if not _CONNECTION.search(str(error)):
                raise
            lines = str(error).splitlines()
            raise ProcessFailedError(
                f"another process ended, or did not answer within {self._timeout.total_seconds():g} s ({TIMEOUT}): "
                f"{lines[0]}"
            ) from error

    def _reported(self) -> tuple[int | None, str]:
        """Return the rank and error of the process that failed first, if it could say so; no error for a Ctrl-C."""
        with suppress(RuntimeError):  # the process that keeps the store is gone
            if self._store is not None and self._store.check([_FAILURE]):
                rank, text = json.loads(self._store.get(_FAILURE))
                return rank, text
        return None, ""

    def fail(self, error: BaseException) -> None:
        """Tell the other processes, and ``torchrun``, that this one ends with an error, and disconnect."""
        if not isinstance(error, ProcessFailedError):
            text = "" if isinstance(error, KeyboardInterrupt) else brief(error)
            with suppress(RuntimeError):
                if self._store is not None:
                    self._store.compare_set(_FAILURE, "", json.dumps([self.rank, text]))
            if isinstance(error, Exception):
                from torch.distributed.elastic.multiprocessing.errors import ErrorHandler  # noqa: PLC0415 - rarely used

                ErrorHandler().record_exception(error)
        if self._device.type == "cpu":
            self.leave()
        else:  # NCCL might wait for operations that will never end, until torch aborts them when the process ends
            for group in filter(None, (self._untimed, self._timed)):
                with suppress(RuntimeError):
                    dist.destroy_process_group(group)

    def leave(self) -> None:
        """Disconnect from the other processes."""
        with suppress(RuntimeError):
            if dist.is_initialized():  # not if joining failed
                dist.destroy_process_group()


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` has started, by its environment variables; without them, there is only one.

    Args:
        device: The setting ``device`` of the run.

    Raises:
        ValueError, ProcessFailedError: Any of `ProcessGroup` and `ProcessGroup.join`.
    """
    if _number("WORLD_SIZE", 1) == 1:
        yield SINGLE_PROCESS
        return
    group = ProcessGroup(device)
    try:
        group.join()
        yield group
    except BaseException as error:
        group.fail(error)
        raise
    group.leave()


def is_main_process() -> bool:
    """Return whether this is the main process, or the only one."""
    return _number("WORLD_SIZE", 1) == 1 or _number("RANK") == 0


@functools.cache
def _shared_store(address: str | None, port: str | None, timeout: timedelta) -> Any:
    """Return the store of all processes at the address in the environment.

    It is kept until the process ends. If each run opened it anew, where no ``torchrun`` keeps it, a process might
    connect to that of the run before, which the main process is about to close.
    """
    from torch.distributed.rendezvous import rendezvous  # noqa: PLC0415 - absent where torch.distributed is

    return next(rendezvous("env://", timeout=timeout))[0]


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise ValueError(
            f"the environment variable {name} must be a number where WORLD_SIZE is above 1, got {text!r}: start the "
            "processes with torchrun"
        )
    return int(text)


def _timeout() -> float:
    text = os.environ.get(TIMEOUT, str(_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ValueError(f"the environment variable {TIMEOUT} must be a number of seconds above 0, got {text!r}")
    return seconds
