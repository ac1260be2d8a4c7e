"""Keypoint files of other programs and ours: every format in our convention."""

import contextlib
import math
import os
import sqlite3
import sys

import numpy as np
import pytest
import torch

import preimage
import vlfeat
from keypoint_files import (
    GOLDEN,
    colmap_arrays,
    colmap_database,
    colmap_text,
    hloc_arrays,
    hloc_file,
    lowe_file,
    opencv_file,
    pictures,
    vlfeat_file,
)
from preimage.errors import FileFormatError
from preimage.keypoints import Keypoints
from preimage.ops.sparse_sift_opencv import opencv_sift
from preimage.storage import KeypointRecord, is_keypoint_file, read_keypoints, write_keypoints

needs_vlfeat = pytest.mark.skipif(vlfeat.library() is None, reason="VLFeat is not installed")
FACE = pictures()["face.png"]
HALF = np.array([0.5, 0.5, 0, 0])


def frames_of(keypoints):
    return torch.stack([keypoints.x, keypoints.y, keypoints.scale, keypoints.angle], 1).numpy()


def turned(angles):
    """The smallest turns by those angles."""
    return np.abs((angles + np.pi) % (2 * np.pi) - np.pi)


def matched(frames, others, most=0.3):
    """Positions (i, j) of the nearest pairs: places within `most` pixels, scales and angles alike."""
    away = np.abs(frames[:, None, :2] - others[None, :, :2]).sum(2)
    away = away + np.abs(np.log(frames[:, None, 2] / others[None, :, 2]))
    away = away + turned(frames[:, None, 3] - others[None, :, 3])
    nearest = away.argmin(1)
    found = np.flatnonzero(away[np.arange(len(frames)), nearest] < most)
    return found, nearest[found]


def cosines(one, other):
    return (np.asarray(one) * np.asarray(other)).sum(1)


@needs_vlfeat
def test_a_database_of_colmap_tells_what_vlfeat_finds():
    file = read_keypoints(GOLDEN / "colmap_l1_root.db")
    assert (file.origin, file.normalisation) == ("colmap", "l1_root")
    assert file.keys == ("face.png", "flat.png", "sub/coffee.png")
    assert file.sizes == ((128, 160), (64, 80), (96, 112))
    assert file.counts == (78, 0, 7)
    for key, image in pictures().items():
        if key == "flat.png":
            continue
        pixels = image.astype(np.float32) / 255
        frames, descriptors = vlfeat.sift(pixels, octaves=4, peak_threshold=0.02 / 3)
        ours = file[key]
        one, other = matched(frames_of(ours), frames, most=1e-5)
        assert len(one) == len(ours.x)
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        assert cosines(ours.descriptors[one], descriptors[other]).min() > 0.9999
    assert len(file["flat.png"]) == 1
    assert len(file["flat.png"].x) == 0


def test_both_normalisations_of_colmap_give_one_descriptor():
    roots = read_keypoints(GOLDEN / "colmap_l1_root.db")[0]
    plain = read_keypoints(GOLDEN / "colmap_l2.db", normalisation="l2")[0]
    assert np.array_equal(frames_of(roots), frames_of(plain))
    assert cosines(roots.descriptors, plain.descriptors).min() > 0.9999
    wrong = read_keypoints(GOLDEN / "colmap_l1_root.db", normalisation="l2")[0]
    assert cosines(wrong.descriptors, plain.descriptors).max() < 0.99
    assert torch.allclose(roots.descriptors.norm(dim=1), torch.ones(78), atol=1e-6)


def test_keypoints_of_colmap_with_four_or_six_columns(tmp_path):
    descriptors = np.arange(256, dtype=np.uint8).reshape(2, 128)
    four = np.array([[0.5, 0.5, 2, -0.5], [10, 20, 3, 1]], np.float32)
    shear = np.array([[1, 1, 3 * math.cos(1), -5 * math.sin(1.2), 3 * math.sin(1), 5 * math.cos(1.2)]], np.float32)
    path = colmap_database(
        tmp_path / "a?b#%41.db", {"d/e.jpg": (four, descriptors), "f.jpg": (shear, descriptors[:1]), "g": (None, None)}
    )
    file = read_keypoints(path)
    assert (file.keys, file.sizes, file.counts) == (("d/e.jpg", "f.jpg", "g"), ((30, 40),) * 3, (2, 1, 0))
    expected = np.array([[0, 0, 2, 2 * math.pi - 0.5], [9.5, 19.5, 3, 1]], np.float32)
    assert np.abs(frames_of(file["d/e.jpg"]) - expected).max() < 1e-6
    assert np.abs(frames_of(file[1]) - np.array([[0.5, 0.5, 4, 1]])).max() < 1e-6
    assert len(file[-1].x) == 0
    lowe = (np.arange(128.0) / np.arange(128.0).max()) ** 2
    assert np.allclose(
        file[0].descriptors[0, :9], (lowe / np.linalg.norm(lowe))[[0, 7, 6, 5, 4, 3, 2, 1, 8]], atol=1e-7
    )
    assert sorted(os.listdir(tmp_path)) == ["a?b#%41.db"], "nothing is written beside it"


