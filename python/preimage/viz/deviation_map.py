"""Maps of what features determine and what an inverter guesses: the deviation of samples, in color over the image."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from preimage.opencv import quiet_opencv
from preimage.viz.sheets import INK, QUIET_INK, RgbImage, as_rgb, write

TITLE = "Determined and guessed"
MEANING = ("Dark: the features determine it;", "bright: the inverter guesses it.")  # two lines, or joined

_FULL = 0.3  # deviation of the brightest color and more; 1 is the range from black to white
_TICKS = (0.0, 0.1, 0.2, 0.3)
_COLORS = cv2.COLORMAP_MAGMA  # from black to light yellow, evenly; also legible without hues
_DETAIL = 0.5  # contrast of the image's details in the map
_COARSEST = 1 / 96  # of the longer side: larger parts of the image do not show, their brightness would be misread


@quiet_opencv
def draw_deviation(image: npt.NDArray[Any], deviation: npt.NDArray[np.floating[Any]]) -> RgbImage:
    """Draw deviations in color, with the edges of the image.

    Args:
        image: (H, W, 3) or (H, W), uint8 or float in [0, 1].
        deviation: (H, W) standard deviation of samples, in units of the range from black to white.

    Returns:
        Map (H, W, 3) uint8 RGB. The scale of the colors is that of `draw_scale`.

    Raises:
        ValueError: An image of another size than the deviations.
    """
    pixels = as_rgb(image)
    if pixels.shape[:2] != deviation.shape:
        raise ValueError(f"an image of shape {pixels.shape} needs deviations (H, W), got shape {deviation.shape}")
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = gray - cv2.GaussianBlur(gray, (0, 0), max(1.0, _COARSEST * max(gray.shape)))
    drawn = _colors(deviation / _FULL) + _DETAIL * detail[:, :, None]
    return np.rint(drawn.clip(0, 255)).astype(np.uint8)


def draw_scale(width: int, tile: int = 256) -> RgbImage:
    """Draw the scale of `draw_deviation` with its meaning, as a strip below a sheet.

    Args:
        width: Width of the strip in pixels.
        tile: Side of an image on the sheet in pixels, which determines the size of the text.

    Returns:
        Strip (h, width, 3) uint8 RGB.
    """
    text = max(12, tile // 18)
    small, margin = round(0.85 * text), min(24, width // 8)
    strip = np.full((round(6.5 * text), width, 3), 255, np.uint8)
    room = width - 2 * margin
    write(strip, f"{TITLE}. {' '.join(MEANING)}", margin, round(1.2 * text), text, INK, room)
    long = min(room, max(tile, 12 * text))
    top = 2 * text
    strip[top : top + text, margin : margin + long] = _colors(np.linspace(0, 1, long)[None])
    below = top + round(2.3 * text)
    for tick in _TICKS:
        label = f"{tick:g}" + (" or more" if tick == _FULL else "")
        write(strip, label, margin + round(long * tick / _FULL), below, small, QUIET_INK, 8 * text)
    note = "Standard deviation of the samples, where 1 is the range from black to white."
    write(strip, note, margin, below + round(1.6 * text), small, QUIET_INK, room)
    return strip


@quiet_opencv
def _colors(fraction: npt.NDArray[np.floating[Any]]) -> RgbImage:
    """Return the color of each fraction (H, W), of which those above 1 are like 1."""
    levels = np.rint(np.nan_to_num(fraction.clip(0, 1)) * 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels, _COLORS)[:, :, ::-1], np.uint8)
