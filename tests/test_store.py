"""Test the feature store: round trips, detection of any change, and no partial writes."""

import errno
import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from extractions import contents
from preimage import store as module
from preimage.errors import FileFormatError
from preimage.io.feature_file import FeatureRecord
from preimage.io.shards import ZEROS
from preimage.spec import Spec
from preimage.store import FeatureStore, join, merge, open_writer, read_index, shard_length, write_features

RNG = np.random.default_rng(11)
SPEC = Spec("hog", "vlfeat-uoctti", 31, 8, {"cell_size": 8})
VECTORS = Spec("gist", "v", 5, None)
FORMS = ["f.safetensors", "f"]  # a single file, and a folder


def record(key, size=(4, 5), channels=31, original=(100, 200), processed=(32, 40)):
    features = RNG.standard_normal((channels, *size)).astype(np.float32)
    return FeatureRecord(key, features, original, processed)


def write(path, *records, spec=SPEC, **options):
    write_features(path, spec, records, **options)
    return path


def read_all(path):
    """Open and check everything, features included."""
    store = FeatureStore(path)
    store.verify()
    return store


@pytest.fixture
def short_shards(monkeypatch):
    monkeypatch.setattr(module, "MAX_SHARD_IMAGES", 2)


@pytest.fixture(params=FORMS)
def small(request, tmp_path, short_shards):
    """Return a store of three small images, which can be read very often."""
    records = [record("a", (1, 2), 2), record("ü/b", (2, 1), 2), record("c", (2, 1), 2)]
    return write(tmp_path / request.param, *records, spec=Spec("hog", "v", 2, 8))


