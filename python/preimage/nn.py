"""Descriptors and up-convolutions as `torch.nn` modules."""

from __future__ import annotations

import math

import torch
from torch import nn

from preimage.ops import torch_ops  # noqa: F401 - registers the descriptors with torch
from preimage.ops._images import DType
from preimage.ops.dense_sift import dense_sift
from preimage.ops.hog import hog
from preimage.ops.lbp import lbp
from preimage.ops.upconv import upconv, upconv_chain, upconv_chain_distance


class HOG(nn.Module):
    """Compute HOG features with `preimage.hog`, for example for a loss between images.

    The parameters are those of `preimage.hog`, and are checked on creation. The module has no weights or buffers. It
    computes on the device of the images, and returns features of `dtype` whatever the dtype of the images, also under
    autocast.

    Args:
        cell_size: Side of a cell in pixels, at least 1, or a pair (height, width) for ``"dalal-triggs"``.
        variant: Definition of the features, ``"vlfeat-uoctti"`` or ``"dalal-triggs"``.
        color: ``"luma"`` or ``"strongest"``.
        orientations: Number of orientations. Only for ``"dalal-triggs"``, like the next three.
        block_size: Side of a block in cells, or a pair (height, width).
        block_norm: ``"L1"``, ``"L1-sqrt"``, ``"L2"`` or ``"L2-Hys"``.
        transform_sqrt: Whether to replace the values by their square roots first.
        dtype: Dtype of the features: float32, float16 or bfloat16.

    Shape:
        (..., C, H, W), where C is 1 or 3, to (..., 31, h, w), or for ``"dalal-triggs"`` to (..., block_height ·
        block_width · orientations, h, w).

    Raises:
        TypeError, ValueError: As `preimage.hog` for these parameters.
    """

    def __init__(
        self,
        cell_size: int | tuple[int, int] = 8,
        variant: str = "vlfeat-uoctti",
        color: str = "luma",
        *,
        orientations: int = 9,
        block_size: int | tuple[int, int] = 3,
        block_norm: str = "L2-Hys",
        transform_sqrt: bool = False,
        dtype: DType = "float32",
    ) -> None:
        super().__init__()
        self.cell_size, self.variant, self.color, self.dtype = cell_size, variant, color, dtype
        self.orientations, self.block_size, self.block_norm = orientations, block_size, block_norm
        self.transform_sqrt = transform_sqrt
        self(_no_images(cell_size, block_size))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return hog(
            images,
            cell_size=self.cell_size,
            variant=self.variant,
            color=self.color,
            orientations=self.orientations,
            block_size=self.block_size,
            block_norm=self.block_norm,
            transform_sqrt=self.transform_sqrt,
            dtype=self.dtype,
        )

    def extra_repr(self) -> str:
        blocks = (
            f"orientations={self.orientations}, block_size={self.block_size}, block_norm={self.block_norm!r}, "
            f"transform_sqrt={self.transform_sqrt}, "
        )
        return (
            f"cell_size={self.cell_size}, variant={self.variant!r}, color={self.color!r}, "
            f"{'' if self.variant == 'vlfeat-uoctti' else blocks}dtype={self.dtype!r}"
        )


class LBP(nn.Module):
    """Compute LBP features with `preimage.lbp`. They have no gradient: images that require one are an error.

    The parameters are those of `preimage.lbp`, and are checked on creation. Like `HOG`, the module has no weights or
    buffers.

    Args:
        cell_size: Side of a cell in pixels, at least 1.
        variant: Definition of the features; only ``"vlfeat-uniform"``.
        dtype: Dtype of the features: float32, float16 or bfloat16.

    Shape:
        (..., C, H, W), where C is 1 or 3, to (..., 58, H // cell_size, W // cell_size).

    Raises:
        TypeError, ValueError: As `preimage.lbp` for these parameters.
    """

    def __init__(self, cell_size: int = 16, variant: str = "vlfeat-uniform", *, dtype: DType = "float32") -> None:
        super().__init__()
        self.cell_size, self.variant, self.dtype = cell_size, variant, dtype
        self(_no_images(cell_size))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return lbp(images, cell_size=self.cell_size, variant=self.variant, dtype=self.dtype)

    def extra_repr(self) -> str:
        return f"cell_size={self.cell_size}, variant={self.variant!r}, dtype={self.dtype!r}"