def test_a_text_that_colmap_imports(tmp_path):
    affine, descriptors = colmap_arrays("colmap_l2.db")
    scale, angle = np.hypot(affine[:, 2], affine[:, 4]), np.arctan2(affine[:, 4], affine[:, 2])
    path = colmap_text(tmp_path / "face.png.txt", np.column_stack([affine[:, :2], scale, angle]), descriptors)
    file = read_keypoints(path)
    assert (file.origin, file.keys, file.sizes, file.counts) == ("colmap-text", ("face.png",), (None,), (78,))
    whole = read_keypoints(GOLDEN / "colmap_l2.db", normalisation="l2")[0]
    assert np.abs(frames_of(file[0]) - frames_of(whole)).max() < 2e-6
    assert torch.equal(file[0].descriptors, whole.descriptors)


@pytest.mark.parametrize(("name", "rootsift"), [("colmap_l2.db", False), ("colmap_l1_root.db", True)])
@pytest.mark.parametrize("shrunk", [1.0, 2.5])
def test_files_of_hloc(tmp_path, name, rootsift, shrunk):
    pytest.importorskip("h5py")
    none = {"keypoints": np.zeros((0, 2)), "descriptors": np.zeros((128, 0)), "scales": np.zeros(0)}
    images = {
        "db/face.png": hloc_arrays(name, rootsift=rootsift, shrunk=shrunk),
        "flat.png": none | {"oris": np.zeros(0), "image_size": np.array([80, 64])},
    }
    file = read_keypoints(hloc_file(tmp_path / "f.h5", images, uncertainty=shrunk))
    assert (file.origin, file.keys) == ("hloc", ("db/face.png", "flat.png"))
    assert (file.sizes, file.counts) == (((128, 160), (64, 80)), (78, 0))
    whole = read_keypoints(GOLDEN / name, normalisation="l1_root" if rootsift else "l2")[0]
    expected = (frames_of(whole) + HALF) * np.array([shrunk, shrunk, shrunk, 1]) - HALF
    assert np.abs(frames_of(file[0]) - expected)[:, :3].max() < 0.13, "half precision"
    assert turned((frames_of(file[0]) - expected)[:, 3]).max() < 2e-3
    assert cosines(file[0].descriptors, whole.descriptors).min() > (0.995 if rootsift else 0.99999)
    assert len(file[1].x) == 0


def test_files_in_hlocs_layout_by_others_keep_its_origin(tmp_path):
    pytest.importorskip("h5py")
    arrays = hloc_arrays("colmap_l2.db", rootsift=False)
    theirs = read_keypoints(hloc_file(tmp_path / "a.h5", {"a": arrays}, uncertainty=1.0))[0]
    others = read_keypoints(hloc_file(tmp_path / "b.h5", {"a": arrays}, uncertainty=None))[0]
    assert torch.equal(others.x, torch.from_numpy(arrays["keypoints"][:, 0].astype(np.float32)))
    assert torch.allclose(others.x - theirs.x, torch.tensor(0.5))


