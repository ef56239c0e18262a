"""A server that means ill, or is broken: what our client makes of its answers, each a clear error within its time."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from luna_dt import Library
from luna_dt.dt import wire
from luna_dt.dt.rest import RestCatalog
from luna_dt.errors import BadAnswer, LunaError, Refused, Unreachable
from luna_dt.generation import Generation
from luna_dt.records import Batch, StoredMap
from tests.conftest import IDENTITY, unit_vectors
from tests.loopback import Handler, Loopback

LONG = 60.0  # seconds after which a server that drips gives up, so that a client that waits for it fails, not hangs
Call = Callable[[RestCatalog], Any]
Sent = Iterable[bytes]


class Hostile(Loopback):
    """Says the bytes that a test gives it, whatever is asked."""

    def __init__(self, sent: Callable[[str], Sent]) -> None:
        self.asked: list[str] = []
        hostile = self

        class Saying(Handler):
            def handle_one(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                hostile.asked.append(self.path)
                self.close_connection = True
                for piece in sent(self.path):
                    self.wfile.write(piece)
                    self.wfile.flush()

            do_GET = do_POST = do_PUT = do_PATCH = handle_one  # noqa: N815

        super().__init__(Saying)


def head(length: int | None = None, status: str = "200 OK", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *more]
    if length is not None:
        lines.append(f"content-length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def said(body: Any, status: str = "200 OK", *more: str) -> Sent:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return [head(len(data), status, *more), data]


def endless(start: bytes, piece: bytes) -> Sent:
    return itertools.chain([start], itertools.repeat(piece * (1 + (1 << 20) // len(piece))))


def dripping(start: bytes, piece: bytes = b" ") -> Sent:
    yield start
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        yield piece
        time.sleep(0.05)


def chunked(piece: bytes) -> Sent:
    yield head(None, "200 OK", "transfer-encoding: chunked")
    yield from endless(b"", b"%x\r\n%b\r\n" % (len(piece), piece))


def array(descr: str, shape: str, data: bytes = b"") -> bytes:
    line = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + data


def image(i: Any, **more: Any) -> dict[str, Any]:
    return {"id": i, "path": f"{i}.png", **more}


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def one(catalog: RestCatalog) -> Any:
    return catalog.image(1)


def many(catalog: RestCatalog) -> Any:
    return catalog.images(limit=10_000)


def similar(catalog: RestCatalog) -> Any:
    return catalog.similar("visual", np.ones(3, np.float32), None, 10, -1)


def record(catalog: RestCatalog) -> Any:
    return catalog.record(Generation(key="k"))


def vectors(catalog: RestCatalog) -> Any:
    return list(catalog.fetch("embeddings.visual", np.array([1, 2])))


def records(catalog: RestCatalog) -> Any:
    return list(catalog.fetch("images", np.array([1, 2])))


def digests(catalog: RestCatalog) -> Any:
    return catalog.digests("images")


def described(catalog: RestCatalog) -> Any:
    return catalog.kinds()


def put_map(catalog: RestCatalog) -> Any:
    return catalog.put_map(1, "canny", StoredMap(b"x"))


EMPTY = head()
KEYS = wire.pack_digests(np.arange(1, 3), np.arange(1, 3))
HALF = json.dumps("half \ud83d").encode()
#: A name, what is called, what the server says, the error, and what it says.
ANSWERS: list[tuple[str, Call, Callable[[], Sent], type[LunaError], str]] = [
    # sizes: each kind of answer has its own limit, kept while it is read
    ("endless record", one, lambda: endless(EMPTY, b" "), BadAnswer, "more than 369,098,752 bytes"),
    ("endless list", many, lambda: endless(EMPTY, b"[" + b" " * 99), BadAnswer, "more than 67,108,864 bytes"),
    ("endless list in chunks", many, lambda: chunked(b" " * 65536), BadAnswer, "more than 67,108,864 bytes"),
    ("said to be huge", many, lambda: [head(10**18)], BadAnswer, "more than 67,108,864 bytes"),
    ("endless picture", lambda c: c.file(1), lambda: endless(EMPTY, b"x"), BadAnswer, "more than 268,435,456 bytes"),
    ("endless captions", lambda c: c.captions(1), lambda: endless(EMPTY, b" "), BadAnswer, "more than 1,048,576"),
    ("endless health", lambda c: c.health(), lambda: endless(EMPTY, b" "), BadAnswer, "more than 1,048,576"),
    ("endless kinds", described, lambda: endless(EMPTY, b" "), BadAnswer, "more than 1,048,576"),
    ("endless map", lambda c: c.control_map(1, "canny"), lambda: endless(EMPTY, b" "), BadAnswer, "more than 201,3"),
    ("endless stored", record, lambda: endless(EMPTY, b" "), BadAnswer, "more than 1,048,576"),
    ("endless error", one, lambda: endless(head(None, "500 Oops"), b"x"), Refused, "500: Oops"),
    ("endless redirect", one, lambda: endless(head(None, "302 Found", "location: /y"), b"x"), Refused, "302"),
    ("endless line", records, lambda: endless(EMPTY, b"x"), BadAnswer, "one of more than 33,554,432 bytes"),
    ("endless lines", records, lambda: endless(EMPTY, b'{"id":1,"path":"","digest":"1"}\n'), BadAnswer, "more lines than can be"),
    ("endless digests", digests, lambda: [EMPTY, array("<i8", "(99999999999, 2)")], BadAnswer, "break off"),
    ("a zipped bomb", many, lambda: said(b"x", "200 OK", "content-encoding: gzip"), BadAnswer, "encoding that it was"),
    # times: nothing is waited for longer than the call may take
    ("silence", one, lambda: dripping(b"", b""), Unreachable, "no answer in time"),
    ("dripping status", one, lambda: dripping(b"", b"H"), Unreachable, "does not answer"),
    ("dripping headers", one, lambda: dripping(b"HTTP/1.1 200 OK\r\nx: "), Unreachable, "no answer in time"),
    ("endless continue", one, lambda: dripping(b"", head(None, "100 Continue")), Unreachable, "no answer in time"),
    ("dripping body", one, lambda: dripping(head(10**6)), Unreachable, "no answer in time"),
    ("dripping file", lambda c: c.file(1), lambda: dripping(EMPTY, b"x"), Unreachable, "no answer in time"),
    ("dripping list", many, lambda: dripping(EMPTY), Unreachable, "no answer in time"),
    ("dripping lines", records, lambda: dripping(EMPTY, b"\n"), Unreachable, "no answer in time"),
    ("dripping numbers", digests, lambda: dripping(EMPTY + KEYS[:-32], b""), Unreachable, "no answer in time"),
    ("dripping error", one, lambda: dripping(head(10**6, "500 Oops")), Refused, "Oops"),
    ("dripping put", put_map, lambda: dripping(EMPTY), Unreachable, "no answer in time"),
    ("come back in an hour", one, lambda: said({}, "503 Busy", "retry-after: 3600"), Refused, r"again in 3,[56]\d\d s"),
    ("come back tomorrow", one, lambda: said({}, "429 Slow", "retry-after: Fri, 31 Dec 9999 23:59:59 GMT"), Refused, "again in"),
    ("come back at no time", one, lambda: said({}, "503 Busy", "retry-after: soon"), Refused, "503: Busy"),
    ("come back in 10^99", one, lambda: said({}, "503 Busy", "retry-after: " + "9" * 99), Refused, "again in"),
    # pages that do not advance
    ("a page again", many, lambda: said([image(i) for i in range(1, 1001)]), BadAnswer, "do not go on after 1000"),
    ("a page backwards", many, lambda: said([image(i) for i in (5, 4)]), BadAnswer, "in the order of their ids"),
    ("a page of one image", many, lambda: said([image(7)] * 1000), BadAnswer, "in the order of their ids"),
    ("a page of nobody", many, lambda: said([image("x")] * 1000), BadAnswer, "in the order of their ids"),
    # redirects
    ("to another host", one, lambda: said(b"", "301 Moved", "location: http://evil.example/x"), Refused, "evil.example"),
    ("to a file", one, lambda: said(b"", "308 Moved", "location: file:///etc/passwd"), Refused, "not followed"),
    ("to nowhere", one, lambda: said(b"", "307 Moved", "location: http://[::1"), Refused, "not followed"),
    ("a call put elsewhere", record, lambda: said(b"", "307 Moved", "location: //evil.example"), Refused, "not followed"),
    # no HTTP, no JSON, no mapping, no list
    ("nothing at all", one, list, Unreachable, "does not answer"),
    ("another protocol", one, lambda: [b"SSH-2.0-OpenSSH_9.9\r\n"], Unreachable, "does not answer"),
    ("a header of 1 MB", one, lambda: [b"HTTP/1.1 200 OK\r\nx: " + b"x" * (1 << 20)], Unreachable, "does not answer"),
    ("10,000 headers", one, lambda: [head(0, "200 OK", *["x: y"] * 10_000)], Unreachable, "does not answer"),
    ("chunks that are none", one, lambda: [head(None, "200 OK", "transfer-encoding: chunked"), b"zz\r\n"], Unreachable, "answer"),
    ("breaking off", one, lambda: [head(500), b"{"], Unreachable, "does not answer"),
    ("a page for people", one, lambda: said(b"<html>"), BadAnswer, "not JSON"),
    ("nothing in it", one, lambda: said(b""), BadAnswer, "not JSON"),
    ("no UTF-8", one, lambda: said(b'{"id": "\xff"}'), BadAnswer, "not JSON"),
    ("deep nesting", one, lambda: said(nested(200_000)), BadAnswer, "not JSON"),
    ("a number of 5,000 digits", one, lambda: said(b'{"id": ' + b"9" * 5000 + b"}"), BadAnswer, "is not JSON|cannot be read"),
    ("a list for a record", one, lambda: said([]), BadAnswer, "no mapping"),
    ("null for a record", one, lambda: said(None), BadAnswer, "no mapping"),
    ("a record for a list", many, lambda: said({"images": {}}), BadAnswer, "no list of images"),
    ("numbers for records", many, lambda: said([1, 2]), BadAnswer, "no list of images"),
    ("an id of 2^63", one, lambda: said(image(2**63)), BadAnswer, "64 bits"),
    ("half a character", one, lambda: said(b'{"id": 1, "path": ' + HALF + b"}"), BadAnswer, "half a character"),
    ("captions in a list", lambda c: c.captions(1), lambda: said([]), BadAnswer, "no mapping"),
    ("half a caption", lambda c: c.captions(1), lambda: said(b'{"joycaption": ' + HALF + b"}"), BadAnswer, "half a char"),
    ("tags of numbers", lambda c: c.captions(1), lambda: said({"tags": [5]}), BadAnswer, "no text"),
    ("similar to NaN", similar, lambda: said([image(1, similarity=float("nan"))]), BadAnswer, "without its similarity"),
    ("similar to a list", similar, lambda: said([image(1, similarity=[])]), BadAnswer, "without its similarity"),
    ("health in words", lambda c: c.health(), lambda: said("ok"), BadAnswer, "does not say that it is well"),
    ("stored as nothing", record, lambda: said({"id": None}), BadAnswer, "under which id"),
    ("stored as a book", record, lambda: said({"id": "x" * 999}), BadAnswer, "under which id"),
    ("stored as a list", record, lambda: said({"id": ["1"]}), BadAnswer, "under which id"),
    ("a map of nothing", lambda c: c.control_map(1, "canny"), lambda: said({}), BadAnswer, "neither image_base64 nor path"),
    ("a map that is none", lambda c: c.control_map(1, "canny"), lambda: said({"image_base64": "%"}), BadAnswer, "no base64"),
    ("half a pose", lambda c: c.control_map(1, "openpose"), lambda: said(b'{"path": "x", "keypoints": {"a": ' + HALF + b"}}"), BadAnswer, "keypoints that are none"),
    # mirroring
    ("kinds in words", described, lambda: said({"images": "many"}), BadAnswer, "/api/sync with images described"),
    ("kinds without end", described, lambda: said(b'{"images": {"count": 1e999}}'), BadAnswer, "images described"),
    ("a layer without identity", described, lambda: said({"embeddings.visual": {"count": 1}}), BadAnswer, "identity"),
    ("a layer of 10^9", described, lambda: said({"embeddings.visual": {**IDENTITY.to_json(), "dim": 10**9}}), BadAnswer, "1,000,000,000 dim"),
    ("numbers of 10^18", digests, lambda: said(array("<i8", f"({10**18}, 2)")), BadAnswer, "break off"),
    ("numbers in three columns", digests, lambda: said(array("<i8", "(1, 3)", bytes(24))), BadAnswer, "was due"),
    ("numbers below zero", digests, lambda: said(array("<i8", "(-1, 2)")), BadAnswer, "sent|read"),
    ("objects", digests, lambda: said(array("|O", "(1, 2)", bytes(16))), BadAnswer, "was due"),
    ("a program", digests, lambda: said(array("<i8", "__import__('os')")), BadAnswer, "cannot be read"),
    ("a line that is none", digests, lambda: said(array("<i8", "(((")), BadAnswer, "cannot be read"),
    ("a version of tomorrow", digests, lambda: said(b"\x93NUMPY\x09\x00" + bytes(99)), BadAnswer, "cannot be read"),
    ("a line without digest", records, lambda: said(b'{"id": 1}\n'), BadAnswer, "cannot be read"),
    ("a deep line", records, lambda: said(nested(200_000)), BadAnswer, "cannot be read"),
    ("a digest without end", records, lambda: said(b'{"id": 1, "digest": 1e999}\n'), BadAnswer, "cannot be read"),
]  # fmt: skip


def late(name: str, told: str) -> bool:
    return "dripping" in name or told == "no answer in time"


@pytest.mark.parametrize(
    ("name", "call", "answer", "error", "told"),
    [pytest.param(*case, id=case[0], marks=[pytest.mark.slow] * late(case[0], case[4])) for case in ANSWERS],
)
def test_each_hostile_answer_is_a_clear_error(
    name: str, call: Call, answer: Callable[[], Sent], error: type[LunaError], told: str
) -> None:
    server = Hostile(lambda path: said({"status": "ok", "capabilities": ["maps"]}) if "health" in path and call is put_map else answer())  # fmt: skip
    times = 10 if call in (records, digests) else 1  # a sync may take ten times as long
    catalog = RestCatalog(server.url, timeout=(0.5 if late(name, told) else 20.0) / times)
    start = time.monotonic()
    with pytest.raises(error, match=told) as raised:
        call(catalog)
    assert time.monotonic() - start < LONG / 2
    assert len(str(raised.value)) < 1000
    catalog.close()
    server.close()


def test_there_are_many_hostile_answers() -> None:
    assert len({name for name, *_ in ANSWERS}) == len(ANSWERS) >= 60


def test_the_deadline_is_one_for_all_tries() -> None:
    """Each try breaks off late, or asks to come back soon: all of them together end with the call's time."""

    def busy(_: str) -> Sent:
        time.sleep(0.4)
        return said({}, "503 Busy", "retry-after: 0.4" if len(server.asked) % 2 else "retry-after: 0")

    server = Hostile(busy)
    catalog = RestCatalog(server.url, timeout=1.0)
    with pytest.raises((Refused, Unreachable)):
        catalog.image(1)
    assert 1 < len(server.asked) <= 3
    catalog.close()
    server.close()


