"""SIFT, dense SIFT and PHOW, as in `cyvlfeat.sift`."""

from preimage.compat.cyvlfeat.sift.dsift import dsift
from preimage.compat.cyvlfeat.sift.phow import phow
from preimage.compat.cyvlfeat.sift.sift import sift

__all__ = ["dsift", "phow", "sift"]
