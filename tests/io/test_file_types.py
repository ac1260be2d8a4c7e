"""Test descriptions of files by their first bytes."""

import gzip
import io
import tarfile
import zipfile

import cv2
import numpy as np
import pytest

from preimage.io.file_types import SIGNATURE_BYTES, describe_signature


def _tar():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    return out.getvalue()


def _npz():
    out = io.BytesIO()
    np.savez(out, features=np.zeros(3))
    return out.getvalue()


def _zip():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("photos/a.jpg", b"abc")
    return out.getvalue()


def _image(suffix):
    return cv2.imencode(suffix, np.zeros((8, 8, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"", "empty"),
        (bytes(600), "zeros"),
        (gzip.compress(b"x", mtime=0), "gzip.*unpack"),
        (_tar(), "tar"),
        (_npz(), "NumPy arrays"),
        (_zip(), "zip"),
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1heicMiHB", r"HEIC.*iPhone"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0heicmiaf....", r"HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1....", "HEIF"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "AVIF"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "CR3"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "QuickTime"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomavc1", "MP4"),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ", "JPEG 2000"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "WebP"),
        (b"RIFF\x24\0\0\0AVI LIST", "AVI"),
        (b"II*\0\x10\0\0\0CR\x02\0", "Canon CR2"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\n<!DOCTYPE html>\n<html>", "web page"),
        (b"\xef\xbb\xbf<!-- saved -->\n<HTML lang='de'>", "web page"),
        (b'<?xml version="1.0"?>\n<!-- x --><svg xmlns="...">', "SVG"),
        (b'<?xml version="1.0"?><opencv_storage>', "FileStorage"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", "git-lfs"),
        (b"/annex/objects/SHA256E-s1--0.jpg\n", "git-annex"),
        (b'{"error": "not found"}', "JSON"),
        (b"P6\n2 2\n255\n" + bytes(range(12)), "PNM"),
        ("Größe\n".encode(), "text"),
        ("Größe\n".encode("utf-16"), "UTF-16"),
        (b"\x80\x04\x95\x10\0\0\0", "pickle"),
        (b"\x10\0\0\0\0\0\0\0{}" + b" " * 14, "safetensors"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"SQLite format 3\0", "SQLite"),
        (b"SIFTV4.0", "VisualSFM"),
        (_image(".png"), "PNG"),
        (_image(".bmp"), "BMP"),
        (b"\x02\x81nothing known\0", None),
        (b"\xe9\xe8\xe7 latin", None),
    ],
)
def test_signatures_name_the_format(start, what):
    described = describe_signature(start)
    if what is None:
        assert described is None
    else:
        with pytest.raises(ValueError, match=what):
            raise ValueError(described)


def test_truncated_signature_is_no_error():
    for whole in (_tar(), _npz(), _image(".png"), b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", b"RIFF\0\0\0\0WEBP"):
        for length in range(40):
            describe_signature(whole[:length])


@pytest.mark.parametrize("piece", [b"<!---->", b"<!--", b"<?xml ", b"<?xml>", b" \n", b"../", b"<", b"{ "])
def test_repeated_beginnings_end(piece):
    describe_signature((piece * SIGNATURE_BYTES)[:SIGNATURE_BYTES])  # a search that backtracks would take forever
