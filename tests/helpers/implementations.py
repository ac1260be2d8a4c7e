"""List implementations of each descriptor: the reference, the CPU kernel with every instruction set, CUDA.

All return tensors, also for NumPy arrays, so that results can be compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
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


@contextlib.contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Make the kernels use an instruction set within a `with` block."""
    before = _native.instruction_set()
    _native.set_instruction_set(name)
    try:
        yield
    finally:
        _native.set_instruction_set(before)


def with_instruction_set(op: Implementation, name: str) -> Implementation:
    """Return the op computed with an instruction set."""

    def compute(images: Any, **options: Any) -> Any:
        with instruction_set(name):
            return as_tensors(op(images, **options))

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
