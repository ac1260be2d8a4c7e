"""Where images come from, which keys they get, and how files are written."""

import io
import os
import tarfile

import numpy as np
import pytest

from preimage.errors import FileFormatError
from preimage.io import (
    ImageSource,
    atomic_write,
    list_images,
)
from preimage.io.atomic import as_key, as_keys, file_problem, key_problem

RGB = np.random.default_rng(7).integers(0, 256, (21, 34, 3), dtype=np.uint8)


def shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_a_folder_is_listed_with_everything_below(tmp_path):
    for name in ("b/2.JPG", "b/c/3.v2.png", "1.webp", "notes.txt", ".hidden.jpg", "b/._2.jpg", ".git/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    shard(tmp_path / "s.tar", [("./z.jpg", b"zz"), ("z.cls", b"7"), ("d/y.png", b"yyy"), ("._z.jpg", b"")])
    sources = list_images(tmp_path)
    assert [source.key for source in sources] == ["1", "b/2", "b/c/3.v2", "z", "d/y"]
    assert [source.read() for source in sources] == [b"1.webp", b"b/2.JPG", b"b/c/3.v2.png", b"zz", b"yyy"]
    assert sources[-1].name == f"{tmp_path}/s.tar:d/y.png"
    assert sources[0].name == f"{tmp_path}/1.webp"


def test_files_and_folders_together(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"a")
    (tmp_path / "photo").write_bytes(b"b")
    assert [source.key for source in list_images([tmp_path / "photo", tmp_path / "in"])] == ["photo", "a"]


def test_one_key_twice_names_both(tmp_path):
    for name in ("a.jpg", "a.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png share the key 'a'"):
        list_images(tmp_path)


def test_nothing_to_list(tmp_path):
    with pytest.raises(ValueError, match="no image found"):
        list_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent"):
        list_images(tmp_path / "absent")


def test_a_file_that_shrank_is_an_error(tmp_path):
    shard(tmp_path / "s.tar", [("a.jpg", bytes(1000))])
    (source,) = list_images(tmp_path / "s.tar")
    with open(tmp_path / "s.tar", "r+b") as file:
        file.truncate(800)
    with pytest.raises(FileFormatError, match=r"s\.tar:a\.jpg: cut short: 288 of 1000"):
        source.read()


def test_sources_are_small_and_frozen():
    source = ImageSource("a", "a.jpg")
    with pytest.raises(AttributeError):
        source.key = "b"
    assert not hasattr(source, "__dict__")


# Keys and atomic writing


@pytest.mark.parametrize("key", ["a", "a/b.c", "ü/…", "a b", "..a", "a..", "x" * 1024])
def test_good_keys(key):
    assert key_problem(key) is None


@pytest.mark.parametrize(
    "key",
    [
        *("", "/a", "a/", "a//b", "..", "../a", "a/../b", "./a", "a\0", "a\nb", "\x7f", "C:a", "..\\a", "\\a"),
        *("__metadata__", "x" * 1025, "\udcff", 7, None, b"a"),
    ],
)
def test_bad_keys(key):
    assert key_problem(key)


def test_atomic_write_replaces_only_when_complete(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]
    with atomic_write(path) as file:
        file.write(b"new!")
        file.seek(0)
        file.write(b"N")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"New!" and os.listdir(tmp_path) == ["f"]


def test_atomic_write_on_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]


def test_atomic_write_respects_umask_links_and_devices(tmp_path):
    with atomic_write(tmp_path / "real") as file:
        file.write(b"1")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o666 & ~mask
    (tmp_path / "link").symlink_to("real")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"2")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"2"
    for path in (tmp_path, os.devnull):
        with pytest.raises(ValueError, match="not a plain file"), atomic_write(path):
            pass
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "absent" / "f"):
        pass


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sub/a-1", "sub/a-1"),
        ("/data/a.jpg", "data/a.jpg"),
        ("./a.jpg", "a.jpg"),
        ("a//b/./c.jpg", "a/b/c.jpg"),
        (r"C:\img\a.jpg", "img/a.jpg"),
        ("C:/img/a.jpg", "img/a.jpg"),
        (r"\\server\share\a.jpg", "server/share/a.jpg"),
        (r"sub\a.jpg", "sub/a.jpg"),
        ("../a.jpg", "../a.jpg"),
        ("/", ""),
    ],
)
def test_names_of_other_programs_become_keys(name: str, key: str) -> None:
    assert as_key(name) == key
    assert as_key(key) == key


def test_keys_that_cannot_stand_together() -> None:
    assert as_keys(["/a", "b"]) == ["a", "b"]
    for names, words in [
        (["/a", "a"], "one key, 'a': '/a' and 'a'"),
        (["a", "a"], "'a' twice"),
        (["a/../b"], "must be a relative path"),
        (["C:/../b"], r"relative path.*of 'C:/\.\./b'"),
        (["/"], "has 0 characters"),
    ]:
        with pytest.raises(ValueError, match=words):
            as_keys(names)


@pytest.mark.parametrize("key", ["CON", "sub/aux/a", "Nul.jpg", "com1", "trail /a", "dot./a", "aa:b", "what?", 'a"b'])
def test_keys_that_windows_cannot_name_files_after(key: str) -> None:
    assert key_problem(key) is None
    assert file_problem([key], windows=False, folded=False) is None
    problem = file_problem([key], windows=True, folded=False)
    assert problem is not None
    assert "Windows" in problem
    for allowed in ("console", "auxiliary/a", "a.con", "com10", "a ", "b."):
        assert file_problem([allowed], windows=True, folded=True) is None


def test_keys_that_differ_in_case_only() -> None:
    for keys in (["A.jpg", "a.jpg"], ["stra\u00dfe", "STRASSE"], ["caf\u00e9", "cafe\u0301"]):
        assert file_problem(keys, windows=False, folded=False) is None
        assert "name one file" in (file_problem(keys, windows=False, folded=True) or "")
    assert file_problem(["a", "b"], folded=True) is None
