"""Feature files of other makers, in and out: NumPy, MATLAB, HDF5; VLFeat's and cyvlfeat's layouts."""

from preimage.io.arrays.by_suffix import (
    HDF5_SUFFIXES,
    NUMPY_SUFFIXES,
    SUFFIXES,
    check_writable,
    default_layout,
    is_foreign,
    read_foreign,
    write_foreign,
)

__all__ = [
    "HDF5_SUFFIXES",
    "NUMPY_SUFFIXES",
    "SUFFIXES",
    "check_writable",
    "default_layout",
    "is_foreign",
    "read_foreign",
    "write_foreign",
]
