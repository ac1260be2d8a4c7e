"""Tell URLs from paths on disk, and show them without credentials."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]+::)*[A-Za-z][A-Za-z0-9+.-]+://")
_SHORTENED_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]")
# User and password before the host. Keys of S3 contain unescaped slashes; "host:8000/" has none.
_USER = re.compile(r"(?<=[A-Za-z0-9+.-]{2})(:/{1,2})(?:[^/\s]*@|[^/@:\s]+:(?!:|\d+/)[^@\s]*@)")
# Such as the signature of a presigned URL; over HTTP also one without "=". Colons are part of it, as in times; "::"
# and ": " end it.
_COLON = r":(?![:\s'\"]|$)"
_QUERY = re.compile(rf"(https?:/{{1,2}}[^\s'\"?]*)?\?(?!\*\*\*)(?(1)|(?:[^\s?'\":]|{_COLON})*=)(?:[^\s'\":]|{_COLON})+")


def is_url(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a URL that fsspec opens: ``s3://bucket/a.tar``, ``zip://a.jpg::https://host/b.zip``."""
    return isinstance(path, str) and _URL.match(path) is not None


def was_url(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is what `pathlib` makes of a URL, which it shortens by a slash."""
    return _SHORTENED_URL.match(os.fspath(path)) is not None


def local_path(path: str | os.PathLike[str]) -> str:
    """Return the path as text, that of a file on this machine without ``file://``."""
    text = os.fspath(path)
    return text[len("file://") :] if text.startswith("file:///") and "::" not in text else text


def masked(text: str) -> str:
    """Return a path or message in which the credentials in URLs are replaced by ``***``."""
    return _QUERY.sub(r"\1?***", _USER.sub(r"\1***@", text)) if ":/" in text else text


def url_path(url: str) -> str:
    """Return the path that a URL stands for in keys: host or bucket first, no scheme, no credentials, no query."""
    *inner, last = url.split("::")
    parts = []
    for link in (last, *reversed([link for link in inner if "://" in link])):
        scheme, separator, path = _USER.sub(r"\1", link).rpartition("://")
        if separator and scheme.startswith("http"):
            path = unquote(re.split("[?#]", path)[0])
        parts.append(path.strip("/"))
    return "/".join(part for part in parts if part)


def has_glob(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a URL with ``*``."""
    return isinstance(path, str) and is_url(path) and "*" in path_link(path)[1]


def path_link(url: str) -> tuple[list[str], str, list[str]]:
    """Split a chain of URLs into the links before the one with the path of the file, that one, and those after it."""
    links = url.split("::")
    at = next(position for position, link in enumerate(links) if "://" in link)
    return links[:at], links[at], links[at + 1 :]
