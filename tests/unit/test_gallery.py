"""What the gallery's page asks, and what it is answered: over HTTP, and by name."""

from __future__ import annotations

import http.client
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from luna_dt import Library
from luna_dt.gallery.answers import Gallery, page_files
from luna_dt.records import Batch, Captions, Cluster, ImageRecord, Member
from tests.conftest import fill, mirror, unit_vectors

HOSTILE = '<img src=x onerror="document.title=1">\u202e 🦊'


@pytest.fixture
def gallery(library: Library, tmp_path: Path) -> Gallery:
    """Six images with vectors and files, each of another colour, rating and model."""
    fill(library, unit_vectors(6))
    records = []
    for i in range(1, 7):
        file = tmp_path / f"{i}.png"
        Image.new("RGB", (64, 32 * i), (40 * i, 0, 0)).save(file)
        prompt = HOSTILE if i == 6 else f"prompt {i}"
        records.append(ImageRecord(i, str(file), prompt, model=f"m{i % 2}", rating=i, created=f"2026-01-0{7 - i}"))
    mirror(library, "images", Batch(np.arange(1, 7), np.full(6, 2, np.int64), records))
    return Gallery(lambda: library)


def asked(gallery: Gallery, name: str, method: str = "GET", body: Any = None, **values: str) -> Any:
    answer = gallery.answer(method, name, values, body if isinstance(body, bytes) else json.dumps(body or {}).encode())
    return json.loads(answer.data)


def found(gallery: Gallery, query: str = "", order: str = "date") -> list[int]:
    answer = gallery.answer("GET", "find", {"query": query, "order": order})
    assert answer.status == 200, answer.data
    return [int(each) for each in np.frombuffer(answer.data, "<f8")]


def test_all_ids_come_in_an_order(gallery: Gallery) -> None:
    assert found(gallery) == [1, 2, 3, 4, 5, 6]  # the newest first
    assert found(gallery, order="rating") == [6, 5, 4, 3, 2, 1]
    assert found(gallery, "rating: > 3 model: m0", "id") == [4, 6]


def test_records_are_given_as_they_are(gallery: Gallery) -> None:
    (six, one) = asked(gallery, "records", ids="6,1,99")
    assert (six["id"], one["id"]) == (6, 1)
    assert six["prompt"] == HOSTILE


def test_a_search_has_references_with_weights(gallery: Gallery) -> None:
    best = asked(gallery, "search", "POST", {"terms": [{"image_id": 1, "layer": "visual"}], "top_k": 3})
    assert len(best["ids"]) == 3
    assert 1 not in best["ids"]
    assert best["similarities"] == sorted(best["similarities"], reverse=True)
    two = [{"image_id": 1, "weight": 1}, {"image_id": 2, "weight": -0.5}]
    mixed = asked(gallery, "search", "POST", {"terms": two, "where": "rating: > 3"})
    assert sorted(mixed["ids"]) == [4, 5, 6]


def test_what_is_known_and_suggested(gallery: Gallery) -> None:
    told = asked(gallery, "suggest")
    assert told["models"] == [["m0", 3], ["m1", 3]]
    assert "rating" in told["tokens"]
    assert told["tags"] == []
    captions = [Captions.of_tags(1, ["fox", "red hat"]), Captions.of_tags(2, ["fox"])]
    mirror(gallery.library, "captions", Batch(np.arange(1, 3), np.full(2, 2, np.int64), captions))
    assert asked(gallery, "suggest")["tags"] == ["fox", "red hat"]
    assert asked(gallery, "one", id="2")["layers"] == ["visual"]
    status = asked(gallery, "status")
    assert (status["images"], status["layers"][0]["name"], status["sync"]["running"]) == (6, "visual", False)


def test_chosen_pictures_become_a_training_set_in_the_home(gallery: Gallery) -> None:
    done = asked(gallery, "export", "POST", {"ids": "2,1,99", "captions": "prompt", "trigger": "snorri"})
    assert (done["exported"], [each["id"] for each in done["failed"]]) == (2, [99])
    folder = Path(done["folder"])
    assert folder.parent == gallery.library.settings.home / "exports"
    assert {file.name: file.read_text() for file in folder.glob("*.txt")} == {
        "1.txt": "snorri, prompt 1", "2.txt": "snorri, prompt 2"
    }  # fmt: skip
    again = gallery.library.export(gallery.library.find("model: m1")[:1], folder, captions="prompt", trigger="snorri")
    assert (again.exported, again.present) == (0, 1)
    assert gallery.answer("POST", "export", {}, b'{"ids": "1", "captions": "/etc"}').status == 422
    assert gallery.answer("POST", "export", {}, json.dumps({"ids": "1," * 1001}).encode()).status == 422


