"""Describe files by their contents, for messages about files that cannot be read."""

from __future__ import annotations

import re
from pathlib import Path

from preimage.io.atomic import StrPath

SIGNATURE_BYTES = 4096  # number of first bytes that `describe_signature` uses

# Offset, signature, description; the first match is used.
_TABLE: tuple[tuple[int, bytes, str], ...] = (
    # Compressed files and archives.
    (0, b"\x1f\x8b", "gzip-compressed data (unpack it first)"),
    (0, b"BZh", "bzip2-compressed data (unpack it first)"),
    (0, b"\xfd7zXZ\0", "xz-compressed data (unpack it first)"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed data (unpack it first)"),
    (0, b"\x04\x22\x4d\x18", "lz4-compressed data (unpack it first)"),
    (0, b"\x1f\x9d", "compress-ed data (.Z; unpack it first)"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive (unpack it first)"),
    (0, b"Rar!\x1a\x07", "a RAR archive (unpack it first)"),
    (257, b"ustar", "a tar archive"),
    # Arrays, databases and other data.
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"\x93NUMPY", "a NumPy array (.npy)"),
    (0, b"MATLAB 5.0 MAT-file", "a MATLAB file"),
    (0, b"MATLAB 7.3 MAT-file", "a MATLAB 7.3 file (HDF5)"),
    (0, b"SIFTV", "VisualSFM's binary .sift file"),
    (0, b"PAR1", "a Parquet file"),
    # Supported images.
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"BM", "a BMP image"),
    # Camera raw files; those that begin like TIFF come before TIFF.
    (8, b"CR\x02\0", "a camera raw file (Canon CR2)"),
    (0, b"II\x1a\0\0\0HEAPCCDR", "a camera raw file (Canon CRW)"),
    (0, b"FUJIFILMCCD-RAW", "a camera raw file (Fujifilm RAF)"),
    (0, b"IIRO", "a camera raw file (Olympus ORF)"),
    (0, b"IIRS", "a camera raw file (Olympus ORF)"),
    (0, b"MMOR", "a camera raw file (Olympus ORF)"),
    (0, b"IIU\0", "a camera raw file (Panasonic RW2)"),
    (0, b"FOVb", "a camera raw file (Sigma X3F)"),
    (0, b"\0MRM", "a camera raw file (Minolta MRW)"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (0, b"II+\0", "a BigTIFF image"),
    (0, b"MM\0+", "a BigTIFF image"),
    # Unsupported images.
    (4, b"jP  \r\n\x87\n", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (4, b"JXL \r\n\x87\n", "a JPEG XL image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\xff\xd8\xf7", "a JPEG-LS image"),
    (0, b"II\xbc\x01", "a JPEG XR image"),
    (0, b"8BPS", "a Photoshop image (PSD)"),
    (0, b"gimp xcf", "a GIMP image (XCF)"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (0, b"#?RADIANCE", "a Radiance HDR image"),
    (0, b"#?RGBE", "a Radiance HDR image"),
    (0, b"SIMPLE  =", "a FITS image"),
    (128, b"DICM", "a DICOM image"),
    (0, b"qoif", "a QOI image"),
    (0, b"BPG\xfb", "a BPG image"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"\0\0\1\0", "an icon (ICO)"),
    (0, b"AT&TFORM", "a DjVu document"),
    # Documents, videos, programs and system files.
    (0, b"%PDF-", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Microsoft Office document"),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (0, b"OggS", "an Ogg file"),
    (0, b"ID3", "an MP3 file"),
    (0, b"FLV\1", "a Flash video"),
    (0, b"\0\0\1\xba", "an MPEG video"),
    (0, b"\x7fELF", "a program (ELF)"),
    (0, b"MZ\x90\0", "a Windows program"),
    (0, b"\0\x05\x16\x07", "an AppleDouble file (macOS metadata of another file)"),
    (0, b"\0\x05\x16\0", "an AppleSingle file of macOS"),
    (0, b"L\0\0\0\x01\x14\x02\0", "a Windows shortcut"),
    (0, b"bplist00", "a macOS property list"),
)

# Brands of ISO base media files.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "an AVIF image"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "an HEIC image (iPhone photo)"),
    **dict.fromkeys((b"mif1", b"msf1"), "an HEIF image"),
    b"crx ": "a camera raw file (Canon CR3)",
    b"jp2 ": "a JPEG 2000 image",
    b"qt  ": "a QuickTime video",
}
_RIFFS = {b"WEBP": "a WebP image", b"AVI ": "an AVI video", b"WAVE": "a WAV sound"}

# Text formats, by their beginning after white space, ignoring case.
_PROLOGUE = rb"(?:<\?xml[^>]*>|<!--(?:(?!-->).)*-->|\s)*"
_TEXTS = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), what)
    for pattern, what in (
        (rb"version https://(?:git-lfs|hawser)\.", "a git-lfs pointer, not the file itself (git lfs pull fetches it)"),
        (rb"[./]*(?:git/)?annex/objects/", "a git-annex pointer, not the file itself (git annex get fetches it)"),
        (_PROLOGUE + rb"<(?:!doctype )?svg\b", "an SVG drawing"),
        (_PROLOGUE + rb"<(?:!doctype html|html|head|body|title|meta|script)\b", "a web page (HTML)"),
        (_PROLOGUE + rb"<opencv_storage", "an XML file of OpenCV FileStorage"),
        (rb"<\?xml|<[a-z!]", "an XML file"),
        (rb"%yaml", "a YAML file"),
        (rb"data:[a-z]+/", "a data URI, text"),
        (rb"\[internetshortcut\]", "a web link, not the file itself"),
        (rb"(?-i:P[1-7])\s", "a PNM image (PBM, PGM, PPM or PAM)"),
        (rb"(?-i:P[Ff])\s", "a PFM image"),
        (rb"\{\s*(?:\"|\}|$)|\[\s*(?:[\[{\"\d\-]|\]|$)", "a JSON file"),
    )
)
_NOT_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")

