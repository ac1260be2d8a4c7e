"""Test ``kill -9`` during extraction, at every disk operation and at random moments: it always resumes to the same
bytes, and no file is partial.

The file is also the program that is killed: run as a script it loads everything once and forks a child for every
attempt, which is what makes dozens of kills quick.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# PREIMAGE_KILLS=50 runs the long version of this test.
KILLS = int(os.environ.get("PREIMAGE_KILLS", "6"))

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the processes that it kills")


def _run(mode: str, representation: str, output: str, images: Path, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, mode, representation, output, str(images), str(folder), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("output", ["output", "output.safetensors"])
def test_killed_at_every_step_on_the_disk(photo_folder: Path, tmp_path: Path, output: str) -> None:
    result = _run("every-step", "hog", output, photo_folder, tmp_path)
    assert result["kills"] > 20, "each of the shards takes several steps"
    assert result["unsound"] == []
    assert result["different"] == []
    assert result["left_behind"] == []


@pytest.mark.parametrize("representation", ["hog", "lbp", "dense-sift", "sift", "convolution"])
def test_killed_at_random_moments(photo_folder: Path, tmp_path: Path, representation: str) -> None:
    result = _run("random", representation, "output", photo_folder, tmp_path)
    assert result["kills"] == KILLS
    assert result["unsound"] == []
    assert result["different"] == []
    assert result["left_behind"] == []


def _representation(name: str) -> Any:
    """Return a representation by name, or a convolution, which torch computes in batches."""
    # The test process does not need these imports.
    from preimage.representations import Representation, create_representation  # noqa: PLC0415
    from preimage.spec import Spec  # noqa: PLC0415

    if name != "convolution":
        return create_representation(name)
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)  # threads do not survive a fork
    weights = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    class Convolution(Representation):
        spec = Spec("convolution", "test", channels=8, stride=8)

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.conv2d(images.float() / 255, weights, stride=8)

        def feature_size(self, height: int, width: int) -> tuple[int, int]:
            return height // 8, width // 8

        def image_size(self, height: int, width: int) -> tuple[int, int]:
            return height * 8, width * 8

    return Convolution()


class _Ward:
    """Process that starts extractions in children, kills them, and examines the files."""

    def __init__(self, representation: str, images: Path, folder: Path, output: str) -> None:
        from preimage.pipelines import extract_batches  # noqa: PLC0415
        from preimage.pipelines.extract import extract  # noqa: PLC0415
        from preimage.store import FeatureStore, read_index, stored_keys  # noqa: PLC0415

        extract_batches.shard_length = lambda image_bytes: 4
        self._representation = _representation(representation)
        self._extract = extract
        self._open, self._index, self._keys = FeatureStore, read_index, stored_keys
        self._images = images
        self.folder = folder
        self.result: dict[str, Any] = {"kills": 0, "unsound": [], "different": [], "left_behind": []}
        self.full = folder / f"full-{output}"
        self.extract(self.full)()

    def extract(self, output: Path) -> Callable[[], object]:
        return lambda: self._extract(self._representation, self._images, output, size=64, batch_size=2)

    def child(self, work: Callable[[], object], kill_after: float | None = None) -> bool:
        """Run a child and return whether it was killed; otherwise it must succeed."""
        process = os.fork()
        if process == 0:
            try:
                work()
                os._exit(0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        if os.WIFSIGNALED(status):
            self.result["kills"] += 1
            return True
        assert os.waitstatus_to_exitcode(status) == 0
        return False

    def inspect(self, output: Path, attempt: str) -> None:
        """Check after a kill that the output is missing, complete, or an unfinished store with readable shards."""
        store = output if output.suffix == "" else output.with_name(output.name + ".partial")
        try:
            if store != output and output.exists():
                self._open(output).verify()
            if not (store / "index.json").exists():
                return  # not started, or being removed: its contents do not matter
            index = self._index(store)
            for entry in index.shards:
                assert len(self._keys(store, entry)) == entry.images == len(index.positions(entry.number))
            if index.complete:
                self._open(store).verify()
        except (ValueError, OSError) as error:
            self.result["unsound"].append(f"{attempt}: {error}")

    def finish(self, output: Path, attempt: str) -> None:
        """Resume without a kill, compare the results, and clean up."""
        self.child(self.extract(output))
        if _contents(output) != _contents(self.full):
            self.result["different"].append(attempt)
        self.result["left_behind"] += [path.name for path in self.folder.iterdir() if path not in (output, self.full)]
        _remove(output)


def _contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.name != ".lock")
    return {"" if file == path else file.name: file.read_bytes() for file in files}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _dying_at(step: int, work: Callable[[], object]) -> Callable[[], object]:
    """Run the work, killed before the given call that writes to the disk or synchronizes it."""

    def run() -> object:
        seen = 0

        def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*args: Any, **kwargs: Any) -> Any:
                nonlocal seen
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return counted

        for name in ("replace", "fsync", "unlink", "rmdir", "mkdir"):
            setattr(os, name, wrap(getattr(os, name)))
        return work()

    return run


def _main(mode: str, representation: str, name: str, images: Path, folder: Path, kills: int) -> None:
    ward = _Ward(representation, images, folder, name)
    output = folder / name
    if mode == "every-step":
        step = 1
        while ward.child(_dying_at(step, ward.extract(output))):
            ward.inspect(output, f"step {step}")
            ward.finish(output, f"step {step}")
            step += 1
    else:
        moments = random.Random(0)
        start = time.perf_counter()
        ward.child(ward.extract(output))
        whole_run = time.perf_counter() - start
        _remove(output)
        attempt = 0
        while ward.result["kills"] < kills:
            attempt += 1
            ward.child(ward.extract(output), kill_after=moments.uniform(0, whole_run))
            ward.inspect(output, f"attempt {attempt}")
            if attempt % 5 == 0:
                ward.finish(output, f"attempt {attempt}")
        ward.finish(output, "the last attempt")
    print(json.dumps(ward.result))


if __name__ == "__main__":
    _main(*sys.argv[1:4], Path(sys.argv[4]), Path(sys.argv[5]), int(sys.argv[6]))
