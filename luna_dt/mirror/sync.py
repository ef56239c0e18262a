"""Mirroring DT: one algorithm for every kind, needing no clock and no change log.

DT lists (id, digest); what is not here or has another digest is fetched in pages, what DT no longer
lists is dropped.  Each page is one transaction that stores the digests it came with, so a sync that was
killed goes on where it was, and one with nothing to do transfers no row but the samples of trust.py.  A DT that can tell
that nothing has changed (Catalog.stamp) is not even asked for its list.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..dt.catalog import Catalog, Health, page_size
from ..errors import LunaError, Unreachable
from ..progress import Progress, silent
from ..records import LAYERS, RECORD_KINDS, Batch, Int64s, Kind
from ..storable import sifted
from ..store import Store
from .binding import must_be_ours
from .trust import drop_damaged, drop_damaged_records, not_as_in_dt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """What a sync did to one kind, and how long that took; ``count`` is how many DT has, ``set_aside`` how many of them
    cannot be kept (Library.status tells why)."""

    kind: str
    added: int
    changed: int
    removed: int
    count: int
    seconds: float
    set_aside: int = 0


def sync(
    store: Store,
    catalog: Catalog,
    progress: Progress = silent,
    accept: bool = False,
    leave: Callable[[], object] = lambda: None,
) -> list[Change]:
    """Mirrors everything the catalog offers; raises CatalogError or StoreError, keeping what is done.

    Images come first: rows of other kinds are taken only for images that are here.  Layers made here stay
    as they are; one that another home made becomes one of these when all of it is here.  A row that cannot be kept is set aside, and tried again when it has changed.  ``accept`` and
    ``leave``: what another DT is met with (binding.py).
    """
    with store.sole_writer():
        drop_damaged_records(store)
        stamp = catalog.stamp()
        if stamp and stamp == store.stamp() and not accept:
            counts = store.counts()
            return [_unchanged(store, kind, counts[kind][0]) for kind in RECORD_KINDS if store.synced(kind)]
        kinds = {kind.name: kind for kind in catalog.kinds()}
        health = _health(catalog)
        nothing = np.empty(0, np.int64)
        images = catalog.digests("images") if "images" in kinds else (nothing, nothing)
        must_be_ours(store, catalog, health.library if health else "", images, accept, leave)
        order = [name for name in (*RECORD_KINDS, *(f"embeddings.{layer}" for layer in LAYERS)) if name in kinds]
        for state in store.layers():
            if state.local:
                order = [name for name in order if name != f"embeddings.{state.name}"]
            elif f"embeddings.{state.name}" not in kinds:
                log.warning("DT no longer offers layer %s: its vectors are removed here too", state.name)
                store.remove_layer(state.name)
        if health:
            _note_left_out(store, health.left_out)
        changes = list[Change]()
        here = nothing
        for i, name in enumerate(order):
            if i == ("images" in kinds):  # those are brought up first, and no other kind changes them
                here = store.digests("images")[0]
            changes.append(_sync_kind(store, catalog, kinds[name], progress, images, here))
        if stamp != store.stamp():
            store.put_stamp(stamp)
        return changes


def _unchanged(store: Store, kind: str, count: int) -> Change:
    set_aside = len(store.aside(kind)[0])
    return Change(kind, 0, 0, 0, count + set_aside, 0.0, set_aside)


def _health(catalog: Catalog) -> Health | None:
    try:
        return catalog.health()
    except Unreachable:
        raise
    except LunaError as error:  # a DT that can be mirrored but says nothing of its health
        log.info("%s", error)
        return None


def _note_left_out(store: Store, left_out: tuple[str, ...]) -> None:
    """Notes what DT says of itself that cannot be used; the log hears of each once."""
    known = store.left_out()
    if set(known) != set(left_out):
        for reason in left_out:
            if reason not in known:
                log.warning("DT has what is left out: %s", reason)
        store.put_left_out(left_out)


def _sync_kind(
    store: Store, catalog: Catalog, kind: Kind, progress: Progress, images: tuple[Int64s, Int64s], here: Int64s
) -> Change:
    """Brings one kind up: of ``images`` as DT lists them, of others what belongs to those that are ``here``."""
    start = time.monotonic()
    if kind.layer:
        assert kind.identity is not None
        store.prepare_layer(kind.layer, kind.identity)
        layer = store.layer(kind.layer)
        drop_damaged(store, layer)
    ids, digests = images if kind.name == "images" else catalog.digests(kind.name)
    if kind.name not in ("images", "clusters"):
        ours = np.isin(ids, here)
        ids, digests = ids[ours], digests[ours]
    known, known_digests = store.digests(kind.name)
    aside, aside_digests = store.aside(kind.name)
    gone = np.setdiff1d(known, ids, assume_unique=True)
    same = same_rows(ids, digests, known, known_digests) | same_rows(ids, digests, aside, aside_digests)
    if kind.layer and len(differing := not_as_in_dt(layer, catalog, ids[same])):
        same &= ~np.isin(ids, differing)
    wanted, wanted_digests = ids[~same], digests[~same]
    store.drop(kind.name, gone)
    if len(never := np.setdiff1d(aside, ids)):
        store.take_back(kind.name, never)
    progress(kind.name, 0, len(wanted))
    done = 0
    size = page_size(kind.name)
    for at in range(0, len(wanted), size):
        page = wanted[at : at + size]
        listed = dict(zip(page.tolist(), wanted_digests[at : at + size].tolist(), strict=True))
        if negative := {i: "its id is negative" for i in listed if i < 0}:
            _keep(store, kind.name, Batch(page[:0], page[:0], [], negative), listed)
        for batch in catalog.fetch(kind.name, page[page >= 0]):
            _keep(store, kind.name, batch, listed)
            done += len(batch.ids)
            progress(kind.name, done, len(wanted))
    if kind.layer:
        store.compact(kind.layer)
    store.finish(kind.name, catalog.address)
    if kind.layer and kind.local:
        store.take_as_local(kind.layer)
    wanted = wanted[np.isin(wanted, store.digests(kind.name)[0])] if len(wanted) else wanted  # what came
    added = int(np.count_nonzero(~np.isin(wanted, known)))
    set_aside = len(store.aside(kind.name)[0])
    if set_aside and set_aside != len(aside):
        log.warning("%s: %d are set aside; luna-dt status says why", kind.name, set_aside)
    return Change(
        kind.name, added, len(wanted) - added, len(gone), len(ids), time.monotonic() - start, set_aside=set_aside
    )


def _keep(store: Store, kind: str, batch: Batch, listed: dict[int, int]) -> None:
    """Stores what can be kept of a batch and sets the rest aside, with the digests that DT ``listed``.

    Rows that nobody asked for are not taken.
    """
    batch = sifted(batch)
    asked = np.isin(batch.ids, list(listed))
    if not asked.all():
        log.warning("DT sent %d of %s that nobody asked for", np.count_nonzero(~asked), kind)
        rows: Any = batch.rows
        rows = (
            rows[asked]
            if isinstance(rows, np.ndarray)
            else [row for row, good in zip(rows, asked, strict=True) if good]
        )
        batch = Batch(batch.ids[asked], batch.digests[asked], rows, batch.aside)
    odd = {i: reason for i, reason in batch.aside.items() if i in listed}
    if odd:
        stale = np.setdiff1d(list(odd), batch.ids)
        store.drop(kind, np.intersect1d(stale, store.digests(kind)[0]))
    if len(sound := np.intersect1d(store.aside(kind)[0], batch.ids)):
        store.take_back(kind, sound)
    if len(batch.ids):
        store.put(kind, batch)
    if odd:  # last: a row of which only this were noted would not be fetched again
        store.put_aside(kind, [(i, listed[i], reason) for i, reason in odd.items()])


def same_rows(ids: Int64s, digests: Int64s, known: Int64s, known_digests: Int64s) -> npt.NDArray[np.bool_]:
    """Which of ``ids`` (ascending) are known with the same digest."""
    if not len(known):
        return np.zeros(len(ids), bool)
    at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    same: npt.NDArray[np.bool_] = (known[at] == ids) & (known_digests[at] == digests)
    return same
