"""Learn the atoms of a paired dictionary from windows of HOG and the image patches below them."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from preimage.baselines.base import Progress
from preimage.metrics import luma
from preimage.optional import import_optional
from preimage.pipelines.image_loading import Images, as_sources, batches
from preimage.representations import Representation

CELLS = 5  # side of a window
WINDOWS_PER_IMAGE = 25
_BATCH = 512  # windows for each update of the dictionary
_SWEEPS = 50  # maximum number of sweeps of coordinate descent over the atoms
_IMAGES = 16  # photographs whose features are computed at once


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of HOG with the patches below them.

    Attributes:
        pairs: (N, D) float32, in each row a normalized window (31, 5, 5) and a normalized patch (P, P).
        hog_length: Number of values of a window.
        level: Mean gray value of the images.
        images: Some of the images, (M, 3, H, W) uint8.
        units: Amount of work of collecting and of learning, for reports of progress.
    """

    pairs: npt.NDArray[np.float32]
    hog_length: int
    level: float
    images: torch.Tensor
    units: tuple[int, int]


def training_windows(
    images: Images, representation: Representation, count: int, size: int, seed: int, progress: Progress | None
) -> Windows:
    """Return `count` windows at random positions, or fewer if there are not as many positions; without flat ones.

    Args:
        images: Photographs, of which no more are used than needed for `WINDOWS_PER_IMAGE` windows each.
        representation: HOG.
        count: Number of windows.
        size: Side in pixels of the photographs.
        seed: Seed.
        progress: Function called with (work done, total amount).

    Raises:
        ValueError: Photographs that cannot be decoded, or `size` below five cells.
    """
    cell = representation.spec.stride
    assert cell is not None
    side = CELLS * cell
    positions = (size - side) // cell + 1  # of windows that are inside the image, along an axis
    if positions < 1:
        raise ValueError(f"size must be at least {side}, five cells of {cell} pixels, got {size}")
    random = np.random.default_rng((seed, 0))
    sources = as_sources(images)
    chosen = random.permutation(len(sources))[: math.ceil(count / min(positions**2, WINDOWS_PER_IMAGE))]
    each = min(positions**2, math.ceil(count / len(chosen)))
    units = len(chosen), math.ceil(count / _BATCH)
    pairs: list[npt.NDArray[np.float32]] = []
    kept: list[torch.Tensor] = []
    level, done = 0.0, 0
    for _, batch in batches([sources[index] for index in chosen], size, _IMAGES):
        features, planes = representation(batch), gray(batch)
        level += planes.mean(dim=(1, 2)).sum().item()
        for maps, plane in zip(features, planes, strict=True):
            rows, columns = np.divmod(random.choice(positions**2, each, replace=False), positions)
            windows = maps.unfold(1, CELLS, 1).unfold(2, CELLS, 1)[:, rows, columns].transpose(0, 1)
            patches = plane.unfold(0, side, cell).unfold(1, side, cell)[rows, columns]
            hog, image = normalized(windows.flatten(1)), normalized(patches.flatten(1))
            useful = hog.any(dim=1) & image.any(dim=1)
            pairs.append(torch.cat([hog, image], dim=1)[useful].numpy())
        if not kept:
            kept.append(batch)
        done += len(batch)
        if progress is not None:
            progress(done, sum(units))
    hog_length = representation.spec.channels * CELLS**2
    order = random.permutation(sum(map(len, pairs)))[:count]
    return Windows(np.concatenate(pairs)[order], hog_length, level / len(chosen), kept[0], units)


def learn_atoms(
    windows: Windows, atoms: int, penalty: float, seed: int, progress: Progress | None
) -> npt.NDArray[np.float32]:
    """Return atoms (K, D) with non-negative codes, learned in one pass over the windows, which are in random order.

    Args:
        windows: Windows.
        atoms: Number of atoms K.
        penalty: λ of the lasso.
        seed: Seed.
        progress: Function called with (work done, total amount).

    Raises:
        ValueError: Fewer windows than atoms.
        ImportError: scikit-learn is missing.
    """
    decomposition = import_optional("scikit-learn", "sklearn.decomposition")
    pairs = windows.pairs
    if len(pairs) < atoms:
        raise ValueError(
            f"{atoms} atoms need at least as many windows that are not flat, got {len(pairs)}: use more images, or a "
            "larger number of patches"
        )
    first = pairs[:atoms]
    learner: Any = decomposition.MiniBatchDictionaryLearning(
        atoms,
        alpha=penalty,
        batch_size=_BATCH,
        fit_algorithm="cd",
        positive_code=True,
        transform_max_iter=_SWEEPS,  # also of the codes while learning
        dict_init=first / np.linalg.norm(first, axis=1, keepdims=True),
        random_state=seed,
    )
    collecting, total = windows.units[0], sum(windows.units)
    starts = range(0, len(pairs), _BATCH)
    converging = import_optional("scikit-learn", "sklearn.exceptions").ConvergenceWarning
    for step, start in enumerate(starts, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", converging)  # codes need not be exact for an update
            learner.partial_fit(pairs[start : start + _BATCH])
        if progress is not None:
            progress(total if step == len(starts) else min(total, collecting + step), total)
    return np.ascontiguousarray(learner.components_, np.float32)


def gray(images: torch.Tensor) -> torch.Tensor:
    """Return the luma (B, H, W) float32 in [0, 1] of images (B, 3, H, W) uint8."""
    return luma(images.float() / 255)


def normalized(windows: torch.Tensor) -> torch.Tensor:
    """Return rows (N, D) without their mean, of length one; rows of equal values become zero."""
    centered = windows - windows.mean(dim=1, keepdim=True)
    length = centered.norm(dim=1, keepdim=True)
    # Rounding leaves about 1e-7 in each value of a flat row.
    return torch.where(length > 1e-5, centered / length.clamp_min(1e-5), 0)
