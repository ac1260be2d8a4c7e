"""The tuning cache's files: many writers, damage, and the command that shows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Run
from mutations import MUTATIONS, mutated
from preimage.ops.upconv import tuning, tuning_cache
from preimage.ops.upconv.tuning_cache import Entry, Store, Trial

MACHINE = {"gpu": "NVIDIA H200", "torch": "2.11", "kernels": "abc"}
OTHER = {**MACHINE, "torch": "2.12"}
CONFIG = ["phase", [128, 256, 64], 8, 3, 1]


def entry(milliseconds: float = 0.25) -> Entry:
    trials = (
        Trial("torch", None, 0.5, None, None),
        Trial("phase 128x256x64 w8 s3", CONFIG, milliseconds, 1e-3, None),
        Trial("phase [64]x128x64 w4 s3", ["phase", [64, 128, 64], 4, 3, 1], None, None, "OutOfResources: [red]shared"),
    )
    return Entry(CONFIG, trials, "64x256x8x8 128x256x5x5 -", "2026-01-02T03:04:05+00:00")


@pytest.fixture(autouse=True)
def where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PREIMAGE_CACHE", str(tmp_path / "cache"))
    tuning._stores.clear()
    return tmp_path / "cache"


def only_file(where: Path) -> Path:
    (path,) = where.glob("*.json")
    return path


# Without torch, which would take each process seconds.
WRITER = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("cache", {tuning_cache.__file__!r})
cache = importlib.util.module_from_spec(spec)
sys.modules["cache"] = cache
spec.loader.exec_module(cache)
store = cache.Store({MACHINE!r})
sys.stdin.read()
for turn in range(5):
    name = f"{{sys.argv[1]}}.{{turn}}"
    store.put(name, cache.Entry(None, (cache.Trial(name, None, 0.5, None, None),), "", ""))
    assert all(store.get(f"{{sys.argv[1]}}.{{t}}").trials[0].name for t in range(turn + 1))
"""


def test_twenty_writers_lose_nothing(where: Path) -> None:
    commands = [[sys.executable, "-W", "error", "-c", WRITER, str(number)] for number in range(20)]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE) for command in commands]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()  # all begin
    assert [writer.wait(60) for writer in writers] == [0] * 20
    found = {record.key: record.entry.trials[0].name for record in tuning.entries()}
    names = [f"{number}.{turn}" for number in range(20) for turn in range(5)]
    assert found == {name: name for name in names}
    assert {path.name for path in where.iterdir()} == {tuning_cache.file_name(MACHINE), "upconv.lock"}


def test_without_locks_no_file_breaks(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(tuning_cache.fcntl, "flock", refuse)
    Store(MACHINE).put("a", entry())
    Store(MACHINE).put("b", entry())
    assert {record.key for record in tuning.entries()} == {"a", "b"}


def test_a_store_sees_what_others_write_and_clear(where: Path) -> None:
    ours, theirs = Store(MACHINE), Store(MACHINE)
    assert ours.get("a") is None
    theirs.put("a", entry())
    assert ours.get("a") == entry()
    theirs.put("a", entry(0.125))
    assert ours.get("a") == entry(0.125)
    assert Store(OTHER).get("a") is None
    tuning.clear()
    ours.put("b", entry())
    assert [record.key for record in tuning.entries()] == ["b"], "what was cleared stays so"


def test_machines_have_files_of_their_own(where: Path) -> None:
    Store(MACHINE).put("a", entry())
    Store(OTHER).put("a", entry(0.125))
    assert len(list(where.glob("*.json"))) == 2
    assert {record.machine["torch"]: record.entry for record in tuning.entries()} == {
        "2.11": entry(),
        "2.12": entry(0.125),
    }
    (first, second) = where.glob("*.json")
    first.write_bytes(second.read_bytes())
    found = [Store(machine).get("a") for machine in (MACHINE, OTHER)]
    assert found.count(None) == 1, "another machine's is none of ours"


def test_damaged_files_are_as_good_as_none(where: Path) -> None:
    Store(MACHINE).put("a", entry())
    Store(MACHINE).put("b", entry(0.125))
    path = only_file(where)
    whole = path.read_bytes()
    refused = 0
    for number in range(MUTATIONS):
        path.write_bytes(mutated(whole, number))
        found = Store(MACHINE).get("a")
        assert found in (None, entry())
        refused += found is None
    assert refused > 0.8 * MUTATIONS
    Store(MACHINE).put("c", entry())
    assert {record.key for record in tuning.entries()} >= {"c"}


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"1" * 5000, b"[" * 100_000, b"\xff\xfe", b'{"machine": {}, "entries": {}}']
)
def test_foreign_files_are_as_good_as_none(where: Path, data: bytes) -> None:
    where.mkdir()
    path = where / tuning_cache.file_name(MACHINE)
    path.write_bytes(data)
    assert Store(MACHINE).get("a") is None
    assert tuning.entries() == ()
    Store(MACHINE).put("a", entry())
    assert Store(MACHINE).get("a") == entry()


