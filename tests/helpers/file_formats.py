"""Write valid files of every format that the package reads from other programs, and read damaged ones to their end."""

from __future__ import annotations

import functools
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import scipy.io
import tifffile
import torch
from PIL import Image

import colmap_models
import keypoint_files
from caffemodels import ARRAYS, LAYERS, v1, v2
from keypoint_attacks import BYTES, FEW, FRAMES, check, small_database
from keypoint_files import GOLDEN, hloc_arrays, pictures
from mutations import RECORDS, SPEC, STACK
from preimage.errors import FileFormatError
from preimage.io import decode_file, is_keypoint_file, list_images, read_keypoints, write_keypoints
from preimage.io.arrays import read_array_file, write_array_file
from preimage.io.keypoints.colmap_model import ColmapModel, read_images
from preimage.io.keypoints.colmap_points import PointColors, read_points
from preimage.io.weights import open_weights
from preimage.pipelines.invert import read_spec
from preimage.training.display import Metrics


@dataclass(frozen=True)
class Format:
    """Functions that write valid files, and one that reads a damaged one to its end; it raises or returns success."""

    suffix: str
    writers: list[Callable[[Path], Any]]
    read: Callable[[Path], bool]
    has_checksums: bool = False  # of every byte


# ---- Feature arrays ----

# Damage may remove or change the description of the arrays; then the caller has to give it, or contradicts it.
DESCRIPTION_NEEDED = ("plain arrays", "'matlab'", "!=", "turned")


def read_arrays(path: Path, convention: str | None = None) -> bool:
    try:
        file = read_array_file(path, SPEC, convention)
    except FileFormatError:
        raise
    except ValueError as error:
        assert any(words in str(error) for words in DESCRIPTION_NEEDED), error
        return False
    assert all(features.shape[0] == SPEC.channels for features in file.values())
    return True


def write_hdf5(path: Path, version: str, **options: Any) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", libver=version) as file:
        file.attrs["spec"] = np.bytes_(SPEC.to_json().encode())
        file.attrs["note"] = SPEC.to_json()
        for record in RECORDS:
            group = file.create_group(record.key)
            group.create_dataset("features", data=record.features, **options)
            group["image_size"] = np.array([24, 16])


def write_mat(path: Path, compress: bool) -> None:
    arrays = {f"i{i}": features.transpose(1, 2, 0) for i, features in enumerate(STACK)}
    scipy.io.savemat(path, arrays, do_compression=compress)


HDF5_OPTIONS: list[dict[str, Any]] = [
    {},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
    {"compression": "lzf"},
]
ARRAY_FORMATS = {
    "NumPy array": Format(".npy", [lambda path: np.save(path, STACK)], read_arrays),
    "NumPy archive": Format(
        ".npz", [lambda path: np.savez(path, STACK), lambda path: np.savez_compressed(path, STACK)], read_arrays
    ),
    "MATLAB file of the package": Format(
        ".mat", [lambda path: write_array_file(path, SPEC, RECORDS, convention="matlab")], read_arrays
    ),
    "MATLAB file": Format(
        ".mat",
        [functools.partial(write_mat, compress=compress) for compress in (False, True)],
        functools.partial(read_arrays, convention="matlab"),
    ),
    "HDF5": Format(
        ".h5",
        [
            lambda path: write_array_file(path, SPEC, RECORDS),
            *(
                functools.partial(write_hdf5, version=version, **options)
                for version in ("earliest", "latest")
                for options in HDF5_OPTIONS
            ),
        ],
        read_arrays,
    ),
}


# ---- Texts ----


def write_keys(path: Path) -> None:
    np.save(path.with_suffix("").with_suffix(".npy"), STACK)
    path.write_text("a/1\nb/2\nc/3\n")


def read_with_keys(path: Path) -> bool:
    """Read an array with the keys of its rows; a wrong number of keys and keys that are no keys are the caller's."""
    try:
        return len(read_array_file(path.with_suffix("").with_suffix(".npy"), SPEC)) == len(STACK)
    except FileFormatError:
        raise
    except ValueError as error:
        assert "key" in str(error), error
        return False


def read_metrics(path: Path) -> bool:
    """A damaged line and what follows it are dropped."""
    Metrics(path, keep_until=3)
    lines = path.read_bytes().splitlines()
    return len(lines) > 1 and all(isinstance(json.loads(line)["step"], int) for line in lines)


TEXT_FORMATS = {
    "spec": Format(".json", [lambda path: path.write_text(SPEC.to_json())], lambda path: bool(read_spec(path))),
    "keys": Format(".keys.txt", [write_keys], read_with_keys),
    "metrics of a run": Format(
        ".jsonl",
        [lambda path: path.write_text("".join(f'{{"step": {step}, "loss": 0.5}}\n' for step in range(1, 4)))],
        read_metrics,
    ),
}


