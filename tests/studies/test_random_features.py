"""Test the study of random features: statistics against their definitions, files, and rejected arguments."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_interpolate import toy_inverter

from conftest import Run
from preimage.inverters import Inverter, UShapedConfig
from preimage.inverters.output_region import resized
from preimage.io import decode_file, write_png
from preimage.pipelines.extract import extract
from preimage.pipelines.image_loading import as_sources, batches
from preimage.representations import Representation
from preimage.representations.sift import Sift
from preimage.store import FeatureStore
from preimage.studies.feature_samples import FeatureDistribution, sample_gaussian, sample_histograms
from preimage.studies.image_statistics import colorfulness, contrast, fine_detail
from preimage.studies.random_features import RandomSummary, study_random
from preimage.studies.random_measurement import SampleScore
from preimage.studies.random_page import RandomStudy
from toys import SIDE, ToyMaps, ToyProbabilities, ToyVectors

COUNT = 6


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(photo_folder: Path) -> list[Path]:
    return sorted(photo_folder.iterdir())


@pytest.fixture(scope="module")
def study(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> RandomSummary:
    output = tmp_path_factory.mktemp("study") / "new" / "out"
    toy = ToyVectors()
    options: dict[str, Any] = {"count": COUNT, "seed": 3, "show_count": 4, "tile": 32, "batch_size": 4}
    return study_random(photos, output, inverter=toy_inverter(toy), representation=toy, **options)


def test_contrast_detail_and_color_of_known_images() -> None:
    x = torch.arange(32) / 32

    def wave(cycles: int) -> torch.Tensor:
        return (0.5 + 0.25 * torch.sin(2 * math.pi * cycles * x)).expand(1, 3, 32, 32)

    # Amplitude / √2; 2 of 32 cycles are coarse, 8 fine.
    for cycles in (2, 8):
        assert float(contrast(wave(cycles))) == pytest.approx(0.25 / math.sqrt(2), rel=1e-4)
        assert float(colorfulness(wave(cycles))) == pytest.approx(0, abs=1e-6)
    assert float(fine_detail(wave(2))) == pytest.approx(0, abs=1e-6)
    both = (wave(2) + wave(8)) / 2
    assert float(fine_detail(both)) == pytest.approx(0.125 / math.sqrt(2), rel=1e-4)
    flat = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1).expand(2, 3, 12, 9)
    torch.testing.assert_close(colorfulness(flat), torch.full((2,), math.sqrt(0.5 / 3)))
    torch.testing.assert_close(contrast(flat), torch.zeros(2))


def test_scores_agree_with_their_definitions(study: RandomSummary, photos: list[Path]) -> None:
    toy = ToyVectors()
    inverter = toy_inverter(toy)
    [(_, images)] = batches(as_sources(photos), SIDE, len(photos))
    every = toy(images)
    distribution = FeatureDistribution(3)
    for features in every.numpy():
        distribution.add(features)
    chosen = [round(index * 19 / 5) for index in range(COUNT)]
    samples = {
        "real": every[chosen],
        "histogram": torch.from_numpy(sample_histograms(distribution, COUNT, 3)),
        "gaussian": torch.from_numpy(sample_gaussian(distribution, COUNT, 3)),
    }
    assert [score.kind for score in study.scores] == list(samples)
    for score, features in zip(study.scores, samples.values(), strict=True):
        decoded = inverter(features).clamp(0, 1)
        again = toy(resized(decoded, SIDE, SIDE))
        errors = (again - features).norm(dim=1) / features.norm(dim=1)
        mean = every.mean(dim=0)
        expected = {
            "samples": COUNT,
            "mean": features.mean(),
            "deviation": features.std(correction=0),
            "sparsity": (features == 0).float().mean(),
            "norm": features.norm(dim=1).mean(),
            "round_trip": errors.mean(),
            "round_trip_deviation": errors.std(correction=0),
            "similarity": F.cosine_similarity(again - mean, features - mean).mean(),
            "contrast": contrast(decoded).mean(),
            "fine_detail": fine_detail(decoded).mean(),
            "color": colorfulness(decoded).mean(),
        }
        found = {name: value for name, value in vars(score).items() if name != "kind"}
        assert found == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-3, abs=1e-5)


def test_files(study: RandomSummary) -> None:
    assert study.images == 20
    with open(study.csv, newline="") as file:
        rows = list(csv.reader(file))
    assert [row[:2] for row in rows[1:]] == [["all", "20"], ["real", "6"], ["histogram", "6"], ["gaussian", "6"]]
    names = rows[0]
    for row, score in zip(rows[2:], study.scores, strict=True):
        assert [float(value) for value in row[1:]] == pytest.approx(
            [getattr(score, name) for name in names[1:]], abs=1e-6
        )
    height, width = decode_file(study.sheet).shape[:2]
    assert width == 4 * 12 + 4 * (32 + 12) - 12
    assert height > 4 * (32 + 12), "photographs, real features, and both kinds of samples"
    page = study.page.read_text()
    assert page.count("<img ") == 2
    for sentence in study.findings:
        assert f"<li>{sentence}</li>" in page.replace("&#x27;", "'")
    assert sorted(path.name for path in study.page.parent.iterdir()) == [
        "index.html",
        "plot.png",
        "random.csv",
        "sheet.png",
    ]


def test_few_images_and_absent_dimensions_are_noted(study: RandomSummary) -> None:
    assert [note for note in study.notes if re.search(r"20 images.*4,096", note)]
    assert [note for note in study.notes if re.search("1 of 7 dimensions are 0", note)]
    assert len(study.notes) == 2


def _values(scores: tuple[SampleScore, ...]) -> list[float]:
    return [value for score in scores for name, value in vars(score).items() if name != "kind"]


@pytest.mark.parametrize("toy", [ToyMaps(), ToyProbabilities()])
def test_a_seed_decides_everything_and_the_batch_size_nothing(
    photos: list[Path], tmp_path: Path, toy: Representation
) -> None:
    first, again, other = (
        study_random(
            photos[:7],
            tmp_path / f"{size}-{seed}",
            inverter=toy_inverter(toy),
            representation=toy,
            count=5,
            seed=seed,
            tile=32,
            batch_size=size,
        )
        for size, seed in ((2, 0), (7, 0), (7, 1))
    )
    assert _values(first.scores) == pytest.approx(_values(again.scores), rel=1e-4, abs=1e-6)
    assert _values(again.scores[:1]) == _values(other.scores[:1])
    assert all(one != two for one, two in zip(again.scores[1:], other.scores[1:], strict=True))
    assert any("divided by its sum" in note for note in first.notes) == isinstance(toy, ToyProbabilities)


def test_a_feature_store_gives_the_same_scores(photos: list[Path], tiny: Path, tmp_path: Path) -> None:
    store = extract("hog", photos[:4], tmp_path / "photos.hog", size=64)
    options: dict[str, Any] = {"inverter": tiny, "count": 3, "tile": 32, "device": "cpu"}
    expected = study_random(photos[:4], tmp_path / "a", size=64, **options)
    given: list[Any] = [store, tmp_path / "photos.hog", [str(tmp_path / "photos.hog")]]
    for index, images in enumerate(given):
        found = study_random(images, tmp_path / f"b{index}", **options)
        assert _values(found.scores) == pytest.approx(_values(expected.scores), rel=1e-4, abs=1e-6)
        assert found.images == 4
    assert decode_file(found.sheet).shape[0] < decode_file(expected.sheet).shape[0], "without photographs"
    with pytest.raises(ValueError, match=r"size.*64"):
        study_random(FeatureStore(tmp_path / "photos.hog"), tmp_path / "c", size=64, **options)


class _Constant(ToyVectors):
    name = "toy-constant"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.0, 1, 2, 3, 4, 5, 6]).expand(len(images), 7)


class _Zero(ToyVectors):
    name = "toy-zero"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), 7)


class _NotFinite(ToyVectors):
    name = "toy-nan"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return super().__call__(images).index_fill(1, torch.tensor([2]), torch.inf)


class _OneClass(ToyVectors):
    name = "toy-class"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return F.one_hot(super().__call__(images)[:, :3].argmax(dim=1), 7).float()


class _Signed(ToyVectors):
    name = "toy-signed"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        features = super().__call__(images)
        return torch.cat((features[:, :5] - 0.2, torch.full_like(features[:, :1], 0.7), features[:, :1]), dim=1)


@pytest.mark.parametrize(
    ("toy", "words"),
    [(_Constant(), "5 images are equal"), (_Zero(), "5 images are 0"), (_NotFinite(), "^astronaut-0: .*NaN")],
)
def test_features_that_cannot_be_sampled(photos: list[Path], tmp_path: Path, toy: Representation, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        study_random(photos[:5], tmp_path / "out", inverter=toy_inverter(toy), representation=toy)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("toy", "notes"),
    [
        (_OneClass(), ["dimensions are 0 in all", "no width", "divided by its sum"]),
        (_Signed(), ["1 of 7 dimensions have the same value", "no sparsity", "not truncated"]),
    ],
)
def test_unusual_features_are_noted(photos: list[Path], tmp_path: Path, toy: Representation, notes: list[str]) -> None:
    summary = study_random(
        photos, tmp_path, inverter=toy_inverter(toy), representation=toy, count=3, tile=32, show_count=2
    )
    for words in notes:
        assert [note for note in summary.notes if words in note], words
    assert len(summary.notes) == len(notes) + 1
    assert np.isfinite(_values(summary.scores)).all()


def test_one_image_other_features_and_sparse_sift(photos: list[Path], tiny: Path, tmp_path: Path) -> None:
    toy = ToyVectors()
    with pytest.raises(ValueError, match=r"two images.*1"):
        study_random(photos[0], tmp_path / "out", inverter=toy_inverter(toy), representation=toy)
    with pytest.raises(ValueError, match=r"hog.*toy-vectors"):
        study_random(photos, tmp_path / "out", inverter=tiny, representation=toy)
    config = UShapedConfig(widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), entry=("c3/2 8",), head=(8, 4))
    with pytest.raises(ValueError, match=r"SIFT.*keypoint"):
        study_random(photos, tmp_path / "out", inverter=Inverter(Sift(variant="opencv").spec, config), size=62)
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"x\.png"):
        study_random([photos[0], tmp_path / "x.png"], tmp_path / "out", inverter=tiny, size=64)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, r"count.*1.*0"),
        ({"seed": -1}, r"seed.*0"),
        ({"show_count": 0}, r"show_count.*1"),
        ({"tile": 8}, r"tile.*32"),
        ({"batch_size": 0}, r"batch_size.*1"),
        ({"size": 64}, r"32.*64"),
        ({"device": "cuba"}, "device"),
        ({"inverter": None, "representation": None}, "neither"),
    ],
)
def test_bad_options_are_named(photos: list[Path], tmp_path: Path, options: dict[str, Any], words: str) -> None:
    toy = ToyMaps()
    with pytest.raises(ValueError, match=words):
        study_random(photos, tmp_path / "out", **{"inverter": toy_inverter(toy), "representation": toy, **options})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("real", "histogram", "words"),
    [
        (0.5, 0.2, "independent dimensions do not make features of images"),
        (0.5, 0.48, "as good as real features"),
        (0.02, -0.2, "is −0.20 .* says nothing about the samples"),
    ],
)
def test_conclusions(study: RandomSummary, real: float, histogram: float, words: str) -> None:
    scores = [
        dataclasses.replace(score, similarity=similarity, round_trip=math.nan)
        for score, similarity in zip(study.scores, (real, histogram, 0.1), strict=True)
    ]
    distribution = FeatureDistribution()
    distribution.add(np.arange(3.0))
    page = RandomStudy(scores, distribution)
    sentences = " ".join(page.findings())
    assert re.search(words, sentences)
    assert "nan" not in sentences
    assert [row[6] for row in page.tables()[0].rows] == ["", "", ""]
    assert [row[6] for row in page.table()][1:] == ["", "", "", ""]


def test_bad_images_can_be_skipped(photos: list[Path], tmp_path: Path) -> None:
    toy = ToyVectors()
    (tmp_path / "x.png").write_bytes(b"no image")
    write_png(tmp_path / "y.png", np.full((64, 64, 3), 90, np.uint8))
    images = [photos[0], tmp_path / "x.png", tmp_path / "y.png"]
    summary = study_random(
        images, tmp_path / "out", inverter=toy_inverter(toy), representation=toy, count=2, tile=32, skip_bad=True
    )
    assert (summary.images, len(summary.skipped)) == (2, 1)


def test_on_the_command_line(run: Run, photos: list[Path], tiny: Path, tmp_path: Path) -> None:
    arguments = ("study", "random", *photos[:4], "--inverter", tiny, "--size", 64, "-o", tmp_path / "out")
    code, out, err = run(*arguments, "--count", 2, "--tile", 32)
    assert code == 0, err
    assert "on 4 images in" in out
    assert str(tmp_path / "out" / "index.html") in out
    assert "preimage study random" in (tmp_path / "out" / "index.html").read_text()
    code, out, _ = run(*arguments, "--count", 2, "--json")
    assert code == 0
    assert [score["kind"] for score in json.loads(out)["scores"]] == ["real", "histogram", "gaussian"]
    code, _, err = run(*arguments, "--representation", "lbp")
    assert code == 1
    assert re.fullmatch(r"error: .*hog.*lbp.*\n", err)


def test_progress_ends_where_it_says(photos: list[Path], tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    toy = ToyVectors()
    study_random(
        photos[:5],
        tmp_path,
        inverter=toy_inverter(toy),
        representation=toy,
        count=3,
        tile=32,
        batch_size=3,
        progress=lambda *steps: reported.append(steps),
    )
    assert [done for done, _ in reported] == [3, 5, 8, 11, 14]
    assert {total for _, total in reported} == {14}
