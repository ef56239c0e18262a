"""Search through ``Library`` beside a bare ``hnswlib.Index.knn_query``, same graph, same queries, one run.

    python -m bench.search [--rows 100000] [--dim 1024] [--queries 2000]

Prints the median times, interleaved query by query, and the ratios; claims: ids and similarities at
most 1.3 times the bare call, ten records included at most 2 times, at the same recall.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from luna_dt import Identity, ImageRecord, Library
from luna_dt.index.hnsw import EF, HnswEngine, HnswIndex
from luna_dt.index.shelf import Shelf
from luna_dt.records import Batch, Float32s
from luna_dt.store import Store

IDENTITY = Identity("bench", "", "image", "pooled", "squash", 1024)


def clip_like(rows: int, dim: int, seed: int = 0) -> Float32s:
    """Vectors that lie as CLIP's do: 2,000 overlapping clusters in few dimensions around one common direction."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(dim).astype(np.float32) * 0.75
    directions = rng.standard_normal((24, dim)).astype(np.float32) / np.float32(24**0.5)
    centres = rng.standard_normal((2000, 24)).astype(np.float32)
    vectors = np.empty((rows, dim), np.float32)
    for at in range(0, rows, 10_000):
        n = min(10_000, rows - at)
        places = centres[rng.integers(0, 2000, n)] + 0.45 * rng.standard_normal((n, 24)).astype(np.float32)
        vectors[at : at + n] = common + places @ directions
        vectors[at : at + n] += 0.1 * rng.standard_normal((n, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def fill(store: Store, vectors: Float32s) -> None:
    """Those vectors as the visual layer, with a record for each."""
    identity = Identity("bench", "", "image", "pooled", "squash", vectors.shape[1])
    with store.sole_writer():
        store.prepare_layer("visual", identity)
        for at in range(0, len(vectors), 4096):
            part = vectors[at : at + 4096]
            ids = np.arange(at + 1, at + 1 + len(part))
            prompt = "a portrait of a woman in a red coat, detailed, soft light, 85mm, film grain, " * 3
            records = [
                ImageRecord(
                    int(i), f"D:\\Pictures\\2026\\{i:08d}.png", prompt, "blurry", 832, 1216, "ponyXL", "ab12", "Euler a"
                )
                for i in ids
            ]
            store.put("images", Batch(ids, ids, records))
            store.put("embeddings.visual", Batch(ids, ids, part))
        for kind in ("images", "embeddings.visual"):
            store.finish(kind, "this bench")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=2000)
    options = parser.parse_args()
    vectors = clip_like(options.rows + options.queries, options.dim)
    vectors, queries = vectors[: options.rows], vectors[options.rows :]
    with tempfile.TemporaryDirectory() as home:
        with closing(Store(Path(home))) as store:
            fill(store, vectors)
            layer = store.layer("visual")
        library = Library(home)
        start = time.perf_counter()
        library.nearest(queries[0])
        first = time.perf_counter() - start
        start = time.perf_counter()
        library.wait()
        built = time.perf_counter() - start
        bare = Shelf(Path(home)).load(HnswEngine(), layer.file.name, layer.identity)
        assert isinstance(bare, HnswIndex)
        graph = bare.graph
        calls: dict[str, Callable[[Float32s], Any]] = {
            "bare knn_query": lambda q: graph.knn_query(q, k=10, num_threads=1),
            "Library.nearest": lambda q: library.nearest(q, top_k=10),
            "Library.search": lambda q: library.search(vector=q, top_k=10),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        found: dict[str, list[set[int]]] = {"bare knn_query": [], "Library.nearest": []}
        for i in range(len(queries)):
            for j, (name, call) in enumerate(calls.items()):
                # each call another query: whoever asks the same second finds the graph's rows in the processor's cache
                query = queries[(i + j * len(queries) // len(calls)) % len(queries)]
                start = time.perf_counter()
                answer = call(query)
                times[name].append(time.perf_counter() - start)
                if name == "bare knn_query":
                    found[name].append({int(row) + 1 for row in answer[0][0]})
                elif name == "Library.nearest":
                    found[name].append(set(answer[0].tolist()))
        truth = [set((np.argpartition(-(vectors @ q), 10)[:10] + 1).tolist()) for q in queries[:300]]
        start_at = len(queries) - len(queries) // len(calls)
        found["Library.nearest"] = found["Library.nearest"][start_at:]  # where its first query came round
        library.close()

    print(f"{options.rows:,} x {options.dim}, {options.queries} queries, top 10, ef {EF}")
    print(f"first answer, exact, while the index is made: {first * 1e3:.0f} ms; index made and saved in {built:.0f} s")
    base = statistics.median(times["bare knn_query"])
    print(f"{'':18}{'p50 us':>8}{'p95 us':>8}{'ratio':>7}{'recall@10':>11}")
    for name, taken in times.items():
        p50, p95 = statistics.median(taken), statistics.quantiles(taken, n=20)[-1]
        hits = found.get(name)
        recall = f"{np.mean([len(a & b) / 10 for a, b in zip(truth, hits, strict=False)]):.4f}" if hits else ""
        print(f"{name:18}{p50 * 1e6:8.0f}{p95 * 1e6:8.0f}{p50 / base:7.2f}{recall:>11}")
    random = np.random.default_rng(1).integers(0, options.rows, (2, 2000))
    cosine = np.einsum("ij,ij->i", vectors[random[0]], vectors[random[1]]).mean()
    best = np.mean([np.max(vectors @ q) for q in queries[:100]])
    print(f"the data: random pairs at cosine {cosine:.2f}, nearest neighbour {best:.2f}")


if __name__ == "__main__":
    main()
