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
from preimage.io.arrays.stored import StoredArray
from preimage.io.atomic import StrPath

_LARGEST = 4 << 30  # bytes of a file
_DTYPES = {torch.float16: "<f2", torch.bfloat16: "<f4", torch.float32: "<f4", torch.float64: "<f8"}


def read_state_dict(path: StrPath) -> list[StoredArray]:
    """The floating-point tensors of a state_dict by name, or of one under ``"state_dict"``; bfloat16 as float32.

    Raises:
        FileFormatError: too large, damaged, or anything but tensors in plain containers: such files could run code.
    """
    loaded = load_guarded(path)
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping):
        raise FileFormatError(path, f"holds {type(loaded).__name__}, not a state_dict of tensors by name")
    arrays = []
    for name, tensor in loaded.items():
        if isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.dtype in _DTYPES:
            if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_nested:
                raise FileFormatError(path, f"{name!r} is no plain tensor")
            arrays.append(_stored(name, tensor.detach().resolve_neg()))
    if not arrays:
        raise FileFormatError(path, "holds no floating-point tensors by name")
    return arrays


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
    if code := re.search(r"GLOBAL (\S{1,100})", str(error)):
        return f"it holds {code[1]}; tensors by name in plain containers would be right"
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def _check_members(file: Any, size: int) -> None:
    """``ValueError`` for an archive that would grow: torch stores, and never compresses."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("an archive with compressed members, which torch does not write")
        if sum(member.file_size for member in members) > size:
            raise ValueError("an archive whose members are larger than itself")
