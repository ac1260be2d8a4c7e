"""Choose and check the device on which networks run."""

from __future__ import annotations

import torch

from preimage.representations.base import Representation


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return a device after checking that it exists.

    Args:
        device: ``"auto"`` (CUDA where available, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...

    Raises:
        ValueError: Not the name of a device, or a device that is not available.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {str(device)!r}") from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} is not available: use 'cpu' (`preimage doctor` explains why)")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {str(device)!r} does not exist; CUDA devices: {torch.cuda.device_count()}")
    return wanted


def extraction_device(
    representation: Representation, image_size: tuple[int, int], device: torch.device
) -> torch.device:
    """Return the device on which features are computed: `device` if the representation supports it, else the CPU.

    Args:
        representation: Representation, which is tried on one black image unless its features are computed in worker
            threads.
        image_size: (H, W) of the images.
        device: Preferred device.
    """
    cpu = torch.device("cpu")
    if device.type == "cpu" or representation.in_workers:
        return cpu
    try:
        with torch.no_grad():
            representation(torch.zeros(1, 3, *image_size, dtype=torch.uint8, device=device))
    except Exception:  # whatever the error is, the CPU is used
        return cpu
    return device
