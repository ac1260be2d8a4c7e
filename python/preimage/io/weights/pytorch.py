"""PyTorch's ``.pth`` and ``.pt``: the one place where a foreign pickle is opened, for tensors only."""

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
_MOST_SHOWN = 6  # names in a message
_LARGEST = 4 << 30  # bytes of a file
_DTYPES = {torch.float16: "<f2", torch.bfloat16: "<f4", torch.float32: "<f4", torch.float64: "<f8"}


def read_state_dict(path: StrPath) -> list[StoredArray]:
    """The floating-point tensors of a state_dict by name, or of the one in a checkpoint; bfloat16 as float32.

    Raises:
        FileFormatError: too large, damaged, or anything but tensors in plain containers: such files could run code. Or
            a checkpoint with several state_dicts, none under a usual name.
    """
    loaded = _state_dict(path, load_guarded(path))
    arrays = []
    for name, tensor in loaded.items():
        if isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.dtype in _DTYPES:
            if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_nested:
                kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
                came = kind if tensor.device.type == "cpu" else f"on the device {tensor.device.type}"
                raise FileFormatError(path, f"{name!r} is {came}; plain dense tensors with values are read")
            arrays.append(_stored(name, tensor.detach().resolve_neg()))
    if not arrays:
        raise FileFormatError(path, "holds no floating-point tensors by name")
    return arrays


def _state_dict(path: StrPath, loaded: Any, depth: int = 3) -> Mapping[Any, Any]:
    """Return what was loaded, if it holds tensors, or else the state_dict in it, by a usual name or the only one."""
    if not isinstance(loaded, Mapping):
        raise FileFormatError(path, f"holds {type(loaded).__name__}, not a state_dict of tensors by name")
    if depth == 0 or any(isinstance(value, torch.Tensor) and value.is_floating_point() for value in loaded.values()):
        return loaded
    inner = {key: value for key, value in loaded.items() if isinstance(value, Mapping) and _holds_tensors(value, depth)}
    usual = [key for key in _CHECKPOINT_KEYS if key in inner]
    if len(inner) > 1 and not usual:
        raise FileFormatError(
            path, f"holds several state_dicts ({', '.join(map(repr, inner))}): save the one that is meant alone"
        )
    for key in [*usual, *inner][:1]:
        return _state_dict(path, inner[key], depth - 1)
    keys = ", ".join(repr(key) for key in list(loaded)[:_MOST_SHOWN]) or "nothing"
    raise FileFormatError(path, f"holds no floating-point tensors by name; it holds {keys}")


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
    """`torch.load` of a file that nobody vouches for: tensors and plain containers only, on the CPU.

    Raises:
        FileFormatError: whatever goes wrong, as torch raises nearly any exception on damaged files.
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > _LARGEST:
            raise FileFormatError(path, f"has {size} bytes; {_LARGEST} are allowed")
        try:
            _check_members(file, size)
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the kinds that torch saves, none is for the user to mend
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise FileFormatError(path, f"cannot be loaded as tensors alone: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Without torch's advice to load the file in the way that runs its code."""
    text = str(error).strip()
    if code := re.search(r"(?:GLOBAL|class) ([\w.<>]{1,100})", text):
        return (
            f"it holds a pickled {code[1]}, and to load that could run code; tensors by name would be right: "
            "torch.save(model.state_dict(), ...)"
        )
    if isinstance(error, _NotTensorsError):
        return text
    if "weights_only" in text or "weights only" in text.lower():
        return "it is no state_dict that torch saved, or damaged"
    return text.partition("\n")[0][:200] or type(error).__name__


class _NotTensorsError(ValueError):
    """A file is seen to hold something else before torch opens it."""


def _check_members(file: Any, size: int) -> None:
    """``_NotTensorsError`` for TorchScript, and an archive that would grow: torch never compresses tensors."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        if any(member.filename.endswith("/constants.pkl") or "/code/" in member.filename for member in members):
            raise _NotTensorsError(
                "it is TorchScript (torch.jit.save), which holds code; tensors by name would be right: "
                "torch.save(torch.jit.load(FILE).state_dict(), ...)"
            )
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise _NotTensorsError("an archive with compressed members, which torch does not write for tensors")
        if sum(member.file_size for member in members) > size:
            raise _NotTensorsError("an archive whose members are larger than itself")
