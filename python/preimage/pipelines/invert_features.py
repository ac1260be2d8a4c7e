"""Invert feature stores and arrays of features."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike

import numpy as np
import torch

from preimage.inverters import Inverter
from preimage.io import FeatureFile
from preimage.io.arrays import is_array_file, read_array_file
from preimage.pipelines.invert_batches import Inversion, Item
from preimage.pipelines.reconstruct import Reconstructor
from preimage.spec import USER_VARIANT, Spec
from preimage.store import FeatureStore


def open_features(
    path: str | PathLike[str],
    spec: Spec | None = None,
    convention: str | None = None,
    inverter: Inverter | None = None,
    variables: Sequence[str] | None = None,
) -> FeatureFile:
    """Open a feature store or plain arrays.

    Args:
        path: Feature store, or file of arrays.
        spec: Spec of plain arrays; for other files it must equal their spec.
        convention: Axis convention of plain arrays.
        inverter: Inverter whose spec is used for plain arrays without one, see `invert`.
        variables: Variables to read of a MATLAB file; ``None`` reads all.

    Raises:
        ValueError: Plain arrays without a spec or convention, a spec or convention other than the file's, or a
            convention for a feature store.
        FileFormatError: The file is damaged or of another format.
        ImportError: HDF5 without h5py, or ``.mat`` without SciPy.
    """
    if is_array_file(path):
        if inverter is None or not _implies_spec(inverter):
            return read_array_file(path, spec, convention, variables=variables)
        region = inverter.output_region
        size = None if region is None else (region.image_size, region.image_size)
        return read_array_file(path, spec, convention, fallback=inverter.spec, image_size=size, variables=variables)
    if variables is not None:
        raise ValueError(f"{os.fspath(path)}: variables apply to MATLAB files only")
    if convention is not None:
        raise ValueError(f"{os.fspath(path)}: convention applies to plain arrays only, not to a feature store")
    file = FeatureStore(path)
    if spec is not None and (differences := file.spec.differences(spec)):
        raise ValueError(f"{os.fspath(path)} contains other features (file != spec): {'; '.join(differences)}")
    return file


def _implies_spec(inverter: Inverter) -> bool:
    """Return whether choosing the inverter implies that plain arrays have its spec.

    It does not if libraries disagree about the features of one name, as for HOG.
    """
    return inverter.output_region is not None or inverter.spec.variant == USER_VARIANT


def invert_features(
    file: FeatureFile, ranges: Sequence[range], reconstructor: Reconstructor, inversion: Inversion
) -> None:
    """Invert the images of a feature store whose indices are in some ranges, see `index_ranges`."""
    keys = {index: file.key(index) for indices in ranges for index in indices}
    inversion.run(reconstructor, keys, _items(file, keys, inversion))


def _items(file: FeatureFile, keys: Mapping[int, str], inversion: Inversion) -> Iterator[Item]:
    """Yield the images whose features can be read and are finite; skip the others."""
    for index, key in keys.items():
        height, width = file.processed_sizes[index].tolist()
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # doubles beyond float32 become infinite
                values = torch.from_numpy(np.array(file[key], np.float32))
            if not _finite(values):
                raise ValueError(f"the features of {key!r} contain NaN or infinite values")
        except ValueError as error:
            inversion.skip(key, error)
            continue
        yield Item(index, values, (height, width))


def _finite(values: torch.Tensor) -> bool:
    # A finite sum implies finite values and is faster to compute; a sum of large values may overflow.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())
