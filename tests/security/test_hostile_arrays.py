"""MATLAB and HDF5 files made to harm a reader. MUTATIONS=2000 tries more of them."""

import os
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io

from matfiles import HEADER, part, variable
from preimage.errors import FileFormatError
from preimage.spec import Spec
from preimage.storage import FeatureRecord
from preimage.storage.formats import mat5, read_foreign, write_foreign

MUTATIONS = int(os.environ.get("MUTATIONS", "300"))
SPEC = Spec("hog", "v", 31, 8, {"cell_size": 8})
STACK = np.random.default_rng(17).standard_normal((3, 31, 2, 3)).astype(np.float32)
RECORDS = [FeatureRecord(f"a/{i}", features, (9, 9), (16, 24)) for i, features in enumerate(STACK)]

# Damage may take away, or change, what a file tells of itself: then the caller is asked, or contradicted.
ASKED = (
    "plain arrays do not say",
    "does not say how",
    "holds other features",
    "says that its layout is",
    "cannot be turned back",
)


def h5py_or_skip():
    return pytest.importorskip("h5py")


def mutated(seed, number):
    """Bytes of a file, a few changed, more often near the beginning; some cut short."""
    rng = np.random.default_rng(number)
    data = bytearray(seed)
    for _ in range(rng.integers(1, 4)):
        position = rng.integers(len(data)) if number % 2 else int(len(data) * rng.random() ** 3)
        data[position] = rng.choice([0, 1, 255, int(rng.integers(256)), data[position] ^ (1 << int(rng.integers(8)))])
    return data[: rng.integers(len(data))] if number % 7 == 0 else data


def try_mutations(path, seeds):
    """Reads many damaged files through; gives how many were accepted."""
    accepted = 0
    for number in range(MUTATIONS):
        path.write_bytes(mutated(seeds[number % len(seeds)], number))
        try:
            file = read_foreign(path, SPEC, "matlab" if number % len(seeds) and path.suffix == ".mat" else None)
            assert all(record.features.shape[0] == 31 for record in file)
            accepted += 1
        except FileFormatError as error:
            assert str(path) in str(error)
        except ValueError as error:
            assert any(words in str(error) for words in ASKED), error
    return accepted


def test_mutations_of_matlab_files(tmp_path):
    path = tmp_path / "f.mat"
    write_foreign(path, SPEC, RECORDS, layout="matlab")
    seeds = [path.read_bytes()]
    for compressed in (False, True):
        arrays = {f"i{i}": features.transpose(1, 2, 0) for i, features in enumerate(STACK)}
        scipy.io.savemat(path, arrays, do_compression=compressed)
        seeds.append(path.read_bytes())
    assert 0 < try_mutations(path, seeds) < MUTATIONS


def test_mutations_of_hdf5_files(tmp_path):
    h5py = h5py_or_skip()
    path = tmp_path / "f.h5"
    write_foreign(path, SPEC, RECORDS)
    seeds = [path.read_bytes()]
    for version in ("earliest", "latest"):
        for options in ({}, {"compression": "gzip", "shuffle": True, "fletcher32": True}, {"compression": "lzf"}):
            with h5py.File(path, "w", libver=version) as file:
                file.attrs["spec"] = np.bytes_(SPEC.to_json().encode())
                file.attrs["note"] = SPEC.to_json()
                for record in RECORDS:
                    group = file.create_group(record.key)
                    group.create_dataset("features", data=record.features, **options)
                    group["image_size"] = np.array([24, 16])
            seeds.append(path.read_bytes())
    assert 0 < try_mutations(path, seeds) < MUTATIONS


# MATLAB


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((2, 2, 31), bytes(4)), "which its size does not fit"),
        (((2, 2, 31), bytes(2 * 2 * 31 * 8)), "which its size does not fit"),
        (((1 << 30, 1 << 30, 31), bytes(4)), "which its size does not fit"),
        (((-2, -2, 31), bytes(4)), "damaged name or size"),
        (((2,), bytes(8)), "without dimensions"),
        (((1,) * 40, bytes(4)), "without dimensions"),
    ],
)
def test_variables_that_lie(tmp_path, arguments, words, compress):
    (tmp_path / "f.mat").write_bytes(HEADER + variable(*arguments, compress=compress))
    with pytest.raises(FileFormatError, match=words):
        read_foreign(tmp_path / "f.mat", SPEC, "matlab")


def test_stored_types_and_names_that_do_not_exist(tmp_path):
    data = np.zeros((2, 2, 31), np.float32).tobytes()
    for options, words in [
        ({"stored": 8}, "data of type 8"),  # SciPy alone would end the interpreter, here and with the next two
        ({"stored": 14}, "data of type 14"),
        ({"stored": 60_000}, "data of type 60000"),
        ({"name": b"_a"}, "'_a' is of a name that MATLAB does not give"),
        ({"name": b"n" * 70_000}, "description is damaged"),  # SciPy would fill any number of bytes
        ({"kind": 99}, "unknown class"),
        ({"kind": 4, "stored": 18}, "'a' is text of another encoding"),
        ({"name": b"n" * 64}, "damaged name"),
    ]:
        (tmp_path / "f.mat").write_bytes(HEADER + variable((2, 2, 31), data, **options))
        with pytest.raises(FileFormatError, match=words):
            read_foreign(tmp_path / "f.mat", SPEC, "matlab")


