"""The gallery's routes in ComfyUI: the same answers as on the page of its own, and the same refusals."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luna_dt import Library
from tests.conftest import fill, unit_vectors
from tests.pack import ROOT, load_pack, pack_module

PACK = load_pack()


@pytest.fixture
def handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pack's handlers by method and path, over a library of three images."""
    monkeypatch.setenv("LUNA_DT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DT_API_URL", "http://127.0.0.1:9")
    with Library() as library:
        fill(library, unit_vectors(3))
    found: dict[tuple[str, str], Any] = {}

    def taking(method: str) -> Any:
        return lambda path: lambda handler: found.setdefault((method, path), handler)

    routes = SimpleNamespace(get=taking("GET"), post=taking("POST"), put=taking("PUT"))
    instance = SimpleNamespace(routes=routes)
    web = SimpleNamespace(Response=SimpleNamespace, json_response=lambda told: told)
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    monkeypatch.setitem(sys.modules, "aiohttp", SimpleNamespace(web=web))
    pack_module("nodes.routes").add_routes()
    yield found
    pack_module("nodes.shared").close_libraries()


def ask(handlers: Any, method: str, path: str, name: str, body: bytes = b"", **more: Any) -> Any:
    async def read() -> bytes:
        return body

    headers = {"Host": "127.0.0.1:8188", **more.pop("headers", {})}
    remote = more.pop("remote", "127.0.0.1")
    request = SimpleNamespace(
        method=method, match_info={"name": name}, headers=headers, query=more, read=read, remote=remote
    )
    return asyncio.run(handlers[method, path](request))


PAGE, API = "/luna_dt/gallery/page/{name}", "/luna_dt/gallery/api/{name}"


def test_the_page_and_its_answers_are_served_in_comfyui(handlers: Any) -> None:
    script = ask(handlers, "GET", PAGE, "gallery.mjs")
    assert (script.status, script.headers["content-type"].partition(";")[0]) == (200, "text/javascript")
    assert len(ask(handlers, "GET", API, "find").body) == 3 * 8
    hits = ask(handlers, "POST", API, "search", json.dumps({"terms": [{"image_id": 1}]}).encode())
    assert sorted(json.loads(hits.body)["ids"]) == [2, 3]
    assert ask(handlers, "GET", PAGE, "../answers.py").status == 404


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_other_sites_are_refused_in_comfyui(handlers: Any, headers: dict[str, str]) -> None:
    for method, path, name in (("GET", PAGE, "gallery.mjs"), ("GET", API, "find"), ("POST", API, "sync")):
        assert ask(handlers, method, path, name, headers=headers).status == 403


def test_settings_are_changed_from_this_machine_alone(handlers: Any, tmp_path: Path) -> None:
    asked = json.dumps({"index": "exact"}).encode()
    for headers, remote in ({"Host": "me.example"}, "10.0.0.2"), ({"X-Forwarded-For": "10.0.0.2"}, "127.0.0.1"), (
        {"Origin": "https://evil.example"}, "127.0.0.1"
    ):  # fmt: skip
        for method in ("GET", "POST"):
            assert ask(handlers, method, API, "settings", asked, headers=headers, remote=remote).status == 403
    assert not (tmp_path / "home" / "settings.toml").exists()
    told = json.loads(ask(handlers, "GET", API, "settings").body)["settings"]
    assert told["dt"] == {"value": "http://127.0.0.1:9", "source": "environment", "variable": "DT_API_URL"}
    told = json.loads(ask(handlers, "POST", API, "settings", asked).body)["settings"]
    assert (told["index"]["value"], told["index"]["source"]) == ("exact", "file")
    assert pack_module("nodes.shared").library().settings.index == "exact"  # at once


def test_what_nodes_are_given_by_name_are_their_inputs() -> None:
    """The page writes into widgets by their names, which the nodes must have."""
    nodes = PACK.NODE_CLASS_MAPPINGS
    script = (ROOT / "web" / "gallery.mjs").read_text(encoding="utf-8")
    made = re.findall(r'make\("(LunaDT\w+)", \{ ([^}]*) \}', script)
    assert len(made) >= 6
    for name, values in made:
        inputs = {each for part in nodes[name].INPUT_TYPES().values() for each in part}
        assert {each.partition(":")[0].strip() for each in values.split(", ") if ":" in each} <= inputs
