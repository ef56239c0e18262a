"""Searching a library: order, filters, refusals, and answers while the index is away."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luna_dt import Identity, Library, Settings, threads
from luna_dt.errors import (
    BadInput,
    BadVector,
    IdentityMismatch,
    MissingExtra,
    NotSearchable,
    NoVector,
    SettingsError,
    StoreError,
    UnknownImage,
)
from luna_dt.index.engines import choose
from luna_dt.index.hnsw import HnswEngine
from luna_dt.index.points import Points
from luna_dt.index.proof import Proof
from luna_dt.index.scan import ScanEngine
from luna_dt.index.shelf import Shelf
from luna_dt.records import Batch
from luna_dt.search.searcher import TAIL, Searcher
from luna_dt.store import Store
from tests.conftest import IDENTITY, fill, image_batch, unit_vectors

needs_hnswlib = pytest.mark.skipif(not HnswEngine().installed(), reason="hnswlib is not installed")
needs_scan = pytest.mark.skipif(not ScanEngine().installed(), reason="numkong is not installed")


@pytest.fixture
def searcher(store: Store) -> Iterator[Searcher]:
    """The visual layer of ``library``, searched by the engine that is here."""
    made = Searcher(store, Shelf(store.home), "visual", choose("auto"))
    yield made
    made.close()


def truth(vectors: Any, query: Any, k: int = 10) -> list[int]:
    return (np.argsort(-(vectors @ query), kind="stable")[:k] + 1).tolist()  # type: ignore[no-any-return]


def test_hits_come_in_order_with_their_records(library: Library) -> None:
    vectors = unit_vectors(200)
    fill(library, vectors)
    hits = library.search(vector=vectors[4], top_k=7)
    assert [hit.id for hit in hits] == truth(vectors, vectors[4], 7)
    assert hits[0].similarity == pytest.approx(1)
    assert hits[0].image.prompt == "prompt 5"


def test_by_id_leaves_the_source_out_unless_asked(library: Library) -> None:
    vectors = unit_vectors(50)
    fill(library, vectors)
    assert [hit.id for hit in library.search(image_id=5, top_k=3)] == truth(vectors, vectors[4], 4)[1:]
    assert library.search(image_id=5, exclude_source=False)[0].id == 5


def test_threshold_and_exclusion(library: Library) -> None:
    vectors = unit_vectors(300)
    fill(library, vectors)
    best = truth(vectors, vectors[0], 20)
    hits = library.search(vector=vectors[0], top_k=5, exclude=best[:12])
    assert [hit.id for hit in hits] == best[12:17]
    near = library.search(vector=vectors[0], top_k=300, min_similarity=0.5)
    assert {hit.id for hit in near} == {int(i) + 1 for i in np.flatnonzero(vectors @ vectors[0] >= 0.5)}


def test_what_dt_hides_is_not_found_until_it_is_shown_again(library: Library, store: Store) -> None:
    vectors = unit_vectors(30)
    ids = fill(library, vectors)
    best = truth(vectors, vectors[0], 3)
    store.put("images", image_batch(ids[[best[0] - 1]], for_deletion=True))
    store.put("images", image_batch(ids[[best[1] - 1]], unavailable=True))
    assert library.search(vector=vectors[0])[0].id == best[2]
    store.put("images", image_batch(ids[[best[0] - 1]]))
    assert library.search(vector=vectors[0])[0].id == best[0]


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"vector": np.ones(15)}, BadVector, "16 dimensions"),
        ({"vector": np.full(16, np.nan)}, BadVector, "NaN"),
        ({"vector": np.ones((3, 16))}, BadVector, r"\[3, 16\]"),
        ({"image_id": 99}, UnknownImage, "image 99"),
        ({"image_id": 4}, NoVector, "image 4 has no vector"),
        ({}, BadInput, "not none"),
        ({"image_id": 1, "vector": np.ones(16)}, BadInput, "image_id and vector"),
        ({"image_id": 1, "top_k": 0}, BadInput, "top_k"),
        ({"text": " "}, BadInput, "empty"),
        ({"text": "a cat"}, IdentityMismatch, "before the projection"),
    ],
)
def test_what_cannot_be_asked_is_told(
    library: Library, store: Store, arguments: dict[str, Any], error: type[Exception], told: str
) -> None:
    fill(library, unit_vectors(3))
    store.put("images", image_batch(np.array([4], np.int64)))
    with pytest.raises(error, match=told):
        library.search(**arguments)


def test_another_identity_is_refused_naming_both(library: Library) -> None:
    vectors = unit_vectors(3)
    fill(library, vectors)
    assert library.search(vector=vectors[0], identity=IDENTITY)
    with pytest.raises(IdentityMismatch, match=r"test, image tower, projected.*test, image tower, pooled"):
        library.search(vector=vectors[0], identity=replace(IDENTITY, output="projected"))


def test_an_image_cannot_meet_a_layer_of_texts(library: Library, store: Store) -> None:
    store.prepare_layer("semantic", Identity("luna-tiny", "drawings", "text", "pooled", "", 16))
    with pytest.raises(IdentityMismatch, match="made from texts"):
        library.search(np.zeros((8, 8, 3)), layer="semantic")


def test_an_empty_layer_is_told(library: Library, store: Store) -> None:
    store.prepare_layer("visual", IDENTITY)
    with pytest.raises(NotSearchable, match="no vectors yet"):
        library.search(vector=np.ones(16))


@needs_hnswlib
@pytest.mark.slow
def test_answers_stay_right_while_the_store_grows_past_the_graph(library: Library, searcher: Searcher) -> None:
    vectors = unit_vectors(3 * TAIL)
    queries = unit_vectors(10, seed=5)
    fill(library, vectors[:TAIL])
    searcher.nearest(queries[0], 10)
    searcher.wait()
    assert searcher.engine == "hnswlib"
    fill(library, vectors[TAIL : TAIL + 100], first_id=TAIL + 1)  # a tail too short to rebuild for
    for query in queries:
        assert searcher.nearest(query, 3)[0].tolist() == truth(vectors[: TAIL + 100], query, 3)
    fill(library, vectors[TAIL + 100 :], first_id=TAIL + 101)
    for query in queries:  # while the graph is being extended
        assert searcher.nearest(query, 3)[0].tolist() == truth(vectors, query, 3)
    searcher.wait()
    assert library.status().layers[0].indexed == 3 * TAIL
    for query in queries:
        assert searcher.nearest(query, 3)[0].tolist() == truth(vectors, query, 3)


@needs_hnswlib
def test_hidden_and_dead_rows_do_not_crowd_out_the_rest(library: Library, store: Store, searcher: Searcher) -> None:
    vectors = unit_vectors(1500)
    ids = fill(library, vectors)
    library.index()
    near = np.array(truth(vectors, vectors[0], 100)) - 1
    store.put("images", image_batch(ids[near[:60]], for_deletion=True))
    store.drop("images", ids[near[60:90]])
    searcher.nearest(vectors[0], 10)
    searcher.wait()
    assert searcher.engine == "hnswlib"
    assert searcher.nearest(vectors[0], 10)[0].tolist() == (near[90:100] + 1).tolist()


@needs_hnswlib
def test_a_damaged_index_is_rebuilt_and_search_answers_meanwhile(
    library: Library, searcher: Searcher, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = unit_vectors(500)
    fill(library, vectors)
    library.index()
    file = next((library.settings.home / "index").glob("*.hnsw"))
    data = bytearray(file.read_bytes())
    data[1000:1100] = bytes(100)
    file.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert searcher.nearest(vectors[7], 1)[0].tolist() == [8]
        searcher.wait()
    assert "made anew" in caplog.text
    assert searcher.engine == "hnswlib"
    assert searcher.nearest(vectors[7], 1)[0].tolist() == [8]


@needs_hnswlib
def test_no_index_file_is_left_of_a_layer_that_is_gone(library: Library, store: Store) -> None:
    fill(library, unit_vectors(20))
    library.index()
    store.remove_layer("visual")
    library.index()
    assert list((library.settings.home / "index").iterdir()) == []


def test_many_threads_one_library(library: Library) -> None:
    vectors = unit_vectors(2500)
    fill(library, vectors[:2000])
    wrong: list[int] = []

    def ask(seed: int) -> None:
        asked = np.random.default_rng(seed).integers(0, 2000, 60).tolist()
        wrong.extend(i for i in asked if library.search(vector=vectors[i], top_k=1)[0].id != i + 1)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for at in range(2000, 2500, 100):
        fill(library, vectors[at : at + 100], first_id=at + 1)
    for thread in threads:
        thread.join()
    assert wrong == []


def test_another_process_sees_what_was_synced(library: Library, store: Store) -> None:
    vectors = unit_vectors(20)
    fill(library, vectors[:10])
    with Library(library.settings.home) as other:
        assert len(other.search(vector=vectors[0], top_k=50)) == 10
        fill(library, vectors[10:], first_id=11)
        assert len(other.search(vector=vectors[0], top_k=50)) == 20
        store.put("embeddings.visual", Batch(np.array([1]), np.array([5]), -vectors[:1]))
        assert other.search(vector=vectors[0], top_k=50)[-1].id == 1


def test_the_exact_engine_when_asked_for_or_without_hnswlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Library(settings=Settings(home=tmp_path, index="exact")) as library:
        vectors = unit_vectors(50)
        fill(library, vectors)
        library.index()
        assert library.search(vector=vectors[0])[0].id == 1
        assert not (tmp_path / "index").exists()
    for name in ("hnswlib", "numkong"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with Library(tmp_path) as library, caplog.at_level(logging.WARNING):
        assert library.search(vector=vectors[0])[0].id == 1
        assert library.search(vector=vectors[1])[0].id == 2
        assert library.status().layers[0].engine == "exact"
    assert caplog.text.count("hnswlib and scan cannot be used here") == 1
    for engine in (HnswEngine(), ScanEngine()):
        points = Points.none().with_rows(vectors)
        assert points is not None
        with pytest.raises(MissingExtra, match='pip install "luna_dt'):
            engine.build(vectors, points, None, lambda: False, lambda _: None)


def test_an_engine_that_is_none_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"auto, hnswlib, scan, exact, or milvus.* not 'magic'"):
        Library(settings=Settings(home=tmp_path, index="magic"))
    gc.collect()  # from Python 3.13 on, a database that was left open is warned of here


@pytest.mark.parametrize("index", ["auto", "hnswlib", "scan", "exact"])
@pytest.mark.parametrize("spread", [0, 0.05, 0.4])
def test_a_library_of_repeats_is_searched_rightly_whatever_engine(tmp_path: Path, index: str, spread: float) -> None:
    """As prompts are: a batch of a hundred shares one, half of all share a negative one, variations differ a little."""
    rng = np.random.default_rng(2)
    groups = unit_vectors(120, 48, seed=2)
    of = np.concatenate([np.zeros(2500, int), np.repeat(np.arange(1, 26), 60), rng.integers(26, 120, 1000)])
    vectors = groups[of] + spread * unit_vectors(5000, 48, seed=3)
    vectors = np.ascontiguousarray(vectors[rng.permutation(5000)])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    with Library(settings=Settings(home=tmp_path, index=index), dt="http://127.0.0.1:9") as library:
        fill(library, vectors)
        library.index()
        wrong = 0
        for group in range(0, 120, 3):
            query = groups[group] + 0.2 * unit_vectors(1, 48, seed=group)[0]
            best = np.sort(units @ query / np.linalg.norm(query))[::-1][:10]
            found = library.nearest(query, top_k=10)[1]
            library.wait()
            wrong += bool(found[0] < best[0] - 1e-5) + bool(found[9] < best[9] - 1e-5)
        layer = library.status().layers[0]
        assert wrong == 0 or (layer.engine, index) == ("hnswlib", "hnswlib")
        assert wrong <= 4
        if layer.proof:
            assert layer.proof.enough()
            assert layer.indexed == 5000
        else:
            assert layer.engine == "exact"


@needs_hnswlib
@pytest.mark.slow
def test_an_engine_that_is_not_right_is_left_for_one_that_is_and_status_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A narrow search of few rows, in place of the usual one of very many among which a graph loses its way."""
    monkeypatch.setattr("luna_dt.index.hnsw.EF", 10)
    monkeypatch.setattr("luna_dt.index.hnsw.EF_WIDE", 10)
    rng = np.random.default_rng(5)
    prompts = np.minimum(rng.zipf(1.2, 6000), 1000) - 1
    vectors = unit_vectors(1000, 64, seed=5)[prompts] + 0.02 * unit_vectors(6000, 64, seed=6)
    with Library(settings=Settings(home=tmp_path), dt="http://127.0.0.1:9") as library:
        fill(library, vectors)
        with caplog.at_level(logging.WARNING):
            library.index()
        layer = library.status().layers[0]
        assert layer.engine == "scan"
        assert layer.proof == Proof(1.0, 1.0, 1536)
        assert "hnswlib is not used" in layer.reason
        assert "finds too little" in caplog.text
        caplog.clear()
        fill(library, unit_vectors(TAIL + 1, 64, seed=7), first_id=6001)
        library.index()  # the graph is not tried again for a few rows
        assert library.status().layers[0].indexed == 6001 + TAIL
        assert "finds too little" not in caplog.text
    with Library(settings=Settings(home=tmp_path, index="hnswlib"), dt="http://127.0.0.1:9") as library:
        library.index()  # none is right of those that are allowed
        assert library.status().layers[0].engine == "exact"
        assert library.nearest(vectors[0], top_k=1)[0].tolist() == [1]


