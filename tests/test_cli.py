"""The command line: what it prints, what it returns, and that it agrees with the library."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import preimage
from conftest import photographs
from preimage import cli, representations
from preimage.cli import _shared
from preimage.inverters import Inverter, UShapedConfig
from preimage.jobs.demo import demo
from preimage.jobs.evaluate import evaluate
from preimage.jobs.extract import extract
from preimage.jobs.invert import invert
from preimage.jobs.sheet import sheet
from preimage.storage import read_features, write_png
from preimage.training import TrainConfig, train

COMMANDS = ("extract", "invert", "train", "evaluate", "sheet", "info", "doctor", "demo")
HEAVY = ("torch", "numpy", "cv2", "safetensors", "torchmetrics")
TINY = UShapedConfig(widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), head=(8, 4))

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process; gives exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["preimage", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), *capfd.readouterr()

    return call


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return Inverter(representations.create("hog").spec, TINY).save(tmp_path_factory.mktemp("inverter") / "tiny")


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    script = f"""
import sys
from preimage.cli import main
for command in ([], *[[name] for name in {COMMANDS!r}]):
    sys.argv = ["preimage", *command, "--help"]
    try:
        main()
    except SystemExit as stopped:
        assert not stopped.code, command
print("loaded:", *[name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "loaded:"
    assert all(re.search(rf"\b{name}\b", done.stdout) for name in COMMANDS)


def test_python_dash_m_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "preimage", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"preimage {preimage.__version__}\n"


@pytest.mark.parametrize(
    ("command", "function"),
    [(cli.extract, extract), (cli.invert, invert), (cli.evaluate, evaluate), (cli.sheet, sheet), (cli.demo, demo)],
)
def test_defaults_are_those_of_the_library(command: Callable[..., None], function: Callable[..., Any]) -> None:
    ours, theirs = inspect.signature(command).parameters, inspect.signature(function).parameters
    shared = ours.keys() & theirs.keys() - {"representation"}  # a name here, an object there
    assert len(shared) > 3
    for name in shared:
        if name not in ("output", "command"):
            assert ours[name].default == theirs[name].default, name
    untold = theirs.keys() - ours.keys() - {"progress", "command"}
    assert untold == set(), "every option of the library has one on the command line"
    if command is cli.demo:
        assert str(ours["output"].default) == theirs["output"].default


def test_training_defaults_are_those_of_the_config() -> None:
    options = inspect.signature(cli.train).parameters
    for field in dataclasses.fields(TrainConfig):
        if field.name == "parameters":
            continue
        default = options[field.name].default
        required = field.default is dataclasses.MISSING
        assert default is inspect.Parameter.empty if required else (default or ()) == (field.default or ()), field.name
    assert options["resume"].default == inspect.signature(train).parameters["resume"].default


def test_every_parameter_of_every_representation_has_an_option() -> None:
    for command in (cli.extract, cli.invert, cli.train, cli.sheet):
        options = inspect.signature(command).parameters
        for name in representations.names():
            assert set(representations.parameters(name)) <= set(options), (command, name)


def test_extract_invert_info_and_evaluate(run: Run, photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    features, pictures = tmp_path / "f.safetensors", tmp_path / "out"
    code, out, err = run("extract", "hog", photo_folder, "-o", features, "--size", 64, "--colour", "strongest")
    assert (code, err) == (0, "")
    assert "hog vlfeat-uoctti (cell_size 8, colour strongest), 31 channels" in out
    assert "20 images" in out
    assert f"wrote {features}" in out
    assert read_features(features).spec.parameters["colour"] == "strongest"

    code, out, err = run("invert", features, "-o", pictures, "--inverter", tiny)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"error: .*does not fit.*parameters\.colour: 'luma' != 'strongest'\n", err)
    assert not pictures.exists()

    assert run("extract", "hog", photo_folder, "-o", features, "--size", 64)[0] == 0
    code, out, err = run("invert", features, "-o", pictures, "--inverter", tiny)
    assert (code, err) == (0, "")
    assert "20 images" in out
    assert f"wrote {pictures}" in out
    assert len(list(pictures.glob("*.png"))) == 20

    code, out, _ = run("info", features)
    assert code == 0
    assert re.search(r"kind +feature file", out)
    assert re.search(r"checksum +good", out)
    assert re.search(r"images +20", out)
    code, out, _ = run("info", tiny)
    assert code == 0
    assert re.search(r"kind +inverter", out)

    code, out, err = run("evaluate", tiny, "--images", photo_folder, "--size", 64, "--csv", tmp_path / "s.csv")
    assert (code, err) == (0, "")
    assert "normalised error" in out
    assert f"wrote {tmp_path / 's.csv'}" in out

    code, out, _ = run("sheet", photo_folder, "-o", tmp_path / "sheet.png", "--inverter", tiny, "--size", 64)
    assert code == 0
    assert f"wrote {tmp_path / 'sheet.png'}" in out


def test_json_is_one_object_on_stdout(run: Run, photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    features = tmp_path / "f"
    some = sorted(photo_folder.iterdir())[:2]
    calls: list[tuple[tuple[object, ...], dict[str, object]]] = [
        (("extract", "hog", photo_folder, "-o", features), {"images": 20, "output": str(features)}),
        (("invert", features, "-o", tmp_path / "out", "--inverter", tiny), {"images": 20}),
        (("evaluate", tiny, "--images", photo_folder, "--size", 64), {"images": 20, "csv": None}),
        (("sheet", *some, "-o", tmp_path / "s.png", "--inverter", tiny, "--size", 64), {"images": 2}),
        (("demo", "-o", tmp_path / "demo", "--inverter", tiny, "--size", 64), {"inverter": str(tiny)}),
        (("info", features), {"images": 20, "kind": "feature file"}),
        (("info", tiny), {"kind": "inverter", "checksum": "good"}),
        (("doctor",), {}),
    ]
    for arguments, expected in calls:
        code, out, err = run(*arguments, "--json")
        assert code == 0, (arguments, err)
        assert out.count("\n") == 1, "one line"
        found = json.loads(out)
        assert isinstance(found, dict)
        assert expected.items() <= found.items()
        assert "\n" in err, "what was said for people went to stderr"


def test_json_has_no_numbers_that_json_lacks() -> None:
    text = json.dumps(_shared.plain({"a": float("inf"), "b": [float("nan")], "c": (1.5, Path("x"))}), allow_nan=False)
    assert json.loads(text) == {"a": None, "b": [None], "c": [1.5, "x"]}


def test_plain_arrays_and_their_spec(run: Run, photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    arrays, out_folder = tmp_path / "f.npy", tmp_path / "out"
    assert run("extract", "hog", photo_folder, "-o", arrays)[0] == 0
    assert np.load(arrays).shape == (20, 31, 12, 12)
    code, _, err = run("invert", arrays, "-o", out_folder, "--inverter", tiny)
    assert code == 1
    assert "--representation hog --cell-size 8" in err
    assert run("invert", arrays, "-o", out_folder, "--inverter", tiny, "--representation", "hog")[0] == 0
    spec = tmp_path / "spec.json"
    spec.write_text(representations.create("hog").spec.to_json())
    shutil.rmtree(out_folder)
    assert run("invert", arrays, "-o", out_folder, "--inverter", tiny, "--spec", spec)[0] == 0
    assert len(list(out_folder.iterdir())) == 20
    spec.write_text('{"representation": "hog"}')
    code, _, err = run("invert", arrays, "-o", out_folder, "--inverter", tiny, "--spec", spec)
    assert (code, "spec.json: is no spec: the spec lacks" in err) == (1, True)
    code, _, err = run("invert", arrays, "-o", out_folder, "--cell-size", 4)
    assert (code, err) == (1, "error: cell_size given without --representation\n")
    code, _, err = run("invert", arrays, "-o", out_folder, "--spec", spec, "--cell-size", 4)
    assert (code, "without --representation" in err) == (1, True)
    code, out, _ = run("info", arrays)
    assert (code, "plain arrays, spec unknown" in out) == (0, True)


def test_errors_are_one_line_and_exit_1(run: Run, photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    features = tmp_path / "f"
    assert run("extract", "hog", photo_folder, "-o", features)[0] == 0
    cut = tmp_path / "cut"
    cut.write_bytes(features.read_bytes()[:-7])
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "evil.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': '|O'}")
    cases: list[tuple[tuple[object, ...], str]] = [
        (("extract", "hog", tmp_path / "absent", "-o", tmp_path / "x"), "absent: no such file"),
        (("extract", "hogg", photo_folder, "-o", tmp_path / "x"), "unknown representation 'hogg'; known are hog"),
        (("extract", "hog", photo_folder, "-o", tmp_path / "x", "--cell-size", 0), "cell_size"),
        (("extract", "hog", photo_folder, "-o", tmp_path / "x", "--dtype", "int8"), "float32 or float16, got 'int8'"),
        (("extract", "hog", photo_folder, "-o", tmp_path), "is not a plain file"),
        (("extract", "hog", photo_folder, "-o", "/proc/absent/x"), "/proc/absent"),
        (("invert", cut, "-o", tmp_path / "x", "--inverter", tiny), "cut: damaged"),
        (("invert", tmp_path / "absent", "-o", tmp_path / "x"), "absent: No such file"),
        (("invert", features, "-o", tmp_path / "x", "--inverter", "nobody"), "nobody: neither a folder nor"),
        (("invert", features, "-o", tmp_path / "x", "--inverter", tiny, "--device", "tpu9"), "got 'tpu9'"),
        (("evaluate", tiny, "--images", tmp_path / "empty"), "no image found"),
        (("sheet", tmp_path / "text.safetensors", "-o", tmp_path / "x", "--inverter", tiny), "text.safetensors"),
        (("info", tmp_path / "text.safetensors"), "text.safetensors: not a feature file"),
        (("info", tmp_path / "empty"), "folder without config.json"),
        (("info", tmp_path / "absent"), "absent: no such file"),
        (("info", tmp_path / "evil.npy"), "evil.npy"),
        (("train", "hog", "--images", tmp_path / "empty", "-o", tmp_path / "x"), "no image found"),
    ]
    for arguments, message in cases:
        code, out, err = run(*arguments)
        assert code == 1, (arguments, out, err)
        assert out == ""
        assert err.startswith("error: "), err
        assert err.count("\n") == 1, err
        assert message in err
        assert not (tmp_path / "x").exists()


def test_debug_shows_the_traceback(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREIMAGE_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["preimage", "info", str(tmp_path / "absent")])
    with pytest.raises(FileNotFoundError):
        cli.main()


@pytest.mark.parametrize("arguments", [("extract", "hog"), ("nonsense",), ("info", "--nonsense", "x")])
def test_usage_errors_exit_2(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Usage" in err


def test_bad_images_are_listed(run: Run, photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photo_folder, folder)
    (folder / "broken.jpg").write_bytes(b"no image")
    code, out, err = run("extract", "hog", folder, "-o", tmp_path / "f")
    assert (code, out) == (1, "")
    assert "broken.jpg" in err
    code, out, _ = run("extract", "hog", folder, "-o", tmp_path / "f", "--skip-bad")
    assert code == 0
    assert re.search(r"^skipped .*broken\.jpg", out, re.MULTILINE)
    code, out, _ = run("extract", "hog", folder, "-o", tmp_path / "f", "--skip-bad", "--json")
    assert json.loads(out)["skipped"][0][0].endswith("broken.jpg")


def test_an_unfinished_extraction_is_described(run: Run, photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(next(photo_folder.iterdir()), tmp_path / "photos")
    (tmp_path / "photos" / "zzz.jpg").write_bytes(b"no image")
    assert run("extract", "hog", tmp_path / "photos", "-o", tmp_path / "f")[0] == 1
    code, out, _ = run("info", tmp_path / "f.partial")
    assert code == 0
    assert re.search(r"kind +unfinished extraction", out)


def test_doctor_survives_a_native_module_that_does_not_load(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("doctor")
    assert code == 0
    assert re.search(r"^torch +\d", out, re.MULTILINE)
    assert re.search(r"instruction sets +.*portable; uses ", out)
    monkeypatch.setitem(sys.modules, "preimage._native", None)
    code, out, _ = run("doctor")
    assert code == 0
    assert re.search(r"native module +does not load", out)
    assert "problem: native: " in out
    assert "reinstall" in out


def test_doctor_survives_anything(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("on fire")

    monkeypatch.setattr(importlib, "import_module", broken)
    monkeypatch.setattr(importlib.metadata, "version", broken)
    code, out, err = run("doctor", "--json")
    assert code == 0
    assert len([problem for problem in json.loads(out)["problems"] if "on fire" in problem]) >= 4
    assert "on fire" in err


def test_a_full_disk_leaves_nothing_behind_and_can_be_resumed(photo_folder: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    output = tmp_path / "f"

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [sys.executable, "-m", "preimage", "extract", "hog", str(photo_folder), "-o", str(output)]
    done = subprocess.run(command, preexec_fn=small_files_only, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"^error: .*File too large", done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists()
    assert [path.name for path in (tmp_path / "f.partial").iterdir()] == ["manifest.json"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert len(read_features(output)) == 20
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_ctrl_c_exits_130_and_can_be_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    write_png(folder / "0000.png", photographs()["astronaut"])
    for index in range(1, 1500):
        os.link(folder / "0000.png", folder / f"{index:04d}.png")
    output = tmp_path / "f"
    command = [sys.executable, "-m", "preimage", "extract", "hog", str(folder), "-o", str(output), "--size", "32"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finished = tmp_path / "f.partial" / "part-00000.json"
    deadline = time.monotonic() + 120
    while not finished.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert err == "interrupted\n"
    assert finished.exists()
    assert not output.exists()
    names = [path.name for path in finished.parent.iterdir()]
    assert not [name for name in names if name.endswith(".tmp")]
    # Fewer images are another job; the same job goes on.
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["resumed"] >= 128
    assert found["images"] == 1500
