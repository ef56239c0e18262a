"""Groups of images that are copies of each other, exact ones by their files, near ones by their vectors; nothing is deleted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..errors import BadInput
from ..progress import Progress
from ..records import Duplicates, Int64s, content_digest
from ..store import Layer, Store, no_vectors
from .results import BLOCK, ROUNDING, units_of
from .searcher import Searcher

NEIGHBOURS = 32  # other vectors that each one is compared with: its nearest


def duplicates(
    store: Store, searcher: Searcher | None, similarity: float, where: str, only: Int64s | None, progress: Progress
) -> list[Duplicates]:
    """Groups of exact copies among visible images that fit ``where`` and, with a searcher, of near ones among those of
    ``only``, the largest first; see Library.duplicates."""
    found = [Duplicates(ids, 1.0, exact=True) for ids in store.same_files(where)]
    if searcher is not None:
        files = {image_id: copies.ids[0] for copies in found for image_id in copies.ids}
        found += _near(searcher, similarity, only, progress, files)
    return sorted(found, key=lambda each: (-len(each.ids), each.ids))


def _near(
    searcher: Searcher, similarity: float, only: Int64s | None, progress: Progress, files: Mapping[int, int]
) -> Iterator[Duplicates]:
    """Groups of near copies; ``files`` gives for ids with exact copies what all of these share, and one of them counts.

    Equal vectors are one; each is joined with those of its nearest that are similar enough.  What is held are
    some numbers for each image, no vectors.
    """
    if not -1 < similarity <= 1:
        raise BadInput(f"similarity must be a cosine above -1 and at most 1, not {similarity}")
    searcher.wait()  # many questions repay waiting for the index
    layer = searcher.layer()
    if not layer.rows:
        raise no_vectors(layer.name)
    rows = np.flatnonzero(layer.visible if only is None else layer.visible & np.isin(layer.ids, only))
    rows = rows[np.argsort(layer.ids[rows])]
    ids = layer.ids[rows]
    first, same, counts = _distinct(layer, rows)
    joined = np.arange(len(first))
    for i, row in enumerate(first.tolist()):
        near, cosines = searcher.nearest(np.array(layer.vectors[row]), int(counts[i]) + NEIGHBOURS, (), only)
        near = near[cosines >= similarity - ROUNDING]
        places = np.minimum(np.searchsorted(ids, near), len(ids) - 1)
        places = places[ids[places] == near]  # what came meanwhile is left for the next time
        for other in np.unique(same[places]).tolist():
            joined[_root(joined, other)] = _root(joined, i)
        progress(f"duplicates.{layer.name}", i + 1, len(first))
    group = np.array([_root(joined, i) for i in range(len(first))], np.int64)[same]
    order = np.argsort(group, kind="stable")
    ends = np.flatnonzero(np.diff(group[order])) + 1
    file_of = np.array([files.get(image_id, image_id) for image_id in ids.tolist()], np.int64)
    for part in np.split(order, ends):
        if len(part) > 1:
            part = part[np.sort(np.unique(file_of[part], return_index=True)[1])]
        if len(part) > 1:
            yield Duplicates(tuple(ids[part].tolist()), _least_cosine(layer, rows[part]))


def _distinct(layer: Layer, rows: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """One row of each distinct vector, for each of ``rows`` which of these is its, and how many have it."""
    digests = np.fromiter((content_digest(layer.vectors[row].tobytes()) for row in rows.tolist()), np.int64, len(rows))
    _, first, same, counts = np.unique(digests, return_index=True, return_inverse=True, return_counts=True)
    return rows[first], same.ravel(), counts


def _root(joined: Int64s, i: int) -> int:
    while joined[i] != i:
        joined[i] = joined[joined[i]]
        i = int(joined[i])
    return i


def _least_cosine(layer: Layer, rows: Int64s) -> float:
    first, least = units_of(layer, rows[:1])[0], 1.0
    for start in range(0, len(rows), BLOCK):
        least = min(least, float((units_of(layer, rows[start : start + BLOCK]) @ first).min()))
    return least
