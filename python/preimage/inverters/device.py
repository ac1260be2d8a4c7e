"""The device that a network runs on."""

from __future__ import annotations

import torch


def checked_device(device: str | torch.device) -> torch.device:
    """A device that is there.

    Raises:
        ValueError: the name is none, or this machine or this build of torch has no such device.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is for example 'cpu' or 'cuda', got {str(device)!r}") from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} is not available here: `preimage doctor` says why; use 'cpu'")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {str(device)!r} does not exist: this machine has {torch.cuda.device_count()}")
    return wanted
