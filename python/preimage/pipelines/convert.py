"""Convert features from one format to another."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

from preimage.io import FeatureFile
from preimage.io.arrays import SUFFIXES, is_array_file, read_array_file, write_array_file
from preimage.store import FeatureStore, is_single_file, is_unfinished_copy, join, write_features

# Suffixes of formats that are not written: a folder of such a name would be a mistake.
_OTHER_SUFFIXES = (
    *(".bin", ".csv", ".hdf", ".json", ".parquet", ".pickle", ".pkl"),
    *(".pt", ".pth", ".safetensor", ".txt", ".zip"),
)


def convert(
    features: str | PathLike[str],
    output: str | PathLike[str],
    *,
    dtype: str | None = None,
    convention: str | None = None,
) -> FeatureFile:
    """Write features in another format, or rewrite those of an earlier version.

    Args:
        features: Feature store (folder or file, also of format version 1), or arrays in a ``.mat``, ``.h5`` or
            ``.hdf5`` file that contains their spec.
        output: File with suffix ``.safetensors`` (a single-file store) or ``.npy``, ``.npz``, ``.mat``, ``.h5`` or
            ``.hdf5`` (arrays), which replaces an earlier file; otherwise the folder of a new store. The keys of
            ``F.npy`` are written to ``F.keys.txt``.
        dtype: Data type of the output, ``"float32"`` or ``"float16"``; ``None`` keeps float16 if the format supports
            it, and is float32 otherwise.
        convention: Axis convention of arrays, see `preimage.io.arrays.conventions`; ``None`` is the default of the
            format.

    Returns:
        The features that were read.

    Raises:
        ValueError: The output is the input, has the suffix of a format that is not written, or cannot hold these
            features.
        FileExistsError: The output is an existing folder, other than one left by a conversion that was killed.
        FileFormatError: The features are damaged or of another format.
    """
    if os.path.realpath(features) == os.path.realpath(output):
        raise ValueError(f"{output}: output and features are the same: choose another name")
    if (problem := suffix_problem(output)) is not None:
        raise ValueError(problem)
    source = read_array_file(features) if is_array_file(features) else FeatureStore(features)
    if dtype is None:
        dtype = source.dtype if source.dtype == "float16" and Path(output).suffix.lower() != ".mat" else "float32"
    write_as(source, output, dtype=dtype, convention=convention)
    return source


def suffix_problem(output: str | PathLike[str]) -> str | None:
    """Return a message if the suffix of the output is that of a format that cannot be written, else ``None``."""
    suffix = Path(output).suffix
    if suffix.lower() not in _OTHER_SUFFIXES:
        return None
    return (
        f"{os.fspath(output)}: {suffix!r} files are not written (.safetensors writes a single file, "
        f"{', '.join(SUFFIXES)} write arrays)"
    )


def write_as(source: FeatureFile, output: str | PathLike[str], *, dtype: str, convention: str | None) -> None:
    """Write features in the format of the output's suffix.

    Args:
        source: Features to write.
        output: File or folder, as for `convert`.
        dtype: Data type of the output, ``"float32"`` or ``"float16"``.
        convention: Axis convention of arrays; ``None`` is the default of the format.

    Raises:
        ValueError: A convention for a feature store, or features that the format cannot store.
        FileExistsError: The output is an existing folder.
    """
    if is_array_file(output):
        write_array_file(output, source.spec, source.records(), dtype=dtype, convention=convention)
        return
    if convention is not None:
        raise ValueError(f"{output}: convention applies to plain arrays only, not to a feature store")
    if not is_single_file(output) and os.path.exists(output) and not is_unfinished_copy(output):
        raise FileExistsError(f"{output} already exists")
    if is_single_file(output) and isinstance(source, FeatureStore) and source.dtype == dtype:
        join(source, output)
    else:
        write_features(output, source.spec, source.records(), dtype=dtype)
