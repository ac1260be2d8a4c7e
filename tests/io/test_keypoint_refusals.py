"""Keypoint files and arguments that are refused, and the words."""

import contextlib
import gzip
import os
import sqlite3
import sys

import cv2
import numpy as np
import pytest

from keypoint_files import GOLDEN, colmap_database, hloc_arrays, hloc_file
from preimage.errors import FileFormatError
from preimage.io import KeypointRecord, read_keypoints, write_keypoints
from preimage.keypoints import Keypoints
from preimage.store import FeatureStore


def test_image_sizes():
    path = GOLDEN / "colmap_l2.db"
    with pytest.raises(ValueError, match=r"'flat\.png' has 80×64 pixels \(width × height\), not 160×128"):
        read_keypoints(path, image_size=(128, 160))
    with pytest.raises(ValueError, match="whole numbers >= 1"):
        read_keypoints(path, image_size=(0, 160))


def test_arguments_that_are_wrong(tmp_path):
    with pytest.raises(ValueError, match="the format is one of colmap, hloc, mat, preimage, colmap-text"):
        read_keypoints(tmp_path, format="sift")
    with pytest.raises(ValueError, match="normalization is one of l2, l1_root, l1_root_twice"):
        read_keypoints(tmp_path, normalization="root")
    with pytest.raises(FileNotFoundError):
        read_keypoints(tmp_path / "absent.db")
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="the suffix is one of"):
        read_keypoints(tmp_path / "a.bin")


