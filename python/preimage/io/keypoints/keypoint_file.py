"""Represent the keypoints of one image, and keypoint files that are read on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from preimage.io.atomic import StrPath
from preimage.io.feature_file import KeyedFile, Size
from preimage.keypoints import Keypoints


@dataclass(frozen=True, eq=False)
class KeypointRecord:
    """Keypoints of one image.

    Attributes:
        key: Name of the image, unique within a file. Names of other programs keep their suffix, as in ``sub/a.jpg``.
        keypoints: Keypoints, a batch of one image.
        image_size: (height, width) in pixels, or ``None`` if unknown.
    """

    key: str
    keypoints: Keypoints
    image_size: Size | None


class KeypointFile(KeyedFile[Keypoints, KeypointRecord]):
    """Keypoints of several images, each read and converted on demand.

    A mapping from keys to `Keypoints`, batches of one image; positions are accepted instead of keys. Every access may
    raise `FileFormatError` if the file is damaged.

    Attributes:
        path: Path of the file or folder.
        format: Format: ``"colmap"``, ``"colmap-text"``, ``"hloc"``, ``"lowe"``, ``"mat"``, ``"opencv"``,
            ``"preimage"`` or ``"vlfeat"``.
        sizes: (height, width) of each image in pixels, or ``None`` if unknown.
        counts: Number of keypoints of each image, or ``None`` if unknown before reading.
        notes: Notes on the images read so far, by key: sentences by topic.
        normalization: Normalization of the stored descriptors, which is undone, see `read_keypoints`.
    """

    def __init__(
        self,
        path: StrPath,
        format: str,
        *,
        keys: Sequence[str],
        sizes: Sequence[Size | None],
        counts: Sequence[int | None],
        normalization: str,
        load: Callable[[int], Keypoints],
        notes: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__(path, keys)
        self.format = format
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
        """Return the same file with `image_size` for images of unknown size.

        Raises:
            ValueError: An image has another size.
        """
        if image_size is None:
            return self
        for key, size in zip(self, self.sizes, strict=True):
            if size not in (None, image_size):
                raise ValueError(
                    f"{self.path}: image_size must be {size[1]}×{size[0]} (width × height) for {key!r}, as stated in "
                    f"the file, got {image_size[1]}×{image_size[0]}: omit it"
                )
        return KeypointFile(
            self.path,
            self.format,
            keys=self._keys,
            sizes=[image_size] * len(self),
            counts=self.counts,
            normalization=self.normalization,
            load=self._read,
            notes=self.notes,
        )
