"""Feature files of other makers, in and out: NumPy, MATLAB, HDF5; VLFeat's and cyvlfeat's conventions."""

from preimage.io.arrays.formats import (
    HDF5_SUFFIXES,
    NUMPY_SUFFIXES,
    SUFFIXES,
    check_writable,
    default_convention,
    is_array_file,
    read_array_file,
    write_array_file,
)

__all__ = [
    "HDF5_SUFFIXES",
    "NUMPY_SUFFIXES",
    "SUFFIXES",
    "check_writable",
    "default_convention",
    "is_array_file",
    "read_array_file",
    "write_array_file",
]
