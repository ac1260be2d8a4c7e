"""The images of a run: looked at before the first step, decoded when they are needed, known again on resumption."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from preimage.errors import FileFormatError
from preimage.io import ImageSource, check_image, decode_image, fit_image
from preimage.io.memory import available_bytes, bounded_bytes
from preimage.pipelines.loading import SKIP_HINT
from preimage.pipelines.prefetch import in_order

NAMED = 3  # examples in a message

_DECODED_BYTES = 4 << 30  # of decoded images in memory at most; what does not fit is decoded anew each time
_DECODED_SHARE = 0.25  # of the memory that is available, if that is less
_PROBLEMS_NAMED = 10
_MOST_LOOKING = 8  # threads, each with a whole encoded image in memory
_LOOKING_SHARE = 4  # a quarter of the memory that is available, at most
_NOTE_EVERY = 30.0  # seconds

Pixels = npt.NDArray[np.uint8]
Note = Callable[[str], None]


class BadImage(NamedTuple):
    """An image that is left out.

    Attributes:
        key: its key.
        problem: one line that names it.
        validation: whether it is one of the separate validation images.
    """

    key: str
    problem: str
    validation: bool = False


@dataclasses.dataclass(frozen=True)
class ImageList:
    """Which images a run trains on and which it holds out; kept in its checkpoint.

    Attributes:
        trained: digest of every training image's contents by its key, in the order that batches count them.
        held_out: the same of the held-out images.
        skipped: images that are left out. One that turned out bad in training only is in `trained` too, and another
            takes its turns.
    """

    trained: Mapping[str, str]
    held_out: Mapping[str, str]
    skipped: tuple[BadImage, ...] = ()

    def to_json(self) -> str:
        """Return one JSON object."""
        return json.dumps(
            {"trained": dict(self.trained), "held_out": dict(self.held_out), "skipped": self.skipped},
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> ImageList:
        """Return the inverse of `to_json`; ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
        fields: dict[str, Any] = json.loads(text)
        return cls(
            dict(fields["trained"]), dict(fields["held_out"]), tuple(BadImage(*entry) for entry in fields["skipped"])
        )

    def check(self, sources: Mapping[str, str], validation: Mapping[str, str] | None) -> None:
        """Refuse other images than these.

        Args:
            sources: digests of the images that are there now, by key.
            validation: the same of separate validation images; ``None`` where some of `sources` are held out.

        Raises:
            ValueError: some are missing, new or changed; counts them and names the first.
        """
        left = {bad.key for bad in self.skipped if not bad.validation}
        left_validation = {bad.key for bad in self.skipped if bad.validation}
        if validation is None:
            differences = _differences(dict(self.trained) | dict(self.held_out), sources, left)
            trained_now = len(sources.keys() - self.held_out.keys() - (left - self.trained.keys()))
            held_out_now = len(self.held_out.keys() & sources.keys())
        else:
            differences = _differences(self.trained, sources, left)
            differences += [
                f"of the validation images {phrase}"
                for phrase in _differences(self.held_out, validation, left_validation)
            ]
            trained_now = len(sources.keys() - (left - self.trained.keys()))
            held_out_now = len(validation.keys() - left_validation)
        if differences:
            raise ValueError(
                f"the images differ: {len(self.trained)} then, {trained_now} now, and held out {len(self.held_out)} "
                f"then, {held_out_now} now; {'; '.join(differences)}. A run goes on with the images that it began "
                "with: bring them back (--skip-bad leaves out damaged ones), or train into another folder"
            )


def _differences(then: Mapping[str, str], now: Mapping[str, str], left_out: set[str]) -> list[str]:
    missing = [key for key in then if key not in now]
    new = [key for key in now if key not in then and key not in left_out]
    differing = [key for key, digest in then.items() if key in now and now[key] != digest]
    changed = [key for key in differing if of_image(then[key]) != of_image(now[key])]
    other = [key for key in differing if key not in set(changed)]
    found = ((missing, "missing"), (new, "new"), (changed, "changed"), (other, "with other features"))
    return [f"{len(keys)} {what}, first {keys[0]!r}" for keys, what in found if keys]


def with_features(image: str, features: str) -> str:
    """Return the digest of an image and its features, from a digest of each."""
    return f"{image}/{features}"


def of_image(digest: str) -> str:
    """Return the image's part of such a digest, or of one without features."""
    return digest.partition("/")[0]


class Item(NamedTuple):
    """An image that can be used.

    Attributes:
        source: where it is.
        digest: of its contents, and of its features where they come from a file.
        position: of its features in that file.
    """

    source: ImageSource
    digest: str
    position: int = -1


class Division(NamedTuple):
    """The images of a run.

    Attributes:
        trained: images to train on.
        held_out: images to judge by.
        skipped: images that are left out.
    """

    trained: list[Item]
    held_out: list[Item]
    skipped: tuple[BadImage, ...]

    def resumed(self, known: ImageList, *, separate: bool) -> Division:
        """Return the division of the run that `known` is of.

        Args:
            known: what its checkpoint keeps.
            separate: whether the held-out images are listed apart from the others.

        Raises:
            ValueError: the images are not those of `known`; says how they differ.
        """
        images = {item.source.key: item for item in self.trained}
        judging = {item.source.key: item for item in self.held_out} if separate else images
        known.check(
            {key: item.digest for key, item in images.items()},
            {key: item.digest for key, item in judging.items()} if separate else None,
        )
        return Division([images[key] for key in known.trained], [judging[key] for key in known.held_out], known.skipped)


