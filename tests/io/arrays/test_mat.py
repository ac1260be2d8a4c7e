"""Test reading and writing of MATLAB v5 files against `scipy.io`."""

import io
import json
import os
import re
import sys
import time

import numpy as np
import pytest
import scipy.io

import matfiles
from matfiles import HEADER, compressed, element
from preimage.errors import FileFormatError
from preimage.io import FeatureRecord
from preimage.io.arrays import mat5, read_array_file, write_array_file
from preimage.io.arrays.conventions import covered
from preimage.io.arrays.formats import check_writable
from preimage.io.arrays.mat import read_mat_features, write_mat_features
from preimage.spec import Spec
from sizes import pairs
from tolerances import STORED_ARRAYS

RNG = np.random.default_rng(5)
HOG = Spec("hog", "vlfeat-uoctti", 31, 8, {"cell_size": 8, "color": "luma"})
SIFT = Spec("dense-sift", "vlfeat-dsift", 128, 4, {"bin_size": 4, "step": 4, "window_size": 2.0})
VECTORS = Spec("gist", "v", 5, None)
STACK = RNG.standard_normal((3, 31, 4, 6)).astype(np.float32)


def records(spec=HOG, arrays=STACK):
    sizes = [(9, 9) if spec.stride is None else covered(spec, *array.shape[1:]) for array in arrays]
    return [
        FeatureRecord(f"sub/{i}", array, (50, 60), size)
        for i, (array, size) in enumerate(zip(arrays, sizes, strict=True))
    ]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_files_of_scipy_are_read(tmp_path, dtype, compressed):
    path = tmp_path / "f.mat"
    arrays = {name: STACK[i].transpose(1, 2, 0).astype(dtype) for i, name in enumerate("abc")}
    scipy.io.savemat(path, arrays, do_compression=compressed)
    file = read_mat_features(path, HOG, convention="matlab")
    assert tuple(file) == tuple("abc")
    assert file.dtype == np.dtype(dtype).name
    assert pairs(file.processed_sizes) == ((32, 48),) * 3
    assert np.array_equal(file.stack(), STACK)
    assert tuple(read_mat_features(path, HOG, convention="matlab", variables=["b"])) == ("b",)
    assert tuple(read_mat_features(path, HOG, convention="matlab", keys=list("xyz"))) == tuple("xyz")


def test_a_stack_along_the_fourth_axis(tmp_path):
    scipy.io.savemat(tmp_path / "f.mat", {"all": STACK.transpose(2, 3, 1, 0)})
    file = read_array_file(tmp_path / "f.mat", HOG, "matlab")
    assert tuple(file) == ("00000", "00001", "00002")
    assert np.array_equal(file.stack(), STACK)


def test_whole_numbers_that_matlab_stores_small(tmp_path):
    """MATLAB stores doubles that are whole numbers as integers, which the test encodes by hand."""
    values = np.arange(31 * 2 * 3, dtype=np.uint8).reshape(2, 3, 31)
    data = bytearray(element("x", values))
    flags = data.index((9).to_bytes(4, "little"), 8)  # class uint8
    data[flags : flags + 4] = (6).to_bytes(4, "little")  # class double, data still uint8
    (tmp_path / "f.mat").write_bytes(HEADER + data)
    assert scipy.io.loadmat(tmp_path / "f.mat", mat_dtype=True)["x"].dtype == np.float64
    file = read_mat_features(tmp_path / "f.mat", HOG, convention="matlab")
    assert file.dtype == "float64"
    assert np.array_equal(file["x"], values.transpose(2, 0, 1).astype(np.float32))


