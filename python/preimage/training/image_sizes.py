"""Vary the size of the training images from step to step.

A network that was trained on images of one size expects the coarsest maps of that size. Features of images of another
size are extended by their mirror image inside the network, and the reconstructions get worse the longer it was
trained. With images of several sizes they do not. Half of the batches have the size of the run, for which the error is
validated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from preimage.inverters import Inverter


def other_sides(
    model: Inverter, feature_size: Callable[[int, int], tuple[int, int] | None], smallest: int, side: int
) -> tuple[int, ...]:
    """Return the sides in pixels, from `smallest` to below `side`, of images that are reconstructed completely.

    Args:
        model: The inverter.
        feature_size: Function that returns (h, w) of the features of an image of (H, W) pixels, or raises
            ``ValueError`` if the image is too small.
        smallest: Smallest side in pixels.
        side: Side of the images of the run in pixels.

    Raises:
        ValueError: The inverter reconstructs images of one size only, or there is no such side.
    """
    if model.output_region is not None:
        raise ValueError(f"min_size does not apply to {model.spec.representation}: its images have one size")

    def is_complete(one: int) -> bool:
        try:
            cells = feature_size(one, one)
        except ValueError:
            return False
        return cells is not None and model.covered(*cells) == (one, one)

    sides = tuple(filter(is_complete, range(smallest, side)))
    if not sides:
        raise ValueError(
            f"no image of at least min_size {smallest} and less than {side} pixels a side is reconstructed completely "
            f"from {model.spec.representation} features: choose a smaller min_size"
        )
    return sides


def side_of(step: int, side: int, others: Sequence[int], seed: int) -> int:
    """Return the side of the images of a step in pixels: `side` or, with probability one half, any of the others.

    Args:
        step: Number of steps before.
        side: Side of the images of the run.
        others: `other_sides`, or none.
        seed: Seed of the choice.
    """
    if not others:
        return side
    random = np.random.default_rng((seed, 3, step))
    return int(random.choice(others)) if random.random() < 0.5 else side
