"""The up-convolution's results: how rows are kept, and the tables that a person reads, on a terminal or in Markdown."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from _timing import Cell, Cells, Table
from _turns import Times

Row = Mapping[str, str]
Grid = list[list[str]]  # a header and rows

WHOLE = "whole"
OURS = "preimage"
FLOOR = "floor"
NAIVE = "zeros inserted"
DEFAULT, CHANNELS_LAST = "torch, default layout", "torch, channels_last"  # on the CPU
EAGER, COMPILED, SUBPIXEL = "torch", "torch.compile", "cuDNN, sub-pixel"  # on a GPU

# Contenders' time over ours on the CPU: (dtype, batch, pass) -> against the default layout, against channels_last.
CPU_TARGETS: dict[tuple[str, str, str], tuple[float, float]] = {
    ("bfloat16", "8", "forward"): (1.25, 1.15),
    ("bfloat16", "1", "forward"): (1.4, 1.2),
    ("float32", "8", "forward"): (1.25, 1.15),
    ("float32", "1", "forward"): (1.4, 1.2),
    ("bfloat16", "8", "forward+backward"): (1.2, 1.2),
    ("bfloat16", "1", "forward+backward"): (1.2, 1.2),
    ("float32", "8", "forward+backward"): (1.0, 1.0),
    ("float32", "1", "forward+backward"): (1.0, 1.0),
}
TARGET_THREADS = "2"

# The same on a GPU: (class or decoder, pass) -> (floor, stretch) against eager torch, and against torch.compile.
GPU_TARGETS: dict[tuple[str, str], tuple[tuple[float, float], tuple[float, float]]] = {
    ("Co ≥ 128", "forward"): ((1.05, 1.3), (0.95, 1.15)),
    ("Co = 64", "forward"): ((1.5, 2.0), (1.25, 1.7)),
    ("Co = 32", "forward"): ((1.8, 2.6), (1.5, 2.2)),
    ("RGB", "forward"): ((2.5, 4.0), (2.2, 3.9)),
    ("H", "forward"): ((1.5, 2.3), (1.3, 2.1)),
    ("F", "forward"): ((1.6, 2.4), (1.35, 2.2)),
    ("Co ≥ 128", "forward+backward"): ((1.0, 1.2), (0.95, 1.1)),
    ("Co = 64", "forward+backward"): ((1.3, 1.8), (1.2, 1.6)),
    ("Co = 32", "forward+backward"): ((1.5, 2.1), (1.35, 1.9)),
    ("RGB", "forward+backward"): ((2.5, 6.0), (2.2, 5.5)),
    ("H", "forward+backward"): ((1.4, 2.2), (1.3, 2.0)),
    ("F", "forward+backward"): ((1.45, 2.4), (1.35, 2.2)),
}
REHEARSED = "none, rehearsed on"  # begins the name of a GPU that is none
CLASSES = ("Co ≥ 128", "Co = 64", "Co = 32", "RGB")


def layer_class(out_channels: int) -> str:
    """The class of a layer in the targets."""
    return "RGB" if out_channels <= 4 else "Co ≥ 128" if out_channels >= 128 else f"Co = {out_channels}"


class UpconvTable(Table):
    """Rows of the up-convolution: what was measured, by whom, and how often ours it took."""

    def __init__(self, path: Path, machine: Mapping[str, str], columns: tuple[str, ...]) -> None:
        super().__init__(path, machine, columns, line=_line)

    def measured(self, about: Cells, contender: str, times: Times, ours: Times | None, remark: str = "") -> None:
        """A contender's row; `ratio` is how many times our time it took."""
        cells: dict[str, Cell] = {
            **about,
            "contender": contender,
            "median": times.median,
            "min": times.least,
            "ratio": times.ratio(ours) if ours else None,
            "spread": times.spread,
            "remark": remark or f"{len(times.milliseconds)} rounds",
        }
        self.add(**cells)

    def floor(self, about: Cells, milliseconds: float, ours: Times, remark: str) -> None:
        """What no contender can undercut."""
        cells: dict[str, Cell] = {
            **about,
            "contender": FLOOR,
            "median": milliseconds,
            "ratio": milliseconds / ours.median,
            "remark": remark,
        }
        self.add(**cells)

    def wrong(self, about: Cells, contender: str, problem: str) -> None:
        """A contender whose result is wrong, and which therefore was not measured."""
        cells: dict[str, Cell] = {**about, "contender": contender, "remark": f"WRONG: {problem}"}
        self.add(**cells)


