"""Searching a library on a Milvus server: as a mirror is searched, but that the server finds the nearest and has the records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from ..dt.catalog import Catalog
from ..errors import BadInput, NoVector
from ..records import Alike, Float32s, Hit, ImageRecord, Int64s, Term, checked_vectors
from .reference import References
from .results import WIDER, Wanted, chosen

NEAREST = 1024  # of each layer, that are looked at first where there are several
SUMS_WITHIN = 1e-5  # by which sums of cosines that a server tells may be wrong


def hits_there(
    catalog: Catalog, references: References, terms: Sequence[Term], wanted: Wanted, left_out: set[int]
) -> list[Hit]:
    """The answer to a query; see Library.search."""
    found = _Found(catalog.fitting(wanted.where) if wanted.where.strip() else catalog, terms[0].layer, left_out)
    directions = found.directions(terms, references)
    for layer, direction in directions.items():
        if np.linalg.norm(direction) < 1e-6:
            raise BadInput(f"the terms in layer '{layer}' cancel each other: nothing is left to search for")
    nearest = found.nearest if len(directions) == 1 else found.nearest_by_all
    ids, similarities, stands_for = (
        array.tolist() for array in chosen(wanted, lambda k: nearest(directions, k, wanted.min_similarity), found)
    )
    records = found.records(ids)
    every = zip(ids, similarities, stands_for, strict=True)
    return [
        Hit(image_id, similarity, records[image_id], count)
        for image_id, similarity, count in every
        if image_id in records
    ]


class _Found:
    """What a server found so far; candidates, as results.py has them."""

    def __init__(self, catalog: Catalog, layer: str, left_out: set[int]) -> None:
        self._catalog, self._layer, self._left_out = catalog, layer, left_out
        self._records: dict[int, ImageRecord] = {}

    def directions(self, terms: Sequence[Term], references: References) -> dict[str, Float32s]:
        """For each layer float32[dim]: the sum of its terms' vectors, of length 1 each, by their weights, whose sizes add up
        to 1 over all."""
        total = sum(abs(term.weight) for term in terms)
        directions: dict[str, Float32s] = {}
        for term in terms:
            made_by = references.made_by_in_dt(term.layer)
            if term.image_id is None:
                vector = references.encoded(term, made_by)
            else:
                vector = self._own(term.layer, int(term.image_id))
            vector = checked_vectors(vector, made_by.dim)
            weighted = vector * np.float32(term.weight / total / np.linalg.norm(vector))
            directions[term.layer] = directions.get(term.layer, 0) + weighted
        return directions

    def _own(self, layer: str, image_id: int) -> Float32s:
        (vector,) = self._catalog.vectors_of(layer, [image_id])
        if vector is None:
            self._catalog.image(image_id)
            raise NoVector(f"image {image_id} has no vector in layer '{layer}'; search by its picture instead")
        return vector

    def nearest(self, directions: Mapping[str, Float32s], k: int, least: float) -> tuple[Int64s, Float32s]:
        """The ``k`` nearest images by the one layer, and their similarities; raises BadInput where there are more, at least so
        similar, than a server gives."""
        ((layer, direction),) = directions.items()
        size = np.float32(np.linalg.norm(direction))
        hits = self._catalog.similar(layer, direction, None, k + len(self._left_out), -1.0)
        kept = [hit for hit in hits if hit.id not in self._left_out][:k]
        if len(kept) < k and len(hits) == self._catalog.most_similar and hits[-1].similarity >= least / size:
            raise BadInput(
                f"more than the {len(hits):,} images that {self._catalog.address} gives at once would have to be looked at; "
                "narrow it down with where, or ask for more similar ones"
            )
        self._records |= {hit.id: hit.image for hit in kept}
        similarities = np.array([hit.similarity for hit in kept], np.float32) * size
        return np.array([hit.id for hit in kept], np.int64), similarities

    def nearest_by_all(self, directions: Mapping[str, Float32s], k: int, least: float) -> tuple[Int64s, Float32s]:
        """The ``k`` images of the largest sums over the layers, and the sums; of those below ``least`` some may lack.

        Of each layer the nearest are looked at, ever more until none of the others can come among the ``k`` (Fagin, Lotem
        and Naor's threshold algorithm, 2001): in no layer is one of them nearer than the last that was looked at.
        """
        sizes = {layer: np.float32(np.linalg.norm(direction)) for layer, direction in directions.items()}
        most: int | None = max(NEAREST, 2 * k)
        while True:
            if most is not None and most >= self._catalog.most_similar:
                most = None  # then all are compared
            found = {layer: self._catalog.cosines(layer, each, most) for layer, each in directions.items()}
            whole = {layer for layer, (ids, _) in found.items() if most is None or len(ids) < most}
            ids = np.unique(np.concatenate([ids for ids, _ in found.values()]))
            ids = ids[~np.isin(ids, np.fromiter(self._left_out, np.int64, len(self._left_out)))]
            sums, most_of_others = np.zeros(len(ids), np.float32), 0.0
            for layer, (near, cosines) in found.items():
                if layer not in whole:
                    most_of_others += max(0.0, float(cosines[-1] * sizes[layer]))
                    more = self._catalog.cosines(layer, directions[layer], among=np.setdiff1d(ids, near))
                    near, cosines = np.concatenate([near, more[0]]), np.concatenate([cosines, more[1]])
                order = np.argsort(near)
                near, cosines = near[order], cosines[order]
                if len(near):
                    at = np.minimum(np.searchsorted(near, ids), len(near) - 1)
                    sums += np.where(near[at] == ids, cosines[at] * sizes[layer], 0)
            best = np.lexsort((ids, -sums))[:k]
            last = float(sums[best[-1]]) if len(best) == k else -np.inf
            if len(whole) == len(found) or max(last, least) > most_of_others + SUMS_WITHIN:
                return ids[best], sums[best]
            most = WIDER * (most or 1)

    def records(self, image_ids: Sequence[int]) -> dict[int, ImageRecord]:
        """The records of those that are still there."""
        missing = [image_id for image_id in image_ids if image_id not in self._records]
        if missing:
            self._records |= self._catalog.images_of(missing)
        return self._records

    def in_order(self, ids: Int64s, order: Literal["date", "rating"]) -> Int64s:
        records = self.records(ids.tolist())
        places = [place for place, image_id in enumerate(ids.tolist()) if image_id in records]

        def key(place: int) -> tuple[bool, str | int]:
            record = records[int(ids[place])]
            if order == "date":
                return bool(record.created), record.created
            return record.rating is not None, record.rating or 0

        return np.array(sorted(places, key=key, reverse=True), np.int64)

    def made_alike(self, ids: Int64s, by: Alike) -> tuple[Int64s, Int64s]:
        records = self.records(ids.tolist())
        groups: dict[tuple[str | int, ...], list[int]] = {}
        for place, image_id in enumerate(ids.tolist()):
            if image_id in records:
                record = records[image_id]
                common = (record.prompt, record.seed) if by == "seed" else (record.hash,)
                groups.setdefault(common if all(common) else (image_id,), []).append(place)
        places = [group[0] for group in groups.values()]
        return np.array(places, np.int64), np.array([len(group) for group in groups.values()], np.int64)

    def units(self, ids: Int64s) -> Callable[[slice], Float32s]:
        dim = self._catalog.identity(self._layer).dim

        def of(part: slice) -> Float32s:
            vectors = self._catalog.vectors_of(self._layer, ids[part].tolist())
            units = np.zeros((len(vectors), dim), np.float32)
            for unit, vector in zip(units, vectors, strict=True):
                if vector is not None:
                    unit[:] = vector / np.linalg.norm(vector)
            return units

        return of
