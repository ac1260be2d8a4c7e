"""Verify stored features by their checksums."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from preimage.errors import FileFormatError
from preimage.store import FeatureStore


@dataclasses.dataclass(frozen=True)
class Verification:
    """Result for one feature store.

    Attributes:
        path: Folder or file.
        images: Number of images; 0 if the store cannot be opened.
        problems: One line for each damaged part; empty if the store is intact.
    """

    path: Path
    images: int
    problems: tuple[str, ...]


def verify(features: Sequence[str | PathLike[str]]) -> list[Verification]:
    """Compare all contents of feature stores with their checksums.

    Args:
        features: Folders or files of feature stores.

    Raises:
        OSError: A file does not exist or cannot be read.
    """
    return [_verify(Path(path)) for path in features]


def _verify(path: Path) -> Verification:
    try:
        store = FeatureStore(path)
    except FileFormatError as error:
        return Verification(path, 0, (str(error),))
    return Verification(path, len(store), tuple(str(problem) for problem in store.problems()))
