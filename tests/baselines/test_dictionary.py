"""The paired dictionary: inversion against its definition, learning, files, and bad input."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import sparse_encode

import preimage as pi
from conftest import photographs
from own_files import reseal
from preimage.baselines import PairedDictionary, dictionary
from preimage.baselines.dictionary_learning import gray
from preimage.errors import FileFormatError
from preimage.inspection import info

HOG = pi.create_representation("hog")
FINE = pi.create_representation("hog", cell_size=4)


@pytest.fixture(scope="module")
def learned(photo_folder: Path) -> PairedDictionary:
    """Return a dictionary of 48 atoms, learned from windows of 20 small photographs."""
    return PairedDictionary.learn(photo_folder, atoms=48, patches=600, size=72, device="cpu")


def photograph(name: str, height: int = 64, width: int = 80) -> torch.Tensor:
    return torch.from_numpy(photographs()[name][100 : 100 + height, 100 : 100 + width].copy()).permute(2, 0, 1)[None]


def inverted(one: PairedDictionary, features: np.ndarray, cell: int) -> np.ndarray:
    """Return the definition of the inversion of (31, h, w): one window after the other, coded by scikit-learn."""
    rows, columns = features.shape[1:]
    padded = np.pad(features, ((0, 0), (2, 2), (2, 2)), mode="edge").astype(np.float64)
    side = 5 * cell
    offset = np.arange(side) - (side - 1) / 2
    weight = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * (9 / 8 * cell) ** 2))
    summed, weights = (np.zeros(((rows + 4) * cell, (columns + 4) * cell)) for _ in range(2))
    for row in range(rows):
        for column in range(columns):
            window = padded[:, row : row + 5, column : column + 5].reshape(1, -1)
            window = window - window.mean()
            window = window / np.linalg.norm(window)
            code = sparse_encode(
                window, one.hog_atoms.flatten(1).double().numpy(), algorithm="lasso_cd", alpha=one.penalty,
                positive=True, max_iter=20_000,
            )  # fmt: skip
            patch = (code @ one.image_atoms.flatten(1).numpy()).reshape(side, side)
            area = np.s_[row * cell : row * cell + side, column * cell : column * cell + side]
            summed[area] += weight * patch
            weights[area] += weight
    inside = (summed / weights)[2 * cell : -2 * cell, 2 * cell : -2 * cell]
    return np.clip(one.level + one.contrast * inside, 0, 1)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("windows", [1, 4096], ids=["rows one by one", "at once"])
def test_inversion_is_that_of_the_definition(
    learned: PairedDictionary, windows: int, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dictionary, "_WINDOWS", windows)
    monkeypatch.setattr(dictionary, "_TOLERANCE", 1e-5)
    one = PairedDictionary.load(learned.save(tmp_path / "learned.safetensors"), device=device)
    features = torch.cat([HOG(photograph("chelsea")), HOG(photograph("astronaut"))])
    reports: list[tuple[int, int]] = []
    images = one.invert(features, HOG.spec, progress=lambda done, total: reports.append((done, total)))
    assert images.shape == (2, 3, 64, 80) and images.device.type == "cpu"
    assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])
    for image, maps in zip(images, features, strict=True):
        np.testing.assert_allclose(image[0].numpy(), inverted(learned, maps.numpy(), 8), atol=4e-3)
    assert reports[-1] == (160, 160) and len(reports) == (16 if windows == 1 else 1)


def test_the_default_tolerance_is_close_to_the_exact_codes(learned: PairedDictionary) -> None:
    features = HOG(photograph("chelsea"))
    image = learned.invert(features, HOG.spec)[0, 0].numpy()
    difference = image - inverted(learned, features[0].numpy(), 8)
    assert np.abs(difference).mean() < 4e-3


@pytest.mark.parametrize("name", ["chelsea", "coffee", "astronaut"])
def test_edges_are_where_they_are_in_the_image_and_of_the_same_sign(learned: PairedDictionary, name: str) -> None:
    image = photograph(name, 96, 96)
    made = learned.invert(HOG(image), HOG.spec)[0, 0]
    true = gray(image)[0]
    correlations = []
    for axis in (0, 1):
        pair = torch.stack([plane.unfold(0, 8, 8).unfold(1, 8, 8).mean(dim=(2, 3)) for plane in (made, true)])
        correlations.append(torch.corrcoef(pair.diff(dim=1 + axis).flatten(1))[0, 1])
    assert sum(correlations) / 2 > 0.3


def test_contrast_and_level_are_the_best_on_the_photographs(learned: PairedDictionary, photo_folder: Path) -> None:
    images = torch.stack([pi.read_image(path) for path in sorted(photo_folder.iterdir())])[:, :, 12:84, 12:84]
    assert 0.2 < learned.level < 0.8
    features, truth = HOG(images), gray(images)

    def error(contrast: float) -> float:
        one = PairedDictionary(
            HOG.spec, learned.hog_atoms, learned.image_atoms, level=learned.level, contrast=contrast, device="cpu"
        )
        return (one.invert(features, HOG.spec)[:, 0] - truth).square().mean().item()

    best = error(learned.contrast)
    assert best < error(0.0) and best < error(2 * learned.contrast)


def test_learning_is_repeatable(photo_folder: Path) -> None:
    def learn(seed: int) -> PairedDictionary:
        return PairedDictionary.learn(photo_folder, FINE, atoms=8, patches=100, size=32, seed=seed, device="cpu")

    first, again, other = learn(1), learn(1), learn(2)
    assert first.spec == FINE.spec and first.hog_atoms.shape == (8, 31, 5, 5) and first.image_atoms.shape == (8, 20, 20)
    assert torch.equal(first.hog_atoms, again.hog_atoms) and torch.equal(first.image_atoms, again.image_atoms)
    assert (first.level, first.contrast) == (again.level, again.contrast)
    assert not torch.equal(first.hog_atoms, other.hog_atoms)
    # Atoms are sums of mean-free windows and patches.
    assert first.hog_atoms.mean(dim=(1, 2, 3)).abs().max() < 1e-4
    assert first.image_atoms.mean(dim=(1, 2)).abs().max() < 1e-4
    assert (first.hog_atoms.flatten(1).square().sum(1) + first.image_atoms.flatten(1).square().sum(1) < 1.001).all()


def test_progress_of_learning_ends_at_the_total(photo_folder: Path) -> None:
    reports: list[tuple[int, int]] = []
    PairedDictionary.learn(
        photo_folder, atoms=4, patches=60, size=48, device="cpu", progress=lambda *report: reports.append(report)
    )
    assert reports[-1][0] == reports[-1][1] and reports == sorted(reports)
    assert len({total for _, total in reports}) == 1


def test_features_without_edges_have_the_mean_level(learned: PairedDictionary) -> None:
    image = learned.invert(torch.zeros(1, 31, 1, 2), HOG.spec)
    torch.testing.assert_close(image, torch.full((1, 3, 8, 16), learned.level))


def test_size_may_differ_by_less_than_a_cell(learned: PairedDictionary) -> None:
    image = photograph("chelsea", 61, 69)
    features = HOG(image)
    assert features.shape[2:] == (8, 9)
    whole = learned.invert(features, HOG.spec)
    assert whole.shape == (1, 3, 64, 72)
    for size in ((61, 69), (71, 79)):
        made = learned.invert(features, HOG.spec, size=size)
        assert made.shape == (1, 3, *size)
        assert torch.equal(made[:, :, :61, :69], whole[:, :, :61, :69])
    for size in ((72, 72), (64, 64)):
        with pytest.raises(ValueError, match=rf"64×72.*{size[0]}×{size[1]}"):
            learned.invert(features, HOG.spec, size=size)


def test_files_keep_everything(learned: PairedDictionary, tmp_path: Path) -> None:
    loaded = PairedDictionary.load(learned.save(tmp_path / "one.safetensors"), device="cpu")
    assert (loaded.spec, loaded.level, loaded.contrast, loaded.penalty) == (
        *(learned.spec, learned.level, learned.contrast, learned.penalty),
    )
    features = HOG(photograph("coffee"))
    assert torch.equal(loaded.invert(features, HOG.spec), learned.invert(features, HOG.spec))


def test_info_describes_the_file(learned: PairedDictionary, tmp_path: Path) -> None:
    facts = info(learned.save(tmp_path / "one.safetensors"))
    assert (facts["kind"], facts["spec"], facts["atoms"]) == ("paired dictionary", HOG.spec, 48)
    assert (facts["level"], facts["contrast"], facts["penalty"]) == (learned.level, learned.contrast, 0.02)


def test_other_files_are_errors(learned: PairedDictionary, tmp_path: Path) -> None:
    path = learned.save(tmp_path / "one.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-100])
    (tmp_path / "version.safetensors").write_bytes(
        path.read_bytes().replace(b'"format_version":"2"', b'"format_version":"9"')
    )
    (tmp_path / "nan.safetensors").write_bytes(path.read_bytes().replace(b'"penalty":"0.02"', b'"penalty":"nan "'))
    (tmp_path / "name.safetensors").write_bytes(path.read_bytes().replace(b"image_atoms", b"other_atoms"))
    for name in ("nan", "name"):
        reseal(tmp_path / f"{name}.safetensors")
    pi.write_features(tmp_path / "features.safetensors", HOG.spec, [])
    for name, problem in (
        ("cut", "safetensors"),
        ("version", r"version 9.*1"),
        ("nan", "nan"),
        ("name", "image_atoms"),
        ("features", "dictionary"),
    ):
        with pytest.raises(FileFormatError, match=rf"{name}\.safetensors.*{problem}"):
            PairedDictionary.load(tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="'gpu'") as raised:
        PairedDictionary.load(path, device="gpu")
    assert not isinstance(raised.value, FileFormatError)
    with pytest.raises(FileNotFoundError):
        PairedDictionary.load(tmp_path / "absent.safetensors")


def test_other_features_are_errors(learned: PairedDictionary) -> None:
    with pytest.raises(ValueError, match="cell_size: 8 != 4"):
        learned.invert(torch.zeros(1, 31, 8, 8), FINE.spec)
    with pytest.raises(ValueError, match="finite"):
        learned.invert(torch.full((1, 31, 8, 8), torch.nan), HOG.spec)
    with pytest.raises(ValueError, match=r"\(31, 8, 8\)"):
        learned.invert(torch.zeros(31, 8, 8), HOG.spec)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"representation": "lbp"}, r"hog.*lbp"),
        ({"atoms": 0}, r"atoms.*1.*0"),
        ({"patches": 0}, r"patches.*1.*0"),
        ({"penalty": 0.0}, r"penalty.*0"),
        ({"size": 39}, r"size.*40.*39"),
        ({"atoms": 50, "patches": 40, "size": 48}, r"50 atoms.*got \d"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_errors(photo_folder: Path, options: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        PairedDictionary.learn(photo_folder, **options)


def test_arrays_of_other_shapes_are_errors() -> None:
    with pytest.raises(ValueError, match=r"\(2, 20, 20\).*\(2, 40, 40\)"):
        PairedDictionary(FINE.spec, torch.zeros(2, 31, 5, 5), torch.zeros(2, 40, 40))


@pytest.mark.parametrize(
    ("values", "problem"),
    [({"penalty": 0.0}, r"penalty.*0"), ({"level": np.nan}, "level.*nan"), ({"contrast": np.inf}, "contrast.*inf")],
)
def test_values_out_of_range_are_errors(values: dict[str, float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        PairedDictionary(FINE.spec, torch.zeros(2, 31, 5, 5), torch.zeros(2, 20, 20), **values)
    with pytest.raises(ValueError, match=r"atoms.*finite"):
        PairedDictionary(FINE.spec, torch.full((2, 31, 5, 5), torch.nan), torch.zeros(2, 20, 20))


def test_without_scikit_learn_the_error_names_the_extra(photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"preimage\[sklearn\]"):
        PairedDictionary.learn(photo_folder, atoms=2, patches=20, size=48)
