"""Batches: what is put where, what ComfyUI lost, and that nothing is queued twice."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luna_dt import Library
from luna_dt.errors import BadInput, NotFound, Unreachable
from luna_dt.ids import parse_ids
from luna_dt.made import batch as batches
from luna_dt.made.ledger import Ledger, TrackedBatch
from luna_dt.made.request import parse_prompts, parse_seeds
from luna_dt.made.workflow import without_queue_nodes
from luna_dt.store import Store
from tests.conftest import image_batch, mirror
from tests.loopback import Handler as LoopbackHandler
from tests.loopback import Loopback

#: Of what is to be seen by chance; ``LUNA_DT_ROUNDS=200 pytest tests/unit/test_batch.py`` tries as often.
ROUNDS = int(os.environ.get("LUNA_DT_ROUNDS", "40"))

WORKFLOW: dict[str, Any] = {
    "1": {"class_type": "LunaDTImageLoader", "inputs": {"image_id": 3}, "is_changed": ["x"]},
    "2": {"class_type": "LunaDTPromptInjector", "inputs": {"image_id": 3, "prompt_override": ""}},
    "3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 4, "positive": ["2", 0]}},
    "4": {
        "class_type": "LunaDTMetadataWriter",
        "inputs": {"image": ["3", 0], "source_image_id": 0, "prompt": ["2", 0]},
    },
    "5": {"class_type": "LunaDTBatchQueue", "inputs": {"image_ids": "1-3", "operation": "img2img", "ids": ["7", 4]}},
    "6": {"class_type": "PreviewAny", "inputs": {"source": ["5", 2]}},
    "7": {"class_type": "LunaDTSimilarSearch", "inputs": {"reference_image_id": ["8", 0]}},
    "8": {"class_type": "PrimitiveInt", "inputs": {"value": 9}},
}


class Comfy:
    """ComfyUI's queue over real HTTP, as its server.py answers: what is put in runs when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, dict[str, Any]]] = []
        self.running: list[str] = []
        self.history: dict[str, Any] = {}
        self.refuse = ""
        self.queueing, self.asking = 0.0, 0.0  # seconds that it takes to queue one, and to say something
        self.deaf = False  # to interruptions
        self.seen: list[str] = []
        self.queue_asked = 0
        outer = self

        class Handler(LoopbackHandler):
            def do_GET(self) -> None:  # noqa: N802
                time.sleep(outer.asking)
                if self.path == "/prompt":
                    self.answer({"exec_info": {"queue_remaining": len(outer.running) + len(outer.waiting)}})
                elif self.path == "/queue":
                    outer.queue_asked += 1
                    entry = [[i, prompt_id, {}, {}, []] for i, (prompt_id, _) in enumerate(outer.waiting)]
                    self.answer({"queue_running": [[0, r, {}, {}, []] for r in outer.running], "queue_pending": entry})
                else:
                    wanted = self.path.rpartition("/")[2]
                    self.answer({wanted: outer.history[wanted]} if wanted in outer.history else {})

            def do_POST(self) -> None:  # noqa: N802
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/prompt":
                    time.sleep(outer.queueing)
                    if outer.refuse:
                        error = {"error": {"message": outer.refuse}, "node_errors": {}}
                        self.answer(error, 400)
                        return
                    assert body["prompt_id"] not in outer.seen, "queued twice"
                    outer.seen.append(body["prompt_id"])
                    outer.waiting.append((body["prompt_id"], body["prompt"]))
                    self.answer({"prompt_id": body["prompt_id"]})
                elif self.path == "/queue":
                    outer.waiting = [each for each in outer.waiting if each[0] not in body["delete"]]
                    self.answer(None)
                elif outer.deaf:
                    self.answer(None)
                else:
                    outer.running.remove(body["prompt_id"])
                    outer.end(body["prompt_id"], "execution_interrupted", {})
                    self.answer(None)

            def answer(self, value: Any, status: int = 200) -> None:
                data = b"" if value is None else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = Loopback(Handler)
        self.url = self.server.url

    def end(self, prompt_id: str, kind: str = "execution_success", told: Any = None, outputs: Any = None) -> None:
        status = "success" if kind == "execution_success" else "error"
        self.history[prompt_id] = {
            "outputs": outputs or {},
            "status": {"status_str": status, "messages": [["execution_start", {}], [kind, told or {}]]},
        }

    def run(self, count: int) -> None:
        for _ in range(count):
            prompt_id, _ = self.waiting.pop(0)
            self.end(prompt_id)

    def restart(self) -> None:
        self.waiting, self.running, self.history, self.seen = [], [], {}, []

    def close(self) -> None:
        self.server.close()


