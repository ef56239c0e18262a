"""Searching a library on a Milvus server: as a mirror is searched, but that the server finds the nearest and has the records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from ..dt.catalog import Catalog
from ..errors import BadInput
from ..records import Alike, Float32s, Hit, ImageRecord, Int64s, Term, checked_vectors
from .reference import References
from .results import Wanted, chosen


def hits_there(
    catalog: Catalog, references: References, terms: Sequence[Term], wanted: Wanted, left_out: set[int]
) -> list[Hit]:
    """The answer to a query; see Library.search."""
    layer = terms[0].layer
    if any(term.layer != layer for term in terms):
        raise BadInput(
            "a Milvus server searches one layer at a time; use a home that mirrors DT, or leave the others out"
        )
    found = _Found(catalog.fitting(wanted.where) if wanted.where.strip() else catalog, layer, left_out)
    direction = found.direction(terms, references)
    size = float(np.linalg.norm(direction))
    if size < 1e-6:
        raise BadInput(f"the terms in layer '{layer}' cancel each other: nothing is left to search for")

    def find(k: int) -> tuple[Int64s, Float32s]:
        ids, cosines = found.nearest(direction, k, wanted.min_similarity / size)
        return ids, cosines * np.float32(size)

    ids, similarities, stands_for = (array.tolist() for array in chosen(wanted, find, found))
    every = zip(ids, similarities, stands_for, strict=True)
    return [Hit(image_id, similarity, found.records[image_id], count) for image_id, similarity, count in every]


class _Found:
    """What a server found so far; candidates, as results.py has them."""

    def __init__(self, catalog: Catalog, layer: str, left_out: set[int]) -> None:
        self._catalog, self._layer, self._left_out = catalog, layer, left_out
        self.records: dict[int, ImageRecord] = {}

    def direction(self, terms: Sequence[Term], references: References) -> Float32s:
        """float32[dim]: the sum of the terms' vectors, of length 1 each, by their weights, whose sizes add up to 1."""
        made_by = references.made_by_in_dt(self._layer)
        total = sum(abs(term.weight) for term in terms)
        direction = np.zeros(made_by.dim, np.float32)
        for term in terms:
            if term.image_id is None:
                vector = references.encoded(term, made_by)
            else:
                vector = self._catalog.vectors_of(self._layer, [int(term.image_id)])[0]
            vector = checked_vectors(vector, made_by.dim)
            direction += vector * np.float32(term.weight / total / np.linalg.norm(vector))
        return direction

    def nearest(self, direction: Float32s, k: int, least: float) -> tuple[Int64s, Float32s]:
        """The ``k`` nearest images and their cosines; raises BadInput where there are more, at least so similar, than a
        server gives."""
        hits = self._catalog.similar(self._layer, direction, None, k + len(self._left_out), -1.0)
        kept = [hit for hit in hits if hit.id not in self._left_out][:k]
        if len(kept) < k and len(hits) == self._catalog.most_similar and hits[-1].similarity >= least:
            raise BadInput(
                f"more than the {len(hits):,} images that {self._catalog.address} gives at once would have to be looked at; "
                "narrow it down with where, or ask for more similar ones"
            )
        self.records = {hit.id: hit.image for hit in kept}
        return np.array([hit.id for hit in kept], np.int64), np.array([hit.similarity for hit in kept], np.float32)

    def in_order(self, ids: Int64s, order: Literal["date", "rating"]) -> Int64s:
        records = [self.records[image_id] for image_id in ids.tolist()]
        keys: list[tuple[bool, str | int]]
        if order == "date":
            keys = [(bool(record.created), record.created) for record in records]
        else:
            keys = [(record.rating is not None, record.rating or 0) for record in records]
        return np.array(sorted(range(len(keys)), key=keys.__getitem__, reverse=True), np.int64)

    def made_alike(self, ids: Int64s, by: Alike) -> tuple[Int64s, Int64s]:
        groups: dict[tuple[str | int, ...], list[int]] = {}
        for place, image_id in enumerate(ids.tolist()):
            record = self.records[image_id]
            common = (record.prompt, record.seed) if by == "seed" else (record.hash,)
            groups.setdefault(common if all(common) else (image_id,), []).append(place)
        places = [group[0] for group in groups.values()]
        return np.array(places, np.int64), np.array([len(group) for group in groups.values()], np.int64)

    def units(self, ids: Int64s) -> Callable[[slice], Float32s]:
        def of(part: slice) -> Float32s:
            vectors = self._catalog.vectors_of(self._layer, ids[part].tolist())
            units: Float32s = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            return units

        return of
