"""Calls to a server that need not mean well: one deadline for the whole of a call, a limit for the size of its answer."""

from __future__ import annotations

import contextlib
import http.client
import http.cookiejar
import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, ReadTimeoutError

from ..errors import BadAnswer, BadQuery, LunaError, NotFound, NotOffered, Refused, Unreachable, by_code
from ..plain import shown

RETRIES = 3  # of calls that only read, when the server says that it is busy; once when the connection breaks
BUSY = (429, 502, 503, 504)
PAUSE = 0.1  # seconds before the first retry, doubled each time; the server may ask for longer
CONNECT_TIMEOUT = 5  # seconds to reach the server at all; its answer may take what is left of the call's time
BYTES_READ = 1 << 20  # bytes read at once
LONGEST_LINE = 32 << 20  # bytes; the longest is that of a cluster with all of its members
#: What to do where it is not that the server is away, by a sign in the reason.
STEPS = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted here: name the file of its authority in SSL_CERT_FILE",
    "WRONG_VERSION_NUMBER": "it speaks http there, not https",
}
ERROR_BYTES = 64 << 10  # that are read of an answer which refuses


class Calls:
    """HTTP calls to ``address``, each of which ends within ``timeout`` seconds, whatever the server does."""

    def __init__(self, address: str, token: str, timeout: float) -> None:
        self.address, self._timeout = address.rstrip("/"), timeout
        self._session = _Session()
        self._session.trust_env = False  # a proxy has no business between two programs of one user
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers["Accept-Encoding"] = "identity"  # or an answer of any size could come in a small one
        if token:  # in UTF-8, since a header is bytes and a token may be in any script
            self._session.headers["Authorization"] = f"Bearer {token}".encode()
        self._session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter())

    def close(self) -> None:
        self._session.close()

    def until(self, times: float = 1) -> float:
        """When a call that begins now must have ended, on the monotonic clock; it may take so many ``times``."""
        return time.monotonic() + self._timeout * times

    @contextlib.contextmanager
    def call(
        self, method: str, path: str, most: int, until: float | None = None, retries: int = RETRIES, **options: Any
    ) -> Iterator[Body]:
        """The body of an answer with status 200 or 201, which may have ``most`` bytes and be read ``until`` then.

        Everything else becomes a typed error, also while the body is read.
        """
        end = self.until() if until is None else until
        try:
            with self._answer(method, self.address + path, end, retries, options) as answer:
                if answer.status_code not in (200, 201):
                    raise self._refusal(answer, f"{method} {path}")
                name = f"DT at {self.address} answers {path}"
                if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise BadAnswer(f"{name} in an encoding that it was not asked for")
                yield Body(answer, most, name)
        except (requests.RequestException, HTTPError, http.client.HTTPException, OSError) as error:
            if isinstance(error, LunaError):
                raise
            reason = _reason(error)
            step = next((step for sign, step in STEPS.items() if sign in reason), "is its server running?")
            raise Unreachable(f"DT at {self.address} does not answer ({reason}); {step}") from error

    def json(self, method: str, path: str, most: int, **options: Any) -> Any:
        """An answer's JSON; raises BadAnswer where it is none."""
        with self.call(method, path, most, **options) as body:
            data = body.read()
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadAnswer(f"DT at {self.address} answers {path} with something that is not JSON") from error

    def _answer(
        self, method: str, url: str, until: float, retries: int, options: Mapping[str, Any]
    ) -> requests.Response:
        for attempt in range(retries + 1):
            left = until - time.monotonic()
            if left <= 0:
                break
            wait = PAUSE * 2**attempt
            try:
                answer = self._session.request(
                    method, url, timeout=(min(CONNECT_TIMEOUT, left), left), stream=True, allow_redirects=False, **options
                )  # fmt: skip
            except requests.ConnectionError as error:
                if attempt >= min(retries, 1) or isinstance(error, requests.Timeout):
                    raise
            else:
                asked = _retry_after(answer)
                wait = wait if asked is None else asked
                if answer.status_code not in BUSY or attempt == retries or wait >= until - time.monotonic():
                    return answer
                answer.close()
            time.sleep(max(0.0, min(wait, until - time.monotonic())))
        raise requests.Timeout("no answer in time")

    def _refusal(self, answer: requests.Response, call: str) -> LunaError:
        problem: Any = {}
        with contextlib.suppress(ValueError, RecursionError, HTTPError, OSError):
            problem = json.loads(Body(answer, ERROR_BYTES, "").read(ERROR_BYTES))
        problem = problem if isinstance(problem, Mapping) else {}
        status = answer.status_code
        told = problem.get("detail") or problem.get("title") or answer.reason or "no reason given"
        message = shown(told, 500)
        kind = by_code(str(problem.get("code")))
        if kind is BadQuery:
            at = problem.get("at")
            return BadQuery(message, at if type(at) is int else None)
        if kind is not None and kind not in (LunaError, Refused):
            return kind(message)
        if 300 <= status < 400:
            goal = shown(answer.headers.get("Location") or "nowhere", 200)
            message = f"it sends on to {goal}, which is not followed; if that is DT, give its address instead"
        elif status in BUSY and (asked := _retry_after(answer)):
            message += f" (ask again in {asked:,.0f} s)"
        if status == 404:
            return NotFound(f"DT at {self.address} has no {call}: {message}")
        if status in (405, 501):
            return NotOffered(f"DT at {self.address} does not offer {call}: {message}")
        return Refused(f"DT at {self.address} refuses {call} with {status}: {message}", status)


