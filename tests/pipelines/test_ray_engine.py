"""Test extraction and inversion on a Ray cluster of two local workers: the same bytes, also if a worker is killed."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

import preimage
from conftest import Run
from dying_sources import DeadlySource, DyingSource, deaths_of
from extractions import contents
from networks import SIDE, Cnn
from preimage.io import list_images
from preimage.pipelines import extract_batches, ray_workers
from preimage.pipelines.extract import extract, extract_with_summary
from preimage.pipelines.extract_batches import Extraction
from preimage.pipelines.extract_ray import _ShardJob
from preimage.pipelines.extract_shards import missing_shards
from preimage.pipelines.invert import invert
from preimage.pipelines.ray_workers import Cluster
from preimage.pipelines.shared_folder import check_shared, folder_token
from preimage.representations import create_representation
from preimage.store import FeatureStore, open_writer, read_index
from ray_warnings import ignore_ray_warnings

ray = pytest.importorskip("ray")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

pytestmark = ignore_ray_warnings

HOG = create_representation("hog")
KILLS = int(os.environ.get("PREIMAGE_KILLS", "2"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Start a Ray cluster of two CPUs, to which the functions connect."""
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=100 << 20
    )
    yield
    ray.shutdown()
    gc.collect()  # Ray's processes, so that their warnings are not those of another test


@pytest.fixture
def short_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_batches, "shard_length", lambda image_bytes: 4)


