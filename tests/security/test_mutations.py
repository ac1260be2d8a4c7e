"""Test damaged files of every format: they give valid values or are rejected, quickly. MUTATIONS=2000 tests more."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from file_formats import FORMATS, format_of
from mutations import MUTATIONS, OWN_MUTATIONS, mutated
from own_files import own_files
from preimage.errors import FileFormatError

OWN_FILES = own_files()
SEALED = {name: kind for name, kind in OWN_FILES.items() if kind.seal}


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_rejected(tmp_path: Path, name: str) -> None:
    form = format_of(name)
    path = tmp_path / f"f{form.suffix}"
    seeds = []
    for write in form.writers:
        path.unlink(missing_ok=True)
        write(path)
        assert form.read(path)
        seeds.append(path.read_bytes())
    accepted = damage(path, seeds, MUTATIONS, lambda: form.read(path))
    assert accepted == 0 if form.has_checksums else 0 < accepted < MUTATIONS


@pytest.mark.parametrize("name", OWN_FILES)
def test_damaged_files_of_the_package_are_rejected(tmp_path: Path, name: str) -> None:
    kind = OWN_FILES[name]
    path = kind.write(tmp_path)
    kind.read(tmp_path)
    accepted = damage(path, [path.read_bytes()], OWN_MUTATIONS, lambda: kind.read(tmp_path))
    assert accepted == 0 if kind.has_checksum else accepted < OWN_MUTATIONS


@pytest.mark.parametrize("name", SEALED)
def test_forged_files_of_the_package_are_read_or_rejected(tmp_path: Path, name: str) -> None:
    """The files have valid checksums, so that their damage is read."""
    kind = SEALED[name]
    path = kind.write(tmp_path)
    assert kind.seal is not None
    seal = kind.seal
    seal(path)
    kind.read(tmp_path)
    assert damage(path, [path.read_bytes()], OWN_MUTATIONS, lambda: kind.read(tmp_path), seal) < OWN_MUTATIONS


def damage(
    path: Path,
    seeds: list[bytes],
    count: int,
    read: Callable[[], object],
    seal: Callable[[Path], object] = lambda path: None,
) -> int:
    """Read mutations of a file, each in bounded time, and return how many were accepted."""
    accepted, tried, slowest = 0, 0, 0.0
    for number in range(count):
        seed = seeds[number % len(seeds)]
        damaged = mutated(seed, number)
        if damaged == seed:
            continue
        path.write_bytes(damaged)
        seal(path)
        tried += 1
        begun = time.process_time()
        try:
            accepted += read() is not False
        except FileFormatError as error:
            assert str(path.parent) in str(error)
        slowest = max(slowest, time.process_time() - begun)
    if counts := os.environ.get("MUTATION_COUNTS"):  # a file, for the table in docs/reliability.md
        with open(counts, "a", encoding="utf-8") as file:
            file.write(f"{os.environ['PYTEST_CURRENT_TEST']},{tried},{accepted},{slowest:.3f}\n")
    assert slowest < 20, "seconds of this process; a busy machine takes several times what an idle one does"
    return accepted
