"""Create images and files for tests of keypoint files, in each format as its program writes it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data

from paths import GOLDEN

_cv2: Any = cv2  # its stubs lack the constants

_TABLES = """
CREATE TABLE cameras (camera_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, model INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, params BLOB, prior_focal_length INTEGER NOT NULL);
CREATE TABLE images (image_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name TEXT NOT NULL UNIQUE,
    camera_id INTEGER NOT NULL, FOREIGN KEY(camera_id) REFERENCES cameras(camera_id));
CREATE TABLE keypoints (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL, data BLOB);
CREATE TABLE descriptors (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
    data BLOB);
"""  # of COLMAP 3; version 4 adds `type` to descriptors


def pictures() -> dict[str, np.ndarray]:
    """Return three small images (H, W) uint8 by name, one of them flat: those of golden/colmap_*.db."""
    astronaut, coffee = (cv2.cvtColor(image(), cv2.COLOR_RGB2GRAY) for image in _SOURCES)
    return {
        "face.png": astronaut[20:148, 160:320],
        "flat.png": np.full((64, 80), 128, np.uint8),
        "sub/coffee.png": coffee[100:196, 200:312],
    }


def color_pictures() -> dict[str, np.ndarray]:
    """Return those of `pictures` that are photographs, in color, (H, W, 3) uint8."""
    astronaut, coffee = (image() for image in _SOURCES)
    return {"face.png": astronaut[20:148, 160:320], "sub/coffee.png": coffee[100:196, 200:312]}


_SOURCES: tuple[Any, ...] = (skimage.data.astronaut, skimage.data.coffee)


def colmap_arrays(name: str, image: str = "face.png") -> tuple[np.ndarray, np.ndarray]:
    """Return keypoints (N, 6) float32 and descriptors (N, 128) uint8 of an image in a golden database."""
    with contextlib.closing(sqlite3.connect(f"file:{GOLDEN / name}?mode=ro&immutable=1", uri=True)) as database:
        query = (
            "SELECT k.data, d.data FROM images i, keypoints k, descriptors d "
            "WHERE i.name = ? AND k.image_id = i.image_id AND d.image_id = i.image_id"
        )
        keypoints, descriptors = database.execute(query, (image,)).fetchone()
    return np.frombuffer(keypoints, "<f4").reshape(-1, 6), np.frombuffer(descriptors, "u1").reshape(-1, 128)


def colmap_database(path: Path, images: dict[str, tuple[np.ndarray | None, np.ndarray | None]]) -> Path:
    """Write a database of COLMAP 3 with images of 40 × 30 pixels."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.executescript(_TABLES)
        database.execute("INSERT INTO cameras VALUES (1, 2, 40, 30, NULL, 0)")
        for number, (name, (keypoints, descriptors)) in enumerate(images.items(), 1):
            database.execute("INSERT INTO images VALUES (?, ?, 1)", (number, name))
            for table, array in (("keypoints", keypoints), ("descriptors", descriptors)):
                if array is not None:
                    values = (number, *array.shape, array.tobytes())
                    database.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", values)
    return path


def opencv_file(path: Path, image: np.ndarray, *, nested: bool, dtype: Any = np.float32) -> Path:
    """Write SIFT of an image like ``fs << "keypoints" << keypoints << "descriptors" << descriptors`` in C++."""
    found, descriptors = _cv2.SIFT_create().detectAndCompute(image, None)
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.startWriteStruct("keypoints", cv2.FILE_NODE_SEQ + (0 if nested else cv2.FILE_NODE_FLOW))
    for keypoint in found:
        if nested:
            storage.startWriteStruct("", cv2.FILE_NODE_SEQ + cv2.FILE_NODE_FLOW)
        for value in (*keypoint.pt, keypoint.size, keypoint.angle, keypoint.response):
            storage.write("", float(value))
        storage.write("", int(keypoint.octave))
        storage.write("", int(keypoint.class_id))
        if nested:
            storage.endWriteStruct()
    storage.endWriteStruct()
    if descriptors is not None:
        storage.write("descriptors", descriptors.astype(dtype))
    storage.write("note", 'a "picture"\nkeypoints: [ 1 ] <b> & {c}')
    storage.release()
    return path


