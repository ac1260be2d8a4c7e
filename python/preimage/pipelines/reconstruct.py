"""Compute features of images and reconstruct the images, in one object."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from preimage.inverters import Inverter, extraction_device, resolve_device
from preimage.inverters.inverter import as_tensor
from preimage.io import ImageSource
from preimage.pipelines.image_loading import Skipped, at_once, batches, inverting_bytes, resolved_size, working_bytes
from preimage.pipelines.inverter_choice import InverterChoice, Pairing, named_inverter, pairings
from preimage.representations import Representation, representation_from_spec

Array = TypeVar("Array", torch.Tensor, npt.NDArray[Any])


class Comparison(NamedTuple):
    """A batch of images, reduced to features and reconstructed.

    Attributes:
        features: (B, C, h, w) or (B, C), on the device that computed them.
        target: (B, 3, H, W) float32 in [0, 1], on the CPU: the images, or the output region of the inverter.
        reconstruction: Images like `target`, reconstructed from the features.
    """

    features: torch.Tensor
    target: torch.Tensor
    reconstruction: torch.Tensor


class Reconstructor:
    """Compute features of images, and images from features.

    Images are (..., 3, H, W) RGB, uint8 or floating in [0, 1]; leading dimensions are kept. Results for tensors are
    tensors on the same device, results for NumPy arrays are NumPy arrays. Large batches are processed in parts.

    Args:
        representation: Representation, or its name, for the parameters of the inverter's spec; ``None`` for the
            representation of the inverter.
        inverter: Inverter, its name or folder; ``None`` for the pretrained inverter of the representation.
        device: Device of the inverter and, if it supports the device, of the representation: ``"auto"`` (CUDA where
            available), ``"cpu"``, ``"cuda"``, ...

    Attributes:
        inverter: Inverter, on `device`.
        name: Name or folder of the inverter, or the name of its representation.
        device: Device of the inverter.

    Raises:
        ValueError: An inverter for other features (the fields that differ are named); no such inverter, representation
            or device; neither a representation nor an inverter.
        LookupError: No pretrained inverter for the representation.

    Example:
        >>> hog = preimage.Reconstructor("hog")
        >>> again = hog(images)  # (B, 3, H, W) uint8 → (B, 3, H, W) float32 in [0, 1]
    """

    def __init__(
        self,
        representation: Representation | str | None = None,
        inverter: InverterChoice = None,
        device: str | torch.device = "auto",
    ) -> None:
        if representation is not None:
            (pair,) = pairings(inverter, representation)
            self._set_up(pair.representation, *_found(pair), device)
        elif inverter is not None:
            self._set_up(None, *named_inverter(inverter), device)
        else:
            raise ValueError("a Reconstructor needs a representation, an inverter, or both; got neither")

    def __repr__(self) -> str:
        return f"Reconstructor({self.inverter.spec.representation!r}, {self.name!r}, device={str(self.device)!r})"

    @classmethod
    def from_pairing(cls, pair: Pairing, device: str | torch.device = "auto") -> Reconstructor:
        """Return the reconstructor of a pairing; ``LookupError`` if that has no inverter."""
        made = cls.__new__(cls)
        made._set_up(pair.representation, *_found(pair), device)
        return made

    def _set_up(
        self, representation: Representation | None, inverter: Inverter, name: str, device: str | torch.device
    ) -> None:
        self.device = resolve_device(device)
        self.inverter: Inverter = inverter.to(self.device)
        self.name = name
        self._representation = representation
        self._feature_device: torch.device | None = None

    @property
    def representation(self) -> Representation:
        """The representation; ``ValueError`` if none was given and it cannot be created from the inverter's spec."""
        if self._representation is None:
            self._representation = representation_from_spec(self.inverter.spec)
        return self._representation

    def side(self, size: int | None = None, default: int = 256) -> int:
        """Return the side of the square images: the only supported one, or else `size` or `default`.

        Raises:
            ValueError: A size that the representation or the inverter does not support, or that is too small to have
                features.
        """
        side, region = resolved_size(self.representation, size), self.inverter.output_region
        if region is not None:
            if side not in (None, region.image_size):
                raise ValueError(
                    f"the inverter takes images of {region.image_size}×{region.image_size} pixels, got size {side}"
                )
            side = region.image_size
        side = default if side is None else side
        self.representation.feature_size(side, side)
        return side

    def features(self, images: Array) -> Array:
        """Return features (..., C, h, w) or (..., C), float32, of images (..., 3, H, W).

        Raises:
            TypeError: Images that are neither uint8 nor floating-point.
            ValueError: Images of another shape, or of a size that the representation does not support.
        """
        batch = _checked_images(images)
        return _like(images, self._features(batch.flatten(0, -4)), 3)

    def invert(self, features: Array, size: tuple[int, int] | None = None) -> Array:
        """Return images (..., 3, H, W), float32 in [0, 1], from features (..., C, h, w) or (..., C).

        Args:
            features: Floating-point features described by the inverter's spec.
            size: (H, W) of the images, see `Inverter.forward`; ``None`` for the size that the features cover.

        Raises:
            TypeError: Features that are not floating-point.
            ValueError: Features of another shape, or a size that they do not cover.
        """
        batch, rank = self._flattened(features)
        return _like(features, self._invert(batch, size), rank)

    def sample(
        self,
        features: Array,
        n: int = 4,
        seed: int = 0,
        spread: float = 1.0,
        size: tuple[int, int] | None = None,
        *,
        positions: Sequence[int] | None = None,
    ) -> Array:
        """Return n samples (..., n, 3, H, W), float32 in [0, 1], for features (..., C, h, w) or (..., C).

        Args:
            features: Floating-point features described by the inverter's spec.
            n: Number of samples for each set of features.
            seed: Seed of the noise.
            spread: Factor of the noise.
            size: (H, W) of the images, see `invert`.
            positions: Position of each set of features, which its noise is keyed by, see `Inverter.sample`.

        Raises:
            TypeError: Features that are not floating-point.
            ValueError: An inverter that cannot sample, or any of `Inverter.sample`.
        """
        batch, rank = self._flattened(features)
        places = list(range(len(batch)) if positions is None else positions)
        if len(places) != len(batch):
            raise ValueError(f"{len(batch)} sets of features need as many positions, got {len(places)}")
        self.inverter.check_can_sample()

        def draw(part: torch.Tensor, first: int) -> torch.Tensor:
            there = places[first : first + len(part)]
            return self.inverter.sample(part, n, seed, spread, size, positions=there)

        return _like(features, self._in_parts(batch, size, draw, samples=n), rank)

    def target(self, images: Array) -> Array:
        """Return the part of images (..., 3, H, W) that is reconstructed, float32 in [0, 1]."""
        return _like(images, self._target(_checked_images(images).flatten(0, -4)), 3)

    def __call__(self, images: Array) -> Array:
        """Return the reconstruction of images (..., 3, H, W) from their features, of the size of `target`."""
        batch = _checked_images(images)
        features = self._features(batch.flatten(0, -4))
        return _like(images, self._invert(features, self._whole(batch)), 3)

    def compare(self, images: torch.Tensor, features: torch.Tensor | None = None) -> Comparison:
        """Reconstruct a batch of images (B, 3, H, W), uint8 or floating in [0, 1], and return it with the target.

        Args:
            images: Batch of images.
            features: Features of the images; ``None`` to compute them.
        """
        if features is None:
            features = self._features(images)
        return Comparison(features, self._target(images).cpu(), self._invert(features, self._whole(images)).cpu())

    def compare_all(
        self, sources: Sequence[ImageSource], side: int, batch_size: int = 16, *, skipped: Skipped | None = None
    ) -> Iterator[tuple[list[str], Comparison]]:
        """Yield keys and comparisons of all images, in order.

        Args:
            sources: The images.
            side: Side in pixels to which they are resized and center-cropped, see `side`.
            batch_size: Batch size; smaller if a batch would need over a gigabyte.
            skipped: List to which (name, problem) of images that cannot be read are added; ``None`` raises an error
                instead.

        Raises:
            ValueError: An image that cannot be read (the message names it).
        """
        together = at_once(working_bytes(self.representation, side, side, inverted=True), batch_size)
        for keys, images in batches(sources, side, together, skipped=skipped):
            yield keys, self.compare(images)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        if self._feature_device is None:
            self._feature_device = extraction_device(self.representation, (height, width), self.device)
        device = self._feature_device
        most = at_once(working_bytes(self.representation, height, width), max(1, len(images)))
        with torch.no_grad():
            return _joined([self.representation(part.to(device)).float() for part in images.split(most)])

    def _flattened(self, features: Array) -> tuple[torch.Tensor, int]:
        """Return features as a batch, and the number of dimensions of those of one image."""
        batch = _tensor(features)
        rank = 1 if self.inverter.spec.stride is None else 3
        return batch[None] if batch.dim() <= rank else batch.flatten(0, -rank - 1), rank

    def _invert(self, features: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
        return self._in_parts(features, size, lambda part, _: self.inverter(part, size=size))

    def _in_parts(
        self,
        features: torch.Tensor,
        size: tuple[int, int] | None,
        make: Callable[[torch.Tensor, int], torch.Tensor],
        samples: int = 0,
    ) -> torch.Tensor:
        """Return what a function makes of parts of the features that fit into memory, and of their first indices."""
        region, stride = self.inverter.output_region, self.inverter.network.stride
        side = stride if region is None else region.size
        pixels = math.prod(size or (*features.shape[2:], side, side))
        most = at_once(inverting_bytes(1, pixels, samples), max(1, len(features)))
        with torch.no_grad():
            parts = enumerate(features.split(most))
            return _joined([make(part.to(self.device), index * most) for index, part in parts])

    def _target(self, images: torch.Tensor) -> torch.Tensor:
        target = self.inverter.target(images).float()
        return target / 255 if images.dtype == torch.uint8 else target

    def _whole(self, images: torch.Tensor) -> tuple[int, int] | None:
        """Return the size of the images to reconstruct; ``None``, the default, for inverters with an output region."""
        return None if self.inverter.output_region is not None else (images.shape[-2], images.shape[-1])


def _found(pair: Pairing) -> tuple[Inverter, str]:
    if pair.inverter is None or pair.name is None:
        raise LookupError(pair.missing)
    return pair.inverter, pair.name


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _tensor(values: torch.Tensor | npt.NDArray[Any]) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        return values
    if not isinstance(values, np.ndarray):
        raise TypeError(f"images and features must be torch tensors or NumPy arrays, got {type(values).__name__}")
    return as_tensor(values)


def _checked_images(images: torch.Tensor | npt.NDArray[Any]) -> torch.Tensor:
    batch = _tensor(images)
    if batch.dtype != torch.uint8 and not batch.is_floating_point():
        raise TypeError(f"images must be uint8, or floating point in [0, 1], got {batch.dtype}")
    if batch.dim() < 3 or batch.shape[-3] != 3 or 0 in batch.shape[-3:]:
        raise ValueError(f"images must be (..., 3, H, W), got shape {tuple(batch.shape)}")
    return batch[None] if batch.dim() == 3 else batch


def _like(given: Array, values: torch.Tensor, rank: int) -> Array:
    """Return values (N, ...) with the leading dimensions of `given`, as a tensor on its device or as an array."""
    values = values.reshape(*given.shape[: max(0, given.ndim - rank)], *values.shape[1:])
    return values.to(given.device) if isinstance(given, torch.Tensor) else values.cpu().numpy()
