"""The feature file: what comes back, that any change to it is noticed, and that it is never half written."""

import errno
import json
import os
import tempfile

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from preimage.errors import FileFormatError
from preimage.io import FeatureRecord, layout, read_features, write_features
from preimage.io.arrays.own import read_own_features
from preimage.spec import Spec

RNG = np.random.default_rng(11)
SPEC = Spec("hog", "vlfeat-uoctti", 31, 8, {"cell_size": 8})
VECTORS = Spec("gist", "v", 5, None)


def record(key, size=(4, 5), channels=31, original=(100, 200), processed=(32, 40)):
    features = RNG.standard_normal((channels, *size)).astype(np.float32)
    return FeatureRecord(key, features, original, processed)


def write(path, *records, spec=SPEC, **options):
    write_features(path, spec, records, **options)
    return path


@pytest.fixture
def small(tmp_path):
    """A file of two small images, for reading it very often."""
    spec = Spec("hog", "v", 2, 8)
    return write(tmp_path / "small", record("a", (1, 2), 2), record("ü/b", (2, 1), 2), spec=spec)


def test_everything_comes_back(tmp_path):
    records = [record("b/ü", (4, 5)), record("a", (3, 2), original=(9, 8), processed=(24, 16))]
    file = read_features(write(tmp_path / "f.safetensors", *records))
    assert file.spec == SPEC
    assert file.keys == ("b/ü", "a")
    assert file.original_sizes == ((100, 200), (9, 8))
    assert file.processed_sizes == ((32, 40), (24, 16))
    assert (file.dtype, len(file), "a" in file, "c" in file) == ("float32", 2, True, False)
    for position, written in enumerate(records):
        for index in (position, written.key, position - 2):
            assert file[index].dtype == torch.float32
            assert np.array_equal(file[index].numpy(), written.features)
    for written, read in zip(records, file, strict=True):
        assert (read.key, read.original_size) == (written.key, written.original_size)
        assert read.processed_size == written.processed_size
        assert np.array_equal(read.features, written.features)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrays=st.lists(npst.arrays(np.float32, st.tuples(st.just(3), st.integers(1, 4), st.integers(1, 4))), max_size=4),
    dtype=st.sampled_from(["float32", "float64", ">f4"]),
)
def test_any_float32_comes_back_bit_for_bit(tmp_path, arrays, dtype):
    with np.errstate(invalid="ignore"):  # a signalling NaN turns quiet
        arrays = [np.asfortranarray(array.astype(dtype)) for array in arrays]
        expected = [array.astype(np.float32) for array in arrays]
    records = [FeatureRecord(str(i), array, (1, 1), (1, 1)) for i, array in enumerate(arrays)]
    file = read_features(write(tmp_path / "f", *records, spec=Spec("x", "v", 3, 8)))
    assert len(file) == len(arrays)
    for read, written in zip(file, expected, strict=True):
        assert read.features.tobytes() == np.ascontiguousarray(written).tobytes()


def test_the_safetensors_library_reads_it(tmp_path):
    records = [record("b/ü"), record('quote"\\ back', (1, 1)), record("c")]
    path = write(tmp_path / "f.safetensors", *records, dtype="float16")
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.keys()) == {item.key for item in records}
        for item in records:
            assert file.get_tensor(item.key).dtype == torch.float16
            assert np.array_equal(file.get_tensor(item.key).numpy(), item.features.astype(np.float16))
        metadata = file.metadata()
    assert metadata["format"] == "preimage-features"
    assert metadata["format_version"] == "1"
    assert Spec.from_json(metadata["spec"]) == SPEC
    assert json.loads(metadata["keys"]) == [item.key for item in records]
    assert json.loads(metadata["original_sizes"]) == [[100, 200]] * 3
    assert json.loads(metadata["processed_sizes"]) == [[32, 40]] * 3


def test_half_precision_rounds_once_and_reads_as_float32(tmp_path):
    written = record("a")
    file = read_features(write(tmp_path / "f", written, dtype="float16"))
    assert file.dtype == "float16"
    assert file["a"].dtype == torch.float32
    assert np.array_equal(file["a"].numpy(), written.features.astype(np.float16).astype(np.float32))


