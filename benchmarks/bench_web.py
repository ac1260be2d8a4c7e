"""The browser demo in headless Chromium: milliseconds for a picture, and megabytes loaded.

Appended to web-cpu.csv. `hog` and `network` are what the page shows, and `frame` is from a change to its pictures. The
package's HOG and network, with one thread, take turns with them: `hog_ratio` (both of the portable instruction set) and
`network_ratio` are times in the browser / times of the package. `loaded` is in megabytes; `compressed`, by gzip. Needs
the demo in build/web (`make web`) and a Chromium.
"""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

import preimage as pi
from _harness import Run, Table, Times, parser
from preimage.ops import _native

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

from browser import open_browser, serving  # noqa: E402

SITE = ROOT / "build" / "web"
COLUMNS = (
    *("chromium", "photograph", "height", "width", "calls", "hog", "hog_ratio", "network", "network_ratio", "frame"),
    *("loaded", "compressed"),
)
CASES = (("astronaut", 128), ("astronaut", 256), ("coffee", 256), ("astronaut", 384))  # photograph, shorter side
QUICK = CASES[:1]
# Changes the setting, and returns the milliseconds until its pictures are there.
CHANGE = """([id, value]) => new Promise((done) => {
  const began = performance.now();
  const status = document.getElementById("status");
  const observer = new MutationObserver(() => {
    if (status.textContent !== "Ready.") return;
    observer.disconnect();
    done(performance.now() - began);
  });
  observer.observe(status, {childList: true});
  const input = document.getElementById(id);
  input.value = value;
  input.dispatchEvent(new Event("input"));
})"""


def timed(call: Callable[[], object]) -> float:
    """Return the milliseconds of one call."""
    began = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began)


def megabytes(names: set[str]) -> tuple[float, float]:
    """Return the size of files of the demo, and their size compressed as servers do."""
    contents = [(SITE / name).read_bytes() for name in names]
    return sum(map(len, contents)) / 1e6, sum(len(gzip.compress(content, 6)) for content in contents) / 1e6


def measure(table: Table, calls: int, cases: Sequence[tuple[str, int]]) -> None:
    """Measure the demo with photographs of its own, at the given shorter sides."""
    inverter = pi.load_inverter("hog-compact", device="cpu")
    with open_browser() as browser, serving(SITE) as (address, paths):
        page = browser.new_page()
        page.set_default_timeout(300_000)
        page.goto(address)
        page.wait_for_selector('#pictures[aria-busy="false"]')
        loaded, compressed = megabytes({path[1:] or "index.html" for path in paths})
        for photograph, side in cases:
            page.select_option("#example", photograph)
            for size in (160, side):  # so that the second is a change, whatever the photograph before was
                page.evaluate(CHANGE, ["size", str(size)])
            height, width = page.evaluate("() => [photograph.height, photograph.width]")
            image = np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8)
            features = torch.from_numpy(pi.hog(image))
            here: dict[str, Callable[[], object]] = {
                "hog": lambda image=image: pi.hog(image),
                "network": lambda features=features: inverter(features),
            }
            times: dict[str, list[float]] = {}
            for call in range(calls + 1):
                times.setdefault("frame", []).append(page.evaluate(CHANGE, ["dropout", str(10 * (call % 2))]))
                for name, compute in here.items():
                    shown = float(page.inner_text(f"#{name}-time").removesuffix(" ms"))
                    times.setdefault(name, []).append(shown)
                    times.setdefault(f"our {name}", []).append(timed(compute))
            found = {name: Times(tuple(values[1:])) for name, values in times.items()}  # the first warms up
            table.add(
                chromium=browser.version,
                photograph=photograph,
                height=height,
                width=width,
                calls=calls,
                hog=found["hog"].median,
                hog_ratio=found["hog"].ratio(found["our hog"]),
                network=found["network"].median,
                network_ratio=found["network"].ratio(found["our network"]),
                frame=found["frame"].median,
                loaded=loaded,
                compressed=compressed,
            )


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, and return the exit code."""
    run = Run(parser(__doc__, "python benchmarks/bench_web.py").parse_args(arguments))
    if not (SITE / "build.json").exists():
        raise SystemExit(f"no demo in {SITE}: run `make web` first")
    table = run.table("web", COLUMNS)
    calls = 2 if run.quick else 20
    threads, instruction_set = torch.get_num_threads(), _native.instruction_set()
    torch.set_num_threads(1)
    _native.set_instruction_set("portable")
    try:
        measure(table, calls, QUICK if run.quick else CASES)
    finally:
        torch.set_num_threads(threads)
        _native.set_instruction_set(instruction_set)
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
