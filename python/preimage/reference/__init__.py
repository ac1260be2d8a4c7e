"""Plain definitions of what the fast kernels compute: to be read, and to test against."""

from preimage.reference.hog import hog
from preimage.reference.lbp import lbp, lbp_codes
from preimage.reference.upconv import upconv

__all__ = ["hog", "lbp", "lbp_codes", "upconv"]