def test_what_a_server_says_reaches_nobody_with_its_escape_sequences() -> None:
    detail = "\x1b[2J\x1b]0;owned\x07\r\u202egnp.x\x9b31m" + "x" * 100_000
    for status, more in (
        ("500 Oops", {}),
        ("404 Not found", {"code": "unknown_image"}),
        ("422 No", {"code": "bad_input"}),
    ):
        server = Hostile(lambda _, status=status, more=more: said({"detail": detail, **more}, status))  # type: ignore[misc]
        catalog = RestCatalog(server.url)
        with pytest.raises(LunaError) as raised:
            catalog.image(1)
        assert not set(str(raised.value)) & {*map(chr, range(32)), *map(chr, range(127, 160)), "\u202e"}
        assert len(str(raised.value)) < 1000
        catalog.close()
        server.close()


def test_vectors_are_read_up_to_what_was_asked_for() -> None:
    block = b"".join(wire.pack_vectors([Batch(np.arange(1, 3), np.arange(1, 3), unit_vectors(2))], "float32"))
    identity = {"embeddings.visual": {"count": 2, **IDENTITY.to_json()}}
    answer: Sent = said(block)
    server = Hostile(lambda path: answer if path.endswith("/fetch") else said(identity))
    catalog = RestCatalog(server.url)
    assert [batch.ids.tolist() for batch in vectors(catalog)] == [[1, 2]]
    for answer, told in (  # noqa: B007
        (endless(EMPTY, block), "more than"),
        (said(KEYS + array("<f4", "(1000000000000, 16)")), "break off"),
        (said(KEYS + array("<f4", "(1, 16)", bytes(64))), "2 ids with 1 vectors"),
        (said(KEYS + array("<f4", "(2, 17)", bytes(136))), "was due"),
        (said(KEYS), "break off"),
    ):
        with pytest.raises(BadAnswer, match=told):
            vectors(catalog)
    catalog.close()
    server.close()


