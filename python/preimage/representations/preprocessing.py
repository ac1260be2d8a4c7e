"""The preprocessing of a network: image size, channel order, range, mean and standard deviation."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

from preimage.spec import Scalar

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of square images, x = (pixel · scale − mean) / std, with channels in `order`.

    Attributes:
        image_size: Side of the images in pixels; images of another size are an error.
        order: Order of the channels, also in `mean` and `std`: ``"rgb"`` or ``"bgr"``.
        scale: Largest value of a pixel, 1 or 255.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
    """

    image_size: int
    order: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if not isinstance(self.image_size, int) or isinstance(self.image_size, bool) or self.image_size < 1:
            raise ValueError(f"image_size must be an integer of at least 1, got {self.image_size!r}")
        if self.order not in ("rgb", "bgr"):
            raise ValueError(f"order must be 'rgb' or 'bgr', got {self.order!r}")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be a number above 0, got {self.scale!r}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3:
                raise ValueError(f"{name} must be three numbers, one for each channel, got {values!r}")
            if not all(map(math.isfinite, values)):
                raise ValueError(f"{name} must be three finite numbers, got {values!r}")
            object.__setattr__(self, name, tuple(map(float, values)))
        if min(self.std) <= 0:
            raise ValueError(f"std must be three numbers above 0, got {self.std}")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the input (B, 3, H, W) float32 of a network for images (B, 3, H, W) RGB, uint8 or in [0, 1].

        Raises:
            TypeError: Images that are neither uint8 nor floating.
            ValueError: Another shape, or another size than `image_size`.
        """
        import torch

        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W), got shape {tuple(images.shape)}")
        if tuple(images.shape[2:]) != (self.image_size, self.image_size):
            size = "×".join(map(str, images.shape[2:]))
            raise ValueError(f"the network takes images of {self.image_size}×{self.image_size} pixels, got {size}")
        if images.dtype == torch.uint8:
            pixels = images.float() * (self.scale / 255)
        elif images.is_floating_point():
            pixels = images.float() * self.scale
        else:
            raise TypeError(f"images must be uint8, or floating point in [0, 1], got {images.dtype}")
        if self.order == "bgr":
            pixels = pixels.flip(1)
        # One channel and one Python number at a time, because creating a tensor here would synchronize with the device,
        # which CUDA graphs do not allow.
        channels = zip(pixels.unbind(1), self.mean, self.std, strict=True)
        return torch.stack([(channel - mean) / std for channel, mean, std in channels], dim=1)

    def parameters(self) -> dict[str, Scalar]:
        """Return the fields as parameters of a spec: scalars only, for example ``mean = "0.485,0.456,0.406"``."""
        return {
            "image_size": self.image_size,
            "order": self.order,
            "scale": self.scale,
            "mean": ",".join(map(_shortest, self.mean)),
            "std": ",".join(map(_shortest, self.std)),
        }


def _shortest(value: float) -> str:
    """Return the shortest text that identifies a number, so that different numbers differ in a spec."""
    return repr(value).removesuffix(".0")


def imagenet_rgb(image_size: int) -> Preprocessing:
    """Return torchvision's and timm's preprocessing: RGB in [0, 1], normalized by ImageNet's mean and deviation."""
    return Preprocessing(image_size)


def caffe_bgr(image_size: int) -> Preprocessing:
    """Return the preprocessing of Caffe's reference networks: BGR in 0…255 minus ImageNet's mean color."""
    return Preprocessing(image_size, "bgr", 255.0, (104.007, 116.669, 122.679), (1.0, 1.0, 1.0))


def unit_rgb(image_size: int) -> Preprocessing:
    """Return the preprocessing that leaves RGB in [0, 1] unchanged."""
    return Preprocessing(image_size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


PREPROCESSINGS = {"imagenet-rgb": imagenet_rgb, "caffe-bgr": caffe_bgr, "unit": unit_rgb}


def check_preprocessing(name: str) -> None:
    """Raise ``ValueError`` for an unknown preprocessing."""
    if name not in PREPROCESSINGS:
        raise ValueError(f"preprocessing must be one of {', '.join(PREPROCESSINGS)}, got {name!r}")
