"""``luna-dt serve`` as any other program meets it: plain HTTP, every call of the contract, every refusal."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psycopg
import pytest
import requests
from PIL import Image

from luna_dt.demo import database, served
from tests.conftest import Drawn

pytestmark = pytest.mark.processes


def encoded(picture: Image.Image, form: str = "PNG") -> str:
    out = io.BytesIO()
    picture.save(out, form)
    return base64.b64encode(out.getvalue()).decode()


MAP = encoded(Image.new("RGB", (3, 2), (7, 8, 9)))


def get(server: str, path: str, **options: Any) -> requests.Response:
    return requests.get(server + path, timeout=30, **options)


def test_health(server: str) -> None:
    told = get(server, "/api/health").json()
    assert told["status"] == "ok"
    assert "sync" in told["capabilities"]


def test_an_image(server: str, drawn: Drawn) -> None:
    told = get(server, "/api/images/5").json()
    fields = "id path prompt negative_prompt width height model sampler steps cfg seed rating tags scheduler loras"
    assert set(fields.split()) <= set(told)
    assert told["prompt"] == drawn.drawings[4].scene.caption


@pytest.mark.parametrize("layer", ["visual", "semantic", "composition"])
def test_similar(server: str, drawn: Drawn, layer: str) -> None:
    by_vector = {"query_type": layer, "top_k": 3, "embedding": drawn.vectors[layer][7].tolist()}
    for body in (by_vector, {"query_type": layer, "top_k": 3, "image_id": 8}):
        hits = requests.post(f"{server}/api/images/similar", json=body, timeout=30).json()
        assert isinstance(hits, list)
        assert len(hits) == 3
        assert hits[0]["similarity"] == pytest.approx(1, abs=1e-5)
        assert {"id", "similarity", "path", "prompt"} <= set(hits[0])


def test_similar_by_text(server: str, drawn: Drawn) -> None:
    body = {"query_type": "semantic", "top_k": 4, "text_query": drawn.drawings[7].scene.caption}
    hits = requests.post(f"{server}/api/images/similar", json=body, timeout=60).json()
    assert hits[0]["id"] == 8
    assert hits[0]["similarity"] == pytest.approx(1, abs=1e-4)


def test_clusters_captions_and_pictures(server: str, drawn: Drawn) -> None:
    clusters = get(server, "/api/clusters").json()
    assert clusters[0] == {"id": 1, "name": "Luna", "image_count": 4}
    images = get(server, "/api/clusters/1/images", params={"limit": 2, "min_quality": 0, "sort": "confidence"}).json()
    assert len(images) == 2
    assert {"path", "prompt", "confidence", "quality"} <= set(images[0])
    assert set(get(server, "/api/images/3/caption").json()) >= {"wd14_tags", "joytag_tags", "joycaption", "combined"}
    whole = get(server, "/api/images/3/file")
    assert whole.content == drawn.drawings[2].path.read_bytes()
    part = get(server, "/api/images/3/file", headers={"Range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, whole.content[:8])
    assert whole.headers["etag"]


def test_vectors_in_half_precision(server: str, drawn: Drawn) -> None:
    body = {"ids": [1, 2], "dtype": "float16"}
    answer = requests.post(f"{server}/api/sync/embeddings.visual/fetch", json=body, timeout=30, stream=True).raw
    keys = np.lib.format.read_array(answer)
    vectors = np.lib.format.read_array(answer)
    assert keys[:, 0].tolist() == [1, 2]
    assert vectors.dtype == np.float16
    np.testing.assert_allclose(vectors, drawn.vectors["visual"][:2], atol=1e-3)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/api/images/999", None, 404, "unknown_image"),
        ("GET", "/api/images/x", None, 422, "bad_input"),
        ("GET", "/api/images/99999999999999999999", None, 422, "bad_input"),
        ("GET", "/api/images?query=steps:%20many", None, 422, "bad_query"),
        ("GET", "/api/images?limit=0", None, 422, "bad_input"),
        ("GET", "/api/nothing", None, 404, "not_found"),
        ("GET", "/api/clusters/99/images", None, 404, "unknown_cluster"),
        ("GET", "/api/clusters/1/images?sort=beauty", None, 422, "bad_input"),
        ("GET", "/api/sync/smells", None, 404, "unknown_layer"),
        ("POST", "/api/sync/embeddings.style/fetch", {"ids": [1]}, 409, "not_searchable"),
        ("POST", "/api/sync/images/fetch", {"ids": ["x"]}, 422, "bad_input"),
        ("POST", "/api/images/similar", {"embedding": [1, 2]}, 409, "wrong_dimension"),
        ("POST", "/api/images/similar", {"embedding": [0] * 128}, 422, "bad_vector"),
        ("POST", "/api/images/similar", {}, 422, "bad_input"),
        ("POST", "/api/images/similar", {"image_id": 1, "text_query": "x"}, 422, "bad_input"),
        ("POST", "/api/images/similar", {"image_id": 1, "query_type": "style"}, 409, "not_searchable"),
        ("POST", "/api/images/similar", {"text_query": "a cat", "query_type": "visual"}, 409, "identity_mismatch"),
        ("POST", "/api/images/similar", {"image_id": 1, "top_k": 0}, 422, "bad_input"),
        ("GET", "/api/images/1/controlnet/canny", None, 404, "map_missing"),
        ("GET", "/api/images/1/controlnet/smell", None, 422, "bad_input"),
        ("GET", "/api/images/987654/controlnet/canny", None, 404, "unknown_image"),
        ("PUT", "/api/images/1/controlnet/canny", {}, 422, "bad_input"),
        ("PUT", "/api/images/1/controlnet/canny", {"image_base64": "no base64 at all!"}, 422, "bad_input"),
        ("PUT", "/api/images/1/controlnet/canny", {"image_base64": "bm8gcGljdHVyZQ=="}, 422, "bad_picture"),
        ("PUT", "/api/images/1/controlnet/smell", {"image_base64": MAP}, 422, "bad_input"),
        ("PUT", "/api/images/987654/controlnet/canny", {"image_base64": MAP}, 404, "unknown_image"),
        ("POST", "/api/generations", {"operation": "photo"}, 422, "bad_input"),
        ("POST", "/api/generations", {"operation": "txt2img", "seed": -1}, 422, "bad_input"),
        ("POST", "/api/generations", {"operation": "txt2img", "extra_metadata": 7}, 422, "bad_input"),
        ("GET", "/api/generations?source_image_id=x", None, 422, "bad_input"),
        ("PATCH", "/api/generations/987654", {"prompt": "x"}, 404, "not_found"),
    ],
)
def test_every_refusal_is_a_problem_with_a_code(
    server: str, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answer = requests.request(method, server + path, json=body, timeout=60)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["detail"]
    assert "Traceback" not in answer.text


def raw(server: str, headers: dict[str, str], path: str = "/api/images/1", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    told = json.loads(answer.read() or b"{}")
    connection.close()
    return answer.status, told.get("code", "")


def test_a_web_page_cannot_read_the_library(server: str) -> None:
    host = urlsplit(server).netloc
    port = host.split(":")[1]
    assert raw(server, {"Host": host})[0] == 200
    assert raw(server, {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"})[0] == 200
    assert raw(server, {"Host": f"[::1]:{port}"})[0] == 200
    assert raw(server, {"Host": f"evil.example:{port}"}) == (421, "wrong_host")
    assert raw(server, {"Host": "127.0.0.1.evil.example"}) == (421, "wrong_host")
    assert raw(server, {"Host": ""})[0] in (400, 421)
    assert raw(server, {"Host": host, "Origin": "https://evil.example"}) == (403, "foreign_origin")
    assert raw(server, {"Host": host, "Origin": "null"}) == (403, "foreign_origin")
    allowed = requests.options(f"{server}/api/images/1", headers={"Origin": "https://evil.example"}, timeout=30)
    assert "access-control-allow-origin" not in allowed.headers


def test_too_much_is_refused_before_it_is_read(server: str) -> None:
    host = urlsplit(server).netloc
    assert raw(server, {"Host": host, "Content-Length": "99999999999"}, "/api/images/similar", "POST")[0] == 413
    assert raw(server, {"Host": host}, "/api/images/similar", "POST")[0] == 411


def test_only_pictures_that_dt_names_are_served(postgres: str, schema: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with psycopg.connect(postgres) as connection:
        database.create_tables(connection, schema, {})
        for i, path in enumerate((str(secret), "/nowhere/x.png", r"\\stranger\share\x.png", f"{tmp_path}/../x.png"), 1):
            values = {"id": i, "path": path, "file_name": "", "root_folder_id": 1, "folder_id": 1}
            dates = {"created_date": "2026-01-01", "modified_date": "2026-01-01"}
            database.insert(connection.cursor(), "image", {**values, **dates})
    with served(f"{postgres}&schema={schema}") as url:
        for i in range(1, 5):
            answer = get(url, f"/api/images/{i}/file")
            assert (answer.status_code, answer.json()["code"]) == (404, "picture_missing")


def test_a_map_is_stored_and_found_until_its_picture_changes(postgres: str, schema: str, tmp_path: Path) -> None:
    drawings = database.draw_library(tmp_path / "pictures", 25, seed=3)
    with psycopg.connect(postgres) as connection:
        database.create_tables(connection, schema, {})
        database.fill(connection, drawings, {})
    with served(f"{postgres}&schema={schema}") as url:
        assert "maps" in get(url, "/api/health").json()["capabilities"]
        path = f"{url}/api/images/1/controlnet/openpose"
        assert get(url, "/api/images/1/controlnet/openpose").status_code == 404
        keypoints = {"version": 1.3, "people": []}
        put = requests.put(
            path, json={"image_base64": encoded(Image.new("RGB", (9, 9))), "keypoints": None}, timeout=30
        )
        assert (put.status_code, put.json()) == (201, {"id": 1, "type": "openpose"})
        requests.put(
            path, json={"image_base64": MAP, "keypoints": keypoints}, timeout=30
        ).raise_for_status()  # the last
        found = requests.get(path, timeout=30).json()
        assert (found["was_cached"], found["keypoints"]) == (True, keypoints)
        with Image.open(io.BytesIO(base64.b64decode(found["image_base64"]))) as picture:
            assert (picture.size, picture.convert("RGB").getpixel((0, 0))) == ((3, 2), (7, 8, 9))
        assert get(url, "/api/images/2/controlnet/openpose").status_code == 404
        assert get(url, "/api/images/1/controlnet/canny").status_code == 404
        other = encoded(Image.new("RGB", (5, 5), (250, 1, 2)), "JPEG")  # in any form that is a picture
        requests.put(
            f"{url}/api/images/2/controlnet/canny", json={"image_base64": other}, timeout=30
        ).raise_for_status()
        assert get(url, "/api/images/2/controlnet/canny").json()["keypoints"] is None
        shutil.copy(drawings[7].path, drawings[0].path)
        assert get(url, "/api/images/1/controlnet/openpose").json()["code"] == "map_missing"
        large = {"Host": urlsplit(url).netloc, "Content-Length": str(129 << 20)}
        assert raw(url, large, "/api/images/1/controlnet/canny", "PUT")[0] == 413


def test_a_map_is_kept_also_of_a_picture_that_the_server_cannot_see(postgres: str, schema: str) -> None:
    with psycopg.connect(postgres) as connection:
        database.create_tables(connection, schema, {})
        values = {"id": 1, "path": "D:\\x.png", "file_name": "", "root_folder_id": 1, "folder_id": 1}
        dates = {"created_date": "2026-01-01", "modified_date": "2026-01-01"}
        database.insert(connection.cursor(), "image", {**values, **dates})
    with served(f"{postgres}&schema={schema}") as url:
        requests.put(f"{url}/api/images/1/controlnet/canny", json={"image_base64": MAP}, timeout=30).raise_for_status()
        assert get(url, "/api/images/1/controlnet/canny").json()["image_base64"]


def test_a_token_opens_and_nothing_else_does(drawn: Drawn) -> None:
    with served(drawn.address, token="s3cret") as url:
        refused = get(url, "/api/health")
        assert (refused.status_code, refused.json()["code"]) == (401, "no_token")
        assert get(url, "/api/health", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert get(url, "/api/health", headers={"Authorization": "Bearer s3cret"}).status_code == 200
        assert (
            get(url, "/openapi.json", headers={"Authorization": "Bearer s3cret"}).json()["info"]["title"] == "luna_dt"
        )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--db", "postgresql://127.0.0.1:9/x"], "does not answer"),
        (["--db", "http://127.0.0.1:5000"], "name the database"),
        (["--db", "postgresql://127.0.0.1:9/x", "--host", "0.0.0.0"], "set a token"),
        (["--db", "mysql://x"], "no address of DT"),
    ],
)
def test_what_cannot_be_served_is_told_at_once(options: list[str], told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "luna_dt", "serve", *options], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_goes_away_is_a_503() -> None:
    with contextlib.ExitStack() as server, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with database.postgres(Path(folder)) as address:
            with psycopg.connect(address) as connection:
                database.create_tables(connection, "s", {})
            url = server.enter_context(served(f"{address}&schema=s"))
            assert get(url, "/api/images").json() == []
        answer = get(url, "/api/images")
        assert (answer.status_code, answer.json()["code"]) == (503, "dt_unreachable")
        assert get(url, "/api/health").status_code == 503


def test_openapi_describes_the_calls(server: str) -> None:
    described = get(server, "/openapi.json").json()["paths"]
    assert {"/api/health", "/api/images/similar", "/api/clusters", "/api/sync/{kind}/fetch"} <= set(described)
    calls = [(path, call) for path, several in described.items() for call in several.values()]
    assert len({call["operationId"] for _, call in calls}) == len(calls) == 18
    assert {"images", "image", "file", "thumbnail", "similar"} <= {call["operationId"] for _, call in calls}
    for path, call in calls:
        answers = call["responses"]
        good = next(answers[status] for status in ("200", "201") if status in answers)
        for kind, said in good["content"].items():
            assert said["schema"] not in ({}, {"type": "object"}), (path, kind)  # something is said of it
        for status in ("400", "401", "403", "404", "422", "503"):
            assert answers[status]["content"] == {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            }


def test_openapi_says_what_is_answered(server: str) -> None:
    told = get(server, "/openapi.json").json()
    schemas = told["components"]["schemas"]

    def fields(schema: Any) -> set[str]:
        if "$ref" in schema:
            return fields(schemas[schema["$ref"].rpartition("/")[2]])
        return fields(schema["items"]) if "items" in schema else set(schema["properties"])

    record = requests.post(f"{server}/api/generations", json={"operation": "txt2img"}, timeout=30).json()
    for path, of in (
        ("/api/health", "/api/health"),
        ("/api/images", "/api/images"),
        ("/api/images/5", "/api/images/{image_id}"),
        ("/api/images/3/caption", "/api/images/{image_id}/caption"),
        ("/api/clusters", "/api/clusters"),
        ("/api/clusters/1/images", "/api/clusters/{cluster_id}/images"),
        ("/api/generations", "/api/generations"),
    ):
        said = get(server, path).json()
        schema = told["paths"][of]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        for each in said if isinstance(said, list) else [said]:
            assert set(each) <= fields(schema), path
    assert set(record) <= fields(told["paths"]["/api/generations"]["post"]["responses"]["200"]["content"]["application/json"]["schema"])  # fmt: skip
