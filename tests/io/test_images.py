"""Test reading and writing of images in `preimage.io`, with the documented result for every format."""

import io
import os
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import preimage
from preimage.errors import FileFormatError
from preimage.io import (
    decode_file,
    decode_image,
    encode_png,
    resize_and_center_crop,
    write_png,
)
from preimage.io import images as images_module

NEEDS_GIF = pytest.mark.skipif(
    tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 12), reason="this OpenCV does not read GIF"
)
NEEDS_ANIMATED_WEBP = pytest.mark.skipif(
    tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 11), reason="this OpenCV does not read animated WebP"
)
GIF = pytest.param("GIF", marks=NEEDS_GIF)
RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (21, 34, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (21, 34), dtype=np.uint8)
SMOOTH = cv2.resize(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8), (34, 21), interpolation=cv2.INTER_LINEAR)
UPRIGHT = {  # the transformation of each EXIF orientation, independent of the package
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: np.rot90(image, 2),
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image.transpose(1, 0, 2), 2),
    8: lambda image: np.rot90(image, 1),
}


def encode(image, kind, **options):
    """Return a NumPy or Pillow image as encoded by Pillow."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def tiff(array, **options):
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


def decode(data):
    image = decode_image(data, name="it")
    assert image.dtype == np.uint8
    assert image.ndim == 3 and image.shape[2] == 3
    assert image.flags.c_contiguous
    return image


def over_white(rgb, alpha):
    alpha = alpha[..., None] / 255
    return rgb * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_color_is_exact(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode(encode(RGB, kind, **options)), RGB)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg_is_close_to_what_pillow_reads(options):
    data = encode(SMOOTH, "JPEG", quality=95, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode(data) - expected).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    image = decode(encode(SMOOTH, kind, exif=exif, **options))
    expected = UPRIGHT[orientation](decode(encode(SMOOTH, kind, **options)))
    assert np.array_equal(image, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_16_bit_tiff(orientation):
    data = tiff(RGB.astype(np.uint16) * 257, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    assert np.array_equal(decode(data), UPRIGHT[orientation](RGB))


@pytest.mark.parametrize("order", ["II", "MM"])
def test_exif_of_either_byte_order(order):
    code = "<" if order == "II" else ">"
    entry = struct.pack(code + "HHIHH", 274, 3, 1, 6, 0)
    block = order.encode() + struct.pack(code + "HIH", 42, 8, 1) + entry + bytes(4)
    data = encode(SMOOTH, "JPEG", exif=b"Exif\0\0" + block)
    assert decode(data).shape == (34, 21, 3)


def test_damaged_exif_does_not_cost_the_image():
    for block in (b"II", b"II*\0\xff\xff\xff\xff", b"XX*\0\x08\0\0\0", b"II*\0\x08\0\0\0\xff\xff"):
        assert decode(encode(SMOOTH, "JPEG", exif=b"Exif\0\0" + block)).shape == (21, 34, 3)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_rounded_to_8(suffix, channels):
    wide = RNG.integers(0, 65536, (21, 34, channels), dtype=np.uint16)
    wide[0, :4, 0] = 0, 128, 129, 65535
    _, data = cv2.imencode(suffix, wide)
    expected = np.round(wide / 257)
    expected = expected[..., ::-1] if channels == 3 else np.repeat(expected, 3, axis=2)
    assert np.array_equal(decode(data.tobytes()), expected)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", GIF, "BMP"])
def test_gray_becomes_three_equal_channels(kind):
    image = decode(encode(RGB[..., 0] if kind != "JPEG" else SMOOTH[..., 0], kind))
    assert np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2])
    if kind != "JPEG":
        assert np.array_equal(image[..., 0], RGB[..., 0])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_one_bit_is_black_and_white(kind):
    bits = RGB[..., 0] > 128
    assert np.array_equal(decode(encode(bits, kind))[..., 1], bits * np.uint8(255))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_white_is_zero_tiff(kind):
    gray = RGB[..., 0].astype(kind) * (257 if kind == np.uint16 else 1)
    assert np.array_equal(decode(tiff(gray, photometric="miniswhite"))[..., 0], 255 - RGB[..., 0])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_goes_over_white(kind):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    image = decode(encode(np.dstack([RGB, ALPHA]), kind, **options))
    tolerance = 0.5 if kind != "TIFF" else 1.0  # libtiff rounds once on the way
    assert np.abs(image - over_white(RGB, ALPHA)).max() <= tolerance


def test_16_bit_alpha_goes_over_white():
    wide = np.dstack([RGB, ALPHA]).astype(np.uint16) * 257
    _, data = cv2.imencode(".png", wide[..., [2, 1, 0, 3]])
    assert np.abs(decode(data.tobytes()) - over_white(RGB, ALPHA)).max() <= 0.51


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_tiff_alpha_straight_and_multiplied(kind, bits):
    color = RGB if kind == "unassalpha" else np.round(RGB * (ALPHA[..., None] / 255)).astype(np.uint8)
    array = np.dstack([color, ALPHA])
    array = array if bits == 8 else array.astype(np.uint16) * 257
    image = decode(tiff(array, photometric="rgb", extrasamples=[kind]))
    assert np.abs(image - over_white(RGB, ALPHA)).max() <= 1.01


def test_gray_with_alpha_goes_over_white():
    data = encode(Image.merge("LA", [Image.fromarray(RGB[..., 0]), Image.fromarray(ALPHA)]), "PNG")
    assert np.abs(decode(data) - over_white(RGB[..., :1].repeat(3, 2), ALPHA)).max() <= 0.5


def test_opaque_alpha_changes_nothing():
    assert np.array_equal(decode(encode(np.dstack([RGB, np.full_like(ALPHA, 255)]), "PNG")), RGB)


@pytest.mark.parametrize("kind", ["PNG", GIF])
def test_palette_is_looked_up_and_its_transparency_goes_over_white(kind):
    palette = Image.fromarray(RGB).quantize(16)
    expected = np.array(palette.convert("RGB"))
    assert np.array_equal(decode(encode(palette, kind)), expected)
    expected[np.asarray(palette) == 3] = 255
    assert (np.asarray(palette) == 3).any()
    assert np.array_equal(decode(encode(palette, kind, transparency=3)), expected)


def test_transparent_color_of_a_png_becomes_white():
    expected = RGB.copy()
    expected[2, 3] = 255
    assert np.array_equal(decode(encode(RGB, "PNG", transparency=tuple(map(int, RGB[2, 3])))), expected)
    gray = RGB[..., 0]
    expected = np.where(gray == gray[2, 3], 255, gray)
    assert np.array_equal(decode(encode(gray, "PNG", transparency=int(gray[2, 3])))[..., 0], expected)


def test_cmyk_jpeg_matches_pillow():
    data = encode(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode(data) - expected).max() <= 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_over_white_in_numbers(dtype):
    scale = np.iinfo(dtype).max // 255
    bgra = np.zeros((1, 4, 4), dtype)
    bgra[..., 2], bgra[..., 3] = 200 * scale, np.array([0, 85, 170, 255]) * scale
    data = cv2.imencode(".png", bgra)[1].tobytes()
    assert decode(data)[0].tolist() == [[255, 255, 255], [237, 170, 170], [218, 85, 85], [200, 0, 0]]


def test_gamma_is_ignored():
    data = encode(RGB, "PNG")
    chunk = b"gAMA" + struct.pack(">I", 22222)
    chunk = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert np.array_equal(decode(data[:33] + chunk + data[33:]), RGB)


@NEEDS_GIF
def test_first_frame_of_an_animation():
    frames = [Image.fromarray(np.full((8, 9, 3), value, np.uint8)).quantize(2) for value in (10, 200)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.array_equal(decode(data), np.full((8, 9, 3), 10))


@NEEDS_ANIMATED_WEBP
@pytest.mark.parametrize("lossless", [False, True])
def test_first_frame_of_an_animated_webp(lossless):
    frames = [Image.fromarray(SMOOTH), Image.fromarray(255 - SMOOTH)]
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=lossless, quality=100)
    assert np.abs(decode(data).astype(int) - SMOOTH).mean() < (1 if lossless else 6)


def test_the_first_page_of_a_tiff():
    assert np.array_equal(decode(tiff(np.stack([RGB, 255 - RGB]), photometric="rgb")), RGB)


# Animated PNG: the default image is used, whether it is one of the frames or not.


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def png(*chunks, shape=RGB.shape, color=2):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", shape[1], shape[0], 8, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def rows(image, row_filter=0):
    return b"".join(bytes([row_filter]) + row.tobytes() for row in image)


def idat(image):
    return chunk(b"IDAT", zlib.compress(rows(image)))


def frame(number, width=RGB.shape[1], height=RGB.shape[0], x=0, y=0):
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, x, y, 1, 10, 0, 0))


def fdat(number, image):
    return chunk(b"fdAT", struct.pack(">I", number) + zlib.compress(rows(image)))


ACTL = chunk(b"acTL", struct.pack(">II", 2, 0))


@pytest.mark.parametrize(
    "chunks",
    [
        (ACTL, frame(0), idat(RGB), frame(1), fdat(2, 255 - RGB)),
        (ACTL, idat(RGB), frame(0), fdat(1, 255 - RGB), frame(2), fdat(3, 128 - RGB)),  # hidden from the animation
        (ACTL, frame(0, 900, 900, 7, 7), idat(RGB), frame(1), fdat(2, 255 - RGB)),
        (ACTL, frame(0), idat(RGB), frame(1), chunk(b"fdAT", b"\0\0\0\2" + b"\xff" * 99)),
        (idat(RGB), ACTL, frame(0), fdat(1, 255 - RGB)),
    ],
)
def test_an_animated_png_is_its_default_image(chunks):
    assert np.array_equal(decode(png(*chunks)), RGB)


DAMAGED_IDAT = {
    r"filter.*9": zlib.compress(rows(RGB, 9)),
    "100 of 2163 bytes": zlib.compress(rows(RGB)[:100]),
    "0 of 2163 bytes": b"",
    "data.*block type": b"\x78\x9c" + b"\xff" * 99,
    "data check": zlib.compress(rows(RGB))[:-4] + b"abcd",
}


@pytest.mark.parametrize("problem", DAMAGED_IDAT)
@pytest.mark.parametrize("kind", ["still", "animated", "hidden default image"])
def test_damaged_image_data_of_a_png(problem, kind, capfd):
    damaged = chunk(b"IDAT", DAMAGED_IDAT[problem])
    data = {
        "still": png(damaged),
        "animated": png(ACTL, frame(0), damaged, frame(1), fdat(2, RGB)),
        "hidden default image": png(ACTL, damaged, frame(0), fdat(1, RGB), frame(2), fdat(3, RGB)),
    }[kind]
    with pytest.raises(FileFormatError, match=rf"it: .*PNG.*{problem}"):
        decode(data)
    assert capfd.readouterr().err == ""


def test_texts_and_profiles_of_a_png_are_ignored(capfd):
    profile = chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(bytes(99)))
    text = chunk(b"tEXt", b"no zero byte")
    assert np.array_equal(decode(png(profile, text, chunk(b"tRNS", b"1"), idat(RGB))), RGB)
    assert capfd.readouterr().err == ""


def test_png_chunks_that_break_the_format():
    with pytest.raises(FileFormatError, match=r"chunk.*b'CgBI'"):
        decode(png(chunk(b"CgBI", bytes(4)), idat(RGB)))
    with pytest.raises(FileFormatError, match="palette"):
        decode(png(idat(RGB[..., 0]), color=3))
    with pytest.raises(FileFormatError, match=r"palette.*4 bytes"):
        decode(png(chunk(b"PLTE", bytes(4)), idat(RGB[..., 0]), color=3))
    with pytest.raises(FileFormatError, match=r"color type.*5"):
        decode(png(idat(RGB), color=5))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (21, 34)])
def test_interlaced_pngs_are_checked_by_their_passes(mode, shape):
    image = np.asarray(Image.fromarray(RGB[: shape[0], : shape[1]]).convert(mode))
    pieces = []
    for x, y, across, down in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        part = image[y::down, x::across]
        if part.size:
            pieces += [b"\0" + (np.packbits(row) if mode == "1" else row).tobytes() for row in part]
    bits, color = (1 if mode == "1" else 8), {"1": 0, "L": 0, "LA": 4, "P": 3, "RGB": 2, "RGBA": 6}[mode]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", shape[1], shape[0], bits, color, 0, 0, 1))
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if mode == "P" else b""
    data = b"\x89PNG\r\n\x1a\n" + header + palette + chunk(b"IDAT", zlib.compress(b"".join(pieces)))
    data += chunk(b"IEND", b"")
    expected = Image.open(io.BytesIO(data)).convert("RGBA")
    white = Image.new("RGBA", expected.size, "white")
    white.alpha_composite(expected)
    assert np.abs(decode(data).astype(int) - np.asarray(white.convert("RGB"))).max() <= 1
    with pytest.raises(FileFormatError, match=r"PNG: \d+ of \d+ bytes"):
        decode(
            data.replace(
                chunk(b"IDAT", zlib.compress(b"".join(pieces))), chunk(b"IDAT", zlib.compress(b"".join(pieces)[:-1]))
            )
        )


# TIFF: layouts that OpenCV decodes wrongly, some of them differently each time, are rejected.


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    "options", [{}, {"rowsperstrip": 5}, {"byteorder": ">"}, {"bigtiff": True}, {"compression": "zlib"}]
)
def test_supported_tiff_layouts_are_read(bits, options):
    samples = RGB if bits == 8 else RGB.astype(np.uint16) * 257
    assert np.array_equal(decode(tiff(samples, photometric="rgb", **options)), RGB)
    assert np.array_equal(decode(tiff(samples[..., 0], photometric="minisblack", **options)), RGB[..., :1].repeat(3, 2))
    if bits == 8:
        planes = tiff(samples.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate", **options)
        assert np.array_equal(decode(planes), RGB)


def test_tiff_in_tiles():
    samples = cv2.resize(RGB, (100, 70))
    assert np.array_equal(decode(tiff(samples, photometric="rgb", tile=(32, 32))), samples)
    wide = samples.astype(np.uint16) * 257
    assert np.array_equal(decode(tiff(wide, photometric="rgb", tile=(16, 16))), samples)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_fourth_channel_of_a_tiff_that_is_not_alpha_is_ignored(kind):
    samples = np.concatenate([RGB, ALPHA[..., None]], axis=2).astype(kind) * (1 if kind == np.uint8 else 257)
    assert np.array_equal(decode(tiff(samples, photometric="rgb", extrasamples=["unspecified"])), RGB)


PLANES = RGB.transpose(2, 0, 1).copy()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (tiff(PLANES.astype(np.uint16) * 257, photometric="rgb", planarconfig="separate"), "16 bits.*planar"),
        (
            tiff(PLANES.astype(np.uint16) * 257, photometric="rgb", planarconfig="separate", tile=(16, 16)),
            "16 bits.*planar",
        ),
        (
            tiff(PLANES[:2].copy(), photometric="minisblack", planarconfig="separate", extrasamples=["unassalpha"]),
            r"2 channels.*8 bits.*planar",
        ),
        (tiff(RGB.astype(np.int16), photometric="rgb"), r"samples.*int16"),
        (tiff(RGB.astype(np.uint32), photometric="rgb"), r"samples.*uint32"),
        (tiff(RGB.astype(np.float16), photometric="rgb"), r"samples.*float16"),
        (tiff(RGB, photometric="cielab"), r"CIELab.*3 channels.*8 bits"),
        (tiff(RGB, photometric="minisblack", planarconfig="contig"), r"gray.*3 channels.*8 bits"),
        (tiff(RGB.astype(np.uint16), photometric="minisblack", planarconfig="contig"), r"gray.*3 channels.*16"),
        (tiff(np.concatenate([RGB, RGB], 2), photometric="rgb"), r"RGB.*6 channels"),
        (
            tiff(np.zeros((32, 32, 2), np.uint16), photometric="minisblack", planarconfig="contig", tile=(16, 16)),
            "tiles",
        ),
        (tiff(RGB, photometric="rgb", subfiletype=1), "preview"),
        (tiff(RGB, photometric="rgb", extratags=[(50706, 1, 4, b"\1\4\0\0", True)]), "raw"),
        (tiff(RGB[..., 0], photometric="cfa"), "raw samples"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(99), "Canon CR2"),
    ],
)
def test_unsupported_tiff_layouts_are_rejected(data, problem):
    with pytest.raises(FileFormatError, match=f"it: .*{problem}"):
        decode(data)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_with_missing_strips_is_rejected(bits, compression):
    samples = RGB if bits == 8 else RGB.astype(np.uint16) * 257
    data = bytearray(tiff(samples, photometric="rgb", rowsperstrip=5, compression=compression, bigtiff=False))
    for tag, value, problem in ((273, 0, "1 of 5"), (273, len(data), "1 of 5"), (279, 7, "1 of 5"), (279, 0, "1 of 5")):
        at = data.index(struct.pack("<H", tag), 8)
        kind, _, values = struct.unpack_from("<HII", data, at + 2)
        damaged = bytearray(data)
        struct.pack_into("<H" if kind == 3 else "<I", damaged, values, value)
        with pytest.raises(FileFormatError, match=rf"it: .*TIFF.*{problem}"):
            decode(bytes(damaged))
    at = data.index(struct.pack("<H", 273), 8)
    struct.pack_into("<I", data, at + 4, 4)
    with pytest.raises(FileFormatError, match="4 of 5"):
        decode(bytes(data))


def test_a_flipped_bit_in_a_deflated_tiff_is_found():
    data = bytearray(tiff(RGB, photometric="rgb", compression="zlib"))
    data[data.index(b"\x78\x9c") + 900] ^= 4
    with pytest.raises(FileFormatError, match="TIFF"):
        decode(bytes(data))


# JPEG


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_without_its_scans_is_not_gray(progressive, mode):
    data = encode(Image.fromarray(SMOOTH).convert(mode), "JPEG", progressive=progressive)
    start = data.index(b"\xff\xda") + 2
    start += struct.unpack_from(">H", data, start)[0]
    with pytest.raises(FileFormatError, match=r"it: .*JPEG.*bytes, got 1"):
        decode(data[: start + 1] + b"\xff\xd9")


def test_jpeg_without_some_restart_markers_is_rejected():
    data = encode(SMOOTH, "JPEG", restart_marker_blocks=1)
    assert decode(data).shape == SMOOTH.shape
    with pytest.raises(FileFormatError, match=r"it: .*JPEG.*4 of 5 restart"):
        decode(data.replace(b"\xff\xd1", b"", 1))


@pytest.mark.parametrize("color", [0, 128, 255])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"subsampling": 0}, {"quality": 1}])
def test_the_simplest_jpegs_are_long_enough(color, options):
    for shape in ((1, 1), (17, 33), (300, 401)):
        for mode in ("L", "RGB", "CMYK"):
            image = Image.fromarray(np.full((*shape, 3), color, np.uint8)).convert(mode)
            if mode == "CMYK" and "subsampling" in options:
                continue
            assert decode(encode(image, "JPEG", **options)).shape[:2] == shape


def test_floating_point_samples_are_rejected():
    with pytest.raises(FileFormatError, match=r"samples.*float32"):
        decode(tiff(RGB.astype(np.float32), photometric="rgb"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "JPEG progressive", GIF, "BMP", "WEBP", "TIFF"])
def test_every_truncation_is_an_error(kind):
    name, *progressive = kind.split()
    data = encode(SMOOTH, name, **({"progressive": True} if progressive else {}))
    assert decode(data).shape == SMOOTH.shape
    # BMP and TIFF files end in padding or tags that may be missing without harm.
    for length in range(0, len(data) - (4 if name in ("BMP", "TIFF") else 0), 1 if len(data) < 1000 else 7):
        try:
            image = decode_image(data[:length], name="photos/it.x")
        except FileFormatError as error:
            assert str(error).startswith("photos/it.x: ")
        else:
            assert name == "TIFF"
            assert np.array_equal(image, SMOOTH)  # only parts without effect were missing


def test_a_jpeg_with_a_thumbnail_is_not_taken_for_complete():
    thumbnail = encode(SMOOTH[:8, :8], "JPEG")
    data = encode(SMOOTH, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail)
    assert data.count(b"\xff\xd9") == 2
    with pytest.raises(FileFormatError, match="end marker"):
        decode(data[: len(data) // 2 + len(thumbnail) // 2])


def test_bytes_after_the_end_are_ignored():
    for kind in ("JPEG", "PNG"):
        data = encode(SMOOTH, kind)
        assert np.array_equal(decode(data + b"trailing\xff\xd8\xff" * 9), decode(data))


def test_a_flipped_bit_in_a_png_is_found():
    data = bytearray(encode(RGB, "PNG"))
    data[len(data) // 2] ^= 4
    with pytest.raises(FileFormatError, match=r"checksum.*b'IDAT'"):
        decode(bytes(data))


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"%PDF-1.7", bytes(999)])
def test_other_files_with_image_names_are_named(data):
    with pytest.raises(FileFormatError, match=r"^shard.tar:a.jpg: "):
        decode_image(data, name="shard.tar:a.jpg")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "HEIC.*iPhone.*PNG, JPEG"),
        (b"<!doctype html><html>", r"web page.*PNG, JPEG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs"),
        (b"\x1f\x8b\x08\0", "gzip.*unpack"),
        (b"%PDF-1.7", "PDF"),
        (bytes(999), "zeros"),
    ],
)
def test_bytes_that_are_no_image_are_named(data, what):
    with pytest.raises(FileFormatError, match=f"^it: .*{what}"):
        decode(data)


def test_formats_that_this_opencv_lacks_are_named(monkeypatch):
    monkeypatch.setattr(images_module, "_OPENCV", (4, 10))
    monkeypatch.setattr(images_module.cv2, "imdecode", lambda *_: None)
    with pytest.raises(FileFormatError, match=r"GIF.*OpenCV 4\.12"):
        decode(encode(Image.fromarray(RGB).quantize(9), "GIF"))
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    with pytest.raises(FileFormatError, match=r"WebP.*OpenCV 4\.11"):
        decode(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]))


def test_max_pixels_is_width_times_height():
    data = encode(RGB, "PNG")
    assert decode_image(data, name="it", max_pixels=21 * 34).shape == (21, 34, 3)
    with pytest.raises(FileFormatError, match=r"34 × 21 pixels.*713"):
        decode_image(data, name="it", max_pixels=713)


def test_read_image_gives_a_tensor_of_planes(tmp_path):
    write_png(tmp_path / "a.png", RGB)
    image = preimage.read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8 and image.is_contiguous()
    assert np.array_equal(image.numpy(), RGB.transpose(2, 0, 1))


def test_gray_images_are_written_as_one_channel():
    gray = np.ascontiguousarray(RGB[:, :, 0])
    with Image.open(io.BytesIO(encode_png(gray))) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), gray)
    with pytest.raises(ValueError, match=r"\(H, W\).*\(21, 34, 1\)"):
        encode_png(RGB[:, :, :1])


def test_decode_file_names_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(RGB, "PNG"))
    assert np.array_equal(decode_file(tmp_path / "a.png"), RGB)
    (tmp_path / "b.png").write_bytes(b"not")
    with pytest.raises(FileFormatError, match=r"b\.png"):
        decode_file(tmp_path / "b.png")
    with pytest.raises(FileNotFoundError, match=r"c\.png"):
        decode_file(tmp_path / "c.png")


def test_settings_of_opencv_are_restored_and_nothing_is_printed(tmp_path):
    script = """
