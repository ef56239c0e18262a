"""A library on a real Milvus server beside one that is mirrored, and beside the server asked without us.

    python -m bench.milvus [--rows 100000] [--dim 768] [--queries 200]

Needs PyPI's ``milvus`` and ``pymilvus``.  On each shape (shapes.py): recall@10 and the median of a search, through
``Library`` on the server, by pymilvus alone in the same table, and through ``Library`` on its mirror, the same queries
interleaved; how many vectors a second a sync brings to the server, and pymilvus's own inserts, of the same rows and of
vectors alone, in pages of the best size; and how many rows a sync moves when nothing has changed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from luna_dt import ImageRecord, Library, Settings
from luna_dt.dt.catalog import Catalog, Health
from luna_dt.dt.milvus.fields import TYPES, fields_of
from luna_dt.dt.milvus.server import Server as ServerOfOurs
from luna_dt.dt.milvus.server import key_of, table_of
from luna_dt.identity import Identity
from luna_dt.records import Batch, Float32s, Hit, Int64s, Kind
from tests.milvus_server import PASSWORD, Server

from . import shapes
from .opening import TOP
from .search import Asked, ask

SHAPES = ("distinct", "groups-1")
PAGES = (500, 1000, 2000, 5000)  # rows of one bare insert
INSERTED = 20_000  # rows by which each size of pages is timed
PROMPT = "a portrait of a girl with red hair in a garden, soft light, detailed background, " * 4


class Made(Catalog):
    """A DT of made-up images, each with a vector."""

    address = "a DT in memory"

    def __init__(self, name: str, vectors: Float32s) -> None:
        self.name, self._vectors, self.fetched = name, vectors, 0
        self._ids = np.arange(1, len(vectors) + 1)
        self.made_by = Identity("bench", "", "image", "pooled", "squash", vectors.shape[1])

    def health(self) -> Health:
        return Health("memory", "1", (), library=self.name)

    def kinds(self) -> list[Kind]:
        count = len(self._ids)
        return [Kind("images", count), Kind("embeddings.visual", count, self.made_by)]

    def digests(self, _: str) -> tuple[Int64s, Int64s]:
        return self._ids.copy(), self._ids.copy()

    def fetch(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        self.fetched += len(ids)
        rows: Any = self._vectors[ids - 1]
        if kind == "images":
            rows = [_image(image_id) for image_id in ids.tolist()]
        yield Batch(ids, ids, rows)


def _image(i: int) -> ImageRecord:
    return ImageRecord(
        i, f"D:\\Pictures\\{i // 1000}\\{i}.png", f"{i}, {PROMPT}", "blurry, lowres", 832, 1216, "ponyXL", "ab12",
        "Euler a", "normal", 28, 7.0, i * 7919, i % 11, 6.5, created="2026-01-15T10:00:00",
    )  # fmt: skip


def bare_inserts(server: ServerOfOurs, client: Any, vectors: Float32s) -> dict[str, tuple[float, int]]:
    """The vectors a second that pymilvus inserts, and the best size of pages: the rows as a sync writes them, into a table
    like its own, and id and vector alone."""
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    whole: list[dict[str, Any]] = []
    for i, vector in enumerate(vectors[:INSERTED], 1):
        image = _image(i)
        row = {"key": key_of("bare", i), "library": "bare", "id": i, "record": image.to_json()}
        row |= {"source": i, "digest": i}
        whole.append({**row, **(fields_of(image, None) or {}), "vector": vector})
    rows = {
        "of the same rows": whole,
        "of vectors alone": [{"id": row["id"], "vector": row["vector"]} for row in whole],
    }
    best = dict.fromkeys(rows, (0.0, 0))
    for what, given in rows.items():
        for page in PAGES:
            table = f"bare_{page}_{len(given[0])}"
            if given is whole:
                server.prepare(table, vectors.shape[1], fields=TYPES)
            else:
                client.create_collection(table, schema=schema, index_params=index)
                client.load_collection(table)
            start = time.perf_counter()
            for at in range(0, len(given), page):
                client.insert(table, given[at : at + page])
            best[what] = max(best[what], (len(given) / (time.perf_counter() - start), page))
            client.drop_collection(table)
    return best


def measured(name: str, server: Server, client: Any, folder: Path, rows: int, dim: int, queries: int) -> None:
    shape = shapes.make(name, queries, np.empty((rows, dim), np.float32))
    dt = Made(name, shape.vectors)
    with closing(ServerOfOurs(server.address, 60)) as ours:
        bare = bare_inserts(ours, client, shape.vectors)
    settings = Settings(
        home=folder / f"{name} shared", dt="http://127.0.0.1:9", index=f"{server.address}?library={name}", timeout=60
    )
    with Library(settings=settings, connect=lambda _: dt) as shared:
        start = time.perf_counter()
        changes = {change.kind: change for change in shared.sync()}
        whole, layer = time.perf_counter() - start, changes["embeddings.visual"].seconds
        dt.fetched = 0
        start = time.perf_counter()
        idle = shared.sync()
        again = time.perf_counter() - start
        moved = dt.fetched + sum(change.added + change.changed for change in idle)
        print(f"{name}: a sync of the layer {rows / layer:,.0f} vectors/s, with the records {rows / whole:,.0f}; an idle sync "
              f"moved {moved} rows in {again:.1f} s", flush=True)  # fmt: skip
        for what, (rate, page) in bare.items():
            print(f"{name}: bare inserts {what} {rate:,.0f}/s in pages of {page:,}, of which a sync of the layer has "
                  f"{rows / layer / rate:.2f} (bound 0.5)", flush=True)  # fmt: skip
        table = table_of("embeddings.visual", dt.made_by)

        def alone(query: Float32s) -> Any:
            return client.search(table, data=[query], limit=TOP, output_fields=["id", "record"],
                                 search_params={"metric_type": "COSINE"}, consistency_level="Bounded")[0]  # fmt: skip

        with Library(settings=Settings(home=folder / f"{name} mirror"), connect=lambda _: dt) as mirror:
            mirror.sync()
            mirror.wait()
            ways = {
                "Library on Milvus": Asked(lambda query: shared.search(vector=query, top_k=TOP), _rows, here=False),
                "pymilvus alone": Asked(
                    alone, lambda hits: np.array([hit["entity"]["id"] - 1 for hit in hits]), here=False
                ),
                "Library on its mirror": Asked(lambda query: mirror.search(vector=query, top_k=TOP), _rows, here=False),
            }
            ask(ways, shape.queries)
        truth = shapes.truth(shape.vectors, shape.queries, TOP)
        for way, answers in ways.items():
            recall = answers.recalls(shape.vectors, shape.queries, truth)[1]
            print(f"{name}: {way}: recall@{TOP} {recall:.4f}, p50 {answers.p50:.2f} ms", flush=True)
        ratio = ways["Library on Milvus"].p50 / ways["pymilvus alone"].p50
        print(f"{name}: through Library {ratio:.2f} of pymilvus alone (bound 1.3)", flush=True)
    client.drop_collection(table)


def _rows(hits: list[Hit]) -> Int64s:
    return np.array([hit.id - 1 for hit in hits])


def main() -> None:
    from pymilvus import MilvusClient

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--queries", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="luna-dt-bench-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder) / "server")
        (Path(folder) / "server").mkdir()
        try:
            server.start()
            port = urlsplit(server.address.removeprefix("milvus+")).port
            client = MilvusClient(f"http://127.0.0.1:{port}", user="root", password=PASSWORD)
            print(f"Milvus {client.get_server_version()}, {given.rows:,} x {given.dim}, {given.queries} queries")
            for name in SHAPES:
                measured(name, server, client, Path(folder), given.rows, given.dim, given.queries)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
