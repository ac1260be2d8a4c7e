"""Features from one format into another."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

from preimage.io import FeatureFile
from preimage.io.arrays import is_foreign, read_foreign, write_foreign
from preimage.store import FeatureStore, is_single_file, join, write_features


def convert(
    features: str | PathLike[str], output: str | PathLike[str], *, dtype: str | None = None, layout: str | None = None
) -> FeatureFile:
    """Write features in another format, or those of an earlier version in the present one.

    Args:
        features: a feature store, a single file of features (of format version 1, too), or arrays in a ``.mat``,
            ``.h5`` or ``.hdf5`` file that tell what they are.
        output: with suffix ``.safetensors`` a single file; ``.npy``, ``.npz``, ``.mat``, ``.h5``, ``.hdf5``: arrays;
            otherwise a folder. An earlier file is replaced.
        dtype: ``"float32"`` or ``"float16"``, as stored; ``None`` keeps that of the features where it is one of these,
            and is float32 otherwise.
        layout: of arrays that are written, see `preimage.io.arrays.conventions`.

    Returns:
        The features that were read.

    Raises:
        ValueError: the output is the input, is there already as a folder, or cannot hold these features.
        FileFormatError: the features are damaged or of another format.
    """
    if os.path.realpath(features) == os.path.realpath(output):
        raise ValueError(f"{output}: the output is the input itself: give another name")
    source = read_foreign(features) if is_foreign(features) else FeatureStore(features)
    if dtype is None:
        dtype = source.dtype if source.dtype == "float16" and Path(output).suffix.lower() != ".mat" else "float32"
    write_as(source, output, dtype=dtype, layout=layout)
    return source


def write_as(source: FeatureFile, output: str | PathLike[str], *, dtype: str, layout: str | None) -> None:
    """Write features in the format that the output's suffix names.

    Raises:
        ValueError: a layout for a format of ours, or features that the format does not hold.
        FileExistsError: a folder is to be written and there is one.
    """
    if is_foreign(output):
        write_foreign(output, source.spec, source.records(), dtype=dtype, layout=layout)
        return
    if layout is not None:
        raise ValueError(f"{output}: features of ours have their own layout; give one for plain arrays only")
    if not is_single_file(output) and os.path.exists(output):
        raise FileExistsError(f"{output} is there already")
    if is_single_file(output) and isinstance(source, FeatureStore) and source.dtype == dtype:
        join(source, output)
    else:
        write_features(output, source.spec, source.records(), dtype=dtype)