def test_big_endian_files(tmp_path):
    """Old versions of MATLAB on workstations wrote them: the same elements with swapped bytes."""
    values = RNG.random((2, 3, 31)).astype(np.float32)
    little = element("x", values)
    words = np.frombuffer(little, "<u4").byteswap().tobytes()
    name = little.index(b"x\0\0\0")
    turned = words[:name] + b"x\0\0\0" + words[name + 4 :]
    (tmp_path / "f.mat").write_bytes(HEADER[:124] + b"\1\0MI" + turned)
    assert np.array_equal(scipy.io.loadmat(tmp_path / "f.mat")["x"], values)
    file = read_mat_features(tmp_path / "f.mat", HOG, convention="matlab")
    assert np.array_equal(file["x"], values.transpose(2, 0, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_vl_dsift(tmp_path, dtype):
    x, y = 7.0 + 4 * np.arange(3), 7.0 + 4 * np.arange(2)
    frames = np.stack([np.repeat(x, 2), np.tile(y, 3)])
    descriptors = RNG.integers(0, 256, (128, 6)).astype(dtype)
    scipy.io.savemat(tmp_path / "cat.mat", {"f": frames, "d": descriptors})
    file = read_mat_features(tmp_path / "cat.mat", SIFT, convention="matlab")
    assert (tuple(file), file.dtype, file[0].shape) == (("cat",), np.dtype(dtype).name, (128, 2, 3))
    assert pairs(file.processed_sizes) == ((17, 21),)
    assert np.array_equal(file[0][:, 1, 2], descriptors[:, 5].astype(np.float32) / 512)


OWN = [(spec, convention) for spec in (HOG, SIFT) for convention in ("preimage", "matlab", "cyvlfeat")] + [
    (VECTORS, "preimage")
]


@pytest.mark.parametrize(
    ("spec", "convention"), OWN, ids=[f"{spec.representation}-{convention}" for spec, convention in OWN]
)
def test_files_of_the_package_need_no_description(tmp_path, spec, convention):
    shape = (5,) if spec is VECTORS else (spec.channels, 3, 4)
    arrays = RNG.uniform(0, 0.4, (2, *shape)).astype(np.float32)
    path = tmp_path / "f.mat"
    write_mat_features(path, spec, records(spec, arrays), convention=convention)
    file = read_array_file(path)
    assert file.spec == spec
    assert tuple(file) == ("sub/0", "sub/1")
    assert pairs(file.original_sizes) == ((50, 60),) * 2
    assert pairs(file.processed_sizes) == tuple(record.processed_size for record in records(spec, arrays))
    assert np.abs(file.stack() - arrays).max() < STORED_ARRAYS
    other = Spec("hog", "vlfeat-uoctti", 31, 4, {"cell_size": 4})
    with pytest.raises(ValueError, match="!="):
        read_array_file(path, other)
    with pytest.raises(ValueError, match=rf"'{convention}'.*'matlab-transposed'"):
        read_array_file(path, convention="matlab-transposed")


def test_files_of_version_0_1_are_read(tmp_path):
    path = tmp_path / "f.mat"
    write_mat_features(path, HOG, records())
    variables = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
    variables["preimage_layout"] = variables.pop("preimage_convention")
    scipy.io.savemat(path, variables)
    assert np.array_equal(read_array_file(path).stack(), STACK)
    with pytest.raises(ValueError, match=r"'matlab'.*'preimage'"):
        read_array_file(path, convention="preimage")


def test_scipy_reads_what_we_write(tmp_path):
    write_mat_features(tmp_path / "f.mat", HOG, records())
    found = scipy.io.loadmat(tmp_path / "f.mat", chars_as_strings=True)
    assert np.array_equal(found["image_00002"], STACK[1].transpose(1, 2, 0))
    assert found["image_00002"].dtype == np.float32
    assert json.loads(found["preimage_keys"][0]) == ["sub/0", "sub/1", "sub/2"]
    assert Spec.from_json(found["preimage_spec"][0]) == HOG
    assert found["preimage_convention"][0] == "matlab"
    assert found["preimage_sizes"].tolist() == [[50, 60, 32, 48]] * 3


def test_equal_features_give_equal_files(tmp_path):
    write_array_file(tmp_path / "a.mat", HOG, records())
    time.sleep(1.1)
    write_array_file(tmp_path / "b.mat", HOG, records())
    assert (tmp_path / "a.mat").read_bytes() == (tmp_path / "b.mat").read_bytes()


def test_missing_descriptions_are_requested(tmp_path):
    scipy.io.savemat(tmp_path / "f.mat", {"a": STACK[0].transpose(1, 2, 0)})
    with pytest.raises(ValueError, match="'matlab'"):
        read_array_file(tmp_path / "f.mat", HOG)
    with pytest.raises(ValueError, match="spec"):
        read_array_file(tmp_path / "f.mat", convention="matlab")


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"a": np.zeros((2, 2, 9))}, "HOG of scikit-image"),
        ({"a": np.zeros((2, 2, 31), np.int32)}, r"float16, float32 or float64.*int32"),
        ({"a": np.zeros((2, 2, 31), complex)}, r"'a'.*complex"),
        ({"a": np.zeros((2, 2, 31), bool)}, r"'a'.*logical"),
        ({"a": {"b": 1}}, r"'a'.*single or double.*struct"),
        ({"a": "text"}, r"'a'.*text"),
        ({"a": "größe"}, r"'a'.*text"),
        ({"a": np.array([1, "x"], object)}, r"'a'.*cell"),
        ({"a": np.zeros((0, 2, 31))}, "empty"),
        ({"a": np.zeros((2, 2, 30))}, r"\(h, w, 31\).*\(2, 2, 30\)"),
        ({"a": np.zeros((2, 2, 31)), "b": np.zeros((2, 3))}, r"'b'.*'matlab'.*hog"),
        ({}, "no arrays"),
    ],
)
def test_variables_that_are_no_features(tmp_path, contents, words):
    scipy.io.savemat(tmp_path / "f.mat", contents)
    with pytest.raises(FileFormatError, match=words):
        read_mat_features(tmp_path / "f.mat", HOG, convention="matlab")


