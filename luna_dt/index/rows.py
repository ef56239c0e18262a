"""What an index over points says of rows: the one form in which those above meet an index."""

from __future__ import annotations

import numpy as np

from ..records import Float32s, Int64s, checked_vectors
from .base import Bools, Index
from .exact import nearest_of
from .points import Points

SMALL, SHARE = 1000, 20  # of that many points every one is compared, and if there are more, of a part of all at most
HALF = 0.5  # of the points: where fewer may be found, a graph, which walks past the others, finds too little


class RowIndex:
    """An index over rows [0, ``rows``) of one vectors file, made by ``engine``; safe to use from several threads."""

    def __init__(self, engine: str, index: Index, points: Points, vectors: Float32s) -> None:
        self.engine, self.index, self.points = engine, index, points
        self._vectors = vectors[: points.rows]
        self.rows = points.rows

    def compares(self, count: int, k: int = 1) -> bool:
        """Whether a search among so many points compares every one of them, rather than asking the index."""
        few = count <= max(k, min(SMALL, len(self.points) // SHARE)) or len(self.points) <= SMALL
        return few or (not self.index.knows_conditions and count < HALF * len(self.points))

    def query(self, vector: Float32s, k: int, allowed: Bools | None = None) -> tuple[Int64s, Float32s]:
        """The ``k`` nearest rows (fewer if there are fewer) of those that are ``allowed`` (bool[rows]), and their
        cosine, best first, lower rows first among equal vectors.

        ``vector``: float32[dim], of any length but zero.  Raises BadVector.
        """
        vector = checked_vectors(vector, self._vectors.shape[1])
        unit = vector / np.linalg.norm(vector)
        usable = self.points.usable(allowed)
        count = len(self.points) if usable is None else int(np.count_nonzero(usable))
        if not self.compares(count, k):
            found, similarities = self.index.query(unit, k, usable)
            if len(found) >= k:
                return self.points.expanded(found, similarities, k, allowed)
        # few are left, or it reaches too few, as a graph under a condition may
        every = np.arange(len(self.points)) if usable is None else np.flatnonzero(usable)
        best, similarities = nearest_of(self._vectors, self.points.first[every], unit, k)
        return self.points.expanded(every[best], similarities, k, allowed)
