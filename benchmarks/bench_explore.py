"""Changes in `preimage explore`: milliseconds from a change to its result, median and 95th percentile.

Appended to explore-cpu.csv. `library` is `Explorer.show` alone, with new values each time, so that only what the change
does not affect is known from before;
`page` is the same change through the server, as a browser sends it:
``queue/join``, and the pictures from ``queue/data``. `cpu_median` and `cpu_p95` are of the time on processors (of the
server and of this client together), which other programs on the machine affect less.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import skimage.data
import torch

from _harness import PHOTOGRAPHS, Run, parser
from preimage.app import Explorer, Settings
from preimage.app.page import FULL_BITS
from preimage.app.server import listening, serving
from preimage.app.settings import MASK_SIDE, pack_mask

COLUMNS = ("inverter", "side", "change", "way", "calls", "median", "p95", "cpu_median", "cpu_p95")

Change = Callable[[Settings, int], Settings]


def mask(number: int) -> str:
    """Return one of many erased regions."""
    erased = np.zeros((MASK_SIDE, MASK_SIDE), bool)
    top, left = 2 + 7 * number % 40, 3 + 11 * number % 40
    erased[top : top + 12, left : left + 18] = True
    erased[0, number % MASK_SIDE] = True  # so that no two are equal
    return pack_mask(erased)


def changes(explorer: Explorer, inverter: str, keys: list[str]) -> dict[str, Change]:
    """Return the kinds of changes that an inverter has: functions of the settings before and the number of the call."""
    between = dict(other=keys[1])
    found: dict[str, Change] = {
        "erase a region": lambda before, k: dataclasses.replace(before, erased=mask(k)),
        "position": lambda before, k: dataclasses.replace(before, **between, position=(k + 1) / 1000),
        "new photograph": lambda before, k: dataclasses.replace(before, photograph=keys[2 + k]),
    }
    if explorer.facts(inverter).has_keypoints:
        found["keypoints kept"] = lambda before, k: dataclasses.replace(before, kept=1 + k / 10)
        found["positions only"] = lambda before, k: dataclasses.replace(before, parts="positions", kept=50 + k / 10)
        return found
    found |= {
        "noise": lambda before, k: dataclasses.replace(before, perturbation="noise-40", seed=k + 1),
        "quantize": lambda before, k: dataclasses.replace(before, perturbation="quantize-3", seed=k + 1),
        "dropout": lambda before, k: dataclasses.replace(before, perturbation="dropout-40", seed=k + 1),
        "drop the smallest": lambda before, k: dataclasses.replace(before, perturbation=f"drop-smallest-{1 + k / 10}"),
        "binarize": lambda before, k: dataclasses.replace(before, perturbation="binarize", seed=k + 1),
    }
    return found


def controls(settings: Settings) -> list[object]:
    """Return the values of the page's controls for settings."""
    steps = dict(step.rpartition("-")[::2] for step in settings.perturbation.split("+") if "-" in step)
    parts = {"all": "everything", "positions": "positions only"}[settings.parts]
    board = json.dumps({"photograph": settings.photograph, "erased": settings.erased})
    names = {"noise": 0, "dropout": 0, "drop-smallest": 0, "top": 0, "quantize": FULL_BITS, "scale": 100}
    perturbed = [float(steps.get(name, unchanged)) for name, unchanged in names.items()]
    binarize = "binarize" in settings.perturbation.split("+")
    place = [settings.inverter, board, settings.other, 100 * settings.position, settings.spherical]
    return [*place, *perturbed, binarize, settings.kept, parts, settings.seed]