def vlfeat_file(path: Path, frames: np.ndarray, descriptors: np.ndarray) -> Path:
    """Write keypoints as VLFeat's src/sift.c does: one line each, with ``%g `` four times and ``%d `` 128 times."""
    lines = []
    for frame, descriptor in zip(frames, descriptors, strict=True):
        floats = "".join(f"{value:g} " for value in frame)
        lines.append(floats + "".join(f"{int(512.0 * value) & 255} " for value in descriptor) + "\n")
    path.write_text("".join(lines))
    return path


def lowe_file(path: Path, frames: np.ndarray, descriptors: np.ndarray) -> Path:
    """Write frames and descriptors in our convention as Lowe's program does, see VLFeat's vl_ubcread.m."""
    order = np.arange(128) // 8 * 8 + -np.arange(128) % 8
    lines = [f"{len(frames)} 128"]
    for (x, y, scale, angle), descriptor in zip(frames, descriptors, strict=True):
        turned = (-angle + np.pi) % (2 * np.pi) - np.pi
        lines.append(f"{y:.2f} {x:.2f} {scale:.2f} {turned:.3f}")
        values = np.minimum(512 * descriptor[order], 255).astype(int)
        lines += [" " + " ".join(map(str, values[start : start + 20])) for start in range(0, 128, 20)]
    path.write_text("\n".join(lines) + "\n")
    return path


def colmap_text(path: Path, keypoints: np.ndarray, descriptors: np.ndarray) -> Path:
    """Write frames (N, 4) and descriptors (N, 128) in the format of COLMAP's feature_importer."""
    lines = [f"{len(keypoints)} 128"]
    lines += [
        " ".join([*(f"{value:.6f}" for value in keypoint), *map(str, descriptor)])
        for keypoint, descriptor in zip(keypoints, descriptors, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def hloc_arrays(name: str, *, rootsift: bool, shrunk: float = 1.0) -> dict[str, np.ndarray]:
    """Return the arrays that hloc stores for COLMAP's SIFT of face.png (hloc/extractors/dog.py, extract_features.py).

    `shrunk` is the factor by which the image was reduced for detection.
    """
    affine, descriptors = colmap_arrays(name)
    values = descriptors.astype(np.float32) / 512  # as returned by pycolmap.Sift
    if rootsift:
        values = np.sqrt((values / (values.sum(1, keepdims=True) + 1e-6)).clip(min=1e-6))
        values /= np.linalg.norm(values, axis=1, keepdims=True) + 1e-6
    positions = (affine[:, :2] + 0.5) * np.float32(shrunk) - 0.5
    arrays = {
        "keypoints": positions,
        "scales": np.hypot(affine[:, 2], affine[:, 4]) * np.float32(shrunk),
        "oris": np.rad2deg(np.arctan2(affine[:, 4], affine[:, 2])),
        "scores": np.zeros(len(affine), np.float32),
        "descriptors": values.T,
    }
    halves = {key: array.astype(np.float16) for key, array in arrays.items()}
    return halves | {"image_size": np.array([160, 128])}


def hloc_file(path: Path, images: dict[str, dict[str, np.ndarray]], uncertainty: float | None = 1.0) -> Path:
    """Write groups as hloc/extract_features.py does."""
    import h5py  # noqa: PLC0415 - optional

    for name, arrays in images.items():
        with h5py.File(path, "a", libver="latest") as file:
            group = file.create_group(name)
            for key, array in arrays.items():
                group.create_dataset(key, data=array)
            if uncertainty is not None:
                group["keypoints"].attrs["uncertainty"] = np.float64(uncertainty)
    return path