@pytest.mark.parametrize("part", ["chosen", "trials", "shape"])
def test_entries_of_another_form_are_refused_even_with_a_right_sum(where: Path, part: str) -> None:
    Store(MACHINE).put("a", entry())
    path = only_file(where)
    whole = json.loads(path.read_bytes())
    whole["entries"]["a"][part] = 3
    content = {"machine": whole["machine"], "entries": whole["entries"]}
    path.write_text(json.dumps({**whole, "sha256": tuning_cache._digest(content)}))
    assert Store(MACHINE).get("a") is None


def test_a_failed_write_leaves_the_old_file(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(MACHINE).put("a", entry())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(tuning_cache, "_warned", False)
    store = Store(MACHINE)
    with pytest.warns(RuntimeWarning, match="No space left"):
        store.put("b", entry())
    monkeypatch.undo()
    assert store.get("b") == entry(), "remembered, if not written"
    (path,) = where.glob("*.json")
    assert list(json.loads(path.read_bytes())["entries"]) == ["a"]
    assert not list(where.glob(".preimage-*"))


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert tuning.path() == tmp_path / "cache"
    monkeypatch.delenv("PREIMAGE_CACHE")
    assert tuning.path() == tmp_path / "xdg" / "preimage"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert tuning.path() == tmp_path / "home" / ".cache" / "preimage"


def test_the_command_shows_and_clears(where: Path, run: Run) -> None:
    assert run("tuning", "--path") == (0, f"{where}\n", "")
    assert run("tuning") == (0, f"nothing measured yet in {where}\n", "")
    Store(MACHINE).put("forward 256->128 4096px bfloat16 slope", entry())
    Store(OTHER).put("wgrad 256->128 64x8x8 bfloat16", entry(0.125))
    code, out, err = run("tuning")
    assert (code, err) == (0, "")
    for words in (
        "NVIDIA H200 (torch 2.11, kernels abc)",
        "NVIDIA H200 (torch 2.12, kernels abc)",
        "forward 256->128 4096px bfloat16 slope",
        "phase 128x256x64 w8 s3",
        "phase [64]x128x64 w4 s3",
        "0.2500",
        "2.00x",
        "4.00x",
        "1.0e-03",
        "OutOfResources: [red]shared",
        "2026-01-02T03:04:05+00:00",
    ):
        assert words in out, words
    assert out.count("chosen") == 2
    code, out, _ = run("tuning", "--json")
    told = json.loads(out)
    assert [told["entries"][number]["entry"]["chosen"] for number in (0, 1)] == [CONFIG] * 2
    assert run("tuning", "--clear") == (0, f"removed 2 files from {where}\n", "")
    assert run("tuning")[1].startswith("nothing measured")


def test_the_commands_help_imports_nothing_heavy() -> None:
    script = """
import sys
from preimage.cli import main
sys.argv = ["preimage", "tuning", "--help"]
try:
    main()
except SystemExit as stopped:
    assert not stopped.code
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--clear" in done.stdout
