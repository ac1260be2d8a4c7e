"""What a keypoint file holds, whoever wrote it: the keypoints of images, their names and sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from preimage.io.atomic import StrPath
from preimage.io.feature_file import KeyedFile, Size
from preimage.keypoints import Keypoints


@dataclass(frozen=True, eq=False)
class KeypointRecord:
    """The keypoints of one image.

    Attributes:
        key: names the image, unique within a file. Other programs' names keep their suffix: ``sub/a.jpg``.
        keypoints: a batch of one.
        image_size: (height, width), pixels; ``None`` where it is not known.
    """

    key: str
    keypoints: Keypoints
    image_size: Size | None


class KeypointFile(KeyedFile[Keypoints, KeypointRecord]):
    """Keypoints of several images in our convention, read image by image on demand.

    A mapping from keys to `Keypoints`, batches of one; positions are taken in place of keys. Every access may raise
    `FileFormatError` if the file behind it fails.

    Attributes:
        path: where the keypoints come from.
        origin: the format: ``"colmap"``, ``"colmap-text"``, ``"hloc"``, ``"opencv"``, ``"vlfeat"``, ``"lowe"``,
            ``"preimage"``.
        sizes: (height, width) per image, pixels; ``None`` where the file does not tell and nobody did.
        counts: keypoints per image; ``None`` where that is known only when they are read.
        notes: by key, what was left out of the keypoints that were read so far: a sentence under a word for its kind.
        normalization: how the file's descriptors are taken to be normalized, see `read_keypoints`.
    """

    def __init__(
        self,
        path: StrPath,
        origin: str,
        *,
        keys: Sequence[str],
        sizes: Sequence[Size | None],
        counts: Sequence[int | None],
        normalization: str,
        load: Callable[[int], Keypoints],
        notes: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__(path, keys)
        self.origin = origin
        self.sizes = tuple(sizes)
        self.counts = tuple(counts)
        self.normalization = normalization
        self.notes = {} if notes is None else notes
        self._read = load

    def _load(self, position: int) -> Keypoints:
        return self._read(position)

    def _record(self, position: int) -> KeypointRecord:
        return KeypointRecord(self._keys[position], self._load(position), self.sizes[position])

    def sized(self, image_size: Size | None) -> KeypointFile:
        """The same with `image_size` for the images of which the file does not tell it.

        Raises:
            ValueError: the file tells another size.
        """
        if image_size is None:
            return self
        for key, size in zip(self, self.sizes, strict=True):
            if size not in (None, image_size):
                raise ValueError(
                    f"{self.path} says that {key!r} has {size[1]}×{size[0]} pixels (width × height), "
                    f"not {image_size[1]}×{image_size[0]}: leave the image size out"
                )
        return KeypointFile(
            self.path,
            self.origin,
            keys=self._keys,
            sizes=[image_size] * len(self),
            counts=self.counts,
            normalization=self.normalization,
            load=self._read,
            notes=self.notes,
        )
