"""Test MATLAB files crafted to attack a reader."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io

from matfiles import HEADER, part, variable
from mutations import RECORDS, SPEC
from preimage.errors import FileFormatError
from preimage.io.arrays import mat5, read_array_file, write_array_file


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((2, 2, 31), bytes(4)), "shape"),
        (((2, 2, 31), bytes(2 * 2 * 31 * 8)), "shape"),
        (((1 << 30, 1 << 30, 31), bytes(4)), "shape"),
        (((-2, -2, 31), bytes(4)), "name or size"),
        (((2,), bytes(8)), "dimensions"),
        (((1,) * 40, bytes(4)), "dimensions"),
    ],
)
def test_inconsistent_variables_are_rejected(tmp_path, arguments, words, compress):
    (tmp_path / "f.mat").write_bytes(HEADER + variable(*arguments, compress=compress))
    with pytest.raises(FileFormatError, match=words):
        read_array_file(tmp_path / "f.mat", SPEC, "matlab")


def test_stored_types_and_names_that_do_not_exist(tmp_path):
    data = np.zeros((2, 2, 31), np.float32).tobytes()
    for options, words in [
        ({"stored": 8}, "type 8"),  # SciPy would crash, here and for the next two
        ({"stored": 14}, "type 14"),
        ({"stored": 60_000}, "type 60000"),
        ({"name": b"_a"}, "'_a'"),
        ({"name": b"n" * 70_000}, "header"),  # SciPy would fill any number of bytes
        ({"kind": 99}, "class"),
        ({"kind": 4, "stored": 18}, r"'a'.*encoding"),
        ({"name": b"n" * 64}, "name"),
    ]:
        (tmp_path / "f.mat").write_bytes(HEADER + variable((2, 2, 31), data, **options))
        with pytest.raises(FileFormatError, match=words):
            read_array_file(tmp_path / "f.mat", SPEC, "matlab")


@pytest.mark.parametrize(("kind", "stored"), [(9, "f4"), (9, "u2"), (7, "f8")])
def test_numbers_stored_in_a_larger_type(tmp_path, kind, stored):
    code = {"u2": 4, "f4": 7, "f8": 9}[stored]
    data = np.full((128, 6), 1e30 if stored == "f8" else 300).astype(stored).tobytes()
    (tmp_path / "f.mat").write_bytes(HEADER + variable((128, 6), data, kind=kind, stored=code))
    with open(tmp_path / "f.mat", "rb") as file:
        (found,) = mat5.variables(file)
        with pytest.raises(ValueError, match=r"'a'.*stored"):
            mat5.read(file, found)


def test_two_variables_of_one_name(tmp_path):
    one = variable((2, 2, 31), np.zeros((2, 2, 31), np.float32).tobytes())
    (tmp_path / "f.mat").write_bytes(HEADER + one + one)
    with pytest.raises(FileFormatError, match="same name"):
        read_array_file(tmp_path / "f.mat", SPEC, "matlab")


def test_a_zlib_stream_that_goes_on_is_not_followed(tmp_path):
    """The variable needs 496 bytes; the stream inflates to 64 MB."""
    element = variable((2, 2, 31), np.zeros((2, 2, 31), np.float32).tobytes())
    stream = zlib.compressobj(9)
    pieces = [stream.compress(element), *(stream.compress(bytes(1 << 20)) for _ in range(64)), stream.flush()]
    bomb = b"".join(pieces)
    (tmp_path / "f.mat").write_bytes(HEADER + struct.pack("<II", 15, len(bomb)) + bomb)
    file = read_array_file(tmp_path / "f.mat", SPEC, "matlab")
    with pytest.raises(FileFormatError, match=r"'a'.*damaged: Did not fully consume"):
        file[0]


@pytest.mark.parametrize(
    "rest",
    [struct.pack("<II", 1, 1 << 30), part(1, b"a") + struct.pack("<II", 7, 1 << 30)],
    ids=["name", "numbers"],
)
def test_parts_that_inflate_a_thousandfold(tmp_path, rest):
    """A name or an array inflates to 1 GB, which SciPy would allocate."""
    start = struct.pack("<II", 14, 1 << 31) + part(6, struct.pack("<II", 7, 0)) + part(5, struct.pack("<3i", 2, 2, 31))
    stream = zlib.compressobj(1)
    pieces = [stream.compress(start + rest), *(stream.compress(bytes(1 << 20)) for _ in range(256)), stream.flush()]
    bomb = b"".join(pieces)
    (tmp_path / "f.mat").write_bytes(HEADER + struct.pack("<II", 15, len(bomb)) + bomb)
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=r"header|shape"):
            read_array_file(tmp_path / "f.mat", SPEC, "matlab")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_large_variable_is_rejected_before_it_is_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr("preimage.io.arrays.stored_arrays.MAX_ARRAY_BYTES", 1 << 20)
    (tmp_path / "f.mat").write_bytes(HEADER + variable((100, 100, 31), bytes(100 * 100 * 31 * 4), compress=True))
    assert (tmp_path / "f.mat").stat().st_size < 1 << 12
    with pytest.raises(FileFormatError, match=r"1048576 bytes.*1240000"):
        read_array_file(tmp_path / "f.mat", SPEC, "matlab")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("preimage_keys", '["a/0","../b","c"]', "keys"),
        ("preimage_keys", '["a/0","a/0","c"]', "key 'a/0'"),
        ("preimage_keys", "[" * 100_000, "keys"),
        ("preimage_keys", "[" + "[]," * 1_700_000 + "[]]", "keys"),
        ("preimage_keys", '["a"]', "keys"),
        ("preimage_keys", np.zeros(3), r"'preimage_keys'.*text"),
        ("preimage_spec", "{}", "spec"),
        ("preimage_spec", " " * 70_000, "70000"),
        ("preimage_convention", "fortran", r"convention|convention"),
        ("preimage_sizes", np.zeros((3, 4)), "sizes"),
        ("preimage_sizes", np.full((3, 4), np.nan), "sizes"),
        ("preimage_sizes", np.full((3, 4), 1e300), "sizes"),
        ("preimage_sizes", np.ones((200_001, 4)), "sizes"),
        ("preimage_sizes", np.ones((3, 3)), "sizes"),
        ("preimage_sizes", None, "preimage_sizes"),
        ("image_00003", None, "3 keys"),
        ("image_00004", np.zeros((2, 3, 31)), r"'image_00004'.*key"),
    ],
)
def test_inconsistent_metadata_is_rejected(tmp_path, name, value, words):
    path = tmp_path / "f.mat"
    write_array_file(path, SPEC, RECORDS, convention="matlab")
    found = {key: array for key, array in scipy.io.loadmat(path).items() if not key.startswith("__")}
    found[name] = value
    scipy.io.savemat(path, {key: entry for key, entry in found.items() if entry is not None})
    with pytest.raises(FileFormatError, match=words):
        read_array_file(path)
