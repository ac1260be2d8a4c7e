"""Perturb features: keep only signs, drop entries, keep only the largest ones, or add noise, quantize and scale.

All functions take features (B, C, h, w) or (B, C), floating point and finite, and return new features of the same
shape, dtype and device. Each image is perturbed on its own, over all of its entries; an image whose entries are all
zero stays so. The definitions of `binarize`, `dropout`, `drop_smallest`, `keep_largest` and `drop_largest` are those of
Dosovitskiy & Brox (CVPR 2016).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch

from preimage.studies.base import check_at_least

PERCENTAGE = 50.0
LARGEST = 5
BITS = 4

_MOST_BITS = 16


def binarize(features: torch.Tensor) -> torch.Tensor:
    """Keep the signs and give all non-zero entries of an image one magnitude, so that its L2 norm is unchanged."""
    entries = _entries(features)
    signs = entries.sign()
    magnitude = _norms(entries) / signs.double().square().sum(dim=1, keepdim=True).sqrt().clamp_min(1)
    return _shaped(signs * magnitude, features)


def dropout(features: torch.Tensor, percentage: float = PERCENTAGE, *, seed: int = 0, first: int = 0) -> torch.Tensor:
    """Set random entries of an image to zero, and scale the others so that its L2 norm is unchanged.

    Args:
        features: Features of a batch of images.
        percentage: Percentage of all entries, zeros included, that are set to zero, above 0 and below 100. Of n entries
            n · percentage / 100 are, rounded half up. If no non-zero entry is left, the result is zero. With one seed
            the entries of a smaller percentage are among those of every larger one.
        seed: Seed of the selection, at least 0.
        first: Index of the batch's first image among all images. The selection in an image depends on `seed` and its
            index alone, not on the batch size.

    Raises:
        ValueError: `percentage`, `seed` or `first` is out of range; features that are not finite.
    """
    _check_percentage(percentage)
    check_at_least(("seed", seed, 0), ("first", first, 0))
    entries = _entries(features)
    count = entries.shape[1]
    dropped = math.floor(count * percentage / 100 + 0.5)
    kept = np.ones(entries.shape, bool)
    for image, row in enumerate(kept):
        row[np.random.default_rng((seed, first + image)).permutation(count)[:dropped]] = False
    left = entries * torch.from_numpy(kept).to(entries.device)
    norms = _norms(left)
    scale = torch.where(norms > 0, _norms(entries) / norms.where(norms > 0, 1.0), 0.0)
    return _shaped(left * scale, features)


def drop_smallest(features: torch.Tensor, percentage: float = PERCENTAGE) -> torch.Tensor:
    """Set the non-zero entries of an image with the smallest magnitudes to zero.

    Args:
        features: Features of a batch of images.
        percentage: Percentage of the non-zero entries, above 0 and below 100. Of n entries n · percentage / 100 are
            dropped, rounded down, so that one is left if there are any. Of entries with equal magnitudes the last ones
            in memory order are dropped first.

    Raises:
        ValueError: `percentage` is out of range; features that are not finite.
    """
    _check_percentage(percentage)
    entries = _entries(features)
    nonzero = (entries != 0).sum(dim=1, keepdim=True)
    kept = nonzero - (nonzero.double() * percentage / 100).floor().long()
    return _shaped(entries * (_ranks(entries.abs()) < kept), features)


def keep_largest(features: torch.Tensor, count: int = LARGEST) -> torch.Tensor:
    """Set all but the `count` entries of an image with the largest values to zero, without rescaling the others.

    The largest values of class scores are meant, so signs count: -3 is smaller than 0. Of equal values the first ones
    in memory order are kept. Probabilities do not sum to 1 afterwards.
    """
    entries = _entries(features)
    return _shaped(entries * _largest(entries, count), features)


def drop_largest(features: torch.Tensor, count: int = LARGEST) -> torch.Tensor:
    """Set the entries of an image to zero that `keep_largest` keeps, without rescaling the others."""
    entries = _entries(features)
    return _shaped(entries * ~_largest(entries, count), features)


def add_noise(features: torch.Tensor, percentage: float = PERCENTAGE, *, seed: int = 0, first: int = 0) -> torch.Tensor:
    """Add Gaussian noise to all entries of an image.

    Args:
        features: Features of a batch of images.
        percentage: Standard deviation of the noise, in percent of that of the image's entries, above 0. With one seed,
            noise of another percentage is the same noise scaled.
        seed: Seed of the noise, at least 0.
        first: Index of the batch's first image among all images, see `dropout`.

    Raises:
        ValueError: `percentage`, `seed` or `first` is out of range; features that are not finite.
    """
    _check_positive("percentage", percentage)
    check_at_least(("seed", seed, 0), ("first", first, 0))
    entries = _entries(features)
    drawn = np.empty(entries.shape, np.float32)
    for image, row in enumerate(drawn):
        np.random.default_rng((seed, first + image)).standard_normal(out=row, dtype=np.float32)
    deviation = entries.double().std(dim=1, keepdim=True, correction=0)
    return _shaped(entries + torch.from_numpy(drawn).to(entries.device) * deviation * (percentage / 100), features)


def quantize(features: torch.Tensor, bits: int = BITS) -> torch.Tensor:
    """Round all entries of an image to 2 ** `bits` values, evenly spaced from the smallest entry to the largest.

    Args:
        features: Features of a batch of images.
        bits: Bits of an entry, 1 to 16.

    Raises:
        ValueError: `bits` is out of range; features that are not finite.
    """
    if not 1 <= bits <= _MOST_BITS:
        raise ValueError(f"bits must be from 1 to {_MOST_BITS}, got {bits}")
    entries = _entries(features)
    low, high = entries.double().aminmax(dim=1, keepdim=True)
    step = (high - low) / (2**bits - 1)
    index = ((entries.double() - low) / step.where(step > 0, 1.0)).round()
    return _shaped(low + index * step, features)


def scale(features: torch.Tensor, percentage: float = PERCENTAGE) -> torch.Tensor:
    """Multiply all entries by a percentage above 0."""
    _check_positive("percentage", percentage)
    return _shaped(_entries(features).double() * (percentage / 100), features)


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """A named change of features; ``a + b`` applies `a`, then `b`, both with the same seed.

    Attributes:
        name: Name on plots, sheets and in tables.
        function: Function of features, the seed, and the index of the batch's first image among all images. It returns
            features of the same shape.
        vectors_only: Whether it is applied to vectors (B, C) only, not to maps (B, C, h, w).
    """

    name: str
    function: Callable[[torch.Tensor, int, int], torch.Tensor]
    vectors_only: bool = False

    def __call__(self, features: torch.Tensor, *, seed: int = 0, first: int = 0) -> torch.Tensor:
        """Return perturbed features; ``ValueError`` if `function` changes the shape."""
        perturbed = self.function(features, seed, first)
        if perturbed.shape != features.shape:
            raise ValueError(
                f"the perturbation {self.name!r} must keep the shape of the features, {tuple(features.shape)}, "
                f"got {tuple(perturbed.shape)}"
            )
        return perturbed

    def __add__(self, other: Perturbation) -> Perturbation:
        def both(features: torch.Tensor, seed: int, first: int) -> torch.Tensor:
            return other.function(self.function(features, seed, first), seed, first)

        return Perturbation(f"{self.name}+{other.name}", both, self.vectors_only or other.vectors_only)


def parse_perturbation(name: str) -> Perturbation:
    """Return the perturbation of a name; names joined by ``+`` are applied from left to right.

    ``binarize``; ``dropout`` and ``drop-smallest`` with a percentage (``dropout-30``; 50 without a number);
    ``drop-least``, the paper's, which is ``drop-smallest+binarize``, with a percentage of the smallest entries
    (``drop-least-30``); ``top`` and ``not-top`` with a count (``top-10``; 5 without a number), for vectors only;
    ``noise`` and ``scale`` with a percentage (``noise-20``; 50 without a number); ``quantize`` with a number of bits
    (``quantize-3``; 4 without a number).

    Raises:
        ValueError: There is no such perturbation, or its number is out of range.
    """
    made = [_step(step) for step in name.split("+")]
    whole = made[0]
    for step in made[1:]:
        whole += step
    return whole


def parse_perturbations(given: Perturbation | str | Sequence[Perturbation | str]) -> tuple[Perturbation, ...]:
    """Return perturbations, given as such or by name, also a single one; ``ValueError`` if two have one name."""
    if isinstance(given, str | Perturbation):
        given = [given]
    made = tuple(parse_perturbation(one) if isinstance(one, str) else one for one in given)
    names = [one.name for one in made]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"perturbations must differ, got {repeated[0]} twice")
    return made


_KINDS = "binarize|dropout|drop-smallest|drop-least|noise|not-top|quantize|scale|top"
_STEP = re.compile(rf"(?P<kind>{_KINDS})(?:-(?P<number>\d+(?:\.\d+)?))?")


def _step(text: str) -> Perturbation:
    match = _STEP.fullmatch(text.strip())
    if match is None or (match["kind"] == "binarize" and match["number"]):
        raise ValueError(
            "a perturbation must be binarize, dropout-PERCENT, drop-smallest-PERCENT, drop-least-PERCENT, top-COUNT, "
            "not-top-COUNT, noise-PERCENT, quantize-BITS, scale-PERCENT, or several joined by +, got "
            f"{text.strip()!r}"
        )
    kind, number = match["kind"], None if match["number"] is None else float(match["number"])
    if kind == "binarize":
        return Perturbation(kind, lambda features, seed, first: binarize(features))
    if kind in ("top", "not-top"):
        return _of_largest(kind, LARGEST if number is None else number)
    if kind == "quantize":
        return _quantized(BITS if number is None else number)
    return _of_percentage(kind, PERCENTAGE if number is None else number)


def _of_percentage(kind: str, percentage: float) -> Perturbation:
    if kind in ("noise", "scale"):
        _check_positive("percentage", percentage)
    else:
        _check_percentage(percentage)
    functions: dict[str, Callable[[torch.Tensor, int, int], torch.Tensor]] = {
        "dropout": lambda features, seed, first: dropout(features, percentage, seed=seed, first=first),
        "drop-smallest": lambda features, seed, first: drop_smallest(features, percentage),
        "drop-least": lambda features, seed, first: binarize(drop_smallest(features, percentage)),
        "noise": lambda features, seed, first: add_noise(features, percentage, seed=seed, first=first),
        "scale": lambda features, seed, first: scale(features, percentage),
    }
    return Perturbation(kind if percentage == PERCENTAGE else f"{kind}-{percentage:g}", functions[kind])


def _of_largest(kind: str, number: float) -> Perturbation:
    count = int(number)
    if count != number or count < 1:
        raise ValueError(f"{kind} takes a number of entries, a whole number of at least 1, got {number:g}")
    chosen = keep_largest if kind == "top" else drop_largest
    return Perturbation(f"{kind}-{count}", lambda features, seed, first: chosen(features, count), vectors_only=True)


def _quantized(number: float) -> Perturbation:
    bits = int(number)
    if bits != number or not 1 <= bits <= _MOST_BITS:
        raise ValueError(f"quantize takes a whole number of bits, from 1 to {_MOST_BITS}, got {number:g}")
    return Perturbation(f"quantize-{bits}", lambda features, seed, first: quantize(features, bits))


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value:g}")


def _check_percentage(percentage: float) -> None:
    if not 0 < percentage < 100:
        raise ValueError(f"percentage must be above 0 and below 100, got {percentage:g}")


def _entries(features: torch.Tensor) -> torch.Tensor:
    """Return the entries of checked features by image, (B, N)."""
    if not features.is_floating_point():
        raise TypeError(f"features must be floating point, got {features.dtype}")
    if features.dim() not in (2, 4) or 0 in features.shape:
        raise ValueError(f"features must be (B, C, h, w) or (B, C), got shape {tuple(features.shape)}")
    entries = features.flatten(1)
    if len(wrong := (~entries.isfinite().all(dim=1)).nonzero()):
        raise ValueError(f"features must be finite, but those of image {int(wrong[0])} are not")
    return entries


def _shaped(entries: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    return entries.to(features.dtype).view(features.shape)


def _norms(entries: torch.Tensor) -> torch.Tensor:
    """Return the L2 norm of each row, (B, 1) float64."""
    return entries.double().norm(dim=1, keepdim=True)


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the position of each entry in its row sorted in descending order; of equal entries the first is first."""
    order = values.sort(dim=1, descending=True, stable=True).indices
    positions = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, positions)


def _largest(entries: torch.Tensor, count: int) -> torch.Tensor:
    check_at_least(("count", count, 1))
    return _ranks(entries) < count
