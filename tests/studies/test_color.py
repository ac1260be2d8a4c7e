"""Test the study of color: scores against their definitions, both kinds of features, files, and rejected arguments."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import Run
from layer_networks import tiny_inverter
from preimage import Network, Preprocessing
from preimage.inverters.output_region import OutputRegion
from preimage.io import decode_file, write_png
from preimage.pipelines.reconstruct import Reconstructor
from preimage.representations import Representation, create_representation
from preimage.studies.color import ColorSummary, study_color
from preimage.studies.color_chroma import SECTORS, ChromaMeasurement, ChromaScores
from preimage.studies.color_hue_page import HueStudy
from preimage.studies.color_page import ColorStudy
from preimage.studies.color_shift import (
    HueScores,
    ShiftMeasurement,
    circular_correlation,
    class_probabilities,
    has_class_scores,
    read_labels,
)
from preimage.studies.image_bands import from_opponent, rotate_hue, to_opponent

SIZE = 64
SIDE, OUTPUT = 32, 16
ANGLES = (0, 90, 180)


class Colors(nn.Module):
    """Network whose five class scores depend on the colors of the image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores = nn.Linear(48, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.scores(F.avg_pool2d(images, 8).flatten(1))
        return scores


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(photo_folder: Path) -> list[Path]:
    return sorted(photo_folder.iterdir())[::3]


@pytest.fixture(scope="module")
def scores() -> Representation:
    return Network(Colors(), Preprocessing(SIDE)).representation("scores")


@pytest.fixture(scope="module")
def gray_study(photos: list[Path], tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> ColorSummary:
    output = tmp_path_factory.mktemp("study") / "new" / "out"
    return study_color(photos, output, inverter=tiny, size=SIZE, show_count=2, batch_size=3)


@pytest.fixture(scope="module")
def color_study(photos: list[Path], scores: Representation, tmp_path_factory: pytest.TempPathFactory) -> ColorSummary:
    output = tmp_path_factory.mktemp("study")
    (output / "labels.txt").write_text("n01440764 tench, Tinca tinca\ncat\nsky\nrose\ntree\n")
    inverter = tiny_inverter(scores.spec, OutputRegion(SIDE, SIDE, OUTPUT))
    return study_color(
        photos,
        output / "out",
        inverter=inverter,
        representation=scores,
        angles=ANGLES[1:],
        labels=output / "labels.txt",
        show_count=2,
        batch_size=3,
    )


def _colors(count: int = 4, side: int = 32) -> torch.Tensor:
    """Return images with a color of their own, and noise, that stay within [0, 1] at every rotation."""
    noise = torch.Generator().manual_seed(0)
    each = 0.2 * torch.rand(count, 3, 1, 1, generator=noise).double()
    return 0.4 + each + 0.05 * torch.rand(count, 3, side, side, generator=noise).double()


def _chroma_scores(target: torch.Tensor, made: torch.Tensor) -> ChromaScores:
    measurement = ChromaMeasurement(target.shape[-1])
    for pair in zip(target.split(3), made.split(3), strict=True):
        measurement.add(*pair)
    return measurement.scores()


def test_chroma_by_wavelength_agrees_with_the_pixels() -> None:
    target = _colors()
    made = 0.8 * target + 0.1 * torch.rand(target.shape, generator=torch.Generator().manual_seed(1)).double()
    whole = _chroma_scores(target, made).bands[0]
    true, found = to_opponent(target)[:, 1:], to_opponent(made)[:, 1:]
    x, y = true - true.mean(dim=(0, 2, 3), keepdim=True), found - found.mean(dim=(0, 2, 3), keepdim=True)
    assert whole.correlation == pytest.approx(float((x * y).sum() / (x.norm() * y.norm())))
    assert whole.slope == pytest.approx(float((x * y).sum() / x.square().sum()))
    assert whole.recovered == pytest.approx(1 - float((true - found).square().sum() / x.square().sum()))


def test_chroma_of_perfect_and_of_constant_predictions() -> None:
    target = _colors()
    perfect = _chroma_scores(target, target)
    assert [(band.correlation, band.slope, band.recovered) for band in perfect.bands] == [
        pytest.approx((1, 1, 1)) for _ in perfect.bands
    ]
    assert sum(band.energy for band in perfect.bands[1:]) == pytest.approx(1)
    constant = _chroma_scores(target, target.mean(dim=(0, 2, 3), keepdim=True).expand_as(target))
    assert [band.correlation for band in constant.bands] == [None] * len(constant.bands)
    assert [band.recovered for band in constant.bands] == pytest.approx([0] * len(constant.bands), abs=1e-9)
    assert constant.accuracy == constant.constant_accuracy


def _painted(*colors: tuple[float, float, float]) -> torch.Tensor:
    """Return images of 32² pixels in one color each."""
    return torch.tensor(colors).double()[:, :, None, None].expand(-1, -1, 32, 32)


def test_hue_sectors_count_regions() -> None:
    orange, blue, gray = (0.8, 0.5, 0.2), (0.2, 0.5, 0.9), (0.5, 0.51, 0.5)
    target = _painted(orange, orange, blue, gray)
    made = _painted(orange, (0.5, 0.51, 0.52), (0.4, 0.45, 0.55), orange)
    scores = _chroma_scores(target, made)
    by_name = {sector.sector: sector for sector in scores.sectors}
    assert [sector.regions for sector in scores.sectors] == [512, 0, 0, 256, 0, 0]
    assert (by_name["orange"].recall, by_name["orange"].precision, by_name["orange"].images) == (0.5, 1, 2)
    assert (by_name["azure"].recall, by_name["azure"].precision, by_name["azure"].images) == (1, 0.5, 1)
    assert (by_name["rose"].recall, by_name["rose"].precision, by_name["rose"].slope) == (None, None, None)
    assert by_name["orange"].predicted == (0.5, 0, 0, 0.5, 0, 0)
    x, y = (to_opponent(images)[2, 1:, 0, 0] for images in (target, made))
    constant = to_opponent(target)[:, 1:].mean(dim=(0, 2, 3))
    assert by_name["azure"].slope == pytest.approx(float(x @ y / (x @ x)))
    errors = float((x - y).square().sum() / (x - constant).square().sum())
    assert by_name["azure"].recovered == pytest.approx(1 - errors)
    assert (scores.accuracy, scores.constant_accuracy) == pytest.approx((2 / 3, 2 / 3))
    assert scores.colored_images == 3


@pytest.mark.parametrize("side", [16, 47, 64])
def test_regions_divide_images_of_any_size(side: int) -> None:
    orange = torch.tensor([0.9, 0.5, 0.1]).double().view(1, 3, 1, 1).expand(2, 3, side, side)
    scores = _chroma_scores(orange, orange)
    assert {sector.sector: sector.regions for sector in scores.sectors if sector.regions} == {"orange": 2 * 16 * 16}


def _hue_scores(angles: tuple[float, ...], turned: float, constant: float = 0.0) -> HueScores:
    """Return the scores of reconstructions that rotate by a part of the angle, toward a constant color."""
    images = _colors()
    measurement = ShiftMeasurement(angles, classes=False)
    prior = torch.tensor([0, constant, 0]).double()[:, None, None]
    for part in images.split(3):
        for index, angle in enumerate(angles):
            made = 0.5 * to_opponent(rotate_hue(part, turned * angle))
            measurement.add(index, rotate_hue(part, angle), from_opponent(made + prior), torch.zeros(1))
    return measurement.scores()


@pytest.mark.parametrize("turned", [1, 0.5, 0, -1])
def test_hues_that_follow_have_the_slope_of_their_rotation(turned: float) -> None:
    scores = _hue_scores((0, 60, 180, 300), turned)
    assert scores.slope == pytest.approx(turned if turned != 0.5 else (60 * 30 + -60 * 150) / 7200, abs=1e-9)
    for shift in scores.shifts:
        expected = (turned * shift.degrees + 179.999) % 360 - 179.999
        assert abs(shift.rotation) == pytest.approx(abs(expected), abs=1e-6)
        assert (shift.concentration, shift.chroma, shift.image_chroma) == pytest.approx((1, 0.5, 1))
        assert (shift.images, shift.same_class) == (4, None)
    if turned == 1:
        assert scores.correlation == pytest.approx(1, abs=0.02)


def test_colors_may_follow_along_one_axis_only() -> None:
    measurement = ShiftMeasurement((0, 90, 180, 270), classes=False)
    for index, angle in enumerate((0, 90, 180, 270)):
        target = rotate_hue(_colors(), angle)
        planes = to_opponent(target)
        axis = torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)]).double()[:, None, None]
        planes[:, 1:] = (planes[:, 1:] * axis).sum(dim=1, keepdim=True) * axis
        measurement.add(index, target, from_opponent(planes), torch.zeros(1))
    scores = measurement.scores()
    assert scores.warm_correlation == pytest.approx(1)
    assert scores.green_correlation is None


