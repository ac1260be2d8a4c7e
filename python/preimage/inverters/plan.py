"""Which network and view go with which features: a row of the table of presets, or one made for the features' shape."""

from __future__ import annotations

import dataclasses

from preimage.inverters.architectures import ArchitectureConfig, SingleStreamConfig
from preimage.inverters.auto import BUDGET, auto
from preimage.inverters.layers import doublings
from preimage.inverters.presets import preset, preset_names
from preimage.inverters.view import View
from preimage.spec import Spec

# What is made for the features' shape where the table has no row of that name.
_BUDGETS = {"auto": BUDGET, "compact": BUDGET, "wide": 9_000_000}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `Inverter` takes beside the spec."""

    config: ArchitectureConfig
    view: View | None = None


def plan(
    spec: Spec,
    name: str,
    *,
    cells: tuple[int, int] | None,
    image_size: int,
    output_size: int | None = None,
    budget: int | None = None,
    probabilities: bool = False,
) -> Plan:
    """The network of a preset, and the view that it gives of the images.

    Args:
        spec: of the features.
        name: a row of the table for this representation, such as ``"paper"``; else ``"auto"``, ``"compact"`` (the same)
            or ``"wide"``: a network made for the features' shape, see `preimage.inverters.auto.auto`.
        cells: (h, w) of the features of an image of `image_size`; ``None`` for vectors.
        image_size: side of the square images in pixels.
        output_size: side of what comes back, pixels; only of a network made for the shape.
        budget: its parameters at most; by default four million, of ``"wide"`` nine.
        probabilities: the features are some, so that a network made for them takes their logarithms.

    Returns:
        The network, with no view where features of any size can be inverted.

    Raises:
        ValueError: no such preset (lists the known ones), options that its network does not have, features that are
            not square, or see `auto`.
    """
    rows = preset_names(spec.representation)
    if name in rows:
        if output_size is not None or budget is not None:
            raise ValueError(
                f"preset {name!r} of {spec.representation} has a size and parameters of its own; for others take 'auto'"
            )
        config = preset(spec.representation, name)
        return Plan(config, _paper_view(spec, config, cells, image_size))
    if name not in _BUDGETS:
        known = ", ".join(dict.fromkeys((*rows, *_BUDGETS)))
        raise ValueError(f"no preset {name!r} for {spec.representation}; known are {known}")
    if cells is not None and cells[0] != cells[1]:
        raise ValueError(f"a network is made for square maps, got features of {cells[0]}×{cells[1]} cells")
    side = None if cells is None else cells[0]
    limit = _BUDGETS[name] if budget is None else budget
    return Plan(*auto(spec.channels, side, image_size, output_size, limit, probabilities=probabilities))


def _paper_view(spec: Spec, config: ArchitectureConfig, cells: tuple[int, int] | None, image_size: int) -> View | None:
    """For AlexNet's layers: of maps what their cells cover, in the middle of the image; of vectors all, at 128²."""
    if "image_size" not in spec.parameters or not isinstance(config, SingleStreamConfig):
        return None
    if cells is None:
        return View(image_size, image_size, 128)
    covered = cells[0] * 2 ** doublings(config.layers)
    return View(image_size, covered, covered)
