"""Test keypoint files of other programs and of this package: every format is converted to our convention."""

import math
import os

import numpy as np
import pytest
import torch

import preimage
import tolerances
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
from preimage.io import KeypointRecord, is_keypoint_file, read_keypoints, write_keypoints
from preimage.ops.sift_opencv import opencv_sift

needs_vlfeat = pytest.mark.skipif(vlfeat.library() is None, reason="VLFeat is not installed")
FACE = pictures()["face.png"]
HALF = np.array([0.5, 0.5, 0, 0])


def frames_of(keypoints):
    return torch.stack([keypoints.x, keypoints.y, keypoints.scale, keypoints.angle], 1).numpy()


def turned(angles):
    """Return the angles as the smallest rotations."""
    return np.abs((angles + np.pi) % (2 * np.pi) - np.pi)


def matched(frames, others, most=0.3):
    """Return indices (i, j) of the nearest pairs, with positions within `most` pixels and similar scales and angles."""
    away = np.abs(frames[:, None, :2] - others[None, :, :2]).sum(2)
    away = away + np.abs(np.log(frames[:, None, 2] / others[None, :, 2]))
    away = away + turned(frames[:, None, 3] - others[None, :, 3])
    nearest = away.argmin(1)
    found = np.flatnonzero(away[np.arange(len(frames)), nearest] < most)
    return found, nearest[found]


def cosines(one, other):
    return (np.asarray(one) * np.asarray(other)).sum(1)


@needs_vlfeat
def test_colmap_database_has_the_keypoints_of_vlfeat():
    file = read_keypoints(GOLDEN / "colmap_l1_root.db")
    assert (file.format, file.normalization) == ("colmap", "l1_root")
    assert tuple(file) == ("face.png", "flat.png", "sub/coffee.png")
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


def test_both_normalizations_of_colmap_give_one_descriptor():
    roots = read_keypoints(GOLDEN / "colmap_l1_root.db")[0]
    plain = read_keypoints(GOLDEN / "colmap_l2.db", normalization="l2")[0]
    assert np.array_equal(frames_of(roots), frames_of(plain))
    assert cosines(roots.descriptors, plain.descriptors).min() > 0.9999
    wrong = read_keypoints(GOLDEN / "colmap_l1_root.db", normalization="l2")[0]
    assert cosines(wrong.descriptors, plain.descriptors).max() < 0.99
    assert torch.allclose(roots.descriptors.norm(dim=1), torch.ones(78), atol=tolerances.STORED_KEYPOINTS)


def test_keypoints_of_colmap_with_four_or_six_columns(tmp_path):
    descriptors = np.arange(256, dtype=np.uint8).reshape(2, 128)
    four = np.array([[0.5, 0.5, 2, -0.5], [10, 20, 3, 1]], np.float32)
    shear = np.array([[1, 1, 3 * math.cos(1), -5 * math.sin(1.2), 3 * math.sin(1), 5 * math.cos(1.2)]], np.float32)
    path = colmap_database(
        tmp_path / "a?b#%41.db", {"d/e.jpg": (four, descriptors), "f.jpg": (shear, descriptors[:1]), "g": (None, None)}
    )
    file = read_keypoints(path)
    assert (tuple(file), file.sizes, file.counts) == (("d/e.jpg", "f.jpg", "g"), ((30, 40),) * 3, (2, 1, 0))
    expected = np.array([[0, 0, 2, 2 * math.pi - 0.5], [9.5, 19.5, 3, 1]], np.float32)
    assert np.abs(frames_of(file["d/e.jpg"]) - expected).max() < tolerances.STORED_KEYPOINTS
    assert np.abs(frames_of(file[1]) - np.array([[0.5, 0.5, 4, 1]])).max() < tolerances.STORED_KEYPOINTS
    assert len(file[-1].x) == 0
    lowe = (np.arange(128.0) / np.arange(128.0).max()) ** 2
    assert np.allclose(
        file[0].descriptors[0, :9],
        (lowe / np.linalg.norm(lowe))[[0, 7, 6, 5, 4, 3, 2, 1, 8]],
        atol=tolerances.STORED_DESCRIPTORS["float32"],
    )
    assert sorted(os.listdir(tmp_path)) == ["a?b#%41.db"], "nothing is written beside it"


