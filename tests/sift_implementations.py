"""The tellings of dense SIFT under test: the plain reference, and the kernel with every instruction set here."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from preimage import _native, reference
from preimage.ops.sift import dense_sift

Implementation = Callable[..., Any]


def with_instruction_set(name: str) -> Implementation:
    """`preimage.dense_sift` with PREIMAGE_ISA set for the length of the call."""

    def compute(images: Any, **options: Any) -> Any:
        before = os.environ.get("PREIMAGE_ISA")
        os.environ["PREIMAGE_ISA"] = name
        try:
            return dense_sift(images, **options)
        finally:
            if before is None:
                del os.environ["PREIMAGE_ISA"]
            else:
                os.environ["PREIMAGE_ISA"] = before

    return compute


def one_thread_reference(images: Any, **options: Any) -> Any:
    """`preimage.reference.dense_sift`; on a busy machine threads that wait for each other make it far slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return reference.dense_sift(images, **options)
    finally:
        torch.set_num_threads(before)


def on_cuda(images: Any, **options: Any) -> Any:
    """`preimage.dense_sift` on the GPU, with the results brought back."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)) if isinstance(images, np.ndarray) else images
    result = dense_sift(tensor.cuda(), **options)
    return tuple(part.cpu() for part in result) if isinstance(result, tuple) else result.cpu()


KERNELS: dict[str, Implementation] = {name: with_instruction_set(name) for name in _native.instruction_sets()}
CUDA: dict[str, Implementation] = (
    {"cuda": on_cuda} if torch.cuda.is_available() and _native.cuda_devices()["built"] else {}
)
IMPLEMENTATIONS: dict[str, Implementation] = {"reference": one_thread_reference, **KERNELS, **CUDA}
