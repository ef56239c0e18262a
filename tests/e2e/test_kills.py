"""A sync that is killed, again and again, while DT changes: nothing half-written is ever seen, nothing is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from luna_dt import Library
from luna_dt.demo import database, served
from luna_dt.dt.postgres import PostgresCatalog
from luna_dt.errors import NotSearchable
from luna_dt.identity import Identity
from luna_dt.records import LAYERS, Int64s
from luna_dt.store import Store
from tests.conftest import beside, unit_vectors

pytestmark = pytest.mark.processes

ROWS, DIM = 20_000, 64
KILLS = int(os.environ.get("LUNA_DT_KILLS", "8"))
VECTOR = f"(SELECT array_agg(random() - 0.5) FROM generate_series(1, {DIM} + 0 * id))::vector"


class ChangingDT:
    """A fork database whose images come, change and go, and every vector each of them ever had."""

    def __init__(self, address: str, schema: str) -> None:
        self._address, self._schema = address, schema
        self.address = f"{address}&schema={schema}"
        with psycopg.connect(address) as connection:
            identity = Identity("test", "", "image", "pooled", "squash", DIM)
            database.create_tables(connection, schema, {"visual": identity})
        self.history: dict[tuple[int, int], bytes] = {}
        self.catalog = PostgresCatalog(self.address)
        self._add(1, ROWS)
        self.note()

    def _run(self, statement: str) -> None:
        with psycopg.connect(self._address) as connection:
            connection.execute(f"SET search_path TO {self._schema}, public")
            connection.execute(statement)

    def _add(self, first: int, last: int) -> None:
        self._run(
            "INSERT INTO image (id, root_folder_id, folder_id, path, file_name, prompt, created_date, modified_date,"
            f" image_embedding) SELECT id, 1, 1, 'D:\\' || id, '', 'prompt ' || id, now(), now(), {VECTOR}"
            f" FROM generate_series({first}, {last}) id"
        )

    def change(self, turn: int) -> None:
        self._run(f"UPDATE image SET image_embedding = {VECTOR} WHERE id % 3 = {turn % 3}")
        self._run(f"UPDATE image SET prompt = 'turn {turn}' WHERE id % 5 = {turn % 5}")
        self._run(f"DELETE FROM image WHERE id % 101 = {turn}")
        self._add(10**6 * (turn + 1), 10**6 * (turn + 1) + 100)
        self.note()

    def note(self) -> None:
        ids, _ = self.catalog.digests("embeddings.visual")
        for batch in self.catalog.fetch("embeddings.visual", ids):
            vectors = np.asarray(batch.rows)
            keys = zip(batch.ids.tolist(), batch.digests.tolist(), strict=True)
            self.history.update((key, vectors[i].tobytes()) for i, key in enumerate(keys))


@pytest.fixture
def dt(postgres: str, schema: str) -> Iterator[ChangingDT]:
    changing = ChangingDT(postgres, schema)
    yield changing
    changing.catalog.close()


def start_sync(home: Path, address: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "luna_dt", "--home", str(home), "sync", "--json", "--dt", address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def check_every_vector(library: Library, history: dict[tuple[int, int], bytes]) -> int:
    """Each vector here is one that DT once had under that id and digest; gives how many there are."""
    with beside(library) as store:
        try:
            layer = store.layer("visual")
        except NotSearchable:
            return 0
        digests = dict(zip(*(column.tolist() for column in store.digests("embeddings.visual")), strict=True))
    seen = 0
    for row, image_id in enumerate(layer.ids.tolist()):
        if image_id >= 0:
            assert layer.vectors[row].tobytes() == history[image_id, digests[image_id]]
            assert library.image(image_id).id == image_id if row % 500 == 0 else True
            seen += 1
    return seen


def same(a: tuple[Int64s, Int64s], b: tuple[Int64s, Int64s]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def check_mirrored(library: Library, dt: ChangingDT) -> None:
    with beside(library) as store:
        for kind in ("images", "embeddings.visual"):
            assert same(store.digests(kind), dt.catalog.digests(kind))
    ids, _ = dt.catalog.digests("images")
    assert check_every_vector(library, dt.history) == len(ids)
    for image in dt.catalog.images(limit=50):
        assert library.image(image.id) == image


def test_killed_again_and_again_while_dt_changes(dt: ChangingDT, tmp_path: Path) -> None:
    rng = random.Random(5)
    home = tmp_path / "home"
    cut_short, counts = 0, []
    with served(dt.address) as url:
        start = time.monotonic()
        start_sync(tmp_path / "another home", url).communicate(timeout=600)
        whole = time.monotonic() - start  # on this machine, as busy as it is
        for turn in range(KILLS):
            sync = start_sync(home, url)
            time.sleep(min(whole, 6.0) * rng.uniform(0.15, 1.0))
            cut_short += sync.poll() is None
            sync.kill()
            sync.communicate()
            with Library(home) as library:
                counts.append(check_every_vector(library, dt.history))
                if counts[-1]:
                    hits = library.search(vector=unit_vectors(1, DIM)[0], top_k=5, engine="local")
                    assert [h.similarity for h in hits] == sorted((h.similarity for h in hits), reverse=True)
                    assert len(hits) == min(5, counts[-1])
            dt.change(turn)
        assert cut_short >= KILLS // 2, "the syncs were over too soon for the kills to mean anything"
        assert max(counts) > 0
        sync = start_sync(home, url)
        told, errors = sync.communicate(timeout=600)
        assert sync.returncode == 0, errors
        assert b"embeddings.visual" in told
        with Library(home) as library:
            check_mirrored(library, dt)


def test_a_server_that_dies_during_a_sync(dt: ChangingDT, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with served(dt.address) as url:
        sync = start_sync(home, url)
        deadline = time.monotonic() + 60
        while images_in(home) == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
    told, errors = sync.communicate(timeout=600)
    if sync.returncode == 0:  # it was done before the server could be stopped
        pytest.fail("the sync was over too soon for this test to mean anything")
    assert sync.returncode == 1
    assert b"does not answer" in errors
    assert b'"code": "dt_unreachable"' in told
    part = images_in(home)
    assert part > 0
    with Library(home, dt=dt.address) as library:  # the same library goes on from the database itself
        changes = {change.kind: change for change in library.sync()}
        assert changes["images"].added == ROWS - part
        check_mirrored(library, dt)


def images_in(home: Path) -> int:
    if not (home / "library.db").exists():
        return 0
    with closing(Store(home)) as store:
        return len(store.digests("images")[0])


def test_a_sync_with_nothing_changed_moves_nothing(dt: ChangingDT, tmp_path: Path, monkeypatch: Any) -> None:
    with Library(tmp_path / "home", dt=dt.address) as library:
        first = library.sync()
        assert {c.kind: c.added for c in first}["embeddings.visual"] == ROWS
        files = {f: f.stat().st_mtime_ns for f in (tmp_path / "home").rglob("*") if f.suffix in (".f32", ".hnsw")}
        fetch, asked = PostgresCatalog.fetch, list[tuple[str, int]]()

        def noted(catalog: PostgresCatalog, kind: str, ids: Any) -> Any:
            asked.append((kind, len(ids)))
            return fetch(catalog, kind, ids)

        monkeypatch.setattr(PostgresCatalog, "fetch", noted)
        assert all(c.added == c.changed == c.removed == 0 for c in library.sync())
        assert {kind for kind, _ in asked} <= {
            f"embeddings.{layer}" for layer in LAYERS
        }  # of each a sample is compared
        assert all(count <= 256 for _, count in asked)
        assert files == {f: f.stat().st_mtime_ns for f in files}
