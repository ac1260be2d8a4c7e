"""HOG as one would write it in plain torch for a whole batch on any device: what the kernels are compared with."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def torch_hog(images: torch.Tensor, cell_size: int = 8) -> torch.Tensor:
    """VLFeat's UoCTTI HOG of grey images (B, 1, H, W) in [0, 1] -> (B, 31, Hc, Wc); `cell_size` even.

    Equal to `preimage.hog` up to rounding.
    """
    histograms = _pool(_directed_planes(images), cell_size)  # [B, 18, Hc, Wc]
    undirected = histograms[:, :9] + histograms[:, 9:]
    scales = _block_scales(undirected.square().sum(1, keepdim=True))  # [B, 4, Hc, Wc]
    return torch.cat(
        [
            *(0.5 * _clipped(part, scales).sum(2) for part in (histograms, undirected)),
            _clipped(undirected, scales).sum(1) / math.sqrt(18),
        ],
        dim=1,
    )


def _directed_planes(images: torch.Tensor) -> torch.Tensor:
    """(B, 18, H, W): the gradient's length in the plane of its direction, zero elsewhere and on the border."""
    gx = F.pad(images[:, :, 1:-1, 2:] - images[:, :, 1:-1, :-2], (1, 1, 1, 1))
    gy = F.pad(images[:, :, 2:, 1:-1] - images[:, :, :-2, 1:-1], (1, 1, 1, 1))
    angles = torch.arange(9, dtype=torch.float64) * (math.pi / 9)
    cosines, sines = (f(angles).to(images)[:, None, None] for f in (torch.cos, torch.sin))
    scores = gx * cosines + gy * sines  # [B, 9, H, W]
    bins = scores.abs().argmax(1, keepdim=True)  # the first of equals
    bins = bins + 9 * (scores.gather(1, bins) < 0)
    length = (gx.square() + gy.square()).sqrt()
    return torch.zeros_like(images).repeat(1, 18, 1, 1).scatter_(1, bins, length)


def _pool(planes: torch.Tensor, cell_size: int) -> torch.Tensor:
    """Bilinear sums over cells: a triangle two cells wide, along rows and then along columns."""
    batch, channels, height, width = planes.shape
    rows, columns = ((side + cell_size // 2) // cell_size for side in (height, width))
    ramp = (torch.arange(cell_size, dtype=torch.float64) + 0.5) / cell_size
    triangle = torch.cat([ramp, ramp.flip(0)]).to(planes)
    half = cell_size // 2
    padded = F.pad(planes.flatten(0, 1)[:, None], (half, cell_size, half, cell_size))
    pooled = F.conv2d(padded, triangle[None, None, :, None], stride=(cell_size, 1))
    pooled = F.conv2d(pooled, triangle[None, None, None, :], stride=(1, cell_size))
    return pooled[:, 0, :rows, :columns].reshape(batch, channels, rows, columns)


def _block_scales(energy: torch.Tensor) -> torch.Tensor:
    """(B, 4, Hc, Wc): one over the root of the energy of the four blocks of 2 x 2 cells that hold a cell."""
    padded = F.pad(energy, (1, 1, 1, 1), mode="replicate")
    blocks = 4 * F.avg_pool2d(padded, 2, stride=1)
    corners = [
        blocks[:, :, top : top + energy.shape[2], left : left + energy.shape[3]] for top in (0, 1) for left in (0, 1)
    ]
    return (torch.cat(corners, 1) + 1e-4).rsqrt()


def _clipped(histograms: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """(B, bins, 4, Hc, Wc)."""
    return (histograms[:, :, None] * scales[:, None]).clamp(max=0.2)
