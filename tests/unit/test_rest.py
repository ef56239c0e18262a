"""Our client against servers that are not ours: alternatives the contract allows, and misbehaviour."""

from __future__ import annotations

import io
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luna_dt import Library
from luna_dt.dt import connect, wire
from luna_dt.dt.rest import RestCatalog
from luna_dt.errors import (
    BadAnswer,
    MapMissing,
    NotFound,
    NotOffered,
    PictureMissing,
    Refused,
    SettingsError,
    UnknownImage,
    Unreachable,
)
from luna_dt.records import Batch, Captions, Cluster, ImageRecord, Member, StoredMap
from luna_dt.settings import Settings
from tests.conftest import IDENTITY, image_batch, unit_vectors
from tests.loopback import Handler, Loopback

Answer = tuple[int, Any]  # status; JSON, or bytes as they are


class Stranger(Loopback):
    """A server whose answers a test decides; keeps what it was asked."""

    def __init__(self, secured: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer | list[Answer] | Callable[[], Answer]] = {}
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        stranger = self

        class Answering(Handler):
            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                path = self.path.split("?")[0]
                stranger.asked.append((self.command, self.path, dict(self.headers), json.loads(body) if body else None))
                answer = stranger.answers.get(path, (404, {"detail": "no such thing"}))
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                status, content = answer() if callable(answer) else answer
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                promised = len(data) + (1000 if status == 299 else 0)  # 299: break off before the promised end
                self.send_response(200 if status == 299 else status)
                self.send_header("content-length", str(promised))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = handle_one  # noqa: N815

        super().__init__(Answering, secured)


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    server = Stranger()
    yield server
    server.close()


@pytest.fixture
def catalog(stranger: Stranger) -> Iterator[RestCatalog]:
    opened = RestCatalog(stranger.url + "/", token="secret", timeout=2)
    yield opened
    opened.close()


def test_a_plain_dt_server_is_understood(stranger: Stranger, catalog: RestCatalog) -> None:
    image = {
        "id": 3,
        "path": "D:\\x.png",
        "prompt": None,
        "seed": 5,
        "rating": None,
        "loras": [{"a": 1}],
        "new": "field",
    }
    stranger.answers = {
        "/api/health": (200, {"status": "ok"}),
        "/api/images/3": (200, image),
        "/api/clusters": (200, {"clusters": [{"id": 1, "name": None, "member_count": 7}]}),
        "/api/clusters/1/images": (200, [{**image, "confidence": 0.5, "quality": 2}]),
        "/api/images/3/caption": (200, {"wd14_tags": "a, b", "joycaption": None}),
        "/api/images/similar": (200, {"images": [{"id": 3, "similarity": 0.9}]}),
    }
    assert catalog.health().capabilities == ()
    record = catalog.image(3)
    assert (record.prompt, record.seed, record.rating, record.loras) == ("", 5, None, '[{"a": 1}]')
    assert record.hash == ""
    for said, kept in (("AB" * 32, "ab" * 32), ("ab12", ""), (7, ""), (["ab" * 32], ""), (None, "")):
        stranger.answers["/api/images/3"] = (200, {**image, "hash": said})
        assert catalog.image(3) == replace(record, hash=kept)
    assert catalog.clusters() == [Cluster(1, "", 7)]
    assert catalog.cluster_images(1)[0].confidence == 0.5
    assert catalog.captions(3) == Captions(3, "a, b")
    hit = catalog.similar("visual", np.ones(3, np.float32), None, 10, 0.5)[0]
    assert (hit.id, hit.similarity) == (3, 0.9)
    method, _, headers, body = stranger.asked[-1]
    assert (method, headers["Authorization"]) == ("POST", "Bearer secret")
    assert body == {"query_type": "visual", "top_k": 10, "min_similarity": 0.5, "embedding": [1.0, 1.0, 1.0]}


