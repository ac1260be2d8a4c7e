"""Turn visual features back into images.

Public names are imported on first use, so that ``import preimage`` is fast, and torch is imported only when needed.

Example::

    import preimage as pi

    image = pi.read_image("photo.jpg")  # (3, H, W) uint8 tensor
    f = pi.hog(image)  # (31, h, w); NumPy arrays give NumPy arrays; also lbp, dense_sift
    kp = pi.sift(image)  # Keypoints
    inv = pi.load_inverter("hog-compact", device="auto")  # a name, or a folder
    again = inv(f, size=image.shape[-2:])  # (3, H, W) in [0, 1]
    pi.list_representations(), pi.list_inverters()
    hog = pi.create_representation("hog", cell_size=8)  # callable, with .spec
    vit = pi.Network(model, transform)  # any torch network, which is not changed
    deep = vit.representation("blocks.3")
    pi.extract(hog, "photos/", "photos.hog")  # FeatureStore
    pi.invert("photos.hog", "out/")
    pi.train("hog", "photos/", "runs/mine", steps=20_000)
    pi.evaluate("runs/mine", "val/")  # .error .psnr .ssim
    store = pi.FeatureStore("photos.hog")
    store["cat"]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preimage import baselines as baselines
    from preimage import nn as nn
    from preimage import reference as reference
    from preimage.app.server import explore as explore
    from preimage.errors import FileFormatError as FileFormatError
    from preimage.inspection import info as info
    from preimage.installation import doctor as doctor
    from preimage.inverters import Inverter as Inverter
    from preimage.inverters import list_inverters as list_inverters
    from preimage.inverters import load_inverter as load_inverter
    from preimage.io import FeatureRecord as FeatureRecord
    from preimage.io import KeypointRecord as KeypointRecord
    from preimage.io import read_image as read_image
    from preimage.io import read_keypoints as read_keypoints
    from preimage.io import write_keypoints as write_keypoints
    from preimage.keypoints import Keypoints as Keypoints
    from preimage.ops.dense_sift import dense_sift as dense_sift
    from preimage.ops.dense_sift import dense_sift_frames as dense_sift_frames
    from preimage.ops.hog import hog as hog
    from preimage.ops.lbp import lbp as lbp
    from preimage.ops.lbp import lbp_codes as lbp_codes
    from preimage.ops.phow import phow as phow
    from preimage.ops.sift import sift as sift
    from preimage.ops.sift_grid import sift_grid as sift_grid
    from preimage.ops.upconv import upconv as upconv
    from preimage.pipelines.convert import convert as convert
    from preimage.pipelines.demo import demo as demo
    from preimage.pipelines.evaluate import evaluate as evaluate
    from preimage.pipelines.export import export as export
    from preimage.pipelines.extract import extract as extract
    from preimage.pipelines.film import film as film
    from preimage.pipelines.invert import invert as invert
    from preimage.pipelines.layers import layers as layers
    from preimage.pipelines.reconstruct import Reconstructor as Reconstructor
    from preimage.pipelines.sheet import sheet as sheet
    from preimage.pipelines.verify import verify as verify
    from preimage.pipelines.weights import convert_weights as convert_weights
    from preimage.pipelines.weights import import_weights as import_weights
    from preimage.reports.report import report as report
    from preimage.representations import Representation as Representation
    from preimage.representations import create_representation as create_representation
    from preimage.representations import describe_representation as describe_representation
    from preimage.representations import list_representations as list_representations
    from preimage.representations.network import Network as Network
    from preimage.representations.preprocessing import Preprocessing as Preprocessing
    from preimage.spec import Spec as Spec
    from preimage.store import FeatureStore as FeatureStore
    from preimage.store import merge as merge
    from preimage.store import write_features as write_features
    from preimage.studies.audit import audit as audit
    from preimage.studies.budget import study_budget as study_budget
    from preimage.studies.color import study_color as study_color
    from preimage.studies.compare import compare as compare
    from preimage.studies.disclosure import study_disclosure as study_disclosure
    from preimage.studies.interpolate import study_interpolate as study_interpolate
    from preimage.studies.layers import study_layers as study_layers
    from preimage.studies.look import look as look
    from preimage.studies.perturb import study_perturb as study_perturb
    from preimage.studies.probe import Probe as Probe
    from preimage.studies.random_features import study_random as study_random
    from preimage.training.api import train as train

    __version__: str

_LAZY_NAMES = {
    "FeatureRecord": "preimage.io",
    "FeatureStore": "preimage.store",
    "FileFormatError": "preimage.errors",
    "Inverter": "preimage.inverters",
    "KeypointRecord": "preimage.io",
    "Keypoints": "preimage.keypoints",
    "Network": "preimage.representations.network",
    "Preprocessing": "preimage.representations.preprocessing",
    "Probe": "preimage.studies.probe",
    "Reconstructor": "preimage.pipelines.reconstruct",
    "Representation": "preimage.representations",
    "Spec": "preimage.spec",
    "audit": "preimage.studies.audit",
    "compare": "preimage.studies.compare",
    "convert": "preimage.pipelines.convert",
    "convert_weights": "preimage.pipelines.weights",
    "create_representation": "preimage.representations",
    "demo": "preimage.pipelines.demo",
    "dense_sift": "preimage.ops.dense_sift",
    "dense_sift_frames": "preimage.ops.dense_sift",
    "describe_representation": "preimage.representations",
    "doctor": "preimage.installation",
    "evaluate": "preimage.pipelines.evaluate",
    "explore": "preimage.app.server",
    "export": "preimage.pipelines.export",
    "extract": "preimage.pipelines.extract",
    "film": "preimage.pipelines.film",
    "hog": "preimage.ops.hog",
    "import_weights": "preimage.pipelines.weights",
    "info": "preimage.inspection",
    "invert": "preimage.pipelines.invert",
    "layers": "preimage.pipelines.layers",
    "lbp": "preimage.ops.lbp",
    "lbp_codes": "preimage.ops.lbp",
    "list_inverters": "preimage.inverters",
    "list_representations": "preimage.representations",
    "load_inverter": "preimage.inverters",
    "look": "preimage.studies.look",
    "merge": "preimage.store",
    "phow": "preimage.ops.phow",
    "read_image": "preimage.io",
    "read_keypoints": "preimage.io",
    "report": "preimage.reports.report",
    "sheet": "preimage.pipelines.sheet",
    "sift": "preimage.ops.sift",
    "sift_grid": "preimage.ops.sift_grid",
    "study_budget": "preimage.studies.budget",
    "study_color": "preimage.studies.color",
    "study_disclosure": "preimage.studies.disclosure",
    "study_interpolate": "preimage.studies.interpolate",
    "study_layers": "preimage.studies.layers",
    "study_perturb": "preimage.studies.perturb",
    "study_random": "preimage.studies.random_features",
    "train": "preimage.training.api",
    "upconv": "preimage.ops.upconv",
    "verify": "preimage.pipelines.verify",
    "write_features": "preimage.store",
    "write_keypoints": "preimage.io",
}
_LAZY_MODULES = ("baselines", "inverters", "nn", "reference", "representations")

__all__ = ["__version__", *_LAZY_NAMES, *_LAZY_MODULES]  # noqa: PLE0604 - names of strings


def __getattr__(name: str) -> Any:
    if name in _LAZY_NAMES:
        value = getattr(importlib.import_module(_LAZY_NAMES[name]), name)
    elif name in _LAZY_MODULES:
        value = importlib.import_module(f"preimage.{name}")
    elif name == "__version__":
        value = importlib.import_module("importlib.metadata").version("preimage")
    else:
        raise AttributeError(f"module 'preimage' has no attribute {name!r}")
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
