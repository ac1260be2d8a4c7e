"""Test the study of disclosure: scores against their definitions, files, and rejected arguments."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Run
from preimage.inverters import Inverter, UShapedConfig
from preimage.io import decode_file, write_png
from preimage.metrics import NormalizedError
from preimage.pipelines.evaluate import evaluate
from preimage.pipelines.image_loading import as_sources, batches
from preimage.representations.sift import Sift
from preimage.studies.disclosure import ConditionScore, DisclosureSummary, study_disclosure
from preimage.studies.keypoint_perturbations import descriptors_only, keep_percentage

SIZE = 62  # cells of 4 stick out
PERCENTAGES = (20, 50, 100)
SIFT = Sift(variant="opencv")
COLUMNS = ["condition", "percentage", "images", "keypoints_per_image", "normalized_error", "psnr_db", "ssim"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def inverter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small, fast, untrained inverter for SIFT whose output depends on the features."""
    torch.manual_seed(0)
    config = UShapedConfig(widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), entry=("c3/2 8",), head=(8, 4))
    network = Inverter(SIFT.spec, config)
    network.feature_deviation.fill_(0.02)
    return network.save(tmp_path_factory.mktemp("inverter") / "tiny-sift")


@pytest.fixture(scope="module")
def photos(photo_folder: Path) -> list[Path]:
    return sorted(photo_folder.iterdir())[::3]


@pytest.fixture(scope="module")
def study(photos: list[Path], inverter: Path, tmp_path_factory: pytest.TempPathFactory) -> DisclosureSummary:
    output = tmp_path_factory.mktemp("study") / "new" / "out"
    return study_disclosure(
        photos, output, inverter=inverter, size=SIZE, percentages=PERCENTAGES, seed=3, show_count=2, batch_size=3
    )


def _by_name(study: DisclosureSummary) -> dict[str, ConditionScore]:
    return {f"{score.condition} {score.percentage or 0:g}": score for score in study.scores}


