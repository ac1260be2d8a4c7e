"""Test the evaluation of samples: against their definitions, for any batch size, and for draws that are calibrated."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Run
from preimage.inverters import Inverter, UShapedConfig
from preimage.inverters.sampler import SamplerConfig
from preimage.io import list_images
from preimage.metrics import Originals, feature_error
from preimage.pipelines.evaluate import EvaluateSummary, evaluate
from preimage.pipelines.image_loading import batches
from preimage.pipelines.reconstruct import Comparison, Reconstructor
from preimage.pipelines.sample_scores import SampleScorer, SampleScores
from preimage.representations import create_representation
from samplers import louder
from toys import NETWORKS, SIDE, ToyMaps, ToyVectors

HOG = create_representation("hog")
N = 4

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sampling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small untrained inverter for HOG that can sample."""
    torch.manual_seed(0)
    network = UShapedConfig(widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), head=(8, 4))
    inverter = Inverter(HOG.spec, network, sampler=SamplerConfig(vector=4, maps=2))
    return louder(inverter).save(tmp_path_factory.mktemp("inverter") / "sampling")


@pytest.fixture(scope="module")
def summary(sampling: Path, photo_folder: Path) -> EvaluateSummary:
    return evaluate(sampling, photo_folder, size=64, batch_size=7, samples=N, seed=3)


def scores_of(summary: EvaluateSummary) -> SampleScores:
    assert summary.samples is not None
    return summary.samples


def test_scores_agree_with_the_definitions(summary: EvaluateSummary, sampling: Path, photo_folder: Path) -> None:
    ((_, images),) = batches(list_images(photo_folder), 64, 20)
    x, f = images.float() / 255, HOG(images)
    inverter = Inverter.load(sampling)
    draws = inverter.sample(f, N, seed=3, size=(64, 64))
    mean, plain = draws.mean(dim=1), inverter(f, size=(64, 64))
    scores = scores_of(summary)
    assert (scores.count, scores.seed) == (N, 3)
    draw_errors = (draws - x[:, None]).flatten(2).norm(dim=2).mean(dim=1) / summary.normalizer
    mean_errors = (mean - x).flatten(1).norm(dim=1) / summary.normalizer
    deviations = draws.var(dim=1).mean(dim=(1, 2, 3)).sqrt()
    assert deviations.min() > 0.01
    each = [score.samples for score in summary.scores]
    for name, wanted in (("draw_error", draw_errors), ("mean_error", mean_errors), ("deviation", deviations)):
        assert [getattr(one, name) for one in each] == pytest.approx(wanted.tolist(), rel=1e-4)
    assert scores.draw_error == pytest.approx(float(draw_errors.mean()), rel=1e-4)
    assert scores.mean_error == pytest.approx(float(mean_errors.mean()), rel=1e-4)
    assert scores.deviation == pytest.approx(float(deviations.square().mean().sqrt()), rel=1e-4)
    assert scores.mean_error_limit == pytest.approx(math.sqrt(1.25) * summary.error + 0.005)
    assert scores.error_ratio == pytest.approx(scores.draw_error / scores.mean_error)
    assert scores.calibrated_error_ratio == pytest.approx(math.sqrt(1.6))
    made = {"draw_feature_error": draws[:, 0], "mean_feature_error": mean, "feature_error": plain}
    for name, pictures in made.items():
        assert getattr(scores, name) == pytest.approx(float(feature_error(HOG(pictures), f).mean()), rel=1e-4)
    fine = next(one for one in scores.spread_skill if (one.band, one.planes) == ("1 px", "all"))
    assert fine.spread == pytest.approx(scores.deviation * math.sqrt(1.25), rel=1e-4)
    assert fine.skill == pytest.approx(float((mean - x).square().mean().sqrt()), rel=1e-4)


def test_scores_depend_on_the_seed_but_not_on_the_batches(
    summary: EvaluateSummary, sampling: Path, photo_folder: Path
) -> None:
    again = evaluate(sampling, photo_folder, size=64, batch_size=16, samples=N, seed=3)
    one, other = scores_of(summary), scores_of(again)
    assert other.draw_error == pytest.approx(one.draw_error, rel=1e-5)
    assert [each.ratio for each in other.spread_skill] == pytest.approx(
        [each.ratio for each in one.spread_skill], rel=1e-4
    )
    for histogram, histogram_again in zip(one.rank_histograms, other.rank_histograms, strict=True):
        # A value may be next to that of a draw, and its rank depend on rounding.
        assert histogram_again.frequencies == pytest.approx(histogram.frequencies, abs=1e-3)
    changed = scores_of(evaluate(sampling, photo_folder, size=64, samples=N))
    assert abs(changed.draw_error - one.draw_error) > 1e-5


def test_scores_without_noise_are_the_same(summary: EvaluateSummary, sampling: Path, photo_folder: Path) -> None:
    plain = evaluate(sampling, photo_folder, size=64, batch_size=7)
    assert plain.samples is None
    assert (plain.error, plain.psnr, plain.ssim) == (summary.error, summary.psnr, summary.ssim)
    assert all(score.samples is None for score in plain.scores)


def test_features_are_computed_once(photo_folder: Path, toys: None) -> None:
    toy = ToyMaps()
    inverter = toy_sampler(toy)
    evaluate(inverter, photo_folder, representation=toy, samples=3)
    assert ToyMaps.calls == 4 * 20, "of the images, and of their reconstruction, first draw and mean of draws"


