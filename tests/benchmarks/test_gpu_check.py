"""Test benchmarks/gpu_check as far as possible without a GPU: a dry run starts every step on the CPU."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch

import preimage
from paths import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu_check"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the benchmarks are not here")
sys.path.insert(0, str(ROOT / "benchmarks"))

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def start(*options: str, **environment: str) -> subprocess.Popen[str]:
    """Start the script on the package under test."""
    package = str(Path(preimage.__file__).resolve().parents[1])
    variables = os.environ | {"PYTHONPATH": package, "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)


def check(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script to its end."""
    process = start(*options, **environment)
    stdout, stderr = process.communicate(timeout=900)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def read(folder: Path) -> list[dict[str, Any]]:
    from gpu_check.runner import read_facts  # noqa: PLC0415 - only where the benchmarks are

    return read_facts([folder / "facts.jsonl"])


def outcomes(facts: list[dict[str, Any]]) -> dict[str, str]:
    return {fact["step"]: fact["outcome"] for fact in facts if fact["event"] == "end"}


@no_gpu
def test_without_a_gpu_it_says_what_to_do() -> None:
    result = check()
    assert result.returncode == 1
    assert result.stdout == ""
    assert "gpu_check needs a CUDA device" in result.stderr and "--dry-run" in result.stderr


