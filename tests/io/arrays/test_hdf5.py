"""Test reading and writing of HDF5 files in hloc's convention."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from preimage.errors import FileFormatError
from preimage.io import FeatureRecord
from preimage.io.arrays import conventions, read_array_file, write_array_file
from preimage.io.arrays.hdf5 import read_hdf5_features, write_hdf5_features
from preimage.spec import Spec
from sizes import pairs
from tolerances import STORED_ARRAYS

h5py = pytest.importorskip("h5py")

RNG = np.random.default_rng(6)
HOG = Spec("hog", "vlfeat-uoctti", 31, 8, {"cell_size": 8, "color": "luma"})
SIFT = Spec("dense-sift", "vlfeat-dsift", 128, 4, {"bin_size": 4, "step": 4, "window_size": 2.0})
VECTORS = Spec("netvlad", "v", 5, None)
STACK = RNG.standard_normal((3, 31, 4, 6)).astype(np.float32)


def records(arrays=STACK):
    return [FeatureRecord(f"d/e.{i}", array, (60 + i, 90), (32, 51)) for i, array in enumerate(arrays)]


def hloc(path, images, **options):
    """Write a file as hloc/extract_features.py does."""
    for name, arrays in images.items():
        with h5py.File(path, "a", libver="latest") as file:
            group = file.create_group(name)
            for key, array in arrays.items():
                group.create_dataset(key, data=array, **options if np.ndim(array) > 1 else {})
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_files_of_the_package_need_no_description(tmp_path, dtype):
    path = tmp_path / "f.h5"
    write_hdf5_features(path, HOG, records(), dtype=dtype)
    file = read_array_file(path)
    assert (file.spec, file.dtype, tuple(file)) == (HOG, dtype, ("d/e.0", "d/e.1", "d/e.2"))
    assert pairs(file.original_sizes) == ((60, 90), (61, 90), (62, 90))
    assert pairs(file.processed_sizes) == ((32, 51),) * 3
    assert (file.stack().dtype, file[0].dtype) == (dtype, dtype)
    assert np.array_equal(file.stack(), STACK.astype(dtype))
    with pytest.raises(ValueError, match=r"cell_size: 8 != 4"):
        read_array_file(path, Spec("hog", "vlfeat-uoctti", 31, 4, {"cell_size": 4, "color": "luma"}))


def test_written_files_have_the_layout_of_hloc(tmp_path):
    write_hdf5_features(tmp_path / "f.h5", HOG, records())
    with h5py.File(tmp_path / "f.h5", "r") as file:
        assert list(file) == ["d"]
        group = file["d/e.1"]
        assert set(group) == {"features", "image_size", "processed_size"}
        assert group["image_size"][()].tolist() == [90, 61]
        assert all(dataset.fletcher32 and dataset.chunks for dataset in group.values())
        assert Spec.from_json(file.attrs["spec"].decode()) == HOG
        assert np.array_equal(group["features"][()], STACK[1])


@pytest.mark.parametrize(
    "options", [{}, {"fletcher32": True}, {"compression": "gzip", "shuffle": True}, {"compression": "lzf"}]
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_files_of_other_programs_are_read(tmp_path, options, dtype):
    images = {
        f"db/{i}.jpg": {"features": STACK[i].astype(dtype), "image_size": np.array([50, 33 + 100 * i])}
        for i in range(3)
    }
    file = read_hdf5_features(hloc(tmp_path / "f.h5", images, **options), HOG)
    assert tuple(file) == ("db/0.jpg", "db/1.jpg", "db/2.jpg")
    assert pairs(file.original_sizes) == ((33, 50), (133, 50), (233, 50))
    assert pairs(file.processed_sizes) == ((33, 50), (32, 48), (32, 48)), "where the shape agrees with it"
    native = np.dtype(dtype).newbyteorder("=")
    assert (file.stack().dtype, file[0].dtype, file.dtype) == (native, native, native.name)
    assert np.array_equal(file.stack(), STACK.astype(dtype))
    with pytest.raises(ValueError, match="spec"):
        read_hdf5_features(tmp_path / "f.h5")


def test_global_descriptors(tmp_path):
    vector = RNG.standard_normal(5).astype(np.float16)
    path = hloc(tmp_path / "f.h5", {"a.jpg": {"global_descriptor": vector, "image_size": np.array([64, 48])}})
    file = read_hdf5_features(path, VECTORS)
    assert (tuple(file), pairs(file.processed_sizes)) == (("a.jpg",), ((48, 64),))
    assert file[0].dtype == np.float16
    assert np.array_equal(file[0], vector)
    path = hloc(tmp_path / "g.h5", {"a.jpg": {"global_descriptor": vector}})
    with pytest.raises(ValueError, match="processed_sizes"):
        read_hdf5_features(path, VECTORS)


def test_dense_sift_of_others(tmp_path):
    features = RNG.uniform(0, 0.4, (128, 3, 4)).astype(np.float32)
    size = conventions.covered(SIFT, 3, 4)
    for convention in ("cyvlfeat", "matlab"):
        path = tmp_path / f"{convention}.h5"
        write_array_file(path, SIFT, [FeatureRecord("a/b", features, size, size)], convention=convention)
        with h5py.File(path, "r") as file:
            assert set(file["a/b"]) == {"descriptors", "frames", "image_size", "processed_size"}
        file = read_array_file(path)
        assert (tuple(file), pairs(file.processed_sizes)) == (("a/b",), (size,))
        with pytest.raises(ValueError, match=rf"'{convention}'.*'preimage'"):
            read_array_file(path, convention="preimage")
        assert np.abs(file[0] - features).max() < STORED_ARRAYS


def test_files_of_version_0_1_are_read(tmp_path):
    path = tmp_path / "f.h5"
    write_hdf5_features(path, HOG, records())
    with h5py.File(path, "a") as file:
        file.attrs["layout"] = file.attrs.pop("convention")
    assert np.array_equal(read_array_file(path).stack(), STACK)
    with pytest.raises(ValueError, match=r"'preimage'.*'matlab'"):
        read_array_file(path, convention="matlab")


def test_equal_features_give_equal_files(tmp_path):
    write_array_file(tmp_path / "a.h5", HOG, records())
    time.sleep(1.1)
    write_array_file(tmp_path / "b.h5", HOG, records())
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_large_features_are_cut_into_chunks(tmp_path):
    large = RNG.standard_normal((31, 300, 400)).astype(np.float32)
    write_hdf5_features(tmp_path / "f.hdf5", HOG, [FeatureRecord("a", large, (2400, 3200), (2400, 3200))])
    with h5py.File(tmp_path / "f.hdf5", "r") as file:
        assert file["a/features"].chunks == (8, 300, 400)
    assert np.array_equal(read_array_file(tmp_path / "f.hdf5")[0], large)


def test_a_flipped_bit_names_the_image(tmp_path):
    path = tmp_path / "f.h5"
    write_hdf5_features(path, HOG, records())
    data = bytearray(path.read_bytes())
    data[data.index(STACK[1].tobytes()) + 999] ^= 4
    path.write_bytes(data)
    file = read_hdf5_features(path)
    assert np.array_equal(file[0], STACK[0])
    with pytest.raises(FileFormatError, match=r"f\.h5: 'd/e\.1/features'.*checksum"):
        file[1]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"keypoints": np.zeros((4, 2)), "descriptors": np.zeros((256, 4))}, "descriptors, keypoints"),
        ({"features": np.zeros((4, 6, 31))}, r"\(31, h, w\).*\(4, 6, 31\)"),
        ({"features": np.zeros((4, 6, 2, 2, 9))}, "HOG of scikit-image"),
        ({"features": np.zeros((31, 2, 2), np.int16)}, r"float16.*int16"),
        ({"features": np.zeros((31, 2, 2), np.uint8)}, r"float16.*uint8"),
        ({"features": np.zeros((31, 0, 2))}, "empty"),
        ({"features": STACK[0], "global_descriptor": np.zeros(5)}, "features"),
        ({"features": STACK[0], "image_size": np.array([0, 4])}, r"\(0, 4\)"),
        ({"features": STACK[0], "image_size": np.array([4.5, 4])}, "pair of integers"),
        ({"features": "text"}, r"no array|object"),
    ],
)
def test_datasets_that_are_no_features(tmp_path, arrays, words):
    with pytest.raises(FileFormatError, match=rf"f\.h5: .*({words})"):
        read_hdf5_features(hloc(tmp_path / "f.h5", {"a": arrays}), HOG)


def test_other_files(tmp_path):
    for data in (b"", b"hello", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(500)):
        (tmp_path / "f.h5").write_bytes(data)
        with pytest.raises(FileFormatError, match=r"f\.h5: "):
            read_hdf5_features(tmp_path / "f.h5", HOG)
    with h5py.File(tmp_path / "g.h5", "w") as file:
        file["features"] = STACK
    with pytest.raises(FileFormatError, match=r"group.*features"):
        read_hdf5_features(tmp_path / "g.h5", HOG)
    with h5py.File(tmp_path / "h.h5", "w"):
        pass
    with pytest.raises(FileFormatError, match="no arrays"):
        read_hdf5_features(tmp_path / "h.h5", HOG)
    with pytest.raises(FileNotFoundError):
        read_hdf5_features(tmp_path / "absent.h5", HOG)


def test_images_with_different_specs(tmp_path):
    path = hloc(tmp_path / "f.h5", {"a": {"features": STACK[0]}, "b": {"features": STACK[1]}})
    other = Spec("hog", "vlfeat-uoctti", 31, 4, {"cell_size": 4})
    with h5py.File(path, "a") as file:
        file["a"].attrs["spec"] = np.bytes_(HOG.to_json().encode())
        file["b"].attrs["spec"] = np.bytes_(HOG.to_json().encode())
    assert read_hdf5_features(path).spec == HOG
    with h5py.File(path, "a") as file:
        file["b"].attrs["spec"] = np.bytes_(other.to_json().encode())
    with pytest.raises(FileFormatError, match="specs"):
        read_hdf5_features(path)


def test_unwritable_features_are_rejected(tmp_path):
    twice = [FeatureRecord(key, STACK[0], (9, 9), (32, 48)) for key in ("a", "a/features")]
    for items, options, words in [
        ([], {}, "no image"),
        (records() + records(), {}, r"'d/e\.0'.*twice"),
        (records(), {"dtype": "float64"}, "'float64'"),
        (records(STACK * 1e6), {"dtype": "float16"}, "float16"),
        (twice, {}, "another format"),
        (twice[::-1], {}, "another format"),
    ]:
        with pytest.raises(ValueError, match=words):
            write_hdf5_features(tmp_path / "f.h5", HOG, items, **options)
    assert os.listdir(tmp_path) == []


_ON_A_FULL_DISK = """
import os, resource, sys
import numpy as np
from preimage.spec import Spec
from preimage.io import FeatureRecord, write_array_file
spec = Spec("hog", "v", 31, 8, {})
features = np.ones((31, 32, 32), np.float32)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
for count in (8, 9, 20):
    try:
        write_array_file(sys.argv[1], spec, [FeatureRecord(str(i), features, (9, 9), (256, 256)) for i in range(count)])
    except OSError as error:
        print(error.strerror)