def test_what_overflows_half_precision_is_refused_and_infinity_is_kept(tmp_path):
    features = np.full((31, 1, 1), np.inf, np.float32)
    features[3] = np.nan
    file = read_features(write(tmp_path / "f", FeatureRecord("a", features, (1, 1), (1, 1)), dtype="float16"))
    assert np.array_equal(file["a"].numpy(), features, equal_nan=True)
    features[5] = 7e4
    with pytest.raises(ValueError, match="'a': features up to 70000 do not fit in float16"):
        write(tmp_path / "g", FeatureRecord("a", features, (1, 1), (1, 1)), dtype="float16")


def test_vectors(tmp_path):
    records = [record(key, (), 5) for key in "abc"]
    file = read_features(write(tmp_path / "f", *records, spec=VECTORS))
    assert file.stack().shape == (3, 5)
    assert np.array_equal(file["b"].numpy(), records[1].features)


def test_stack(tmp_path):
    records = [record("a"), record("b")]
    stacked = read_features(write(tmp_path / "f", *records)).stack()
    assert np.array_equal(stacked.numpy(), np.stack([item.features for item in records]))
    with pytest.raises(ValueError, match=r"'c' has shape \(31, 2, 2\) and 'a' has \(31, 4, 5\)"):
        read_features(write(tmp_path / "f", *records, record("c", (2, 2)))).stack()
    with pytest.raises(ValueError, match="no image to stack"):
        read_features(write(tmp_path / "f")).stack()


def test_what_is_read_is_the_callers_own(tmp_path):
    file = read_features(write(tmp_path / "f", record("a")))
    before = file["a"].clone()
    file["a"].zero_()
    next(iter(file)).features[:] = 0
    assert torch.equal(file["a"], before)


def test_an_open_file_survives_being_replaced(tmp_path):
    file = read_features(write(tmp_path / "f", record("a")))
    before = file["a"]
    write(tmp_path / "f", record("z", (9, 9)))
    assert torch.equal(file["a"], before)


def test_wrong_keys_and_positions(tmp_path):
    file = read_features(write(tmp_path / "f", record("a")))
    with pytest.raises(KeyError, match="no image 'b'"):
        file["b"]
    for index in (1, -2):
        with pytest.raises(IndexError, match="holds 1"):
            file[index]


def test_equal_features_give_equal_files(tmp_path):
    records = [record("a"), record("b")]
    first, second = write(tmp_path / "f", *records), write(tmp_path / "g", *records)
    assert first.read_bytes() == second.read_bytes()


def test_more_than_the_spool_holds_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("preimage.io.features._SPOOL_IN_MEMORY", 1000)
    monkeypatch.setattr("preimage.io.features._BLOCK", 999)
    records = [record(str(i)) for i in range(5)]
    path = write(tmp_path / "f", *records)
    assert os.listdir(tmp_path) == ["f"]
    assert all(np.array_equal(a.features, b.features) for a, b in zip(read_features(path), records, strict=True))


def test_a_flip_of_any_byte_is_found(small):
    data = small.read_bytes()
    for position in range(len(data)):
        for mask in (1 << position % 8, 0x20, 0xFF):
            changed = bytearray(data)
            changed[position] ^= mask
            small.write_bytes(changed)
            with pytest.raises(FileFormatError, match="small: "):
                read_features(small)
    small.write_bytes(data)
    assert len(read_features(small)) == 2


def test_any_truncation_and_anything_added_is_found(small):
    data = small.read_bytes()
    for changed in [*(data[:length] for length in range(len(data))), data + b"\0", data + data]:
        small.write_bytes(changed)
        with pytest.raises(FileFormatError, match="small: "):
            read_features(small)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"key": "../a"}, ValueError, "relative path"),
        ({"key": ""}, ValueError, "characters"),
        ({"key": "__metadata__"}, ValueError, "reserved"),
        ({"key": 3}, ValueError, "string, got int"),
        ({"features": np.zeros((30, 4, 5), np.float32)}, ValueError, r"\(31, h, w\), got \(30, 4, 5\)"),
        ({"features": np.zeros((31, 4), np.float32)}, ValueError, r"\(31, h, w\), got \(31, 4\)"),
        ({"features": np.zeros((31, 0, 5), np.float32)}, ValueError, r"got \(31, 0, 5\)"),
        ({"features": np.zeros((31, 4, 5), np.int32)}, TypeError, "int32"),
        ({"features": torch.zeros(31, 4, 5)}, TypeError, "NumPy array, got torch.float32"),
        ({"features": [[1.0]]}, TypeError, "got list"),
        ({"original_size": (0, 5)}, ValueError, r"original_size .* got \(0, 5\)"),
        ({"original_size": (5,)}, ValueError, "original_size"),
        ({"processed_size": (5.0, 5)}, ValueError, "processed_size"),
        ({"processed_size": None}, ValueError, "processed_size"),
    ],
)
def test_records_that_no_file_should_hold(tmp_path, change, error, words):
    fields = {"key": "a", "features": np.zeros((31, 4, 5), np.float32)}
    fields |= {"original_size": (1, 1), "processed_size": (1, 1)} | change
    with pytest.raises(error, match=words):
        write(tmp_path / "f", record("first"), FeatureRecord(**fields))
    assert os.listdir(tmp_path) == []


