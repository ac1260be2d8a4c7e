"""Test sources of images, their keys, and atomic writing."""

import errno
import gzip
import io
import os
import tarfile

import numpy as np
import pytest

from preimage.errors import FileFormatError
from preimage.io import (
    ImageSource,
    atomic_write,
    find_images,
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


def keys(*paths):
    return [source.key for source in list_images(paths)]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


# Images with equal keys get longer ones.


def test_images_that_differ_in_their_suffix_keep_it(tmp_path):
    touch(tmp_path, "a.jpg", "a.PNG", "b.jpg", "sub/a.jpg")
    assert keys(tmp_path) == ["a.PNG", "a.jpg", "b", "sub/a"]


def test_members_of_different_shards_get_the_shard_in_front(tmp_path):
    for name in ("00000", "00001"):
        shard(tmp_path / f"{name}.tar", [("0001.jpg", b"x"), (f"of{name}.jpg", b"x")])
    expected = ["00000/0001", "of00000", "00001/0001", "of00001"]
    assert keys(tmp_path) == keys(tmp_path / "00000.tar", tmp_path / "00001.tar") == expected
    shard(tmp_path / "00001.tar", [("0001.jpg", b"x"), ("0001.png", b"x")])
    assert keys(tmp_path) == ["00000/0001.jpg", "of00000", "00001/0001.jpg", "00001/0001.png"]


def test_images_of_different_folders_get_as_many_folders_as_it_takes(tmp_path):
    touch(tmp_path, "a/x.jpg", "b/x.jpg", "a/only.jpg")
    assert keys(tmp_path / "a", tmp_path / "b") == ["only", "a/x", "b/x"]
    assert keys(tmp_path / "b", tmp_path / "a") == ["b/x", "only", "a/x"]
    assert keys(tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg") == ["a/x", "b/x"]
    touch(tmp_path, "1/photos/x.jpg", "2/photos/x.jpg")
    assert keys(tmp_path / "1" / "photos", tmp_path / "2" / "photos") == ["1/photos/x", "2/photos/x"]


def test_longer_keys_do_not_collide(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "a.jpg.png")
    found = keys(tmp_path)
    assert len(set(found)) == 3 and "a.jpg" in found
    assert found == keys(tmp_path)


def test_the_same_image_twice_is_an_error(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg: .*twice.*--skip-bad"):
        list_images([tmp_path, tmp_path / "a.jpg"])
    listing = find_images([tmp_path, tmp_path / "a.jpg"], skip_bad=True)
    assert [source.key for source in listing.sources] == ["a", "b"]
    assert listing.skipped == ((f"{tmp_path}/a.jpg", f"{tmp_path}/a.jpg: the image is listed twice"),)
    shard(tmp_path / "s.tar", [("m.jpg", b"first"), ("m.jpg", b"second")])
    with pytest.raises(FileFormatError, match=r"s\.tar: .*'m\.jpg'.*twice"):
        list_images(tmp_path)
    listing = find_images(tmp_path / "s.tar", skip_bad=True)
    assert [source.read() for source in listing.sources] == [b"first"]
    assert len(listing.skipped) == 1


def test_nothing_to_list(tmp_path):
    with pytest.raises(ValueError, match="no image"):
        list_images(tmp_path)
    with pytest.raises(ValueError, match="no image"):
        find_images(tmp_path, skip_bad=True)
    with pytest.raises(FileNotFoundError, match="absent"):
        list_images(tmp_path / "absent")


# Files that cannot be used are errors, or are left out and listed.


def test_unusable_images_are_skipped_and_listed(tmp_path):
    photos = tmp_path / "photos"
    touch(photos, "ok.jpg", "control\n.jpg")
    shard(photos / "bad.tar", [("in.jpg", b"x"), ("../out.jpg", b"x")])
    data = bytearray((photos / "bad.tar").read_bytes())
    (photos / "half.tar").write_bytes(data.replace(b"in.jpg", b"IN.jpg", 1))
    (photos / "packed.tar").write_bytes(gzip.compress(data))
    (photos / "gone.jpg").symlink_to("nowhere.jpg")
    (photos / "gone.tar").symlink_to("nowhere.tar")
    with pytest.raises(ValueError, match=r"bad\.tar: .*'\.\./out\.jpg'.*\d more.*--skip-bad"):
        list_images(photos)
    listing = find_images(photos, skip_bad=True)
    assert [source.key for source in listing.sources] == ["in", "ok"]
    problems = dict(listing.skipped)
    assert "control" in problems[f"{photos}/control\n.jpg"]
    assert "gzip" in problems[f"{photos}/packed.tar"] and "unpack" in problems[f"{photos}/packed.tar"]
    assert "link" in problems[f"{photos}/gone.jpg"] and "link" in problems[f"{photos}/gone.tar"]
    assert "tar" in problems[f"{photos}/half.tar"]


def test_name_in_another_encoding_is_skipped_alone(tmp_path):
    touch(tmp_path, "ok.jpg")
    try:
        with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(ValueError, match=r"Unicode.*--skip-bad"):
        list_images(tmp_path)
    listing = find_images(tmp_path, skip_bad=True)
    assert [source.key for source in listing.sources] == ["ok"]
    ((name, problem),) = listing.skipped
    assert "caf\\udce9" in name and "Unicode" in problem
    (name + problem).encode()  # can be printed and stored


def test_links_and_other_formats_are_counted(tmp_path):
    touch(tmp_path, "real/a.jpg", "photos/b.heic", "photos/notes.txt")
    for name in ("one", "two"):
        (tmp_path / "photos" / name).symlink_to(tmp_path / "real")
    with pytest.raises(ValueError, match=r"no image.*2 links.*1 file.*b\.heic"):
        list_images(tmp_path / "photos")
    listing = find_images(tmp_path)
    assert [source.key for source in listing.sources] == ["real/a"]
    assert listing.skipped == () and len(listing.notes) == 2
    (tmp_path / "photos" / "file.jpg").symlink_to(tmp_path / "real" / "a.jpg")  # a link to a file is followed
    assert keys(tmp_path) == ["photos/file", "real/a"]


def test_a_file_that_shrank_is_an_error(tmp_path):
    shard(tmp_path / "s.tar", [("a.jpg", bytes(1000))])
    (source,) = list_images(tmp_path / "s.tar")
    with open(tmp_path / "s.tar", "r+b") as file:
        file.truncate(800)
    with pytest.raises(FileFormatError, match=r"s\.tar:a\.jpg: .*288.*1000"):
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
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(path) as file:
        file.write(b"new")
    assert caught.value.filename == str(path)
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
        with pytest.raises(ValueError, match="file"), atomic_write(path):
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
        (["/a", "a"], r"key.*'a'.*'/a'.*'a'"),
        (["a", "a"], r"'a'.*twice"),
        (["a/../b"], "relative"),
        (["C:/../b"], r"relative.*'C:/\.\./b'"),
        (["/"], "characters.* 0 "),
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
        assert "the same file" in (file_problem(keys, windows=False, folded=True) or "")
    assert file_problem(["a", "b"], folded=True) is None
