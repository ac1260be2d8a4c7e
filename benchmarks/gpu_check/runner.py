"""Run commands as steps with limits, and record at once what they find."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Fact = dict[str, Any]

GRACE = 3  # seconds between SIGINT, after which tests still print their results, and SIGKILL
LEAST = 4  # seconds; with less time left no step starts
LOG_BYTES = 1 << 19  # of one step; the log of all stays below 16 MiB


@dataclasses.dataclass(frozen=True)
class Step:
    """A command with a time limit. Its lines of output that are JSON objects are facts.

    Attributes:
        name: Name in the summary; steps that may be selected together begin with the same word.
        command: Program and arguments.
        limit: Maximum duration in seconds.
        environment: Variables to set; an empty value removes one.
        until: Seconds since the start of the run until which the step may exceed its limit.
        absent: Reason why the step cannot run on this machine; empty if it can.
        serves: Later steps that need the result of this one, which is repeated until they are done.
        prints: Text in the output of a successful command.
    """

    name: str
    command: Sequence[str | Path]
    limit: float
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    until: float = 0.0
    absent: str = ""
    serves: Sequence[str] = ()
    prints: str = ""


class Facts:
    """JSON lines in one or more files, each on disk before the next is made.

    Args:
        paths: Files to append to.
        common: Fields of every line.
    """

    def __init__(self, paths: Sequence[Path], common: Fact) -> None:
        self._paths, self._common = paths, common
        self._lock = threading.Lock()
        self._begin = time.monotonic()
        for path in paths:
            if path.exists() and path.read_bytes()[-1:] != b"\n":
                with open(path, "ab") as file:
                    file.write(b"\n")  # a killed run has left half a line

    def add(self, **fields: Any) -> None:
        """Append a line."""
        line = json.dumps({**self._common, "time": round(time.monotonic() - self._begin, 2), **fields})
        with self._lock:
            for path in self._paths:
                with open(path, "ab") as file:
                    file.write(line.encode() + b"\n")
                    file.flush()
                    os.fsync(file.fileno())


def read_facts(paths: Iterable[Path]) -> list[Fact]:
    """Return the facts in the files that exist, in order; lines that are cut off are left out."""
    lines = [line for path in paths if path.exists() for line in path.read_bytes().splitlines()]
    return [fact for fact in map(as_fact, lines) if fact]


def as_fact(line: str | bytes) -> Fact | None:
    """Return the JSON object in a line, or ``None``."""
    if line[:1] not in ("{", b"{"):
        return None
    try:
        return json.loads(line)  # type: ignore[no-any-return]
    except ValueError:
        return None


def last_outcomes(facts: Iterable[Fact], **common: Any) -> dict[str, Fact]:
    """Return the newest fact with the outcome of each step, among the facts that have these fields."""
    found = sorted((fact for fact in facts if fact.get("event") == "end"), key=lambda fact: fact["run"])
    return {fact["step"]: fact for fact in found if all(fact.get(name) == value for name, value in common.items())}


class Runner:
    """Run steps within a common time limit, and write a log and a summary.

    Args:
        title: First line of the summary.
        folder: Folder of log.txt and summary.txt, which are written after every step.
        facts: Files to which starts, results and ends of steps are appended.
        done: Last lines of the steps of earlier runs, by name; those that were "ok" are not repeated.
        seconds: Time limit of all steps together.
    """

    def __init__(self, title: str, folder: Path, facts: Facts, done: Mapping[str, Fact], seconds: float) -> None:
        self._title, self._folder, self._facts, self._done = title, folder, facts, done
        self._begin = time.monotonic()
        self._end = self._begin + seconds
        self._lock = threading.Lock()
        self._rows: list[tuple[str, str, float, str]] = []
        self._problems: list[str] = []
        self._running: set[subprocess.Popen[str]] = set()

    def stop(self) -> None:
        """End the running steps, and start no others."""
        self._end = 0.0
        for process in list(self._running):
            process.terminate()

    def run(self, steps: Sequence[Step], at_once: int) -> list[str]:
        """Run steps, at most `at_once` at the same time, and return the names of those that failed."""
        with ThreadPoolExecutor(max(1, at_once)) as pool:
            outcomes = list(pool.map(self._step, steps))
        return [step.name for step, outcome in zip(steps, outcomes, strict=True) if outcome in ("failed", "stopped")]

    def _step(self, step: Step) -> str:
        begin, left = time.monotonic(), self._end - time.monotonic() - GRACE
        if all(self._done.get(name, {}).get("outcome") == "ok" for name in (step.name, *step.serves)):
            before = self._done[step.name]
            return self._note(step, "done", before["seconds"], before["remark"])
        if step.absent:
            return self._note(step, "absent", 0.0, step.absent)
        if left < LEAST:
            return self._note(step, "no time", 0.0, "")
        limit = min(max(step.limit, step.until - (begin - self._begin)), left)
        self._facts.add(step=step.name, event="start", limit=round(limit, 1))
        try:
            outcome, remark = self._execute(step, limit)
        except OSError as error:  # a step that cannot start must not stop the others
            outcome, remark = "failed", str(error)
        seconds = round(time.monotonic() - begin, 2)
        self._facts.add(step=step.name, event="end", outcome=outcome, seconds=seconds, remark=remark)
        return self._note(step, outcome, seconds, remark)

    def _execute(self, step: Step, limit: float) -> tuple[str, str]:
        # `timeout` keeps the limit, and ends what a command has started, even if this process is killed.
        command = ["timeout", "--signal=INT", f"--kill-after={GRACE}", f"{limit:.1f}", *map(str, step.command)]
        variables = {name: value for name, value in {**os.environ, **step.environment}.items() if value}
        begin, last, seen, size = time.monotonic(), "", not step.prints, 0
        with subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            self._running.add(process)
            assert process.stdout is not None
            for line in process.stdout:
                if fact := as_fact(line):
                    self._facts.add(**{**fact, "step": step.name, "event": "fact"})
                    if fact.get("problems") or str(fact.get("remark")).startswith("WRONG"):
                        self._problems.append(f"{step.name}: {line.strip()}")
                elif line.strip():
                    seen = seen or step.prints in line
                    if time.monotonic() - begin < limit:
                        last = line.strip()
                size += len(line)
                if size < LOG_BYTES:
                    self._write(f"[{step.name}] {line.rstrip()[:2000]}")
        self._running.remove(process)
        code = process.returncode
        if time.monotonic() - begin >= limit:
            return "stopped", f"after {limit:.0f} s: {last}"[:300]
        if code:
            return "failed", f"exit code {code}: {last}"[:300]
        return ("ok", last[:300]) if seen else ("failed", f"the output has no {step.prints!r}: {last}"[:300])

    def _write(self, line: str) -> None:
        with self._lock, open(self._folder / "log.txt", "a", encoding="utf-8") as file:
            print(line, file=file)

    def _note(self, step: Step, outcome: str, seconds: float, remark: str) -> str:
        """Print the end of a step, and write the summary."""
        with self._lock:
            self._rows.append((step.name, outcome, seconds, remark))
            print(f"{outcome:8}{seconds:6.1f} s  {step.name}: {remark}"[:300], flush=True)
            (self._folder / "summary.txt").write_text(self.summary() + "\n")
        return outcome

    def summary(self) -> str:
        """Return the table of the steps: outcome, seconds, remark; and the facts that are problems."""
        width = max(len(name) for name, *_ in self._rows) if self._rows else 4
        lines = [self._title, f"{'step':{width}}  outcome  seconds  remark"]
        lines += [
            f"{name:{width}}  {outcome:7}  {seconds:7.1f}  {remark}" for name, outcome, seconds, remark in self._rows
        ]
        return "\n".join(line.rstrip()[:300] for line in [*lines, *self._problems])


def run_name() -> str:
    """Return a name for a run: the time and the process."""
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}-{os.getpid()}"
