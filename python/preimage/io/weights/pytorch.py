"""Read ``.pth`` and ``.pt`` files. Only this module loads pickles, and it restricts them to tensors."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.arrays.stored_arrays import StoredArray
from preimage.io.atomic import StrPath

_CHECKPOINT_KEYS = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params")
_MOST_SHOWN = 6  # number of names in a message
_LARGEST = 4 << 30  # size of a file in bytes
_DTYPES = {torch.float16: "<f2", torch.bfloat16: "<f4", torch.float32: "<f4", torch.float64: "<f8"}


def read_state_dict(path: StrPath) -> list[StoredArray]:
    """Return the floating-point tensors of a state_dict or of a checkpoint that contains one; bfloat16 as float32.

    Raises:
        FileFormatError: The file is too large or damaged, contains anything but tensors in plain containers, whose
            loading could run code, or contains several state_dicts, none under a usual name.
    """
    loaded = _state_dict(path, load_guarded(path))
    arrays = []
    for name, tensor in loaded.items():
        if isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.dtype in _DTYPES:
            if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_nested:
                kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
                came = kind if tensor.device.type == "cpu" else f"on the device {tensor.device.type}"
                raise FileFormatError(path, f"{name!r} must be a dense tensor on the CPU, got one that is {came}")
            if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
                raise FileFormatError(path, f"{name!r} of shape {tuple(tensor.shape)} has more values than are stored")
            arrays.append(_stored(name, tensor.detach().resolve_neg()))
    if not arrays:
        raise FileFormatError(path, "contains no floating-point tensors by name")
    return arrays


def _state_dict(path: StrPath, loaded: Any, depth: int = 3) -> Mapping[Any, Any]:
    """Return the loaded mapping if it contains tensors, or else the only or usually named state_dict in it."""
    if not isinstance(loaded, Mapping):
        raise FileFormatError(path, f"must contain a state_dict of tensors by name, got {type(loaded).__name__}")
    if depth == 0 or any(isinstance(value, torch.Tensor) and value.is_floating_point() for value in loaded.values()):
        return loaded
    inner = {key: value for key, value in loaded.items() if isinstance(value, Mapping) and _holds_tensors(value, depth)}
    usual = [key for key in _CHECKPOINT_KEYS if key in inner]
    if len(inner) > 1 and not usual:
        raise FileFormatError(
            path, f"contains several state_dicts ({', '.join(map(repr, inner))}): save only one of them"
        )
    for key in [*usual, *inner][:1]:
        return _state_dict(path, inner[key], depth - 1)
    keys = ", ".join(repr(key) for key in list(loaded)[:_MOST_SHOWN]) or "nothing"
    raise FileFormatError(path, f"contains no floating-point tensors by name, only {keys}")


def _holds_tensors(entry: Mapping[Any, Any], depth: int) -> bool:
    return any(
        isinstance(name, str)
        and (isinstance(value, torch.Tensor) or (depth > 1 and isinstance(value, Mapping) and _holds_tensors(value, 1)))
        for name, value in entry.items()
    )


def _stored(name: str, tensor: torch.Tensor) -> StoredArray:
    def load() -> NDArray[Any]:
        values: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        return values

    return StoredArray(name, tuple(tensor.shape), np.dtype(_DTYPES[tensor.dtype]), load)


def load_guarded(path: StrPath) -> Any:
    """Load tensors in plain containers from an untrusted file with `torch.load`, on the CPU.

    Raises:
        FileFormatError: The file is damaged or contains other objects.
        OSError: The file cannot be opened.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > _LARGEST:
            raise FileFormatError(path, f"must have at most {_LARGEST} bytes, got {size}")
        try:
            _check_members(file, size)
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about how the file was saved, which the user cannot change
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises nearly any exception for damaged files
            raise FileFormatError(path, f"cannot be loaded as tensors only: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return torch's message without its advice to load the file in a way that runs code."""
    text = str(error).strip()
    if code := re.search(r"(?:GLOBAL|class) ([\w.<>]{1,100})", text):
        return (
            f"it contains a pickled {code[1]}, which could run code when loaded; save tensors by name instead: "
            "torch.save(model.state_dict(), ...)"
        )
    if isinstance(error, _NotTensorsError):
        return text
    if "weights_only" in text or "weights only" in text.lower():
        return "it is not a state_dict saved by torch, or it is damaged"
    return text.partition("\n")[0][:200] or type(error).__name__


class _NotTensorsError(ValueError):
    """The file contains something other than tensors."""


def _check_members(file: Any, size: int) -> None:
    """Raise ``_NotTensorsError`` for TorchScript and for compressed archives, which torch does not write."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        if any(member.filename.endswith("/constants.pkl") or "/code/" in member.filename for member in members):
            raise _NotTensorsError(
                "it is TorchScript (torch.jit.save), which contains code; save tensors by name instead: "
                "torch.save(torch.jit.load(FILE).state_dict(), ...)"
            )
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise _NotTensorsError("an archive with compressed members, which torch does not write")
        if sum(member.file_size for member in members) > size:
            raise _NotTensorsError("an archive with members larger than the file")
