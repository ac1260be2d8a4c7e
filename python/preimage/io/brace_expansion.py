"""Expand braces in paths, as webdataset and shells do."""

from __future__ import annotations

import itertools
import math
import os
import re

from preimage.io.urls import masked

_MOST = 1_000_000  # paths
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{},]*(?:,[^{},]*)+))\}")


def expand_braces(path: str) -> list[str]:
    """Return the paths that a path with braces stands for, in order.

    ``shards-{0000..0099}.tar`` counts, with zeros in front as far as written; ``{train,val}.tar`` lists alternatives.
    Braces with anything else in them are part of the name, and so are all those of a file that exists.

    Raises:
        ValueError: There are more than a million paths.
    """
    if "{" not in path or os.path.lexists(path):
        return [path]
    choices, end = [], 0
    for braces in _BRACES.finditer(path):
        choices += [[path[end : braces.start()]], _choices(*braces.groups())]
        end = braces.end()
    choices.append([path[end:]])
    count = math.prod(map(len, choices))
    if count > _MOST:
        raise ValueError(f"{masked(path)}: braces must stand for at most {_MOST:,} paths, got {count:,}")
    return list(map("".join, itertools.product(*choices)))


def _choices(first: str | None, last: str | None, names: str | None) -> list[str]:
    if first is None or last is None:
        return (names or "").split(",")
    low, high = sorted((int(first), int(last)))
    if high - low >= _MOST:
        raise ValueError(f"{{{first}..{last}}}: braces must stand for at most {_MOST:,} paths")
    width = max(len(first), len(last)) if "0" in (first[:-1][:1], last[:-1][:1]) else 0
    numbers = [f"{number:0{width}d}" for number in range(low, high + 1)]
    return numbers if int(first) <= int(last) else numbers[::-1]
