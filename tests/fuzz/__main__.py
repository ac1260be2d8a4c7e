"""Fuzz targets, guided by the coverage of the package's Python, each in its own process.

``python -m fuzz png --seconds 600`` fuzzes one target, ``python -m fuzz --seconds 600`` all. Inputs that reach new code
are kept in ``FOLDER/NAME/corpus`` for the next run. Inputs that fail are ``FOLDER/NAME/crash-*``, and their errors are
in ``FOLDER/NAME.log``. ``python -m fuzz NAME --input FILE`` repeats one.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz.targets import TARGETS

# The last line of each kind is the final one.
STATISTICS = (rb"cov: \d+ ft: \d+ corp: \d+", rb"stat::number_of_executed_units: *\d+", rb"stat::peak_rss_mb: *\d+")


def main() -> int:
    """Run the targets that the command line names, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="targets, such as png or 'native-*'; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="time for each target")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="where inputs and logs are kept")
    parser.add_argument("--input", type=Path, help="file to give to the targets, instead of fuzzing")
    parser.add_argument("--list", action="store_true", help="print the names of the targets")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="targets at once")
    options = parser.parse_args()
    for pattern in options.names:
        if not fnmatch.filter(TARGETS, pattern):
            parser.error(f"no target {pattern!r}; --list prints their names")
    names = [name for name in TARGETS if any(fnmatch.fnmatch(name, one) for one in options.names or ["*"])]
    if options.list:
        print("\n".join(names))
        return 0
    if options.input is not None:
        for name in names:
            print(name, "accepts it" if TARGETS[name](options.input.read_bytes()) else "rejects it")
        return 0
    with ThreadPoolExecutor(options.jobs) as pool:
        passed = pool.map(lambda name: fuzz(name, options.seconds, options.folder), names)
        failed = [name for name, fine in zip(names, passed, strict=True) if not fine]
    print(f"{len(names)} targets, {len(failed)} failed{': ' * bool(failed)}{', '.join(failed)}")
    return int(bool(failed))


def fuzz(name: str, seconds: int, folder: Path) -> bool:
    """Fuzz a target, print a line of statistics, and return whether there was no fault."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    with open(log, "wb") as file:
        python = [sys.executable, *["-S"] * sys.flags.no_site]
        command = [*python, "-m", "fuzz.guided", name, str(seconds), str(folder / name)]
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    text = log.read_bytes()
    last = ", ".join(lines[-1].decode() for pattern in STATISTICS if (lines := re.findall(pattern, text)))
    print(f"{name:34}{'passed' if code == 0 else f'FAILED ({log})'}: {last}", flush=True)
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
