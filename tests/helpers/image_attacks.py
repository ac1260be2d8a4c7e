"""Craft images that claim or inflate to more than they contain."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

RGB = np.random.default_rng(5).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def encode(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(side, rows, *chunks):
    """Return a one-bit PNG of side² pixels with these compressed rows, after other chunks (kind, body)."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
        for kind, body in parts
    )


def png_bomb(side):
    """Return a one-bit PNG of side² pixels with maximum compression."""
    return png(side, zlib.compress(bytes((side // 8 + 1) * side), 9))


def claim(kind, width, height):
    """Return a small image of a format whose header claims width × height."""
    data = bytearray(encode(Image.fromarray(RGB), kind, **({"lossless": True} if kind == "WEBP" else {})))
    if kind == "JPEG":
        data[data.index(b"\xff\xc0") + 5 :][:4] = b""
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", width, -height)
    elif kind == "WEBP":
        assert data[12:16] == b"VP8L"
        data[21:25] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    elif kind == "TIFF":
        for tag, value in ((256, width), (257, height)):
            at = data.index(struct.pack("<HH", tag, 4))
            data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)
    return bytes(data)
