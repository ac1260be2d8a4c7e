"""Read and write features in MATLAB v5 files."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError, parse_json
from preimage.io.arrays import mat5
from preimage.io.arrays.conventions import check_convention
from preimage.io.arrays.stored_arrays import (
    StoredArray,
    agreed_convention,
    agreed_spec,
    check_array,
    feature_file,
    stored_records,
)
from preimage.io.atomic import StrPath, atomic_write, key_problem
from preimage.io.feature_file import MAX_IMAGES, FeatureFile, FeatureRecord, Size, is_size
from preimage.io.shards import MAX_HEADER_BYTES, header_problem, parse_spec
from preimage.old_names import MATLAB_VARIABLES
from preimage.spec import Spec

_METADATA = ("preimage_spec", "preimage_convention", "preimage_keys", "preimage_sizes")
_SELECT = "save the features alone, or select them: --variable NAME, variables=[...]"
_IMAGE = re.compile(r"image_(\d{1,9})(?:_(descriptors|frames))?")


def read_mat_features(
    path: StrPath,
    spec: Spec | None = None,
    *,
    convention: str | None = None,
    variables: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    processed_sizes: Sequence[Size] | Size | None = None,
) -> FeatureFile:
    """Open features in a MATLAB v5 file (``save -v6`` or ``save -v7``, not -v7.3). Variables are read on demand.

    Args:
        path: Path of a file with one single or double array per image under its key, or one stack of images along the
            fourth axis (MATLAB conventions); for dense SIFT pairs of descriptors (also uint8) and frames, named ``D``
            and ``F``, ``descrs`` and ``frames``, or ``KEY_descriptors`` and ``KEY_frames``.
        spec: Spec of the features. Files written by `write_mat_features` contain it.
        convention: Convention of the arrays, see `preimage.io.arrays.conventions`. Files written by
            `write_mat_features` contain it; it is required for others.
        variables: Variables to read; ``None`` reads all.
        keys: Keys of the images, instead of the variables' names.
        processed_sizes: As in `read_numpy_features`.

    Raises:
        FileFormatError: The file is of another format or version or damaged, or its variables are not numeric arrays
            or do not match spec and convention.
        ValueError: Spec or convention is missing or differs from the file's, or keys or sizes do not match.
        ImportError: SciPy is not installed.
    """
    arrays, notes = open_mat(path, variables)
    spec = agreed_spec(path, spec, notes.get("spec"))
    convention = agreed_convention(path, convention, notes.get("convention"))
    if convention is None:
        raise ValueError(
            f"{path}: the file does not state the convention of its arrays; give one (--convention): 'matlab' for "
            "output of VLFeat's toolbox, 'matlab-transposed', 'cyvlfeat' or 'preimage'"
        )
    check_convention(spec, convention)
    if spec.stride is None:
        arrays = [_as_vector(array) for array in arrays]
    if "keys" not in notes or variables is not None:
        return feature_file(
            path, spec, convention, arrays, keys=keys, processed_sizes=processed_sizes, advice=f" ({_SELECT})"
        )
    return feature_file(
        path,
        spec,
        convention,
        _renamed(path, arrays, notes["keys"]),
        keys=keys,
        processed_sizes=processed_sizes,
        stored_sizes=notes["processed"],
        original_sizes=notes["original"],
    )


def _as_vector(array: StoredArray) -> StoredArray:
    """Return a vector for an array of one row or one column, which MATLAB has instead of vectors."""
    if len(array.shape) != 2 or 1 not in array.shape:
        return array
    return StoredArray(array.name, (max(array.shape),), array.dtype, lambda: array.load().reshape(-1))


def open_mat(path: StrPath, names: Sequence[str] | None = None) -> tuple[list[StoredArray], dict[str, Any]]:
    """Return the arrays in a MATLAB file, not yet read, and its metadata.

    Returns:
        The arrays, and a dictionary with ``spec``, ``convention``, ``keys``, and the lists of sizes ``processed`` and
        ``original``, which is empty for files of other programs.

    Raises:
        FileFormatError, ImportError: See `read_mat_features`.
    """
    mat5.require_scipy()
    try:
        with open(path, "rb") as file:
            found = list(mat5.variables(file))
            if len({variable.name for variable in found}) < len(found):
                raise ValueError("two variables have the same name")
            metadata_variables = {
                name: variable for variable in found if (name := _current_name(variable)) in _METADATA
            }
            wanted = [variable for variable in found if _current_name(variable) not in _METADATA]
            if names is not None:
                if missing := [name for name in names if name not in {variable.name for variable in wanted}]:
                    there = ", ".join(variable.name for variable in wanted[:20]) or "none"
                    raise ValueError(f"has no variable {missing[0]!r}, only {there:.300}")
                wanted = [variable for variable in wanted if variable.name in names]
            for variable in wanted:
                _check(variable)
            contents = {name: _contents(file, variable) for name, variable in metadata_variables.items()}
            metadata = _metadata(contents) if contents else {}
    except (ValueError, MemoryError, OverflowError) as error:
        raise FileFormatError(path, str(error) or "damaged") from error
    return [
        StoredArray(v.name, v.shape, v.dtype, functools.partial(_read, path, v)) for v in wanted if v.dtype is not None
    ], metadata


def _current_name(variable: mat5.Variable) -> str:
    return MATLAB_VARIABLES.get(variable.name, variable.name)


def _check(variable: mat5.Variable) -> None:
    if variable.kind != "numbers" or variable.dtype is None:
        raise ValueError(f"{variable.name!r} must be a single or double array, got {variable.kind} ({_SELECT})")
    check_array(variable.name, variable.shape, variable.dtype)


def _read(path: StrPath, variable: mat5.Variable) -> NDArray[Any]:
    with open(path, "rb") as file:
        try:
            return mat5.read(file, variable)
        except (ValueError, MemoryError) as error:
            raise FileFormatError(path, str(error) or f"{variable.name!r} is too large") from error


def _contents(file: IO[bytes], variable: mat5.Variable) -> Any:
    """Read a variable of metadata: a string, or the sizes."""
    rank, count = len(variable.shape), variable.shape[-1]
    if variable.name == "preimage_sizes":
        if variable.dtype != np.float64 or rank != 2 or count != 4 or variable.shape[0] > MAX_IMAGES:
            raise ValueError("the sizes of its images are damaged")
        return mat5.read(file, variable).tolist()
    if variable.kind != "text" or rank != 2 or variable.shape[0] != 1 or count > MAX_HEADER_BYTES:
        raise ValueError(f"{variable.name!r} must be text")
    return mat5.read_text(file, variable)


def _metadata(contents: dict[str, Any]) -> dict[str, Any]:
    if missing := sorted(set(_METADATA) - set(contents)):
        raise ValueError(f"lacks {', '.join(missing)}")
    try:
        if problem := header_problem(contents["preimage_keys"].encode()):
            raise ValueError(problem)
        keys = parse_json(contents["preimage_keys"])
    except ValueError as error:
        raise ValueError("its keys cannot be read") from error
    if not isinstance(keys, list) or any(map(key_problem, keys)) or len(keys) != len(contents["preimage_sizes"]):
        raise ValueError("its keys are damaged")
    rows = contents["preimage_sizes"]
    sizes = [tuple(int(side) if 1 <= side < 1 << 31 and side % 1 == 0 else 0 for side in row) for row in rows]
    if not all(is_size(size[:2]) and is_size(size[2:]) for size in sizes):
        raise ValueError("the sizes of its images are damaged")
    spec, convention = parse_spec(contents["preimage_spec"]), contents["preimage_convention"]
    check_convention(spec, convention)
    return {
        "spec": spec,
        "convention": convention,
        "keys": keys,
        "original": [size[:2] for size in sizes],
        "processed": [size[2:] for size in sizes],
    }


def _renamed(path: StrPath, arrays: Sequence[StoredArray], keys: Sequence[str]) -> list[StoredArray]:
    """Return the arrays named by the keys of their images, in the order of the keys."""
    found = []
    for array in arrays:
        match = _IMAGE.fullmatch(array.name)
        if match is None or not 1 <= int(match[1]) <= len(keys):
            raise FileFormatError(path, f"variable {array.name!r} has no key")
        role = "" if match[2] is None else f"/{match[2]}"
        found.append((int(match[1]), StoredArray(keys[int(match[1]) - 1] + role, array.shape, array.dtype, array.load)))
    if len({number for number, _ in found}) != len(keys):
        raise FileFormatError(path, f"contains {len(keys)} keys, but arrays of fewer images")
    return [array for _, array in sorted(found, key=lambda entry: entry[0])]


def write_mat_features(
    path: StrPath,
    spec: Spec,
    records: Iterable[FeatureRecord],
    *,
    dtype: str = "float32",
    convention: str = "matlab",
) -> None:
    """Write features to an uncompressed MATLAB v5 file, atomically, with one image in memory at a time.

    The variables are ``image_00001``, ``image_00002``, … (single), one per image (for dense SIFT in other conventions
    ``image_00001_descriptors`` and ``image_00001_frames``); ``preimage_keys``, a JSON list as text (``jsondecode``);
    ``preimage_sizes``, B×4 double, height and width of each decoded and each processed image in pixels;
    ``preimage_spec``, JSON; and ``preimage_convention``. Equal features give identical files.

    Args:
        path: Path of the file. An earlier file is replaced only on success.
        spec: Spec of the features.
        records: Any iterable of records, consumed once.
        dtype: Stored dtype, ``"float32"`` only, because MATLAB files have no float16.
        convention: Convention of the arrays, see `preimage.io.arrays.conventions`. ``"matlab"`` arrays can be passed to
            VLFeat's toolbox (``vl_hog('render', image_00001)``). Other features need ``"preimage"``.

    Raises:
        ValueError: `dtype` is invalid, a record is invalid (see `preimage.write_features`), there is no record, an
            array has 2 GiB or more, or the spec does not support the convention.
        TypeError: Features are not a floating-point NumPy array.
        OSError: Any error of the operating system, such as a full disk. `path` is unchanged then.
        ImportError: SciPy is not installed.
    """
    if dtype != "float32":
        raise ValueError(f"{path}: dtype must be 'float32' (single) in a MATLAB file, got {dtype!r}")
    check_convention(spec, convention)
    with atomic_write(path) as file:
        mat5.write(file, _entries(path, spec, convention, stored_records(spec, convention, records, dtype)))


def _entries(
    path: StrPath, spec: Spec, convention: str, stored: Iterable[tuple[FeatureRecord, dict[str, NDArray[Any]]]]
) -> Iterator[tuple[str, NDArray[Any] | str]]:
    """Yield names and values of the variables to write."""
    keys: list[str] = []
    sizes: list[tuple[int, int, int, int]] = []
    for record, arrays in stored:
        keys.append(record.key)
        sizes.append((*record.original_size, *record.processed_size))
        for role, array in arrays.items():
            suffix = f"_{role}" if len(arrays) > 1 else ""
            yield f"image_{len(keys):05d}{suffix}", array
    if not keys:
        raise ValueError(f"{path}: no images to write")
    yield "preimage_keys", json.dumps(keys)
    yield "preimage_sizes", np.array(sizes, np.float64)
    yield "preimage_spec", spec.to_json()
    yield "preimage_convention", convention
