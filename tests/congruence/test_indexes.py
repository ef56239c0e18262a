"""Every engine gives what brute force gives, on data that repeats as well, and refuses what no engine may see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luna_dt.errors import BadVector, IndexDamaged
from luna_dt.index import rows as rows_module
from luna_dt.index.base import Engine
from luna_dt.index.exact import Exact
from luna_dt.index.hnsw import EF, HnswEngine, HnswIndex
from luna_dt.index.points import Points
from luna_dt.index.proof import Proof, prove
from luna_dt.index.rows import RowIndex
from luna_dt.index.scan import ScanEngine
from luna_dt.index.shelf import Shelf, signed
from luna_dt.records import Float32s
from tests.conftest import IDENTITY, unit_vectors

ENGINES: dict[str, Engine] = {"hnswlib": HnswEngine(), "scan": ScanEngine()}
BUILT = [
    pytest.param(name, marks=pytest.mark.skipif(not engine.installed(), reason=f"{name} is not installed"))
    for name, engine in ENGINES.items()
]
ALL = ["exact", *BUILT]
LENGTHS = np.linspace(0.5, 2, 600, dtype=np.float32)[:, None]
VECTORS = unit_vectors(600) * LENGTHS
FILE = "visual-1.f32"
PROVEN = Proof(1.0, 1.0, 128)


def built(name: str, vectors: Float32s, start: RowIndex | None = None) -> RowIndex:
    engine = ENGINES[name]
    points = (start.points if start else Points.none()).with_rows(vectors)
    assert points is not None
    index = engine.build(vectors, points, start.index if start else None, lambda: False, lambda _: None)
    assert index is not None
    return RowIndex(name, index, points, vectors)


def index_of(name: str, vectors: Float32s = VECTORS) -> Any:
    if name == "exact":
        return Exact(vectors, np.linalg.norm(vectors, axis=1), np.ones(len(vectors), bool))
    return built(name, vectors)


@pytest.fixture(autouse=True)
def _engines_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few points are compared exactly, whatever the engine; here the engine is to answer."""
    monkeypatch.setattr(rows_module, "SMALL", 0)


@pytest.mark.parametrize("name", ALL)
def test_an_engine_finds_what_brute_force_finds(name: str) -> None:
    index = index_of(name)
    units = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    for query in unit_vectors(50, seed=1) * 3:
        cosines = units @ (query / np.linalg.norm(query))
        rows, similarities = index.query(query, 10)
        assert rows.tolist() == np.argsort(-cosines)[:10].tolist()
        np.testing.assert_allclose(similarities, np.sort(cosines)[::-1][:10], atol=2e-6)


@pytest.mark.parametrize("name", ALL)
def test_more_than_there_is_gives_all_there_is(name: str) -> None:
    rows, _ = index_of(name).query(VECTORS[0], 5000)
    assert sorted(rows.tolist()) == list(range(600))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("query", "told"),
    [
        (np.ones(15), "16 dimensions"),
        (np.ones((2, 3, 16)), "16 dimensions"),
        (np.zeros(16), "zero"),
        (np.full(16, np.nan), "NaN"),
        (np.full(16, np.inf), "infinite"),
        (np.full(16, 1e30), "too large"),
        (["a"] * 16, "not made of numbers"),
    ],
)
def test_what_would_crash_or_lie_is_refused(name: str, query: object, told: str) -> None:
    with pytest.raises(BadVector, match=told):
        index_of(name).query(query, 3)


