"""Transformers of `preimage.sklearn` beside scikit-image's HOG in a `FunctionTransformer`: accuracy, and milliseconds.

Appended to sklearn-cpu.csv. `accuracy` is the mean over 5 stratified folds with a linear SVM. `transform` are the
milliseconds for all images of a set, timed in turns, and `ratio` how many times as long scikit-image takes; `HOG
dalal-triggs` computes scikit-image's features. `pipeline` are the milliseconds to fit the pipeline to all images and to
predict them, in turns as well.

The sets are scikit-learn's digits (8×8), scikit-image's faces and other patches (25×25), and tiles (64×64, in color) of
four of scikit-image's photographs, where the class is the photograph. All come with these packages.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import skimage.data
from skimage.feature import hog
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC

from _harness import PHOTOGRAPHS, Run, parser
from preimage.sklearn import HOG, LBP, BagOfVisualWords, DenseSIFT

COLUMNS = (
    *("dataset", "images", "size", "transformer", "features", "accuracy"),
    *("transform", "ratio", "pipeline", "pipeline_ratio"),
)
OTHER = "scikit-image hog"
SAME = "HOG dalal-triggs"
TILE = 64
SECONDS = 10.0  # for the turns of a set

Data = tuple[np.ndarray, np.ndarray]
Row = dict[str, str | int | float]


def tiles() -> Data:
    """Return the tiles of photographs, and the number of the photograph."""
    images, labels = [], []
    for number, name in enumerate(PHOTOGRAPHS):
        photograph = getattr(skimage.data, name)()
        for top in range(0, photograph.shape[0] - TILE + 1, TILE):
            for left in range(0, photograph.shape[1] - TILE + 1, TILE):
                images.append(photograph[top : top + TILE, left : left + TILE])
                labels.append(number)
    return np.stack(images), np.array(labels)


def digits() -> Data:
    """Return the digits with pixels in [0, 1], and their values."""
    found = load_digits()
    return found.images / 16, found.target


def faces() -> Data:
    """Return 100 faces, 100 other patches, and which are faces."""
    return skimage.data.lfw_subset(), np.arange(200) < 100


def other_hog(cell_size: int, block_size: int, color: bool) -> FunctionTransformer:
    """Return scikit-image's HOG as a transformer."""
    return FunctionTransformer(
        _hog_of_images, kw_args={"cell_size": cell_size, "block_size": block_size, "color": color}
    )


def _hog_of_images(images: np.ndarray, cell_size: int, block_size: int, color: bool) -> np.ndarray:
    cell, block, axis = (cell_size, cell_size), (block_size, block_size), -1 if color else None
    return np.stack([hog(image, pixels_per_cell=cell, cells_per_block=block, channel_axis=axis) for image in images])


def same_hog(cell_size: int, block_size: int) -> HOG:
    """Return the transformer of the same features in another order."""
    return HOG(variant="dalal-triggs", cell_size=cell_size, block_size=block_size, color="strongest")


SETS: dict[str, tuple[Callable[[], Data], dict[str, Any]]] = {
    "digits": (
        digits,
        {OTHER: other_hog(4, 2, False), SAME: same_hog(4, 2), "HOG": HOG(cell_size=4), "LBP": LBP(cell_size=4)},
    ),
    "faces": (
        faces,
        {
            OTHER: other_hog(8, 3, False),
            SAME: same_hog(8, 3),
            "HOG": HOG(),
            "LBP": LBP(cell_size=8),
            "DenseSIFT": DenseSIFT(),
        },
    ),
    "tiles": (
        tiles,
        {
            OTHER: other_hog(8, 3, True),
            SAME: same_hog(8, 3),
            "HOG": HOG(color="strongest"),
            "LBP": LBP(),
            "DenseSIFT": DenseSIFT(step=8),
            "BagOfVisualWords": BagOfVisualWords(norm="l2", random_state=0),
        },
    ),
}


def measure(run: Run, name: str, images: np.ndarray, labels: np.ndarray, transformers: dict[str, Any]) -> Iterator[Row]:
    """Yield the row of each transformer for a set."""
    fitted = {called: clone(one).fit(images) for called, one in transformers.items()}
    pipelines = {called: make_pipeline(clone(one), LinearSVC(random_state=0)) for called, one in transformers.items()}
    times = run.time({called: lambda one=one: one.transform(images) for called, one in fitted.items()}, SECONDS)
    both = {called: lambda one=one: one.fit(images, labels).predict(images) for called, one in pipelines.items()}
    whole = run.time(both, SECONDS)
    folds = StratifiedKFold(2 if run.quick else 5, shuffle=True, random_state=0)
    for called, one in fitted.items():
        yield {
            "dataset": name,
            "images": len(images),
            "size": "x".join(map(str, images.shape[1:])),
            "transformer": called,
            "features": one.transform(images[:1]).shape[1],
            "accuracy": float(cross_val_score(pipelines[called], images, labels, cv=folds).mean()),
            "transform": times[called].median,
            "ratio": times[OTHER].ratio(times[called]),
            "pipeline": whole[called].median,
            "pipeline_ratio": whole[OTHER].ratio(whole[called]),
        }


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and return the exit code."""
    run = Run(parser(__doc__, "OMP_NUM_THREADS=1 python benchmarks/bench_sklearn.py").parse_args(arguments))
    table = run.table("sklearn", COLUMNS)
    for name, (load, transformers) in SETS.items():
        images, labels = load()
        if run.quick:
            few = np.concatenate([np.flatnonzero(labels == label)[:6] for label in np.unique(labels)])
            images, labels = images[few], labels[few]
        for row in measure(run, name, images, labels, transformers):
            table.add(**row)
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
