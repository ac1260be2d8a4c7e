"""Traverse HDF5 files of unknown origin safely.

Rejected are soft and external links, objects that are linked twice, external and virtual storage, filters other than
gzip, lzf, shuffle and fletcher32 (HDF5 would search for plug-ins of unknown ones), and data that inflates to more than
its shape requires.
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
_FILTERS = {_DEFLATE: 1100, 2: 1, 3: 1, 32000: 300}  # largest expansion of deflate, shuffle, fletcher32, lzf
_MAX_DEFLATED_CHUNKS = 4096
_MAX_DEPTH = 64
_MAX_SPEC = 1 << 16


def require_h5py() -> ModuleType:
    """Return the module h5py; ``ImportError`` explains how to install it."""
    return import_optional("h5py")


def image_groups(h5py: ModuleType, file: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield key, group, and datasets by name of every group with datasets, depth first in the order of names.

    The key is `as_key` of the group's path.
    """
    waiting = [("", file)]
    seen: set[Any] = set()
    paths: dict[str, str] = {}
    while waiting:
        key, group = waiting.pop()
        datasets, groups = {}, []
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{key}/{name} is a soft or external link, which is not supported")
            entry = group[name]
            about = h5py.h5o.get_info(entry.id)
            if (about.fileno, about.addr) in seen:
                raise ValueError(f"{key}/{name} is linked twice")
            seen.add((about.fileno, about.addr))
            if isinstance(entry, h5py.Group):
                groups.append((f"{key}/{name}" if key else name, entry))
            elif isinstance(entry, h5py.Dataset):
                datasets[name] = entry
        if len(seen) > 8 * MAX_IMAGES or key.count("/") > _MAX_DEPTH:
            raise ValueError("contains too many or too deeply nested groups")
        waiting += reversed(groups)
        if datasets and not key:
            raise ValueError(f"datasets must be in one group per image, got {', '.join(sorted(datasets))} at the root")
        if datasets:
            image = as_key(key)
            if problem := key_problem(image):
                raise ValueError(problem)
            if paths.setdefault(image, key) != key:
                raise ValueError(f"key {image!r:.80} is used for two images: {paths[image]!r:.80} and {key!r:.80}")
            yield image, group, datasets


def check_dataset(name: str, dataset: Any) -> None:
    """Raise ``ValueError`` unless a dataset is an array of numbers, stored in the file, and of bounded size."""
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{name!r} is stored in another file, which is not supported")
    if dataset.shape is None or not isinstance(dataset.dtype, np.dtype):
        raise ValueError(f"{name!r} must be an array")
    check_array(name, dataset.shape, dataset.dtype)
    kinds = filters(dataset)
    if len(set(kinds)) < len(kinds) or not set(kinds) <= set(_FILTERS):
        raise ValueError(f"{name!r} uses HDF5 filters {kinds}; supported are gzip, lzf, shuffle and fletcher32")
    stored = dataset.id.get_storage_size()
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    if stored > dataset.file.id.get_filesize():
        raise ValueError(f"{name!r} is truncated")
    if size > stored * math.prod(_FILTERS[kind] for kind in kinds):
        raise ValueError(f"{name!r} has {size} bytes, but only {stored} are stored")
    if dataset.chunks and math.prod(dataset.chunks) > 4 * math.prod(dataset.shape) + 1024:
        raise ValueError(f"{name!r} has chunks {dataset.chunks}, too large for shape {dataset.shape}")
    if _DEFLATE in kinds and dataset.id.get_num_chunks() > _MAX_DEFLATED_CHUNKS:
        raise ValueError(f"{name!r} must have at most {_MAX_DEFLATED_CHUNKS} compressed chunks")


def filters(dataset: Any) -> list[int]:
    """Return the numbers of a dataset's HDF5 filters, in the order of writing."""
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]


def check_inflation(dataset: Any) -> None:
    """Raise ``ValueError`` if a chunk inflates to more than its size, which HDF5 does not limit."""
    if _DEFLATE not in filters(dataset):
        return
    limit = math.prod(dataset.chunks) * dataset.dtype.itemsize + 8
    for index in range(dataset.id.get_num_chunks()):
        about = dataset.id.get_chunk_info(index)
        mask, data = dataset.id.read_direct_chunk(about.chunk_offset)
        if mask:
            raise ValueError("a chunk skips a filter")
        if len(zlib.decompressobj().decompress(data, limit + 1)) > limit:
            raise ValueError(f"a chunk inflates to more than its {limit} bytes")


def text_attribute(h5py: ModuleType, entry: Any, name: str) -> str | None:
    """Return a string attribute of fixed length, at most 64 KiB, or ``None`` if there is none.

    Strings of variable length are ignored: HDF5 can loop forever in a damaged heap, where they are stored.
    """
    if name not in entry.attrs:
        return None
    attribute = entry.attrs.get_id(name)
    kind = attribute.get_type()
    if not isinstance(kind, h5py.h5t.TypeStringID) or kind.is_variable_str():
        return None
    if attribute.shape != () or attribute.get_storage_size() > _MAX_SPEC:
        raise ValueError(f"its attribute {name} must be a string")
    value = entry.attrs[name]
    text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
    return text
