"""Mean colors of square cells: a representation that another package brings."""

import dataclasses
from typing import ClassVar

import torch

from preimage.representations import Representation
from preimage.spec import Spec


@dataclasses.dataclass(frozen=True)
class MeanColor(Representation):
    name: ClassVar[str] = "mean-color"
    cell_size: int = 16
    variant: str = "rgb"

    @property
    def spec(self) -> Spec:
        return Spec(
            self.name, self.variant, channels=3, stride=self.cell_size, parameters={"cell_size": self.cell_size}
        )

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.float() / (255 if images.dtype == torch.uint8 else 1)
        return torch.nn.functional.avg_pool2d(pixels, self.cell_size)

    def feature_size(self, height: int, width: int) -> tuple[int, int]:
        if min(height, width) < self.cell_size:
            raise ValueError(f"an image of {height}×{width} pixels has no cell of {self.cell_size}")
        return height // self.cell_size, width // self.cell_size

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return height * self.cell_size, width * self.cell_size
