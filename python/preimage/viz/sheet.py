"""Pictures side by side in one picture: rows of results under column titles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from preimage.viz.lettering import INK, QUIET_INK, write
from preimage.viz.picture import Picture, as_picture, fit_into

Array = npt.NDArray[Any]

SMALLEST_TILE = 32  # pixels: there has to be room for words
_PAPER = 255
_LEADING = 1.6  # from one line of text to the next, in sizes of the text


def picture_sheet(
    rows: Sequence[Sequence[Array | str]],
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str | Sequence[str]] | None = None,
    *,
    tile: int = 256,
    gap: int = 12,
    footer: str = "",
) -> Picture:
    """Lay pictures out in a grid on white paper.

    Args:
        rows: pictures (H, W, 3) or (H, W), uint8 in 0…255 or float in [0, 1]; rows may differ in length. Each is
            scaled to fit a square of `tile` pixels, its proportions kept, and centred. A text in the place of a picture
            is written there line by line, the first line dark.
        column_titles: above each column, one line or several, the first dark; an empty sequence for none.
        row_titles: for each row one caption below it, at its left, or one below each of its pictures; ``None`` for
            none. A row whose captions are all empty has no room for them.
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
            _place(page, content, top, margin + column * step, tile)
        for column, title in enumerate(titles):
            room_across = tile if len(titles) > 1 else width - 2 * margin
            write(page, title, margin + column * step, top + tile + round(1.5 * small), small, QUIET_INK, room_across)
        top += room
    if footer:
        write(page, footer, margin, height - margin, small, QUIET_INK, width - 2 * margin)
    return page


def _place(page: Picture, content: Array | str, top: int, left: int, tile: int) -> None:
    """A picture in the middle of its square, or lines of text from the square's upper left corner."""
    if isinstance(content, str):
        _write_lines(page, content, top, left, tile)
        return
    scaled = fit_into(as_picture(content), tile)
    top += (tile - scaled.shape[0]) // 2
    left += (tile - scaled.shape[1]) // 2
    page[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled


def _write_lines(page: Picture, content: str, top: int, left: int, tile: int) -> None:
    text = max(12, tile // 18)
    for index, line in enumerate(content.split("\n")):
        ink, size = (QUIET_INK, round(text * 0.85)) if index else (INK, text)
        write(page, line, left, top + round((1 + _LEADING * index) * text), size, ink, tile)