def test_pixels_come_as_a_file_or_with_the_record(stranger: Stranger, catalog: RestCatalog) -> None:
    stranger.answers["/api/images/3/file"] = (200, b"the bytes")
    assert catalog.file(3) == b"the bytes"
    del stranger.answers["/api/images/3/file"]
    stranger.answers["/api/images/3"] = (
        200,
        {"id": 3, "path": "x", "image_base64": "data:image/png;base64,dGhlIGJ5dGVz"},
    )
    assert catalog.file(3) == b"the bytes"
    stranger.answers["/api/images/3"] = (200, {"id": 3, "path": "x", "image_base64": "no base64 at all!"})
    with pytest.raises(BadAnswer, match="no base64"):
        catalog.file(3)
    stranger.answers["/api/images/3"] = (200, {"id": 3, "path": "x"})
    with pytest.raises(PictureMissing, match="no image_base64"):
        catalog.file(3)
    stranger.answers["/api/images/3/file"] = (404, {"code": "unknown_image", "detail": "DT has no image 3"})
    with pytest.raises(UnknownImage):
        catalog.file(3)


def test_stored_maps(stranger: Stranger, catalog: RestCatalog) -> None:
    call = "/api/images/3/controlnet/canny"
    stranger.answers[call] = (200, {"image_base64": "dGhlIGJ5dGVz", "was_cached": True})
    assert catalog.control_map(3, "canny") == StoredMap(b"the bytes")
    stranger.answers[call] = (200, {"path": "D:\\map.png", "keypoints": {"people": []}})
    assert catalog.control_map(3, "canny") == StoredMap(path="D:\\map.png", keypoints={"people": []})
    missing: Answer
    for missing in ((404, {}), (501, {"code": "not_offered", "detail": "later"})):
        stranger.answers[call] = missing
        with pytest.raises(MapMissing, match="canny map of image 3"):
            catalog.control_map(3, "canny")


def test_a_text_is_encoded_by_dt_where_it_can(stranger: Stranger, tmp_path: Path) -> None:
    stranger.answers["/api/images/similar"] = (200, [{"id": 3, "path": "x", "similarity": 0.9}])
    with Library(tmp_path, dt=stranger.url) as library:
        assert [hit.id for hit in library.search(text="a cat", layer="semantic")] == [3]
    assert stranger.asked[-1][3]["text_query"] == "a cat"


def test_a_redirect_is_not_followed(stranger: Stranger, catalog: RestCatalog) -> None:
    stranger.answers["/api/clusters"] = (302, {})
    with pytest.raises(Refused, match="302"):
        catalog.clusters()


def test_a_server_without_sync_says_what_to_do(catalog: RestCatalog) -> None:
    with pytest.raises(NotOffered, match="luna-dt serve --db"):
        catalog.kinds()


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        ((404, {}), NotFound, "has no GET /api/images/3"),
        ((404, {"code": "unknown_image", "detail": "DT has no image 3"}), UnknownImage, "^DT has no image 3$"),
        ((501, {"detail": "later"}), NotOffered, "later"),
        ((418, b"I'm a teapot"), Refused, "418"),
        ((500, ["odd"]), Refused, "500"),
        ((200, b"<html>"), BadAnswer, "not JSON"),
        ((200, {"path": "x"}), BadAnswer, "cannot be read"),
        ((200, {"id": "x", "path": ""}), BadAnswer, "cannot be read"),
    ],
)
def test_every_refusal_has_a_type(
    stranger: Stranger, catalog: RestCatalog, answer: Answer, error: type[Exception], told: str
) -> None:
    stranger.answers["/api/images/3"] = answer
    with pytest.raises(error, match=told):
        catalog.image(3)


def test_a_busy_server_is_asked_again_and_then_given_up(stranger: Stranger, catalog: RestCatalog) -> None:
    stranger.answers["/api/clusters"] = [(503, {}), (502, {}), (200, [])]
    assert catalog.clusters() == []
    stranger.answers["/api/clusters"] = (503, {"detail": "the database is away"})
    stranger.asked.clear()
    with pytest.raises(Refused, match="the database is away"):
        catalog.clusters()
    assert len(stranger.asked) == 4


def test_no_server_is_told_soon() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Unreachable, match="is its server running"):
        RestCatalog(url).health()


