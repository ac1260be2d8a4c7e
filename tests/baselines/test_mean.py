"""The mean image: of files and tensors, its sizes, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import preimage as pi
from preimage.baselines import Mean
from preimage.io import decode_file, resize_and_center_crop

HOG = pi.create_representation("hog").spec
VECTOR = pi.Spec("scores", "user", 7, None)


def test_the_mean_of_files_is_that_of_the_resized_images(photo_folder: Path) -> None:
    reports: list[tuple[int, int]] = []
    mean = Mean(photo_folder, size=40, device="cpu", progress=lambda done, total: reports.append((done, total)))
    paths = sorted(photo_folder.iterdir())
    images = np.stack([resize_and_center_crop(decode_file(path), 40) for path in paths])
    expected = torch.from_numpy(images.mean(axis=0).transpose(2, 0, 1) / 255).float()
    torch.testing.assert_close(mean.image, expected)
    assert mean.count == len(paths) == reports[-1][0] == reports[-1][1]


def test_the_mean_of_a_tensor() -> None:
    images = torch.rand(5, 3, 16, 24)
    mean = Mean(images, device="cpu")
    torch.testing.assert_close(mean.image, images.mean(dim=0))
    whole = (images * 255).to(torch.uint8)
    torch.testing.assert_close(Mean(whole, device="cpu").image, whole.float().mean(dim=0) / 255)


def test_every_image_is_the_mean_at_the_asked_size() -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    mean = Mean(ramp, device="cpu")
    features = torch.zeros(2, 31, 4, 6)
    images = mean.invert(features, HOG)
    assert images.shape == (2, 3, 32, 48) and torch.equal(images[0], images[1])  # the size that the cells cover
    assert mean.invert(features, HOG, size=(30, 50)).shape == (2, 3, 30, 50)
    # A tall image shows the middle columns of the square, not all of them squeezed.
    tall = mean.invert(features, HOG, size=(64, 16))[0, 0, 0]
    torch.testing.assert_close(tall, ramp[0, 0, 0, 24:40])
    vectors = torch.zeros(3, 7)
    assert mean.invert(vectors, VECTOR).shape == (3, 3, 64, 64)
    assert mean.invert(vectors, VECTOR, size=(20, 20)).shape == (3, 3, 20, 20)


def test_bad_input_is_an_error(photo_folder: Path, tmp_path: Path) -> None:
    mean = Mean(torch.rand(2, 3, 8, 8), device="cpu")
    with pytest.raises(ValueError, match=r"31.*\(1, 30, 4, 4\)"):
        mean.invert(torch.zeros(1, 30, 4, 4), HOG)
    with pytest.raises(ValueError, match=r"finite.*1"):
        mean.invert(torch.tensor([[0.0] * 7, [torch.nan] * 7]), VECTOR)
    with pytest.raises(ValueError, match=r"size.*\(0, 8\)"):
        mean.invert(torch.zeros(1, 7), VECTOR, size=(0, 8))
    with pytest.raises(ValueError, match=r"\(3, 8, 8\)"):
        Mean(torch.rand(3, 8, 8))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Mean(torch.full((1, 3, 8, 8), torch.nan))
    with pytest.raises(TypeError, match="int64"):
        Mean(torch.ones(1, 3, 8, 8, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"size.*0"):
        Mean(photo_folder, size=0)
    with pytest.raises(FileNotFoundError, match="absent"):
        Mean(tmp_path / "absent")
