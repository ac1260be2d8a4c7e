"""Local binary patterns, as in `cyvlfeat.misc`."""

from preimage.compat.cyvlfeat.misc.lbp import lbp

__all__ = ["lbp"]
