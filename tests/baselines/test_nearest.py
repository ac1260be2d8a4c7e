"""The photograph with the nearest features: distances against their definition, sizes, missing images, bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import preimage as pi
from preimage.baselines import Nearest, nearest
from preimage.io import FeatureRecord, decode_file, resize_and_center_crop, write_png
from preimage.store import FeatureStore, write_features


@pytest.fixture(scope="module")
def photos(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, Path]:
    """Return the HOG features of photographs, and their folder."""
    store = pi.extract("hog", photo_folder, tmp_path_factory.mktemp("nearest") / "photos.hog", size=64)
    assert isinstance(store, FeatureStore)
    return store, photo_folder


def noisy(store: FeatureStore, keys: list[str], seed: int = 0) -> torch.Tensor:
    values = torch.from_numpy(np.stack([store[key] for key in keys]))
    return values + 0.01 * torch.randn(values.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("block", [1, 64 << 20], ids=["blocks of one", "one block"])
def test_neighbors_are_those_of_the_definition(
    photos: tuple[FeatureStore, Path], block: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "BLOCK_BYTES", block)
    store, folder = photos
    features = torch.rand(9, *store[0].shape, generator=torch.Generator().manual_seed(1)) * 0.3
    everything = torch.from_numpy(store.stack()).flatten(1).double()
    distances = torch.cdist(features.flatten(1).double(), everything)
    reports: list[tuple[int, int]] = []
    keys, found = Nearest(store, folder, device=device).neighbors(
        features, store.spec, progress=lambda done, total: reports.append((done, total))
    )
    assert keys == [store.key(index) for index in distances.argmin(dim=1).tolist()]
    torch.testing.assert_close(found.double(), distances.amin(dim=1), atol=1e-6, rtol=1e-6)
    assert reports[-1] == (20, 20) and len(reports) == (20 if block == 1 else 1)


def test_images_are_the_photographs_of_the_neighbors(photos: tuple[FeatureStore, Path]) -> None:
    store, folder = photos
    keys = ["coffee-2", "rocket-0", "coffee-2"]
    baseline = Nearest(store.path, [folder], device="cpu")
    images = baseline.invert(noisy(store, keys), store.spec)
    assert images.dtype == torch.float32 and images.shape == (3, 3, 64, 64)
    for image, key in zip(images, keys, strict=True):
        expected = resize_and_center_crop(decode_file(folder / f"{key}.jpg"), 64)
        assert np.array_equal((image * 255).round().byte().permute(1, 2, 0).numpy(), expected)
    whole = torch.from_numpy(decode_file(folder / "rocket-0.jpg")).permute(2, 0, 1) / 255
    wide = baseline.invert(noisy(store, keys[1:2]), store.spec, size=(48, 96))[0]
    torch.testing.assert_close(wide, whole[:, 24:72].float())  # the middle of 96×96 pixels


def test_a_store_of_vectors_has_the_size_of_its_images(photo_folder: Path, tmp_path: Path) -> None:
    spec = pi.Spec("scores", "user", 4, None)
    values = np.eye(4, dtype=np.float32)[:3]
    values[1] = np.nan  # never the nearest
    records = [FeatureRecord(f"camera-{k}", value, (96, 96), (80, 80)) for k, value in enumerate(values)]
    write_features(tmp_path / "scores.safetensors", spec, records)
    baseline = Nearest(tmp_path / "scores.safetensors", photo_folder, device="cpu")
    query = torch.tensor([[0.0, 1.0, 0.9, 0.0], [1.0, 0.0, 0.0, 0.0]])
    assert baseline.neighbors(query, spec)[0] == ["camera-2", "camera-0"]
    assert baseline.invert(query, spec).shape == (2, 3, 80, 80)


def test_close_neighbors_are_told_apart(photo_folder: Path, tmp_path: Path) -> None:
    spec = pi.Spec("scores", "user", 64, None)
    values = np.full((3, 64), 100, np.float32)
    values[:, 0] += np.array([0.02, 0.01, 0.03], np.float32)
    records = [FeatureRecord(f"camera-{k}", value, (96, 96), (80, 80)) for k, value in enumerate(values)]
    write_features(tmp_path / "scores.safetensors", spec, records)
    keys, distances = Nearest(tmp_path / "scores.safetensors", photo_folder, device="cpu").neighbors(
        torch.full((1, 64), 100.0), spec
    )
    assert keys == ["camera-1"]
    torch.testing.assert_close(distances, torch.tensor([0.01]), atol=1e-5, rtol=0)
    keys, distances = Nearest(tmp_path / "scores.safetensors", photo_folder, device="cpu").neighbors(
        torch.from_numpy(values), spec
    )
    assert keys == ["camera-0", "camera-1", "camera-2"] and distances.max() < 1e-5


def test_stores_without_finite_features_are_errors(photo_folder: Path, tmp_path: Path) -> None:
    spec = pi.Spec("scores", "user", 4, None)
    records = [FeatureRecord("camera-0", np.full(4, np.nan, np.float32), (96, 96), (80, 80))]
    write_features(tmp_path / "scores.safetensors", spec, records)
    with pytest.raises(ValueError, match=r"scores.*finite.*NaN"):
        Nearest(tmp_path / "scores.safetensors", photo_folder).neighbors(torch.zeros(1, 4), spec)


def test_missing_images_and_empty_stores_are_errors(photos: tuple[FeatureStore, Path], tmp_path: Path) -> None:
    store, folder = photos
    some = [folder / f"{key}.jpg" for key in store if key not in ("coffee-1", "rocket-3")]
    with pytest.raises(ValueError, match="'coffee-1' and 1 more"):
        Nearest(store, some)
    write_png(tmp_path / "other.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"astronaut-0.*'other'"):
        Nearest(store, tmp_path / "other.png")


def test_features_of_another_kind_are_errors(photos: tuple[FeatureStore, Path]) -> None:
    store, folder = photos
    baseline = Nearest(store, folder, device="cpu")
    with pytest.raises(ValueError, match=r"31×8×8.*31×9×8"):
        baseline.invert(torch.zeros(2, 31, 9, 8), store.spec)
    with pytest.raises(ValueError, match="cell_size: 8 != 4"):
        baseline.invert(torch.zeros(2, 31, 8, 8), pi.create_representation("hog", cell_size=4).spec)
    with pytest.raises(ValueError, match=r"finite.*0"):
        baseline.invert(torch.full((1, 31, 8, 8), torch.inf), store.spec)
    with pytest.raises(ValueError, match="size"):
        baseline.invert(torch.zeros(1, 31, 8, 8), store.spec, size=(64, 0))
