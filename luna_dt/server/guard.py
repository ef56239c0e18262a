"""Who may ask, and how much: looked at before anything is read.

``Host`` and ``Origin`` are checked, so that a web page cannot read somebody's library through their own
browser; without a token only requests to this machine by a loopback name are answered.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse

from .answers import problem

MAX_BODY = 4 << 20  # bytes; the largest honest request asks for some 100,000 ids
MAX_MAP = 128 << 20  # bytes of a map's request: 4096x4096 pixels in three channels, hardly compressed

Scope = MutableMapping[str, Any]


class Guard:
    """Refuses, before anything is read, who may not ask: wrong host, foreign origin, no token, too much."""

    def __init__(self, app: Callable[..., Awaitable[None]], token: str = "") -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        origin = headers.get("origin")
        if self._token:
            sent = headers.get("authorization", "").removeprefix("Bearer ").encode("latin-1")
            if not hmac.compare_digest(sent, self._token):
                return problem(401, "no_token", "send the server's token as 'Authorization: Bearer …' (DT_API_TOKEN)")
        elif not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return problem(421, "wrong_host", f"this server answers to localhost only, not to '{host[:100]}'")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return problem(403, "foreign_origin", f"pages from '{origin[:100]}' may not read this library")
        length = headers.get("content-length", "0")
        most = MAX_MAP if scope["method"] == "PUT" else MAX_BODY
        if not length.isdigit() or int(length) > most:
            return problem(413, "too_large", f"a request may have {most:,} bytes")
        if scope["method"] in ("POST", "PUT", "PATCH") and "content-length" not in headers:
            return problem(411, "no_length", "a request with a body must say its length")
        return None


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
