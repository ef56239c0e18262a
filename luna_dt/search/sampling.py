"""Sampling images: a cluster's best, surest, any, or such as differ; of hits such as are similar and yet differ."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

from ..errors import BadInput
from ..records import ClusterImage, Float32s, Int64s

SORTS = ("quality", "confidence", "random", "diverse")


def checked_sort(sort: str) -> str:
    """Raises BadInput for a name that is none of ``SORTS``."""
    if sort not in SORTS:
        raise BadInput(f"'{sort}' is no way to sort; there is: {', '.join(SORTS)}")
    return sort


def sampled(
    members: list[ClusterImage],
    sort: str,
    seed: int,
    limit: int,
    vectors_of: Callable[[Sequence[int]], Sequence[Float32s | None]],
) -> list[ClusterImage]:
    """At most ``limit`` of the members, which come best first; ``vectors_of`` gives the vectors of images' ids."""
    if sort == "confidence":
        members = sorted(members, key=lambda member: (-member.confidence, member.image.id))
    elif sort == "random":
        members = random.Random(seed).sample(members, len(members))
    elif sort == "diverse":
        places = farthest_first(vectors_of([member.image.id for member in members]), limit)
        members = [members[place] for place in places]
    return members[:limit]


def farthest_first(vectors: Sequence[Float32s | None], limit: int) -> list[int]:
    """The places of ``vectors`` in such an order that each is the farthest, by cosine, from those before it.

    It begins with the first that has a vector; at most ``limit`` are chosen, then come those without one.
    """
    having = [(place, vector) for place, vector in enumerate(vectors) if vector is not None]
    without = [place for place, vector in enumerate(vectors) if vector is None]
    if not having:
        return without
    units = np.stack([vector for _, vector in having])
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    chosen, nearest = [0], units @ units[0]
    while len(chosen) < min(limit, len(having)):
        nearest[chosen[-1]] = np.inf
        chosen.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, units @ units[chosen[-1]])
    return [having[i][0] for i in chosen] + without


def by_marginal_relevance(similarities: Float32s, units: Float32s, diverse: float, limit: int) -> Int64s:
    """The places of at most ``limit`` of some hits, each the one of the largest marginal relevance to those before it.

    That is (1 - diverse) times its similarity less diverse times its largest cosine to one that was chosen
    (Carbonell and Goldstein, 1998); ``units`` float32[n, dim] are the hits' vectors, zeros where one has none.
    """
    left = (1 - diverse) * similarities
    nearest = np.full(len(similarities), -np.inf, np.float32)
    chosen: list[int] = []
    while len(chosen) < min(limit, len(similarities)):
        chosen.append(int(np.argmax(left - diverse * nearest if chosen else similarities)))
        left[chosen[-1]] = -np.inf
        nearest = np.maximum(nearest, units @ units[chosen[-1]])
    return np.array(chosen, np.int64)