def test_other_variables_may_stay_when_the_features_are_named(tmp_path):
    contents = {"a": STACK[0].transpose(1, 2, 0), "options": {"cell": 8}, "note": "größe", "n": 3.0, "z": 1j}
    for small in (False, True):
        scipy.io.savemat(tmp_path / "f.mat", contents, do_compression=small)
        file = read_mat_features(tmp_path / "f.mat", HOG, convention="matlab", variables=["a"])
        assert np.array_equal(file["a"], STACK[0])
        with pytest.raises(FileFormatError, match="'b'"):
            read_mat_features(tmp_path / "f.mat", HOG, convention="matlab", variables=["b"])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "truncated"),
        (b"hello" * 60, "MATLAB v5"),
        (
            b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n",
            r"v7\.3.*HDF5.*-v7",
        ),
        (HEADER + b"\7", "truncated"),
        (HEADER + bytes(8), "type 0"),
        (HEADER + b"\x0e\0\0\0\0\0\0\x7f", "variable"),
    ],
)
def test_other_files(tmp_path, data, words):
    (tmp_path / "f.mat").write_bytes(data)
    with pytest.raises(FileFormatError, match=rf"f\.mat: .*{words}"):
        read_mat_features(tmp_path / "f.mat", HOG, convention="matlab")


def test_v4_files_are_named(tmp_path):
    scipy.io.savemat(tmp_path / "f.mat", {"a": np.zeros((31, 200))}, format="4")
    with pytest.raises(FileFormatError, match="v4"):
        read_mat_features(tmp_path / "f.mat", HOG, convention="matlab")


def test_a_flipped_bit_in_compressed_data_is_found_when_read(tmp_path):
    large = RNG.standard_normal((40, 40, 31))
    scipy.io.savemat(tmp_path / "f.mat", {"a": large, "b": large[:2]}, do_compression=True)
    data = bytearray((tmp_path / "f.mat").read_bytes())
    data[150_000] ^= 1
    (tmp_path / "f.mat").write_bytes(data)
    file = read_mat_features(tmp_path / "f.mat", HOG, convention="matlab")
    assert file["b"].shape == (31, 2, 40)
    with pytest.raises(FileFormatError, match=r"'a'.*damaged"):
        file["a"]


def test_unwritable_features_are_rejected(tmp_path):
    for items, options, words in [
        ([], {}, "no image"),
        (records() + records(), {}, r"'sub/0'.*twice"),
        (records(), {"dtype": "float16"}, r"float32.*'float16'"),
        (records(), {"convention": "matlab-transposed"}, "90°"),
        (records(), {"convention": "fortran"}, r"convention|convention"),
    ]:
        with pytest.raises(ValueError, match=words):
            write_mat_features(tmp_path / "f.mat", HOG, items, **options)
    assert os.listdir(tmp_path) == []


def test_one_image_is_in_memory_at_a_time(tmp_path):
    held = []

    def many():
        for number in range(5):
            yield FeatureRecord(str(number), STACK[0], (9, 9), (32, 48))
            held.append(os.listdir(tmp_path))

    write_mat_features(tmp_path / "f.mat", HOG, many())
    assert all(name.startswith(".preimage-") for names in held for name in names)
    assert os.listdir(tmp_path) == ["f.mat"]


def test_listing_costs_only_the_first_bytes():
    huge = compressed(element("a", np.zeros((31, 100, 1000), np.float32)))
    file = io.BytesIO(HEADER + huge)
    (variable,) = mat5.variables(file)
    assert (variable.name, variable.shape, variable.size) == ("a", (31, 100, 1000), len(huge))
    assert file.tell() < 128 + 8 + 5000
    assert not mat5.read(file, variable).any()


