"""The functions of cyvlfeat 0.7.1 that compute HOG, SIFT, dense SIFT, PHOW and LBP, on NumPy arrays and without torch.

Signatures, axis order, dtypes and scales are those of cyvlfeat: images (H, W[, C]) of any range, used as float32,
frames (y, x, ...), and descriptors of SIFT multiplied by 512 and at most 255. Replace ``import cyvlfeat`` by
``import preimage.compat.cyvlfeat as cyvlfeat``.
"""

from preimage.compat.cyvlfeat import hog, misc, sift

__version__ = "0.7.1"  # the version of cyvlfeat whose interface this is
__all__ = ["__version__", "hog", "misc", "sift"]


def __getattr__(name: str) -> object:
    if name in ("fisher", "generic", "gmm", "kmeans", "quickshift", "vlad"):
        raise AttributeError(f"preimage.compat.cyvlfeat has hog, misc and sift, but no {name}: use cyvlfeat for it")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
