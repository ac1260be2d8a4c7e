"""Test the study of interpolation: scores against their definitions, files, and rejected arguments."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F

from conftest import Run
from preimage.inverters import Inverter, SingleStreamConfig, UShapedConfig
from preimage.inverters.output_region import OutputRegion, resized
from preimage.io import decode_file, write_png
from preimage.pipelines.image_loading import as_sources, batches
from preimage.pipelines.reconstruct import Reconstructor
from preimage.pipelines.reextraction import reextracted
from preimage.representations import Representation, create_representation
from preimage.representations.sift import Sift
from preimage.studies.interpolate import InterpolateSummary, study_interpolate
from preimage.studies.interpolate_measurement import PairScore, PositionScore
from preimage.studies.interpolate_page import InterpolateStudy
from toys import NETWORKS, SIDE, ToyMaps, ToyProbabilities, ToyVectors

STEPS = 5
COLUMNS = ["first", "last", "position", "feature_distance_first", "feature_distance_last"]


pytestmark = pytest.mark.usefixtures("one_thread")


def toy_inverter(representation: Representation) -> Inverter:
    """Return an untrained inverter for a toy, whose output depends on the features."""
    torch.manual_seed(0)
    config, region = NETWORKS[(4, 4) if representation.spec.stride else None]
    inverter = Inverter(representation.spec, config, output_region=region).eval().requires_grad_(False)
    inverter.feature_mean.fill_(0.3)
    inverter.feature_deviation.fill_(0.2)
    return inverter


@pytest.fixture(scope="module")
def photos(photo_folder: Path) -> list[Path]:
    return sorted(photo_folder.iterdir())[::5]


@pytest.fixture(scope="module")
def study(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> InterpolateSummary:
    output = tmp_path_factory.mktemp("study") / "new" / "out"
    toy = ToyMaps()
    return study_interpolate(
        photos[:3],
        output,
        inverter=toy_inverter(toy),
        representation=toy,
        steps=STEPS,
        frames=4,
        show_count=1,
        tile=32,
        batch_size=2,
    )


def test_scores_agree_with_their_definitions(study: InterpolateSummary, photos: list[Path]) -> None:
    toy = ToyMaps()
    inverter = toy_inverter(toy)
    [(keys, images)] = batches(as_sources(photos[:3]), SIDE, 3)
    features = toy(images)
    assert [(pair.first, pair.last) for pair in study.pairs] == [(keys[0], keys[1]), (keys[1], keys[2])]
    for pair, first, last in zip(study.pairs, features[:-1], features[1:], strict=True):
        ends = inverter(torch.stack((first, last)))
        apart, images_apart = (last - first).norm(), (ends[1] - ends[0]).norm()
        for score, t in zip(pair.positions, np.linspace(0, 1, STEPS), strict=True):
            path = (1 - t) * first + t * last
            [decoded], crossfade = inverter(path[None]), (1 - t) * ends[0] + t * ends[1]
            # The toy inverter returns the middle 24 of 32 pixels at half the resolution.
            again, faded = (
                toy(F.pad(resized(one[None], 24, 24), (4,) * 4, mode="replicate"))[0] for one in (decoded, crossfade)
            )
            expected = {
                "position": t,
                "feature_distance_first": (again - first).norm() / apart,
                "feature_distance_last": (again - last).norm() / apart,
                "image_distance_first": (decoded - ends[0]).norm() / images_apart,
                "image_distance_last": (decoded - ends[1]).norm() / images_apart,
                "crossfade_distance": (decoded - crossfade).norm() / images_apart,
                "feature_error": (again - path).norm() / apart,
                "crossfade_feature_error": (faded - path).norm() / apart,
                "largest_deviation": ((path - 0.3) / 0.2).abs().max(),
            }
            assert vars(score) == pytest.approx({name: float(value) for name, value in expected.items()}, abs=1e-5)
        between = [score.crossfade_distance for score in pair.positions[1:-1]]
        assert pair.nonlinearity == pytest.approx(sum(between) / len(between))
        assert min(between) > 1e-3, "a network with ReLUs is not linear"
    assert study.nonlinearity == pytest.approx(sum(pair.nonlinearity for pair in study.pairs) / 2)


def test_a_linear_inverter_decodes_the_crossfade(photos: list[Path], tmp_path: Path) -> None:
    toy = ToyMaps()
    # The last layer has no activation.
    inverter = Inverter(toy.spec, SingleStreamConfig(("up 3",)), output_region=OutputRegion(SIDE, 24, 8))
    with torch.no_grad():  # so small that no value is clipped
        for weight in inverter.parameters():
            weight.mul_(0.1)
    summary = study_interpolate(photos[:2], tmp_path, inverter=inverter, representation=toy, steps=4, frames=2, tile=32)
    assert summary.nonlinearity < 1e-4


def test_reextraction_of_whole_images_and_of_whole_regions(photos: list[Path], tiny: Path) -> None:
    hog = Reconstructor("hog", tiny, "cpu")
    images = torch.rand(2, 3, 64, 48)
    assert torch.equal(reextracted(hog, images), hog.features(images))
    toy = ToyVectors()
    vectors = Reconstructor(toy, toy_inverter(toy), "cpu")
    small = torch.rand(2, 3, 16, 16)
    assert torch.equal(reextracted(vectors, small), toy(resized(small, SIDE, SIDE)))


def test_files(study: InterpolateSummary) -> None:
    assert study.images == 3
    with open(study.csv, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == COLUMNS
    scores = [score for pair in study.pairs for score in pair.positions]
    assert len(rows) == 2 * STEPS == len(scores)
    for row, score in zip(rows, scores, strict=True):
        assert {name: float(value) for name, value in list(row.items())[2:]} == pytest.approx(vars(score), abs=1e-6)
    # One pair is shown: photograph, 5 steps, photograph; and the cross-fade below it.
    assert decode_file(study.sheet).shape[1] == 4 * 12 + 7 * (32 + 12) - 12
    assert sorted(path.name for path in study.page.parent.iterdir()) == [
        "animation.gif",
        "index.html",
        "interpolate.csv",
        "plot.png",
        "sheet.png",
    ]


def test_the_animation_goes_there_and_back_also_on_the_page(study: InterpolateSummary) -> None:
    with PIL.Image.open(study.animation) as image:
        assert (image.n_frames, image.info["loop"]) == (6, 0)
        durations = []
        for index in range(6):
            image.seek(index)
            durations.append(image.info["duration"])
    assert durations == [800, 80, 80, 800, 80, 80]
    page = study.page.read_text()
    [encoded] = re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    with PIL.Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        assert image.n_frames == 6
        assert f'width="{image.width}" height="{image.height}"' in page
    assert page.count("<img ") == 3
    assert 'src="http' not in page
    for sentence in study.findings:
        assert f"<li>{sentence}</li>" in page.replace("&#x27;", "'")


def _scores(pairs: tuple[PairScore, ...]) -> list[float]:
    return [value for pair in pairs for score in pair.positions for value in vars(score).values()]


@pytest.mark.parametrize("toy", [ToyVectors(), ToyProbabilities()])
@pytest.mark.parametrize("spherical", [False, True])
def test_vectors_and_batch_sizes(photos: list[Path], tmp_path: Path, toy: Representation, spherical: bool) -> None:
    options: dict[str, Any] = {"steps": 4, "frames": 3, "tile": 32, "spherical": spherical, "representation": toy}
    summaries = [
        study_interpolate(
            photos[:2], tmp_path / str(size), inverter=toy_inverter(toy), batch_size=size, device="cpu", **options
        )
        for size in (1, 7)
    ]
    assert _scores(summaries[0].pairs) == pytest.approx(_scores(summaries[1].pairs), rel=1e-3, abs=1e-5)
    assert np.isfinite(_scores(summaries[0].pairs)).all()
    assert ("along an arc" in summaries[0].page.read_text()) == spherical


def test_sift(photos: list[Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = UShapedConfig(widths=(8, 12), blocks_down=(1, 1), blocks_up=(1,), entry=("c3/2 8",), head=(8, 4))
    inverter = Inverter(Sift(variant="opencv").spec, config)
    inverter.feature_deviation.fill_(0.02)
    options: dict[str, Any] = {"inverter": inverter, "size": 62, "steps": 3, "frames": 2, "tile": 32}
    summary = study_interpolate(photos[:2], tmp_path, **options)
    assert np.isfinite(_scores(summary.pairs)).all()
    with pytest.raises(ValueError, match=r"SIFT.*spherical"):
        study_interpolate(photos[:2], tmp_path, spherical=True, **options)


def test_equal_images_are_left_out_with_a_note(photos: list[Path], tmp_path: Path) -> None:
    toy = ToyVectors()
    options: dict[str, Any] = {"representation": toy, "steps": 3, "frames": 2, "tile": 32}
    pixels = decode_file(photos[0])
    for name in ("a", "b"):
        write_png(tmp_path / f"{name}.png", pixels)
    copies = [tmp_path / "a.png", tmp_path / "b.png"]
    summary = study_interpolate([*copies, photos[1]], tmp_path / "out", inverter=toy_inverter(toy), **options)
    assert len(summary.pairs) == 1
    assert summary.images == 2
    assert [note for note in summary.notes if re.search("a and b .*equal features", note)]
    with pytest.raises(ValueError, match=r"a and b .*equal features.*differ"):
        study_interpolate(copies, tmp_path / "none", inverter=toy_inverter(toy), **options)
    assert not (tmp_path / "none").exists()


def test_the_next_pair_is_shown_instead_of_equal_images(photos: list[Path], tmp_path: Path) -> None:
    toy = ToyVectors()
    for name in ("a", "b"):
        write_png(tmp_path / f"{name}.png", decode_file(photos[0]))
    images = [tmp_path / "a.png", tmp_path / "b.png", *photos[1:3]]
    options: dict[str, Any] = {"representation": toy, "steps": 3, "frames": 2, "tile": 32, "show_count": 1}
    summary = study_interpolate(images, tmp_path / "out", inverter=toy_inverter(toy), **options)
    assert (len(summary.pairs), summary.images) == (2, 3)
    with PIL.Image.open(summary.animation) as image:
        assert image.n_frames == 2


def _pair(first: str, last: str, nearer: list[bool], deviations: list[float]) -> PairScore:
    """Return scores whose features are nearer to the last image's where it is said."""
    count = len(nearer) - 1
    positions = tuple(
        PositionScore(step / count, float(is_nearer), float(not is_nearer), 0.2, 0.2, 0.2, 0.5, 0.6, deviation)
        for step, (is_nearer, deviation) in enumerate(zip(nearer, deviations, strict=True))
    )
    return PairScore(first, last, 0.2, positions)


