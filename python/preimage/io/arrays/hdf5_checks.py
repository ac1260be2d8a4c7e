"""A careful walk through an HDF5 file of unknown origin: nothing outside the file, nothing larger than it may be.

Refused are soft and external links, objects linked to twice, external and virtual storage, filters other than gzip,
lzf, shuffle and fletcher32 (unknown ones would make the library look for plug-ins), and data that would inflate to
more than their shape says.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from preimage.io.arrays.stored_arrays import check_array
from preimage.io.atomic import as_key, key_problem
from preimage.io.feature_file import MAX_IMAGES
from preimage.optional import import_optional

_DEFLATE = 1
_FILTERS = {_DEFLATE: 1100, 2: 1, 3: 1, 32000: 300}  # deflate, shuffle, fletcher32, lzf: how far each may inflate
_MAX_DEFLATED_CHUNKS = 4096
_MAX_DEPTH = 64
_MAX_SPEC = 1 << 16


def require_h5py() -> ModuleType:
    """The module; ``ImportError`` says how to get it."""
    return import_optional("h5py")


def image_groups(h5py: ModuleType, file: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(key, group, datasets by name) of every group with datasets, depth first, names in order.

    The key is the group's path as `as_key` has it.
    """
    waiting = [("", file)]
    seen: set[Any] = set()
    paths: dict[str, str] = {}
    while waiting:
        key, group = waiting.pop()
        datasets, groups = {}, []
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{key}/{name} is a link to elsewhere, which is not followed")
            entry = group[name]
            about = h5py.h5o.get_info(entry.id)
            if (about.fileno, about.addr) in seen:
                raise ValueError(f"{key}/{name} is linked to twice")
            seen.add((about.fileno, about.addr))
            if isinstance(entry, h5py.Group):
                groups.append((f"{key}/{name}" if key else name, entry))
            elif isinstance(entry, h5py.Dataset):
                datasets[name] = entry
        if len(seen) > 8 * MAX_IMAGES or key.count("/") > _MAX_DEPTH:
            raise ValueError("holds too many or too deeply nested groups")
        waiting += reversed(groups)
        if datasets and not key:
            raise ValueError(f"holds {', '.join(sorted(datasets))} outside of groups; one group an image is right")
        if datasets:
            image = as_key(key)
            if problem := key_problem(image):
                raise ValueError(problem)
            if paths.setdefault(image, key) != key:
                raise ValueError(f"two images have one key, {image!r:.80}: {paths[image]!r:.80} and {key!r:.80}")
            yield image, group, datasets


def check_dataset(name: str, dataset: Any) -> None:
    """``ValueError`` unless the dataset is an array of numbers that lies in the file and inflates within bounds."""
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{name!r} lies in another file, which is not opened")
    if dataset.shape is None or not isinstance(dataset.dtype, np.dtype):
        raise ValueError(f"{name!r} is no array")
    check_array(name, dataset.shape, dataset.dtype)
    kinds = filters(dataset)
    if len(set(kinds)) < len(kinds) or not set(kinds) <= set(_FILTERS):
        raise ValueError(f"{name!r} uses HDF5 filters {kinds}; gzip, lzf, shuffle and fletcher32 are read")
    stored = dataset.id.get_storage_size()
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    if stored > dataset.file.id.get_filesize():
        raise ValueError(f"{name!r} is cut short")
    if size > stored * math.prod(_FILTERS[kind] for kind in kinds):
        raise ValueError(f"{name!r} has {size} bytes, but only {stored} are stored")
    if dataset.chunks and math.prod(dataset.chunks) > 4 * math.prod(dataset.shape) + 1024:
        raise ValueError(f"{name!r} of shape {dataset.shape} has chunks of {dataset.chunks}")
    if _DEFLATE in kinds and dataset.id.get_num_chunks() > _MAX_DEFLATED_CHUNKS:
        raise ValueError(f"{name!r} is compressed in more than {_MAX_DEFLATED_CHUNKS} chunks")


def filters(dataset: Any) -> list[int]:
    """The numbers of the dataset's HDF5 filters, in the order of writing."""
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]


def check_inflation(dataset: Any) -> None:
    """``ValueError`` if a chunk inflates to more than a chunk; HDF5 itself would let it grow without bound."""
    if _DEFLATE not in filters(dataset):
        return
    limit = math.prod(dataset.chunks) * dataset.dtype.itemsize + 8
    for index in range(dataset.id.get_num_chunks()):
        about = dataset.id.get_chunk_info(index)
        mask, data = dataset.id.read_direct_chunk(about.chunk_offset)
        if mask:
            raise ValueError("has a chunk that skips a filter")
        if len(zlib.decompressobj().decompress(data, limit + 1)) > limit:
            raise ValueError(f"has a chunk that inflates to more than the {limit} bytes it holds")


def text_attribute(h5py: ModuleType, entry: Any, name: str) -> str | None:
    """An attribute that is one string of fixed length, at most 64 kB; ``None`` if there is none.

    Strings of variable length are passed over: a damaged heap, where they lie, can keep HDF5 busy for ever.
    """
    if name not in entry.attrs:
        return None
    attribute = entry.attrs.get_id(name)
    kind = attribute.get_type()
    if not isinstance(kind, h5py.h5t.TypeStringID) or kind.is_variable_str():
        return None
    if attribute.shape != () or attribute.get_storage_size() > _MAX_SPEC:
        raise ValueError(f"its attribute {name} is no text")
    value = entry.attrs[name]
    text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
    return text
