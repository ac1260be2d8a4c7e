"""Test finding photographs again: matches against a plain definition, ranks with ties, embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import photographs
from preimage import Keypoints, create_representation, sift
from preimage.studies import reidentification
from preimage.studies.reidentification import Gallery, embeddings, hits, rank_rates

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Return (5, 3, 96, 96) uint8."""
    crops = [image[100:196, 150:246] for image in photographs().values()]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module")
def keypoints(images: torch.Tensor) -> Keypoints:
    return sift(images)


@pytest.fixture(scope="module")
def noisy(images: torch.Tensor) -> Keypoints:
    noise = np.random.default_rng(0).integers(-20, 21, tuple(images.shape))
    return sift(torch.from_numpy((images.numpy() + noise).clip(0, 255).astype(np.uint8)))


def _plain_matches(query: np.ndarray, photograph: np.ndarray) -> int:
    """Count mutual nearest neighbors that pass the ratio test, one by one."""
    count = 0
    for one in query:
        distances = np.linalg.norm(photograph - one, axis=1)
        nearest, second = np.argsort(distances)[:2]
        back = np.linalg.norm(query - photograph[nearest], axis=1).argmin()
        count += bool(np.array_equal(query[back], one) and distances[nearest] < 0.8 * distances[second])
    return count


def test_matches_are_those_of_the_definition(keypoints: Keypoints, noisy: Keypoints) -> None:
    counts = Gallery(keypoints).matches(noisy)
    assert counts.shape == (5, 5)
    for image in range(5):
        for photograph in range(5):
            pair = noisy[image].descriptors.numpy(), keypoints[photograph].descriptors.numpy()
            assert counts[image, photograph] == _plain_matches(*pair), (image, photograph)
    assert (counts.argmax(axis=1) == range(5)).sum() >= 4  # one of the crops is nearly flat


def test_blocks_and_progress_do_not_change_matches(
    keypoints: Keypoints, noisy: Keypoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Gallery(keypoints).matches(noisy)
    monkeypatch.setattr(reidentification, "_PRODUCT", 1)
    done: list[int] = []
    assert np.array_equal(Gallery(keypoints).matches(noisy, done.append), expected)
    assert done == [1] * 5


def test_the_strongest_keypoints_are_used(keypoints: Keypoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reidentification, "MAX_KEYPOINTS", 10)
    gallery = Gallery(keypoints)
    one = keypoints[0]
    strongest = one.response >= one.response.sort(descending=True).values[9]
    assert torch.equal(gallery._descriptors[0], one.descriptors[strongest])
    assert gallery.matches(keypoints).diagonal().max() <= 10


def test_images_without_keypoints_match_nothing(keypoints: Keypoints) -> None:
    nothing = sift(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert not Gallery(keypoints).matches(nothing).any()
    assert not Gallery(nothing).matches(keypoints).any()


def test_hits_put_equal_scores_in_random_order() -> None:
    scores = np.array([[3, 1, 0, 0], [0, 0, 0, 0], [5, 4, 4, 4], [9, 9, 9, 1]])
    assert hits(scores, 1).tolist() == [1, 0.25, 0, 0]
    assert hits(scores, 2).tolist() == [1, 0.5, pytest.approx(1 / 3), 0]
    assert hits(scores, 10).tolist() == [1, 1, 1, 1]


def test_rates_are_means_with_intervals() -> None:
    scores = np.eye(20)
    scores[:5] = 0
    rates = rank_rates(scores, seed=1)
    assert rates.rank1.mean == pytest.approx((15 + 5 / 20) / 20)
    assert rates.rank10.mean == pytest.approx((15 + 5 / 2) / 20)
    assert rates.rank1.low < rates.rank1.mean < rates.rank1.high <= 1
    assert rank_rates(scores, seed=1) == rates


def test_embeddings_are_unit_vectors_of_vectors_and_maps(images: torch.Tensor) -> None:
    hog = create_representation("hog")
    vectors = embeddings(hog, images)
    assert vectors.shape == (5, 31)
    assert vectors.norm(dim=1).tolist() == pytest.approx([1] * 5)
    expected = hog(images[:1]).mean(dim=(2, 3))[0]
    assert torch.allclose(vectors[0], expected / expected.norm())
