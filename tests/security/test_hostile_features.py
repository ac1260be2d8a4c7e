"""Feature files and NumPy files made to harm a reader, with a checksum that is right."""

import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from preimage.errors import FileFormatError
from preimage.io import FeatureRecord, read_features, write_features
from preimage.io.arrays.npy import read_array_features
from preimage.spec import Spec

RNG = np.random.default_rng(17)
SPEC = Spec("hog", "v", 2, 8, {"cell_size": 8})
DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "f"
    features = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    write_features(path, SPEC, [FeatureRecord(key, features, (9, 9), (24, 32)) for key in ("a", "b", "c")])
    return path.read_bytes()


def seal(header, body=b""):
    """A file with this header (bytes) whose length and digest are right."""
    data = len(header).to_bytes(8, "little") + header + body
    match = DIGEST.search(data)
    if match is None:
        return data
    zeroed = data[: match.start(1)] + b"0" * 64 + data[match.end(1) :]
    digest = hashlib.sha256(zeroed).hexdigest().encode()
    return data[: match.start(1)] + digest + data[match.end(1) :]


def split(data):
    length = int.from_bytes(data[:8], "little")
    return data[8 : 8 + length], data[8 + length :]


def edited(data, edit):
    """The file with its header's JSON changed by `edit`, sealed again."""
    header, body = split(data)
    fields = json.loads(header)
    body = edit(fields) or body
    header = json.dumps(fields, separators=(",", ":")).encode()
    return seal(header + b" " * (-len(header) % 8), body)


def refused(tmp_path, data, words=""):
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(FileFormatError, match=f"f: .*{words}"):
        read_features(tmp_path / "f")


def metadata(name, value):
    def edit(fields):
        fields["__metadata__"][name] = value

    return edit


def entry(key, name, value):
    def edit(fields):
        fields[key][name] = value

    return edit


def test_sealing_alone_changes_nothing(tmp_path, good):
    assert seal(*split(good)) == good
    assert edited(good, lambda _: None) == good


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (metadata("format_version", "2"), "format version 2 is newer than 1: update preimage"),
        (metadata("format_version", "0"), "without the preimage-features mark"),
        (metadata("format", "other"), "without the preimage-features mark"),
        (metadata("spec", "{}"), "its spec cannot be read: the spec lacks"),
        (metadata("spec", "[" * 60_000), "its spec cannot be read"),
        (metadata("spec", " " * 70_000), "70000 characters"),
        (metadata("spec", SPEC.to_json().replace('"channels": 2', '"channels": 3')), r"asks for features \(3, h, w\)"),
        (metadata("spec", SPEC.to_json().replace('"stride": 8', '"stride": null')), r"asks for features \(2,\)"),
        (metadata("spec", SPEC.to_json().replace('"version": 1', '"version": 1, "more": 1')), "unknown fields more"),
        (metadata("dtype", "float64"), "float64"),
        (metadata("dtype", "float16"), "form that version 1"),
        (metadata("keys", '["a","b","b"]'), "two images have one key"),
        (metadata("keys", '["a","b"]'), "the sizes are not 2 pairs"),
        (metadata("keys", '["a","b","../c"]'), "relative path"),
        (metadata("keys", '["a","b",3]'), "string, got int"),
        (metadata("keys", '["a","b","d"]'), "no tensor with a proper shape under key 'd'"),
        (metadata("keys", '"abc"'), "no list"),
        (metadata("keys", "[" * 10_000), "too deeply"),
        (metadata("keys", 3), "lacks spec, dtype, keys or sizes"),
        (metadata("original_sizes", "[[9,9],[9,9],[9,0]]"), "sizes are not 3 pairs"),
        (metadata("original_sizes", "[[9,9],[9,9],[9,9.5]]"), "whole number"),
        (metadata("original_sizes", "[[9,9],[9,9],[9,NaN]]"), "whole number"),
        (metadata("original_sizes", "[[9,9],[9,9],[9," + "9" * 4000 + "]]"), "18 digits"),
        (metadata("extra", "1"), "form that version 1"),
        (entry("b", "shape", [2, 3, 10**9]), "form that version 1"),
        (entry("b", "shape", [2, -3, -4]), "proper shape"),
        (entry("b", "shape", [2, 12]), r"got \(2, 12\)"),
        (entry("b", "shape", [True, 3, 4]), "proper shape"),
        (entry("b", "data_offsets", [0, 96]), "form that version 1"),
        (entry("b", "data_offsets", [96, 10**15]), "form that version 1"),
        (entry("b", "dtype", "F64"), "form that version 1"),
        (lambda fields: fields.update(b=3), "no tensor"),
        (lambda fields: fields.update(d=fields["c"]), "form that version 1"),
        (lambda fields: bytes(10), "bytes of features, but the header describes"),
    ],
)
def test_headers_that_lie(tmp_path, good, edit, words):
    refused(tmp_path, edited(good, edit), words)