def test_a_server_that_says_nothing_is_not_waited_for(stranger: Stranger) -> None:
    def slow() -> Answer:
        time.sleep(0.5)
        return 500, b""

    stranger.answers["/api/clusters"] = slow
    catalog = RestCatalog(stranger.url, timeout=0.1)
    with pytest.raises(Unreachable, match="no answer in time"):
        catalog.clusters()
    catalog.close()


def vectors_body(ids: list[int]) -> bytes:
    keys = np.array(ids, np.int64)
    return b"".join(wire.pack_vectors([Batch(keys, keys * 3, unit_vectors(len(ids)))], "float32"))


def test_an_answer_that_breaks_off_is_asked_for_again(stranger: Stranger, catalog: RestCatalog) -> None:
    body = vectors_body([1, 2, 3])
    stranger.answers["/api/sync"] = (200, {"embeddings.visual": {"count": 3, **IDENTITY.to_json()}})
    stranger.answers["/api/sync/embeddings.visual/fetch"] = [(299, body[:-20]), (299, body), (200, body)]
    (batch,) = catalog.fetch("embeddings.visual", np.array([1, 2, 3]))
    assert batch.ids.tolist() == [1, 2, 3]
    assert batch.digests.tolist() == [3, 6, 9]
    assert np.array_equal(np.asarray(batch.rows), unit_vectors(3))
    stranger.answers["/api/sync/embeddings.visual/fetch"] = (299, body)
    with pytest.raises((Unreachable, BadAnswer)):
        list(catalog.fetch("embeddings.visual", np.array([1, 2, 3])))


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense",
        vectors_body([1, 2])[:-16],
        b"".join([wire.pack_digests(np.arange(3), np.arange(3))] * 2),
        b"\x93NUMPY",
    ],
)
def test_numbers_that_are_none_are_told(stranger: Stranger, catalog: RestCatalog, body: bytes) -> None:
    stranger.answers["/api/sync"] = (200, {"embeddings.visual": {"count": 3, **IDENTITY.to_json()}})
    stranger.answers["/api/sync/embeddings.visual/fetch"] = (200, body)
    with pytest.raises(BadAnswer):
        list(catalog.fetch("embeddings.visual", np.array([1, 2])))


def test_a_pickle_is_not_opened(stranger: Stranger, catalog: RestCatalog) -> None:
    out = io.BytesIO()
    np.save(out, np.array([[print, print]], dtype=object), allow_pickle=True)
    stranger.answers["/api/sync/images"] = (200, out.getvalue())
    with pytest.raises(BadAnswer):
        catalog.digests("images")


def test_wire_keeps_records_whole() -> None:
    batches: list[tuple[str, Batch]] = [
        ("images", image_batch(np.array([1, 2**53 + 1]), digest=-(2**63))),
        ("captions", Batch(np.array([4]), np.array([2**63 - 1]), [Captions(4, "ä\n", "", "x", "y")])),
        ("clusters", Batch(np.array([5]), np.array([0]), [Cluster(5, "Luna", 1, (Member(1, 0.5),))])),
    ]
    for kind, batch in batches:
        lines = b"".join(wire.pack_records([batch])).splitlines()
        (read,) = wire.unpack_records(kind, lines)
        assert read.ids.tolist() == batch.ids.tolist()
        assert read.digests.tolist() == batch.digests.tolist()
        assert list(read.rows) == list(batch.rows)


@pytest.mark.parametrize("address", ["ftp://x", "localhost:5000", "", "some words"])
def test_an_address_of_no_known_form_is_told(address: str, tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match=r"postgresql://"):
        connect(Settings(home=tmp_path, dt=address or " "))


