"""Test decoding of JPEGs in batches, with a decoder on the CPU: which images it decodes, and what is recorded."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from extractions import Stop, stop_after
from preimage.io import decode_image, list_images
from preimage.io.images import simple_jpeg_size
from preimage.pipelines import extract as extract_module
from preimage.pipelines import gpu_decoding
from preimage.pipelines.extract import extract, extract_with_summary
from preimage.pipelines.gpu_decoding import JpegDecoder, load_in_batches
from preimage.pipelines.image_loading import Pixels, load
from preimage.representations import create_representation
from preimage.store import FeatureStore, read_index

HOG = create_representation("hog")


def encoded(kind: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    """Return a photograph-like image in a format of Pillow."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    waves = np.stack([np.sin(x / 5 + y / (4 + channel)) for channel in range(3)], axis=-1)
    file = io.BytesIO()
    Image.fromarray((127 + 100 * waves).astype(np.uint8)).convert(mode).save(file, kind, **options)
    return file.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(exif=exif)


def brighter(data: Sequence[bytes]) -> list[Pixels | None]:
    """Decode, and add 10 to mark the images; wide ones cannot be decoded."""
    images = [decode_image(one, name="") for one in data]
    return [None if image.shape[1] > 100 else image + np.uint8(10) for image in images]


@pytest.mark.parametrize(
    ("make", "simple"),
    [
        (encoded, True),
        (lambda: encoded(progressive=True), True),
        (lambda: encoded(subsampling=0), True),
        (lambda: encoded(mode="L"), True),
        (lambda: encoded(mode="CMYK"), False),
        (lambda: encoded(keep_rgb=True), False),
        (rotated, False),
        (lambda: encoded()[:-200], False),
        (lambda: encoded("PNG"), False),
        (lambda: b"", False),
    ],
)
def test_simple_jpegs(make: Callable[[], bytes], simple: bool) -> None:
    assert simple_jpeg_size(make()) == ((30, 40) if simple else None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of images, some of which a decoder of JPEGs must not get."""
    images = {
        "a.jpg": encoded(),
        "b.png": encoded("PNG"),
        "c.jpg": rotated(),
        "d.jpg": encoded(mode="CMYK"),
        "e.jpg": encoded()[:-200],
        "f.jpg": encoded(mode="L"),
        "g.jpg": encoded(size=(120, 30)),
        "h.jpg": b"",
        "i.jpg": encoded(progressive=True),
    }
    (tmp_path / "images").mkdir()
    for name, data in images.items():
        (tmp_path / "images" / name).write_bytes(data)
    return tmp_path / "images"


@pytest.mark.parametrize("size", [None, 24])
@pytest.mark.parametrize("batch", [1, 4, 32])
def test_only_simple_jpegs_are_decoded_in_batches(
    folder: Path, size: int | None, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_decoding, "_BATCH", batch)
    sources = list_images(folder)
    found, expected = list(load_in_batches(sources, size, brighter)), list(load(sources, size))
    assert [item.problem for item in found] == [item.problem for item in expected]
    assert [bool(item.problem) for item in found] == [name in "eh" for name in "abcdefghi"]
    for item, usual in zip(found, expected, strict=True):
        assert (item.source, item.original_size, item.processed_size) == (
            usual.source,
            usual.original_size,
            usual.processed_size,
        )
        if usual.pixels is not None:
            assert item.pixels is not None
            added = 10 if item.source.key in "afi" else 0  # g is wide, which the decoder does not support
            assert np.abs(item.pixels.astype(int) - usual.pixels - added).max() <= (0 if size is None else 1)


def test_few_bytes_are_decoded_at_once(photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def counted(data: Sequence[bytes]) -> list[Pixels | None]:
        counts.append(len(data))
        return brighter(data)

    sources = list_images(photo_folder)
    side = next(load(sources, None)).processed_size
    monkeypatch.setattr(gpu_decoding, "_DECODED_BYTES", 3 * 3 * side[0] * side[1])
    assert len(list(load_in_batches(sources, None, counted))) == 20
    assert counts == [3, 3, 3, 3, 3, 3, 2]


def test_image_that_disappears_is_a_problem(folder: Path) -> None:
    sources = list_images(folder)
    (folder / "a.jpg").unlink()
    first = next(load_in_batches(sources, None, brighter))
    assert "a.jpg" in first.problem


def test_error_of_the_decoder_is_raised(folder: Path) -> None:
    def broken(data: Sequence[bytes]) -> list[Pixels | None]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(load_in_batches(list_images(folder), None, broken))


def test_store_records_the_decoder(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preimage.pipelines.extract_batches.shard_length", lambda image_bytes: 3)
    monkeypatch.setattr(extract_module, "device_for_extraction", lambda *_: torch.device("cpu"))
    monkeypatch.setattr(extract_module, "_gpu_decoder", lambda device: brighter)
    usual = extract(HOG, photo_folder, tmp_path / "cpu", size=64)
    with pytest.raises(Stop):
        extract(HOG, photo_folder, tmp_path / "gpu", size=64, decoder="gpu", progress=stop_after(10))
    with pytest.raises(ValueError, match="decoder: gpu != None"):
        extract(HOG, photo_folder, tmp_path / "gpu", size=64)
    summary = extract_with_summary(HOG, photo_folder, tmp_path / "gpu", size=64, decoder="gpu")
    assert (summary.images, summary.resumed > 0) == (20, True)
    assert read_index(tmp_path / "gpu").source["decoder"] == "gpu"
    assert "decoder" not in read_index(tmp_path / "cpu").source
    assert not np.array_equal(FeatureStore(tmp_path / "gpu").stack(), usual.stack()), "saturated pixels differ"


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    with pytest.raises(ImportError, match=r"nvimgcodec.*pip install 'preimage\[gpu\]'|cannot be imported"):
        JpegDecoder(torch.device("cpu"))


def test_nvimgcodec_on_the_cpu(folder: Path) -> None:
    pytest.importorskip("nvidia.nvimgcodec")
    decode = JpegDecoder(torch.device("cpu"))
    sources = [source for source in list_images(folder) if source.key in "afgi"]
    images = decode([source.read() for source in sources])
    for source, image in zip(sources, images, strict=True):
        assert image is not None
        expected = decode_image(source.read(), name=source.name)
        assert np.abs(image.astype(int) - expected).max() <= 2
    assert decode([b"no image", encoded()[:300]]) == [None, None]


@pytest.mark.gpu
def test_cuda_decoder_agrees_with_the_cpu(folder: Path, photo_folder: Path) -> None:
    pytest.importorskip("nvidia.nvimgcodec")
    decode = JpegDecoder(torch.device("cuda"))
    sources = [*list_images(photo_folder), *(source for source in list_images(folder) if source.key in "afgi")]
    for source, image in zip(sources, decode([source.read() for source in sources]), strict=True):
        assert image is not None
        difference = np.abs(image.astype(int) - decode_image(source.read(), name=source.name))
        assert difference.mean() < 0.5 and difference.max() <= 8, source.name
