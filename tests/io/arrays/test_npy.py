"""Test reading and writing of plain NumPy files."""

import gzip
import io
import os
import zipfile

import numpy as np
import pytest

from preimage.errors import FileFormatError
from preimage.io import FeatureFile, FeatureRecord
from preimage.io.arrays import read_array_file
from preimage.io.arrays.npy import read_numpy_features, write_numpy_features
from preimage.spec import Spec
from preimage.store import FeatureStore, write_features
from sizes import pairs

RNG = np.random.default_rng(3)
SPEC = Spec("hog", "v", 3, 8)
VECTORS = Spec("gist", "v", 5, None)
STACK = RNG.standard_normal((4, 3, 2, 6)).astype(np.float32)


def save(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_stack(tmp_path, dtype, order):
    array = np.asarray(STACK.astype(dtype), order=order)
    file = read_numpy_features(save(tmp_path / "s.npy", array), SPEC)
    assert isinstance(file, FeatureFile)
    assert tuple(file) == ("00000", "00001", "00002", "00003")
    assert pairs(file.processed_sizes) == ((16, 48),) * 4 == pairs(file.original_sizes)
    assert (file.spec, file.dtype) == (SPEC, np.dtype(dtype).name)
    native = np.dtype(dtype).newbyteorder("=")
    assert (file.stack().dtype, file[2].dtype) == (native, native)
    assert np.array_equal(file.stack(), array)
    assert np.array_equal(file["00002"], array[2])


def test_a_single_image_is_called_after_its_file(tmp_path):
    file = read_numpy_features(save(tmp_path / "cat.npy", STACK[0]), SPEC)
    assert tuple(file) == ("cat",)
    assert np.array_equal(file["cat"], STACK[0])


def test_vectors(tmp_path):
    array = RNG.standard_normal((7, 5))
    path = save(tmp_path / "v.npy", array)
    with pytest.raises(ValueError, match="processed_sizes"):
        read_numpy_features(path, VECTORS)
    file = read_numpy_features(path, VECTORS, processed_sizes=(64, 48))
    assert pairs(file.processed_sizes) == ((64, 48),) * 7
    assert np.array_equal(file.stack(), array)
    single = read_numpy_features(save(tmp_path / "w.npy", array[0]), VECTORS, processed_sizes=[(1, 2)])
    assert single[0].shape == (5,)


def test_doubles_beyond_float32_stay_doubles(tmp_path):
    array = np.array([[1e300, 1e-300, 1 + 2**-40, -np.inf, np.nan]])
    file = read_numpy_features(save(tmp_path / "v.npy", array), VECTORS, processed_sizes=(64, 48))
    assert (file.dtype, file[0].dtype) == ("float64", np.float64)
    assert np.array_equal(file[0], array[0], equal_nan=True)
    with pytest.raises(ValueError, match=r"1e\+300.*float32"):
        write_numpy_features(tmp_path / "w.npy", VECTORS, file.records())


def test_keys_and_sizes_from_the_caller(tmp_path):
    path = save(tmp_path / "s.npy", STACK)
    sizes = [(i + 1, 9) for i in range(4)]
    file = read_numpy_features(path, SPEC, keys=list("abcd"), processed_sizes=sizes)
    assert (tuple(file), pairs(file.processed_sizes)) == (tuple("abcd"), tuple(sizes))
    for options, words in [
        ({"keys": ["a"]}, r"s\.npy: 1 key for 4 images"),
        ({"keys": ["a", "b", "c", "a"]}, "key 'a'"),
        ({"keys": ["a", "b", "c", "../d"]}, "relative"),
        ({"processed_sizes": sizes[:3]}, "4"),
        ({"processed_sizes": (0, 4)}, "4"),
    ]:
        with pytest.raises(ValueError, match=words):
            read_numpy_features(path, SPEC, **options)


@pytest.mark.parametrize("savez", [np.savez, np.savez_compressed])
def test_npz_with_one_array_per_image(tmp_path, savez):
    savez(tmp_path / "f.npz", **{"d/a": STACK[0], "b": STACK[1].astype(np.float16), "c": STACK[2][:, :1]})
    file = read_numpy_features(tmp_path / "f.npz", SPEC)
    assert tuple(file) == ("d/a", "b", "c")
    assert pairs(file.processed_sizes) == ((16, 48), (16, 48), (8, 48))
    assert np.array_equal(file["d/a"], STACK[0])
    assert np.array_equal(file["b"], STACK[1].astype(np.float16))
    assert np.array_equal(file["c"], STACK[2][:, :1])
    assert [array.dtype for array in file.values()] == [np.float32, np.float16, np.float32]


def test_a_stack_of_several_dtypes_takes_the_widest(tmp_path):
    np.savez(tmp_path / "f.npz", a=STACK[0].astype(np.float16), b=STACK[1])
    file = read_numpy_features(tmp_path / "f.npz", SPEC)
    assert (file.dtype, file.stack().dtype) == ("float32", np.float32)
    assert np.array_equal(file.stack()[1], STACK[1])


def test_npz_with_a_single_stack_or_a_single_image(tmp_path):
    np.savez(tmp_path / "f.npz", features=STACK)
    assert np.array_equal(read_numpy_features(tmp_path / "f.npz", SPEC).stack(), STACK)
    np.savez(tmp_path / "g.npz", cat=STACK[0])
    assert tuple(read_numpy_features(tmp_path / "g.npz", SPEC)) == ("cat",)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 2, 2, 6)), r"\(3, h, w\).*\(4, 2, 2, 6\)"),
        (np.zeros((3, 2)), r"\(3, 2\)"),
        (np.float32(1), r"\(\)"),
        (np.zeros((0, 3, 2, 2)), "empty"),
        (np.zeros((3, 2, 2), np.uint8), r"float16, float32 or float64.*uint8"),
        (np.zeros((3, 2, 2), complex), "complex128"),
        (np.zeros((3, 2, 2), np.longdouble), "float16, float32 or float64"),
        (np.array([None, {}]), "Python objects"),
        (np.zeros(3, [("a", "f4")]), "float16, float32 or float64"),
    ],
)
def test_arrays_that_are_no_features(tmp_path, array, words):
    with pytest.raises(FileFormatError, match=words):
        read_numpy_features(save(tmp_path / "f.npy", array), SPEC)
    np.savez(tmp_path / "f.npz", a=array)
    with pytest.raises(FileFormatError, match=words):
        read_numpy_features(tmp_path / "f.npz", SPEC)


