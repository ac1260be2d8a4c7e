"""Entry points of `torch.hub`: the descriptors as modules, and the inverters.

`torch.hub.load` imports this file from a copy of the repository, which contains no compiled kernels. The package
therefore has to be installed (``pip install preimage``), and the installed package is the one that runs.
"""

import importlib as _importlib
import importlib.util as _util
from typing import Any as _Any

dependencies = ["numpy", "safetensors", "torch"]


def inverter(name: str, device: str = "auto", *, revision: str | None = None, cache_dir: str | None = None) -> _Any:
    """Load an inverter: a network from features to images, in evaluation mode.

    Args:
        name: Name of a pretrained inverter, such as "hog-compact" (`preimage.list_inverters` returns all), the folder
            of an inverter, or "user/name" on the Hugging Face Hub, which needs huggingface_hub.
        device: "auto" (CUDA where available), "cpu", "cuda", "cuda:1", ...
        revision: Branch, tag or commit of a repository on the Hub.
        cache_dir: Folder of the Hub's cache.

    Returns:
        `preimage.Inverter`, a torch.nn.Module. Called with features (B, C, h, w) or (C, h, w) and the `size` (H, W) of
        the images, it returns images (B, 3, H, W) or (3, H, W) in [0, 1].

    Raises:
        ImportError: preimage is not installed, or its kernels are not compiled.
        ValueError: There is no such inverter or device.

    Example:
        >>> hog = torch.hub.load("owner/preimage", "hog")
        >>> inverter = torch.hub.load("owner/preimage", "inverter", name="hog-compact")
        >>> images = inverter(hog(photographs), size=photographs.shape[-2:])
    """
    load = _installed("preimage").load_inverter
    return load(name, device, revision=revision, cache_dir=cache_dir)


def hog_compact(device: str = "auto") -> _Any:
    """Load the pretrained inverter of HOG features (31, h, w) with cells of 8 pixels, see `inverter`."""
    return inverter("hog-compact", device)


def hog_dalal_triggs_compact(device: str = "auto") -> _Any:
    """Load the pretrained inverter of scikit-image's HOG (81, h, w) with its default parameters, see `inverter`."""
    return inverter("hog-dalal-triggs-compact", device)


def lbp_compact(device: str = "auto") -> _Any:
    """Load the pretrained inverter of LBP features (58, h, w) with cells of 16 pixels, see `inverter`."""
    return inverter("lbp-compact", device)


def dense_sift_compact(device: str = "auto") -> _Any:
    """Load the pretrained inverter of dense SIFT (128, h, w) with step 4 and bins of 4 pixels, see `inverter`."""
    return inverter("dense-sift-compact", device)


def sift_compact(device: str = "auto") -> _Any:
    """Load the pretrained inverter of SIFT keypoints on the grid of `preimage.sift_grid`, see `inverter`."""
    return inverter("sift-compact", device)


def sift_color_compact(device: str = "auto") -> _Any:
    """Load the pretrained inverter of SIFT keypoints with their colors on a grid, see `inverter`."""
    return inverter("sift-color-compact", device)


def hog(**parameters: _Any) -> _Any:
    """Create `preimage.nn.HOG`, a module from images (..., C, H, W) to HOG features (..., C, h, w), differentiable.

    Images have 1 or 3 channels, and are uint8, or floating point in [0, 1]. There are no weights.

    Args:
        parameters: Those of `preimage.nn.HOG`, such as `cell_size=8`.
    """
    return _installed("preimage.nn").HOG(**parameters)


def lbp(**parameters: _Any) -> _Any:
    """Create `preimage.nn.LBP`, a module from images (..., C, H, W) to LBP features (..., 58, h, w), without gradient.

    Images have 1 or 3 channels, and are uint8, or floating point in [0, 1]. There are no weights.

    Args:
        parameters: Those of `preimage.nn.LBP`, such as `cell_size=16`.
    """
    return _installed("preimage.nn").LBP(**parameters)


def dense_sift(**parameters: _Any) -> _Any:
    """Create `preimage.nn.DenseSIFT`, a differentiable module from images (..., C, H, W) to (..., 128, h, w).

    Images have 1 or 3 channels, and are uint8, or floating point in [0, 1]. There are no weights.

    Args:
        parameters: Those of `preimage.nn.DenseSIFT`, such as `step=4` and `bin_size=4`.
    """
    return _installed("preimage.nn").DenseSIFT(**parameters)


def _installed(module: str) -> _Any:
    """Return a module of the installed package; ``ImportError`` says how to install it, or to compile a checkout."""
    remedy = "pip install preimage, or `pip install .` in a checkout, which compiles them"
    if _util.find_spec("preimage") is None:
        raise ImportError(f"torch.hub runs the installed package preimage with its kernels, which is missing: {remedy}")
    try:
        _importlib.import_module("preimage.ops._native")
    except ImportError as error:
        raise ImportError(f"preimage cannot load its compiled kernels ({error}): {remedy}") from error
    return _importlib.import_module(module)
