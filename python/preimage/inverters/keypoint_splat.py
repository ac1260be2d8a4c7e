"""A fixed first layer for sparse SIFT: maps of the gradients and colors described by the keypoints of a grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from preimage.keypoints import COLORS, GRID_CHANNELS

CHANNELS = (GRID_CHANNELS, GRID_CHANNELS + COLORS)  # numbers of channels of `preimage.sift_grid`
ORIENTATIONS = 12
_BIN = 3.0  # side of a descriptor's spatial bin, in scales
_WINDOW = 2.0  # standard deviation of the Gaussian that weighs a descriptor's bins, in bins
_NEARLY_NONE = 0.02  # weight below which a cell counts as hardly covered by keypoints
_COLOR = 4.0  # factor that scales colors, which are within 0.5 of gray, to about 1


class KeypointSplat(nn.Module):
    """Map descriptors to histograms of gradient directions at their positions in the image, as in HOG.

    A descriptor contains gradients in the frame of its keypoint, rotated by the angle and scaled. A convolution would
    have to learn this for every angle and scale. Here each of the 16 histograms of a keypoint is rotated into the frame
    of the image and added at its position to a map whose cells are about as large as its bins: cells of `cell` pixels
    for the finest map, twice that for the next, and so on. Histograms of several keypoints in one cell are averaged,
    with the weights of SIFT's Gaussian window.

    Colors are averaged in cells of the same sizes. Each color is added to the maps of all levels, because a keypoint
    does not contain how far its color extends.

    Args:
        grid_cell: Side of the grid's cells in pixels.
        cell: Side of the finest map's cells in pixels, a multiple of `grid_cell`.
        levels: Number of maps, each with cells twice as large as the one before.
        channels: Number of channels of the grid, one of `CHANNELS`; the larger one is with colors.
    """

    scales: torch.Tensor  # [133 or 136, 1, 1]

    def __init__(self, grid_cell: int, cell: int, levels: int, channels: int = GRID_CHANNELS) -> None:
        super().__init__()
        self.grid_cell, self.cell, self.levels = grid_cell, cell, levels
        self.has_colors = channels > GRID_CHANNELS
        self.out_channels = levels * (ORIENTATIONS + 1 + (COLORS + 1) * self.has_colors)
        # Factors that scale the channels of the grid to about 1 in cells with a keypoint.
        scales = torch.tensor([8.0] * 128 + [2 / grid_cell] * 2 + [1.0] * 2 + [0.5] + [_COLOR] * COLORS)[:channels]
        self.register_buffer("scales", scales[:, None, None], persistent=False)

    def scaled(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features (B, C, h, w), scaled to about the same range in all channels."""
        return features * self.scales

    @torch.no_grad()
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return maps (B, levels · 13, h', w') float32 of features (B, 133, h, w) of `preimage.sift_grid`.

        h' = ⌊h · grid_cell / cell⌋: an incomplete cell at the lower and right edge is dropped. Each level has 12
        directions, k · 30° from +x towards +y, and the coverage of the cell, 0 to 1. With colors, features are (B, 136,
        h, w), and levels · 4 channels follow: red, green, blue and their coverage. The maps are computed in float32,
        also under autocast, and have no gradients with respect to the features. They do not depend on the number of
        threads.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self._maps(features.float())

    def _maps(self, features: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = features.shape
        image, row, column, used = (_every_cell if features.is_cuda else _cells_with_keypoints)(features)
        keypoints = features[image, :, row, column]  # [N, C]
        upright = _rotated(keypoints)  # [N, 16, 12]
        window = _window(features.device)  # [16]
        values = torch.cat((upright, window[:, None].expand(len(upright), 16, 1)), dim=2)  # [N, 16, 13]

        rows, columns = (side * self.grid_cell // self.cell for side in (height, width))
        shapes = [(-(-rows // 2**level), -(-columns // 2**level)) for level in range(self.levels)]
        starts = [batch * sum(h * w for h, w in shapes[:level]) for level in range(self.levels + 1)]
        canvas = features.new_zeros(starts[-1], ORIENTATIONS + 1)
        level, y, x = self._positions(keypoints, row, column)
        begin, h, w = (_at_level(level, numbers)[:, None] for numbers in (starts[:-1], *zip(*shapes, strict=True)))
        _splat(canvas, values, (y, x), (begin + image[:, None] * h * w, h, w), used)
        parts = [canvas[start:end] for start, end in itertools.pairwise(starts)]
        maps = _enlarged(parts, shapes, batch, (rows, columns), 4.0)
        if self.has_colors:
            parts = self._colors(keypoints, image, row, column, used, shapes, batch)
            maps += _enlarged(parts, shapes, batch, (rows, columns), _COLOR)
        return torch.cat(maps, dim=1)

    def _colors(
        self,
        keypoints: torch.Tensor,  # [N, 136]
        image: torch.Tensor,  # [N] int64, also the next two
        row: torch.Tensor,
        column: torch.Tensor,
        used: torch.Tensor,  # [N] bool
        shapes: Sequence[tuple[int, int]],
        batch: int,
    ) -> list[torch.Tensor]:
        """Return the sums of the colors and of their weights in the cells of each level, [B · h · w, 4]."""
        colors = keypoints[:, GRID_CHANNELS:]  # [N, 3]
        known = (colors != 0).any(dim=1, keepdim=True)
        values = torch.cat((colors, known.to(colors)), dim=1)[:, None]  # [N, 1, 4]
        parts = []
        for level, (h, w) in enumerate(shapes):
            canvas = keypoints.new_zeros(batch * h * w, COLORS + 1)
            side = self.cell * 2**level
            y = (row * self.grid_cell + keypoints[:, 129])[:, None] / side - 0.5
            x = (column * self.grid_cell + keypoints[:, 128])[:, None] / side - 0.5
            _splat(canvas, values, (y, x), (image[:, None] * (h * w), h, w), used & known[:, 0])
            parts.append(canvas)
        return parts

    def _positions(
        self, keypoints: torch.Tensor, row: torch.Tensor, column: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the level [N] of each keypoint, and the rows and columns of its 16 bins, [N, 16], in cells."""
        sine, cosine = keypoints[:, 130:131], keypoints[:, 131:132]
        bin_size = _BIN * keypoints[:, 132].exp()
        level = (
            torch.log2(bin_size / self.cell).round().nan_to_num().clamp(0, self.levels - 1).long()
        )  # index of a level
        steps = torch.arange(4, device=keypoints.device) - 1.5
        down, along = (grid.reshape(1, 16) * bin_size[:, None] for grid in torch.meshgrid(steps, steps, indexing="ij"))
        x = (column * self.grid_cell + keypoints[:, 128])[:, None] + cosine * along - sine * down
        y = (row * self.grid_cell + keypoints[:, 129])[:, None] + sine * along + cosine * down
        side = (self.cell * 2**level)[:, None]
        return level, y / side - 0.5, x / side - 0.5


def _cells_with_keypoints(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return image, row and column of each cell with a keypoint, [N] int64, and that it is used, [N] bool, all true."""
    image, row, column = _keypoints(features).nonzero(as_tuple=True)
    return image, row, column, torch.ones_like(image, dtype=torch.bool)


def _every_cell(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return image, row and column of each cell, [N] int64, and whether it contains a keypoint, [N] bool.

    N does not depend on the values, so that a CUDA graph can contain the operations that follow. As most cells are
    empty, this takes a CPU several times longer.
    """
    used = _keypoints(features)
    index = torch.arange(used.numel(), device=used.device)
    _, height, width = used.shape
    return index // (height * width), index // width % height, index % width, used.flatten()


def _keypoints(features: torch.Tensor) -> torch.Tensor:
    """Return which cells contain a keypoint, [B, h, w] bool: the sine or cosine of its angle is not 0."""
    return (features[:, 130].square() + features[:, 131].square()) != 0


def _splat(
    canvas: torch.Tensor,
    values: torch.Tensor,  # [N, K, C]
    positions: tuple[torch.Tensor, torch.Tensor],  # rows and columns [N, K], in cells
    maps: tuple[torch.Tensor, torch.Tensor | int, torch.Tensor | int],
    used: torch.Tensor,  # [N] bool
) -> None:
    """Add values to the four cells around their positions, with the weights of bilinear interpolation.

    Args:
        canvas: Cells of all maps, (cells, C).
        values: The values.
        positions: Their positions.
        maps: Index of the first cell of each value's map, (N, 1), and the height and width of that map.
        used: Which values to add.
    """
    (y, x), (first, h, w) = positions, maps
    # Values that are not used are added as zeros, spread over their image: many additions to one cell are slow.
    elsewhere = first + torch.arange(y.numel(), device=y.device).view(y.shape) % (h * w)
    for below in (0, 1):
        for right in (0, 1):
            i, j = y.floor() + below, x.floor() + right
            inside = used[:, None] & (i >= 0) & (i < h) & (j >= 0) & (j < w)
            fraction = torch.where(inside, (1 - (y - i).abs()) * (1 - (x - j).abs()), 0)  # [N, K]
            cells = torch.where(inside, first + i.long() * w + j.long(), elsewhere)
            _add_rows(canvas, cells.view(-1), (values * fraction[:, :, None]).view(-1, canvas.shape[1]))


def _enlarged(
    parts: Sequence[torch.Tensor],
    shapes: Sequence[tuple[int, int]],
    batch: int,
    size: tuple[int, int],
    factor: float,
) -> list[torch.Tensor]:
    """Return averages and coverage of every level at the resolution of the finest, (B, C, h, w) each.

    Args:
        parts: Sums of weighted values, followed by the sum of the weights, (B · h · w, C) for each level.
        shapes: (h, w) of each level.
        batch: Number of images.
        size: (h, w) of the result.
        factor: Factor of the averages.
    """
    maps: list[torch.Tensor] = []
    for part, (height, width) in zip(parts, shapes, strict=True):
        weight = part[:, -1:]
        means = torch.cat((factor * part[:, :-1] / (weight + _NEARLY_NONE), weight / (weight + 0.5)), dim=1)
        level_map = means.view(batch, height, width, -1).permute(0, 3, 1, 2)
        enlarged = F.interpolate(level_map, scale_factor=float(2 ** len(maps)), mode="bilinear") if maps else level_map
        maps.append(enlarged[:, :, : size[0], : size[1]])
    return maps


def _at_level(level: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
    """Return ``numbers[level]`` for a tensor of levels, without copying the numbers to the device."""
    found = torch.zeros_like(level)
    for index, number in enumerate(numbers):
        found = torch.where(level == index, number, found)
    return found


def _add_rows(canvas: torch.Tensor, cells: torch.Tensor, values: torch.Tensor) -> None:
    """Compute canvas[cells[k]] += values[k] for all k in order, so that every run gives the same sums.

    Each device has one operation that is both ordered and fast: index_put_ is not ordered on a CPU with several
    threads, scatter_add_ is not on a GPU.
    """
    if canvas.is_cuda:
        canvas.index_put_((cells,), values, accumulate=True)
    else:
        canvas.scatter_add_(0, cells[:, None].expand_as(values), values)


def _rotated(keypoints: torch.Tensor) -> torch.Tensor:
    """Return the histograms [N, 16, 8] of descriptors as [N, 16, 12] in the directions of the image."""
    angle = torch.atan2(keypoints[:, 130], keypoints[:, 131]) * (8 / (2 * math.pi))
    wanted = torch.arange(ORIENTATIONS, device=keypoints.device) * (8 / ORIENTATIONS)
    bins = torch.arange(8, device=keypoints.device)
    away = (wanted[None, None, :] - angle[:, None, None] - bins[None, :, None] + 4) % 8 - 4  # [N, 8, 12]
    return torch.bmm(keypoints[:, :128].reshape(-1, 16, 8), (1 - away.abs()).clamp_min(0))


def _window(device: torch.device) -> torch.Tensor:
    """Return the weights [16] of the spatial bins in SIFT's Gaussian window."""
    square = (torch.arange(4, device=device) - 1.5).square()
    return torch.exp(-(square[:, None] + square[None, :]) / (2 * _WINDOW**2)).reshape(16)
