"""Which of the images that are similar are given: in what order, which page, without near copies, or differing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, SupportsFloat, get_args

import numpy as np

from ..errors import BadInput
from ..records import Alike, Float32s, Int64s
from ..store import Layer, Store
from .sampling import by_marginal_relevance

Order = Literal["similarity", "date", "rating"]
Collapse = float | Alike

FIRST_LOOK, WIDER = 200, 8  # candidates looked at first where it is not known how many are needed; then times so many
POOL, POOL_SHARE, MOST_DIVERSE = 50, 5, 1000  # candidates of diverse results: at least, and for each wanted one
ROUNDING = 1e-6  # by which cosines of equal vectors may be less than 1
BLOCK = 1024  # vectors compared at a time


@dataclass(frozen=True)
class Wanted:
    """What is wanted of the images that are similar; see Library.search.  Raises BadInput."""

    top_k: int = 10
    min_similarity: float = -1.0
    where: str = ""
    order: Order = "similarity"
    offset: int = 0
    collapse: Collapse = 0.0
    diverse: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("top_k", 1), ("offset", 0)):
            value = getattr(self, name)
            if not hasattr(value, "__index__") or value < least:
                raise BadInput(f"{name} must be a whole number of at least {least}, not {value!r}")
        if not isinstance(self.min_similarity, SupportsFloat) or math.isnan(self.min_similarity):
            raise BadInput(f"min_similarity is a cosine, -1 to 1, not {self.min_similarity!r}")
        if self.order not in ("similarity", "date", "rating"):
            raise BadInput(f"'{self.order}' is no order of hits; there is: similarity, date, rating")
        if self.order != "similarity" and not self.min_similarity > -1:
            raise BadInput(f"order '{self.order}' sorts what is similar enough: say with min_similarity how similar")
        is_cosine = isinstance(self.collapse, (int, float)) and 0 <= self.collapse <= 1
        if not is_cosine and self.collapse not in get_args(Alike):
            raise BadInput(
                f"collapse is a cosine, 0 (nothing is collapsed) to 1, or 'seed' or 'file', not {self.collapse!r}"
            )
        if not (math.isfinite(self.diverse) and 0 <= self.diverse <= 1):
            raise BadInput(f"diverse must be 0 to 1, not {self.diverse}")
        if self.diverse and (self.offset or self.order != "similarity"):
            raise BadInput("diverse results have an order of their own, and no further pages: raise top_k instead")
        if self.diverse and self.top_k > MOST_DIVERSE:
            raise BadInput(f"of diverse results there are at most {MOST_DIVERSE:,}")

    @property
    def of_records(self) -> bool:
        """Whether it takes the images' records, and not only vectors, to answer."""
        return bool(self.where.strip()) or self.order != "similarity" or isinstance(self.collapse, str)

    @property
    def only_here(self) -> bool:
        """Whether DT cannot answer it."""
        return self.of_records or bool(self.collapse) or bool(self.diverse)

    @property
    def needed(self) -> int:
        """How many must be found, near copies counted once, before any is given."""
        if self.diverse:
            return max(POOL, POOL_SHARE * self.top_k)
        return self.offset + self.top_k


class Candidates(Protocol):
    """What is known of images that are candidates: ids, int64[n]."""

    def in_order(self, ids: Int64s, order: Literal["date", "rating"]) -> Int64s:
        """The places of the ids, the newest or the best rated first; equal ones stay as they were."""
        ...

    def made_alike(self, ids: Int64s, by: Alike) -> tuple[Int64s, Int64s]:
        """The places of the first of each that have prompt and seed, or the file, in common, in order, and how many each
        stands for; one of which that is not known is like no other."""
        ...

    def units(self, ids: Int64s) -> Callable[[slice], Float32s]:
        """Gives for a part of the ids their vectors, of length 1, in the layer by which near copies are told; zeros for one
        that has none."""
        ...


@dataclass(frozen=True)
class Mirrored:
    """Candidates of a mirror."""

    store: Store
    layer: Callable[[], Layer]

    def in_order(self, ids: Int64s, order: Literal["date", "rating"]) -> Int64s:
        return self.store.in_order(ids, order)

    def made_alike(self, ids: Int64s, by: Alike) -> tuple[Int64s, Int64s]:
        return self.store.made_alike(ids, by)

    def units(self, ids: Int64s) -> Callable[[slice], Float32s]:
        layer = self.layer()
        rows = rows_of(layer, ids)
        return lambda part: units_of(layer, rows[part])


