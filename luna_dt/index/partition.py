"""Centres, among which the scan engine parts points, and the few dimensions it looks at first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..records import Float32s, Int64s
from .points import Int32s, Points

HEAD = 8  # the first look takes this part of the dimensions
SMALL = 1000  # fewer points than this get one list
LISTS = 1.2  # times the square root of the number of points
TRAINING, ROUNDS = 40, 6  # points sampled for each centre, and iterations of k-means


class Partition:
    """``centres`` float32[lists, dim] and ``head`` float32[dim / 8, dim], orthonormal directions."""

    def __init__(self, centres: Float32s, head: Float32s) -> None:
        self.centres, self.head = centres, head
        self._squares = (centres**2).sum(axis=1)
        self.head_centres = centres @ head.T
        self._head_squares = (self.head_centres**2).sum(axis=1)
        apart = self._squares + self._squares[:, None] - 2 * centres @ centres.T
        self._apart = 2 * np.sqrt(np.maximum(apart, 1e-12))

    def distances(self, unit: Float32s) -> Float32s:
        """float32[lists]: squared, to all centres."""
        found: Float32s = 1 + self._squares - 2 * (self.centres @ unit)
        return found

    def head_distances(self, head: Float32s) -> Float32s:
        """float32[lists]: squared, from a vector's head to those of all centres."""
        found: Float32s = head @ head + self._head_squares - 2 * (self.head_centres @ head)
        return found

    def by_border(self, distances: Float32s) -> tuple[Int64s, Float32s]:
        """The lists in the order of how far a vector is from the border of each with the vector's own; and how far."""
        own = int(np.argmin(distances))
        borders = (distances - distances[own] - np.float32(2e-6)) / self._apart[own]
        order = np.argsort(borders)
        return order, borders[order]


def train(vectors: Float32s, points: Points, stop: Callable[[], bool]) -> Partition | None:
    """k-means over a sample (started as k-means++, so that a group of half of all rows takes no more than its due);
    the head are the directions in which points differ most from their centres.  None when ``stop`` said so."""
    rng = np.random.default_rng(0)
    count = 1 if len(points) < SMALL else int(LISTS * len(points) ** 0.5)
    chosen = np.sort(rng.permutation(len(points))[: TRAINING * count])
    units = np.concatenate([block for _, block in points.units(vectors, chosen)])
    centres = units[rng.integers(0, len(units), 1)]
    far = 2 - 2 * units @ centres[0]
    while len(centres) < count:
        if stop():
            return None
        weights = np.maximum(far, 1e-9).astype(np.float64)
        size = min(count - len(centres), max(count // 8, 1))
        more = rng.choice(len(units), size, replace=False, p=weights / weights.sum())
        far = np.minimum(far, (2 - 2 * units @ units[more].T).min(axis=1))
        centres = np.concatenate([centres, units[more]])
    for _ in range(ROUNDS):
        if stop():
            return None
        labels = labels_of(units, centres)
        order = np.argsort(labels, kind="stable")
        begins = np.flatnonzero(np.diff(labels[order], prepend=-1))
        used = labels[order][begins]
        counts = np.bincount(labels, minlength=count)[used, None].astype(np.float32)
        centres[used] = np.add.reduceat(units[order], begins, axis=0) / counts
    left = units - centres[labels_of(units, centres)]
    width = max(vectors.shape[1] // HEAD, 1)
    directions = np.linalg.eigh(left.T @ left)[1][:, : -width - 1 : -1]
    return Partition(centres, np.ascontiguousarray(directions.T.astype(np.float32)))


def labels_of(units: Float32s, centres: Float32s) -> Int32s:
    """int32[n]: for each vector its nearest centre."""
    found: Int32s = np.argmax(units @ centres.T - (centres**2).sum(axis=1) / 2, axis=1).astype(np.int32)
    return found
