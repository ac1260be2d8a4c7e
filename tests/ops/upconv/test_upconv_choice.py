"""Test the choice of kernels on a GPU: bundled tables, the rule for missing entries, and damaged tables."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from mutations import MUTATIONS, mutated
from preimage.ops.upconv import kernel_choice, kernel_configs, passes
from preimage.ops.upconv.kernel_choice import DTYPES, Entry, choose, read_table, rule
from preimage.ops.upconv.kernel_configs import CUDNN, IMAGE_PASSES, PASSES, Config, candidates

TABLES = list(kernel_choice.architectures().items())
CAPABILITIES = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (13, 0)]
HALF = torch.bfloat16

WriteTable = Callable[[str, bytes | list[Any]], Path]


@pytest.fixture
def write_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteTable]:
    """Return a function that writes tables to an empty folder, which replaces the bundled ones."""
    monkeypatch.setattr(kernel_choice, "TABLES", tmp_path)

    def write(name: str, content: bytes | list[Any]) -> Path:
        data = content if isinstance(content, bytes) else json.dumps({"measured": None, "entries": content}).encode()
        (tmp_path / name).write_bytes(data)
        kernel_choice._table.cache_clear()
        return tmp_path / name

    kernel_choice._table.cache_clear()
    yield write
    kernel_choice._table.cache_clear()


def of_layer(pixels: int = 4096, nth: int | None = 1) -> dict[str, Any]:
    """Return an entry for 64→32, forward: the nth candidate on 9.0 (the rule chooses the first), or torch."""
    found = candidates("forward", 64, 32, pixels, HALF, (9, 0), tf32=True)
    return Entry("forward", 64, 32, pixels, "16-bit", None if nth is None else found[nth]).to_dict()


def chosen(pixels: int = 4096, capability: tuple[int, int] = (9, 0)) -> Config | None:
    return choose("forward", 64, 32, pixels, HALF, capability, tf32=True)


def test_there_are_tables() -> None:
    assert {capability for capability, _ in TABLES} >= {(8, 0), (9, 0)}


@pytest.mark.parametrize(("capability", "path"), TABLES, ids=[path.stem for _, path in TABLES])
def test_tables_are_whole_and_name_only_candidates(
    capability: tuple[int, int], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    measured, entries = read_table(path)
    assert caplog.records == []
    assert measured is None or measured.keys() == {"gpu", "torch", "triton", "cudnn", "date"}
    lines = json.loads(path.read_bytes())["entries"]
    assert json.loads(json.dumps([entry.to_dict() for entry in entries])) == lines
    assert len({(entry.key, entry.pixels) for entry in entries}) == len(lines)
    for entry in entries:
        assert (entry.milliseconds is None) == (entry.torch_milliseconds is None)
        assert entry.milliseconds is None or measured is not None
        for dtype in DTYPES[entry.dtype]:
            shape = entry.which, entry.in_channels, entry.out_channels, entry.pixels
            found = candidates(*shape, dtype, capability, tf32=True, spilling=entry.milliseconds is not None)
            assert found and (entry.config is None or entry.config in found), entry


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_chosen_configurations_are_valid_on_the_device(capability: tuple[int, int]) -> None:
    """Entries of an older architecture's table that a newer device cannot run are left out."""
    for entries in kernel_choice._table(capability).values():
        for entry in entries:
            for dtype in DTYPES[entry.dtype]:
                shape = entry.which, entry.in_channels, entry.out_channels, entry.pixels
                found = choose(*shape, dtype, capability, tf32=True)
                assert found is None or found in candidates(*shape, dtype, capability, tf32=True)


def test_deep_layers_are_cudnns_until_measured_and_images_are_ours() -> None:
    for which in PASSES:
        if which not in IMAGE_PASSES:
            assert rule(which, 512, 256, 4096, HALF, (9, 0), tf32=True) == CUDNN.get(which)
        assert rule(which, 32, 3, 1 << 20, HALF, (9, 0), tf32=True) is not None
    assert rule("image_backward", 64, 32, 4096, HALF, (9, 0), tf32=True) is None