@pytest.fixture
def comfy() -> Iterator[Comfy]:
    opened = Comfy()
    yield opened
    opened.close()


def queued(library: Library, comfy: Comfy, ids: list[int], **options: Any) -> TrackedBatch:
    batch = library.batches.create(ids, "img2img", WORKFLOW, comfy.url, **options)
    return library.batches.queue(batch.id)


def test_each_item_has_its_id_seed_and_prompt_where_they_belong(library: Library, comfy: Comfy) -> None:
    batch = queued(library, comfy, [11, 12], seeds="5, 6", prompts="a cat\na dog")
    assert batch.counts == {"queued": 2}
    first, second = (prompt for _, prompt in comfy.waiting)
    assert set(first) == {"1", "2", "3", "4", "7", "8"}  # the batch node is out, and what hung on it
    assert "is_changed" not in first["1"]
    assert [first[n]["inputs"]["image_id"] for n in "12"] == [11, 11]
    assert second["1"]["inputs"]["image_id"] == 12
    assert first["7"]["inputs"]["reference_image_id"] == ["8", 0]  # linked, so meant to stay
    assert [p["3"]["inputs"]["seed"] for p in (first, second)] == [5, 6]
    assert [p["2"]["inputs"]["prompt_override"] for p in (first, second)] == ["a cat", "a dog"]
    writer = first["4"]["inputs"]
    assert (writer["source_image_id"], writer["operation"], writer["prompt"]) == (11, "img2img", ["2", 0])
    assert writer["batch_id"] == f"{batch.id}/0"
    assert WORKFLOW["1"]["inputs"]["image_id"] == 3  # the workflow itself is as it was


def test_a_batch_is_followed_to_its_end(library: Library, comfy: Comfy) -> None:
    batch = queued(library, comfy, [1, 2, 3, 4])
    comfy.running.append(comfy.waiting.pop(0)[0])
    assert library.batches.follow(batch.id).counts == {"queued": 3, "running": 1}
    comfy.end(comfy.running.pop())
    prompt_id, _ = comfy.waiting.pop(0)
    comfy.end(prompt_id, "execution_error", {"node_type": "KSampler", "exception_message": "no memory\n"})
    comfy.run(1)
    found = library.batches.follow(batch.id)
    assert found.counts == {"queued": 1, "done": 2, "failed": 1}
    assert found.items[1].error == "KSampler: no memory"
    assert str(found) == "4 items: 1 queued, 2 done, 1 failed"
    comfy.run(1)
    again = library.batches.retry(batch.id)
    assert again.items[1].state == "queued"
    comfy.run(1)
    done = library.batches.follow(batch.id)
    assert (done.counts, done.is_open) == ({"done": 4}, False)
    assert [b.id for b in library.batches.all()] == [batch.id]


def test_after_a_restart_only_what_was_lost_is_queued_again(library: Library, comfy: Comfy) -> None:
    batch = queued(library, comfy, list(range(1, 21)))
    comfy.run(7)
    library.batches.follow(batch.id)
    comfy.restart()
    lost = library.batches.follow(batch.id)
    assert lost.counts == {"lost": 13, "done": 7}
    resumed = library.batches.resume(batch.id)
    assert resumed.counts == {"queued": 13, "done": 7}
    assert library.batches.resume(batch.id).counts == {"queued": 13, "done": 7}  # again: nothing is lost
    assert [p["1"]["inputs"]["image_id"] for _, p in comfy.waiting] == list(range(8, 21))
    comfy.run(13)
    assert library.batches.follow(batch.id).counts == {"done": 20}


