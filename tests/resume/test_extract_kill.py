"""``kill -9`` during extraction, at every step that touches the disk and at random moments: it always resumes to the
same bytes, and nothing is half-written.

The file is also the program that is killed: run as a script it loads everything once and forks a child for every
attempt, which is what makes dozens of kills quick.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# PREIMAGE_KILLS=50 makes the long version of this test.
KILLS = int(os.environ.get("PREIMAGE_KILLS", "6"))

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the processes that it kills")


def _run(mode: str, images: Path, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, mode, str(images), str(folder), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_killed_at_every_step_on_the_disk(photo_folder: Path, tmp_path: Path) -> None:
    result = _run("every-step", photo_folder, tmp_path)
    assert result["kills"] > 20, "each of the slices takes several steps"
    assert result["unsound"] == []
    assert result["different"] == []
    assert result["left_over"] == []


def test_killed_at_random_moments(photo_folder: Path, tmp_path: Path) -> None:
    result = _run("random", photo_folder, tmp_path)
    assert result["kills"] == KILLS
    assert result["unsound"] == []
    assert result["different"] == []
    assert result["left_over"] == []


class _Ward:
    """Starts extractions in children, kills them, and looks at what they leave."""

    def __init__(self, images: Path, folder: Path) -> None:
        from preimage import representations  # noqa: PLC0415 - the test process itself needs none of this
        from preimage.pipelines import extract as module  # noqa: PLC0415

        module.PART_SIZE = 4
        self._hog = representations.create("hog")
        self._extract = module.extract
        self._read = FeatureStore
        self._images = images
        self.folder = folder
        self.result: dict[str, Any] = {"kills": 0, "unsound": [], "different": [], "left_over": []}
        self.whole = folder / "whole"
        self.extract(self.whole)()

    def extract(self, output: Path) -> Callable[[], object]:
        return lambda: self._extract(self._hog, self._images, output, size=64, batch_size=2)

    def child(self, work: Callable[[], object], kill_after: float | None = None) -> bool:
        """Whether the child was killed; it must end well otherwise."""
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
        """After a kill: no output or a whole one, and every marked slice can be read."""
        try:
            if output.exists():
                self._read(output)
            partial = output.with_name(output.name + ".partial")
            if not (partial / "manifest.json").exists():
                return  # not begun, or done and being taken away: what is in it counts for nothing
            for state in partial.glob("part-*.json"):
                json.loads(state.read_bytes())
                self._read(state.with_suffix(".safetensors"))
        except (ValueError, OSError) as error:
            self.result["unsound"].append(f"{attempt}: {error}")

    def finish(self, output: Path, attempt: str) -> None:
        """Resume undisturbed, compare, and clean up."""
        self.child(self.extract(output))
        if output.read_bytes() != self.whole.read_bytes():
            self.result["different"].append(attempt)
        self.result["left_over"] += [path.name for path in self.folder.iterdir() if path not in (output, self.whole)]
        output.unlink()


def _dying_at(step: int, work: Callable[[], object]) -> Callable[[], object]:
    """The work, cut short before the given one of its calls that change or secure what is on the disk."""

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


def _main(mode: str, images: Path, folder: Path, kills: int) -> None:
    ward = _Ward(images, folder)
    output = folder / "output"
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
        output.unlink()
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
    _main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
