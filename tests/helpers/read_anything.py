"""Read files with every reader of the package, in a process that reports what that does.

``python read_anything.py FILES`` prints a JSON object for each file: its path, the error of each reader (``null`` for
none), and the events that only code from the file could cause. With ``--measure`` each file is read in a child process
of bounded memory, and the objects contain the seconds and the peak of additional memory in bytes instead of events.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import preimage
from preimage.inverters import Inverter
from preimage.io import decode_file, list_images, read_array_file, read_keypoints
from preimage.io.weights import open_weights
from preimage.pipelines.invert import read_spec
from preimage.spec import Spec
from preimage.store import FeatureStore

MAPS = Spec("hog", "v", 31, 8, {"cell_size": 8})
EXPECTED = (ValueError, OSError, LookupError)  # FileFormatError is a ValueError
ADDRESS_SPACE = 4 << 30  # bytes in addition to what is mapped already; mapping a large file takes no memory

# Audit events of Python that reading a file never causes.
FORBIDDEN = (
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "pty.spawn", "subprocess.Popen", "os.startfile"),
    *("socket.", "urllib.", "ftplib.", "http.", "smtplib.", "webbrowser.", "pickle.find_class", "marshal.load"),
    *("sqlite3.enable_load_extension", "sqlite3.load_extension", "code.__new__", "function.__new__", "shutil."),
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate"),
    *("os.putenv", "os.kill", "tempfile."),
)
OURS = (sys.prefix, sys.base_prefix, os.path.dirname(preimage.__file__), "<frozen")
OUTPUT = os.environ["READ_ANYTHING_OUTPUT"]  # the only folder that may be written to
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def read_values(mapping: Any) -> None:
    for value in mapping.values():
        repr(value)


def read_images(path: str) -> None:
    for source in list_images(path):
        source.read()


READERS: dict[str, Callable[[str], object]] = {
    "store": lambda path: read_values(FeatureStore(path)),
    "arrays": lambda path: read_values(read_array_file(path, MAPS)),
    "arrays of MATLAB": lambda path: read_values(read_array_file(path, MAPS, "matlab")),
    "keypoints": lambda path: read_values(read_keypoints(path)),
    "weights": lambda path: [array.load() for array in open_weights(path).arrays],
    "image": decode_file,
    "images": read_images,
    "spec": read_spec,
    "inverter": Inverter.load,
    "info": preimage.info,
    "invert": lambda path: preimage.invert(path, OUTPUT),
}


class Watch:
    """Record the audit events that only code from a file could cause."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.imports_are_expected = True
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if arguments and str(arguments[0]).startswith(OUTPUT):
            return
        if event == "open":
            path, mode, flags = arguments
            if path == os.devnull:
                return
            if set(mode or "") & set("wax+") or (flags or 0) & WRITES:
                self.events.append(f"open {path} {mode} {flags}")
        elif event == "exec":
            name = arguments[0].co_filename
            if not name.startswith(OURS) and not (self.imports_are_expected and name.startswith("<")):
                self.events.append(f"exec {name}")
        elif event.startswith(FORBIDDEN) and not self.imports_are_expected:
            self.events.append(f"{event} {arguments}")


def errors_of(path: str) -> dict[str, str | None]:
    errors: dict[str, str | None] = {}
    for name, read in READERS.items():
        try:
            read(path)
            errors[name] = None
        except EXPECTED as error:
            errors[name] = f"{type(error).__name__}: {error}"
        except Exception as error:
            errors[name] = f"unexpected {type(error).__name__}: {error}"
    return errors


def watch(paths: list[str]) -> None:
    watched = Watch()
    for imports_are_expected in (True, False):  # what is imported lazily, is imported the first time
        watched.imports_are_expected = imports_are_expected
        for path in paths:
            watched.events.clear()
            errors = errors_of(path)
            print(json.dumps({"path": path, "errors": errors, "events": list(watched.events)}))


def measure(paths: list[str]) -> None:
    errors_of(paths[0])  # imports and caches
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for path in paths:
        sys.stdout.flush()
        if os.fork():
            os.wait()
            continue
        resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE, mapped + ADDRESS_SPACE))
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before, begun = _peak(), time.process_time()
        errors = errors_of(path)
        seconds, peak = time.process_time() - begun, _peak() - before
        print(json.dumps({"path": path, "errors": errors, "seconds": seconds, "peak": peak}))
        sys.stdout.flush()
        os._exit(0)


def _peak() -> int:
    """Return the peak of resident memory since the last reset, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1] == "--measure":
        measure(sys.argv[2:])
    else:
        watch(sys.argv[1:])
