"""Encode small `.caffemodel` files according to caffe.proto, independently of the package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

Layers = Sequence[tuple[str, Sequence[np.ndarray]]]

_RNG = np.random.default_rng(2)
ARRAYS = {
    "conv1.weight": _RNG.standard_normal((4, 2, 3, 3)).astype(np.float32),
    "conv1.bias": _RNG.standard_normal(4).astype(np.float32),
    "fc.weight": _RNG.standard_normal((3, 5)).astype(np.float32),
    "fc.bias": _RNG.standard_normal(3).astype(np.float32),
}
LAYERS: Layers = [
    ("data", []),
    ("conv1", [ARRAYS["conv1.weight"], ARRAYS["conv1.bias"]]),
    ("pool1", []),
    ("fc", [ARRAYS["fc.weight"], ARRAYS["fc.bias"]]),
]


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, *parts: bytes) -> bytes:
    size = sum(map(len, parts))
    return b"".join((varint(field << 3 | 2), varint(size), *parts))


def shape(sides: Iterable[int], packed: bool = True) -> bytes:
    if packed:
        return message(7, message(1, *map(varint, sides)))
    return message(7, *(number(1, side) for side in sides))


def legacy_shape(sides: Sequence[int]) -> bytes:
    padded = (1,) * (4 - len(sides)) + tuple(sides)
    return b"".join(number(axis, side) for axis, side in enumerate(padded, 1))


def data(array: np.ndarray, packed: bool = True) -> bytes:
    double = array.dtype == np.float64
    if packed:
        return message(8 if double else 5, array.tobytes())
    tag = varint(8 << 3 | 1) if double else varint(5 << 3 | 5)
    return b"".join(tag + value.tobytes() for value in array.ravel())


def blob(array: np.ndarray, legacy: bool = False, packed: bool = True) -> bytes:
    sides = legacy_shape(array.shape) if legacy else shape(array.shape, packed)
    return sides + data(array, packed)


def v2(layers: Layers, packed: bool = True) -> bytes:
    """Encode layers as Caffe does since 2014: the type is text, and there are further fields, which are ignored."""
    parts = [message(1, b"a net")]
    for name, arrays in layers:
        fields = [message(1, name.encode()), message(2, b"Convolution"), message(3, b"data"), number(10, 0)]
        parts.append(message(100, *fields, *(message(7, blob(array, packed=packed)) for array in arrays)))
    return b"".join(parts)


def v1(layers: Layers) -> bytes:
    """Encode layers like the published AlexNets: in field 2, with a number as type and shapes of four numbers."""
    parts = [message(1, b"a net")]
    for name, arrays in layers:
        fields = [message(2, b"data"), message(3, b"out"), message(4, name.encode()), number(5, 4)]
        parts.append(message(2, *fields, *(message(6, blob(array, legacy=True)) for array in arrays)))
    return b"".join(parts)
