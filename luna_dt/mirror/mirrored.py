"""A mirror, as if it were a DT: what is here goes on from here, layers that were made here among it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..dt.catalog import Catalog, Health, page_size
from ..records import EMBEDDINGS, Batch, Int64s, Kind, layer_of
from ..store import Store
from ..version import __version__


class MirroredCatalog(Catalog):
    """Images, captions, clusters and layers of a home; nothing of it is asked of DT."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.address, self.hide = str(store.home), store.hide
        self._read: Mapping[str, Callable[[Int64s], Mapping[int, Any]]] = {
            "images": store.images, "captions": store.captions_of, "clusters": store.clusters_of
        }  # fmt: skip

    def health(self) -> Health:
        return Health("luna_dt", __version__, ("sync",), library=self._store.dt())

    def kinds(self) -> list[Kind]:
        records = [Kind(name, count) for name, (count, _) in self._store.counts().items()]
        layers = self._store.layers()
        return records + [Kind(EMBEDDINGS + each.name, each.count, each.identity, each.local) for each in layers]

    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        ids, digests = self._store.digests(kind)
        layer = layer_of(kind)
        if layer is None:
            return ids, digests
        having = np.isin(ids, self._store.layer(layer).ids)
        return ids[having], digests[having]

    def fetch(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        layer, (known, digests) = layer_of(kind), self._store.digests(kind)
        for at in range(0, len(ids), page_size(kind)):
            part = ids[at : at + page_size(kind)]
            if layer:
                now = self._store.layer(layer)
                part = part[np.isin(part, now.ids)]
                order = np.argsort(now.ids)
                rows: Any = now.vectors[order[np.searchsorted(now.ids, part, sorter=order)]]
            else:  # without those that are damaged
                here = self._read[kind](part)
                part = part[np.isin(part, list(here))]
                rows = [here[image_id] for image_id in part.tolist()]
            yield Batch(part, digests[np.searchsorted(known, part)], rows)
