"""Bags of visual words: the histogram is that of the definition, and does not depend on how images are read."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import preimage as pi
from conftest import photographs
from preimage.sklearn import BagOfVisualWords, bag_of_words


def images(count: int, side: int = 48) -> np.ndarray:
    """Return tiles (n, side, side, 3) of two photographs in turn."""
    both = [photographs()[name] for name in ("chelsea", "coffee")]
    random = np.random.default_rng(0)
    tiles = []
    for k in range(count):
        top, left = random.integers(0, 300 - side, 2)
        tiles.append(both[k % 2][top : top + side, left : left + side])
    return np.stack(tiles)


def test_histograms_count_the_nearest_word_of_each_descriptor() -> None:
    tiles = images(5)
    bag = BagOfVisualWords(7, step=6, bin_size=3, window="flat", norm=None, random_state=0).fit(tiles)
    assert (bag.words_.shape, bag.words_.dtype) == ((7, 128), np.float32)
    counts = bag.transform(tiles)
    descriptors = pi.dense_sift(tiles.transpose(0, 3, 1, 2), step=6, bin_size=3, window="flat")
    for row, each in zip(counts, descriptors, strict=True):
        points = each.reshape(128, -1).T.astype(np.float64)
        nearest = np.square(points[:, None] - bag.words_).sum(-1).argmin(1)
        np.testing.assert_array_equal(row, np.bincount(nearest, minlength=7))
    fractions = clone(bag).set_params(norm="l1").fit_transform(tiles)
    np.testing.assert_allclose(fractions, counts / counts.sum(1, keepdims=True), rtol=1e-6)
    lengths = np.linalg.norm(clone(bag).set_params(norm="l2").fit_transform(tiles), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)
    assert list(bag.get_feature_names_out()) == [f"visual_word_{k}" for k in range(7)]


def test_the_seed_decides_and_copies_agree() -> None:
    tiles = images(6)
    bag = BagOfVisualWords(5, max_descriptors=200, random_state=3)
    first = bag.fit_transform(tiles)
    np.testing.assert_array_equal(clone(bag).fit_transform(tiles), first)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(bag)).transform(tiles), first)
    assert not np.array_equal(clone(bag).set_params(random_state=4).fit_transform(tiles), first)


def test_images_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = images(7)
    bag = BagOfVisualWords(5, max_descriptors=150, random_state=0)
    whole = bag.fit_transform(tiles)
    monkeypatch.setattr(bag_of_words, "_AT_ONCE", 200)  # two images of 81 descriptors
    np.testing.assert_array_equal(clone(bag).fit_transform(tiles), whole)


def test_words_are_learned_from_descriptors_of_all_images() -> None:
    tiles = images(4)
    planes = tiles.transpose(0, 3, 1, 2)
    every = pi.dense_sift(planes).transpose(0, 2, 3, 1).reshape(-1, 128)
    bag = BagOfVisualWords(3).fit(tiles)
    assert len(np.unique(every, axis=0)) == len(every) == 324
    drawn = bag._drawn(planes, 100, np.random.RandomState(0))
    same = np.all(drawn[:, None] == every, axis=-1)
    position = same.argmax(1)
    assert np.all(same.sum(1) == 1) and np.all(np.diff(position) > 0)  # each at most once
    assert min(np.bincount(position // 81)) > 10
    np.testing.assert_array_equal(bag._drawn(planes, 324, np.random.RandomState(0)), every)


def test_textures_are_told_apart() -> None:
    noise = np.random.default_rng(0).random((40, 48, 48), np.float32)
    textures = sum(np.roll(noise, k, axis=1) for k in range(8)) / 8  # vertical strokes
    labels = np.arange(40) % 2
    textures[labels == 1] = textures[labels == 1].transpose(0, 2, 1)
    pipeline = make_pipeline(BagOfVisualWords(20, norm="l2", random_state=0), LogisticRegression())
    pipeline.fit(textures[:20], labels[:20])
    assert pipeline.score(textures[20:], labels[20:]) == 1
    assert not hasattr(pipeline[0], "inverse_transform")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_words": 0}, "n_words.*0"),
        ({"n_words": 163}, "n_words=163 for 162 descriptors"),
        ({"n_words": 50, "max_descriptors": 49}, "n_words=50.*max_descriptors=49"),
        ({"max_descriptors": 0}, "max_descriptors.*0"),
        ({"norm": "max"}, "norm.*l1, l2.*'max'"),
        ({"step": 0}, "step.*0"),
        ({"window": "round"}, "window.*'round'"),
        ({"bin_size": 16}, "48×48.*bin_size 16"),
    ],
)
def test_wrong_parameters_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BagOfVisualWords(**{"n_words": 4} | parameters).fit(images(2))
