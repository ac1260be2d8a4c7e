"""Test writing of images in threads: atomic, in order, few at a time; the state after Ctrl-C and errors."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from preimage.inverters import Inverter
from preimage.io import FeatureRecord, atomic, decode_file
from preimage.pipelines import image_writer
from preimage.pipelines.image_writer import ImageWriter
from preimage.pipelines.invert import invert
from preimage.representations import create_representation
from preimage.store import write_features


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Return features of forty images in two folders."""
    random = np.random.default_rng(0)
    write_features(
        tmp_path / "f.safetensors",
        create_representation("hog").spec,
        (
            FeatureRecord(f"{'ab'[i % 2]}/{i:02}", random.random((31, 8, 8)).astype(np.float32), (64, 64), (64, 64))
            for i in range(40)
        ),
    )
    return tmp_path / "f.safetensors"


def picture(value: int, side: int = 8) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_progress_counts_up_in_order(features: Path, tiny: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    main = threading.current_thread()

    def note(done: int, total: int) -> None:
        assert threading.current_thread() is main
        assert len(files(tmp_path / "out")) >= done, "what is told is there"
        seen.append((done, total))

    invert(features, tmp_path / "out", inverter=tiny, batch_size=4, progress=note)
    assert seen == [(done, 40) for done in range(1, 41)]


def test_progress_counts_skipped_images(tiny: Path, tmp_path: Path) -> None:
    values = [np.full((31, 8, 8), value, np.float32) for value in (0.1, np.nan, 0.2, np.inf)]
    records = [FeatureRecord(str(i), value, (64, 64), (64, 64)) for i, value in enumerate(values)]
    write_features(tmp_path / "f", create_representation("hog").spec, records)
    seen: list[tuple[int, int]] = []
    summary = invert(
        tmp_path / "f", tmp_path / "out", inverter=tiny, skip_bad=True, progress=lambda *counts: seen.append(counts)
    )
    assert [key for key, _ in summary.skipped] == ["1", "3"]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_huge_finite_features_are_inverted(tiny: Path, tmp_path: Path) -> None:
    record = FeatureRecord("a", np.full((31, 8, 8), 1e36, np.float32), (64, 64), (64, 64))
    write_features(tmp_path / "f", create_representation("hog").spec, [record])
    assert invert(tmp_path / "f", tmp_path / "out", inverter=tiny).images == 1, "though their sum is infinite"


def test_error_leaves_no_partial_file(
    features: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lock, count = os.fsync, threading.Lock(), 0

    def full(descriptor: int) -> None:
        nonlocal count
        with lock:
            count += 1
            fails = count > 9
        if fails:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        invert(features, tmp_path / "out", inverter=tiny, batch_size=4)
    assert str(caught.value.filename).endswith(".png")
    written = files(tmp_path / "out")
    assert 0 < len(written) < 40
    assert all(decode_file(path).shape == (64, 64, 3) for path in written), "no temporary file among them"


def test_encoder_error_stops_the_inversion(
    features: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, np.zeros(0, np.uint8)))
    with pytest.raises(ValueError, match=r"OpenCV.*\(64, 64, 3\)"):
        invert(features, tmp_path / "out", inverter=tiny)
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("place", ["network", "progress"])
def test_ctrl_c_leaves_complete_images_and_no_threads(
    features: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    forward, calls = Inverter.forward, 0

    def interrupted(self: Inverter, values: torch.Tensor, **options: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return forward(self, values, **options)  # type: ignore[arg-type]

    def stop(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    if place == "network":
        monkeypatch.setattr(Inverter, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        invert(features, tmp_path / "out", inverter=tiny, batch_size=4, progress=stop if place == "progress" else None)
    written = files(tmp_path / "out")
    assert len(written) < 40
    assert all(decode_file(path).shape == (64, 64, 3) for path in written)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("write")]


@pytest.mark.parametrize("ahead", [True, False])
def test_folders_are_synced_once_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: bool) -> None:
    synced: list[str] = []

    def note(folders: set[Path]) -> None:
        synced.extend(folder.name for folder in folders)

    monkeypatch.setattr(image_writer, "sync_folders", note)
    done = 0

    def written() -> None:
        nonlocal done
        done += 1

    with ImageWriter(written, encode_ahead=ahead) as writer:
        for folder in ("a", "b"):
            writer.write([tmp_path / folder / f"{i}.png" for i in range(6)], [picture(i) for i in range(6)])
    assert set(synced) == {"a", "b"}
    assert len(synced) <= 3, "a picture of the second batch may be there before the first is done"
    assert done == 12
    assert [int(decode_file(tmp_path / "b" / f"{i}.png")[0, 0, 0]) for i in range(6)] == list(range(6))


def test_few_images_are_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, begun = threading.Event(), 0
    real = image_writer.encode_png

    def slow(image: np.ndarray, **options: object) -> memoryview:
        nonlocal begun
        gate.wait(10)
        begun += 1
        return real(image, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(image_writer, "encode_png", slow)
    monkeypatch.setattr(image_writer, "_QUEUED_BYTES", 3 * picture(0).nbytes)
    with ImageWriter(lambda: None, encode_ahead=True) as writer:
        for index in range(3):
            writer.write([tmp_path / f"{index}.png"], [picture(index)])
        assert begun == 0, "there is room for three"
        threading.Timer(0.2, gate.set).start()
        writer.write([tmp_path / "3.png"], [picture(3)])
        assert begun >= 1, "the fourth waited for the first"
        writer.write([tmp_path / "large.png"], [picture(4, side=64)])  # alone larger than the bound
    assert len(files(tmp_path)) == 5
