"""Keypoint files of any format, told by suffix and first bytes."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

from preimage.errors import FileFormatError
from preimage.io.arrays.hdf5_checks import image_groups, require_h5py
from preimage.io.atomic import StrPath, files_below, key_problem
from preimage.io.feature_file import MAX_IMAGES, Size, is_size
from preimage.io.file_types import why_unsupported
from preimage.io.keypoints.colmap import read_colmap
from preimage.io.keypoints.convert import NORMALIZATIONS, file_errors
from preimage.io.keypoints.filestorage import syntax_of
from preimage.io.keypoints.hloc import read_hloc
from preimage.io.keypoints.keypoint_file import KeypointFile
from preimage.io.keypoints.mat import holds_frames, read_mat
from preimage.io.keypoints.npz import read_npz
from preimage.io.keypoints.opencv import read_opencv
from preimage.io.keypoints.text import read_start, read_text
from preimage.io.keypoints.text_formats import read_colmap_text, read_lowe, read_vlfeat
from preimage.keypoints import Keypoints

_MANY: dict[str, Callable[[StrPath, str | None], KeypointFile]] = {
    "colmap": read_colmap,
    "hloc": read_hloc,
    "mat": read_mat,
    "preimage": read_npz,
}
_ONE: dict[str, Callable[[StrPath, str | None], Keypoints]] = {
    "colmap-text": read_colmap_text,
    "lowe": read_lowe,
    "opencv": read_opencv,
    "vlfeat": read_vlfeat,
}
_SUFFIXES = {
    **dict.fromkeys((".yml", ".yaml", ".xml", ".json"), "opencv"),
    **dict.fromkeys((".h5", ".hdf5"), "hloc"),
    **{".db": "colmap", ".mat": "mat", ".npz": "preimage", ".txt": "colmap-text", ".key": "lowe", ".sift": "vlfeat"},
}
FORMATS = (*_MANY, *_ONE)


def read_keypoints(
    path: StrPath,
    *,
    image_size: Size | None = None,
    format: str | None = None,
    normalization: str | None = None,
) -> KeypointFile:
    """Keypoints with SIFT descriptors from a file of COLMAP, hloc, OpenCV, VLFeat or Lowe, or of ours.

    ``docs/keypoint-files.md`` tells each format's convention; what comes is in ours, see
    `preimage.keypoints.Keypoints`.

    Args:
        path: a COLMAP database (``.db``), a file of hloc (``.h5``, ``.hdf5``), of OpenCV's FileStorage (``.yml``,
            ``.yaml``, ``.xml``, ``.json``; nodes ``keypoints`` and ``descriptors``), of VLFeat's ``sift`` (``.sift``),
            of Lowe's program (``.key``), text that COLMAP imports (``.txt``), frames and descriptors of VLFeat's MATLAB
            toolbox (``.mat``), or ours (``.npz``, `write_keypoints`).
            Formats of one image a file also as a folder of such files, searched through; the key of an image is then
            its path in the folder without suffix (of ``a.jpg.txt``: ``a.jpg``).
        image_size: (height, width) of the images of which the file does not tell it, pixels.
        format: one of `FORMATS`, where suffix or first bytes mislead.
        normalization: what was done to the descriptors, to be undone: ``"l2"`` (nothing but a common length),
            ``"l1_root"`` (RootSIFT), ``"l1_root_twice"``. Both look alike, so that it cannot be told from the file; by
            default COLMAP's databases are taken for RootSIFT, hloc's files are told apart as hloc itself writes
            them, and all others are taken for plain SIFT.

    Raises:
        FileFormatError: damaged, another format, features other than SIFT, keypoints without scale, angle or
            descriptors, numbers beyond reason or in other units. Formats of one image a file in a folder, and the
            arrays of an image in the others, are read when they are asked for.
        ValueError: an unknown format or normalization, an image size that the file contradicts, or a folder without
            such files.
        FileNotFoundError: there is no such file.
        ImportError: hloc's format without h5py.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"the format is one of {', '.join(FORMATS)}, got {format!r}")
    if normalization is not None and normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization is one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")
    if image_size is not None and not is_size(image_size):
        raise ValueError(f"image_size is (height, width), whole numbers >= 1, got {image_size!r}")
    if os.path.isdir(path):
        return _read_folder(path, format, normalization).sized(image_size)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{os.fspath(path)}: no such file or folder")
    chosen = format or _kind(path)
    if chosen is None:
        raise ValueError(
            f"{os.fspath(path)}: the suffix is one of {', '.join(_SUFFIXES)} (or name the format); {why_unsupported(path)}"
        )
    if chosen in _MANY:
        return _MANY[chosen](path, normalization).sized(image_size)
    with file_errors(path):
        keypoints = _ONE[chosen](path, normalization)
    stem = Path(path).stem
    if problem := key_problem(stem):
        raise ValueError(f"{os.fspath(path)}: {problem}; rename it")
    return KeypointFile(
        path,
        chosen,
        keys=[stem],
        sizes=[image_size],
        counts=[len(keypoints.x)],
        normalization=normalization or "l2",
        load=lambda _: keypoints,
    )


