"""Compute the features of reconstructions, to compare them with the features that were inverted."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from preimage.inverters.output_region import OutputRegion, resized
from preimage.pipelines.reconstruct import Reconstructor


def reextracted(reconstructor: Reconstructor, reconstructions: torch.Tensor) -> torch.Tensor:
    """Return the features of reconstructions, (B, C, h, w) or (B, C), float32, on the device of `reconstructions`.

    Reconstructions of an output region are put back into whole images.

    Args:
        reconstructor: Representation and inverter.
        reconstructions: (B, 3, H, W) in [0, 1].
    """
    return reconstructor.features(put_back(reconstructions, reconstructor.inverter.output_region))


def put_back(reconstructions: torch.Tensor, region: OutputRegion | None) -> torch.Tensor:
    """Return whole images in [0, 1], of the size whose features were inverted.

    Reconstructions of an output region are resized to it, and the pixels at its edge are repeated outside it.

    Args:
        reconstructions: (B, 3, H, W), floating point.
        region: Part of the image that they show; ``None`` for whole images.
    """
    reconstructions = reconstructions.clamp(0, 1)
    if region is None:
        return reconstructions
    images = resized(reconstructions, region.crop, region.crop)
    before = (region.image_size - region.crop) // 2
    after = region.image_size - region.crop - before
    return F.pad(images, (before, after, before, after), mode="replicate")
