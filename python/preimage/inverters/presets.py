"""Named networks, by representation: the paper's own, and for HOG, LBP and SIFT a compact and a wide one.

Compact and wide ones for features of any other shape come from `preimage.inverters.auto`; `preimage.inverters.plan`
knows both.
"""

from __future__ import annotations

import dataclasses

from preimage.inverters.architectures import (
    ArchitectureConfig,
    SingleStreamConfig,
    TwoStreamConfig,
    UShapedConfig,
)

# The paper's, for 256²: section 3 and its supplementary tables. The compact ones share the U of HOG's, which works on a
# cell for every 8 pixels, so that one can start from another's weights; they differ in how the features get there.
_PRESETS: dict[str, dict[str, ArchitectureConfig]] = {
    "hog": {"paper": TwoStreamConfig(), "compact": UShapedConfig()},
    "lbp": {
        "paper": TwoStreamConfig(
            context=("c5/2 256", "c5/2 512", "c3/1 1024", "up 512", "up 256"),
            joint=("c3/1 256", "c3/1 128", "up 128", "up 64", "up 32", "up 3"),
        ),
        "compact": UShapedConfig(entry=("c3/1 64", "up 48")),
    },
    "sift": {
        "paper": SingleStreamConfig(
            layers=(
                *("c5/2 256", "c3/2 512", "c3/2 1024", "c3/2 2048", "c3/1 2048", "c3/1 1024"),
                *("up 512", "up 256", "up 128", "up 64", "up 32", "up 3"),
            )
        ),
        "compact": UShapedConfig(entry=("c3/2 80",), splat_levels=4),
    },
    # A descriptor reaches 6 pixels to each side of its center: the first stands one cell inside the image.
    "dense-sift": {"compact": UShapedConfig(entry=("c3/2 64",), margin=(1, 2))},
}
# The same with a U one and a half times as wide: 8.6 to 8.8 million parameters.
for _presets in _PRESETS.values():
    _compact = _presets["compact"]
    assert isinstance(_compact, UShapedConfig)
    _presets["wide"] = dataclasses.replace(_compact, widths=(72, 96, 144, 192, 264), head=(48, 24))


def _convolutional(*ups: str) -> dict[str, ArchitectureConfig]:
    return {"paper": SingleStreamConfig(layers=("c3/1 256", "c3/1 256", "c3/1 256", *ups, "up 3"))}


_CONNECTED: dict[str, ArchitectureConfig] = {
    "paper": SingleStreamConfig(
        layers=(
            *("fc 4096", "fc 4096", "fc 4096", "grid 4 256"),
            *("up 256", "up 128", "up 64", "up 32", "up 3"),
        )
    )
}
# For AlexNet. Section 3: three convolutions, or three fully connected layers, before the up-convolutions.
_PRESETS |= {
    "alexnet-conv1": _convolutional("up 64", "up 32"),
    **{f"alexnet-conv{layer}": _convolutional("up 128", "up 64", "up 32") for layer in (2, 3, 4)},
    "alexnet-conv5": _convolutional("up 256", "up 128", "up 64", "up 32"),
    **{f"alexnet-{layer}": _CONNECTED for layer in ("fc6", "fc7", "fc8", "prob")},
}


def preset_names(representation: str) -> list[str]:
    """The presets that there are for a representation; none for one that is not known here."""
    return list(_PRESETS.get(representation, {}))


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