_SUPPORTED = (
    "supported are feature stores, arrays (.npy, .npz, .mat, .h5, .hdf5), and SIFT keypoints of COLMAP (.db, .txt), "
    "hloc (.h5), OpenCV (.yml, .xml, .json), VLFeat (.sift, .mat) and Lowe (.key), or as .npz"
)
_BINARY = re.compile(rb"[\0-\x08\x0e-\x1a\x7f-\xff]")
_BY_SUFFIX = {  # used if the contents are plain text or unknown
    ".feat": "keypoints of OpenMVG or AliceVision (.feat)",
    ".desc": "descriptors of OpenMVG or AliceVision (.desc)",
    ".haraff": "regions of Mikolajczyk's detectors (.haraff)",
    ".hesaff": "regions of Mikolajczyk's detectors (.hesaff)",
    ".csv": "a table (.csv)",
    ".pth": "a PyTorch file",
    ".pt": "a PyTorch file",
}


def describe_signature(start: bytes) -> str | None:
    """Describe a file by its first bytes, as in ``"a web page (HTML)"``; ``None`` if they are not recognized.

    Only the signature is checked: the file may be damaged.

    Args:
        start: First bytes of the file, preferably `SIGNATURE_BYTES` of them; no bytes mean an empty file.
    """
    start = start[:SIGNATURE_BYTES]
    if not start:
        return "an empty file"
    if not start.strip(b"\0"):
        return "a file that begins with zeros only (an unfinished copy or download?)"
    for offset, signature, what in _TABLE:
        if start.startswith(signature, offset):
            return what
    return _boxes(start) or _zip(start) or _pickle(start) or _safetensors(start) or _text(start)


def _boxes(start: bytes) -> str | None:
    """Describe RIFF files and ISO base media files (such as MPEG-4)."""
    if start.startswith(b"RIFF"):
        return _RIFFS.get(start[8:12], "a RIFF file")
    if start[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide"):
        return None
    length = int.from_bytes(start[:4], "big")
    brands = [start[8:12], *(start[at : at + 4] for at in range(16, min(length, len(start), 256), 4))]
    # Many files list the general brand of HEIF first and a more specific one after it.
    known = [_BRANDS[brand] for brand in brands if brand in _BRANDS] if start[4:8] == b"ftyp" else []
    exact = [what for what in known if what != _BRANDS[b"mif1"]]
    return (exact or known or ["an MP4 or QuickTime video"])[0]


def _zip(start: bytes) -> str | None:
    if not start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return None
    name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
    if name.endswith(b".npy"):
        return "NumPy arrays (.npz)"
    if name.endswith((b"/data.pkl", b"/version", b"/byteorder", b"/.format_version", b"/constants.pkl")):
        return "a PyTorch file"
    return "a zip archive (unpack it first)"


def _pickle(start: bytes) -> str | None:
    return "a Python pickle" if re.match(rb"\x80[\x02-\x05][\x28-\x95]", start) else None


def _safetensors(start: bytes) -> str | None:
    length = int.from_bytes(start[:8], "little")
    return "a safetensors file" if 2 <= length < 1 << 32 and start[8:9] == b"{" else None


def _text(start: bytes) -> str | None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16 text"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, what in _TEXTS:
        if pattern.match(text):
            return what
    return None if _NOT_TEXT.search(text) or not _is_utf8(text) else "plain text"


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(text) - 3  # a character cut at the end
    return True


def describe_file(path: StrPath, start: bytes | None = None) -> str:
    """Describe a file by its first bytes, or else by its suffix; empty if both are unknown.

    Args:
        path: Path of the file.
        start: First bytes of the file; ``None`` reads them.
    """
    if start is None:
        with open(path, "rb") as file:
            start = file.read(SIGNATURE_BYTES)
    found = describe_signature(start)
    if found in (None, "plain text"):
        binary = "binary data of an unknown format, or truncated" if _BINARY.search(start) else ""
        return _BY_SUFFIX.get(Path(path).suffix.lower()) or found or binary
    return found


def mismatch(wanted: str, path: StrPath) -> str:
    """Return a phrase that a file is not `wanted`, and what it is instead."""
    what = describe_file(path)
    return f"is not {wanted}" + (f", but {what}" if what else "")


def why_unsupported(path: StrPath, start: bytes | None = None) -> str:
    """Return a phrase that a file is neither features nor keypoints, what it is, and what is supported.

    Args:
        path: Path of the file.
        start: First bytes of the file; ``None`` reads them.
    """
    what = describe_file(path, start)
    return f"not a feature store or keypoint file, {f'but {what}' if what else 'or truncated'}; {_SUPPORTED}"