def repeated(seed: int, spread: float) -> Float32s:
    """3,000 rows of 300 groups, as prompts repeat: the first has half of all; ``spread`` apart inside, 0 for equal."""
    rng = np.random.default_rng(seed)
    groups = unit_vectors(300, 32, seed)
    of = np.concatenate([np.zeros(1500, int), rng.zipf(1.3, 1500) % 300])
    vectors = groups[of] + spread * rng.standard_normal((3000, 32)).astype(np.float32) / np.float32(32**0.5)
    return np.ascontiguousarray(vectors[rng.permutation(3000)], np.float32)


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("spread", [0, 0.02, 0.2])
def test_equal_and_nearly_equal_vectors_hide_nothing(name: str, spread: float) -> None:
    vectors = repeated(3, spread)
    index, exact = index_of(name, vectors), index_of("exact", vectors)
    asked = np.random.default_rng(4).permutation(3000)[:40]
    wrong = 0
    for query in vectors[asked] + 0.1 * unit_vectors(40, 32, seed=9):
        _, similarities = index.query(query, 10)
        _, truth = exact.query(query, 10)
        wrong += similarities[0] < truth[0] - 1e-5 or similarities[9] < truth[9] - 1e-5
    assert wrong <= (
        0 if name == "scan" or not spread else 20
    )  # a graph loses its way in dense groups; proof.py sees it


@pytest.mark.parametrize("name", ALL)
def test_equal_vectors_come_by_row_and_a_whole_group_can_be_had(name: str) -> None:
    vectors = repeated(3, 0)
    index = index_of(name, vectors)
    values, counts = np.unique(vectors, axis=0, return_counts=True)
    largest = values[np.argmax(counts)]
    group = np.flatnonzero((vectors == largest).all(axis=1))
    rows, similarities = index.query(largest, len(group))
    assert rows.tolist() == group.tolist()
    np.testing.assert_allclose(similarities, 1, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01, 0.001, 0.0])
@pytest.mark.parametrize("spread", [0, 0.2])
def test_conditions_are_kept_at_every_share(name: str, share: float, spread: float) -> None:
    vectors = repeated(5, spread)
    index = index_of(name, vectors)
    rng = np.random.default_rng(6)
    allowed = rng.random(3000) < share
    if share == 0.001:
        allowed[:] = False
        allowed[1234] = True
    found_of, possible = 0, 0
    for query in unit_vectors(10, 32, seed=7):
        cosines = vectors @ query / np.linalg.norm(vectors, axis=1)
        best = np.sort(cosines[allowed])[::-1][:10]
        rows, similarities = index.query(query, 10, allowed=allowed)
        assert allowed[rows].all()
        assert len(rows) == len(best)
        found_of += int(np.count_nonzero(similarities >= best - 1e-5))
        possible += len(best)
    assert found_of >= (0.75 if name == "hnswlib" and spread else 1) * possible  # as few as without a condition


@pytest.mark.slow
@pytest.mark.skipif(not ENGINES["scan"].installed(), reason="scan is not installed")
def test_few_that_a_condition_allows_are_found_where_less_is_scanned_than_is_proven() -> None:
    """As of 100,000 points and more: the nearest of few lie behind more borders than the nearest of all."""
    rng = np.random.default_rng(0)
    vectors = (unit_vectors(400, 32)[rng.integers(0, 400, 120_000)] + 0.03 * rng.normal(size=(120_000, 32))).astype(
        "f4"
    )
    index = built("scan", vectors)
    allowed = np.zeros(len(vectors), bool)
    allowed[rng.choice(len(vectors), 120, replace=False)] = True
    units = vectors[allowed] / np.linalg.norm(vectors[allowed], axis=1, keepdims=True)
    found = 0
    for query in vectors[:100]:
        best = np.sort(units @ (query / np.linalg.norm(query)))[-10:]
        found += int(np.count_nonzero(index.query(query, 10, allowed)[1] >= best[0] - 1e-5))
    assert found >= 0.995 * 1000


def test_the_exact_comparison_passes_over_dead_rows() -> None:
    live = np.ones(600, bool)
    live[:300] = False
    rows, _ = Exact(VECTORS, np.linalg.norm(VECTORS, axis=1), live).query(VECTORS[5], 10)
    assert rows.min() >= 300


def test_points_of_more_rows_begin_with_those_of_fewer() -> None:
    vectors = repeated(8, 0)
    some = Points.none().with_rows(vectors[:1000])
    assert some is not None
    all_at_once, grown = Points.none().with_rows(vectors), some.with_rows(vectors)
    assert all_at_once is not None
    assert grown is not None
    assert grown.first[: len(some)].tolist() == some.first.tolist()
    assert grown.first.tolist() == all_at_once.first.tolist()
    assert grown.of.tolist() == all_at_once.of.tolist()
    assert (vectors[grown.first[grown.of]] == vectors).all()
    assert len(np.unique(vectors, axis=0)) == len(grown)


