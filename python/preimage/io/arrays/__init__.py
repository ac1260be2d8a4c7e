"""Read and write features as plain arrays in NumPy, MATLAB and HDF5 files, in the conventions of several libraries."""

from preimage.io.arrays.formats import (
    HDF5_SUFFIXES,
    NUMPY_SUFFIXES,
    SUFFIXES,
    check_writable,
    default_convention,
    is_array_file,
    move_array_file,
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
    "move_array_file",
    "read_array_file",
    "write_array_file",
]
