"""Run the Slurm scripts of the examples as arrays of processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from extractions import contents
from paths import EXAMPLES
from preimage.pipelines import extract_batches
from preimage.pipelines.extract import extract
from preimage.pipelines.invert import invert
from preimage.store import FeatureStore, read_index

SCRIPTS = sorted((EXAMPLES / "slurm").glob("*.sh"))
# The command, with four images in a shard; if KILLED is set, it dies when that shard is to be listed.
COMMAND = f"""#!{sys.executable}
import os, signal
from preimage import cli
from preimage.pipelines import extract_batches
from preimage.store import StoreWriter
extract_batches.shard_length = lambda image_bytes: 4
add = StoreWriter.add
def dying(self, entry):
    if str(entry.number) == os.environ.get("KILLED"):
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, entry)
StoreWriter.add = dying
cli.main()
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
Task = Callable[..., int]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """Return a function that runs one task of an array and returns its exit code."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "preimage"
    command.write_text(COMMAND)
    command.chmod(0o755)

    def run(script: str, number: int, count: int, *arguments: object, **variables: str) -> int:
        slurm = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": str(count)}
        paths = {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
        words = ["bash", EXAMPLES / "slurm" / script, *map(str, arguments)]
        environment = {**os.environ, **paths, **slurm, **variables}
        return subprocess.run(words, env=environment, timeout=300, check=False, cwd=tmp_path).returncode

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)


def test_array_with_a_killed_task_merges_to_one_run(
    task: Task, photo_folder: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    arguments = ("hog", photo_folder, "f.hog", "--size", 48)
    assert task("extract.sh", 0, 2, *arguments, KILLED="2") != 0
    assert [entry.number for entry in read_index(tmp_path / "f.hog.shards" / "0").shards] == [0]
    assert task("extract.sh", 1, 2, *arguments) == 0
    assert task("extract.sh", 0, 1, *arguments, SHARDS="2") == 0, "a single task, submitted again"
    assert run("merge", *sorted((tmp_path / "f.hog.shards").iterdir()), "-o", tmp_path / "f.hog")[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract_batches, "shard_length", lambda image_bytes: 4)
        extract("hog", photo_folder, tmp_path / "whole", size=48)
    assert contents(tmp_path / "f.hog") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("one_thread")
def test_array_inverts_to_one_folder(task: Task, photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    features = extract("hog", photo_folder, tmp_path / "f.hog", size=48).path
    invert(features, tmp_path / "whole", inverter=tiny, batch_size=1, device="cpu")
    options = ("--inverter", tiny, "--batch-size", 1, "--device", "cpu")
    for number in range(2):
        assert task("invert.sh", number, 2, features, "images", *options) == 0
    assert contents(tmp_path / "images") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "images")) == len(FeatureStore(features))


def test_script_outside_of_an_array_is_an_error(task: Task, tmp_path: Path) -> None:
    for script in SCRIPTS:
        assert task(script.name, 0, 1, "a", "b", "c", SLURM_ARRAY_TASK_COUNT="") != 0
        assert task(script.name, 0, 1, "a") != 0
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]
