"""Inspect the images of a run before the first step, and decode them when they are needed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

from preimage.errors import FileFormatError
from preimage.io import ImageSource, check_image, decode_image, resize_and_center_crop
from preimage.io.available_memory import available_bytes, bounded_bytes
from preimage.pipelines.image_loading import SKIP_HINT, Pixels
from preimage.pipelines.prefetch import in_order

NAMED = 3  # maximum number of examples in a message

_DECODED_BYTES = 4 << 30  # maximum size of decoded images in memory; further images are decoded each time
_DECODED_FRACTION = 0.25  # fraction of the available memory, if that is less
_PROBLEMS_NAMED = 10
_MAX_INSPECTING = 8  # maximum number of threads, each with an encoded image in memory
_INSPECTING_FRACTION = 4  # inverse of the fraction of the available memory that encoded images may take
NOTE_EVERY = 30.0  # seconds between progress notes

Note = Callable[[str], None]


class BadImage(NamedTuple):
    """An image that is left out.

    Attributes:
        key: Key of the image.
        problem: One line that names the image.
        validation: Whether it is one of the separate validation images.
    """

    key: str
    problem: str
    validation: bool = False


class Inspected(NamedTuple):
    """Result of inspecting an image.

    Attributes:
        digest: Digest of its contents.
        shape: Height and width, possibly before rotation.
        problem: One line on why it cannot be used; empty for a usable image.
    """

    digest: str = ""
    shape: tuple[int, int] = (0, 0)
    problem: str = ""


def inspect(sources: Sequence[ImageSource], note: Note) -> list[Inspected]:
    """Read every image once, check its header and its end, and return a digest of its contents, in order."""
    fitting = available_bytes() // (_INSPECTING_FRACTION * max(map(_length, sources), default=1))
    workers = max(1, min(_MAX_INSPECTING, os.cpu_count() or 1, fitting))
    found: list[Inspected] = []
    noted = time.monotonic()
    with closing(in_order(_inspect, sources, workers=workers, ahead=workers + 2, name="inspect")) as results:
        for result in results:
            found.append(result)
            if time.monotonic() - noted > NOTE_EVERY:
                noted = time.monotonic()
                note(f"inspected {len(found)} of {len(sources)} images before the first step")
    return found


def _length(source: ImageSource) -> int:
    """Return the number of bytes that inspecting an image reads, at least 1."""
    if source.length is not None:
        return max(1, source.length)
    try:
        return max(1, os.path.getsize(source.path))
    except OSError:
        return 1


def _inspect(source: ImageSource) -> Inspected:
    try:
        data = source.read()
        header = check_image(data, name=source.name)
    except ConnectionError:
        raise  # nothing is wrong with the image: it must not be left out because a server is down
    except OSError as error:
        return Inspected(problem=f"{source.name}: {error.strerror or error}")
    except ValueError as error:
        return Inspected(problem=str(error))
    return Inspected(hashlib.sha256(data).hexdigest()[:16], (header.height, header.width))


def refuse_bad(bad: Sequence[BadImage], count: int, *, skip_bad: bool, resumed: bool = False) -> None:
    """Raise an error if there are bad images, unless they may be left out and some images remain.

    Args:
        bad: Bad images.
        count: Number of images among which they were found.
        skip_bad: Whether bad images may be left out.
        resumed: Whether a run was started with these images, which then cannot be left out.

    Raises:
        ValueError: There are bad images; the message names some of them.
    """
    if not bad or (skip_bad and not resumed and len(bad) < count):
        return
    named = "; ".join(one.problem for one in bad[:_PROBLEMS_NAMED])
    more = f"; and {len(bad) - _PROBLEMS_NAMED} more" if len(bad) > _PROBLEMS_NAMED else ""
    if resumed:
        raise ValueError(f"the images differ: {len(bad)} that the run started with cannot be used now: {named}{more}")
    hint = "" if skip_bad else f" ({SKIP_HINT})"
    raise ValueError(f"{len(bad)} of {count} images cannot be used: {named}{more}{hint}")


class ImageSet:
    """Images by index, decoded to 8-bit RGB and kept in memory as long as they fit.

    Args:
        sources: Encoded images.
        size: Side of the square to which images are resized and center-cropped, pixels; ``None`` does not change them.
        digests: Digests of the images' contents, where they are known.
        shapes: Height and width of each image, possibly before rotation.
        skip_bad: Whether images that cannot be decoded are left out.
        skipped: Index and problem of images that are known to be bad.
        max_bytes: Maximum number of bytes of decoded images in memory.

    Attributes:
        bad: Index and problem of images that could not be decoded.
    """

    def __init__(
        self,
        sources: Sequence[ImageSource],
        size: int | None = None,
        *,
        digests: Sequence[str] = (),
        shapes: Sequence[tuple[int, int]] = (),
        skip_bad: bool = False,
        skipped: Mapping[int, str] | None = None,
        max_bytes: int = _DECODED_BYTES,
    ) -> None:
        self.sources, self.digests = sources, digests
        self.bad = dict(skipped or {})
        self.shapes = shapes if size is None else [(size, size)] * len(sources)
        self._size, self._skip_bad = size, skip_bad
        self._decoded: dict[int, Pixels] = {}
        self._room = bounded_bytes(max_bytes, _DECODED_FRACTION)

    def __len__(self) -> int:
        return len(self.sources)

    def decoded(self, index: int, *, keep: bool = True) -> Pixels:
        """Return an image (H, W, 3) uint8 RGB, which is kept in memory if there is room.

        Raises:
            FileFormatError: The image cannot be decoded.
        """
        if index in self._decoded:
            return self._decoded[index]
        source = self.sources[index]
        image = resize_and_center_crop(decode_image(source.read(), name=source.name), self._size)
        if keep and image.nbytes <= self._room:
            self._room -= image.nbytes
            self._decoded[index] = image
        return image

    def usable(self, index: int, *, keep: bool = True) -> Pixels | None:
        """Return an image (H, W, 3) uint8 RGB, or ``None`` for a bad image that is left out.

        Args:
            index: Index of the image.
            keep: Whether to keep the decoded image in memory if there is room.

        Raises:
            FileFormatError: The image is bad, and bad images are not left out.
            OSError: The image cannot be read, which does not make it a bad image.
        """
        if index in self.bad:
            return None
        try:
            return self.decoded(index, keep=keep)
        except FileFormatError as error:
            if not self._skip_bad:
                raise FileFormatError(error.path, f"{error.problem} ({SKIP_HINT})") from error
            self.bad[index] = str(error)
            return None

    def none_usable(self) -> ValueError:
        """Return the error to raise if all images are bad."""
        return ValueError(f"none of the {len(self)} images can be used; the first: {next(iter(self.bad.values()))}")

    def digest(self) -> str:
        """Return the SHA-256 of keys and contents, in order, which does not depend on where the images are."""
        total = hashlib.sha256()
        for source, digest in zip(self.sources, self.digests, strict=True):
            total.update(json.dumps([source.key, digest]).encode())
        return total.hexdigest()


def count_phrase(keys: Sequence[str], noun: str, what: str) -> str:
    """Return a phrase that counts keys and names the first ones."""
    examples = ", ".join(map(repr, keys[:NAMED])) + (", ..." if len(keys) > NAMED else "")
    return f"{len(keys)} {noun}{'' if len(keys) == 1 else 's'} {what}" + (f" ({examples})" if keys else "")


def size_text(count: int) -> str:
    """Return a number of bytes as text in MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