# ---- Keypoints ----

PICTURE = pictures()["sub/coffee.png"]


def write_hloc(path: Path) -> None:
    arrays = hloc_arrays("colmap_l1_root.db", rootsift=True)
    arrays = {key: array[:, :FEW] if key == "descriptors" else array[:FEW] for key, array in arrays.items()}
    keypoint_files.hloc_file(path, {"a/b.jpg": arrays, "c.jpg": arrays})


def write_keypoint_archive(path: Path) -> None:
    np.savez_compressed(path, **{"a/keypoints": FRAMES, "a/descriptors": BYTES, "a/image_size": np.array([9, 9])})


def write_matlab_keypoints(path: Path) -> None:
    scipy.io.savemat(path, {"a_F": FRAMES.T + 1, "a_D": BYTES.T, "b_F": FRAMES.T + 1, "b_D": BYTES.T})


def read_all_keypoints(path: Path) -> bool:
    is_keypoint_file(path)
    check(read_keypoints(path))
    return True


FILE_STORAGE = [
    lambda path: keypoint_files.opencv_file(path, PICTURE, nested=False),
    lambda path: keypoint_files.opencv_file(path, PICTURE, nested=True, dtype=np.uint8),
]
KEYPOINT_FORMATS = {
    name: Format(suffix, writers, read_all_keypoints)
    for name, suffix, writers in [
        (
            "COLMAP",
            ".db",
            [small_database, lambda path: path.write_bytes((GOLDEN / "colmap_l2.db").read_bytes())],
        ),
        ("hloc", ".h5", [write_hloc]),
        (
            "keypoint archive",
            ".npz",
            [
                lambda path: write_keypoints(path, read_keypoints(GOLDEN / "colmap_l2.db").records(), dtype="float16"),
                write_keypoint_archive,
            ],
        ),
        ("OpenCV YAML", ".yml", FILE_STORAGE),
        ("OpenCV XML", ".xml", FILE_STORAGE),
        ("OpenCV JSON", ".json", FILE_STORAGE),
        ("VLFeat, MATLAB", ".mat", [write_matlab_keypoints]),
        ("VLFeat", ".sift", [lambda path: keypoint_files.vlfeat_file(path, FRAMES, BYTES / 512)]),
        ("Lowe", ".key", [lambda path: keypoint_files.lowe_file(path, FRAMES, BYTES / 512)]),
        ("COLMAP text", ".txt", [lambda path: keypoint_files.colmap_text(path, FRAMES, BYTES)]),
    ]
}

OBSERVED = {
    "a/b.jpg": (FRAMES[:, :2], np.array([3, -1, 7, -1, 3])),
    "c d.jpg": (np.zeros((0, 2)), np.zeros(0, np.int64)),
    "e.jpg": (FRAMES[:2, :2], np.array([7, 3])),
}
SEEN = {3: (255, 0, 7), 7: (1, 2, 3), 2**40: (0, 9, 0)}


def read_model_images(path: Path) -> bool:
    images = read_images(path)
    model = ColmapModel(path, PointColors(np.zeros(0, np.int64), np.zeros((0, 3), np.uint8)), images)
    for key in images:
        model.observations(key)
    return True


def read_model_points(path: Path) -> bool:
    points = read_points(path)
    assert bool((points.at(points.ids) <= 1).all())
    return True


MODEL_FORMATS = {
    "COLMAP model, images": Format(
        ".bin", [lambda path: path.write_bytes(colmap_models.images_bytes(OBSERVED))], read_model_images
    ),
    "COLMAP model, images as text": Format(
        ".txt", [lambda path: path.write_text(colmap_models.images_text(OBSERVED))], read_model_images
    ),
    "COLMAP model, points": Format(
        ".bin", [lambda path: path.write_bytes(colmap_models.points_bytes(SEEN, OBSERVED))], read_model_points
    ),
    "COLMAP model, points as text": Format(
        ".txt", [lambda path: path.write_text(colmap_models.points_text(SEEN, OBSERVED))], read_model_points
    ),
}


# ---- Weights ----


def write_pth(path: Path, legacy: bool) -> None:
    tensors = {name: torch.from_numpy(values) for name, values in ARRAYS.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)


def read_weights(path: Path) -> bool:
    for array in open_weights(path).arrays:
        array.load()
    return True