def test_text_in_two_bytes_a_letter(tmp_path):
    """MATLAB writes text so; SciPy writes UTF-8."""
    words = '["a/0"]'
    (variable,) = mat5.variables(
        file := io.BytesIO(HEADER + matfiles.variable((1, len(words)), words.encode("utf-16-le"), stored=4, kind=4))
    )
    assert (variable.kind, mat5.read_text(file, variable)) == ("text", words)


def test_a_variable_is_read_without_walking_past_the_others(tmp_path):
    """Reading all of n variables by name from the whole file would cost n**2."""
    arrays = {f"i{i:04d}": STACK[0].transpose(1, 2, 0) for i in range(200)}
    scipy.io.savemat(tmp_path / "f.mat", arrays)

    class Counted(io.BytesIO):
        bytes_read = 0

        def read(self, count=-1):
            data = super().read(count)
            self.bytes_read += len(data)
            return data

    file = Counted((tmp_path / "f.mat").read_bytes())
    *_, last = mat5.variables(file)
    file.bytes_read = 0
    assert np.array_equal(mat5.read(file, last), STACK[0].transpose(1, 2, 0))
    assert file.bytes_read < STACK[0].nbytes + 1000


def test_without_scipy_the_error_names_the_extra(tmp_path, monkeypatch):
    write_array_file(tmp_path / "f.mat", HOG, records())
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    for action in (
        lambda: read_array_file(tmp_path / "f.mat"),
        lambda: check_writable(tmp_path / "g.mat", HOG, "float32", None),
        lambda: write_array_file(tmp_path / "g.mat", HOG, records()),
    ):
        with pytest.raises(ImportError, match=r"scipy.*preimage\[formats\]"):
            action()
    assert os.listdir(tmp_path) == ["f.mat"]


def test_a_variable_that_matlab_cannot_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(mat5, "MAX_BYTES_WRITTEN", 1000)
    with pytest.raises(ValueError, match=r"image_00001.*1000 bytes.*2976"):
        write_array_file(tmp_path / "f.mat", HOG, records())
    assert os.listdir(tmp_path) == []


def test_other_variables_beside_the_array(tmp_path, run):
    """The command line states the variable to read."""
    path, spec = tmp_path / "f.mat", tmp_path / "hog.json"
    scipy.io.savemat(path, {"hog": STACK[0].transpose(1, 2, 0), "name": "photo", "all": np.array([1, "a"], object)})
    spec.write_text(HOG.to_json(), encoding="utf-8-sig")
    options = ("invert", path, "-o", tmp_path / "out", "--spec", spec, "--convention", "matlab")
    code, _, err = run(*options)
    assert code == 1
    assert re.search(r"f\.mat: 'name'.*text", err)
    assert "--variable" in err
    code, _, err = run(*options, "--variable", "hogs")
    assert code == 1
    assert re.search("variable.*'hogs'.*hog, name, all", err)
    assert run(*options, "--variable", "hog")[0] == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["hog.png"]
    np.save(tmp_path / "f.npy", STACK)
    with pytest.raises(ValueError, match="MATLAB"):
        read_array_file(tmp_path / "f.npy", HOG, variables=["hog"])


def test_frames_of_sparse_sift_are_no_dense_sift(tmp_path):
    scipy.io.savemat(tmp_path / "f.mat", {"F": np.ones((4, 6)), "D": np.ones((128, 6))})
    with pytest.raises(FileFormatError, match=r"SIFT.*\(4, 6\).*SIFT"):
        read_array_file(tmp_path / "f.mat", SIFT, "matlab")


def test_another_variable_besides_a_stack_is_named(tmp_path):
    stack = STACK.transpose(2, 3, 1, 0)
    for extra in (np.arange(3.0), np.arange(12.0).reshape(3, 4)):
        scipy.io.savemat(tmp_path / "f.mat", {"features": stack, "keys": extra})
        with pytest.raises(FileFormatError, match=r"f\.mat: .*besides 'features' \(.*also found 'keys'.*--variable"):
            read_mat_features(tmp_path / "f.mat", HOG, convention="matlab")
    scipy.io.savemat(tmp_path / "f.mat", {"features": stack})
    for keys, words in ((["a"], r"1 key for 3 images"), (["a", "b", "a"], "'a' twice")):
        with pytest.raises(ValueError, match=rf"f\.mat: .*{words}"):
            read_mat_features(tmp_path / "f.mat", HOG, convention="matlab", keys=keys)
