"""Read keypoint files of several programs, and write keypoints as ``.npz``."""

from preimage.io.keypoints.convert import NORMALIZATIONS
from preimage.io.keypoints.formats import FORMATS, is_keypoint_file, read_keypoints
from preimage.io.keypoints.keypoint_file import KeypointFile, KeypointRecord
from preimage.io.keypoints.npz import write_keypoints

__all__ = [
    "FORMATS",
    "NORMALIZATIONS",
    "KeypointFile",
    "KeypointRecord",
    "is_keypoint_file",
    "read_keypoints",
    "write_keypoints",
]
