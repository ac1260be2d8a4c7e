"""Choose between the registered ops and the functions behind them."""

from __future__ import annotations

from typing import Any

import torch

from preimage.ops.upconv import passes


def ops_for(maps: torch.Tensor) -> Any:
    """Return what has the passes as attributes, for maps like these: the registered ops, or the functions behind them.

    On a CPU the way through the dispatcher would take longer than a small layer does, and registering the ops longer
    than importing torch.
    """
    if not (maps.is_cuda or torch.compiler.is_compiling()):
        return passes
    from preimage.ops.upconv import torch_ops  # noqa: F401 - loads dynamo and inductor

    return torch.ops.preimage
