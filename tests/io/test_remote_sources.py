"""Test images at URLs: what is listed and read, how many bytes are fetched, and errors."""

import errno
import functools
import http.server
import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile

import pytest

from preimage.cli._shared import command_line
from preimage.errors import FileFormatError
from preimage.inspection import info
from preimage.io import ImageSource, decode_file, find_images, list_images, remote
from preimage.io.brace_expansion import expand_braces
from preimage.io.urls import is_url, masked, url_path
from preimage.pipelines.extract import extract
from preimage.pipelines.image_loading import load
from preimage.representations import create_representation
from preimage.training.config import TrainConfig

fsspec = pytest.importorskip("fsspec")


def tar_bytes(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


FILES = {
    "b.jpg": b"b-dot",
    "b/2.JPG": b"two",
    "b/c/3.v2.png": b"three",
    "b/._2.jpg": b"hidden",
    ".git/x.png": b"hidden",
    "notes.txt": b"text",
    "photo.heic": b"heic",
    "s.tar": tar_bytes([("./z.jpg", b"zz"), ("z.cls", b"7"), ("d/y.png", b"yyy")]),
}


@pytest.fixture
def memory():
    """Return a function that writes files to the file system in memory, which is empty before and after."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs.pipe
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture
def photos(tmp_path, memory):
    """Return a folder with `FILES`, which are also at memory://photos."""
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    memory({f"/photos/{name}": data for name, data in FILES.items()})
    return tmp_path


class Handler(http.server.SimpleHTTPRequestHandler):
    """Handler with ranges, which fails as many times as the server's `failures` says."""

    def do_GET(self):
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        if self.server.failures:
            self.send_error(self.server.failures.pop())
            return
        wanted = self.headers.get("Range")
        path = self.translate_path(self.path)
        if not (wanted and self.server.ranges and os.path.isfile(path)):
            super().do_GET()
            return
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
            last = min(last, size - 1)
            if first > last:
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            file.seek(first)
            self.wfile.write(file.read(last + 1 - first))

    def do_HEAD(self):
        self.server.requests.append((self.command, self.path, None))
        super().do_HEAD()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(photos, monkeypatch):
    """Return an HTTP server of the folder `photos`."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(remote, "_PAUSES", (0, 0))
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(photos)))
    found.requests, found.failures, found.ranges = [], [], True
    found.url = f"http://127.0.0.1:{found.server_port}"
    threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


# Keys, order and bytes are those of the same files on disk.


def images(path):
    return [(source.key, source.member, source.length, source.read()) for source in list_images(path)]


def test_a_folder_in_memory_is_listed_as_on_disk(photos):
    found = images("memory://photos")
    assert [(key, data) for key, _, _, data in found] == [
        *[("b/2", b"two"), ("b/c/3.v2", b"three"), ("b", b"b-dot"), ("z", b"zz"), ("d/y", b"yyy")],
    ]
    local = list_images(photos)
    assert [source.key for source in local] == [key for key, *_ in found]
    assert len(find_images("memory://photos").notes) == 1  # of photo.heic
    assert images("memory://photos/") == images("memory:///photos") == found
    assert list_images("memory://photos")[0].path == "memory://photos/b/2.JPG"
    assert list_images(f"file://{photos}") == local


def test_a_folder_over_http_is_listed_as_on_disk(server):
    found, expected = images(f"{server.url}/"), images("memory://photos")
    assert [(key, data) for key, _, _, data in found] == [(key, data) for key, _, _, data in expected]
    assert found[-1] == expected[-1] and found[0][2] is None  # the index does not tell sizes

    assert images(f"{server.url}/b/2.JPG?token=x") == [("2", None, 3, b"two")]


def test_zip_archives_are_file_systems(photos, memory):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    memory({"/all.zip": file.getvalue()})
    (photos / "all.zip").write_bytes(file.getvalue())
    expected = images("memory://photos")
    assert images("zip://::memory://all.zip") == images(f"zip://::{photos}/all.zip") == expected
    assert images("zip://b::memory://all.zip")[0] == ("2", None, 3, b"two")
    assert images("zip://b/2.JPG::memory://all.zip") == [("2", None, 3, b"two")]
    assert [key for key, *_ in images("zip://b/*/*.png::memory://all.zip")] == ["3.v2"]


def test_single_files_globs_and_braces(memory, tmp_path):
    shards = {f"/data/s-{number:03}.tar": tar_bytes([(f"{number}.jpg", b"x")]) for number in range(12)}
    memory(shards)
    for name, data in shards.items():
        (tmp_path / name.rpartition("/")[2]).write_bytes(data)
    expected = [str(number) for number in range(8, 11)]
    assert [key for key, *_ in images("memory://data/s-{008..010}.tar")] == expected
    assert [key for key, *_ in images(tmp_path / "s-{008..010}.tar")] == expected
    assert [key for key, *_ in images("memory://data/s-01*.tar")] == ["10", "11"]
    assert len(images("memory://data/*.tar")) == len(images("memory://d*ta/*.tar")) == 12
    with pytest.raises(FileNotFoundError, match=r"memory://data/\*\.jpg"):
        list_images("memory://data/*.jpg")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a{8..11}", ["a8", "a9", "a10", "a11"]),
        ("a{08..11}", ["a08", "a09", "a10", "a11"]),
        ("a{2..0}", ["a2", "a1", "a0"]),
        ("a{0..1}/{x,y}.tar", ["a0/x.tar", "a0/y.tar", "a1/x.tar", "a1/y.tar"]),
        ("{only}{}", ["{only}{}"]),
    ],
)
def test_braces(path, expected):
    assert expand_braces(path) == expected


def test_braces_of_existing_files_and_too_many(tmp_path):
    (tmp_path / "a{1,2}.jpg").write_bytes(b"x")
    assert [source.key for source in list_images(tmp_path / "a{1,2}.jpg")] == ["a{1,2}"]
    for path in ("{0..99999999999}", "{0..9999}{0..9999}"):
        with pytest.raises(ValueError, match="1,000,000") as caught:
            expand_braces(f"https://user:pw@host/{path}")
        assert "pw" not in str(caught.value)


def test_equal_keys_get_the_name_of_the_shard_or_bucket(memory):
    memory({"/one/s.tar": tar_bytes([("a.jpg", b"1")]), "/two/s.tar": tar_bytes([("a.jpg", b"2")])})
    found = list_images(["memory://one/s.tar", "memory://two/s.tar"])
    assert [source.key for source in found] == ["one/s/a", "two/s/a"]
    with pytest.raises(ValueError, match="twice"):
        list_images(["memory://one/s.tar", "memory://one/s.tar"])


def test_sources_and_their_errors_can_be_sent_to_workers(photos):
    for source in list_images("memory://photos"):
        again = pickle.loads(pickle.dumps(source))
        assert again == source and again.read() == source.read()
    with pytest.raises(FileNotFoundError) as caught:
        ImageSource("a", "memory://photos/none.jpg").read()
    assert pickle.loads(pickle.dumps(caught.value)).filename == "memory://photos/none.jpg"


def test_damaged_files(memory):
    memory(
        {"/d/s.tar": tar_bytes([("a.jpg", bytes(5000))])[:4000], "/d/t.tar": b"GIF89a" + bytes(600), "/d/b.jpg": b"b"}
    )
    with pytest.raises(FileFormatError, match=r"memory://d/s\.tar: .*truncated"):
        list_images("memory://d")
    listing = find_images("memory://d", skip_bad=True)
    assert [source.key for source in listing.sources] == ["b"]
    assert "GIF" in dict(listing.skipped)["memory://d/t.tar"]
    memory({"/d/s.tar": tar_bytes([("a.jpg", bytes(5000))])})
    (source,) = list_images("memory://d/s.tar")
    memory({"/d/s.tar": tar_bytes([("a.jpg", bytes(5000))])[:1000]})
    with pytest.raises(FileFormatError, match=r"s\.tar:a\.jpg: .*488 of 5000"):
        source.read()


def test_the_store_of_a_url_is_that_of_the_file(photo_folder, tmp_path, memory):
    members = [(path.name, path.read_bytes()) for path in sorted(photo_folder.iterdir())[:6]]
    (tmp_path / "s.tar").write_bytes(tar_bytes(members))
    memory({"/s.tar": tar_bytes(members)})
    for output, path in (("local", str(tmp_path / "s.tar")), ("remote", "memory://s.tar")):
        extract(create_representation("hog"), path, tmp_path / output, size=64)
    files = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("local", "remote")]
    assert files[0] == files[1]


# Only what is needed is fetched.


def test_listing_a_tar_fetches_headers_and_reading_a_member_its_bytes(server, photos):
    members = [(f"{number:02}.jpg", bytes([number]) * 500_000) for number in range(20)]
    (photos / "big.tar").write_bytes(tar_bytes(members))
    sources = list_images(f"{server.url}/big.tar")
    assert len(sources) == 20
    fetched = sum(_length(wanted) for method, _, wanted in server.requests if method == "GET")
    assert fetched < 20 * (8192 + 1024)  # of ten million
    server.requests.clear()
    assert sources[7].read() == members[7][1]
    (request,) = server.requests
    assert request == ("GET", "/big.tar", f"bytes={sources[7].offset}-{sources[7].offset + 499_999}")


def _length(wanted):
    first, last = map(int, wanted.removeprefix("bytes=").split("-"))
    return last + 1 - first


def test_a_server_without_ranges(server, photos):
    (photos / "large.tar").write_bytes(tar_bytes([("a.jpg", bytes(20000)), ("b.jpg", b"b")]))
    server.ranges = False
    assert ImageSource("2", f"{server.url}/b/2.JPG").read() == b"two"
    assert ImageSource("2", f"{server.url}/b/2.JPG", length=3).read() == b"two"
    for action in (
        lambda: list_images(f"{server.url}/large.tar"),
        lambda: ImageSource("b", f"{server.url}/large.tar", "b.jpg", 1024, 2).read(),
    ):
        with pytest.raises(OSError, match=r"range") as caught:
            action()
        assert caught.value.filename == f"{server.url}/large.tar"


def test_an_image_that_is_too_large_is_not_read(memory, monkeypatch):
    monkeypatch.setattr("preimage.io.image_source.MAX_ENCODED_BYTES", 1000)
    memory({"/big.jpg": bytes(1001), "/fits.jpg": bytes(1000)})
    for read in (lambda: decode_file("memory://big.jpg"), list_images("memory://big.jpg")[0].read):
        with pytest.raises(FileFormatError, match=r"memory://big\.jpg: .*1000"):
            read()
    assert ImageSource("fits", "memory://fits.jpg").read() == bytes(1000)


# Errors name the URL; transient ones are tried again.


def test_missing_files_protocols_and_packages(memory, tmp_path):
    for url in ("memory://none", "memory://none/", "memory://none/a.jpg", "memory://none.tar"):
        with pytest.raises(FileNotFoundError) as caught:
            list_images(url)
        assert caught.value.filename == url
    for url in ("nonesuch://a", "nonesuch::memory://a", "zip://a::nonesuch://a"):
        with pytest.raises(ValueError, match=rf"{url}: .*nonesuch"):
            list_images(url)
    with pytest.raises(FileNotFoundError, match="string, not a Path"):
        list_images(tmp_path.__class__("memory://bucket/a"))
    for path in ("https://u:pw@host/a.parquet", tmp_path.__class__("https://u:pw@host/a.parquet")):
        with pytest.raises(ValueError, match=r"https:/.*\*\*\*@host/a\.parquet: .*disk"):
            info(path)
    if "s3" in fsspec.available_protocols() and not _has("s3fs"):
        with pytest.raises(ImportError, match=r"s3://bucket/a: .*s3fs"):
            list_images("s3://bucket/a")


def test_reference_files_name_other_files_and_are_not_read(memory):
    memory({"/refs.json": b'{"version": 1, "refs": {"a.jpg": ["https://host/a.jpg"]}}'})
    for url in ("reference://::memory://refs.json", "simplecache::reference://a.jpg::memory://refs.json"):
        with pytest.raises(ValueError, match=rf"{url}: reference"):
            list_images(url)


def test_an_existing_folder_named_like_a_protocol_is_written_to(photo_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memory:").mkdir()
    extract(create_representation("hog"), photo_folder, "memory:/a.hog", size=64)
    assert (tmp_path / "memory:" / "a.hog").is_dir()


def _has(package):
    return subprocess.run([sys.executable, "-c", f"import {package}"], check=False, capture_output=True).returncode == 0


def test_responses_of_an_http_server(server):
    source = ImageSource("2", f"{server.url}/b/2.JPG", length=3)
    for status, kind in ((404, FileNotFoundError), (403, PermissionError), (401, PermissionError), (400, OSError)):
        server.failures, server.requests = [status], []
        with pytest.raises(kind) as caught:
            source.read()
        assert caught.value.filename == source.path and len(server.requests) == 1
        assert not isinstance(caught.value, ConnectionError)
    server.failures, server.requests = [500, 429], []
    assert source.read() == b"two" and len(server.requests) == 3
    server.failures, server.requests = [503] * 5, []
    with pytest.raises(ConnectionError) as caught:
        source.read()
    assert caught.value.filename == source.path and len(server.requests) == 3


def test_a_folder_that_cannot_be_read_is_not_left_out(photos, monkeypatch):
    kind = fsspec.get_filesystem_class("local")  # which lists folder by folder
    listed = kind.ls

    def ls(fs, path, *arguments, **options):
        if path.endswith("/b"):
            raise PermissionError(errno.EACCES, "no")
        return listed(fs, path, *arguments, **options)

    monkeypatch.setattr(kind, "ls", ls)
    with pytest.raises(PermissionError) as caught:
        list_images(f"local://{photos}")
    assert caught.value.filename == f"local://{photos}"


def test_no_server(server):
    url = f"{server.url}/b/2.JPG"
    server.shutdown()
    server.server_close()
    for action in (lambda: list_images(url), lambda: ImageSource("2", url, length=3).read()):
        with pytest.raises(ConnectionError) as caught:
            action()
        assert caught.value.filename == url


def test_transient_errors_are_tried_three_times(monkeypatch):
    pauses, errors = [], []
    monkeypatch.setattr(remote.time, "sleep", pauses.append)

    def act():
        if errors:
            raise errors.pop()
        return "done"

    errors[:] = [ConnectionResetError(errno.ECONNRESET, "reset"), TimeoutError()]
    assert remote.retried("s3://b/a", act) == "done" and len(pauses) == 2 and pauses[0] < pauses[1]
    errors[:] = [OSError("busy")] * 3
    with pytest.raises(ConnectionError) as caught:
        remote.retried("s3://b/a", act)
    assert (caught.value.strerror, caught.value.filename, len(pauses)) == ("busy", "s3://b/a", 4)
    for error in (PermissionError("no"), FileNotFoundError("no"), KeyError("no")):
        errors[:] = [error, error]
        with pytest.raises(OSError, match="s3://b/a"):
            remote.retried("s3://b/a", act)
        assert len(errors) == 1 and len(pauses) == 4
    errors[:] = [MemoryError()]
    with pytest.raises(MemoryError):
        remote.retried("s3://b/a", act)


def test_images_are_not_left_out_because_a_server_is_down(monkeypatch):
    def down(*arguments):
        raise ConnectionError(errno.EIO, "down", "memory://a.jpg")

    monkeypatch.setattr(remote, "read_range", down)
    with pytest.raises(ConnectionError):
        list(load([ImageSource("a", "memory://a.jpg")], None))


# Credentials are shown nowhere.


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://KEY:SEC/RET@bucket/a.jpg", "s3://***@bucket/a.jpg"),
        ("https://user:pw@host:8000/a@2x.jpg", "https://***@host:8000/a@2x.jpg"),
        ("https://token@host/a.jpg", "https://***@host/a.jpg"),
        ("https://host/a.jpg?X-Sig=abc&b=c", "https://host/a.jpg?***"),
        ("zip://a.jpg::https://u:p@host/b.zip?sig=x", "zip://a.jpg::https://***@host/b.zip?***"),
        ("https://u:p@w@host/a.jpg", "https://***@host/a.jpg"),
        ("https://host/a.jpg?SECRET", "https://host/a.jpg?***"),
        ("https://host/a.jpg?se=2026-05-24T09:51:36Z&sig=SECRET", "https://host/a.jpg?***"),
        ("zip://a.jpg::https://host/b.zip?t=09:51:36&sig=SECRET::x", "zip://a.jpg::https://host/b.zip?***::x"),
        ("s3://bucket/what?.jpg", "s3://bucket/what?.jpg"),
        ("zip://a.jpg?x=y::s3://b/c", "zip://a.jpg?***::s3://b/c"),
        ("https:/user:pw@host/a.jpg", "https:/***@host/a.jpg"),
        ("http://host:8000/a@2x.jpg", "http://host:8000/a@2x.jpg"),
        ("s3://bucket/a@2x.jpg", "s3://bucket/a@2x.jpg"),
        ("photos/a@b.jpg", "photos/a@b.jpg"),
        ("C:/me@work/b.jpg", "C:/me@work/b.jpg"),
    ],
)
def test_credentials_are_masked(url, shown):
    source = ImageSource("a", url)
    assert masked(url) == shown
    if is_url(url):
        assert source.name == shown and repr(source) == f"ImageSource('a', {shown!r})"
    assert masked(f"403 for '{url}': {url}: no") == f"403 for '{shown}': {shown}: no"
    assert masked(f"{shown}:member") == f"{shown}:member"
    assert "SEC" not in url_path(url) and "pw" not in url_path(url)


def test_credentials_are_shown_and_stored_nowhere(server, tmp_path, monkeypatch):
    url = server.url.replace("//", "//user:hunter2@") + "/none.jpg?sig=abc"
    for action in (lambda: list_images(url), lambda: ImageSource("a", url, length=3).read()):
        with pytest.raises(FileNotFoundError) as caught:
            action()
        cause = caught.value
        while cause is not None:
            assert "hunter2" not in str(cause) and "abc" not in str(cause)
            cause = cause.__cause__
    monkeypatch.setattr(sys, "argv", ["preimage", "compare", url])
    assert "hunter2" not in command_line() and "abc" not in command_line()
    config = TrainConfig(images=(url,), representation="hog", output=str(tmp_path))
    assert config.images == (url,) and "hunter2" not in config.to_json() and "abc" not in config.to_json()


def test_the_command_line_starts_without_fsspec_and_pyarrow():
    code = "import sys, preimage.cli, preimage.io.sources; print({'fsspec', 'pyarrow', 'asyncio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
