"""Test the measurement of available memory with files like those of Linux."""

from __future__ import annotations

from pathlib import Path

import pytest

from preimage.io import available_memory as memory

GIB = 1 << 30


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Simulate a machine with 8 GiB available, no control groups and no limit on the address space."""
    (tmp_path / "meminfo").write_text("MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_address_space", lambda: iter(()))
    return tmp_path


def group(folder: Path, limit: str, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in {"memory.max": limit, **{key.replace("__", "."): text for key, text in files.items()}}.items():
        (folder / name).write_text(f"{value}\n")


def test_available_memory_of_the_system(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert memory.available_bytes() == 8 * GIB
    assert memory.bounded_bytes(4 * GIB, 0.25) == 2 * GIB
    assert memory.bounded_bytes(GIB, 0.25) == GIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory.bounded_bytes(4 * GIB, 0.25) == GIB // 2, "of each of four processes of torchrun"


def test_container_limit_is_respected(system: Path) -> None:
    (system / "cgroup").write_text("0::/jobs/one\n")
    group(system / "groups" / "jobs" / "one", "max", memory__current=GIB)
    group(system / "groups" / "jobs", str(3 * GIB), memory__current=2 * GIB)
    assert memory.available_bytes() == GIB, "the limit of the group above holds too"
    (system / "groups" / "jobs" / "memory.stat").write_text(f"anon 5\ninactive_file {GIB // 2}\n")
    assert memory.available_bytes() == GIB + GIB // 2, "cached files do not count"


def test_container_with_another_cgroup_name(system: Path) -> None:
    """With version 1, the name is the host's, and only the root of the groups exists."""
    (system / "cgroup").write_text("11:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n")
    root = system / "groups" / "memory"
    root.mkdir(parents=True)
    (root / "memory.limit_in_bytes").write_text(f"{2 * GIB}\n")
    (root / "memory.usage_in_bytes").write_text(f"{3 * GIB}\n")
    (root / "memory.stat").write_text(f"total_inactive_file {2 * GIB}\n")
    assert memory.available_bytes() == GIB
    (root / "memory.usage_in_bytes").write_text(f"{5 * GIB}\n")
    assert memory.available_bytes() == 0


def test_system_without_memory_files(system: Path) -> None:
    (system / "meminfo").unlink()
    assert memory.available_bytes() == memory._UNKNOWN


def test_an_address_space_with_a_limit(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resource")
    monkeypatch.undo()
    monkeypatch.setattr(memory, "_STATM", system / "statm")
    (system / "statm").write_text(f"{GIB // 4096} 5 5 5 0 5 0\n")
    monkeypatch.setattr(memory.resource, "getrlimit", lambda which: (GIB + 4096, GIB + 4096))
    assert memory.available_bytes() <= 4096