@pytest.mark.usefixtures("short_shards")
@pytest.mark.parametrize("form", FORMS)
def test_everything_comes_back(tmp_path, form):
    records = [record("b/ü"), record("a", (3, 2), original=(9, 8), processed=(24, 16)), record("c"), record("d.e")]
    store = FeatureStore(write(tmp_path / form, *records))
    assert (store.spec, store.dtype, len(store)) == (SPEC, "float32", 4)
    assert list(store) == list(store.keys()) == ["b/ü", "a", "c", "d.e"]
    assert "a" in store and "x" not in store
    assert store.original_sizes.tolist() == [[100, 200], [9, 8], [100, 200], [100, 200]]
    assert store.processed_size("a") == store.processed_size(1) == (24, 16)
    for position, written in enumerate(records):
        for index in (position, written.key, position - 4):
            assert np.array_equal(store[index], written.features)
            assert store[index].dtype == np.float32 and not store[index].flags.writeable
    for written, read in zip(records, store.records(), strict=True):
        assert (read.key, read.original_size, read.processed_size) == (
            written.key,
            written.original_size,
            written.processed_size,
        )
        assert np.array_equal(read.features, written.features)
    assert store.bytes == sum(map(len, contents(tmp_path / form).values()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrays=st.lists(npst.arrays(np.float32, st.tuples(st.just(3), st.integers(1, 4), st.integers(1, 4))), max_size=6),
    dtype=st.sampled_from(["float32", "float64", ">f4"]),
    form=st.sampled_from(FORMS),
)
def test_any_float32_comes_back_bit_for_bit(tmp_path, arrays, dtype, form):
    with np.errstate(invalid="ignore"):  # a signalling NaN turns quiet
        arrays = [np.asfortranarray(array.astype(dtype)) for array in arrays]
        expected = [array.astype(np.float32) for array in arrays]
    records = [FeatureRecord(str(i), array, (1, 1), (1, 1)) for i, array in enumerate(arrays)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_SHARD_IMAGES", 4)
        store = read_all(write(tmp_path / form, *records, spec=Spec("x", "v", 3, 8)))
    assert [features.tobytes() for features in store.values()] == [array.tobytes() for array in expected]


def test_many_shapes_make_room_for_their_header(tmp_path):
    records = [record(str(i), (1 + i % 7, 1 + i % 3), 2) for i in range(700)]
    store = read_all(write(tmp_path / "f.safetensors", *records, spec=Spec("x", "v", 2, 8)))
    assert all(np.array_equal(store[item.key], item.features) for item in records)
    join(store, tmp_path / "g.safetensors")
    joined = read_all(tmp_path / "g.safetensors")
    assert all(np.array_equal(joined[item.key], item.features) for item in records)


def test_the_safetensors_library_reads_it(tmp_path):
    records = [record("b/ü"), record("a")]
    path = write(tmp_path / "f.safetensors", *records, dtype="float16")
    with safetensors.safe_open(path, "np") as file:
        assert set(file.keys()) == {"features", "keys", "original_sizes", "processed_sizes"}
        stacked = np.stack([item.features for item in records]).astype(np.float16)
        assert np.array_equal(file.get_tensor("features"), stacked)
        assert file.get_tensor("keys").tobytes().decode().split("\n") == ["b/ü", "a"]
        assert file.get_tensor("original_sizes").tolist() == [[100, 200]] * 2
        metadata = file.metadata()
    assert (metadata["format"], metadata["format_version"]) == ("preimage-features", "2")
    assert Spec.from_json(metadata["spec"]) == SPEC


def test_half_precision_rounds_once(tmp_path):
    written = record("a")
    store = FeatureStore(write(tmp_path / "f", written, dtype="float16"))
    assert store.dtype == "float16"
    assert np.array_equal(store["a"], written.features.astype(np.float16))


def test_overflow_of_half_precision_is_rejected_and_infinity_is_kept(tmp_path):
    features = np.full((31, 1, 1), np.inf, np.float32)
    features[3] = np.nan
    store = FeatureStore(write(tmp_path / "f", FeatureRecord("a", features, (1, 1), (1, 1)), dtype="float16"))
    assert np.array_equal(store["a"], features, equal_nan=True)
    features[5] = 7e4
    with pytest.raises(ValueError, match=r"'a'.*70000.*float16"):
        write(tmp_path / "g.safetensors", FeatureRecord("a", features, (1, 1), (1, 1)), dtype="float16")
    assert not (tmp_path / "g.safetensors").exists()


@pytest.mark.parametrize("form", FORMS)
def test_stack(tmp_path, form):
    vectors = [record(key, (), 5) for key in "abc"]
    assert np.array_equal(
        FeatureStore(write(tmp_path / form, *vectors, spec=VECTORS)).stack(), [item.features for item in vectors]
    )
    with pytest.raises(ValueError, match=r"'a'.*\(31, 4, 5\).*'b'.*\(31, 2, 2\)"):
        FeatureStore(write(tmp_path / form, record("a"), record("b", (2, 2)))).stack()
    with pytest.raises(ValueError, match="no features"):
        FeatureStore(write(tmp_path / form)).stack()


@pytest.mark.parametrize("form", FORMS)
def test_an_open_store_survives_being_replaced(tmp_path, form):
    store = FeatureStore(write(tmp_path / form, record("a")))
    before = store["a"].copy()
    write(tmp_path / form, record("z", (9, 9)))
    assert np.array_equal(store["a"], before)


def test_wrong_keys_and_positions(tmp_path):
    store = FeatureStore(write(tmp_path / "f", record("a")))
    with pytest.raises(KeyError, match="'b'"):
        store["b"]
    for index in (1, -2):
        with pytest.raises(IndexError, match="1"):
            store[index]
    assert store.get("b") is None


def test_equal_features_give_equal_stores(tmp_path):
    records = [record("a"), record("b")]
    for name in FORMS:
        first, second = write(tmp_path / name, *records), write(tmp_path / f"2{name}", *records)
        assert list(contents(first).values()) == list(contents(second).values())


def test_a_flip_of_any_bit_is_found(small):
    for name, data in contents(small).items():
        path = small if small.is_file() else small / name
        for position in range(len(data)):
            for mask in (1 << position % 8, 0x20, 0xFF):
                changed = bytearray(data)
                changed[position] ^= mask
                path.write_bytes(changed)
                with pytest.raises(FileFormatError, match=name):
                    read_all(small)
        path.write_bytes(data)
    assert len(read_all(small)) == 3


def test_any_truncation_and_anything_added_is_found(small):
    for name, data in contents(small).items():
        path = small if small.is_file() else small / name
        lengths = [*range(0, len(data), 7), len(data) - 1]
        for changed in [*(data[:length] for length in lengths), data + b"\0", data + data]:
            path.write_bytes(changed)
            with pytest.raises(FileFormatError, match=name):
                read_all(small)
        path.write_bytes(data)


def test_features_are_checked_when_a_shard_is_first_read(tmp_path, short_shards):
    path = write(tmp_path / "f", *(record(key) for key in "abcd"))
    shard = path / "shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1  # among the features
    shard.write_bytes(data)
    store = FeatureStore(path)
    assert store["a"].shape == (31, 4, 5)
    with pytest.raises(FileFormatError, match=r"shard-00001.*checksum.*features"):
        store["c"]
    assert [error.args[0] for error in store.problems()] == [str(next(store.problems()))]


@pytest.mark.usefixtures("short_shards")
def test_missing_swapped_or_foreign_shards_are_rejected(tmp_path):
    path = write(tmp_path / "f", *(record(key) for key in "abcd"))
    other = write(tmp_path / "g", *(record(key) for key in "abcd"))
    first, second = path / "shard-00000.safetensors", path / "shard-00001.safetensors"
    kept = first.read_bytes(), second.read_bytes()
    first.unlink()
    with pytest.raises(FileFormatError, match=r"shard-00000.*index\.json"):
        FeatureStore(path)
    first.write_bytes(kept[1])
    second.write_bytes(kept[0])
    with pytest.raises(FileFormatError, match=r"shard-00000.*swapped"):
        FeatureStore(path)
    second.write_bytes(kept[1])
    shutil.copy(other / first.name, first)
    with pytest.raises(FileFormatError, match=r"shard-00000.*another store"):
        FeatureStore(path)


def edit_index(path, **fields):
    """Change the index and update its checksum."""
    index = json.loads((path / "index.json").read_bytes())
    text = json.dumps(index | fields | {"sha256": ZEROS}, indent=1).encode() + b"\n"
    digest = hashlib.sha256(text).hexdigest()
    (path / "index.json").write_bytes(text.replace(ZEROS.encode(), digest.encode(), 1))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"format_version": 2}, r"version 2.*1"),
        ({"format_version": None}, "newer"),
        ({"format": "other"}, "not the index"),
        ({"spec": {}}, "spec"),
        ({"shards": [{}]}, "number"),
        ({"shards": 3}, "not iterable"),
        ({"dtype": "float64"}, "inconsistent"),
        ({"shard_length": 0}, "inconsistent"),
        ({"part": [2, 2]}, "inconsistent"),
        ({"count": 1 << 39}, "inconsistent"),
        ({"complete": False}, "1 of 1 shards"),
    ],
)
def test_inconsistent_index_is_rejected(tmp_path, fields, words):
    path = write(tmp_path / "f", record("a"))
    edit_index(path, **fields)
    with pytest.raises(FileFormatError, match=words):
        FeatureStore(path)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"key": "../a"}, ValueError, "relative"),
        ({"key": ""}, ValueError, "characters"),
        ({"key": "a\nb"}, ValueError, "control"),
        ({"key": 3}, ValueError, r"string.*int"),
        ({"features": np.zeros((30, 4, 5), np.float32)}, ValueError, r"\(31, h, w\).*\(30, 4, 5\)"),
        ({"features": np.zeros((31, 4), np.float32)}, ValueError, r"\(31, h, w\).*\(31, 4\)"),
        ({"features": np.zeros((31, 0, 5), np.float32)}, ValueError, r"\(31, 0, 5\)"),
        ({"features": np.zeros((31, 4, 5), np.int32)}, TypeError, "int32"),
        ({"features": [[1.0]]}, TypeError, "list"),
        ({"original_size": (0, 5)}, ValueError, r"original_size.*\(0, 5\)"),
        ({"original_size": (5,)}, ValueError, "original_size"),
        ({"processed_size": (5.0, 5)}, ValueError, "processed_size"),
        ({"processed_size": None}, ValueError, "processed_size"),
    ],
)
def test_invalid_records_are_rejected(tmp_path, change, error, words):
    fields = {"key": "a", "features": np.zeros((31, 4, 5), np.float32)}
    fields |= {"original_size": (1, 1), "processed_size": (1, 1)} | change
    with pytest.raises(error, match=words):
        write(tmp_path / "f.safetensors", record("first"), FeatureRecord(**fields))
    assert os.listdir(tmp_path) == []


