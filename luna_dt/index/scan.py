"""The scan engine: lists of int8 codes that are scanned, not walked, and exact answers from the float32 rows.

Points are parted among the nearest of some hundred centres (an inverted file); each is kept as the int8 code of what
is left after its list's centre is taken away, so a group at cosine .9998 is resolved as well as a broad one, with its
scale, length and rounding error.  A query

1. orders the lists by how far it is from the border between the list and its own one, and scans them, in growing
   batches, while that is at most ``reach`` times the distance of the k-th point found so far;
2. there looks first at codes of the ``head``, an eighth of the dimensions, and drops what is, even so, farther than
   the k-th; looks at the rest by the whole code; compares what is left exactly, from the mapped float32 rows.

A query is its own int8 code and that of what this lacks, the same for every list, and so is its head: what its product
with a point's code would be, had the list's centre been taken away from it as well, is less by the product of centre
and code.

With ``reach`` and ``trust`` 1 the answer is proven exact: a point beyond a border is at least as far as the border,
and what a code lacks adds at most the product of the lengths of what both codes lack (Cauchy-Schwarz).  Smaller values
are faster; proof.py measures them on the library itself.

All arrays lie in one file, .npy after .npy, and are mapped: an index takes next to no memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ..errors import IndexDamaged, MissingExtra
from ..records import Float32s, Int64s
from .base import Bools, Index
from .exact import nearest_of
from .partition import Partition, labels_of, train
from .points import RARE, Int32s, Points

Int8s = npt.NDArray[np.int8]

ROUNDING = np.float32(1e-6)  # of float32 itself
TRUST = 0.5  # of the bound of a whole code's rounding: errors of many dimensions cancel; the most that was seen used is 0.31
EVEN = np.float32(0.1)  # evens out how long a head is and how long what rounding takes from it
FORM = 3  # of the file: another one is made anew
GROWN = 4  # times as many points as trained on: trained anew
FIRST_LISTS, MORE_LISTS = 4, 4  # lists in the first batch, and how much larger each next one is


@dataclass(frozen=True)
class Codes:
    """What is in the file: of codes, in the order of their lists, ``slots`` int32 their point; ``starts`` int64[lists
    + 1] where each list begins; ``heads`` and ``codes`` int8; ``facts`` float32[4]: step of the head, squared length,
    length of what the head lacks, product of head and the centre's; ``fine`` float32[3]: step of the whole code, length
    of its error, product of code and centre.  Then the partition: ``centres`` float32[lists, dim], ``head``
    float32[dim / 8, dim], ``trained`` int64[1] points there were then."""

    slots: Int32s
    starts: Int64s
    facts: Float32s
    fine: Float32s
    centres: Float32s
    head: Float32s
    trained: Int64s
    heads: Int8s
    codes: Int8s


class ScanIndex:
    """Codes of all points, and the vectors they are codes of."""

    knows_conditions = True

    def __init__(self, codes: Codes, vectors: Float32s, points: Points) -> None:
        self.codes, self._vectors, self._points = codes, vectors, points
        self._partition = Partition(codes.centres, codes.head)
        self._wide = False
        self._place: Int64s | None = None

    def widen(self) -> bool:
        self._wide, was = True, self._wide
        return not was

    def query(self, vector: Float32s, k: int, usable: Bools | None) -> tuple[Int64s, Float32s]:
        candidates = self._candidates(vector, k, usable)
        best, similarities = nearest_of(self._vectors, self._points.first[candidates], vector, k)
        return candidates[best], similarities

    def _reach(self, k: int, rare: bool) -> float:
        """As measured: proof costs next to nothing below 100,000 points; more neighbours, and those of few that a condition
        allows, lie behind more borders."""
        if self._wide or len(self.codes.slots) < 100_000 or k > 100:
            return 1.0
        return 0.6 if k > 10 else 0.55 if rare else 0.45

    def _candidates(self, vector: Float32s, k: int, usable: Bools | None) -> Int64s:
        """The points that can be among the first ``k``."""
        c = self.codes
        query = _Query.of(vector, self._partition)
        order, borders = self._partition.by_border(query.distances)
        starts, only = c.starts, None
        if usable is not None and np.count_nonzero(usable) * RARE < len(usable):
            only = np.sort(self._places().take(np.flatnonzero(usable)))
            starts = np.searchsorted(only, starts)
        found: list[Int64s] = []
        lows: list[Float32s] = []
        highs = np.empty(0, np.float32)
        reach, worst, at, batch = self._reach(k, only is not None), np.float32(np.inf), 0, FIRST_LISTS
        while at < len(order):
            end = min(at + batch, int(np.searchsorted(borders, reach * worst**0.5, side="right")))
            if end <= at:
                break
            lists = order[at:end]
            at, batch = end, MORE_LISTS * batch
            begins, ends = starts[lists], starts[lists + 1]
            parts = [slice(*part) for part in zip(begins.tolist(), ends.tolist(), strict=True)]
            where, which = None, np.repeat(np.arange(len(lists)), ends - begins)
            if only is not None:
                where = np.concatenate([only[part] for part in parts])
            elif usable is not None:
                good = np.flatnonzero(usable.take(np.concatenate([c.slots[part] for part in parts])))
                where, which = _placed(parts, which, good)
            if not len(which):
                continue
            middle, slack = self._by_head(query, lists[which], parts if where is None else where)
            if len(highs) < k:
                worst = _kth(middle + slack, k)
            middle -= slack
            good = np.flatnonzero(middle <= worst)
            where, which = _placed(parts, which, good) if where is None else (where[good], which[good])
            if not len(where):
                continue
            low, high = self._by_code(query, where, query.distances[lists][which])
            found.append(where)
            lows.append(low)
            highs = np.concatenate([highs, high])
            highs = highs if len(highs) <= k else np.partition(highs, k - 1)[:k]
            worst = min(worst, _kth(highs, k))
        if not found:
            return np.empty(0, np.int64)
        return c.slots[np.concatenate(found)[np.concatenate(lows) <= worst]].astype(np.int64)

    def _by_head(self, query: _Query, lists: Int64s, at: list[slice] | Int64s) -> tuple[Float32s, Float32s]:
        """The squared distance by the head of codes, each in one of ``lists``, and how wrong that may be; ``at``: their places
        one by one, or those of whole lists."""
        heads, facts = self.codes.heads, self.codes.facts
        products = np.empty((2, len(lists)), np.float32)
        if isinstance(at, list):
            end = 0
            for part in at:
                begin, end = end, end + part.stop - part.start
                if end > begin:
                    _products(query.head, heads[part], products[:, begin:end])
            step, square, lacking, own = np.concatenate([facts[:, part] for part in at], axis=1)
        else:
            _products(query.head, heads.take(at, axis=0), products)
            step, square, lacking, own = facts.take(at, axis=1)
        middle = _distance(query.distances[lists], square, step, query.head_steps @ products, own)
        lacking *= 2 * query.lacking[lists]
        lacking += ROUNDING
        return middle, lacking

    def _places(self) -> Int64s:
        """int64[points]: where in the file each point's code is."""
        if self._place is None:
            place = np.empty(len(self.codes.slots), np.int64)
            place[self.codes.slots] = np.arange(len(place))
            self._place = place
        return self._place

    def _by_code(self, query: _Query, where: Int64s, away: Float32s) -> tuple[Float32s, Float32s]:
        """The least and the largest squared distance, by all dimensions, of the codes at ``where``, whose centre is
        ``away``."""
        c = self.codes
        products = np.empty((2, len(where)), np.float32)
        _products(query.codes, c.codes.take(where, axis=0), products)
        square = c.facts[1].take(where)
        step, error, own = c.fine.take(where, axis=1)
        middle = _distance(away, square, step, query.steps @ products, own)
        slack = np.sqrt(np.maximum(away, 0)) * error + query.rest * np.sqrt(square)
        slack = np.float32(2 if self._wide else 2 * TRUST) * slack + ROUNDING
        return middle - slack, middle + slack