def chosen(
    wanted: Wanted, find: Callable[[int], tuple[Int64s, Float32s]], candidates: Candidates
) -> tuple[Int64s, Float32s, Int64s]:
    """The ids that are given, their similarities, and for how many each stands.

    ``find`` gives the ids and similarities of so many nearest images, best first, and of fewer the beginning of
    the same.  More are looked at until enough are found.
    """
    k = wanted.needed
    if wanted.collapse or wanted.order != "similarity":
        k = max(FIRST_LOOK, 2 * k)
    while True:
        ids, similarities = find(k)
        enough = similarities >= wanted.min_similarity
        is_all = len(ids) < k or not enough.all()
        ids, similarities = ids[enough], similarities[enough]
        if is_all or wanted.order == "similarity":
            if wanted.order != "similarity":
                places = candidates.in_order(ids, wanted.order)
                ids, similarities = ids[places], similarities[places]
            places, stands_for = np.arange(len(ids)), np.ones(len(ids), np.int64)
            if isinstance(wanted.collapse, str):
                places, stands_for = candidates.made_alike(ids, wanted.collapse)
            elif wanted.collapse:
                places, stands_for = alike(candidates.units(ids), len(ids), wanted.collapse, wanted.needed)
            if is_all or len(places) >= wanted.needed:
                break
        k *= WIDER
    ids, similarities = ids[places], similarities[places]
    page = np.arange(wanted.offset, min(wanted.offset + wanted.top_k, len(ids)))
    if wanted.diverse:
        pool = slice(wanted.needed)
        units = candidates.units(ids[pool])(slice(None))
        page = by_marginal_relevance(similarities[pool], units, wanted.diverse, wanted.top_k)
    return ids[page], similarities[page], stands_for[page]


def alike(units_of_part: Callable[[slice], Float32s], count: int, least: float, most: int) -> tuple[Int64s, Int64s]:
    """The places of the first ``most`` of ``count`` images that are no near copies of one before them, and for how many
    each stands, itself among them; a near copy's cosine is at least ``least``, and it counts for the first such."""
    leaders = np.empty((0, 0), np.float32)
    places: list[int] = []
    counts = np.zeros(min(most, count), np.int64)
    for start in range(0, count, BLOCK):
        units = units_of_part(slice(start, start + BLOCK))
        if not places:
            leaders = np.empty((len(counts), units.shape[1]), np.float32)
        near = units @ leaders[: len(places)].T >= least - ROUNDING
        belongs = np.where(near.any(axis=1), near.argmax(axis=1), -1) if places else np.full(len(units), -1)
        while len(places) < len(leaders) and (belongs < 0).any():
            free = np.flatnonzero(belongs < 0)
            leaders[len(places)] = leader = units[free[0]]
            belongs[free[units[free] @ leader >= least - ROUNDING]] = len(places)
            belongs[free[0]] = len(places)  # also one that has no vector, and is like nothing
            places.append(start + int(free[0]))
        counts += np.bincount(belongs[belongs >= 0], minlength=len(counts))
    return np.array(places, np.int64), counts[: len(places)]


def rows_of(layer: Layer, ids: Int64s) -> Int64s:
    """The images' rows in a layer, -1 where one has none."""
    at = np.flatnonzero(np.isin(layer.ids, ids) & (layer.ids >= 0))
    if not len(at):
        return np.full(len(ids), -1, np.int64)
    at = at[np.argsort(layer.ids[at])]
    places = np.minimum(np.searchsorted(layer.ids[at], ids), len(at) - 1)
    return np.where(layer.ids[at[places]] == ids, at[places], -1)


def units_of(layer: Layer, rows: Int64s) -> Float32s:
    """float32[n, dim]: the vectors of a layer's rows, of length 1; zeros for a row of -1."""
    units = np.zeros((len(rows), layer.vectors.shape[1]), np.float32)
    having = rows >= 0
    units[having] = layer.vectors[rows[having]] / layer.norms[rows[having], None]
    return units