def test_one_key_twice(tmp_path):
    with pytest.raises(ValueError, match=r"'a'.*twice"):
        write(tmp_path / "f", record("a"), record("a"))


def test_other_arguments_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="'bfloat16'"):
        write(tmp_path / "f", record("a"), dtype="bfloat16")
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path / "f.safetensors", spec=Spec("x", "v", 1, 1, {"a": float("nan")}))
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "absent" / "f.safetensors")


def test_other_files_are_distinguished(tmp_path):
    from safetensors.numpy import save_file  # noqa: PLC0415

    path = tmp_path / "f"
    save_file({"weight": np.zeros(3, np.float32)}, path, {"format": "pt"})
    with pytest.raises(FileFormatError, match="preimage-features"):
        FeatureStore(path)
    for data in (b"", b"hello", bytes(100), b"\x93NUMPY" + bytes(200)):
        path.write_bytes(data)
        with pytest.raises(FileFormatError, match="feature store"):
            FeatureStore(path)
    with pytest.raises(FileNotFoundError):
        FeatureStore(tmp_path / "absent")
    with pytest.raises(FileFormatError, match=r"index\.json"):
        FeatureStore(tmp_path)


def test_an_exception_of_the_caller_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "f.safetensors", record("old"))
    before = path.read_bytes()

    def records():
        yield record("new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(path, SPEC, records())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["f.safetensors"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, form):
    path = tmp_path / form
    writer = open_writer(path, SPEC, "float32", count=4, length=2, source={}) if form == "f" else None
    if writer is None:
        write(path, record("old"))
    else:
        with writer as store, store.shard(0) as shard:
            shard.append(["old"], record("old").features[None], [(1, 1)], [(1, 1)])
    before = contents(path)
    # The temporary file's descriptor is pointed at the device that is always full.
    plain = os.fsync

    def fsync_on_full_disk(descriptor):
        with open("/dev/full", "wb", buffering=0) as device:
            device.write(b"x")
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync_on_full_disk)
    with pytest.raises(OSError, match="No space left") as raised:
        if writer is None:
            write(path, record("new"), record("newer"))
        else:
            with (
                open_writer(path, SPEC, "float32", count=4, length=2, source={}) as store,
                store.shard(1) as shard,
            ):
                shard.append(["new"], record("new").features[None], [(1, 1)], [(1, 1)])
    assert raised.value.errno == errno.ENOSPC
    assert "f" in str(raised.value.filename)
    assert contents(path) == before


