"""Choose between the torch ops of the passes and their plain functions."""

from __future__ import annotations

from typing import Any

import torch

from preimage.ops.upconv import passes


def ops_for(maps: torch.Tensor) -> Any:
    """Return a namespace with the passes: ``torch.ops.preimage`` on CUDA or when compiling, otherwise `passes`.

    On the CPU torch's dispatcher would take longer than a small layer, and registering the ops longer than importing
    torch.
    """
    if not (maps.is_cuda or torch.compiler.is_compiling()):
        return passes
    from preimage.ops.upconv import torch_ops  # noqa: F401 - loads dynamo and inductor

    return torch.ops.preimage