WEIGHT_FORMATS = {
    "Caffe": Format(
        ".caffemodel",
        [
            lambda path: path.write_bytes(v1(LAYERS)),
            lambda path: path.write_bytes(v2(LAYERS)),
            lambda path: path.write_bytes(v2(LAYERS, packed=False)),
        ],
        read_weights,
    ),
    "weight archive": Format(".npz", [lambda path: np.savez(path, **ARRAYS)], read_weights),
    "safetensors": Format(".safetensors", [lambda path: safetensors.numpy.save_file(ARRAYS, path)], read_weights),
    "PyTorch": Format(".pth", [functools.partial(write_pth, legacy=legacy) for legacy in (False, True)], read_weights),
}


# ---- Images ----

RGB = np.random.default_rng(2).integers(0, 256, (16, 24, 3), dtype=np.uint8)
ANIMATED: dict[str, Any] = {"save_all": True, "append_images": [Image.fromarray(255 - RGB)]}
SAVED: dict[str, list[dict[str, Any]]] = {
    "png": [{}, ANIMATED, {"mode": "L"}, {"mode": "RGBA"}, {"mode": "1"}],
    "jpg": [{}, {"progressive": True}, {"mode": "L"}, {"mode": "CMYK"}, {"restart_marker_blocks": 2}],
    "gif": [{}, ANIMATED],
    "bmp": [{}, {"mode": "L"}, {"mode": "1"}, {"mode": "RGBA"}],
    "webp": [{}, {"lossless": True}, {"mode": "RGBA"}, ANIMATED],
    "tif": [
        *({"compression": name} for name in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg")),
        {"mode": "L"},
        {"mode": "1", "compression": "group4"},
        {"mode": "CMYK"},
        {"big_tiff": True},
    ],
}
TIFFS: list[dict[str, Any]] = [
    {"tile": (32, 32)},
    {"tile": (16, 16), "compression": "zlib"},
    {"planarconfig": "separate"},
    {"byteorder": ">", "rowsperstrip": 3},
]


def write_image(path: Path, mode: str = "RGB", **options: Any) -> None:
    Image.fromarray(RGB).convert(mode).save(path, **options)


def write_tiff(path: Path, **options: Any) -> None:
    image = np.moveaxis(RGB, 2, 0) if "planarconfig" in options else RGB
    tifffile.imwrite(path, image, photometric="rgb", **options)


def write_palette(path: Path) -> None:
    Image.fromarray(RGB).quantize(9).save(path, transparency=2)


def read_image(path: Path) -> bool:
    image = decode_file(path, max_pixels=1_000_000)
    assert image.dtype == np.uint8 and image.shape[2] == 3 and image.size <= 3_000_000
    return True


def write_tar(path: Path, form: int) -> None:
    long = "long/" * (20 if form == tarfile.USTAR_FORMAT else 30)
    with tarfile.open(path, "w", format=form) as archive:
        for index in range(4):
            member = tarfile.TarInfo(f"{long}{index}.jpg" if index % 2 else f"{index}.jpg")
            member.size = 700
            archive.addfile(member, io.BytesIO(bytes(700)))


def write_parquet(path: Path, **options: Any) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    columns = {"key": [f"{index}.jpg" for index in range(4)], "image": [bytes([index]) * 70 for index in range(4)]}
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path, row_group_size=2, **options)


def read_shard(path: Path) -> bool:
    try:
        sources = list_images(path)
    except FileFormatError:
        raise
    except ValueError as error:  # no image left
        assert str(path) in str(error)
        return False
    for source in sources:
        data = source.read()
        assert len(data) == source.length or source.row is not None  # whose length is that of the row group
    return True


IMAGE_FORMATS = {
    **{
        kind: Format(
            f".{kind}",
            [functools.partial(write_image, **options) for options in saved],
            read_image,
            has_checksums=kind == "png",
        )
        for kind, saved in SAVED.items()
    },
    "png with a palette": Format(".png", [write_palette], read_image, has_checksums=True),
    "TIFF of other programs": Format(
        ".tif", [functools.partial(write_tiff, **options) for options in TIFFS], read_image
    ),
    "tar": Format(
        ".tar",
        [
            functools.partial(write_tar, form=form)
            for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)
        ],
        read_shard,
    ),
    "Parquet": Format(
        ".parquet",
        [
            write_parquet,
            functools.partial(write_parquet, compression="none", use_dictionary=False, write_page_checksum=True),
        ],
        read_shard,
    ),
}


PACKAGES = {".h5": "h5py", ".parquet": "pyarrow"}  # optional ones, by suffix
FORMATS = ARRAY_FORMATS | TEXT_FORMATS | KEYPOINT_FORMATS | MODEL_FORMATS | WEIGHT_FORMATS | IMAGE_FORMATS


def format_of(name: str) -> Format:
    """Return a format, or skip the test if the optional package that reads it is not installed."""
    form = FORMATS[name]
    if form.suffix in PACKAGES:
        pytest.importorskip(PACKAGES[form.suffix])
    return form
