"""Compare the normalized error and the feature error with their definitions, PSNR and SSIM with torchmetrics."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from preimage.metrics import NormalizedError, Originals, feature_error, psnr, ssim
from tolerances import PSNR, SSIM


def test_follows_the_definition() -> None:
    torch.manual_seed(0)
    images = (torch.rand(7, 3, 20, 30) * 255).round() / 255
    reconstructions = torch.rand(7, 3, 20, 30)
    measure = NormalizedError()
    measure.update(images[:3], reconstructions[:3])
    measure.update(images[3:], reconstructions[3:])
    report = measure.report()

    pairs = [(a - b).norm().item() for a, b in itertools.combinations(images.double(), 2)]
    normalizer = sum(pairs) / len(pairs)
    per_image = [(a - b).norm().item() / normalizer for a, b in zip(images, reconstructions, strict=True)]
    to_mean = [(a - images.mean(0)).norm().item() / normalizer for a in images]
    assert report.normalizer == pytest.approx(normalizer, rel=1e-4)
    assert report.per_image == pytest.approx(per_image, rel=1e-4)
    assert report.error == pytest.approx(sum(per_image) / 7, rel=1e-4)
    assert report.mean_image == pytest.approx(sum(to_mean) / 7, rel=1e-4)


def test_perfect_is_zero() -> None:
    images = torch.rand(3, 3, 8, 8)
    measure = NormalizedError()
    measure.update(images, images)
    assert measure.report().error == 0


def test_rejects_what_has_no_distance() -> None:
    measure = NormalizedError()
    measure.update(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"two images.*1"):
        measure.report()


def test_equal_images_have_no_distance() -> None:
    torch.manual_seed(2)
    originals, image = Originals(), torch.rand(1, 3, 8, 8)
    measure = NormalizedError(originals)
    for _ in range(3):
        originals.add(image)
        measure.update(image, torch.zeros_like(image))
    assert not originals.differ()
    with pytest.raises(ValueError, match=r"images.*3 equal"):
        measure.report()
    nearly = image.clone()
    nearly[0, 0, 0, 0] += 1 / 255
    originals.add(nearly)
    measure.update(nearly, nearly)
    assert originals.differ()
    assert measure.report().error > 0


@pytest.mark.parametrize("shape", [(1, 3, 8, 9), (2, 3, 8, 8), (3, 8, 8)])
def test_rejects_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        NormalizedError().update(torch.rand(1, 3, 8, 8), torch.rand(shape))


def test_rejects_another_size_later() -> None:
    measure = NormalizedError()
    measure.update(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"\(9, 9\).*\(8, 8\)"):
        measure.update(torch.rand(1, 3, 9, 9), torch.rand(1, 3, 9, 9))


def test_measures_of_the_same_images_share_them() -> None:
    torch.manual_seed(1)
    images, answers = torch.rand(5, 3, 9, 12), torch.rand(2, 5, 3, 9, 12)
    shared = Originals()
    together = [NormalizedError(shared), NormalizedError(shared)]
    alone = [NormalizedError(), NormalizedError()]
    for part in (slice(0, 2), slice(2, 5)):
        shared.add(images[part])
        for measures in (together, alone):
            for measure, answer in zip(measures, answers, strict=True):
                measure.update(images[part], answer[part])
    assert [measure.report() for measure in together] == [measure.report() for measure in alone]
    shared.add(images[:1])
    with pytest.raises(ValueError, match=r"5.*6 images"):
        together[0].report()


@pytest.mark.parametrize("side", [(11, 11), (33, 47)])
def test_psnr_and_ssim_are_those_of_torchmetrics(side: tuple[int, int]) -> None:
    theirs = pytest.importorskip("torchmetrics.functional.image")
    random = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, *side, generator=random)
    images[1] = 0.25  # flat
    made = (images + 0.2 * torch.randn(images.shape, generator=random)).clamp(0, 1)
    made[2] = 1 - images[2]
    expected = theirs.peak_signal_noise_ratio(made, images, data_range=1.0, reduction="none", dim=(1, 2, 3))
    assert psnr(made, images).tolist() == pytest.approx(expected.flatten().tolist(), abs=PSNR)
    expected = theirs.structural_similarity_index_measure(made, images, data_range=1.0, reduction="none")
    assert ssim(made, images).tolist() == pytest.approx(expected.tolist(), abs=SSIM)


def test_psnr_and_ssim_of_equal_images() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert psnr(images, images).isinf().all()
    assert ssim(images, images).tolist() == pytest.approx([1, 1], abs=SSIM)
    assert psnr(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)).tolist() == [0]


def test_the_feature_error_is_relative_to_the_target() -> None:
    target = torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    features = torch.tensor([[3.0, 4.0], [0.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    assert feature_error(features, target).tolist() == [0, 0.6, 0, math.inf]


def test_the_feature_error_covers_all_cells_of_a_map_in_any_precision() -> None:
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(2, 31, 4, 5, generator=generator, dtype=torch.float64)
    errors = feature_error((1.25 * target).half(), target)
    torch.testing.assert_close(errors, torch.full((2,), 0.25, dtype=torch.float64), rtol=0, atol=2e-4)


def test_the_feature_error_of_other_shapes_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"one shape.*\(2, 3\).*\(2, 4\)"):
        feature_error(torch.zeros(2, 3), torch.zeros(2, 4))
