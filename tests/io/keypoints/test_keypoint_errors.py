"""Test the errors for keypoint files and arguments that are rejected."""

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
    with pytest.raises(ValueError, match=r"80×64.*'flat\.png'.*160×128"):
        read_keypoints(path, image_size=(128, 160))
    with pytest.raises(ValueError, match="positive integers"):
        read_keypoints(path, image_size=(0, 160))


def test_wrong_arguments_are_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"format.*colmap, hloc, mat, preimage, colmap-text"):
        read_keypoints(tmp_path, format="sift")
    with pytest.raises(ValueError, match=r"normalization.*l2, l1_root, l1_root_twice"):
        read_keypoints(tmp_path, normalization="root")
    with pytest.raises(FileNotFoundError):
        read_keypoints(tmp_path / "absent.db")
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="suffix"):
        read_keypoints(tmp_path / "a.bin")


ROW = "1.5 2.5 3 0.1 " + "7 " * 128
YAML = "%YAML:1.0\n---\nkeypoints: [ {} ]\n"
MATRIX = "descriptors: !!opencv-matrix\n   rows: {}\n   cols: {}\n   dt: f\n   data: [ {} ]\n"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.sift", ROW + "\n" + ROW[:-2], r"4 \+ 128.*263"),
        ("a.sift", ROW.replace("3 0.1", "0 0.1"), r"scale.* 0"),
        ("a.sift", ROW.replace("3 0.1", "nan 0.1"), "number.*nan"),
        ("a.sift", ROW.replace("3 0.1", "1e999 0.1"), "finite"),
        ("a.sift", ROW.replace("3 0.1", "3 0.1.2"), r"'0\.1\.2'"),
        ("a.sift", ROW.replace("1.5", "-1e9"), r"pixels.*1e\+09"),
        ("a.sift", ROW.replace("7 7", "7 -7", 1), "negative"),
        ("a.sift", "1 128\n" + ROW, r"format.*lowe"),
        ("a.sift", "\0\0\0", "zeros"),
        ("a.sift", "1 2 a\0b", "binary"),
        ("a.sift", "SIFTV4.0\1\0\0\0", "VisualSFM"),
        ("a.key", "", "empty"),
        ("a.key", "<html>", "web page"),
        ("a.sift", ROW.replace("3 0.1", "3 95"), r"angle.*radians.*95.*degrees"),
        ("a.key", ROW, "128"),
        ("a.key", "2 128\n" + ROW, "2 keypoints"),
        ("a.key", "1 64\n" + ROW, r"descriptors.*SIFT.*64"),
        ("a.key", "999999999 128\n" + ROW, r"200000 keypoints.*999999999"),
        ("a.txt", "199999 128\n" + ROW, "199999 keypoints"),
        ("a.yml", "keypoints: [ ]", "FileStorage"),
        ("a.yml", YAML.format("1, 2, 3") + MATRIX.format(1, 128, "1., " * 128), r"7 numbers.*3"),
        ("a.yml", YAML.format("1, 2, 3, 4, 5, 6, 7"), "'descriptors'"),
        ("a.yml", YAML.format("1, 2, 3, 4, 5, 6, 7") + MATRIX.format(1, 32, "1., " * 32), r"descriptors.*\(1, 32\)"),
        ("a.yml", YAML.format("1, 2, 3, 4, 5, 6, 7") + MATRIX.format(1, 128, "1., " * 127), "128 values.*127"),
        ("a.yml", YAML.format("1, 2, 3, -1, 5, 6, 7") + MATRIX.format(1, 128, "1., " * 128), "angle"),
        ("a.yml", YAML.format("1, 2, .Inf, 4, 5, 6, 7") + MATRIX.format(1, 128, "1., " * 128), "number.*Inf"),
        ("a.yml", "%YAML:1.0\n---\nkp: [ 1 ]\ndesc: 3\n", r"'keypoints'.*kp, desc"),
        ("a.xml", "<?xml?>\n<opencv_storage>\n<kp>1 2</kp>\n<desc></desc>", "kp, desc"),
        ("a.xml", "<?xml?><opencv_storage><keypoints>1 2", r"truncated.*keypoints"),
        ("a.json", '{"keypoints": {"a": 1}}', r"keypoints.*matrix"),
        ("a.json", '{"keypoints": [1, 2, "a"]}', r"7 numbers.*2"),
    ],
)
def test_wrong_texts_are_rejected(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(FileFormatError, match=rf"{name}: .*({words})"):
        read_keypoints(tmp_path / name)


FOUR = np.array([[1, 2, 3, 4]], np.float32)
BYTES = np.ones((1, 128), np.uint8)


@pytest.mark.parametrize(
    ("keypoints", "descriptors", "words"),
    [
        (FOUR[:, :2], BYTES, r"scale.*angle"),
        (FOUR[:, :3], BYTES, r"4.*6 columns.*3"),
        (FOUR, None, r"1 keypoints.*0 descriptors"),
        (FOUR, BYTES[:, :64], r"SIFT.*64"),
        (FOUR, BYTES.repeat(2, 0), r"1 keypoints.*2 descriptors"),
        (FOUR, BYTES.astype(np.float32), r"'a\.jpg'.*descriptors.*uint8.*float32"),
        (FOUR.astype(np.float64), BYTES, r"'a\.jpg'.*keypoints.*float32.*float64"),
    ],
)
def test_wrong_databases_are_rejected(tmp_path, keypoints, descriptors, words):
    with pytest.raises(FileFormatError, match=rf"a\.db: .*{words}"):
        read_keypoints(colmap_database(tmp_path / "a.db", {"a.jpg": (keypoints, descriptors)}))


def test_features_of_another_kind_in_a_database(tmp_path):
    path = tmp_path / "a.db"
    path.write_bytes((GOLDEN / "colmap_l2.db").read_bytes())
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE descriptors SET type = 1 WHERE image_id = 3")
    file = read_keypoints(path)
    with pytest.raises(FileFormatError, match=r"coffee.*SIFT.*type 1.*image 3"):
        file[2]
    assert len(file[0].x) == 78, "one bad image does not cost the others"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE descriptors SET type = 1")
    with pytest.raises(FileFormatError, match="SIFT"):
        read_keypoints(path)


def test_a_database_that_is_still_being_written(tmp_path):
    path = tmp_path / "a.db"
    path.write_bytes((GOLDEN / "colmap_l2.db").read_bytes())
    with contextlib.closing(sqlite3.connect(path)) as database:
        with database:
            database.execute("DELETE FROM keypoints")
        with pytest.raises(FileFormatError, match=r"a\.db-wal"):
            read_keypoints(path)
    assert read_keypoints(path).counts == (0, 0, 0)


def test_a_database_whose_writer_was_killed(tmp_path):
    path = tmp_path / "a.db"
    colmap_database(path, {"a.jpg": (FOUR, BYTES)})
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("UPDATE images SET name = 'b.jpg'")
        database.commit()
        for name in ("a.db", "a.db-wal"):  # as after a kill
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
    with pytest.raises(FileFormatError, match=r"copy\.db: .*'images'.*-wal"):
        read_keypoints(tmp_path / "copy.db")


def test_unknown_files_are_named(tmp_path):
    for name, data, words in [
        ("a.yml.gz", gzip.compress(b"%YAML"), "gzip"),
        ("a.pkl", b"\x80\x04\x95", "pickle"),
        ("a.feat", b"1 2 3 0\n", "OpenMVG"),
        ("a.desc", bytes(range(40)), "OpenMVG"),
        ("a.bin", bytes(range(40)), "binary"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name}: .*suffix.*{words}"):
            read_keypoints(tmp_path / name)
        with pytest.raises(FileFormatError, match=rf"{name}: .*{words}.*COLMAP"):
            FeatureStore(tmp_path / name)
    for name, words in [("a.db", "SQLite"), ("a.npz", r"\.npz"), ("a.mat", "MATLAB v5")]:
        (tmp_path / name).write_bytes(gzip.compress(bytes(500)) + bytes(200))
        with pytest.raises(FileFormatError, match=rf"{name}: .*{words}.*gzip"):
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
    with pytest.raises(FileFormatError, match=r"killed\.h5: .*h5clear"):
        read_keypoints(tmp_path / "killed.h5")
    (tmp_path / "short.h5").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(FileFormatError, match=r"short\.h5: "):
        read_keypoints(tmp_path / "short.h5")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scales": None}, "scales"),
        ({"descriptors": np.zeros((256, 78), np.float16)}, r"SIFT.*\(256, 78\)"),
        ({"oris": np.zeros(77, np.float16)}, "shapes"),
        ({"scales": np.full(78, np.nan, np.float16)}, "finite"),
        ({"image_size": np.array([0, 4])}, r"\(0, 4\)"),
    ],
)
def test_wrong_hloc_files_are_rejected(tmp_path, change, words):
    pytest.importorskip("h5py")
    arrays = hloc_arrays("colmap_l2.db", rootsift=False) | change
    path = hloc_file(tmp_path / "a.h5", {"a": {key: array for key, array in arrays.items() if array is not None}})
    with pytest.raises(FileFormatError, match=rf"a\.h5: .*{words}"):
        read_keypoints(path)[0]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a/keypoints": np.zeros((1, 4))}, r"'a'.*descriptors"),
        ({"a/keypoints": np.zeros((1, 3)), "a/descriptors": BYTES}, r"\(1, 4\).*float64 \(1, 3\)"),
        ({"a/keypoints": np.zeros((1, 4)), "a/descriptors": BYTES.astype(np.int16)}, "int16"),
        ({"a/keypoints": np.ones((1, 4)), "a/descriptors": BYTES, "a/image_size": np.array([4, 0])}, "image_size"),
        ({"a/points": np.ones((1, 4))}, "KEY/keypoints"),
        ({"../a/keypoints": np.ones((1, 4)), "../a/descriptors": BYTES}, "relative"),
    ],
)
def test_wrong_arrays_are_rejected(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(FileFormatError, match=rf"a\.npz: .*{words}"):
        read_keypoints(tmp_path / "a.npz")


def test_unwritable_features_are_rejected(tmp_path):
    record = read_keypoints(GOLDEN / "colmap_l2.db").record(0)
    both = Keypoints.cat([record.keypoints, record.keypoints])
    wrong = KeypointRecord("a", Keypoints.cat([record.keypoints]), (4, 0))
    for records, options, words in [
        ([], {}, "no image"),
        ([record, record], {}, "twice"),
        ([record], {"dtype": "int8"}, "'int8'"),
        ([KeypointRecord("../a", record.keypoints, None)], {}, "relative"),
        ([KeypointRecord("a", both, None)], {}, "got.* 2"),
        ([wrong], {}, "positive integers"),
    ]:
        with pytest.raises(ValueError, match=words):
            write_keypoints(tmp_path / "f.npz", records, **options)
    with pytest.raises(ValueError, match=r"suffix.*\.npz"):
        write_keypoints(tmp_path / "f.h5", [record])
    assert os.listdir(tmp_path) == []


def test_without_h5py_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(ImportError, match=r"preimage\[formats\]"):
        read_keypoints(tmp_path / "a.h5")
