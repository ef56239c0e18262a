"""Finding the nearest images of one layer: an index where there is one, exact comparison for the rest.

An index covers the first rows of a layer's vectors; what was synced after it was made is compared
exactly and merged, and where none is loaded yet everything is.  So an answer never waits for an
index: it is loaded, caught up or rebuilt in a thread, and a search is at worst slower meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from .. import threads
from ..errors import BadInput, LunaError, StoreError
from ..index.base import Bools
from ..index.engines import Choice
from ..index.exact import Exact
from ..index.rows import RowIndex
from ..index.shelf import Shelf
from ..records import Float32s, Int64s
from ..store import Layer, Store, no_vectors

log = logging.getLogger(__name__)

TAIL = 2000  # rows past the index's end that are rather compared exactly than added
FAR = 0.1  # asking an index for more than this share of its rows costs more than comparing all


class Searcher:
    """One layer, ready to be searched from several threads; follows the store as it is synced.

    ``building`` is the share of rows that an index made in the background has, 0..1, None while none is made;
    ``trouble`` says why none could be made, if so.
    """

    def __init__(self, store: Store, shelf: Shelf, name: str, choice: Choice) -> None:
        self._store, self._shelf, self._name, self._choice = store, shelf, name, choice
        self._lock = threading.Lock()
        self._version: int | None = None
        self._layer: Layer | None = None
        self._exact: Exact | None = None
        self._index: RowIndex | None = None
        self._index_file = ""
        self._tried: tuple[str, int] | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self.building: float | None = None
        self.trouble = ""

    def layer(self) -> Layer:
        """The layer as it is now; raises NotSearchable, UnknownLayer."""
        return self._current()[0]

    def vector_of(self, image_id: int) -> Float32s | None:
        """An image's own vector; None if it has none."""
        return self.vectors_of([image_id])[0]

    def vectors_of(self, image_ids: Sequence[int]) -> list[Float32s | None]:
        """For each image its own vector, None if it has none."""
        layer = self._current()[0]
        rows = np.flatnonzero(np.isin(layer.ids, image_ids) & (layer.ids >= 0))
        if self._distrusts(layer, rows):
            return self.vectors_of(image_ids)
        found = {image_id: layer.vectors[row] for image_id, row in zip(layer.ids[rows].tolist(), rows, strict=True)}
        return [np.array(found[image_id]) if image_id in found else None for image_id in image_ids]

    def nearest(
        self, vector: Float32s, k: int, exclude: Collection[int] = (), only: Int64s | None = None
    ) -> tuple[Int64s, Float32s]:
        """The ids of the ``k`` nearest visible images but those to ``exclude``, and their cosine, best first.

        ``only``: int64[n], the ids that may be found; None for all.  Fewer when there are fewer.
        Raises BadVector; NotSearchable when the layer holds nothing.
        """
        layer, exact, index = self._current()
        if not layer.rows:
            raise no_vectors(self._name)
        allowed = layer.visible
        if len(exclude):
            allowed = allowed & ~np.isin(layer.ids, np.fromiter(exclude, np.int64, len(exclude)))
        if only is not None:
            allowed = allowed & np.isin(layer.ids, only)
        rows, similarities = _merged(exact, index, vector, k, None if allowed.all() else allowed)
        if self._distrusts(layer, rows):
            return self.nearest(vector, k, exclude, only)
        return layer.ids[rows], similarities

    def products(self, direction: Float32s, only: Int64s | None = None) -> tuple[Int64s, Float32s]:
        """Every visible image (of ``only``), ids ascending, with the product of ``direction`` and its unit vector."""
        layer, exact, _ = self._current()
        rows = np.flatnonzero(layer.visible if only is None else layer.visible & np.isin(layer.ids, only))
        rows = rows[np.argsort(layer.ids[rows])]
        return layer.ids[rows], exact.cosines(direction)[rows] * np.linalg.norm(direction)

    def has_damaged(self, ids: Int64s) -> bool:
        """Whether vectors of those images were damaged on disk; they are left out from now on."""
        layer = self._current()[0]
        return self._distrusts(layer, np.flatnonzero(np.isin(layer.ids, ids) & (layer.ids >= 0)))

    def _distrusts(self, layer: Layer, rows: Int64s) -> bool:
        """Whether some of ``rows`` are not what was stored; where one is, every row of the layer is looked at, and those
        that are damaged are of no image any more."""
        if not len(layer.damaged(rows)):
            return False
        bad = layer.damaged(np.flatnonzero(layer.ids >= 0))
        ids = layer.ids[bad]
        layer.visible[bad], layer.ids[bad] = False, -1
        with contextlib.suppress(StoreError):  # a home that can only be read is searched without them all the same
            self._store.distrust(self._name, ids)
        return True

    def wait(self) -> None:
        """Returns when no index work is going on in the background."""
        while True:
            with contextlib.suppress(LunaError):  # the layer may be gone meanwhile
                self._current()
            if not self._thread or not self._thread.is_alive():
                return
            self._thread.join()  # and look again: the layer may have grown under it

    @property
    def engine(self) -> str:
        """What answers now: an engine's name, or ``exact``."""
        with self._lock:
            return self._index.engine if self._index else "exact"

    def way(self, fitting: int) -> str:
        """How a search among so many images is answered, in words."""
        with self._lock:
            asked = self._index if self._index and not self._index.compares(fitting) else None
        return f"by the engine {asked.engine}" if asked else "and are compared exactly"

    def close(self) -> None:
        """Stops what goes on in the background and waits for it."""
        self._closing.set()
        if self._thread:
            self._thread.join()

    def _current(self) -> tuple[Layer, Exact, RowIndex | None]:
        with self._lock:
            version = self._store.data_version()
            layer, exact = self._layer, self._exact
            if layer is None or exact is None or version != self._version:
                if layer is None or exact is None or layer.generation != self._store.layer_generation(self._name):
                    self._layer = None  # if reading it fails, it is not there any more
                    layer = self._layer = self._store.layer(self._name)
                    exact = self._exact = Exact(layer.vectors, layer.norms, layer.ids >= 0)
                    shrunk = self._index is not None and self._index.rows > layer.rows  # an older copy was put back
                    if shrunk or self._index_file != layer.file.name:
                        self._index, self._index_file = None, layer.file.name
                self._version = version
                layer.check_length()
                self._prepare_if_needed(layer)
            else:
                layer.check_length()
            return layer, exact, self._index

    def _prepare_if_needed(self, layer: Layer) -> None:
        covered = self._index.rows if self._index else 0
        behind = layer.rows - covered
        now = (layer.file.name, layer.rows)
        if not self._choice.engines or behind <= (TAIL if covered else 0) or self._tried == now:
            return
        if self._thread and self._thread.is_alive():
            self._version = None  # look again with the next search
            return
        self._tried = now
        self._thread = threads.start(
            f"index of {layer.name}", lambda: self._prepare(layer), self._closing.set, background=True
        )

    def _prepare(self, layer: Layer) -> None:
        def tell(rows: int) -> None:
            self.building = rows / layer.rows

        def stop() -> bool:
            return self._closing.is_set() or layer.is_cut()

        try:
            with self._shelf.lock(self._closing.is_set) as held:
                if not held:
                    return
                if layer.generation != self._store.layer_generation(layer.name):
                    layer = self._store.layer(layer.name)  # who held the lock may have indexed more than was here then
                engines = self._choice.for_layer(layer.vectors.nbytes)
                with self._lock:  # two at once are too much memory, so exact meanwhile; but what is mapped takes none
                    if self._index and self._index.engine not in {each.name for each in engines if each.mapped}:
                        self._index = None
                found = self._shelf.catch_up(engines, layer.vectors, layer.file.name, layer.identity, stop, tell)
        except Exception as error:  # whatever it is, every vector can be compared
            told = str(error) or type(error).__name__
            self.trouble = f"no index could be made: {told}"
            log.warning("layer %s is searched exactly: %s", layer.name, told, exc_info=not isinstance(error, LunaError))
            return
        finally:
            self.building = None
        self.trouble = ""
        with self._lock:
            if self._index_file == layer.file.name:
                self._index = found


