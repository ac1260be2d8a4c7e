"""Check that JPEG files have an end marker and enough image data."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator

_MOST_SEGMENTS = 100_000  # maximum number, to limit the time
_MOST_SCANS = 100  # each may refine all blocks of the image; encoders write about ten
# Not a stuffed zero, nor a restart marker. \xff\xff* is found 17 times as fast as \xff+, which has no literal prefix.
_MARKER = re.compile(rb"\xff\xff*[^\x00\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2  # Huffman-coded; arithmetic coding is hardly ever used

_Component = tuple[int, int]  # horizontal and vertical sampling factors


def check_jpeg(data: bytes) -> None:
    """Check that a JPEG is not truncated.

    libjpeg fills missing blocks with gray. JPEG has no checksum: a scan that is damaged inside, or truncated but long
    enough for the simplest image of its size, goes unnoticed.

    Raises:
        ValueError: There is no end marker, a scan is too short for its number of blocks, or there are too many scans.
    """
    frame: _Frame | None = None
    shortest: dict[int, int] = {}  # bits of the shortest code, by class and index of the Huffman table
    interval = scans = 0
    for marker, body, end, following in _segments(data):
        scans += marker == 0xDA
        if scans > _MOST_SCANS:
            raise ValueError(f"a JPEG of more than {_MOST_SCANS} scans")
        if marker in _FRAMES and frame is None:
            frame = _Frame(marker, data, body)
        elif marker == 0xC4:
            shortest |= _shortest_codes(data[body:end])
        elif marker == 0xDD:
            (interval,) = struct.unpack_from(">H", data, body)
        elif marker == 0xDA and frame is not None:
            frame.check_scan(data, body, end, following, shortest, interval)


def _segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield marker, start and end of the body, and position of the next marker for all segments."""
    # Thumbnails inside segments contain end markers, so segment bodies are skipped, not searched.
    match = _MARKER.search(data, 2)
    for _ in range(_MOST_SEGMENTS):
        if match is None:
            break
        position = match.end()
        marker = data[position - 1]
        if marker == 0xD9:
            return
        length = 0
        if marker != 0x01:  # the only other marker without a length
            (length,) = struct.unpack_from(">H", data, position)
        match = _MARKER.search(data, position + length)
        if length:
            yield marker, position + 2, position + length, len(data) if match is None else match.start()
    raise ValueError("a truncated JPEG: it has no end marker")


def _shortest_codes(tables: bytes) -> dict[int, int]:
    found, position = {}, 0
    while position + 17 <= len(tables):
        counts = tables[position + 1 : position + 17]
        found[tables[position]] = next((bits for bits, count in enumerate(counts, 1) if count), 1)
        position += 17 + sum(counts)
    return found


class _Frame:
    """Frame header, from which the minimum number of bits of each scan follows."""

    def __init__(self, marker: int, data: bytes, body: int) -> None:
        self._marker = marker
        self._height, self._width, count = struct.unpack_from(">HHB", data, body + 1)
        self._components: dict[int, _Component] = {}
        for at in range(body + 6, body + 6 + 3 * count, 3):
            self._components[data[at]] = data[at + 1] >> 4, data[at + 1] & 15
        sampling = self._components.values()
        if not sampling or not all(1 <= factor <= 4 for pair in sampling for factor in pair):
            raise ValueError("a damaged JPEG: sampling factors must be 1 to 4")
        self._across, self._down = max(pair[0] for pair in sampling), max(pair[1] for pair in sampling)

    def check_scan(self, data: bytes, body: int, start: int, end: int, shortest: dict[int, int], interval: int) -> None:
        """Compare the length of a scan, from `start` to `end`, with the minimum that its blocks need."""
        count = data[body]
        chosen = [(data[at], data[at + 1]) for at in range(body + 1, body + 1 + 2 * count, 2)]
        if not all(number in self._components for number, _ in chosen):
            raise ValueError("a damaged JPEG: a scan of a channel that does not exist")
        first_pass = data[body + 1 + 2 * count] == 0 and data[body + 3 + 2 * count] >> 4 == 0
        if self._marker not in _SEQUENTIAL and not (self._marker == _PROGRESSIVE and first_pass):
            return  # later passes can skip any number of blocks with one code
        units, blocks = self._units(chosen)
        bits = 0
        for (_, tables), times in zip(chosen, blocks, strict=True):
            code = shortest.get(tables >> 4, 1)
            if self._marker in _SEQUENTIAL:
                code += shortest.get(0x10 | tables & 15, 1)
            bits += times * units * code
        if 8 * (end - start) < bits:
            raise ValueError(f"a damaged JPEG: a scan needs at least {-(-bits // 8)} bytes, got {end - start}")
        expected = -(-units // interval) - 1 if interval else 0
        if interval and (found := len(_RESTART.findall(data, start, end))) < expected:
            raise ValueError(f"a damaged JPEG: {found} of {expected} restart markers")

    def _units(self, chosen: list[tuple[int, int]]) -> tuple[int, list[int]]:
        """Return the number of minimum coded units of a scan, and each channel's 8 × 8 blocks in one of them."""
        if len(chosen) > 1:
            wide, high = 8 * self._across, 8 * self._down
            blocks = [self._components[number][0] * self._components[number][1] for number, _ in chosen]
            return math.ceil(self._width / wide) * math.ceil(self._height / high), blocks
        across, down = self._components[chosen[0][0]]
        samples_across = math.ceil(self._width * across / self._across)
        samples_down = math.ceil(self._height * down / self._down)
        return math.ceil(samples_across / 8) * math.ceil(samples_down / 8), [1]
