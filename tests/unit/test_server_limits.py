"""What the server holds, and for how long: sockets, turns, answers that nobody reads, lines of its log."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")

import requests
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from luna_dt.errors import MissingExtra, SettingsError
from luna_dt.server.guard import Guard
from luna_dt.server.metrics import Metrics
from luna_dt.server.run import Few, listening, prepared

PIECE = bytes(1 << 18)


class Served:
    """An application of its own behind our guard and sockets: /api/much streams for ever, /api/slow waits for a gate."""

    def __init__(self) -> None:
        self.pieces, self.gate, self.begun = 0, threading.Event(), threading.Event()
        app = FastAPI()
        app.add_middleware(Guard)

        @app.get("/api/health")
        def health() -> str:
            return "ok"

        @app.get("/api/much")
        def much() -> StreamingResponse:
            return StreamingResponse(self._endless())

        @app.get("/api/slow")
        def slow() -> str:
            self.begun.set()
            self.gate.wait(60)
            return "done"

        @app.post("/api/body")
        def body(said: list[int]) -> int:
            return len(said)

        listener, _ = listening("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self._server = prepared(app)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started)

    def _endless(self) -> Iterator[bytes]:
        while True:
            self.pieces += 1
            yield PIECE

    def asked(self, path: str, more: bytes = b"\r\n") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), 30)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + more)
        return connection

    def is_well(self) -> bool:
        return bool(requests.get(f"http://127.0.0.1:{self.port}/api/health", timeout=20).json() == "ok")

    def close(self) -> None:
        self.gate.set()
        self._server.should_exit = True
        self._thread.join(30)


def test_a_port_that_is_taken_is_told_and_zero_takes_a_free_one() -> None:
    listener, address = listening("127.0.0.1", 0)
    with listener:
        port = listener.getsockname()[1]
        assert address == f"http://127.0.0.1:{port}"
        with pytest.raises(SettingsError, match=f"port {port} .*another --port"):
            listening("127.0.0.1", port)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def said(connection: socket.socket) -> tuple[int, bytes]:
    with http.client.HTTPResponse(connection) as response:
        response.begin()
        return response.status, response.read()


def is_hung_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1 << 20) == b""
    except ConnectionError:
        return True


@pytest.fixture
def server() -> Iterator[Served]:
    opened = Served()
    yield opened
    opened.close()


def test_what_nobody_reads_is_not_made_and_is_hung_up_on(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luna_dt.server.run.UNREAD", 0.5)
    with server.asked("/api/much") as deaf:
        wait_until(lambda: server.pieces > 0)
        before = -1
        while before != server.pieces:  # until no more is made
            before = server.pieces
            time.sleep(0.2)
        assert server.pieces * len(PIECE) < 64 << 20  # what the system's own buffers hold
        assert server.is_well()
        time.sleep(0.5)
        wait_until(lambda: is_hung_up(deaf))


def test_the_oldest_silent_socket_makes_room(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luna_dt.server.run.MAX_SOCKETS", 8)
    with contextlib.ExitStack() as silent:
        busy = silent.enter_context(server.asked("/api/slow"))
        assert server.begun.wait(30)
        oldest = silent.enter_context(server.asked("/api/health", b""))  # a head that goes on
        for _ in range(20):
            silent.enter_context(server.asked("/api/health", b""))
        assert server.is_well()
        assert is_hung_up(oldest)
        server.gate.set()
        assert said(busy) == (200, b'"done"')  # who asks is not turned out


def test_a_head_or_body_that_does_not_come_is_hung_up_on(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luna_dt.server.run.LOOK_AT_SOCKETS", 0.2)
    started = b"Content-Length: 10\r\n\r\n[1"
    with server.asked("/api/health", b"X: ") as head, server.asked("/api/health", started) as body:
        end = time.monotonic() + 30
        while time.monotonic() < end and not is_dripped_at(head):
            time.sleep(0.05)
        assert time.monotonic() < end
        wait_until(lambda: is_hung_up(body))
    assert server.is_well()


def is_dripped_at(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x")
    except ConnectionError:
        return True
    return False


def test_a_slow_body_takes_no_others_turn(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luna_dt.server.guard.BODY_SECONDS", 0.5)
    with contextlib.ExitStack() as slow:
        late = [slow.enter_context(socket.create_connection(("127.0.0.1", server.port), 30)) for _ in range(12)]
        for each in late:
            each.sendall(b"POST /api/body HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n[1")  # fmt: skip
        url = f"http://127.0.0.1:{server.port}/api/body"
        assert requests.post(url, json=[1, 2], timeout=30).json() == 2  # after those before it were given up
        assert said(late[0])[0] == 413


def test_costly_calls_wait_for_their_turn_and_cheap_ones_do_not(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("luna_dt.server.guard.TURN_SECONDS", 0.5)
    with contextlib.ExitStack() as all_of_them:
        asked = [all_of_them.enter_context(server.asked("/api/slow")) for _ in range(6)]
        assert server.is_well()
        for each in asked[4:]:
            status, body = said(each)
            assert (status, json.loads(body)["code"]) == (503, "busy")
        server.gate.set()
        assert [said(each) for each in asked[:4]] == [(200, b'"done"')] * 4


def test_the_log_is_limited_in_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    few, now = Few(), time.monotonic()
    passed: list[Any] = [line for line in lines(100_000) if few.filter(line)]
    assert len(passed) == 60
    monkeypatch.setattr(time, "monotonic", lambda: now + 100)
    (line,) = lines(1)
    assert few.filter(line)
    assert "99,940 lines before this one were left out" in line.getMessage()


def lines(count: int) -> Iterator[logging.LogRecord]:
    for _ in range(count):
        yield logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, "Invalid %s", ("request",), None)


def test_metrics_without_their_extra_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtra, match=r"luna_dt\[metrics\]"):
        Metrics().told()
