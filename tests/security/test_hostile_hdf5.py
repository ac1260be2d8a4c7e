"""Test HDF5 files crafted to attack a reader."""

import os
import sys
import zlib

import numpy as np
import pytest

from mutations import SPEC, STACK
from preimage.errors import FileFormatError
from preimage.io.arrays import read_array_file


def h5py_or_skip():
    return pytest.importorskip("h5py")


@pytest.fixture
def elsewhere(tmp_path):
    """Return a file that must not be opened."""
    h5py = h5py_or_skip()
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["a/features"] = STACK[0]
    np.zeros(31 * 6, np.float32).tofile(tmp_path / "secret.bin")
    return tmp_path / "secret.h5"


def soft(h5py, file, other):
    file["a"] = h5py.SoftLink("/b")
    file["b/features"] = STACK[0]


def external(h5py, file, other):
    file["a"] = h5py.ExternalLink(str(other), "/a")


def external_inside(h5py, file, other):
    file.create_group("a")["features"] = h5py.ExternalLink(str(other), "/a/features")


def external_storage(h5py, file, other):
    storage = [(str(other.with_name("secret.bin")), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("a/features", (31, 2, 3), "<f4", external=storage)


def virtual(h5py, file, other):
    convention = h5py.VirtualLayout((31, 2, 3), "<f4")
    convention[:] = h5py.VirtualSource(str(other), "a/features", (31, 2, 3))
    file.create_virtual_dataset("a/features", convention)


def circle(h5py, file, other):
    outer = file.create_group("a")
    outer.create_group("b")["c"] = outer


def twice(h5py, file, other):
    file["a/features"] = STACK[0]
    file.create_group("b")["features"] = file["a/features"]


def stack(h5py, file, other):
    file["a/features"] = STACK


def nothing_stored(h5py, file, other):
    file.create_dataset("a/features", (31, 4000, 4000), "<f4")


def nothing_stored_in_chunks(h5py, file, other):
    file.create_dataset("a/features", (31, 4000, 4000), "<f4", chunks=(1, 100, 100), compression="gzip")


def other_filter(h5py, file, other):
    file.create_dataset("a/features", data=STACK[0], scaleoffset=3, chunks=STACK[0].shape)


def large_chunks(h5py, file, other):
    shape = (None, None, None)
    file.create_dataset("a/features", data=STACK[0], maxshape=shape, chunks=(31, 500, 500), compression="gzip")


def too_large(h5py, file, other):
    file.create_dataset("a/features", (31, 10**7, 10**7), "<f4", chunks=(1, 10, 10))


def long_spec(h5py, file, other):
    file["a/features"] = STACK[0]
    file["a"].attrs.create("spec", np.bytes_(b" " * 60_000))


def list_spec(h5py, file, other):
    file["a/features"] = STACK[0]
    file.attrs["spec"] = np.array([b"{}", b"{}"])


def climbing(h5py, file, other):
    file.create_group("..")["features"] = STACK[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (soft, "link"),
        (external, "link"),
        (external_inside, "link"),
        (external_storage, "another file"),
        (virtual, "another file"),
        (circle, "twice"),
        (twice, "twice"),
        (stack, r"'a'.*\(31, h, w\).*\(3, 31, 2, 3\)"),
        (nothing_stored, r"0.*stored"),
        (nothing_stored_in_chunks, r"0.*stored"),
        (other_filter, "filters"),
        (large_chunks, "chunks"),
        (too_large, "4294967296 bytes"),
        (long_spec, "spec"),
        (list_spec, r"spec.*string"),
        (climbing, "relative"),
    ],
)
def test_unsafe_hdf5_files_are_rejected(tmp_path, elsewhere, make, words):
    h5py = h5py_or_skip()
    with h5py.File(tmp_path / "f.h5", "w") as file:
        make(h5py, file, elsewhere)
    with pytest.raises(FileFormatError, match=rf"f\.h5: .*{words}"):
        read_array_file(tmp_path / "f.h5", SPEC)


def test_a_chunk_that_inflates_beyond_its_size(tmp_path):
    h5py = h5py_or_skip()
    with h5py.File(tmp_path / "f.h5", "w") as file:
        dataset = file.create_dataset("a/features", (31, 2, 3), "<f4", chunks=(31, 2, 3), compression="gzip")
        dataset.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(64 << 20)))
    file = read_array_file(tmp_path / "f.h5", SPEC)
    with pytest.raises(FileFormatError, match="752 bytes"):
        file[0]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_nothing_else_is_opened(tmp_path, elsewhere):
    """None of the files above causes another file in the folder to be opened."""
    h5py = h5py_or_skip()
    for make in (external, external_inside, external_storage, virtual):
        with h5py.File(tmp_path / "f.h5", "w") as file:
            make(h5py, file, elsewhere)
        with pytest.raises(FileFormatError):
            read_array_file(tmp_path / "f.h5", SPEC)
        opened = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)]
        assert not [name for name in opened if "secret" in name]
