"""HOG as one would write it in plain torch for a whole batch on any device: what the kernels are compared with."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

ORIENTATIONS = 9


def torch_hog(images: torch.Tensor, cell_size: int = 8) -> torch.Tensor:
    """VLFeat's UoCTTI HOG of gray images (B, 1, H, W) in [0, 1] -> (B, 31, Hc, Wc); `cell_size` even.

    Equal to `preimage.hog` up to rounding.
    """
    # The length of the gradient in the plane of its direction, zero elsewhere and on the border.
    gx = F.pad(images[:, :, 1:-1, 2:] - images[:, :, 1:-1, :-2], (1, 1, 1, 1))
    gy = F.pad(images[:, :, 2:, 1:-1] - images[:, :, :-2, 1:-1], (1, 1, 1, 1))
    angles = torch.arange(ORIENTATIONS, dtype=torch.float64) * (math.pi / ORIENTATIONS)
    cosines, sines = (f(angles).to(images)[:, None, None] for f in (torch.cos, torch.sin))
    scores = gx * cosines + gy * sines  # [B, 9, H, W]
    bins = scores.abs().argmax(1, keepdim=True)  # the first of equals
    bins = bins + ORIENTATIONS * (scores.gather(1, bins) < 0)
    length = (gx.square() + gy.square()).sqrt()
    planes = torch.zeros_like(images).repeat(1, 2 * ORIENTATIONS, 1, 1).scatter_(1, bins, length)

    # Bilinear sums over cells: a triangle two cells wide, along rows and then along columns.
    rows, columns = ((side + cell_size // 2) // cell_size for side in images.shape[2:])
    ramp = (torch.arange(cell_size, dtype=torch.float64) + 0.5) / cell_size
    triangle = torch.cat([ramp, ramp.flip(0)]).to(images)[None, None]
    half = cell_size // 2
    pooled = F.pad(planes.flatten(0, 1)[:, None], (half, cell_size, half, cell_size))
    pooled = F.conv2d(pooled, triangle[..., None], stride=(cell_size, 1))
    pooled = F.conv2d(pooled, triangle[..., None, :], stride=(1, cell_size))
    directed = pooled[:, 0, :rows, :columns].unflatten(0, (len(images), -1))  # [B, 18, Hc, Wc]

    # Each cell, divided by the norm of each of the four blocks of 2 × 2 cells that hold it.
    undirected = directed[:, :ORIENTATIONS] + directed[:, ORIENTATIONS:]
    energy = F.pad(undirected.square().sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    blocks = 4 * F.avg_pool2d(energy, 2, stride=1)
    corners = [blocks[:, :, y : y + rows, x : x + columns] for y in (0, 1) for x in (0, 1)]
    scales = (torch.cat(corners, 1) + 1e-4).rsqrt()[:, None]  # [B, 1, 4, Hc, Wc]
    directed, undirected = ((part[:, :, None] * scales).clamp(max=0.2) for part in (directed, undirected))
    texture = undirected.sum(1) / math.sqrt(2 * ORIENTATIONS)
    return torch.cat([0.5 * directed.sum(2), 0.5 * undirected.sum(2), texture], dim=1)
