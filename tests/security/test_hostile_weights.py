"""Test files of weights crafted to attack a reader."""

from __future__ import annotations

import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from caffemodels import LAYERS, blob, data, legacy_shape, message, number, shape, v1, v2, varint
from preimage.errors import FileFormatError
from preimage.io.weights import open_weights
from preimage.pipelines.weights import import_weights


def read(path: Path) -> int:
    """Read all arrays and return the number of values."""
    return sum(array.load().size for array in open_weights(path).arrays)


@pytest.mark.parametrize("version", [v1, v2])
def test_caffemodels_cut_short(tmp_path: Path, version: Callable[..., bytes]) -> None:
    """The file is cut anywhere except between two layers, where it is a valid file of fewer layers."""
    path = tmp_path / "w.caffemodel"
    whole = version(LAYERS)
    valid = {len(version(LAYERS[:count])): count for count in range(2, len(LAYERS) + 1)}
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        if size in valid:
            assert len(open_weights(path).layers) == valid[size]
            continue
        with pytest.raises(FileFormatError, match=r"short|empty|no layers|no weights") as caught:
            read(path)
        assert str(path) in str(caught.value)


def _v2_layer(*blobs: bytes, name: bytes = b"conv1") -> bytes:
    return message(100, message(1, name), *(message(7, one) for one in blobs))


TWO = np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0", r"byte 0.*number 0"),
        (b"garbage " * 20, r"field|short"),
        (b"name: 'CaffeNet'\nlayer {\n", r"field|short"),
        (b"\xff" * 100, "64 bits"),
        (message(1, b"net"), "layers"),
        (message(100, message(1, b"data")), "weights"),
        (varint(100 << 3 | 2) + varint(1 << 62), rf"{1 << 62} bytes.*0"),
        (message(100, varint(7 << 3 | 2) + varint(200), bytes(100)), r"100 of 200 bytes.*field 7.*byte 3"),
        (number(100, 5), r"field 100.*bytes.*varint"),
        (message(100, message(7, blob(TWO))), r"blobs.*name"),
        (_v2_layer(blob(TWO), name=b"\xff\xfe"), "decode"),
        (_v2_layer(blob(TWO), name=b"n" * 2000), r"name.*1024 bytes.*2000"),
        (_v2_layer(data(TWO)), r"'conv1\.weight'.*blob.*shape"),
        (_v2_layer(shape([3]) + data(TWO)), r"'conv1\.weight'.*\(3,\).*2 values"),
        (_v2_layer(shape([1 << 40, 1 << 40]) + data(TWO)), "2 values"),
        (_v2_layer(shape([(1 << 64) - 2, (1 << 64) - 1]) + data(TWO)), "2 values"),
        (_v2_layer(shape([0]) + data(TWO[:0])), r"\(0,\).*0 values"),
        (_v2_layer(legacy_shape([1 << 31, 1 << 31]) + data(TWO)), "2 values"),
        (_v2_layer(shape([1] * 33) + data(TWO[:1])), r"shape.*32"),
        (_v2_layer(shape([1] * 33, packed=False) + data(TWO[:1])), r"shape.*32"),
        (_v2_layer(shape([1]) + message(5, b"abc")), r"4.* 3"),
        (_v2_layer(shape([4]) + data(TWO) + data(TWO.astype(np.float64))), "single and double"),
        (_v2_layer(shape([2]) + number(5, 7)), r"field 5.*4 bytes.*varint"),
        (_v2_layer(blob(TWO)) * 2, r"two layers.*'conv1'"),
        (_v2_layer(*[blob(TWO)] * 101), "100 blobs"),
        (message(100, message(1, b"a")) * 10_001, "10000 layers"),
        (message(2, message(1, message(1, b"conv1"))), "first format"),
        (_v2_layer(blob(TWO) + varint(11 << 3 | 3)), r"number 11.*3"),
    ],
    ids=str,
)
def test_inconsistent_caffemodels_are_rejected(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "w.caffemodel"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=words):
        read(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_v2_layer(shape([1 << 30, 1]) + data(TWO[:0]) * 200_000), "0 values"),
        (message(100, message(1, b"conv1"), message(7) * 200_000), "100 blobs"),
    ],
    ids=["empty fields, a huge shape", "empty blobs"],
)
def test_inconsistent_file_uses_no_memory(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "w.caffemodel"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=words):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_bombs_are_detected_by_their_headers(tmp_path: Path) -> None:
    """A file of 128 kB contains 128 MB of zeros; the wrong shape is detected before anything is inflated."""
    path = tmp_path / "w.npz"
    header = b"\x93NUMPY\1\0" + (118).to_bytes(2, "little")
    header += repr({"descr": "<f4", "fortran_order": False, "shape": (1 << 25,)}).ljust(117).encode() + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("conv1.weight.npy", "w") as member:
        member.write(header)
        for _ in range(32):
            member.write(bytes(1 << 22))
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=r"conv1\.bias"):
            import_weights(path, variant="bvlc", output=tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    torch.save({"conv1.weight": _Evil()}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(FileFormatError, match="tensors") as caught:
        read(path)
    assert "it contains a pickled posix.mkdir" in str(caught.value)
    assert "weights_only" not in str(caught.value), "torch advises to run the code"
    path.write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(FileFormatError, match="tensors"):
        read(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], r"state_dict.*list"),
        ({"epoch": 3}, "tensors"),
        ({"a": torch.eye(2).to_sparse()}, r"'a'.*sparse_coo"),
        ({"a": torch.ones(2, device="meta")}, r"'a'.*meta"),
        (torch.nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear.*state_dict\(\)"),
        ({"g": {"a": torch.ones(2)}, "d": {"a": torch.ones(2)}}, "'g', 'd'"),
        (
            {"optimizer": {"state": {}, "lr": 0.1}, "epoch": 3},
            "'optimizer', 'epoch'",
        ),
    ],
    ids=str,
)
def test_other_things_in_a_pth(tmp_path: Path, content: object, words: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(FileFormatError, match=words):
        read(tmp_path / "w.pth")


def test_a_negative_view_is_read(tmp_path: Path) -> None:
    torch.save({"a": torch._neg_view(torch.ones(2))}, tmp_path / "w.pth")
    (array,) = open_weights(tmp_path / "w.pth").arrays
    assert array.load().tolist() == [-1, -1]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_rejected(tmp_path: Path) -> None:
    torch.save({"a": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, tmp_path / "w.pth")
    with pytest.raises(FileFormatError, match=r"'a'.*nested"):
        read(tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pth.tar", ".ckpt", ".bin", ".safetensors", ".npz", ".caffemodel"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 244408911\n", "git-lfs"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\x1f\x8b\x08\x00" + bytes(60), "gzip"),
        (b"not weights at all\n", "text"),
    ],
)
def test_files_that_are_no_weights_are_named(tmp_path: Path, suffix: str, content: bytes, words: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=f"looks like .*{words}") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_no_state_dict(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(FileFormatError, match=r"TorchScript.*state_dict\(\)"):
        read(tmp_path / "w.pt")


def test_compressed_archives_are_no_pth(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1000)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as old,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(FileFormatError, match="compressed"):
        read(tmp_path / "b.pth")
