"""Test feature files and NumPy files crafted to attack a reader, with valid checksums."""

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from preimage.errors import FileFormatError
from preimage.io import FeatureRecord
from preimage.io.arrays.npy import read_numpy_features
from preimage.spec import Spec
from preimage.store import FeatureStore, write_features

RNG = np.random.default_rng(17)
SPEC = Spec("hog", "v", 2, 8, {"cell_size": 8})
DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
VERSION_1 = (Path(__file__).parents[1] / "golden" / "features_v1.safetensors").read_bytes()


def _features(height, width):
    return np.arange(2 * height * width, dtype=np.float32).reshape(2, height, width) / 8


@pytest.fixture(scope="module")
def version_2(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "f.safetensors"
    records = [
        FeatureRecord("a", _features(3, 4), (9, 9), (24, 32)),
        FeatureRecord("b", _features(1, 2), (9, 9), (8, 16)),
    ]
    write_features(path, SPEC, [*records, FeatureRecord("c", _features(1, 2), (9, 9), (8, 16))])
    return path.read_bytes()


def test_version_1_is_read(tmp_path):
    for name, dtype in (("features_v1", np.float32), ("features_v1_float16", np.float16)):
        store = FeatureStore(Path(__file__).parents[1] / "golden" / f"{name}.safetensors")
        assert list(store) == ["a", "\u00fc/b", "c"]
        assert store.original_sizes.tolist() == [[9, 9], [9, 10], [9, 11]]
        for key, size in (("a", (3, 4)), ("\u00fc/b", (1, 2)), ("c", (3, 4))):
            assert store[key].dtype == dtype
            assert np.array_equal(store[key], _features(*size))
            assert store.processed_size(key) == (8 * size[0], 8 * size[1])


def test_a_flip_of_any_byte_of_version_1_is_found(tmp_path):
    for position in range(len(VERSION_1)):
        changed = bytearray(VERSION_1)
        changed[position] ^= 1 << position % 8
        assert_rejected(tmp_path, bytes(changed))


def split(data):
    length = int.from_bytes(data[:8], "little")
    return data[8 : 8 + length], data[8 + length :]


def seal(header, body=b""):
    """Return a file with this header (bytes), with correct length and digests, of either version."""
    data = len(header).to_bytes(8, "little") + header + body
    match = DIGEST.search(data)
    if match is None:
        return data
    zeroed = data[: match.start(1)] + b"0" * 64 + data[match.end(1) :]
    hashed = zeroed if b'"format_version":"1"' in header else zeroed[8 : 8 + len(header)]
    return data[: match.start(1)] + hashlib.sha256(hashed).hexdigest().encode() + data[match.end(1) :]


def edited(data, edit):
    """Return the file with the JSON of its header changed by `edit`, and correct digests."""
    header, body = split(data)
    fields = json.loads(header)
    more = edit(fields)
    body += more if isinstance(more, bytes) else b""
    header = json.dumps(fields, separators=(",", ":")).encode()
    return seal(header + b" " * (-len(header) % 8), body)


def with_columns(data, change):
    """Return the file of version 2 with changed sizes and keys, and correct digests."""
    header, body = split(data)
    fields = json.loads(header)
    start = fields["original_sizes"]["data_offsets"][0]
    columns = change(body[start:])
    fields["keys"]["data_offsets"][1] = start + len(columns)
    fields["keys"]["shape"] = [start + len(columns) - fields["keys"]["data_offsets"][0]]
    fields["__metadata__"]["columns_sha256"] = hashlib.sha256(columns).hexdigest()
    return seal(json.dumps(fields, separators=(",", ":")).encode(), body[:start] + columns)


def assert_rejected(tmp_path, data, words=""):
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(FileFormatError, match=f"f: .*({words})"):
        FeatureStore(tmp_path / "f").verify()


def metadata(name, value):
    def edit(fields):
        fields["__metadata__"][name] = value

    return edit


def entry(key, name, value):
    def edit(fields):
        fields[key][name] = value

    return edit


def test_sealing_alone_changes_nothing(version_2):
    for good in (VERSION_1, version_2):
        assert seal(*split(good)) == good
    with_spaces, without = (json.loads(split(data)[0]) for data in (version_2, edited(version_2, lambda _: None)))
    without["__metadata__"]["sha256"] = with_spaces["__metadata__"]["sha256"]
    assert with_spaces == without


SPECS = [
    (metadata("spec", "{}"), r"spec.*lacks"),
    (metadata("spec", "[" * 60_000), "spec"),
    (metadata("spec", " " * 70_000), "70000"),
    (metadata("spec", SPEC.to_json().replace('"channels": 2', '"channels": 3')), r"\(3, h, w\)"),
    (metadata("spec", SPEC.to_json().replace('"stride": 8', '"stride": null')), r"\(2,\)"),
    (metadata("spec", SPEC.to_json().replace('"version": 1', '"version": 1, "more": 1')), r"fields.*more"),
    (metadata("format_version", "3"), r"version 3.*2"),
    (metadata("format_version", "0"), "preimage-features"),
    (metadata("format", "other"), "preimage-features"),
    (metadata("dtype", "float64"), "float64"),
]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        *SPECS,
        (metadata("dtype", "float16"), r"F16.*byte 0"),
        (metadata("keys", '["a","b","b"]'), "same key"),
        (metadata("keys", '["a","\\u00fc/b"]'), "header.*tensors"),
        (metadata("keys", '["a","b","../c"]'), "relative"),
        (metadata("keys", '["a","b",3]'), r"string.*int"),
        (metadata("keys", '["a","\u00fc/b","d"]'), "'d'"),
        (metadata("keys", '"abc"'), "list"),
        (metadata("keys", "[" * 10_000), "deep"),
        (metadata("keys", 3), "spec, dtype, keys or sizes"),
        (metadata("original_sizes", "[[9,9],[9,9],[9,0]]"), r"sizes.*3 pairs"),
        (metadata("original_sizes", "[[9,9],[9,9],[9,9.5]]"), "integers.*9.5"),
        (metadata("original_sizes", "[[9,9],[9,9],[9,NaN]]"), "integers.*NaN"),
        (metadata("original_sizes", "[[9,9],[9,9],[9," + "9" * 4000 + "]]"), "18 digits"),
        (entry("a", "shape", [2, 3, 10**9]), "F32 at byte 0"),
        (entry("a", "shape", [2, -3, -4]), "shape"),
        (entry("a", "shape", [2, 12]), r"got \(2, 12\)"),
        (entry("a", "shape", [True, 3, 4]), "shape"),
        (entry("c", "data_offsets", [0, 96]), r"F32.*byte"),
        (entry("c", "data_offsets", [112, 10**15]), r"F32.*byte"),
        (entry("c", "dtype", "F64"), "F32"),
        (lambda fields: fields.update(c=3), "tensor"),
        (lambda fields: fields.update(d=fields["c"]), "header.*tensors"),
        (lambda fields: bytes(10), "header.*tensors"),
    ],
)
def test_inconsistent_headers_of_version_1_are_rejected(tmp_path, edit, words):
    assert_rejected(tmp_path, edited(VERSION_1, edit), words)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        *SPECS,
        (metadata("dtype", "float16"), r"F16.*byte 0"),
        (metadata("features_sha256", "0" * 64), r"checksum.*features"),
        (metadata("columns_sha256", "0" * 64), r"checksum.*keys and sizes"),
        (metadata("columns_sha256", 3), "metadata"),
        (lambda fields: fields["__metadata__"].pop("dtype"), "lacks dtype"),
        (entry("features.0", "shape", [1, 2, 3, 10**9]), r"F32.*byte 0"),
        (entry("features.0", "shape", [1, 2, -3, -4]), "shape"),
        (entry("features.0", "shape", [1, 2, 12]), r"got \(2, 12\)"),
        (entry("features.0", "shape", [True, 2, 3, 4]), "shape"),
        (entry("features.1", "data_offsets", [0, 32]), r"F32.*byte"),
        (entry("keys", "shape", [4]), "U8"),
        (entry("keys", "dtype", "I8"), "U8"),
        (entry("original_sizes", "shape", [2, 2]), r"I32|shape"),
        (lambda fields: fields.pop("keys"), "'keys'"),
        (lambda fields: fields.update(keys=3), "no tensor"),
        (lambda fields: fields.update(d=fields["keys"]), "'d'"),
        (lambda fields: fields.update({"features.7": fields.pop("features.1")}), "features\\.1"),
        (lambda fields: bytes(10), "truncated"),
    ],
)
def test_inconsistent_headers_of_version_2_are_rejected(tmp_path, version_2, edit, words):
    assert_rejected(tmp_path, edited(version_2, edit), words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda columns: columns[:-1] + b"b", ""),
        (lambda columns: columns[:-1] + b"\xff", "UTF-8"),
        (lambda columns: columns[:-5] + b"a\nb\n../c", "relative"),
        (lambda columns: columns[:-5] + b"a\n/b\nc", "relative"),
        (lambda columns: columns[:-5] + b"a\nb/\nc", "relative"),
        (lambda columns: columns[:-5] + b"a\nb\n", "characters"),
        (lambda columns: columns[:-5] + b"a\nb\tb\nc", "control"),
        (lambda columns: columns[:-5] + b"a\nb", "2 keys for 3 images"),
        (lambda columns: columns[:-5] + b"a\nb\n" + b"c" * 2000, "2000"),
        (lambda columns: bytes(4) + columns[4:], "positive"),
        (lambda columns: b"\xff" * 4 + columns[4:], "positive"),
    ],
)
def test_inconsistent_keys_and_sizes_of_version_2_are_rejected(tmp_path, version_2, change, words):
    assert_rejected(tmp_path, with_columns(version_2, change), words or "same key")


