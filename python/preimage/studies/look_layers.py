"""Choose the layers of a network to look into."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from preimage.representations.network import Network, TracedLayer
from preimage.representations.network_layout import check_output_layout

DEFAULT_COUNT = 4
_MOST_OF_ALL = 0.8  # a layer with more than this fraction of the parameters of its level is a container of blocks


@dataclasses.dataclass(frozen=True)
class ChosenLayer:
    """A layer, and how its output becomes features.

    Attributes:
        name: Dotted name, ``""`` for the network itself.
        output_layout: As in `preimage.Network.representation`.
    """

    name: str
    output_layout: str = "auto"

    @property
    def label(self) -> str:
        """Name on the page: that of the layer, followed by what is taken of it: ``norm:class-token``."""
        name = self.name or "output"
        return name if self.output_layout in ("auto", "nhwc") else f"{name}:{self.output_layout}"

    @property
    def folder(self) -> str:
        """Name of the folder of its inverter."""
        return folder_name(self.label)


def folder_name(label: str) -> str:
    """Return the name of a layer's folder: its label without the colon, which some file systems do not allow."""
    return label.replace(":", "-")


def choose_layers(traced: Sequence[TracedLayer], image_size: int, count: int = DEFAULT_COUNT) -> list[ChosenLayer]:
    """Choose layers by depth: maps at equal distances, the last of them at the end, then the pooled vector.

    Maps and token grids are chosen from the blocks of the network. Its layers are followed down from the top: while one
    layer has over 80 % of the parameters of all the layers of its level, or is the only one of them that contains
    several blocks of one class, its parts are the next level. Of the last level, the blocks are the layers that contain
    others, or all of them if fewer than two do; of the parts of several parents, those of which there are most. The k
    maps are the blocks at 1/k, 2/k, … of their number. Layers whose names begin with an underscore are left out if
    there are others.

    The vector is that of the first layer after the last block without positions, or of the outermost layer that ends
    with it, without parameters if that layer has none (so not the classes of a head that begins with pooling). If there
    is none, or it is a ``Linear``, which maps a vector that is no layer to classes, the vector is the class token of
    the last tokens, or else the mean over their positions, or over those of the last map.

    Args:
        traced: Layers from `preimage.Network.trace`.
        image_size: Side of the images in pixels; maps of over one cell for two pixels are too fine for an inverter.
        count: Number of layers, at least 1; fewer are returned from a network with fewer blocks.

    Returns:
        The layers in the order of the forward pass.

    Raises:
        ValueError: A `count` below 1, or a network without a layer that has features.
    """
    if count < 1:
        raise ValueError(f"layer_count must be at least 1, got {count}")
    public = [one for one in traced if not any(part.startswith("_") for part in one.name.split("."))]
    if sum(_is_map(one, image_size) for one in public) > 1:
        traced = public
    usable = {one.name: one for one in traced if _is_map(one, image_size) and one.calls == 1}
    blocks = _blocks(list(traced), usable)
    order = {one.name: index for index, one in enumerate(traced)}
    last = order[blocks[-1].name] if blocks else -1
    vector = _vector([one for one in traced if order[one.name] > last], blocks)
    maps = min(len(blocks), count - (vector is not None) if count > 1 else count)
    chosen = [blocks[round((index + 1) * len(blocks) / maps) - 1] for index in range(maps)]
    layers = [ChosenLayer(one.name, "nhwc" if one.channels_last else "auto") for one in chosen]
    if vector is not None and len(layers) < count:
        layers.append(vector)
    if not layers:
        raise ValueError("the network has no layer with features: `preimage layers` says why; name one (layers=[...])")
    return layers


