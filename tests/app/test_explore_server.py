"""Test that the explorer's server answers its own page only, and treats every upload as hostile."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from conftest import photographs
from image_attacks import png_bomb
from paths import ROOT
from preimage.app import Explorer, explore
from preimage.app.guard import LOCAL_HOSTS, Guard, Message, Receive, Scope, Send
from preimage.app.photographs import MAX_BYTES
from preimage.app.server import listening, serving, url_of
from preimage.io import encode_png

gradio = pytest.importorskip("gradio")

_WAIT = 300  # seconds; only to end a test that hangs, because other programs may use the same cores
_SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return Explorer(size=64, device="cpu")


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder in which the server's temporary files are."""
    folder = tmp_path_factory.mktemp("temporary")
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    yield folder
    tempfile.tempdir = before


@pytest.fixture(scope="module")
def port(explorer: Explorer, temporary: Path) -> Iterator[int]:
    with listening("127.0.0.1", 0) as sock, serving(explorer, sock, "127.0.0.1"):
        yield sock.getsockname()[1]


def ask(
    port: int, path: str, *, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, str, Mapping[str, str]]:
    """Return status, text and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_WAIT)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        given = {"Host": f"127.0.0.1:{port}", **(headers or {})}
        if body is not None:
            given.setdefault("Content-Length", str(len(body)))
        for name, value in given.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace"), dict(response.getheaders())


def upload(port: int, data: bytes, name: str = "photo.jpg") -> tuple[int, str]:
    headers = {"X-Preimage-Name": urllib.parse.quote(name)}
    status, text, _ = ask(port, "/photographs", method="POST", body=data, headers=headers)
    return status, json.loads(text).get("error", "")


def test_the_page_forbids_everything_from_other_hosts(port: int) -> None:
    status, text, headers = ask(port, "/")
    assert status == 200
    assert "preimage explore" in text
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["connect-src"] == "'self'"
    assert not [source for sources in policy.values() for source in sources.split() if "//" in source or "*" in source]
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    config = json.loads(ask(port, "/config")[1])
    assert config["analytics_enabled"] is False
    assert "googleapis" not in ask(port, "/theme.css")[1]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example:{port}",
        "",
        "127.0.0.1@evil.example",
        "[::1",
        "2.2",
    ],
)
def test_other_hosts_are_refused(port: int, host: str) -> None:
    for path in ("/", "/config", "/gradio_api/queue/data?session_hash=x"):
        assert ask(port, path, headers={"Host": host.format(port=port)})[0] == 421


@pytest.mark.parametrize("host", ["localhost:{port}", "LOCALHOST", "[::1]:{port}", "127.0.0.1"])
def test_names_of_this_computer_are_accepted(port: int, host: str) -> None:
    assert ask(port, "/config", headers={"Host": host.format(port=port)})[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},  # a form
    ],
)
def test_requests_of_other_sites_are_refused(port: int, headers: dict[str, str]) -> None:
    data = bytes(encode_png(photographs()["rocket"]))
    assert ask(port, "/photographs", method="POST", body=data, headers=headers)[0] == 403
    assert ask(port, "/gradio_api/queue/join", method="POST", body=b"{}", headers=headers)[0] == 403
    own = {"Origin": f"http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}
    assert ask(port, "/photographs", method="POST", body=data, headers=own)[0] == 200


def test_a_link_of_another_site_opens_the_page(port: int) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(port, "/", headers=headers)[0] == 200
    assert ask(port, "/config", headers=headers)[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        f"/gradio_api/file={ROOT / 'pyproject.toml'}",
        "/gradio_api/file=pyproject.toml",
        "/gradio_api/file=http://127.0.0.1:9/",
        "/gradio_api/proxy=http://127.0.0.1:9/",
        "/file=/etc/passwd",
        "/static/../../../../../../../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/static/%2e%2e%2f%2e%2e%2f%2e%2e%2f%2e%2e%2fetc/passwd",
        "/assets//etc/passwd",
        "/svelte//etc/passwd",
        "/gradio_api/upload_progress?upload_id=1",
        "/gradio_api/openapi.json",
        "/gradio_api/runs",
        "/gradio_api/vibe-code",
        "/monitoring",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_file_and_no_other_address_is_served(port: int, path: str) -> None:
    status, text, _ = ask(port, path)
    assert status in (403, 404)
    assert "root:" not in text and "[project]" not in text


def test_gradio_takes_no_files(port: int, temporary: Path) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert ask(port, "/gradio_api/upload", method="POST", body=form, headers=headers)[0] == 404
    assert written(temporary) == []


def written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("photo.svg", _SVG, "photo.svg"),
        ("photo.jpg", b"<!doctype html><script>alert(1)</script>", "photo.jpg"),
        ("bomb.png", png_bomb(20000), "20000 × 20000 pixels"),
        ("cut.png", bytes(encode_png(photographs()["rocket"]))[:5000], "truncated"),
        ("empty.jpg", b"", "empty"),
        ("../../../../etc/cron.d/x", b"GIF89a", "x"),
        ("/etc/passwd", b"\x00" * 64, "passwd"),
        ("C:\\windows\\x.jpg\x00.png", b"MZ", "x.jpg"),
        ("<img src=x onerror=alert(1)>.png", b"\x89PNG", "onerror"),
        ("n" * 5000, b"BM", "nnn"),
    ],
    ids=["svg", "html", "bomb", "truncated", "empty", "traversal", "absolute", "windows", "markup", "long name"],
)
def test_bad_uploads_have_a_sentence_and_leave_nothing(
    port: int, temporary: Path, name: str, data: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, error = upload(port, data, name)
    assert status == 400
    assert words in error and len(error) <= 500
    assert written(temporary) == written(tmp_path) == []


def test_large_uploads_are_refused_before_they_are_read(port: int) -> None:
    headers = {"Content-Length": str(MAX_BYTES + 1)}
    status, text, _ = ask(port, "/photographs", method="POST", headers=headers)
    assert (status, "32 MB" in text) == (413, True)
    assert ask(port, "/photographs", method="POST", headers={"Content-Length": "9" * 30})[0] in (400, 413)
    assert ask(port, "/gradio_api/queue/join", method="POST", headers={"Content-Length": str(2 << 20)})[0] == 413


def test_uploads_without_a_length_end_at_the_limit(port: int, explorer: Explorer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_WAIT)
    block = bytes(1 << 20)
    with contextlib.closing(connection), contextlib.suppress(OSError):  # the server closes the connection
        connection.request(
            "POST", "/photographs", (block for _ in range(40)), {"Transfer-Encoding": "chunked"}, encode_chunked=True
        )
        assert connection.getresponse().status >= 400
    assert ask(port, "/config")[0] == 200


def test_several_uploads_at_once(port: int) -> None:
    data = bytes(encode_png(photographs()["rocket"]))
    results: list[tuple[int, str]] = []
    threads = [threading.Thread(target=lambda: results.append(upload(port, data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(200, "")] * 8


def test_any_address_but_no_name_with_all_interfaces() -> None:
    served: list[str] = []
    statuses: list[int] = []

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["path"])

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        statuses.append(message.get("status", 0))

    guard = Guard(page, LOCAL_HOSTS, any_address=True, max_body=1)
    for host, accepted in (("192.168.1.7:7860", True), ("[fe80::1]", True), ("evil.example", False), ("1.2", False)):
        scope: Scope = {"type": "http", "path": "/config", "method": "GET", "headers": [(b"host", host.encode())]}
        asyncio.run(guard(scope, receive, send))
        assert (bool(served), statuses[:1]) == (accepted, [] if accepted else [421])
        served.clear()
        statuses.clear()


def test_backslashes_do_not_lead_out_of_a_folder(port: int) -> None:
    assert "nothing at this address" in ask(port, "/static/a%5c..%5c..%5cx")[1]


def test_wrong_ports_and_hosts_have_a_sentence(port: int) -> None:
    with pytest.raises(OSError, match=f"127.0.0.1, port {port}"):
        explore(port=port, open_browser=False)
    with pytest.raises(ValueError, match=r"port.*70000"):
        explore(port=70000, open_browser=False)
    with pytest.raises(OSError, match=r"203\.0\.113\.7"):
        explore(host="203.0.113.7", port=0, open_browser=False)


def test_a_port_is_taken_as_soon_as_it_is_bound() -> None:
    with listening("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1, port {port}"), listening("127.0.0.1", port):
            pass
        assert url_of("::", sock) == f"http://[::1]:{port}/"
        assert url_of("0.0.0.0", sock) == f"http://127.0.0.1:{port}/"


def test_a_host_that_cannot_be_a_name_has_a_sentence() -> None:
    with pytest.raises(OSError, match=r"cannot serve at é.*not the name of a host"), listening("é" * 70, 0):
        pass


def test_without_gradio_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"gradio.*pip install 'preimage\[app\]'"):
        explore(port=0, open_browser=False)


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal of POSIX")
def test_ctrl_c_ends_it_and_removes_its_folder(tmp_path: Path) -> None:
    # Jobs that a shell starts in the background ignore Ctrl-C.
    start = "import signal; signal.signal(2, signal.default_int_handler); from preimage.cli import main; main()"
    command = [sys.executable, "-c", start, "explore", "--port", "0", "--no-browser", "--size", "64", "--json"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        address = json.loads(process.stdout.readline())["address"]
        waiting = http.client.HTTPConnection(
            urllib.parse.urlsplit(address).netloc, timeout=_WAIT
        )  # as an open page does
        waiting.request("GET", "/gradio_api/heartbeat/abc")
        assert waiting.getresponse().status == 200
        assert list(tmp_path.glob("preimage-explore-*"))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=_WAIT)
        waiting.close()
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines() == [f"exploring at {address} (Ctrl-C ends it)", "interrupted"]
    assert not list(tmp_path.glob("preimage-explore-*"))