@dataclass(frozen=True)
class _Query:
    """A unit vector's squared ``distances`` to all centres; as ``codes`` int8[2, dim] of ``steps`` float32[2], the second of
    what the first lacks, and the length of the ``rest``; likewise its ``head``, which ``lacking`` tells how wrong it may be
    with each list's codes."""

    distances: Float32s
    codes: Int8s
    steps: Float32s
    rest: np.float32
    head: Int8s
    head_steps: Float32s
    lacking: Float32s

    @classmethod
    def of(cls, vector: Float32s, partition: Partition) -> _Query:
        distances, head = partition.distances(vector), partition.head @ vector
        codes, steps, rest = _twice_rounded(vector)
        heads, head_steps, lost = _twice_rounded(head)
        lacking = _lacking(distances, partition.head_distances(head), lost**2)
        return cls(distances, codes, steps, rest, heads, head_steps, lacking)


class ScanEngine:
    """See base.Engine."""

    name, suffix, mapped, part = "scan", ".scan", True, 0
    parameters: Mapping[str, int] = {"grown": GROWN, "form": FORM}

    def installed(self) -> bool:
        try:
            import numkong  # noqa: F401
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
    ) -> ScanIndex | None:
        if not self.installed():
            raise MissingExtra("numkong", "scan")
        old = cast("ScanIndex", start).codes if start else None
        if old is None or len(points) > GROWN * int(old.trained[0]):
            partition, trained, old = train(vectors, points, stop), len(points), None
        else:
            partition, trained = Partition(np.array(old.centres), np.array(old.head)), int(old.trained[0])
        if partition is None:
            return None
        known = len(old.slots) if old else 0
        new = np.arange(known, len(points))
        labels = np.empty(len(points), np.int32)
        if old:
            labels[:known] = np.repeat(np.arange(len(old.starts) - 1), np.diff(old.starts))
        for at, block in points.units(vectors, new):
            labels[known + at : known + at + len(block)] = labels_of(block, partition.centres)
            if stop():
                return None
        order = np.argsort(labels, kind="stable")
        place = np.empty(len(points), np.int64)  # in the file, of each code as it was and then of each new one
        place[order] = np.arange(len(points))
        slots = np.concatenate([old.slots, new.astype(np.int32)]) if old else new.astype(np.int32)
        made = Codes(
            slots[order], np.searchsorted(labels[order], np.arange(len(partition.centres) + 1)),
            np.empty((4, len(points)), np.float32), np.empty((3, len(points)), np.float32),
            partition.centres, partition.head, np.array([trained]),
            np.empty((len(points), len(partition.head)), np.int8), np.empty((len(points), vectors.shape[1]), np.int8),
        )  # fmt: skip
        if old:
            made.facts[:, place[:known]], made.fine[:, place[:known]] = old.facts, old.fine
            made.heads[place[:known]], made.codes[place[:known]] = old.heads, old.codes
        for at, block in points.units(vectors, new):
            if stop():
                return None
            to = place[known + at : known + at + len(block)]
            _encode(block, labels[known + at : known + at + len(block)], partition, made, to)
            progress(known + at + len(block))
        return ScanIndex(made, vectors, points)

    def write(self, index: Index, file: Path) -> int:
        codes = cast("ScanIndex", index).codes
        with file.open("wb") as out:
            for field in fields(codes):
                np.lib.format.write_array(out, getattr(codes, field.name), version=(1, 0), allow_pickle=False)
            return out.tell()

    def read(self, file: Path, vectors: Float32s, points: Points) -> ScanIndex:
        if not self.installed():
            raise MissingExtra("numkong", "scan")
        arrays: list[Any] = []
        try:
            with file.open("rb") as data:
                for _ in fields(Codes):
                    np.lib.format.read_magic(data)
                    shape, _, dtype = np.lib.format.read_array_header_1_0(data)
                    array = np.memmap(file, dtype, "r", data.tell(), shape)
                    data.seek(array.nbytes, 1)
                    arrays.append(np.asarray(array))
        except (OSError, ValueError, EOFError) as error:
            raise IndexDamaged(f"{file} cannot be read: {error}") from error
        codes = Codes(*arrays)
        if len(codes.slots) != len(points) or codes.codes.shape != (len(points), vectors.shape[1]):
            raise IndexDamaged(f"{file} holds {len(codes.slots)} points instead of {len(points)}")
        return ScanIndex(codes, vectors, points)


