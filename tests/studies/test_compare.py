"""Test the comparison of methods: scores against their definitions, what methods get, and rejected arguments."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
import re
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import Run
from layer_networks import SIDE, VIEWS, ToyLayer, ToyNetwork, tiny_inverter
from preimage.baselines.base import Baseline, Progress
from preimage.inverters import Inverter
from preimage.inverters.output_region import OutputRegion
from preimage.io import decode_file, resize_and_center_crop
from preimage.metrics import psnr, ssim
from preimage.representations import create_representation
from preimage.spec import Spec
from preimage.studies import compare_measurement
from preimage.studies.bootstrap import bootstrap_interval
from preimage.studies.compare import CompareSummary, compare
from preimage.studies.compare_methods import create_methods

LUMA = torch.tensor([0.299, 0.587, 0.114])
HOG = create_representation("hog")


class Shades(Baseline):
    """Return ramps from black to a color that depends on the features, and record what it was given."""

    title = "shades"
    reference = "Nobody, 1900"

    def __init__(self, name: str = "shades", *, gain: float = 1.0) -> None:
        self.name = name  # type: ignore[misc]
        self._gain = gain
        self.given: list[tuple[torch.Tensor, Spec, tuple[int, int] | None]] = []
        self.alive: list[int] = []
        self._made: list[weakref.ref[torch.Tensor]] = []

    def invert(
        self,
        features: torch.Tensor,
        spec: Spec,
        *,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """Return the images, and report progress."""
        self.alive.append(sum(one() is not None for one in self._made))
        self.given.append((features.clone(), spec, size))
        assert size is not None
        assert progress is not None
        progress(1, 2)
        made = self.images(features, size)
        self._made.append(weakref.ref(made))
        return made

    def images(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Return the images."""
        shade = features.flatten(1).abs().mean(dim=1) * self._gain
        color = torch.stack([shade, 0.5 * shade, 1 - shade], dim=1).clamp(0, 1)
        return color[:, :, None, None] * torch.linspace(0, 1, size[1]).expand(size)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(photo_folder: Path) -> list[Path]:
    """Return seven photographs of 96² pixels."""
    return sorted(photo_folder.iterdir())[::3]


