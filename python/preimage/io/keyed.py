"""What files of many images have in common: images in order, each with a key."""

from __future__ import annotations

import os
from collections.abc import Sequence

from preimage.io.atomic import StrPath


class KeyedFile:
    """Images found by position or key.

    Attributes:
        path: where they come from.
        keys: one per image, in file order.
    """

    def __init__(self, path: StrPath, keys: Sequence[str]) -> None:
        self.path = os.fspath(path)
        self.keys = tuple(keys)
        self._positions = {key: position for position, key in enumerate(self.keys)}

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: object) -> bool:
        return key in self._positions

    def _position(self, index: int | str) -> int:
        """Of a position, counted from the end where negative, or a key; ``KeyError`` / ``IndexError`` if it is none."""
        if isinstance(index, str):
            if index not in self._positions:
                raise KeyError(f"no image {index!r} in {self.path}")
            return self._positions[index]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"image {index} of {self.path}, which holds {len(self)}")
        return position
