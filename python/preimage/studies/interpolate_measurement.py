"""Decode the path between the features of two images, and measure it against a cross-fade of its two ends."""

from __future__ import annotations

import dataclasses
from statistics import fmean

import numpy as np
import torch

from preimage.inverters import Inverter
from preimage.pipelines.image_loading import Pixels, as_pixels
from preimage.pipelines.reconstruct import Reconstructor
from preimage.pipelines.reextraction import reextracted
from preimage.studies.base import SheetRow
from preimage.studies.feature_paths import feature_path, has_arc
from preimage.studies.inputs import check_finite

_EQUAL = 1e-6  # distance of two ends, relative to their norms, below which they are equal


@dataclasses.dataclass(frozen=True)
class PositionScore:
    """Distances at one position of a path.

    Distances of features are relative to the distance between the features of the two images, distances of images to
    that between their reconstructions.

    Attributes:
        position: 0 at the first image, 1 at the last.
        feature_distance_first: Distance of the decoded image's features from those of the first image.
        feature_distance_last: Distance of the decoded image's features from those of the last image.
        image_distance_first: Distance of the decoded image from the reconstruction of the first image.
        image_distance_last: Distance of the decoded image from the reconstruction of the last image.
        crossfade_distance: Distance of the decoded image from the cross-fade of the two reconstructions.
        feature_error: Distance of the decoded image's features from the features that were decoded.
        crossfade_feature_error: Distance of the cross-fade's features from the features that were decoded.
        largest_deviation: Largest distance of a number of the interpolated features from its mean, in the standard
            deviations that the inverter was trained with.
    """

    position: float
    feature_distance_first: float
    feature_distance_last: float
    image_distance_first: float
    image_distance_last: float
    crossfade_distance: float
    feature_error: float
    crossfade_feature_error: float
    largest_deviation: float


@dataclasses.dataclass(frozen=True)
class PairScore:
    """Scores of the path between two images.

    Attributes:
        first: Key of the first image.
        last: Key of the last image.
        nonlinearity: Mean of `PositionScore.crossfade_distance` between the ends: on a line, 0 if the inverter is
            linear.
        positions: Distances at every position.
    """

    first: str
    last: str
    nonlinearity: float
    positions: tuple[PositionScore, ...]


