"""From a reference, a picture, an image's id, a text or a vector, to the vector that a layer is searched by."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

import numpy as np

from ..dt.catalog import Catalog
from ..errors import BadInput, IdentityMismatch, NotOffered, NoVector
from ..identity import DT_IDENTITIES, Identity
from ..models import Encoders
from ..pixels import read_pictures
from ..records import Float32s, Term
from ..store import Store
from .searcher import Searcher

log = logging.getLogger(__name__)


class References:
    """Makes references' vectors, by a layer that is here or one of DT."""

    def __init__(self, store: Store, encoders: Encoders, catalog: Callable[[], Catalog]) -> None:
        self._store, self._encoders, self._catalog = store, encoders, catalog
        self._doubted: set[str] = set()  # layers of which it was said that verifying them failed

    def vector(self, term: Term, searcher: Searcher) -> Float32s:
        """float32[dim] of one reference, to be compared with a layer that is here."""
        if term.image_id is None:
            return self.encoded(term, self.made_by(term.layer))
        query = searcher.vector_of(int(term.image_id))
        if query is None:
            self._store.image(int(term.image_id))
            raise NoVector(
                f"image {term.image_id} has no vector in layer '{term.layer}'; search by its picture instead"
            )
        return query

    def encoded(self, term: Term, made_by: Identity) -> Float32s:
        """float32[dim] of a vector, a text or pictures (of several the mean), made as the layer was.

        Raises IdentityMismatch where it cannot be: the one place where an identity is refused for a given vector.
        """
        if term.vector is not None:
            if term.identity is not None and term.identity != made_by:
                raise IdentityMismatch(
                    f"the query vector was made by {term.identity}, layer '{term.layer}' by {made_by}: they cannot be "
                    "compared"
                )
            array = np.asarray(term.vector)
            return cast("Float32s", array[0] if array.ndim == 2 and len(array) == 1 else array)
        if term.text is not None:
            if not term.text.strip():
                raise BadInput("the text to search for is empty")
            try:
                return cast("Float32s", self._encoders.texts(made_by, [term.text])[0])
            except IdentityMismatch as error:
                able = ", ".join(self.text_layers()) or "none (luna-dt sync takes DT's, luna-dt embed makes one)"
                raise IdentityMismatch(f"{error}; layers here that can be searched by a text: {able}") from error
        mean: Float32s = self._encoders.pictures(made_by, read_pictures(term.image)).mean(axis=0)
        return mean

    def made_by(self, layer: str) -> Identity:
        """What makes a layer's vectors: as verified, else as it says; warns, once, of a layer that failed."""
        verdict = self._store.verdict(layer)
        if verdict is None or verdict.passed:
            return self._store.layer_identity(layer)
        if layer not in self._doubted:
            self._doubted.add(layer)
            log.warning("layer %s, verified %s, %s; to make it anew: luna-dt embed --layer %s",
                        layer, verdict.when[:10], verdict, layer)  # fmt: skip
        return verdict.fits or verdict.claim

    def text_layers(self) -> list[str]:
        """The layers here that can be searched by a text: pictures in texts' space first, then prompts' meaning."""
        found = []
        for state in self._store.layers():
            made_by = (state.verdict and state.verdict.fits) or state.identity
            if state.count and (state.synced or state.local) and (made_by.tower, made_by.output) != ("image", "pooled"):
                found.append((made_by.tower == "text", state.name != "semantic", state.name == "negative", state.name))
        return [name for *_, name in sorted(found, key=lambda each: each[:3])]

    def forget_doubt(self, layer: str) -> None:
        """A layer was verified again: what is wrong with it is to be said again."""
        self._doubted.discard(layer)

    def made_by_in_dt(self, layer: str) -> Identity:
        """What DT says made its layer; a DT that cannot say has its usual one."""
        try:
            return self._catalog().identity(layer)
        except NotOffered:
            return DT_IDENTITIES[layer]