@pytest.mark.parametrize(("kind", "stored"), [(9, "f4"), (9, "u2"), (7, "f8")])
def test_numbers_stored_in_a_larger_type(tmp_path, kind, stored):
    code = {"u2": 4, "f4": 7, "f8": 9}[stored]
    data = np.full((128, 6), 1e30 if stored == "f8" else 300).astype(stored).tobytes()
    (tmp_path / "f.mat").write_bytes(HEADER + variable((128, 6), data, kind=kind, stored=code))
    with open(tmp_path / "f.mat", "rb") as file:
        (found,) = mat5.variables(file)
        with pytest.raises(ValueError, match=r"'a' is damaged: .* stored as"):
            mat5.read(file, found)


def test_two_variables_of_one_name(tmp_path):
    one = variable((2, 2, 31), np.zeros((2, 2, 31), np.float32).tobytes())
    (tmp_path / "f.mat").write_bytes(HEADER + one + one)
    with pytest.raises(FileFormatError, match="two variables have one name"):
        read_foreign(tmp_path / "f.mat", SPEC, "matlab")


def test_a_zlib_stream_that_goes_on_is_not_followed(tmp_path):
    """The variable asks for 496 bytes; the stream would give 64 MB."""
    element = variable((2, 2, 31), np.zeros((2, 2, 31), np.float32).tobytes())
    stream = zlib.compressobj(9)
    pieces = [stream.compress(element), *(stream.compress(bytes(1 << 20)) for _ in range(64)), stream.flush()]
    bomb = b"".join(pieces)
    (tmp_path / "f.mat").write_bytes(HEADER + struct.pack("<II", 15, len(bomb)) + bomb)
    file = read_foreign(tmp_path / "f.mat", SPEC, "matlab")
    with pytest.raises(FileFormatError, match="'a' is damaged: Did not fully consume"):
        file[0]


@pytest.mark.parametrize(
    "rest",
    [struct.pack("<II", 1, 1 << 30), part(1, b"a") + struct.pack("<II", 7, 1 << 30)],
    ids=["name", "numbers"],
)
def test_parts_that_inflate_a_thousandfold(tmp_path, rest):
    """A name, or numbers, of 1 GB: SciPy alone would fill as much memory."""
    start = struct.pack("<II", 14, 1 << 31) + part(6, struct.pack("<II", 7, 0)) + part(5, struct.pack("<3i", 2, 2, 31))
    stream = zlib.compressobj(1)
    pieces = [stream.compress(start + rest), *(stream.compress(bytes(1 << 20)) for _ in range(256)), stream.flush()]
    bomb = b"".join(pieces)
    (tmp_path / "f.mat").write_bytes(HEADER + struct.pack("<II", 15, len(bomb)) + bomb)
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=r"description is damaged|which its size does not fit"):
            read_foreign(tmp_path / "f.mat", SPEC, "matlab")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_large_variable_is_refused_before_it_is_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr("preimage.storage.formats.arrays.MAX_ARRAY_BYTES", 1 << 20)
    (tmp_path / "f.mat").write_bytes(HEADER + variable((100, 100, 31), bytes(100 * 100 * 31 * 4), compress=True))
    assert (tmp_path / "f.mat").stat().st_size < 1 << 12
    with pytest.raises(FileFormatError, match="1240000 bytes; 1048576 are allowed"):
        read_foreign(tmp_path / "f.mat", SPEC, "matlab")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("preimage_keys", '["a/0","../b","c"]', "its keys are damaged"),
        ("preimage_keys", '["a/0","a/0","c"]', "two images have one key"),
        ("preimage_keys", "[" * 100_000, "its keys cannot be read"),
        ("preimage_keys", "[" + "[]," * 1_700_000 + "[]]", "its keys cannot be read"),
        ("preimage_keys", '["a"]', "its keys are damaged"),
        ("preimage_keys", np.zeros(3), "'preimage_keys' is no text"),
        ("preimage_spec", "{}", "its spec cannot be read"),
        ("preimage_spec", " " * 70_000, "70000 characters"),
        ("preimage_layout", "fortran", "layout is one of"),
        ("preimage_sizes", np.zeros((3, 4)), "sizes of its images are damaged"),
        ("preimage_sizes", np.full((3, 4), np.nan), "sizes of its images are damaged"),
        ("preimage_sizes", np.full((3, 4), 1e300), "sizes of its images are damaged"),
        ("preimage_sizes", np.ones((200_001, 4)), "sizes of its images are damaged"),
        ("preimage_sizes", np.ones((3, 3)), "sizes of its images are damaged"),
        ("preimage_sizes", None, "lacks preimage_sizes"),
        ("image_00003", None, "holds 3 keys, and arrays of fewer images"),
        ("image_00004", np.zeros((2, 3, 31)), "'image_00004' that has no key"),
    ],
)
def test_notes_that_lie(tmp_path, name, value, words):
    path = tmp_path / "f.mat"
    write_foreign(path, SPEC, RECORDS, layout="matlab")
    found = {key: array for key, array in scipy.io.loadmat(path).items() if not key.startswith("__")}
    found[name] = value
    scipy.io.savemat(path, {key: entry for key, entry in found.items() if entry is not None})
    with pytest.raises(FileFormatError, match=words):
        read_foreign(path)


