"""Other libraries' functions of the same names, for their speed: their numbers are others, even at equal parameters."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.feature
import torch

from _descriptors import Descriptor, ImageSet
from _timing import Runner

HERE = Path(__file__).resolve().parent
STEP = 4  # pixels between descriptors of dense SIFT
BIN = 4  # pixels


def runners(descriptor: Descriptor, images: ImageSet, absent: set[str]) -> dict[str, Runner]:
    """What there is beside a descriptor; says in `absent` what is not there, and why."""
    tables: dict[str, Callable[[ImageSet, set[str]], dict[str, Runner]]] = {
        "hog": _hog,
        "lbp": _lbp,
        "dense_sift flat": _flat_sift,
        "dense_sift gaussian": _gaussian_sift,
    }
    return tables[descriptor.name](images, absent)


def _hog(images: ImageSet, absent: set[str]) -> dict[str, Runner]:
    found: dict[str, Runner] = {"scikit-image hog": lambda: [skimage.feature.hog(image) for image in images.bytes_grey]}
    if hasattr(cv2, "HOGDescriptor"):
        height, width = (side // 8 * 8 for side in images.bytes_grey[0].shape)
        theirs = cv2.HOGDescriptor((width, height), (16, 16), (8, 8), (8, 8), 9)
        found["OpenCV HOGDescriptor"] = lambda: [theirs.compute(image[:height, :width]) for image in images.bytes_grey]
    else:
        absent.add(f"OpenCV HOGDescriptor: OpenCV {cv2.__version__} is built without it")
    fhog = load_dlib()
    if isinstance(fhog, str):
        absent.add(f"dlib fhog: {fhog}")
    else:
        grey = images.grey[:, 0].numpy()
        found["dlib fhog grey"] = lambda: [fhog(image) for image in grey]
    return found


def _lbp(images: ImageSet, absent: set[str]) -> dict[str, Runner]:
    codes = functools.partial(skimage.feature.local_binary_pattern, P=8, R=1, method="nri_uniform")
    return {"scikit-image codes, no histograms": lambda: [codes(image) for image in images.bytes_grey]}


def _gaussian_sift(images: ImageSet, absent: set[str]) -> dict[str, Runner]:
    height, width = images.bytes_grey[0].shape
    # OpenCV's bins are 1.5 times a keypoint's size wide, around its centre.
    first = (3 * BIN) // 2
    grid = [
        cv2.KeyPoint(float(x), float(y), BIN / 1.5)
        for y in range(first, height - first, STEP)
        for x in range(first, width - first, STEP)
    ]
    theirs = cv2.SIFT_create()
    return {"OpenCV SIFT on a grid": lambda: [theirs.compute(image, grid) for image in images.bytes_grey]}


def _flat_sift(images: ImageSet, absent: set[str]) -> dict[str, Runner]:
    module = kornia_sift(torch.device("cpu"))
    if isinstance(module, str):
        absent.add(f"kornia DenseSIFTDescriptor: {module}")
        return {}

    def run() -> object:
        with torch.inference_mode():
            return [module(image[None]) for image in images.grey]

    return {"kornia DenseSIFTDescriptor": run}


def kornia_sift(device: torch.device) -> Callable[[torch.Tensor], torch.Tensor] | str:
    """kornia's dense SIFT at our step and bin size, without a Gaussian window; or why it is not here."""
    if importlib.util.find_spec("kornia") is None:
        return "kornia is not installed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kornia: Any = importlib.import_module("kornia.feature")
            module: Callable[[torch.Tensor], torch.Tensor] = kornia.DenseSIFTDescriptor(
                spatial_bin_size=BIN, rootsift=False, stride=STEP, padding=0
            ).to(device)
    except Exception as error:  # kornia beside a version of torch that it does not know
        return f"kornia does not load: {type(error).__name__}: {error}"
    return module


@functools.cache
def load_dlib() -> Callable[[np.ndarray], None] | str:
    """dlib's fhog, compiled here; or why it is not."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return "no C++ compiler"
    library = Path(tempfile.mkdtemp()) / "libdlib_fhog.so"
    options = ["-std=c++17", "-O3", "-march=native", "-DDLIB_NO_GUI_SUPPORT", "-shared", "-fPIC", "-w"]
    source = HERE / "dlib_fhog.cpp"
    for libraries in ([], ["-ldlib"]):
        command = [compiler, *options, str(source), "-o", str(library), *libraries, "-Wl,--no-undefined"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            function = ctypes.CDLL(str(library)).dlib_fhog
            function.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
            return lambda image: function(image.ctypes.data, *image.shape)
    return "its headers (package libdlib-dev) are not installed"