class Client:
    """Send changes as a browser does, and wait for the pictures."""

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)
        with self._get("/config") as response:
            config = json.loads(response.read())
        # The function that has the most triggers is the one that shows the result of a change.
        self._function = max(config["dependencies"], key=lambda one: len(one["targets"]))["id"]
        self._count = 0

    @contextlib.contextmanager
    def _get(self, path: str) -> Iterator[http.client.HTTPResponse]:
        with contextlib.closing(http.client.HTTPConnection(*self._address, timeout=60)) as connection:
            connection.request("GET", path)
            with connection.getresponse() as response:
                yield response

    def change(self, settings: Settings) -> None:
        """Send a change, and return when its pictures have arrived; ``RuntimeError`` without pictures."""
        self._count += 1
        session = f"bench{self._count}"
        body = {"data": controls(settings), "fn_index": self._function, "session_hash": session, "trigger_id": 1}
        with contextlib.closing(http.client.HTTPConnection(*self._address, timeout=60)) as connection:
            connection.request("POST", "/gradio_api/queue/join", json.dumps(body), {"Content-Type": "application/json"})
            connection.getresponse().read()
        with self._get(f"/gradio_api/queue/data?session_hash={session}") as response:
            while line := response.readline():
                event = json.loads(line[5:]) if line.startswith(b"data:") else {"msg": ""}
                if event["msg"] == "process_completed":
                    if "data:image/png" not in json.dumps(event["output"]):
                        raise RuntimeError(f"no pictures: {json.dumps(event)[:500]}")
                    return
        raise RuntimeError("the server closed the connection")


def milliseconds(act: Callable[[int], object], calls: int, first: int) -> tuple[list[float], list[float]]:
    """Return the times of calls by the wall clock and on processors, both sorted."""
    times, on_processors = [], []
    for k in range(calls):
        start, busy = time.perf_counter(), time.process_time()
        act(first + k)
        times.append(1000 * (time.perf_counter() - start))
        on_processors.append(1000 * (time.process_time() - busy))
    return sorted(times), sorted(on_processors)


def p95(times: list[float]) -> float:
    """Return the 95th percentile of sorted times: the smallest that at least 95 % of them do not exceed."""
    return times[math.ceil(0.95 * len(times)) - 1]


def main(arguments: list[str] | None = None) -> int:
    made = parser(__doc__, "python benchmarks/bench_explore.py --inverter hog-compact")
    made.add_argument("--inverter", action="append", help="name or folder; repeatable; default: the pretrained ones")
    made.add_argument("--threads", type=int, default=0, help="threads of torch; 0 for its default")
    options = made.parse_args(arguments)
    run = Run(options)
    table = run.table("explore", COLUMNS)
    if options.threads:
        torch.set_num_threads(options.threads)
    side, calls = (64, 2) if run.quick else (256, 20)
    explorer = Explorer(options.inverter, size=side, device="cpu")
    photographs = [getattr(skimage.data, name)() for name in PHOTOGRAPHS]
    # Different photographs, because a known one is not computed again.
    rolled = [np.roll(photographs[k % 4], 3 * k, axis=1) for k in range(2 + 2 * calls)]
    keys = [explorer.add(cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes()) for image in rolled]
    with listening("127.0.0.1", 0) as sock, serving(explorer, sock, "127.0.0.1"):
        client = Client(sock.getsockname()[1])
        for inverter in options.inverter or explorer.names:
            start = Settings(inverter, keys[0])
            explorer.show(start)
            explorer.show(Settings(inverter, keys[1]))
            client.change(start)  # the first change of all loads parts of the server
            for name, change in changes(explorer, inverter, keys).items():
                ways = {
                    "library": lambda k, change=change, start=start: explorer.show(change(start, k)),
                    "page": lambda k, change=change, start=start: client.change(change(start, k)),
                }
                for number, (way, act) in enumerate(ways.items()):
                    times, busy = milliseconds(act, calls, number * calls)
                    table.add(
                        inverter=inverter,
                        side=side,
                        change=name,
                        way=way,
                        calls=calls,
                        median=statistics.median(times),
                        p95=p95(times),
                        cpu_median=statistics.median(busy),
                        cpu_p95=p95(busy),
                    )
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
