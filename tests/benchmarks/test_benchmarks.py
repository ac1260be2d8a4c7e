"""The benchmarks' own parts: the plain-torch HOG, the tables, the picture's data. No timing is asserted."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch

import preimage
import tolerances
import vlfeat
from paths import ROOT

BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not here")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("size", [(512, 512), (131, 250), (100, 77), (64, 11)], ids=str)
@pytest.mark.parametrize("cell_size", [8, 4])
def test_torch_hog_is_hog(size: tuple[int, int], cell_size: int) -> None:
    from torch_hog import torch_hog  # noqa: PLC0415 - only where the benchmarks are

    image = torch.from_numpy(skimage.data.camera())[: size[0], : size[1]].float() / 255
    images = torch.stack([image, image.flip(1)])[:, None]
    difference = torch_hog(images, cell_size) - preimage.hog(images, cell_size=cell_size)
    assert difference.abs().max() <= tolerances.TORCH_HOG


def test_medians_take_turns_and_spare_the_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    import _timing  # noqa: PLC0415

    calls: list[str] = []
    monkeypatch.setattr(_timing, "SLOW", -1.0)  # everything is slow
    _timing.medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 9, slow_rounds=2)
    assert calls == ["a", "b"] * 3
    calls.clear()
    monkeypatch.setattr(_timing, "SLOW", 1e9)
    _timing.medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, repeats=2)
    assert calls == ["a", "b", "a", "a", "b", "b", "a", "a", "b", "b"]


def test_table_appends_and_refuses_another_table(tmp_path: Path) -> None:
    from _timing import Table  # noqa: PLC0415

    path = tmp_path / "new" / "table.csv"
    for _ in range(2):
        table = Table(
            path, {"processor": "one, with a comma"}, ("descriptor", "images", "implementation", "milliseconds")
        )
        table.add(descriptor="hog", images="8x8", implementation="ours", milliseconds=1.25)
    rows = read(path)
    assert [row["milliseconds"] for row in rows] == ["1.2500"] * 2
    assert rows[0]["processor"] == "one, with a comma" and "torch" in rows[0]["versions"]
    with pytest.raises(ValueError, match="ratio"):
        table.add(descriptor="hog", images="8x8", implementation="ours", milliseconds=1.0, ratio=2.0)
    with pytest.raises(SystemExit, match="move"):
        Table(path, {"gpu": "another"}, ("descriptor",))


def test_descriptors_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import _others  # noqa: PLC0415
    import bench_descriptors  # noqa: PLC0415
    from _descriptors import DESCRIPTORS, ImageSet, instruction_sets  # noqa: PLC0415

    monkeypatch.setattr(bench_descriptors, "copy_speed", lambda: 1e7)
    monkeypatch.setattr(_others, "load_dlib", lambda: "it takes long to compile")
    images = ImageSet("tiny", np.random.default_rng(0).integers(0, 256, (2, 80, 72, 3), dtype=np.uint8))
    part = bench_descriptors.CpuPart(True, tmp_path)
    for descriptor in DESCRIPTORS:
        part.measure(descriptor, images)
        part.call_overhead(descriptor)
    rows = read(tmp_path / "descriptors-cpu.csv")
    hog = {row["implementation"]: row for row in rows if row["descriptor"] == "hog"}
    ours = {f"preimage {name} grey f32" for name in instruction_sets()}
    assert ours | {"scikit-image hog", "grey f32 at the speed of copying", "call with a tensor"} <= hog.keys()
    assert all(float(row["milliseconds"]) > 0 for row in rows)
    absent = " ".join(part.absent)
    assert "dlib fhog: it takes long to compile" in absent
    for descriptor in DESCRIPTORS:  # nothing is left out in silence
        there = any(row["descriptor"] == descriptor.name and "preimage" in row["implementation"] for row in rows)
        assert there != (f"preimage.{descriptor.function}: not in this version" in absent)
    if vlfeat.library() is None:
        assert "VLFeat: libvl.so.1" in absent
    else:
        assert hog["VLFeat grey"]["ratio"] == "1.00"
    for row in ("preimage portable grey f32", "preimage portable RGB u8 strongest"):
        assert bool(hog[row]["ratio"]) == (vlfeat.library() is not None)


def test_sparse_sift_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_descriptors  # noqa: PLC0415
    from _descriptors import SPARSE, ImageSet, chosen, instruction_sets  # noqa: PLC0415

    monkeypatch.setattr(bench_descriptors, "copy_speed", lambda: 1e7)
    assert chosen("sift_grid, hog")[1] == ["sift_grid"] and chosen("")[1] == list(SPARSE)
    images = ImageSet("tiny", skimage.data.astronaut()[None, :100, 200:290])
    part = bench_descriptors.CpuPart(True, tmp_path)
    for function in SPARSE:
        part.measure_sparse(function, images)
    rows = read(tmp_path / "keypoints-cpu.csv")
    names = {row["implementation"] for row in rows if row["descriptor"] == "sift"}
    assert {f"preimage {name} grey f32" for name in instruction_sets()} | {"OpenCV SIFT", "preimage opencv"} <= names
    assert all(float(row["milliseconds"]) > 0 and "images a second and core" in row["remark"] for row in rows)
    assert ("VLFeat grey" in names) == (vlfeat.library() is not None)


def test_picture_knows_every_descriptor() -> None:
    from _descriptors import DESCRIPTORS  # noqa: PLC0415
    from plot_descriptors import TITLES  # noqa: PLC0415

    assert {descriptor.name for descriptor in DESCRIPTORS} == TITLES.keys()


def test_picture_shows_the_newest_run(tmp_path: Path) -> None:
    from plot_descriptors import bars, newest  # noqa: PLC0415

    path = tmp_path / "table.csv"
    header = "date,descriptor,images,implementation,ratio\n"
    path.write_text(
        header
        + "2026-01-01T00:00Z,hog,1920x1080,preimage avx2 grey f32,3.0\n"
        + "2026-01-02T00:00Z,hog,1920x1080,preimage avx2 grey f32,4.0\n"
        + "2026-01-02T00:00Z,hog,512x512,preimage avx2 grey f32,5.0\n"
        + "2026-01-02T00:00Z,hog,1920x1080,scikit-image hog,0.1\n"
        + "2026-01-02T00:00Z,hog,1920x1080,VLFeat grey,1.0\n"
        + "2026-01-02T00:00Z,lbp,1920x1080,scikit-image codes no histograms,\n"
    )
    assert bars(newest(path)) == {
        "HOG": [("preimage, AVX2", 4.0, True), ("VLFeat 0.9.21", 1.0, False), ("scikit-image", 0.1, False)]
    }
    path.write_text(header)
    with pytest.raises(SystemExit, match="rows"):
        newest(path)