@pytest.mark.skipif(not ENGINES["hnswlib"].installed(), reason="hnswlib is not installed")
def test_a_wide_query_leaves_the_next_one_as_it_was() -> None:
    index = built("hnswlib", VECTORS)
    before = index.query(VECTORS[0], 5)[0].tolist()
    index.query(VECTORS[0], 500)
    assert isinstance(index.index, HnswIndex)
    assert index.index.graph.ef == EF
    assert index.query(VECTORS[0], 5)[0].tolist() == before


@pytest.mark.skipif(not ENGINES["hnswlib"].installed(), reason="hnswlib is not installed")
def test_a_bad_stored_vector_is_not_added() -> None:
    broken = VECTORS.copy()
    broken[7, 3] = np.nan
    with pytest.raises(BadVector, match="row 7"):
        built("hnswlib", broken)


@pytest.mark.parametrize("name", BUILT)
def test_extending_equals_building_at_once(name: str) -> None:
    grown = built(name, VECTORS, built(name, VECTORS[:350]))
    for query in unit_vectors(20, seed=2):
        assert grown.query(query, 5)[0].tolist() == index_of("exact").query(query, 5)[0].tolist()


@pytest.mark.parametrize("name", BUILT)
def test_building_stops_when_asked(name: str) -> None:
    points = Points.none().with_rows(VECTORS)
    assert points is not None
    assert ENGINES[name].build(VECTORS, points, None, lambda: True, lambda _: None) is None
    assert Points.none().with_rows(VECTORS, lambda: True) is None


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.slow
def test_an_index_that_finds_too_little_is_seen(name: str) -> None:
    vectors = unit_vectors(2000, 32)
    right = built(name, vectors)
    proof = prove(right, vectors)
    assert proof is not None
    assert proof.enough()

    class Lost:
        knows_conditions = True

        def query(self, vector: Float32s, k: int, usable: Any) -> Any:
            points, similarities = right.index.query(vector, 3 * k, usable)
            return points[k:], similarities[k:]

        def widen(self) -> bool:
            return False

    lost = prove(RowIndex(name, Lost(), right.points, vectors), vectors)
    assert lost is not None
    assert lost.recall_1 < 0.1
    assert not lost.enough()


def test_a_proof_asks_for_means_of_pictures_too() -> None:
    """A graph that finds every row, and what is near one, may still lose its way between them."""
    vectors = unit_vectors(2000, 32)
    points = Points.none().with_rows(vectors)
    assert points is not None
    exact = Exact(vectors, np.linalg.norm(vectors, axis=1), np.ones(len(vectors), bool))

    class Near:
        knows_conditions = True

        def query(self, vector: Float32s, k: int, usable: Any) -> Any:
            found, similarities = exact.query(vector, 2 * k)
            some = slice(k) if similarities[0] > 0.95 else slice(k, None)
            return found[some], similarities[some]

        def widen(self) -> bool:
            return False

    near = prove(RowIndex("near", Near(), points, vectors), vectors)
    assert near is not None
    assert near.recall_1 < 0.1
    assert not near.enough()


@pytest.fixture(params=BUILT)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Engine, Path]:
    engine = ENGINES[request.param]
    Shelf(tmp_path).save(engine, built(request.param, VECTORS), VECTORS, FILE, IDENTITY, PROVEN)
    return engine, tmp_path / "index"


def load(saved: tuple[Engine, Path], vectors_file: str = FILE, vectors: Float32s = VECTORS) -> RowIndex | None:
    return Shelf(saved[1].parent).load(saved[0], vectors, vectors_file, IDENTITY)


