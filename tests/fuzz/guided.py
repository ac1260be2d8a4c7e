"""Fuzz one target in this process: ``python -m fuzz.guided NAME SECONDS FOLDER``."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from pathlib import Path

import atheris


def main(name: str, seconds: str, folder: Path) -> None:
    """Fuzz a target for so long; ends the process."""
    # Only the package, and the choices of calls of the native module, whose own code is not seen.
    with atheris.instrument_imports(include=["preimage", "fuzz.native_calls"], enable_loader_override=False):
        target = importlib.import_module("fuzz.targets").TARGETS[name]
        seeds = list(target.seeds())
        for seed in seeds:  # imports what is imported when it is needed
            target(seed)
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    used = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    options = {
        "artifact_prefix": f"{folder}/",
        "max_total_time": seconds,
        "rss_limit_mb": (used + sys.modules["fuzz.target"].MAX_BYTES) >> 20,
        "timeout": 60,  # seconds of the clock, for a call that never ends; targets measure their own time
        "print_final_stats": 1,
    }

    def one(data: bytes) -> None:
        target(data)

    atheris.Setup([sys.argv[0], *(f"-{option}={value}" for option, value in options.items()), str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