def parse_layers(names: Sequence[str], network: Network) -> list[ChosenLayer]:
    """Return the layers of names such as ``blocks.3`` or ``norm:class-token``, the second part being a layout.

    Layers whose channels are last get the layout ``nhwc`` without being told.

    Raises:
        ValueError: No name, one given twice, or an unknown layer or layout.
    """
    if not names:
        raise ValueError("layers must name at least one layer, got none")
    channels_last = {one.name for one in network.trace() if one.channels_last}
    layers = []
    for text in names:
        name, _, layout = text.partition(":")
        if layout:
            check_output_layout(layout)
        layers.append(ChosenLayer(name, layout or ("nhwc" if name in channels_last else "auto")))
    folders = [one.folder for one in layers]
    if repeated := sorted({folder for folder in folders if folders.count(folder) > 1}):
        raise ValueError(f"layers must be different, got {', '.join(repeated)} twice")
    for layer in layers:
        network.shapes([layer.name], layer.output_layout)
    return layers


def _is_map(layer: TracedLayer, image_size: int) -> bool:
    """Return whether a layer has a square map of more than one cell, and not too many."""
    if layer.channels_last:
        return True
    shape = layer.features
    return shape is not None and len(shape) == 3 and shape[1] == shape[2] and shape[1] <= image_size / 2**0.5


def _blocks(traced: list[TracedLayer], usable: dict[str, TracedLayer]) -> list[TracedLayer]:
    """Return the blocks, in order, see `choose_layers`."""
    called = [one.name for one in traced]
    level = _parts("", called)
    while True:
        weighed = [one for one in traced if one.name in level and (one.name in usable or _inside(one.name, usable))]
        total = sum(one.parameters for one in weighed)
        heavy = [one for one in weighed if one.parameters > _MOST_OF_ALL * total]
        repeating = [one for one in weighed if _repeats(one.name, called, usable)]
        inner = heavy or (repeating if len(repeating) == 1 else [])
        parts = _parts(inner[0].name, called) if inner else []
        if sum(name in usable or bool(_inside(name, usable)) for name in parts) < 2:
            if len(weighed) == 1 and len(parts) == 1:
                level = parts
                continue
            break
        level = parts
    maps = [one for one in traced if one.name in level and one.name in usable]
    blocks = [one for one in maps if one.parameters and _inside(one.name, called)]
    blocks = blocks if len(blocks) > 1 else maps
    parents = Counter(one.name.rpartition(".")[0] for one in blocks)
    return [one for one in blocks if one.name.rpartition(".")[0] == parents.most_common(1)[0][0]]


def _repeats(parent: str, called: Sequence[str], usable: dict[str, TracedLayer]) -> bool:
    """Return whether a layer contains several blocks with parameters of one class."""
    parts = [usable[name] for name in _parts(parent, called) if name in usable]
    kinds = Counter(one.kind for one in parts if one.parameters)
    return max(kinds.values(), default=0) > 1


def _vector(after: Sequence[TracedLayer], blocks: Sequence[TracedLayer]) -> ChosenLayer | None:
    """Return the pooled vector after the blocks."""
    vectors = [one for one in after if one.features is not None and len(one.features) == 1]
    if vectors:
        first = vectors[0]
        same = [one for one in vectors if one.name and (one is first or first.name in _inside(one.name, [first.name]))]
        pooled = ([one for one in same if not one.parameters] or same or vectors)[-1]
        if pooled.kind != "Linear":
            return ChosenLayer(pooled.name)
    tokens = [one for one in (*blocks[-1:], *after) if one.features is not None and len(one.features) == 3]
    if not tokens:
        return None
    last = tokens[-1] if tokens[-1].name else tokens[-2] if len(tokens) > 1 else tokens[-1]
    return ChosenLayer(last.name, "class-token" if last.prefix_tokens else "mean")


def _parts(parent: str, called: Sequence[str]) -> list[str]:
    """Return the nearest layers inside a layer that are called; lists of modules, which are not, are passed over."""
    inside = _inside(parent, called)
    return [name for name in inside if not any(name in _inside(other, [name]) for other in inside)]


def _inside(parent: str, names: Sequence[str] | dict[str, TracedLayer]) -> list[str]:
    """Return the names inside a layer."""
    start = f"{parent}." if parent else ""
    return [name for name in names if name != parent and name.startswith(start)]
