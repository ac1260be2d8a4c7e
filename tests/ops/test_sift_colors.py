"""Test the colors of keypoints: their definition, types of images, and that nothing else changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import preimage
from conftest import photographs
from preimage import Keypoints, reference
from preimage.ops.sift_colors import sample_colors

TOLERANCE = 1e-5  # of colors in [0, 1]: float32 positions of a few hundred pixels


def images() -> np.ndarray:
    """Return photographs (3, 3, 90, 121) uint8."""
    found = [photographs()[name][:90, 40:161] for name in ("astronaut", "chelsea", "coffee")]
    return np.stack(found).transpose(0, 3, 1, 2)


def placed(x: Any, y: Any) -> Keypoints:
    """Return keypoints of one image at the given positions."""
    count = len(x)
    ones = np.ones(count, np.float32)
    places = np.asarray(x, np.float32), np.asarray(y, np.float32)
    return Keypoints(*places, ones, ones, ones, np.ones((count, 128), np.float32), np.array([0, count]))


@pytest.mark.parametrize("variant", ["vlfeat", "opencv"])
def test_colors_follow_the_definition(variant: str) -> None:
    keypoints = preimage.sift(torch.from_numpy(images()), variant=variant, color=True)
    expected = reference.sift_colors(
        torch.from_numpy(images()).double() / 255, keypoints.x, keypoints.y, keypoints.offsets
    )
    assert keypoints.colors.dtype == torch.float32 and len(expected) > 30
    assert (keypoints.colors - expected).abs().max() <= TOLERANCE
    plain = preimage.sift(torch.from_numpy(images()), variant=variant)
    assert plain.colors is None
    for field in dataclasses.fields(Keypoints):
        if field.name != "colors":
            assert torch.equal(getattr(plain, field.name), getattr(keypoints, field.name))


def test_positions_between_pixels_and_at_the_edge() -> None:
    image = np.zeros((1, 3, 2, 3), np.uint8)
    image[0, 0] = [[0, 51, 102], [153, 204, 255]]
    keypoints = placed([0, 1, 0.5, 1.25, -0.4, 2.4, 2.4], [0, 0, 0.5, 1, 0.5, 1.4, -0.4])
    red = sample_colors(image, keypoints)[:, 0] * 255
    assert red.tolist() == pytest.approx([0, 51, 102, 216.75, 76.5, 255, 102])


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 3, 1, 7), (1, 3, 7, 1)])
def test_images_of_one_pixel(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    x, y = np.linspace(-0.5, shape[3] - 0.5, 9), np.linspace(-0.5, shape[2] - 0.5, 9)
    keypoints = placed(x, y)
    tensors = keypoints.to_torch()
    expected = reference.sift_colors(torch.from_numpy(image), tensors.x, tensors.y, tensors.offsets)
    assert np.abs(sample_colors(image, keypoints) - expected.numpy()).max() <= TOLERANCE


def test_types_of_images() -> None:
    found = preimage.sift(images(), color=True)
    assert isinstance(found.colors, np.ndarray)
    floats = images().astype(np.float32) / 255
    expected = sample_colors(floats, found)
    assert np.abs(found.colors - expected).max() <= 1e-6
    for given in (floats.astype(np.float64), floats[:, :, ::-1].copy()[:, :, ::-1], torch.from_numpy(floats).double()):
        colors = torch.as_tensor(preimage.sift(given, color=True).colors)
        assert colors.shape == found.colors.shape and (colors - torch.from_numpy(expected)).abs().max() <= 1e-6
    assert len(preimage.sift(np.zeros((3, 32, 32), np.uint8), color=True).colors) == 0
    assert preimage.sift(np.zeros((0, 3, 32, 32), np.uint8), color=True).colors.shape == (0, 3)


def test_gray_images_have_gray_colors() -> None:
    gray = images()[0].mean(axis=0).astype(np.uint8)
    colors = preimage.sift(gray, color=True).colors
    assert len(colors) and (colors == colors[:, :1]).all()
    assert np.array_equal(preimage.sift(gray[None], color=True).colors, colors)


def test_values_outside_the_range_are_clipped() -> None:
    image = np.full((1, 3, 2, 2), 2.0, np.float32)
    image[0, 1], image[0, 2, 0, 0] = -1, np.nan
    colors = sample_colors(image, placed([1, 0.5], [1, 0.5]))
    assert colors[0].tolist() == [1, 0, 1]
    assert colors[1, :2].tolist() == [1, 0] and np.isnan(colors[1, 2])
