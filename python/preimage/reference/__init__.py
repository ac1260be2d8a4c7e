"""Plain definitions of the functions that the fast kernels compute: documentation, and oracles of the tests."""

from preimage.reference.dense_sift import dense_sift, dense_sift_frames
from preimage.reference.hog import hog
from preimage.reference.lbp import lbp, lbp_codes
from preimage.reference.phow import phow
from preimage.reference.sift import sift
from preimage.reference.sift_colors import sift_colors
from preimage.reference.sift_grid import sift_grid
from preimage.reference.upconv import upconv

__all__ = [
    "dense_sift",
    "dense_sift_frames",
    "hog",
    "lbp",
    "lbp_codes",
    "phow",
    "sift",
    "sift_colors",
    "sift_grid",
    "upconv",
]