class Body:
    """What an answer says, read as a file is; raises BadAnswer where it is longer than it may be."""

    def __init__(self, answer: requests.Response, most: int, name: str) -> None:
        self._raw, self._most, self._left, self._name = answer.raw, most, most, name
        said = answer.headers.get("Content-Length", "")
        if name and said.isascii() and said.isdigit() and len(said) < 20 and int(said) > most:
            raise self._too_long()

    def read(self, size: int = -1) -> bytes:
        """So many bytes, or all there are; fewer only at the end."""
        pieces, wanted = list[bytes](), size
        while wanted and (piece := self._raw.read(BYTES_READ if wanted < 0 else min(wanted, BYTES_READ))):
            pieces.append(piece)
            wanted -= len(piece) if size >= 0 else 0
            self._left -= len(piece)
            if self._left < 0:
                raise self._too_long()
        return b"".join(pieces)

    def lines(self, most: int) -> Iterator[bytes]:
        """Its lines, without their ends, of which there may be so many; empty ones are left out."""
        rest = b""
        while piece := self.read(BYTES_READ):
            *whole, rest = (rest + piece).split(b"\n") if b"\n" in piece else [rest + piece]
            most -= len(whole)
            if most < 0 or len(rest) > LONGEST_LINE:
                raise BadAnswer(f"{self._name} with more lines than can be, or one of more than {LONGEST_LINE:,} bytes")
            yield from filter(None, map(bytes.strip, whole))
        if rest.strip():
            yield rest

    def _too_long(self) -> BadAnswer:
        return BadAnswer(f"{self._name} with more than {self._most:,} bytes, which is more than there can be")


class _Session(requests.Session):
    """One that does not so much as look where a redirect leads, for which it would read all of it."""

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002
        return None


class _Until(io.RawIOBase):
    """A socket's bytes, as long as its time-out was when it was asked: in all, not for each of them."""

    def __init__(self, sock: Any) -> None:
        self._sock, self._raw = sock, sock.makefile("rb", buffering=0)
        timeout = sock.gettimeout()
        self._end = None if timeout is None else time.monotonic() + timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._end is not None:
            left = self._end - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(left)
        found: int | None = self._raw.readinto(buffer)
        return found

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Timed:
    """A socket for http.client, which opens it as a file and does nothing else with it."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def makefile(self, *_: Any) -> io.BufferedReader:
        return io.BufferedReader(_Until(self._sock), 1 << 16)


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *rest: Any, **options: Any) -> None:
        super().__init__(_Timed(sock), *rest, **options)  # type: ignore[arg-type]


class _Plain(HTTPConnection):
    response_class = _Response


class _Secure(HTTPSConnection):
    response_class = _Response


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}


def _retry_after(answer: requests.Response) -> float | None:
    """The seconds that a server asks to be left alone for; None where it does not say, or not so that one understands."""
    said = answer.headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit():
        return float(said[:20])
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _reason(error: Exception) -> str:
    """The innermost cause's own words; requests and urllib3 wrap it in several layers."""
    seen: BaseException = error
    while True:
        if isinstance(seen, (requests.Timeout, TimeoutError, ReadTimeoutError)):
            return "no answer in time"
        inner = getattr(seen, "reason", None) or (seen.args[0] if seen.args else None)
        if not isinstance(inner, BaseException):
            return shown(str(inner or seen).split(": ", 1)[-1], 200) or type(seen).__name__
        seen = inner