def test_a_prior_color_holds_the_hue_back() -> None:
    free, held = _hue_scores((0, 90), 1), _hue_scores((0, 90), 1, constant=0.2)
    assert free.slope is not None
    assert held.slope is not None
    assert held.slope < 0.9 * free.slope
    assert held.correlation is not None
    assert free.correlation is not None
    assert held.correlation < free.correlation


def test_circular_correlation_agrees_with_its_definition() -> None:
    random = torch.Generator().manual_seed(0)
    a = 6 * torch.rand(12, generator=random)
    b = a + torch.rand(12, generator=random)
    pairs = list(itertools.combinations(range(12), 2))

    def product(x: torch.Tensor, y: torch.Tensor) -> float:
        return sum(math.sin(x[i] - x[j]) * math.sin(y[i] - y[j]) for i, j in pairs)

    expected = product(a, b) / math.sqrt(product(a, a) * product(b, b))
    assert circular_correlation(a, b) == pytest.approx(expected, rel=1e-5)
    assert circular_correlation(a, a + 1) == pytest.approx(1)
    assert circular_correlation(a, -a) == pytest.approx(-1)
    assert circular_correlation(a, torch.ones(12)) is None


def test_class_scores_by_shift() -> None:
    images = _colors(2)
    measurement = ShiftMeasurement((0, 90), classes=True)
    for index, features in enumerate(([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], [[0.1, 0.6, 0.3], [0.2, 0.5, 0.3]])):
        measurement.add(index, images, images, torch.tensor(features))
    first, second = measurement.scores().shifts
    assert (first.same_class, first.confidence, first.original_confidence) == pytest.approx((1, 0.75, 0.75))
    assert (second.same_class, second.confidence, second.original_confidence) == pytest.approx((0.5, 0.55, 0.3))


