"""Write tables as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from preimage.io.atomic import atomic_write
from preimage.io.folders import make_folders


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows, the header first, as CSV in UTF-8, atomically; the folder is created if it does not exist."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    make_folders(path.parent)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
