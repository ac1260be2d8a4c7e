"""Read the keypoints of one image from files of OpenCV's ``FileStorage``."""

from __future__ import annotations

import numpy as np

from preimage.io.atomic import StrPath
from preimage.io.file_types import describe_signature
from preimage.io.keypoints.convert import as_keypoints, no_keypoints
from preimage.io.keypoints.filestorage import node_names, read_node, syntax_of
from preimage.io.keypoints.text import read_text
from preimage.keypoints import DESCRIPTOR, Keypoints
from preimage.ops.sift_opencv import POSITION_SHIFT

_FIELDS = 7  # x, y, size, angle, response, octave, class_id


def read_opencv(path: StrPath, normalization: str | None = None) -> Keypoints:
    """Read the nodes ``keypoints`` (a vector of KeyPoint, seven numbers each) and ``descriptors`` (a matrix).

    ``size`` is twice σ, ``angle`` is in degrees.

    Raises:
        ValueError: The file is damaged or of another format.
    """
    text = read_text(path)
    syntax = syntax_of(text)
    if syntax is None:
        what = describe_signature(text)
        raise ValueError("not a file of OpenCV's FileStorage (YAML, XML or JSON)" + (f", but {what}" if what else ""))
    fields = read_node(text, syntax, "keypoints")
    descriptors = read_node(text, syntax, "descriptors")
    if fields is None:
        names = ", ".join(node_names(text, syntax)) or "none"
        raise ValueError(f"must have top-level nodes 'keypoints' and 'descriptors', got {names}")
    if fields.size % _FIELDS or (fields.ndim == 2 and fields.size and fields.shape[1] != _FIELDS):
        raise ValueError(f"keypoints must have {_FIELDS} numbers each, got {fields.size} in all")
    fields = fields.reshape(-1, _FIELDS)
    if not len(fields) and (descriptors is None or not descriptors.size):
        return no_keypoints()
    if descriptors is None:
        raise ValueError("has a top-level node 'keypoints', but no 'descriptors'")
    if descriptors.ndim != 2 or descriptors.shape != (len(fields), DESCRIPTOR):
        raise ValueError(
            f"descriptors of {len(fields)} keypoints must have shape ({len(fields)}, {DESCRIPTOR}), got "
            f"{descriptors.shape}"
        )
    x, y, size, angle, response = fields[:, :5].T
    if (angle == -1).any():
        raise ValueError("has keypoints without an angle (-1)")
    return as_keypoints(
        np.stack([x - POSITION_SHIFT, y - POSITION_SHIFT, size / 2, angle], axis=1),
        descriptors,
        lowe_order=True,
        normalization=normalization or "l2",
        response=response,
        degrees=True,
    )