ROW = "1.5 2.5 3 0.1 " + "7 " * 128
YAML = "%YAML:1.0\n---\nkeypoints: [ {} ]\n"
MATRIX = "descriptors: !!opencv-matrix\n   rows: {}\n   cols: {}\n   dt: f\n   data: [ {} ]\n"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.sift", ROW + "\n" + ROW[:-2], "263 numbers; keypoints have 4 \\+ 128 each"),
        ("a.sift", ROW.replace("3 0.1", "0 0.1"), "a keypoint of scale 0; scales are above 0"),
        ("a.sift", ROW.replace("3 0.1", "nan 0.1"), "is not a number"),
        ("a.sift", ROW.replace("3 0.1", "1e999 0.1"), "no finite number"),
        ("a.sift", ROW.replace("3 0.1", "3 0.1.2"), "'0.1.2' is not a number"),
        ("a.sift", ROW.replace("1.5", "-1e9"), "1e\\+09 pixels away"),
        ("a.sift", ROW.replace("7 7", "7 -7", 1), "negative"),
        ("a.sift", "1 128\n" + ROW, "name the format lowe"),
        ("a.sift", "\0\0\0", "zeros only"),
        ("a.sift", "1 2 a\0b", "binary data"),
        ("a.sift", "SIFTV4.0\1\0\0\0", "VisualSFM.*read are"),
        ("a.key", "", "is an empty file"),
        ("a.key", "<html>", "a web page"),
        ("a.sift", ROW.replace("3 0.1", "3 95"), "angle of 95 radians.*degrees"),
        ("a.key", ROW, "does not begin with the number of keypoints and 128"),
        ("a.key", "2 128\n" + ROW, "cut short: 2 keypoints|132 numbers; 2 keypoints"),
        ("a.key", "1 64\n" + ROW, "descriptors of 64 numbers, which are not SIFT"),
        ("a.key", "999999999 128\n" + ROW, "999999999 keypoints of one image; 0 to 200000"),
        ("a.txt", "199999 128\n" + ROW, "cut short: 199999 keypoints do not fit"),
        ("a.yml", "keypoints: [ ]", "no file of OpenCV's FileStorage"),
        ("a.yml", YAML.format("1, 2, 3") + MATRIX.format(1, 128, "1., " * 128), "has 3 numbers; OpenCV writes 7"),
        ("a.yml", YAML.format("1, 2, 3, 4, 5, 6, 7"), "no node 'descriptors'"),
        ("a.yml", YAML.format("1, 2, 3, 4, 5, 6, 7") + MATRIX.format(1, 32, "1., " * 32), r"descriptors \(1, 32\)"),
        ("a.yml", YAML.format("1, 2, 3, 4, 5, 6, 7") + MATRIX.format(1, 128, "1., " * 127), "127 numbers in a matrix"),
        ("a.yml", YAML.format("1, 2, 3, -1, 5, 6, 7") + MATRIX.format(1, 128, "1., " * 128), "without an angle"),
        ("a.yml", YAML.format("1, 2, .Inf, 4, 5, 6, 7") + MATRIX.format(1, 128, "1., " * 128), "is not a number"),
        ("a.yml", "%YAML:1.0\n---\nkp: [ 1 ]\ndesc: 3\n", "no node 'keypoints'.*kp, desc"),
        ("a.xml", "<?xml?>\n<opencv_storage>\n<kp>1 2</kp>\n<desc></desc>", "nodes there: kp, desc"),
        ("a.xml", "<?xml?><opencv_storage><keypoints>1 2", "keypoints does not end"),
        ("a.json", '{"keypoints": {"a": 1}}', "keypoints is no matrix"),
        ("a.json", '{"keypoints": [1, 2, "a"]}', "OpenCV writes 7"),
    ],
)
def test_texts_that_are_refused(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(FileFormatError, match=rf"{name}: .*({words})"):
        read_keypoints(tmp_path / name)


FOUR = np.array([[1, 2, 3, 4]], np.float32)
BYTES = np.ones((1, 128), np.uint8)


@pytest.mark.parametrize(
    ("keypoints", "descriptors", "words"),
    [
        (FOUR[:, :2], BYTES, "positions only, without scale and angle"),
        (FOUR[:, :3], BYTES, "have 3 columns; 4 or 6 are right"),
        (FOUR, None, "1 keypoints, but 0 descriptors"),
        (FOUR, BYTES[:, :64], "have 64 numbers and are not SIFT"),
        (FOUR, BYTES.repeat(2, 0), "1 keypoints, but 2 descriptors"),
        (FOUR, BYTES.astype(np.float32), "'a.jpg': its descriptors are float32; COLMAP's are uint8"),
        (FOUR.astype(np.float64), BYTES, "'a.jpg': its keypoints are float64; COLMAP's are float32"),
    ],
)
def test_databases_that_are_refused(tmp_path, keypoints, descriptors, words):
    with pytest.raises(FileFormatError, match=rf"a\.db: .*{words}"):
        read_keypoints(colmap_database(tmp_path / "a.db", {"a.jpg": (keypoints, descriptors)}))


def test_features_of_another_kind_in_a_database(tmp_path):
    path = tmp_path / "a.db"
    path.write_bytes((GOLDEN / "colmap_l2.db").read_bytes())
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE descriptors SET type = 1 WHERE image_id = 3")
    file = read_keypoints(path)
    with pytest.raises(FileFormatError, match=r"coffee.*another kind \(type 1 of image 3\), not SIFT"):
        file[2]
    assert len(file[0].x) == 78, "one bad image does not cost the others"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE descriptors SET type = 1")
    with pytest.raises(FileFormatError, match="not SIFT"):
        read_keypoints(path)


def test_a_database_that_is_still_being_written(tmp_path):
    path = tmp_path / "a.db"
    path.write_bytes((GOLDEN / "colmap_l2.db").read_bytes())
    with contextlib.closing(sqlite3.connect(path)) as database:
        with database:
            database.execute("DELETE FROM keypoints")
        with pytest.raises(FileFormatError, match=r"a\.db-wal holds changes not written back yet"):
            read_keypoints(path)
    assert read_keypoints(path).counts == (0, 0, 0)


def test_a_database_whose_writer_was_killed(tmp_path):
    path = tmp_path / "a.db"
    colmap_database(path, {"a.jpg": (FOUR, BYTES)})
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("UPDATE images SET name = 'b.jpg'")
        database.commit()
        for name in ("a.db", "a.db-wal"):  # as a kill leaves them
            (tmp_path / f"killed-{name}").write_bytes((tmp_path / name).read_bytes())
    killed = tmp_path / "killed-a.db"
    with pytest.raises(FileFormatError, match=r"sqlite3 killed-a\.db 'PRAGMA wal_checkpoint\(TRUNCATE\)'"):
        read_keypoints(killed)
    with contextlib.closing(sqlite3.connect(killed)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert tuple(read_keypoints(killed)) == ("b.jpg",), "the remedy that is named works"


def test_a_database_copied_without_its_log(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE images (a)")
        database.commit()
        (tmp_path / "copy.db").write_bytes((tmp_path / "a.db").read_bytes())
    with pytest.raises(FileFormatError, match=r"copy\.db: has no table 'images' \(was it copied without the -wal file"):
        read_keypoints(tmp_path / "copy.db")


def test_what_an_unknown_file_is(tmp_path):
    for name, data, words in [
        ("a.yml.gz", gzip.compress(b"%YAML"), "gzip-compressed data"),
        ("a.pkl", b"\x80\x04\x95", "a Python pickle"),
        ("a.feat", b"1 2 3 0\n", "OpenMVG"),
        ("a.desc", bytes(range(40)), "OpenMVG"),
        ("a.bin", bytes(range(40)), "binary data"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name}: the suffix is one of .*{words}.*read are"):
            read_keypoints(tmp_path / name)
        with pytest.raises(FileFormatError, match=rf"{name}: not a feature file.*{words}.*read are.*COLMAP"):
            FeatureStore(tmp_path / name)
    for name, words in [("a.db", "an SQLite database"), ("a.npz", r"an \.npz file"), ("a.mat", "MATLAB v5 file")]:
        (tmp_path / name).write_bytes(gzip.compress(bytes(500)) + bytes(200))
        with pytest.raises(FileFormatError, match=rf"{name}: is (not|no) {words}.*gzip-compressed data"):
            read_keypoints(tmp_path / name)


def test_matrices_in_base64(tmp_path):
    for suffix in ("yml", "xml", "json"):
        path = tmp_path / f"a.{suffix}"
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE_BASE64)
        storage.write("keypoints", np.ones((3, 7)))
        storage.write("descriptors", np.ones((3, 128), np.float32))
        storage.release()
        with pytest.raises(FileFormatError, match=r"base64.*without FILE_STORAGE_WRITE_BASE64"):
            read_keypoints(path)


def test_hdf5_files_that_their_writer_left(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("a", data=np.zeros(5000))
        file.swmr_mode = True
        file.flush()
        (tmp_path / "killed.h5").write_bytes(path.read_bytes())
    with pytest.raises(FileFormatError, match=r"killed\.h5: its writer has not closed it.*h5clear"):
        read_keypoints(tmp_path / "killed.h5")
    (tmp_path / "short.h5").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(FileFormatError, match=r"short\.h5: cut short"):
        read_keypoints(tmp_path / "short.h5")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scales": None}, "has no scales; SIFT keypoints need"),
        ({"descriptors": np.zeros((256, 78), np.float16)}, r"\(256, 78\), which are not SIFT"),
        ({"oris": np.zeros(77, np.float16)}, "arrays of shapes"),
        ({"scales": np.full(78, np.nan, np.float16)}, "no finite number"),
        ({"image_size": np.array([0, 4])}, r"is \(0, 4\); whole numbers"),
    ],
)
def test_files_of_hloc_that_are_refused(tmp_path, change, words):
    pytest.importorskip("h5py")
    arrays = hloc_arrays("colmap_l2.db", rootsift=False) | change
    path = hloc_file(tmp_path / "a.h5", {"a": {key: array for key, array in arrays.items() if array is not None}})
    with pytest.raises(FileFormatError, match=rf"a\.h5: .*{words}"):
        read_keypoints(path)[0]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a/keypoints": np.zeros((1, 4))}, "there is no descriptors of 'a'"),
        ({"a/keypoints": np.zeros((1, 3)), "a/descriptors": BYTES}, r"float64 \(1, 3\); \(1, 4\) are right"),
        ({"a/keypoints": np.zeros((1, 4)), "a/descriptors": BYTES.astype(np.int16)}, "is int16"),
        ({"a/keypoints": np.ones((1, 4)), "a/descriptors": BYTES, "a/image_size": np.array([4, 0])}, "image size"),
        ({"a/points": np.ones((1, 4))}, "is none of KEY/keypoints"),
        ({"../a/keypoints": np.ones((1, 4)), "../a/descriptors": BYTES}, "must be a relative path"),
    ],
)
def test_arrays_that_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(FileFormatError, match=rf"a\.npz: .*{words}"):
        read_keypoints(tmp_path / "a.npz")


def test_what_cannot_be_written(tmp_path):
    record = read_keypoints(GOLDEN / "colmap_l2.db").record(0)
    both = Keypoints.cat([record.keypoints, record.keypoints])
    wrong = KeypointRecord("a", Keypoints.cat([record.keypoints]), (4, 0))
    for records, options, words in [
        ([], {}, "no image to write"),
        ([record, record], {}, "comes twice"),
        ([record], {"dtype": "int8"}, "got 'int8'"),
        ([KeypointRecord("../a", record.keypoints, None)], {}, "relative path"),
        ([KeypointRecord("a", both, None)], {}, "a batch of one, got 2"),
        ([wrong], {}, "whole numbers >= 1"),
    ]:
        with pytest.raises(ValueError, match=words):
            write_keypoints(tmp_path / "f.npz", records, **options)
    with pytest.raises(ValueError, match=r"the suffix is \.npz"):
        write_keypoints(tmp_path / "f.h5", [record])
    assert os.listdir(tmp_path) == []


def test_without_h5py_the_remedy_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(ImportError, match=r"pip install 'preimage\[formats\]'"):
        read_keypoints(tmp_path / "a.h5")