def test_one_key_twice(tmp_path):
    with pytest.raises(ValueError, match="'a' comes twice"):
        write(tmp_path / "f", record("a"), record("a"))


def test_other_arguments_refused(tmp_path):
    with pytest.raises(ValueError, match="got 'bfloat16'"):
        write(tmp_path / "f", dtype="bfloat16")
    with pytest.raises(ValueError, match="does not survive JSON"):
        write(tmp_path / "f", spec=Spec("x", "v", 1, 1, {"a": float("nan")}))
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "absent" / "f")


@pytest.mark.parametrize(("limit", "value"), [("MAX_HEADER_BYTES", 4000), ("MAX_IMAGES", 20)])
def test_more_images_than_one_file_holds(tmp_path, monkeypatch, limit, value):
    monkeypatch.setattr(layout, limit, value)
    written = []

    def records():
        for number in range(10_000):
            written.append(number)
            yield record(f"{number:04d}", (1, 1))

    with pytest.raises(ValueError, match="write several"):
        write_features(tmp_path / "f", SPEC, records())
    assert len(written) < 100  # refused on the way, not after hours
    assert os.listdir(tmp_path) == []


def test_other_files_are_told_apart(tmp_path):
    from safetensors.numpy import save_file  # noqa: PLC0415

    path = tmp_path / "f"
    save_file({"weight": np.zeros(3, np.float32)}, path, {"format": "pt"})
    with pytest.raises(FileFormatError, match="without the preimage-features mark"):
        read_features(path)
    for data in (b"", b"hello", bytes(100), b"\x93NUMPY" + bytes(200)):
        path.write_bytes(data)
        with pytest.raises(FileFormatError, match="not a feature file"):
            read_features(path)
    with pytest.raises(FileNotFoundError):
        read_features(tmp_path / "absent")


def test_an_exception_of_the_caller_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "f", record("old"))
    before = path.read_bytes()

    def records():
        yield record("new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(path, SPEC, records())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("where", ["spool", "file"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, where):
    path = write(tmp_path / "f", record("old"))
    before = path.read_bytes()
    if where == "spool":
        full = lambda *_, **__: open("/dev/full", "w+b", buffering=0)  # noqa: E731, SIM115
        monkeypatch.setattr(tempfile, "TemporaryFile", full)
        monkeypatch.setattr("preimage.io.features._SPOOL_IN_MEMORY", 1000)
    else:
        # The temporary file's descriptor is pointed at the device that is always full.
        plain = os.fsync

        def fsync_on_full_disk(descriptor):
            with open("/dev/full", "wb", buffering=0) as device:
                device.write(b"x")
            plain(descriptor)

        monkeypatch.setattr(os, "fsync", fsync_on_full_disk)
    with pytest.raises(OSError, match="No space left") as raised:
        write(path, record("new"), record("newer"))
    assert raised.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["f"]


def test_a_file_without_images_is_nothing_to_train_on(tmp_path):
    write_features(tmp_path / "f", SPEC, [])
    with pytest.raises(FileFormatError, match="holds no images"):
        read_own_features(tmp_path / "f", name=None, image_size=64)
    h5py = pytest.importorskip("h5py")
    h5py.File(tmp_path / "f.h5", "w").close()
    with pytest.raises(FileFormatError, match="holds no arrays"):
        read_own_features(tmp_path / "f.h5", name=None, image_size=64)