# HDF5


@pytest.fixture
def elsewhere(tmp_path):
    """A file that must not be opened."""
    h5py = h5py_or_skip()
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["a/features"] = STACK[0]
    np.zeros(31 * 6, np.float32).tofile(tmp_path / "secret.bin")
    return tmp_path / "secret.h5"


def soft(h5py, file, other):
    file["a"] = h5py.SoftLink("/b")
    file["b/features"] = STACK[0]


def external(h5py, file, other):
    file["a"] = h5py.ExternalLink(str(other), "/a")


def external_inside(h5py, file, other):
    file.create_group("a")["features"] = h5py.ExternalLink(str(other), "/a/features")


def external_storage(h5py, file, other):
    storage = [(str(other.with_name("secret.bin")), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("a/features", (31, 2, 3), "<f4", external=storage)


def virtual(h5py, file, other):
    layout = h5py.VirtualLayout((31, 2, 3), "<f4")
    layout[:] = h5py.VirtualSource(str(other), "a/features", (31, 2, 3))
    file.create_virtual_dataset("a/features", layout)


def circle(h5py, file, other):
    outer = file.create_group("a")
    outer.create_group("b")["c"] = outer


def twice(h5py, file, other):
    file["a/features"] = STACK[0]
    file.create_group("b")["features"] = file["a/features"]


def stack(h5py, file, other):
    file["a/features"] = STACK


def nothing_stored(h5py, file, other):
    file.create_dataset("a/features", (31, 4000, 4000), "<f4")


def nothing_stored_in_chunks(h5py, file, other):
    file.create_dataset("a/features", (31, 4000, 4000), "<f4", chunks=(1, 100, 100), compression="gzip")


def other_filter(h5py, file, other):
    file.create_dataset("a/features", data=STACK[0], scaleoffset=3, chunks=STACK[0].shape)


def large_chunks(h5py, file, other):
    shape = (None, None, None)
    file.create_dataset("a/features", data=STACK[0], maxshape=shape, chunks=(31, 500, 500), compression="gzip")


def too_large(h5py, file, other):
    file.create_dataset("a/features", (31, 10**7, 10**7), "<f4", chunks=(1, 10, 10))


def long_spec(h5py, file, other):
    file["a/features"] = STACK[0]
    file["a"].attrs.create("spec", np.bytes_(b" " * 60_000))


def list_spec(h5py, file, other):
    file["a/features"] = STACK[0]
    file.attrs["spec"] = np.array([b"{}", b"{}"])


def climbing(h5py, file, other):
    file.create_group("..")["features"] = STACK[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (soft, "is a link to elsewhere"),
        (external, "is a link to elsewhere"),
        (external_inside, "is a link to elsewhere"),
        (external_storage, "lies in another file"),
        (virtual, "lies in another file"),
        (circle, "linked to twice"),
        (twice, "linked to twice"),
        (stack, "3 images in the place of 1"),
        (nothing_stored, "but only 0 are stored"),
        (nothing_stored_in_chunks, "but only 0 are stored"),
        (other_filter, "uses HDF5 filters"),
        (large_chunks, "has chunks of"),
        (too_large, "are allowed"),
        (long_spec, "spec cannot be read"),
        (list_spec, "its attribute spec is no text"),
        (climbing, "relative path"),
    ],
)
def test_what_an_hdf5_file_may_not_do(tmp_path, elsewhere, make, words):
    h5py = h5py_or_skip()
    with h5py.File(tmp_path / "f.h5", "w") as file:
        make(h5py, file, elsewhere)
    with pytest.raises(FileFormatError, match=rf"f\.h5: .*{words}"):
        read_foreign(tmp_path / "f.h5", SPEC)


def test_a_chunk_that_inflates_beyond_its_size(tmp_path):
    h5py = h5py_or_skip()
    with h5py.File(tmp_path / "f.h5", "w") as file:
        dataset = file.create_dataset("a/features", (31, 2, 3), "<f4", chunks=(31, 2, 3), compression="gzip")
        dataset.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(64 << 20)))
    file = read_foreign(tmp_path / "f.h5", SPEC)
    with pytest.raises(FileFormatError, match="inflates to more than the 752 bytes"):
        file[0]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_nothing_else_is_opened(tmp_path, elsewhere):
    """Of the files above, none leaves another file of the folder open."""
    h5py = h5py_or_skip()
    for make in (external, external_inside, external_storage, virtual):
        with h5py.File(tmp_path / "f.h5", "w") as file:
            make(h5py, file, elsewhere)
        with pytest.raises(FileFormatError):
            read_foreign(tmp_path / "f.h5", SPEC)
        opened = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)]
        assert not [name for name in opened if "secret" in name]
