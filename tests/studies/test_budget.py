"""Test the study of an inverter's error: parts that add up, values by hand, files, and rejected arguments."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Run
from layer_networks import ToyNetwork, saved
from preimage.inverters import Inverter
from preimage.io import decode_file, write_png
from preimage.pipelines.image_loading import as_sources, batches
from preimage.pipelines.reconstruct import Comparison, Reconstructor
from preimage.studies.budget import BudgetSummary, study_budget
from preimage.studies.budget_measurement import KINDS, PARTS, BudgetMeasurement
from preimage.studies.budget_page import BudgetStudy
from preimage.studies.image_bands import OctaveBands

SIZE = 64


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(photo_folder: Path) -> list[Path]:
    return sorted(photo_folder.iterdir())[::3]


@pytest.fixture(scope="module")
def study(photos: list[Path], tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> BudgetSummary:
    output = tmp_path_factory.mktemp("study") / "new" / "out"
    return study_budget(photos, output, inverter=tiny, size=SIZE, coarse=16, show_count=2, batch_size=3)


def _rows(study: BudgetSummary) -> list[dict[str, str]]:
    with open(study.csv, newline="") as file:
        return list(csv.DictReader(file))


def test_parts_add_up_to_the_squared_error(study: BudgetSummary, photos: list[Path], tiny: Path) -> None:
    [(_, images)] = batches(as_sources(photos), SIZE, len(photos))
    target, made = images.double() / 255, Reconstructor(None, tiny, "cpu")(images).double()
    squared = (made - target).square()
    about_mean = (target - target.mean(dim=0)).square()
    assert study.mean_squared_error == pytest.approx(float(squared.mean()), rel=1e-5)
    assert study.recovered == pytest.approx(1 - float(squared.mean() / about_mean.mean()), rel=1e-5)
    assert sum(study.parts.values()) == pytest.approx(1, abs=1e-12)
    assert sum(band.error for band in study.bands) == pytest.approx(1, abs=1e-12)
    assert sum(band.energy for band in study.bands) == pytest.approx(1, abs=1e-12)
    brightness = (made - target).mean(dim=(1, 2, 3)).square().mean() / squared.mean()
    assert study.parts["mean brightness"] == pytest.approx(float(brightness), rel=1e-5)
    gray = (made - target).mean(dim=1).square().mean() / squared.mean()
    assert study.parts["coarse chroma"] + study.parts["fine chroma"] == pytest.approx(1 - float(gray), rel=1e-5)


def test_recovered_shares_agree_with_errors_and_energies(study: BudgetSummary) -> None:
    ratio = 1 - study.recovered
    assert [band.kind for band in study.bands] == [KINDS[0]] * 7 + [KINDS[1]] * 7
    for band in study.bands:
        assert band.recovered is not None
        assert 1 - band.recovered == pytest.approx(ratio * band.error / band.energy, rel=1e-6)


def _measured(target: torch.Tensor, made: torch.Tensor) -> tuple[BudgetStudy, list[str]]:
    side = target.shape[-1]
    measurement = BudgetMeasurement(OctaveBands(side, side), 16, {0})
    for index in range(len(target)):
        pair = Comparison(torch.zeros(1, 1), target[index : index + 1], made[index : index + 1])
        measurement.add([str(index)], pair)
    return BudgetStudy(measurement.budget(), measurement.rows), [str(row.key) for row in measurement.rows]


@pytest.mark.parametrize("part", PARTS)
def test_an_error_of_one_kind_is_in_its_part(part: str) -> None:
    target = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    wave = torch.cos(math.pi / 32 * (torch.arange(32).double() + 0.5) * (2 if "coarse" in part else 20))
    color = torch.tensor([1.0, 1.0, 1.0] if "chroma" not in part else [1.0, 0.0, -1.0]).double()
    pattern = torch.ones(32, 32).double() if part == "mean brightness" else wave.expand(32, 32)
    study, keys = _measured(target, target + 0.1 * color[:, None, None] * pattern)
    assert study.budget.parts[part] == pytest.approx(1, abs=1e-9)
    assert keys == ["0"]
    cells = [cell.astype(int) for cell in study.sheet_rows[0].cells[2:]]
    gray = [bool((abs(cell - 128) <= 1).all()) for cell in cells]
    assert gray == [name != part for name in PARTS]
    assert f"{part} 100%" in " ".join(study.findings())


def test_the_mean_image_recovers_nothing_and_the_images_everything() -> None:
    target = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    nothing, _ = _measured(target, target.mean(dim=0).expand_as(target))
    assert [band.recovered for band in nothing.budget.bands] == pytest.approx([0] * 12, abs=1e-9)
    perfect, _ = _measured(target, target)
    assert [band.recovered for band in perfect.budget.bands] == [1] * 12
    assert "exact" in " ".join(perfect.findings())


def test_gray_images_have_no_chroma_to_recover() -> None:
    target = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(1)).double().expand(-1, 3, -1, -1)
    study, _ = _measured(target, 0.9 * target)
    assert all((band.recovered is None) == (band.kind == "chroma") for band in study.budget.bands)
    sentences = " ".join(study.findings())
    assert "do not differ in chroma" in sentences
    assert study.budget.recovered_of("chroma") is None
    assert "" in [row[-1] for row in study.table()]


def test_images_that_differ_in_one_pixel_differ() -> None:
    target = torch.full((2, 3, 32, 32), 0.5).double()
    target[1, :, 3, 5] += 1 / 255
    study, _ = _measured(target, target[:1].expand_as(target))
    mean = target.mean(dim=0)
    expected = 1 - float((target - target[:1]).square().sum() / (target - mean).square().sum())
    assert study.budget.recovered == pytest.approx(expected, rel=1e-6)


def test_findings_about_reconstructions_worse_than_the_mean_image() -> None:
    target = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    study, _ = _measured(target, 2 * target.mean(dim=0) - target)  # every coefficient on the wrong side of its mean
    assert [study.budget.recovered_of(kind) for kind in KINDS] == pytest.approx([-3, -3])
    sentences = list(study.findings())
    assert "The squared error is 400% of that of the mean image: 400% in luminance and 400% in chroma." in sentences
    assert [sentence for sentence in sentences if "nothing is recovered" in sentence]
    assert not [sentence for sentence in sentences if "at best" in sentence]
    sums = study.tables()[1].rows[-1]
    assert sums[3] == sums[6] == "−300.0 %"


def test_files_show_what_was_measured(study: BudgetSummary) -> None:
    rows = _rows(study)
    assert list(rows[0]) == ["band", "kind", "error_share", "energy_share", "recovered"]
    for row, band in zip(rows, study.bands, strict=True):
        assert (row["band"], row["kind"]) == (band.band, band.kind)
        assert float(row["error_share"]) == pytest.approx(band.error, abs=1e-8)
    page = study.page.read_text()
    assert page.count("<img ") == 2
    assert all(f"<td>{100 * share:.1f} %</td>" in page for share in study.parts.values())
    assert study.plot is not None
    assert decode_file(study.plot).shape == (840, 2000, 3)
    assert decode_file(study.sheet).shape[1] > 7 * 160
    names = {"budget.csv", "index.html", "plot.png", "sheet.png"}
    assert {path.name for path in study.page.parent.iterdir()} == names


def test_only_the_reconstructed_region_is_compared(photos: list[Path], tmp_path: Path) -> None:
    network = ToyNetwork()
    inverter = saved(network, "maps", tmp_path / "maps")
    summary = study_budget(
        photos, tmp_path / "out", inverter=inverter, representation=network.representation("maps"), coarse=8
    )
    assert summary.size == 24
    assert summary.images == len(photos)


def test_features_that_are_not_finite_name_the_image(
    photos: list[Path], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Reconstructor._features
    monkeypatch.setattr(Reconstructor, "_features", lambda self, images: given(self, images) * torch.nan)
    with pytest.raises(ValueError, match=f"{photos[0].stem}.*NaN"):
        study_budget(photos, tmp_path, inverter=tiny, size=SIZE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"coarse": 48}, "coarse.*4, 8, 16, 32, 64.*48"),
        ({"coarse": 128}, "coarse.*64 pixels.*128"),
        ({"show_count": 0}, "show_count.*0"),
        ({"batch_size": 0}, "batch_size.*0"),
        ({"inverter": None}, "neither"),
    ],
)
def test_bad_arguments(photos: list[Path], tiny: Path, tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        study_budget(photos, tmp_path, **{"inverter": Inverter.load(tiny), "size": SIZE, **options})  # type: ignore[arg-type]


def test_bad_images(photos: list[Path], tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least two images, got 1"):
        study_budget(photos[:1], tmp_path / "out", inverter=tiny, size=SIZE)
    for index in range(2):
        write_png(tmp_path / f"{index}.png", np.full((SIZE, SIZE, 3), 90, np.uint8))
    with pytest.raises(ValueError, match=r"differ.*2 equal"):
        study_budget(tmp_path, tmp_path / "out", inverter=tiny, size=SIZE)


def test_the_command(run: Run, photos: list[Path], tiny: Path, tmp_path: Path) -> None:
    command = ["study", "budget", *photos[:3], "-o", tmp_path / "out", "--inverter", tiny, "--size", 64, "--json"]
    code, out, err = run(*command, "--coarse", 32)
    assert code == 0
    found = json.loads(out)
    assert (found["coarse"], found["images"]) == (32, 3)
    assert sum(found["parts"].values()) == pytest.approx(1)
    assert "of the squared error" in err
    assert run(*command, "--coarse", 30)[0] == 1
