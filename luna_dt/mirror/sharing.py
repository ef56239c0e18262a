"""Bringing a library that several machines share, on a Milvus server, to what DT has: as sync.py does for a home.

Rows stream from DT to the server, a page at a time; each carries the digest of what it was made of, so a sync that was
killed, or whose server was, goes on where it was, and one with nothing to do moves no row.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..dt.catalog import Catalog
from ..dt.milvus.conditions import ANY
from ..dt.milvus.fields import TYPES, fields_of
from ..dt.milvus.server import MAX_JSON, Server, table_of
from ..errors import AnotherDT
from ..identity import Identity
from ..progress import Progress, silent
from ..records import Captions, Int64s, Kind, now
from ..storable import sifted
from .binding import too_many
from .sync import Change, same_rows

log = logging.getLogger(__name__)

SHARED_PAGE = 2000  # rows asked for and written at once
PROOF = 64  # vectors of a layer that must find themselves after a load
FLOAT32_ERROR = 1e-4  # of cosine, which a server tells in float32
Rows = Callable[[Int64s], Iterator[dict[str, Any]]]


def share(server: Server, catalog: Catalog, progress: Progress = silent, accept: bool = False) -> list[Change]:
    """Brings the server to what the catalog offers of images, captions and layers; raises CatalogError, keeping what is done.

    A row that cannot be kept is left out.  Where most images would be given up AnotherDT is raised, unless ``accept``.
    """
    library = server.library or catalog.health().library or catalog.address
    about = {"layers": {}, "recall": {}, **server.libraries().get(library, {})}
    about["hide"] = list(catalog.hide)
    kinds = {kind.name: kind for kind in catalog.kinds()}
    sharing = _Sharing(server, catalog, library, progress)
    sharing.must_be_ours(accept)
    captions = sharing.captions("captions" in kinds)
    changes = [*([captions] if "captions" in kinds else []), sharing.images()]
    server.note(library, {**about, "synced": now()})
    for kind in kinds.values():
        if kind.layer and kind.identity:
            change = sharing.layer(kind, kind.identity)
            changes.append(change)
            about["layers"][kind.layer] = kind.identity.to_json()
            if change.added or change.changed or kind.layer not in about["recall"]:
                about["recall"][kind.layer] = sharing.recall(kind, kind.identity)
            server.note(library, {**about, "synced": now()})
    return changes


class _Sharing:
    """A library on its way to the server: captions, then images with the tags that these say, then layers, whose rows are
    those of the images and a vector each."""

    def __init__(self, server: Server, catalog: Catalog, library: str, progress: Progress) -> None:
        self._server, self._catalog, self._library, self._progress = server, catalog, library, progress
        self._images, self._captions = table_of("images"), table_of("captions")
        ids, digests = catalog.digests("images")
        self._listed = ids[ids >= 0], digests[ids >= 0]
        self._synced: dict[str, tuple[Int64s, Int64s]] = {}

    def must_be_ours(self, accept: bool) -> None:
        """Raises AnotherDT where most images would be given up."""
        self._server.prepare(self._images, about="images", fields=TYPES)
        known, _ = self._known(self._images)
        gone = len(np.setdiff1d(known, self._listed[0]))
        if not accept and too_many(gone, len(known)):
            raise AnotherDT(
                f"the DT at {self._catalog.address} has no more than {len(known) - gone:,} of the {len(known):,} images "
                f"on {self._server.address}; nothing was changed. If that is meant, have it so: luna-dt sync --accept"
            )

    def captions(self, offered: bool) -> Change:
        self._server.prepare(self._captions, about="captions")
        nothing = np.empty(0, np.int64)
        ids, digests = self._catalog.digests("captions") if offered else (nothing, nothing)
        here = np.isin(ids, self._listed[0])
        return self._share("captions", self._captions, (ids[here], digests[here]), self._captions_rows)

    def _captions_rows(self, page: Int64s) -> Iterator[dict[str, Any]]:
        for image_id, digest, row in self._fetched("captions", page):
            yield {"id": image_id, "digest": digest, "record": row.to_json()}

    def images(self) -> Change:
        ids, digests = self._listed
        return self._share("images", self._images, (ids, _mixed(digests, self._said(ids))), self._image_rows)

    def _said(self, ids: Int64s) -> Int64s:
        """The digests of those images' captions on the server, 0 where there are none."""
        known, digests = self._known(self._captions)
        if not len(known):
            return np.zeros(len(ids), np.int64)
        at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[at] == ids, digests[at], 0)

    def _image_rows(self, page: Int64s) -> Iterator[dict[str, Any]]:
        of_captions = dict(zip(page.tolist(), self._said(page).tolist(), strict=True))
        having = {image_id: digest for image_id, digest in of_captions.items() if digest}
        said = self._rows_of(self._captions, having, ["record"])
        for image_id, digest, image in self._fetched("images", page):
            captions = Captions.from_json(said[image_id]["record"], image_id) if image_id in said else None
            image = replace(image, tags=captions.tags if captions else ())
            fields = fields_of(image, captions)
            if fields is not None:
                mixed = _mixed(np.array([digest], np.int64), np.array([of_captions[image_id]], np.int64))
                yield {**fields, "id": image_id, "digest": int(mixed[0]), "record": image.to_json()}

    def layer(self, kind: Kind, identity: Identity) -> Change:
        table = table_of(kind.name, identity)
        self._server.prepare(table, identity.dim, str(identity), TYPES)
        known, of_images = self._known(self._images)
        ids, digests = self._catalog.digests(kind.name)
        here = np.isin(ids, known)
        ids, digests = ids[here], digests[here]
        listed = ids, _mixed(digests, of_images[np.searchsorted(known, ids)])
        return self._share(kind.name, table, listed, lambda page: self._layer_rows(kind.name, page))

    def recall(self, kind: Kind, identity: Identity) -> dict[str, Any]:
        """Of some of a layer's own vectors, spread over all, how many find themselves, or as near ones, as readers search."""
        table = table_of(kind.name, identity)
        ids = self._known(table)[0]
        sample = ids[:: max(1, len(ids) // PROOF)][:PROOF].tolist()
        rows = self._server.rows(table, self._library, sample, ["vector"], "Strong")
        found = 0
        for row in rows.values():
            nearest = self._server.nearest(table, self._library, ANY, np.array(row["vector"], np.float32), 1)
            found += bool(nearest) and nearest[0][1] > 1 - FLOAT32_ERROR
        if found < len(rows):
            log.warning("%s: %d of %d vectors do not find themselves on %s", kind.name, len(rows) - found, len(rows), self._server.address)  # fmt: skip
        return {"found": found, "asked": len(rows), "when": now()}

    def _layer_rows(self, kind: str, page: Int64s) -> Iterator[dict[str, Any]]:
        known, of_images = self._known(self._images)
        digests = dict(zip(page.tolist(), of_images[np.searchsorted(known, page)].tolist(), strict=True))
        images = self._rows_of(self._images, digests, ["record", *TYPES])
        for image_id, digest, vector in self._fetched(kind, page):
            if image_id in images and _can_be_searched(vector):
                image = images[image_id]
                mixed = _mixed(np.array([digest], np.int64), np.array([image["digest"]], np.int64))
                yield {**image, "tags": list(image["tags"]), "digest": int(mixed[0]), "vector": vector}

    def _known(self, table: str) -> tuple[Int64s, Int64s]:
        """What of the library is in a table now: ids, ascending, and digests."""
        if table not in self._synced:
            self._synced[table] = self._server.digests(table, self._library)
        return self._synced[table]

    def _rows_of(self, table: str, digests: Mapping[int, int], fields: list[str]) -> dict[int, dict[str, Any]]:
        """Rows of a table that was synced, as of now: those that have just been written may take a while to be seen."""
        asked = table, self._library, list(digests), ["digest", *fields]
        found = self._server.rows(*asked)
        if any(image_id not in found or found[image_id]["digest"] != digest for image_id, digest in digests.items()):
            found = self._server.rows(*asked, consistency="Strong")
        return found

    def _fetched(self, kind: str, page: Int64s) -> Iterator[tuple[int, int, Any]]:
        """DT's rows of those ids that can be kept: id, digest and record or vector."""
        for batch in map(sifted, self._catalog.fetch(kind, page)):
            yield from zip(batch.ids.tolist(), batch.digests.tolist(), batch.rows, strict=True)

    def _share(self, name: str, table: str, listed: tuple[Int64s, Int64s], rows_of: Rows) -> Change:
        """Brings a table to what is listed (ids, digests)."""
        start, (ids, digests) = time.monotonic(), listed
        known, known_digests = self._known(table)
        gone = np.setdiff1d(known, ids)
        self._server.drop(table, self._library, gone)
        wanted = ids[~same_rows(ids, digests, known, known_digests)]
        self._progress(name, 0, len(wanted))
        done = written = 0
        for at in range(0, len(wanted), SHARED_PAGE):
            page = wanted[at : at + SHARED_PAGE]
            rows = [row for row in rows_of(page) if _fits(row["record"])]
            if rows:
                self._server.put(table, self._library, rows, instead=np.intersect1d(page, known))
            written += len(rows)
            done += len(page)
            self._progress(name, done, len(wanted))
        if len(wanted) or len(gone):
            del self._synced[table]
            self._known(table)  # which waits until all of it can be seen, here and by others
        if written < len(wanted):
            log.warning("%s: %d cannot be kept on %s", name, len(wanted) - written, self._server.address)
        added = int(np.count_nonzero(~np.isin(wanted, known)))
        return Change(
            name, added, len(wanted) - added, len(gone), len(ids), time.monotonic() - start, len(wanted) - written
        )


def _fits(record: Mapping[str, Any]) -> bool:
    return len(json.dumps(record, ensure_ascii=False).encode()) <= MAX_JSON


def _can_be_searched(vector: Any) -> bool:
    """Milvus takes zero vectors, and others that no cosine can be told of, and answers nonsense."""
    square = float(np.dot(vector, vector))
    return 0 < square < float("inf")


def _mixed(first: Int64s, second: Int64s) -> Int64s:
    """One digest of two."""
    mixed = first.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + second.view(np.uint64) * np.uint64(
        0xC2B2AE3D27D4EB4F
    )
    mixed ^= mixed >> np.uint64(29)
    return mixed.view(np.int64)
