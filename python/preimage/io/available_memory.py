"""Measure available memory, within the limits of the system, container and process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]

_UNKNOWN = 4 << 30  # bytes, if no limit is known
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_STATM = Path("/proc/self/statm")
_PAGE = 4096


def available_bytes() -> int:
    """Return the number of bytes that this process can allocate without being swapped out or killed.

    This is the minimum of the memory that Linux counts as available, the remainder of the process's control groups
    (limits of a container), and the remainder of its address space; 4 GiB if none of these is known.
    """
    limits = [*_system(), *_control_groups(), *_address_space()]
    return max(0, min(limits)) if limits else _UNKNOWN


def bounded_bytes(limit: int, fraction: float) -> int:
    """Return the smaller of `limit` and a fraction of the available memory, in bytes.

    The processes that ``torchrun`` has started on a machine share that fraction.
    """
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(limit, int(fraction * available_bytes()) // max(1, int(processes) if processes.isdecimal() else 1))


def _system() -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield 1024 * int(line.split()[1])


def _control_groups() -> Iterator[int]:
    """Yield the bytes left below the limit of the process's control group and of every parent group."""
    try:
        lines = _CGROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if not controllers:  # version 2
            yield from _remaining(_CGROUPS, name, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = _CGROUPS / "memory"
            yield from _remaining(root, name, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _remaining(root: Path, name: str, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    # In a container the group's name can be that of the host, which is not visible; its parents up to the root are.
    group = root / name.strip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            return
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            remaining = int((folder / limit).read_text()) - int((folder / usage).read_text())
            with contextlib.suppress(OSError, ValueError):  # the kernel drops cached files when memory is short
                fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                remaining += int(fields.get(reclaimable, 0))
            yield remaining


def _address_space() -> Iterator[int]:
    if resource is None:
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return
    with contextlib.suppress(OSError, ValueError):
        yield soft - _PAGE * int(_STATM.read_text().split()[0])