def test_a_kill_between_queueing_and_noting_repeats_nothing(library: Library, store: Store, comfy: Comfy) -> None:
    batch = queued(library, comfy, [1, 2, 3])
    Ledger(store).note(batch.id, [0, 1, 2], "new")  # as if we had been killed before we noted it
    comfy.run(1)
    assert library.batches.resume(batch.id).counts == {"queued": 2, "done": 1}
    assert len(comfy.seen) == 3


def test_a_run_that_was_recorded_and_saved_before_the_restart_is_done(
    library: Library, comfy: Comfy, tmp_path: Path
) -> None:
    batch = queued(library, comfy, [1, 2, 3])
    saved = tmp_path / "saved.png"
    saved.write_bytes(b"x")
    for position, output in ((0, saved), (1, tmp_path / "gone.png")):
        library.record(
            {"source_image_id": position + 1, "batch_id": batch.id, "output": str(output),
             "extra_metadata": {"batch_item": position}}
        )  # fmt: skip
    comfy.restart()
    assert [item.state for item in library.batches.follow(batch.id).items] == ["done", "lost", "lost"]


def test_cancelling_takes_out_of_the_queue_and_interrupts(library: Library, comfy: Comfy) -> None:
    batch = queued(library, comfy, [1, 2, 3])
    comfy.run(1)
    comfy.running.append(comfy.waiting.pop(0)[0])
    assert library.batches.cancel(batch.id).counts == {"done": 1, "cancelled": 2}
    assert (comfy.waiting, comfy.running) == ([], [])
    assert library.batches.retry(batch.id).counts == {"queued": 2, "done": 1}


def test_a_double_click_is_one_batch(library: Library, comfy: Comfy) -> None:
    first, second = queued(library, comfy, [1, 2]), queued(library, comfy, [1, 2])
    assert first.id == second.id
    assert len(comfy.waiting) == 2
    assert queued(library, comfy, [1, 3]).id != first.id


def test_a_slow_double_click_is_one_batch_and_a_refused_one_is_tried_anew(
    library: Library, store: Store, comfy: Comfy
) -> None:
    first = queued(library, comfy, [1, 2])
    with store.writing() as writer:
        writer.execute("UPDATE batches SET created = '2026-01-01T00:00:00+00:00'")
    assert queued(library, comfy, [1, 2]).id == first.id  # it is still under way
    comfy.run(2)
    library.batches.follow(first.id)
    assert queued(library, comfy, [1, 2]).id != first.id  # it is done, and meant again
    comfy.refuse = "no"
    for _ in range(2):
        with pytest.raises(BadInput, match="refuses"):
            queued(library, comfy, [7])


def test_what_is_cancelled_while_it_is_queued_is_not_run(library: Library, comfy: Comfy) -> None:
    batch = library.batches.create(list(range(1, 41)), "img2img", WORKFLOW, comfy.url)
    queue = threading.Thread(target=library.batches.queue, args=(batch.id,))
    queue.start()
    while len(comfy.seen) < 3:
        assert queue.is_alive() or len(comfy.seen) >= 3
    library.batches.cancel(batch.id)
    queue.join()
    assert library.batches.get(batch.id).counts == {"cancelled": 40}
    assert comfy.waiting == []
    assert len(comfy.seen) < 40


@pytest.mark.slow
def test_cancelling_stops_whoever_queues_at_once(library: Library, comfy: Comfy) -> None:
    comfy.queueing, comfy.asking = 0.1, 0.01
    batch = library.batches.create(list(range(1, 101)), "img2img", WORKFLOW, comfy.url)
    queue = threading.Thread(target=library.batches.queue, args=(batch.id,))
    queue.start()
    while len(comfy.seen) < 5:
        time.sleep(0.001)
    comfy.run(1)
    before = len(comfy.seen)
    library.batches.cancel(batch.id)
    queue.join()
    assert (
        len(comfy.seen) <= before + 3
    )  # where ComfyUI was asked about all 100 first, ten and more were queued meanwhile
    assert comfy.waiting == []
    assert library.batches.get(batch.id).counts == {"done": 1, "cancelled": 99}


