"""Every row compared, with NumPy, straight from the mapped file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..records import Float32s, Int64s, checked_vectors

COMPARED_AT_ONCE = 16_384  # rows; bounds what is touched at once, not what is found
GATHERED_AT_ONCE = 4096  # rows, where only some are compared
NOISE = 2e-6  # of a cosine: sums in another order differ by less


def nearest_of(vectors: Float32s, rows: npt.NDArray[np.integer], unit: Float32s, k: int) -> tuple[Int64s, Float32s]:
    """The places in ``rows`` of the ``k`` (fewer if there are fewer) nearest to a unit vector, and their cosine, best
    first, lower rows first among equals; from the vectors themselves.

    A product of matrices adds the rows at its edges up in another order, and equal rows would come in any; this is
    the same for equal rows wherever they lie.
    """
    cosines = np.empty(len(rows), np.float32)
    for at in range(0, len(rows), GATHERED_AT_ONCE):
        some = vectors[rows[at : at + GATHERED_AT_ONCE]]
        with np.errstate(all="ignore"):  # what was damaged may hold any number
            lengths = np.sqrt(np.einsum("ij,ij->i", some, some))
            cosines[at : at + len(some)] = np.einsum("ij,j->i", some, unit) / lengths
    cosines[np.isnan(cosines)] = -np.inf
    best = np.lexsort((rows, -cosines))[:k]
    return best, cosines[best]


class Exact:
    """Compares rows ``start`` and later; ``norms`` are the rows' lengths, ``live`` says which rows count."""

    def __init__(self, vectors: Float32s, norms: Float32s, live: npt.NDArray[np.bool_]) -> None:
        self._vectors, self._norms, self._live = vectors, norms, live
        self.rows = len(vectors)

    def cosines(self, vector: Float32s, start: int = 0) -> Float32s:
        """float32[rows - start]: of every row from ``start`` on, -inf where it does not count; raises BadVector."""
        vector = checked_vectors(vector, self._vectors.shape[1])
        scores = np.empty(self.rows - start, np.float32)
        for at in range(start, self.rows, COMPARED_AT_ONCE):
            block = self._vectors[at : at + COMPARED_AT_ONCE]
            with np.errstate(all="ignore"):
                np.matmul(block, vector, out=scores[at - start : at - start + len(block)])
        scores /= self._norms[start:] * np.linalg.norm(vector)
        scores[~self._live[start:] | np.isnan(scores)] = -np.inf  # what is no number is damage
        return scores

    def query(
        self, vector: Float32s, k: int, start: int = 0, allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Int64s, Float32s]:
        """The ``k`` nearest rows (fewer if there are fewer) from ``start`` on, of those ``allowed`` (bool[rows]), and
        their cosine, best first, lower rows first among equals."""
        scores = self.cosines(vector, start)
        if allowed is not None:
            scores[~allowed[start:]] = -np.inf
        k = min(k, int(np.count_nonzero(scores > -np.inf)))
        if k <= 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        near = np.flatnonzero(scores >= np.partition(scores, -k)[-k] - NOISE)
        unit = np.asarray(vector, np.float32) / np.linalg.norm(np.asarray(vector, np.float32))
        best, similarities = nearest_of(self._vectors, near + start, unit, k)
        return near[best] + start, similarities
