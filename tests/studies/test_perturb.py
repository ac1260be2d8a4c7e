"""Test the study of perturbations: scores against their definitions, files, findings, and rejected arguments."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Run
from layer_networks import SIDE, VIEWS, ToyNetwork, saved, tiny_inverter
from preimage.inverters import Inverter
from preimage.io import decode_file, resize_and_center_crop
from preimage.representations import network_factory
from preimage.studies.feature_perturbations import Perturbation, dropout
from preimage.studies.layers import study_layers
from preimage.studies.measure import LayerScore
from preimage.studies.perturb import PERTURBATIONS, PerturbStudy, PerturbSummary, study_perturb

TILE = 48


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(photo_folder: Path) -> list[Path]:
    """Return five photographs of 96² pixels."""
    return sorted(photo_folder.iterdir())[::4]


@pytest.fixture(scope="module")
def network() -> ToyNetwork:
    return ToyNetwork()


@pytest.fixture(scope="module")
def inverters(network: ToyNetwork, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("inverters")
    return [saved(network, layer, folder / layer) for layer in ("maps", "vector")]


@pytest.fixture(scope="module")
def study(
    photos: list[Path], inverters: list[Path], network: ToyNetwork, tmp_path_factory: pytest.TempPathFactory
) -> PerturbSummary:
    output = tmp_path_factory.mktemp("study") / "out"
    options = {"seed": 3, "show_count": 2, "tile": TILE, "batch_size": 3}
    return study_perturb(photos, output, inverter=inverters, network=network, **options)


def _table(summary: PerturbSummary) -> dict[tuple[str, str], dict[str, str]]:
    with open(summary.csv, newline="") as file:
        return {(row["label"], row["perturbation"]): row for row in csv.DictReader(file)}


def _binarized(values: np.ndarray) -> np.ndarray:
    """Return values of one image binarized, by the definition."""
    return np.sign(values) * np.linalg.norm(values) / np.sqrt(np.count_nonzero(values))


def _without_smallest(values: np.ndarray) -> np.ndarray:
    flat = values.ravel().copy()
    order = [index for index in np.argsort(np.abs(flat), kind="stable") if flat[index]]
    flat[order[: len(order) // 2]] = 0
    return flat.reshape(values.shape)


def _top(values: np.ndarray, inside: bool) -> np.ndarray:
    top = np.isin(np.arange(values.size), np.argsort(-values, kind="stable")[:5])
    return np.where(top == inside, values, 0)


DEFINITIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "intact": lambda values: values,
    "binarize": _binarized,
    "drop-least": lambda values: _binarized(_without_smallest(values)),
    "top-5": lambda values: _top(values, True),
    "not-top-5": lambda values: _top(values, False),
}


def test_the_table_agrees_with_a_computation_by_hand(
    study: PerturbSummary, photos: list[Path], inverters: list[Path], network: ToyNetwork
) -> None:
    rows = _table(study)
    maps, vectors = ("intact", "binarize", "dropout", "drop-least"), ("intact", *PERTURBATIONS)
    assert list(rows) == [("maps", name) for name in maps] + [("vector", name) for name in vectors]
    fitted = np.stack([resize_and_center_crop(decode_file(photo), SIDE) for photo in photos])
    images = torch.from_numpy(fitted).permute(0, 3, 1, 2).contiguous()
    for folder in inverters:
        layer, inverter = folder.name, Inverter.load(folder)
        features = network.representation(layer)(images)
        targets = VIEWS[layer].of(images).double() / 255
        pairs = [(a - b).norm() for a, b in itertools.combinations(targets, 2)]
        normalizer = torch.stack(pairs).mean()
        expected = {
            name: torch.from_numpy(np.stack([define(image) for image in features.numpy()])).float()
            for name, define in DEFINITIONS.items()
            if (layer, name) in rows
        }
        expected["dropout"] = dropout(features, seed=3)
        for name, perturbed in expected.items():
            error = (targets - inverter(perturbed).double()).flatten(1).norm(dim=1).mean() / normalizer
            assert float(rows[layer, name]["normalized_error"]) == pytest.approx(float(error), rel=1e-4), (layer, name)
            nonzero = np.count_nonzero(perturbed.numpy()) / len(photos)
            assert float(rows[layer, name]["nonzero"]) == pytest.approx(nonzero, abs=0.006)
    assert rows["vector", "drop-least"]["nonzero"] == "6.00", "half of a layer without zeros"
    assert (rows["vector", "top-5"]["nonzero"], rows["vector", "not-top-5"]["nonzero"]) == ("5.00", "7.00")


def test_intact_scores_are_those_of_the_study_of_layers(
    study: PerturbSummary, photos: list[Path], inverters: list[Path], network: ToyNetwork, tmp_path: Path
) -> None:
    layers = study_layers(photos, tmp_path, inverter=inverters, network=network, tile=TILE)
    intact = [score for score in study.scores if score.perturbation == "intact"]
    for one, other in zip(intact, layers.scores, strict=True):
        assert (one.label, one.features, one.nonzero) == (other.label, other.features, other.nonzero)
        assert (one.error, one.psnr, one.ssim) == pytest.approx((other.error, other.psnr, other.ssim), rel=1e-5)


def test_scores_do_not_depend_on_the_batch_size(
    photos: list[Path], inverters: list[Path], network: ToyNetwork, tmp_path: Path
) -> None:
    steps: list[tuple[int, int]] = []
    options = {"inverter": inverters, "network": network, "perturbations": ["dropout", "top-3"], "tile": TILE}
    one = study_perturb(photos[:3], tmp_path / "1", batch_size=1, progress=lambda *now: steps.append(now), **options)
    all_ = study_perturb(photos[:3], tmp_path / "3", batch_size=3, show=photos[4], **options)
    assert [score.error for score in one.scores] == pytest.approx([score.error for score in all_.scores], rel=1e-6)
    assert steps[-1] == (15, 15), "three images, of each two and three reconstructions"
    assert all_.shown == (photos[4].stem,)
    other = study_perturb(photos[:3], tmp_path / "seed", seed=1, **options)
    assert [score.error for score in other.scores if score.perturbation != "dropout"] == pytest.approx(
        [score.error for score in one.scores if score.perturbation != "dropout"], rel=1e-6
    )
    assert other.scores[1].error != pytest.approx(one.scores[1].error, rel=1e-6)


def test_the_sheet_has_a_row_a_layer_of_an_image_and_a_column_a_perturbation(
    study: PerturbSummary, photos: list[Path], inverters: list[Path], network: ToyNetwork
) -> None:
    page = decode_file(study.sheet)
    assert page.shape[1] == 48 + 7 * (TILE + 12) - 12
    assert study.shown == tuple(photo.stem for photo in photos[:2])
    top, step = 24 + 2 * 12, TILE + 12 + 24
    assert page.shape[0] == top + 4 * step - 12 + 24

    def tile(row: int, column: int) -> np.ndarray:
        left = 24 + column * (TILE + 12)
        return page[top + row * step : top + row * step + TILE, left : left + TILE].astype(float)

    fitted = resize_and_center_crop(decode_file(photos[1]), SIDE)
    assert np.abs(tile(2, 0).mean(axis=(0, 1)) - fitted.mean(axis=(0, 1))).max() < 3
    assert tile(3, 0).min() == 255, "the photograph is shown once"
    assert tile(2, 5).min() == 255, "top-5 is not applied to maps"
    features = network.representation("vector")(torch.from_numpy(fitted).permute(2, 0, 1)[None])
    for column, name in ((1, "intact"), (2, "binarize"), (6, "not-top-5")):
        perturbed = torch.from_numpy(DEFINITIONS[name](features[0].numpy())).float()
        made = Inverter.load(inverters[1])(perturbed) * 255
        assert np.abs(tile(3, column).mean(axis=(0, 1)) - made.mean(dim=(1, 2)).numpy()).max() < 3, name


def test_the_page_shows_what_was_measured(study: PerturbSummary) -> None:
    page = study.page.read_text()
    assert page.count("<img ") == 2
    for score in study.scores:
        assert f"<td>{score.error:.3f}</td>" in page
    for sentence in (*study.findings, *study.notes):
        assert sentence in page
    assert study.plot is not None
    assert decode_file(study.plot).shape[1] >= 1400
    assert sorted(path.name for path in study.page.parent.iterdir()) == [
        "index.html",
        "perturb.csv",
        "plot.png",
        "sheet.png",
    ]
    [note] = study.notes
    assert re.search("maps.*: top-5 and not-top-5", note)


def test_own_perturbations_and_compositions_are_measured(
    photos: list[Path], inverters: list[Path], network: ToyNetwork, tmp_path: Path
) -> None:
    same = Perturbation("same", lambda features, seed, first: features)
    chosen = [same, "drop-smallest-50+binarize", "drop-least"]
    summary = study_perturb(photos[:2], tmp_path, inverter=inverters, network=network, perturbations=chosen)
    by_name = {(score.label, score.perturbation): score.error for score in summary.scores}
    for label in ("maps", "vector"):
        assert by_name[label, "same"] == by_name[label, "intact"]
        assert by_name[label, "drop-smallest+binarize"] == by_name[label, "drop-least"]


class _Vectors(ToyNetwork):
    """Network whose vector is given by a function of the index of the image."""

    def __init__(self, vector: Callable[[int], torch.Tensor]) -> None:
        super().__init__()
        self._vector = vector

    def layers(
        self, images: torch.Tensor, names: Iterable[str], output_layout: str = "auto"
    ) -> dict[str, torch.Tensor]:
        """As `ToyNetwork`, with another vector."""
        features = super().layers(images, names, output_layout)
        features["vector"] = torch.stack([self._vector(index) for index in range(len(images))])
        return features


def _study_of(network: ToyNetwork, photos: list[Path], output: Path) -> PerturbSummary:
    inverter = tiny_inverter(network.representation("vector").spec, VIEWS["vector"])
    return study_perturb(photos, output, inverter=inverter, network=network, show_count=1)


def test_own_perturbations_may_have_any_name(
    photos: list[Path], inverters: list[Path], network: ToyNetwork, tmp_path: Path
) -> None:
    """Names of ours for functions that are applied to other layers than ours."""
    half = Perturbation("top-3", lambda features, seed, first: features / 2)
    top = Perturbation("top", half.function, vectors_only=True)
    dropout = Perturbation("dropout", half.function, vectors_only=True)
    chosen = [half, "not-top-3", top, "drop-least", dropout]
    summary = study_perturb(photos[:2], tmp_path, inverter=inverters, network=network, perturbations=chosen)
    assert len(summary.scores) == (1 + 2) + (1 + 5)
    assert "in maps" not in next(text for text in summary.findings if "drop-least" in text and "against" in text)


def test_bad_results_of_own_perturbations_are_named(
    photos: list[Path], inverters: list[Path], network: ToyNetwork, tmp_path: Path
) -> None:
    options = {"inverter": inverters[1], "network": network}
    bad = Perturbation("bad", lambda features, seed, first: features / 0)
    with pytest.raises(ValueError, match=f"{photos[0].stem}.*vector.*bad.*NaN or inf"):
        study_perturb(photos, tmp_path / "out", perturbations=bad, **options)
    short = Perturbation("short", lambda features, seed, first: features[:, :3])
    with pytest.raises(ValueError, match=r"'short'.*\(5, 12\).*\(5, 3\)"):
        study_perturb(photos, tmp_path / "out", perturbations=short, show=photos, **options)
    assert not (tmp_path / "out").exists()


def test_features_that_are_not_finite_are_named(photos: list[Path], tmp_path: Path) -> None:
    for bad in (math.nan, math.inf):
        network = _Vectors(lambda index, bad=bad: torch.full((12,), bad if index == 1 else 1.0))
        with pytest.raises(ValueError, match=f"{photos[1].stem}.*vector.*NaN or inf"):
            _study_of(network, photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_features_unlike_those_of_training_are_noted(photos: list[Path], tmp_path: Path) -> None:
    network = _Vectors(lambda index: torch.tensor([20.0, *[0.1 * index] * 10, 0.4]))
    summary = _study_of(network, photos, tmp_path)
    outliers = {score.perturbation: score.outliers for score in summary.scores}
    assert outliers["intact"] == pytest.approx(1 / 12), "mean 0.5, deviation 0.3"
    two_in_the_first = (4 + 1 / 6) / 5  # 20 / sqrt(12) each in the others
    assert outliers["binarize"] == pytest.approx(two_in_the_first)
    assert outliers["not-top-5"] == 0
    notes = " ".join(summary.notes)
    assert re.search(r"83\.33 % under binarize.* over 10 .*8\.33 % of the intact", notes)
    assert "under not-top-5" not in notes


def test_one_hot_vectors_have_one_entry_among_the_top_5(photos: list[Path], tmp_path: Path) -> None:
    summary = _study_of(_Vectors(lambda index: torch.eye(12)[2 * index]), photos, tmp_path)
    nonzero = {score.perturbation: score.nonzero for score in summary.scores}
    assert nonzero.pop("dropout") <= 1
    assert nonzero == {"intact": 1, "binarize": 1, "drop-least": 1, "top-5": 1, "not-top-5": 0}
    errors = {score.perturbation: score.error for score in summary.scores}
    assert errors["top-5"] == errors["intact"] == errors["binarize"]
    text = " ".join(summary.findings)
    assert "In vector there are no non-zero entries besides the 5 largest." in text
    assert "nan" not in text
    notes = " ".join(summary.notes)
    assert "top-5 keeps 1.00 non-zero entries" in notes
    assert "not-top-5 leaves no non-zero entry in 5 of 5 images" in notes


def test_zero_features_are_noted(photos: list[Path], tmp_path: Path) -> None:
    summary = _study_of(_Vectors(lambda index: torch.arange(12.0) * (index != 2)), photos, tmp_path / "one")
    assert "vector: all features of 1 of 5 images are zero" in " ".join(summary.notes)
    assert all(math.isfinite(score.error) for score in summary.scores)
    summary = _study_of(_Vectors(lambda index: torch.zeros(12)), photos, tmp_path / "all")
    assert "all features of 5 of 5 images are zero" in " ".join(summary.notes)
    assert len({score.error for score in summary.scores}) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"perturbations": []}, r"1 to 7.*0"),
        ({"perturbations": [f"top-{count}" for count in range(1, 9)]}, r"1 to 7.*8"),
        ({"perturbations": ["binarise"]}, r"binarize.*'binarise'"),
        ({"perturbations": ["dropout", "dropout-50"]}, r"dropout twice"),
        ({"perturbations": [Perturbation("intact", lambda features, seed, first: features)]}, r"'intact'"),
        ({"seed": -1}, r"seed.*-1"),
        ({"show_count": 0}, r"show_count.*0"),
        ({"inverter": []}, r"inverter.*none"),
        ({"network": ()}, r"'maps'.*--network"),
    ],
)
def test_bad_options_are_named(
    photos: list[Path], inverters: list[Path], network: ToyNetwork, tmp_path: Path, options: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        study_perturb(photos, tmp_path / "out", **({"inverter": inverters, "network": network} | options))
    assert not (tmp_path / "out").exists()


def test_one_image_is_not_enough(
    photos: list[Path], inverters: list[Path], network: ToyNetwork, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"two images.*1"):
        study_perturb(photos[0], tmp_path / "out", inverter=inverters, network=network)


BASE = LayerScore("", "net", "", "network", "v", (12,), 32, 32, 16, 0.5, 0.7, 9.0, 20.0, 0.3, 5, "runs/x", nonzero=12)


def findings(layers: dict[str, dict[str, float]], nonzero: float = 7.0) -> str:
    """Return the findings of errors by layer and perturbation; the mean image has 0.7."""
    scores = [
        dataclasses.replace(BASE, label=label, perturbation=name, error=error, nonzero=nonzero)
        for label, errors in layers.items()
        for name, error in errors.items()
    ]
    names = list(dict.fromkeys(score.perturbation for score in scores if score.perturbation != "intact"))
    return " ".join(PerturbStudy(scores, names=names).findings())


def test_findings_say_what_binarizing_costs() -> None:
    text = findings({"a": {"intact": 0.3, "binarize": 0.42}, "b": {"intact": 0.5, "binarize": 0.49}})
    assert "is 0.300 in a and 0.500 in b; the mean image has 0.700." in text
    assert "by +0.120 in a (0.300 to 0.420) and -0.010 in b (0.500 to 0.490): least in b, most in a." in text
    assert "nothing is recovered" not in text
    text = findings({"a": {"intact": 0.3, "binarize": 0.31}, "b": {"intact": 0.5, "binarize": 0.512}})
    assert "least" not in text, "the same, within what is ranked"
    text = findings({"a": {"intact": 0.3, "binarize": 0.699}, "b": {"intact": 0.5, "binarize": 1.7}})
    assert "nothing is recovered" in text
    assert text.endswith("mean image: binarize in a (0.699) and b (1.700).")
    text = findings({"a": {"intact": 0.698, "binarize": 0.6978}, "b": {"intact": 0.5, "binarize": 0.6}})
    assert "by +0.000 in a" in text
    assert text.endswith("mean image: intact in a (0.698); binarize in a (0.698).")


@pytest.mark.parametrize(
    ("name", "other", "share"),
    [("drop-least", "dropout", "50 %"), ("drop-least-30", "dropout-30", "30 %"), ("drop-smallest", "dropout", "50 %")],
)
def test_findings_compare_the_smallest_entries_with_random_ones(name: str, other: str, share: str) -> None:
    text = findings(
        {
            "a": {"intact": 0.3, other: 0.5, name: 0.4},
            "b": {"intact": 0.3, other: 0.4, name: 0.5},
            "c": {"intact": 0.3, other: 0.4, name: 0.404},
        }
    )
    assert f"the smallest {share} of the non-zero entries" in text
    assert f"random {share} of all" in text
    assert "0.400 against 0.500 in a, 0.500 against 0.400 in b and 0.404 against 0.400 in c" in text
    assert "hurts less in a; more in b; as much (within 0.005) in c." in text
    assert "hurts more in a." in findings({"a": {"intact": 0.3, other: 0.4, name: 0.5}})
    assert "against" not in findings({"a": {"intact": 0.3, "dropout-20": 0.4, name: 0.5}}), "other shares"


@pytest.mark.parametrize(
    ("top", "others", "words"),
    [
        (0.6, 0.5, "more of the image is in the others."),
        (0.5, 0.6, "more of the image is in the 5 largest."),
        (0.5, 0.503, "both parts give equally much of the image."),
        (0.9, 0.699, "neither part alone gives more than the mean image, 0.700."),
    ],
)
def test_findings_say_where_the_image_is(top: float, others: float, words: str) -> None:
    text = findings({"a": {"intact": 0.45, "top-5": top, "not-top-5": others}})
    assert f"5 largest entries of a the normalized error is {top:.3f}, with all others {others:.3f}" in text
    assert words in text
    alone = findings({"a": {"intact": 0.45, "top-5": top}})
    assert f"top-5 changes the normalized error by {top - 0.45:+.3f} in a" in alone


@pytest.fixture
def torch_names(network: ToyNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace ``torch:`` names by the toy network."""
    monkeypatch.setattr(network_factory, "load", lambda name, **options: network)


def test_on_the_command_line(
    run: Run, photos: list[Path], inverters: list[Path], torch_names: None, tmp_path: Path
) -> None:
    named = [part for folder in inverters for part in ("--inverter", folder)]
    arguments = ("study", "perturb", *photos[:3], *named, "-o", tmp_path / "out", "--network", "torch:toys.net:make")
    code, out, err = run(*arguments, "--perturbations", "binarize,top-2", "--show", photos[4])
    assert code == 0, err
    assert "2 layers on 3 images" in out
    assert re.search("binarize changes the normalized error by", out)
    assert "preimage study perturb" in (tmp_path / "out" / "index.html").read_text()

    code, out, _ = run(*arguments, "--csv", tmp_path / "table.csv", "--seed", 2, "--json")
    found = json.loads(out)
    assert (code, found["seed"], len(found["scores"])) == (0, 2, 10)
    assert (tmp_path / "table.csv").is_file()

    code, out, err = run(*arguments, "--perturbations", "binarize,,top-2")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"error: .*binarize.*''\n", err)