@pytest.fixture(scope="module")
def summary(photos: list[Path], tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> CompareSummary:
    methods = [Shades(), "ours", f"again={tiny}"]
    output = tmp_path_factory.mktemp("compare") / "new" / "out"
    return compare(photos, output, methods=methods, inverter=str(tiny), size=64, show_count=2, batch_size=3)


def _read(photos: list[Path], side: int) -> torch.Tensor:
    fitted = np.stack([resize_and_center_crop(decode_file(photo), side) for photo in photos])
    return torch.from_numpy(fitted).permute(0, 3, 1, 2).contiguous()


def _errors(targets: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Compute the paper's normalized error of each image by its definition."""
    targets, made = targets.double(), made.double()
    normalizer = torch.stack([(a - b).norm() for a, b in itertools.combinations(targets, 2)]).mean()
    return (targets - made).flatten(1).norm(dim=1) / normalizer


def _gray(images: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bchw,c->bhw", images.float(), LUMA)[:, None]


def _table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_scores_agree_with_a_computation_by_hand(summary: CompareSummary, photos: list[Path], tiny: Path) -> None:
    images = _read(photos, 64)
    targets, features = images.float() / 255, HOG(images)
    made = {"shades": Shades().images(features, (64, 64)), "ours": Inverter.load(tiny)(features, size=(64, 64))}
    for score in summary.scores[:2]:
        again = made[score.name]
        feature_errors = (HOG(again) - features).flatten(1).norm(dim=1) / features.flatten(1).norm(dim=1)
        by_hand = {
            "error": _errors(targets, again),
            "gray_error": _errors(_gray(targets), _gray(again)),
            "psnr": psnr(again, targets),
            "ssim": ssim(again, targets),
            "feature_error": feature_errors,
        }
        for name, values in by_hand.items():
            assert [getattr(one, name) for one in score.each] == pytest.approx(values.tolist(), rel=1e-3), name
            interval = bootstrap_interval([getattr(one, name) for one in score.each])
            assert getattr(score, name) == interval
            assert interval.low < interval.mean < interval.high
        assert [one.key for one in score.each] == [photo.stem for photo in photos]
    mean_image = (targets - targets.mean(dim=0)).flatten(1).norm(dim=1).mean()
    pairs = torch.stack([(a - b).norm() for a, b in itertools.combinations(targets, 2)]).mean()
    assert summary.setting.mean_image_error == pytest.approx(float(mean_image / pairs), rel=1e-3)


def test_differences_are_paired_and_from_ours(summary: CompareSummary) -> None:
    shades, ours, again = summary.scores
    assert ours.difference is None
    pairs = list(zip(ours.each, shades.each, strict=True))
    assert shades.difference == bootstrap_interval([mine.error - other.error for mine, other in pairs])
    assert shades.gray_difference == bootstrap_interval([mine.gray_error - other.gray_error for mine, other in pairs])
    assert again.difference is not None
    assert (again.difference.mean, again.difference.low, again.difference.high) == (0, 0, 0), "the same inverter"


def test_the_files_contain_the_scores(summary: CompareSummary) -> None:
    rows = _table(summary.csv)
    assert [row["method"] for row in rows] == ["shades", "ours", "again"]
    for row, score in zip(rows, summary.scores, strict=True):
        assert float(row["normalized_error"]) == pytest.approx(score.error.mean, abs=1e-6)
        assert float(row["normalized_error_low"]) == pytest.approx(score.error.low, abs=1e-6)
        assert float(row["ssim_high"]) == pytest.approx(score.ssim.high, abs=1e-6)
        assert (row["images"], row["difference"] == "") == ("7", score.name == "ours")
        assert float(row["seconds_per_image"]) > 0
        assert row["learning_seconds"] == "", "nothing learned here"
    each = _table(summary.image_csv)
    assert summary.image_csv.name == "compare-images.csv"
    assert len(each) == 3 * 7
    for name in ("normalized_error", "psnr_db", "gray_error", "feature_error"):
        mean = np.mean([float(row[name]) for row in each if row["method"] == "ours"])
        assert mean == pytest.approx(float(rows[1][name]), abs=1e-4)


def test_the_sheet_shows_photographs_features_and_methods(summary: CompareSummary, photos: list[Path]) -> None:
    page = decode_file(summary.sheet)
    assert page.shape[1] == 48 + 5 * (192 + 12) - 12, "photograph, features, three methods"
    images = _read([photos[0], photos[-1]], 64)
    made = Shades().images(HOG(images), (64, 64))[0].mean(dim=(1, 2)) * 255
    top = 24 + round((2 + 1.6) * 12)
    square = page[top : top + 192, 24 : 24 + 192].astype(float)
    assert np.abs(square.mean(axis=(0, 1)) - images[0].float().mean(dim=(1, 2)).numpy()).max() < 3
    square = page[top : top + 192, 24 + 2 * 204 : 24 + 2 * 204 + 192].astype(float)
    assert np.abs(square.mean(axis=(0, 1)) - made.numpy()).max() < 1
    text = summary.page.read_text()
    assert text.count("<img ") == 2
    assert "Nobody, 1900" in text


def test_methods_get_the_same_features_in_batches(photos: list[Path], tmp_path: Path) -> None:
    methods = [Shades("a"), Shades("b", gain=0.5)]
    reports: list[tuple[int, int]] = []
    compare(
        photos,
        tmp_path,
        methods=methods,
        size=64,
        batch_size=3,
        progress=lambda done, total: reports.append((done, total)),
    )
    features = HOG(_read(photos, 64))
    for method in methods:
        given = [one[0] for one in method.given]
        assert [len(one) for one in given] == [3, 3, 3, 1], "the first twice, because its first call warms up"
        assert torch.equal(given[0], given[1])
        assert torch.allclose(torch.cat(given[1:]), features, atol=1e-6)
        assert {(spec, size) for _, spec, size in method.given} == {(HOG.spec, (64, 64))}
        assert max(method.alive) <= 1, "images of earlier batches are released"
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert reports[-1] == (14, 14)


def test_a_slow_method_is_not_called_twice(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_measurement, "_WARM_UP_SECONDS", 0.0)
    method = Shades()
    compare(photos[:3], tmp_path, methods=[method], size=64, batch_size=2)
    assert [len(one[0]) for one in method.given] == [2, 1]


def test_the_same_seed_gives_the_same_scores(summary: CompareSummary, photos: list[Path], tmp_path: Path) -> None:
    again = compare(photos, tmp_path, methods=[Shades()], size=64, batch_size=4)
    for one, other in zip(again.scores[0].each, summary.scores[0].each, strict=True):
        assert one.error == pytest.approx(other.error)
    assert again.scores[0].error.low == pytest.approx(summary.scores[0].error.low)
    reseeded = compare(photos, tmp_path, methods=[Shades()], size=64, seed=5).scores[0].error
    assert reseeded.mean == pytest.approx(again.scores[0].error.mean)
    assert reseeded != again.scores[0].error


def test_a_method_with_a_representation_of_its_own_gets_those_features(photos: list[Path], tmp_path: Path) -> None:
    fine = create_representation("hog", cell_size=4)
    own, other = Shades("own"), Shades("other")
    own.representation = fine
    found = compare(photos[:3], tmp_path, methods=[own, other], size=64)
    images = _read(photos[:3], 64)
    features, spec, size = own.given[0]
    assert torch.allclose(features, fine(images), atol=1e-6)
    assert (spec, size) == (fine.spec, (64, 64))
    assert other.given[0][1] == HOG.spec
    again, wanted = HOG(own.images(features, (64, 64))), HOG(images)
    errors = (again - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
    measured = [one.feature_error for one in found.scores[0].each]
    assert measured == pytest.approx(errors.tolist(), rel=1e-3), "in the space of the compared features"


def test_names_and_titles_of_inverters(tiny: Path) -> None:
    representation, methods = create_methods(
        ["ours", f"paper={tiny}", f"mine={tiny}"], "hog", str(tiny), seed=0, device="cpu"
    )
    assert representation.spec == HOG.spec
    titles = [method.baseline.title for method in methods if method.baseline is not None]
    assert [method.name for method in methods] == ["ours", "paper", "mine"]
    assert titles == ["ours", "the paper's network", "mine"]


@dataclasses.dataclass(frozen=True)
class Layer(ToyLayer):
    """A layer of the toy network that also takes images in [0, 1]."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features of 8-bit images."""
        return super().__call__(images if images.dtype == torch.uint8 else (255 * images).round().to(torch.uint8))


class Whole(Baseline):
    """Return the photographs that it was created with, shifted by a constant."""

    name = "whole"
    title = "whole"

    def __init__(self, images: torch.Tensor, shift: float = 0.0) -> None:
        self._images, self._shift, self._first = images.float() / 255, shift, 0

    def invert(
        self,
        features: torch.Tensor,
        spec: Spec,
        *,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """Return the images of the next batch; every test has only one."""
        assert size == tuple(self._images.shape[2:])
        return self._images + self._shift


def test_images_are_compared_on_the_region_of_the_inverter(photos: list[Path], tmp_path: Path) -> None:
    layer = Layer(ToyNetwork(), "maps")
    inverter = tiny_inverter(layer.spec, VIEWS["maps"])  # the center 28 of 32 pixels, at 24
    images = _read(photos, SIDE)
    found = compare(
        photos, tmp_path, representation=layer, inverter=inverter, methods=["ours", Whole(images, shift=0.1)]
    )
    ours, whole = found.scores
    targets = VIEWS["maps"].of(images).float() / 255
    assert (found.setting.side, found.setting.crop, found.setting.size) == (32, 28, 24)
    by_hand = _errors(targets, inverter(layer(images)))
    assert [one.error for one in ours.each] == pytest.approx(by_hand.tolist(), rel=1e-3)
    shifted = VIEWS["maps"].of(images.float() / 255 + 0.1)
    assert [one.error for one in whole.each] == pytest.approx(_errors(targets, shifted).tolist(), rel=1e-3)
    # Features are those of what a method returned: the center enlarged, with its edges continued, or the whole image.
    enlarged = F.interpolate(inverter(layer(images)), (28, 28), mode="bilinear", align_corners=False)
    padded = F.pad(enlarged, (2, 2, 2, 2), mode="replicate")
    whole_images = (images.float() / 255 + 0.1).clamp(0, 1)
    for score, made in ((ours, padded), (whole, whole_images)):
        wanted = layer(images)
        errors = (layer(made) - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
        assert [one.feature_error for one in score.each] == pytest.approx(errors.tolist(), rel=1e-3), score.name
    assert decode_file(found.sheet).shape[1] == 48 + 3 * (192 + 12) - 12, "the features of a network are not drawn"


def test_inverters_of_different_regions_are_compared_on_what_they_share(photos: list[Path], tmp_path: Path) -> None:
    layer = Layer(ToyNetwork(), "vector")
    regions = {"large": OutputRegion(SIDE, 32, 16), "center": OutputRegion(SIDE, 24, 16)}
    folders = {name: tiny_inverter(layer.spec, region).save(tmp_path / name) for name, region in regions.items()}
    methods = [f"{name}={folder}" for name, folder in folders.items()]
    found = compare(photos, tmp_path / "out", representation=layer, methods=methods)
    assert (found.setting.crop, found.setting.size) == (24, 12)
    images = _read(photos, SIDE)
    targets = OutputRegion(SIDE, 24, 12).of(images).float() / 255
    large = Inverter.load(folders["large"])(layer(images))[:, :, 2:14, 2:14]
    assert [one.error for one in found.scores[0].each] == pytest.approx(_errors(targets, large).tolist(), rel=1e-3)


def test_a_perfect_method_has_no_error(photos: list[Path], tmp_path: Path) -> None:
    found = compare(photos, tmp_path, methods=[Whole(_read(photos, 64)), Shades()], size=64)
    perfect, shades = found.scores
    assert (perfect.error.mean, perfect.gray_error.high, perfect.psnr.mean) == (0, 0, math.inf)
    assert perfect.feature_error is not None
    assert perfect.feature_error.mean < 1e-6
    assert perfect.ssim.mean == pytest.approx(1)
    assert shades.difference is not None
    assert shades.difference.mean == pytest.approx(-shades.error.mean), "from the first method, without ours"


def test_images_without_features_have_no_feature_error(photos: list[Path], tmp_path: Path) -> None:
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((64, 64, 3), 128, np.uint8))
    found = compare([*photos[:2], blank], tmp_path / "out", methods=[Shades()], size=64)
    assert [one.feature_error is None for one in found.scores[0].each] == [False, False, True]
    assert any(re.search(r"\b1 image", note) for note in found.notes)


@pytest.mark.parametrize(
    ("methods", "options", "words"),
    [
        ([], {}, "at least one of ours.*got none"),
        (["mean", "ours", "mean"], {}, "mean twice"),
        ([Shades("ours"), "ours"], {}, "ours twice"),
        (["guess"], {}, "unknown method 'guess'.*gradient.*nearest"),
        (["guess="], {}, "'guess='"),
        (["=x"], {}, "'=x'"),
        (["mean=x"], {}, "mean takes no source.*'mean=x'"),
        (["ours=x"], {}, "ours takes no source.*--inverter.*'ours=x'"),
        (["paper"], {}, "paper needs the folder of a training run"),
        (["autoencoder"], {}, "autoencoder needs the folder of a training run"),
        (["other=nowhere"], {}, "method other: nowhere: neither a folder"),
        (["dictionary"], {"representation": "lbp"}, "method dictionary: inverts hog only, not lbp"),
        (
            ["dictionary"],
            {"representation": create_representation("hog", variant="dalal-triggs")},
            "method dictionary: .*vlfeat-uoctti, got hog dalal-triggs",
        ),
        (["patches"], {"representation": "hog"}, "method patches: inverts sift only, not hog"),
        (["mean"], {"inverter": "hog-compact"}, "the method ours is not among.*mean"),
        (["ours"], {"database": "absent"}, "database.*no method learns.*ours"),
        (["other=lbp-compact"], {"representation": "hog"}, "method other inverts other features.*'lbp' != 'hog'"),
        (["mean"], {"size": 8}, "size.*11.*8"),
        (["mean"], {"batch_size": 0}, "batch_size.*1.*0"),
        (["mean"], {"seed": -1}, "seed.*0.*-1"),
        (["mean"], {"show_count": 0}, "show_count.*1.*0"),
        (["mean"], {"tile": 8}, "tile.*32.*8"),
        (["mean"], {"device": "tpu"}, "tpu"),
    ],
)
def test_rejected_before_any_image_is_read(
    methods: list[Any], options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        compare(tmp_path / "absent", tmp_path / "out", methods=methods, **options)
    assert not (tmp_path / "out").exists()


def test_without_a_pretrained_inverter(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match=r"cell_size: 8 != 4"):
        compare(tmp_path, tmp_path / "out", representation=create_representation("hog", cell_size=4))


@pytest.mark.parametrize(("methods", "count", "words"), [([Shades()], 1, "two.*1"), (["mean"], 3, "four.*3.*database")])
def test_too_few_images(methods: list[Any], count: int, words: str, photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        compare(photos[:count], tmp_path / "out", methods=methods, size=64)


class Bad(Shades):
    """Return wrong images."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__("bad")
        self._change = change

    def images(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Return the images of the base class, changed."""
        return self._change(super().images(features, size))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda images: images[:, :, 1:], r"bad.*\(2, 3, 64, 64\).*\(2, 3, 63, 64\)"),
        (lambda images: images[:1], r"bad.*\(2, 3, 64, 64\).*\(1, 3, 64, 64\)"),
        (lambda images: images * math.nan, "bad.*NaN"),
    ],
)
def test_wrong_images_of_a_method(
    change: Callable[[torch.Tensor], torch.Tensor], words: str, photos: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        compare(photos[:2], tmp_path / "out", methods=[Bad(change)], size=64)


def test_features_that_are_not_finite_are_named(photos: list[Path], tmp_path: Path) -> None:
    layer = ToyNetwork(gain=math.nan).representation("maps")
    with pytest.raises(ValueError, match=rf"{photos[0].stem}.*features.*NaN"):
        compare(photos[:2], tmp_path / "out", representation=layer, methods=[Shades()])


def test_features_of_reconstructions_that_are_not_finite_are_named(photos: list[Path], tmp_path: Path) -> None:
    class Dark(Layer):
        """A layer that has no features of dark images."""

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            """Compute the features."""
            return super().__call__(images) / (images.amax(dim=(1, 2, 3)) > 0)[:, None, None, None]

    black = Bad(lambda images: images * 0)
    with pytest.raises(ValueError, match=rf"reconstruction of {photos[0].stem} by bad.*features.*NaN"):
        compare(photos[:2], tmp_path / "out", representation=Dark(ToyNetwork(), "maps"), methods=[black])


def test_a_long_inversion_is_announced(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    compare(photos[:3], tmp_path, methods=[Shades()], size=64, batch_size=2, status=lines.append)
    assert not lines
    monkeypatch.setattr(compare_measurement, "_LONG_SECONDS", 0.0)
    compare(photos[:3], tmp_path, methods=[Shades()], size=64, batch_size=2, status=lines.append)
    assert len(lines) == 1, "once for each method"
    assert re.search(r"shades: .* s per image, .* min for 3 images", lines[0])


def test_seconds_are_those_of_each_image_once(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock on which each call takes as many seconds as it has images, also the one that is repeated."""
    clock = 0.0

    class Timed(Shades):
        """Method that advances the clock."""

        def images(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
            """Return the images of the base class."""
            nonlocal clock
            clock += len(features)
            return super().images(features, size)

    monkeypatch.setattr(compare_measurement.time, "perf_counter", lambda: clock)
    method = Timed()
    found = compare(photos[:5], tmp_path, methods=[method], size=64, batch_size=2)
    assert [len(one[0]) for one in method.given] == [2, 2, 2, 1]
    assert found.scores[0].seconds == 1.0


def test_photographs_are_not_both_compared_and_learned_from(photos: list[Path], tmp_path: Path) -> None:
    database = tmp_path / "database"
    database.mkdir()
    for photo in photos[4:]:
        shutil.copy(photo, database)
    copy = shutil.copy(photos[2], database / "another-name.jpg")
    with pytest.raises(ValueError, match=rf"1 of 4 .*database.*{photos[2].name} is the same file as .*{copy.name}"):
        compare(photos[:4], tmp_path / "out", methods=["mean"], database=database, size=64)
    shutil.copy(photos[2], tmp_path / "twin.jpg")
    with pytest.raises(ValueError, match=r"1 of \d .*other half"):
        compare([*photos[:3], tmp_path / "twin.jpg"], tmp_path / "out", methods=["mean"], size=64)


def test_command(run: Run, photo_folder: Path, tiny: Path, tmp_path: Path) -> None:
    code, out, err = run(
        "compare", photo_folder, "-r", "hog", "--methods", f"ours,again={tiny}", "--inverter", tiny, "--size", 64,
        "-o", tmp_path / "out", "--csv", tmp_path / "scores.csv",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert f"wrote {tmp_path / 'out' / 'index.html'}" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"index.html", "sheet.png", "plot.png"}
    assert len(_table(tmp_path / "scores.csv")) == 2
    assert len(_table(tmp_path / "scores-images.csv")) == 40
    code, out, _ = run(
        "compare", photo_folder, "--methods", "ours", "--inverter", tiny, "--size", 64, "-o", tmp_path, "--json"
    )
    assert code == 0
    assert [score["name"] for score in json.loads(out)["scores"]] == ["ours"]
    code, out, err = run("compare", photo_folder, "--methods", "guess", "-o", tmp_path)
    assert (code, out) == (1, "")
    assert "'guess'" in err
