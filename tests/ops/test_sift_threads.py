"""Test sparse SIFT and its grid with threads: equal results from one thread or several."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import skimage.data
import torch

import preimage
from preimage import Keypoints

PHOTOGRAPH = torch.from_numpy(skimage.data.coffee()).permute(2, 0, 1)
BATCH = torch.stack([PHOTOGRAPH[:, 20 * k : 20 * k + 90, 30 * k : 30 * k + 100] for k in range(7)])


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def values(keypoints: Keypoints) -> list[torch.Tensor]:
    return [keypoints.x, keypoints.y, keypoints.scale, keypoints.angle, keypoints.descriptors, keypoints.offsets]


@pytest.mark.parametrize("variant", ["vlfeat", "opencv"])
def test_threads_do_not_change_the_numbers(variant: str) -> None:
    torch.set_num_threads(1)
    expected = preimage.sift(BATCH, variant=variant)
    grid = preimage.sift_grid(expected, (90, 100))
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        found = preimage.sift(BATCH, variant=variant)
        assert all(map(torch.equal, values(found), values(expected)))
        assert torch.equal(preimage.sift_grid(found, (90, 100)), grid)
