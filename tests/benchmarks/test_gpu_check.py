"""Test benchmarks/gpu_check.py and its steps as far as possible without a GPU."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch

import preimage
from paths import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu_check.py"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the benchmarks are not here")
sys.path.insert(0, str(ROOT / "benchmarks"))

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def check(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script on the package under test."""
    package = str(Path(preimage.__file__).resolve().parents[1])
    variables = os.environ | {"PYTHONPATH": package, "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=300)


@no_gpu
def test_without_a_gpu_it_says_what_to_do() -> None:
    result = check()
    assert result.returncode == 1
    assert result.stdout == ""
    assert "gpu-check needs a CUDA device" in result.stderr and "--dry-run" in result.stderr


@no_gpu
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_target_fails_without_a_gpu() -> None:
    command = ["make", "-C", str(ROOT), "gpu-check", f"PYTHON={sys.executable}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode != 0
    assert "gpu-check needs" in result.stderr


def test_dry_run_of_the_quick_steps(tmp_path: Path) -> None:
    result = check("--dry-run", "--steps", "environment,kernels,memcheck,benchmarks", OUT=str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    table = result.stdout[result.stdout.rindex("step ") :].splitlines()
    outcomes = {line[:22].strip(): line[23:].split()[0] for line in table[1:5]}
    assert outcomes == {
        "environment": "ok",
        "kernels on the CPU": "ok",
        "benchmarks on the GPU": "ok",
        "sanitizer memcheck": "skipped",
    }
    assert "0 problems" in result.stdout
    assert "there is no GPU" in result.stdout
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"summary.txt", "log.txt", "descriptors-gpu.csv"}
    assert (tmp_path / "summary.txt").read_text().splitlines()[0].split() == ["step", "outcome", "seconds", "remark"]


def test_dry_run_rehearses_the_up_convolution(tmp_path: Path) -> None:
    result = check("--dry-run", "--steps", "bench_upconv", OUT=str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 wrong" in result.stdout and "Classes of layers and whole decoders" in result.stdout
    assert "upconv-gpu.csv" in {path.name for path in tmp_path.iterdir()}


def test_no_test_for_the_gpu_is_left_out(tmp_path: Path) -> None:
    """Tests that have no separate step are in the step for all others."""
    from _check_run import Commands, Outcome  # noqa: PLC0415
    from _check_steps import GPU_TESTS, CheckSteps  # noqa: PLC0415

    commands = Commands(tmp_path, tmp_path / "logs", {})
    selected: dict[str, list[str]] = {}

    def note(name: str, command: list[str], limit: float, **_: object) -> Outcome:
        selected[name] = [str(part) for part in command[command.index("gpu") + 1 :]]
        return Outcome("ok")

    commands.judged = note  # type: ignore[method-assign,assignment]
    steps = CheckSteps(commands, tmp_path, "cuda")
    steps.gpu_tests(9)
    own = [path for name in GPU_TESTS for path in (steps.gpu_tests_of(name, 9), selected[f"gpu-tests-{name}"])[1]]
    ignored = [part.removeprefix("--ignore=") for part in selected["gpu-tests"] if part.startswith("--ignore=")]
    assert ignored == [path for path in own if path.endswith(".py")]
    assert {Path(path).name for path in ignored} >= {"test_upconv_kernels.py", "test_training.py", "test_adam.py"}


def test_unknown_step_is_refused(tmp_path: Path) -> None:
    import gpu_check  # noqa: PLC0415 - only where the benchmarks are
    from _check_run import Commands  # noqa: PLC0415

    options = argparse.Namespace(steps="environment,nothing", build=None)
    with pytest.raises(SystemExit, match=r"--steps.*environment, build"):
        gpu_check.steps(options, Commands(tmp_path, tmp_path / "logs", {}), tmp_path, "cpu", "90")


def test_steps_are_bounded_and_do_not_stop_one_another(tmp_path: Path) -> None:
    from _check_run import Checks, Commands, Outcome, Step  # noqa: PLC0415 - only where the benchmarks are

    commands = Commands(tmp_path, tmp_path / "logs", os.environ)
    published: list[str] = []
    checks = Checks(60, published.append)
    sleeps = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"

    def broken(_: float) -> Outcome:
        raise OSError("no such thing")

    begin = time.monotonic()
    checks.run(Step("slow", 1.5, lambda limit: commands.judged("slow", [sys.executable, "-c", sleeps], limit)))
    checks.run(Step("broken", 5, broken))
    checks.run(Step("wrong", 5, lambda limit: commands.judged("wrong", [sys.executable, "-c", "exit(3)"], limit)))
    checks.run(Step("right", 5, lambda limit: commands.judged("right", [sys.executable, "-c", "print(7)"], limit)))
    assert time.monotonic() - begin < 30
    assert checks.failed == ["slow", "broken", "wrong"]
    rows = [line.split(maxsplit=3) for line in checks.summary().splitlines()[1:]]
    assert [row[1] for row in rows] == ["failed", "failed", "failed", "ok"]
    assert [row[3] for row in rows] == ["stopped after 2 s", "OSError: no such thing", "exit code 3:", "7"]
    assert len(published) == 4 and published[-1] == checks.summary()


def test_steps_without_time_are_skipped() -> None:
    from _check_run import Checks, Outcome, Step  # noqa: PLC0415

    checks = Checks(0, lambda _: None)
    checks.run(Step("late", 5, lambda _: Outcome("ok")))
    assert "skipped" in checks.summary() and "no time left" in checks.summary()
    assert checks.failed == []


SANITIZER = """#!/bin/sh
echo "$@" >> {calls}
case "$2" in
    memcheck) echo "========= ERROR SUMMARY: 0 errors" ;;
    racecheck) echo "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"; exit 9 ;;
    initcheck) echo "========= Error: Device not supported"; exit 1 ;;
    synccheck) ;;
esac
"""


def test_sanitizers_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for compute-sanitizer is run once for all tools; each step reports the result of its tool."""
    from _check_run import Commands  # noqa: PLC0415
    from _check_steps import SANITIZERS, CheckSteps  # noqa: PLC0415

    program = tmp_path / "compute-sanitizer"
    program.write_text(SANITIZER.format(calls=tmp_path / "calls"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    steps = CheckSteps(Commands(tmp_path, tmp_path / "logs", os.environ), tmp_path, "cuda")
    outcomes = [steps.sanitizer(tool)(20) for tool in SANITIZERS]
    assert [outcome.state for outcome in outcomes] == ["ok", "failed", "skipped", "failed"]
    assert "1 hazard" in outcomes[1].remark and "did not say what it found" in outcomes[3].remark
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sorted(call.split()[1] for call in calls) == sorted(SANITIZERS)
    assert all(call.endswith("gpu_kernels.py --device cuda") for call in calls)
    assert all(("--kernel-name-exclude" in call) != ("initcheck" in call) for call in calls)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")
def test_configures_with_the_headers_that_torch_carries(tmp_path: Path) -> None:
    from _check_build import torch_headers, write_shim  # noqa: PLC0415

    if torch_headers() is None:
        pytest.skip("this torch carries no pybind11 headers")
    write_shim(tmp_path / "pybind11")
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), "-DPREIMAGE_CUDA=OFF"]
    command += [f"-Dpybind11_DIR={tmp_path / 'pybind11'}", f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def test_a_parameter_is_enough_to_be_run_on_the_gpu() -> None:
    from conftest import pytest_collection_modifyitems  # noqa: PLC0415

    marks: dict[str, list[object]] = {}
    items = []
    for name, parameters in {
        "cpu": {"device": "cpu"},
        "cuda": {"device": torch.device("cuda:0")},
        "none": None,
    }.items():
        marks[name] = []
        item = types.SimpleNamespace(add_marker=marks[name].append)
        if parameters:
            item.callspec = types.SimpleNamespace(params=parameters)
        items.append(item)
    pytest_collection_modifyitems(items)
    assert {name: len(found) for name, found in marks.items()} == {"cpu": 0, "cuda": 1, "none": 0}
