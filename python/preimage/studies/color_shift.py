"""Measure how reconstructions and class scores change when the hue of the images is rotated."""

from __future__ import annotations

import cmath
import dataclasses
import math
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch

from preimage.representations import Representation
from preimage.studies.image_bands import GRAY_CHROMA, to_opponent

_SCORE_LAYERS = {"scores", "prob", "probs", "probabilities", "logits", "fc8"}
_ORANGE, _GREEN = 30.0, 120.0  # axes of chroma, degrees
_SYNSET = re.compile(r"^n\d{8}\s+")


@dataclasses.dataclass(frozen=True)
class ShiftScore:
    """Reconstructions and classes of images whose hue is rotated.

    Attributes:
        degrees: Rotation of the images' hue.
        images: Number of images with color.
        rotation: Rotation between the reconstructions of the image and of the rotated image in degrees, in (−180, 180],
            the circular mean over the images.
        concentration: Length of the mean of these rotations as unit vectors: 1 if all are equal.
        image_chroma: Root mean square chroma of the rotated images, as a ratio to that of the images; it is below 1
            where rotated colors have to be less saturated.
        chroma: Root mean square chroma of the reconstructions, as a ratio to that of the rotated images.
        same_class: Share of all images whose most probable class is that of the original image; ``None`` without class
            scores.
        confidence: Mean probability of the most probable class.
        original_confidence: Mean probability of the most probable class of the original image.
    """

    degrees: float
    images: int
    rotation: float
    concentration: float
    image_chroma: float
    chroma: float
    same_class: float | None
    confidence: float | None
    original_confidence: float | None


@dataclasses.dataclass(frozen=True)
class HueScores:
    """Reconstructions of images at all rotations.

    Attributes:
        shifts: Scores by rotation; the first is of the images as they are.
        correlation: Circular correlation of the mean hues of images and reconstructions, over all images and rotations.
        slope: Slope of the regression of the reconstructions' rotation on that of the images, through 0, over the
            rotations in (−180°, 180°); ``None`` if there is none.
        warm_correlation: Correlation of the mean chroma of images and reconstructions along the axis from azure to
            orange, over all images and rotations; ``None`` if one of them is constant.
        green_correlation: The same along the axis from magenta to green.
    """

    shifts: tuple[ShiftScore, ...]
    correlation: float | None
    slope: float | None
    warm_correlation: float | None
    green_correlation: float | None


