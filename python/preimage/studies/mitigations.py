"""Change stored features so that less can be reconstructed from them: noise, fewer bits, projections, less of each.

The functions take the values (N, C) or (N, C, h, w) of all N images or keypoints of an index, because ranges, means and
standard deviations are those of the index. A dimension is a channel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from preimage.keypoints import Keypoints
from preimage.studies.base import check_at_least
from preimage.studies.keypoint_perturbations import keep_percentage

NOISE_LEVELS = (0.1, 0.25, 0.5, 1.0)
BITS = (8, 4, 2, 1)
DIVISORS = (2, 4, 8)
PERCENTAGES = (50.0, 25.0, 10.0)

NOISE, QUANTIZATION, PROJECTION, DROPPING, FEWER = "noise", "quantization", "projection", "dropping", "fewer keypoints"
KNOWLEDGE = {
    NOISE: "neither that it is there nor its level",
    QUANTIZATION: "the values that the bits stand for",
    PROJECTION: "the matrix, and the means of the dimensions",
    DROPPING: "which dimensions are left, and the means of the others",
    FEWER: "nothing about those left out",
}

Items = torch.Tensor | Keypoints


def add_noise(values: torch.Tensor, level: float, seed: int = 0) -> torch.Tensor:
    """Add Gaussian noise.

    Args:
        values: (N, C) or (N, C, h, w), floating point.
        level: Standard deviation of the noise, divided by that of the values around the mean of their dimension, at
            least 0. With one seed, noise of another level is the same noise scaled.
        seed: Seed of the noise, at least 0.
    """
    check_at_least(("level", level, 0), ("seed", seed, 0))
    drawn = np.random.default_rng(seed).standard_normal(tuple(values.shape), np.float32)
    deviation = (values.double() - _means(values).double()).square().mean().sqrt()
    return values + (level * float(deviation)) * torch.from_numpy(drawn).to(values)


def quantize(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Round to the middle of one of 2 ** `bits` intervals of equal length, from minimum to maximum of a dimension."""
    if not 1 <= bits <= 16:
        raise ValueError(f"bits must be 1 to 16, got {bits}")
    axes = [axis for axis in range(values.dim()) if axis != 1]
    low, high = values.amin(dim=axes, keepdim=True), values.amax(dim=axes, keepdim=True)
    step = (high - low) / 2**bits
    index = ((values - low) / step.where(step > 0, torch.ones_like(step))).floor().clamp(0, 2**bits - 1)
    return torch.where(step > 0, low + (index + 0.5) * step, low)


def project(values: torch.Tensor, dimensions: int, seed: int = 0) -> torch.Tensor:
    """Project to a random subspace and back by the pseudo-inverse of the projection; what is lost is set to its mean.

    The rows of the projection are orthonormal, so that distances between projected values are those of the returned
    ones. The cells of a map are projected by the same matrix.

    Args:
        values: (N, C) or (N, C, h, w), floating point.
        dimensions: Dimensions of the subspace, 1 to C.
        seed: Seed of the projection, at least 0.
    """
    _check_dimensions(values, dimensions, seed)
    drawn = np.random.default_rng(seed).standard_normal((values.shape[1], dimensions))
    basis = torch.from_numpy(np.linalg.qr(drawn)[0].astype(np.float32)).to(values)  # [C, dimensions]
    means = _means(values)
    flat = (values - means).movedim(1, -1)
    return ((flat @ basis) @ basis.T).movedim(-1, 1).contiguous() + means


def drop_dimensions(values: torch.Tensor, dimensions: int, seed: int = 0) -> torch.Tensor:
    """Keep random dimensions, the same of all values, and set the others to their mean.

    Args:
        values: (N, C) or (N, C, h, w), floating point.
        dimensions: Number of dimensions that are kept, 1 to C. With one seed, fewer are among more.
        seed: Seed of the selection, at least 0.
    """
    _check_dimensions(values, dimensions, seed)
    kept = torch.zeros(values.shape[1], dtype=torch.bool)
    kept[np.random.default_rng(seed).permutation(values.shape[1])[:dimensions]] = True
    shape = [1, -1] + [1] * (values.dim() - 2)
    return torch.where(kept.view(shape).to(values.device), values, _means(values))