import cv2
from preimage.errors import FileFormatError
from preimage.io import decode_image
cv2.setNumThreads(2)
log = getattr(cv2.utils, 'logging', cv2)
before = cv2.getNumThreads(), log.getLogLevel()
data = open(%r, "rb").read()
for cut in range(0, len(data) - 4, 97):
    try:
        decode_image(data[:cut], name="it")
    except FileFormatError:
        pass
assert (cv2.getNumThreads(), log.getLogLevel()) == before
"""
    for kind in ("TIFF", "GIF", "BMP"):
        path = tmp_path / "it"
        path.write_bytes(encode(RGB, kind))
        done = subprocess.run([sys.executable, "-c", script % str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shape", [(300, 400), (400, 301), (64, 64), (63, 200)])
@pytest.mark.parametrize("size", [1, 63, 64, 227])
def test_fit_image_is_the_center_square(shape, size):
    image = np.zeros((*shape, 3), np.uint8)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    image[top : top + side, left : left + side] = 200
    assert np.array_equal(resize_and_center_crop(image, size), np.full((size, size, 3), 200))


def test_fit_image_averages_areas_when_shrinking_and_keeps_images_of_the_size():
    blocks = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    large = blocks.repeat(5, axis=0).repeat(5, axis=1)
    assert np.array_equal(resize_and_center_crop(large, 8), blocks)
    assert np.array_equal(resize_and_center_crop(blocks, 8), blocks)
    assert resize_and_center_crop(RGB, None) is RGB


def test_fit_image_enlarges_smoothly():
    ramp = np.arange(0, 160, 10, dtype=np.uint8)[None, :, None].repeat(16, 0).repeat(3, 2)
    wide = resize_and_center_crop(ramp, 64)[32, 8:-8, 0].astype(int)
    assert np.abs(np.diff(wide) - 2.5).max() <= 1.5


def test_fit_image_of_a_long_strip_stays_small():
    assert resize_and_center_crop(np.zeros((1, 1_000_000, 3), np.uint8), 256).shape == (256, 256, 3)


@pytest.mark.parametrize(
    ("image", "size", "error"),
    [
        (RGB, 0, ValueError),
        (RGB, 2.0, ValueError),
        (RGB[..., 0], 8, ValueError),
        (RGB.astype(float), 8, TypeError),
        ([[1]], 8, TypeError),
    ],
)
def test_fit_image_rejects_wrong_images(image, size, error):
    with pytest.raises(error, match="got"):
        resize_and_center_crop(image, size)


@pytest.mark.parametrize("photograph", [False, True])
def test_write_png_keeps_every_pixel(tmp_path, photograph):
    encoded = encode_png(RGB[:, ::-1], photograph=photograph)  # a view with negative strides
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded))), RGB[:, ::-1])
    write_png(tmp_path / "a.png", RGB[:, ::-1])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), RGB[:, ::-1])
    assert os.listdir(tmp_path) == ["a.png"]
    with pytest.raises(TypeError, match="float64"):
        write_png(tmp_path / "b.png", RGB / 255)
    assert os.listdir(tmp_path) == ["a.png"]
