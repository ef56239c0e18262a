"""The nodes' contact with DT: one budget of time, an interruption that is heeded, errors in words that help there."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tests.pack import Interrupted, Interruption, as_in_comfyui, load_pack, pack_module
from tests.unit.test_rest import Stranger

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACK = load_pack()
SHARED: Any = pack_module("nodes.shared")
CONTACT: Any = pack_module("nodes.contact")
WORDS: Any = pack_module("nodes.words")
ERRORS: Any = pack_module("luna_dt.errors")
NODES: dict[str, Any] = PACK.NODE_CLASS_MAPPINGS
BUDGET = 0.5  # seconds in these tests
SOON = 5.0  # far less than what would be waited otherwise, and enough for a busy machine

FEW: dict[str, dict[str, Any]] = {
    "comfy__utils": {"ProgressBar": lambda total: None},
    "folder_paths": {"get_folder_paths": lambda kind: []},
}
NEVER = b""
DRIPPING = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"


class Hung:
    """A server that accepts, says how it begins, and then drips spaces for ever."""

    def __init__(self, begins: bytes) -> None:
        self.asked, self._begins, self._ended = 0, begins, threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                taken, _ = self._listening.accept()
            except OSError:
                return
            self.asked += 1
            threading.Thread(target=self._drip, args=(taken,), daemon=True).start()

    def _drip(self, taken: socket.socket) -> None:
        with taken:
            try:
                taken.sendall(self._begins)
                while not self._ended.wait(0.05):
                    if self._begins:
                        taken.sendall(b" ")
            except OSError:
                return

    def close(self) -> None:
        self._ended.set()
        self._listening.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LUNA_DT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(CONTACT, "BUDGET", BUDGET)
    yield
    SHARED.close_libraries()
    CONTACT.found_away.clear()


@pytest.fixture(params=[NEVER, DRIPPING], ids=["never answers", "drips"])
def hung(request: pytest.FixtureRequest, home: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hung]:
    server = Hung(request.param)
    monkeypatch.setenv("DT_API_URL", server.url)
    yield server
    server.close()


@pytest.fixture
def stranger(home: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stranger]:
    server = Stranger()
    monkeypatch.setenv("DT_API_URL", server.url)
    yield server
    server.close()


def run(name: str, **inputs: Any) -> Any:
    return getattr(NODES[name](), NODES[name].FUNCTION)(**inputs)


def timed(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


ASKS_DT: list[tuple[str, dict[str, Any]]] = [
    ("LunaDTImageLoader", {"image_id": 7}),
    ("LunaDTImageLoader", {"image_id": 0, "query": "cat"}),
    ("LunaDTCaptionFetcher", {"image_id": 7}),
    ("LunaDTPromptInjector", {"image_id": 7}),
    ("LunaDTControlNetCache", {"image_id": 7, "controlnet_type": "canny"}),
    ("LunaDTClusterSampler", {"cluster": "1: Luna", "sample_count": 3, "min_quality": 0, "sort_by": "quality"}),
    ("LunaDTSimilarSearch", {"search_mode": "visual", "top_k": 3, "min_similarity": 0.1, "reference_image_id": 7}),
    ("LunaDTBatchQueue", {"image_ids": ["cat"], "operation": ["img2img"]}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "inputs"), ASKS_DT, ids=[f"{name} {i}" for i, (name, _) in enumerate(ASKS_DT)])
def test_a_dt_that_hangs_holds_a_node_for_one_budget(hung: Hung, name: str, inputs: dict[str, Any]) -> None:
    with pytest.raises((ERRORS.Unreachable, ERRORS.NotFound, ERRORS.NotSearchable), match="does not answer"):
        assert timed(lambda: run(name, **inputs)) < 0  # it raises
    start = time.monotonic()
    with pytest.raises(ERRORS.LunaError):
        run(name, **inputs)
    assert time.monotonic() - start < SOON


def test_a_dt_that_was_found_away_is_not_asked_again_for_a_while(hung: Hung, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ERRORS.UnknownImage, match="does not answer"):
        run("LunaDTPromptInjector", image_id=7)
    asked = hung.asked
    assert asked > 0
    for name, inputs in ASKS_DT[:5]:
        with pytest.raises(ERRORS.LunaError, match=r"did not answer \d+ s ago and is asked again in"):
            run(name, **inputs)
        if hasattr(NODES[name], "IS_CHANGED"):
            assert isinstance(NODES[name].IS_CHANGED(**inputs), str)
    assert hung.asked == asked
    monkeypatch.setattr(CONTACT, "SILENCE", 0.0)
    with pytest.raises(ERRORS.UnknownImage, match="does not answer"):
        run("LunaDTPromptInjector", image_id=7)
    assert hung.asked > asked


def test_the_status_asks_at_once_and_for_the_others_too(stranger: Stranger) -> None:
    record = {"id": 7, "path": "x.png", "prompt": "a cat"}
    stranger.answers["/api/images/7"] = [(200, record)]
    stranger.answers["/api/health"] = (200, {"status": "ok", "name": "DT"})
    CONTACT.found_away[stranger.url] = time.monotonic()
    with pytest.raises(ERRORS.UnknownImage, match="the node Luna DT Connection Status"):
        run("LunaDTPromptInjector", image_id=7)
    connected, message = run("LunaDTConnectionStatus")["result"]
    assert connected, message
    assert run("LunaDTPromptInjector", image_id=7)[0] == "a cat"


def test_the_status_of_a_dt_that_hangs_is_told_in_one_budget(hung: Hung) -> None:
    told: list[Any] = []
    assert timed(lambda: told.append(run("LunaDTConnectionStatus")["result"])) < SOON
    assert told[0][0] is False
    assert "does not answer" in told[0][1]


def test_several_calls_that_are_slow_keep_to_the_budget_together(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CONTACT, "QUICK", 0.2)  # so that each of them counts

    def slow(value: Any) -> Callable[[], tuple[int, Any]]:
        def answer() -> tuple[int, Any]:
            time.sleep(0.6 * BUDGET)
            return 200, value

        return answer

    record = {"id": 7, "path": "/nowhere/x.png"}
    stranger.answers["/api/clusters/1/images"] = slow([{**record, "id": i} for i in range(20)])
    for i in range(20):
        stranger.answers[f"/api/images/{i}"] = slow({**record, "id": i})
    start = time.monotonic()
    with pytest.raises(ERRORS.PictureMissing, match="none of the 20 pictures"):
        run("LunaDTClusterSampler", cluster="1: Luna", sample_count=20, min_quality=0, sort_by="quality")
    assert time.monotonic() - start < 8 * BUDGET  # not the 12 budgets that it would take
    assert not CONTACT.found_away  # it is slow, not away


def test_many_quick_answers_cost_nothing(stranger: Stranger) -> None:
    asked = CONTACT.connect(SHARED.library().settings)
    stranger.answers["/api/images/7"] = (200, {"id": 7, "path": "x.png"})
    with CONTACT.within(lambda: None):
        start = time.monotonic()
        while time.monotonic() - start < 1.5 * BUDGET:
            assert asked.image(7).id == 7
    asked.close()


@pytest.mark.parametrize(
    ("name", "inputs"), ASKS_DT[:7], ids=[f"{name} {i}" for i, (name, _) in enumerate(ASKS_DT[:7])]
)
def test_an_interruption_leaves_a_wait_for_dt_at_once(
    hung: Hung, monkeypatch: pytest.MonkeyPatch, name: str, inputs: dict[str, Any]
) -> None:
    monkeypatch.setattr(CONTACT, "BUDGET", 60.0)
    monkeypatch.setenv("LUNA_DT_TIMEOUT", "30")  # after which the thread that is left behind ends
    interruption = Interruption()
    as_in_comfyui(monkeypatch, comfy__model_management=interruption.management(), **FEW)
    threading.Timer(0.3, interruption.wanted.set).start()
    start = time.monotonic()
    with pytest.raises(Interrupted):
        run(name, **inputs)
    assert time.monotonic() - start < SOON


def test_an_interruption_is_kept_for_the_run_where_comfyui_would_swallow_it(
    hung: Hung, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CONTACT, "BUDGET", 60.0)
    monkeypatch.setenv("LUNA_DT_TIMEOUT", "30")
    interruption = Interruption()
    as_in_comfyui(monkeypatch, comfy__model_management=interruption.management(), **FEW)
    threading.Timer(0.3, interruption.wanted.set).start()
    assert timed(lambda: NODES["LunaDTPromptInjector"].IS_CHANGED(image_id=7)) < SOON
    with pytest.raises(Interrupted):
        run("LunaDTPromptInjector", image_id=7)


def test_a_search_in_dt_says_that_dt_is_down(home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DT_API_URL", "http://127.0.0.1:9")
    asked = {"search_mode": "visual", "top_k": 3, "min_similarity": 0.1, "reference_image_id": 7}
    with pytest.raises(ERRORS.Unreachable, match="does not answer") as told:
        run("LunaDTSimilarSearch", **asked, engine="dt")
    assert "synced" not in str(told.value)


# -- words ------------------------------------------------------------------------------------------


def test_an_errors_class_is_shown_in_words(home: None) -> None:
    with pytest.raises(ERRORS.BadInput) as told:
        run("LunaDTPromptInjector", image_id=0)
    kind = type(told.value)
    assert (kind.__module__, kind.__qualname__) == ("builtins", "Luna DT: bad input")  # of which ComfyUI makes its name
    assert isinstance(told.value.__cause__, ERRORS.BadInput)


def test_what_a_node_tells_is_shown_on_it(home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, dict[str, str]]] = []
    page = SimpleNamespace(send_sync=lambda event, told: shown.append((event, told)))
    context = {"get_executing_context": lambda: SimpleNamespace(node_id="3:7")}  # a node of a subgraph
    as_in_comfyui(
        monkeypatch, **FEW, server={"PromptServer": SimpleNamespace(instance=page)},
        comfy_execution={}, comfy_execution__utils=context,
    )  # fmt: skip
    monkeypatch.setenv("DT_API_URL", "http://127.0.0.1:9")
    _, message = run("LunaDTConnectionStatus")["result"]
    assert shown == [("luna_dt.text", {"nodeId": "3:7", "type": "LunaDTConnectionStatus", "text": message})]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "layer 'x' is not synced (run: luna-dt sync), and",
            "layer 'x' is not synced (run the node Luna DT Sync), and",
        ),
        ("run luna-dt sync", "run the node Luna DT Sync"),
        ("(luna-dt sync takes DT's)", "(the node Luna DT Sync takes DT's)"),
        ("make it: luna-dt embed --layer x", f"make it: {WORDS.command('embed --layer x')}"),
        (
            'open_clip is not installed; run: pip install "luna_dt[clip]"',
            f'open_clip is not installed; run: "{sys.executable}" -m pip install -r "{WORDS.PACK / "requirements.txt"}"',
        ),
        ("/data/luna-dt sync/x.png, D:\\luna-dt map\\x", "/data/luna-dt sync/x.png, D:\\luna-dt map\\x"),
        (
            "if that is meant, have it so: luna-dt sync --accept, or Library.sync(accept=True)",
            "if that is meant, have it so: “take what is there” in the Luna DT tab, under Library",
        ),
        ("D:\\luna-dt\\x.png and luna-dt-maps stay", "D:\\luna-dt\\x.png and luna-dt-maps stay"),
    ],
)
def test_steps_are_those_that_exist_in_comfyui(said: str, told: str) -> None:
    assert WORDS.here(said) == told


def test_every_command_that_a_message_may_name_is_known() -> None:
    """Whatever the library says of its command must be said in other words here."""
    named = set()
    for file in (WORDS.PACK / "luna_dt").rglob("*.py"):
        if not {"cli", "demo", "server"} & set(file.relative_to(WORDS.PACK).parts):
            named |= set(re.findall(r"luna-dt [a-z]+", file.read_text(encoding="utf-8")))
    assert len(named) > 3
    assert [each for each in named if "luna-dt" in WORDS.here(f"run: {each}")] == []


def test_every_error_can_be_shown(home: None) -> None:
    for error in (ERRORS.Refused("no", 418), ERRORS.MissingExtra("torch", "clip"), ERRORS.WrongDimension("x")):
        shown = WORDS.raised(error)
        assert isinstance(shown, type(error))
        assert str(shown) == WORDS.here(str(error))


@pytest.mark.processes
def test_the_command_that_is_told_works_from_anywhere(tmp_path: Path) -> None:
    quoted = WORDS.command("--version")
    python, pack = quoted.split('"')[1], quoted.split('"')[3]
    # -I: as ComfyUI's Python for Windows, which looks neither into its folder nor at PYTHONPATH
    told = subprocess.check_output([python, "-I", pack, "--version"], cwd=tmp_path, text=True)
    assert told.strip()


def test_what_comfyuis_manager_installs_is_what_the_pack_needs() -> None:
    def named(lines: list[str]) -> set[str]:
        return {re.split(r"[\[<>=; ]", line)[0].lower() for line in lines if not line.startswith(("#", "luna_dt["))}

    project = tomllib.loads((WORDS.PACK / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parts = [
        project["dependencies"],
        *(project["optional-dependencies"][e] for e in ("clip", "text", "scan", "postgres")),
    ]
    needed = {name for part in parts for name in named(part)} - {"numpy", "pillow"}  # which ComfyUI brings
    assert named((WORDS.PACK / "requirements.txt").read_text(encoding="utf-8").splitlines()) == needed


def test_a_node_may_be_called_in_the_order_of_its_inputs(home: None) -> None:
    """As whoever calls it from Python does; ComfyUI names them."""
    connected, told = NODES["LunaDTConnectionStatus"]().run("")["result"]
    assert not connected
    assert "nothing is synced yet" in told
    sampler = NODES["LunaDTClusterSampler"]
    assert sampler.IS_CHANGED() == sampler.IS_CHANGED(cluster="1: x")


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_what_syncs_by_itself_goes_on_until_comfyui_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, folder = pack_module("nodes.sync"), tmp_path / "pictures"
    ending = threading.Event()
    monkeypatch.setattr(sync, "ENDING", ending)
    monkeypatch.setenv("LUNA_DT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DT_API_URL", str(folder))
    sync.go_on()  # the setting is off
    assert [thread.name for thread in threading.enumerate() if thread.name == "luna_dt syncs"] == []
    monkeypatch.setenv("LUNA_DT_SYNC_MINUTES", "0.001")
    sync.go_on()  # the folder is not there yet, which is no reason to end
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "luna_dt syncs")
    try:
        folder.mkdir()
        for count in (1, 2):
            Image.new("RGB", (8, 8), (count, 0, 0)).save(folder / f"{count}.png")
            until(lambda: SHARED.library().mirrors("images"))
            until(lambda count=count: len(SHARED.library().images("", limit=5)) == count)  # type: ignore[misc]
    finally:
        ending.set()
        thread.join(30)
        SHARED.close_libraries()
    assert not thread.is_alive()