@pytest.fixture
def two_sizes(photo_folder: Path, tmp_path: Path) -> Path:
    """Return a folder of 20 images of two sizes, in files, a tar file and a Parquet file, and one that is damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = []
    with tarfile.open(folder / "10.tar", "w") as archive:
        for number, path in enumerate(sorted(photo_folder.iterdir())):
            image = cv2.imread(str(path))
            file = folder / f"{number:02}.png"
            cv2.imwrite(str(file), image[: 64 if number % 3 else 96])
            if number >= 15:
                rows.append({"key": file.stem, "image": file.read_bytes()})
            elif number >= 10:
                archive.add(file, file.name)
            if number >= 10:
                file.unlink()
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "15.parquet")
    (folder / "05-bad.png").write_bytes(b"not an image")
    return folder


@pytest.mark.usefixtures("cluster", "short_shards")
def test_store_is_byte_identical_after_a_bad_image_and_a_killed_worker(two_sizes: Path, tmp_path: Path) -> None:
    output = tmp_path / "ray"
    with pytest.raises(ValueError, match=r"05-bad\.png.*--skip-bad") as refused:
        extract(HOG, two_sizes, output, engine="ray", workers=2)
    kept = sum(entry.images for entry in read_index(output).shards)
    sources = list_images(two_sizes)
    deadly = DyingSource(sources[6].key, sources[6].path)  # in the middle of a shard that is never kept
    done: list[tuple[int, int]] = []
    summary = extract_with_summary(
        HOG,
        [*sources[:6], deadly, *sources[7:]],
        output,
        engine="ray",
        workers=2,
        skip_bad=True,
        progress=lambda *now: done.append(now),
    )
    expected = extract_with_summary(HOG, two_sizes, tmp_path / "local", skip_bad=True)
    assert deaths_of(deadly) == 1
    assert refused.traceback, "an error that is kept does not keep the CPUs of its workers"
    assert contents(output) == contents(tmp_path / "local"), "complete, no duplicates, and no temporary files"
    assert (summary.images, summary.skipped, summary.resumed) == (20, expected.skipped, kept)
    assert done[-1] == (21, 21)
    assert [now for now, _ in done] == sorted({now for now, _ in done}), "each shard is counted once"


@pytest.mark.usefixtures("short_shards")
def test_a_job_with_a_network_can_be_sent(photo_folder: Path, tmp_path: Path) -> None:
    network = preimage.Network(Cnn(), preimage.Preprocessing(SIDE)).representation("features.3")
    extraction = Extraction(network, SIDE, "float32", 3, torch.device("cpu"), skip_bad=False)
    sources = list_images(photo_folder)[:4]
    expected = extract(network, sources, tmp_path / "local", batch_size=3, device="cpu")
    with open_writer(tmp_path / "f", network.spec, "float32", count=4, length=4, source={}) as store:
        with folder_token(store.folder) as token:
            job = _ShardJob(token, store.index, extraction, "cpu")
            write = ray.cloudpickle.loads(ray.cloudpickle.dumps(job)).start()
            store.add(write((0, sources)))
        store.finish()
    for key, features in FeatureStore(tmp_path / "f").items():
        np.testing.assert_array_equal(features, expected[key])


@pytest.mark.nightly
@pytest.mark.usefixtures("cluster", "short_shards", "one_thread")
def test_network_is_sent_to_the_workers(photo_folder: Path, tmp_path: Path) -> None:
    network = preimage.Network(Cnn(), preimage.Preprocessing(SIDE)).representation("features.3")
    options = {"batch_size": 3, "device": "cpu"}
    extract(network, photo_folder, tmp_path / "local", **options)  # type: ignore[arg-type]
    extract(network, photo_folder, tmp_path / "ray", **options, engine="ray", workers=2)  # type: ignore[arg-type]
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


@pytest.mark.usefixtures("cluster", "one_thread")
def test_inverted_images_and_samples_are_byte_identical(
    photo_folder: Path, tiny_sampler: Path, tmp_path: Path, run: Run
) -> None:
    features = extract(HOG, photo_folder, tmp_path / "f", size=48).path
    expected = invert(features, tmp_path / "local", inverter=tiny_sampler, batch_size=1, device="cpu", samples=2)
    options = [
        "--samples",
        2,
        "--inverter",
        tiny_sampler,
        "--batch-size",
        1,
        "--device",
        "cpu",
        "--engine",
        "ray",
        "--workers",
        2,
    ]
    code, out, _ = run("invert", features, "-o", tmp_path / "ray", *options, "--json")
    assert (code, json.loads(out)["images"]) == (0, expected.images)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


@pytest.mark.usefixtures("short_shards")
@pytest.mark.parametrize("name", ["hog", "lbp", "dense-sift", "sift"])
def test_a_worker_writes_the_shards_of_the_local_engine(two_sizes: Path, tmp_path: Path, name: str) -> None:
    representation = create_representation(name)
    local = extract(representation, two_sizes, tmp_path / "local", skip_bad=True)
    assert isinstance(local, FeatureStore)
    assert local.index is not None
    sources = list_images(two_sizes)
    settings = dict(count=len(sources), length=4, source=local.index.source)
    extraction = Extraction(representation, None, "float32", None, None, skip_bad=True)
    with open_writer(tmp_path / "f", local.spec, "float32", **settings) as store:  # type: ignore[arg-type]
        with folder_token(store.folder) as token:
            write = _ShardJob(token, store.index, extraction, "cpu").start()
            for shard in reversed(missing_shards(store.index, sources)):
                store.add(write(shard))
                store.add(write(shard))  # a retry replaces the file by an equal one
        store.finish()
    assert contents(tmp_path / "f") == contents(tmp_path / "local")


@pytest.mark.nightly
@pytest.mark.usefixtures("cluster", "short_shards")
@pytest.mark.parametrize("name", ["hog", "lbp", "dense-sift", "sift"])
def test_stores_of_every_representation_are_byte_identical(two_sizes: Path, tmp_path: Path, name: str) -> None:
    extract(name, two_sizes, tmp_path / "local", skip_bad=True)
    extract(name, two_sizes, tmp_path / "ray", skip_bad=True, engine="ray", workers=2)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


@pytest.mark.nightly
@pytest.mark.usefixtures("cluster", "short_shards")
def test_image_that_kills_every_worker_is_an_error(photo_folder: Path, tmp_path: Path) -> None:
    sources = list_images(photo_folder)
    deadly = DeadlySource(sources[5].key, sources[5].path)
    try:
        with pytest.raises(RuntimeError, match="died 4 times"):
            extract(HOG, [*sources[:5], deadly], tmp_path / "f", engine="ray", workers=1)
        assert deaths_of(deadly) == 4
    finally:
        for file in photo_folder.glob("*.death-*"):
            file.unlink()


@pytest.mark.nightly
def test_killed_driver_is_resumed(two_sizes: Path, tmp_path: Path) -> None:
    extract(HOG, two_sizes, tmp_path / "local", skip_bad=True, batch_size=2)
    program = (
        "import sys; from preimage.pipelines import extract_batches; from preimage.pipelines.extract import extract; "
        "extract_batches.shard_length = lambda image_bytes: 1; "
        "extract('hog', sys.argv[1], sys.argv[2], skip_bad=True, engine='ray', workers=2)"
    )
    command = [sys.executable, "-c", program, str(two_sizes), str(tmp_path / "ray")]
    for kill in range(KILLS):
        process = subprocess.Popen(command)
        while process.poll() is None and len(list((tmp_path / "ray").glob("shard-*"))) <= 5 * kill:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    subprocess.run(command, check=True, timeout=600)
    assert len(FeatureStore(tmp_path / "ray")) == 20
    for key, features in FeatureStore(tmp_path / "local").items():
        np.testing.assert_array_equal(FeatureStore(tmp_path / "ray")[key], features)
    assert not list((tmp_path / "ray").glob(".preimage*"))


@pytest.mark.parametrize(
    ("nodes", "workers", "gpu", "pool"),
    [
        ([(2, 0)], 2, False, (2, 1, 0)),
        ([(2, 0)], None, False, (1, 2, 0)),
        ([(64, 0), (64, 0)], None, False, (2, 64, 0)),
        ([(2, 0), (64, 0), (0, 0)], None, False, (33, 2, 0)),
        ([(64, 0), (64, 0)], 3, False, (3, 32, 0)),
        ([(8, 0), (64, 8), (64, 8)], None, True, (16, 8, 1)),
        ([(64, 8), (64, 8)], 2, True, (2, 64, 1)),
        ([(4, 8)], None, True, (4, 1, 1)),
    ],
)
def test_cpus_are_distributed(
    nodes: list[tuple[int, int]], workers: int | None, gpu: bool, pool: tuple[int, int, int]
) -> None:
    found = Cluster(_cluster_of(nodes), workers).pool(gpu=gpu)
    assert (found.size, found.threads, found.gpus) == pool


def test_workers_and_devices_that_a_cluster_lacks() -> None:
    small = _cluster_of([(2, 0)])
    with pytest.raises(ValueError, match=r"workers.*2.*3"):
        Cluster(small, 3).pool(gpu=False)
    with pytest.raises(ValueError, match="GPU"):
        Cluster(small, None).pool(gpu=True)
    with pytest.raises(ValueError, match=r"device.*cuda:1"):
        Cluster(small, None).gives_gpus("cuda:1")
    with pytest.raises(ValueError, match="cuda"):
        Cluster(small, None).gives_gpus("cuda")
    assert not Cluster(small, None).gives_gpus("auto")
    assert [Cluster(_cluster_of([(2, 1)]), None).gives_gpus(device) for device in ("auto", "cpu")] == [True, False]


def _cluster_of(nodes: list[tuple[int, int]]) -> object:
    """Return what a cluster uses of Ray, for nodes with these numbers of CPUs and GPUs, and one that has left."""
    listed = [{"Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}} for cpus, gpus in nodes]
    return SimpleNamespace(nodes=lambda: [*listed, {"Alive": False, "Resources": {}}])


def test_a_folder_that_is_not_shared_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preimage.pipelines.shared_folder._PATIENCE", 0)
    with pytest.raises(ValueError, match=r"elsewhere.*share"):
        check_shared(tmp_path / "elsewhere" / "token")


@pytest.mark.usefixtures("short_shards")
def test_a_worker_of_a_run_that_has_ended_writes_nothing(photo_folder: Path, tmp_path: Path) -> None:
    sources = list_images(photo_folder)
    extraction = Extraction(HOG, None, "float32", None, None, skip_bad=False)
    with open_writer(tmp_path / "f", HOG.spec, "float32", count=20, length=4, source={}) as store:
        with folder_token(store.folder) as token:
            write = _ShardJob(token, store.index, extraction, "cpu").start()
        with pytest.raises(ValueError, match="ended"):
            write(missing_shards(store.index, sources)[0])
        assert not list(store.folder.glob("*shard*"))


def test_options_of_engines(photo_folder: Path, tmp_path: Path) -> None:
    for engine, workers, message in (("spark", None, "engine.*local.*ray.*spark"), ("local", 2, "workers.*2")):
        with pytest.raises(ValueError, match=message):
            extract(HOG, photo_folder, tmp_path / "f", engine=engine, workers=workers)
    with pytest.raises(ValueError, match=r"workers.*0"), ray_workers.connect("ray", 0):
        pass
    assert list(tmp_path.iterdir()) == []
