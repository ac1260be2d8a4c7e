"""A network for features of any shape: contracting, joint and expanding parts that suit it, within a budget."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable

import torch

from preimage.inverters.architectures import ArchitectureConfig, SingleStreamConfig, UShapedConfig, build
from preimage.inverters.view import View

BUDGET = 4_000_000
_VECTOR_OUTPUT = 128  # of vectors, which tell nothing of finer detail; the paper's size for FC6 to FC8
_LEAST_PROBABILITY = 1e-7  # about the smallest number of float16
_U_CELLS = 28  # about what the first size of a U has along a side: with 5 sizes the last has 2
_FEW_CELLS = 12  # fewer than this along a side need no contracting part: three layers of 3×3 see all of them


def auto(
    channels: int,
    cells: int | None,
    image_size: int,
    output_size: int | None = None,
    budget: int | None = None,
    *,
    probabilities: bool = False,
) -> tuple[ArchitectureConfig, View]:
    """A network and its view of the images.

    Vectors become a small map by a fully connected layer, which up-convolutions with residual blocks between them
    enlarge. Maps of few cells are enlarged in the same way; those of more first go through a U: down to about two
    cells, where everything meets, and back up with skips.

    Features whose cells are fewer than the image has steps, such as 27 for 227 pixels, are taken to stand in its middle
    (convolutions without padding), a power of two of pixels apart. Others, such as 16 for 224, are taken to tile it;
    what comes back is then as large as their doublings make it (256).

    Args:
        channels: of the features.
        cells: along a side of their square map; ``None`` for vectors.
        image_size: side of the square images, pixels.
        output_size: side of what comes back; of maps the nearest that doublings reach. Default: the image's size for
            maps, 128 for vectors.
        budget: parameters at most; default four million.
        probabilities: the features are some; the network then takes the logarithms of vectors.

    Raises:
        ValueError: an output size that no grid of 3 to 7 cells reaches by doublings, features finer than the image,
            or a budget under the smallest such network.
    """
    budget = BUDGET if budget is None else budget
    if output_size is not None and output_size < 1:
        raise ValueError(f"output_size is a number of pixels >= 1, got {output_size}")
    if cells is None:
        size = _VECTOR_OUTPUT if output_size is None else output_size
        make = functools.partial(_from_vector, size, _LEAST_PROBABILITY if probabilities else 0.0)
        return _widest(channels, budget, make), View(image_size, image_size, size)
    doublings, view = _view(cells, image_size, output_size)
    if cells < _FEW_CELLS:
        return _widest(channels, budget, functools.partial(_expanding, doublings)), view
    return _widest(channels, budget, functools.partial(_u_shaped, cells, doublings)), view


def _view(cells: int, image_size: int, output_size: int | None) -> tuple[int, View]:
    """How often the cells are doubled, and what comes back."""
    if cells > image_size / 2**0.5:
        raise ValueError(
            f"{cells} cells along a side are too many for images of {image_size} pixels: one for two at most"
        )
    native = max(1, round(math.log2(image_size / cells)))
    whole = image_size if cells * 2**native <= image_size else cells * 2**native
    doublings = native
    if output_size is not None:
        doublings = max(1, native + round(math.log2(output_size / whole)))
    return doublings, View(image_size, image_size, round(whole * 2.0 ** (doublings - native)))


def _from_vector(size: int, logarithm_from: float, scale: float) -> ArchitectureConfig:
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
    # What a vector says is first brought to a few values: GoogLeNet's pooled vector had the same error with it as
    # without, 0.603 and 0.604, and a sixth fewer parameters.
    hidden, *_ = _scaled((512,), scale)
    entry = (f"fc {hidden}", f"fc {int(side) ** 2 * first}", f"grid {int(side)} {first}", "res")
    return SingleStreamConfig(layers=(*entry, *between, "up 3"), logarithm_from=logarithm_from)


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
    # Fine maps tell fine detail: with more channels where they come in, AlexNet's CONV1 has 0.198 instead of 0.208.
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
    """The first `count`, the last repeated where there are not as many."""
    return (*widths, *widths[-1:] * (count - len(widths)))[:count]


def _scaled(widths: tuple[int, ...], scale: float) -> tuple[int, ...]:
    """In steps of eight channels."""
    return tuple(max(8, 8 * round(width * scale / 8)) for width in widths)


def _widest(channels: int, budget: int, make: Callable[[float], ArchitectureConfig]) -> ArchitectureConfig:
    """The config of the largest scale, in sixteenths, whose network stays within the budget."""

    def parameters(sixteenths: int) -> int:
        with torch.device("meta"):
            return sum(weight.numel() for weight in build(channels, make(sixteenths / 16)).parameters())

    # Widths only grow with the scale, and so do the parameters.
    fitting = bisect.bisect_right(range(1, 129), budget, key=parameters)
    if not fitting:
        raise ValueError(f"the smallest network for these features has {parameters(1)} parameters, more than {budget}")
    return make(fitting / 16)