def test_findings_hold_for_paths_that_turn_back_and_leave_the_range_of_features() -> None:
    nearer = [False, True, False, True, True]
    pairs = [_pair("a", "b", nearer, [1, 1, 1, 1, 1]), _pair("c", "d", nearer, [2, 3, 9, 3, 4])]
    study = InterpolateStudy(pairs, spherical=True)
    sentences = " ".join(study.findings())
    assert study.image_count == 4
    assert "from position 0.75 on" in sentences
    assert "At position 0.5, the features of the decoded image are closer to" in sentences
    assert "9.0 standard deviations from its mean, at the ends at most 4.0" in sentences
    assert "linear inverter" not in sentences
    flat = " ".join(InterpolateStudy(pairs[:1]).findings())
    assert "a linear inverter has 0" in flat
    assert "standard deviations" not in flat
    backwards = [_pair("a", "b", [True, True, False], [1, 1, 1])]
    assert "are not nearest to those of their own photographs" in " ".join(InterpolateStudy(backwards).findings())


def test_features_without_an_arc_follow_a_line(photos: list[Path], tmp_path: Path) -> None:
    toy = ToyVectors()
    write_png(tmp_path / "black.png", np.zeros((64, 64, 3), np.uint8))  # all features are 0
    images, options = [tmp_path / "black.png", photos[1]], {"representation": toy, "steps": 3, "frames": 2, "tile": 32}
    line, arc = (
        study_interpolate(images, tmp_path / str(spherical), inverter=toy_inverter(toy), spherical=spherical, **options)
        for spherical in (False, True)
    )
    assert arc.pairs == line.pairs
    assert [note for note in arc.notes if re.search("no arc.*black", note)]
    assert not [note for note in line.notes if "arc" in note]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 2}, r"steps.*3.*2"),
        ({"frames": 1}, r"frames.*2.*1"),
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
        study_interpolate(photos, tmp_path / "out", **{"inverter": toy_inverter(toy), "representation": toy, **options})
    assert not (tmp_path / "out").exists()


