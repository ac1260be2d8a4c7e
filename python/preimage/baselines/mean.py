"""The mean image, the floor of all comparisons."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from preimage.baselines.base import Baseline, Progress, check_features
from preimage.baselines.sizes import check_size, covered_size, fitted
from preimage.inverters.device import resolve_device
from preimage.pipelines.image_loading import Images, as_sources, batches, check_unit_range
from preimage.spec import Spec

_BATCH_SIZE = 32


class Mean(Baseline):
    """Return the mean of photographs, whatever the features are.

    An inverter with about the error of this baseline has learned nothing from the features.

    Args:
        images: Paths (folders, files, tar shards) or sources of photographs; or a tensor (N, 3, H, W), uint8 or
            floating point in [0, 1].
        size: Side in pixels to which photographs are resized and center-cropped before they are averaged.
        device: Device on which they are averaged: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        progress: Function called with (photographs done, number of photographs).

    Attributes:
        image: Mean image, (3, H, W) float32 in [0, 1], on the CPU.
        count: Number of photographs.

    Raises:
        ValueError: No photographs, one that cannot be decoded, a tensor of another shape or with values outside [0, 1].
        TypeError: A tensor of another dtype.
    """

    name = "mean"
    title = "mean image"

    def __init__(
        self,
        images: Images | torch.Tensor,
        *,
        size: int = 256,
        device: str | torch.device = "auto",
        progress: Progress | None = None,
    ) -> None:
        device = resolve_device(device)
        if isinstance(images, torch.Tensor):
            parts: Iterable[torch.Tensor] = [_checked(images)]
            self.count = len(images)
        else:
            sources = as_sources(images)
            self.count = len(sources)
            parts = (batch for _, batch in batches(sources, size, _BATCH_SIZE))
        total: torch.Tensor | None = None
        done = 0
        for batch in parts:
            # Sums of 8-bit values are exact in float64, so the mean does not depend on the batches.
            part = batch.to(device).sum(dim=0, dtype=torch.float64) / (255 if batch.dtype == torch.uint8 else 1)
            total = part if total is None else total + part
            done += len(batch)
            if progress is not None:
                progress(done, self.count)
        assert total is not None
        self.image = (total / self.count).float().cpu()

    def invert(
        self,
        features: torch.Tensor,
        spec: Spec,
        *,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """Return the mean image for each feature vector or map, (B, 3, H, W), float32 in [0, 1], on the CPU.

        Args:
            features: (B, C, h, w) or (B, C), floating point.
            spec: Spec of the features, any.
            size: (H, W) of the images: the mean image is center-cropped to these proportions and resized. ``None`` for
                the size that maps cover, or for vectors that of the mean image.
            progress: Function called with (images done, number of images).

        Raises:
            ValueError: The shape of the features does not fit the spec, or they contain NaN or infinite values.
        """
        check_features(features, spec)
        wanted = covered_size(features, spec) if size is None else check_size(size)
        image = self.image if wanted is None else fitted(self.image[None], wanted)[0].clamp(0, 1)
        if progress is not None:
            progress(len(features), len(features))
        return image.expand(len(features), -1, -1, -1).clone()


def _checked(images: torch.Tensor) -> torch.Tensor:
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point, got {images.dtype}")
    if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"images must be (N, 3, H, W), got shape {tuple(images.shape)}")
    check_unit_range(images)
    return images
