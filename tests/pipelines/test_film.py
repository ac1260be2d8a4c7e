"""Test films of sequences of features: frames against the inverter, order, files, and rejected sequences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from layer_networks import ToyNetwork, saved
from preimage import FeatureRecord, film, write_features
from preimage.cli import app
from preimage.errors import FileFormatError
from preimage.inverters import Inverter
from preimage.io import decode_file, video, write_png
from preimage.io.video import CodecMissingError, count_frames, write_mp4
from preimage.pipelines.film_sequences import in_time, open_sequences
from preimage.pipelines.image_loading import as_pixels
from preimage.representations import create_representation

pytestmark = pytest.mark.usefixtures("one_thread")
CELLS, FRAMES, SIDE = 6, 5, 48


@pytest.fixture(scope="module")
def images(photo_folder: Path) -> np.ndarray:
    """Return a crop that pans over a photograph, (T, H, W, 3) uint8."""
    photo = decode_file(sorted(photo_folder.iterdir())[4])
    return np.stack([photo[20 : 20 + SIDE, 8 * index : 8 * index + SIDE] for index in range(FRAMES)])


@pytest.fixture(scope="module")
def features(images: np.ndarray) -> np.ndarray:
    """Return the HOG of the frames, (T, 31, 6, 6)."""
    hog = create_representation("hog")
    return hog(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()).numpy()


def _frames(path: Path) -> list[np.ndarray]:
    found, capture = [], cv2.VideoCapture(str(path))
    while True:
        there, frame = capture.read()
        if not there:
            return found
        found.append(frame[:, :, ::-1])


def test_every_frame_of_the_video_is_its_reconstruction(features: np.ndarray, tiny: Path, tmp_path: Path) -> None:
    summary = film(features, tmp_path / "new" / "film", inverter=tiny, fps=5, batch_size=2)
    assert (summary.frames, summary.size, summary.sequences) == (FRAMES, (SIDE, SIDE), ("sequence",))
    shown = _frames(summary.video)
    assert len(shown) == count_frames(summary.video) == FRAMES
    capture = cv2.VideoCapture(str(summary.video))
    assert capture.get(cv2.CAP_PROP_FPS) == 5
    made = as_pixels(Inverter.load(tiny)(torch.from_numpy(features)))
    for frame, expected in zip(shown, made, strict=True):
        assert np.abs(frame.astype(int) - expected).mean() < 8, "MPEG-4 is lossy"
    assert {path.name for path in summary.strip.parent.iterdir()} == {"film.mp4", "strip.png"}


def test_the_strip_has_a_row_for_the_images_and_for_each_sequence(
    features: np.ndarray, images: np.ndarray, tiny: Path, tmp_path: Path
) -> None:
    both = {"truth": features, "rollout": features[::-1].copy()}
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    summary = film(both, tmp_path, inverter=tiny, images=tensor, frames=3, tile=SIDE)
    assert summary.sequences == ("truth", "rollout")
    strip = decode_file(summary.strip)
    gap, margin = 6, 12
    assert strip.shape[1] == 2 * margin + 3 * (SIDE + gap) - gap
    top = margin + round((2 + 1.6) * 12)
    for column, position in enumerate((0, 2, 4)):
        left = margin + column * (SIDE + gap)
        np.testing.assert_array_equal(strip[top : top + SIDE, left : left + SIDE], images[position])
    made = as_pixels(Inverter.load(tiny)(torch.from_numpy(features)))
    row = top + SIDE + gap + 24
    np.testing.assert_allclose(strip[row : row + SIDE, margin : margin + SIDE].astype(int), made[0], atol=1)
    row += SIDE + gap + 24
    np.testing.assert_allclose(strip[row : row + SIDE, margin : margin + SIDE].astype(int), made[-1], atol=1)
    assert _frames(summary.video)[0].shape == (SIDE, 3 * SIDE, 3)


def _store(path: Path, features: np.ndarray) -> Path:
    spec = create_representation("hog").spec
    # Written in another order than that of time, which is also not that of the alphabet.
    order = [3, 0, 4, 1, 2]
    records = [FeatureRecord(f"f{index * 4}", features[index], (SIDE, SIDE), (SIDE, SIDE)) for index in order]
    write_features(path, spec, records)
    return path


def test_stores_and_arrays_give_the_same_film(features: np.ndarray, tiny: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", features)
    np.savez(tmp_path / "b.npz", **{f"f{index}": one for index, one in enumerate(features)})
    paths = [_store(tmp_path / "pan.hog", features), tmp_path / "a.npy", tmp_path / "b.npz"]
    inverter = Inverter.load(tiny)
    for sequence in open_sequences(paths, inverter):
        shape = sequence.shape(inverter)
        np.testing.assert_array_equal(sequence.batch(range(FRAMES), shape), features, sequence.name)
    strips = [film(path, tmp_path / "out", inverter=tiny).strip.read_bytes() for path in (features, *paths[1:])]
    assert film([paths[0]], tmp_path / "out", inverter=inverter).frames == FRAMES
    assert len({len(strip) for strip in strips}) > 1, "the names differ"


def test_hdf5_may_contain_one_array(features: np.ndarray, tiny: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file["latents"] = features
    (sequence,) = open_sequences(tmp_path / "stack.h5", Inverter.load(tiny))
    np.testing.assert_array_equal(sequence.batch(range(FRAMES), features.shape[1:]), features)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["latents"] = h5py.ExternalLink("stack.h5", "latents")
    with pytest.raises(ValueError, match=r"link\.h5.*link"):
        open_sequences(tmp_path / "link.h5", Inverter.load(tiny))


def test_keys_sort_by_their_numbers() -> None:
    keys = ["a/f10", "a/f9", "b1", "a/f009x", "a"]
    assert [keys[index] for index in in_time(keys)] == ["a", "a/f9", "a/f009x", "a/f10", "b1"]


def test_vectors_show_the_region_of_the_inverter(images: np.ndarray, tmp_path: Path) -> None:
    inverter = saved(ToyNetwork(), "vector", tmp_path / "inverter")
    vectors = np.random.default_rng(0).random((FRAMES, 12), np.float32)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    summary = film(vectors, tmp_path / "film", inverter=inverter, images=tensor.float() / 255)
    assert summary.size == (16, 16)
    np.save(tmp_path / "v.npy", vectors)
    assert film(tmp_path / "v.npy", tmp_path / "film", inverter=inverter).frames == FRAMES


def test_images_from_a_folder_are_in_order(
    features: np.ndarray, images: np.ndarray, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "frames").mkdir()
    for index, image in enumerate(images):
        write_png(tmp_path / "frames" / f"{index + 8}.png", image)
    summary = film(features, tmp_path / "film", inverter=tiny, images=tmp_path / "frames", tile=SIDE)
    strip = decode_file(summary.strip)
    top, left = 12 + round((2 + 1.6) * 12), 12 + (SIDE + 6)
    np.testing.assert_array_equal(strip[top : top + SIDE, left : left + SIDE], images[1])


def _with_nan(features: np.ndarray) -> np.ndarray:
    damaged = features.copy()
    damaged[3, 7, 0, 0] = np.nan
    return damaged


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (_with_nan, {}, "frame 3.*NaN"),
        (lambda f: f[:0], {}, "at least one frame"),
        (lambda f: f[:, :30], {}, r"31.*\(30, 6, 6\)"),
        (lambda f: f[:, :, 0, 0], {}, r"\(31, h, w\).*\(31,\)"),
        (lambda f: f[0], {}, r"\(T, C, h, w\).*\(31, 6, 6\)"),
        (lambda f: [f, f[:2]], {}, "equally long.*5.*2"),
        (lambda f: [f, f[:, :, :4, :4]], {}, "one size.*48×48, 32×32"),
        (lambda f: [], {}, "at least one sequence"),
        (lambda f: f, {"inverter": None}, "inverter must be given"),
        (lambda f: f, {"fps": 0}, "fps.*0"),
        (lambda f: f, {"frames": 0}, "frames.*0"),
        (lambda f: f, {"tile": 8}, "tile.*8"),
        (lambda f: f, {"images": torch.zeros(4, 3, 8, 8)}, "5 frames.*4"),
        (lambda f: f, {"images": torch.zeros(5, 8, 8)}, r"\(T, 3, H, W\)"),
    ],
)
def test_bad_sequences_are_refused(
    features: np.ndarray,
    tiny: Path,
    tmp_path: Path,
    change: Callable[[np.ndarray], Any],
    options: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        film(change(features), tmp_path / "film", **{"inverter": tiny, **options})
    assert not list(tmp_path.rglob("*.mp4"))
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda given: given.to(torch.complex64), r"real numbers.*complex64"),
        (lambda given: given.to("meta"), "meta device"),
        (lambda given: given * torch.tensor([1, 1, 1, float("nan"), 1])[:, None, None, None], "frame 3.*NaN"),
    ],
)
def test_tensors_without_numbers_leave_no_folder(
    features: np.ndarray, tiny: Path, tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        film(change(torch.from_numpy(features)), tmp_path / "film", inverter=tiny)
    assert not (tmp_path / "film").exists()


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (torch.full((FRAMES, 3, 8, 8), float("nan")), r"\[0, 1\]: image 0"),
        (255 * torch.eye(FRAMES)[1][:, None, None, None].expand(-1, 3, 8, 8), r"\[0, 1\]: image 1"),
        (torch.zeros(FRAMES, 3, 0, 8), r"empty.*\(5, 3, 0, 8\)"),
    ],
)
def test_images_out_of_range_are_refused(
    features: np.ndarray, tiny: Path, tmp_path: Path, shown: torch.Tensor, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        film(features, tmp_path / "film", inverter=tiny, images=shown)
    assert not (tmp_path / "film").exists()


def test_an_hdf5_file_of_one_number_is_named(tiny: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["latents"] = 3.0
    with pytest.raises(FileFormatError, match=r"one\.h5.*one number"):
        film(tmp_path / "one.h5", tmp_path / "film", inverter=tiny)


def test_other_types_are_refused(features: np.ndarray, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="int"):
        film([3], tmp_path, inverter=tiny)
    with pytest.raises(TypeError, match="int64"):
        film(features, tmp_path, inverter=tiny, images=torch.zeros(FRAMES, 3, 8, 8, dtype=torch.int64))


def test_mixed_sizes_and_another_spec_in_a_store(features: np.ndarray, tiny: Path, tmp_path: Path) -> None:
    spec = create_representation("hog").spec
    mixed = [FeatureRecord("f0", features[0], (48, 48), (48, 48))]
    mixed.append(FeatureRecord("f1", features[1, :, :4, :4].copy(), (32, 32), (32, 32)))
    write_features(tmp_path / "mixed.hog", spec, mixed)
    with pytest.raises(ValueError, match=r"mixed\.hog.*one size.*32×32, 48×48"):
        film(tmp_path / "mixed.hog", tmp_path / "film", inverter=tiny)
    np.savez(tmp_path / "mixed.npz", f0=features[0], f1=features[1, :, :4, :4])
    with pytest.raises(ValueError, match=r"one size"):
        film(tmp_path / "mixed.npz", tmp_path / "film", inverter=tiny)
    other = create_representation("hog", cell_size=4).spec
    write_features(tmp_path / "other.hog", other, mixed[:1])
    with pytest.raises(ValueError, match=r"other\.hog.*cell_size: 8 != 4"):
        film(tmp_path / "other.hog", tmp_path / "film", inverter=tiny)


def test_without_the_codec_the_film_is_a_webp(
    features: np.ndarray, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = film(features, tmp_path, inverter=tiny)
    assert first.notes == ()
    monkeypatch.setattr(video, "_CODEC", "none")
    summary = film(features, tmp_path, inverter=tiny)
    assert summary.video.name == "film.webp"
    assert "MP4" in summary.notes[0]
    done, animation = cv2.imreadanimation(str(summary.video))
    assert done
    assert len(animation.frames) == FRAMES
    assert not first.video.exists(), "the film of earlier features"
    with pytest.raises(CodecMissingError):
        write_mp4(tmp_path / "x.mp4", [np.zeros((8, 8, 3), np.uint8)], 8)
    assert not (tmp_path / "x.mp4").exists()


def test_videos_of_odd_size_and_refused_frames(tmp_path: Path) -> None:
    frames = [np.full((33, 17, 3), 60 * index, np.uint8) for index in range(4)]
    assert write_mp4(tmp_path / "odd.mp4", frames, 12.5) == 4
    shown = _frames(tmp_path / "odd.mp4")
    assert [frame.shape for frame in shown] == [(34, 18, 3)] * 4
    assert [round(float(frame.mean()) / 60) for frame in shown] == [0, 1, 2, 3]
    before = (tmp_path / "odd.mp4").read_bytes()
    for bad, message in (
        ([frames[0], frames[0][:8]], "one size.*frame 1"),
        ([frames[0].astype(float)], "frame 0.*float64"),
        ([], "at least one frame"),
    ):
        with pytest.raises(ValueError, match=message):
            write_mp4(tmp_path / "odd.mp4", bad, 8)
    with pytest.raises(ValueError, match=r"fps.*nan"):
        write_mp4(tmp_path / "odd.mp4", frames, float("nan"))
    assert (tmp_path / "odd.mp4").read_bytes() == before
    (tmp_path / "text.mp4").write_text("no video")
    assert count_frames(tmp_path / "text.mp4") == 0


def test_the_command(features: np.ndarray, tiny: Path, tmp_path: Path) -> None:
    store = _store(tmp_path / "pan.hog", features)
    runner = CliRunner()
    call = ["film", str(store), "-o", str(tmp_path / "film"), "--inverter", str(tiny), "--fps", "4", "--json"]
    result = runner.invoke(app, call)
    assert result.exit_code == 0, result.output
    fields = json.loads(result.stdout)
    assert (fields["frames"], fields["fps"], fields["sequences"]) == (FRAMES, 4, ["pan"])
    result = runner.invoke(
        app, ["film", str(tmp_path / "none.npy"), "-o", str(tmp_path / "x"), "--inverter", str(tiny)]
    )
    assert result.exit_code == 1
    assert "none.npy" in result.output