def test_what_was_saved_is_loaded(saved: tuple[Engine, Path]) -> None:
    loaded = load(saved)
    assert loaded is not None
    assert loaded.rows == Shelf(saved[1].parent).saved(FILE).rows == 600
    assert loaded.query(VECTORS[3], 1)[0].tolist() == [3]
    assert Shelf(saved[1].parent).saved(FILE).proof == PROVEN
    assert load(saved, "visual-2.f32") is None


@pytest.mark.parametrize("seed", range(20))
def test_any_damage_is_seen_before_loading(saved: tuple[Engine, Path], seed: int) -> None:
    rng = np.random.default_rng(seed)
    file = next(saved[1].glob(("*.points", f"*{saved[0].suffix}")[seed // 4 % 2]))
    data = bytearray(file.read_bytes())
    kind = seed % 4
    if kind == 0:
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        at = int(rng.integers(len(data) - 64))
        data[at : at + 64] = bytes(b ^ 0xFF for b in data[at : at + 64])
    elif kind == 2:
        del data[int(rng.integers(len(data))) :]
    else:
        data += b"x"
    file.write_bytes(data)
    with pytest.raises(IndexDamaged):
        load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 599},
        {"rows": 601},
        {"dim": 8},
        {"metric": "l2"},
        {"vectors": "other.f32"},
        {"vectors_sha256": "0" * 64},
        {"files": {"points": {"file": "../../etc/passwd"}, "index": {"file": "../../etc/passwd"}}},
        {"rows": None},
        {"proof": None},
        {"rows": 10**400},
        {"rows": float("inf")},
        {"refused": 7},
        {"files": {"points": [], "index": "x"}},
    ],
)
def test_a_description_that_does_not_fit_is_refused(saved: tuple[Engine, Path], change: dict[str, object]) -> None:
    described = saved[1] / "visual-1.json"
    changed = {**json.loads(described.read_text()), **change}
    for each in (changed, signed(changed)):
        described.write_text(json.dumps(each))
        with pytest.raises(IndexDamaged):
            load(saved)
    described.write_text("{")
    with pytest.raises(IndexDamaged):
        load(saved)


def test_an_index_of_another_form_is_made_anew(saved: tuple[Engine, Path]) -> None:
    """As one is that another version of this library wrote: whole, but not what is read here."""
    described = saved[1] / "visual-1.json"
    told = json.loads(described.read_text())
    described.write_text(json.dumps(signed({**told, "parameters": {**told["parameters"], "form": 0}})))
    assert load(saved) is None
    made = Shelf(saved[1].parent).catch_up([saved[0]], VECTORS, FILE, IDENTITY)
    assert made is not None
    assert load(saved) is not None


def test_vectors_that_were_swapped_below_an_index_are_seen(saved: tuple[Engine, Path]) -> None:
    """As when an older copy of the store is put back, and other rows are written behind it."""
    with pytest.raises(IndexDamaged, match="other vectors"):
        load(saved, vectors=np.concatenate([VECTORS[:500], -VECTORS[500:]]))
    with pytest.raises(IndexDamaged, match="other vectors"):
        load(saved, vectors=VECTORS[:500])


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.skipif(sys.platform == "win32", reason="limits a file's size as POSIX does")
def test_a_full_disk_is_seen_and_the_previous_file_stays(name: str, tmp_path: Path) -> None:
    """A file size limit makes writing fail as a full disk does; hnswlib itself reports success."""
    Shelf(tmp_path).save(ENGINES[name], built(name, VECTORS), VECTORS, FILE, IDENTITY, PROVEN)
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from tests.congruence.test_indexes import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "vectors = unit_vectors(3000)\n"
        "index = built(sys.argv[2], vectors)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        "try: Shelf(Path(sys.argv[1])).save(ENGINES[sys.argv[2]], index, vectors, FILE, IDENTITY, PROVEN)\n"
        "except IndexDamaged as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), name]
    told = subprocess.check_output(command, text=True, cwd=Path(__file__).parents[2])
    assert "disk full" in told
    loaded = load((ENGINES[name], tmp_path / "index"))
    assert loaded is not None
    assert loaded.rows == 600
    assert not list((tmp_path / "index").glob("*.part"))
