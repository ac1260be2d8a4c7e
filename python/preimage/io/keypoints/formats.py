"""Read keypoint files, whose format is recognized by suffix and first bytes."""

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
from preimage.io.keypoints.colmap_model import with_model
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
    model: StrPath | None = None,
) -> KeypointFile:
    """Open keypoints with SIFT descriptors in a file of COLMAP, hloc, OpenCV, VLFeat, Lowe or this package.

    The keypoints are converted to the convention of `preimage.keypoints.Keypoints`. The conventions of the formats are
    described in ``docs/keypoint-files.md``.

    Args:
        path: Path of a COLMAP database (``.db``), or of a file of hloc (``.h5``, ``.hdf5``), OpenCV's FileStorage
            (``.yml``, ``.yaml``, ``.xml``, ``.json``; nodes ``keypoints`` and ``descriptors``), VLFeat's ``sift``
            command (``.sift``), Lowe's program (``.key``), COLMAP's text import (``.txt``), VLFeat's MATLAB toolbox
            (``.mat``, frames and descriptors), or `write_keypoints` (``.npz``).
            For formats of one image per file also a folder of such files, searched recursively; the key of an image is
            its path in the folder without suffix (``a.jpg`` for ``a.jpg.txt``).
        image_size: (height, width) in pixels of the images whose size is not in the file.
        format: One of `FORMATS`, if suffix and first bytes are misleading.
        normalization: Normalization of the stored descriptors, which is undone: ``"l2"`` (plain SIFT), ``"l1_root"``
            (RootSIFT) or ``"l1_root_twice"``. Files do not state it. The default is RootSIFT for COLMAP databases,
            recognized from the values for hloc, and plain SIFT for others.
        model: Folder of a COLMAP model of these keypoints (``images.bin`` and ``points3D.bin``, or ``.txt``), for
            COLMAP databases and files of hloc: keypoints get the color of their 3D point.

    Raises:
        FileFormatError: The file is damaged, of another format, has features other than SIFT, lacks scales, angles or
            descriptors, or has implausible values or units. Files in a folder, and the arrays of each image in other
            formats, are read and checked on access.
        ValueError: The format or normalization is unknown, the file states another image size, a folder contains no
            such files or no model, or a model is of other images or for a file of another format.
        FileNotFoundError: The file or the folder of the model does not exist.
        ImportError: h5py (for hloc) or SciPy (for ``.mat``) is not installed.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if normalization is not None and normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")
    if image_size is not None and not is_size(image_size):
        raise ValueError(f"image_size must be two positive integers (height, width), got {image_size!r}")
    if model is not None:
        found = read_keypoints(path, image_size=image_size, format=format, normalization=normalization)
        return with_model(found, model)
    if os.path.isdir(path):
        return _read_folder(path, format, normalization).sized(image_size)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{os.fspath(path)}: no such file or folder")
    chosen = format or _kind(path)
    if chosen is None:
        raise ValueError(
            f"{os.fspath(path)}: suffix must be one of {', '.join(_SUFFIXES)} (or give the format); "
            f"{why_unsupported(path)}"
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
        raise ValueError(f"{os.fspath(path)}: format must be one of {', '.join(_ONE)} for a folder, got {format!r}")
    found: dict[str, tuple[str, str]] = {}
    for relative, file in files_below(os.fspath(path)):
        stem, kind = os.path.splitext(relative)[0], _kind(file)
        if kind not in _ONE or format not in (None, kind) or not _is_member(file):
            continue
        if problem := key_problem(stem):
            raise ValueError(f"{file}: {problem}; rename it")
        if stem in found:
            raise ValueError(f"{found[stem][0]} and {file} are both of image {stem!r}: give the format")
        found[stem] = file, kind
        if len(found) > MAX_IMAGES:
            raise ValueError(f"{os.fspath(path)}: more than {MAX_IMAGES} files")
    if not found:
        raise ValueError(f"{os.fspath(path)}: contains no keypoint files ({', '.join(_ONE)})")
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
    """Return whether a path is a keypoint file, by its suffix and, for ambiguous suffixes, its contents.

    A folder is one if any file in it is. Damaged files of ambiguous suffix are not. Every YAML or XML file of OpenCV's
    FileStorage is one, whether or not it has the nodes that `read_keypoints` requires.
    """
    if os.path.isdir(path):
        return any(_kind(file) in _ONE and _is_member(file) for _, file in files_below(os.fspath(path)))
    try:
        kind = _kind(path)
        if kind is None or not os.path.isfile(path):
            return False
        return _CHECKS[kind](path) if kind in _CHECKS else True
    except (OSError, ValueError, FileFormatError, ImportError):
        return False


def _is_member(path: StrPath) -> bool:
    """Return whether a file in a folder contains keypoints, unlike, for example, the calibration of a camera."""
    if not is_keypoint_file(path):
        return False
    if _kind(path) != "opencv":
        return True
    with file_errors(path):
        return b"keypoints" in read_start(path) or b"keypoints" in read_text(path)


def _is_opencv(path: StrPath) -> bool:
    start = read_start(path)
    syntax = syntax_of(start)
    if syntax == "json":  # any program writes JSON
        return b"keypoints" in start or b"keypoints" in read_text(path)
    return syntax is not None


def _is_colmap_text(path: StrPath) -> bool:
    return re.match(rb"\s*\d{1,9}[ \t]+128\s", read_start(path)[:64] + b"\n") is not None


def _is_npz(path: StrPath) -> bool:
    with file_errors(path), zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == "keypoints.npy" for name in archive.namelist())


def _is_hloc(path: StrPath) -> bool:
    h5py = require_h5py()
    with file_errors(path), h5py.File(path, "r") as file:
        for _, _, datasets in image_groups(h5py, file):
            return "keypoints" in datasets
    return False


_CHECKS = {
    "colmap-text": _is_colmap_text,
    "hloc": _is_hloc,
    "mat": holds_frames,
    "opencv": _is_opencv,
    "preimage": _is_npz,
}
