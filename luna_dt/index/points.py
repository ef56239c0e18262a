"""Points: the different vectors of a file's rows.

Real layers are full of equal vectors: one prompt for a batch, one negative prompt for half of a library.  Graphs
lose their way among them, and nothing is gained by comparing one twice; so an engine sees each once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import IndexDamaged
from ..records import Float32s, Int64s

READ_AT_ONCE = 4096  # rows read at a time
RARE = 20  # where less than this part of all rows is allowed they are gone through, else the points

Int32s = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]


class Points:
    """The points of rows [0, ``rows``): ``first`` int32[points] is each one's first row, ``of`` int32[rows] each row's
    point.  Points are numbered by their first row, so those of fewer rows are the first of those of more."""

    def __init__(self, keys: npt.NDArray[np.uint64], first: Int32s, of: Int32s) -> None:
        self._keys, self.first, self.of = keys, first, of
        self._members: tuple[Int32s, Int32s] | None = None
        self._repeats: tuple[Int64s, Int64s, Int64s, Int64s] | None = None

    @classmethod
    def none(cls) -> Points:
        return cls(np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.int32))

    @property
    def rows(self) -> int:
        return len(self.of)

    def __len__(self) -> int:
        return len(self.first)

    def with_rows(self, vectors: Float32s, stop: Callable[[], bool] = lambda: False) -> Points | None:
        """The points of all rows of ``vectors``, whose first are those known; None when ``stop`` said so."""
        start = self.rows
        keys = np.empty(len(vectors) - start, np.uint64)
        for at in range(start, len(vectors), READ_AT_ONCE):
            if stop():
                return None
            for i, row in enumerate(np.ascontiguousarray(vectors[at : at + READ_AT_ONCE]), at - start):
                keys[i] = int.from_bytes(hashlib.blake2b(row, digest_size=8).digest(), "little")
        known = len(self._keys)
        every, first, of = np.unique(np.concatenate([self._keys, keys]), return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")  # known points keep their numbers, new ones follow by first row
        number = np.empty(len(order), np.int32)
        number[order] = np.arange(len(order), dtype=np.int32)
        new = (first[order][known:] - known + start).astype(np.int32)
        return Points(every[order], np.concatenate([self.first, new]), np.concatenate([self.of, number[of[known:]]]))

    def upto(self, rows: int) -> Points:
        """The points of the first ``rows`` rows."""
        count = int(np.searchsorted(self.first, rows))
        return Points(self._keys[:count], self.first[:count], self.of[:rows])

    def usable(self, allowed: Bools | None) -> Bools | None:
        """bool[points]: those with a row that is ``allowed`` (bool[rows]); None for all."""
        if allowed is None:
            return None
        if np.count_nonzero(allowed) * RARE < self.rows:
            usable = np.zeros(len(self), bool)
            usable[self.of[np.flatnonzero(allowed)]] = True
            return usable
        if self._repeats is None:
            members, starts = self._by_point()
            sizes = np.diff(starts)
            several = np.flatnonzero(sizes > 1)
            rows = members[np.repeat(sizes > 1, sizes)].astype(np.int64)
            self._repeats = self.first.astype(np.int64), several, rows, np.cumsum(sizes[several]) - sizes[several]
        first, several, rows, begins = self._repeats  # int64, or NumPy makes such of them each time
        usable = allowed.take(first)
        if len(several):
            usable[several] = np.logical_or.reduceat(allowed.take(rows), begins)
        return usable

    def expanded(
        self, points: Int64s, similarities: Float32s, k: int, allowed: Bools | None
    ) -> tuple[Int64s, Float32s]:
        """At most ``k`` rows of those points, in their order, and each row's similarity."""
        members, starts = self._by_point()
        rows: list[Int32s] = []
        left = k
        for point in points.tolist():
            own = members[starts[point] : starts[point + 1]]
            own = own if allowed is None else own[allowed[own]]
            rows.append(own[:left])
            left -= len(rows[-1])
            if not left:
                break
        if not rows:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        repeats = [len(own) for own in rows]
        return np.concatenate(rows).astype(np.int64), np.repeat(similarities[: len(rows)], repeats)

    def _by_point(self) -> tuple[Int32s, Int32s]:
        """Rows sorted by their point, and where each point's begin."""
        if self._members is None:
            members = np.argsort(self.of, kind="stable").astype(np.int32)
            starts = np.searchsorted(self.of[members], np.arange(len(self) + 1)).astype(np.int32)
            self._members = members, starts
        return self._members

    def units(self, vectors: Float32s, points: npt.NDArray[np.integer]) -> Iterator[tuple[int, Float32s]]:
        """Blocks of those points' unit vectors, each with the place of its first."""
        for at in range(0, len(points), READ_AT_ONCE):
            block = vectors[self.first[points[at : at + READ_AT_ONCE]]]
            yield at, block / np.linalg.norm(block, axis=1, keepdims=True)

    def write(self, file: Path) -> int:
        """Gives the bytes that must be there then."""
        with file.open("wb") as out:
            for array in (self._keys, self.first, self.of):
                np.lib.format.write_array(out, array, version=(1, 0), allow_pickle=False)
            return out.tell()

    @classmethod
    def read(cls, file: Path) -> Points:
        """Raises IndexDamaged."""
        try:
            with file.open("rb") as data:
                keys, first, of = (np.lib.format.read_array(data, allow_pickle=False) for _ in range(3))
        except (OSError, ValueError, EOFError) as error:
            raise IndexDamaged(f"{file} cannot be read: {error}") from error
        return cls(keys, first, of)
