"""Translate an inverter to an ONNX model: from features to images in [0, 1], for features of any size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from preimage.inverters.inverter import Inverter
from preimage.inverters.layers import upconv_weights
from preimage.inverters.onnx_graph import WEIGHTS, Graph, Value

INPUT, OUTPUT = "features", "images"


def shapes(inverter: Inverter) -> dict[str, tuple[int | str, ...]]:
    """Return the shapes of the input and the output; dimensions with a name are dynamic."""
    cells = () if inverter.network.side is not None else ("h", "w")
    size = ("H", "W") if inverter.output_region is None else (inverter.output_region.size,) * 2
    return {INPUT: ("N", inverter.spec.channels, *cells), OUTPUT: ("N", 3, *size)}


def inverter_model(inverter: Inverter, weights: str, metadata: Mapping[str, str], producer: str) -> Any:
    """Return the ONNX model of an inverter, a checked ``onnx.ModelProto``.

    Its output is ``inverter(features)``. The normalization of the features is part of the graph, and so are padding to
    the cells that the network needs and cropping, which are computed from the shape of the input.

    Args:
        inverter: The inverter. Its sampler is left out.
        weights: Dtype in which weights are stored, one of `WEIGHTS`.
        metadata: Strings to store in the file.
        producer: Version of this package.

    Raises:
        ImportError: onnx is missing.
        ValueError: Another dtype, an inverter of sparse SIFT with a splat, or a network that calls another function
            than those in `onnx_graph`.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be {', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]}, got {weights!r}")
    if getattr(inverter.network, "splat", None) is not None:
        raise ValueError(
            f"this inverter of {inverter.spec.representation} cannot be exported: its first layer, a splat, puts "
            "keypoints at their positions in the image, for which there is no ONNX operator"
        )
    names = {id(value): name for name, value in inverter.state_dict(keep_vars=True).items()}
    graph = Graph(names, upconv_weights(inverter), weights)
    is_vector = inverter.network.side is not None
    features = Value(graph, INPUT, rank=2 if is_vector else 4)
    x: Any = inverter.standardized(cast(Any, features))
    if is_vector:
        images = inverter.network(x)
    elif inverter.output_region is None:
        images = _of_any_size(inverter, features, x)
    else:
        images = _of_region(inverter, features, x)
    images = images + inverter.image_mean[:, None, None]
    graph.node("Clip", images, np.float32(0), np.float32(1), output=OUTPUT)
    return graph.model(shapes(inverter), 1, metadata, producer)


def _of_any_size(inverter: Inverter, features: Value, x: Value) -> Value:
    """Return the network's output for standardized features x, of the size that the features cover."""
    graph, network = features.graph, inverter.network
    if any(network.margin):
        before, after = network.margin
        x = graph.node("Pad", x, [0, 0, before, before, 0, 0, after, after], mode="edge")
    if network.multiple == 1:
        return network(x)
    for axis in (2, 3):  # reflection, see `Inverter`
        cells = graph.node("Squeeze", graph.node("Shape", x, start=axis, end=axis + 1))
        padded = (cells + (network.multiple - 1)) // network.multiple * network.multiple
        period = graph.node("Max", cells * 2 - 2, 1)
        positions = graph.node("Range", 0, padded, 1) % period
        mirrored = graph.node("Min", positions, period - positions, cells - 1)
        x = graph.node("Gather", x, mirrored, axis=axis)
    size = (_cells(features) + sum(network.margin)) * network.stride
    return graph.node("Slice", network(x), [0, 0], size, [2, 3])


def _of_region(inverter: Inverter, features: Value, x: Value) -> Value:
    """Return the output region of the network's output for standardized features x, see `output_region.placed`."""
    assert inverter.output_region is not None
    graph, network, size = features.graph, inverter.network, inverter.output_region.size
    cells = _cells(features)
    wanted = graph.node("Max", cells, -(-size // network.stride))
    total = (wanted + (network.multiple - 1)) // network.multiple * network.multiple
    before = (total - cells) // 2
    pads = graph.node("Concat", [0, 0], before, [0, 0], total - cells - before, axis=0)
    middle = (before * 2 + cells) * network.stride
    first = graph.node("Min", graph.node("Max", (middle - size) // 2, 0), total * network.stride - size)
    return graph.node("Slice", network(graph.node("Pad", x, pads)), first, first + size, [2, 3])


def _cells(features: Value) -> Value:
    """Return the size of the features, [h, w] int64."""
    return features.graph.node("Shape", features, start=2)