@dataclasses.dataclass(frozen=True)
class End:
    """An end of a path: key, image (1, 3, H, W) uint8, and features (1, C, h, w) or (1, C)."""

    key: str
    image: torch.Tensor
    features: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames of one pair, decoded and cross-faded, (H, W, 3) uint8 each."""

    decoded: list[Pixels]
    crossfade: list[Pixels]


class PathMeasurement:
    """Scores of all pairs, the rows of the film strip, and the clips of the animation.

    Args:
        reconstructor: Representation and inverter.
        side: Side of the images, pixels.
        batch_size: Number of positions decoded at once.
        steps: Number of positions measured.
        frames: Number of positions in a clip.
        spherical: Whether to interpolate along an arc.
        seed: Seed of `feature_path`.
    """

    def __init__(
        self,
        reconstructor: Reconstructor,
        side: int,
        batch_size: int,
        *,
        steps: int,
        frames: int,
        spherical: bool,
        seed: int,
    ) -> None:
        self._reconstructor, self._batch_size = reconstructor, batch_size
        self._size = None if reconstructor.inverter.output_region is not None else (side, side)
        self._steps, self._frames, self._spherical, self._seed = steps, frames, spherical, seed
        self.pairs: list[PairScore] = []
        self.rows: list[SheetRow] = []
        self.clips: list[Clip] = []
        self.notes: list[str] = []

    def end(self, key: str, image: torch.Tensor) -> End:
        """Return an image (3, H, W) uint8 with its features; ``ValueError`` if they are not finite."""
        features = self._reconstructor.features(image[None])
        check_finite([key], features)
        return End(key, image[None], features)

    def add(self, first: End, last: End, *, shown: bool) -> bool:
        """Measure a pair, and return whether its ends differ; if they are equal, there is a note instead."""
        positions = torch.linspace(0, 1, self._steps, dtype=torch.float64)
        path, decoded = self._decoded(first, last, positions)
        crossfade = _crossfade(decoded, positions)
        features, images = _distance(first.features[0], last.features[0]), _distance(decoded[0], decoded[-1])
        ends = {
            "features": _are_equal(features, first.features, last.features),
            "reconstructions": _are_equal(images, decoded[0], decoded[-1]),
        }
        if equal := [what for what, are_equal in ends.items() if are_equal]:
            self.notes.append(f"{first.key} and {last.key} have equal {equal[0]}: there is nothing between them.")
            return False
        if self._spherical and not has_arc(first.features[0], last.features[0]):
            self.notes.append(
                f"There is no arc between the features of {first.key} and {last.key}, which are zero or have equal or "
                "opposite directions: a line was taken."
            )
        again, faded = (self._reextracted(batch) for batch in (decoded, crossfade))
        deviations = _deviations(self._reconstructor.inverter, path)
        scores = tuple(
            PositionScore(
                position=float(positions[step]),
                feature_distance_first=_distance(again[step], first.features[0]) / features,
                feature_distance_last=_distance(again[step], last.features[0]) / features,
                image_distance_first=_distance(decoded[step], decoded[0]) / images,
                image_distance_last=_distance(decoded[step], decoded[-1]) / images,
                crossfade_distance=_distance(decoded[step], crossfade[step]) / images,
                feature_error=_distance(again[step], path[step]) / features,
                crossfade_feature_error=_distance(faded[step], path[step]) / features,
                largest_deviation=float(deviations[step]),
            )
            for step in range(self._steps)
        )
        nonlinearity = fmean([score.crossfade_distance for score in scores[1:-1]])
        self.pairs.append(PairScore(first.key, last.key, nonlinearity, scores))
        if shown:
            self._show(first, last, decoded, crossfade)
        return True

    def _decoded(self, first: End, last: End, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features at the positions, and the images (P, 3, H, W) decoded from them."""
        spec = self._reconstructor.inverter.spec
        path = feature_path(
            spec, first.features[0], last.features[0], positions, spherical=self._spherical, seed=self._seed
        )
        images = [self._reconstructor.invert(part, self._size).cpu() for part in path.split(self._batch_size)]
        return path, torch.cat(images).clamp(0, 1)

    def _reextracted(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([reextracted(self._reconstructor, part) for part in images.split(self._batch_size)])

    def _show(self, first: End, last: End, decoded: torch.Tensor, crossfade: torch.Tensor) -> None:
        photographs = as_pixels(self._reconstructor.target(torch.cat((first.image, last.image))))
        blank = np.full_like(photographs[0], 255)  # the sheet's background
        title = f"{first.key} to {last.key}"
        self.rows += [
            SheetRow(f"{title}, features interpolated", [photographs[0], *as_pixels(decoded), photographs[1]]),
            SheetRow(f"{title}, their reconstructions cross-faded", [blank, *as_pixels(crossfade), blank]),
        ]
        positions = torch.linspace(0, 1, self._frames, dtype=torch.float64)
        _, images = self._decoded(first, last, positions)
        self.clips.append(Clip(list(as_pixels(images)), list(as_pixels(_crossfade(images, positions)))))


def _crossfade(decoded: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the cross-fade of the first and the last image of a path (P, 3, H, W)."""
    t = positions.to(decoded).view(-1, 1, 1, 1)
    return (1 - t) * decoded[0] + t * decoded[-1]


def _deviations(inverter: Inverter, features: torch.Tensor) -> torch.Tensor:
    """Return the largest number of the standardized features (B, ...) of each image, without sign, (B,)."""
    standardized = inverter.standardized(features.to(inverter.feature_mean))
    return standardized.abs().flatten(1).amax(dim=1).cpu()


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).norm())


def _are_equal(distance: float, one: torch.Tensor, other: torch.Tensor) -> bool:
    return distance <= _EQUAL * float(one.double().norm() + other.double().norm())