class ShiftMeasurement:
    """Collect images and reconstructions at several rotations, batch by batch.

    Args:
        angles: Rotations in degrees, the first of which is 0.
        classes: Whether the features are class scores.
    """

    def __init__(self, angles: Sequence[float], *, classes: bool) -> None:
        self._angles, self._classes = tuple(angles), classes
        # By rotation, a tensor for each batch.
        self._moments: list[list[torch.Tensor]] = [[] for _ in angles]
        self._probabilities: list[list[torch.Tensor]] = [[] for _ in angles]
        self._first: torch.Tensor | None = None
        self._original_class: list[torch.Tensor] = []

    def add(
        self, index: int, target: torch.Tensor, reconstruction: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """Add a batch at the rotation of an index; the batch is added at all rotations in order.

        Args:
            index: Index of the rotation.
            target: (B, 3, H, W) in [0, 1], the rotated images.
            reconstruction: (B, 3, H, W) in [0, 1].
            features: (B, ...) from which they were reconstructed.

        Returns:
            Rotation (B,) of the reconstructions in degrees, compared with that of the images as they are.
        """
        true, made = _complex_chroma(target), _complex_chroma(reconstruction)
        if index == 0:
            self._first = made
        assert self._first is not None
        turned = (self._first.conj() * made).mean(dim=(1, 2))
        squares = [chroma.abs().square().mean(dim=(1, 2)) for chroma in (true, made)]
        means = [chroma.mean(dim=(1, 2)) for chroma in (true, made)]
        self._moments[index].append(torch.stack([turned, *means, *squares]))
        if self._classes:
            chances = class_probabilities(features).cpu()
            if index == 0:
                self._original_class.append(chances.argmax(dim=1))
            best = chances.max(dim=1)
            kept = chances.gather(1, self._original_class[-1][:, None])[:, 0]
            same = (best.indices == self._original_class[-1]).double()
            self._probabilities[index].append(torch.stack([same, best.values, kept]))
        return torch.rad2deg(turned.angle())

    def scores(self) -> HueScores:
        """Return the scores; ``ValueError`` if no image has color."""
        moments = torch.stack([torch.cat(batches, dim=1) for batches in self._moments])  # (rotations, 5, N)
        colored = moments[0, 3].real.sqrt() >= GRAY_CHROMA
        if not bool(colored.any()):
            raise ValueError(f"the study needs images with color, but all of the {len(colored)} images are gray")
        moments = moments[:, :, colored]
        shifts = tuple(self._shift(index, moments) for index in range(len(self._angles)))
        means = moments[:, 1:3].transpose(0, 1).flatten(1)  # (2, rotations · N): of images and reconstructions
        steps = [(wrapped(shift.degrees), shift.rotation) for shift in shifts]
        steps = [(given, found) for given, found in steps if 0 < abs(given) < 180]
        return HueScores(
            shifts,
            circular_correlation(*means.angle()),
            sum(given * found for given, found in steps) / sum(given**2 for given, _ in steps) if steps else None,
            _axis_correlation(means, _ORANGE),
            _axis_correlation(means, _GREEN),
        )

    def _shift(self, index: int, moments: torch.Tensor) -> ShiftScore:
        turned, _, _, true, made = moments[index]
        mean = (turned / turned.abs().clamp_min(1e-30)).mean()
        chances = torch.cat(self._probabilities[index], dim=1).mean(dim=1).tolist() if self._classes else [None] * 3
        true_energy = float(true.real.sum())
        return ShiftScore(
            self._angles[index],
            moments.shape[2],
            math.degrees(float(mean.angle())),
            float(mean.abs()),
            math.sqrt(true_energy / float(moments[0, 3].real.sum())),
            math.sqrt(float(made.real.sum()) / true_energy),
            *chances,
        )


def circular_correlation(first: torch.Tensor, second: torch.Tensor) -> float | None:
    """Return the correlation of pairs of angles in radians, both (N,), in [−1, 1].

    Fisher & Lee, "A correlation coefficient for circular data" (Biometrika 1983): the sum over pairs of observations of
    sin(aᵢ − aⱼ)·sin(bᵢ − bⱼ), normalized. ``None`` if one of the angles does not vary.
    """
    a, b = first.double(), second.double()

    def square(angle: torch.Tensor) -> float:
        return len(angle) ** 2 - float((2 * angle).cos().sum() ** 2 + (2 * angle).sin().sum() ** 2)

    spread = square(a) * square(b)
    if spread <= 1e-9 * len(a) ** 4:
        return None
    same = (a.cos() * b.cos()).sum() * (a.sin() * b.sin()).sum()
    mixed = (a.cos() * b.sin()).sum() * (a.sin() * b.cos()).sum()
    return float(4 * (same - mixed)) / math.sqrt(spread)


def _axis_correlation(chroma: torch.Tensor, degrees: float) -> float | None:
    """Return the correlation of two rows of chroma, complex (2, N), along the axis at an angle."""
    x, y = (chroma * cmath.exp(-1j * math.radians(degrees))).real
    x, y = x - x.mean(), y - y.mean()
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm > 1e-9 else None


def has_class_scores(representation: Representation) -> bool:
    """Return whether the features are class scores or probabilities, by the name of the layer."""
    spec = representation.spec
    layer = str(spec.parameters.get("layer", spec.representation)).rpartition(".")[2].rpartition("-")[2]
    return spec.stride is None and layer in _SCORE_LAYERS


def class_probabilities(features: torch.Tensor) -> torch.Tensor:
    """Return class scores (B, C) as probabilities, float64: by a softmax, unless they are probabilities already."""
    scores = features.double()
    sums = scores.sum(dim=1)
    if bool((scores >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        return scores
    return scores.softmax(dim=1)


def read_labels(path: str | PathLike[str] | None, count: int) -> list[str]:
    """Return the names of classes, one a line of a file, or ``class 0`` … without a file.

    A WordNet number such as ``n01440764`` at the beginning of a line is left out, as are synonyms after a comma.

    Raises:
        ValueError: A file with another number of lines than `count`, or that is not UTF-8.
        OSError: A file that cannot be read.
    """
    if path is None:
        return [f"class {index}" for index in range(count)]
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8") from error
    if len(lines) != count:
        raise ValueError(f"{path}: must have a line for each of the {count:,} classes, got {len(lines):,} lines")
    return [_SYNSET.sub("", line).partition(",")[0].strip() for line in lines]


def _complex_chroma(images: torch.Tensor) -> torch.Tensor:
    """Return the chroma of images (B, 3, H, W) as complex numbers (B, H, W), whose angle is the hue."""
    planes = to_opponent(images.double())
    return torch.complex(planes[:, 1], planes[:, 2])


def wrapped(degrees: float) -> float:
    """Return the angle in (−180, 180]."""
    return -((180 - degrees) % 360 - 180)
