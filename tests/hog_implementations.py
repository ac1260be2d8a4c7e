"""The tellings of HOG under test: the plain reference, and the kernel with every instruction set there is here."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from preimage import _native, reference
from preimage.ops.hog import hog

Implementation = Callable[..., torch.Tensor]


def with_instruction_set(name: str) -> Implementation:
    """`preimage.hog` with PREIMAGE_ISA set for the length of the call."""

    def compute(images: Any, **options: Any) -> torch.Tensor:
        before = os.environ.get("PREIMAGE_ISA")
        os.environ["PREIMAGE_ISA"] = name
        try:
            return hog(images, **options)
        finally:
            if before is None:
                del os.environ["PREIMAGE_ISA"]
            else:
                os.environ["PREIMAGE_ISA"] = before

    return compute


def one_thread_reference(images: Any, **options: Any) -> torch.Tensor:
    """`preimage.reference.hog`; on a busy machine threads that wait for each other make it a hundred times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return reference.hog(images, **options)
    finally:
        torch.set_num_threads(before)


KERNELS: dict[str, Implementation] = {name: with_instruction_set(name) for name in _native.instruction_sets()}
IMPLEMENTATIONS: dict[str, Implementation] = {"reference": one_thread_reference, **KERNELS}