def test_headers_that_are_no_json_objects(tmp_path, version_2):
    for good in (VERSION_1, version_2):
        header, body = split(good)
        prefix = header[: DIGEST.search(header).end()]
        for rest, words in [
            (b"", "Expecting|delimiter"),
            (b"}}", "lacks spec"),
            (b"}} 3", "Extra data"),
            (b"\xff}}", "ASCII"),
            (b',"a":' + b"[" * 100_000, "deep"),
            (b',"a":' + b'{"":' * 100_000, "deep"),
            (b',"a":' + b"9" * 100_000 + b"}}", "18 digits"),
        ]:
            assert_rejected(tmp_path, seal(prefix + rest, body), words)
        for count in (0, 1, 7, 10, len(good), 1 << 31, 1 << 62, (1 << 64) - 1):
            assert_rejected(tmp_path, count.to_bytes(8, "little") + good[8:])


@pytest.mark.parametrize("version", [1, 2])
def test_sealed_mutations_are_read_or_rejected(tmp_path, version_2, version):
    good = VERSION_1 if version == 1 else version_2
    path = tmp_path / "f"
    accepted = 0
    for number in range(2000):
        header, body = split(good)
        header, body = bytearray(header.rstrip()), bytearray(body)
        for _ in range(RNG.integers(1, 4)):
            target = body if number % 10 == 0 and version == 1 else header
            position = RNG.integers(len(target))
            if number % 3 == 0:
                del target[position : position + RNG.integers(1, 4)]
            else:
                target[position] = RNG.choice(list(b'0123456789[]{},":\\abF \xff'))
        path.write_bytes(seal(bytes(header), bytes(body)))
        try:
            store = FeatureStore(path)
            store.verify()
        except FileFormatError:
            continue
        accepted += 1
        for record in store.records():
            assert record.features.shape == (2, *record.features.shape[1:])
            assert record.features.dtype == np.float32
    assert accepted < 600  # a change of the data, a key or a size of version 1 is another valid file