def test_the_table_has_one_row_a_condition(study: DisclosureSummary) -> None:
    with open(study.csv, newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == COLUMNS
    conditions = [tuple(row[:2]) for row in rows[1:]]
    assert conditions[:3] == [("kept", "20"), ("kept", "50"), ("kept", "100")]
    assert conditions[3:] == [
        ("coordinates-only", "100"),
        ("positions-only", "100"),
        ("descriptors-only", "100"),
        ("mean-image", ""),
    ]
    assert {row[2] for row in rows[1:]} == {"7"}
    for row, score in zip(rows[1:], study.scores, strict=True):
        assert float(row[4]) == pytest.approx(score.error, abs=1e-6)
        assert float(row[6]) == pytest.approx(score.ssim, abs=1e-6)


def test_all_keypoints_are_what_evaluate_sees(study: DisclosureSummary, photos: list[Path], inverter: Path) -> None:
    summary = evaluate(inverter, photos, size=SIZE, batch_size=3)
    full, floor = _by_name(study)["kept 100"], _by_name(study)["mean-image 0"]
    assert (full.error, full.psnr, full.ssim) == pytest.approx((summary.error, summary.psnr, summary.ssim))
    assert floor.error == pytest.approx(summary.mean_image_error, rel=1e-4)
    assert floor.keypoints is None


def test_conditions_agree_with_their_definitions(study: DisclosureSummary, photos: list[Path], inverter: Path) -> None:
    [(_, images)] = batches(as_sources(photos), SIZE, len(photos))
    found, network = SIFT.keypoints(images), Inverter.load(inverter)
    perturbed = {
        "kept 20": keep_percentage(found, 20, 3),
        "descriptors-only 100": descriptors_only(found, (SIZE, SIZE), 4, float(found.scale.median())),
    }
    for name, keypoints in perturbed.items():
        grid = SIFT.grid(keypoints, (SIZE, SIZE))
        measure = NormalizedError()
        measure.update(images.float() / 255, network(grid, size=(SIZE, SIZE)))
        score = _by_name(study)[name]
        assert score.error == pytest.approx(measure.report().error, rel=1e-4)
        assert score.keypoints == pytest.approx(float(grid.any(dim=1).sum()) / len(photos))
    cells = [score.keypoints for score in study.scores[:-1]]
    assert cells[0] < cells[1] < cells[2] == cells[3] == cells[4] == cells[5]
    assert len({score.error for score in study.scores}) == len(study.scores), "no two conditions are the same"


def test_a_seed_decides_everything(
    study: DisclosureSummary, photos: list[Path], inverter: Path, tmp_path: Path
) -> None:
    options = {"inverter": inverter, "size": SIZE, "percentages": (100, 50, 20, 50), "show_count": 2}
    again = study_disclosure(photos, tmp_path / "a", seed=3, batch_size=3, **options)
    assert again.scores == study.scores
    for name in ("disclosure.csv", "sheet.png", "plot.png"):
        assert (tmp_path / "a" / name).read_bytes() == (study.csv.parent / name).read_bytes()
    other = study_disclosure(photos, tmp_path / "b", seed=4, batch_size=3, **options)
    assert [a == b for a, b in zip(other.scores, study.scores, strict=True)] == [False] * 2 + [True] * 5


def test_the_page_shows_what_was_measured(study: DisclosureSummary) -> None:
    page = study.page.read_text()
    assert page.count("<img ") == 2
    assert 'src="http' not in page
    assert all(f"<td>{score.error:.3f}</td>" in page for score in study.scores)
    for sentence in study.findings:
        assert f"<li>{sentence}</li>" in page.replace("&#x27;", "'")
    assert 3 <= len(study.findings) <= 5
    assert study.plot is not None
    assert decode_file(study.plot).shape == (840, 2400, 3)
    assert decode_file(study.sheet).shape[1] > (1 + 6) * 160
    assert sorted(path.name for path in study.page.parent.iterdir()) == [
        "disclosure.csv",
        "index.html",
        "plot.png",
        "sheet.png",
    ]


def test_without_matplotlib_the_rest_is_there(
    photos: list[Path], inverter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "plot.png").write_bytes(b"of an earlier study")
    summary = study_disclosure(photos[:2], tmp_path, inverter=inverter, size=SIZE, percentages=(100,))
    assert summary.plot is None
    assert not (tmp_path / "plot.png").exists()
    [note] = [note for note in summary.notes if "plot" in note]
    assert "matplotlib" in note and "pip install 'preimage[plots]'" in note
    page = summary.page.read_text()
    assert page.count("<img ") == 1
    assert "preimage[plots]" in page
    assert summary.csv.is_file()


def test_lpips_is_a_column_where_it_can_be_had(
    photos: list[Path], inverter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distance(made: torch.Tensor, images: torch.Tensor) -> list[float]:
        return (made - images).abs().mean(dim=(1, 2, 3)).tolist()

    monkeypatch.setattr("preimage.studies.disclosure.perceptual_distance", lambda: (distance, ""))
    summary = study_disclosure(photos[:2], tmp_path, inverter=inverter, size=SIZE, percentages=(50, 100))
    with open(summary.csv, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*COLUMNS, "lpips"]
    assert [float(row["lpips"]) for row in rows] == pytest.approx([s.lpips for s in summary.scores], abs=1e-6)
    assert '<th scope="col">LPIPS</th>' in summary.page.read_text()
    assert not summary.notes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"percentages": (10, 0)}, r"0.*100.*10, 0"),
        ({"percentages": (101,)}, r"0.*100.*101"),
        ({"percentages": (float("nan"),)}, r"0.*100.*nan"),
        ({"percentages": ()}, "none"),
        ({"size": 10}, r"size.*11"),
        ({"seed": -1}, r"seed.*0"),
        ({"show_count": 0}, "1"),
        ({"device": "cuba"}, "device"),
    ],
)
def test_bad_options_are_named(
    photos: list[Path], inverter: Path, tmp_path: Path, options: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        study_disclosure(photos, tmp_path / "out", inverter=inverter, **options)
    assert not (tmp_path / "out").exists()


def test_bad_input_is_named(photos: list[Path], inverter: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{re.escape(str(tiny))}.*hog.*sift"):
        study_disclosure(photos, tmp_path / "out", inverter=tiny)
    with pytest.raises(ValueError, match="is a file"):
        study_disclosure(photos, photos[0], inverter=inverter)
    with pytest.raises(ValueError, match=r"two images.*1"):
        study_disclosure(photos[0], tmp_path / "out", inverter=inverter)
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"x\.png"):
        study_disclosure([photos[0], tmp_path / "x.png"], tmp_path / "out", inverter=inverter, size=SIZE)
    for name in ("a", "b"):
        _write_gray(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=r"no keypoint.*2 images"):
        study_disclosure([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out", inverter=inverter, size=SIZE)
    assert not (tmp_path / "out").exists()


def test_the_default_is_the_pretrained_inverter(
    photos: list[Path], inverter: Path, tiny: Path, use_as_pretrained: Callable[..., None], tmp_path: Path
) -> None:
    use_as_pretrained(tiny)
    with pytest.raises(LookupError, match=r"inverter.*sift.*--inverter"):
        study_disclosure(photos, tmp_path / "out", size=SIZE)
    assert not (tmp_path / "out").exists()
    use_as_pretrained(tiny, inverter)
    summary = study_disclosure(photos[:2], tmp_path / "out", size=SIZE, percentages=(100,))
    assert summary.inverter == "tiny-sift"


def test_an_image_without_keypoints_is_no_obstacle(photos: list[Path], inverter: Path, tmp_path: Path) -> None:
    _write_gray(tmp_path / "gray.png")
    summary = study_disclosure(
        [tmp_path / "gray.png", photos[0]], tmp_path / "out", inverter=inverter, size=SIZE, percentages=(5,)
    )
    assert summary.images == 2
    assert _by_name(summary)["kept 5"].keypoints < _by_name(summary)["coordinates-only 100"].keypoints


def _write_gray(path: Path) -> None:
    write_png(path, np.full((64, 64, 3), 90, np.uint8))


def test_on_the_command_line(run: Run, photos: list[Path], inverter: Path, tiny: Path, tmp_path: Path) -> None:
    images = photos[:3]
    arguments = ("study", "disclosure", *images, "--inverter", inverter, "--size", SIZE, "-o", tmp_path / "out")
    code, out, err = run(*arguments, "--percentages", "20,100")
    assert code == 0, err
    assert "on 3 images of 62 × 62" in out
    assert "With 20 % of the keypoints" in out
    assert str(tmp_path / "out" / "index.html") in out
    assert "preimage study disclosure" in (tmp_path / "out" / "index.html").read_text()

    code, out, _ = run(*arguments, "--percentages", "100", "--json")
    assert code == 0
    found = json.loads(out)
    assert [score["condition"] for score in found["scores"]][::4] == ["kept", "mean-image"]

    code, out, err = run(*arguments, "--percentages", "5;10")
    assert (code, out) == (2, "")
    assert re.search("--percentages.*'5;10'", err)
    code, _, err = run("study", "disclosure", *images, "--inverter", tiny, "-o", tmp_path / "other")
    assert code == 1
    assert re.fullmatch(r"error: .*tiny.*hog.*sift\n", err)


def test_progress_ends_where_it_says(photos: list[Path], inverter: Path, tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    study_disclosure(
        photos[:2],
        tmp_path,
        inverter=inverter,
        size=SIZE,
        percentages=(40, 100),
        progress=lambda *steps: reported.append(steps),
    )
    assert [done for done, _ in reported] == list(range(2, 15, 2))
    assert {total for _, total in reported} == {14}
