"""Damaged vectors are in no answer: a search sees them before it tells of them, whatever the damage and the engine."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from luna_dt import Library, Settings
from luna_dt.errors import StoreError
from luna_dt.records import Float32s, Term
from tests.conftest import beside, fill, unit_vectors

ROWS, DIM = 1500, 48


def flip(row: Float32s) -> None:
    """The highest bit of the exponent of the largest number: 1e38, or nearly 0."""
    row.view(np.uint32)[np.argmax(np.abs(row))] ^= 1 << 30


def nothing(row: Float32s) -> None:
    row[:] = 0


def no_number(row: Float32s) -> None:
    row[7] = np.nan


def endless(row: Float32s) -> None:
    row[7] = -np.inf


def anothers(row: Float32s) -> None:
    """As long as any, and the nearest to what is looked for."""
    row[:] = unit_vectors(ROWS, DIM)[3]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["exact", "scan", "hnswlib"])
@pytest.mark.parametrize("harm", [flip, nothing, no_number, endless, anothers])
@pytest.mark.parametrize("read_only", [False, True])
def test_what_was_damaged_is_in_no_answer(
    tmp_path: Path, engine: str, harm: Callable[..., None], read_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "hnswlib":
        pytest.importorskip("hnswlib")
    vectors, home = unit_vectors(ROWS, DIM), tmp_path / "home"
    settings = Settings(home=home, index=engine)
    with Library(settings=settings, dt="http://127.0.0.1:9") as library:
        fill(library, vectors)
        library.index()
    (file,) = (home / "vectors").glob("*.f32")
    hurt = np.arange(0, ROWS, 50)
    on_disk = np.memmap(file, np.float32, "r+", shape=(ROWS, DIM))
    for row in hurt:
        harm(on_disk[row])
    on_disk.flush()
    del on_disk
    if read_only:
        monkeypatch.setattr("os.access", lambda *_: False)
    sound = np.setdiff1d(np.arange(ROWS), hurt)
    with Library(settings=settings, dt="http://127.0.0.1:9") as library:
        for query in unit_vectors(20, DIM, seed=9):
            cosines = vectors[sound] @ query
            ids, found = library.nearest(query, top_k=10)
            assert set(ids.tolist()) <= set((sound + 1).tolist())
            np.testing.assert_allclose(found, np.sort(cosines)[::-1][:10], atol=1e-5)
        assert library.search(image_id=2, engine="local")[0].id - 1 in sound
        terms = [Term(vector=vectors[3]), Term(vector=vectors[60], weight=0.5)]
        assert all(hit.id - 1 in sound for hit in library.search(terms, top_k=20))
        if harm is flip and not read_only:
            with beside(library) as store:
                ids = store.digests("embeddings.visual")[0]
                assert set(ids.tolist()) & set((hurt + 1).tolist()) == set()  # so that they are taken anew


def test_a_vector_under_another_id_is_damage(tmp_path: Path) -> None:
    """As one flipped bit in ``library.db`` would have it."""
    vectors = unit_vectors(50, DIM)
    with Library(tmp_path, dt="http://127.0.0.1:9") as library:
        fill(library, vectors)
    with closing(sqlite3.connect(tmp_path / "library.db")) as db:
        db.execute("UPDATE vectors SET image_id = 1000 + image_id WHERE image_id = 8")
        db.execute("UPDATE vectors SET row = 9 WHERE image_id = 20")
        db.execute("INSERT INTO images SELECT 1008, path, prompt, negative_prompt, width, height, model, model_hash, sampler, "
                   "scheduler, steps, cfg, seed, rating, aesthetic_score, favorite, nsfw, for_deletion, unavailable, "
                   "no_metadata, created, custom_tags, loras, digest, NULL, hash FROM images WHERE id = 8")  # fmt: skip
        db.commit()
    with Library(tmp_path, dt="http://127.0.0.1:9") as library:
        for row in (7, 9, 19):
            ids, _ = library.nearest(vectors[row], top_k=20)
            assert not {1008, 20} & set(ids.tolist())


def test_a_file_that_is_cut_while_it_is_searched_ends_nothing(tmp_path: Path) -> None:
    vectors = unit_vectors(ROWS, DIM)
    with Library(tmp_path, dt="http://127.0.0.1:9") as library:
        fill(library, vectors)
        library.index()
        assert library.nearest(vectors[5], top_k=1)[0].tolist() == [6]
        library.wait()
        (file,) = (tmp_path / "vectors").glob("*.f32")
        with file.open("r+b") as out:
            out.truncate(ROWS * DIM * 2)
        asks: list[Callable[[], object]] = [
            lambda: library.nearest(vectors[5]),
            lambda: library.search(image_id=6, engine="local"),
            lambda: library.search([Term(vector=vectors[5]), Term(vector=vectors[7])]),
        ]
        for ask in asks:
            with pytest.raises(StoreError, match="was cut off"):
                ask()
