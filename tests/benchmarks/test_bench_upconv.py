"""The benchmarks of the up-convolution and of training, tiny: their tables, and that wrong contenders are noticed."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from paths import ROOT
from preimage.inverters import TwoStreamConfig, presets

BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not here")

ROW = ["contender", "median", "min", "ratio", "spread", "remark"]
SETTINGS = ["net", "layer", "dtype", "batch"]


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """The benchmarks set global switches."""
    threads = torch.get_num_threads()
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    yield
    torch.set_num_threads(threads)
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns of a CSV, and its rows."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or []), list(reader)


def spoil(monkeypatch: pytest.MonkeyPatch, part: ModuleType, name: str, what: str) -> None:
    """Makes a kind of contender wrong where it is measured: its output a little too high, or a gradient too long."""
    kind = getattr(part, name)

    class Spoilt(kind):  # type: ignore[misc,valid-type]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = super().forward(x)
            return y + 0.02 if what == "y" else y

        def logical(self, gradient: torch.Tensor) -> torch.Tensor:
            right: torch.Tensor = super().logical(gradient)
            return 1.5 * right if what == "dw0" else right

    monkeypatch.setattr(part, name, Spoilt)


@pytest.fixture
def cpu_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import _upconv_cpu  # noqa: PLC0415 - only where the benchmarks are

    monkeypatch.setattr(_upconv_cpu, "matmul_rate", lambda dtype, threads: 1e8)
    return _upconv_cpu.CpuPart(tmp_path, 0.0, [1])


def test_cpu_rows(cpu_part: Any, tmp_path: Path) -> None:
    import _upconv_tables as tables  # noqa: PLC0415

    cpu_part.measure("tiny", (2,), naive=True, layers=True)
    columns, rows = read(tmp_path / "upconv-cpu.csv")
    assert columns == ["date", "machine", "load", "versions", *SETTINGS, "threads", "pass", *ROW]
    assert cpu_part.failures == []
    found = {(row["layer"], row["dtype"], row["pass"], row["contender"]) for row in rows}
    names = ("preimage", "torch, default layout", "torch, channels_last", "floor")
    for layer in ("whole", "16→8 at 2²", "8→3 at 4²"):
        for dtype in ("bfloat16", "float32"):
            for which in ("forward", "forward+backward"):
                assert {(layer, dtype, which, name) for name in names} <= found
                assert ((layer, dtype, which, "zeros inserted") in found) == (layer == "whole")
    assert all(float(row["median"]) > 0 for row in rows)
    assert {row["ratio"] for row in rows if row["contender"] == "preimage"} == {"1.00"}
    # 50 FLOPs for each input and output channel and pixel, in one pass or three, at 1e8 a millisecond.
    flops = 50 * 2 * (16 * 8 * 4 + 8 * 3 * 16)
    floors = {
        row["pass"]: float(row["median"]) for row in rows if (row["layer"], row["contender"]) == ("whole", "floor")
    }
    assert floors == pytest.approx({"forward": flops / 1e8, "forward+backward": 3 * flops / 1e8}, abs=1e-4)
    grids = tables.cpu_tables(tables.newest(tmp_path / "upconv-cpu.csv"))
    assert [len(grid) for grid in grids.values()] == [1 + 4, 1 + 8]
    assert "16→8 at 2²" in tables.plain(grids) and "| tiny | bfloat16 | 2 |" in tables.markdown(grids)


CPU_NAMES = {
    "Ours": ["preimage"],
    "Plain": ["torch, default layout", "torch, channels_last"],
    "Naive": ["zeros inserted"],
}


@pytest.mark.parametrize("what", ["y", "dw0"])
@pytest.mark.parametrize("name", CPU_NAMES)
def test_cpu_notices_a_wrong_contender(
    name: str, what: str, cpu_part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import _upconv_cpu  # noqa: PLC0415

    spoil(monkeypatch, _upconv_cpu, name, what)
    cpu_part.measure("tiny", (1,), naive=True, layers=False)
    _, rows = read(tmp_path / "upconv-cpu.csv")
    wrong = {(row["contender"], row["pass"]) for row in rows if row["remark"].startswith(f"WRONG: {what} is")}
    passes = ("forward", "forward+backward") if what == "y" else ("forward+backward",)
    assert wrong == {(contender, which) for contender in CPU_NAMES[name] for which in passes}
    assert not any(row["median"] for row in rows if (row["contender"], row["pass"]) in wrong)
    assert len(cpu_part.failures) == 2 * len(wrong)  # in both dtypes


def gpu_part(folder: Path) -> Any:
    """The GPU's part, rehearsed."""
    import _upconv_gpu  # noqa: PLC0415

    return _upconv_gpu.GpuPart(folder, torch.device("cpu"), quick=True)


