"""Run commands whose output is on a small disk that is nearly full, or has no more inodes.

Run as a script in a user namespace (``unshare -rm``), where anyone may mount a tmpfs:
``python small_disk.py FOLDER IMAGES COMMAND...`` prints a JSON list. Each command of `COMMANDS` writes an output, once
more without room, and again with room. Everything is imported once; each run is a child.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# {inputs}, {images} and {out} are replaced by folders.
_RUN = "--preset tiny --size 64 --val-count 2 --batch-size 2 --device cpu --precision float32 --log-every 1 --workers 1"
COMMANDS = {
    "extract": "extract hog {images} -o {out}/f --size 64",
    "extract-safetensors": "extract hog {images} -o {out}/f.safetensors --size 64",
    "extract-npz": "extract hog {images} -o {out}/f.npz --size 64",
    "extract-h5": "extract hog {images} -o {out}/f.h5 --size 64",
    "extract-mat": "extract hog {images} -o {out}/f.mat --size 64",
    "convert": "convert {inputs}/features -o {out}/f.npz",
    "convert-store": "convert {inputs}/features -o {out}/f --dtype float16",
    "merge": "merge {inputs}/part-0 {inputs}/part-1 -o {out}/f",  # from another disk, so it copies
    "invert": "invert {inputs}/features -o {out}/images --inverter {inputs}/inverter",
    "train": f"train hog {{images}} -o {{out}}/run --steps 3 --eval-every 2 --save-every 1 {_RUN}",
    "evaluate": "evaluate {inputs}/inverter {images} --size 64 --csv {out}/scores.csv",
    "sheet": "sheet {images} -o {out}/sheet.png --inverter {inputs}/inverter --size 64 --tile 64",
    "demo": "demo {images} -o {out}/demo --inverter {inputs}/inverter --size 64",
    "compare": "compare {images} -o {out}/compare -r hog --methods mean,nearest --size 64 --tile 64 --device cpu",
    "study": "study budget {images} -o {out}/study --inverter {inputs}/inverter --size 64 --show-count 2",
    "weights": "weights convert {inputs}/inverter/model.safetensors -o {out}/w.safetensors",
}


@dataclasses.dataclass
class Outcome:
    """Outcome of a command on a disk without room.

    Attributes:
        command: Name of the command.
        room: Bytes free for its new output, or -1 without inodes.
        code: Exit code.
        error: What it wrote to standard error.
        left: Temporary files.
        changed: Files of the earlier output that have changed.
        repeated: Exit code of the same command with room.
    """

    command: str
    room: int
    code: int
    error: str
    left: list[str]
    changed: list[str]
    repeated: int


class _Disk:
    """A tmpfs of 8 MB, because a checkpoint and its successor take 4 MB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=400", "tmpfs", path], check=True)

    def fill(self, room: int) -> None:
        """Leave room for this number of bytes, or no inode for -1."""
        (self.path / "filler").mkdir()
        if room < 0:
            for number in range(os.statvfs(self.path).f_ffree):
                (self.path / "filler" / str(number)).touch()
            return
        status = os.statvfs(self.path)
        size = max(0, status.f_bavail * status.f_frsize - room)
        (self.path / "filler" / "file").write_bytes(bytes(size))

    def empty(self) -> None:
        shutil.rmtree(self.path / "filler")


def _run(arguments: str, log: Path) -> int:
    """Run a command in a child, with its output in a file."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.argv = ["preimage", *arguments.split()]
            from preimage import cli  # noqa: PLC0415

            cli.main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _outcomes(disk: _Disk, name: str, arguments: str, log: Path) -> Iterator[Outcome]:
    out = disk.path / "out"
    out.mkdir()
    assert _run(arguments, log) == 0, log.read_text()
    size = sum(len(content) for content in _files(out).values())
    replaces = not any(word in arguments for word in ("merge", "train", "/f "))  # others refuse to replace a store
    for room in (0, size // 2, -1):
        if not replaces:
            shutil.rmtree(out)
            out.mkdir()
        before = _files(out)
        disk.fill(room)
        code = _run(arguments, log)
        after = _files(out)
        error = log.read_text()
        disk.empty()
        temporary = [file for file in after if Path(file).name.startswith((".preimage-", ".features-"))]
        # Of an output of several files, some may be new, but each is complete.
        changed = [file for file in before if after.get(file) != before[file]]
        yield Outcome(name, room, code, error, temporary, changed, _run(arguments, log))
    shutil.rmtree(out)


def _main(folder: Path, images: Path, names: list[str]) -> None:
    import training_runs  # noqa: F401, PLC0415 - it knows the tiny network

    inputs = folder / "inputs"
    inputs.mkdir()
    log = folder / "log"
    for number in range(2):
        assert _run(f"extract hog {images} -o {inputs}/part-{number} --size 64 --shard {number}/2", log) == 0
    assert _run(f"extract hog {images} -o {inputs}/features --size 64", log) == 0
    if any("{inputs}/inverter" in COMMANDS[name] for name in names):
        run = COMMANDS["train"].format(images=images, out=inputs)
        assert _run(run, log) == 0, log.read_text()
        (inputs / "run").rename(inputs / "inverter")
    disk = _Disk(folder / "disk")
    found = []
    for name in names:
        arguments = COMMANDS[name].format(images=images, inputs=inputs, out=disk.path / "out")
        found += [dataclasses.asdict(outcome) for outcome in _outcomes(disk, name, arguments, log)]
    print(json.dumps(found))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
