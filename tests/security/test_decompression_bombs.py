"""Test small files that claim or inflate to much more: they are read or rejected in bounded memory and time."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tifffile
import torch
from PIL import Image

from image_attacks import RGB, claim, encode, png, png_bomb
from matfiles import HEADER, part
from mutations import SPEC
from own_files import change_config, write_inverter
from paths import ROOT

MEMORY = 128 << 20  # bytes, in addition to the process before
SECONDS = 8  # of the processor, for eleven readers; a loop over what the files claim takes minutes
HUGE = 1 << 30
SMALL_ROW = zlib.compress(bytes(9 * 64))


def deflated(size: int, start: bytes = b"") -> bytes:
    """Return a zlib stream of `start` and zeros, by repeating one compressed block of them."""

    def blocks(data: bytes) -> bytes:
        stream = zlib.compressobj(9, zlib.DEFLATED, -15)
        return stream.compress(data) + stream.flush(zlib.Z_FULL_FLUSH)

    checksum = zlib.adler32(start)
    low, high = checksum & 0xFFFF, checksum >> 16  # zeros change the high half only
    checksum = (high + size * low) % 65521 << 16 | low
    return b"\x78\xda" + blocks(start) + blocks(bytes(1 << 20)) * (size >> 20) + b"\3\0" + struct.pack(">I", checksum)


def npy(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).ljust(117).encode() + b"\n"
    return b"\x93NUMPY\1\0" + (118).to_bytes(2, "little") + header


def npz(path: Path, members: dict[str, bytes], zeros: int = 0) -> None:
    """Write an archive whose members end with so many zero bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, start in members.items():
            with archive.open(name, "w") as member:
                member.write(start)
                for _ in range(zeros >> 20):
                    member.write(bytes(1 << 20))


def overlapping_members(path: Path) -> None:
    """Write an archive in which ten thousand names share the same compressed 64 MB (D. Fifield, 2019)."""
    npz(path, {"a.npy": npy((31, 720, 720))}, zeros=64 << 20)
    data = path.read_bytes()
    end = data.rindex(b"PK\5\6")
    start = int.from_bytes(data[end + 16 : end + 20], "little")
    entry = data[start:end]
    entries = b"".join(entry.replace(b"a.npy", b"%05d" % number) for number in range(10_000))
    record = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 10_000, 10_000, len(entries), start, 0)
    path.write_bytes(data[:start] + entries + record)


def gif(width: int, height: int) -> bytes:
    """Return a GIF of 24 × 16 pixels whose only frame claims to be larger."""
    data = bytearray(encode(Image.fromarray(RGB), "GIF"))
    at = data.index(b",\0\0\0\0" + struct.pack("<HH", 24, 16))
    data[at + 5 : at + 9] = struct.pack("<HH", width, height)
    return bytes(data)


def tiff(tags: dict[int, int], **options: Any) -> bytes:
    """Return a TIFF whose tags have been changed."""
    out = io.BytesIO()
    tifffile.imwrite(out, RGB, photometric="rgb", **options)
    data = bytearray(out.getvalue())
    for tag, value in tags.items():
        at = next(at for kind in (3, 4) if (at := data.find(struct.pack("<HH", tag, kind))) > 0)
        data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)
    return bytes(data)


def tiff_with_bomb() -> bytes:
    """Return a TIFF of 24 × 16 pixels whose Deflate strip inflates to a gigabyte."""
    data, strip = bytearray(tiff({}, compression="zlib")), deflated(HUGE)
    for tag, value in ((273, len(data)), (279, len(strip))):
        at = next(at for kind in (3, 4) if (at := data.find(struct.pack("<HH", tag, kind))) > 0)
        data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)
    return bytes(data) + strip


def jpeg_of_scans(side: int, count: int) -> bytes:
    """Return a progressive JPEG in which every one of the scans refines all blocks."""
    data = encode(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def expanded_tensor(path: Path) -> None:
    """Write a bfloat16 tensor of one stored value, repeated 10¹² times without memory."""
    torch.save({"a": torch.ones(1, dtype=torch.bfloat16).expand(10**6, 10**6)}, path)


def legacy_storage(path: Path) -> None:
    """Write a PyTorch file of the old format with a storage of 10¹² values."""
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"K\x03N", pickle.dumps(10**12, 2)[2:-1] + b"N"))


def hdf5(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], stored: bytes) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("a/features", shape, "<f4", chunks=chunks, compression="gzip")
        dataset.id.write_direct_chunk((0,) * len(shape), stored)


def matlab(path: Path) -> None:
    start = struct.pack("<II", 14, 1 << 31) + part(6, struct.pack("<II", 7, 0))
    start += part(5, struct.pack("<3i", 2, 2, 31)) + struct.pack("<II", 1, HUGE)
    stream = deflated(HUGE, start)
    path.write_bytes(HEADER + struct.pack("<II", 15, len(stream)) + stream)


