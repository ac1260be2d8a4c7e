"""Which kernel runs which pass: decided by measurement, once for each kind of layer on each kind of machine.

A kernel of ours is chosen only where it was right and faster than torch on the very device (`tuning_trials`); what was
found is kept on disk (`tuning_cache`). Nothing of this runs where there is no GPU.
"""

from __future__ import annotations

import datetime
import functools
import importlib
import logging
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from preimage.ops._triton import has_triton
from preimage.ops.upconv import configs, tuning_cache, tuning_trials
from preimage.ops.upconv.configs import Config
from preimage.ops.upconv.tuning_cache import Entry, Record, Store, Trial
from preimage.ops.upconv.tuning_check import ROLES, Inputs, geometry

__all__ = ["Entry", "Record", "Trial", "choose", "clear", "entries", "path"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_log = logging.getLogger(__name__)
_lock = threading.RLock()  # one measurement at a time, and one thread in the stores
_choices: dict[Any, Config | None] = {}  # by everything that a choice depends on, to the number: the quick way
_stores: dict[int, Store] = {}  # by device index
_said = False


def choose(which: str, tensors: Inputs, negative_slope: float | None) -> Config | None:
    """The kernel configuration for a pass, or ``None``: torch (cuDNN) runs it.

    A kind of layer that is new to this machine is measured: a few seconds, most of them the compiler's. While a CUDA
    graph is captured, a graph traced, or anything but plain tensors given, what is not known yet is ``None``, and is
    measured at the next chance.

    Args:
        which: ``"forward"``, ``"dgrad"``, ``"wgrad"``, ``"image_backward"`` or ``"distance_backward"``.
        tensors: the tensors of the pass in the order of its signature in `plain`, ``None`` for one that is absent.
        negative_slope: as in the pass; for ``"wgrad"`` ``None``.

    Never raises for a measurement that failed: then torch runs the pass in this process, and the next one tries anew.
    """
    signature = _signature(which, tensors, negative_slope)
    if signature is None:
        return None
    try:
        return _choices[signature]
    except KeyError:
        pass
    candidates = _candidates(which, tensors)
    if not candidates:
        _choices[signature] = None
        return None
    may_measure = _may_measure(tensors)
    with _lock:
        if signature in _choices:  # measured by another thread while this one waited
            return _choices[signature]
        entry = _entry(which, tensors, negative_slope, candidates, may_measure)
        if entry is None and not may_measure:
            return None
        # Only what is a candidate for these very sizes is launched, whatever a file says.
        wanted = None if entry is None else entry.chosen
        found = next((config for config in candidates if tuning_cache.plain(config.to_list()) == wanted), None)
        _choices[signature] = found
        return found


def entries() -> tuple[Record, ...]:
    """All that was measured, of every machine that shares this cache, by file and key."""
    with _lock:
        return (*tuning_cache.records(), *(record for store in _stores.values() for record in store.unwritten()))


def clear() -> int:
    """Forgets every measurement, on disk and in this process; gives the number of files removed.

    Other processes keep what they have chosen until they end.

    Raises:
        OSError: a file cannot be removed.
    """
    with _lock:
        _choices.clear()
        _stores.clear()
        return tuning_cache.clear()


def path() -> Path:
    """The folder of the cache; it need not exist.

    ``$PREIMAGE_CACHE``, or ``$XDG_CACHE_HOME/preimage``, or ``~/.cache/preimage``.
    """
    return tuning_cache.folder()


def _signature(which: str, tensors: Inputs, negative_slope: float | None) -> tuple[Any, ...] | None:
    """What the choice depends on, to the number; ``None`` where no kernel can be asked for."""
    parts: list[Any] = [which, negative_slope is None]
    for role, tensor in zip(ROLES[which], tensors, strict=True):
        if tensor is None:
            parts.append(None)
            continue
        shape = tuple(tensor.shape)
        if tensor.dtype not in _dtypes(role) or not _on_gpu(tensor) or 0 in shape:
            return None
        if not all(type(size) is int for size in shape):
            return None  # a size that is only a symbol yet
        parts += (shape, tensor.dtype, tensor.device.index)
    return (*parts, *_flags())


def _dtypes(role: str) -> tuple[torch.dtype, ...]:
    return (torch.uint8,) if role == "target" else DTYPES


def _flags() -> tuple[bool, bool, bool]:
    """tf32 allowed; deterministic algorithms wanted; cuDNN's own search allowed: each changes torch's kernels."""
    cudnn = torch.backends.cudnn
    # The newer name where torch has it, as the kernels ask: the older one raises where the two disagree.
    named = getattr(getattr(cudnn, "conv", None), "fp32_precision", None)
    tf32 = cudnn.allow_tf32 if named is None else named == "tf32"
    return tf32, torch.are_deterministic_algorithms_enabled() or cudnn.deterministic, cudnn.benchmark


def _key(which: str, tensors: Inputs, negative_slope: float | None) -> str:
    """The kind of layer: backward passes by their exact map size, forward (photographs of any size) by pixels alone.

    Batches, and forward's pixels, count as the next power of two.
    """
    batch, in_channels, out_channels, height, width = geometry(which, tensors)
    maps = f"{_bucket(which, tensors)}px" if which == "forward" else f"{_power(batch)}x{height}x{width}"
    first = next(tensor for tensor in tensors if tensor is not None)
    tf32, deterministic, benchmark = _flags()
    parts = [which, f"{in_channels}->{out_channels}", maps, _name(first.dtype)]
    for role, tensor in zip(ROLES[which], tensors, strict=True):
        if tensor is not None and tensor.dtype not in (first.dtype, torch.uint8):
            parts.append(f"{role}:{_name(tensor.dtype)}")
    if which in ("forward", "dgrad") and tensors[2] is not None:
        parts.append("bias" if which == "forward" else "mask")
    parts += ["slope"] if negative_slope is not None else []
    parts += ["tf32"] if tf32 and first.dtype == torch.float32 else []
    parts += ["deterministic"] if deterministic else []
    parts += ["benchmark"] if benchmark else []
    return " ".join(parts)


def _bucket(which: str, tensors: Inputs) -> int:
    """Low-resolution pixels that the key stands for, never less than there are: what candidates are asked for.

    Those depend on the number of pixels: asked for the very number, a key's choice could be none of its next batch's.
    """
    batch, _, _, height, width = geometry(which, tensors)
    return _power(batch * height * width) if which == "forward" else _power(batch) * height * width


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _candidates(which: str, tensors: Inputs) -> tuple[Config, ...]:
    if not has_triton():
        return ()
    _, in_channels, out_channels, _, _ = geometry(which, tensors)
    first = next(tensor for tensor in tensors if tensor is not None)
    return configs.candidates(
        which, in_channels, out_channels, _bucket(which, tensors), first.dtype, _capability(first.device)
    )


def _entry(
    which: str, tensors: Inputs, negative_slope: float | None, candidates: tuple[Config, ...], may_measure: bool
) -> Entry | None:
    """From memory, disk, or measurement; ``None`` where that failed, or may not be. Holds the lock."""
    device = next(tensor.device for tensor in tensors if tensor is not None)
    store = _store(device)
    key = _key(which, tensors, negative_slope)
    entry = store.get(key)
    if entry is None and may_measure:
        _say(device)
        try:
            trials = tuning_trials.run_trials(which, tensors, negative_slope, candidates, _flags()[0])
        except Exception as error:  # out of memory, mostly: the caller's own pass still has its chance
            _log.warning("%s could not be measured, torch runs it: %s", key, error)
            return None
        best = tuning_trials.winner(trials)
        shape = " ".join("-" if tensor is None else "x".join(map(str, tensor.shape)) for tensor in tensors)
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        entry = Entry(best.config, tuple(trials), shape, now)
        store.put(key, entry)
        _log.debug("%s: %s", key, best.name)
    return entry


def _say(device: torch.device) -> None:
    global _said  # noqa: PLW0603 - once a process
    if not _said:
        _said = True
        name = _machine(device)["gpu"]
        _log.info("trying the up-convolution's kernels on this %s: a pause of seconds for each new layer, once", name)


def _store(device: torch.device) -> Store:
    index = -1 if device.index is None else device.index
    if index not in _stores:
        _stores[index] = Store(_machine(device))
    return _stores[index]


def _may_measure(tensors: Inputs) -> bool:
    """Plain tensors, nobody recording what is done with them."""
    return (
        all(tensor is None or type(tensor) in (torch.Tensor, torch.nn.Parameter) for tensor in tensors)
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and not _capturing()
    )


def _on_gpu(tensor: torch.Tensor) -> bool:
    return tensor.is_cuda


def _capturing() -> bool:
    return torch.cuda.is_current_stream_capturing()


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@functools.cache
def _machine(device: torch.device) -> dict[str, str]:
    """All that decides on right and fast, besides the key."""
    try:
        package = version("preimage")
    except PackageNotFoundError:  # run from a source tree
        package = "unknown"
    return {
        "gpu": torch.cuda.get_device_name(device),
        "capability": ".".join(map(str, _capability(device))),
        "torch": torch.__version__,
        "triton": importlib.import_module("triton").__version__,
        "cudnn": str(torch.backends.cudnn.version()),
        "package": package,
        "kernels": importlib.import_module("preimage.ops.upconv.kernels").SOURCE,
    }
