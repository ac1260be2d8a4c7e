"""Compute the features of reconstructions, to compare them with the features that were inverted."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from preimage.inverters.output_region import OutputRegion, resized
from preimage.pipelines.reconstruct import Reconstructor


def reextracted(reconstructor: Reconstructor, reconstructions: torch.Tensor) -> torch.Tensor:
    """Return the features of reconstructions, (B, C, h, w) or (B, C), float32, on the device of `reconstructions`.

    Reconstructions of an output region are put back into an image of the representation's size: resized to the region,
    with the pixels at its edge repeated outside it.

    Args:
        reconstructor: Representation and inverter.
        reconstructions: (B, 3, H, W) in [0, 1].
    """
    region = reconstructor.inverter.output_region
    images = reconstructions if region is None else _put_back(reconstructions, region)
    return reconstructor.features(images.clamp(0, 1))


def _put_back(reconstructions: torch.Tensor, region: OutputRegion) -> torch.Tensor:
    images = resized(reconstructions, region.crop, region.crop)
    before = (region.image_size - region.crop) // 2
    after = region.image_size - region.crop - before
    return F.pad(images, (before, after, before, after), mode="replicate") if before or after else images