@pytest.mark.parametrize("index", ["hnswlib", "scan"])
@pytest.mark.slow
def test_an_older_copy_of_the_store_beside_newer_vectors_answers_rightly(tmp_path: Path, index: str) -> None:
    """library.db is put back from a copy; other rows are then written where the index has seen those of before."""
    settings = Settings(home=tmp_path / "home", index=index)
    vectors = unit_vectors(3000, 32)
    with Library(settings=settings, dt="http://127.0.0.1:9") as library:
        fill(library, vectors[:1500])
    shutil.copy(tmp_path / "home" / "library.db", tmp_path / "copy.db")
    with Library(settings=settings, dt="http://127.0.0.1:9") as library:
        fill(library, vectors[1500:], first_id=1501)
        library.index()
    shutil.copy(tmp_path / "copy.db", tmp_path / "home" / "library.db")
    with Library(settings=settings, dt="http://127.0.0.1:9") as library:
        fill(library, -vectors[1500:], first_id=1501)
        now = np.concatenate([vectors[:1500], -vectors[1500:]])
        for row in (0, 1499, 1500, 2999):
            assert library.nearest(now[row], top_k=1)[0].tolist() == [row + 1]
            library.wait()
            assert library.nearest(now[row], top_k=1)[0].tolist() == [row + 1]


