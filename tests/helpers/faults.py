"""Interrupt work at every operation on files, or at random moments, and examine what is left.

Run as a script, it imports everything once and forks a child for each trial, which makes hundreds of trials quick.
Modes: ``kill`` ends the process before an operation, or in the middle of a write; ``random`` at a random moment;
``full``, ``quota`` and ``broken`` let all writes fail from an operation on, with the error of a full disk, an exhausted
quota or a broken disk; ``denied`` lets all changes of folders fail; ``pair`` does the work twice at once.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

_ERRORS = {"full": errno.ENOSPC, "quota": errno.EDQUOT, "broken": errno.EIO, "denied": errno.EACCES}
_EVENTS = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.link": 1}  # position of the path
_NAMES = {"open", *_EVENTS}  # operations that change a folder
_SPACE = {"open", "write", "fsync", "os.mkdir", "os.link"}  # operations that need space
_MAX_SECONDS = 600  # a child that hangs is killed, which its exit code shows


# PREIMAGE_KILLS=50 runs the long versions of the tests: 50 random moments, and every operation.
TRIALS = int(os.environ.get("PREIMAGE_KILLS", "2"))

# Names of the work in `fault_jobs.JOBS`, except the extractions of other representations.
WORK = (
    *("extract", "extract.safetensors", "extract.npy", "extract.npz", "extract.h5", "extract.mat", "convert", "merge"),
    "merge-copies",
    *("invert", "checkpoint", "inverter", "keypoints", "train", "cache"),
)


def spread(names: Sequence[str], *by_default: str) -> list[Any]:
    """Return parameters for pytest; names that are not tried by default are left to the nightly tests."""
    return [name if name in by_default else pytest.param(name, marks=pytest.mark.nightly) for name in names]


class FaultServer:
    """This file, run as a script that answers requests."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}  # threads do not survive a fork
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=pipe, stdout=pipe, text=True, env=environment, start_new_session=True
        )

    def interrupt(self, job: str, mode: str, images: Path, folder: Path, trials: int) -> dict[str, Any]:
        """Interrupt work, examine what is left, and return the findings.

        Args:
            job: Name in `fault_jobs.JOBS`.
            mode: One of the modes above.
            images: Folder of photographs.
            folder: Empty folder.
            trials: Number of trials, evenly spread over the operations; 0 interrupts at every operation.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([job, mode, str(images), str(folder), trials]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the script has failed, see standard error"
        result: dict[str, Any] = json.loads(line)
        return result

    def close(self) -> None:
        """End the script."""
        self._process.communicate()


@pytest.fixture(scope="session")
def faults() -> Iterator[FaultServer]:
    """Return the script, started once for all tests."""
    if not hasattr(os, "fork"):
        pytest.skip("forks the processes that it interrupts")
    server = FaultServer()
    yield server
    server.close()


class _Faults:
    """Count operations on files below a folder, and interrupt at one of them.

    Args:
        folder: Folder of the files.
        mode: Mode, or an empty string to count only.
        number: Number of the operation at which the fault begins.
    """

    def __init__(self, folder: Path, mode: str, number: int) -> None:
        self.count = 0
        self._folder, self._mode, self._number = str(folder), mode, number
        self._lock = threading.RLock()

    def install(self) -> None:
        from preimage.io import atomic  # noqa: PLC0415 - the test process does not need it

        sys.addaudithook(self._audit)
        happens, fsync = self._happens, os.fsync

        def counted_fsync(descriptor: int) -> None:
            happens("fsync")
            fsync(descriptor)

        class Counted(io.FileIO):
            def write(self, data: Any, /) -> int:
                if happens("write", kill=False):
                    super().write(memoryview(data)[: len(data) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().write(data)

        class CountedTemporaryFile(atomic._TemporaryFile, Counted):
            pass

        os.fsync = counted_fsync
        atomic._TemporaryFile = CountedTemporaryFile  # type: ignore[misc]

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in _EVENTS:
            path = arguments[_EVENTS[event]]
        else:
            return
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self._folder):
            self._happens(event, os.fspath(path))

    def _happens(self, operation: str, path: str | None = None, *, kill: bool = True) -> bool:
        """Count an operation. Return whether the process should be killed, if not done here."""
        with self._lock:
            self.count += 1
            if self._mode == "kill" and self.count == self._number:
                if kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                return True
            failing = _NAMES if self._mode == "denied" else _SPACE
            if self._mode in _ERRORS and self.count >= self._number and operation in failing:
                code = _ERRORS[self._mode]
                raise OSError(code, os.strerror(code), *([] if path is None else [path]))
        return False


class _Trials:
    """Process that does the work in children, interrupts them, and examines the files."""

    def __init__(self, name: str, images: Path, folder: Path) -> None:
        from fault_jobs import JOBS, contents  # noqa: PLC0415 - the test process does not need it

        self._contents = contents
        inputs, self.outputs = folder / "inputs", folder / "outputs"
        inputs.mkdir()
        self.job = JOBS[name](images, inputs, self.outputs)
        self.result: dict[str, Any] = {"operations": 0, "interrupted": 0, "problems": []}
        assert self.child(self.job.prepare) == 0
        self.begin()
        modules = folder / "modules"
        assert self.child(lambda: self._imported(modules)) == 0
        for module in modules.read_text().split():
            with contextlib.suppress(Exception):  # some are no modules of their own
                importlib.import_module(module)
        self.begin()
        start = time.perf_counter()
        assert self.child(self.job.run) == 0
        self.seconds = time.perf_counter() - start
        self._expected = contents(self.outputs)
        self.begin()
        counts = folder / "count"
        assert self.child(lambda: self._counted(counts)) == 0
        self.result["operations"] = int(counts.read_text())

    def begin(self) -> None:
        """Remove the outputs, and write an earlier one."""
        shutil.rmtree(self.outputs, ignore_errors=True)
        self.outputs.mkdir()
        self.job.earlier()

    def _imported(self, modules: Path) -> None:
        """Do the work and write the names of the modules that it imports, so that other children need not."""
        before = set(sys.modules)
        self.job.run()
        modules.write_text("\n".join(name for name in sys.modules if name not in before))

    def _counted(self, counts: Path) -> None:
        faults = _Faults(self.outputs, "", 0)
        faults.install()
        self.job.run()
        counts.write_text(str(faults.count))

    def faulty(self, mode: str, number: int) -> Callable[[], None]:
        """Return the work with a fault at an operation."""

        def run() -> None:
            _Faults(self.outputs, mode, number).install()
            try:
                self.job.run()
            except (OSError, ValueError) as error:
                if mode in _ERRORS:
                    assert str(self.outputs) in str(error), f"the error does not name a file: {error!r}"
                    assert ".tmp" not in str(error), f"the error names a temporary file: {error!r}"
                    os._exit(3)
                raise

        return run

    def child(self, work: Callable[[], object], kill_after: float | None = None) -> int:
        """Do the work in a child and return its exit code, which is negative if it was killed."""
        process = self.start(work)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(process, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    @staticmethod
    def start(work: Callable[[], object]) -> int:
        """Start a child that does the work, and return its process."""
        process = os.fork()
        if process == 0:
            signal.alarm(_MAX_SECONDS)
            try:
                work()
                os._exit(0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        return process

    def pair(self, trial: str) -> None:
        """Do the work in two children at once while this process reads; one of them may give up with a clear error."""
        from preimage.errors import FileFormatError  # noqa: PLC0415 - the test process does not need it

        def run() -> None:
            try:
                self.job.run()
            except (OSError, ValueError) as error:
                if str(self.outputs) in str(error) and ".tmp" not in str(error):
                    os._exit(3)
                raise

        processes, codes = [self.start(run) for _ in range(2)], list[int]()
        while processes:
            try:
                self.job.check()
            except (FileFormatError, FileNotFoundError):
                pass  # a clear error
            except Exception as error:
                self.result["problems"].append(f"{trial}: read {type(error).__name__}: {error}")
            for process in list(processes):
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    processes.remove(process)
                    codes.append(os.waitstatus_to_exitcode(status))
        self.result["interrupted"] += 3 in codes
        if 0 not in codes or not {*codes} <= {0, 3}:
            self.result["problems"].append(f"{trial}: exit codes {codes}")

    def examine(self, trial: str, code: int, mode: str) -> None:
        """Check the files after an interruption."""
        if code in (-signal.SIGKILL, 3):
            self.result["interrupted"] += 1
        elif code:
            self.result["problems"].append(f"{trial}: exit code {code}")
        left = [path.name for path in self.outputs.rglob(".preimage-*")] if mode in ("full", "quota", "broken") else []
        if left:
            self.result["problems"].append(f"{trial}: left {left}")
        try:
            self.job.check()
        except Exception as error:
            self.result["problems"].append(f"{trial}: {type(error).__name__}: {error}")

    def finish(self, trial: str) -> None:
        """Repeat the work without a fault and compare the result with that of uninterrupted work."""
        if self.child(self.job.run):
            self.result["problems"].append(f"{trial}: cannot be repeated")
        found = self._contents(self.outputs)
        if found != self._expected:
            names = sorted(name for name in {*found, *self._expected} if found.get(name) != self._expected.get(name))
            self.result["problems"].append(f"{trial}: other contents: {names}")
        self.begin()


def _interrupt(name: str, mode: str, images: Path, folder: Path, count: int) -> dict[str, Any]:
    trials = _Trials(name, images, folder)
    trials.begin()
    if mode == "random":
        moments = random.Random(0)
        while trials.result["interrupted"] < count:
            trial = f"trial {trials.result['interrupted']}"
            code = trials.child(trials.job.run, kill_after=moments.uniform(0, trials.seconds))
            trials.examine(trial, code, mode)
            if code == 0 or trials.result["interrupted"] % 5 == 0:
                trials.finish(trial)
        trials.finish("the last trial")
    elif mode == "pair":
        for number in range(count):
            trials.pair(f"pair {number}")
            trials.finish(f"pair {number}")
    else:
        operations = trials.result["operations"]
        for number in range(1, operations + 1, max(1, operations // count) if count else 1):
            trials.examine(f"operation {number}", trials.child(trials.faulty(mode, number)), mode)
            trials.finish(f"operation {number}")
    return trials.result


if __name__ == "__main__":
    for request in sys.stdin:
        job, mode, images, folder, trials = json.loads(request)
        try:
            found = _interrupt(job, mode, Path(images), Path(folder), trials)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), flush=True)
