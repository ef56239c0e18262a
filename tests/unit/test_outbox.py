"""The outbox: stored first, in order, once, parked where refused; nothing is lost."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from luna_dt import Library
from luna_dt.errors import BadAnswer, BadInput, LunaError, NotOffered, Refused, StoreError, Unreachable
from luna_dt.generation import Generation
from luna_dt.made.outbox import Outbox
from luna_dt.store import Store


class DT:
    """A catalog that takes generations as told."""

    def __init__(self) -> None:
        self.stored: list[Generation] = []
        self.answers: Callable[[Generation], LunaError | None] = lambda _: None
        self.asked: list[str] = []

    def record(self, generation: Generation) -> str:
        self.asked.append(generation.prompt or "")
        error = self.answers(generation)
        if error:
            raise error
        self.stored.append(generation)
        return str(len(self.stored))


@pytest.fixture
def dt() -> DT:
    return DT()


def opened(home: Path, dt: DT, backoff: float) -> Iterator[Outbox]:
    store = Store(home)
    box = Outbox(store, lambda: dt, backoff=backoff)  # type: ignore[arg-type, return-value]
    yield box
    box.close()
    store.close()


@pytest.fixture
def outbox(tmp_path: Path, dt: DT) -> Iterator[Outbox]:
    yield from opened(tmp_path, dt, 0.002)


@pytest.fixture
def patient(tmp_path: Path, dt: DT) -> Iterator[Outbox]:
    """One that waits for the longest pause there is after the first failure."""
    yield from opened(tmp_path, dt, 10_000.0)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def made(prompt: str, source: int | None = None, **more: Any) -> dict[str, Any]:
    return {"operation": "img2img", "prompt": prompt, "source_image_id": source, "seed": 2**64 - 1, **more}


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth - 1):
        found = [found]
    return found


def holding_itself() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["itself"] = found
    return found


def test_what_is_recorded_is_sent_with_all_it_has(outbox: Outbox, dt: DT) -> None:
    entry = outbox.put(made("a cat", 5, extra_metadata={"weather": ["rain", None]}, batch_id="b"))
    assert entry.state == "waiting"
    wait_until(lambda: outbox.counts()["sent"] == 1)
    sent = dt.stored[0]
    assert (sent.prompt, sent.source_image_id, sent.seed, sent.batch_id) == ("a cat", 5, 2**64 - 1, "b")
    assert sent.extra_metadata == {"weather": ["rain", None]}
    assert sent.key == entry.generation.key
    assert sent.created
    assert outbox.entries("sent")[0].generation.id == "1"


def test_the_same_key_is_recorded_once(outbox: Outbox, dt: DT) -> None:
    first, second = outbox.put(made("a", key="k")), outbox.put(made("a", key="k"))
    assert first.position == second.position
    wait_until(lambda: outbox.counts()["sent"] == 1)
    assert len(dt.stored) == 1


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"operation": "photo"}, "operation is one of txt2img"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"seed": "many"}, "seed cannot be 'many'"),
        ({"steps": 2.5}, "steps cannot be 2.5"),
        ({"cfg": float("nan")}, "cfg must be 0 or more"),
        ({"source_image_id": 0}, "source_image_id cannot be 0"),
        ({"extra_metadata": {"x": float("inf")}}, "extra_metadata cannot be"),
        ({"prompt": 7}, "prompt cannot be 7"),
        ({"prompt": "half \ud83d"}, "prompt cannot be"),
        ({"key": "ключ"}, "key is at most 200 ASCII"),
        ({"key": "a\nb"}, "key is at most 200 ASCII"),
        ({"key": "k" * 100_000}, "key is at most 200 ASCII"),
        ({"seed": 10**5000}, "seed must be 0 or more"),
        ({"steps": -(10**5000)}, "steps must be 0 or more"),
        ({"seed": "²"}, "seed cannot be '²'"),
        ({"seed": "9" * 5000}, "seed cannot be '999"),
        ({"source_image_id": 2**63}, "source_image_id cannot be"),
        ({"source_image_id": 10**5000}, "source_image_id cannot be"),
        ({"operation": "\x1b[2J"}, "operation is one of txt2img"),
        ({"extra_metadata": {"x": "half \ud83d"}}, "extra_metadata cannot be"),
        ({"extra_metadata": {"half \ud83d": 1}}, "extra_metadata cannot be"),
        ({"extra_metadata": {"x": [{"y": "\udfff"}]}}, "extra_metadata cannot be"),
        ({"extra_metadata": {"x": nested(33)}}, "more than 32 levels"),
        ({"extra_metadata": {"x": nested(100_000)}}, "more than 32 levels"),
        ({"extra_metadata": {"x": {1, 2}}}, "cannot be said in JSON"),
        ({"extra_metadata": {"x": b"bytes"}}, "cannot be said in JSON"),
        ({"extra_metadata": {"x": 10**5000}}, "cannot be said in JSON"),
        ({"extra_metadata": {(1, 2): 3}}, "cannot be said in JSON"),
        ({"extra_metadata": holding_itself()}, "more than 32 levels"),
        ({"extra_metadata": [1]}, "extra_metadata cannot be"),
    ],
)
def test_records_that_make_no_sense_are_refused_at_once(outbox: Outbox, record: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says) as told:
        outbox.put(record)
    assert len(str(told.value)) < 500
    assert str(told.value).isprintable()
    assert outbox.entries() == []


def test_while_dt_is_away_all_waits_and_then_goes_in_order(outbox: Outbox, dt: DT) -> None:
    dt.answers = lambda _: Unreachable("DT is away")
    for i in range(20):
        outbox.put(made(f"{i}", source=1 + i % 3))
    wait_until(lambda: outbox.counts()["failing"] > 0)
    assert outbox.entries("waiting")[0].reason == "DT is away"
    assert set(dt.asked) <= {"0", "1", "2"}  # the first of each source; the others are not sent against a closed door
    dt.answers = lambda _: None
    wait_until(lambda: outbox.counts()["sent"] == 20)
    for source in (1, 2, 3):
        of_source = [int(g.prompt or "") for g in dt.stored if g.source_image_id == source]
        assert of_source == sorted(of_source)


def test_a_record_that_fails_holds_up_its_own_source_only(outbox: Outbox, dt: DT) -> None:
    dt.answers = lambda g: Refused("not now", 500) if g.prompt == "bad luck" else None
    outbox.put(made("bad luck", source=1))
    outbox.put(made("after", source=1))
    outbox.put(made("other", source=2))
    outbox.put(made("none", source=None))
    wait_until(lambda: outbox.counts()["sent"] == 2)
    assert [g.prompt for g in dt.stored] == ["other", "none"]
    dt.answers = lambda _: None
    wait_until(lambda: outbox.counts()["sent"] == 4)
    assert [g.prompt for g in dt.stored][2:] == ["bad luck", "after"]


def test_what_dt_refuses_is_parked_and_can_be_sent_again(outbox: Outbox, dt: DT) -> None:
    dt.answers = lambda g: BadInput("no such operation") if g.prompt == "odd" else None
    outbox.put(made("odd", source=1))
    outbox.put(made("even", source=1))
    wait_until(lambda: outbox.counts()["sent"] == 1)
    parked = outbox.entries("parked")
    assert [(e.generation.prompt, e.reason) for e in parked] == [("odd", "no such operation")]
    asked = len(dt.asked)
    time.sleep(0.2)
    assert len(dt.asked) == asked  # not tried for ever
    assert outbox.send() == 0
    dt.answers = lambda _: None
    assert outbox.send(parked=True) == 1


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Refused("a token is missing", 401), "waiting"),
        (Refused("too many", 429), "waiting"),
        (Refused("a wrong address", 421), "waiting"),
        (NotOffered("not yet"), "kept"),
        (Refused("not implemented", 501), "kept"),
        (Refused("unprocessable", 422), "parked"),
        (Refused("gone", 410), "parked"),
    ],
)
def test_only_what_is_the_records_fault_is_parked(outbox: Outbox, dt: DT, error: LunaError, state: str) -> None:
    dt.answers = lambda _: error
    outbox.put(made("a"))
    wait_until(lambda: outbox.entries()[0].tries > 0)
    assert outbox.entries()[0].state == state


def test_what_dt_does_not_offer_to_store_is_kept_until_a_dt_does(outbox: Outbox, dt: DT) -> None:
    dt.answers = lambda g: NotOffered("this DT stores no upscales") if g.operation == "upscale" else None
    outbox.put(made("large", source=1, operation="upscale"))
    outbox.put(made("after", source=1))
    wait_until(lambda: outbox.counts()["sent"] == 1)
    assert [g.prompt for g in dt.stored] == ["after"]  # it holds nothing up
    kept = outbox.entries("kept")
    assert [(e.generation.prompt, e.tries, e.reason) for e in kept] == [("large", 1, "this DT stores no upscales")]
    assert (outbox.counts()["kept"], outbox.counts()["failing"]) == (1, 0)
    outbox.put(made("another"))
    wait_until(lambda: outbox.counts()["sent"] == 2)
    assert dt.asked.count("large") == 1  # not tried for ever
    assert outbox.send() == 0  # only when asked to, and kept again
    assert (dt.asked.count("large"), outbox.entries("kept")[0].tries) == (2, 2)
    dt.answers = lambda _: None
    assert outbox.send() == 1
    assert outbox.counts()["sent"] == 3
    assert outbox.drop([kept[0].position], "too late") == 0


def test_what_is_kept_is_among_what_was_made_until_it_is_dropped(library: Library, store: Store, dt: DT) -> None:
    library.outbox = Outbox(store, lambda: dt)  # type: ignore[arg-type, return-value]
    dt.answers = lambda _: NotOffered("none")
    position = library.record(made("a")).position
    wait_until(lambda: library.outbox.counts()["kept"] == 1)
    assert [g.prompt for g in library.generations()] == ["a"]
    assert library.outbox.drop([position], "not wanted") == 1
    assert library.generations() == []


def test_a_record_that_breaks_the_sender_stops_no_other(outbox: Outbox, dt: DT) -> None:
    def answers(generation: Generation) -> None:
        if generation.prompt == "broken":
            raise KeyError("a bug")

    dt.answers = answers
    outbox.put(made("broken", source=1))
    outbox.put(made("whole", source=2))
    wait_until(lambda: outbox.counts()["sent"] == 1)
    assert [e.generation.prompt for e in outbox.entries("waiting")] == ["broken"]
    assert "KeyError" in outbox.entries("waiting")[0].reason


def test_what_an_earlier_version_let_in_is_parked_and_holds_nothing_up(tmp_path: Path, dt: DT) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    poison = ['{"extra_metadata": {"x": "\\ud83d"}}', f'{{"extra_metadata": {{"x": {deep}}}}}', '{"prompt": "\\udfff"}']
    store = Store(tmp_path)
    with store.writing() as writer:
        for i, record in enumerate(poison):
            writer.execute(
                "INSERT INTO outbox (key, source, record, state) VALUES (?, 1, ?, 'waiting')", [f"poison {i}", record]
            )
    box = Outbox(store, lambda: dt, backoff=0.01)  # type: ignore[arg-type, return-value]
    assert [e.generation.key for e in box.entries("waiting")] == ["poison 0", "poison 1", "poison 2"]
    box.put(made("after", source=1))
    wait_until(lambda: box.counts()["sent"] == 1)
    assert [e.generation.key for e in box.entries("parked")] == ["poison 0", "poison 1", "poison 2"]
    assert all("cannot be sent" in e.reason for e in box.entries("parked"))
    assert [g.prompt for g in dt.stored] == ["after"]
    box.close()
    store.close()


@pytest.mark.parametrize("error", [Refused("it fails", 500), BadAnswer("nonsense"), KeyError("a bug")])
def test_what_fails_again_and_again_while_others_pass_is_parked(outbox: Outbox, dt: DT, error: Any) -> None:
    dt.answers = lambda g: error if g.prompt == "bad luck" else None
    outbox.put(made("bad luck", source=1))
    outbox.put(made("after", source=1))
    outbox.put(made("other", source=2))
    wait_until(lambda: outbox.counts()["sent"] == 2)
    assert [g.prompt for g in dt.stored] == ["other", "after"]
    assert [e.generation.prompt for e in outbox.entries("parked")] == ["bad luck"]
    assert dt.asked.count("bad luck") > 3


@pytest.mark.parametrize("error", [Refused("it fails", 500), Refused("busy", 503), Refused("no token", 401)])
def test_a_dt_that_fails_at_all_of_them_parks_none(outbox: Outbox, dt: DT, error: Any) -> None:
    dt.answers = lambda _: error
    outbox.put(made("one", source=1))
    outbox.put(made("two", source=2))
    wait_until(lambda: min(e.tries for e in outbox.entries()) > 7)
    assert outbox.counts()["waiting"] == 2
    dt.answers = lambda _: None
    wait_until(lambda: outbox.counts()["sent"] == 2)


def test_dropping_keeps_the_reason(outbox: Outbox, dt: DT) -> None:
    dt.answers = lambda _: Unreachable("away")
    position = outbox.put(made("a")).position
    with pytest.raises(BadInput, match="say why"):
        outbox.drop([position], " ")
    assert outbox.drop([position, 99], "a mistake") == 1
    dt.answers = lambda _: None
    time.sleep(0.1)
    assert (outbox.entries()[0].state, outbox.entries()[0].reason) == ("dropped", "a mistake")
    assert dt.stored == []


def test_sending_now_says_when_dt_is_away(outbox: Outbox, dt: DT) -> None:
    dt.answers = lambda _: Unreachable("DT does not answer")
    outbox.put(made("a"))
    with pytest.raises(Unreachable, match="does not answer"):
        outbox.send()
    dt.answers = lambda _: None
    assert outbox.send() + outbox.counts()["sent"] >= 1


def test_two_instances_on_one_home_send_each_record_once(tmp_path: Path, dt: DT) -> None:
    stores = [Store(tmp_path), Store(tmp_path)]
    boxes = [Outbox(store, lambda: dt, backoff=0.01) for store in stores]  # type: ignore[arg-type, return-value]
    for i in range(40):
        boxes[i % 2].put(made(f"{i}", source=1))
    wait_until(lambda: boxes[0].counts()["sent"] == 40)
    assert [int(g.prompt or "") for g in dt.stored] == list(range(40))  # and in order, although two could send
    for box, store in zip(boxes, stores, strict=True):
        box.close()
        store.close()


def test_what_waits_is_sent_by_the_next_process(tmp_path: Path, dt: DT) -> None:
    dt.answers = lambda _: Unreachable("away")
    for turn in range(2):
        store = Store(tmp_path)
        box = Outbox(store, lambda: dt, backoff=0.01)  # type: ignore[arg-type, return-value]
        if turn == 0:
            box.put(made("a"))
        else:
            dt.answers = lambda _: None
            box.start()
            wait_until(lambda: box.counts()["sent"] == 1)  # noqa: B023
        box.close()
        store.close()


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, dt: DT) -> None:
    store = Store(tmp_path)
    box = Outbox(store, lambda: dt)  # type: ignore[arg-type, return-value]
    dt.answers = lambda _: Unreachable("away")
    pages = store.rows("PRAGMA page_count")[0][0]
    with store.writing() as writer:
        writer.execute(f"PRAGMA max_page_count = {pages + 4}")  # SQLite says 'database or disk is full'
    kept = 0
    with pytest.raises(StoreError, match="disk full"):  # noqa: PT012
        for i in range(10_000):
            box.put(made("x" * 500, key=str(i)))
            kept += 1
    assert kept > 0
    assert [e.generation.key for e in box.entries()] == [str(i) for i in range(kept)]
    with store.writing() as writer:
        writer.execute("PRAGMA max_page_count = 1000000")
    box.put(made("there is room again"))
    box.close()
    store.close()
    with sqlite3.connect(tmp_path / "library.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_recording_is_quick(library: Library) -> None:
    """The issue's bound is 5 ms; what is asserted is that it does not wait for DT, which is away."""
    start = time.perf_counter()
    for i in range(20):
        library.record(made(f"{i}"))
    assert (time.perf_counter() - start) / 20 < 1
    assert library.outbox.counts()["waiting"] == 20