def test_a_text_that_colmap_imports(tmp_path):
    affine, descriptors = colmap_arrays("colmap_l2.db")
    scale, angle = np.hypot(affine[:, 2], affine[:, 4]), np.arctan2(affine[:, 4], affine[:, 2])
    path = colmap_text(tmp_path / "face.png.txt", np.column_stack([affine[:, :2], scale, angle]), descriptors)
    file = read_keypoints(path)
    assert (file.format, tuple(file), file.sizes, file.counts) == ("colmap-text", ("face.png",), (None,), (78,))
    whole = read_keypoints(GOLDEN / "colmap_l2.db", normalization="l2")[0]
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
    assert (file.format, tuple(file)) == ("hloc", ("db/face.png", "flat.png"))
    assert (file.sizes, file.counts) == (((128, 160), (64, 80)), (78, 0))
    whole = read_keypoints(GOLDEN / name, normalization="l1_root" if rootsift else "l2")[0]
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
    assert (file.format, tuple(file), file.sizes) == ("opencv", ("face",), (None,))
    expected = opencv_sift(FACE[None, None], threads=1).to_torch()
    one, other = matched(frames_of(file[0]), frames_of(expected), most=1e-4)
    assert sorted(other) == list(range(len(expected.x)))
    assert torch.allclose(file[0].response[one], expected.response[other])
    assert torch.allclose(file[0].descriptors[one], expected.descriptors[other], atol=tolerances.STORED_KEYPOINTS)
    flat = read_keypoints(opencv_file(tmp_path / f"flat.{suffix}", pictures()["flat.png"], nested=nested))
    assert flat.counts == (0,)


@needs_vlfeat
@pytest.mark.parametrize("first", [-1, 0])
def test_files_of_vlfeat_and_lowe(tmp_path, first):
    frames, descriptors = vlfeat.sift(FACE.astype(np.float32), first_octave=first)
    fitting = descriptors.max(1) < 0.498  # VLFeat's command wraps larger entries around to small bytes
    frames, descriptors = frames[fitting], descriptors[fitting]
    assert len(frames) > 80
    for name, write, suffix in (("vlfeat", vlfeat_file, "sift"), ("lowe", lowe_file, "key")):
        place, angle = tolerances.STORED_KEYPOINTS_TEXT[name]
        file = read_keypoints(write(tmp_path / f"face.{suffix}", frames, descriptors), image_size=FACE.shape)
        assert (tuple(file), file.sizes, file.counts) == (("face",), ((128, 160),), (len(frames),))
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


@pytest.mark.parametrize("dtype", tolerances.STORED_DESCRIPTORS)
def test_files_of_the_package(tmp_path, dtype):
    records = list(read_keypoints(GOLDEN / "colmap_l1_root.db").records())
    records.append(KeypointRecord("unsized", records[0].keypoints, None))
    write_keypoints(tmp_path / "f.npz", records, dtype=dtype)
    file = read_keypoints(tmp_path / "f.npz")
    assert tuple(file) == ("face.png", "flat.png", "sub/coffee.png", "unsized")
    assert file.sizes == ((128, 160), (64, 80), (96, 112), None)
    for record, back in zip(records, file.records(), strict=True):
        assert np.allclose(
            frames_of(back.keypoints), frames_of(record.keypoints), rtol=0, atol=tolerances.STORED_KEYPOINTS
        )
        assert torch.equal(back.keypoints.response, record.keypoints.response)
        assert (
            np.abs((back.keypoints.descriptors - record.keypoints.descriptors).numpy()).max(initial=0)
            < tolerances.STORED_DESCRIPTORS[dtype]
        )
    write_keypoints(tmp_path / "g.npz", records, dtype=dtype)
    assert (tmp_path / "f.npz").read_bytes() == (tmp_path / "g.npz").read_bytes()


