"""Run the fenced ``bash`` and ``python`` blocks of Markdown files, each file from top to bottom in an empty folder.

The folder contains ``photos/`` with a few of scikit-image's photographs. The Python blocks of a file share one
namespace. The first failure in a file ends its run with the file and the line. A block that cannot run has the comment
``<!-- not run: reason -->`` on the line before it. Each of several files has a process of its own, of which as many run
at once as there are cores.

    python tests/helpers/run_code_blocks.py README.md docs/*.md
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

PHOTOGRAPHS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "rocket.jpg")
LANGUAGES = ("bash", "python")
_NOT_RUN = re.compile(r"<!-- not run: \S.* -->")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        file: the Markdown file.
        line: number of the first line of the code.
        language: ``"bash"`` or ``"python"``.
        code: the lines between the fences.
        runs: whether it is run; not if it is marked as not run.
    """

    file: Path
    line: int
    language: str
    code: str
    runs: bool


class BlockError(Exception):
    """A block failed. The message starts with its file and line."""


def blocks_of(file: Path) -> Iterator[Block]:
    """Yield the blocks of a Markdown file that are in one of `LANGUAGES`.

    Raises:
        BlockError: a block has no end, or a comment ``not run`` has no reason or no block after it.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        if lines[number].startswith("<!-- not run"):
            if not _NOT_RUN.fullmatch(lines[number].rstrip()):
                raise BlockError(f"{file}:{number + 1}: expected '<!-- not run: reason -->'")
            if number + 1 == len(lines) or lines[number + 1].removeprefix("```") not in LANGUAGES:
                raise BlockError(f"{file}:{number + 1}: no bash or python block follows on the next line")
        if not lines[number].startswith("```"):
            number += 1
            continue
        start = number + 1
        end = next((index for index in range(start, len(lines)) if lines[index].rstrip() == "```"), None)
        if end is None:
            raise BlockError(f"{file}:{number + 1}: the block has no end")
        language = lines[number][3:].strip()
        if language in LANGUAGES:
            runs = number == 0 or not _NOT_RUN.fullmatch(lines[number - 1].rstrip())
            yield Block(file, start + 1, language, "\n".join(lines[start:end]) + "\n", runs)
        number = end + 1


def run_bash(block: Block, folder: Path) -> None:
    """Run a block with bash, where ``python`` and ``preimage`` are those of this interpreter's environment."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    # Empty lines in front make bash count the lines of the Markdown file.
    script = "\n" * (block.line - 2) + f"set -eEuo pipefail; trap 'echo {block.file}:$LINENO: failed >&2' ERR\n"
    result = subprocess.run(["bash", "-c", script + block.code], cwd=folder, env=environment, check=False)
    if result.returncode:
        raise BlockError(f"{block.file}:{block.line}: the block ended with exit code {result.returncode}")


def run_python(block: Block, folder: Path, namespace: dict[str, Any]) -> None:
    """Run a block in this process, with the variables of the blocks before it."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        exec(compile("\n" * (block.line - 1) + block.code, str(block.file), "exec"), namespace)
    except Exception as error:
        traceback.print_exc()
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(block.file)]
        line = frames[-1].lineno if frames else getattr(error, "lineno", block.line)
        raise BlockError(f"{block.file}:{line}: {type(error).__name__}: {error}") from error
    finally:
        os.chdir(before)


def copy_photographs(folder: Path) -> None:
    """Copy `PHOTOGRAPHS` from scikit-image, which is found but not imported."""
    found = importlib.util.find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise BlockError("scikit-image is not installed: its photographs are needed")
    folder.mkdir()
    for name in PHOTOGRAPHS:
        shutil.copy(Path(found.submodule_search_locations[0]) / "data" / name, folder / name)


def run_file(file: Path, folder: Path) -> int:
    """Run the blocks of a file in an empty folder.

    Returns:
        Number of blocks that were run.

    Raises:
        BlockError: a block failed.
    """
    copy_photographs(folder / "photos")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for block in blocks_of(file):
        if not block.runs:
            continue
        print(f"--- {file}:{block.line} ({block.language})", flush=True)
        start = time.monotonic()
        if block.language == "bash":
            run_bash(block, folder)
        else:
            run_python(block, folder, namespace)
        print(f"--- {time.monotonic() - start:.1f} s", flush=True)
        count += 1
    return count


def run_each(files: Sequence[Path]) -> int:
    """Run each file in a process, and print its output when it ends. Return the number of files with a failure."""

    def run(file: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, __file__, str(file)]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)

    failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in as_completed([pool.submit(run, file) for file in files]):
            print(done.result().stdout, end="", flush=True)
            failed += done.result().returncode != 0
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the bash and python blocks of Markdown files.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="Markdown file")
    files = parser.parse_args(arguments).files
    if len(files) > 1:
        failed = run_each(files)
        print(f"{len(files) - failed} files passed, {failed} failed")
        return int(failed > 0)
    with tempfile.TemporaryDirectory() as folder:
        try:
            count = run_file(files[0], Path(folder))
        except BlockError as error:
            print(error, file=sys.stderr)
            return 1
    print(f"{files[0]}: {count} blocks run", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
