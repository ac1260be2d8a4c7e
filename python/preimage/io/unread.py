"""Describe files that no reader takes: what they are, and what would be read."""

from __future__ import annotations

import re
from pathlib import Path

from preimage.io.atomic import StrPath
from preimage.io.signatures import SIGNATURE_BYTES, describe_file

_READ = (
    "read are feature files of this package, arrays (.npy, .npz, .mat, .h5, .hdf5), and SIFT keypoints of COLMAP (.db, "
    ".txt), hloc (.h5), OpenCV (.yml, .xml, .json), VLFeat (.sift, .mat) and Lowe (.key), or as .npz"
)
_BINARY = re.compile(rb"[\0-\x08\x0e-\x1a\x7f-\xff]")
_BY_SUFFIX = {  # where the contents look like any text or nothing known
    ".feat": "keypoints of OpenMVG or AliceVision (.feat)",
    ".desc": "descriptors of OpenMVG or AliceVision (.desc)",
    ".haraff": "regions of Mikolajczyk's programs",
    ".hesaff": "regions of Mikolajczyk's programs",
    ".csv": "a table of text (.csv)",
    ".pth": "a file of PyTorch",
    ".pt": "a file of PyTorch",
}


def what_it_is(path: StrPath, start: bytes | None = None) -> str:
    """Return a phrase for a file by its first bytes, or else its suffix; empty where both say nothing.

    Args:
        path: the file.
        start: its first bytes; ``None`` reads them.
    """
    if start is None:
        with open(path, "rb") as file:
            start = file.read(SIGNATURE_BYTES)
    found = describe_file(start)
    if found in (None, "plain text"):
        binary = "binary data of an unknown format, or cut short" if _BINARY.search(start) else ""
        return _BY_SUFFIX.get(Path(path).suffix.lower()) or found or binary
    return found


def other_than(wanted: str, path: StrPath) -> str:
    """Return that a file is not what is wanted, but what it is."""
    what = what_it_is(path)
    return f"is not {wanted}" + (f", but {what}" if what else "")


def unread(path: StrPath, start: bytes | None = None) -> str:
    """Return why a file is not taken, without its name: what it is, and what is read.

    Args:
        path: the file.
        start: its first bytes; ``None`` reads them.
    """
    what = what_it_is(path, start)
    return f"not a feature file or keypoint file, {f'but {what}' if what else 'or cut short'}; {_READ}"