def test_texts_in_other_encodings(tmp_path):
    """Editors on Windows write a byte order mark, or UTF-16."""
    row = "1 2 3 0.5 " + "1 " * 128 + "\n"
    yaml = opencv_file(tmp_path / "a.yml", FACE, nested=False).read_text()
    count = read_keypoints(tmp_path / "a.yml").counts[0]
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        for name, text in (("a.txt", f"1 128\n{row}"), ("a.key", f"1 128\n{row}"), ("a.sift", row), ("b.yml", yaml)):
            (tmp_path / name).write_bytes(text.encode(encoding))
            assert is_keypoint_file(tmp_path / name), (name, encoding)
            assert read_keypoints(tmp_path / name).counts == (count if name == "b.yml" else 1,), (name, encoding)


def test_results_of_vl_sift_in_matlab_are_read(tmp_path):
    """Frames count pixels from 1; descriptors are in the order of VLFeat's C library (toolbox/sift/vl_sift.m)."""
    scipy_io = pytest.importorskip("scipy.io")
    frames = np.array([[1, 1, 2, 0.5], [11, 21, 3, 4], [5, 6, 1.5, -1]])
    descriptors = np.random.default_rng(1).integers(0, 120, (3, 128)).astype(np.uint8)
    scipy_io.savemat(tmp_path / "a.mat", {"F": frames.T, "D": descriptors.T, "name": "a", "I": np.zeros((9, 9))})
    file = read_keypoints(tmp_path / "a.mat")
    assert (file.format, tuple(file), file.sizes, file.counts) == ("mat", ("a",), (None,), (3,))
    ours = read_keypoints(vlfeat_file(tmp_path / "a.sift", frames - [1, 1, 0, 0], descriptors / 512.0))[0]
    assert np.abs(frames_of(file[0]) - frames_of(ours)).max() < tolerances.STORED_KEYPOINTS
    assert torch.allclose(file[0].descriptors, ours.descriptors)
    scipy_io.savemat(
        tmp_path / "b.mat",
        {"x_frames": frames.T, "x_descrs": descriptors.T, "y_F": np.zeros((4, 0)), "y_D": np.zeros((0, 0))},
        do_compression=True,
    )
    assert is_keypoint_file(tmp_path / "b.mat")
    file = read_keypoints(tmp_path / "b.mat")
    assert dict(zip(file, file.counts, strict=True)) == {"x": 3, "y": 0}
    for arrays, words in [
        ({"F": frames, "D": descriptors}, r"\(4, N\).*\(128, N\).*\(3, 4\).*\(3, 128\)"),
        ({"F": np.zeros((6, 3)), "D": descriptors.T}, r"ellipses.*\(6, 3\)"),
        ({"F": frames.T}, r"'c'.*descriptors"),
        ({"hog": np.zeros((3, 3, 31))}, "hog"),
    ]:
        scipy_io.savemat(tmp_path / "c.mat", arrays)
        with pytest.raises(FileFormatError, match=rf"c\.mat: .*{words}"):
            read_keypoints(tmp_path / "c.mat")
    scipy_io.savemat(tmp_path / "c.mat", {"F": np.zeros((2, 3)), "D": descriptors.T})
    assert not is_keypoint_file(tmp_path / "c.mat"), "dense SIFT"


NAMES = {"/data/a.jpg": "data/a.jpg", "./b.jpg": "b.jpg", "c//d.jpg": "c/d.jpg", "C:\\img\\e.jpg": "img/e.jpg"}


def test_names_become_keys(tmp_path):
    pytest.importorskip("h5py")
    _, descriptors = colmap_arrays("colmap_l2.db")
    frames = np.full((78, 4), 5, np.float32)
    database = colmap_database(tmp_path / "a.db", dict.fromkeys(NAMES, (frames, descriptors)))
    assert tuple(read_keypoints(database)) == tuple(NAMES.values())
    np.savez(
        tmp_path / "a.npz",
        **{f"{name}/keypoints": frames for name in NAMES} | {f"{name}/descriptors": descriptors for name in NAMES},
    )
    file = read_keypoints(tmp_path / "a.npz")
    assert tuple(file) == tuple(NAMES.values())
    assert len(file["img/e.jpg"].x) == 78
    path = hloc_file(tmp_path / "a.h5", dict.fromkeys(NAMES, hloc_arrays("colmap_l2.db", rootsift=False)))
    assert sorted(read_keypoints(path)) == sorted(NAMES.values())
    clash = colmap_database(tmp_path / "b.db", dict.fromkeys(["/a.jpg", "a.jpg"], (None, None)))
    with pytest.raises(FileFormatError, match=r"key.*'a\.jpg'.*'/a\.jpg'.*'a\.jpg'"):
        read_keypoints(clash)


