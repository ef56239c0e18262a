"""Mirroring DT: one algorithm for every kind, needing no clock and no change log.

DT lists (id, digest); what is not here or has another digest is fetched in pages, what DT no longer
lists is dropped.  Each page is one transaction that stores the digests it came with, so a sync that was
killed goes on where it was, and one with nothing to do transfers no row.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..dt.catalog import Catalog
from ..progress import Progress, silent
from ..records import LAYERS, RECORD_KINDS, Int64s, Kind
from ..store import Store

log = logging.getLogger(__name__)

PAGE = 4096  # rows asked for at once: 20 MB of 1280-d vectors


@dataclass(frozen=True)
class Change:
    """What a sync did to one kind, and how long that took; ``count`` is how many DT has."""

    kind: str
    added: int
    changed: int
    removed: int
    count: int
    seconds: float


def sync(store: Store, catalog: Catalog, progress: Progress = silent) -> list[Change]:
    """Mirrors everything the catalog offers; raises CatalogError or StoreError, keeping what is done.

    Images come first: rows of other kinds are taken only for images that are here.  Layers made here stay
    as they are.
    """
    with store.sole_writer():
        kinds = {kind.name: kind for kind in catalog.kinds()}
        order = [name for name in (*RECORD_KINDS, *(f"embeddings.{layer}" for layer in LAYERS)) if name in kinds]
        for state in store.layers():
            if state.local:
                order = [name for name in order if name != f"embeddings.{state.name}"]
            elif f"embeddings.{state.name}" not in kinds:
                log.warning("DT no longer offers layer %s: its vectors are removed here too", state.name)
                store.remove_layer(state.name)
        return [_sync_kind(store, catalog, kinds[name], progress) for name in order]


def _sync_kind(store: Store, catalog: Catalog, kind: Kind, progress: Progress) -> Change:
    start = time.monotonic()
    if kind.layer:
        assert kind.identity is not None
        store.prepare_layer(kind.layer, kind.identity)
    ids, digests = catalog.digests(kind.name)
    if kind.name not in ("images", "clusters"):
        here = np.isin(ids, store.digests("images")[0])
        ids, digests = ids[here], digests[here]
    known, known_digests = store.digests(kind.name)
    gone = np.setdiff1d(known, ids, assume_unique=True)
    same = _same(ids, digests, known, known_digests)
    wanted = ids[~same]
    added = int(np.count_nonzero(~np.isin(wanted, known)))
    store.drop(kind.name, gone)
    progress(kind.name, 0, len(wanted))
    done = 0
    for at in range(0, len(wanted), PAGE):
        page = wanted[at : at + PAGE]
        for batch in catalog.fetch(kind.name, page):
            store.put(kind.name, batch)
            done += len(batch.ids)
            progress(kind.name, done, len(wanted))
    if kind.layer:
        store.compact(kind.layer)
    store.finish(kind.name, catalog.address)
    return Change(kind.name, added, len(wanted) - added, len(gone), len(ids), time.monotonic() - start)


def _same(ids: Int64s, digests: Int64s, known: Int64s, known_digests: Int64s) -> npt.NDArray[np.bool_]:
    """Which of ``ids`` (ascending) are known with the same digest."""
    if not len(known):
        return np.zeros(len(ids), bool)
    at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    same: npt.NDArray[np.bool_] = (known[at] == ids) & (known_digests[at] == digests)
    return same
