"""Every engine gives what brute force gives, and refuses what no engine may see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from luna_dt.errors import BadVector, IndexDamaged
from luna_dt.index import hnsw
from luna_dt.index.base import Index
from luna_dt.index.exact import Exact
from luna_dt.index.hnsw import HnswEngine
from luna_dt.index.shelf import Shelf
from tests.conftest import IDENTITY, unit_vectors

HNSW = HnswEngine()
needs_hnswlib = pytest.mark.skipif(not HNSW.installed(), reason="hnswlib is not installed")
ENGINES = ["exact", pytest.param("hnswlib", marks=needs_hnswlib)]
VECTORS = unit_vectors(600) * np.linspace(0.5, 2, 600, dtype=np.float32)[:, None]


def engine(name: str) -> Index:
    if name == "exact":
        return Exact(VECTORS, np.linalg.norm(VECTORS, axis=1), np.ones(len(VECTORS), bool))
    built = HNSW.build(VECTORS)
    assert built is not None
    return built


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_finds_what_brute_force_finds(name: str) -> None:
    index = engine(name)
    units = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    for query in unit_vectors(50, seed=1) * 3:
        cosines = units @ (query / np.linalg.norm(query))
        rows, similarities = index.query(query, 10)
        assert rows.tolist() == np.argsort(-cosines)[:10].tolist()
        np.testing.assert_allclose(similarities, np.sort(cosines)[::-1][:10], atol=2e-6)


@pytest.mark.parametrize("name", ENGINES)
def test_more_than_there_is_gives_all_there_is(name: str) -> None:
    rows, _ = engine(name).query(VECTORS[0], 5000)
    assert sorted(rows.tolist()) == list(range(600))


@pytest.mark.parametrize("name", ENGINES)
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
        engine(name).query(query, 3)  # type: ignore[arg-type]


def test_the_exact_engine_passes_over_dead_rows() -> None:
    live = np.ones(600, bool)
    live[:300] = False
    rows, _ = Exact(VECTORS, np.linalg.norm(VECTORS, axis=1), live).query(VECTORS[5], 10)
    assert rows.min() >= 300


@needs_hnswlib
def test_a_wide_query_leaves_the_next_one_as_it_was() -> None:
    index = engine("hnswlib")
    before = index.query(VECTORS[0], 5)[0].tolist()
    index.query(VECTORS[0], 500)
    assert index.graph.ef == hnsw.EF  # type: ignore[attr-defined]
    assert index.query(VECTORS[0], 5)[0].tolist() == before


@needs_hnswlib
def test_a_bad_stored_vector_is_not_added() -> None:
    broken = VECTORS.copy()
    broken[7, 3] = np.nan
    with pytest.raises(BadVector, match="row 7"):
        HNSW.build(broken)


@needs_hnswlib
def test_extending_equals_building_at_once() -> None:
    first = HNSW.build(VECTORS[:350])
    grown = HNSW.build(VECTORS, first)
    assert grown is not None
    for query in unit_vectors(20, seed=2):
        assert grown.query(query, 5)[0].tolist() == engine("exact").query(query, 5)[0].tolist()


@needs_hnswlib
def test_building_stops_when_asked() -> None:
    assert HNSW.build(VECTORS, stop=lambda: True) is None


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    built = HNSW.build(VECTORS)
    assert built is not None
    Shelf(tmp_path).save(HNSW, built, "visual-1.f32", IDENTITY)
    return tmp_path / "index"


def load(folder: Path, vectors_file: str = "visual-1.f32") -> Index | None:
    return Shelf(folder.parent).load(HNSW, vectors_file, IDENTITY)


@needs_hnswlib
def test_what_was_saved_is_loaded(saved: Path) -> None:
    loaded = load(saved)
    assert loaded is not None
    assert loaded.rows == Shelf(saved.parent).rows("visual-1.f32") == 600
    assert loaded.query(VECTORS[3], 1)[0].tolist() == [3]
    assert load(saved, "visual-2.f32") is None


@needs_hnswlib
@pytest.mark.parametrize("seed", range(20))
def test_any_damage_is_seen_before_loading(saved: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    file = next(saved.glob("*.hnsw"))
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


@needs_hnswlib
@pytest.mark.parametrize(
    "change",
    [
        {"rows": 599},
        {"dim": 8},
        {"metric": "l2"},
        {"vectors": "other.f32"},
        {"file": "../../etc/passwd"},
        {"rows": None},
    ],
)
def test_a_description_that_does_not_fit_is_refused(saved: Path, change: dict[str, object]) -> None:
    described = saved / "visual-1.json"
    described.write_text(json.dumps({**json.loads(described.read_text()), **change}))
    with pytest.raises(IndexDamaged):
        load(saved)
    described.write_text("{")
    with pytest.raises(IndexDamaged):
        load(saved)


@needs_hnswlib
@pytest.mark.skipif(sys.platform == "win32", reason="limits a file's size as POSIX does")
def test_a_full_disk_is_seen_and_the_previous_file_stays(saved: Path) -> None:
    """A file size limit makes writing fail as a full disk does; hnswlib itself reports success."""
    code = (
        "import resource, signal, sys, numpy as np; from pathlib import Path\n"
        "from luna_dt.index.hnsw import HnswEngine; from luna_dt.index.shelf import Shelf\n"
        "from luna_dt.errors import IndexDamaged; from tests.conftest import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "graph = HnswEngine().build(unit_vectors(900))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: Shelf(Path(sys.argv[1])).save(HnswEngine(), graph, 'visual-1.f32', IDENTITY)\n"
        "except IndexDamaged as error: print(error)\n"
    )
    told = subprocess.check_output(
        [sys.executable, "-c", code, str(saved.parent)], text=True, cwd=Path(__file__).parents[2]
    )
    assert "disk full" in told
    loaded = load(saved)
    assert loaded is not None
    assert loaded.rows == 600
    assert not list(saved.glob("*.part"))