def caught_up(shelf: Shelf, vectors: Any, stop: Any = lambda: False, progress: Any = lambda _: None) -> Any:
    with shelf.lock() as held:
        assert held
        return shelf.catch_up([HnswEngine()], vectors, "visual-1.f32", IDENTITY, stop, progress)


@needs_hnswlib
def test_a_build_that_is_stopped_goes_on_from_what_it_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HnswEngine, "part", 1000)
    vectors = unit_vectors(4000)[np.r_[:1500, :500, 1500:4000]]  # in which rows are not points
    told: list[int] = []
    assert caught_up(Shelf(tmp_path), vectors, lambda: bool(told) and told[-1] > 2500, told.append) is None
    assert Shelf(tmp_path).saved("visual-1.f32").rows == 2500  # of 2,000 points
    told.clear()
    index = caught_up(Shelf(tmp_path), vectors, progress=told.append)
    assert told[0] > 2500
    assert told[-1] == index.rows == Shelf(tmp_path).saved("visual-1.f32").rows == 4500
    assert len(list((tmp_path / "index").iterdir())) == 3
    for at in (0, 1700, 4400):
        assert np.allclose(vectors[index.query(vectors[at], 1)[0][0]], vectors[at])


def slow_scan(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Has the scan stop halfway through its work; gives what is set then, and what it waits for."""
    halfway, go_on, build = threading.Event(), threading.Event(), ScanEngine.build

    def slow(self: ScanEngine, vectors: Any, points: Points, start: Any, stop: Any, progress: Any) -> Any:
        progress(len(points) // 2)
        halfway.set()
        while not (go_on.wait(0.01) or stop()):
            pass
        return build(self, vectors, points, start, stop, progress)

    monkeypatch.setattr(ScanEngine, "build", slow)
    return halfway, go_on


@needs_scan
def test_how_far_a_background_build_is_is_in_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halfway, go_on = slow_scan(monkeypatch)
    with Library(settings=Settings(home=tmp_path, index="scan")) as library:
        vectors = unit_vectors(50)
        fill(library, vectors)
        assert library.status().layers[0].building is None
        assert library.search(vector=vectors[0])[0].id == 1
        assert halfway.wait(30)
        assert library.status().layers[0].building == 0.5
        assert library.search(vector=vectors[1])[0].id == 2
        go_on.set()
        library.wait()
        layer = library.status().layers[0]
        assert (layer.building, layer.indexed) == (None, 50)


@needs_scan
def test_an_index_that_is_mapped_answers_while_it_is_extended(
    library: Library, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luna_dt.index.proof.SAMPLE", 32)
    vectors = unit_vectors(2 * TAIL + 200)
    fill(library, vectors[:TAIL])
    searcher = Searcher(store, Shelf(store.home), "visual", choose("scan"))
    searcher.nearest(vectors[0], 1)
    searcher.wait()
    halfway, _ = slow_scan(monkeypatch)
    fill(library, vectors[TAIL:], first_id=TAIL + 1)
    for at in (3, TAIL + 3, 2 * TAIL + 3):
        assert searcher.nearest(vectors[at], 3)[0].tolist() == truth(vectors, vectors[at], 3)
        assert halfway.wait(30)
        assert searcher.engine == "scan"
    searcher.close()  # in the middle of it
    assert searcher.nearest(vectors[9], 1)[0].tolist() == [10]


@needs_scan
def test_who_waited_for_anothers_index_takes_it_though_it_covers_more(library: Library, store: Store) -> None:
    vectors = unit_vectors(1500)
    fill(library, vectors[:1200])
    shelf, choice = Shelf(store.home), choose("scan")
    searcher = Searcher(store, shelf, "visual", choice)
    with shelf.lock():
        searcher.nearest(vectors[0], 1)  # its thread waits from now on
        fill(library, vectors[1200:], first_id=1201)
        layer = store.layer("visual")
        assert shelf.catch_up(choice.engines, layer.vectors, layer.file.name, layer.identity)
        made = sorted((store.home / "index").iterdir())
    searcher.wait()
    assert searcher.engine == "scan"
    assert sorted((store.home / "index").iterdir()) == made
    assert searcher.nearest(vectors[1400], 1)[0].tolist() == [1401]
    searcher.close()


@needs_scan
@pytest.mark.parametrize("error", [MemoryError(), OSError("the disk is gone"), RuntimeError("whatever")])
def test_whatever_stops_a_background_build_is_said(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: Any) -> None:
        raise error

    monkeypatch.setattr(ScanEngine, "build", failing)
    with Library(settings=Settings(home=tmp_path, index="scan")) as library:
        vectors = unit_vectors(50)
        fill(library, vectors)
        assert library.search(vector=vectors[0])[0].id == 1
        library.wait()
        assert library.search(vector=vectors[1])[0].id == 2
        assert f"no index could be made: {str(error) or 'MemoryError'}" in library.status().layers[0].reason
    assert "is searched exactly" in caplog.text


@needs_scan
def test_a_lock_that_cannot_be_taken_is_said(tmp_path: Path) -> None:
    (tmp_path / "index.lock").mkdir()
    (tmp_path / "index.lock" / "something").write_text("that is not ours")
    with Library(settings=Settings(home=tmp_path, index="scan")) as library:
        vectors = unit_vectors(50)
        fill(library, vectors)
        assert library.search(vector=vectors[0])[0].id == 1
        library.wait()
        assert "cannot be locked" in library.status().layers[0].reason
        with pytest.raises(StoreError, match="cannot be locked"):
            library.index()
        assert (tmp_path / "index.lock" / "something").exists()


def test_background_threads_step_back() -> None:
    found: list[Any] = []

    def look() -> None:
        found.append(threads.cores())
        if sys.platform == "linux":
            found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    threads.start("test", look, lambda: None, background=True).join()
    assert found[0] == max(1, threads.cores() // 2)
    if sys.platform == "linux":
        own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        assert found[1] == max(own, threads.NICE)
        assert own < threads.NICE or own == found[1]