def test_what_has_ended_or_runs_to_its_end_is_not_cancelled(library: Library, comfy: Comfy) -> None:
    workflow = {name: node for name, node in WORKFLOW.items() if name != "4"}
    batch = library.batches.create([1, 2, 3, 4], "img2img", workflow, comfy.url)
    library.batches.queue(batch.id)
    ended, told = threading.Event(), []

    def tell(now: TrackedBatch) -> None:
        told.append(now.counts)
        if not now.is_open:
            ended.set()

    library.batches.watch(batch.id, tell)
    comfy.run(1)
    comfy.end(comfy.waiting.pop(0)[0], "execution_error", {"node_type": "KSampler", "exception_message": "no memory"})
    comfy.running.append(comfy.waiting.pop(0)[0])
    comfy.deaf = True  # it hears of it after its last step
    assert library.batches.cancel(batch.id).counts == {"running": 1, "done": 1, "failed": 1, "cancelled": 1}
    assert comfy.waiting == []
    comfy.end(comfy.running.pop())
    assert ended.wait(30)
    assert told[-1] == {"done": 2, "failed": 1, "cancelled": 1}
    made = library.generations(batch_id=batch.id)
    assert sorted(m.source_image_id or 0 for m in made) == [1, 3]


def test_what_a_comfyui_that_was_away_did_all_the_same_is_not_done_twice(
    library: Library, store: Store, comfy: Comfy
) -> None:
    batch = queued(library, comfy, [1, 2, 3])
    Ledger(store).move(batch.id, "http://127.0.0.1:9")
    assert library.batches.cancel(batch.id).counts == {"cancelled": 3}
    comfy.run(1)
    Ledger(store).move(batch.id, comfy.url)
    assert library.batches.retry(batch.id).counts == {"queued": 2, "done": 1}
    assert [prompt["1"]["inputs"]["image_id"] for _, prompt in comfy.waiting] == [2, 3]
    assert len(comfy.seen) == 5


def test_a_watcher_goes_on_after_a_resume_by_another(library: Library, comfy: Comfy) -> None:
    batch = queued(library, comfy, [1, 2])
    comfy.restart()
    ended = threading.Event()
    library.batches.watch(batch.id, lambda now: None if now.is_open else ended.set())
    with Library(library.settings.home, dt="http://127.0.0.1:9") as other:
        deadline = threading.Event()
        while "lost" not in other.batches.get(batch.id).counts:
            assert not deadline.wait(0.05)
        other.batches.resume(batch.id)
    comfy.run(2)
    assert ended.wait(30)
    with Library(library.settings.home, dt="http://127.0.0.1:9") as other:
        assert other.batches.get(batch.id).counts == {"done": 2}
        assert other.batches.cancel(batch.id).counts == {"done": 2}


def test_without_a_writer_what_is_done_is_recorded(library: Library, comfy: Comfy) -> None:
    workflow = {name: node for name, node in WORKFLOW.items() if name != "4"}
    batch = library.batches.create([5], "upscale", workflow, comfy.url, seeds="7")
    library.batches.queue(batch.id)
    prompt_id, _ = comfy.waiting.pop(0)
    comfy.end(prompt_id, outputs={"9": {"images": [{"filename": "a.png", "subfolder": "s", "type": "output"}]}})
    library.batches.follow(batch.id)
    made = library.generations(batch_id=batch.id)
    assert [(m.source_image_id, m.operation, m.seed, m.extra_metadata["files"]) for m in made] == [
        (5, "upscale", 7, ["s/a.png"])
    ]


def test_what_comfyui_refuses_is_told_in_its_words(library: Library, comfy: Comfy) -> None:
    comfy.refuse = "Prompt has no outputs"
    batch = library.batches.create([1, 2], "img2img", WORKFLOW, comfy.url)
    with pytest.raises(BadInput, match="ComfyUI refuses the workflow: Prompt has no outputs"):
        library.batches.queue(batch.id)
    assert library.batches.get(batch.id).counts == {"failed": 1, "cancelled": 1}


