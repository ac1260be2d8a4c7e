"""Test animations: what another decoder reads from them, and rejected arguments."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from conftest import photographs
from preimage.io.animation import encode_animation, write_animation

# Mean absolute error of a value in 255; both formats are lossy.
_ERRORS = {".gif": 6.0, ".webp": 5.0}


def _frames() -> list[np.ndarray]:
    first, last = photographs()["astronaut"][:96, 200:320], photographs()["coffee"][100:196, 200:320]
    return [np.rint((1 - t) * first + t * last).astype(np.uint8) for t in (0, 0.3, 0.7, 1)]


@pytest.mark.parametrize("suffix", _ERRORS)
def test_another_decoder_reads_frames_durations_and_endless_repetition(suffix: str) -> None:
    frames, durations = _frames(), [500, 80, 90, 700]
    with PIL.Image.open(io.BytesIO(encode_animation(frames, durations, suffix))) as image:
        assert (image.n_frames, image.size, image.info["loop"]) == (4, (120, 96), 0)
        for index, (frame, duration) in enumerate(zip(frames, durations, strict=True)):
            image.seek(index)
            pixels = np.asarray(image.convert("RGB"), float)
            assert np.abs(pixels - frame).mean() < _ERRORS[suffix]
            # Swapped channels would have a difference as large as that of the colors.
            assert np.abs(pixels.mean(axis=(0, 1)) - frame.mean(axis=(0, 1))).max() < 4
            assert image.info["duration"] == duration


def test_the_suffix_decides_the_format(tmp_path: Path) -> None:
    for name, kind in (("a.gif", b"GIF89a"), ("a.WEBP", b"RIFF")):
        write_animation(tmp_path / name, _frames(), 100)
        assert (tmp_path / name).read_bytes().startswith(kind)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("frames", "milliseconds", "suffix", "words"),
    [
        (_frames(), 80, ".mp4", r"gif or .webp.*'\.mp4'"),
        (_frames()[:1], 80, ".gif", "two frames.*1"),
        ([*_frames(), np.zeros((8, 8, 3), np.uint8)], 80, ".gif", r"one size.*\(8, 8, 3\)"),
        ([frame.astype(np.float32) for frame in _frames()], 80, ".gif", "float32"),
        ([frame[:, :, 0] for frame in _frames()], 80, ".gif", r"\(96, 120\)"),
        (_frames(), 5, ".gif", "10.*5"),
        (_frames(), [80, 80], ".gif", "4 frames"),
    ],
)
def test_bad_arguments_are_named(
    tmp_path: Path, frames: list[np.ndarray], milliseconds: int | list[int], suffix: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        write_animation(tmp_path / f"a{suffix}", frames, milliseconds)
    assert not list(tmp_path.iterdir())