def begin(path, **changes):
    settings_ = {"count": 6, "length": 2, "source": {"size": 64, "images": "x"}} | changes
    return open_writer(path, settings_.pop("spec", SPEC), settings_.pop("dtype", "float32"), **settings_)


def fill(store, *numbers):
    for number in numbers:
        with store.shard(number) as shard:
            for position in store.index.positions(number):
                features = np.full((1, 31, 2, 2), position, np.float32)
                shard.append([f"k{position}"], features, [(1, 1)], [(1, 1)])


def test_a_store_grows_shard_by_shard(tmp_path):
    with begin(tmp_path / "f") as store:
        assert store.index.missing == [0, 1, 2]
        fill(store, 1)
    with pytest.raises(FileFormatError, match="1 of 3 shards"):
        FeatureStore(tmp_path / "f")
    with begin(tmp_path / "f", length=lambda: pytest.fail("decided long ago")) as store:
        assert store.index.missing == [0, 2]
        fill(store, 0, 2)
        store.finish()
    assert list(read_all(tmp_path / "f")) == [f"k{position}" for position in range(6)]


def test_other_settings_are_rejected_and_nothing_is_lost(tmp_path):
    with begin(tmp_path / "f") as store:
        fill(store, 0)
    before = contents(tmp_path / "f")
    for change, words in (
        ({"dtype": "float16"}, "dtype: float32 != float16"),
        ({"spec": Spec("hog", "vlfeat-uoctti", 31, 8, {"cell_size": 4})}, r"parameters\.cell_size: 8 != 4"),
        ({"source": {"size": 32, "images": "x"}}, "size: 64 != 32"),
        ({"count": 7}, r"6 images.*7"),
        ({"source": {"size": 64, "images": "y"}}, r"6 images.*6"),
        ({"part": (0, 2)}, r"part: \(0, 1\) != \(0, 2\)"),
    ):
        with pytest.raises(ValueError, match=words), begin(tmp_path / "f", **change):
            pass
    assert contents(tmp_path / "f") == before
    with begin(tmp_path / "f", dtype="float16", resume=False) as store:
        assert store.index.missing == [0, 1, 2]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"), begin(tmp_path, resume=False):
        pass
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_one_writer_at_a_time(tmp_path):
    pytest.importorskip("fcntl")
    waits = []
    with begin(tmp_path / "f") as store:
        with pytest.raises(ValueError, match="process"), begin(tmp_path / "f"):
            pass
        second = threading.Thread(target=_write_after, args=(tmp_path / "f", waits))
        second.start()
        while not waits:
            pass
        fill(store, 0, 1, 2)
    second.join()
    assert read_index(tmp_path / "f").complete


