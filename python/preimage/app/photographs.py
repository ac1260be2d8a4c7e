"""Keep the photographs that are explored in memory, decoded and cropped."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence

from preimage.errors import FileFormatError
from preimage.io import decode_image, resize_and_center_crop
from preimage.pipelines.image_loading import Pixels

MAX_BYTES = 32 << 20  # of an encoded photograph
MAX_PIXELS = 50_000_000  # width × height of a photograph
_MOST = 200  # photographs kept; the one unused for longest is dropped first


class Photographs:
    """Photographs by key, each cropped to a square and resized to the sides that are needed.

    Args:
        most: Number of photographs that are kept.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._decoding = threading.Semaphore(2)  # large photographs take much memory while they are decoded
        self._squares: OrderedDict[str, dict[int, Pixels]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._squares)

    def add(self, data: bytes, sides: Sequence[int], *, name: str) -> str:
        """Decode a photograph, see `preimage.io.decode_image`, and return its key, which cannot be guessed.

        Args:
            data: Encoded image, at most `MAX_BYTES`.
            sides: Sides in pixels of the squares to keep.
            name: Name of the file in error messages.

        Raises:
            FileFormatError: The data is too long, is not an image, is damaged, or has more than `MAX_PIXELS`.
        """
        if len(data) > MAX_BYTES:
            raise FileFormatError(name, f"a file may have at most {MAX_BYTES >> 20} MB, got {len(data) / 2**20:.0f} MB")
        if not data:
            raise FileFormatError(name, "the file is empty")
        with self._decoding:
            pixels = decode_image(data, name=name, max_pixels=MAX_PIXELS)
            squares = {side: resize_and_center_crop(pixels, side) for side in sides}
        key = secrets.token_urlsafe(12)
        with self._lock:
            self._squares[key] = squares
            while len(self._squares) > self._most:
                self._squares.popitem(last=False)
        return key

    def get(self, key: str, side: int) -> Pixels:
        """Return the square (side, side, 3) uint8 of a photograph.

        Raises:
            LookupError: There is no photograph of this key (any more), or it was not added with this side.
        """
        with self._lock:
            squares = self._squares.get(key)
            if squares is None or side not in squares:
                raise LookupError("this photograph is not there any more: choose it again")
            self._squares.move_to_end(key)
            return squares[side]
