"""Read and write images, features and keypoints. Writes are atomic; names are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preimage.io.arrays import read_array_file, write_array_file
    from preimage.io.atomic import atomic_write
    from preimage.io.feature_file import FeatureFile, FeatureRecord
    from preimage.io.image_source import ImageSource
    from preimage.io.images import (
        check_image,
        decode_file,
        decode_image,
        encode_png,
        read_image,
        resize_and_center_crop,
        write_png,
    )
    from preimage.io.keypoints import (
        KeypointFile,
        KeypointRecord,
        is_keypoint_file,
        read_keypoints,
        write_keypoints,
    )
    from preimage.io.sources import Listing, find_images, list_images

__all__ = [
    "FeatureFile",
    "FeatureRecord",
    "ImageSource",
    "KeypointFile",
    "KeypointRecord",
    "Listing",
    "atomic_write",
    "check_image",
    "decode_file",
    "decode_image",
    "encode_png",
    "find_images",
    "is_keypoint_file",
    "list_images",
    "read_array_file",
    "read_image",
    "read_keypoints",
    "resize_and_center_crop",
    "write_array_file",
    "write_keypoints",
    "write_png",
]

_LAZY_NAMES = {
    "atomic": ("atomic_write",),
    "arrays": ("read_array_file", "write_array_file"),
    "images": (
        "check_image",
        "decode_file",
        "decode_image",
        "encode_png",
        "resize_and_center_crop",
        "read_image",
        "write_png",
    ),
    "keypoints": ("KeypointFile", "KeypointRecord", "is_keypoint_file", "read_keypoints", "write_keypoints"),
    "feature_file": ("FeatureFile", "FeatureRecord"),
    "image_source": ("ImageSource",),
    "sources": ("Listing", "find_images", "list_images"),
}


def __getattr__(name: str) -> object:
    for module, names in _LAZY_NAMES.items():
        if name in names:
            return getattr(import_module(f"preimage.io.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