def test_pictures_are_made_small_and_given_whole(gallery: Gallery, tmp_path: Path) -> None:
    small = gallery.answer("GET", "thumbnail", {"id": "6", "size": "128"})
    assert small.type == "image/webp"
    assert Image.open(io.BytesIO(small.data)).size == (43, 128)
    whole = gallery.answer("GET", "picture", {"id": "2"})
    assert (whole.type, whole.data) == ("image/png", (tmp_path / "2.png").read_bytes())
    Image.new("RGB", (8, 8)).save(tmp_path / "3.tif")
    (tmp_path / "3.tif").replace(tmp_path / "3.png")
    assert gallery.answer("GET", "picture", {"id": "3"}).type == "image/webp"  # no browser shows TIFF


def test_a_small_picture_changes_with_its_file(gallery: Gallery, tmp_path: Path) -> None:
    before = gallery.answer("GET", "thumbnail", {"id": "1"}).data
    Image.new("RGB", (64, 32), "blue").resize((128, 64)).save(tmp_path / "1.png")
    assert gallery.answer("GET", "thumbnail", {"id": "1"}).data != before


def test_a_sent_picture_can_be_named(gallery: Gallery, tmp_path: Path) -> None:
    name = asked(gallery, "reference", "PUT", (tmp_path / "1.png").read_bytes())["picture"]
    assert gallery.sights.sent(name) == (tmp_path / "1.png").read_bytes()
    assert asked(gallery, "reference", "PUT", b"no picture")["code"] == "bad_picture"
    assert asked(gallery, "search", "POST", {"terms": [{"picture": "gone"}]})["code"] == "bad_input"


@pytest.mark.parametrize(
    ("method", "name", "values", "code"),
    [
        ("GET", "nothing", {}, "not_found"),
        ("POST", "find", {}, "not_found"),
        ("GET", "find", {"query": "rating: x"}, "bad_query"),
        ("GET", "find", {"order": "random()"}, "bad_input"),
        ("GET", "records", {"ids": "../1"}, "bad_input"),
        ("GET", "records", {"ids": ",".join(map(str, range(1000)))}, "bad_input"),
        ("GET", "one", {"id": "1e400"}, "bad_input"),
        ("GET", "one", {"id": "nan"}, "bad_input"),
        ("GET", "one", {}, "bad_input"),
        ("GET", "thumbnail", {"id": "1", "size": "100000"}, "bad_input"),
        ("GET", "thumbnail", {"id": "/etc/passwd"}, "bad_input"),
        ("GET", "map", {"id": "1", "kind": "../x"}, "bad_input"),
        ("GET", "map", {"id": "1", "kind": "canny"}, "map_missing"),
    ],
)
def test_nonsense_is_refused_by_name(
    gallery: Gallery, method: str, name: str, values: dict[str, str], code: str
) -> None:
    answer = gallery.answer(method, name, values)
    assert answer.type == "application/problem+json"
    assert json.loads(answer.data)["code"] == code
    assert 400 <= answer.status < 500


@pytest.mark.parametrize("body", [b"[", b"[]", b'{"terms": []}', b'{"terms": [1]}', b'{"terms": [{"image_id": "x"}]}'])
def test_a_search_of_nonsense_is_refused(gallery: Gallery, body: bytes) -> None:
    assert json.loads(gallery.answer("POST", "search", {}, body).data)["code"] == "bad_input"


def test_a_sync_runs_beside_the_page_and_says_why_it_failed(gallery: Gallery) -> None:
    asked(gallery, "sync", "POST")
    until = time.monotonic() + 60
    while asked(gallery, "status")["sync"]["running"] and time.monotonic() < until:
        time.sleep(0.02)
    ended = asked(gallery, "status")["sync"]["ended"]
    assert ended["code"] == "dt_unreachable"  # nobody is at port 9


def test_the_page_is_a_handful_of_files() -> None:
    files = page_files()
    assert {"index.html", "alone.mjs", "gallery.mjs", "gallery.css"} <= files.keys()
    scripts = b"".join(each.data for name, each in files.items() if name.endswith((".mjs", ".html")))
    for dangerous in (b"innerHTML", b"outerHTML", b"insertAdjacentHTML", b"document.write", b"eval("):
        assert dangerous not in scripts  # text is never read as HTML


# -- over HTTP ----------------------------------------------------------------------------------------