class _NotFinite(ToyMaps):
    name = "toy-nan"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return super().__call__(images).index_fill(1, torch.tensor([2]), torch.nan)


def test_bad_input_is_named(photos: list[Path], tiny: Path, tmp_path: Path) -> None:
    toy, bad = ToyMaps(), _NotFinite()
    with pytest.raises(ValueError, match=r"two images.*1"):
        study_interpolate(photos[0], tmp_path / "out", inverter=toy_inverter(toy), representation=toy)
    with pytest.raises(ValueError, match=rf"{photos[0].stem}.*NaN"):
        study_interpolate(photos[:2], tmp_path / "out", inverter=toy_inverter(bad), representation=bad)
    with pytest.raises(ValueError, match=r"hog.*lbp"):
        study_interpolate(photos[:2], tmp_path / "out", inverter=tiny, representation=create_representation("lbp"))
    assert not (tmp_path / "out").exists()


def test_on_the_command_line(run: Run, photos: list[Path], tiny: Path, tmp_path: Path) -> None:
    arguments = ("study", "interpolate", *photos[:2], "--inverter", tiny, "--size", 64, "-o", tmp_path / "out")
    options = ("--steps", 3, "--frames", 3, "--tile", 32)
    code, out, err = run(*arguments, *options, "--representation", "hog", "-p", "cell_size=8")
    assert code == 0, err
    assert "on 1 pair in" in out
    assert str(tmp_path / "out" / "animation.gif") in out
    assert "preimage study interpolate" in (tmp_path / "out" / "index.html").read_text()
    code, out, _ = run(*arguments, *options, "--spherical", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["spherical"], len(found["pairs"]), len(found["pairs"][0]["positions"])) == (True, 1, 3)
    code, _, err = run(*arguments, "--representation", "hog", "-p", "cell_size=4")
    assert code == 1
    assert re.fullmatch(r"error: .*cell_size.*8.*4.*\n", err)
    code, _, err = run(*arguments, "-p", "cell_size=4")
    assert (code, "--representation" in err) == (2, True)


def test_progress_ends_where_it_says(photos: list[Path], tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    toy = ToyVectors()
    study_interpolate(
        photos[:4],
        tmp_path,
        inverter=toy_inverter(toy),
        representation=toy,
        steps=3,
        frames=2,
        tile=32,
        progress=lambda *steps: reported.append(steps),
    )
    assert reported == [(1, 3), (2, 3), (3, 3)]
