"""Implementations of each descriptor: the reference, the CPU kernel with every instruction set of this machine, CUDA.

All return tensors, also for NumPy arrays, so that results can be compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from preimage import Keypoints, dense_sift, hog, lbp, lbp_codes, reference
from preimage.ops import _native

Implementation = Callable[..., Any]


def as_tensors(result: Any) -> Any:
    """Convert NumPy results to tensors."""
    if isinstance(result, tuple):
        return tuple(map(as_tensors, result))
    if isinstance(result, Keypoints):
        return result.to_torch()
    return torch.from_numpy(result) if isinstance(result, np.ndarray) else result


def with_instruction_set(op: Implementation, name: str) -> Implementation:
    """Return the op with PREIMAGE_ISA set during each call."""

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
    """Return the reference limited to one thread: on a busy machine, waiting threads make it a hundred times slower."""

    def compute(images: Any, **options: Any) -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return plain(images, **options)
        finally:
            torch.set_num_threads(before)

    return compute


def on_cuda(op: Implementation) -> Implementation:
    """Return the op computed on the GPU, with results on the CPU."""

    def compute(images: Any, **options: Any) -> Any:
        tensor = torch.from_numpy(np.ascontiguousarray(images)) if isinstance(images, np.ndarray) else images
        result = op(tensor.cuda() if isinstance(tensor, torch.Tensor) else tensor, **options)
        return tuple(part.cpu() for part in result) if isinstance(result, tuple) else result.cpu()

    return compute


def kernels(op: Implementation) -> dict[str, Implementation]:
    """Return one implementation per instruction set of this processor."""
    return {name: with_instruction_set(op, name) for name in _native.instruction_sets()}


def cuda(op: Implementation) -> dict[str, Implementation]:
    """Return the implementation "cuda" if there is a device and the build has kernels for it, else nothing."""
    return {"cuda": on_cuda(op)} if torch.cuda.is_available() and _native.cuda_devices()["built"] else {}


OPS: dict[str, Implementation] = {"hog": hog, "lbp": lbp, "lbp_codes": lbp_codes, "dense_sift": dense_sift}
KERNELS = {name: kernels(op) for name, op in OPS.items()}
IMPLEMENTATIONS = {
    name: {"reference": with_one_thread(getattr(reference, name)), **KERNELS[name], **cuda(op)}
    for name, op in OPS.items()
}
