"""The interface of baselines: other methods of turning features into images."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar

import torch

from preimage.representations import Representation
from preimage.spec import Spec

Progress = Callable[[int, int], None]


class Baseline(abc.ABC):
    """A method of turning features into images, to compare inverters with.

    Attributes:
        name: Name on the command line.
        title: Name in prose and on sheets.
        reference: Publication of the method; empty if there is none.
        representation: Representation whose features the method inverts, if it is not the one that is compared, such as
            that of a fine-tuned network; else ``None``.
    """

    name: str
    title: str
    reference: ClassVar[str] = ""
    representation: Representation | None = None

    @abc.abstractmethod
    def invert(
        self,
        features: torch.Tensor,
        spec: Spec,
        *,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """Return images (B, 3, H, W), float32 in [0, 1], on the CPU.

        Args:
            features: (B, C, h, w) or (B, C), floating point, on any device.
            spec: Spec of the features.
            size: (H, W) of the images; ``None`` for the size that the features cover.
            progress: Function called with (work done, total amount).

        Raises:
            ValueError: The method does not invert these features, their shape does not fit the spec, or they contain
                NaN or infinite values.
        """


def check_features(features: torch.Tensor, spec: Spec) -> None:
    """Raise ``ValueError`` unless features are finite and of the shape that their spec states.

    ``TypeError`` if they are not floating point.
    """
    if not features.is_floating_point():
        raise TypeError(f"features must be floating point, got {features.dtype}")
    shape = tuple(features.shape)
    wanted = f"(B, {spec.channels})" if spec.stride is None else f"(B, {spec.channels}, h, w)"
    if len(shape) != (2 if spec.stride is None else 4) or shape[1] != spec.channels or 0 in shape:
        raise ValueError(f"{spec.representation} features must be {wanted}, got shape {shape}")
    if not features.isfinite().all():
        index = int((~features.flatten(1).isfinite().all(dim=1)).nonzero()[0])
        raise ValueError(f"{spec.representation} features must be finite, but those of image {index} are not")
