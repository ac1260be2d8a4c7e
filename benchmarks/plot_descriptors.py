"""Draw the newest run in results/descriptors-cpu.csv, as times VLFeat's speed, into docs/descriptors.png."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from _harness import RESULTS, newest_rows

IMAGES = "1920x1080"
TITLES = {
    "hog": "HOG",
    "lbp": "LBP",
    "dense_sift flat": "Dense SIFT, flat window",
    "dense_sift gaussian": "Dense SIFT, Gaussian window",
}
# Row of the CSV -> label of its bar; ours first.
LABELS = {
    "preimage avx512 gray f32": "preimage, AVX-512",
    "preimage avx2 gray f32": "preimage, AVX2",
    "VLFeat gray": "VLFeat 0.9.21",
    "dlib fhog gray": "dlib",
    "OpenCV HOGDescriptor": "OpenCV",
    "scikit-image hog": "scikit-image",
    "scikit-image codes, no histograms": "scikit-image (codes only)",
    "kornia DenseSIFTDescriptor": "kornia",
    "OpenCV SIFT on a grid": "OpenCV",
}
INK, MUTED, OWN, OTHER = "#1f2328", "#59636e", "#0b7285", "#b6bec9"


def bars(rows: list[dict[str, str]]) -> dict[str, list[tuple[str, float]]]:
    """Return for each title the labels and times VLFeat's speed, ours first, then the fastest."""
    groups: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        label = LABELS.get(row["implementation"].replace("grey", "gray"))  # as version 0.1 wrote it
        if label and row["images"] == IMAGES and row["ratio"] and row["descriptor"] in TITLES:
            groups.setdefault(TITLES[row["descriptor"]], []).append((label, float(row["ratio"])))
    return {title: sorted(group, key=lambda bar: (not own(bar[0]), -bar[1])) for title, group in groups.items()}


def own(label: str) -> bool:
    return label.startswith("preimage")


def draw(groups: dict[str, list[tuple[str, float]]], caption: str, path: Path) -> None:
    """Draw one bar per row on a logarithmic axis, to the right where faster than VLFeat, to the left where slower."""
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
    values = [value for group in groups.values() for _, value in group]
    axes.set_xlim(min(values) / 2.2, max(values) * 1.9)
    axes.axis("off")

    def write(y: float, text: str, **style: Any) -> None:
        figure.text(0.025, 1 - y / height, text, va="center", **style)

    write(0.26, "Times VLFeat's speed", color=INK, fontsize=13, weight="bold")
    write(0.50, caption, color=MUTED, fontsize=8.5)
    y = 0.62
    for title, group in groups.items():
        y += gap + heading
        write(y - heading / 2, title, color=INK, fontsize=10.5, weight="bold")
        axes.plot([1, 1], [y, y + row * len(group)], color=MUTED, linewidth=0.8, zorder=3)
        for label, value in group:
            middle = y + row / 2
            axes.barh(middle, value - 1, height=row * 0.72, left=1, color=OWN if own(label) else OTHER)
            text = f"{value:.{0 if value >= 9.95 or value == 1 else 1 if value >= 0.995 else 2}f}×"
            place = (value * 1.08, "left") if value >= 1 else (value / 1.08, "right")
            weight = "bold" if own(label) else "normal"
            axes.text(place[0], middle, text, color=INK, fontsize=9, va="center", ha=place[1], weight=weight)
            write(middle, label, color=INK if own(label) else MUTED, fontsize=9)
            y += row
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white")
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Draw; 1 if the run has no ratios."""
    example = "example: python benchmarks/plot_descriptors.py -o descriptors.png"
    parser = argparse.ArgumentParser(description=__doc__, epilog=example)
    parser.add_argument("--csv", type=Path, default=RESULTS / "descriptors-cpu.csv")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS.parents[1] / "docs" / "descriptors.png")
    options = parser.parse_args(arguments)
    rows = newest_rows(options.csv)
    groups = bars(rows)
    if not groups:
        print(f"the newest run in {options.csv} has no ratios for {IMAGES}: it needs VLFeat", file=sys.stderr)
        return 1
    machine = rows[0]["processor"].split(" family")[0]
    draw(groups, f"{IMAGES.replace('x', ' × ')} gray image, one thread, {machine}; logarithmic", options.output)
    print(f"drawn: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
