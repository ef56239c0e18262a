"""An index proves itself: its recall on its own library, against exact answers, before it answers.

Without that nobody notices when it is wrong: plausible pictures come back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..records import Float32s
from .points import Points
from .rows import RowIndex

ENOUGH = 0.99, 0.99  # of recall@1 and recall@10; below, an index is searched wider, then not used
BETTER = 0.999, 0.998  # where another engine stands ready that is right on every shape
SAMPLE = 512  # points that are asked for, as many places near points and means of points; of large layers fewer,
LEAST, WORK = 64, 20_000_000  # since each is compared with every point: so many at least, and so many cosines
NEAR = 0.25  # length of what is added to a unit vector to get a place near it
OF = 3  # points a mean is of: so ask who gives several pictures, and there graphs lose their way first
TOP = 10
TIE = 2e-5  # of cosine: float32 sums of a thousand products differ by less in another order


@dataclass(frozen=True)
class Proof:
    """The recall of an index, 0..1: the share of true nearest, and of the true ten nearest, that it found, equally near
    ones counting as found, of the kind of queries that it finds least of; of so many ``queries``; ``wide`` says whether
    it had to be searched wider for that."""

    recall_1: float
    recall_10: float
    queries: int
    wide: bool = False

    def enough(self, another: bool = False) -> bool:
        """Whether the index may answer; ``another``: whether an engine stands ready to take its place."""
        first, tenth = BETTER if another else ENOUGH
        return self.recall_1 >= first and self.recall_10 >= tenth

    def __str__(self) -> str:
        return f"recall@1 {self.recall_1:.3f}, @10 {self.recall_10:.3f}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Proof:
        """Raises TypeError, ValueError, KeyError for what is none."""
        return cls(float(value["recall_1"]), float(value["recall_10"]), int(value["queries"]), bool(value["wide"]))


def prove(index: RowIndex, vectors: Float32s, stop: Callable[[], bool] = lambda: False) -> Proof | None:
    """Measures an index over ``vectors``; None when ``stop`` said so."""
    points = index.points
    rng = np.random.default_rng(len(points))  # another sample as it grows, the same each time
    sample = min(SAMPLE, max(LEAST, WORK // len(points)), len(points))
    chosen = rng.choice(len(points), sample, replace=False)
    own = np.concatenate([block for _, block in points.units(vectors, chosen)])
    near = own + NEAR * _unit(rng.standard_normal(own.shape).astype(np.float32))
    means = np.sum([own[rng.permutation(sample)] for _ in range(OF)], axis=0)
    means = np.where(np.linalg.norm(means, axis=1, keepdims=True) > NEAR, means, own)  # opposites have no mean
    queries = np.concatenate([own, _unit(near), _unit(means)])
    truth = _truth(points, vectors, queries, stop)
    if truth is None:
        return None
    recalls = np.empty((len(queries), 2))
    for i, (query, best) in enumerate(zip(queries, truth, strict=True)):
        found = index.query(query, TOP)[1]
        recalls[i] = len(found) and found[0] >= best[0] - TIE, np.count_nonzero(found >= best[-1] - TIE) / len(best)
    first, tenth = np.minimum(recalls, 1).reshape(3, sample, 2).mean(axis=1).min(axis=0)
    return Proof(float(first), float(tenth), len(queries))


def _unit(rows: Float32s) -> Float32s:
    units: Float32s = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return units


def _truth(points: Points, vectors: Float32s, queries: Float32s, stop: Callable[[], bool]) -> Float32s | None:
    """float32[queries, n]: the cosines of the nearest rows, n being 10 or as many as there are, best first."""
    counts = np.bincount(points.of, minlength=len(points))
    best = np.empty((len(queries), 0), np.float32)
    for at, block in points.units(vectors, np.arange(len(points))):
        if stop():
            return None
        cosines = queries @ block.T
        repeated = np.minimum(counts[at : at + len(block)], TOP)
        if (repeated > 1).any():
            cosines = np.repeat(cosines, repeated, axis=1)
        best = np.concatenate([best, cosines], axis=1)
        if best.shape[1] > TOP:
            best = np.partition(best, best.shape[1] - TOP, axis=1)[:, -TOP:]
    return np.sort(best, axis=1)[:, ::-1]
