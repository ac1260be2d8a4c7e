"""Trials of the candidates for one pass: right numbers first (`tuning_check`), then time."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from preimage.ops.upconv import tuning_cache
from preimage.ops.upconv.tuning_cache import Trial
from preimage.ops.upconv.tuning_check import (
    Check,
    Inputs,
    error_of,
    geometry,
    outputs,
    random_inputs,
    run_kernel,
    run_torch,
    small_inputs,
)

_SECONDS = 2.0  # of timing a key, at most
_SECONDS_EACH = 0.2  # of timing a candidate
_ROUNDS = (5, 100)
_HOPELESS = 2.5  # times the best: not timed any further
_WIN = 0.98  # of torch's time; what is no faster than this is noise


def run_trials(
    which: str, tensors: Inputs, negative_slope: float | None, configs: Sequence[Any], tf32: bool
) -> list[Trial]:
    """Checks and times every configuration beside torch, whose trial is the first of the results.

    Nothing of the caller's is touched: the inputs are random ones of the same shapes, dtypes and device, from a
    generator of their own, and neither autograd nor autocast sees any of it.

    Raises:
        Exception: whatever torch itself raises, and `torch.OutOfMemoryError` of any candidate: then nothing is known.
    """
    device = next(tensor.device for tensor in tensors if tensor is not None)
    with torch.no_grad(), torch.autocast(device.type, enabled=False), on_device(device):
        generator = torch.Generator(device).manual_seed(0)
        checks = [Check(which, inputs, negative_slope, tf32) for inputs in small_inputs(which, tensors, generator)]
        inputs = random_inputs(which, tensors, geometry(which, tensors), generator)
        errors: dict[int, float | str] = {}
        usual = outputs(run_torch(which, inputs, negative_slope))
        for number, config in enumerate(configs):
            errors[number] = error_of(which, inputs, negative_slope, config, checks, usual, tf32)
        del usual, checks
        right = [number for number, error in errors.items() if isinstance(error, float)]
        functions = [lambda: run_torch(which, inputs, negative_slope)]
        functions += [_bound(which, inputs, negative_slope, configs[number]) for number in right]
        medians = _medians(functions, device) if right else [None]
    trials = [Trial("torch", None, medians[0], None, None)]
    times = dict(zip(right, medians[1:], strict=True))
    for number, config in enumerate(configs):
        found = errors[number]
        error, reason = (found, None) if isinstance(found, float) else (None, found)
        trials.append(Trial(str(config), tuning_cache.plain(config.to_list()), times.get(number), error, reason))
    return trials


def winner(trials: Sequence[Trial]) -> Trial:
    """The fastest of those that may be chosen; torch, the first, unless it is beaten by more than noise."""
    usual, *others = trials
    timed = [trial for trial in others if trial.reason is None and trial.milliseconds is not None]
    best = min(timed, key=lambda trial: trial.milliseconds or 0.0, default=usual)
    if best.milliseconds is None or usual.milliseconds is None or best.milliseconds >= _WIN * usual.milliseconds:
        return usual
    return best


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Launches go to `device`, on the stream that is current there."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _bound(which: str, inputs: Inputs, negative_slope: float | None, config: Any) -> Callable[[], Any]:
    return lambda: run_kernel(which, inputs, negative_slope, config)


def _medians(functions: Sequence[Callable[[], Any]], device: torch.device) -> list[float | None]:
    """Milliseconds of each function, from rounds of all of them; of a hopeless one what the first rounds gave."""
    flush = flusher(device)
    time_round(functions, flush)  # warms up
    first = [time_round(functions, flush) for _ in range(3)]
    medians: list[float | None] = [statistics.median(times) for times in zip(*first, strict=True)]
    best = min(median for median in medians if median is not None)
    kept = [number for number, median in enumerate(medians) if number == 0 or (median or 0.0) <= _HOPELESS * best]
    rounds: list[list[float]] = []
    begin, limit = clock(), min(_SECONDS, _SECONDS_EACH * len(kept))
    while len(rounds) < _ROUNDS[0] or (len(rounds) < _ROUNDS[1] and clock() - begin < limit):
        rounds.append(time_round([functions[number] for number in kept], flush))
    for number, times in zip(kept, zip(*rounds, strict=True), strict=True):
        medians[number] = statistics.median(times)
    return medians


def clock() -> float:
    """Seconds."""
    return time.perf_counter()


def flusher(device: torch.device) -> Callable[[], None]:
    """A function that fills the second-level cache with something else, for 0.3 ms or so.

    In that time Python has the launches of the next candidate ready: what is timed is the device, not Python.
    """
    cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 64 << 20)
    scratch = torch.empty(max(4 * cache, 64 << 20), dtype=torch.uint8, device=device)
    scratch.zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    scratch.zero_()
    end.record()
    end.synchronize()
    fills = max(1, min(8, math.ceil(0.3 / max(start.elapsed_time(end), 1e-3))))

    def flush() -> None:
        for _ in range(fills):
            scratch.zero_()

    return flush


def time_round(functions: Sequence[Callable[[], Any]], flush: Callable[[], None]) -> list[float]:
    """Milliseconds of each function on the device, run one after the other."""
    spans = []
    for function in functions:
        flush()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        spans.append((start, end))
    spans[-1][1].synchronize()
    return [start.elapsed_time(end) for start, end in spans]
