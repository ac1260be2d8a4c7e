"""`preimage.io`: images in (every kind with its documented result) and out."""

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
from PIL import Image

from preimage.errors import FileFormatError
from preimage.io import (
    decode_image,
    fit_image,
    read_image,
    write_png,
)

NEEDS_GIF = pytest.mark.skipif(
    tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 11), reason="this OpenCV does not read GIF"
)
GIF = pytest.param("GIF", marks=NEEDS_GIF)
RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (21, 34, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (21, 34), dtype=np.uint8)
SMOOTH = cv2.resize(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8), (34, 21), interpolation=cv2.INTER_LINEAR)
UPRIGHT = {  # what each EXIF orientation asks for, told independently of the package
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
    """Bytes of a NumPy or Pillow image as Pillow writes them."""
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
def test_lossless_colour_is_exact(kind):
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
def test_grey_becomes_three_equal_channels(kind):
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
    grey = RGB[..., 0].astype(kind) * (257 if kind == np.uint16 else 1)
    assert np.array_equal(decode(tiff(grey, photometric="miniswhite"))[..., 0], 255 - RGB[..., 0])


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
    colour = RGB if kind == "unassalpha" else np.round(RGB * (ALPHA[..., None] / 255)).astype(np.uint8)
    array = np.dstack([colour, ALPHA])
    array = array if bits == 8 else array.astype(np.uint16) * 257
    image = decode(tiff(array, photometric="rgb", extrasamples=[kind]))
    assert np.abs(image - over_white(RGB, ALPHA)).max() <= 1.01


def test_grey_with_alpha_goes_over_white():
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


def test_transparent_colour_of_a_png_becomes_white():
    expected = RGB.copy()
    expected[2, 3] = 255
    assert np.array_equal(decode(encode(RGB, "PNG", transparency=tuple(map(int, RGB[2, 3])))), expected)
    grey = RGB[..., 0]
    expected = np.where(grey == grey[2, 3], 255, grey)
    assert np.array_equal(decode(encode(grey, "PNG", transparency=int(grey[2, 3])))[..., 0], expected)


def test_cmyk_jpeg_matches_pillow():
    data = encode(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode(data) - expected).max() <= 2


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


def test_floating_point_samples_are_refused():
    with pytest.raises(FileFormatError, match="it: samples are float32"):
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
            assert np.array_equal(image, SMOOTH)  # only what does not matter was missing


def test_a_jpeg_with_a_thumbnail_is_not_taken_for_complete():
    thumbnail = encode(SMOOTH[:8, :8], "JPEG")
    data = encode(SMOOTH, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail)
    assert data.count(b"\xff\xd9") == 2
    with pytest.raises(FileFormatError, match="no end marker"):
        decode(data[: len(data) // 2 + len(thumbnail) // 2])


def test_bytes_after_the_end_are_fine():
    for kind in ("JPEG", "PNG"):
        data = encode(SMOOTH, kind)
        assert np.array_equal(decode(data + b"trailing\xff\xd8\xff" * 9), decode(data))


def test_a_flipped_bit_in_a_png_is_found():
    data = bytearray(encode(RGB, "PNG"))
    data[len(data) // 2] ^= 4
    with pytest.raises(FileFormatError, match="checksum of chunk b'IDAT'"):
        decode(bytes(data))


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"%PDF-1.7", bytes(999)])
def test_what_is_no_image_is_named(data):
    with pytest.raises(FileFormatError, match=r"^shard.tar:a.jpg: "):
        decode_image(data, name="shard.tar:a.jpg")


def test_max_pixels_is_width_times_height():
    data = encode(RGB, "PNG")
    assert decode_image(data, name="it", max_pixels=21 * 34).shape == (21, 34, 3)
    with pytest.raises(FileFormatError, match=r"34 × 21 pixels are more than the 713 allowed"):
        decode_image(data, name="it", max_pixels=713)


def test_read_image_names_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(RGB, "PNG"))
    assert np.array_equal(read_image(tmp_path / "a.png"), RGB)
    (tmp_path / "b.png").write_bytes(b"not")
    with pytest.raises(FileFormatError, match=r"b\.png"):
        read_image(tmp_path / "b.png")
    with pytest.raises(FileNotFoundError, match=r"c\.png"):
        read_image(tmp_path / "c.png")


def test_opencv_is_left_as_it_was_and_says_nothing(tmp_path):
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
def test_fit_image_is_the_centre_square(shape, size):
    image = np.zeros((*shape, 3), np.uint8)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    image[top : top + side, left : left + side] = 200
    assert np.array_equal(fit_image(image, size), np.full((size, size, 3), 200))


def test_fit_image_averages_areas_when_shrinking_and_does_not_touch_what_fits():
    blocks = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    large = blocks.repeat(5, axis=0).repeat(5, axis=1)
    assert np.array_equal(fit_image(large, 8), blocks)
    assert np.array_equal(fit_image(blocks, 8), blocks)
    assert fit_image(RGB, None) is RGB


def test_fit_image_enlarges_smoothly():
    ramp = np.arange(0, 160, 10, dtype=np.uint8)[None, :, None].repeat(16, 0).repeat(3, 2)
    wide = fit_image(ramp, 64)[32, 8:-8, 0].astype(int)
    assert np.abs(np.diff(wide) - 2.5).max() <= 1.5


def test_fit_image_of_a_long_strip_stays_small():
    assert fit_image(np.zeros((1, 1_000_000, 3), np.uint8), 256).shape == (256, 256, 3)


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
def test_fit_image_refuses(image, size, error):
    with pytest.raises(error, match="got"):
        fit_image(image, size)


def test_write_png_keeps_every_pixel(tmp_path):
    write_png(tmp_path / "a.png", RGB[:, ::-1])  # a view with negative strides
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), RGB[:, ::-1])
    assert os.listdir(tmp_path) == ["a.png"]
    with pytest.raises(TypeError, match="float64"):
        write_png(tmp_path / "b.png", RGB / 255)
    assert os.listdir(tmp_path) == ["a.png"]
