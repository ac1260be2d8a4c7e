"""Measure single images: contrast, fine detail and color."""

from __future__ import annotations

import torch

from preimage.metrics import luma

FINE = 1 / 8  # cycles per pixel; details under 8 pixels have higher frequencies


def contrast(images: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation of the luma of images (B, 3, H, W) in [0, 1], (B,)."""
    return luma(images).flatten(1).std(dim=1, correction=0)


def fine_detail(images: torch.Tensor) -> torch.Tensor:
    """Return the root mean square of the luma's frequencies above `FINE`, of images (B, 3, H, W) in [0, 1], (B,).

    Its square is the part of the luma's variance at these frequencies, with the image repeated periodically.
    """
    height, width = images.shape[2:]
    energy = torch.fft.fft2(luma(images).double()).abs().square() / (height * width) ** 2
    rows, columns = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.fftfreq(width, dtype=torch.float64)
    is_fine = torch.hypot(rows[:, None], columns[None]).to(images.device) > FINE
    return (energy * is_fine).sum(dim=(1, 2)).sqrt().to(images.dtype)


def colorfulness(images: torch.Tensor) -> torch.Tensor:
    """Return the root mean square difference of the channels of images (B, 3, H, W) from their mean, (B,)."""
    return (images - images.mean(dim=1, keepdim=True)).square().flatten(1).mean(dim=1).sqrt()
