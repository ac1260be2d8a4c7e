"""Test how methods of a comparison learn from photographs: which ones, saved files, and the floors by hand."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from preimage.baselines.base import Baseline, Progress
from preimage.baselines.dictionary import PairedDictionary
from preimage.io import decode_file, resize_and_center_crop
from preimage.representations import create_representation
from preimage.spec import Spec
from preimage.studies import compare_methods
from preimage.studies.compare import compare
from preimage.studies.compare_methods import Photographs

HOG = create_representation("hog")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(photo_folder: Path) -> list[Path]:
    """Return five photographs of 96² pixels that differ, and five others."""
    return sorted(photo_folder.iterdir())[::2]


def _read(photos: list[Path]) -> torch.Tensor:
    fitted = np.stack([resize_and_center_crop(decode_file(photo), 64) for photo in photos])
    return torch.from_numpy(fitted).permute(0, 3, 1, 2).contiguous()


class Gray(Baseline):
    """Return images in a shade of gray that was learned."""

    name = "dictionary"
    title = "gray"

    def __init__(self, shade: float) -> None:
        self.shade = shade

    def invert(
        self,
        features: torch.Tensor,
        spec: Spec,
        *,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> torch.Tensor:
        """Return the images."""
        return torch.full((len(features), 3, *(size or ())), self.shade)

    def save(self, path: Path) -> None:
        """Write the shade."""
        path.write_text(str(self.shade))


@pytest.fixture
def learned_from(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace the dictionary by `Gray`, whose shade is the number of photographs / 10; return what it learned from."""
    seen: list[list[str]] = []

    def learn(photographs: Photographs, progress: Progress) -> Baseline:
        seen.append([source.key for source in photographs.sources])
        progress(1, 4)
        return Gray(len(photographs.sources) / 10)

    monkeypatch.setitem(compare_methods._LEARNERS, "dictionary", (learn, "dictionary.txt"))
    return seen


def test_each_half_is_inverted_with_what_was_learned_from_the_other(
    photos: list[Path], tmp_path: Path, learned_from: list[list[str]]
) -> None:
    reports: list[tuple[int, int]] = []
    lines: list[str] = []
    found = compare(
        photos[:5],
        tmp_path,
        methods=["dictionary"],
        size=64,
        batch_size=4,
        status=lines.append,
        progress=lambda done, total: reports.append((done, total)),
    )
    keys = [photo.stem for photo in photos[:5]]
    assert learned_from == [keys[1::2], keys[::2]]
    score = found.scores[0]
    assert [one.key for one in score.each] == keys, "in the order given"
    images = _read(photos[:5]).float() / 255
    shades = torch.tensor([0.2, 0.3, 0.2, 0.3, 0.2])[:, None, None, None]
    distances = (images - shades).flatten(1).norm(dim=1)
    ratios = torch.tensor([one.error for one in score.each]) / distances
    assert ratios.tolist() == pytest.approx([ratios[0].item()] * 5, rel=1e-5)
    assert score.learning_seconds is not None
    assert score.learning_seconds > 0
    assert (found.learned, list(tmp_path.glob("dictionary*"))) == ((), []), "neither half's is for all images"
    assert reports[-1] == (10, 10), "five images, and five photographs learned from"
    assert ["2 photographs" in lines[0], "3 photographs" in lines[1], len(lines)] == [True, True, 2]
    assert found.setting.batch_size == 3, "no half is larger"
    assert any("only 5 images are too narrow" in note for note in found.notes)
    assert not list(tmp_path.glob(".features*"))


def test_from_a_database_the_method_is_saved(photos: list[Path], tmp_path: Path, learned_from: list[list[str]]) -> None:
    found = compare(photos[:2], tmp_path / "out", methods=["dictionary"], database=photos[5:], size=64)
    assert learned_from == [[photo.stem for photo in photos[5:]]]
    assert found.learned == (tmp_path / "out" / "dictionary.txt",)
    assert found.learned[0].read_text() == "0.5"
    assert re.search(r"5 other photographs: gray\.", found.setting.learned_from)
    with open(found.csv, newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["learning_seconds"]) >= 0


