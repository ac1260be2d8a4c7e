"""Test that benchmarks with tiny settings write their CSVs and reject wrong contenders. No time is asserted."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import skimage.feature
import torch

import preimage
import vlfeat
from paths import ROOT
from preimage.inverters.architectures import config_to_dict
from preimage.inverters.onnx_graph import WEIGHTS
from preimage.ops.upconv import kernel_choice
from preimage.ops.upconv.kernel_choice import DTYPES, Entry, read_table
from preimage.ops.upconv.kernel_configs import IMAGE_PASSES, PASSES, Config
from preimage.representations.hog import Hog
from preimage.representations.sift import Sift
from ray_warnings import ignore_ray_warnings
from tolerances import ONNX_FLOAT16

BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
sys.path.insert(0, str(BENCHMARKS))

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not here")


@pytest.fixture(autouse=True)
def torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo the global switches that benchmarks set, and hide presets that other tests register."""
    monkeypatch.setenv("PREIMAGE_UPCONV", "auto")
    for kind in (Hog, Sift):
        monkeypatch.setattr(kind, "presets", {name: fields for name, fields in kind.presets.items() if name != "tiny"})
    threads, cudnn, matmul = torch.get_num_threads(), torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    yield
    torch.set_num_threads(threads)
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV, whose columns must be those of the committed one of the same name."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if (RESULTS / path.name).exists():
        assert reader.fieldnames == (RESULTS / path.name).read_text().splitlines()[0].split(",")
    return rows


def test_turns_alternate_and_ratios_are_of_the_same_rounds() -> None:
    from _harness import Times, take_turns  # noqa: PLC0415 - only where the benchmarks are

    calls: list[str] = []
    runners = {name: functools.partial(calls.append, name) for name in "abc"}
    times = take_turns(runners, seconds=0, min_rounds=2, turn=1e-5)
    assert [name for name, _ in itertools.groupby(calls)] == ["a", "b", "c"] * 2
    assert {len(found.rounds) for found in times.values()} == {2}
    drifting = Times((1.0, 2.0, 4.0, 8.0, 16.0))
    assert Times(tuple(3 * time for time in drifting.rounds)).ratio(drifting) == 3.0


def test_table_appends_and_refuses_other_columns(tmp_path: Path) -> None:
    from _harness import Table, newest_rows  # noqa: PLC0415

    path = tmp_path / "new" / "table.csv"
    for _ in range(2):
        table = Table(path, "machine", "one, with a comma", ("name", "milliseconds"))
        table.add(name="ours", milliseconds=1.25)
    assert list(newest_rows(path)[0]) == ["date", "machine", "load", "versions", "name", "milliseconds"]
    assert [(row["machine"], row["milliseconds"]) for row in newest_rows(path)] == [("one, with a comma", "1.25")] * 2
    with pytest.raises(ValueError, match="ratio"):
        table.add(ratio=2.0)
    with pytest.raises(SystemExit, match="machine"):
        Table(path, "gpu", "another", ("name",))