_MEASURE = """
import resource, sys, time
from preimage.errors import FileFormatError
from preimage.store import FeatureStore
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # unlike what is resident, never reclaimed
before = peak()
for path in sys.argv[1:]:
    begun = time.process_time()
    try:
        FeatureStore(path)
    except FileFormatError:
        seconds = time.process_time() - begun
        print(seconds, (peak() - before) / 1e6)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux gives the peak in kilobytes")
def test_worst_headers_are_rejected_quickly(tmp_path, version_2):
    paths = []
    limit = 32 << 20
    for good in (VERSION_1, version_2):
        prefix = split(good)[0][: DIGEST.search(good).end() - 8]
        fill = limit - len(prefix) - 16
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
    assert max(seconds for seconds, _ in costs) < 20
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
        read_numpy_features(tmp_path / "f.npy", SPEC)
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("a.npy", npy(header, bytes(64)))
    with pytest.raises(FileFormatError, match=r"f\.npz"):
        read_numpy_features(tmp_path / "f.npz", SPEC)


def test_zip_bomb_is_rejected_by_its_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("preimage.io.arrays.npy.MAX_ARRAY_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "f.npz", a=np.zeros((2, 1000, 1000)))
    assert (tmp_path / "f.npz").stat().st_size < 1 << 15
    with pytest.raises(FileFormatError, match=r"1048576.*16000128"):
        read_numpy_features(tmp_path / "f.npz", SPEC)