def _encode(block: Float32s, labels: Int32s, partition: Partition, made: Codes, to: Int64s) -> None:
    """Writes the codes of unit vectors, in those lists, to those places."""
    centres = partition.centres[labels]
    left = block - centres
    codes, step = rounded(left)
    error = np.linalg.norm(left - codes * step[:, None], axis=1)
    square = (left**2).sum(axis=1)
    head = np.asarray(left @ partition.head.T, np.float32)
    heads, head_step = rounded(head)
    lost = ((head - heads * head_step[:, None]) ** 2).sum(axis=1)
    lacking = _lacking(square, (head**2).sum(axis=1), lost)
    made.codes[to], made.heads[to] = codes, heads
    made.facts[:, to] = head_step, square, lacking, np.einsum("ij,ij->i", heads, partition.head_centres[labels])
    made.fine[:, to] = step, error, np.einsum("ij,ij->i", codes, centres)


def rounded(rows: Float32s) -> tuple[Int8s, Float32s]:
    """int8 codes, and for each row what one step is."""
    step = np.maximum(np.maximum(rows.max(axis=1), -rows.min(axis=1)), np.float32(1e-12)) / np.float32(127)
    return np.rint(rows / step[:, None]).astype(np.int8), step


def _twice_rounded(vector: Float32s) -> tuple[Int8s, Float32s, np.float32]:
    """Two int8 codes of a vector, the second of what the first lacks, what one step of each is, and the length of the rest."""
    rough, step = rounded(vector[None])
    left = vector - step * rough[0]
    fine, small = rounded(left[None])
    return np.concatenate([rough, fine]), np.concatenate([step, small]), np.linalg.norm(left - small * fine[0])


