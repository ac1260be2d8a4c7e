"""Write videos as MP4, with the codec that OpenCV's wheels contain."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from preimage.io.atomic import StrPath, atomic_write
from preimage.opencv import quiet_opencv

Frame = npt.NDArray[np.uint8]

_CODEC = "mp4v"  # MPEG-4 part 2; the wheels of OpenCV contain no encoder of H.264


class CodecMissingError(RuntimeError):
    """This build of OpenCV cannot write MP4."""


def write_mp4(path: StrPath, frames: Iterable[Frame], fps: float) -> int:
    """Write a video atomically, one frame at a time, and return the number of frames.

    Frames of an odd height or width are extended by a pixel, which repeats the edge: the codec needs even ones. The
    file is opened again before it replaces an earlier one, and must have all frames.

    Args:
        path: Path of the file; the folder must exist.
        frames: (H, W, 3) uint8 RGB images of one size, at least one.
        fps: Frames per second, above 0.

    Raises:
        ValueError: No frames, frames of another shape or dtype (with their number), or `fps` that is not above 0.
        CodecMissingError: The codec is missing; no file is written.
        OSError: The file cannot be written, or OpenCV wrote fewer frames.
    """
    if not 0 < fps < 1000:
        raise ValueError(f"fps must be above 0 and below 1000, got {fps}")
    with tempfile.TemporaryDirectory(prefix="preimage-video-") as folder:
        temporary = Path(folder) / "video.mp4"
        count = _encode(temporary, frames, fps)
        if (found := count_frames(temporary)) != count:
            raise OSError(f"OpenCV wrote {found} of {count} frames of {path}: is the disk of temporary files full?")
        with atomic_write(path) as file, open(temporary, "rb") as source:
            shutil.copyfileobj(source, file)
    return count


@quiet_opencv
def count_frames(path: StrPath) -> int:
    """Return the number of frames of a video that can be decoded; 0 for a file that is not a video."""
    video = cv2.VideoCapture(str(path))
    count = 0
    while video.grab():
        count += 1
    video.release()
    return count


def _encode(path: Path, frames: Iterable[Frame], fps: float) -> int:
    writer, shape, count = None, (0, 0, 0), 0
    try:
        for frame in frames:
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
                raise ValueError(f"frame {count} must be (H, W, 3) uint8, got {frame.shape} {frame.dtype}")
            if writer is None:
                shape = frame.shape
                height, width = (side + side % 2 for side in shape[:2])
                with quiet_opencv:
                    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*_CODEC), fps, (width, height))
                if not writer.isOpened():
                    raise CodecMissingError(f"this build of OpenCV cannot write MP4 ({_CODEC})")
            if frame.shape != shape:
                raise ValueError(f"frames must be of one size, got {frame.shape} for frame {count} after {shape}")
            even = np.pad(frame, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")
            with quiet_opencv:
                writer.write(np.ascontiguousarray(even[:, :, ::-1]))  # OpenCV encodes BGR
            count += 1
    finally:
        if writer is not None:
            writer.release()
    if not count:
        raise ValueError("a video must have at least one frame, got none")
    return count