def test_a_comfyui_that_is_away_loses_no_item(library: Library, comfy: Comfy) -> None:
    batch = library.batches.create([1, 2], "img2img", WORKFLOW, "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match="--comfyui"):
        library.batches.queue(batch.id)
    assert library.batches.get(batch.id).counts == {"new": 2}
    assert library.batches.resume(batch.id, comfy.url).counts == {"queued": 2}
    with pytest.raises(NotFound, match="luna-dt batch list"):
        library.batches.get("none")


def test_watching_tells_until_the_end(library: Library, comfy: Comfy) -> None:
    batch, told = queued(library, comfy, [1, 2]), []
    ended = threading.Event()

    def tell(now: TrackedBatch) -> None:
        told.append(str(now))
        if not now.is_open:
            ended.set()

    library.batches.watch(batch.id, tell)
    comfy.run(2)
    assert ended.wait(30)
    assert told[-1] == "2 items: 2 done"


@pytest.mark.parametrize(
    ("text", "ids"),
    [("12, 15-18", [12, 15, 16, 17, 18]), ("3", [3]), (" 1 ; 2\n4 - 5", [1, 2, 4, 5]), ("a cat", None)],
)
def test_ids(text: str, ids: list[int] | None) -> None:
    assert parse_ids(text) == ids


def test_ids_by_query(library: Library) -> None:
    import numpy as np

    mirror(library, "images", image_batch(np.array([4, 8, 15], np.int64)))
    assert library.ids("prompt 1") == [15]
    assert library.ids("8, 4") == [8, 4]
    assert library.ids(" ") == []
    with pytest.raises(BadInput, match="no image fits"):
        library.ids("a dragon")


def test_seeds_and_prompts_fit_the_items() -> None:
    assert parse_seeds("", 2) == [None, None]
    assert parse_seeds("7", 2) == [7, 7]
    drawn = parse_seeds("Random", 3)
    assert len(set(drawn)) == 3
    assert parse_prompts("\n a \n", 2) == ["a", "a"]
    for bad in ("1, 2, 3", "x", "-1", str(2**64)):
        with pytest.raises(BadInput, match="seeds"):
            parse_seeds(bad, 2)
    with pytest.raises(BadInput, match="there are 3 prompts for 2 items"):
        parse_prompts("a\nb\nc", 2)
    for ids in ("5-3", "1-999999999", "1--3"):
        with pytest.raises(BadInput):
            parse_ids(ids)


@pytest.mark.parametrize(
    ("gone", "options", "says"),
    [
        ("1247", {}, "no Luna node of this workflow takes an image id"),
        ("3", {"seeds": "1"}, "no node of this workflow has a seed"),
        ("2", {"prompts": "a"}, "prompts go into a Luna DT Prompt Injector"),
    ],
)
def test_a_workflow_that_takes_nothing_is_refused(
    library: Library, comfy: Comfy, gone: str, options: Any, says: str
) -> None:
    workflow = {name: node for name, node in WORKFLOW.items() if name not in gone}
    with pytest.raises(BadInput, match=says):
        library.batches.create([1], "img2img", workflow, comfy.url, **options)
    with pytest.raises(BadInput, match="no images to queue"):
        library.batches.create([], "img2img", WORKFLOW, comfy.url)
    assert without_queue_nodes({"5": WORKFLOW["5"], "6": WORKFLOW["6"]}) == {}


def test_what_its_user_clears_from_comfyuis_queue_is_cancelled_not_lost(library: Library, comfy: Comfy) -> None:
    batch = queued(library, comfy, list(range(1, 6)))
    comfy.run(1)
    comfy.running.append(comfy.waiting.pop(0)[0])
    comfy.waiting.clear()
    found = library.batches.follow(batch.id)
    assert found.counts == {"running": 1, "done": 1, "cancelled": 3}
    assert found.items[4].error == "taken out of ComfyUI's queue"
    assert library.batches.resume(batch.id).counts == found.counts
    assert comfy.waiting == []
    comfy.end(comfy.running.pop())
    assert library.batches.follow(batch.id).counts == {"done": 2, "cancelled": 3}
    assert library.batches.retry(batch.id).counts == {"queued": 3, "done": 2}  # where that is asked for


def test_a_queue_cleared_before_anything_ran_is_told_by_the_run_that_filled_it(library: Library, comfy: Comfy) -> None:
    for known, state in ((True, "cancelled"), (False, "lost")):
        comfy.restart()
        extra = {"luna_dt_run": "its-own-run"}
        batch = library.batches.create([1, 2, 3 + known], "img2img", WORKFLOW, comfy.url, extra=extra)
        library.batches.queue(batch.id)
        if known:
            comfy.end("its-own-run")
        comfy.waiting.clear()
        assert library.batches.follow(batch.id).counts == {state: 3}


@pytest.mark.slow
def test_watchers_and_a_resume_at_once_lose_and_double_nothing(library: Library, comfy: Comfy) -> None:
    """A look that began before a resume must not be written over what the resume has done."""
    with Library(library.settings.home, dt="http://127.0.0.1:9") as other:
        for i in range(ROUNDS):
            comfy.restart()
            batch = queued(library, comfy, [i + 1] * 5)
            comfy.restart()
            comfy.asking = 0.002
            resume = threading.Thread(target=other.batches.resume, args=(batch.id,))
            looks = [threading.Thread(target=each.batches.follow, args=(batch.id,)) for each in (library, other)]
            for thread in (*looks, resume):
                thread.start()
            for thread in (*looks, resume):
                thread.join()
            comfy.asking = 0.0
            assert library.batches.get(batch.id).counts == {"queued": 5}
            assert len(comfy.seen) == len(comfy.waiting) == 5
            comfy.run(5)
            assert library.batches.follow(batch.id).counts == {"done": 5}


def test_a_watcher_hardly_asks_for_the_whole_queue(
    library: Library, comfy: Comfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "POLL", 0.01)
    batch = queued(library, comfy, list(range(1, 101)))
    ended, told = threading.Event(), list[TrackedBatch]()

    def tell(now: TrackedBatch) -> None:
        told.append(now)
        if not now.is_open:
            ended.set()

    library.batches.watch(batch.id, tell)
    while comfy.waiting:
        comfy.run(min(len(comfy.waiting), 1))
        time.sleep(0.01)
    assert ended.wait(30)
    assert told[-1].counts == {"done": 100}
    assert len(told) > 1
    assert comfy.queue_asked <= 2  # when it began, and perhaps for the last


def test_a_watcher_ends_where_the_queue_is_cleared(
    library: Library, comfy: Comfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "POLL", 0.01)
    several = [queued(library, comfy, list(range(first, first + 40))) for first in (1, 101, 201)]
    ended = [threading.Event() for _ in several]
    for batch, event in zip(several, ended, strict=True):
        library.batches.watch(batch.id, lambda now, event=event: None if now.is_open else event.set())  # type: ignore[misc]
    watchers = [thread for thread in threading.enumerate() if thread.name == "luna_dt batches"]
    assert len(watchers) == 1  # for all of them
    comfy.run(1)
    time.sleep(0.1)
    comfy.waiting.clear()
    assert ended[0].wait(30)
    # of the others nothing ran, so they may have gone with a ComfyUI that was ended
    comfy.restart()
    for batch in several[1:]:
        library.batches.cancel(batch.id)
    assert all(event.wait(30) for event in ended)
    watchers[0].join(30)
    assert not watchers[0].is_alive()


def test_queueing_is_left_where_progress_raises(library: Library, comfy: Comfy) -> None:
    batch = library.batches.create(list(range(1, 41)), "img2img", WORKFLOW, comfy.url)

    def until_the_tenth(_what: str, done: int, total: int) -> None:
        assert total == 40
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library.batches.queue(batch.id, until_the_tenth)
    assert library.batches.get(batch.id).counts == {"queued": 10, "cancelled": 30}
    assert len(comfy.seen) == 10
