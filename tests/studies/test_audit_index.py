"""Test opening an index: which formats are read, which keys match, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from preimage import Keypoints, create_representation, extract, sift, write_keypoints
from preimage.io import KeypointRecord
from preimage.pipelines.image_loading import as_listing
from preimage.spec import Spec
from preimage.studies.audit_index import AuditIndex, in_square, open_index, photographs

SIZE = 64
RNG = np.random.default_rng(9)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def keys(photo_folder: Path) -> list[str]:
    return sorted(path.stem for path in photo_folder.iterdir())


def _open(path: Path, photos: Path, **options: object) -> AuditIndex:
    return open_index(path, as_listing(photos), **options)  # type: ignore[arg-type]


def test_a_store(photo_folder: Path, tmp_path: Path) -> None:
    store = extract("hog", photo_folder, tmp_path / "photos.hog", size=SIZE)
    index = _open(tmp_path / "photos.hog", photo_folder)
    assert (index.side, index.spec, index.is_keypoints) == (SIZE, store.spec, False)
    items = index.items([3, 1])
    assert isinstance(items, torch.Tensor)
    assert np.array_equal(items[0].numpy(), store[index.sources[3].key])
    with pytest.raises(ValueError, match=r"photos\.hog.*size must be.*64.*96"):
        _open(tmp_path / "photos.hog", photo_folder, size=96)
    with pytest.raises(ValueError, match=r"photos\.hog.*other features"):
        _open(tmp_path / "photos.hog", photo_folder, spec=create_representation("hog", cell_size=4).spec)
    with pytest.raises(ValueError, match=r"photos\.hog.*omit keys"):
        _open(tmp_path / "photos.hog", photo_folder, keys=tmp_path / "keys.txt")


def test_rows_without_keys_belong_to_the_photographs_in_sorted_order(
    photo_folder: Path, tmp_path: Path, keys: list[str]
) -> None:
    vectors = RNG.standard_normal((20, 5)).astype("<f4")
    np.save(tmp_path / "index.npy", vectors)
    header = struct.pack("<iqqq?i", 5, 20, 0, 0, True, 1) + struct.pack("<Q", 100)
    (tmp_path / "index.faiss").write_bytes(b"IxF2" + header + vectors.tobytes())
    for name in ("index.npy", "index.faiss"):
        index = _open(tmp_path / name, photo_folder, size=SIZE)
        assert index.spec == Spec("embedding", "user", 5, None)
        rows = {source.key: row for row, source in enumerate(index.sources)}
        items = index.items([rows[key] for key in keys])
        assert isinstance(items, torch.Tensor)
        assert np.array_equal(items.numpy(), vectors)
    (tmp_path / "keys.txt").write_text("\n".join(f"{key}.jpg" for key in keys[::-1]))
    index = _open(tmp_path / "index.faiss", photo_folder, keys=tmp_path / "keys.txt")
    row = [source.key for source in index.sources].index(keys[0])
    assert np.array_equal(index.items([row])[0], vectors[-1])
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        _open(tmp_path / "index.faiss", photo_folder, keys=tmp_path / "absent.txt")
    np.save(tmp_path / "short.npy", vectors[:7])
    with pytest.raises(ValueError, match=r"short\.npy.*20 keys for 7"):
        _open(tmp_path / "short.npy", photo_folder)


def test_features_and_photographs_that_do_not_match_are_left_out(
    photo_folder: Path, tmp_path: Path, keys: list[str]
) -> None:
    arrays = {key: RNG.standard_normal(5).astype(np.float32) for key in [*keys[:6], "other"]}
    np.savez(tmp_path / "index.npz", **arrays)
    index = _open(tmp_path / "index.npz", photo_folder)
    assert sorted(source.key for source in index.sources) == keys[:6]
    assert len(index.notes) == 1 and "other" in index.notes[0]
    np.savez(tmp_path / "few.npz", **{key: arrays[key] for key in keys[:3]})
    with pytest.raises(ValueError, match=r"few\.npz.*at least 4.*got 3"):
        _open(tmp_path / "few.npz", photo_folder)
    np.savez(tmp_path / "none.npz", **{key + "x": arrays[key] for key in keys[:6]})
    with pytest.raises(ValueError, match=r"none\.npz.*do not match"):
        _open(tmp_path / "none.npz", photo_folder)


def test_features_that_are_not_finite_or_of_several_shapes(
    photo_folder: Path, tmp_path: Path, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = RNG.standard_normal((20, 5)).astype(np.float32)
    vectors[7, 2] = np.nan
    np.save(tmp_path / "index.npy", vectors)
    index = _open(tmp_path / "index.npy", photo_folder)
    row = [source.key for source in index.sources].index(keys[7])
    with pytest.raises(ValueError, match=rf"{keys[7]}.*index\.npy.*NaN"):
        index.items([row])
    monkeypatch.setattr("preimage.studies.audit_index._MAX_BYTES", 99)
    with pytest.raises(ValueError, match=r"index\.npy.*--max-images"):
        index.items(range(5))


def test_keypoints_of_a_store_are_those_of_its_grid(photo_folder: Path, tmp_path: Path) -> None:
    extract("sift", photo_folder, tmp_path / "photos.sift", size=SIZE)
    index = _open(tmp_path / "photos.sift", photo_folder)
    assert index.is_keypoints and index.side == SIZE
    items = index.items(range(20))
    assert isinstance(items, Keypoints) and len(items) == 20
    representation = create_representation("sift")
    grid = representation.grid(items, (SIZE, SIZE))  # type: ignore[attr-defined]
    images = photographs(index.sources, SIZE)
    assert torch.allclose(grid, representation(images), atol=1e-4)


def test_keypoint_files_are_cropped_to_the_square(photo_folder: Path, tmp_path: Path) -> None:
    sources = as_listing(photo_folder).sources
    images = photographs(sources, 96).numpy()
    found = [sift(image) for image in images]
    records = [
        KeypointRecord(source.key, one, (96, 96) if number else None)
        for number, (source, one) in enumerate(zip(sources, found, strict=True))
    ]
    write_keypoints(tmp_path / "map.npz", records)
    index = _open(tmp_path / "map.npz", photo_folder, size=48)
    assert index.is_keypoints and index.spec is None and index.side == 48
    items = index.items([0, 5])
    assert isinstance(items, Keypoints)
    for image, number in enumerate((0, 5)):
        assert torch.allclose(items[image].x, torch.from_numpy((found[number].x + 0.5) / 2 - 0.5), atol=1e-5)
        assert torch.allclose(items[image].scale, torch.from_numpy(found[number].scale / 2))


@pytest.mark.parametrize("size", [(60, 100), (100, 60), (61, 100)])
def test_the_square_of_an_image(size: tuple[int, int]) -> None:
    """The corners of the center square become those of the result; what is outside is left out."""
    height, width = size
    top, left = (height - min(size)) // 2, (width - min(size)) // 2
    x = np.array([left - 0.5, left + min(size) - 0.51, left - 0.6, left + 9], np.float32)
    y = np.array([top - 0.5, top + min(size) - 0.51, top + 5, top - 0.6], np.float32)
    ones = np.ones(4, np.float32)
    keypoints = Keypoints(x, y, 2 * ones, ones, ones, np.zeros((4, 128), np.float32), np.array([0, 4]))
    inside = in_square(keypoints, size, 30)
    assert len(inside.x) == 2
    for found in (inside.x, inside.y):
        assert found == pytest.approx([-0.5, 29.5], abs=0.01)
    assert inside.scale == pytest.approx([60 / min(size)] * 2)
