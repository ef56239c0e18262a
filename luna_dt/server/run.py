"""The server's process: sockets, waiting and log are bounded, so that nobody holds it up by holding still."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import SettingsError

MAX_SOCKETS = 256
LOOK_AT_SOCKETS = 10.0  # seconds between two looks at whether something still comes from a client
UNREAD = 30.0  # seconds in which a client must go on reading its answer
LOG_LINES = 60  # a minute


def listening(host: str, port: int) -> tuple[socket.socket, str]:
    """A socket that listens there, on a free port for 0, and its address as a browser takes it; raises SettingsError."""
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise SettingsError(
            f"nothing can listen at {host}, port {port} ({error.strerror or error}): if another program does, end it, or "
            "give another --port (0: any that is free)"
        ) from error
    return listener, f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def prepared(app: Starlette) -> uvicorn.Server:
    """A server that is ready to ``run`` on sockets, until it is told to end; what is under way then has some seconds."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=5,
    )
    few = Few()
    for handler in (*logging.getLogger("uvicorn").handlers, *logging.getLogger("luna_dt").handlers):
        handler.addFilter(few)
    logging.getLogger("asyncio").addFilter(few)
    return uvicorn.Server(config)


class Connection(H11Protocol):
    """uvicorn's, closed when its client asks nothing, does not go on, or does not read; the oldest of those that ask
    nothing makes room for a new one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._made, self._heard, self._quiet = time.monotonic(), False, 0
        self._unread: asyncio.TimerHandle | None = None
        self._look = self.loop.call_later(LOOK_AT_SOCKETS, self._looked_at)
        if len(self.connections) > MAX_SOCKETS:
            idle = [each for each in self.connections if isinstance(each, Connection) and each.asks_nothing]
            oldest = min(idle, key=lambda each: each._made, default=self)
            oldest.transport.abort()
            self.connections.discard(oldest)  # now, or the next one would have the same make room

    @property
    def asks_nothing(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        self._heard = True
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread:
            self._unread.cancel()
            self._unread = None

    def _looked_at(self) -> None:
        """A request's head must come in two looks, of its body some in each."""
        self._quiet = self._quiet + 1 if self.asks_nothing else 0
        waits_for_body = not self.asks_nothing and self.cycle.more_body and not self.flow.read_paused
        if self._quiet > 1 or (waits_for_body and not self._heard):
            self.transport.abort()
            return
        self._heard = False
        self._look = self.loop.call_later(LOOK_AT_SOCKETS, self._looked_at)


class Few(logging.Filter):
    """Lets so many lines of a log pass in a minute, and then one that says how many did not."""

    def __init__(self) -> None:
        super().__init__()
        self._since, self._passed, self._left_out = time.monotonic(), 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._since > 60:
            if self._left_out:
                told: Any = record.getMessage()
                record.msg, record.args = f"{told} ({self._left_out:,} lines before this one were left out)", ()
            self._since, self._passed, self._left_out = now, 0, 0
        self._passed += 1
        self._left_out += self._passed > LOG_LINES
        return self._passed <= LOG_LINES