def _line(cells: Cells) -> str:
    where = f"{cells['net']} {cells['layer']}"
    settings = f"{cells['dtype']} batch {cells['batch']}"
    if "threads" in cells:
        settings += f" threads {cells['threads']}"
    parts = [f"{where:18} {settings:29} {cells['pass']:16} {cells['contender']:22}"]
    for name, unit in (("median", "ms"), ("ratio", "x")):
        value = cells.get(name)
        parts.append(" " * (10 + len(unit)) if not isinstance(value, float) else f"{value:9.3f} {unit}")
    spread = cells.get("spread")
    parts.append(f"±{100 * spread:.0f}%" if isinstance(spread, float) else "")
    return " ".join([*parts, str(cells.get("remark") or "")]).rstrip()


def newest(path: Path) -> list[Row]:
    """The rows of a CSV's last run."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise SystemExit(f"{path} has no rows")
    return [row for row in rows if row["date"] == rows[-1]["date"]]


def groups(rows: list[Row], *keys: str) -> dict[tuple[str, ...], dict[str, Row]]:
    """Rows by the given columns, in order, then by contender."""
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), {})[row["contender"]] = row
    return found


def cpu_tables(rows: list[Row]) -> dict[str, Grid]:
    """Title -> table: whole decoders with their targets, then their layers."""
    keys = ("net", "layer", "dtype", "batch", "threads", "pass")
    header = ["preimage, ms", "noise", "default layout", "channels_last", "floor"]
    decoders: Grid = [["decoder", "dtype", "batch", "threads", "pass", *header, "zeros inserted", "targets"]]
    layers: Grid = [["layer", "dtype", "batch", "threads", "pass", *header]]
    for key, found in groups(rows, *keys).items():
        net, layer, dtype, batch, threads, which = key
        if OURS not in found or not found[OURS]["median"]:
            continue
        ratios = [found.get(name, {}).get("ratio", "") for name in (DEFAULT, CHANNELS_LAST, FLOOR)]
        shown = [dtype, batch, threads, which, _milliseconds(found[OURS]), _noise(found[OURS])]
        shown += [f"{ratio}×" if ratio else "" for ratio in ratios[:2]] + [_share(ratios[2])]
        if layer != WHOLE:
            layers.append([f"{net} {layer}", *shown])
            continue
        naive = found.get(NAIVE, {}).get("median")
        wanted = CPU_TARGETS.get((dtype, batch, which)) if threads == TARGET_THREADS and net in "FH" else None
        verdict = _verdicts(ratios[:2], wanted) if wanted else ""
        decoders.append([net, *shown, f"{float(naive) / float(found[OURS]['median']):.1f}×" if naive else "", verdict])
    return {"Whole decoders": decoders, "Layers": layers}


def gpu_tables(rows: list[Row]) -> dict[str, Grid]:
    """Title -> table: classes and decoders with their targets, then the layers with what was chosen for them."""
    whole: Grid = [
        ["what", "dtype", "pass", "preimage, ms", *(EAGER, COMPILED, SUBPIXEL), "floor", "vs eager", "vs compile"]
    ]
    layers: Grid = [
        ["layer", "dtype", "pass", "preimage, ms", "noise", *(EAGER, COMPILED, SUBPIXEL), "floor", "chosen"]
    ]
    sums: dict[tuple[str, str, str], dict[str, float]] = {}
    judged = not rows[0]["gpu"].startswith(REHEARSED)
    for (net, layer, dtype, which), found in groups(rows, "net", "layer", "dtype", "pass").items():
        medians = {name: float(row["median"]) for name, row in found.items() if row["median"]}
        if OURS not in medians:
            continue
        if layer == WHOLE:
            sums[net, dtype, which] = medians
            continue
        shown = [
            f"{medians[name] / medians[OURS]:.2f}×" if name in medians else "" for name in (EAGER, COMPILED, SUBPIXEL)
        ]
        noise, share = _noise(found[OURS]), _share(found.get(FLOOR, {}).get("ratio", ""))
        layers.append(
            [f"{net} {layer}", dtype, which, _milliseconds(found[OURS]), noise, *shown, share, found[OURS]["remark"]]
        )
        of_class = sums.setdefault((layer_class(_out_channels(layer)), dtype, which), dict.fromkeys(medians, 0.0))
        for name in set(of_class) - set(medians):
            del of_class[name]  # one that did not run on every layer has no sum
        for name in of_class:
            of_class[name] += medians[name]
    order = {name: index for index, name in enumerate((*CLASSES, "H", "F"))}
    for (name, dtype, which), medians in sorted(
        sums.items(), key=lambda item: (item[0][1], item[0][2], order.get(item[0][0], len(order)))
    ):
        ratios = {other: medians[other] / medians[OURS] for other in medians}
        shown = [f"{ratios[other]:.2f}×" if other in ratios else "" for other in (EAGER, COMPILED, SUBPIXEL)]
        targets = GPU_TARGETS.get((name, which)) if dtype == "bfloat16" and judged else None
        verdicts = ["", ""]
        if targets is not None:
            verdicts = [
                _verdict(ratios.get(other), goal) for other, goal in zip((EAGER, COMPILED), targets, strict=True)
            ]
        share = f"{100 * ratios[FLOOR]:.0f} %" if FLOOR in ratios else ""
        whole.append([name, dtype, which, f"{medians[OURS]:.4f}", *shown, share, *verdicts])
    return {"Classes of layers and whole decoders": whole, "Layers": layers}


def _out_channels(layer: str) -> int:
    found = re.match(r"\d+→(\d+)", layer)
    if found is None:
        raise ValueError(f"no layer: {layer!r}")
    return int(found[1])


def _milliseconds(row: Row) -> str:
    return f"{float(row['median']):.4g}"


def _noise(row: Row) -> str:
    return f"±{100 * float(row['spread']):.0f} %"


def _share(ratio: str) -> str:
    return f"{100 * float(ratio):.0f} %" if ratio else ""


def _verdicts(ratios: list[str], wanted: tuple[float, float]) -> str:
    parts = []
    for ratio, goal in zip(ratios, wanted, strict=True):
        parts.append(f"≥ {goal:.2f} " + ("?" if not ratio else "met" if float(ratio) >= goal else "missed"))
    return ", ".join(parts)


def _verdict(ratio: float | None, goal: tuple[float, float]) -> str:
    floor, stretch = goal
    told = (
        "not measured" if ratio is None else "missed" if ratio < floor else "met" if ratio < stretch else "stretch met"
    )
    return f"{floor:.2f} / {stretch:.2f}: {told}"


def plain(tables: Mapping[str, Grid]) -> str:
    """For a terminal."""
    parts = []
    for title, grid in tables.items():
        if len(grid) > 1:
            widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
            lines = [
                "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in grid
            ]
            parts.append("\n".join([f"{title}:", *lines]))
    return "\n\n".join(parts)


def markdown(tables: Mapping[str, Grid]) -> str:
    """The same for a document."""
    parts = []
    for title, grid in tables.items():
        if len(grid) > 1:
            header, *rows = ("| " + " | ".join(row) + " |" for row in grid)
            parts.append("\n".join([f"**{title}**", "", header, "|" + "---|" * len(grid[0]), *rows]))
    return "\n\n".join(parts)


def write_into(document: Path, name: str, tables: Callable[[list[Row]], Mapping[str, Grid]], results: Path) -> bool:
    """Puts a CSV's newest run into a document, between its two marks; False where there is no such CSV yet.

    Raises:
        SystemExit: the document has no such marks.
    """
    if not results.exists():
        return False
    begin, end = f"<!-- {name}: written by benchmarks -->", f"<!-- end of {name} -->"
    text = document.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise SystemExit(f"{document} has no lines {begin} and {end}")
    rows = newest(results)
    machine = rows[0].get("machine") or rows[0].get("gpu") or ""
    told = f"{machine}; {rows[0]['versions']}; load {rows[0]['load']}; {rows[0]['date']}."
    before, rest = text.split(begin, 1)
    after = rest.split(end, 1)[1]
    document.write_text(f"{before}{begin}\n{told}\n\n{markdown(tables(rows))}\n{end}{after}", encoding="utf-8")
    return True
