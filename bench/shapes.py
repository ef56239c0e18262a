"""Vector libraries of the shapes that real ones have, queries for them, and the truth to compare with.

``distinct``; ``groups-<cosine>``: groups of that cosine inside, their sizes by Zipf, the largest 4 % of the rows;
``half-<cosine>``: one group is half of all rows, the rest as before; ``mixed``: all of these in one library.  Cosine 1
means equal vectors; ``means``: distinct, and each query the mean of three rows, as who gives several pictures asks.
All is drawn from one seed, in blocks, in random order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from luna_dt.records import Float32s, Int64s

Float64s = npt.NDArray[np.float64]

COSINES = (1.0, 0.9998, 0.997, 0.988, 0.964, 0.90)
SHAPES = ("distinct", *(f"groups-{c:g}" for c in COSINES), *(f"half-{c:g}" for c in COSINES), "mixed", "means")
BLOCK = 8192  # rows drawn, or compared, at a time
CLUSTERS, LOCAL, SHARED = 2000, 16, 256  # clusters; dimensions inside one; dimensions that all share
BASE, CLUSTER, INSIDE, NOISE = 0.37, 0.36, 0.25, 0.02  # shares of a vector's squared length
ZIPF, LARGEST = 0.75, 0.04  # a group's size falls with its rank to this power, from this share of the rows
TIE = 5e-7  # of cosine: nearer than float32 can tell


@dataclass(frozen=True)
class Shape:
    """``vectors`` float32[rows, dim] and ``queries`` float32[n, dim], of length 1."""

    vectors: Float32s
    queries: Float32s


class Pictures:
    """A source of vectors as CLIP gives them: random pairs at cosine .37, nearest neighbours at .89 among 300,000."""

    def __init__(self, dim: int, rng: np.random.Generator) -> None:
        shared = min(SHARED, dim)
        spectrum = (1 + np.arange(shared)) ** -0.35
        basis = np.linalg.qr(rng.normal(size=(dim, shared)))[0].T * spectrum[:, None]
        self._base = unit(rng.normal(size=(1, dim)).astype(np.float32))
        self._centres = unit((rng.normal(size=(CLUSTERS, shared)) @ basis).astype(np.float32))
        self._basis = (basis / np.linalg.norm(spectrum)).astype(np.float32)
        self._mixes = rng.normal(size=(CLUSTERS, LOCAL, shared)).astype(np.float32) / np.float32(np.sqrt(LOCAL))
        self._popular = rng.dirichlet(np.full(CLUSTERS, 2.0))

    def draw(self, count: int, rng: np.random.Generator) -> Float32s:
        """float32[count, dim]"""
        dim = self._base.shape[1]
        of = rng.choice(CLUSTERS, count, p=self._popular)
        order = np.argsort(of, kind="stable")
        starts = np.searchsorted(of[order], np.arange(CLUSTERS + 1))
        inside = np.empty((count, len(self._basis)), np.float32)
        for cluster in np.unique(of):
            rows = order[starts[cluster] : starts[cluster + 1]]
            inside[rows] = rng.standard_normal((len(rows), LOCAL), np.float32) @ self._mixes[cluster]
        noise = rng.standard_normal((count, dim), np.float32) / np.float32(np.sqrt(dim))
        return unit(
            np.float32(BASE**0.5) * self._base
            + np.float32(CLUSTER**0.5) * self._centres[of]
            + np.float32(INSIDE**0.5) * (inside @ self._basis)
            + np.float32(NOISE**0.5) * noise
        )


def make(shape: str, queries: int, out: Float32s, seed: int = 0) -> Shape:
    """One library, written to ``out`` (float32[rows, dim], a memory map if it is large), and queries for it.

    A quarter of the queries are rows, a quarter lie near rows at any distance; the others are new members of groups
    (half of any group, half by size), or new pictures where there are no groups.
    """
    rows, dim = out.shape
    rng = np.random.default_rng([seed, SHAPES.index(shape)])
    pictures = Pictures(dim, rng)
    parts = _parts(shape, rows)
    # every row is a group's centre moved a little: who belongs to which group, in random order
    sizes = np.concatenate([sizes for sizes, _ in parts])
    cosines = np.concatenate([np.full(len(sizes), cosine) for sizes, cosine in parts])
    group = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    several = np.flatnonzero(sizes > 1)
    centres = np.zeros((len(several), dim), np.float32)
    for at in range(0, len(several), BLOCK):
        centres[at : at + BLOCK] = pictures.draw(len(several[at : at + BLOCK]), rng)
    place = np.full(len(sizes), -1)
    place[several] = np.arange(len(several))
    for at in range(0, rows, BLOCK):
        of = group[at : at + BLOCK]
        block, alone = out[at : at + BLOCK], place[of] < 0
        block[alone] = pictures.draw(int(alone.sum()), rng)
        block[~alone] = near(centres[place[of[~alone]]], cosines[of[~alone]], rng)
    if shape == "means":
        return Shape(out, unit(out[rng.integers(0, rows, (queries, 3))].sum(axis=1)))
    asked = [known(out, queries // 2, rng)]
    left = queries - len(asked[0])
    if len(several):
        large = rng.choice(several, left - left // 2, p=sizes[several] / sizes[several].sum())
        chosen = np.concatenate([rng.choice(several, left // 2), large])
        spread = np.where(cosines[chosen] == 1, 0.998, cosines[chosen])
        asked.append(near(centres[place[chosen]], spread, rng))
    else:
        asked.append(pictures.draw(left, rng))
    return Shape(out, np.concatenate(asked)[rng.permutation(queries)])


def known(vectors: Float32s, count: int, rng: np.random.Generator) -> Float32s:
    """Queries from a library itself: half of them rows, half near rows at any distance."""
    rows = vectors[rng.integers(0, len(vectors), count)]
    half = count // 2
    return np.concatenate([rows[:half], near(rows[half:], rng.uniform(0.9, 0.9999, count - half), rng)])


def near(centres: Float32s, cosines: Float64s, rng: np.random.Generator) -> Float32s:
    """Two draws around one centre have about that cosine between them; at 1 they are the centre."""
    noise = rng.standard_normal(centres.shape, np.float32) / np.float32(np.sqrt(centres.shape[1]))
    inside = cosines.astype(np.float32)[:, None]
    return np.where(inside == 1, centres, unit(np.sqrt(inside) * centres + np.sqrt(1 - inside) * noise))


def unit(vectors: Float32s) -> Float32s:
    found: Float32s = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def zipf(rows: int) -> Int64s:
    """Group sizes, the largest ``LARGEST`` of the rows, that add up to ``rows``."""
    sizes: Int64s = np.maximum(rows * LARGEST * (1.0 + np.arange(rows)) ** -ZIPF, 1).astype(np.int64)
    sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), rows)) + 1]
    sizes[-1] -= sizes.sum() - rows
    return sizes


def _parts(shape: str, rows: int) -> list[tuple[Int64s, float]]:
    """(group sizes, cosine inside) of the parts of a library"""
    if shape in ("distinct", "means"):
        return [(np.ones(rows, np.int64), 1.0)]
    if shape == "mixed":  # a quarter distinct, an eighth of every kind of groups
        share = rows // 8
        return [(np.ones(rows - 6 * share, np.int64), 1.0), *((zipf(share), cosine) for cosine in COSINES)]
    kind, cosine = shape.split("-")
    if kind == "half":
        return [(np.concatenate([[rows // 2], zipf(rows - rows // 2)]), float(cosine))]
    return [(zipf(rows), float(cosine))]


def truth(vectors: Float32s, queries: Float32s, k: int, among: Int64s | None = None) -> Float64s:
    """float64[queries, n]: the cosines of the ``k`` nearest rows ``among`` those (all), best first, n being ``k`` or as
    many as there are.  Twice as many are taken by float32 and told apart by float64."""
    rows = np.arange(len(vectors)) if among is None else among
    keep = min(2 * k, len(rows))
    best = np.empty((len(queries), 0), np.float32)
    where = np.empty((len(queries), 0), np.int64)
    for at, block in _blocks(vectors, rows):
        best = np.concatenate([best, queries @ block.T], axis=1)
        these = np.broadcast_to(rows[at : at + len(block)], (len(queries), len(block)))
        where = np.concatenate([where, these], axis=1)
        if best.shape[1] > keep:
            chosen = np.argpartition(-best, keep - 1, axis=1)[:, :keep]
            best, where = np.take_along_axis(best, chosen, axis=1), np.take_along_axis(where, chosen, axis=1)
    return -np.sort(-cosines(vectors, queries, list(where), keep), axis=1)[:, : min(k, len(rows))]


def _blocks(vectors: Float32s, rows: Int64s) -> Iterator[tuple[int, Float32s]]:
    whole = len(rows) == len(vectors)
    for at in range(0, len(rows), BLOCK):
        yield at, vectors[at : at + BLOCK] if whole else vectors[rows[at : at + BLOCK]]


def cosines(vectors: Float32s, queries: Float32s, found: list[Int64s], k: int) -> Float64s:
    """float64[queries, k]: of the rows that were ``found`` for each query, in that order; -inf where there are fewer."""
    exact = np.full((len(queries), k), -np.inf)
    for i, (query, rows) in enumerate(zip(queries.astype(np.float64), found, strict=True)):
        some = vectors[rows[:k]].astype(np.float64)
        exact[i, : len(some)] = some @ query / np.linalg.norm(some, axis=1) / np.linalg.norm(query)
    return exact


def recall(found: Float64s, true: Float64s, k: int) -> float:
    """The share of the first ``k`` found that are as near as the true k-th is; both best first, as ``truth`` gives."""
    k = min(k, true.shape[1])
    return float(np.mean(found[:, :k] >= true[:, k - 1 : k] - TIE))
