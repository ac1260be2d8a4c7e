"""Refuse requests that do not come from the page itself: other hosts, other origins, other paths, long bodies."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")

_MAX_BODY = 1 << 20  # of a request other than a photograph
# What the page needs. Everything else of gradio is closed: its server of files, uploads, proxies, recordings, ...
_PATHS = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static|svelte)/.+|/photographs"
    r"|/gradio_api/(queue/join|queue/data|heartbeat/[\w-]+|startup-events|info/?|app_id/?|cancel|reset/?"
    r"|theme\.css|login_check/?|user/?)"
)
# The page consists of inline scripts, templates that gradio compiles, and pictures as data.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' "
    "blob:; object-src 'none'; frame-ancestors 'none'; base-uri 'self'; form-action 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """Application that passes on the requests of the page, and answers others with a sentence.

    Args:
        app: The application behind it.
        hosts: Hosts, without a port, under which the page may be opened: others are refused, so that a page of another
            site cannot reach this one by a name that leads here (DNS rebinding).
        any_address: Whether it may also be opened under any IP address, which no name can stand for.
        max_body: Largest body of ``POST /photographs`` in bytes.
    """

    def __init__(self, app: App, hosts: Iterable[str], *, any_address: bool = False, max_body: int) -> None:
        self._app, self._hosts, self._max_body = app, {host.lower() for host in hosts}, max_body
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # the page has no web sockets; the server closes the connection
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        limit = self._max_body if scope["path"] == "/photographs" else _MAX_BODY
        refusal = self._refusal(scope, headers) or _too_long(headers, limit)
        if refusal:
            await _answer(send, *refusal)
            return
        await self._app(scope, _limited(receive, limit), _with_headers(send))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Return status and sentence for a request that is refused."""
        host = headers.get("host", "")
        name = _hostname(f"//{host}")
        if name not in self._hosts and not (self._any_address and _is_address(name)):
            return 421, f"This page is not served under the name {host[:80]!r} (--host)."
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return 403, "Requests from other sites are refused."
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not (
            headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET" and scope["path"] == "/"
        ):
            return 403, "Requests from other sites are refused."
        if _PATHS.fullmatch(scope["path"]) is None or ".." in re.split(r"[/\\]", scope["path"]):
            return 404, "There is nothing at this address."
        return None


def _hostname(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:  # not the form of an address
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _too_long(headers: dict[str, str], limit: int) -> tuple[int, str] | None:
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 18 or int(length) > limit:
        return 413, f"A request may have at most {limit / 2**20:g} MB."
    return None


def _limited(receive: Receive, limit: int) -> Receive:
    """Return a `receive` that ends the request if its body is longer than it said."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        return {"type": "http.disconnect"} if received > limit else message

    return limited


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in _HEADERS]
            added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*kept, *added]}
        await send(message)

    return sending


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    sending = _with_headers(send)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await sending({"type": "http.response.start", "status": status, "headers": headers})
    await sending({"type": "http.response.body", "body": body})