@pytest.mark.parametrize("put_back", [3600.0, 86_400.0, 10 * 365 * 86_400.0])
def test_a_clock_that_is_put_back_holds_nothing_up(
    patient: Outbox, dt: DT, monkeypatch: pytest.MonkeyPatch, put_back: float
) -> None:
    dt.answers = lambda _: Refused("not now", 500)
    patient.put(made("first", source=1))
    wait_until(lambda: patient.counts()["failing"] == 1)
    dt.answers = lambda _: None
    patient.put(made("second", source=1))
    time.sleep(0.2)
    assert dt.stored == []  # its pause is not over
    then = time.time
    monkeypatch.setattr(time, "time", lambda: then() - put_back)
    patient.put(made("third", source=1))
    wait_until(lambda: patient.counts()["sent"] == 3)
    assert [g.prompt for g in dt.stored] == ["first", "second", "third"]


def test_a_pause_is_kept_where_the_clock_goes_on(patient: Outbox, dt: DT, monkeypatch: pytest.MonkeyPatch) -> None:
    dt.answers = lambda _: Refused("not now", 500)
    patient.put(made("first", source=1))
    wait_until(lambda: patient.counts()["failing"] == 1)
    for source in range(2, 6):
        patient.put(made("another", source=source))
    wait_until(lambda: patient.counts()["failing"] == 5)
    assert dt.asked.count("first") == 1