def _merged(
    exact: Exact, index: RowIndex | None, vector: Float32s, k: int, allowed: Bools | None
) -> tuple[Int64s, Float32s]:
    """The ``k`` nearest rows by the index for what it covers, exactly for the rest."""
    if index is None or k > FAR * index.rows or index.rows > exact.rows:
        return exact.query(vector, k, allowed=allowed)
    covered = index.rows
    rows, similarities = index.query(vector, k, None if allowed is None else allowed[:covered])
    if covered == exact.rows:
        return rows, similarities
    tail_rows, tail_similarities = exact.query(vector, k, covered, allowed)
    rows, similarities = np.concatenate([rows, tail_rows]), np.concatenate([similarities, tail_similarities])
    best = np.argsort(-similarities, kind="stable")[:k]
    return rows[best], similarities[best]


def fused(
    parts: Mapping[str, tuple[Searcher, Float32s]], k: int, exclude: Collection[int], only: Int64s | None = None
) -> tuple[Int64s, Float32s]:
    """The ``k`` visible images with the largest sum, over some layers, of the products of the layer's
    direction and the image's unit vector there, 0 where it has none; float32[k], best first, lower ids first.

    One layer is searched by its index; several exactly, reading all their vectors.
    Raises BadInput when the terms of a layer cancel each other.
    """
    for name, (_, direction) in parts.items():
        if np.linalg.norm(direction) < 1e-6:
            raise BadInput(f"the terms in layer '{name}' cancel each other: nothing is left to search for")
    if len(parts) == 1:
        searcher, direction = next(iter(parts.values()))
        ids, cosines = searcher.nearest(direction, k, exclude, only)
        return ids, cosines * np.linalg.norm(direction)
    found = [searcher.products(direction, only) for searcher, direction in parts.values()]
    ids = np.unique(np.concatenate([ids for ids, _ in found]))
    ids = ids[~np.isin(ids, np.fromiter(exclude, np.int64, len(exclude)))]
    scores = np.zeros(len(ids), np.float32)
    for having, products in found:
        if len(having):
            at = np.minimum(np.searchsorted(having, ids), len(having) - 1)
            scores += np.where(having[at] == ids, products[at], 0)
    best = np.lexsort((ids, -scores))[:k]
    if sum(searcher.has_damaged(ids[best]) for searcher, _ in parts.values()):  # all are looked at
        return fused(parts, k, exclude, only)
    return ids[best], scores[best]