def test_an_image_without_keypoints_may_have_arrays_of_any_empty_shape(tmp_path):
    pytest.importorskip("h5py")
    for shape in [(0, 128), (128, 0), (0, 0)]:
        arrays = {"keypoints": np.zeros((0, 2)), "descriptors": np.zeros(shape), "scales": np.zeros(0)}
        path = tmp_path / f"{shape[0]}-{shape[1]}.h5"
        assert read_keypoints(hloc_file(path, {"a": arrays | {"oris": np.zeros(0)}})).counts == (0,)
        np.savez(tmp_path / "a.npz", keypoints=np.zeros((0, 4)), descriptors=np.zeros(shape))
        assert len(read_keypoints(tmp_path / "a.npz")[0].x) == 0


def test_file_of_the_package_with_one_image_needs_no_key(tmp_path):
    descriptors = np.zeros((2, 128), np.uint8)
    descriptors[0, 3] = 200
    np.savez_compressed(
        tmp_path / "a b.npz", keypoints=np.array([[1, 2, 3, 4], [5, 6, 7, 8.0]]), descriptors=descriptors
    )
    file = read_keypoints(tmp_path / "a b.npz", image_size=(9, 8))
    assert (file.format, tuple(file), file.sizes) == ("preimage", ("a b",), ((9, 8),))
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
    assert (file.format, tuple(file), file.counts) == ("colmap-text", ("b.jpg", "sub/a.jpg"), (None, None))
    assert [len(record.keypoints.x) for record in file.records()] == [78, 5]
    (tmp_path / "sub" / "a.jpg.txt").write_text("5 128\n1 2")
    with pytest.raises(FileFormatError, match=r"a\.jpg\.txt: .*5 keypoints"):
        file["sub/a.jpg"]
    opencv_file(tmp_path / "b.jpg.yml", FACE, nested=False)
    with pytest.raises(ValueError, match=r"'b\.jpg'.*format"):
        read_keypoints(tmp_path)
    assert tuple(read_keypoints(tmp_path, format="opencv")) == ("b.jpg",)
    with pytest.raises(ValueError, match="colmap"):
        read_keypoints(tmp_path, format="colmap")
    with pytest.raises(ValueError, match="no keypoint"):
        read_keypoints(tmp_path, format="lowe")


def test_keypoint_files_are_recognized(tmp_path):
    pytest.importorskip("h5py")
    image = np.zeros((8, 8), np.uint8)
    yes = [GOLDEN / "colmap_l2.db", hloc_file(tmp_path / "a.h5", {"a": hloc_arrays("colmap_l2.db", rootsift=False)})]
    yes += [opencv_file(tmp_path / f"a.{suffix}", image, nested=False) for suffix in ("yml", "xml", "json")]
    yes.append(colmap_text(tmp_path / "a.txt", np.zeros((0, 4)), np.zeros((0, 128), int)))
    write_keypoints(tmp_path / "a.npz", read_keypoints(GOLDEN / "colmap_l2.db").records())
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


def test_a_file_is_written_by_its_records(tmp_path):
    """Iterating over the file yields its keys."""
    with pytest.raises(TypeError, match=r"KeypointRecord.*str"):
        write_keypoints(tmp_path / "f.npz", read_keypoints(GOLDEN / "colmap_l2.db"))
    assert os.listdir(tmp_path) == []


def test_names_are_public():
    assert preimage.read_keypoints is read_keypoints
    assert preimage.write_keypoints is write_keypoints
    with pytest.raises(KeyError, match="'x'"):
        read_keypoints(GOLDEN / "colmap_l2.db")["x"]
    with pytest.raises(IndexError, match=r"image index.*3"):
        read_keypoints(GOLDEN / "colmap_l2.db")[3]
