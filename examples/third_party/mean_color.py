"""Mean colors of square cells: a representation defined by another package."""

import dataclasses

import torch

from preimage.representations import CellRepresentation, parameter


@dataclasses.dataclass(frozen=True)
class MeanColor(CellRepresentation):
    name = "mean-color"
    title = "mean color"
    summary = "Mean color of square cells."
    channels = 3
    variants = ("rgb",)

    cell_size: int = parameter(16, "Side of a cell in pixels.")
    variant: str = parameter("rgb", "Color space: rgb.")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.float() / (255 if images.dtype == torch.uint8 else 1)
        return torch.nn.functional.avg_pool2d(pixels, self.cell_size)