def test_npz_names_that_cannot_be_keys(tmp_path):
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        for name in ("a.npy", "../b.npy"):
            out = io.BytesIO()
            np.save(out, STACK[0])
            archive.writestr(name, out.getvalue())
    with pytest.raises(FileFormatError, match=r"'\.\./b'.*relative"):
        read_numpy_features(tmp_path / "f.npz", SPEC)


def test_other_files(tmp_path):
    for data in (b"", b"hello", b"PK\3\4" + bytes(50), b"\x93NUMPY", b"\x93NUMPY\1\0\xff\xff" + bytes(70)):
        (tmp_path / "f").write_bytes(data)
        with pytest.raises(FileFormatError, match="f: "):
            read_numpy_features(tmp_path / "f", SPEC)
    with pytest.raises(FileNotFoundError):
        read_numpy_features(tmp_path / "absent", SPEC)


def test_a_truncated_npy(tmp_path):
    data = save(tmp_path / "f.npy", STACK).read_bytes()
    for length in (7, 9, 60, 128, len(data) - 1):
        (tmp_path / "g.npy").write_bytes(data[:length])
        with pytest.raises(FileFormatError):
            read_numpy_features(tmp_path / "g.npy", SPEC)


def test_damaged_contents_of_an_npz_are_found_when_read(tmp_path):
    large = RNG.standard_normal((3, 60, 60))  # more than is read with the header
    np.savez(tmp_path / "f.npz", a=large, b=STACK[1])
    data = bytearray((tmp_path / "f.npz").read_bytes())
    data[data.index(large.tobytes()) + 80_000] ^= 1
    (tmp_path / "f.npz").write_bytes(data)
    file = read_numpy_features(tmp_path / "f.npz", SPEC)
    assert np.array_equal(file["b"], STACK[1])
    with pytest.raises(FileFormatError, match=r"'a\.npy'.*CRC"):
        file["a"]


