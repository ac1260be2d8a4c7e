"""Features from and to MATLAB v5 files."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
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

_OURS = ("preimage_spec", "preimage_convention", "preimage_keys", "preimage_sizes")
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
    """Features from a MATLAB v5 file (``save -v6`` or ``save -v7``; not -v7.3), read variable by variable on demand.

    Args:
        path: a file with one single or double array per image under its key, or one stack of images along the
            fourth axis (MATLAB conventions); for dense SIFT pairs of descriptors (also uint8) and frames, called ``D``
            and ``F``, ``descrs`` and ``frames``, or ``KEY_descriptors`` and ``KEY_frames``.
        spec: what the features are of; files that `write_mat_features` wrote tell it themselves.
        convention: of the arrays, see `preimage.io.arrays.conventions`; our own files tell it themselves, for
            others it must be named.
        variables: which to read, of a file that holds others too; ``None`` takes all.
        keys: one per image instead of the variables' names.
        processed_sizes: as for `read_numpy_features`.

    Raises:
        FileFormatError: another format or version, damaged, variables that are no arrays of numbers, or that do
            not fit spec and convention.
        ValueError: no spec or convention for a file that does not tell, or others than it tells; keys or sizes that do
            not fit.
        ImportError: SciPy is not installed.
    """
    arrays, notes = open_mat(path, variables)
    spec = agreed_spec(path, spec, notes.get("spec"))
    convention = agreed_convention(path, convention, notes.get("convention"))
    if convention is None:
        raise ValueError(
            f"{path}: a MATLAB file does not say how its arrays are laid out; name the convention: 'matlab' for what "
            "VLFeat's toolbox gives, 'matlab-transposed', 'cyvlfeat' or 'preimage' (--convention)"
        )
    check_convention(spec, convention)
    if spec.stride is None:
        arrays = [_as_vector(array) for array in arrays]
    if "keys" not in notes or variables is not None:
        return feature_file(path, spec, convention, arrays, keys=keys, processed_sizes=processed_sizes)
    try:
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
    except ValueError as error:
        if isinstance(error, FileFormatError) or keys is not None or processed_sizes is not None:
            raise
        raise FileFormatError(path, str(error)) from error


def _as_vector(array: StoredArray) -> StoredArray:
    """A row or column, which MATLAB has instead of vectors, as a vector."""
    if len(array.shape) != 2 or 1 not in array.shape:
        return array
    return StoredArray(array.name, (max(array.shape),), array.dtype, lambda: array.load().reshape(-1))


def open_mat(path: StrPath, names: Sequence[str] | None = None) -> tuple[list[StoredArray], dict[str, Any]]:
    """The arrays of a MATLAB file by their headers, and what our own files say about them.

    The notes are empty, or hold spec, convention, keys, and lists of processed and original sizes.

    Raises:
        FileFormatError, ImportError: see `read_mat_features`.
    """
    mat5.require_scipy()
    try:
        with open(path, "rb") as file:
            found = list(mat5.variables(file))
            if len({variable.name for variable in found}) < len(found):
                raise ValueError("two variables have one name")
            ours = {name: variable for variable in found if (name := _current_name(variable)) in _OURS}
            wanted = [variable for variable in found if _current_name(variable) not in _OURS]
            if names is not None:
                if missing := [name for name in names if name not in {variable.name for variable in wanted}]:
                    there = ", ".join(variable.name for variable in wanted[:20]) or "none"
                    raise ValueError(f"there is no variable {missing[0]!r}; there are {there:.300}")
                wanted = [variable for variable in wanted if variable.name in names]
            for variable in wanted:
                _check(variable)
            notes = {name: _note(file, variable) for name, variable in ours.items()}
            told = _told(notes) if notes else {}
    except (ValueError, MemoryError, OverflowError) as error:
        raise FileFormatError(path, str(error) or "damaged") from error
    return [
        StoredArray(v.name, v.shape, v.dtype, functools.partial(_read, path, v)) for v in wanted if v.dtype is not None
    ], told


def _current_name(variable: mat5.Variable) -> str:
    return MATLAB_VARIABLES.get(variable.name, variable.name)


def _check(variable: mat5.Variable) -> None:
    if variable.kind != "numbers" or variable.dtype is None:
        raise ValueError(
            f"{variable.name!r} is {variable.kind}; features are single or double arrays (save them alone, or "
            "name them: --variable NAME, variables=[...])"
        )
    check_array(variable.name, variable.shape, variable.dtype)


def _read(path: StrPath, variable: mat5.Variable) -> NDArray[Any]:
    with open(path, "rb") as file:
        try:
            return mat5.read(file, variable)
        except (ValueError, MemoryError) as error:
            raise FileFormatError(path, str(error) or f"{variable.name!r} is too large") from error


def _note(file: IO[bytes], variable: mat5.Variable) -> Any:
    """The contents of a variable of ours: a text, or the sizes."""
    rank, count = len(variable.shape), variable.shape[-1]
    if variable.name == "preimage_sizes":
        if variable.dtype != np.float64 or rank != 2 or count != 4 or variable.shape[0] > MAX_IMAGES:
            raise ValueError("the sizes of its images are damaged")
        return mat5.read(file, variable).tolist()
    if variable.kind != "text" or rank != 2 or variable.shape[0] != 1 or count > MAX_HEADER_BYTES:
        raise ValueError(f"{variable.name!r} is no text")
    return mat5.read_text(file, variable)


def _told(notes: dict[str, Any]) -> dict[str, Any]:
    if missing := sorted(set(_OURS) - set(notes)):
        raise ValueError(f"lacks {', '.join(missing)}")
    try:
        if problem := header_problem(notes["preimage_keys"].encode()):
            raise ValueError(problem)
        keys = json.loads(notes["preimage_keys"])
    except (ValueError, RecursionError) as error:
        raise ValueError("its keys cannot be read") from error
    if not isinstance(keys, list) or any(map(key_problem, keys)) or len(keys) != len(notes["preimage_sizes"]):
        raise ValueError("its keys are damaged")
    rows = notes["preimage_sizes"]
    sizes = [tuple(int(side) if 1 <= side < 1 << 31 and side % 1 == 0 else 0 for side in row) for row in rows]
    if not all(is_size(size[:2]) and is_size(size[2:]) for size in sizes):
        raise ValueError("the sizes of its images are damaged")
    spec, convention = parse_spec(notes["preimage_spec"]), notes["preimage_convention"]
    check_convention(spec, convention)
    return {
        "spec": spec,
        "convention": convention,
        "keys": keys,
        "original": [size[:2] for size in sizes],
        "processed": [size[2:] for size in sizes],
    }


def _renamed(path: StrPath, arrays: Sequence[StoredArray], keys: Sequence[str]) -> list[StoredArray]:
    """The arrays under their images' keys, in the keys' order."""
    found = []
    for array in arrays:
        match = _IMAGE.fullmatch(array.name)
        if match is None or not 1 <= int(match[1]) <= len(keys):
            raise FileFormatError(path, f"holds a variable {array.name!r} that has no key")
        role = "" if match[2] is None else f"/{match[2]}"
        found.append((int(match[1]), StoredArray(keys[int(match[1]) - 1] + role, array.shape, array.dtype, array.load)))
    if len({number for number, _ in found}) != len(keys):
        raise FileFormatError(path, f"holds {len(keys)} keys, and arrays of fewer images")
    return [array for _, array in sorted(found, key=lambda entry: entry[0])]


def write_mat_features(
    path: StrPath,
    spec: Spec,
    records: Iterable[FeatureRecord],
    *,
    dtype: str = "float32",
    convention: str = "matlab",
) -> None:
    """Write features as a MATLAB v5 file, uncompressed, atomically, one image in memory at a time.

    Variables: ``image_00001``, ``image_00002``, … single, one per image (for dense SIFT in others' conventions
    ``image_00001_descriptors`` and ``image_00001_frames``); ``preimage_keys``, a JSON list as text (``jsondecode``);
    ``preimage_sizes``, B×4 double: height and width of each image as decoded and as processed, pixels;
    ``preimage_spec``, JSON, and ``preimage_convention``. Equal features give equal files.

    Args:
        path: the file to write; replaced only when all went well.
        spec: what every record's features are of.
        records: any iterable, consumed once.
        dtype: only ``"float32"``; MATLAB files know no float16.
        convention: see `preimage.io.arrays.conventions`; ``"matlab"`` is what VLFeat's toolbox gives and takes
            (``vl_hog('render', image_00001)``). Features without such a convention are written with ``"preimage"``.

    Raises:
        ValueError: another dtype, a record that `write_features` would refuse, no record at all, an array of 2 GiB
            or more, or a convention these features do not have.
        TypeError: features that are not a floating-point NumPy array.
        OSError: such as a full disk. After any error `path` is as it was.
        ImportError: SciPy is not installed.
    """
    if dtype != "float32":
        raise ValueError(f"{path}: a MATLAB file holds float32 (single), got dtype {dtype!r}")
    check_convention(spec, convention)
    with atomic_write(path) as file:
        mat5.write(file, _entries(path, spec, convention, stored_records(spec, convention, records, dtype)))


def _entries(
    path: StrPath, spec: Spec, convention: str, stored: Iterable[tuple[FeatureRecord, dict[str, NDArray[Any]]]]
) -> Iterator[tuple[str, NDArray[Any] | str]]:
    """The variables of a file of ours."""
    keys: list[str] = []
    sizes: list[tuple[int, int, int, int]] = []
    for record, arrays in stored:
        keys.append(record.key)
        sizes.append((*record.original_size, *record.processed_size))
        for role, array in arrays.items():
            suffix = f"_{role}" if len(arrays) > 1 else ""
            yield f"image_{len(keys):05d}{suffix}", array
    if not keys:
        raise ValueError(f"{path}: no image to write")
    yield "preimage_keys", json.dumps(keys)
    yield "preimage_sizes", np.array(sizes, np.float64)
    yield "preimage_spec", spec.to_json()
    yield "preimage_convention", convention
