"""Test databases of COLMAP crafted to attack a reader."""

import contextlib
import os
import sqlite3
import sys

import numpy as np
import pytest

import keypoint_files
from keypoint_attacks import BYTES, FEW, FRAMES, assert_rejected, check, small_database
from preimage.io import read_keypoints

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS image_id, 1 AS rows, 4 AS cols, "
ENDLESS += "zeroblob(16) AS data FROM n"


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (f"DROP TABLE keypoints; CREATE VIEW keypoints AS {ENDLESS}", "'keypoints'.*plain table"),
        (f"DROP TABLE images; CREATE VIEW images AS {ENDLESS}", "'images'.*plain table"),
        ("DROP TABLE cameras; CREATE VIRTUAL TABLE cameras USING fts5(camera_id, width, height)", "plain table"),
        (
            "DROP TABLE keypoints; CREATE TABLE keypoints (image_id INTEGER PRIMARY KEY, rows, cols, "
            "data AS (zeroblob(1000000000)))",
            "'keypoints'.*computed",
        ),
        ("DROP TABLE descriptors", "table.*'descriptors'"),
        (
            "CREATE VIRTUAL TABLE v USING fts5(camera_id, width, height); PRAGMA writable_schema=ON; "
            "UPDATE sqlite_master SET rootpage = 2, name = 'cameras', tbl_name = 'cameras', sql = "
            "'CREATE /**/ VIRTUAL TABLE cameras USING fts5(camera_id, width, height)' WHERE name = 'v'; "
            "DELETE FROM sqlite_master WHERE name = 'cameras' AND sql LIKE 'CREATE TABLE%'",
            "plain table",
        ),
        ("ALTER TABLE images RENAME COLUMN name TO title", "'images'.*column.*name"),
        ("UPDATE keypoints SET rows = 4000000000", "keypoints.*(4000000000|None)"),
        ("UPDATE keypoints SET rows = -1", "keypoints.*-1"),
        ("UPDATE keypoints SET cols = -4, rows = 0", "columns.*-4"),
        ("UPDATE keypoints SET rows = 'many'", "keypoints.*None"),
        ("UPDATE keypoints SET rows = 6", "6 × 4.*80"),
        ("UPDATE keypoints SET data = zeroblob(79)", "80 bytes.*5 × 4.*79"),
        ("UPDATE keypoints SET data = 'text'", "bytes.*None"),
        ("UPDATE keypoints SET data = zeroblob(80), cols = 4", "scale.* 0"),
        ("UPDATE images SET name = '../../x' WHERE image_id = 1", "relative"),
        ("UPDATE images SET name = '/../etc/passwd' WHERE image_id = 1", "relative"),
        ("UPDATE images SET name = CAST(x'ff61' AS TEXT) WHERE image_id = 1", "UTF-8"),
        ("UPDATE images SET name = x'6162' WHERE image_id = 1", "name"),
        ("UPDATE images SET name = hex(zeroblob(1000)) WHERE image_id = 1", "characters"),
        ("UPDATE images SET name = hex(zeroblob(9000)) WHERE image_id = 1", "name.*4096"),
        ("UPDATE cameras SET width = -5", "image size"),
        ("UPDATE cameras SET height = 2.5", "image size"),
    ],
)
def test_databases(tmp_path, statements, words):
    path = small_database(tmp_path / "f.db")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(statements)
    assert_rejected(path, words)


def test_a_blob_larger_than_any_image_has(tmp_path):
    path = small_database(tmp_path / "f.db")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript("UPDATE descriptors SET data = zeroblob(300000000), rows = 2343750, cols = 128")
    assert_rejected(path, "keypoints.*2343750|too big|malformed")


def test_numbers_that_are_not_finite_in_a_database(tmp_path):
    for value in (np.nan, np.inf, -np.inf, 3e38):
        frames = FRAMES.astype(np.float32)
        frames[2, 0] = value
        path = tmp_path / f"{value:.0f}.db".replace("+", "")
        assert_rejected(keypoint_files.colmap_database(path, {"a": (frames, BYTES)}), "finite|pixels")
    affine = np.full((FEW, 6), 3e38, np.float32)
    affine[:, :2] = 1
    assert_rejected(keypoint_files.colmap_database(tmp_path / "b.db", {"a": (affine, BYTES)}), "scale|finite")


def test_a_schema_that_points_to_other_pages(tmp_path):
    """The pages of the tables are exchanged: values are valid or rejected."""
    path = small_database(tmp_path / "f.db")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(
            "PRAGMA writable_schema=ON; UPDATE sqlite_master SET rootpage = "
            "(SELECT rootpage FROM sqlite_master WHERE name = 'images') WHERE name IN ('keypoints', 'descriptors')"
        )
    assert_rejected(path, "columns|keypoints|malformed|plain")


@pytest.mark.parametrize("length", [8, 100_000])
def test_a_tree_of_pages_that_repeats_itself(tmp_path, length):
    """Every inner page of the table leads to its first child only, so that there are more rows than bytes."""
    path = small_database(tmp_path / "f.db")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.executescript(
            "PRAGMA page_size=512; VACUUM; DELETE FROM images; DROP TABLE images; "
            "CREATE TABLE images (image_id INTEGER PRIMARY KEY, name, camera_id)"
        )
        names = ((number, f"{number:0{length}d}") for number in range(60_000 if length < 99 else 60))
        with database:
            database.execute("BEGIN")
            database.executemany("INSERT INTO images VALUES (?, ?, 1)", names)
    data = bytearray(path.read_bytes())
    for page in range(512, len(data), 512):
        cells = int.from_bytes(data[page + 3 : page + 5], "big")
        if data[page] != 5 or not 1 < cells < 200 or data[page + 1 : page + 3] != b"\0\0":
            continue  # only inner pages of tables
        pointers = [int.from_bytes(data[page + 12 + 2 * i : page + 14 + 2 * i], "big") for i in range(cells)]
        first = data[page + pointers[0] : page + pointers[0] + 4]
        for pointer in pointers:
            data[page + pointer : page + pointer + 4] = first
        data[page + 8 : page + 12] = first
    path.write_bytes(data)
    assert int.from_bytes(data[16:18], "big") == 512
    assert_rejected(path, "twice|malformed|interrupted|200000|numeric id")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_database_opens_nothing_else(tmp_path):
    path = small_database(tmp_path / "f.db")
    (tmp_path / "a").mkdir()
    for name in ("f.db-shm", "a/b.jpg", "c.jpg", "d.jpg"):
        (tmp_path / name).write_bytes(b"")
    file = read_keypoints(path)
    before = sorted(os.listdir(tmp_path))
    check(file)
    opened = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)]
    assert not [name for name in opened if str(tmp_path) in name]
    assert sorted(os.listdir(tmp_path)) == before
