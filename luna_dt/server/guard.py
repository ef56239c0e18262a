"""Who may ask, and how much: looked at before anything is read, and held to while it is.

``Host``, ``Origin`` and ``Sec-Fetch-Site`` are checked, so that a web page cannot read somebody's library through
their own browser; without a token only requests to this machine by a loopback name are answered.  What is costly is
done a few at a time; the rest waits its turn, unread.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from typing import Any

from fastapi.responses import JSONResponse

from ..origin import foreign_page, is_loopback
from ..query import MAX_LENGTH
from .answers import problem

MAX_BODY = 4 << 20  # bytes; the largest honest request asks for some 100,000 ids
MAX_MAP = 128 << 20  # bytes of a map's request: 4096x4096 pixels in three channels, hardly compressed
MAX_HEADERS = 100
MAX_QUERY = 12 * MAX_LENGTH + 1024  # bytes of what follows the question mark, where a character may take twelve
COSTLY_AT_ONCE = 4  # calls; fewer than the database's connections, so that the others find one
BODIES_AT_ONCE = 8  # requests whose bodies are in memory; of maps one
BODY_SECONDS, MAP_SECONDS = 30.0, 120.0  # in which a body must have come
TURN_SECONDS = 60.0  # that a call waits for its turn, before it is told to come again

THUMBNAILS_AT_ONCE = 8  # that may have to be made; they wait for no query, and no query for them

CHEAP = re.compile(r"/api/health|/api/images/[^/]+(/file|/caption)?|/openapi\.json|/metrics")
THUMBNAIL = re.compile(r"/api/images/[^/]+/thumbnail")
SIMILAR = "/api/images/similar"
#: Headers that decide; sent twice, two programs may read two things.
DECIDING = ("host", "origin", "sec-fetch-site", "authorization", "content-length", "transfer-encoding")
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
#: A browser shows no answer as something else than it says, nor in another site's page, and runs nothing in it.
PROTECTION = [
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; sandbox"),
]

Scope = MutableMapping[str, Any]


class TooMuch(Exception):
    """A body that is longer than it may be, or does not come."""


class Guard:
    """Refuses, before anything is read, who may not ask: wrong host, foreign page, no token, too much."""

    def __init__(self, app: Callable[..., Awaitable[None]], token: str = "") -> None:
        self._app, self._token = app, token.strip().encode()
        self._costly, self._bodies = asyncio.Semaphore(COSTLY_AT_ONCE), asyncio.Semaphore(BODIES_AT_ONCE)
        self._maps, self._thumbnails = asyncio.Semaphore(1), asyncio.Semaphore(THUMBNAILS_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            await self._answer(scope, receive, _protecting(send))

    async def _answer(self, scope: Scope, receive: Any, send: Any) -> None:
        refusal = self._refusal(scope)
        if refusal:
            await refusal(scope, receive, send)
            return
        async with AsyncExitStack() as turns:
            try:
                if scope["method"] in ("POST", "PUT", "PATCH"):
                    is_map = scope["method"] == "PUT"
                    await _turn(turns, self._maps if is_map else self._bodies)
                    most, seconds = (MAX_MAP, MAP_SECONDS) if is_map else (MAX_BODY, BODY_SECONDS)
                    receive = await _read(receive, most, seconds)
                if THUMBNAIL.fullmatch(scope["path"]):
                    await _turn(turns, self._thumbnails)
                elif not CHEAP.fullmatch(scope["path"]) or scope["path"] == SIMILAR:
                    await _turn(turns, self._costly)
            except asyncio.TimeoutError:
                busy = problem(503, "busy", "there is too much to do; ask again in a moment", {"retry-after": "5"})
                await busy(scope, receive, send)
                return
            except TooMuch as error:
                await problem(413, "too_large", str(error), CLOSING)(scope, receive, send)
                return
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        said = {name.decode("latin-1"): value.decode("latin-1").strip() for name, value in headers.items()}
        often = Counter(name.lower().decode("latin-1") for name, _ in scope["headers"])
        if len(scope["headers"]) > MAX_HEADERS:
            return problem(431, "too_large", f"a request may have {MAX_HEADERS} headers", CLOSING)
        if twice := [name for name in DECIDING if often[name] > 1]:
            return problem(400, "bad_request", f"{twice[0]} is sent more than once", CLOSING)
        return (
            self._stranger(said, headers.get(b"authorization", b""))
            or _unreadable(scope["path"], scope["query_string"])
            or _too_large(scope["method"], said)
            or _misread(scope["method"], scope["path"])
        )

    def _stranger(self, said: dict[str, str], authorization: bytes) -> JSONResponse | None:
        host = said.get("host", "")
        name = HOST.fullmatch(host)
        if self._token:
            scheme, _, sent = authorization.strip().partition(b" ")
            right = hmac.compare_digest(sent.strip(), self._token)
            if not right or scheme.lower() != b"bearer":
                return problem(401, "no_token", "send the server's token as 'Authorization: Bearer …' (DT_API_TOKEN)")
        elif not name or not is_loopback(name[1].strip("[]")):
            return problem(421, "wrong_host", f"this server answers to localhost only, not to '{host[:100]}'")
        if not name:
            return problem(400, "bad_request", f"'{host[:100]}' is no host")
        foreign = foreign_page(said)
        return problem(403, "foreign_origin", foreign) if foreign else None


def _unreadable(path: str, query: bytes) -> JSONResponse | None:
    if any(not each.isprintable() for each in path):
        return problem(400, "bad_request", "the path holds control characters")
    if b"%00" in query or b"\0" in query:
        return problem(400, "bad_request", "the query holds a NUL character")
    if len(query) > MAX_QUERY:
        return problem(414, "too_large", f"a query may have {MAX_QUERY:,} bytes")
    return None


def _too_large(method: str, said: dict[str, str]) -> JSONResponse | None:
    # of unknown length, or of two lengths: what is read would not be what was looked at
    if "transfer-encoding" in said:
        if "content-length" in said:
            return problem(400, "bad_request", "a request has a length or is sent in chunks, not both", CLOSING)
        return problem(411, "no_length", "a request must say its length, and is not taken in chunks", CLOSING)
    length = said.get("content-length", "0")
    most = {"PUT": MAX_MAP, "POST": MAX_BODY, "PATCH": MAX_BODY}.get(method, 0)
    if not re.fullmatch("[0-9]{1,15}", length) or int(length) > (most or MAX_BODY):
        return problem(413, "too_large", f"a request may have {most or MAX_BODY:,} bytes")
    if most and "content-length" not in said:
        return problem(411, "no_length", "a request with a body must say its length")
    return None


def _misread(method: str, path: str) -> JSONResponse | None:
    if path == SIMILAR and method != "POST":  # or it would be read as the id of an image
        return problem(405, "http", "Method Not Allowed", {"allow": "POST"})
    return None


CLOSING = {"connection": "close"}  # the rest of the request is not worth reading


def _protecting(send: Any) -> Any:
    async def protecting(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            told = [*message.get("headers", ())]
            said = {name for name, _ in told}  # a page says itself what it may run
            message = {**message, "headers": [*told, *(each for each in PROTECTION if each[0] not in said)]}
        await send(message)

    return protecting


async def _turn(turns: AsyncExitStack, several: asyncio.Semaphore) -> None:
    await asyncio.wait_for(several.acquire(), TURN_SECONDS)
    turns.callback(several.release)


async def _read(receive: Any, most: int, seconds: float) -> Any:
    """The whole body, by the bytes that come; gives what an application receives it by."""
    body, more = bytearray(), True
    end = asyncio.get_running_loop().time() + seconds
    while more:
        try:
            message = await asyncio.wait_for(receive(), end - asyncio.get_running_loop().time())
        except asyncio.TimeoutError as late:
            raise TooMuch(f"the request did not come in {seconds:.0f} s") from late
        if message["type"] != "http.request":  # the client has gone
            return receive
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > most:
            raise TooMuch(f"a request may have {most:,} bytes")
    whole = [{"type": "http.request", "body": bytes(body), "more_body": False}]
    del body

    async def received() -> Any:
        return whole.pop() if whole else await receive()

    return received
