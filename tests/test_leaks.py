"""Test that repeated calls keep neither memory, nor open files, nor threads. LEAK_CALLS=10000 tests more calls."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import preimage
from file_formats import FORMATS, format_of
from mutations import RECORDS, SPEC
from native_functions import FUNCTIONS, photographs
from preimage.inverters import Inverter
from preimage.io import decode_file
from preimage.store import FeatureStore, write_features

LEAK_CALLS = int(os.environ.get("LEAK_CALLS", "40"))
# What the allocator keeps in pieces too small for reuse; 10,000 calls that leak one object of 420 bytes exceed it.
TOLERANCE = 4 << 20  # bytes
PROCESS = Path("/proc/self")

pytestmark = [
    pytest.mark.skipif(not (PROCESS / "statm").exists(), reason="needs /proc"),
    pytest.mark.usefixtures("one_thread"),
]


def resident_bytes() -> int:
    return int((PROCESS / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def held() -> tuple[int, int]:
    """Return the numbers of open files and of threads of this process."""
    return len(list((PROCESS / "fd").iterdir())), len(list((PROCESS / "task").iterdir()))


def assert_no_leak(call: Callable[[], object], calls: int = LEAK_CALLS) -> None:
    for _ in range(max(10, calls // 10)):
        call()
    gc.freeze()  # so that collections do not visit the objects of all other tests, which takes a second
    try:
        memory = resident_bytes()
        for attempt in range(3):
            before = held()
            for _ in range(calls):
                call()
            gc.collect()
            if held() == before:  # a pool, such as that of pyarrow, may start a thread late, but not each time
                break
            assert attempt < 2, f"open files, threads: {held()}, before {before}"
        assert resident_bytes() - memory < TOLERANCE
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_native_functions(name: str) -> None:
    images, function = photographs(32, 40), FUNCTIONS[name]
    assert_no_leak(lambda: function(images), max(LEAK_CALLS, 300))


@pytest.mark.parametrize(
    "call",
    [
        lambda images: preimage.hog(images, cell_size=1 << 40),
        lambda images: preimage.lbp(images, cell_size=99),
        lambda images: preimage.dense_sift(images, bounds=(0, 0, 99, 99)),
        lambda images: preimage.sift(images, peak_threshold=-1.0),
        lambda images: preimage.ops._native.hog((1, (1, 1, 8, 8), (64, 64, 8, 1), "uint8", "cpu"), (), 8, "luma", 1),
        lambda images: preimage.ops._native.lbp_codes(*[(1, (1, 1, 8, -8), (64, 64, 8, 1), "uint8", "cpu")] * 2, 1),
    ],
    ids=["hog", "lbp", "dense sift", "sift", "arguments", "description"],
)
def test_errors(call: Callable[[torch.Tensor], object]) -> None:
    images = photographs(32, 40)

    def rejected() -> None:
        with pytest.raises((ValueError, TypeError)):
            call(images)

    assert_no_leak(rejected, max(LEAK_CALLS, 300))


@pytest.mark.parametrize("name", FORMATS)
def test_readers(tmp_path: Path, name: str) -> None:
    form = format_of(name)
    path = tmp_path / f"f{form.suffix}"
    form.writers[0](path)
    complete = path.read_bytes()

    def read() -> None:
        path.write_bytes(complete)
        assert form.read(path)
        path.write_bytes(complete[: len(complete) // 2])
        with contextlib.suppress(preimage.FileFormatError):
            form.read(path)

    assert_no_leak(read)


def test_stores(tmp_path: Path) -> None:
    for name in ("folder", "file.safetensors"):
        path = tmp_path / name
        write_features(path, SPEC, RECORDS)

        def read(path: Path = path) -> None:
            store = FeatureStore(path)
            store.verify()
            assert len([np.array(features) for features in store.values()]) == len(RECORDS)

        assert_no_leak(read)
    assert_no_leak(lambda: write_features(path, SPEC, RECORDS))


def test_photographs(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), photographs(100, 120)[0].permute(1, 2, 0).numpy())
    assert_no_leak(lambda: decode_file(path))


def test_inverters(tiny: Path) -> None:
    features = preimage.hog(photographs(32, 40))

    def load() -> None:
        assert Inverter.load(tiny)(features).shape == (1, 3, 32, 40)

    assert_no_leak(load)


def test_reconstructor(tiny: Path) -> None:
    images, reconstructor = photographs(32, 40), preimage.Reconstructor("hog", tiny, "cpu")
    assert_no_leak(lambda: reconstructor(images))