def test_gpu_rows_in_rehearsal(tmp_path: Path) -> None:
    import _upconv_tables as tables  # noqa: PLC0415

    part = gpu_part(tmp_path)
    for layers in (False, True):
        part.measure("tiny", torch.float32, layers=layers)
    columns, rows = read(tmp_path / "upconv-gpu.csv")
    assert columns == ["date", "gpu", "load", "versions", *SETTINGS, "pass", *ROW]
    assert part.failures == []
    for layer in ("whole", "16→8 at 2²", "8→3 at 4²"):
        for which in ("forward", "forward+backward"):
            names = [row["contender"] for row in rows if (row["layer"], row["pass"]) == (layer, which)]
            assert names == ["preimage", "torch", "torch.compile", "cuDNN, sub-pixel", "floor"]
    whole, layers_grid = tables.gpu_tables(tables.newest(tmp_path / "upconv-gpu.csv")).values()
    assert {row[0] for row in whole[1:]} == {"tiny", "RGB", "Co = 8"}
    assert not any("met" in cell or "missed" in cell for row in whole for cell in row)  # it was none
    assert len(layers_grid) == 1 + 4


@pytest.mark.parametrize(("name", "contender"), [("Ours", "preimage"), ("SubPixel", "cuDNN, sub-pixel")])
def test_gpu_part_notices_a_wrong_contender(
    name: str, contender: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import _upconv_gpu  # noqa: PLC0415

    spoil(monkeypatch, _upconv_gpu, name, "y")
    part = gpu_part(tmp_path)
    part.measure("tiny", torch.float32, layers=False)
    _, rows = read(tmp_path / "upconv-gpu.csv")
    wrong = [row for row in rows if "WRONG: WrongResultError: y is" in row["remark"]]
    assert [row["contender"] for row in wrong] == [contender] * 2
    assert not any(row["median"] for row in wrong)
    assert len(part.failures) == 2
    assert any(row["median"] for row in rows if row["contender"] == "torch")


def test_targets_are_judged(tmp_path: Path) -> None:
    import _upconv_tables as tables  # noqa: PLC0415

    about = {"layer": "whole", "dtype": "bfloat16", "batch": "8", "threads": "2", "pass": "forward", "net": "H"}
    common = {**about, "date": "today", "gpu": "a GPU", "spread": "0.01", "remark": "", "min": "1"}
    times = {"preimage": "1.0", "torch": "1.6", "torch.compile": "1.2", "torch, default layout": "1.3"}
    times["torch, channels_last"] = "1.1"
    rows = [{**common, "contender": name, "median": time, "ratio": time} for name, time in times.items()]
    assert tables.gpu_tables(rows)["Classes of layers and whole decoders"][1][-2:] == [
        "1.50 / 2.30: met",
        "1.30 / 2.10: missed",
    ]
    assert tables.cpu_tables(rows)["Whole decoders"][1][-1] == "≥ 1.25 met, ≥ 1.15 missed"


def test_tables_come_into_a_document(tmp_path: Path, cpu_part: Any) -> None:
    import _upconv_tables as tables  # noqa: PLC0415

    document, results = tmp_path / "page.md", tmp_path / "upconv-cpu.csv"
    document.write_text("before\n<!-- upconv-cpu: written by benchmarks -->\nold\n<!-- end of upconv-cpu -->\nafter\n")
    assert not tables.write_into(document, "upconv-cpu", tables.cpu_tables, tmp_path / "none.csv")
    cpu_part.measure("tiny", (1,), naive=False, layers=False)
    assert tables.write_into(document, "upconv-cpu", tables.cpu_tables, results)
    text = document.read_text()
    assert text.startswith("before\n<!--") and text.endswith("-->\nafter\n") and "old" not in text
    assert "| tiny | float32 | 1 | 1 | forward+backward |" in text
    with pytest.raises(SystemExit, match="lines"):
        tables.write_into(document, "another", tables.cpu_tables, results)


def test_the_document_has_the_marks() -> None:
    text = (ROOT / "docs" / "upconv.md").read_text(encoding="utf-8")
    for name in ("upconv-cpu", "upconv-gpu"):
        begin, end = text.index(f"<!-- {name}: written by benchmarks -->"), text.index(f"<!-- end of {name} -->")
        assert begin < end


def test_turns_are_shuffled_and_paired() -> None:
    from _turns import Times, in_turns  # noqa: PLC0415

    calls: list[str] = []
    times = in_turns({name: lambda name=name: calls.append(name) for name in "abc"}, 0.0, least=9)  # type: ignore[misc]
    rounds = ["".join(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert len(rounds) == 10 and len(set(rounds)) > 2
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert {len(measured.milliseconds) for measured in times.values()} == {9}
    drifting = Times((1.0, 2.0, 4.0, 8.0, 16.0))
    assert Times(tuple(3 * time for time in drifting.milliseconds)).ratio(drifting) == 3.0
    assert Times((5.0, 1.0, 3.0)).median == 3.0 and Times((5.0, 1.0, 3.0)).least == 1.0


TINY = TwoStreamConfig(context=("c5/2 4", "up 4"), detail=("c5/1 4",), joint=("c3/1 8", "up 8", "up 4", "up 3"))


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    import _training_setup  # noqa: PLC0415

    monkeypatch.setattr(_training_setup, "CROPS", 2)
    monkeypatch.setitem(presets._PRESETS["hog"], "tiny", TINY)
    return str(_training_setup.write_crops(tmp_path / "images"))


TRAINING = ["preset", "image_size", "batch", "dtype", "threads", "contender", "images_per_second"]


@pytest.mark.parametrize("wrong", [False, True])
def test_training_rehearsed(wrong: bool, photographs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import _training_gpu  # noqa: PLC0415
    from _training_plain import PlainNetwork  # noqa: PLC0415
    from _training_setup import Scale  # noqa: PLC0415

    if wrong:
        right = PlainNetwork.forward
        monkeypatch.setattr(PlainNetwork, "forward", lambda self, features: right(self, features) + 0.5)
    options = argparse.Namespace(device="rehearsal", results=tmp_path)
    part = _training_gpu.GpuPart(options, photographs, tmp_path / "run", Scale("tiny", 32, 2, 1, 0.0))
    part.measure()
    columns, rows = read(tmp_path / "training-gpu.csv")
    assert columns[4:] == [*TRAINING, "median", "min", "ratio", "spread", "waiting", "remark"]
    found = {row["contender"]: row for row in rows}
    ours, data = found.pop("preimage"), found.pop("preimage, its images prepared anew")
    assert float(ours["images_per_second"]) > 0 and 0 <= float(data["waiting"]) <= 1
    assert found.keys() == {"torch", "torch.compile"}
    assert len(part.failures) == (2 if wrong else 0)
    for row in found.values():
        assert row["remark"].startswith("WRONG: its mean loss") == wrong == (not row["median"])


def test_plain_network_is_the_inverters(photographs: str, tmp_path: Path) -> None:
    from _training_plain import PlainNetwork  # noqa: PLC0415
    from _training_setup import Scale, config, train_state  # noqa: PLC0415

    made, _ = train_state(config(Scale("tiny", 32, 2, 1, 0.0), photographs, tmp_path, "cpu", 1))
    features = torch.rand(2, 31, 4, 6)
    with torch.no_grad():
        torch.testing.assert_close(PlainNetwork(made.model)(features), made.model.reconstruct(features))


def test_training_on_the_cpu(photographs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import _training_cpu  # noqa: PLC0415
    from _training_setup import Scale  # noqa: PLC0415

    monkeypatch.setattr(_training_cpu, "ROUNDS", 1)
    options = argparse.Namespace(results=tmp_path, threads=1)
    failures = _training_cpu.measure(options, photographs, tmp_path / "run", Scale("compact", 64, 1, 1, 0.0))
    columns, rows = read(tmp_path / "training-cpu.csv")
    assert columns[4:] == [*TRAINING, "median", "min", "ratio", "spread", "waiting", "remark"]
    assert [row["contender"] for row in rows] == ["preimage", "preimage, torch's up-convolutions"]
    assert failures == [] and rows[0]["ratio"] == "1.00"
    assert all(float(row["images_per_second"]) > 0 and 0 <= float(row["waiting"]) <= 1 for row in rows)


def test_losses_that_part_are_noticed() -> None:
    from _training_setup import disagreements  # noqa: PLC0415

    losses = {"preimage": 0.2, "near": 0.205, "far": 0.22, "lost": float("nan")}
    assert disagreements(losses).keys() == {"far", "lost"}
