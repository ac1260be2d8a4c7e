"""Test what the studies have in common: mean scores."""

from __future__ import annotations

import pytest
import torch

from preimage.metrics import NormalizedError, psnr, ssim
from preimage.pipelines.evaluate import Scores
from preimage.studies.base import mean_scores


def test_mean_scores_are_means_over_the_images() -> None:
    generator = torch.Generator().manual_seed(0)
    images, made = (torch.rand(5, 3, 16, 16, generator=generator) for _ in range(2))
    made = 0.8 * images + 0.2 * made
    error = NormalizedError()
    error.update(images, made)
    scores, with_lpips = Scores(), Scores(perceptual=lambda made, images: (images - made).mean((1, 2, 3)).tolist())
    for batch in (slice(0, 3), slice(3, 5)):
        scores.add([str(batch)] * len(images[batch]), images[batch], made[batch])
        with_lpips.add([str(batch)] * len(images[batch]), images[batch], made[batch])
    mean, report = mean_scores(scores), error.report()
    assert mean[:1] + mean[6:] == (5, None)
    assert mean[1:4] == pytest.approx((report.error, report.mean_image, report.normalizer), rel=1e-6)
    assert mean[4:6] == pytest.approx((float(psnr(made, images).mean()), float(ssim(made, images).mean())), rel=1e-5)
    assert mean_scores(with_lpips).lpips == pytest.approx(float((images - made).mean()), rel=1e-4)
    with pytest.raises(ValueError, match=r"two images.*0"):
        mean_scores(Scores())
