"""Sparse SIFT and the grid of its keypoints, beside VLFeat's SIFT and OpenCV's, on one thread."""

from __future__ import annotations

import functools
import os

import cv2
import torch

import preimage
import vlfeat
from _descriptors import ImageSet, instruction_sets
from _timing import Runner, Table, medians


def measure(function: str, images: ImageSet, table: Table, rounds: int, absent: set[str]) -> None:
    """All rows of one of `_descriptors.SPARSE` on a set of images."""
    found = preimage.sift(images.grey)
    each = len(found.x) / len(images.pixels)
    runners = _sift(images, absent) if function == "sift" else _grid(found, images)
    times = medians(runners, rounds)
    for row, milliseconds in times.items():
        against = times.get("VLFeat grey")
        speed = f"{1e3 * len(images.pixels) / milliseconds:.0f} images a second and core"
        table.add(
            descriptor=function,
            images=images.name,
            implementation=row,
            milliseconds=milliseconds,
            ratio=against / milliseconds if against else None,
            remark=speed if "opencv" in row.lower() else f"{speed}, {each:.0f} keypoints each",
        )


def _sift(images: ImageSet, absent: set[str]) -> dict[str, Runner]:
    runners: dict[str, Runner] = {}
    if vlfeat.library() is None:
        absent.add("VLFeat: libvl.so.1 (package libvlfeat1) is not installed, so there is nothing to compare with")
    else:
        grey = images.grey[:, 0].numpy()
        theirs = vlfeat.Sift(*grey.shape[1:])
        # Called keypoint by keypoint, some microseconds each.
        runners["VLFeat grey"] = lambda: [theirs(image) for image in grey]
    for name in instruction_sets():
        runners[f"preimage {name} grey f32"] = functools.partial(_forced, name, images.grey)
    detector = cv2.SIFT_create()  # doubles the image, and leaves out what has little contrast
    runners["OpenCV SIFT"] = lambda: [detector.detectAndCompute(image, None) for image in images.bytes_grey]
    runners["preimage opencv"] = lambda: preimage.sift(images.grey, variant="opencv")
    return runners


def _forced(instruction_set: str, images: torch.Tensor) -> object:
    os.environ["PREIMAGE_ISA"] = instruction_set
    try:
        return preimage.sift(images)
    finally:
        del os.environ["PREIMAGE_ISA"]


def _grid(found: preimage.Keypoints, images: ImageSet) -> dict[str, Runner]:
    height, width = images.pixels.shape[1:3]
    return {"preimage": lambda: preimage.sift_grid(found, (height, width))}