@no_gpu
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_target_fails_without_a_gpu() -> None:
    command = ["make", "-C", str(ROOT), "gpu-check", f"PYTHON={sys.executable}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode != 0
    assert "gpu_check needs" in result.stderr


@pytest.mark.nightly  # two minutes of processor time; below, a killed run starts the first steps and those left
def test_dry_run_starts_every_step(tmp_path: Path) -> None:
    from gpu_check.plan import Plan  # noqa: PLC0415

    result = check("--dry-run", "--fresh", "--seconds", "900", OUT=str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    names = [step.name for stage in Plan(tmp_path, tmp_path, tmp_path, None).stages() for step in stage]
    on_gpu = [step.name for stage in Plan(tmp_path, tmp_path, tmp_path, "90").stages() for step in stage]
    assert names == on_gpu
    facts = read(tmp_path)
    assert outcomes(facts) == dict.fromkeys(names, "ok")
    verdicts = {fact["op"]: fact["verdict"] for fact in facts if "op" in fact}
    assert set(verdicts.values()) == {"ok"}
    ops = {op.split()[0] for op in verdicts}
    assert ops >= {
        "hog",
        "lbp",
        "dense_sift",
        "gradient",
        "adam",
        "crop_resize",
        "upconv",
        "forward",
        "wgrad",
        "distance_backward",
    }
    tables = {"descriptors-gpu", "upconv-gpu", "training-gpu", "extraction-gpu", "inversion-gpu", "samples-gpu"}
    assert {fact["table"] for fact in facts if "table" in fact} == tables
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"facts.jsonl", "summary.txt", "log.txt", *(f"{table}.csv" for table in tables)}
    assert len(found) <= 9
    summary = (tmp_path / "summary.txt").read_text()
    assert all(f"\n{name}" in summary for name in names) and summary in result.stdout + "\n"


def test_steps_have_shares_of_the_time(tmp_path: Path) -> None:
    """The limits up to the sanitizers fit into the time of a run, and stages may use what earlier ones leave over."""
    from gpu_check.command_line import SECONDS  # noqa: PLC0415
    from gpu_check.plan import Plan  # noqa: PLC0415

    stages = Plan(tmp_path, tmp_path, tmp_path, "90").stages()
    ends = list(itertools.accumulate(max(step.limit for step in stage) for stage in stages))
    names = [[step.name.split()[0] for step in stage] for stage in stages]
    assert ends[names.index(["memcheck", "racecheck"])] <= SECONDS
    assert set(names[0]) == {"facts", "build"} and set(names[1]) == {"verdict", "warm-up"}
    for stage, end in zip(stages, ends, strict=True):
        assert all(step.until >= end for step in stage)
    for stage, end in zip(stages[2:], ends[2:], strict=True):
        assert {step.until for step in stage} == {end}


def test_a_killed_run_leaves_what_it_found_and_is_resumed(tmp_path: Path) -> None:
    options = ("--dry-run", "--seconds", "900", "--steps", "verdict lbp,invert")
    process = start(*options, "--fresh", OUT=str(tmp_path))
    facts: list[dict[str, Any]] = []
    while not all(any(name in fact for fact in facts) for name in ("op", "table")):
        assert process.poll() is None
        time.sleep(0.05)
        facts = read(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert (tmp_path / "inversion-gpu.csv").read_text().count("\n") == 2
    ended = {name for name, outcome in outcomes(read(tmp_path)).items() if outcome == "ok"}
    with (tmp_path / "facts.jsonl").open("a") as file:
        file.write('{"run": "cut o')
    result = check(*options, OUT=str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert set(outcomes(read(tmp_path)).values()) == {"ok"}
    again = [fact["step"] for fact in read(tmp_path) if fact["event"] == "start" and fact["run"] != facts[0]["run"]]
    missing = {"invert", "verdict lbp"} - ended
    assert set(again) == missing | ({"build"} if missing else set())


STAND_INS = {
    "compute-sanitizer": """#!/bin/sh
case "$2" in
    memcheck) echo "========= ERROR SUMMARY: 0 errors" ;;
    racecheck) echo "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"; exit 9 ;;
esac
""",
    "ncu": """#!/bin/sh
echo '==PROF== Connected to process 1'
echo '"ID","Kernel Name","Grid Size","gpu__time_duration.sum"'
echo '"","","","us"'
echo '"0","blocks_kernel","(240, 1, 1)","12.5"'
""",
}


def test_tools_for_gpus(tmp_path: Path) -> None:
    """Stand-ins for the sanitizer and the profiler are run, and their results are reported."""
    for name, script in STAND_INS.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    out = tmp_path / "out"
    path = f"{tmp_path}:{os.environ['PATH']}"
    options = ("--dry-run", "--fresh", "--steps", "memcheck,racecheck,counters")
    assert check(*options, OUT=str(out), PATH=path).returncode == 1
    facts = read(out)
    ends = {fact["step"]: (fact["outcome"], fact["remark"]) for fact in facts if fact["event"] == "end"}
    assert ends["memcheck"] == ("ok", "========= ERROR SUMMARY: 0 errors")
    assert ends["racecheck"][0] == "failed" and "1 hazard" in ends["racecheck"][1]
    assert ends["counters"] == ("ok", "1 kernels profiled")
    (kernel,) = [fact for fact in facts if "kernel" in fact]
    assert (kernel["kernel"], kernel["gpu__time_duration.sum"]) == ("blocks_kernel", "12.5")


def test_unknown_step_is_refused() -> None:
    result = check("--dry-run", "--steps", "facts,nothing")
    assert result.returncode != 0
    assert "--steps takes" in result.stderr and "got nothing" in result.stderr


def test_steps_are_bounded_and_do_not_stop_one_another(tmp_path: Path) -> None:
    from gpu_check.runner import Facts, Runner, Step, read_facts  # noqa: PLC0415

    python = [sys.executable, "-c"]
    sleeps = (
        "import subprocess, sys; print('begins'); subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    )
    steps = [
        Step("slow", ["env", "PYTHONUNBUFFERED=1", *python, sleeps], 1.0),
        Step("until later", [*python, "import time; time.sleep(1); print('late')"], 0.1, until=40.0),
        Step("no program", [tmp_path / "none"], 9),
        Step("wrong", [*python, "print('why'); exit(3)"], 9),
        Step("silent", [*python, "print(1)"], 9, prints="SUMMARY"),
        Step("absent", ["x"], 9, absent="x is not installed"),
        Step("done before", ["x"], 9),
        Step(
            "right",
            [*python, "import os; print('{\"problems\": 1}'); print(os.environ['B'], 'C' in os.environ)"],
            9,
            {"B": "2", "C": ""},
        ),
    ]
    path = tmp_path / "facts.jsonl"
    done = {"done before": {"outcome": "ok", "seconds": 1.0, "remark": "fine"}, "wrong": {"outcome": "failed"}}
    runner = Runner("GPU", tmp_path, Facts([path], {"run": "1"}), done, 60)
    begin = time.monotonic()
    assert runner.run(steps, len(steps)) == ["slow", "no program", "wrong", "silent"]
    assert time.monotonic() - begin < 50  # the sleeping grandchild has been stopped
    facts = read_facts([path])
    ends = {fact["step"]: (fact["outcome"], fact["remark"]) for fact in facts if fact["event"] == "end"}
    assert ends["slow"] == ("stopped", "after 1 s: begins")
    assert ends["until later"] == ("ok", "late")
    assert ends["wrong"] == ("failed", "exit code 3: why")
    assert ends["right"] == ("ok", "2 False") and ends["silent"][0] == "failed"
    assert [fact["problems"] for fact in facts if fact["event"] == "fact"] == [1]
    assert set(ends) == {"slow", "until later", "no program", "wrong", "silent", "right"}
    title, _, *lines, problem = runner.summary().splitlines()
    assert title == "GPU" and problem == 'right: {"problems": 1}'
    rows = {line[:13].strip(): line[13:].split()[0] for line in lines}
    assert rows == {"absent": "absent", "done before": "done", **{name: outcome for name, (outcome, _) in ends.items()}}
    assert (tmp_path / "summary.txt").read_text() == runner.summary() + "\n"
    late = Runner("GPU", tmp_path, Facts([path], {}), {}, 1)
    assert late.run(steps[:1], 1) == [] and "no time" in late.summary()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a small repository with pretrained weights and a large file."""
    root = tmp_path / "tree"
    weights = "python/preimage/inverters/weights"
    for path, size in {
        f"{weights}/hog-compact/model.safetensors": 700_000,
        f"{weights}/lbp-compact/model.safetensors": 900_000,
        "models/net/model.safetensors": 1000,
        "docs/large.jpg": 600_000,
        "README.md": 100,
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode() * (size // len(path)))
    (root / ".gitignore").write_text("/build/\n")
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(root), *command], check=True, timeout=60)
    return root


def contents(root: Path) -> dict[str, bytes]:
    paths = [path for path in root.rglob("*") if path.is_file() and not {".git", "build"} & set(path.parts)]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


KILLED = """
import os, sys
from pathlib import Path
from gpu_check import packing
real, count = os.rename, 0
def rename(*paths):
    global count
    count += 1
    if count == 2:
        os.kill(os.getpid(), 9)
    real(*paths)
os.rename = rename
getattr(packing, sys.argv[1])(Path(sys.argv[2]))
"""


@pytest.mark.parametrize("killed", [None, "pack", "unpack"])
def test_large_files_are_moved_aside_and_back(tree: Path, killed: str | None) -> None:
    from gpu_check import packing  # noqa: PLC0415

    def kill(action: str) -> None:
        command = [sys.executable, "-c", KILLED, action, str(tree)]
        variables = os.environ | {"PYTHONPATH": str(ROOT / "benchmarks")}
        assert subprocess.run(command, check=False, env=variables, timeout=60).returncode == -signal.SIGKILL

    before = contents(tree)
    if killed == "pack":
        kill("pack")
        assert contents(tree) != before
        assert packing.unpack(tree) == [] and contents(tree) == before
        kill("pack")
    packing.carry_folder(tree).mkdir(parents=True)
    (packing.carry_folder(tree) / "libpreimage_kernels.a").write_bytes(bytes(5000))
    size = packing.pack(tree)
    kept = {
        path: data
        for path, data in before.items()
        if "hog-compact" in path or (len(data) < 1000 and "models" not in path)
    }
    assert contents(tree) == kept
    assert size == sum(map(len, kept.values())) + 5000
    assert packing.pack(tree) == size
    if killed == "unpack":
        kill("unpack")
    assert packing.unpack(tree) == [] and packing.unpack(tree) == []
    assert contents(tree) == before


def test_files_that_cannot_be_restored_are_named(tree: Path) -> None:
    from gpu_check import packing  # noqa: PLC0415

    packing.pack(tree)
    aside = packing.work_folder(tree) / "aside"
    (aside / "docs" / "large.jpg").unlink()
    (tree / "models" / "net" / "model.safetensors").write_bytes(b"another")
    problems = "\n".join(packing.unpack(tree))
    assert "docs/large.jpg is lost: git checkout -- docs/large.jpg" in problems
    assert "models/net/model.safetensors has changed" in problems
    assert (aside / "models" / "net" / "model.safetensors").exists()


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
        item = types.SimpleNamespace(add_marker=marks[name].append, get_closest_marker=lambda _: None)
        if parameters:
            item.callspec = types.SimpleNamespace(params=parameters)
        items.append(item)
    pytest_collection_modifyitems(items)
    assert {name: len(found) for name, found in marks.items()} == {"cpu": 0, "cuda": 1, "none": 0}
