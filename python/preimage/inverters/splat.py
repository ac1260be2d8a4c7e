"""Keypoints on a grid drawn as the gradients they tell of: a fixed first layer for sparse SIFT."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS = 133  # of `preimage.sift_grid`: descriptor, x and y in the cell, sine, cosine, logarithm of the scale
ORIENTATIONS = 12
_BIN = 3.0  # side of a descriptor's spatial bin, in scales
_WINDOW = 2.0  # standard deviation of the Gaussian that weighs a descriptor's bins, in bins
_NEARLY_NONE = 0.02  # weight under which a cell counts as mostly unseen


class KeypointSplat(nn.Module):
    """Turns descriptors upright: histograms of gradient directions where they are in the image, as HOG has them.

    A descriptor tells gradients in its keypoint's own frame, turned by the angle and stretched by the scale. A
    convolution would have to learn that for every angle and scale. Here each of the 16 histograms of a keypoint is
    turned into the image's frame and laid down where it was taken, on a map whose cells are about as large as its
    bins: cells of `cell` pixels for the finest, twice that for the next, and so on. Where several keypoints tell of
    one cell their histograms are averaged, with the weights that SIFT's Gaussian window gave them.

    Args:
        grid_cell: side of the grid's cells in pixels.
        cell: side of the finest map's cells in pixels, a multiple of `grid_cell`.
        levels: maps, each of cells twice as large as the one before.
    """

    scales: torch.Tensor  # [133, 1, 1]

    def __init__(self, grid_cell: int, cell: int, levels: int) -> None:
        super().__init__()
        self.grid_cell, self.cell, self.levels = grid_cell, cell, levels
        self.out_channels = levels * (ORIENTATIONS + 1)
        # So that the grid's channels, as they are, come to about 1 in cells that hold a keypoint.
        scales = torch.tensor([8.0] * 128 + [2 / grid_cell] * 2 + [1.0] * 2 + [0.5])
        self.register_buffer("scales", scales[:, None, None], persistent=False)

    def scaled(self, features: torch.Tensor) -> torch.Tensor:
        """The features (B, 133, h, w) themselves, of about one size in all channels."""
        return features * self.scales

    @torch.no_grad()
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, 133, h, w) as they come from `preimage.sift_grid` → float32 (B, levels · 13, h', w').

        h' = ⌊h · grid_cell / cell⌋: what is left over at the lower and right edge has no cell. Of each level 12
        directions, k · 30° from +x towards +y, and how well the cell is covered, 0 to 1. Computed in float32 under
        autocast too; no gradient flows back to the features. The numbers do not depend on the number of threads.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self._maps(features.float())

    def _maps(self, features: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = features.shape
        image, row, column = (features[:, 130].square() + features[:, 131].square()).nonzero(as_tuple=True)
        keypoints = features[image, :, row, column]  # [N, 133]
        upright = _turned(keypoints)  # [N, 16, 12]
        window = _window(features.device)  # [16]
        told = torch.cat((upright, window[:, None].expand(len(upright), 16, 1)), dim=2)  # [N, 16, 13]

        rows, columns = (side * self.grid_cell // self.cell for side in (height, width))
        shapes = [(-(-rows // 2**level), -(-columns // 2**level)) for level in range(self.levels)]
        level, y, x = self._places(keypoints, row, column)
        heights, widths = torch.tensor(shapes, device=features.device).T
        starts = batch * torch.tensor([0] + [h * w for h, w in shapes[:-1]], device=features.device).cumsum(0)
        canvas = features.new_zeros(batch * sum(h * w for h, w in shapes), ORIENTATIONS + 1)
        h, w = heights[level][:, None], widths[level][:, None]
        first = starts[level][:, None] + image[:, None] * h * w
        for below in (0, 1):
            for right in (0, 1):
                i, j = y.floor() + below, x.floor() + right
                inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
                share = torch.where(inside, (1 - (y - i).abs()) * (1 - (x - j).abs()), 0)  # [N, 16]
                cells = torch.where(inside, first + i.long() * w + j.long(), first)
                _add_rows(canvas, cells.view(-1), (told * share[:, :, None]).view(-1, ORIENTATIONS + 1))

        maps: list[torch.Tensor] = []
        start = 0
        for h_level, w_level in shapes:
            part = canvas[start : start + batch * h_level * w_level]
            start += len(part)
            weight = part[:, -1:]
            part = torch.cat((4 * part[:, :-1] / (weight + _NEARLY_NONE), weight / (weight + 0.5)), dim=1)
            level_map = part.view(batch, h_level, w_level, -1).permute(0, 3, 1, 2)
            enlarged = (
                F.interpolate(level_map, scale_factor=float(2 ** len(maps)), mode="bilinear") if maps else level_map
            )
            maps.append(enlarged[:, :, :rows, :columns])
        return torch.cat(maps, dim=1)

    def _places(
        self, keypoints: torch.Tensor, row: torch.Tensor, column: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The level [N] of each keypoint, and where its 16 bins lie on it, [N, 16], in cells from the first center."""
        sine, cosine = keypoints[:, 130:131], keypoints[:, 131:132]
        bin_size = _BIN * keypoints[:, 132].exp()
        level = torch.log2(bin_size / self.cell).round().nan_to_num().clamp(0, self.levels - 1).long()  # an index
        steps = torch.arange(4, device=keypoints.device) - 1.5
        down, along = (grid.reshape(1, 16) * bin_size[:, None] for grid in torch.meshgrid(steps, steps, indexing="ij"))
        x = (column * self.grid_cell + keypoints[:, 128])[:, None] + cosine * along - sine * down
        y = (row * self.grid_cell + keypoints[:, 129])[:, None] + sine * along + cosine * down
        side = (self.cell * 2**level)[:, None]
        return level, y / side - 0.5, x / side - 0.5


def _add_rows(canvas: torch.Tensor, cells: torch.Tensor, values: torch.Tensor) -> None:
    """canvas[cells[k]] += values[k] for all k, one after the other: the same sums in every run.

    Each device has one operation that is both in order and fast: index_put_ races on a CPU with several threads,
    scatter_add_ on a GPU.
    """
    if canvas.is_cuda:
        canvas.index_put_((cells,), values, accumulate=True)
    else:
        canvas.scatter_add_(0, cells[:, None].expand_as(values), values)


def _turned(keypoints: torch.Tensor) -> torch.Tensor:
    """The histograms [N, 16, 8] of descriptors as [N, 16, 12] in the image's directions, linear between bins."""
    angle = torch.atan2(keypoints[:, 130], keypoints[:, 131]) * (8 / (2 * math.pi))
    wanted = torch.arange(ORIENTATIONS, device=keypoints.device) * (8 / ORIENTATIONS)
    bins = torch.arange(8, device=keypoints.device)
    away = (wanted[None, None, :] - angle[:, None, None] - bins[None, :, None] + 4) % 8 - 4  # [N, 8, 12]
    return torch.bmm(keypoints[:, :128].reshape(-1, 16, 8), (1 - away.abs()).clamp_min(0))


def _window(device: torch.device) -> torch.Tensor:
    """[16] weights that SIFT's Gaussian window gives the spatial bins."""
    square = (torch.arange(4, device=device) - 1.5).square()
    return torch.exp(-(square[:, None] + square[None, :]) / (2 * _WINDOW**2)).reshape(16)
