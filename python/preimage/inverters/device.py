"""The device that networks run on."""

from __future__ import annotations

import torch

from preimage.representations.base import Representation


def checked_device(device: str | torch.device = "auto") -> torch.device:
    """Return a device that exists.

    Args:
        device: ``"auto"`` (CUDA where there is a device, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...

    Raises:
        ValueError: not the name of a device, or this machine or this build of torch has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is for example 'auto', 'cpu' or 'cuda', got {str(device)!r}") from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} is not available here: `preimage doctor` says why; use 'cpu'")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {str(device)!r} does not exist: this machine has {torch.cuda.device_count()}")
    return wanted


def extraction_device(
    representation: Representation, image_size: tuple[int, int], device: torch.device
) -> torch.device:
    """Return where features are computed: on `device` if the representation can, else on the CPU.

    Args:
        representation: tried on one black image, unless it computes in workers, which are threads of the CPU.
        image_size: (H, W) of the images.
        device: the one wanted.
    """
    cpu = torch.device("cpu")
    if device.type == "cpu" or representation.in_workers:
        return cpu
    try:
        with torch.no_grad():
            representation(torch.zeros(1, 3, *image_size, dtype=torch.uint8, device=device))
    except Exception:  # whatever it is, the CPU does it
        return cpu
    return device
