"""Reference definition of the colors of sparse keypoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def sift_colors(
    images: torch.Tensor,  # [B, 3, H, W] in [0, 1]
    x: torch.Tensor,  # [N]
    y: torch.Tensor,  # [N]
    offsets: torch.Tensor,  # [B + 1] int64
) -> torch.Tensor:  # [N, 3] float64
    """Return the colors of images at keypoints, interpolated bilinearly; outside the image those at its edge.

    The arguments but the first are fields of `preimage.Keypoints`.
    """
    height, width = images.shape[-2:]
    colors = []
    for index, image in enumerate(images.double()):
        points = slice(int(offsets[index]), int(offsets[index + 1]))
        # From pixels to the coordinates of grid_sample, in which the outermost centers are -1 and 1.
        across, down = (
            2 * position[points].double() / max(side - 1, 1) - 1 for position, side in ((x, width), (y, height))
        )
        places = torch.stack((across, down), dim=-1)[None, None]  # [1, 1, n, 2]
        found = F.grid_sample(image[None], places, mode="bilinear", padding_mode="border", align_corners=True)
        colors.append(found[0, :, 0].T)
    return torch.cat(colors) if colors else torch.zeros(0, 3, dtype=torch.float64)
