"""What a search asks: its terms, their layers and weights; and whether it is answered here or by DT."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

from ..dt.catalog import Catalog
from ..errors import BadInput, NotOffered, NotSearchable, Unreachable
from ..identity import Identity
from ..index.engines import Choice, checked, choose
from ..index.shelf import Shelf
from ..mirror.lookups import Lookups
from ..models import Encoders
from ..progress import Progress
from ..records import EMBEDDINGS, Duplicates, Float32s, Hit, Int64s, Term, checked_layer, checked_vectors, one_of
from ..settings import is_shared
from ..store import Store
from .duplicates import duplicates
from .reference import References
from .results import Mirrored, Wanted, chosen
from .searcher import Searcher, fused
from .shared import hits_there

log = logging.getLogger(__name__)

Engine = Literal["auto", "local", "dt"]
WAYS = ("image", "image_id", "vector", "text")  # in which a reference can be given


class Search:
    """A library's searches: a query is a list of terms, one reference being one term."""

    def __init__(
        self, store: Store, lookups: Lookups, encoders: Encoders, catalog: Callable[[], Catalog], index: str
    ) -> None:
        self._store, self._lookups, self._catalog, self._setting = store, lookups, catalog, checked(index)
        self.references = References(store, encoders, catalog)
        self.shelf = Shelf(store.home)
        self.searchers: dict[str, Searcher] = {}
        self._lock = threading.Lock()

    @functools.cached_property
    def choice(self) -> Choice:
        """The engine that searches this library, and why."""
        return choose(self._setting)

    def hits(
        self,
        terms: Sequence[Term],
        wanted: Wanted,
        exclude: Iterable[int],
        exclude_source: bool,
        engine: Engine,
    ) -> list[Hit]:
        """The answer to a query; see Library.search."""
        left_out = {int(image_id) for image_id in exclude}
        for term in terms:
            one_of({name: getattr(term, name) for name in WAYS})
            checked_layer(term.layer)
            if exclude_source and term.image_id is not None:
                left_out.add(int(term.image_id))
            if not math.isfinite(term.weight) or not term.weight:
                raise BadInput(f"a term's weight must be a number other than 0, not {term.weight}")
        several = len(terms) > 1 or terms[0].weight != 1
        if is_shared(self._setting):
            return hits_there(self._catalog(), self.references, terms, wanted, left_out)
        if several:
            if engine == "dt":
                raise BadInput("a query of several terms is searched here, and has everything in its terms")
            engine = "local"
        if wanted.only_here:
            if engine == "dt":
                raise BadInput("conditions, orders, collapsed and diverse results are not DT's: search here for them")
            engine = "local"
        layer = terms[0].layer
        if engine == "local" or (engine == "auto" and self._lookups.mirrors(EMBEDDINGS + layer)):
            return self._here(terms, wanted, left_out)
        try:
            return self._in_dt(terms[0], wanted, left_out)
        except Unreachable as away:
            if engine == "dt":
                raise
            if self._store.generation(EMBEDDINGS + layer):
                return self._here(terms, wanted, left_out)  # the part of the layer that is here
            raise NotSearchable(f"layer '{layer}' is not synced (run: luna-dt sync), and {away}") from away

    def _here(self, terms: Sequence[Term], wanted: Wanted, left_out: set[int]) -> list[Hit]:
        """Weights are normalised so that their sizes add up to 1: similarities are in -1..1, as one cosine is."""
        if wanted.of_records:
            self._check_records()
        only = self.fitting(wanted.where)
        if only is not None and not len(only):
            return []
        directions: dict[str, Float32s] = {}
        total = sum(abs(term.weight) for term in terms)
        for term in terms:
            searcher = self.searcher(term.layer)
            vector = self.references.vector(term, searcher)
            vector = checked_vectors(vector, searcher.layer().identity.dim)
            weighted = vector * np.float32(term.weight / total / np.linalg.norm(vector))
            directions[term.layer] = directions.get(term.layer, 0) + weighted
        parts = {layer: (self.searcher(layer), each) for layer, each in directions.items()}
        found = chosen(
            wanted,
            lambda k: fused(parts, k, left_out, only),
            Mirrored(self._store, self.searcher(terms[0].layer).layer),
        )
        ids, similarities, stands_for = (array.tolist() for array in found)
        records = self._store.images(ids)
        return [
            Hit(image_id, similarity, records[image_id], count)
            for image_id, similarity, count in zip(ids, similarities, stands_for, strict=True)
            if image_id in records
        ]

    def fitting(self, where: str) -> Int64s | None:
        """The ids of the mirrored images that fit a condition; None where there is none.

        Raises BadQuery; NotSearchable where no images are mirrored.
        """
        if not where.strip():
            return None
        self._check_records()
        return self._store.ids_of(where)

    def _check_records(self) -> None:
        self._must_be_here()
        if not self._lookups.mirrors("images"):
            raise NotSearchable(
                "conditions, orders and exact copies ask the images' records, which are not synced; run: luna-dt sync"
            )

    def text_layer(self, engine: Engine = "auto") -> str:
        """The layer that a text is searched in if none is named: one here that can answer, else DT's semantic, or where
        visual is here, and nothing that can, visual, whose error says so."""
        able = self.references.text_layers() if engine != "dt" else []
        if not able:
            able = ["visual" if engine != "dt" and self._lookups.mirrors(EMBEDDINGS + "visual") else "semantic"]
        layer = able[0]
        log.info("a text is searched for in layer %s", layer)
        return layer

    def explained(self, layer: str, where: str) -> str:
        """One line: what answers a search of a layer, and how many images it is about."""
        if is_shared(self._setting):
            return f"layer {layer}: every vector whose image fits is compared by {self._catalog().address}"
        searcher, only = self.searcher(layer), self.fitting(where)
        now = searcher.layer()
        told = f"layer {layer}: {np.count_nonzero(now.visible):,} images"
        if only is None:
            return f"{told}, by the engine {searcher.engine}"
        fit = np.count_nonzero(now.visible & np.isin(now.ids, only))
        return f"{told}, of which {fit:,} fit the condition, {searcher.way(int(fit))}"

    def duplicates(self, layer: str | None, similarity: float, where: str, progress: Progress) -> list[Duplicates]:
        """Groups of exact and of near copies; see Library.duplicates."""
        searcher = None if layer is None else self.searcher(checked_layer(layer))
        self._check_records()
        only = None if searcher is None else self.fitting(where)
        return duplicates(self._store, searcher, similarity, where, only, progress)

    def _in_dt(self, term: Term, wanted: Wanted, left_out: set[int]) -> list[Hit]:
        catalog, count = self._catalog(), wanted.offset + wanted.top_k + len(left_out)
        min_similarity = wanted.min_similarity
        hits = None
        if term.text is not None:
            with contextlib.suppress(NotOffered):  # then it is encoded here
                hits = catalog.similar(term.layer, None, None, count, min_similarity, term.text)
        if hits is None:
            query = None
            if term.image_id is None:
                query = self.references.encoded(term, self.references.made_by_in_dt(term.layer))
            hits = catalog.similar(term.layer, query, term.image_id, count, min_similarity)
        return [hit for hit in hits if hit.id not in left_out][wanted.offset :][: wanted.top_k]

    def searcher(self, layer: str) -> Searcher:
        """The searcher of a layer that is here; raises UnknownLayer, NotSearchable."""
        self._must_be_here()
        with self._lock:
            if layer not in self.searchers:
                self._store.layer_identity(layer)
                self.searchers[layer] = Searcher(self._store, self.shelf, layer, self.choice)
            return self.searchers[layer]

    def _must_be_here(self) -> None:
        """Raises NotSearchable where the library is on a server, which gives nothing as a whole."""
        if is_shared(self._setting):
            raise NotSearchable(
                "a layer is read as a whole only where it is mirrored; bring this library to another home "
                "(LUNA_DT_HOME) without LUNA_DT_INDEX: luna-dt engine copy --back"
            )

    def index(self, progress: Progress) -> None:
        """Brings the saved indexes up to the synced vectors."""
        if not self.choice.engines:
            return
        states = self._store.layers()
        self.shelf.remove_others({state.file for state in states})
        for state in states:
            engines = self.choice.for_layer(state.bytes)
            if self.shelf.is_up(engines, state.file, state.rows):
                continue

            def tell(rows: int, kind: str = f"index.{state.name}", total: int = state.rows) -> None:
                progress(kind, rows, total)

            def stop(tell: Callable[[int], None] = tell) -> bool:  # while another process makes one
                tell(0)
                return False

            with self.shelf.lock(stop):
                layer = self._store.layer(state.name)
                self.shelf.catch_up(engines, layer.vectors, layer.file.name, layer.identity, progress=tell)

    def wait(self) -> None:
        """Returns when no index is made in the background."""
        for searcher in list(self.searchers.values()):
            searcher.wait()

    def close(self) -> None:
        with self._lock:
            for searcher in self.searchers.values():
                searcher.close()
            self.searchers.clear()


def terms_of(
    image: Any, image_id: int | None, vector: Any, text: str | None, layer: str, identity: Identity | None
) -> Sequence[Term]:
    """The terms of a query; raises BadInput where a list of them is given beside one reference."""
    if isinstance(image, (list, tuple)) and image and isinstance(image[0], Term):
        if any(value is not None for value in (image_id, vector, text, identity)):
            raise BadInput("a query of several terms is searched here, and has everything in its terms")
        return image
    return [Term(image, image_id, vector, text, layer, identity=identity)]