class Looked(NamedTuple):
    """What a look at an image found: a digest of its contents, or one line on why it cannot be used."""

    digest: str
    problem: str


def look_at(sources: Sequence[ImageSource], note: Note) -> list[Looked]:
    """Read every image once, check header and end, and return a digest of its contents, in order."""
    fitting = available_bytes() // (_LOOKING_SHARE * max(map(_length, sources), default=1))
    workers = max(1, min(_MOST_LOOKING, os.cpu_count() or 1, fitting))
    found: list[Looked] = []
    told = time.monotonic()
    with closing(in_order(_look, sources, workers=workers, ahead=workers + 2, name="look")) as looks:
        for looked in looks:
            found.append(looked)
            if time.monotonic() - told > _NOTE_EVERY:
                told = time.monotonic()
                note(f"looked at {len(found)} of {len(sources)} images before the first step")
    return found


def _length(source: ImageSource) -> int:
    """Return how many bytes a look at the image reads, at least 1."""
    if source.length is not None:
        return max(1, source.length)
    try:
        return max(1, os.path.getsize(source.path))
    except OSError:
        return 1


def _look(source: ImageSource) -> Looked:
    try:
        data = source.read()
        check_image(data, name=source.name)
    except OSError as error:
        return Looked("", f"{source.name}: {error.strerror or error}")
    except ValueError as error:
        return Looked("", str(error))
    return Looked(hashlib.sha256(data).hexdigest()[:16], "")


def leave_out(bad: Sequence[BadImage], count: int, *, skip_bad: bool, begun: bool = False) -> None:
    """Refuse bad images unless they may be left out, or if there is no other.

    Args:
        bad: what was found among
        count: images.
        skip_bad: whether they may be left out.
        begun: the run began with these images when they were good, and cannot go on without.

    Raises:
        ValueError: names some.
    """
    if not bad or (skip_bad and not begun and len(bad) < count):
        return
    named = "; ".join(one.problem for one in bad[:_PROBLEMS_NAMED])
    more = f"; and {len(bad) - _PROBLEMS_NAMED} more" if len(bad) > _PROBLEMS_NAMED else ""
    if begun:
        raise ValueError(f"the images differ: {len(bad)} that the run began with cannot be used now: {named}{more}")
    hint = "" if skip_bad else f" ({SKIP_HINT})"
    raise ValueError(f"{len(bad)} of {count} images cannot be used: {named}{more}{hint}")


class ImageSet:
    """Images by index, as decoded 8-bit RGB. As many as fit in memory stay there.

    Args:
        sources: where the encoded images are.
        size: they are fitted to, pixels; ``None`` leaves them as they are.
        digests: of their contents, one each, where they are known.
        skip_bad: leave out those that cannot be decoded.
        skipped: index and problem of those that are known to be bad.
        most_bytes: of decoded images in memory.

    Attributes:
        bad: index and problem of those that could not be decoded.
    """

    def __init__(
        self,
        sources: Sequence[ImageSource],
        size: int | None = None,
        *,
        digests: Sequence[str] = (),
        skip_bad: bool = False,
        skipped: Mapping[int, str] | None = None,
        most_bytes: int = _DECODED_BYTES,
    ) -> None:
        self.sources, self.digests = sources, digests
        self.bad = dict(skipped or {})
        self._size, self._skip_bad = size, skip_bad
        self._decoded: dict[int, Pixels] = {}
        self._room = bounded_bytes(most_bytes, _DECODED_SHARE)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Pixels:
        """(H, W, 3) uint8 RGB; `FileFormatError` names an image that cannot be decoded."""
        if index in self._decoded:
            return self._decoded[index]
        source = self.sources[index]
        image = fit_image(decode_image(source.read(), name=source.name), self._size)
        if image.nbytes <= self._room:
            self._room -= image.nbytes
            self._decoded[index] = image
        return image

    def usable(self, index: int) -> Pixels | None:
        """Return the same, or ``None`` for a bad image that is left out.

        Raises:
            FileFormatError: it is bad, and bad images are not left out.
            OSError: it cannot be read now, which says nothing about the image.
        """
        if index in self.bad:
            return None
        try:
            return self[index]
        except FileFormatError as error:
            if not self._skip_bad:
                raise FileFormatError(error.path, f"{error.problem} ({SKIP_HINT})") from error
            self.bad[index] = str(error)
            return None

    def first_usable(self, candidates: Iterator[int]) -> tuple[int, Pixels]:
        """Return the first of these images that is not left out, and its index; ``ValueError`` if all are."""
        for index in candidates:
            if (image := self.usable(index)) is not None:
                return index, image
        raise ValueError(f"none of the {len(self)} images can be used; the first: {next(iter(self.bad.values()))}")

    def digest(self) -> str:
        """Return the SHA-256 over keys and digests, in order: the same images elsewhere are the same."""
        total = hashlib.sha256()
        for source, digest in zip(self.sources, self.digests, strict=True):
            total.update(json.dumps([source.key, digest]).encode())
        return total.hexdigest()


def some(keys: Sequence[str], noun: str, what: str) -> str:
    """Return a phrase that counts keys and names the first few."""
    examples = ", ".join(map(repr, keys[:NAMED])) + (", ..." if len(keys) > NAMED else "")
    return f"{len(keys)} {noun}{'' if len(keys) == 1 else 's'} {what}" + (f" ({examples})" if keys else "")