class DenseSIFT(nn.Module):
    """Compute dense SIFT descriptors with `preimage.dense_sift`, for example for a loss between images.

    The parameters are those of `preimage.dense_sift`, and are checked on creation. Like `HOG`, the module has no
    weights or buffers.

    Args:
        step: Distance between descriptors in pixels, at least 1.
        bin_size: Distance between the centers of a descriptor's spatial bins in pixels, at least 1.
        window: ``"gaussian"`` or ``"flat"``.
        window_size: Standard deviation of the Gaussian in bins, above 0.
        dtype: Dtype of the descriptors: float32, float16, bfloat16, or uint8, which has no gradient.

    Shape:
        (..., C, H, W), where C is 1 or 3, to (..., 128, h, w).

    Raises:
        TypeError, ValueError: As `preimage.dense_sift` for these parameters.
    """

    def __init__(
        self,
        step: int = 4,
        bin_size: int = 4,
        window: str = "gaussian",
        window_size: float = 2.0,
        *,
        dtype: DType = "float32",
    ) -> None:
        super().__init__()
        self.step, self.bin_size, self.window, self.window_size, self.dtype = step, bin_size, window, window_size, dtype
        self(_no_images(bin_size, 4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return dense_sift(
            images,
            step=self.step,
            bin_size=self.bin_size,
            window=self.window,
            window_size=self.window_size,
            dtype=self.dtype,
        )

    def extra_repr(self) -> str:
        return (
            f"step={self.step}, bin_size={self.bin_size}, window={self.window!r}, window_size={self.window_size}, "
            f"dtype={self.dtype!r}"
        )


def _no_images(cell_size: object, cells: object = 1) -> torch.Tensor:
    """Return no images (0, 1, H, W), large enough for some cells, for which a descriptor only checks its parameters."""
    side = math.prod(_largest(value) for value in (cell_size, cells))
    return torch.empty(0, 1, side, side, device="cpu")


def _largest(size: object) -> int:
    """Return the larger side of a size, or 1 for what is not a size."""
    sides = size if isinstance(size, tuple | list) else [size]
    return max([1, *(side for side in sides if isinstance(side, int))])


class UpConv2d(nn.Module):
    """Up-convolution ×2: zero-insertion, 5×5 convolution, bias, optional leaky ReLU, in one pass.

    Dosovitskiy & Brox, "Inverting Visual Representations with Convolutional Networks" (CVPR 2016), section 3.
    The input is (B, in_channels, H, W), the output (B, out_channels, 2H, 2W), see `preimage.upconv`. For several layers
    in sequence, use `UpConvChain`.

    Args:
        in_channels: Number of input channels, Ci.
        out_channels: Number of output channels, Co.
        negative_slope: Slope of the leaky ReLU below zero; ``None`` for no activation (the last layer of a network).

    Attributes:
        weight: (Ci, Co, 5, 5), that of ``nn.ConvTranspose2d(Ci, Co, 5, stride=2, padding=2, output_padding=1)``,
            whose state_dict can be loaded; in channels_last memory format, like its gradient. He-initialized for the
            25/4 taps that meet a value rather than an inserted zero, and ten times smaller in a last layer, so that
            training begins near the mean image.
        bias: (Co,), initially zero.
    """

    def __init__(self, in_channels: int, out_channels: int, negative_slope: float | None = 0.2) -> None:
        super().__init__()
        if in_channels < 1 or out_channels < 1:
            raise ValueError(f"in_channels and out_channels must be at least 1, got {in_channels} and {out_channels}")
        self.negative_slope = negative_slope
        weight = torch.empty(in_channels, out_channels, 5, 5, memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        gain = math.sqrt(2 / (1 + negative_slope**2)) if negative_slope is not None else 0.1
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, std=gain / math.sqrt(in_channels * 25 / 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return upconv(x, self.weight, self.bias, self.negative_slope)

    def extra_repr(self) -> str:
        in_channels, out_channels = self.weight.shape[:2]
        return f"{in_channels}, {out_channels}, negative_slope={self.negative_slope}"


class UpConvChain(nn.Sequential):
    """Layers in sequence, where consecutive up-convolutions run as one op, see `preimage.ops.upconv.upconv_chain`.

    Such a run has a single backward pass, which keeps only the outputs of its layers and needs no pass for their
    activations. Layers may be `UpConv2d` or any other modules. Parameters and their names are those of an
    ``nn.Sequential`` of the layers.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the layers for maps (B, C, H, W)."""
        for run in self._runs():
            x = upconv_chain(x, *_parameters(run)) if isinstance(run, list) else run(x)
        return x

    def distance(self, x: torch.Tensor, target: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Return distances ‖forward(x) + mean - target / 255‖₂, (B,), see `preimage.ops.upconv.upconv_chain_distance`.

        Raises:
            ValueError: The last layer is not an up-convolution without activation, or the target has another shape.
        """
        *before, last = self._runs()
        if not isinstance(last, list):
            raise ValueError(f"the last layer must be an UpConv2d, got {type(last).__name__}")
        for run in before:
            x = upconv_chain(x, *_parameters(run)) if isinstance(run, list) else run(x)
        return upconv_chain_distance(x, *_parameters(last), target, mean)

    def _runs(self) -> list[nn.Module | list[UpConv2d]]:
        """Return the layers, with consecutive up-convolutions in a list."""
        runs: list[nn.Module | list[UpConv2d]] = []
        for layer in self:
            if not isinstance(layer, UpConv2d) or _does_more(layer):
                runs.append(layer)
            elif runs and isinstance(runs[-1], list):
                runs[-1].append(layer)
            else:
                runs.append([layer])
        return runs


def _does_more(layer: UpConv2d) -> bool:
    """Return whether a layer has hooks or a forward method of a subclass, and must be called."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return type(layer) is not UpConv2d or any(hooks)


def _parameters(layers: list[UpConv2d]) -> tuple[list[torch.Tensor], list[torch.Tensor | None], list[float | None]]:
    return [layer.weight for layer in layers], [layer.bias for layer in layers], [x.negative_slope for x in layers]