@pytest.mark.parametrize("device", ["cpu", "rehearsal"])
def test_descriptors(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_descriptors as bench  # noqa: PLC0415

    compute = bench.Descriptor.compute

    def spoiled(self: Any, images: Any, **options: Any) -> Any:
        features = compute(self, images, **options)
        return features * 1.01 if self.name == "lbp" else features

    monkeypatch.setattr(bench, "image_sets", lambda run: [bench.ImageSet("tiny", bench.rolled(2, 80, 72), run)])
    monkeypatch.setattr(bench.Descriptor, "compute", spoiled)
    assert bench.main(["--quick", "-o", str(tmp_path), "--device", device, "--only", "hog,lbp,sift,sift_grid"]) == 1
    rows = read(tmp_path / f"descriptors-{'cpu' if device == 'cpu' else 'gpu'}.csv")
    timed = {(row["descriptor"], row["implementation"]) for row in rows if row["images"] == "tiny"}
    assert {descriptor for descriptor, name in timed if name.startswith("preimage")} == {"hog"}
    assert all(float(row["milliseconds"]) > 0 for row in rows)
    if device == "cpu":
        assert {row["descriptor"] for row in read(tmp_path / "keypoints-cpu.csv")} == {"sift", "sift_grid"}
    else:
        assert ("hog", "plain torch gray f32") in timed


def test_hog_of_scikit_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_hog_skimage as bench  # noqa: PLC0415

    chosen = {name: value for name, value in bench.options().items() if name.startswith(("visualize", "block_norm=L2"))}
    monkeypatch.setattr(bench, "options", lambda: chosen)
    monkeypatch.setattr(bench, "SIDES", (32,))
    monkeypatch.setattr(bench, "photographs_of", lambda folder, count: [bench.skimage.data.astronaut()[:70, 150:221]])
    assert bench.main(["--quick", "-o", str(tmp_path)]) == 0
    exact, speed = (read(tmp_path / f"hog-skimage-{name}-cpu.csv") for name in ("exactness", "speed"))
    assert {row["images"] for row in exact} == {"1 photographs", "3 odd sizes"}
    assert all(0 <= float(row["max_difference"]) <= 1e-6 and int(row["count"]) > 0 for row in exact)
    assert {row["threads"] for row in speed} == {"1", "2"} and all(float(row["ratio"]) > 0 for row in speed)
    original = skimage.feature.hog
    monkeypatch.setattr(bench.feature, "hog", lambda *image, **settings: 1.01 * original(*image, **settings))
    monkeypatch.setattr(bench, "options", lambda: {"block_norm=L2-Hys": chosen["block_norm=L2-Hys"]})
    assert bench.main(["--quick", "-o", str(tmp_path / "wrong")]) == 1


@pytest.mark.parametrize("device", ["cpu", "rehearsal"])
def test_upconv(device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import bench_upconv as bench  # noqa: PLC0415

    arguments = ["--quick", "-o", str(tmp_path), "--device", device, "--nets", "tiny", "--threads", "1", "--float32"]
    assert bench.main(arguments) == 0
    rows = read(tmp_path / f"upconv-{'cpu' if device == 'cpu' else 'gpu'}.csv")
    others = ["torch, default layout", "torch, channels_last"]
    others = others if device == "cpu" else ["torch", "cuDNN, sub-pixel"]
    assert [row["contender"] for row in rows[: len(others) + 2]] == ["preimage", *others, "floor"]
    assert all(float(row["median"]) > 0 for row in rows)
    assert bench.main(["-o", str(tmp_path), "--show"]) == 0
    assert capsys.readouterr().out.count("| tiny | float32 |") == 2 * 2  # both passes, after the run and once more


@pytest.mark.parametrize("wrong", ["y", "dw0"])
def test_upconv_refuses_a_wrong_contender(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_upconv as bench  # noqa: PLC0415

    right = bench.subpixel_layer

    def spoiled(x: torch.Tensor, *parameters: Any) -> torch.Tensor:
        y = right(x, *parameters)
        return y + 0.05 if wrong == "y" else y + 0.5 * (y - y.detach())  # the value alone, or the gradient alone

    monkeypatch.setattr(bench, "subpixel_layer", spoiled)
    assert bench.main(["-o", str(tmp_path), "--device", "rehearsal"]) == 1
    rows = [row for row in read(tmp_path / "upconv-gpu.csv") if row["contender"] == "cuDNN, sub-pixel"]
    refused = [row for row in rows if row["remark"].startswith("WRONG")]
    assert {row["pass"] for row in refused} == set(bench.PASSES if wrong == "y" else bench.PASSES[1:])
    assert not any(row["median"] for row in refused)


@pytest.mark.parametrize("device", ["cpu", "rehearsal"])
def test_training(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_training as bench  # noqa: PLC0415

    config, right, gpu = bench.TrainConfig, bench.PlainNetwork.forward, device == "rehearsal"
    monkeypatch.setattr(Hog, "presets", {**Hog.presets, "tiny": config_to_dict(bench.TINY)})
    monkeypatch.setattr(bench, "TrainConfig", lambda **given: config(**{**given, "preset": "tiny", "size": 32}))
    write_crops = bench.write_crops
    monkeypatch.setattr(bench, "write_crops", lambda folder, count: write_crops(folder, 2))
    monkeypatch.setattr(bench.PlainNetwork, "forward", lambda self, features: right(self, features) + 0.5)
    assert bench.main(["--quick", "--device", device, "-o", str(tmp_path), "--threads", "1"]) == int(gpu)
    rows = read(tmp_path / f"training-{'gpu' if gpu else 'cpu'}.csv")
    timed = [row["contender"] for row in rows if row["median"]]
    assert timed == [
        bench.OURS,
        *([] if gpu else [bench.TORCH_UPCONV]),
        bench.WITH_DATA,
        *([bench.STORED] if gpu else []),
    ]
    refused = {row["contender"] for row in rows if row["remark"].startswith("WRONG: the mean loss")}
    assert refused == ({bench.EAGER} if gpu else set())
    assert 0 <= float(rows[-1]["waiting"]) <= 1


def test_compiled_contenders(tmp_path: Path) -> None:
    import bench_training  # noqa: PLC0415
    import bench_upconv  # noqa: PLC0415

    options = ["--compile", "--device", "rehearsal", "-o", str(tmp_path)]
    for bench, compiled in ((bench_upconv, "torch.compile"), (bench_training, bench_training.COMPILED)):
        assert bench.main(options) == 0
        rows = read(tmp_path / f"{bench.__name__.removeprefix('bench_')}-gpu.csv")
        assert {row["contender"] for row in rows if row["median"]} - {bench_upconv.FLOOR} == {"preimage", compiled}


def test_extraction_and_commands(tmp_path: Path) -> None:
    import bench_commands  # noqa: PLC0415
    import bench_extraction  # noqa: PLC0415

    assert bench_extraction.main(["--quick", "--only", "hog", "-o", str(tmp_path)]) == 0
    assert bench_commands.main(["--quick", "-o", str(tmp_path)]) == 0
    for name in ("extraction-cpu.csv", "commands-cpu.csv", "inversion-cpu.csv", "store-cpu.csv"):
        assert read(tmp_path / name)


def test_explore(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    import bench_explore  # noqa: PLC0415

    assert bench_explore.main(["--quick", "-o", str(tmp_path), "--inverter", "hog-compact"]) == 0
    rows = read(tmp_path / "explore-cpu.csv")
    assert [row["way"] for row in rows] == ["library", "page"] * 8
    assert len({row["change"] for row in rows}) == 8


@pytest.mark.skipif(not (ROOT / "build/web/build.json").exists(), reason="no browser demo in build/web")
def test_web(tmp_path: Path) -> None:
    pytest.importorskip("playwright.sync_api")
    import bench_web  # noqa: PLC0415

    assert bench_web.main(["--quick", "-o", str(tmp_path)]) == 0
    (row,) = read(tmp_path / "web-cpu.csv")
    assert float(row["network"]) > 0 and float(row["compressed"]) < float(row["loaded"])


@pytest.mark.parametrize(
    ("options", "file"), [(["--quick"], "samples-cpu"), (["--device", "rehearsal"], "samples-gpu")]
)
def test_samples(tmp_path: Path, options: list[str], file: str) -> None:
    import bench_samples  # noqa: PLC0415

    assert bench_samples.main([*options, "-o", str(tmp_path), "--threads", "1"]) == 0
    rows = read(tmp_path / f"{file}.csv")
    assert [row["contender"] for row in rows] == list(bench_samples.NAMES)
    assert rows[0]["ratio"] == "1"


def test_sklearn(tmp_path: Path) -> None:
    import bench_sklearn  # noqa: PLC0415

    assert bench_sklearn.main(["--quick", "-o", str(tmp_path)]) == 0
    rows = read(tmp_path / "sklearn-cpu.csv")
    assert [(row["dataset"], row["transformer"]) for row in rows] == [
        (name, called) for name, (_, transformers) in bench_sklearn.SETS.items() for called in transformers
    ]
    assert all(0 < float(row["accuracy"]) <= 1 for row in rows)


def test_export(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    import bench_export  # noqa: PLC0415

    assert bench_export.main(["--quick", "-o", str(tmp_path), "--inverter", "hog-compact", "--threads", "1"]) == 0
    rows = read(tmp_path / "export-cpu.csv")
    assert [row["contender"] for row in rows] == ["torch", *(f"onnxruntime {weights}" for weights in WEIGHTS)]
    assert all(float(row["error"]) < ONNX_FLOAT16 for row in rows[1:])


@pytest.mark.skipif(vlfeat.library() is None, reason="libvl.so.1 (package libvlfeat1) is not installed")
def test_cyvlfeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_cyvlfeat as bench  # noqa: PLC0415

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the benchmark sets it
    monkeypatch.setattr(bench, "SECONDS", 0.0)
    monkeypatch.setattr(bench, "CALLS", [("hog", {"cell_size": 8}), ("sift", {"compute_descriptor": True})])
    assert bench.main(["--quick", "-o", str(tmp_path)]) == 0
    rows = read(tmp_path / "cyvlfeat-cpu.csv")
    assert [row["function"] for row in rows] == ["hog", "sift"]
    assert all(float(row[column]) > 0 for row in rows for column in ("milliseconds", "vlfeat_milliseconds", "ratio"))
    monkeypatch.setitem(bench.OURS, "hog", lambda image, **options: image)
    assert bench.main(["--quick", "-o", str(tmp_path)]) == 1


@pytest.mark.nightly
def test_distributed(tmp_path: Path) -> None:
    """One process with one thread and with two, and two processes."""
    import bench_distributed  # noqa: PLC0415

    assert bench_distributed.main(["--quick", "-o", str(tmp_path)]) == 0
    rows = read(tmp_path / "distributed-cpu.csv")
    assert [(row["processes"], row["threads"]) for row in rows] == [("1", "1"), ("1", "2"), ("2", "1")]
    assert rows[1]["speed"] == "1"


def test_scale(tmp_path: Path) -> None:
    """One job by one process with one thread and with two, and by two processes."""
    import bench_scale  # noqa: PLC0415

    assert bench_scale.main(["--quick", "--only", "extract hog", "-o", str(tmp_path)]) == 0
    rows = read(tmp_path / "scale-cpu.csv")
    assert [(row["job"], row["contender"]) for row in rows] == [
        ("extract hog", name) for name in bench_scale.CONTENDERS
    ]
    assert all(int(row["images"]) == 8 and float(row["bytes"]) > 0 for row in rows)
    assert rows[0]["ratio"] == "1"


@pytest.mark.nightly
@ignore_ray_warnings
def test_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    import bench_cluster  # noqa: PLC0415

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which the benchmark changes
    assert bench_cluster.main(["--quick", "--workers", "1", "-o", str(tmp_path), "--disk", str(tmp_path)]) == 0
    rows = read(tmp_path / "cluster-cpu.csv")
    assert [(row["engine"], row["workers"]) for row in rows] == [("local", ""), ("ray", "1")]
    assert rows[0]["gigabytes"] == rows[1]["gigabytes"]


def test_what_extraction_is_forked_from_does_not_start_cuda() -> None:
    import bench_extraction  # noqa: PLC0415

    refused = "def refuse(*_): raise AssertionError('CUDA is started')"
    names = ("is_available", "device_count", "_lazy_init")
    lines = ["import torch", refused, *(f"torch.cuda.{name} = refuse" for name in names)]
    lines += [f"import {module}" for module in bench_extraction.PRELOADED]
    package = Path(preimage.__file__).resolve().parents[1]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (package, BENCHMARKS)))}
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, env=variables, timeout=120)


def test_rows_as_lines_of_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import bench_commands  # noqa: PLC0415

    assert bench_commands.main(["--device", "rehearsal", "--json", "-o", str(tmp_path)]) == 0
    (row,) = read(tmp_path / "inversion-gpu.csv")
    printed = json.loads(next(line for line in capfd.readouterr().out.splitlines() if line.startswith("{")))
    assert printed.pop("table") == "inversion-gpu"
    assert printed.items() <= row.items() and printed["device"] == "cpu"


def test_plot_shows_the_newest_run(tmp_path: Path) -> None:
    import plot_descriptors as plot  # noqa: PLC0415

    assert plot.main(["-o", str(tmp_path / "plot.png")]) == 0
    bars = plot.bars(plot.newest_rows(RESULTS / "descriptors-cpu.csv"))
    assert set(bars) == set(plot.TITLES.values()) and ("VLFeat 0.9.21", 1.0) in bars["HOG"]


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("which", PASSES)
def test_tuning_refuses_wrong_kernels(which: str, name: str) -> None:
    pytest.importorskip("triton")
    import tune_upconv as tune  # noqa: PLC0415

    class Problem(tune.Problem):  # type: ignore[misc,name-defined]
        def run(self, config: Config | None, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            """Return the exact result rounded to the dtype, spoiled as the kernel's name says."""
            exact = super().run(None, tuple(x.double() if x.is_floating_point() else x for x in inputs))
            outputs = [y.to(torch.float32 if y.dim() == 1 else inputs[0].dtype).contiguous() for y in exact]
            flat = outputs[-1].view(-1)
            if config and config.kernel == "one place":
                flat[len(flat) // 2] += 0.3 * flat.float().square().mean().sqrt()
            elif config:
                flat *= {"right": 1.0, "scaled": 1.02, "NaN": float("nan")}[config.kernel]
            return tuple(outputs) if config else exact

    problem = Problem(which, 4, 3 if which in IMAGE_PASSES else 6, 6, 8)
    kernels = [Config(kernel, (1,), 4, 3) for kernel in ("right", "scaled", "NaN", "one place")]
    right, faults = tune.right_candidates(problem, name, "cpu", kernels)
    assert right == kernels[:1] and set(faults) == set(kernels[1:])
    assert tune.fastest({None: 1.0, right[0]: 0.5}) == right[0]
    assert tune.fastest({None: 1.0, right[0]: 0.99}) is None  # noise


def test_tables_of_the_package_are_up_to_date(tmp_path: Path) -> None:
    """`tune_upconv.py --estimates` leaves them as they are: they have every layer, and the rule's choices."""
    import tune_upconv as tune  # noqa: PLC0415

    paths = list(kernel_choice.architectures().values())
    for path in paths:
        shutil.copy(path, tmp_path)
    names = [path.stem.removeprefix("sm_") for path in paths]
    assert tune.main(["--output", str(tmp_path), "--estimates", *names]) == 0
    for path in paths:
        assert (tmp_path / path.name).read_text() == path.read_text()


def test_measurements_replace_estimates(tmp_path: Path) -> None:
    import tune_upconv as tune  # noqa: PLC0415

    def entry(pixels: int, *times: float) -> Entry:
        return Entry("forward", 64, 32, pixels, "16-bit", Config("phase", (64, 32, 32), 4, 3), *times)

    path = tmp_path / "sm_90.json"
    tune.Table(path, None).put([entry(64), entry(4096)])
    tune.Table(path, {"gpu": "GPU 1", "date": "2026-01-02"}).put([entry(1024, 0.5, 1.0)])
    assert read_table(path)[1] == [entry(1024, 0.5, 1.0)]


def test_tuning_writes_the_table_of_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: kernels run in Triton's interpreter, and a stand-in for the timer prefers the last candidate."""
    pytest.importorskip("triton")
    import tune_upconv as tune  # noqa: PLC0415

    class Pool:
        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None: ...
        def map(self, function: object, groups: list[Any]) -> list[Any]:
            assert len({(config.kernel, config.block) for group in groups for _, _, config in group}) > 8
            return groups

    def take_turns(graphs: dict[str, Any], **_: object) -> dict[str, SimpleNamespace]:
        return {name: SimpleNamespace(median=1 / (1 + number)) for number, name in enumerate(graphs)}

    on_gpu = tune.tune
    monkeypatch.setattr(tune, "tune", lambda problem, name, _, found: on_gpu(problem, name, "cpu", found[-2:]))
    monkeypatch.setattr(tune, "BATCH", 2)
    monkeypatch.setattr(tune, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(tune, "cuda_graph", lambda run: run)
    monkeypatch.setattr(tune, "take_turns", take_turns)
    layers = (tune.LayerShape(3, 6, 5, 0.2), tune.LayerShape(6, 5, 3, None))
    monkeypatch.setattr(tune, "networks", lambda: {"tiny": layers})
    for name, value in (("current_device", 0), ("get_device_capability", (9, 0)), ("get_device_name", "a card")):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    tune.measure(["tiny"], ["tf32"], 1, tmp_path)
    measured, entries = read_table(tmp_path / "sm_90.json")
    assert measured is not None and measured["gpu"] == "a card"
    assert {entry.which for entry in entries} == set(PASSES)
    assert all(entry.milliseconds is not None and entry.torch_milliseconds == 1.0 for entry in entries)
    chosen = {entry.which: entry.config for entry in entries if entry.out_channels == 5}
    assert [config.kernel for config in chosen.values() if config] == ["cudnn", "dgrad_cudnn", "wgrad"]


def test_tuning_compiles_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, because in this one the kernels may be those of Triton's interpreter."""
    pytest.importorskip("triton")
    script = """
import torch, triton
from triton.backends.compiler import GPUTarget
import tune_upconv as tune
from preimage.ops.upconv.kernel_configs import Config

class Driver:
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)
    get_current_device = get_current_stream = lambda self, *_: 0

triton.runtime.driver.set_active(Driver())
work = (tune.Problem("wgrad", 16, 8, 8, 16), torch.bfloat16, Config("wgrad", (16, 16, 64), 4, 3, 2))
tune.compile_all([work])
"""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS), prepend=":")
    subprocess.run([sys.executable, "-c", script], check=True)
    assert {path.stem for path in tmp_path.rglob("*.cubin")} == {"wgrad_kernel", "sum_parts_kernel"}
