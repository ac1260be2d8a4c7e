"""Read ``.caffemodel`` files of Caffe: a NetParameter message (caffe.proto) with layers of version 2 or 1 (2014)."""

from __future__ import annotations

import functools
import math
import mmap
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.arrays.stored_arrays import StoredArray
from preimage.io.atomic import StrPath
from preimage.io.weights.protobuf import BYTES, FIXED32, FIXED64, VARINT, Field, expect, fields, varint

_LAYER, _LAYER_NAME, _LAYER_BLOBS = 100, 1, 7  # NetParameter.layer, LayerParameter.name and .blobs
_V1_LAYER, _V1_NAME, _V1_BLOBS = 2, 4, 6  # NetParameter.layers, V1LayerParameter.name and .blobs
_V0_LAYER = 1  # V1LayerParameter.layer: nested layers of files of 2013
_LEGACY_SHAPE, _DATA, _SHAPE, _DOUBLES = (1, 2, 3, 4), 5, 7, 8  # BlobProto
_DIM = 1  # BlobShape
_KINDS = ("weight", "bias")  # first blobs of convolutions and inner products
_MOST_LAYERS, _MOST_BLOBS, _MOST_AXES = 10_000, 100, 32  # the last as in Caffe
_LONGEST_NAME = 1024  # bytes


class _Range(NamedTuple):
    """Range of a blob in the file, in bytes."""

    start: int
    stop: int


def read_caffemodel(path: StrPath) -> tuple[list[StoredArray], list[str]]:
    """Return the blobs in a ``.caffemodel``, not yet read, and the names of all layers in file order.

    The file is memory-mapped, and only names and shapes are read.

    Returns:
        Arrays named ``<layer>.weight``, ``<layer>.bias`` and, for further blobs, ``<layer>.2``, …; float32 or float64.
        Leading ones are removed from legacy shapes of four numbers, such as (1, 1, 4096, 9216). The weights of a
        convolution with groups have the input channels of one group, as in PyTorch.

    Raises:
        FileFormatError: The file is of another format, truncated, or has invalid lengths or shapes.
    """
    with open(path, "rb") as file:
        try:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            return _arrays(path, data)
        except ValueError as error:  # also raised by mmap for an empty file
            raise FileFormatError(path, f"cannot be read as a .caffemodel: {error}") from error


def _arrays(path: StrPath, data: memoryview) -> tuple[list[StoredArray], list[str]]:
    arrays: dict[str, StoredArray] = {}
    names = []
    for name, blobs in _layers(data):
        names.append(name)
        if len(names) > _MOST_LAYERS:
            raise ValueError(f"at most {_MOST_LAYERS} layers are allowed")
        for index, blob in enumerate(blobs):
            full = f"{name}.{_KINDS[index] if index < len(_KINDS) else index}"
            if full in arrays:
                raise ValueError(f"two layers with blobs are named {name!r}")
            try:
                shape, dtype = _described(data, blob)
            except ValueError as error:
                raise ValueError(f"{full!r}: {error}") from error
            arrays[full] = StoredArray(full, shape, dtype, functools.partial(_load, path, data, blob, shape, dtype))
    if not names:
        raise ValueError("it contains no layers")
    if not arrays:
        raise ValueError("its layers have no weights: the definition of a network only?")
    return list(arrays.values()), names


def _layers(data: memoryview) -> Iterator[tuple[str, list[_Range]]]:
    for field in fields(data, 0, len(data)):
        if field.number == _LAYER:
            yield _layer(data, expect(field, BYTES), _LAYER_NAME, _LAYER_BLOBS)
        elif field.number == _V1_LAYER:
            yield _layer(data, expect(field, BYTES), _V1_NAME, _V1_BLOBS)


def _layer(data: memoryview, layer: Field, name_field: int, blobs_field: int) -> tuple[str, list[_Range]]:
    name, blobs = "", []
    for field in fields(data, layer.start, layer.stop):
        if field.number == name_field:
            expect(field, BYTES)
            if field.stop - field.start > _LONGEST_NAME:
                raise ValueError(
                    f"the layer name at byte {field.start} must have at most {_LONGEST_NAME} bytes, "
                    f"got {field.stop - field.start}"
                )
            name = bytes(data[field.start : field.stop]).decode("utf-8")
        elif field.number == blobs_field:
            expect(field, BYTES)
            blobs.append(_Range(field.start, field.stop))
            if len(blobs) > _MOST_BLOBS:  # an empty blob takes two bytes in the file and a hundred in memory
                raise ValueError(f"the layer at byte {layer.start} must have at most {_MOST_BLOBS} blobs")
        elif field.number == _V0_LAYER and name_field == _V1_NAME:
            raise ValueError("it has the first format of Caffe: convert it with Caffe's upgrade_net_proto_binary")
    if blobs and not name:
        raise ValueError(f"the layer at byte {layer.start} has blobs but no name")
    return name, blobs


def _described(data: memoryview, blob: _Range) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of a blob, after checking that the number of values matches the shape."""
    legacy: dict[int, int] = {}
    modern: list[int] | None = None
    counts = {_DATA: 0, _DOUBLES: 0}
    for field in fields(data, blob.start, blob.stop):
        if field.number in _LEGACY_SHAPE:
            legacy[field.number] = expect(field, VARINT).value
        elif field.number == _SHAPE:
            modern = _dimensions(data, expect(field, BYTES))
        elif field.number in counts:
            counts[field.number] += _values(field)
    if min(counts.values()):
        raise ValueError("a blob with both single and double precision")
    if modern is None and not legacy:
        raise ValueError("a blob without a shape")
    shape = modern if modern is not None else _without_leading_ones([legacy.get(axis, 1) for axis in _LEGACY_SHAPE])
    count = sum(counts.values())
    if not all(0 < side < 1 << 31 for side in shape) or math.prod(shape) != count:
        raise ValueError(f"a blob of shape {tuple(shape)} with {count} values")
    return tuple(shape), np.dtype("<f8" if counts[_DOUBLES] else "<f4")


def _without_leading_ones(shape: list[int]) -> list[int]:
    first = next((axis for axis, side in enumerate(shape) if side != 1), len(shape) - 1)
    return shape[first:]


def _dimensions(data: memoryview, shape: Field) -> list[int]:
    found: list[int] = []
    for field in fields(data, shape.start, shape.stop):
        if field.number != _DIM:
            continue
        if expect(field, VARINT, BYTES).kind == VARINT:
            found.append(field.value)
        at = field.start
        while field.kind == BYTES and at < field.stop and len(found) <= _MOST_AXES:
            value, at = varint(data, at, field.stop)
            found.append(value)
        if len(found) > _MOST_AXES:
            raise ValueError(f"a shape must have at most {_MOST_AXES} numbers")
    return found


def _values(field: Field) -> int:
    """Return the number of values in a field of data, which is a single value or a packed array."""
    width, single = (4, FIXED32) if field.number == _DATA else (8, FIXED64)
    expect(field, single, BYTES)
    size = field.stop - field.start
    if size % width:
        raise ValueError(f"the length of the data at byte {field.start} must be a multiple of {width}, got {size}")
    return size // width


def _load(path: StrPath, data: memoryview, blob: _Range, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    values = bytearray()
    try:
        for field in fields(data, blob.start, blob.stop):
            if field.number in (_DATA, _DOUBLES):
                values += data[field.start : field.stop]
        return np.frombuffer(values, dtype).reshape(shape)
    except ValueError as error:  # the file was valid when it was opened
        raise FileFormatError(path, f"changed since it was opened: {error}") from error