def records(arrays=STACK):
    return [FeatureRecord(f"d/{i}", array, (9, 9), (16, 48)) for i, array in enumerate(arrays)]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_written_files_are_numpys(tmp_path, dtype):
    write_features(tmp_path / "f", SPEC, records())
    file = FeatureStore(tmp_path / "f")
    write_numpy_features(tmp_path / "a.npy", SPEC, file.records(), dtype=dtype)
    stacked = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert (stacked.dtype, stacked.shape) == (np.dtype(dtype), STACK.shape)
    assert np.array_equal(stacked, STACK.astype(dtype))
    write_numpy_features(tmp_path / "a.npz", SPEC, file.records(), dtype=dtype)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert list(arrays) == list(file)
        assert all(np.array_equal(arrays[key], STACK[i].astype(dtype)) for i, key in enumerate(file))
    for name in ("a.npy", "a.npz"):
        again = read_numpy_features(tmp_path / name, SPEC)
        assert np.array_equal(again.stack(), STACK.astype(dtype))
        assert (again.dtype, again.stack().dtype) == (dtype, dtype)


def test_different_shapes_go_to_npz_only(tmp_path):
    mixed = records([STACK[0], STACK[1][:, :1]])
    with pytest.raises(ValueError, match=r"'d/1'.*\(3, 1, 6\).*\.npz"):
        write_numpy_features(tmp_path / "f.npy", SPEC, mixed)
    assert os.listdir(tmp_path) == []
    write_numpy_features(tmp_path / "f.npz", SPEC, mixed)
    assert read_numpy_features(tmp_path / "f.npz", SPEC)["d/1"].shape == (3, 1, 6)


def test_unwritable_features_are_rejected(tmp_path):
    for name, items, options, words in [
        ("f.txt", records(), {}, r"suffix.*\.npy.*\.npz.*'\.txt'"),
        ("f.npy", [], {}, "no image"),
        ("f.npz", [], {}, "no image"),
        ("f.npz", records() + records(), {}, r"'d/0'.*twice"),
        ("f.npy", records(STACK[:, :2]), {}, r"\(2, 2, 6\)"),
        ("f.npy", records(), {"dtype": "float64"}, "'float64'"),
        ("f.npy", records(STACK * 1e6), {"dtype": "float16"}, "float16"),
    ]:
        with pytest.raises(ValueError, match=words):
            write_numpy_features(tmp_path / name, SPEC, items, **options)
    assert os.listdir(tmp_path) == []


def test_equal_features_give_equal_files(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_numpy_features(tmp_path / name, SPEC, records())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_python_objects_are_rejected_first(tmp_path):
    """They are rejected before a missing spec, which would not help."""
    np.save(tmp_path / "a.npy", np.array([1, "a"], object))
    with pytest.raises(FileFormatError, match=r"a\.npy: .*Python objects"):
        read_array_file(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", features=np.zeros((2, 3), np.float32), keys=np.array(["a", "b"], object))
    with pytest.raises(FileFormatError, match=r"a\.npz: .*keys.*Python objects.*np\.array\(keys, dtype=str\)"):
        read_array_file(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz")
    with pytest.raises(FileFormatError, match=r"b\.npz: .*\.npz.*arrays"):
        read_array_file(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes(gzip.compress(b""))
    with pytest.raises(FileFormatError, match=r"c\.npz: .*gzip"):
        read_array_file(tmp_path / "c.npz")
