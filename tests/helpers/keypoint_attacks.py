"""Check crafted keypoint files: they must have valid values, or be rejected quickly."""

import re
import time
import tracemalloc

import numpy as np
import pytest

import keypoint_files
from preimage.errors import FileFormatError
from preimage.io import read_keypoints

FEW = 5
FRAMES = np.array([[3.5, 4, 2, 1], [10, 20, 3, 4], [7, 7.25, 1.5, 6], [1, 2, 3, 0], [4, 4, 4, 0.5]])
BYTES = np.random.default_rng(5).integers(0, 200, (FEW, 128)).astype(np.uint8)


def small_database(path, **options):
    frames = FRAMES.astype(np.float32)
    affine = np.column_stack([frames, frames[:, 2:]])
    images = {"a/b.jpg": (frames, BYTES), "c.jpg": (affine, BYTES), "d.jpg": (None, None)}
    return keypoint_files.colmap_database(path, images)


def check(file):
    """Read everything and check that the values are valid."""
    for keypoints in file.values():
        assert len(keypoints) == 1
        for values in (keypoints.x, keypoints.y, keypoints.scale, keypoints.angle, keypoints.descriptors):
            assert bool(values.isfinite().all())
        assert bool((keypoints.scale > 0).all()) and bool((keypoints.descriptors >= 0).all())
        assert not keypoints.descriptors.norm(dim=1).gt(1.001).any()
        if keypoints.colors is not None:
            assert bool((keypoints.colors.isnan() | ((keypoints.colors >= 0) & (keypoints.colors <= 1))).all())


def assert_rejected(path, words, **options):
    """Assert that the file is rejected within 1.5 seconds of this process's time, and 64 MB."""
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(FileFormatError, match=rf"{re.escape(path.name)}.*({words})") as caught:
            check(read_keypoints(path, **options))
        assert len(caught.value.problem) < 1000
        assert time.process_time() - start < 1.5
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
