"""Measure available memory: what the system has left, within the limits of a container or a process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]

_UNKNOWN = 4 << 30  # bytes, where the system tells nothing
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_STATM = Path("/proc/self/statm")
_PAGE = 4096


def available_bytes() -> int:
    """Return the bytes of memory that this process may still take without the system swapping or killing it.

    That is the least of what Linux counts as available, what the control groups of the process (a container's limit)
    leave, and what is left of its address space. 4 GiB where none of these is known.
    """
    limits = [*_system(), *_control_groups(), *_address_space()]
    return max(0, min(limits)) if limits else _UNKNOWN


def bounded_bytes(most: int, share: float) -> int:
    """Return `most` bytes, or that share of the memory that is available if it is less."""
    return min(most, int(share * available_bytes()))


def _system() -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield 1024 * int(line.split()[1])


def _control_groups() -> Iterator[int]:
    """Yield what each limit leaves that holds for the process: its own group's and those of all groups above."""
    try:
        lines = _CGROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if not controllers:  # version 2
            yield from _left(_CGROUPS, name, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = _CGROUPS / "memory"
            yield from _left(root, name, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _left(root: Path, name: str, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    # In a container the name may be the host's, which is not to be seen: the groups above it, up to the root, are.
    group = root / name.strip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            return
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            left = int((folder / limit).read_text()) - int((folder / usage).read_text())
            with contextlib.suppress(OSError, ValueError):  # cached files are given up when memory is short
                fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                left += int(fields.get(reclaimable, 0))
            yield left


def _address_space() -> Iterator[int]:
    if resource is None:
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return
    with contextlib.suppress(OSError, ValueError):
        yield soft - _PAGE * int(_STATM.read_text().split()[0])