def _distance(away: Float32s, square: Float32s, step: Float32s, product: Float32s, own: Float32s) -> Float32s:
    """The squared distance of a query that is ``away`` from a centre to codes of that ``square``, by its ``product`` with them;
    their ``own`` is that of the centre."""
    distance: Float32s = away + square - 2 * step * (product - own)
    return distance


def _lacking(whole: Float32s, head: Float32s, lost: Float32s | np.float32) -> Float32s:
    """From squared lengths: a length whose product with another code's bounds how wrong the product of both heads is.

    What is wrong is beyond times beyond, plus lost times lost, plus lost times head both ways, at most: four products, so
    by Cauchy-Schwarz at most the length of (beyond, lost, EVEN head, lost / EVEN) times that of the other's
    (beyond, lost, lost / EVEN, EVEN head).
    """
    beyond = np.maximum(whole - head, 0) + ROUNDING
    lacking: Float32s = np.sqrt(beyond + lost + EVEN**2 * head + lost / EVEN**2)
    return lacking


def _products(one: Int8s, rows: Int8s, out: Float32s) -> None:
    import numkong

    numkong.cdist(one, rows, metric="dot", out=out, out_dtype="float32")


def _placed(parts: list[slice], which: Int64s, chosen: Int64s) -> tuple[Int64s, Int64s]:
    """Of all places in ``parts`` of the file, one after another, those ``chosen``, and the part of each."""
    sizes = np.array([part.stop - part.start for part in parts])
    begins = np.array([part.start for part in parts])
    which = which[chosen]
    return chosen + (begins - np.cumsum(sizes) + sizes)[which], which


def _kth(values: Float32s, k: int) -> np.float32:
    """The k-th smallest, infinite if there are fewer."""
    return np.float32(np.inf) if len(values) < k else max(np.partition(values, k - 1)[k - 1], np.float32(1e-9))
