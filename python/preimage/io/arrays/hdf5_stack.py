"""Read an HDF5 file whose only entry is one array, such as the latents of a sequence."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.arrays.hdf5 import SIGNATURE, hdf5_errors, load_dataset
from preimage.io.arrays.hdf5_checks import require_h5py
from preimage.io.atomic import StrPath
from preimage.io.file_types import mismatch


def read_hdf5_stack(path: StrPath) -> NDArray[Any] | None:
    """Return the only dataset of an HDF5 file, at its root; ``None`` for a file with other entries.

    Raises:
        FileFormatError: The file is of another format or damaged, or the dataset is rejected, see
            `preimage.io.arrays.hdf5.read_hdf5_features`.
        ImportError: h5py is not installed.
    """
    h5py = require_h5py()
    with open(path, "rb") as start:
        if start.read(8) != SIGNATURE:
            raise FileFormatError(path, mismatch("an HDF5 file", path))
    with hdf5_errors(path), h5py.File(path, "r") as file:
        names = list(file)
        # A soft or external link could lead out of the file.
        if len(names) != 1 or not isinstance(file.get(names[0], getlink=True), h5py.HardLink):
            return None
        if not isinstance(file[names[0]], h5py.Dataset):
            return None
        return load_dataset(path, file, names[0])
