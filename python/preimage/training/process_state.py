"""Change or keep state of the process for a run: signals, memory, cuDNN's choices, random generators."""

from __future__ import annotations

import ctypes
import platform
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np
import torch

# Parameters of glibc's mallopt, see malloc.h, with values for a run and for the time after it. Those after it are what
# malloc itself chooses once a program has freed a large block.
_MALLOC = (
    (-1, 2**31 - 1, 2**26),  # M_TRIM_THRESHOLD: bytes of free memory above which some are returned to the system
    (-2, 2**26, 2**17),  # M_TOP_PAD: bytes that are requested from the system beyond those needed
    (-3, 2**25, 2**25),  # M_MMAP_THRESHOLD: bytes from which a block is requested from the system, and returned to it
    (-4, 0, 2**16),  # M_MMAP_MAX: maximum number of such blocks
)


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Keep freed memory in the process, if the device is a CPU and the C library is glibc.

    Otherwise the large tensors of each step are new pages; clearing them takes up to a third of the time of a step.
    The settings are those of the process and replace values of ``MALLOC_`` variables. In other threads than the main
    one, blocks of 64 MB and more are returned nevertheless.
    """
    libc = ctypes.CDLL(None) if device.type == "cpu" and platform.libc_ver()[0] == "glibc" else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    for parameter, during, _ in _MALLOC:
        libc.mallopt(parameter, during)
    try:
        yield
    finally:
        for parameter, _, after in _MALLOC:
            libc.mallopt(parameter, after)
        libc.malloc_trim(ctypes.c_size_t(0))


@contextmanager
def cudnn_benchmark(device: torch.device) -> Iterator[None]:
    """Let cuDNN choose its algorithms by measuring if the device is a GPU, in steps and in validation alike."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Restore the random generators of Python, NumPy and torch at the end, those of accelerators included."""
    python, numpy, seed, cpu = random.getstate(), np.random.get_state(), torch.initial_seed(), torch.get_rng_state()
    started = [backend for backend in (torch.cuda, torch.xpu) if backend.is_initialized()]
    states = [backend.get_rng_state_all() for backend in started]
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if torch.cuda.is_available() and torch.cuda not in started:
            torch.cuda.manual_seed_all(seed)  # the seed that a first use of CUDA would have found
        torch.set_rng_state(cpu)
        for backend, state in zip(started, states, strict=True):
            backend.set_rng_state_all(state)
        if mps is not None:
            torch.mps.set_rng_state(mps)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets, so that a step is finished first; a second Ctrl-C stops at once.

    SIGTERM is what ``torchrun``, Slurm and container runtimes send some time before they kill a process. A process may
    get it twice, because Slurm sends it to all processes of a job, and ``torchrun`` passes it on to those it started.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in handlers.items() if handler is not None}  # not those set in C

    def note(number: int, frame: FrameType | None) -> None:
        event.set()
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    for number in before:
        signal.signal(number, note)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