def test_what_a_dt_that_is_away_kept_from_being_shown_says_so(gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "3.png").unlink()
    for name in ("thumbnail", "picture"):
        assert asked(gallery, name, id="3")["dt_away"] is True
        assert "dt_away" not in asked(gallery, name, id="7x")
    assert asked(gallery, "thumbnail", id="3")["code"] == "picture_missing"  # and DT is not waited for once more


def test_a_library_without_a_layer_says_what_makes_one_in_the_words_of_the_place(library: Library) -> None:
    told = asked(Gallery(lambda: library, said=lambda text: text.replace("luna-dt", "here")), "status")
    assert "here sync takes those that DT has; here embed" in told["no_layer"]
    fill(library, unit_vectors(6))
    assert asked(Gallery(lambda: library), "status")["no_layer"] == ""


def test_how_a_sync_failed_is_in_the_words_of_the_place(tmp_path: Path) -> None:
    with Library(tmp_path / "home", dt=str(tmp_path / "gone")) as library:
        gallery = Gallery(lambda: library, said=str.upper)
        asked(gallery, "sync", "POST")
        while asked(gallery, "status")["sync"]["running"]:
            time.sleep(0.05)
        ended = asked(gallery, "status")["sync"]["ended"]
    assert (ended["code"], ended["dt_away"]) == ("dt_unreachable", True)
    assert "CANNOT BE READ" in ended["error"]


def test_a_cluster_is_its_surest_pictures_and_nsfw_ones_are_blurred(gallery: Gallery, tmp_path: Path) -> None:
    library = gallery.library
    for i in range(1, 7):  # with something to blur
        Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / f"{i}.png")
    records = [ImageRecord(i, str(tmp_path / f"{i}.png"), nsfw=i == 5) for i in range(1, 7)]
    mirror(library, "images", Batch(np.arange(1, 7), np.full(6, 3, np.int64), records))
    several = tuple(Member(i, 0.9 - i / 10) for i in (1, 2, 3, 4, 6))
    found = [Cluster(1, "Luna", 5, several), Cluster(2, "", 2, (Member(5, 0.9), Member(6, 0.8))), Cluster(3, "None", 0)]
    mirror(library, "clusters", Batch(np.arange(1, 4), np.ones(3, np.int64), found))
    assert [each["label"] for each in asked(gallery, "clusters")] == ["1: Luna", "2: unnamed", "3: None"]

    def seen(number: int, veil: str = "") -> Any:
        answer = gallery.answer("GET", "cluster", {"id": str(number), "size": "64", "veil": veil})
        assert answer.type == "image/webp"
        return np.asarray(Image.open(io.BytesIO(answer.data)).convert("L"), np.float32)

    assert seen(1).shape == (64, 64)
    assert (seen(1) == seen(1, "1")).all()
    assert seen(2).std() > 2 * seen(2, "1").std()
    assert asked(gallery, "cluster", id="3")["code"] == "picture_missing"
    assert asked(gallery, "cluster", id="4", veil="1")["code"] == "unknown_cluster"


@pytest.fixture
def address(gallery: Gallery) -> Iterator[int]:
    pytest.importorskip("fastapi")
    from tests.browser import served

    with served(gallery) as port:
        yield port


def answered(port: int, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_the_page_and_its_answers_are_served(address: int) -> None:
    status, headers, body = answered(address, "/")
    assert status == 200
    assert b"alone.mjs" in body
    assert "script-src 'self'" in headers["content-security-policy"]
    assert answered(address, "/page/gallery.mjs")[1]["content-type"].startswith("text/javascript")
    assert len(answered(address, "/api/find")[2]) == 6 * 8
    status, headers, _ = answered(address, "/api/thumbnail?id=1")
    assert (status, headers["content-type"]) == (200, "image/webp")
    assert "sandbox" in headers["content-security-policy"]  # what is no page runs nothing


def test_others_are_refused(address: int) -> None:
    assert answered(address, "/api/find", Host="evil.example")[0] == 421
    assert answered(address, "/api/find", Origin="https://evil.example")[0] == 403
    assert answered(address, "/api/thumbnail?id=1", Sec_Fetch_Site="cross-site")[0] == 403
    assert answered(address, "/api/sync", "POST", b"{}", Origin="https://evil.example")[0] == 403
    assert answered(address, "/page/../../../pyproject.toml")[0] == 404
    assert answered(address, "/page/answers.py")[0] == 404
    assert answered(address, "/page/%2e%2e%2fanswers.py")[0] == 404
