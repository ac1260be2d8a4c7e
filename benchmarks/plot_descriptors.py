"""Draws the newest run in results/descriptors-cpu.csv, as times VLFeat's speed, into docs/descriptors.png."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
IMAGES = "1920x1080"
TITLES = {
    "hog": "HOG",
    "lbp": "LBP",
    "dense_sift flat": "Dense SIFT, flat window",
    "dense_sift gaussian": "Dense SIFT, Gaussian window",
}
# Row of the CSV -> what stands beside its bar.
OURS = {
    "preimage avx512 grey f32": "preimage, AVX-512",
    "preimage avx2 grey f32": "preimage, AVX2",
}
THEIRS = {
    "VLFeat grey": "VLFeat 0.9.21",
    "dlib fhog grey": "dlib",
    "OpenCV HOGDescriptor": "OpenCV",
    "scikit-image hog": "scikit-image",
    "scikit-image codes, no histograms": "scikit-image (codes only)",
    "kornia DenseSIFTDescriptor": "kornia",
    "OpenCV SIFT on a grid": "OpenCV",
}
INK, MUTED, OWN, OTHER = "#1f2328", "#59636e", "#0b7285", "#b6bec9"


def newest(path: Path) -> list[dict[str, str]]:
    """The rows of the newest run, on one size of image."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise SystemExit(f"{path} has no rows: run benchmarks/bench_descriptors.py first")
    last = max(row["date"] for row in rows)
    return [row for row in rows if row["date"] == last and row["images"] == IMAGES]


def bars(rows: list[dict[str, str]]) -> dict[str, list[tuple[str, float, bool]]]:
    """Title -> (label, times VLFeat's speed, is it ours), ours first, then by speed."""
    groups: dict[str, list[tuple[str, float, bool]]] = {}
    for descriptor, title in TITLES.items():
        found = {row["implementation"]: row for row in rows if row["descriptor"] == descriptor and row["ratio"]}
        ours = [(label, float(found[name]["ratio"]), True) for name, label in OURS.items() if name in found]
        theirs = [(label, float(found[name]["ratio"]), False) for name, label in THEIRS.items() if name in found]
        if ours:
            groups[title] = [*ours, *sorted(theirs, key=lambda bar: -bar[1])]
    return groups


def draw(groups: dict[str, list[tuple[str, float, bool]]], caption: str, path: Path) -> None:
    """One bar a row on a logarithmic axis, to the right where faster than VLFeat, to the left where slower."""
    import matplotlib as mpl  # noqa: PLC0415 - only drawing needs it

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    mpl.rcParams["font.family"] = "DejaVu Sans"
    row, gap, heading = 0.25, 0.17, 0.28  # inches
    height = sum(heading + gap + row * len(group) for group in groups.values()) + 0.75
    figure = pyplot.figure(figsize=(8, height), dpi=200, facecolor="white")
    axes: Any = figure.add_axes((0.27, 0.0, 0.63, 1.0))
    axes.set_ylim(height, 0)
    axes.set_xscale("log")
    values = [value for group in groups.values() for _, value, _ in group]
    axes.set_xlim(min(values) / 2.2, max(values) * 1.9)
    axes.axis("off")
    figure.text(0.025, 1 - 0.26 / height, "Times VLFeat's speed", color=INK, fontsize=13, weight="bold", va="center")
    figure.text(0.025, 1 - 0.50 / height, caption, color=MUTED, fontsize=8.5, va="center")
    y = 0.62
    for title, group in groups.items():
        y += gap + heading / 2
        figure.text(0.025, 1 - y / height, title, color=INK, fontsize=10.5, weight="bold", va="center")
        y += heading / 2
        axes.plot([1, 1], [y, y + row * len(group)], color=MUTED, linewidth=0.8, zorder=3)
        for label, value, own in group:
            middle = y + row / 2
            axes.barh(middle, value - 1, height=row * 0.72, left=1, color=OWN if own else OTHER)
            beyond = 1.08 if value >= 1 else 1 / 1.08
            text = f"{value:.{0 if value >= 9.95 or value == 1 else 1 if value >= 0.995 else 2}f}×"
            side = "left" if value >= 1 else "right"
            weight = "bold" if own else "normal"
            axes.text(value * beyond, middle, text, color=INK, fontsize=9, va="center", ha=side, weight=weight)
            colour = INK if own else MUTED
            figure.text(0.025, 1 - middle / height, label, color=colour, fontsize=9, va="center")
            y += row
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white")
    pyplot.close(figure)


def main() -> int:
    """0 when the picture is drawn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, default=HERE / "results" / "descriptors-cpu.csv")
    parser.add_argument("-o", "--output", type=Path, default=HERE.parent / "docs" / "descriptors.png")
    options = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:
        print("drawing needs matplotlib: pip install 'preimage[bench]'", file=sys.stderr)
        return 1
    rows = newest(options.csv)
    groups = bars(rows)
    if not groups:
        print(f"the newest run in {options.csv} has no ratios for {IMAGES}: it needs VLFeat", file=sys.stderr)
        return 1
    machine = rows[0]["processor"].split(" family")[0]
    draw(groups, f"{IMAGES.replace('x', ' × ')} grey image, one thread, {machine}; logarithmic", options.output)
    print(f"drawn: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
