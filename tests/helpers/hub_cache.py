"""Write repositories as huggingface_hub keeps them in its cache: blobs, references, and snapshots of links."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

COMMIT = "a" * 40


def add_to_cache(cache: Path, repository: str, folder: Path, *, revision: str = "main", commit: str = COMMIT) -> Path:
    """Add the files of a folder to a cache as a commit of a repository, and return the folder of its snapshot."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot, blobs, references = root / "snapshots" / commit, root / "blobs", root / "refs"
    for made in (snapshot, blobs, references):
        made.mkdir(parents=True, exist_ok=True)
    (references / revision).write_text(commit)
    for path in folder.iterdir():
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot
