"""Classify photographs by a bag of visual words: PHOW descriptors, k-means and a linear SVM, written for cyvlfeat.

The only change is the import. Run it on a folder with one folder of images for each class:

    python bag_of_words.py classes/ --words 300 --train 15
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.svm import LinearSVC

import preimage.compat.cyvlfeat as cyvlfeat  # noqa: PLR0402 - was: import cyvlfeat

SIDE = 160  # pixels of the longer side of images
SUFFIXES = (".jpg", ".jpeg", ".png")


def read(path: Path) -> np.ndarray:
    """Read an image as float32 RGB (H, W, 3) in [0, 1]."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SystemExit(f"{path} is not an image")
    scale = SIDE / max(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[..., ::-1]).astype(np.float32) / 255


def describe(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centers (N, 2) in [0, 1) and PHOW descriptors (N, 128)."""
    frames, descriptors = cyvlfeat.sift.phow(image, sizes=(4, 6, 8), step=4, float_descriptors=True)
    return frames[:, :2] / image.shape[:2], descriptors


def histogram(centers: np.ndarray, words: np.ndarray, count: int) -> np.ndarray:
    """Count the words of the whole image and of its quarters; return square roots of the shares."""
    quarters = (centers * 2).astype(int) @ [2, 1]
    parts = [np.bincount(words, minlength=count)]
    parts += [np.bincount(words[quarters == quarter], minlength=count) for quarter in range(4)]
    return np.sqrt(np.concatenate([part / max(part.sum(), 1) for part in parts]))


def main(arguments: list[str] | None = None) -> float:
    """Print and return the share of test images that are classified correctly."""
    parser = argparse.ArgumentParser(description="Classify photographs by a bag of visual words.")
    parser.add_argument("folder", type=Path, help="folder with one folder of images for each class")
    parser.add_argument("--words", type=int, default=300, help="size of the vocabulary")
    parser.add_argument("--train", type=int, default=15, help="training images of each class; the others are tested")
    options = parser.parse_args(arguments)

    classes = sorted(path for path in options.folder.iterdir() if path.is_dir())
    files = [sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES) for folder in classes]
    labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in files])
    trains = np.concatenate([np.arange(len(paths)) < options.train for paths in files])
    described = [describe(read(path)) for paths in files for path in paths]

    samples = np.concatenate([descriptors for (_, descriptors), train in zip(described, trains, strict=True) if train])
    vocabulary = MiniBatchKMeans(options.words, n_init=1, random_state=0).fit(samples)
    features = np.stack(
        [histogram(centers, vocabulary.predict(descriptors), options.words) for centers, descriptors in described]
    )
    classifier = LinearSVC(C=10).fit(features[trains], labels[trains])
    right = classifier.predict(features[~trains]) == labels[~trains]
    print(f"{len(classes)} classes, {trains.sum()} training images: {right.mean():.1%} of {len(right)} correct")
    return float(right.mean())


if __name__ == "__main__":
    main()
