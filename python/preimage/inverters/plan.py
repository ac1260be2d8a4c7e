"""Choose the network for features: a preset of their representation, or one generated for their shape."""

from __future__ import annotations

import dataclasses

from preimage.inverters.architectures import ArchitectureConfig, SingleStreamConfig
from preimage.inverters.auto import BUDGET, auto, like_alexnet
from preimage.inverters.layers import doublings
from preimage.inverters.output_region import OutputRegion
from preimage.inverters.presets import preset, preset_names
from preimage.spec import Spec

# Numbers of parameters of generated networks, if the representation has no preset of that name.
_BUDGETS = {"auto": BUDGET, "compact": BUDGET, "wide": 9_000_000}
PAPER = "paper"
_VECTOR_SIZE = 128  # side of the images that the paper's networks return for vectors, pixels


@dataclasses.dataclass(frozen=True)
class Plan:
    """The arguments of `Inverter` besides the spec."""

    config: ArchitectureConfig
    output_region: OutputRegion | None = None


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
    """Return the network of a preset and the output region of its inverter.

    Args:
        spec: Spec of the features.
        name: Preset of the representation, such as ``"paper"``; or ``"auto"``, ``"compact"`` (the same) or ``"wide"``
            for a network generated for features of this shape, see `preimage.inverters.auto.auto`. ``"paper"`` of a
            representation without presets, such as AlexNet's layers, is the network of `like_alexnet`.
        cells: Size (h, w) of the features of an image of `image_size`; ``None`` for vectors.
        image_size: Side of the square images in pixels.
        output_size: Side of the reconstructed images in pixels; only for ``"auto"``.
        budget: Maximum number of parameters: four million by default, nine million for ``"wide"``.
        probabilities: Whether the features are probabilities; ``"auto"`` then takes their logarithms.

    Returns:
        The network and its output region, which is ``None`` if features of any size can be inverted.

    Raises:
        ValueError: No such preset (the message lists the known ones), an option that the preset does not support,
            features that are not square, or as `auto`.
    """
    check_preset(spec.representation, name)
    has_preset = name in preset_names(spec.representation)
    if (has_preset or name == PAPER) and (output_size is not None or budget is not None):
        raise ValueError(
            f"preset {name!r} of {spec.representation} has a fixed size and number of parameters: output_size and "
            "budget are for 'auto'"
        )
    if has_preset:
        config = preset(spec, name)
        return Plan(config, _center_region(spec, config, cells, image_size))
    if cells is not None and cells[0] != cells[1]:
        raise ValueError(f"features must be square maps for {name!r}, got {cells[0]}×{cells[1]} cells")
    side = None if cells is None else cells[0]
    if name == PAPER:
        return Plan(*like_alexnet(side, image_size))
    limit = _BUDGETS[name] if budget is None else budget
    return Plan(*auto(spec.channels, side, image_size, output_size, limit, probabilities=probabilities))


def check_preset(representation: str, name: str) -> None:
    """Raise ``ValueError`` for an unknown preset; the message lists the known ones."""
    known = tuple(dict.fromkeys((*(preset_names(representation) or [PAPER]), *_BUDGETS)))
    if name not in known:
        raise ValueError(f"preset must be one of {', '.join(known)} for {representation}, got {name!r}")


def _center_region(
    spec: Spec, config: ArchitectureConfig, cells: tuple[int, int] | None, image_size: int
) -> OutputRegion | None:
    """Return the region of images of one size: for maps the center that they cover, for vectors the whole image."""
    if "image_size" not in spec.parameters or not isinstance(config, SingleStreamConfig):
        return None
    if cells is None:
        return OutputRegion(image_size, image_size, _VECTOR_SIZE)
    covered = cells[0] * 2 ** doublings(config.layers)
    return OutputRegion(image_size, covered, covered)
