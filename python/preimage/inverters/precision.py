"""Choose between float32 and bfloat16 by what a device computes without emulation."""

from __future__ import annotations

import functools

import torch

PRECISIONS = ("auto", "float32", "bfloat16")


@functools.cache
def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device has instructions for it, else float32: emulation is several times slower."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if native else torch.float32


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype for a setting of ``"auto"``, ``"float32"`` or ``"bfloat16"``; ``ValueError`` for another one."""
    if name not in PRECISIONS:
        raise ValueError(f"precision must be {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, got {name!r}")
    if name == "auto":
        return fastest_dtype(device)
    return torch.float32 if name == "float32" else torch.bfloat16