"""


def test_a_full_disk_is_an_error_and_leaves_nothing_behind(tmp_path):
    pytest.importorskip("resource")
    for suffix in ("h5", "mat", "npz"):
        command = [sys.executable, "-c", _ON_A_FULL_DISK, str(tmp_path / f"f.{suffix}")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "File too large\n" * 3, "")
        assert os.listdir(tmp_path) == []


def test_without_h5py_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    for call in (
        lambda: read_array_file(tmp_path / "f.h5", HOG),
        lambda: write_array_file(tmp_path / "f.h5", HOG, records()),
    ):
        with pytest.raises(ImportError, match=r"preimage\[formats\]"):
            call()


def test_a_stack_in_a_group_is_named(tmp_path):
    """A group is one image, also if it is the only one."""
    for name, spec, stack in (("maps", HOG, STACK), ("vectors", VECTORS, STACK[:, :5, 0, 0])):
        dataset = "features" if spec is HOG else "global_descriptor"
        path = hloc(tmp_path / f"{name}.h5", {"all": {dataset: stack, "image_size": np.array([64, 48])}})
        with pytest.raises(
            FileFormatError, match=rf"{name}\.h5: 'all': features must have shape.*got \({len(stack)}, "
        ):
            read_hdf5_features(path, spec)
    path = hloc(tmp_path / "f.h5", {"a": {"features": STACK[0]}, "b": {"features": STACK[1]}})
    for keys, words in ((["a"], "1 key for 2 images"), (["a", "a"], "'a' twice")):
        with pytest.raises(ValueError, match=rf"f\.h5: .*{words}"):
            read_hdf5_features(path, HOG, keys=keys)