@dataclasses.dataclass(frozen=True)
class Mitigation:
    """A named change of the features of an index.

    Attributes:
        kind: ``"noise"``, ``"quantization"``, ``"projection"``, ``"dropping"`` or ``"fewer keypoints"``.
        setting: Strength in words: ``"4 bits"``.
        function: Function of all features (N, C) or (N, C, h, w), or of the keypoints of all images.
    """

    kind: str
    setting: str
    function: Callable[[Items], Items]

    @property
    def name(self) -> str:
        """Kind and setting."""
        return f"{self.kind}, {self.setting}"

    def __call__(self, items: Items) -> Items:
        return self.function(items)


def list_mitigations(items: Items, seed: int = 0) -> list[Mitigation]:
    """Return the changes that are measured for these features or keypoints, by kind and from weak to strong."""
    is_keypoints = isinstance(items, Keypoints)
    dimensions = items.descriptors.shape[1] if isinstance(items, Keypoints) else items.shape[1]

    def on(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Items], Items]:
        return lambda given: _change_descriptors(given, change) if isinstance(given, Keypoints) else change(given)

    lefts = list(dict.fromkeys(max(1, dimensions // divisor) for divisor in DIVISORS))
    lefts = [left for left in lefts if left < dimensions]
    made = [
        *(
            Mitigation(NOISE, f"{level:g} σ", on(lambda values, level=level: add_noise(values, level, seed)))  # type: ignore[misc]
            for level in NOISE_LEVELS
        ),
        *(
            Mitigation(QUANTIZATION, _bits(bits), on(lambda values, bits=bits: quantize(values, bits)))  # type: ignore[misc]
            for bits in BITS
        ),
        *(
            Mitigation(kind, f"{left} of {dimensions}", on(lambda values, do=do, left=left: do(values, left, seed)))  # type: ignore[misc]
            for kind, do in ((PROJECTION, project), (DROPPING, drop_dimensions))
            for left in lefts
        ),
    ]
    if is_keypoints:
        made += [
            Mitigation(
                FEWER,
                f"{percentage:g} %",
                lambda given, percentage=percentage: keep_percentage(given, percentage, seed),  # type: ignore[misc]
            )
            for percentage in PERCENTAGES
        ]
    return made


def neighbor_overlap(values: torch.Tensor, changed: torch.Tensor, count: int) -> list[float]:
    """Return for each of N items which share of its `count` nearest others stays the same, by Euclidean distance.

    Args:
        values: (N, C) or (N, C, h, w).
        changed: The same features, changed.
        count: Number of neighbors, 1 to N - 1.
    """
    before, after = _neighbors(values, count), _neighbors(changed, count)
    return [len(set(one) & set(other)) / count for one, other in zip(before, after, strict=True)]


def _neighbors(values: torch.Tensor, count: int) -> list[list[int]]:
    flat = values.flatten(1).double()
    flat = flat - flat.mean(dim=0)  # differences of large numbers would lose digits
    squares = flat.square().sum(dim=1)
    distances = squares[:, None] + squares - 2 * (flat @ flat.T)
    distances.fill_diagonal_(torch.inf)
    found: list[list[int]] = distances.argsort(dim=1, stable=True)[:, :count].tolist()
    return found


def _change_descriptors(keypoints: Keypoints, change: Callable[[torch.Tensor], torch.Tensor]) -> Keypoints:
    """Return keypoints with changed descriptors, not negative and of length 1, as descriptors are."""
    changed = F.normalize(change(keypoints.descriptors).clamp_min(0), dim=1)
    return dataclasses.replace(keypoints, descriptors=changed.float().contiguous())


def _means(values: torch.Tensor) -> torch.Tensor:
    """Return the mean of each dimension, (1, C) or (1, C, 1, 1)."""
    axes = [axis for axis in range(values.dim()) if axis != 1]
    return values.double().mean(dim=axes, keepdim=True).to(values.dtype)


def _check_dimensions(values: torch.Tensor, dimensions: int, seed: int) -> None:
    check_at_least(("seed", seed, 0))
    if not 1 <= dimensions <= values.shape[1]:
        raise ValueError(f"dimensions must be 1 to {values.shape[1]}, got {dimensions}")


def _bits(count: int) -> str:
    return "1 bit" if count == 1 else f"{count} bits"