def test_headers_that_are_no_json_objects(tmp_path, good):
    header, body = split(good)
    prefix = header[: DIGEST.search(header).end()]
    for rest, words in [
        (b"", "Expecting|delimiter"),
        (b"}}", "lacks spec"),
        (b"}} 3", "Extra data"),
        (b"\xff}}", "not ASCII"),
        (b',"a":' + b"[" * 100_000, "too deeply"),
        (b',"a":' + b'{"":' * 100_000, "too deeply"),
        (b',"a":' + b"9" * 100_000 + b"}}", "18 digits"),
    ]:
        refused(tmp_path, seal(prefix + rest, body), words)
    for count in (0, 1, 7, 10, len(good), 1 << 31, 1 << 62, (1 << 64) - 1):
        refused(tmp_path, count.to_bytes(8, "little") + good[8:])


def test_a_repeated_name_in_the_header(tmp_path, good):
    header, body = split(good)
    twice = header.rstrip()[:-1] + b',"a":' + json.dumps(json.loads(header)["a"]).encode() + b"}"
    refused(tmp_path, seal(twice, body), "form that version 1")


def test_2000_sealed_mutations_are_the_same_features_or_refused(tmp_path, good):
    path = tmp_path / "f"
    accepted = 0
    for number in range(2000):
        header, body = map(bytearray, split(good))
        for _ in range(RNG.integers(1, 4)):
            target = body if number % 10 == 0 else header
            position = RNG.integers(len(target))
            if number % 3 == 0:
                del target[position : position + RNG.integers(1, 4)]
            else:
                target[position] = RNG.choice(list(b'0123456789[]{},":\\abF \xff'))
        path.write_bytes(seal(bytes(header), bytes(body)))
        try:
            file = read_features(path)
        except FileFormatError:
            continue
        accepted += 1
        for record in file:
            assert record.features.shape == (2, *record.features.shape[1:])
            assert record.features.dtype == np.float32
    assert 0 < accepted < 600  # a change of the data, a key or a size is another valid file


_MEASURE = """
import resource, sys, time
from preimage.errors import FileFormatError
from preimage.io import read_features
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # unlike what is resident, never reclaimed
before = peak()
for path in sys.argv[1:]:
    begun = time.process_time()
    try:
        read_features(path)
    except FileFormatError:
        seconds = time.process_time() - begun
        print(seconds, (peak() - before) / 1e6)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux gives the peak in kilobytes")
def test_the_worst_headers_cost_little(tmp_path, good):
    prefix = split(good)[0][: DIGEST.search(good).end() - 8]
    limit = 32 << 20
    fill = limit - len(prefix) - 16
    paths = []
    for piece in (b"[],", b"[],".ljust(21), b"{},".ljust(21), b'"\\u2026aa",', b"[", b"9", b" "):
        paths.append(tmp_path / str(len(paths)))
        paths[-1].write_bytes(seal(prefix + b',"a":[' + piece * (fill // len(piece))))
    sparse = tmp_path / "sparse"
    with open(sparse, "wb") as file:
        file.write((1 << 40).to_bytes(8, "little") + b"{")
        file.truncate(1 << 41)
    paths.append(sparse)
    command = [sys.executable, "-c", _MEASURE, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    costs = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    assert len(costs) == len(paths)
    assert max(seconds for seconds, _ in costs) < 2
    assert max(megabytes for _, megabytes in costs) < 512


# NumPy files


def npy(header, body=b""):
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + body


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 2, 1000, 1000)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, -1, -1)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 1, 1)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1.5, 1)}",
        b"{'descr': __import__('os').system('false'), 'fortran_order': False, 'shape': (2, 1, 1)}",
        b"(" * 5000,
        b"{" * 60_000,
        b"",
        b"\xff\xfe",
    ],
)
def test_headers_of_numpy_files(tmp_path, header):
    (tmp_path / "f.npy").write_bytes(npy(header, bytes(64)))
    with pytest.raises(FileFormatError, match=r"f\.npy"):
        read_array_features(tmp_path / "f.npy", SPEC)
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("a.npy", npy(header, bytes(64)))
    with pytest.raises(FileFormatError, match=r"f\.npz"):
        read_array_features(tmp_path / "f.npz", SPEC)


def test_a_zip_bomb_is_refused_by_its_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("preimage.io.arrays.npy.MAX_ARRAY_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "f.npz", a=np.zeros((2, 1000, 1000)))
    assert (tmp_path / "f.npz").stat().st_size < 1 << 15
    with pytest.raises(FileFormatError, match="16000128 bytes; 1048576 are allowed"):
        read_array_features(tmp_path / "f.npz", SPEC)


def test_2000_mutations_of_numpy_files(tmp_path):
    array = RNG.standard_normal((3, 2, 2, 2)).astype(np.float32)
    seeds = []
    for save in (np.save, np.savez, np.savez_compressed):
        out = io.BytesIO()
        save(out, array)
        seeds.append(out.getvalue())
    for number in range(2000):
        data = bytearray(seeds[number % 3])
        for _ in range(RNG.integers(1, 4)):
            data[RNG.integers(len(data))] = RNG.integers(256)
        (tmp_path / "f").write_bytes(data[: RNG.integers(len(data))] if number % 4 == 0 else data)
        try:
            file = read_array_features(tmp_path / "f", SPEC)
            assert all(record.features.shape[0] == 2 for record in file)
        except FileFormatError:
            continue
