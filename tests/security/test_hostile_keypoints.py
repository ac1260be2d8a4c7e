"""Test keypoint files crafted to attack a reader; for databases see test_hostile_databases.py."""

import contextlib
import io
import tracemalloc
import zipfile

import numpy as np
import pytest
import scipy.io

from keypoint_attacks import BYTES, FRAMES, assert_rejected
from keypoint_files import GOLDEN, colmap_arrays, colmap_database, hloc_arrays, pictures
from preimage.errors import FileFormatError
from preimage.io import is_keypoint_file, read_keypoints
from preimage.io.keypoints import text

PART = pictures()["sub/coffee.png"]


YAML = b"%YAML:1.0\n---\nkeypoints: "
XML = b'<?xml version="1.0"?>\n'
XML_MATRIX = XML + b'<opencv_storage><keypoints type_id="opencv-matrix"><rows>1</rows><cols>7</cols><dt>f</dt>'
SHAPE = b'"rows": 1, "cols": 7, "dt": "f", '
LAUGHS = b"".join(b'<!ENTITY l%d "%s">' % (i, b"&l%d;" % (i - 1) * 10) for i in range(1, 10))
MANY = 3_000_000


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("f.yml", YAML + b"[" * MANY, ""),
        ("f.yml", YAML + b"- " * MANY, ""),
        ("f.yml", YAML + b"&a [1,2,3]\nb: &b [*a,*a]\n", "number"),
        (
            "f.yml",
            YAML + b"!!opencv-matrix\n   rows: 99999999\n   cols: 99999999\n   dt: f\n   data: [ 1 ]",
            "99999999 × 99999999.* 1",
        ),
        ("f.yml", YAML + b"!!opencv-matrix\n   rows: 1\n" * 40_000, "cols"),
        ("f.json", b'{"keypoints": ' + b"[" * MANY, ""),
        ("f.json", b'{"a": ' * (MANY // 3), "'keypoints'"),
        ("f.json", b'{"keypoints": [' + b"9" * MANY + b"]}", "7 numbers.*1"),
        ("f.json", b'{"keypoints": {"type_id": "opencv-matrix", "rows": 5, "rows": 5', "cols"),
        (
            "f.xml",
            XML + b"<!DOCTYPE a [" + LAUGHS + b"]>\n<opencv_storage><keypoints>&l9;</keypoints>",
            "document type",
        ),
        ("f.xml", XML + b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><opencv_storage>', "document type"),
        (
            "f.xml",
            XML + b"<opencv_storage><keypoints>" + b"<_>" * MANY + b"</keypoints>",
            "",
        ),
        ("f.xml", XML + b"<opencv_storage>" + b"<keypoints " * (MANY // 10), "'keypoints'"),
        ("f.xml", XML + b"<opencv_storage><keypoints" + b" " * MANY, "'keypoints'"),
        ("f.xml", XML_MATRIX + b"<data>" + b" " * MANY + b"<x></data></keypoints>", "'<x>'"),
        ("f.xml", XML_MATRIX + b"<data>" * MANY + b"</keypoints>", "data"),
        ("f.json", b'{"keypoints": {"type_id": "opencv-matrix", ' + SHAPE + b'"data": [' * MANY + b"}", "data"),
        ("f.yml", YAML + b"!!opencv-matrix\n rows: 1\n cols: 7\n dt: f" + b"\n data: [" * MANY, "data"),
        ("f.sift", b"1 " * (MANY // 4), "keypoints.*numbers"),
        ("f.sift", b"9" * MANY, "numbers.* 1 "),
        ("f.sift", b"e" * MANY, "number.*eee"),
        ("f.key", b"200000 128\n" + b"1 " * 100, "truncated"),
        ("f.key", b"9" * MANY, "128"),
        ("f.txt", b"-1 128\n", "128"),
        ("f.txt", b"\xff\xfe1\x00", "128"),
    ],
)
def test_texts(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    if words:
        assert_rejected(tmp_path / name, words)
    else:  # an empty sequence, however nested
        assert len(read_keypoints(tmp_path / name)[0].x) == 0


def keypoints_or_error(path):
    with contextlib.suppress(FileFormatError):
        assert len(read_keypoints(path)[0].x) == 0


def test_more_numbers_than_a_text_may_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "_MOST", 3 * text.ROW)
    (tmp_path / "f.sift").write_bytes(b"1 " * (3 * text.ROW))
    assert len(read_keypoints(tmp_path / "f.sift")[0].x) == 3
    (tmp_path / "f.sift").write_bytes(b"1 " * (3 * text.ROW + 1))
    assert_rejected(tmp_path / "f.sift", "396 numbers")


def test_a_text_larger_than_any_image_has(tmp_path):
    for name in ("f.sift", "f.yml", "f.txt"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(1 << 40)  # a hole: no disk is used
        assert_rejected(tmp_path / name, "zeros")
        with open(tmp_path / name, "r+b") as file:
            file.write(b"1 128\n" * 1000)
        assert_rejected(tmp_path / name, "bytes.*1099511627776")


def npy(shape, descr="<f4", size=0):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + bytes(size)


def archive(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a/keypoints.npy": npy((10**9, 4)), "a/descriptors.npy": npy((10**9, 128))}, "truncated"),
        (
            {"a/keypoints.npy": npy((5_000_000, 4), size=80_000_000), "a/descriptors.npy": npy((1, 128), size=512)},
            "keyp",
        ),
        ({"a/keypoints.npy": npy((1, 4), "|O", 99), "a/descriptors.npy": npy((1, 128), size=512)}, "Python objects"),
        ({"../../x/keypoints.npy": npy((0, 4)), "../../x/descriptors.npy": npy((0, 128))}, "relative"),
        ({"a/keypoints.npy": npy((-1, 4)), "a/descriptors.npy": npy((-1, 128))}, "nothing|-1"),
        (
            {"a/keypoints.npy": npy((1, 4), size=16), "a/descriptors.npy": npy((1, 128), size=512)},
            "scale.* 0",
        ),
        ({"a/image_size.npy": npy((2,), "<f8", 16)}, "'a'.*keypoints"),
        (
            {
                "a/keypoints.npy": npy((0, 4)),
                "a/descriptors.npy": npy((0, 128)),
                "a/image_size.npy": npy((2,), "<f8", 16),
            },
            "image_size",
        ),
    ],
)
def test_archives(tmp_path, members, words):
    assert_rejected(archive(tmp_path / "f.npz", members), words)


def test_an_image_size_that_is_no_number(tmp_path):
    for values in ([np.nan, 5], [np.inf, 5], [1e300, 5]):
        np.savez(tmp_path / "f.npz", keypoints=FRAMES, descriptors=BYTES, image_size=np.array(values))
        assert_rejected(tmp_path / "f.npz", "image_size|NaN|infinity")


def test_a_member_that_inflates_to_more_than_it_says(tmp_path):
    buffer = io.BytesIO()
    archive(buffer, {"keypoints.npy": npy((0, 4)) + bytes(300 << 20), "descriptors.npy": npy((0, 128))})
    (tmp_path / "f.npz").write_bytes(buffer.getvalue())
    tracemalloc.start()
    keypoints_or_error(tmp_path / "f.npz")
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_hloc_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    arrays = hloc_arrays("colmap_l2.db", rootsift=False)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["a"] = arrays["keypoints"]

    def attempt(words, change):
        with h5py.File(tmp_path / "f.h5", "w") as file:
            for key, array in arrays.items():
                file[f"a/{key}"] = array
            change(file)
        assert_rejected(tmp_path / "f.h5", words)

    def external(file):
        del file["a/keypoints"]
        file["a/keypoints"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "a")

    def huge(file):
        for key in ("keypoints", "descriptors", "scales", "oris"):
            del file[f"a/{key}"]
        file.create_dataset("a/keypoints", (150_000, 2), "<f2", chunks=(1000, 2), compression="gzip")
        file.create_dataset("a/descriptors", (128, 150_000), "<f2", chunks=(128, 1000), compression="gzip")
        file.create_dataset("a/scales", (150_000,), "<f2", chunks=(1000,), compression="gzip")
        file.create_dataset("a/oris", (150_000,), "<f2", chunks=(1000,), compression="gzip")

    def climbing(file):
        file.create_group("..")["keypoints"] = arrays["keypoints"]

    def uncertain(file):
        file["a/keypoints"].attrs["uncertainty"] = np.float64("nan")

    def uncertain_text(file):
        file["a/keypoints"].attrs["uncertainty"] = "1"

    def many(file):
        del file["a/keypoints"]
        file.create_dataset("a/keypoints", (10**12, 2), "<f2", chunks=(1000, 2))

    attempt("link", external)
    attempt(" 0 .*stored", huge)
    attempt("relative", climbing)
    attempt("uncertainty.*/a/keypoints.*nan", uncertain)
    attempt("uncertainty.*/a/keypoints.*number", uncertain_text)
    attempt("keypoints.*1000000000000", many)


def test_colmaps_golden_database_has_nothing_left_over():
    frames, descriptors = colmap_arrays("colmap_l2.db")
    assert frames.shape == (78, 6)
    assert descriptors.shape == (78, 128)
    assert not is_keypoint_file(GOLDEN)


def test_signaling_nan_is_an_error_without_a_warning(tmp_path):
    """NumPy warns about such bits when it converts them to another type."""
    frames = FRAMES.astype(np.float32)
    frames.view(np.uint32)[1, 2] = 0x7FA00000
    assert_rejected(colmap_database(tmp_path / "f.db", {"a": (frames, BYTES)}), "finite")
    np.savez(tmp_path / "f.npz", keypoints=frames, descriptors=BYTES)
    assert_rejected(tmp_path / "f.npz", "finite")
    scipy.io.savemat(tmp_path / "f.mat", {"F": frames.T, "D": BYTES.T})
    assert_rejected(tmp_path / "f.mat", "finite")
