"""Whether a layer's vectors are still what was stored, and what DT has: looked at by samples, with each sync.

A file may be damaged, or be an older copy; DT's digest of a vector may tell where it lies rather than what it is, and
that repeats when DT itself was put back to a copy.  What a sample shows is looked for in the whole layer.
"""

from __future__ import annotations

import logging

import numpy as np

from ..dt.catalog import Catalog, page_size
from ..records import EMBEDDINGS, RECORD_KINDS, Float32s, Int64s
from ..store import Layer, Store

log = logging.getLogger(__name__)

ROWS_CHECKED = 20_000  # of each kind of record that each sync reads, from a place of its own
BYTES_CHECKED = 256 << 20  # bytes of a layer that each sync reads, from a place of its own
VECTORS_COMPARED = 256  # vectors that each sync compares with DT's


def drop_damaged_records(store: Store) -> None:
    """Forgets records that are not what was stored; of many a part is looked at, another each time."""
    for kind in RECORD_KINDS:
        if bad := store.damaged(kind, ROWS_CHECKED):
            store.forget(kind, bad)


def drop_damaged(store: Store, layer: Layer) -> None:
    """Forgets a layer's vectors that are not what was stored; of a large layer a part is looked at, another each time."""
    layer.check_length()
    rows = np.flatnonzero(layer.ids >= 0)
    most = max(1, BYTES_CHECKED // (4 * layer.vectors.shape[1]))
    part = np.roll(rows, -int(np.random.default_rng().integers(max(1, len(rows)))))[:most]
    if len(layer.damaged(part)):
        store.distrust(layer.name, layer.ids[layer.damaged(rows)])


def not_as_in_dt(layer: Layer, catalog: Catalog, ids: Int64s) -> Int64s:
    """Of ``ids``, whose digests are as they were, those whose vectors DT has otherwise now."""
    ids = ids[np.isin(ids, layer.ids)]
    sample = np.sort(np.random.default_rng().choice(ids, min(VECTORS_COMPARED, len(ids)), replace=False))
    if not len(_differing(layer, catalog, sample)):
        return sample[:0]
    log.warning("layer %s: DT has other vectors under the digests known here; all of them are compared", layer.name)
    return _differing(layer, catalog, ids)


def _differing(layer: Layer, catalog: Catalog, ids: Int64s) -> Int64s:
    found, kind = [ids[:0]], EMBEDDINGS + layer.name
    order, size = np.argsort(layer.ids), page_size(kind)
    for at in range(0, len(ids), size):
        for batch in catalog.fetch(kind, ids[at : at + size]):
            rows = order[np.searchsorted(layer.ids, batch.ids, sorter=order)]
            found.append(batch.ids[_unlike(layer.vectors[rows], np.asarray(batch.rows, np.float32))])
    return np.concatenate(found)


def _unlike(a: Float32s, b: Float32s) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which rows differ, in any bit."""
    unlike: np.ndarray[tuple[int], np.dtype[np.bool_]] = (a.view(np.uint32) != b.view(np.uint32)).any(axis=1)
    return unlike
