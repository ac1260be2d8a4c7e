"""Pictures side by side in one picture: rows of results under column titles."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Picture = npt.NDArray[np.uint8]

_INK = (32, 36, 44)
_QUIET_INK = (104, 110, 122)
_PAPER = 255
_FONT = cv2.FONT_HERSHEY_DUPLEX
_SUPERSAMPLING = 4
_SIDE_BEARING = 2


@dataclasses.dataclass(frozen=True)
class _Line:
    """A line of text ready to be laid on the page."""

    pixels: Picture
    baseline: int


def picture_sheet(
    rows: Sequence[Sequence[Array]],
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] | None = None,
    *,
    tile: int = 256,
    gap: int = 12,
    footer: str = "",
) -> Picture:
    """Lay pictures out in a grid on white paper.

    Args:
        rows: pictures (H, W, 3) or (H, W), uint8 in 0…255 or float in [0, 1]; rows may differ in length. Each is
            scaled to fit a square of `tile` pixels, its proportions kept, and centred.
        column_titles: one line above each column; an empty sequence for none.
        row_titles: one caption below each row, at its left; ``None`` for none.
        tile: side of a square in pixels, at least 32.
        gap: white between the squares, in pixels.
        footer: one line of small print at the bottom.

    Returns:
        (H, W, 3) uint8 RGB. Text that does not fit its place is shortened with "...".

    Raises:
        ValueError: no picture, titles of another number than columns or rows, or a picture of another shape.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ValueError("a picture sheet needs at least one picture")
    if column_titles and len(column_titles) != columns:
        raise ValueError(f"{len(column_titles)} column titles for {columns} columns")
    if row_titles is not None and len(row_titles) != len(rows):
        raise ValueError(f"{len(row_titles)} row titles for {len(rows)} rows")
    if tile < 32 or gap < 0:
        raise ValueError(f"tile must be at least 32 and gap at least 0 pixels, got {tile} and {gap}")
    text = max(12, tile // 18)
    margin = 2 * gap
    width = 2 * margin + columns * tile + (columns - 1) * gap
    header = 2 * text if column_titles else 0
    caption = 2 * text if row_titles is not None else 0
    step = tile + gap + caption
    height = margin + header + len(rows) * step - gap + (2 * text if footer else 0) + margin
    page = np.full((height, width, 3), _PAPER, np.uint8)
    for index, title in enumerate(column_titles):
        _write(page, title, margin + index * (tile + gap), margin + text, text, _INK, tile)
    for r, row in enumerate(rows):
        top = margin + header + r * step
        for c, picture in enumerate(row):
            _place(page, as_picture(picture), top, margin + c * (tile + gap), tile)
        if row_titles is not None:
            small = round(text * 0.85)
            _write(page, row_titles[r], margin, top + tile + round(1.5 * small), small, _QUIET_INK, width - 2 * margin)
    if footer:
        _write(page, footer, margin, height - margin, round(text * 0.85), _QUIET_INK, width - 2 * margin)
    return page


def as_picture(image: Array) -> Picture:
    """Any picture as (H, W, 3) uint8 RGB.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3); uint8, or float in [0, 1] (clipped; non-finite values become 0).
    """
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(f"a picture has shape (H, W) or (H, W, 3), got {np.shape(image)}")
    if np.issubdtype(pixels.dtype, np.floating):
        finite = np.nan_to_num(pixels.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
        pixels = np.rint(finite.clip(0, 1) * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"a picture is uint8 or float, got {pixels.dtype}")
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def fit_into(picture: Picture, tile: int) -> Picture:
    """Scale a picture so that its longer side is `tile` pixels."""
    height, width = picture.shape[:2]
    factor = tile / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if size == (width, height):
        return picture
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=method), np.uint8)


def _place(page: Picture, picture: Picture, top: int, left: int, tile: int) -> None:
    scaled = fit_into(picture, tile)
    top += (tile - scaled.shape[0]) // 2
    left += (tile - scaled.shape[1]) // 2
    page[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled


def _write(page: Picture, text: str, left: int, baseline: int, size: int, ink: tuple[int, int, int], room: int) -> None:
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
