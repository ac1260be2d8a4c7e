"""Test color spaces and octaves of wavelength against their definitions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from preimage.studies.image_bands import (
    OctaveBands,
    dct,
    from_opponent,
    hue,
    inverse_dct,
    rotate_hue,
    to_opponent,
)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_transforms_keep_squared_sums_and_can_be_undone(images: torch.Tensor) -> None:
    planes = to_opponent(images)
    coefficients = dct(planes)
    whole = float(images.square().sum())
    assert float(planes.square().sum()) == pytest.approx(whole, rel=1e-12)
    assert float(coefficients.square().sum()) == pytest.approx(whole, rel=1e-12)
    assert float(OctaveBands(20, 24).sums(coefficients.square()).sum()) == pytest.approx(whole, rel=1e-12)
    torch.testing.assert_close(from_opponent(inverse_dct(coefficients)), images)


def test_the_transform_is_that_of_opencv(images: torch.Tensor) -> None:
    expected = cv2.dct(images[0, 0].numpy())
    np.testing.assert_allclose(dct(images)[0, 0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("color", "degrees"), [((1, 0, 0), 0), ((1, 1, 0), 60), ((0, 1, 0), 120), ((0, 0, 1), 240), ((1, 0, 1), 300)]
)
def test_hue_of_pure_colors(color: tuple[float, ...], degrees: float) -> None:
    pixel = torch.tensor(color, dtype=torch.float64)[:, None, None]
    found = float(hue(to_opponent(pixel)[1:]))
    assert (found - degrees + 180) % 360 - 180 == pytest.approx(0, abs=1e-9)
    assert float(to_opponent(pixel)[0]) == pytest.approx(sum(color) / 3**0.5)


def test_bands_are_octaves_of_the_wavelength() -> None:
    bands = OctaveBands(32, 32)
    assert bands.names == ("mean", "32 px and more", "16-32 px", "8-16 px", "4-8 px", "below 4 px")
    for cycles, band in ((0, 0), (0.5, 1), (1, 1), (2, 2), (3, 3), (4, 3), (7, 4), (15, 5)):
        phase = 2 * np.pi * cycles * (torch.arange(32).double() + 0.5) / 32
        energy = bands.sums(dct(torch.cos(phase).expand(32, 32)).square())
        assert int(energy.argmax()) == band, cycles
        assert float(energy[band]) == pytest.approx(float(energy.sum()))
    masks = [bands.mask(range(index, index + 1)) for index in range(len(bands))]
    assert torch.equal(sum(mask.int() for mask in masks), torch.ones(32, 32, dtype=torch.int))
    assert OctaveBands(48, 48).names[1] == "32 px and more"
    with pytest.raises(ValueError, match=r"4.*3×9"):
        OctaveBands(3, 9)


@pytest.mark.parametrize("degrees", [60, 180, 300, -60])
def test_rotated_hues_keep_luminance(images: torch.Tensor, degrees: float) -> None:
    rotated = rotate_hue(images, degrees)
    before, after = to_opponent(images), to_opponent(rotated)
    assert 0 <= float(rotated.min()) <= float(rotated.max()) <= 1
    torch.testing.assert_close(after[:, 0], before[:, 0])
    turn = hue(after[:, 1:]) - hue(before[:, 1:]) - degrees
    torch.testing.assert_close((turn + 180) % 360 - 180, torch.zeros_like(turn), atol=1e-6, rtol=0)
    chroma, reduced = before[:, 1:].norm(dim=1), after[:, 1:].norm(dim=1)
    assert bool((reduced <= chroma + 1e-9).all())
    inside = ((rotated > 1e-9) & (rotated < 1 - 1e-9)).all(dim=1)
    torch.testing.assert_close(reduced[inside], chroma[inside])
    assert bool(inside.any())


def test_rotation_by_a_third_permutes_channels(images: torch.Tensor) -> None:
    torch.testing.assert_close(rotate_hue(images, 120), images.roll(1, dims=1))
    gray = torch.full((3, 2, 2), 77, dtype=torch.uint8)
    torch.testing.assert_close(rotate_hue(gray, 90), gray / 255)
