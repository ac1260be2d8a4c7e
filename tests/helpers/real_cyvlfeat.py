"""Call the real VLFeat (`vlfeat`) with the interface of cyvlfeat 0.7.1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.ndimage
import skimage.color

import vlfeat

VARIANTS = {"UoCTTI": "uoctti", "DalalTriggs": "dalal-triggs"}


def hog(
    image: np.ndarray,
    cell_size: int,
    variant: str = "UoCTTI",
    n_orientations: int = 9,
    directed_polar_field: bool = False,
    undirected_polar_field: bool = False,
    bilinear_interpolation: bool = False,
    visualize: bool = False,
) -> Any:
    """Compute (h, w, D) from (H, W) or (H, W, C), and the drawing scaled to [0, 255]."""
    real = vlfeat.Hog(variant=VARIANTS[variant], orientations=n_orientations, bilinear=bilinear_interpolation)
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    if directed_polar_field or undirected_polar_field:
        features = real.polar(planes, cell_size, directed=directed_polar_field)
    else:
        features = real(planes, cell_size)
    result = np.transpose(features, [1, 2, 0]).copy()
    if not visualize:
        return result
    drawn = real.render(features)
    return result, (255 / (np.ptp(drawn) + np.finfo(np.float32).eps) * (drawn - drawn.min())).astype(np.uint8)


def stored(descriptors: np.ndarray, float_descriptors: bool) -> np.ndarray:
    """Return descriptors (N, D) on cyvlfeat's scale."""
    scaled = np.minimum(np.float32(512) * descriptors.astype(np.float32), np.float32(255))
    return scaled if float_descriptors else scaled.astype(np.uint8)


def dsift(
    image: np.ndarray,
    step: Any = 1,
    size: Any = 3,
    bounds: Any = None,
    window_size: float = -1,
    norm: bool = False,
    fast: bool = False,
    float_descriptors: bool = False,
    geometry: Any = (4, 4, 8),
) -> tuple[np.ndarray, np.ndarray]:
    """Compute frames (N, 2) or (N, 3) and descriptors (N, D)."""
    real = vlfeat.DenseSift(
        *image.shape[:2],
        step=step if isinstance(step, int) else tuple(step),
        bin_size=size if isinstance(size, int) else tuple(size),
        window="flat" if fast else "gaussian",
        window_size=window_size if window_size >= 0 else 2.0,
        bounds=bounds,
        geometry=tuple(geometry),
    )
    descriptors, keypoints = real.rows_of(image.reshape(image.shape[:2]))
    frames = keypoints[:, [1, 0, 3] if norm else [1, 0]].astype(np.float32)
    return frames, stored(descriptors, float_descriptors)


def phow(
    image: np.ndarray,
    fast: bool = True,
    sizes: tuple[int, ...] = (4, 6, 8, 10),
    step: int = 2,
    color: str = "gray",
    float_descriptors: bool = False,
    magnification: float = 6,
    contrast_threshold: float = 0.005,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute frames (N, 4) and descriptors (N, 128), or (N, 384) in color, of RGB (H, W, 3)."""
    luma = image @ [0.299, 0.587, 0.114]
    red, green, blue = image.transpose(2, 0, 1)
    opponent = (red - green) / math.sqrt(2), red + green - 2 * blue / math.sqrt(6)
    planes = {
        "gray": luma,
        "rgb": image,
        "hsv": skimage.color.rgb2hsv(image),
        "opponent": np.stack([luma, *(part + 0.01 * luma for part in opponent)], axis=2),
    }[color]
    frames, descriptors = [], []
    for size in sizes:
        smooth = np.atleast_3d(scipy.ndimage.gaussian_filter(planes, size / magnification)).astype(np.float32)
        first = math.floor(1 + 1.5 * (max(sizes) - size))
        bounds = (first, first, image.shape[0] - 1, image.shape[1] - 1)
        options = {"step": step, "size": size, "bounds": bounds, "fast": fast, "float_descriptors": float_descriptors}
        found = [dsift(np.ascontiguousarray(plane), norm=True, **options) for plane in np.moveaxis(smooth, 2, 0)]
        norms = np.stack([placed[:, 2] for placed, _ in found])
        contrast = norms.mean(axis=0) if color == "rgb" else norms[2 if color == "hsv" else 0]
        joined = np.hstack([described for _, described in found])
        joined[contrast < contrast_threshold] = 0
        frames.append(np.column_stack([found[0][0], np.full(len(joined), size, np.float32)]))
        descriptors.append(joined)
    return np.concatenate(frames), np.concatenate(descriptors)


def sift(
    image: np.ndarray,
    n_octaves: int | None = None,
    n_levels: int = 3,
    first_octave: int = 0,
    peak_thresh: float = 0,
    edge_thresh: float = 10,
    norm_thresh: float | None = None,
    magnification: float = 3,
    window_size: float = 2,
    frames: np.ndarray | None = None,
    force_orientations: bool = False,
    float_descriptors: bool = False,
    compute_descriptor: bool = False,
) -> Any:
    """Compute frames (N, 4), and descriptors (N, 128); those that VLFeat does not write are zeros."""
    if frames is not None:
        frames = np.asarray(frames, np.float32)
        frames = frames[np.argsort(frames[:, 2], kind="stable")][:, [1, 0, 2, 3]]
    found, descriptors = vlfeat.sift(
        image,
        frames,
        force_orientations,
        octaves=-1 if n_octaves is None else n_octaves,
        levels=n_levels,
        first_octave=first_octave,
        peak_threshold=peak_thresh,
        edge_threshold=edge_thresh,
        norm_threshold=norm_thresh or 0.0,
        magnification=math.trunc(magnification),
        window_size=math.trunc(window_size),
    )
    result = found[:, [1, 0, 2, 3]].astype(np.float32)
    return (result, stored(descriptors, float_descriptors)) if compute_descriptor else result
