"""Which network and view go with which features: a row of the table of presets, or one made for any feature's shape."""

from __future__ import annotations

import dataclasses

from preimage.inverters.architectures import ArchitectureConfig
from preimage.inverters.presets import preset
from preimage.inverters.view import View
from preimage.spec import Spec


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
) -> Plan:
    """The network of a preset, with the view that it gives of the images.

    Args:
        spec: of the features.
        name: of the preset.
        cells: (h, w) of the features of an image of `image_size`; ``None`` for vectors.
        image_size: side of the square images in pixels.
        output_size: side of what comes back, pixels; only for ``auto``.
        budget: parameters of the network, about; only for ``auto``.
    """
    return Plan(preset(spec.representation, name))
