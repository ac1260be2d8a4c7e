"""Steps that are bounded in time and do not stop one another, their logs, and the table at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LAST_LINES = 30  # of a failed command's output
GRACE = 5  # seconds for a command that is stopped


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a step ended: "ok", "failed" or "skipped", and why or with what."""

    state: str
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class Step:
    """Work of at most `limit` seconds. `run` is given the seconds it really has."""

    name: str
    limit: float
    run: Callable[[float], Outcome]


class Commands:
    """Runs commands in a folder, their output into logs."""

    def __init__(self, folder: Path, logs: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.logs = logs
        self.environment = dict(environment)
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)

    def run(
        self, name: str, command: Sequence[str | Path], limit: float, *, show: int = 3, **environment: str
    ) -> tuple[int | None, str]:
        """(exit code, output) of a command; the code is None when it was stopped after `limit` seconds.

        Prints the last `show` lines, more of a command that fails. What it started ends with it.
        """
        log = self.logs / f"{name.replace(' ', '-')}.log"
        with log.open("a+", encoding="utf-8", errors="replace") as file:
            print("$", *command, file=file, flush=True)
            begin = file.tell()
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.folder,
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(timeout=max(limit, 1))
            except subprocess.TimeoutExpired:
                code = None
                os.killpg(process.pid, signal.SIGINT)  # tests then say what they have found so far
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=GRACE)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            file.seek(begin)
            output = file.read()
        lines = output.rstrip().splitlines()
        wanted = show if code == 0 else max(show, LAST_LINES)
        for line in lines[len(lines) - min(wanted, len(lines)) :]:
            print(f"    {line}", flush=True)
        return code, output

    def judged(
        self, name: str, command: Sequence[str | Path], limit: float, *, show: int = 3, **environment: str
    ) -> Outcome:
        """The same as an outcome: ok where the command succeeds, with the last line that it printed."""
        code, output = self.run(name, command, limit, show=show, **environment)
        last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")
        if code is None:
            return Outcome("failed", f"stopped after {limit:.0f} s")
        return Outcome("ok" if code == 0 else "failed", last if code == 0 else f"exit code {code}: {last}")


class Checks:
    """Runs steps one after the other within a time for them all."""

    def __init__(self, seconds: float, after_each: Callable[[str], None]) -> None:
        self._end = time.monotonic() + seconds
        self._after_each = after_each
        self._rows: list[tuple[str, Outcome, float]] = []

    def run(self, step: Step) -> None:
        """One step; whatever it raises is its failure."""
        print(f"\n== {step.name}", flush=True)
        begin = time.monotonic()
        left = self._end - begin
        if left < 5:
            outcome = Outcome("skipped", "no time left")
        else:
            try:
                outcome = step.run(min(step.limit, left))
            except Exception as error:  # a broken step must not stop the next
                outcome = Outcome("failed", f"{type(error).__name__}: {error}")
        seconds = time.monotonic() - begin
        print(f"   {outcome.state} in {seconds:.1f} s: {outcome.remark}", flush=True)
        self._rows.append((step.name, outcome, seconds))
        self._after_each(self.summary())

    def summary(self) -> str:
        """The table: step, outcome, seconds, remark."""
        width = max((len(name) for name, _, _ in self._rows), default=4)
        lines = [f"{'step':{width}}  {'outcome':7}  seconds  remark"]
        lines += [
            f"{name:{width}}  {outcome.state:7}  {seconds:7.1f}  {outcome.remark[:150]}".rstrip()
            for name, outcome, seconds in self._rows
        ]
        return "\n".join(lines)

    @property
    def failed(self) -> list[str]:
        """The names of the steps that failed."""
        return [name for name, outcome, _ in self._rows if outcome.state == "failed"]
