"""Keypoint files of other programs, in, and ours, in and out."""

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
