"""Test benchmarks/gpu_train.sh: packing photographs, a training run of seconds, and one that is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import preimage
from conftest import photographs
from paths import ROOT
from preimage.inverters import Inverter, UShapedConfig, preset
from preimage.io import decode_file, decode_image, find_images, resize_and_center_crop
from preimage.representations import create_representation

SCRIPT = ROOT / "benchmarks" / "gpu_train.sh"
LIMIT = 240  # seconds

if not SCRIPT.exists() or shutil.which("sh") is None:
    pytest.skip("the benchmarks are not here, or there is no shell", allow_module_level=True)
sys.path.insert(0, str(SCRIPT.parent))
import _gpu_train as gpu_train  # noqa: E402


def command(*arguments: object) -> list[str]:
    return ["sh", str(SCRIPT), *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return variables for the script to run with the package under test."""
    package = str(Path(preimage.__file__).resolve().parents[1])
    return os.environ | {"PYTHON": sys.executable, "PYTHONPATH": package, "OMP_NUM_THREADS": "1"}


def run(*arguments: object) -> list[dict[str, Any]]:
    """Run the script and return the JSON lines that it prints."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(), check=False, timeout=LIMIT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 15 photographs of at least 256 pixels, a copy of one of them, a small and a damaged one."""
    made = tmp_path_factory.mktemp("large")
    for name, image in photographs().items():
        for part in range(3):
            crop = image[: 256 + 8 * part, 16 * part : 16 * part + 300]
            assert cv2.imwrite(str(made / f"{name}-{part}.png"), np.ascontiguousarray(crop[:, :, ::-1]))
    shutil.copyfile(made / "coffee-0.png", made / "copy.png")
    assert cv2.imwrite(str(made / "small.png"), np.zeros((255, 300, 3), np.uint8))
    (made / "damaged.jpg").write_bytes(b"\xff\xd8\xff")
    return made


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with both tars, of all photographs, and an inverter."""
    data = tmp_path_factory.mktemp("packed")
    run("pack", folder, "--val-count", 4, "--folder", data, "--inverters", "hog-compact")
    return data


def test_pack_fills_the_limit_with_distinct_photographs(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def pack(*arguments: object) -> list[dict[str, Any]]:
        options = gpu_train.arguments(["pack", *map(str, arguments)])
        options.run(options)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    val = tmp_path / "val"
    val.mkdir()
    for name in ("coffee-0", "rocket-1"):
        shutil.move(shutil.copy(folder / f"{name}.png", tmp_path), val)
    *files, total = pack(folder, "--val", val, "--folder", tmp_path / "all")
    judge, train = (find_images(tmp_path / "all" / name).sources for name in ("val.tar", "train.tar"))
    # The validation photographs, one of them twice, are in the folder, too.
    assert total["left_out"] == {"repeated": 3, "smaller than 256 pixels": 1, "unreadable": 1}
    assert [file["photographs"] for file in files] == [len(judge), len(train)] == [2, 13]
    assert len({source.key for source in (*train, *judge)}) == 15
    assert {decode_image(source.read(), name=source.name).shape for source in train} == {(256, 256, 3)}
    sizes = [Path(file["file"]).stat().st_size for file in files]
    assert [file["bytes"] for file in files] == sizes and total["bytes"] == sum(sizes)
    assert files[0]["psnr"] > files[1]["psnr"] > 20

    # The first photograph that does not fit any more ends the archive.
    mebibytes = (total["bytes"] - 30_000) / (1 << 20)
    options = ["--mebibytes", mebibytes, "--seed", 1]
    *files, total = pack(folder, "--val", val, "--folder", tmp_path / "some", *options)
    assert 2 <= files[1]["photographs"] < 13
    assert total["limit"] - 30_000 < total["bytes"] <= total["limit"]


def test_pack_keeps_the_center_square(packed: Path, folder: Path) -> None:
    squares = [resize_and_center_crop(decode_file(path), 256) for path in sorted(folder.glob("*-*.png"))]
    for name in ("train.tar", "val.tar"):
        for source in find_images(packed / name).sources:
            image = decode_image(source.read(), name=source.name).astype(float)
            assert min(np.sqrt(((image - square) ** 2).mean()) for square in squares) < 16


def check_results(output: Path) -> list[dict[str, Any]]:
    """Check the limits of what comes back; return the lines of metrics.jsonl."""
    files = [path for path in output.rglob("*") if path.is_file()]
    assert len(files) <= 8 and max(path.stat().st_size for path in files) <= 16 << 20
    assert all(len(path.relative_to(output).parts) <= 3 for path in files)
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


SETTINGS = json.dumps({"batch_size": 2, "size": 64, "precision": "float32"})


def test_train_keeps_the_best_and_the_last_inverter(packed: Path, tmp_path: Path) -> None:
    options = ["--minutes", 0.05, "--every", 1, "--device", "cpu", "--data", packed, "-o", tmp_path]
    printed = run("train", "hog", *options, "--settings", SETTINGS)
    lines = check_results(tmp_path)
    assert lines == printed
    start, init, *validations, done = lines
    assert (start["event"], init["event"], done["event"]) == ("start", "init", "done")
    assert {line["event"] for line in validations} == {"validation"}
    assert start["init"] == init["inverter"] == str(packed / "hog-compact") and start["size"] == 64
    measured = [init, *validations]
    errors = [line["error"] for line in measured]
    records = [error < min(errors[:index], default=2) for index, error in enumerate(errors)]
    assert [line["best"] for line in measured] == records
    assert validations[-1]["images_seen"] == 2 * validations[-1]["step"] > 0
    assert Inverter.load(tmp_path / "last").training_notes["normalized_error"] == errors[-1]
    score = preimage.evaluate(tmp_path / "best", packed / "val.tar", size=64, device="cpu")
    assert (done["error"], done["psnr"]) == pytest.approx((score.error, score.psnr), rel=1e-6)
    assert done["error"] == pytest.approx(min(errors), rel=1e-3)  # the weights are rounded to float16
    assert decode_file(tmp_path / "samples.png").shape[2] == 3


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts the script, which is killed at the end of the test."""
    started: list[subprocess.Popen[bytes]] = []

    def call(*arguments: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.wait()


def test_killed_run_leaves_its_inverters(
    packed: Path, tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    options = ["--minutes", 10, "--every", 1, "--device", "cpu", "--data", packed, "-o", tmp_path, "--init", "none"]
    process = start("train", "hog", *options, "--settings", SETTINGS)
    metrics, deadline = tmp_path / "metrics.jsonl", time.monotonic() + LIMIT
    while not metrics.exists() or '"validation"' not in metrics.read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.wait()
    lines = check_results(tmp_path)
    assert lines[0]["event"] == "start" and lines[0]["init"] is None
    assert {line["event"] for line in lines[1:]} == {"validation"}
    loaded = 0
    for name in ("best", "last"):
        with contextlib.suppress(ValueError):  # killed while it was written
            loaded += Inverter.load(tmp_path / name).spec.representation == "hog"
    assert loaded >= 1


def test_train_without_photographs_says_what_to_do(tmp_path: Path) -> None:
    options = gpu_train.arguments(["train", "hog", "--data", str(tmp_path), "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"train\.tar.*pack"):
        options.run(options)
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_as_float16_are_stored_as_int8() -> None:
    spec = create_representation("hog").spec
    chosen = {name: gpu_train.compact_dtype(Inverter(spec, preset("hog", name))) for name in ("compact", "wide")}
    assert chosen == {"compact": torch.float16, "wide": torch.int8}
    with pytest.raises(SystemExit, match=r"parameters.*16 MiB"):
        gpu_train.compact_dtype(Inverter(spec, UShapedConfig(widths=(512, 1024), blocks_down=(2, 2), blocks_up=(2,))))