@pytest.fixture
def pages() -> Iterator[tuple[Hostile, int]]:
    """A server of images 1 to 10,500 that gives 10,000 at most, as ours does, and refuses to give more."""
    from urllib.parse import parse_qs, urlsplit

    def page(path: str) -> Sent:
        asked = {name: int(value) for name, (value,) in parse_qs(urlsplit(path).query).items() if name != "query"}
        if asked["limit"] > 10_000:
            return said({"code": "bad_input", "detail": "limit"}, "422 No")
        first = asked["after_id"] + 1
        return said([image(i) for i in range(first, min(10_501, first + asked["limit"]))])

    server = Hostile(page)
    yield server, 10_500
    server.close()


def test_many_images_are_asked_for_in_pages(pages: tuple[Hostile, int], tmp_path: Any) -> None:
    server, count = pages
    catalog = RestCatalog(server.url)
    assert [found.id for found in catalog.images(limit=20_000)] == list(range(1, count + 1))
    assert [found.id for found in catalog.images(after_id=10_499, limit=5)] == [10_500]
    assert [found.id for found in catalog.images(limit=1_500)] == list(range(1, 1_501))
    catalog.close()
    with Library(tmp_path, dt=server.url) as library:  # before a sync
        assert library.ids("a cat") == list(range(1, 10_002))


