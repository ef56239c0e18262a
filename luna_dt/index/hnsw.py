"""The hnswlib engine: a graph over points (HNSW, Malkov & Yashunin 2018), in private memory.

Parameters: M = 16, ef_construction = 200 (hnswlib's own defaults), ef = 64: on 100,000 CLIP-like
vectors that finds 99.9 % of the true ten nearest.  On dense groups it finds less, which proof.py measures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from .. import threads
from ..errors import IndexDamaged, MissingExtra
from ..records import Float32s, Int64s, checked_vectors
from .base import Bools, Index
from .points import Points

M, EF_CONSTRUCTION = 16, 200
EF, EF_WIDE = 64, 256  # candidates looked at for each query
CHUNK = 1000  # points added between two looks at whether to stop
PART = 50_000  # points whose making is worth saving, a minute's or so
NOTHING = np.empty(0, np.int64), np.empty(0, np.float32)


class HnswIndex:
    """A finished graph."""

    def __init__(self, graph: Any) -> None:
        self.graph, self._ef = graph, EF
        graph.set_ef(EF)
        self._wide = threading.Lock()

    def query(self, vector: Float32s, k: int, usable: Bools | None) -> tuple[Int64s, Float32s]:
        count = self.graph.get_current_count()
        wanted = k
        if usable is not None:  # it knows no conditions: as much wider as fewer are usable
            wanted = min(count, k * count // max(1, int(np.count_nonzero(usable))) * 2)
        try:
            points, similarities = self._nearest(vector, min(wanted, count))
        except RuntimeError:  # it reaches fewer than so many points
            return NOTHING
        if usable is not None:
            good = usable[points]
            points, similarities = points[good], similarities[good]
        return points[:k], similarities[:k]

    def _nearest(self, vector: Float32s, k: int) -> tuple[Int64s, Float32s]:
        if k <= self._ef:
            points, distances = self.graph.knn_query(vector, k=k, num_threads=1)
        else:  # it finds at most ef points, and ef is the whole graph's; a query beside this one is only slower
            with self._wide:
                self.graph.set_ef(k)
                try:
                    points, distances = self.graph.knn_query(vector, k=k, num_threads=1)
                finally:
                    self.graph.set_ef(self._ef)
        return points[0].astype(np.int64), 1.0 - distances[0]

    def widen(self) -> bool:
        if self._ef == EF_WIDE:
            return False
        self._ef = EF_WIDE
        self.graph.set_ef(EF_WIDE)
        return True


class HnswEngine:
    """See base.Engine."""

    name, suffix, mapped, part = "hnswlib", ".hnsw", False, PART
    parameters: Mapping[str, int] = {"M": M, "ef_construction": EF_CONSTRUCTION}

    def installed(self) -> bool:
        try:
            import hnswlib  # noqa: F401
        except ImportError:
            return False
        return True

    def build(
        self,
        vectors: Float32s,
        points: Points,
        start: Index | None,
        stop: Callable[[], bool],
        progress: Callable[[int], object],
    ) -> HnswIndex | None:
        total, dim = len(points), vectors.shape[1]
        if start:
            graph = cast("HnswIndex", start).graph
            done = graph.get_current_count()
            graph.resize_index(total)
        else:
            graph, done = _new_graph(dim), 0
            graph.init_index(max_elements=total, M=M, ef_construction=EF_CONSTRUCTION)
        for at in range(done, total, CHUNK):
            if stop():
                return None
            chunk = checked_vectors(vectors[points.first[at : at + CHUNK]], dim, "a stored vector", ndim=2)
            graph.add_items(chunk, np.arange(at, at + len(chunk)), num_threads=threads.cores())
            progress(at + len(chunk))
        return HnswIndex(graph)

    def write(self, index: Index, file: Path) -> int:
        graph = cast("HnswIndex", index).graph
        graph.save_index(str(file))
        return int(graph.index_file_size())  # it reports success on a full disk and on a missing folder

    def read(self, file: Path, vectors: Float32s, points: Points) -> HnswIndex:
        graph = _new_graph(vectors.shape[1])
        try:
            graph.load_index(str(file), max_elements=len(points))
        except RuntimeError as error:
            raise IndexDamaged(f"{file} cannot be loaded: {error}") from error
        if graph.get_current_count() != len(points):
            raise IndexDamaged(f"{file} holds {graph.get_current_count()} points instead of {len(points)}")
        return HnswIndex(graph)


def _new_graph(dim: int) -> Any:
    try:
        import hnswlib
    except ImportError as error:
        raise MissingExtra("hnswlib", "hnswlib") from error
    return hnswlib.Index(space="cosine", dim=dim)