def test_what_was_learned_is_kept_if_the_next_method_cannot_learn(
    photos: list[Path], tmp_path: Path, learned_from: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(photographs: Photographs, progress: Progress) -> Baseline:
        raise ValueError("nothing to average")

    monkeypatch.setitem(compare_methods._LEARNERS, "mean", (fail, ""))
    with pytest.raises(ValueError, match="method mean: nothing to average"):
        compare(photos[:2], tmp_path, methods=["dictionary", "mean"], database=photos[5:], size=64)
    assert (tmp_path / "dictionary.txt").read_text() == "0.5"
    assert not list(tmp_path.glob(".features*"))


def test_floors_by_hand(photos: list[Path], tmp_path: Path) -> None:
    database, compared = photos[5:], photos[:4]
    found = compare(compared, tmp_path, methods=["nearest", "mean"], database=database, size=64, batch_size=3)
    images, others = _read(compared), _read(database)
    features, stored = HOG(images).flatten(1).double(), HOG(others).flatten(1).double()
    nearest = others[torch.cdist(features, stored).argmin(dim=1)].float() / 255
    mean = (others.double() / 255).mean(dim=0).float().expand(4, -1, -1, -1)
    targets = images.float() / 255
    pairs = torch.cdist(targets.flatten(1).double(), targets.flatten(1).double())
    normalizer = pairs.sum() / 12
    for score, made in zip(found.scores, (nearest, mean), strict=True):
        by_hand = (targets - made).double().flatten(1).norm(dim=1) / normalizer
        assert [one.error for one in score.each] == pytest.approx(by_hand.tolist(), rel=1e-3), score.name


def test_what_cannot_be_learned_is_named(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def learn(photographs: Photographs, progress: Progress) -> Baseline:
        raise ValueError("photographs must be a million, got 5")

    monkeypatch.setitem(compare_methods._LEARNERS, "dictionary", (learn, ""))
    with pytest.raises(ValueError, match=r"method dictionary: photographs.*5"):
        compare(photos[:2], tmp_path, methods=["dictionary"], database=photos[5:], size=64)


@pytest.mark.parametrize(
    ("methods", "representation", "words"),
    [
        (["gradient"], "lbp", "method gradient: .*gradient.*lbp"),
        (["gradient"], "sift", "method gradient: .*gradient.*sift"),
        (["gradient=many"], "hog", "method gradient: .*STEPS.*'many'"),
        (["gradient=0"], "hog", "method gradient: steps.*1.*0"),
    ],
)
def test_gradient_is_checked_before_any_image_is_read(
    methods: list[Any], representation: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        compare(tmp_path / "absent", tmp_path / "out", representation=representation, methods=methods)


def test_real_methods_on_hog(photos: list[Path], tmp_path: Path) -> None:
    found = compare(photos[:2], tmp_path, methods=["ours", "gradient=3"], size=64)
    ours, gradient = found.scores
    assert gradient.difference is not None
    assert gradient.difference.mean == pytest.approx(ours.error.mean - gradient.error.mean)
    assert gradient.title != gradient.name
    assert gradient.reference


def test_a_saved_dictionary_is_checked_before_any_image_is_read(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    atoms = torch.rand(4, 31, 5, 5, generator=generator), torch.rand(4, 40, 40, generator=generator)
    file = PairedDictionary(HOG.spec, *atoms, level=0.5).save(tmp_path / "dictionary.safetensors")
    with pytest.raises(ValueError, match=r"method dictionary: .*cell_size: 8 != 4"):
        compare(
            tmp_path / "absent",
            tmp_path / "out",
            representation=create_representation("hog", cell_size=4),
            methods=[f"dictionary={file}"],
        )
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        compare(tmp_path / "absent", tmp_path / "out", methods=["dictionary=nowhere.safetensors"])


def test_a_saved_dictionary_is_used(photos: list[Path], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    atoms = torch.rand(4, 31, 5, 5, generator=generator), torch.rand(4, 40, 40, generator=generator)
    dictionary = PairedDictionary(HOG.spec, *atoms, level=0.5)
    file = dictionary.save(tmp_path / "dictionary.safetensors")
    found = compare(photos[:2], tmp_path / "out", methods=[f"dictionary={file}", "mean"], database=photos[5:], size=64)
    images = _read(photos[:2])
    made, targets = dictionary.invert(HOG(images), HOG.spec, size=(64, 64)), images.float() / 255
    expected = (targets - made).flatten(1).norm(dim=1)
    ratio = expected[0] / expected[1]
    assert found.scores[0].each[0].error / found.scores[0].each[1].error == pytest.approx(float(ratio), rel=1e-4)
    assert (found.scores[0].learning_seconds, found.learned) == (None, ())
