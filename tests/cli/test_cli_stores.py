"""Test the commands for feature stores: extract --shard, merge, verify and convert."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import Run
from extractions import contents
from paths import GOLDEN
from preimage.io.arrays import read_array_file
from preimage.store import FeatureStore

SHARDS = 7


@pytest.fixture(autouse=True)
def short_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preimage.store.MAX_SHARD_IMAGES", 3)  # of 20 images


@pytest.fixture
def store(run: Run, photo_folder: Path, tmp_path: Path) -> Path:
    assert run("extract", "hog", photo_folder, "-o", tmp_path / "photos.hog")[0] == 0
    return tmp_path / "photos.hog"


def flip(path: Path, position: int) -> None:
    """Change one bit; positions from the end are negative."""
    data = bytearray(path.read_bytes())
    data[position] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("count", [2, 9], ids=["2 shares", "more shares than shards"])
def test_merged_shards_equal_one_run(run: Run, photo_folder: Path, tmp_path: Path, store: Path, count: int) -> None:
    shares = [tmp_path / f"share-{number}" for number in range(count)]
    images = 0
    for number, share in enumerate(shares):
        code, out, err = run("extract", "hog", photo_folder, "-o", share, "--shard", f"{number}/{count}", "--json")
        assert code == 0, err
        images += json.loads(out)["images"]
    assert images == 20
    before = [contents(share) for share in shares]
    code, out, err = run("merge", *reversed(shares), "-o", tmp_path / "merged")
    assert (code, err) == (0, "")
    assert "20 images" in out
    assert contents(tmp_path / "merged") == contents(store)
    assert [contents(share) for share in shares] == before
    for share in shares:
        shutil.rmtree(share)
    code, out, _ = run("verify", tmp_path / "merged")
    assert (code, out.startswith(f"{tmp_path / 'merged'}: 20 images"), out.count("\n")) == (0, True, 1)
    code, out, _ = run("info", tmp_path / "merged", "--json")
    assert (json.loads(out)["images"], json.loads(out)["shards"]) == (20, SHARDS)


@pytest.mark.parametrize("shard", ["2/2", "half", "1", "-1/2"])
def test_shard_must_be_a_number_below_another(run: Run, photo_folder: Path, tmp_path: Path, shard: str) -> None:
    code, out, err = run("extract", "hog", photo_folder, "-o", tmp_path / "new", f"--shard={shard}")
    assert (code, out) == (2, "")
    assert f"--shard': expected I/N with I below N, such as 0/2 and 1/2, got '{shard}'" in err


def test_merge_rejects_stores_that_do_not_match(run: Run, photo_folder: Path, tmp_path: Path, store: Path) -> None:
    extract = ("extract", "hog", photo_folder, "--shard")
    one, other = tmp_path / "one", tmp_path / "other"
    assert run(*extract, "0/2", "-o", one)[0] == 0
    assert run(*extract, "1/2", "-o", other, "--size", 64)[0] == 0
    new = tmp_path / "new"
    for arguments, words in [
        (("merge", one, "-o", new), "3 of 7 shards.*1"),
        (("merge", one, one, "-o", new), "shard 0"),
        (("merge", one, other, "-o", new), "size: 64 != None"),
        (("merge", one, tmp_path / "absent", "-o", new), r"absent: .*index\.json"),
        (("merge", store, "-o", one), "one.*already"),
        ((*extract, "0/2", "-o", new.with_suffix(".safetensors")), "folder"),
        ((*extract, "1/2", "-o", one), r"one.*: \(0, 2\) != \(1, 2\)"),
        ((*extract, "0/1", "-o", one), r": \(0, 2\) != \(0, 1\)"),
    ]:
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert re.search(words, err), err
        assert not new.exists()


@pytest.mark.parametrize("position", [9, 300, -1, -2000], ids=["header", "spec", "keys", "features"])
def test_verify_finds_a_flipped_bit(run: Run, photo_folder: Path, tmp_path: Path, store: Path, position: int) -> None:
    assert run("convert", store, "-o", tmp_path / "whole.safetensors")[0] == 0
    whole = contents(store)
    flip(store / "shard-00002.safetensors", position)
    code, out, err = run("verify", tmp_path / "whole.safetensors", store)
    assert (code, bool(re.fullmatch("error: 1 .*2.*\n", err))) == (1, True)
    sound, damaged = out.splitlines()
    assert sound.startswith(f"{tmp_path / 'whole.safetensors'}: 20 images")
    assert damaged.startswith(f"{store / 'shard-00002.safetensors'}: ")
    # The command that wrote the store repairs it.
    code, out, _ = run("extract", "hog", photo_folder, "-o", store, "--json")
    assert (code, json.loads(out)["resumed"]) == (0, 17)
    assert contents(store) == whole


def test_verify_names_every_damaged_file(run: Run, tmp_path: Path, store: Path) -> None:
    single = tmp_path / "single.safetensors"
    assert run("convert", store, "-o", single)[0] == 0
    for path in (store / "shard-00001.safetensors", store / "shard-00004.safetensors", single):
        flip(path, 5000)
    shutil.copy(GOLDEN / "features_v1.safetensors", tmp_path / "old.safetensors")
    flip(tmp_path / "old.safetensors", -1)
    code, out, err = run(
        "verify", store, single, GOLDEN / "features_v1.safetensors", tmp_path / "old.safetensors", "--json"
    )
    found = json.loads(out)["damaged"]
    assert code == 1
    assert {path: len(problems) for path, problems in found.items()} == {
        str(store): 2,
        str(single): 1,
        str(tmp_path / "old.safetensors"): 1,
    }
    assert re.search("error: 3 .*4", err)
    code, _, err = run("verify", tmp_path / "absent")
    assert (code, "absent" in err) == (1, True)


@pytest.mark.parametrize("name", ["features_v1.safetensors", "features_v1_float16.safetensors"])
@pytest.mark.parametrize("output", ["new", "new.safetensors", "new.h5"])
def test_convert_reads_files_of_version_1(run: Run, tmp_path: Path, name: str, output: str) -> None:
    if output.endswith(".h5"):
        pytest.importorskip("h5py")
    old = FeatureStore(GOLDEN / name)
    code, _, err = run("convert", GOLDEN / name, "-o", tmp_path / output)
    assert (code, err) == (0, "")
    new = read_array_file(tmp_path / output) if output.endswith(".h5") else FeatureStore(tmp_path / output)
    assert (new.spec, new.dtype) == (old.spec, old.dtype)
    assert list(new) == (sorted(old) if output.endswith(".h5") else list(old)), "HDF5 sorts its groups"
    for record in old.records():
        again = new.record(record.key)
        assert (again.original_size, again.processed_size) == (record.original_size, record.processed_size)
        assert np.array_equal(again.features, record.features)


@pytest.mark.parametrize("suffix", [".safetensors", ".npy", ".npz", ".mat", ".h5"])
def test_convert_writes_the_same_files_as_extract(
    run: Run, photo_folder: Path, tmp_path: Path, store: Path, suffix: str
) -> None:
    if suffix == ".h5":
        pytest.importorskip("h5py")
    extracted, converted = tmp_path / f"extracted{suffix}", tmp_path / f"converted{suffix}"
    assert run("extract", "hog", photo_folder, "-o", extracted)[0] == 0
    code, out, err = run("convert", store, "-o", converted, "--json")
    assert code == 0, err
    assert json.loads(out)["images"] == 20
    assert [*contents(converted).values()] == [*contents(extracted).values()]
    if suffix in (".safetensors", ".mat", ".h5"):
        assert run("convert", converted, "-o", tmp_path / "back")[0] == 0
        back, here = FeatureStore(tmp_path / "back"), FeatureStore(store)
        assert (list(back), back.spec) == (list(here), here.spec)
        assert np.array_equal(back.stack(), here.stack())


def test_convert_to_another_dtype(run: Run, tmp_path: Path, store: Path) -> None:
    assert run("convert", store, "-o", tmp_path / "half", "--dtype", "float16")[0] == 0
    half = FeatureStore(tmp_path / "half")
    assert half.dtype == "float16"
    assert np.array_equal(half.stack(), FeatureStore(store).stack().astype(np.float16))


def test_convert_rejects_bad_arguments(run: Run, tmp_path: Path, store: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((31, 2, 2)))
    new = tmp_path / "new"
    for arguments, words in [
        ((store, "-o", store), "output.*features"),
        ((store, "-o", tmp_path), "already"),
        ((store, "-o", new, "--convention", "matlab"), "plain arrays"),
        ((store, "-o", new, "--dtype", "int8"), "float32, float16.*'int8'"),
        ((store, "-o", tmp_path / "new.csv"), r"new\.csv.*'\.csv'.*\.npy"),
        ((tmp_path / "a.npy", "-o", new), "--spec"),
        ((tmp_path / "absent", "-o", new), "absent"),
    ]:
        code, out, err = run("convert", *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert re.search(words, err), err
        assert not new.exists()
