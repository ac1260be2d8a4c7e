"""Named networks: for each representation the paper's own and a compact one."""

from __future__ import annotations

from preimage.inverters.architectures import ArchitectureConfig, TwoStreamConfig, UShapedConfig

_PRESETS: dict[str, dict[str, ArchitectureConfig]] = {
    "hog": {"paper": TwoStreamConfig(), "compact": UShapedConfig()},
}


def preset(representation: str, name: str) -> ArchitectureConfig:
    """The config of a preset, for example ``preset("hog", "paper")``.

    Raises:
        ValueError: no such representation or preset; lists the known ones.
    """
    if representation not in _PRESETS:
        raise ValueError(f"no presets for {representation!r}; there are some for {', '.join(sorted(_PRESETS))}")
    presets = _PRESETS[representation]
    if name not in presets:
        raise ValueError(f"no preset {name!r} for {representation}; known are {', '.join(presets)}")
    return presets[name]
