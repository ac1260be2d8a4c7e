"""Write animations as GIF and WebP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from preimage.io.atomic import StrPath, atomic_write
from preimage.opencv import quiet_opencv

Frames = Sequence[npt.NDArray[np.uint8]]

_WEBP_QUALITY = 85
# The largest value is no dithering: OpenCV's dither patterns flicker, and their mean error is up to six times as large.
# With a quality above 1 each frame has a palette of its own.
_GIF_OPTIONS = (cv2.IMWRITE_GIF_QUALITY, 8, cv2.IMWRITE_GIF_DITHER, 3)
_OPTIONS = {".gif": _GIF_OPTIONS, ".webp": (cv2.IMWRITE_WEBP_QUALITY, _WEBP_QUALITY)}


@quiet_opencv
def encode_animation(frames: Frames, milliseconds: int | Sequence[int], suffix: str = ".gif") -> bytes:
    """Encode an animation that repeats without end.

    Args:
        frames: (H, W, 3) uint8 RGB images of one size, at least two.
        milliseconds: How long every frame, or each of them, is shown; at least 10. GIF stores hundredths of a second.
        suffix: ``".gif"`` (256 colors in each frame) or ``".webp"`` (all colors, a fifth of the size).

    Raises:
        ValueError: Another suffix, fewer than two frames, frames of another shape or dtype, or a duration out of range.
    """
    if suffix not in _OPTIONS:
        raise ValueError(f"an animation must be {' or '.join(_OPTIONS)}, got {suffix!r}")
    if len(frames) < 2:
        raise ValueError(f"an animation must have at least two frames, got {len(frames)}")
    shape = np.shape(frames[0])
    for frame in frames:
        if frame.dtype != np.uint8 or frame.shape != shape or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"frames must be (H, W, 3) uint8 of one size, got {frame.shape} {frame.dtype}")
    durations = [milliseconds] * len(frames) if isinstance(milliseconds, int) else list(milliseconds)
    if len(durations) != len(frames) or min(durations) < 10:
        raise ValueError(f"milliseconds must be at least 10, one for each of {len(frames)} frames, got {milliseconds}")
    animation = cv2.Animation()
    animation.frames = [np.ascontiguousarray(frame[:, :, ::-1]) for frame in frames]  # OpenCV encodes BGR
    animation.durations = durations
    animation.loop_count = 0
    done, data = cv2.imencodeanimation(suffix, animation, list(_OPTIONS[suffix]))
    if not done:
        raise ValueError(f"OpenCV could not encode {len(frames)} frames of shape {shape} as {suffix[1:]}")
    return data.tobytes()


def write_animation(path: StrPath, frames: Frames, milliseconds: int | Sequence[int]) -> None:
    """Write an animation atomically, in the format of the file's suffix; see `encode_animation`."""
    data = encode_animation(frames, milliseconds, Path(path).suffix.lower())
    with atomic_write(path) as file:
        file.write(data)
