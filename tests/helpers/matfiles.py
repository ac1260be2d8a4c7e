"""Encode MATLAB v5 files, for tests that need control over their bytes."""

import io
import struct
import zlib

import scipy.io

HEADER = b"MATLAB 5.0 MAT-file".ljust(116) + bytes(8) + struct.pack("<HH", 0x0100, 0x4D49)


def element(name, array):
    """Encode a variable as SciPy does, without compression."""
    file = io.BytesIO()
    scipy.io.savemat(file, {name: array})
    return file.getvalue()[128:]


def compressed(element):
    stream = zlib.compress(element)
    return struct.pack("<II", 15, len(stream)) + stream


def part(code, contents):
    return struct.pack("<II", code, len(contents)) + contents + bytes(-len(contents) % 8)


def variable(shape, data, *, stored=7, kind=7, compress=False, name=b"a"):
    """Encode a variable whose parts may be inconsistent."""
    body = part(6, struct.pack("<II", kind, 0)) + part(5, struct.pack(f"<{len(shape)}i", *shape)) + part(1, name)
    body += part(stored, data)
    whole = struct.pack("<II", 14, len(body)) + body
    return compressed(whole) if compress else whole
