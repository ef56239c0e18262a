"""``luna-dt serve`` under requests that mean ill, or are broken: each refused with a problem, and the server is well."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import io
import json
import re
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import requests

from luna_dt.demo import database, served
from luna_dt.dt.rest import RestCatalog
from tests.conftest import Drawn

pytestmark = pytest.mark.processes

DEEP = b"[" * 50_000 + b"]" * 50_000
DIGITS = b"9" * 5000
HALF = b'"half \\ud83d"'


def answer(server: str, request: bytes, wait: float = 30.0) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body that a server answers to bytes as they are."""
    address = urlsplit(server)
    with socket.create_connection((address.hostname, address.port), wait) as connection:
        with contextlib.suppress(ConnectionError):  # refused before all of it was sent
            connection.sendall(request.replace(b"HOST", address.netloc.encode()))
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def get(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", *(headers if any(h.lower().startswith("host") for h in headers) else ("Host: HOST", *headers))]  # fmt: skip
    return ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode("latin-1")


def send(method: str, path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: HOST", "Content-Type: application/json", *headers]
    return ("\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close"]) + "\r\n\r\n").encode() + body


def post(path: str, body: bytes) -> bytes:
    return send("POST", path, body)


def bare(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    return ("\r\n".join([f"{method} {path} HTTP/1.1", "Host: HOST", *headers]) + "\r\n\r\n").encode() + body


def made(fields: bytes) -> bytes:
    return post("/api/generations", b'{"operation": "txt2img", ' + fields + b"}")


def huge_png(side: int) -> str:
    """A PNG of some hundred bytes that says it has so many pixels a side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")).decode()  # fmt: skip


def drawn_map(keypoints: bytes) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (3, 2)).save(out, "PNG")
    return b'{"image_base64": "' + base64.b64encode(out.getvalue()) + b'", "keypoints": ' + keypoints + b"}"


#: A name, the request, and the status it is refused with.
REQUESTS: list[tuple[str, bytes, int]] = [
    # who asks
    ("another host", get("/api/images/1", "Host: evil.example"), 421),
    ("a host that begins like ours", get("/api/images/1", "Host: 127.0.0.1.evil.example"), 421),
    ("a host with a user", get("/api/images/1", "Host: evil@127.0.0.1"), 421),
    ("half an address", get("/api/images/1", "Host: [::1"), 421),
    ("an address of letters", get("/api/images/1", "Host: [zz]:80"), 421),
    ("a port of letters", get("/api/images/1", "Host: localhost:x"), 421),
    ("an empty host", get("/api/images/1", "Host:"), 421),
    ("two hosts", get("/api/images/1", "Host: HOST", "Host: evil.example"), 400),
    ("a host of latin letters", get("/api/images/1", "Host: l\xf6calhost"), 421),
    ("a host of 60 kB", get("/api/images/1", "Host: " + "x" * 60_000), 421),
    ("another origin", get("/api/images/1", "Origin: https://evil.example"), 403),
    ("no origin to speak of", get("/api/images/1", "Origin: null"), 403),
    ("an empty origin", get("/api/images/1", "Origin:"), 403),
    ("a broken origin", get("/api/images/1", "Origin: http://[::1"), 403),
    ("our name as a user", get("/api/images/1", "Origin: http://HOST@evil.example"), 403),
    ("two origins", get("/api/images/1", "Origin: http://HOST", "Origin: https://evil.example"), 400),
    ("another site's picture", get("/api/images/1/file", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Dest: image"), 403),
    ("another site's link", get("/api/images", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"), 403),
    ("another port's picture", get("/api/images/1/file", "Sec-Fetch-Site: same-site"), 403),
    ("another site's query", get("/api/images?query=x", "Sec-Fetch-Site: CROSS-SITE"), 403),
    ("two sites", get("/api/images", "Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"), 400),
    ("another site's health", get("/api/health", "Sec-Fetch-Site: cross-site"), 403),
    ("a preflight", bare("OPTIONS", "/api/images", "Origin: https://evil.example", "Connection: close"), 403),
    # lengths
    ("two ways of length", bare("POST", "/api/images/similar", "Content-Length: 4", "Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"), 400),
    ("chunks", bare("POST", "/api/images/similar", "Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"), 411),
    ("chunks in a GET", bare("GET", "/api/images", "Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"), 411),
    ("no length", bare("POST", "/api/images/similar", "Connection: close"), 411),
    ("a length too large", bare("POST", "/api/images/similar", "Content-Length: 99999999999", "Connection: close"), 413),
    ("a map too large", bare("PUT", "/api/images/1/controlnet/canny", f"Content-Length: {129 << 20}", "Connection: close"), 413),
    ("a length of 5,000 digits", bare("POST", "/api/images/similar", "Content-Length: " + "9" * 5000), 400),
    ("two lengths", bare("POST", "/api/images/similar", "Content-Length: 2", "Content-Length: 3", body=b"{}x"), 400),
    ("a length below zero", bare("POST", "/api/images/similar", "Content-Length: -1"), 400),
    ("a length in a script", b"POST /api/images/similar HTTP/1.1\r\nHost: HOST\r\nContent-Length: \xb2\r\n\r\n{}", 400),
    ("a GET with much", bare("GET", "/api/images", "Content-Length: 99999999", "Connection: close"), 413),
    ("a deleting with much", bare("DELETE", "/api/images", "Content-Length: 99999999", "Connection: close"), 413),
    ("a query of 62 kB", get("/api/images?query=" + "x" * 62_000), 414),
    ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ("a folded header", b"GET /api/images HTTP/1.1\r\nHost: HOST\r\n X: y\r\nContent-Length: x\r\n\r\n", 400),
    # ids and numbers
    ("an id of 2^63", get("/api/images/9223372036854775808"), 422),
    ("an id of 5,000 digits", get("/api/images/" + "9" * 5000), 422),
    ("an id below zero", get("/api/images/-1"), 422),
    ("an id in a script", get("/api/images/%C2%B2"), 422),
    ("an id that is none", get("/api/images/nan/file"), 422),
    ("a page after 2^63", get("/api/images?after_id=9223372036854775808"), 422),
    ("a page after 5,000 digits", get("/api/images?after_id=" + "9" * 5000), 422),
    ("a page of 10^9", get("/api/images?limit=1000000000"), 422),
    ("a cluster of 2^63", get("/api/clusters/9223372036854775808/images"), 422),
    ("a quality of NaN", get("/api/clusters/1/images?min_quality=nan"), 422),
    ("a quality without end", get("/api/clusters/1/images?min_quality=1e999"), 422),
    ("a source of 2^63", get("/api/generations?source_image_id=9223372036854775808"), 422),
    ("generations after 2^63", get("/api/generations?after_id=9223372036854775808"), 422),
    ("ids of 2^63", post("/api/sync/images/fetch", b'{"ids": [9223372036854775808]}'), 422),
    ("ids of 5,000 digits", post("/api/sync/images/fetch", b'{"ids": [' + DIGITS + b"]}"), 400),
    ("ids without end", post("/api/sync/images/fetch", b'{"ids": [1e999]}'), 422),
    ("too many ids", post("/api/sync/images/fetch", b'{"ids": [' + b"1," * 100_000 + b"1]}"), 422),
    ("like an image of 2^63", post("/api/images/similar", b'{"image_id": 9223372036854775808}'), 422),
    ("so many hits", post("/api/images/similar", b'{"image_id": 1, "top_k": ' + DIGITS + b"}"), 400),
    ("a vector of NaN", post("/api/images/similar", b'{"embedding": [' + b"NaN," * 127 + b"NaN]}"), 422),
    ("a vector without end", post("/api/images/similar", b'{"embedding": [' + b"1e999," * 127 + b"1]}"), 422),
    ("a vector too large for its floats", post("/api/images/similar", b'{"embedding": [' + b"1e39," * 127 + b"1]}"), 422),
    ("a vector of 100,000", post("/api/images/similar", b'{"embedding": [' + b"0," * 100_000 + b"1]}"), 422),
    ("a generation that is none", send("PATCH", "/api/generations/%C2%B2", b"{}"), 404),
    ("a generation of 5,000 digits", send("PATCH", "/api/generations/" + "9" * 5000, b"{}"), 404),
    ("a generation of 2^63", send("PATCH", "/api/generations/9223372036854775808", b"{}"), 404),
    # texts
    ("NUL in a query", get("/api/images?query=a%00b"), 400),
    ("NUL in a batch", get("/api/generations?batch_id=%00"), 400),
    ("NUL in a path", get("/api/sync/%00"), 400),
    ("NUL in a map's type", get("/api/images/1/controlnet/a%00b"), 400),
    ("lines in a path", get("/api/sync/x%0d%0aInjected:%20y"), 400),
    ("escape sequences in a path", get("/api/sync/%1b%5b2J"), 400),
    ("a path out of the folder", get("/api/images/..%2f..%2fetc%2fpasswd"), 404),
    ("a path out of the server", get("/../../etc/passwd"), 404),
    ("no UTF-8 in a path", get("/api/sync/%ff%fe"), 404),
    ("half a character in a layer", post("/api/images/similar", b'{"image_id": 1, "query_type": ' + HALF + b"}"), 422),
    ("half a character in a text", post("/api/images/similar", b'{"query_type": "semantic", "text_query": ' + HALF + b"}"), 422),
    ("a layer of 100 kB", post("/api/images/similar", b'{"image_id": 1, "query_type": "' + b"x" * 100_000 + b'"}'), 422),
    ("a text of 100 kB", post("/api/images/similar", b'{"query_type": "semantic", "text_query": "' + b"x" * 100_000 + b'"}'), 422),
    ("a batch's name of 10 kB", get("/api/generations?batch_id=" + "x" * 10_000), 422),
    ("a key of 10 kB", send("POST", "/api/generations", b'{"operation": "txt2img"}', "Idempotency-Key: " + "x" * 10_000), 422),
    ("a key that is none", send("POST", "/api/generations", b'{"operation": "txt2img"}', "Idempotency-Key: a b"), 422),
    # bodies
    ("no JSON", post("/api/images/similar", b"<xml/>"), 422),
    ("half of it", post("/api/images/similar", b'{"image_id": 1'), 422),
    ("no UTF-8", post("/api/generations", b'{"operation": "\xff"}'), 400),
    ("deep nesting", post("/api/images/similar", DEEP), 400),
    ("a list", post("/api/generations", b"[]"), 422),
    ("nothing", post("/api/generations", b""), 422),
    ("null", post("/api/generations", b"null"), 422),
    ("keys of every kind", made(b'"key": ["a"]'), 422),
    ("half a character in what was made", made(b'"extra_metadata": {"x": ' + HALF + b"}"), 422),
    ("half a character in a name", made(b'"extra_metadata": {' + HALF + b": 1}"), 422),
    ("half a prompt", made(b'"prompt": ' + HALF), 422),
    ("deep things in what was made", made(b'"extra_metadata": {"x": ' + b"[" * 300 + b"]" * 300 + b"}"), 422),
    ("deeper things", made(b'"extra_metadata": {"x": ' + DEEP + b"}"), 400),
    ("numbers without end in what was made", made(b'"extra_metadata": {"x": 1e999}'), 422),
    ("a seed of 2^64", made(b'"seed": 18446744073709551616'), 422),
    ("a seed of 5,000 digits", made(b'"seed": ' + DIGITS), 400),
    ("a seed in a script", made('"seed": "²"'.encode()), 422),
    ("steps without end", made(b'"steps": 1e999'), 422),
    ("a source of 2^63 in what was made", made(b'"source_image_id": 9223372036854775808'), 422),
    ("keypoints with half a character", send("PUT", "/api/images/1/controlnet/openpose", drawn_map(b'{"a": ' + HALF + b"}")), 422),
    ("deep keypoints", send("PUT", "/api/images/1/controlnet/openpose", drawn_map(b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}")), 422),
    ("keypoints without end", send("PUT", "/api/images/1/controlnet/openpose", drawn_map(b'{"a": Infinity}')), 422),
    ("a map of 180 million pixels", send("PUT", "/api/images/1/controlnet/canny", b'{"image_base64": "' + huge_png(13_377).encode() + b'"}'), 422),
    ("a map of 10^18 pixels", send("PUT", "/api/images/1/controlnet/canny", b'{"image_base64": "' + huge_png(10**9).encode() + b'"}'), 422),
    ("a method that is none", bare("BREW", "/api/images", "Connection: close"), 405),
    ("a deleting", bare("DELETE", "/api/images/1", "Connection: close"), 405),
    # names that others mean this machine, or any, by
    ("every address of ours", get("/api/images/1", "Host: 0.0.0.0"), 421),
    ("half of our address", get("/api/images/1", "Host: 127.1"), 421),
    ("our address as a number", get("/api/images/1", "Host: 2130706433"), 421),
    ("our address in sixteens", get("/api/images/1", "Host: 0x7f.0.0.1"), 421),
    ("our name with a dot", get("/api/images/1", "Host: localhost."), 421),
    ("our name in circles", b"GET /api/images/1 HTTP/1.1\r\nHost: \xe2\x93\x9b\xe2\x93\x9ecalhost\r\nConnection: close\r\n\r\n", 421),
    ("a name in punycode", get("/api/images/1", "Host: xn--localhost-9ua"), 421),
    ("another address in ours", get("/api/images/1", "Host: [::ffff:8.8.8.8]"), 421),
    ("a zone", get("/api/images/1", "Host: [::1%25eth0]"), 421),
    ("a site that is none", get("/api/images/1", "Sec-Fetch-Site: x"), 403),
    ("our name below another's", get("/api/images/1", "Origin: http://HOST.evil.example"), 403),
    ("a file's origin", get("/api/images/1", "Origin: file://"), 403),
    # what is no request of ours, or of two readings
    ("a trace", bare("TRACE", "/api/images", "Connection: close"), 405),
    ("a tunnel", bare("CONNECT", "evil.example:443", "Connection: close"), 404),
    ("another server's address", bare("GET", "http://evil.example/api/images", "Connection: close"), 404),
    ("HTTP/2 at once", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 421),
    ("HTTP of the first days", b"GET /api/images\r\n\r\n", 400),
    ("10,000 headers", b"GET /api/images HTTP/1.1\r\nHost: HOST\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", 431),
    ("a space before the colon", b"GET /api/images HTTP/1.1\r\nHost : HOST\r\n\r\n", 400),
    ("a header of no name", b"GET /api/images HTTP/1.1\r\nHost: HOST\r\n: x\r\n\r\n", 400),
    ("NUL in a header", b"GET /api/images HTTP/1.1\r\nHost: HOST\r\nX: a\0b\r\n\r\n", 400),
    ("a line's end in a header", b"GET /api/images HTTP/1.1\r\nHost: HOST\r\nX: a\rContent-Length: 9\r\n\r\n", 400),
    ("a length with a sign", bare("POST", "/api/images/similar", "Content-Length: +2", body=b"{}"), 400),
    ("a length in sixteens", bare("POST", "/api/images/similar", "Content-Length: 0x2", body=b"{}"), 400),
    ("lengths in one", bare("POST", "/api/images/similar", "Content-Length: 2, 3", body=b"{}"), 400),
    ("chunks by another name", bare("POST", "/api/images/similar", "Transfer-Encoding: xchunked", "Content-Length: 2", body=b"{}"), 400),
    ("chunks behind a mask", bare("POST", "/api/images/similar", "Transfer-Encoding: identity, chunked", body=b"2\r\n{}\r\n0\r\n\r\n"), 400),
    ("chunks in old HTTP", b"POST /api/images/similar HTTP/1.0\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 411),
    ("may I send much", bare("POST", "/api/images/similar", "Expect: 100-continue", "Content-Length: 99999999999", "Connection: close"), 413),
    # paths
    ("dots in code", get("/api/images/%2e%2e/%2e%2e/etc/passwd"), 404),
    ("dots in code in code", get("/api/images/%252e%252e%252fetc%252fpasswd/file"), 422),
    ("dots that are too long", get("/api/sync/%c0%ae%c0%ae%2f%c0%ae%c0%ae"), 404),
    ("backslashes", get("/api/sync/..%5c..%5cwindows%5cwin.ini"), 404),
    ("a device", get("/api/sync/CON"), 404),
    ("a device's map", get("/api/images/1/controlnet/NUL.png"), 422),
    ("a stream of a file", get("/api/images/1/controlnet/canny::$DATA"), 422),
    ("a map out of the folder", send("PUT", "/api/images/1/controlnet/..%5c..%5cx", drawn_map(b"null")), 422),
    ("a share", get("/api/sync/%5c%5cevil.example%5cshare"), 404),
    ("a kind of 10 kB", get("/api/sync/" + "x" * 10_000), 404),
    ("a page of a folder", get("/.git/config"), 404),
    # what bodies say they are
    ("a zipped bomb", send("POST", "/api/images/similar", gzip.compress(bytes(64 << 20)), "Content-Encoding: gzip"), 400),
    ("a form", bare("POST", "/api/generations", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 17", "Connection: close", body=b"operation=txt2img"), 422),
    ("text that is JSON", bare("POST", "/api/generations", "Content-Type: text/plain", "Content-Length: 24", "Connection: close", body=b'{"operation": "txt2img"} '), 422),
    ("JSON of two bytes a letter", post("/api/images/similar", '{"image_id": 1, "top_k": 0}'.encode("utf-16")), 422),
    ("true for one", post("/api/sync/images/fetch", b'{"ids": [true]}'), 422),
    ("a text for one", post("/api/images/similar", b'{"image_id": "1"}'), 422),
    # numbers and queries
    ("a thumbnail of nothing", get("/api/images/1/thumbnail?size=0"), 422),
    ("a thumbnail of 10^9", get("/api/images/1/thumbnail?size=1000000000"), 422),
    ("an order that is none", get("/api/clusters/1/images?sort=id;drop"), 422),
    ("spaces in a date", get("/api/images?query=date:between" + "%20" * 2500), 422),
    ("brackets without end", get("/api/images?query=" + "(" * 5000), 422),
    ("a date at the end of time", get("/api/images?query=date:before%2099999-12-31"), 422),
]  # fmt: skip


def is_well(server: str) -> None:
    assert requests.get(f"{server}/api/health", timeout=10).json()["status"] == "ok"


@pytest.mark.parametrize(("request_", "status"), [r[1:] for r in REQUESTS], ids=[r[0] for r in REQUESTS])
def test_each_hostile_request_is_refused(server: str, request_: bytes, status: int) -> None:
    found, headers, body = answer(server, request_)
    assert found == status
    if headers["content-type"].startswith("application/"):  # not uvicorn's own words on what is no HTTP
        problem = json.loads(body)
        assert headers["content-type"] == "application/problem+json"
        assert headers["x-content-type-options"] == "nosniff"
        assert problem["status"] == status
        assert 0 < len(problem["detail"]) <= 1000
        assert "\x1b" not in problem["detail"]
        assert "Traceback" not in problem["detail"]
    is_well(server)


def test_there_are_many_hostile_requests() -> None:
    assert len({name for name, *_ in REQUESTS}) == len(REQUESTS) >= 120


def memory(server: str) -> float:
    """Bytes that the server holds, as it says itself (on Linux)."""
    told = requests.get(f"{server}/metrics", timeout=30).text
    found = re.search(r"^(?:luna_dt_)?process_resident_memory_bytes (\S+)", told, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_health_and_memory_hold_while_they_run(server: str) -> None:
    """Health answers within a second, or in ten times what it takes on this machine when nothing else is asked."""

    def health() -> float:
        start = time.monotonic()
        is_well(server)
        return time.monotonic() - start

    alone, rest = max(health() for _ in range(20)), memory(server)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(answer, server, request) for _, request, _ in REQUESTS * 2]
        slowest, held = 0.0, rest
        while not all(each.done() for each in running):
            slowest, held = max(slowest, health()), max(held, memory(server))
    assert [each.result()[0] for each in running] == [status for *_, status in REQUESTS * 2]
    assert slowest < max(1.0, 10 * alone)
    assert held - rest < 200e6


def test_another_protocol_is_not_begun(server: str) -> None:
    for name in ("websocket", "h2c"):
        key = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "HTTP2-Settings: AAMAAABk")
        lines = ["GET /api/images/1 HTTP/1.1", "Host: HOST", f"Upgrade: {name}", "Connection: Upgrade", *key]
        found, told, body = answer(server, ("\r\n".join(lines) + "\r\n\r\n").encode())
        assert (found, json.loads(body)["id"]) == (200, 1)  # answered as what it also is, and in HTTP
        assert "upgrade" not in told


def test_a_request_inside_another_is_its_body(server: str) -> None:
    inner = get("/api/images/2")
    outer = bare("GET", "/api/images/1", f"Content-Length: {len(inner)}", "Connection: close", body=inner)
    address = urlsplit(server)
    with socket.create_connection((address.hostname, address.port), 30) as connection:
        connection.sendall(outer.replace(b"HOST", address.netloc.encode()).replace(b"%d" % len(inner), b"%d" % len(inner.replace(b"HOST", address.netloc.encode()))))  # fmt: skip
        said = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert said.count(b"HTTP/1.1 ") == 1
    assert b'"id":1,' in said


def test_who_is_no_stranger_is_answered(server: str) -> None:
    for headers in ((), ("Origin: http://HOST",), ("Sec-Fetch-Site: same-origin",), ("Sec-Fetch-Site: none",)):
        found, told, _ = answer(server, get("/api/images/1", *headers))
        assert (found, told["x-content-type-options"]) == (200, "nosniff")
    assert answer(server, get("/api/images?after_id=9223372036854775807"))[2] == b"[]"


def test_bytes_are_counted_as_they_come(server: str) -> None:
    """More than was said is no part of the request, less never comes; both end soon."""
    more = bare("POST", "/api/images/similar", "Content-Length: 2", body=b"{}" + b"x" * 100_000)
    assert answer(server, more)[0] == 422
    address = urlsplit(server)
    with socket.create_connection((address.hostname, address.port), 30) as connection:
        connection.sendall(bare("POST", "/api/images/similar", "Content-Length: 4", "Transfer-Encoding: chunked").replace(b"HOST", address.netloc.encode()))  # fmt: skip
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 600 << 20:
                sent += connection.send(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n")
    assert sent < 100 << 20  # it hangs up instead of reading on
    is_well(server)


def test_a_head_without_end_is_not_taken(server: str) -> None:
    address = urlsplit(server)
    sent = 0
    with socket.create_connection((address.hostname, address.port), 30) as to, contextlib.suppress(ConnectionError):
        while sent < 100 << 20:
            sent += to.send(b"GET / HTTP/1.1\r\nX: " if not sent else b"x" * (1 << 16))
    assert sent < 50 << 20
    is_well(server)


def test_silent_clients_keep_nobody_out(server: str) -> None:
    address = urlsplit(server)
    with contextlib.ExitStack() as silent:
        for _ in range(400):
            silent.enter_context(socket.create_connection((address.hostname, address.port), 30))
        for _ in range(3):
            is_well(server)


def test_bodies_that_do_not_come_keep_nobody_out(server: str) -> None:
    address = urlsplit(server)
    with contextlib.ExitStack() as slow:
        for _ in range(40):
            connection = slow.enter_context(socket.create_connection((address.hostname, address.port), 30))
            connection.sendall(bare("POST", "/api/images/similar", "Content-Length: 100").replace(b"HOST", address.netloc.encode()))  # fmt: skip
        is_well(server)
        assert requests.get(f"{server}/api/images?limit=1", timeout=30).status_code == 200


TOKEN = "ключ 鍵 🔑"


@pytest.fixture(scope="module")
def closed(drawn: Drawn) -> Iterator[str]:
    with served(drawn.address, token=TOKEN) as url:
        yield url


def test_a_token_in_any_script_opens(closed: str) -> None:
    with contextlib.closing(RestCatalog(closed, token=TOKEN)) as catalog:
        assert catalog.health().name == "luna_dt"
    for said in (b"Bearer " + TOKEN.encode(), b"bearer   " + TOKEN.encode()):
        assert requests.get(f"{closed}/api/health", headers={"Authorization": said}, timeout=30).status_code == 200
    for said in (b"Bearer", b"Bearer ", b"Bearer \xff\xfe", TOKEN.encode(), b"Basic " + TOKEN.encode(), b"Bearer " + TOKEN.encode() + b"x"):  # fmt: skip
        assert requests.get(f"{closed}/api/health", headers={"Authorization": said}, timeout=30).status_code == 401


def test_a_token_opens_to_no_other_page(closed: str) -> None:
    token = {"Authorization": b"Bearer " + TOKEN.encode()}
    for more, status in (
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Host": "[::1"}, 400),
        ({"Host": "elsewhere.example"}, 200),  # a name that others know this machine by
    ):
        assert requests.get(f"{closed}/api/images/1", headers={**token, **more}, timeout=30).status_code == status


@pytest.fixture
def files(postgres: str, schema: str, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server over images 1 … of a folder that a test fills: a.png, link.png, x.svg …, in the order of NAMES."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    with psycopg.connect(postgres) as connection:
        database.create_tables(connection, schema, {})
        for i, name in enumerate(NAMES, 1):
            values = {"id": i, "path": f"{folder}/{name}", "file_name": "", "root_folder_id": 1, "folder_id": 1}
            dates = {"created_date": "2026-01-01", "modified_date": "2026-01-01"}
            database.insert(connection.cursor(), "image", {**values, **dates})
    with served(f"{postgres}&schema={schema}") as url:
        yield url, folder


NAMES = ("a.png", "link.png", "inside.png", "text.png", "x.svg", "page.html", "a.webp", "folder.png", "pipe.png", "round.png", "sub/a.png", "n" * 300 + ".png", "a.PNG.txt", "a.jpg")  # fmt: skip


def test_only_pictures_in_the_folder_are_served(files: tuple[str, Path], tmp_path: Path) -> None:
    import os

    url, folder = files
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(b"a folder that is linked")
    for name in ("a.png", "x.svg", "page.html", "a.webp", "a.PNG.txt", "a.jpg"):
        (folder / name).write_bytes(name.encode())
    (folder / "secret.txt").write_bytes(b"secret")
    (folder / "link.png").symlink_to(secret)
    (folder / "inside.png").symlink_to("a.png")
    (folder / "text.png").symlink_to("secret.txt")
    (folder / "round.png").symlink_to("round.png")
    (folder / "folder.png").mkdir()
    (folder / "sub").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folder / "pipe.png")
    types = {}
    for i, name in enumerate(NAMES, 1):
        small = requests.get(f"{url}/api/images/{i}/thumbnail", timeout=30)
        got = requests.get(f"{url}/api/images/{i}/file", timeout=30)
        assert (small.status_code, small.json()["code"]) == (
            (422, "bad_picture") if got.ok else (404, "picture_missing")
        )
        assert b"secret" not in got.content
        assert got.headers["x-content-type-options"] == "nosniff"
        if got.status_code == 200:
            types[name] = got.headers["content-type"]
        else:
            assert (got.status_code, got.json()["code"]) == (404, "picture_missing")
    # the folder itself may be a link: it is the folder that the database names
    assert types == {"a.png": "image/png", "inside.png": "image/png", "a.webp": "image/webp", "a.jpg": "image/jpeg", "sub/a.png": "image/png"}  # fmt: skip


def test_a_picture_that_the_client_has_is_not_sent_again(files: tuple[str, Path]) -> None:
    url, folder = files
    (folder / "a.png").write_bytes(b"0123456789")

    def ask(**headers: str) -> requests.Response:
        return requests.get(f"{url}/api/images/1/file", headers={k.replace("_", "-"): v for k, v in headers.items()}, timeout=30)  # fmt: skip

    tag = ask().headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = ask(If_None_Match=known)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert ask(If_None_Match='"other"').content == b"0123456789"
    for part, content in (("0-3", b"0123"), ("8-", b"89"), ("-3", b"789"), ("5-99", b"56789"), ("-99", b"0123456789")):
        got = ask(Range=f"bytes={part}")
        assert (got.status_code, got.content) == (206, content)
        assert got.headers["content-range"].endswith("/10")
    for odd in ("bytes=x", "bytes=3-1,5-7", "bytes=" + "0-0," * 1000 + "1-1", "lines=1-2", "bytes=-", "bytes=²-"):
        assert ask(Range=odd.encode("latin-1", "ignore").decode("latin-1")).status_code == 200
    for none in ("10-", "99-100", "-0", "9" * 18 + "-"):
        got = ask(Range=f"bytes={none}")
        assert (got.status_code, got.json()["code"], got.headers["content-range"]) == (
            416,
            "no_such_part",
            "bytes */10",
        )
    assert ask(Range="bytes=0-3", If_Range='"other"').status_code == 200
    assert ask(Range="bytes=0-3", If_Range=tag).status_code == 206
    time.sleep(0.01)
    (folder / "a.png").write_bytes(b"9876543210")
    assert ask(If_None_Match=tag).content == b"9876543210"


def test_a_thumbnail_is_made_once_and_not_sent_again(files: tuple[str, Path]) -> None:
    from PIL import Image

    url, folder = files
    Image.new("RGB", (900, 600)).save(folder / "a.png")
    got = requests.get(f"{url}/api/images/1/thumbnail?size=200", timeout=30)
    assert (got.status_code, got.headers["content-type"]) == (200, "image/webp")
    assert Image.open(io.BytesIO(got.content)).size == (256, 171)
    same = requests.get(f"{url}/api/images/1/thumbnail", headers={"If-None-Match": got.headers["etag"]}, timeout=30)
    assert (same.status_code, same.content) == (304, b"")
    larger = requests.get(f"{url}/api/images/1/thumbnail?size=512", headers={"If-None-Match": got.headers["etag"]}, timeout=30)  # fmt: skip
    assert larger.status_code == 200
    (folder / "a.png").write_bytes(base64.b64decode(huge_png(13_377)))
    huge = requests.get(f"{url}/api/images/1/thumbnail?size=200", timeout=30)
    assert (huge.status_code, huge.json()["code"]) == (422, "bad_picture")


def test_requests_are_counted_by_call(server: str) -> None:
    requests.get(f"{server}/api/images/1", timeout=30)
    requests.get(f"{server}/evil/{'x' * 50}", timeout=30)
    told = requests.get(f"{server}/metrics", timeout=30).text
    assert 'luna_dt_requests_total{call="/api/images/{image_id}",method="GET",status="200"}' in told
    assert 'luna_dt_requests_total{call="none",method="GET",status="404"}' in told
    assert "evil" not in told


def test_what_is_stored_as_poison_breaks_no_list(drawn: Drawn, server: str) -> None:
    def record(key: str) -> Any:
        body = {"operation": "txt2img", "source_image_id": 77, "key": key}
        return requests.post(f"{server}/api/generations", json=body, timeout=30).json()

    first = record("sound-1")
    assert "id" in first, first
    schema = drawn.address.rpartition("=")[2]
    deep = "[" * 3000 + "]" * 3000
    poison = ('{"extra_metadata": {"x": "\\ud83d"}}', f'{{"extra_metadata": {{"x": {deep}}}}}', "[1, 2]", "null", '{"seed": -1}')  # fmt: skip
    with psycopg.connect(drawn.address.partition("&schema")[0]) as connection:
        for i, stored in enumerate(poison):
            connection.execute(
                "INSERT INTO luna_dt.generations (collection, key, source_image_id, batch_id, posted, record) "
                "VALUES (%s, %s, 77, '', %s, %s)",
                [schema, f"poison {i}", stored, stored],
            )
    last = record("sound-2")
    found = requests.get(f"{server}/api/generations?source_image_id=77", timeout=30).json()
    assert [each["id"] for each in found] == [first["id"], last["id"]]
    page = requests.get(f"{server}/api/generations?source_image_id=77&limit=1&after_id={first['id']}", timeout=30)
    assert [each["id"] for each in page.json()] == [last["id"]]
    poisoned = int(first["id"]) + 1
    changed = requests.patch(f"{server}/api/generations/{poisoned}", json={"prompt": "x"}, timeout=30)
    assert (changed.status_code, changed.json()["code"]) == (502, "dt_bad_answer")