def test_probabilities_and_class_scores(scores: Representation) -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0]])
    torch.testing.assert_close(class_probabilities(logits), logits.double().softmax(dim=1))
    torch.testing.assert_close(class_probabilities(logits.softmax(dim=1)).float(), logits.softmax(dim=1))
    assert has_class_scores(scores)
    assert not has_class_scores(create_representation("hog"))


def test_labels(tmp_path: Path) -> None:
    assert read_labels(None, 2) == ["class 0", "class 1"]
    (tmp_path / "labels").write_text("n02123045 tabby, tabby cat\nnice dog\n")
    assert read_labels(tmp_path / "labels", 2) == ["tabby", "nice dog"]
    with pytest.raises(ValueError, match=r"labels.*1,000 classes.*2 lines"):
        read_labels(tmp_path / "labels", 1000)
    (tmp_path / "image").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match="UTF-8"):
        read_labels(tmp_path / "image", 2)


def _values(study: ColorSummary) -> dict[tuple[str, str, str], str]:
    with open(study.csv, newline="") as file:
        return {(row["kind"], row["name"], row["measure"]): row["value"] for row in csv.DictReader(file)}


def test_features_without_color(gray_study: ColorSummary, photos: list[Path]) -> None:
    assert gray_study.hue is None
    assert gray_study.images == len(photos)
    values = _values(gray_study)
    assert {kind for kind, _, _ in values} == {"band", "sector"}
    for band in gray_study.chroma.bands:
        assert float(values["band", band.band, "energy"]) == pytest.approx(band.energy, abs=1e-6)
    for sector in gray_study.chroma.sectors:
        assert values["sector", sector.sector, "regions"] == str(sector.regions)
        shares = [float(values["sector", sector.sector, f"predicted {name}"]) for name in SECTORS]
        assert sum(shares) == pytest.approx(float(sector.regions > 0), abs=1e-5)
    page = gray_study.page.read_text()
    assert page.count("<img ") == 2
    assert gray_study.plot is not None
    assert decode_file(gray_study.plot).shape == (840, 2000, 3)
    assert 4 * 192 < decode_file(gray_study.sheet).shape[1] < 5 * 192


