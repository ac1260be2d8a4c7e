"""Lines of text on a picture."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from preimage.viz.picture import Picture

INK = (32, 36, 44)
QUIET_INK = (104, 110, 122)

_FONT = cv2.FONT_HERSHEY_DUPLEX
_SUPERSAMPLING = 4
_SIDE_BEARING = 2


@dataclasses.dataclass(frozen=True)
class _Line:
    """A line of text ready to be laid on the page."""

    pixels: Picture
    baseline: int


def write(page: Picture, text: str, left: int, baseline: int, size: int, ink: tuple[int, int, int], room: int) -> None:
    """Draw `text` with capitals about `size` * 0.7 pixels high, shortened to `room` pixels."""
    printable = "".join(letter if " " <= letter <= "~" else "?" for letter in text)  # Hershey fonts are ASCII
    line = _line(printable, size)
    while line.pixels.shape[1] > room and len(printable) > 4:
        printable = printable.removesuffix("...")[:-1].rstrip() + "..."
        line = _line(printable, size)
    left -= _SIDE_BEARING  # the letters, not their box, stand in line with the pictures
    top = baseline - line.baseline
    ascent = max(0, -top)
    coverage = line.pixels[ascent : page.shape[0] - top, : page.shape[1] - left].astype(np.float32) / 255
    spot = page[top + ascent : top + ascent + coverage.shape[0], left : left + coverage.shape[1]]
    blend = coverage[:, :, None] * np.array(ink, np.float32) + (1 - coverage[:, :, None]) * spot
    spot[:] = np.rint(blend).astype(np.uint8)


def _line(text: str, size: int) -> _Line:
    """Coverage of a line of text, drawn large and shrunk: OpenCV's own small letters are ragged."""
    if not text:
        return _Line(np.zeros((1, 1), np.uint8), 0)
    scale = size * _SUPERSAMPLING / 30
    thickness = max(1, round(size * _SUPERSAMPLING / 18))
    (width, height), below = cv2.getTextSize(text, _FONT, scale, thickness)
    pad = _SUPERSAMPLING * _SIDE_BEARING
    canvas = np.zeros((height + below + 2 * pad, width + 2 * pad), np.uint8)
    cv2.putText(canvas, text, (pad, pad + height), _FONT, scale, 255, thickness, cv2.LINE_AA)
    shrunk = canvas.shape[1] // _SUPERSAMPLING, canvas.shape[0] // _SUPERSAMPLING
    small = cv2.resize(canvas, shrunk, interpolation=cv2.INTER_AREA)
    return _Line(np.asarray(small, np.uint8), (pad + height) // _SUPERSAMPLING)