def test_layers_outside_the_tables_use_the_rule() -> None:
    for which, in_channels, out_channels in (("forward", 37, 11), ("dgrad", 37, 11), ("wgrad", 37, 300)):
        arguments = which, in_channels, out_channels, 5000, HALF, (9, 0)
        assert choose(*arguments, tf32=True) == rule(*arguments, tf32=True)


@pytest.mark.parametrize(
    ("dtype", "capability", "pixels", "tf32"),
    [
        (torch.float32, (9, 0), 4096, False),
        (torch.float64, (9, 0), 4096, True),
        (HALF, (7, 5), 4096, True),
        (HALF, (9, 0), 0, True),
        (HALF, (9, 0), 1 << 26, True),
    ],
)
def test_layers_without_kernels_use_torch(
    dtype: torch.dtype, capability: tuple[int, int], pixels: int, tf32: bool
) -> None:
    assert choose("forward", 64, 32, pixels, dtype, capability, tf32=tf32) is None
    assert choose("forward", 64, 32, 4096, torch.float32, (9, 0), tf32=True) is not None


def test_the_nearest_size_is_taken(write_table: WriteTable) -> None:
    write_table("sm_90.json", [of_layer(1024, 1), of_layer(16384, 2), of_layer(65536, None)])
    found = candidates("forward", 64, 32, 4096, HALF, (9, 0), tf32=True)
    assert [chosen(pixels) for pixels in (1, 1024, 4000)] == [found[1]] * 3
    assert [chosen(pixels) for pixels in (4200, 32000)] == [found[2]] * 2
    assert [chosen(pixels) for pixels in (33000, 1 << 24)] == [None] * 2


def test_the_nearest_architecture_below_is_taken(write_table: WriteTable) -> None:
    write_table("sm_80.json", [of_layer(nth=None)])
    write_table("sm_90.json", [of_layer()])
    write_table("sm_120.json", [])
    by_rule = candidates("forward", 64, 32, 4096, HALF, (12, 0), tf32=True)[0]
    in_table = candidates("forward", 64, 32, 4096, HALF, (9, 0), tf32=True)[1]
    found = {capability: chosen(capability=capability) for capability in CAPABILITIES}
    assert found[8, 0] is found[8, 6] is found[8, 9] is None
    assert found[9, 0] == found[10, 0] == found[10, 3] == in_table
    assert found[12, 0] == found[13, 0] == by_rule


def test_tiles_that_may_spill_are_chosen_only_where_measured(write_table: WriteTable) -> None:
    def found(capability: tuple[int, int]) -> Config | None:
        return choose("dgrad", 512, 256, 4096, torch.float32, capability, tf32=True)

    shape = "dgrad", 512, 256, 4096
    (large,) = set(candidates(*shape, torch.float32, (9, 0), tf32=True, spilling=True)) - set(
        candidates(*shape, torch.float32, (9, 0), tf32=True)
    )
    assert large.block[:2] == (128, 256)
    write_table("sm_90.json", [Entry(*shape, "tf32", large).to_dict()])
    assert found((9, 0)) == CUDNN["dgrad"]
    write_table("sm_90.json", [Entry(*shape, "tf32", large, 0.5, 0.75).to_dict()])
    assert found((9, 0)) == large
    assert found((10, 0)) == CUDNN["dgrad"]


def test_without_tables_the_rule_is_used(write_table: WriteTable) -> None:
    assert chosen() == candidates("forward", 64, 32, 4096, HALF, (9, 0), tf32=True)[0]


