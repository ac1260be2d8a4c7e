"""Test images and tar files crafted to attack a reader: they are rejected quickly, with FileFormatError."""

import io
import struct
import tarfile
import time
import tracemalloc

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from image_attacks import RGB, claim, encode, png_bomb
from preimage.errors import FileFormatError
from preimage.io import decode_image, list_images
from preimage.io import images as images_module


def forbid_decoding(monkeypatch):
    def refuse(*_):
        raise AssertionError("the decoder was reached")

    monkeypatch.setattr(images_module.cv2, "imdecode", refuse)


def test_decompression_bomb_is_rejected_before_allocation(monkeypatch):
    bomb = png_bomb(30_000)
    assert len(bomb) < 1_000_000
    forbid_decoding(monkeypatch)
    seconds = []
    tracemalloc.start()
    for _ in range(5):
        begun = time.process_time()
        with pytest.raises(FileFormatError, match=r"bomb: 30000 × 30000 pixels.*178956970"):
            decode_image(bomb, name="bomb")
        seconds.append(time.process_time() - begun)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert min(seconds) < 0.5  # decoding 2.7 GB would take seconds
    assert peak < 1 << 20


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_every_format_is_measured_by_its_header(monkeypatch, kind):
    if kind == "WEBP":
        data, pixels = claim(kind, 16384, 16384), "16384 × 16384"
    else:
        data, pixels = claim(kind, 60000, 50000), "60000 × 50000"
    forbid_decoding(monkeypatch)
    with pytest.raises(FileFormatError, match=f"bomb: {pixels} pixels"):
        decode_image(data, name="bomb")


def test_animated_and_lossy_webp_and_bigtiff_headers(monkeypatch):
    forbid_decoding(monkeypatch)
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    data = bytearray(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    assert data[12:16] == b"VP8X"
    data[24:30] = b"\xff\xff\xff\xff\xff\xff"
    with pytest.raises(FileFormatError, match="16777216 × 16777216 pixels"):
        decode_image(bytes(data), name="it")
    data = bytearray(encode(frames[0], "WEBP", quality=50))
    assert data[12:16] == b"VP8 "
    with pytest.raises(FileFormatError, match=r"24 × 16 pixels.*3"):
        decode_image(bytes(data), name="it", max_pixels=3)
    out = io.BytesIO()
    tifffile.imwrite(out, RGB, photometric="rgb", bigtiff=True)
    with pytest.raises(FileFormatError, match=r"24 × 16 pixels.*3"):
        decode_image(out.getvalue(), name="it", max_pixels=3)


def test_tiff_with_huge_tiles_is_rejected():
    out = io.BytesIO()
    tifffile.imwrite(out, np.zeros((64, 64, 3), np.uint8), photometric="rgb", tile=(16, 16))
    data = bytearray(out.getvalue())
    for tag in (322, 323):
        at = next(at for kind in (3, 4) if (at := data.find(struct.pack("<HH", tag, kind))) > 0)
        data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 30_000)
    with pytest.raises(FileFormatError, match="tiles"):
        decode_image(bytes(data), name="it")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff" * 20_000_000,
        b"\xff\xd8\xff" + b"\xe0\0\2\xff" * 5_000_000,
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBBI", 13, b"IHDR", 8, 8, 8, 2, 0, 0, 0, 0x4B6D29DC) * 500_000,
        b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 1, 1, 1, 1) * 100_000,
        b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + b"\xff" * 5_000_000,
        b"II+\0\x08\0\0\0" + b"\xff" * 16,
        b"RIFF\xff\xff\xff\xffWEBPVP8X\x0a\0\0\0\x08\0\0\0" + bytes(6) + b"junk\0\0\0\0" * 1_000_000,
    ],
)
def test_endless_structures_end(data):
    begun = time.process_time()
    with pytest.raises(FileFormatError):
        decode_image(data, name="it")
    assert time.process_time() - begun < 60  # each takes well under a second; a loop per byte would not


def test_an_error_of_opencv_is_translated(monkeypatch):
    def fail(*_):
        raise cv2.error("something ugly")

    monkeypatch.setattr(images_module.cv2, "imdecode", fail)
    with pytest.raises(FileFormatError, match=r"it: .*PNG"):
        decode_image(encode(Image.fromarray(RGB), "PNG"), name="it")


# Tar files


def shard(path, *members):
    """Write a tar file of (TarInfo fields, data)."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for fields, data in members:
            member = tarfile.TarInfo()
            for name, value in ({"size": len(data)} | fields).items():
                setattr(member, name, value)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_links_devices_and_folders_in_a_tar_are_ignored(tmp_path):
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    members = [({"name": f"{i}.jpg", "type": kind, "linkname": "/etc/passwd"}, b"") for i, kind in enumerate(kinds)]
    path = shard(tmp_path / "s.tar", *members, ({"name": "good.jpg"}, b"x"))
    assert [source.key for source in list_images(path)] == ["good"]


@pytest.mark.parametrize("name", ["/etc/a.jpg", "../a.jpg", "a/../../b.jpg", "a\n.jpg", "C:a.jpg"])
def test_names_outside_the_folder_are_rejected(tmp_path, name):
    path = shard(tmp_path / "s.tar", ({"name": name}, b"x"))
    with pytest.raises(FileFormatError, match=r"s\.tar: member "):
        list_images(path)


def test_a_member_that_claims_more_than_the_file_holds(tmp_path):
    path = shard(tmp_path / "s.tar", ({"name": "a.jpg"}, b"x" * 600))
    data = path.read_bytes()
    for size in (1 << 32, 1 << 50):
        path.write_bytes(_patched(data, size))
        with pytest.raises(FileFormatError, match=r"s\.tar"):
            list_images(path)


def _patched(data, size):
    header = bytearray(data[:512])
    header[124:136] = b"\x80" + size.to_bytes(11, "big") if size > 0 else b"\xff" * 12
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


def test_sizes_that_lead_backwards_do_not_loop(tmp_path):
    path = shard(tmp_path / "s.tar", ({"name": "a.jpg"}, b"x"))
    path.write_bytes(_patched(path.read_bytes(), -1))
    with pytest.raises(FileFormatError):
        list_images(path)
    shard(path, ({"name": "a.jpg", "pax_headers": {"size": "-1536"}}, b"x" * 600))
    with pytest.raises(FileFormatError):
        list_images(path)


def test_a_gigabyte_of_name_is_not_read(tmp_path):
    path = tmp_path / "s.tar"
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        member = tarfile.TarInfo("././@LongLink")
        member.type, member.size = kind, 1 << 30
        with open(path, "wb") as file:
            file.write(member.tobuf(tarfile.GNU_FORMAT))
            file.truncate(1 << 31)  # sparse: takes no room
        with pytest.raises(FileFormatError, match="1073741824 bytes"):
            list_images(path)


def test_damage_between_members_is_not_taken_for_the_end(tmp_path):
    path = shard(tmp_path / "s.tar", ({"name": "a.jpg"}, b"x"), ({"name": "b.jpg"}, b"y"))
    data = bytearray(path.read_bytes())
    data[1024 + 5] ^= 1  # in the second header
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="header"):
        list_images(path)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x1f\x8b" + bytes(2000), bytes(100), b"x" * 5000])
def test_files_that_are_no_tar_are_rejected(tmp_path, data):
    (tmp_path / "s.tar").write_bytes(data)
    with pytest.raises(FileFormatError, match=r"s\.tar: .*tar"):
        list_images(tmp_path / "s.tar")
