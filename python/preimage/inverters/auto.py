"""Choose a network for features of any shape, within a budget of parameters."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable

import torch

from preimage.inverters.architectures import ArchitectureConfig, SingleStreamConfig, UShapedConfig, build
from preimage.inverters.output_region import OutputRegion

BUDGET = 4_000_000
_VECTOR_OUTPUT = 128  # side in pixels, the paper's for FC6 to FC8; vectors contain no finer detail
_PAPER_WIDTHS = (256, 128, 64, 32)  # channels of the paper's up-convolutions before the image
_LEAST_PROBABILITY = 1e-7  # about the smallest number of float16
_U_CELLS = 28  # cells along a side at the first size of a U, approximately: with 5 sizes the last has 2
_FEW_CELLS = 12  # maps of fewer cells need no contracting part, because three 3×3 layers cover them


def auto(
    channels: int,
    cells: int | None,
    image_size: int,
    output_size: int | None = None,
    budget: int | None = None,
    *,
    probabilities: bool = False,
) -> tuple[ArchitectureConfig, OutputRegion]:
    """Return a network and its output region.

    A fully connected layer turns vectors into a small map, which up-convolutions with residual blocks between them
    enlarge. Maps of few cells are enlarged in the same way; larger ones first pass a U-shaped network, down to about
    two cells and back up with skips.

    Features with fewer cells than a power-of-two stride gives, such as 27 for 227 pixels, are assumed to lie in the
    middle of the image (convolutions without padding). Others, such as 16 for 224, are assumed to tile it; the output
    then has the size that their doublings reach (256).

    Args:
        channels: Number of channels of the features.
        cells: Number of cells along a side of the square map; ``None`` for vectors.
        image_size: Side of the square images in pixels.
        output_size: Side of the reconstructed images in pixels; for maps the nearest size that doublings reach. By
            default, the size of the images for maps, and 128 for vectors.
        budget: Maximum number of parameters, four million by default.
        probabilities: Whether the features are probabilities; the network then takes the logarithms of vectors.

    Raises:
        ValueError: An output size that no grid of 3 to 7 cells reaches by doublings, too many cells for the size of the
            images, or a budget below the size of the smallest such network.
    """
    budget = BUDGET if budget is None else budget
    if output_size is not None and output_size < 1:
        raise ValueError(f"output_size must be at least 1 pixel, got {output_size}")
    if cells is None:
        size = _VECTOR_OUTPUT if output_size is None else output_size
        make = functools.partial(_from_vector, size, _LEAST_PROBABILITY if probabilities else 0.0)
        return _widest(channels, budget, make), OutputRegion(image_size, image_size, size)
    doublings, region = _region(cells, image_size, output_size)
    if cells < _FEW_CELLS:
        return _widest(channels, budget, functools.partial(_expanding, doublings)), region
    return _widest(channels, budget, functools.partial(_u_shaped, cells, doublings)), region


def like_alexnet(cells: int | None, image_size: int) -> tuple[ArchitectureConfig, OutputRegion]:
    """Return the network of the paper's section 3 for AlexNet's layers, for features of any shape.

    Vectors pass three fully connected layers, then up-convolutions from 4×4×256 to an image of 128². Maps pass three
    convolutions of 256 channels at their own size, then up-convolutions of 256, 128, 64, 32 and 3 channels, of which
    the last ones are used if fewer are needed to reach the size of the image. They return the center that the cells
    cover, as in the paper; if the cells cover more than the image, the whole image, enlarged.

    Args:
        cells: Number of cells along a side of the square map; ``None`` for vectors.
        image_size: Side of the square images in pixels.

    Raises:
        ValueError: Too many cells for the size of the images.
    """
    if cells is None:
        ups = tuple(f"up {width}" for width in (*_PAPER_WIDTHS, 3))
        layers: tuple[str, ...] = (*("fc 4096",) * 3, "grid 4 256", *ups)
        return SingleStreamConfig(layers), OutputRegion(image_size, image_size, _VECTOR_OUTPUT)
    doublings, _ = _region(cells, image_size, None)
    widths = (*_PAPER_WIDTHS[:1] * (doublings - 5), *_PAPER_WIDTHS)[-(doublings - 1) :] if doublings > 1 else ()
    covered = cells * 2**doublings
    layers = (*("c3/1 256",) * 3, *(f"up {width}" for width in (*widths, 3)))
    return SingleStreamConfig(layers), OutputRegion(image_size, min(covered, image_size), covered)


def _region(cells: int, image_size: int, output_size: int | None) -> tuple[int, OutputRegion]:
    """Return the number of doublings from cells to pixels, and the output region."""
    if cells > image_size / 2**0.5:
        raise ValueError(
            f"{cells} cells along a side are too many for images of {image_size} pixels: at most one per two pixels"
        )
    native = max(1, round(math.log2(image_size / cells)))
    whole = image_size if cells * 2**native <= image_size else cells * 2**native
    doublings = native
    if output_size is not None:
        doublings = max(1, native + round(math.log2(output_size / whole)))
    return doublings, OutputRegion(image_size, image_size, round(whole * 2.0 ** (doublings - native)))


def _from_vector(size: int, log_floor: float, scale: float) -> ArchitectureConfig:
    doublings = max(1, math.ceil(math.log2(size / 7)))
    side = size / 2**doublings
    if side != int(side):
        raise ValueError(
            f"an image from a vector has a side of 3 to 7 times a power of two, such as 64, 96, 112, 128, 160, 192 "
            f"or 224, got {size}"
        )
    first, *widths = _scaled(_long((160, 128, 96, 64, 32, 16, 8), doublings), scale)
    ups = [f"up {width}" for width in widths]
    between = [layer for index, up in enumerate(ups) for layer in ((up, "res") if index < 3 else (up,))]
    # A narrow first layer saves a sixth of the parameters: for GoogLeNet's pooled vector the error was 0.603 with it
    # and 0.604 without.
    hidden, *_ = _scaled((512,), scale)
    entry = (f"fc {hidden}", f"fc {int(side) ** 2 * first}", f"grid {int(side)} {first}", "res")
    return SingleStreamConfig(layers=(*entry, *between, "up 3"), log_floor=log_floor)


def _expanding(doublings: int, scale: float) -> ArchitectureConfig:
    first, *widths = _scaled(_long((192, 128, 64, 32, 16, 8), doublings), scale)
    ups = [f"up {width}" for width in widths]
    blocks = (2, 1)
    between = [layer for index, up in enumerate(ups) for layer in (up, *["res"] * (blocks[index] if index < 2 else 0))]
    return SingleStreamConfig(layers=(f"c3/1 {first}", "res", "res", *between, "up 3"))


def _u_shaped(cells: int, doublings: int, scale: float) -> ArchitectureConfig:
    wide, narrow, *_ = _scaled((128, 64), scale)
    before = round(math.log2(_U_CELLS / cells))  # doublings (or, negative, halvings) up to the first size of the U
    before = min(before, doublings - 1)
    # Fine maps contain fine detail: with more channels at the entry, AlexNet's CONV1 has an error of 0.198, not 0.208.
    fine = before <= 0
    widths = _scaled((80, 96, 112, 128, 144) if fine else (48, 64, 96, 128, 176), scale)
    levels = min(len(widths), max(1, 1 + round(math.log2(cells * 2.0**before / 2))))
    entry: tuple[str, ...] = ()
    if before > 0:
        entry = (f"c3/1 {wide}", "res", *[f"up {widths[0]}"] * before)
    elif before < 0:
        entry = (f"c3/2 {narrow}",) * -before
    head = _scaled(_long((48, 24, 8) if fine else (32, 16, 8), doublings - before - 1), scale)
    return UShapedConfig(
        widths=widths[:levels],
        blocks_down=(*(1,) * (levels - 1), 2),
        blocks_up=(1,) * (levels - 1),
        head=head,
        entry=entry,
    )


def _long(widths: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return the first `count` widths; the last one is repeated where there are fewer."""
    return (*widths, *widths[-1:] * (count - len(widths)))[:count]


def _scaled(widths: tuple[int, ...], scale: float) -> tuple[int, ...]:
    """Return scaled widths in steps of eight channels."""
    return tuple(max(8, 8 * round(width * scale / 8)) for width in widths)


def _widest(channels: int, budget: int, make: Callable[[float], ArchitectureConfig]) -> ArchitectureConfig:
    """Return the config of the largest scale, in sixteenths, whose network is within the budget."""

    def parameters(sixteenths: int) -> int:
        with torch.device("meta"):
            return sum(weight.numel() for weight in build(channels, make(sixteenths / 16)).parameters())

    # The number of parameters grows with the scale.
    fitting = bisect.bisect_right(range(1, 129), budget, key=parameters)
    if not fitting:
        raise ValueError(f"the smallest network for these features has {parameters(1)} parameters, more than {budget}")
    return make(fitting / 16)
