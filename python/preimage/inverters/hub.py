"""Fetch inverters from the Hugging Face Hub: their config and weights, never code."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from preimage.errors import FileFormatError
from preimage.optional import import_optional

CARDS = ("MODEL_CARD.md", "README.md")  # fetched for readers, if the repository has them

# user/name, and @revision if any: the Hub's rules for names, so that no other path is taken for one.
_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}\w)?"
_NAME = re.compile(rf"({_PART}/{_PART})(?<!\.git)(?:@([^@\s]+))?", re.ASCII)
_CACHED = re.compile(r"models--(?P<user>.+?)--(?P<name>.+)")


def split_name(name: str | os.PathLike[str]) -> tuple[str, str | None] | None:
    """Return the repository and the revision (or ``None``) of ``user/name`` or ``user/name@revision``.

    Other names give ``None``, and so do paths in a folder that exists: ``runs/mine`` is not looked for on the Hub where
    there is a folder ``runs``.
    """
    text = name.as_posix() if isinstance(name, Path) else os.fspath(name)
    found = _NAME.fullmatch(text)
    if not found or ".." in text or "--" in found[1] or Path(found[1]).parent.is_dir():
        return None
    return found[1], found[2]


def fetch(
    repository: str,
    files: tuple[str, ...],
    check: Callable[[Path], object],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Return a folder in the Hub's cache with files of a repository, downloaded if they are not there.

    Apart from the `CARDS`, nothing else is downloaded. Where the Hub cannot be reached, or with ``HF_HUB_OFFLINE=1``,
    the files have to be in the cache.

    Args:
        repository: ``user/name``.
        files: Names of the files. The first one is downloaded and checked before the others.
        check: Function of the folder that raises an exception if the first file is invalid.
        revision: Branch, tag or commit; ``None`` for the main branch.
        cache_dir: Folder of the cache; ``None`` for that of ``HF_HUB_CACHE`` or ``HF_HOME``.

    Raises:
        ImportError: huggingface_hub is not installed.
        ValueError: There is no such repository or revision, or it is not accessible, and not in the cache either.
        FileFormatError: The repository lacks a file.
    """
    try:
        hub = import_optional("huggingface_hub")
    except ImportError as error:
        raise ImportError(f"{repository} is not a folder here, and {error}") from error

    def file(name: str, at: str | None) -> Path:
        with _hub_errors(repository, name, at, cache_dir):
            return Path(hub.hf_hub_download(repository, name, revision=at, cache_dir=cache_dir))

    first, *others = files
    folder = file(first, revision).parent
    check(folder)
    missing = [name for name in others if not (folder / name).exists()]
    for name in missing:
        file(name, folder.name)  # of the same commit, even if the branch has moved meanwhile
    for name in CARDS if missing else ():  # only with a download: a missing card would be requested at every load
        with contextlib.suppress(ValueError):
            file(name, folder.name)
    return folder


def cached(file: str, cache_dir: str | os.PathLike[str] | None = None) -> Iterator[tuple[str, Path]]:
    """Yield the repositories in the Hub's cache that contain a file, with their folders; needs no connection.

    Raises:
        ImportError: huggingface_hub is not installed.
    """
    for path in sorted(_cache(cache_dir).glob(f"models--*/snapshots/*/{file}")):
        if found := _CACHED.fullmatch(path.parents[2].name):
            yield f"{found['user']}/{found['name']}", path.parent


def _cache(cache_dir: str | os.PathLike[str] | None) -> Path:
    return Path(_constants().HF_HUB_CACHE if cache_dir is None else cache_dir)


def _constants() -> Any:
    """Return the settings of huggingface_hub, which come from the environment variables when it is imported."""
    return import_optional("huggingface_hub", "huggingface_hub.constants")


@contextlib.contextmanager
def _hub_errors(
    repository: str, file: str, revision: str | None, cache_dir: str | os.PathLike[str] | None
) -> Iterator[None]:
    """Convert errors of huggingface_hub to ones that say what is missing, and what would be right."""
    errors: Any = import_optional("huggingface_hub", "huggingface_hub.errors")
    named = repository if revision is None else f"{repository}@{revision}"
    try:
        yield
    except errors.LocalEntryNotFoundError as error:
        cause = " ".join(str(error.__cause__ or error).split())[:200]
        reason = "HF_HUB_OFFLINE is set" if _constants().HF_HUB_OFFLINE else f"the Hub cannot be reached: {cause}"
        raise ValueError(
            f"{named}: there is no such folder, and {file} of such a repository is not in the cache "
            f"{_cache(cache_dir)} ({reason})"
        ) from error
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{named}: the Hugging Face Hub gives access to this repository only on request: ask for it on "
            f"{_constants().ENDPOINT}/{repository}, then `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{named}: there is no such folder, and no such repository on the Hugging Face Hub (for a private one: "
            "`hf auth login`)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(
            f"{named}: the repository has no such revision: name a branch, a tag or a commit of "
            f"{_constants().ENDPOINT}/{repository}/commits/main"
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileFormatError(
            named, f"is a repository without {file}; that of an inverter has the files of a folder that it was saved in"
        ) from error
    except OSError as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{named}: the Hugging Face Hub answered with an error: {reason}") from error
