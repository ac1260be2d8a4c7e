"""Sheets: grids of images with labels."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from preimage.opencv import quiet_opencv, resize

Array = npt.NDArray[Any]
RgbImage = npt.NDArray[np.uint8]

INK = (32, 36, 44)
QUIET_INK = (104, 110, 122)
SMALLEST_TILE = 32  # pixels; smaller tiles leave no room for labels

_PAPER = 255
_LEADING = 1.6  # distance between lines of text, relative to the text size
_FONT = cv2.FONT_HERSHEY_DUPLEX
_SUPERSAMPLING = 4
_SIDE_BEARING = 2


def as_rgb(image: Array) -> RgbImage:
    """Convert an image to (H, W, 3) uint8 RGB.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3); uint8, or float in [0, 1] (clipped; non-finite values become 0).
    """
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(f"an image must have shape (H, W) or (H, W, 3), got {np.shape(image)}")
    if np.issubdtype(pixels.dtype, np.floating):
        finite = np.nan_to_num(pixels.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
        pixels = np.rint(finite.clip(0, 1) * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"an image must be uint8 or float, got {pixels.dtype}")
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def fit_into(image: RgbImage, tile: int) -> RgbImage:
    """Resize an image so that its longer side is `tile` pixels."""
    height, width = image.shape[:2]
    factor = tile / max(height, width)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    return image if size == (height, width) else resize(image, *size)


@dataclasses.dataclass(frozen=True)
class _Line:
    """A rendered line of text."""

    pixels: RgbImage
    baseline: int


def write(page: RgbImage, text: str, left: int, baseline: int, size: int, ink: tuple[int, int, int], room: int) -> None:
    """Draw text with capitals about `size` * 0.7 pixels high, shortened to `room` pixels."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    printable = "".join(letter if " " <= letter <= "~" else "?" for letter in plain)  # Hershey fonts are ASCII
    line = _line(printable, size)
    while line.pixels.shape[1] > room and len(printable) > 4:
        printable = printable.removesuffix("...")[:-1].rstrip() + "..."
        line = _line(printable, size)
    left -= _SIDE_BEARING  # align the letters, not their box, with the images
    top = baseline - line.baseline
    ascent = max(0, -top)
    coverage = line.pixels[ascent : page.shape[0] - top, : page.shape[1] - left].astype(np.float32) / 255
    spot = page[top + ascent : top + ascent + coverage.shape[0], left : left + coverage.shape[1]]
    blend = coverage[:, :, None] * np.array(ink, np.float32) + (1 - coverage[:, :, None]) * spot
    spot[:] = np.rint(blend).astype(np.uint8)


@quiet_opencv
def _line(text: str, size: int) -> _Line:
    """Render the coverage of a line of text, large and then reduced: OpenCV's small letters are ragged."""
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


def draw_sheet(
    rows: Sequence[Sequence[Array | str]],
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str | Sequence[str]] | None = None,
    *,
    tile: int = 256,
    gap: int = 12,
    footer: str = "",
) -> RgbImage:
    """Arrange images in a grid on a white background.

    Args:
        rows: Images (H, W, 3) or (H, W), uint8, or float in [0, 1]; rows may differ in length. Each image is resized to
            fit into a square of `tile` pixels, with its aspect ratio, and centered. Text instead of an image is written
            line by line, with the first line dark.
        column_titles: Text above each column, one line or several, with the first dark; empty for no titles.
        row_titles: Captions, for each row one below its left end, or one below each of its images; ``None`` for no
            captions. If all captions of a row are empty, no space is left for them.
        tile: Side of a square in pixels, at least 32.
        gap: Space between the squares in pixels.
        footer: Line of small print at the bottom.

    Returns:
        Image (H, W, 3) uint8 RGB. Text that is too long is shortened with "...".

    Raises:
        ValueError: No images, a number of titles that differs from that of columns or rows, or an image of another
            shape.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ValueError("a sheet must have at least one image, got none")
    if column_titles and len(column_titles) != columns:
        raise ValueError(f"{len(column_titles)} column titles for {columns} columns")
    if row_titles is not None and len(row_titles) != len(rows):
        raise ValueError(f"{len(row_titles)} row titles for {len(rows)} rows")
    if tile < SMALLEST_TILE or gap < 0:
        raise ValueError(f"tile must be at least {SMALLEST_TILE} and gap at least 0 pixels, got {tile} and {gap}")
    text = max(12, tile // 18)
    small = round(text * 0.85)
    margin, step = 2 * gap, tile + gap
    captions = [[title] if isinstance(title, str) else title for title in row_titles or [""] * len(rows)]
    heights = [step + (2 * text if any(titles) else 0) for titles in captions]
    width = 2 * margin + columns * step - gap
    more = max((title.count("\n") for title in column_titles), default=0)
    top = margin + (round((2 + _LEADING * more) * text) if column_titles else 0)
    height = top + sum(heights) - gap + (2 * text if footer else 0) + margin
    page = np.full((height, width, 3), _PAPER, np.uint8)
    for index, title in enumerate(column_titles):
        _write_lines(page, title, margin, margin + index * step, tile)
    for row, titles, room in zip(rows, captions, heights, strict=True):
        for column, content in enumerate(row):
            _draw_tile(page, content, top, margin + column * step, tile)
        for column, title in enumerate(titles):
            room_across = tile if len(titles) > 1 else width - 2 * margin
            write(page, title, margin + column * step, top + tile + round(1.5 * small), small, QUIET_INK, room_across)
        top += room
    if footer:
        write(page, footer, margin, height - margin, small, QUIET_INK, width - 2 * margin)
    return page


def _draw_tile(page: RgbImage, content: Array | str, top: int, left: int, tile: int) -> None:
    """Draw an image in the middle of its square, or lines of text from the upper left corner of the square."""
    if isinstance(content, str):
        _write_lines(page, content, top, left, tile)
        return
    scaled = fit_into(as_rgb(content), tile)
    top += (tile - scaled.shape[0]) // 2
    left += (tile - scaled.shape[1]) // 2
    page[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled


def _write_lines(page: RgbImage, content: str, top: int, left: int, tile: int) -> None:
    text = max(12, tile // 18)
    for index, line in enumerate(content.split("\n")):
        ink, size = (QUIET_INK, round(text * 0.85)) if index else (INK, text)
        write(page, line, left, top + round((1 + _LEADING * index) * text), size, ink, tile)
