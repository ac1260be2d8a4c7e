"""Networks designed for a representation, by preset name, from the class of the representation.

Networks for features of any other shape come from `preimage.inverters.auto`; `preimage.inverters.plan` knows both.
"""

from __future__ import annotations

import dataclasses

from preimage.inverters.architectures import ArchitectureConfig, UShapedConfig, config_from_preset
from preimage.representations.registry import class_of

_WIDER = 1.5


def preset_names(representation: str) -> list[str]:
    """Return the presets of a representation; none for an unknown one."""
    return list(_presets(representation))


def preset(representation: str, name: str) -> ArchitectureConfig:
    """Return the network of a preset, for example ``preset("hog", "paper")``.

    Besides those of the class, there is ``"wide"`` wherever ``"compact"`` is U-shaped: the same network with one and a
    half times as many channels, 8.6 to 8.8 million parameters.

    Raises:
        ValueError: no such representation or preset; the message lists the known presets.
    """
    presets = _presets(representation)
    if not presets:
        raise ValueError(f"no presets for {representation!r}: take 'auto'")
    if name not in presets:
        raise ValueError(f"no preset {name!r} for {representation}; known are {', '.join(presets)}")
    return presets[name]


def _presets(representation: str) -> dict[str, ArchitectureConfig]:
    presets = {name: config_from_preset(fields) for name, fields in class_of(representation).presets.items()}
    compact = presets.get("compact")
    if isinstance(compact, UShapedConfig):
        widths, head = (tuple(round(width * _WIDER) for width in sizes) for sizes in (compact.widths, compact.head))
        presets.setdefault("wide", dataclasses.replace(compact, widths=widths, head=head))
    return presets
