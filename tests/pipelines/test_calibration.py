"""Test the calibration of draws on normal distributions, for which it is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from preimage.metrics import luma
from preimage.pipelines.calibration import Calibration, Draws, RankHistogram, SpreadSkill

BANDS = ["mean color", "32 px", "8 px", "1 px"]
# Standard deviation of the noise at each size in pixels, so that each band has spread of its own.
SCALES = {64: 0.02, 32: 0.03, 8: 0.04, 1: 0.05}


def noise(count: int, spread: float = 1.0, size: int = 64) -> torch.Tensor:
    """Return normal noise (count, 3, size, size) that is correlated over squares, and a little between channels."""
    image = torch.zeros(count, 3, size, size)
    for side, deviation in SCALES.items():
        cells = torch.randn(count, 3, size // side, size // side) + 0.5 * torch.randn(count, 1, 1, 1)
        image += deviation * F.interpolate(cells, scale_factor=side)
    return spread * image


def measured(
    truth: torch.Tensor, draws: torch.Tensor, batches: Sequence[int] = (), seed: int = 0
) -> tuple[dict[tuple[str, str], SpreadSkill], dict[tuple[str, str], RankHistogram]]:
    """Return the calibration of draws (n, B, 3, H, W) by band and planes, computed in batches of some sizes."""
    calibration, first = Calibration(len(draws), seed), 0
    for size in batches or (len(truth),):
        part = Draws(truth[first : first + size])
        for images in draws[:, first : first + size]:
            part.add(images)
        calibration.add(part, range(first, first + size))
        first += size
    assert first == len(truth)
    spread_skill, ranks = calibration.spread_skill(), calibration.rank_histograms()
    return ({(one.band, one.planes): one for one in spread_skill}, {(one.band, one.planes): one for one in ranks})


@pytest.fixture(scope="module")
def centers() -> torch.Tensor:
    torch.manual_seed(5)
    return torch.rand(300, 3, 1, 1).expand(-1, -1, 64, 64)


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_ratio_of_normal_draws_is_their_relative_spread(centers: torch.Tensor, spread: float) -> None:
    torch.manual_seed(1)
    n = 8
    truth = centers + noise(300)
    draws = torch.stack([centers + noise(300, spread) for _ in range(n)])
    ratios, ranks = measured(truth, draws, batches=(100, 100, 100))
    # The mean of n draws of relative deviation s is wrong by √(1 + s²/n).
    expected = spread * math.sqrt((1 + 1 / n) / (1 + spread**2 / n))
    assert list(ratios) == [(band, planes) for band in BANDS for planes in ("all", "luminance", "chroma")]
    for (band, planes), one in ratios.items():
        assert one.ratio == pytest.approx(expected, rel=0.1), (band, planes)
        assert one.ratio == one.spread / one.skill
    fine = ratios["1 px", "all"]
    deviation = math.sqrt(sum(1.25 * deviation**2 for deviation in SCALES.values()))
    assert fine.spread == pytest.approx(spread * deviation * math.sqrt(1 + 1 / n), rel=0.1)
    for (band, planes), histogram in ranks.items():
        assert len(histogram.frequencies) == n + 1
        assert sum(histogram.frequencies) == pytest.approx(1)
        flat = 2 / (n + 1)
        assert histogram.outside == histogram.frequencies[0] + histogram.frequencies[-1]
        if spread == 1:
            assert histogram.reliability_index < 0.3, (band, planes)
            assert histogram.outside == pytest.approx(flat, abs=0.08), (band, planes)
        elif spread < 1:
            assert histogram.outside > 1.6 * flat, (band, planes)
        else:
            assert histogram.outside < 0.5 * flat, (band, planes)
            assert histogram.frequencies[n // 2] > 1.2 / (n + 1)
    if spread == 1:
        assert ranks["1 px", "channels"].reliability_index < 0.05


def test_sums_agree_with_the_definitions() -> None:
    torch.manual_seed(2)
    truth, draws = torch.rand(5, 3, 75, 41), torch.rand(6, 5, 3, 75, 41)
    ratios, ranks = measured(truth, draws, batches=(2, 3))
    # 75 = 2 · 32 + 11 rows, of which 5 are cropped above; 41 = 32 + 9 columns, of which 4 are cropped to the left; and
    # so on for squares of 8 pixels.
    crops = {
        "mean color": (slice(0, 75), slice(0, 41), None),
        "32 px": (slice(5, 69), slice(4, 36), 32),
        "8 px": (slice(1, 73), slice(0, 40), 8),
        "1 px": (slice(0, 75), slice(0, 41), 1),
    }
    assert list(dict.fromkeys(band for band, _ in ratios)) == list(crops)
    for band, (rows, columns, side) in crops.items():

        def averages(images: torch.Tensor) -> torch.Tensor:
            part = images[..., rows, columns].double().flatten(0, -4)  # noqa: B023
            height, width = (side, side) if side else part.shape[2:]  # noqa: B023
            squares = part.unflatten(3, (-1, width)).unflatten(2, (-1, height)).mean(dim=(3, 5))
            return squares.unflatten(0, images.shape[:-3])

        true, made = averages(truth), averages(draws)
        gray, made_gray = luma(true)[:, None], luma(made)[:, :, None]
        planes = {"all": (true, made), "luminance": (gray, made_gray), "chroma": (true - gray, made - made_gray)}
        for name, (wanted, values) in planes.items():
            one = ratios[band, name]
            assert one.spread == pytest.approx(float((values.var(dim=0).mean() * (1 + 1 / 6)).sqrt()), rel=1e-4)
            assert one.skill == pytest.approx(float((values.mean(dim=0) - wanted).square().mean().sqrt()), rel=1e-4)
        counted = {"channels": planes["all"], "luminance": planes["luminance"]}
        for name, (wanted, values) in counted.items():
            below = (values < wanted).sum(dim=0)
            if band == "1 px":
                below = below[:, :, 4::8, 4::8]
            frequencies = torch.bincount(below.flatten(), minlength=7).double() / below.numel()
            assert ranks[band, name].frequencies == pytest.approx(frequencies.tolist())
            index = float((frequencies - 1 / 7).abs().sum())
            assert ranks[band, name].reliability_index == pytest.approx(index)


def test_results_do_not_depend_on_the_batches() -> None:
    torch.manual_seed(3)
    truth = torch.rand(7, 3, 40, 40).round(decimals=1)
    draws = torch.rand(4, 7, 3, 40, 40).round(decimals=1)  # one value in eleven is tied
    once, twice = measured(truth, draws), measured(truth, draws, batches=(1, 4, 2))
    for key, one in once[0].items():
        other = twice[0][key]
        assert (one.spread, one.skill) == pytest.approx((other.spread, other.skill), rel=1e-5), key
    assert once[1] == twice[1]
    assert measured(truth, draws, seed=1)[1] != once[1], "ties are broken otherwise"


def test_equal_values_have_any_rank() -> None:
    truth = torch.ones(300, 3, 16, 16)
    ratios, ranks = measured(truth, truth.expand(3, -1, -1, -1, -1))
    assert list(ratios) == [
        (band, planes) for band in ("mean color", "8 px", "1 px") for planes in ("all", "luminance", "chroma")
    ]
    assert all(one.spread == one.skill == 0 and math.isnan(one.ratio) for one in ratios.values())
    for histogram in ranks.values():
        assert histogram.frequencies == pytest.approx([0.25] * 4, abs=0.09)


def test_moments_of_a_batch() -> None:
    torch.manual_seed(4)
    images = torch.rand(5, 2, 3, 12, 20)
    draws = Draws(torch.rand(2, 3, 12, 20))
    for one in images:
        draws.add(one)
    assert (draws.count, len(draws)) == (5, 2)
    torch.testing.assert_close(draws.mean, images.mean(dim=0))
    deviation = images.double().var(dim=0).mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(draws.deviation, deviation, rtol=1e-5, atol=0)


def test_rejects_other_numbers_of_draws() -> None:
    with pytest.raises(ValueError, match=r"2 draws.*1"):
        Calibration(1)
    draws = Draws(torch.rand(2, 3, 16, 16))
    draws.add(torch.rand(2, 3, 16, 16))
    for count, positions in ((2, range(2)), (1 + 1, np.arange(3))):
        with pytest.raises(ValueError, match=rf"{count} draws for {len(positions)} images.*1 for 2"):
            Calibration(count).add(draws, positions)