def _write_after(path, waits):
    with begin(path, wait=waits.append) as store:
        assert not store.index.missing
        store.finish()


def test_damaged_shards_are_forgotten(tmp_path):
    with begin(tmp_path / "f") as store:
        fill(store, 0, 1, 2)
        store.finish()
    path = tmp_path / "f" / "shard-00001.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with begin(tmp_path / "f") as store:
        assert ["shard-00001" in str(problem) for problem in store.check()] == [True]
        assert store.index.missing == [1] and not store.index.complete
        fill(store, 1)
        store.finish()
    assert path.read_bytes() == before


def test_a_shard_of_which_every_image_is_skipped(tmp_path):
    with begin(tmp_path / "f") as store:
        fill(store, 0, 2)
        with store.shard(1) as shard:
            shard.skipped += [("a.png", "a.png: bad"), ("b.png", "b.png: bad")]
        store.finish()
    store = read_all(tmp_path / "f")
    assert list(store) == ["k0", "k1", "k4", "k5"]
    assert store.index.shards[1].skipped[1] == ("b.png", "b.png: bad")


def test_shares_merge_to_what_one_run_writes(tmp_path):
    with begin(tmp_path / "whole") as store:
        fill(store, 0, 1, 2)
        store.finish()
    for share in range(2):
        with begin(tmp_path / f"{share}", part=(share, 2)) as store:
            assert store.index.missing == [[0, 2], [1]][share]
            fill(store, *store.index.missing)
            store.finish()
    merge([tmp_path / "1", tmp_path / "0"], tmp_path / "merged")
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    with pytest.raises(FileExistsError, match="already"):
        merge([tmp_path / "1", tmp_path / "0"], tmp_path / "merged")
    with pytest.raises(ValueError, match=r"2 of 3 shards.* 0"):
        merge([tmp_path / "1"], tmp_path / "m")
    with pytest.raises(ValueError, match=r"shard 1.*1.*whole"):
        merge([tmp_path / "1", tmp_path / "whole"], tmp_path / "m")
    with begin(tmp_path / "other", part=(0, 2), source={"size": 32, "images": "x"}) as store:
        fill(store, 0, 2)
        store.finish()
    with pytest.raises(ValueError, match=r"other.*1.*size: 32 != 64"):
        merge([tmp_path / "1", tmp_path / "other"], tmp_path / "m")
    assert not (tmp_path / "m").exists()
    (tmp_path / "cut" / "m").mkdir(parents=True)
    shutil.copy(tmp_path / "1" / "shard-00001.safetensors", tmp_path / "cut" / "m")
    merge([tmp_path / "1", tmp_path / "0"], tmp_path / "cut" / "m")
    assert contents(tmp_path / "cut" / "m") == contents(tmp_path / "whole"), "what a kill left is no obstacle"


def test_shards_are_of_about_64_mebibytes():
    assert shard_length(63_488) == 1057
    assert shard_length(1) == 65_536
    assert shard_length(1 << 30) == 1


def test_a_million_entries(tmp_path):
    # Benchmarks measure speed and memory; this tests that shards, keys and positions are consistent.
    spec, count = Spec("v", "v", 2, None), 200_000
    keys = [f"{number:06d}" for number in range(count)]
    with open_writer(tmp_path / "f", spec, "float32", count=count, length=65_536, source={}) as store:
        for number in store.index.missing:
            positions = store.index.positions(number)
            values = np.repeat(np.arange(positions.start, positions.stop, dtype=np.float32)[:, None], 2, axis=1)
            with store.shard(number) as shard:
                sizes = [(1, 1)] * len(positions)
                shard.append(keys[positions.start : positions.stop], values, sizes, sizes)
        store.finish()
    read = FeatureStore(Path(tmp_path / "f"))
    assert len(read) == count
    for number in RNG.integers(0, count, 200).tolist():
        assert read[f"{number:06d}"].tolist() == read[number].tolist() == [number, number]