def toy_sampler(representation: ToyMaps) -> Inverter:
    torch.manual_seed(0)
    config, region = NETWORKS[(4, 4) if representation.spec.stride else None]
    return louder(Inverter(representation.spec, config, output_region=region, sampler=SamplerConfig(4, 2)))


@pytest.mark.parametrize("kind", [ToyMaps, ToyVectors])
def test_inverters_of_a_region(kind: type[ToyMaps], photo_folder: Path, toys: None) -> None:
    inverter = toy_sampler(kind())
    assert inverter.output_region is not None
    summary = evaluate(inverter, photo_folder, representation=kind(), samples=3)
    assert summary.size == inverter.output_region.size < SIDE
    scores = scores_of(summary)
    bands = [one.band for one in scores.spread_skill if one.planes == "all"]
    assert bands == ["mean color", *["8 px"] * (summary.size >= 8), "1 px"]
    assert scores.deviation > 0.001
    assert math.isfinite(scores.draw_feature_error)


@pytest.mark.parametrize(("spread", "error"), [(1.0, 1.0), (0.3, 1.0), (1.0, 0.5)])
def test_criteria(sampling: Path, monkeypatch: pytest.MonkeyPatch, spread: float, error: float) -> None:
    torch.manual_seed(1)
    count, n, size = 120, 6, 32

    def noise() -> torch.Tensor:
        coarse, fine = torch.randn(count, 3, 4, 4), torch.randn(count, 3, size, size)
        return (
            0.1 * torch.randn(count, 3, 1, 1)
            + 0.1 * coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
            + 0.1 * fine
        )

    center = torch.rand(count, 3, 1, 1).expand(-1, -1, size, size)
    truth = center + noise()
    draws = [center + spread * noise() for _ in range(n)]

    def drawn(features: torch.Tensor, count: int, *_: Any, positions: range, **__: Any) -> Iterator[torch.Tensor]:
        assert (count, len(features)) == (n, len(positions))
        yield from (images[positions.start : positions.stop] for images in draws)

    reconstructor = Reconstructor(inverter=sampling, device="cpu")
    monkeypatch.setattr(reconstructor.inverter, "draws", drawn)
    originals = Originals()
    scorer = SampleScorer(reconstructor, originals, n, seed=0)
    for first in range(0, count, 50):
        part = truth[first : first + 50]
        originals.add(part)
        scorer.add(Comparison(HOG(part), part, center[first : first + 50]))
    plain = float((truth - center).flatten(1).norm(dim=1).mean()) / originals.spread()[0]
    scores, each = scorer.report(error * plain)
    assert len(each) == count
    if spread < 1:
        assert any("times that of the mean" in sentence for sentence in scores.failed)
        assert any("luminance, 8 px" in sentence for sentence in scores.failed)
        assert len(scores.failed) == 1 + len(scores.spread_skill)
    elif error < 1:
        (sentence,) = scores.failed
        assert f"{scores.mean_error:.4f}, above {scores.mean_error_limit:.4f}" in sentence
    else:
        assert scores.failed == ()
        assert scores.error_ratio == pytest.approx(scores.calibrated_error_ratio, rel=0.03)
        assert scores.mean_error == pytest.approx(math.sqrt(1 + 1 / n) * plain, rel=0.03)
    assert scores.calibrated == (not scores.failed)


def test_rejects_what_cannot_be_sampled(sampling: Path, tiny: Path, photo_folder: Path) -> None:
    for count in (1, -3, 1001):
        with pytest.raises(ValueError, match=rf"samples.*got {count}"):
            evaluate(sampling, photo_folder, size=64, samples=count)
    with pytest.raises(ValueError, match="cannot sample"):
        evaluate(tiny, photo_folder, size=64, samples=2)
    with pytest.raises(ValueError, match=r"seed.*-1"):
        evaluate(sampling, photo_folder, size=64, samples=2, seed=-1, progress=lambda *_: pytest.fail("too late"))


def test_files_and_text(run: Run, sampling: Path, photo_folder: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", sampling, photo_folder, "--size", 64, "--samples", 3, "--csv", tmp_path / "s.csv")
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    for words in (
        "3 samples of each image, seed 0",
        "one draw",
        "spread / skill",
        "32 px",
        "rank histogram",
        "luminance",
    ):
        assert words in out, words
    assert "not calibrated:" in out
    assert out.index("not calibrated:") < out.index("- the error of one draw is ")
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    scores = json.loads(out)["samples"]
    assert (scores["count"], scores["calibrated"]) == (3, False)
    assert {len(one["frequencies"]) for one in scores["rank_histograms"]} == {4}
    with open(tmp_path / "s.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows[-2:]] == ["(mean)", "(mean image)"]
    assert rows[-1]["deviation"] == ""
    for column, field in (
        ("draw_error", "draw_error"),
        ("mean_of_draws_error", "mean_error"),
        ("deviation", "deviation"),
    ):
        assert float(rows[-2][column]) == pytest.approx(scores[field], abs=1e-6)
    assert sum(float(row["draw_error"]) for row in rows[:20]) / 20 == pytest.approx(scores["draw_error"], abs=1e-5)
    code, _, err = run("evaluate", sampling, photo_folder, "--samples", 1)
    assert code == 1
    assert "samples must be at least 2" in err