DAMAGED: dict[str, dict[str, Any]] = {
    "no such pass": {"pass": "sideways"},
    "no such dtype": {"dtype": "bfloat16"},
    "a list for a dtype": {"dtype": []},
    "a number as text": {"pixels": "4096"},
    "half a pixel": {"pixels": 0.5},
    "no pixels": {"pixels": 0},
    "no block": {"block": None},
    "a block of words": {"block": ["a", "b", "c"]},
    "no warps": {"num_warps": 0},
    "nothing measured": {"estimate": False},
    "another field": {"color": "red"},
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_entry_is_left_out(what: str, write_table: WriteTable, caplog: pytest.LogCaptureFixture) -> None:
    path = write_table("sm_90.json", [{**of_layer(4096, 2), **DAMAGED[what]}, 3, {}, of_layer(8192, 1)])
    assert chosen() == candidates("forward", 64, 32, 8192, HALF, (9, 0), tf32=True)[1]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert f"{path}: entry 0 is ignored" in caplog.text


@pytest.mark.parametrize(
    "change", [{"kernel": "none"}, {"block": [128, 64, 2048]}, {"block": [7, 7, 7]}, {"num_warps": 3}, {"split": 10**9}]
)
def test_configurations_outside_the_candidates_are_never_launched(
    change: dict[str, Any], write_table: WriteTable
) -> None:
    write_table("sm_90.json", [{**of_layer(), **change}])
    assert chosen() == candidates("forward", 64, 32, 4096, HALF, (9, 0), tf32=True)[0]


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b'{"entries": 3}', b"\xff\xfe", b"[" * 100_000])
def test_file_that_is_no_table_is_ignored(
    data: bytes, write_table: WriteTable, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_table("sm_90.json", data)
    assert chosen() == candidates("forward", 64, 32, 4096, HALF, (9, 0), tf32=True)[0]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text


def test_flipped_bits_never_crash_the_first_call(write_table: WriteTable, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    whole = json.dumps({"measured": None, "entries": [of_layer(pixels) for pixels in (1024, 4096)]}).encode()
    valid = {None, *candidates("forward", 64, 32, 4096, HALF, (9, 0), tf32=True)}
    for number in range(MUTATIONS):
        write_table("sm_90.json", bytes(mutated(whole, number)))
        assert chosen() in valid


def test_entries_come_back_as_they_were() -> None:
    config = Config("wgrad", (64, 64, 64), 4, 3, 7)
    for entry in (
        Entry("wgrad", 64, 32, 4096, "tf32", config, 0.5, 0.75),
        Entry("wgrad", 64, 32, 4096, "16-bit", None),
    ):
        assert Entry.from_dict(json.loads(json.dumps(entry.to_dict()))) == entry
    with pytest.raises(ValueError, match=r"missing.*pixels"):
        Entry.from_dict({name: value for name, value in entry.to_dict().items() if name != "pixels"})


def maps(*shape: int) -> Any:
    return SimpleNamespace(is_cuda=True, shape=shape, dtype=HALF, device="cuda:0")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Return the configurations that the ops request on a GPU."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(passes, "has_triton", lambda: True)
    monkeypatch.setattr(passes, "_capability", lambda device: (9, 0))
    monkeypatch.setattr(kernel_configs, "tf32_allowed", lambda: False)
    monkeypatch.setattr(kernel_choice, "choose", lambda *given, **named: calls.append((*given, named)))
    return calls


def test_ops_look_up_the_layer_and_its_low_resolution(asked: list[tuple[Any, ...]]) -> None:
    passes._config("forward", maps(2, 64, 5, 4), 64, 32)
    passes._config("dgrad", maps(2, 32, 10, 8), 64, 32)
    size = 64, 32, 40, HALF, (9, 0), {"tf32": False}
    assert asked == [("forward", *size), ("dgrad", *size)]


def test_ops_look_up_nothing_where_no_kernel_runs(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes._config("forward", torch.zeros(2, 64, 5, 4), 64, 32)
    open_size: Any = ShapeEnv().create_unbacked_symint()  # as where torch.compile traces for any batch
    passes._config("forward", maps(open_size, 64, 5, 4), 64, 32)
    monkeypatch.setenv("PREIMAGE_UPCONV", "plain")
    passes._config("forward", maps(2, 64, 5, 4), 64, 32)
    monkeypatch.setenv("PREIMAGE_UPCONV", "auto")
    monkeypatch.setattr(passes, "has_triton", lambda: False)
    passes._config("forward", maps(2, 64, 5, 4), 64, 32)
    assert asked == []