@pytest.mark.slow
def test_generations_without_an_end_are_given_up(tmp_path: Any) -> None:
    def page(path: str) -> Sent:
        after = int(path.partition("after_id=")[2].partition("&")[0])
        return said([{"id": after + 1, "operation": "txt2img", "key": f"k{after}"}])

    server = Hostile(page)
    with Library(tmp_path, dt=server.url) as library, pytest.raises(BadAnswer, match="without an end"):
        library.generations()
    server.close()


def test_a_token_in_any_script_travels_as_utf8() -> None:
    seen: list[str] = []

    class Asking(Handler):
        def handle_one(self) -> None:
            seen.append(self.headers["Authorization"].encode("latin-1").decode())
            self.wfile.write(b"".join(said({"status": "ok"})))

        do_GET = handle_one  # noqa: N815

    server = Loopback(Asking)
    for token in ("secret", "clé", "ключ 鍵 🔑"):
        catalog = RestCatalog(server.url, token=token)
        catalog.health()
        catalog.close()
        assert seen[-1] == f"Bearer {token}"
    server.close()


def test_one_slow_call_holds_up_no_other() -> None:
    gate = threading.Event()

    def answer(path: str) -> Sent:
        if path.endswith("/1"):
            gate.wait(LONG)
        return said(image(int(path.rpartition("/")[2])))

    server = Hostile(answer)
    catalog = RestCatalog(server.url, timeout=LONG)
    slow = threading.Thread(target=lambda: catalog.image(1))
    slow.start()
    assert catalog.image(2).id == 2
    gate.set()
    slow.join()
    catalog.close()
    server.close()