def _read_folder(path: StrPath, format: str | None, normalization: str | None) -> KeypointFile:
    if format in _MANY:
        raise ValueError(f"{os.fspath(path)}: a folder holds files of one image each, not of {format}")
    found: dict[str, tuple[str, str]] = {}
    for relative, file in files_below(os.fspath(path)):
        stem, kind = os.path.splitext(relative)[0], _kind(file)
        if kind not in _ONE or format not in (None, kind) or not _is_member(file):
            continue
        if problem := key_problem(stem):
            raise ValueError(f"{file}: {problem}; rename it")
        if stem in found:
            raise ValueError(f"{found[stem][0]} and {file} are both of the image {stem!r}; name the format")
        found[stem] = file, kind
        if len(found) > MAX_IMAGES:
            raise ValueError(f"{os.fspath(path)}: more than {MAX_IMAGES} files")
    if not found:
        raise ValueError(f"{os.fspath(path)}: holds no keypoint files ({', '.join(_ONE)})")
    files = list(found.values())

    def load(position: int) -> Keypoints:
        file, kind = files[position]
        with file_errors(file):
            return _ONE[kind](file, normalization)

    unknown = [None] * len(files)
    kinds = sorted({kind for _, kind in files})
    return KeypointFile(
        path,
        " and ".join(kinds),
        keys=list(found),
        sizes=unknown,
        counts=unknown,
        normalization=normalization or "l2",
        load=load,
    )


def _kind(path: StrPath) -> str | None:
    return _SUFFIXES.get(Path(path).suffix.lower())


def is_keypoint_file(path: StrPath) -> bool:
    """Whether suffix, and for ambiguous ones a look inside, say that this is a file of keypoints.

    Damaged files are not, where the look inside cannot tell; a folder is if any file of one image in it is. Any file of
    OpenCV's FileStorage in YAML or XML is one: its reader says which nodes are missing.
    """
    if os.path.isdir(path):
        return any(_kind(file) in _ONE and _is_member(file) for _, file in files_below(os.fspath(path)))
    try:
        kind = _kind(path)
        if kind is None or not os.path.isfile(path):
            return False
        return _LOOKS[kind](path) if kind in _LOOKS else True
    except (OSError, ValueError, FileFormatError, ImportError):
        return False


def _is_member(path: StrPath) -> bool:
    """Return whether a file in a folder holds keypoints; others may lie beside it, such as a camera's calibration."""
    if not is_keypoint_file(path):
        return False
    if _kind(path) != "opencv":
        return True
    with file_errors(path):
        return b"keypoints" in read_start(path) or b"keypoints" in read_text(path)


def _is_opencv(path: StrPath) -> bool:
    start = read_start(path)
    syntax = syntax_of(start)
    if syntax == "json":  # anything may be in there
        return b"keypoints" in start or b"keypoints" in read_text(path)
    return syntax is not None


def _is_headed(path: StrPath) -> bool:
    return re.match(rb"\s*\d{1,9}[ \t]+128\s", read_start(path)[:64] + b"\n") is not None


def _is_ours(path: StrPath) -> bool:
    with file_errors(path), zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == "keypoints.npy" for name in archive.namelist())


def _is_hloc(path: StrPath) -> bool:
    h5py = require_h5py()
    with file_errors(path), h5py.File(path, "r") as file:
        for _, _, datasets in image_groups(h5py, file):
            return "keypoints" in datasets
    return False


_LOOKS = {"opencv": _is_opencv, "colmap-text": _is_headed, "preimage": _is_ours, "hloc": _is_hloc, "mat": holds_frames}
