"""Trained inverters behind the interface of baselines."""

from __future__ import annotations

from os import PathLike
from typing import ClassVar

import torch

from preimage.baselines.base import Baseline, Progress, check_features
from preimage.inverters import Inverter
from preimage.pipelines.reconstruct import Reconstructor
from preimage.spec import Spec


class TrainedInverter(Baseline):
    """A trained inverter: one pass through its network.

    An inverter of a network's layer returns an output region, which may be a part of the image at another resolution.
    Methods are compared with it on that region, at its resolution: on `target`.

    Args:
        inverter: An inverter, its name or its folder.
        name: Name in tables, to tell several trained inverters apart.
        title: Name in prose and on sheets; ``None`` for `name`.
        device: ``"auto"`` (CUDA where available), ``"cpu"``, ``"cuda"``, ...

    Attributes:
        inverter: The inverter, on that device.

    Raises:
        ValueError: No such inverter or device.
        FileFormatError: A file in the folder is missing, damaged or of another version.

    Example:
        >>> paper = TrainedInverter("runs/hog-paper", name="paper")
        >>> images = paper.invert(features, spec)
    """

    name: ClassVar[str] = "ours"
    title: ClassVar[str] = "ours"
    reference: ClassVar[str] = (
        'A. Dosovitskiy, T. Brox, "Inverting Visual Representations with Convolutional Networks", CVPR 2016'
    )

    def __init__(
        self,
        inverter: Inverter | str | PathLike[str],
        *,
        name: str = "ours",
        title: str | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.name = name  # type: ignore[misc] # the class attribute is the default
        self.title = name if title is None else title  # type: ignore[misc]
        self._reconstructor = Reconstructor(None, inverter, device)
        self.inverter = self._reconstructor.inverter

    def invert(
        self,
        features: torch.Tensor,
        spec: Spec,
        *,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """Return images (B, 3, H, W), float32 in [0, 1], on the CPU; large batches are processed in parts.

        Args:
            features: (B, C, h, w) or (B, C), floating point, on any device.
            spec: Spec of the features.
            size: (H, W) of the images. ``None`` is the size that the features cover; for an inverter with an output
                region, the size of `target`. With an output region, (H, W) is the size of the whole image.
            progress: Function called with (images done, number of images).

        Raises:
            TypeError: Features that are not floating point.
            ValueError: Features of another spec (the fields that differ are named), of another shape, or with NaN or
                infinite values; or a `size` that they do not cover.
        """
        if differences := self.inverter.spec.differences(spec):
            raise ValueError(f"{self.name} inverts other features (its own != given): {'; '.join(differences)}")
        check_features(features, spec)
        report = progress or _ignore
        report(0, len(features))
        images = self._reconstructor.invert(features, size).cpu()
        report(len(features), len(features))
        return images

    def target(self, images: torch.Tensor) -> torch.Tensor:
        """Return the part of images (B, 3, H, W) that `invert` returns without a size, at its resolution.

        That is the output region of the inverter, or whole images if it has none.

        Args:
            images: (B, 3, H, W), uint8 or floating in [0, 1], of the size that the inverter's features are of.

        Returns:
            (B, 3, H', W') float32 in [0, 1], on the device of the images.

        Raises:
            TypeError: Images that are neither uint8 nor floating point.
            ValueError: Images of another shape or size.
        """
        return self._reconstructor.target(images)


def _ignore(done: int, total: int) -> None:
    """Report nothing."""