def test_features_with_color(color_study: ColorSummary, photos: list[Path], scores: Representation) -> None:
    assert color_study.hue is not None
    assert color_study.size == OUTPUT
    assert [shift.degrees for shift in color_study.hue.shifts] == list(ANGLES)
    values = _values(color_study)
    assert {kind for kind, _, _ in values} == {"band", "sector", "shift", "hue"}
    assert values["shift", "0", "same_class"] == "1.000000"
    images = torch.stack([torch.from_numpy(decode_file(photo)).permute(2, 0, 1) for photo in photos])
    small = F.interpolate(images.float() / 255, size=SIDE, mode="area")
    chances = [class_probabilities(scores(rotate_hue(small, angle))) for angle in (0, 90)]
    confidence = float(chances[1].max(dim=1).values.mean())
    assert float(values["shift", "90", "confidence"]) == pytest.approx(confidence, abs=2e-3)
    page = color_study.page.read_text()
    assert page.count("<img ") == 3
    assert "same class" in page
    assert color_study.plot is not None
    assert decode_file(color_study.plot).shape == (840, 3000, 3)


def test_the_sheet_has_two_rows_a_photograph(color_study: ColorSummary, gray_study: ColorSummary) -> None:
    heights = [decode_file(study.sheet).shape[0] for study in (color_study, gray_study)]
    assert heights[0] > 4 * 160
    assert heights[1] < 3 * 192 < heights[0]


def test_findings_state_the_scores(gray_study: ColorSummary, color_study: ColorSummary) -> None:
    assert any("correlation" in finding for finding in gray_study.findings)
    assert any("circular correlation" in finding for finding in color_study.findings)
    assert color_study.hue is not None
    bands = tuple(dataclasses.replace(band, recovered=-0.5) for band in gray_study.chroma.bands)
    worse = dataclasses.replace(gray_study.chroma, bands=bands)
    assert "Less than 2% of the chroma is recovered" in " ".join(ColorStudy(worse).findings())
    shifts = HueScores(color_study.hue.shifts, 0.1, 0.2, 0.8, -0.1)
    sentences = " ".join(HueStudy(color_study.chroma, [], shifts).findings())
    assert "reconstructions follows that of the photographs between orange and azure (correlation 0.80)" in sentences
    assert "It hardly follows that of the photographs between green and magenta (correlation −0.10)" in sentences
    assert "over all shifts the slope is 0.20 and the circular correlation is 0.10." in sentences
    neither = HueScores(color_study.hue.shifts, None, None, None, None)
    assert "over all shifts" not in " ".join(HueStudy(color_study.chroma, [], neither).findings())
    bands = tuple(
        dataclasses.replace(band, recovered=0.5 if band.band == "32-64 px" else 0.0) for band in gray_study.chroma.bands
    )
    partly = " ".join(ColorStudy(dataclasses.replace(gray_study.chroma, bands=bands)).findings())
    assert "Most is recovered of 32-64 px: 50%; less than 2% of the mean color, 64 px and more" in partly


def test_photographs_without_color(tiny: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 1), np.uint8)
    for index, image in enumerate(noise):
        write_png(tmp_path / f"{index}.png", np.repeat(image, 3, axis=2))
    with pytest.raises(ValueError, match=r"color.*2 images are gray"):
        study_color(tmp_path, tmp_path / "out", inverter=tiny, size=SIZE)


def test_bad_arguments(photos: list[Path], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"inverter": tiny, "size": SIZE}
    with pytest.raises(ValueError, match="at least two images, got 1"):
        study_color(photos[:1], tmp_path, **options)
    with pytest.raises(ValueError, match=r"angles.*nan"):
        study_color(photos, tmp_path, angles=(0, math.nan), **options)
    with pytest.raises(ValueError, match="labels are for class scores"):
        study_color(photos, tmp_path, labels=tmp_path / "absent", **options)
    with pytest.raises(ValueError, match=r"show_count.*0"):
        study_color(photos, tmp_path, show_count=0, **options)
    with pytest.raises(ValueError, match=r"16 pixels.*\b8\b"):
        ChromaMeasurement(8)
    given = Reconstructor._features
    monkeypatch.setattr(Reconstructor, "_features", lambda self, images: given(self, images) * torch.nan)
    with pytest.raises(ValueError, match=f"{photos[0].stem}.*NaN"):
        study_color(photos, tmp_path, **options)


def test_the_command(run: Run, photos: list[Path], tiny: Path, tmp_path: Path) -> None:
    command = ["study", "color", *photos[:3], "-o", tmp_path / "out", "--inverter", tiny, "--size", 64]
    code, out, err = run(*command, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["hue"] is None
    assert len(found["chroma"]["sectors"]) == 6
    assert "wrote" in err
    assert run(*command, "--angles", "0,x")[0] == 2
    assert run(*command, "--labels", tmp_path / "absent")[0] == 1
