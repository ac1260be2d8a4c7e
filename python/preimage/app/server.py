"""Serve the explorer as a page in the browser."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import threading
import time
import urllib.parse
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any

from preimage.app.explorer import Explorer
from preimage.app.guard import LOCAL_HOSTS, Guard
from preimage.app.page import Page, problem
from preimage.app.photographs import MAX_BYTES
from preimage.errors import FileFormatError
from preimage.optional import import_optional
from preimage.studies.layers_rows import Networks

_ANY = ("0.0.0.0", "::", "")  # addresses of all interfaces
_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9),  # events until it sums up their times
}


def explore(
    *,
    inverter: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    network: Networks = (),
    size: int = 256,
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int = 7860,
    open_browser: bool = True,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a page in which photographs, their features and reconstructions are explored, until Ctrl-C.

    Photographs stay in the memory of this process; nothing is written, and nothing is sent to other hosts.

    Args:
        inverter: Names or folders of inverters besides the pretrained ones; also a single one.
        network: Networks, or single representations, for inverters of layers that cannot be created by name; also a
            single one.
        size: Side of the photographs in pixels for representations that take any size, from 32 to 1024.
        device: Device of the inverters, and of the networks if they support it, see `preimage.Reconstructor`.
        host: Address at which the page is served. With the default, only this computer can open it.
        port: Port; 0 takes any free one.
        open_browser: Whether to open the page in the browser.
        ready: Function called with the address of the page when it can be opened.

    Raises:
        ImportError: gradio is not installed.
        ValueError: Neither a name nor a folder of an inverter, or a value out of range.
        FileFormatError: A folder without an inverter, or with a damaged one.
        OSError: The port is in use, the host is not one of this computer, or the weights of a network are missing.
    """
    import_optional("gradio")
    explorer = Explorer(inverter, network=network, size=size, device=device)
    explorer.check()
    with listening(host, port) as sock, serving(explorer, sock, host):
        address = url_of(host, sock)
        if ready is not None:
            ready(address)
        if open_browser:
            webbrowser.open(address)
        while True:
            time.sleep(3600)


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens at host and port; `OSError` states which are wrong."""
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        if os.name == "posix":  # elsewhere it would take the port of a program that runs
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen()  # now, because another program could still bind the same port until then
        except (OSError, TypeError, ValueError) as error:  # the latter two for text that cannot be the name of a host
            reason = error.strerror or error if isinstance(error, OSError) else "not the name of a host"
            raise OSError(f"cannot serve at {host}, port {port}: {reason} (--host, --port)") from error
        yield sock


def url_of(host: str, sock: socket.socket) -> str:
    """Return the address of the page, as this computer opens it."""
    name = {"::": "[::1]"}.get(host) or ("127.0.0.1" if host in _ANY else f"[{host}]" if ":" in host else host)
    return f"http://{name}:{sock.getsockname()[1]}/"


@contextlib.contextmanager
def serving(explorer: Explorer, sock: socket.socket, host: str) -> Iterator[None]:
    """Serve an explorer at a bound socket in a thread; when the context ends, the server has stopped.

    Args:
        explorer: What computes the results.
        sock: Socket of `listening`.
        host: Host that was given there.

    Raises:
        ImportError: gradio is not installed.
        RuntimeError: The server does not start.
    """
    uvicorn: Any = import_optional("gradio", "uvicorn")
    servers: list[Any] = []
    problems: list[Exception] = []

    async def serve(folder: str) -> None:
        app = application(explorer, folder, host)  # here, because gradio would leave event loops of its own behind
        config = uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=1, ws="none")
        servers.append(uvicorn.Server(config))
        await servers[0].serve(sockets=[sock])

    def run(folder: str) -> None:
        try:
            asyncio.run(serve(folder))
        except Exception as error:
            problems.append(error)

    with tempfile.TemporaryDirectory(prefix="preimage-explore-") as folder:
        thread = threading.Thread(target=run, args=(folder,), daemon=True, name="preimage explore")
        thread.start()
        try:
            while not (servers and servers[0].started):
                if not thread.is_alive():
                    raise RuntimeError("the server of the page does not start") from next(iter(problems), None)
                time.sleep(0.01)
            yield
        finally:
            for server in servers:
                server.should_exit = True
            thread.join(timeout=10)


def application(explorer: Explorer, folder: str, host: str) -> Guard:
    """Return the page of an explorer as an ASGI application.

    Args:
        explorer: What computes the results.
        folder: Folder for gradio's temporary files, of which there should be none.
        host: Address at which it is served.
    """
    gradio: Any = import_optional("gradio")
    fastapi: Any = import_optional("gradio", "fastapi")
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def add(request: fastapi.Request) -> Any:
        name = urllib.parse.unquote(request.headers.get("x-preimage-name", ""))[:100] or "photograph"
        data = await request.body()
        try:
            # In a thread, because decoding takes long.
            key = await fastapi.concurrency.run_in_threadpool(explorer.add, data, name=name)
        except Exception as error:
            known = isinstance(error, FileFormatError | MemoryError)
            return fastapi.responses.JSONResponse({"error": problem(error)}, 400 if known else 500)
        return {"photograph": key}

    # Annotations are text in this module, which FastAPI could not resolve here.
    add.__annotations__["request"] = fastapi.Request
    app.post("/photographs")(add)
    with _environment({**_ENVIRONMENT, "GRADIO_TEMP_DIR": folder}):
        page = Page(explorer)
        options = {"run_history": False, "ssr_mode": False, "pwa": False, "mcp_server": False, "show_error": False}
        app = gradio.mount_gradio_app(app, page.blocks, "/", max_file_size=1, **options, **page.launch_options())
    hosts = {host, *LOCAL_HOSTS} if host in (*LOCAL_HOSTS, *_ANY) else {host}
    return Guard(app, hosts, any_address=host in _ANY, max_body=MAX_BYTES)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