def sparse_tar(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a.jpg")
        member.pax_headers = {"GNU.sparse.size": str(1 << 50), "GNU.sparse.map": "0,1," * 1000 + "0,1"}
        archive.addfile(member)


def sparse(path: Path, start: bytes, size: int) -> None:
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(size)


def config(path: Path) -> None:
    write_inverter(path.parent, "config.json")
    folder = (path.parent / "inverter").rename(path)
    change_config(folder, {"training": ["[" * 1000] * 20_000})


BOMBS: dict[str, Callable[[Path], object]] = {
    "pixels.png": lambda path: path.write_bytes(png_bomb(30_000)),
    "rows.png": lambda path: path.write_bytes(png(64, deflated(HUGE))),
    "profile.png": lambda path: path.write_bytes(png(64, SMALL_ROW, (b"iCCP", b"a\0\0" + deflated(HUGE)))),
    "text.png": lambda path: path.write_bytes(png(64, SMALL_ROW, *[(b"zTXt", b"a\0\0" + deflated(HUGE >> 4))] * 16)),
    "note.png": lambda path: path.write_bytes(png(64, SMALL_ROW, (b"iTXt", b"a\0\1\0\0\0" + deflated(HUGE)))),
    "screen.gif": lambda path: path.write_bytes(claim("GIF", 60_000, 50_000)),
    "frame.gif": lambda path: path.write_bytes(gif(60_000, 50_000)),
    "pixels.bmp": lambda path: path.write_bytes(claim("BMP", 60_000, 50_000)),
    "pixels.webp": lambda path: path.write_bytes(claim("WEBP", 16_384, 16_384)),
    "pixels.jpg": lambda path: path.write_bytes(claim("JPEG", 65_000, 65_000)),
    "scans.jpg": lambda path: path.write_bytes(jpeg_of_scans(4096, 5000)),
    "pixels.tif": lambda path: path.write_bytes(tiff({256: 60_000, 257: 50_000})),
    "lzw.tif": lambda path: path.write_bytes(claim("TIFF", 60_000, 50_000)),
    "rows.tif": lambda path: path.write_bytes(tiff({278: (1 << 32) - 1}, compression="zlib")),
    "samples.tif": lambda path: path.write_bytes(tiff({277: 65_535})),
    "strips.tif": lambda path: path.write_bytes(tiff({257: 7_000_000, 278: 1})),
    "deflate.tif": lambda path: path.write_bytes(tiff_with_bomb()),
    "array.npy": lambda path: path.write_bytes(npy((1 << 20, 31, 1 << 10, 1 << 10))),
    "array.npz": lambda path: npz(path, {"a.npy": npy((31, 1 << 20, 1 << 10))}, zeros=HUGE >> 5),
    "more.npz": lambda path: npz(path, {"a.npy": npy((31, 2, 3))}, zeros=HUGE >> 2),
    "keys.npz": lambda path: npz(path, {"a.npy": npy((1, 31, 1, 1)) + bytes(124), "keys.npy": npy((1 << 40,), "<U9")}),
    "overlap.npz": overlapping_members,
    "name.mat": matlab,
    "chunk.h5": lambda path: hdf5(path, (31, 2, 3), (31, 2, 3), deflated(HUGE)),
    "chunks.h5": lambda path: hdf5(path, (31, 1 << 10, 1 << 14), (31, 1 << 10, 1 << 10), deflated(1 << 27)),
    "expanded.pth": expanded_tensor,
    "storage.pth": legacy_storage,
    "compressed.pth": lambda path: npz(path, {"a/data.pkl": b"\x80\x02}.", "a/data/0": b""}, zeros=HUGE >> 5),
    "sparse.tar": sparse_tar,
    "spec.json": lambda path: sparse(path, b'{"representation": "', 2 * HUGE),
    "features.safetensors": lambda path: sparse(path, (1 << 33).to_bytes(8, "little") + b"{", 2 * HUGE),
    "inverter": config,
}


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return what reading each file took, by its name."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("needs /proc/self/clear_refs")
    folder = tmp_path_factory.mktemp("bombs")
    good = folder / "good.json"
    good.write_text(SPEC.to_json())
    for name, write in BOMBS.items():
        try:
            write(folder / name)
        except pytest.skip.Exception:
            continue
        assert name.startswith(("spec", "features", "inverter")) or (folder / name).stat().st_size < 10 << 20
    files = [str(good), *(str(folder / name) for name in BOMBS if (folder / name).exists())]
    environment = os.environ | {"READ_ANYTHING_OUTPUT": str(folder / "output"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "read_anything.py"), "--measure", *files]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["path"] for line in lines] == files, "a process was killed"
    return {Path(line["path"]).name: line for line in lines}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_bounded_memory_and_time(readings: dict[str, dict[str, Any]], name: str) -> None:
    if name not in readings:
        pytest.skip("h5py is not installed")
    reading = readings[name]
    assert not [error for error in reading["errors"].values() if error is not None and error.startswith("unexpected")]
    assert reading["peak"] < MEMORY
    assert reading["seconds"] < SECONDS