@pytest.mark.parametrize("suffix", ["yml", "yaml", "xml", "json"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_files_of_opencv(tmp_path, suffix, nested, dtype):
    file = read_keypoints(opencv_file(tmp_path / f"face.{suffix}", FACE, nested=nested, dtype=dtype))
    assert (file.origin, file.keys, file.sizes) == ("opencv", ("face",), (None,))
    expected = opencv_sift(FACE[None, None])
    one, other = matched(frames_of(file[0]), frames_of(expected), most=1e-4)
    assert sorted(other) == list(range(len(expected.x)))
    assert torch.allclose(file[0].response[one], expected.response[other])
    assert torch.allclose(file[0].descriptors[one], expected.descriptors[other], atol=1e-6)
    flat = read_keypoints(opencv_file(tmp_path / f"flat.{suffix}", pictures()["flat.png"], nested=nested))
    assert flat.counts == (0,)


@needs_vlfeat
@pytest.mark.parametrize("first", [-1, 0])
def test_files_of_vlfeat_and_lowe(tmp_path, first):
    frames, descriptors = vlfeat.sift(FACE.astype(np.float32), first_octave=first)
    fitting = descriptors.max(1) < 0.498  # VLFeat's command wraps larger entries around to small bytes
    frames, descriptors = frames[fitting], descriptors[fitting]
    assert len(frames) > 80
    for write, suffix, place, angle in ((vlfeat_file, "sift", 1e-3, 1e-5), (lowe_file, "key", 6e-3, 6e-4)):
        file = read_keypoints(write(tmp_path / f"face.{suffix}", frames, descriptors), image_size=FACE.shape)
        assert (file.keys, file.sizes, file.counts) == (("face",), ((128, 160),), (len(frames),))
        assert np.abs(frames_of(file[0]) - frames)[:, :3].max() < place
        assert turned((frames_of(file[0]) - frames)[:, 3]).max() < angle
        assert cosines(file[0].descriptors, descriptors).min() > 0.999


@needs_vlfeat
def test_one_keypoint_has_one_descriptor_whoever_wrote_the_file(tmp_path):
    theirs = read_keypoints(opencv_file(tmp_path / "face.yml", FACE, nested=False))[0]
    frames, descriptors = vlfeat.sift(FACE.astype(np.float32), first_octave=-1, peak_threshold=1.0)
    ours = read_keypoints(vlfeat_file(tmp_path / "face.sift", frames, descriptors))[0]
    one, other = matched(frames_of(theirs), frames_of(ours), most=0.35)
    assert len(one) > 50
    alike = cosines(theirs.descriptors[one], ours.descriptors[other])
    assert np.median(alike) > 0.98
    assert np.quantile(alike, 0.05) > 0.9
    away = (frames_of(theirs)[one] - frames_of(ours)[other])[:, :2]
    assert np.abs(np.median(away, axis=0)).max() < 0.05, "one origin"


@pytest.mark.parametrize(("dtype", "worst"), [("float32", 1e-7), ("float16", 3e-4), ("uint8", 2e-3)])
def test_our_own_files(tmp_path, dtype, worst):
    records = list(read_keypoints(GOLDEN / "colmap_l1_root.db"))
    records.append(KeypointRecord("unsized", records[0].keypoints, None))
    write_keypoints(tmp_path / "f.npz", records, dtype=dtype)
    file = read_keypoints(tmp_path / "f.npz")
    assert file.keys == ("face.png", "flat.png", "sub/coffee.png", "unsized")
    assert file.sizes == ((128, 160), (64, 80), (96, 112), None)
    for record, back in zip(records, file, strict=True):
        assert np.allclose(frames_of(back.keypoints), frames_of(record.keypoints), rtol=0, atol=1e-6)
        assert torch.equal(back.keypoints.response, record.keypoints.response)
        assert np.abs((back.keypoints.descriptors - record.keypoints.descriptors).numpy()).max(initial=0) < worst
    write_keypoints(tmp_path / "g.npz", records, dtype=dtype)
    assert (tmp_path / "f.npz").read_bytes() == (tmp_path / "g.npz").read_bytes()


def test_our_own_file_of_one_image_needs_no_key(tmp_path):
    descriptors = np.zeros((2, 128), np.uint8)
    descriptors[0, 3] = 200
    np.savez_compressed(
        tmp_path / "a b.npz", keypoints=np.array([[1, 2, 3, 4], [5, 6, 7, 8.0]]), descriptors=descriptors
    )
    file = read_keypoints(tmp_path / "a b.npz", image_size=(9, 8))
    assert (file.origin, file.keys, file.sizes) == ("preimage", ("a b",), ((9, 8),))
    assert file[0].descriptors[0, 3] == 1
    assert file[0].descriptors[1].eq(0).all(), "an image without gradient has none"


def test_a_folder_of_files(tmp_path):
    affine, descriptors = colmap_arrays("colmap_l2.db")
    (tmp_path / "sub" / ".hidden").mkdir(parents=True)
    rows = np.column_stack([affine[:, :2], np.full(78, 2), np.zeros(78)])
    colmap_text(tmp_path / "b.jpg.txt", rows, descriptors)
    colmap_text(tmp_path / "sub" / "a.jpg.txt", rows[:5], descriptors[:5])
    colmap_text(tmp_path / "sub" / ".hidden" / "a.jpg.txt", rows[:5], descriptors[:5])
    (tmp_path / "notes.txt").write_text("nothing of note")
    assert is_keypoint_file(tmp_path)
    file = read_keypoints(tmp_path, image_size=(128, 160))
    assert (file.origin, file.keys, file.counts) == ("colmap-text", ("b.jpg", "sub/a.jpg"), (None, None))
    assert [len(record.keypoints.x) for record in file] == [78, 5]
    (tmp_path / "sub" / "a.jpg.txt").write_text("5 128\n1 2")
    with pytest.raises(FileFormatError, match=r"a\.jpg\.txt: cut short: 5 keypoints"):
        file["sub/a.jpg"]
    opencv_file(tmp_path / "b.jpg.yml", FACE, nested=False)
    with pytest.raises(ValueError, match=r"are both of the image 'b\.jpg'; name the format"):
        read_keypoints(tmp_path)
    assert read_keypoints(tmp_path, format="opencv").keys == ("b.jpg",)
    with pytest.raises(ValueError, match="a folder holds files of one image each, not of colmap"):
        read_keypoints(tmp_path, format="colmap")
    with pytest.raises(ValueError, match="holds no keypoint files"):
        read_keypoints(tmp_path, format="lowe")


def test_what_is_a_keypoint_file(tmp_path):
    pytest.importorskip("h5py")
    image = np.zeros((8, 8), np.uint8)
    yes = [GOLDEN / "colmap_l2.db", hloc_file(tmp_path / "a.h5", {"a": hloc_arrays("colmap_l2.db", rootsift=False)})]
    yes += [opencv_file(tmp_path / f"a.{suffix}", image, nested=False) for suffix in ("yml", "xml", "json")]
    yes.append(colmap_text(tmp_path / "a.txt", np.zeros((0, 4)), np.zeros((0, 128), int)))
    write_keypoints(tmp_path / "a.npz", read_keypoints(GOLDEN / "colmap_l2.db"))
    yes.append(tmp_path / "a.npz")
    for path in yes:
        assert is_keypoint_file(path), path
    np.savez(tmp_path / "b.npz", a=np.zeros((31, 2, 2)))
    hloc_file(tmp_path / "b.h5", {"a": {"features": np.zeros((31, 2, 2))}}, uncertainty=None)
    (tmp_path / "b.json").write_text('{"name": "hog"}')
    (tmp_path / "b.xml").write_text("<?xml version='1.0'?><keypoints/>")
    (tmp_path / "b.txt").write_text("a.jpg\n")
    (tmp_path / "b.safetensors").write_text("")
    (tmp_path / "c.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    (tmp_path / "c.npz").write_bytes(b"PK\x03\x04")
    for name in ("b.npz", "b.h5", "b.json", "b.xml", "b.txt", "b.safetensors", "c.h5", "c.npz", "absent.db"):
        assert not is_keypoint_file(tmp_path / name), name


def test_image_sizes():
    path = GOLDEN / "colmap_l2.db"
    with pytest.raises(ValueError, match=r"'flat\.png' has 80×64 pixels \(width × height\), not 160×128"):
        read_keypoints(path, image_size=(128, 160))
    with pytest.raises(ValueError, match="whole numbers >= 1"):
        read_keypoints(path, image_size=(0, 160))


def test_names_are_public():
    assert preimage.read_keypoints is read_keypoints
    assert preimage.write_keypoints is write_keypoints
    with pytest.raises(KeyError, match="no image 'x'"):
        read_keypoints(GOLDEN / "colmap_l2.db")["x"]
    with pytest.raises(IndexError, match="image 3 of"):
        read_keypoints(GOLDEN / "colmap_l2.db")[3]


def test_arguments_that_are_wrong(tmp_path):
    with pytest.raises(ValueError, match="the format is one of colmap, hloc, preimage, colmap-text"):
        read_keypoints(tmp_path, format="sift")
    with pytest.raises(ValueError, match="normalisation is one of l2, l1_root, l1_root_twice"):
        read_keypoints(tmp_path, normalisation="root")
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
        ("a.sift", "\0\0\0", "is not a number"),
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
        ("a.yml", "%YAML:1.0\n---\npoints: [ 1 ]\n", "no node 'keypoints'"),
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
    with pytest.raises(FileFormatError, match=r"another kind \(type 1 of image 3\), not SIFT"):
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
