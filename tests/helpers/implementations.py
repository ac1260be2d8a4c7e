"""The tellings of a descriptor under test: the plain reference, its kernel with every instruction set here, CUDA.

All give tensors, also of NumPy arrays, so that they can be compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from preimage import Keypoints
from preimage.ops import _native

Implementation = Callable[..., Any]


def as_tensors(result: Any) -> Any:
    """Results of NumPy arrays as tensors."""
    if isinstance(result, tuple):
        return tuple(map(as_tensors, result))
    if isinstance(result, Keypoints):
        return result.to_torch()
    return torch.from_numpy(result) if isinstance(result, np.ndarray) else result


def with_instruction_set(op: Implementation, name: str) -> Implementation:
    """The op with PREIMAGE_ISA set for the length of the call."""

    def compute(images: Any, **options: Any) -> Any:
        before = os.environ.get("PREIMAGE_ISA")
        os.environ["PREIMAGE_ISA"] = name
        try:
            return as_tensors(op(images, **options))
        finally:
            if before is None:
                del os.environ["PREIMAGE_ISA"]
            else:
                os.environ["PREIMAGE_ISA"] = before

    return compute


def with_one_thread(plain: Implementation) -> Implementation:
    """The reference; on a busy machine threads that wait for each other make it a hundred times slower."""

    def compute(images: Any, **options: Any) -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return plain(images, **options)
        finally:
            torch.set_num_threads(before)

    return compute


def on_cuda(op: Implementation) -> Implementation:
    """The op on the GPU, with the results brought back."""

    def compute(images: Any, **options: Any) -> Any:
        tensor = torch.from_numpy(np.ascontiguousarray(images)) if isinstance(images, np.ndarray) else images
        result = op(tensor.cuda() if isinstance(tensor, torch.Tensor) else tensor, **options)
        return tuple(part.cpu() for part in result) if isinstance(result, tuple) else result.cpu()

    return compute


def kernels(op: Implementation) -> dict[str, Implementation]:
    """One for every instruction set of this processor."""
    return {name: with_instruction_set(op, name) for name in _native.instruction_sets()}


def cuda(op: Implementation) -> dict[str, Implementation]:
    """One named cuda, where there is a device and the build has kernels for it; else nothing."""
    return {"cuda": on_cuda(op)} if torch.cuda.is_available() and _native.cuda_devices()["built"] else {}