ODD_IMAGES: dict[int, dict[str, Any]] = {
    2: {"seed": 2**64},
    3: {"cfg": float("nan")},
    4: {"width": float("inf")},
    5: {"height": "tall"},
    6: {"prompt": "half \ud83d"},
    7: {"tags": "a, b"},
    8: {"tags": ["a", 5]},
    9: {"favorite": "no"},
    10: {"id": 2**63},
    11: {"id": 10**400},
    12: {"path": None, "rating": -(2**70)},
    13: {"aesthetic_score": -float("inf")},
    14: {"steps": []},
    15: {"custom_tags": "\udcff"},
}


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="Windows has one time zone for a process")
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"created": "2026-05-01 12:00:00.5"}, {"created": "2026-05-01 12:00:00.5"}),
        ({"created": "2026-05-01T23:30:00Z"}, {"created": "2026-05-02T01:30:00"}),
        ({"created": "2026-01-01 00:30:00.1234567+0100"}, {"created": "2026-01-01T00:30:00"}),
        ({"created": "2026-13-01T00:00:00Z"}, {"created": ""}),
        ({"created": 1714606200}, {"created": ""}),
        ({"created": "05/01/2026"}, {"created": ""}),
        ({"seed": 2**64 - 1, "steps": 20.0}, {"seed": -1, "steps": 20}),
        ({"seed": "9223372036854775808"}, {"seed": -(2**63)}),
    ],
)
def test_what_another_server_writes_otherwise_is_kept_as_dt_has_it(
    given: dict[str, Any], kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    record = ImageRecord.from_json({"id": 1, "path": "a.png", **given})
    monkeypatch.undo()
    time.tzset()
    assert {name: getattr(record, name) for name in kept} == kept


@pytest.mark.parametrize("odd", [{"id": 12.7}, {"id": True}, {"steps": 20.5}])
def test_half_a_number_is_none(odd: dict[str, Any]) -> None:
    with pytest.raises(BadAnswer, match=next(iter(odd))):
        ImageRecord.from_json({"id": 1, "path": "a.png", **odd})


def test_one_odd_row_stops_no_other(stranger: Stranger, tmp_path: Path) -> None:
    odd = set(ODD_IMAGES)
    ids = np.arange(1, 21)

    def digests(kind: str, listed: Any, digest: int = 1) -> None:
        stranger.answers[f"/api/sync/{kind}"] = (200, wire.pack_digests(listed, np.full(len(listed), digest)))

    def lines(kind: str, rows: list[dict[str, Any]], more: bytes = b"") -> None:
        text = "\n".join(json.dumps(row) for row in rows) + "\n"
        stranger.answers[f"/api/sync/{kind}/fetch"] = (200, text.encode() + more)

    def image(i: int, **changes: Any) -> dict[str, Any]:
        return {"id": i, "path": f"{i}.png", "digest": "1", "cfg": 7, "seed": 2**62, **changes}

    stranger.answers["/api/sync"] = (200, {kind: {"count": 20} for kind in ("images", "captions", "clusters")})
    digests("images", np.concatenate([[-4], ids]))
    bytes_of_19 = b'{"id": 19, "digest": "1", "path": "\xe4.png"}\n'
    unasked = [image(999), image(-7), {"id": 998, "digest": "1", "set_aside": "because"}]
    rows = [image(int(i), **ODD_IMAGES.get(int(i), {})) for i in ids if i != 19]
    lines("images", [*rows, *unasked], bytes_of_19)
    digests("captions", ids)
    captions = [{"image_id": int(i), "digest": "1", "tags": ["x"], "joycaption": "ok"} for i in ids]
    captions[0]["tags"] = [1]
    captions[15]["tags"] = {"x": 1}
    captions[16]["joycaption"] = "\ud800"
    captions[17]["image_id"] = None
    lines("captions", captions)
    digests("clusters", np.array([1, 2, 3]))
    members = [
        {"image_id": 1, "confidence": float("nan")},
        {"image_id": 16, "confidence": 1},
        {"image_id": 2**64, "confidence": 1},
    ]
    clusters: list[dict[str, Any]] = [{"id": 1, "name": "Luna", "image_count": 2, "members": members}, {"id": 2, "image_count": 2**63},
                {"id": 3, "members": [{}]}]  # fmt: skip
    lines("clusters", [{**row, "digest": "1"} for row in clusters])
    with Library(tmp_path, dt=stranger.url) as library:
        changes = {change.kind: change for change in library.sync()}
        sound = [int(i) for i in ids if i not in {*odd, 19}]
        assert [found.id for found in library.images()] == sound
        assert changes["images"].added == len(sound)
        assert [library.captions(i).joycaption for i in sound] == ["", "", "", "", "ok"]
        assert [(c.id, c.image_count) for c in library.clusters()] == [(1, 2)]
        assert [member.image.id for member in library.cluster_images(1)] == [16]
        aside = library.status().set_aside
        assert sum(rows.count for rows in aside if rows.kind == "images") == len(odd - {10, 11}) + 2
        assert {rows.first_id for rows in aside if rows.kind == "captions"} == {1, 16, 17}
        assert {rows.first_id for rows in aside if rows.kind == "clusters"} == {1, 2, 3}
        assert not {999, -7, 998} & {rows.first_id for rows in aside}
        # all is well now, which the digests say
        digests("images", ids, 2)
        lines("images", [{**image(int(i)), "digest": "2"} for i in ids])
        library.sync()
        assert [found.id for found in library.images()] == ids.tolist()
        assert not [rows for rows in library.status().set_aside if rows.kind == "images"]
    listing = json.dumps([image(int(i), **ODD_IMAGES.get(int(i), {})) for i in ids])
    catalog = RestCatalog(stranger.url)
    stranger.answers["/api/images"] = (200, listing.encode())
    assert [found.id for found in catalog.images()] == [*sound[:-1], 19, 20]
    stranger.answers["/api/images/2"] = (200, image(2, **ODD_IMAGES[2]))
    with pytest.raises(BadAnswer, match="its seed is no whole number"):
        catalog.image(2)
    catalog.close()


def test_another_image_is_not_taken_for_the_one_asked_for(stranger: Stranger, catalog: RestCatalog) -> None:
    stranger.answers["/api/images/3"] = (200, {"id": 4, "path": "x"})
    with pytest.raises(BadAnswer, match="image 4"):
        catalog.image(3)


CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgBwQbsFsBanft8Krq
gizaIM5HcSm37njR2f25Nwr0AHqhRANCAAQPK9e862ICo6W6tyA4aCCHm54UAXNK
LhVmB9CCWOb7ZTUzEUOwFB7lwCAP2rhEDj9xMvvugkBLJfgQrBMzfSpw
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBnDCCAUGgAwIBAgIUd20KtIDA6dRssIWYljheuOyMEyAwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNzA1NTUwNFoYDzIxMjYxMTAz
MDU1NTA0WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQPK9e862ICo6W6tyA4aCCHm54UAXNKLhVmB9CCWOb7ZTUzEUOwFB7l
wCAP2rhEDj9xMvvugkBLJfgQrBMzfSpwo28wbTAdBgNVHQ4EFgQUYiNW0uiCaAwO
hd0XKVXCTYpTg5gwHwYDVR0jBBgwFoAUYiNW0uiCaAwOhd0XKVXCTYpTg5gwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSQAwRgIhAIbh+CA1YLHNDofdNNJ67+iWAXu2mMHWsWfUsvVDeta6AiEA
qTco3lZnJQQPj3wiLig5KyuRQr+K95k1myacdPWZdE8=
-----END CERTIFICATE-----
"""


def test_a_server_with_a_certificate_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "own.pem").write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem")
    server = Stranger(context)
    server.answers["/api/images/3"] = (200, {"id": 3, "path": "x"})
    try:
        with pytest.raises(Unreachable, match=r"its certificate is not trusted here.*SSL_CERT_FILE"):
            RestCatalog(server.url.replace("http:", "https:"), timeout=20).image(3)
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            monkeypatch.setenv(name, str(tmp_path / "own.pem"))
            assert RestCatalog(server.url.replace("http:", "https:"), timeout=20).image(3).path == "x"
            monkeypatch.delenv(name)
    finally:
        server.close()


def test_https_is_not_spoken_to_a_server_of_http(stranger: Stranger) -> None:
    with pytest.raises(Unreachable, match="it speaks http there"):
        RestCatalog(stranger.url.replace("http:", "https:"), timeout=20).image(3)
