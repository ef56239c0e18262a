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
from ..dt.milvus.lease import Lease
from ..dt.milvus.server import MAX_JSON, Server, table_of
from ..errors import AnotherDT
from ..identity import Identity
from ..progress import Progress, silent
from ..records import Captions, Int64s, Kind, content_digest, now
from ..storable import sifted
from ..store import Store
from .binding import too_many
from .sync import Change, same_rows

log = logging.getLogger(__name__)

SHARED_PAGE = 2000  # rows asked for and written at once
PROOF = 64  # vectors of a layer that must find themselves after a load
FLOAT32_ERROR = 1e-4  # of cosine, which a server tells in float32
Rows = Callable[[Int64s], Iterator[dict[str, Any]]]


def share(
    server: Server, catalog: Catalog, store: Store, progress: Progress = silent, accept: bool = False
) -> list[Change]:
    """Brings the server to what the catalog offers of images, captions, clusters and layers; raises CatalogError, keeping what is done.

    A row that cannot be kept is left out.  Where most images would be given up AnotherDT is raised, unless ``accept``;
    AnotherWriter where another machine writes the library.  ``store`` is that of the home from which it is written.
    """
    library = server.library or catalog.health().library or catalog.address
    with store.sole_writer(), Lease(server, library, store.home, lambda: progress("images", 0, 0)) as lease:
        return _shared(server, catalog, library, lease, progress, accept)


def _shared(
    server: Server, catalog: Catalog, library: str, lease: Lease, progress: Progress, accept: bool
) -> list[Change]:
    about = {"layers": {}, "recall": {}, "local": [], **server.libraries().get(library, {})}
    about["hide"] = list(catalog.hide)
    kinds = {kind.name: kind for kind in catalog.kinds()}
    sharing = _Sharing(server, catalog, library, lease, progress)
    sharing.must_be_ours(accept)
    beside = [sharing.captions("captions" in kinds), sharing.clusters("clusters" in kinds)]
    changes = [*(change for change in beside if change.kind in kinds), sharing.images()]
    lease.check()
    server.note(library, {**about, "synced": now()})
    for kind in kinds.values():
        if kind.layer and kind.identity:
            change = sharing.layer(kind, kind.identity)
            changes.append(change)
            about["layers"][kind.layer] = kind.identity.to_json()
            about["local"] = sorted({*about["local"], kind.layer} if kind.local else {*about["local"]} - {kind.layer})
            if change.added or change.changed or kind.layer not in about["recall"]:
                about["recall"][kind.layer] = sharing.recall(kind, kind.identity)
            lease.check()
            server.note(library, {**about, "synced": now()})
    return changes


class _Sharing:
    """A library on its way to the server: captions, and which images are in which clusters, then images with the tags and
    clusters that these say, then layers, whose rows are those of the images and a vector each."""

    def __init__(self, server: Server, catalog: Catalog, library: str, lease: Lease, progress: Progress) -> None:
        self._server, self._catalog, self._library = server, catalog, library
        self._lease, self._progress = lease, progress
        self._images, self._captions, self._clusters, self._members = map(
            table_of, ("images", "captions", "clusters", "members")
        )
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

    def clusters(self, offered: bool) -> Change:
        """Where one has changed all are asked for; its own row comes last, so that what was begun is done by the next sync."""
        self._server.prepare(self._clusters, about="clusters")
        self._server.prepare(self._members, about="members", fields={"clusters": TYPES["clusters"]})
        nothing = np.empty(0, np.int64)
        listed = self._catalog.digests("clusters") if offered else (nothing, nothing)
        ids, digests = (each[listed[0] >= 0] for each in listed)
        known, known_digests = self._known(self._clusters)
        records: dict[int, tuple[int, dict[str, Any]]] = {}
        if not (np.array_equal(ids, known) and np.array_equal(digests, known_digests)):
            members: dict[int, dict[str, float]] = {}
            for cluster_id, digest, cluster in self._fetched("clusters", ids):
                records[cluster_id] = digest, {"name": cluster.name, "image_count": cluster.image_count}
                for member in cluster.members:
                    members.setdefault(member.image_id, {})[str(cluster_id)] = member.confidence
            self._share_members(members)

        def rows_of(page: Int64s) -> Iterator[dict[str, Any]]:
            for cluster_id in page.tolist():
                if cluster_id in records:
                    digest, record = records[cluster_id]
                    yield {"id": cluster_id, "digest": digest, "record": record}

        return self._share("clusters", self._clusters, (ids, digests), rows_of)

    def _share_members(self, members: Mapping[int, Mapping[str, float]]) -> None:
        """``members``: for each image its confidences, by the clusters it is in."""
        ids = np.array(sorted(image_id for image_id in members if image_id >= 0), np.int64)
        digests = [content_digest(repr(sorted(members[image_id].items())).encode()) for image_id in ids.tolist()]

        def rows_of(page: Int64s) -> Iterator[dict[str, Any]]:
            for at, image_id in zip(np.searchsorted(ids, page).tolist(), page.tolist(), strict=True):
                record = dict(members[image_id])
                yield {"id": image_id, "digest": digests[at], "record": record, "clusters": [*map(int, record)]}

        self._share("members", self._members, (ids, np.array(digests, np.int64)), rows_of)

    def images(self) -> Change:
        ids, digests = self._listed
        beside = (self._digests_of(table, ids) for table in (self._captions, self._members))
        return self._share("images", self._images, (ids, _mixed(digests, *beside)), self._image_rows)

    def _digests_of(self, table: str, ids: Int64s) -> Int64s:
        """What the rows of a table with those ids have on the server, 0 where there are none."""
        known, digests = self._known(table)
        if not len(known):
            return np.zeros(len(ids), np.int64)
        at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[at] == ids, digests[at], 0)

    def _image_rows(self, page: Int64s) -> Iterator[dict[str, Any]]:
        beside = [self._digests_of(table, page) for table in (self._captions, self._members)]
        said, grouped = (
            self._rows_of(table, dict(zip(page[having].tolist(), digests[having].tolist(), strict=True)), ["record"])
            for table, digests, having in zip(
                (self._captions, self._members), beside, map(np.flatnonzero, beside), strict=True
            )
        )
        mixed = dict(zip(page.tolist(), zip(*(each.tolist() for each in beside), strict=True), strict=True))
        for image_id, digest, image in self._fetched("images", page):
            captions = Captions.from_json(said[image_id]["record"], image_id) if image_id in said else None
            image = replace(image, tags=captions.tags if captions else ())
            clusters = [int(each) for each in grouped[image_id]["record"]] if image_id in grouped else []
            fields = fields_of(image, captions, clusters)
            if fields is not None:
                every = (np.array([each], np.int64) for each in (digest, *mixed[image_id]))
                yield {
                    **fields,
                    "id": image_id,
                    "source": digest,
                    "digest": int(_mixed(*every)[0]),
                    "record": image.to_json(),
                }

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
                lists = {"tags": list(image["tags"]), "clusters": list(image["clusters"])}
                yield {**image, **lists, "source": digest, "digest": int(mixed[0]), "vector": vector}

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
        self._lease.check()
        self._server.drop(table, self._library, gone)
        wanted = ids[~same_rows(ids, digests, known, known_digests)]
        # of rows that are there twice, as after a page that came late, a server of 2.3 lists but some
        twice = bool(len(wanted)) and self._server.count(table, self._library) != len(known)
        self._progress(name, 0, len(wanted))
        done = written = 0
        for at in range(0, len(wanted), SHARED_PAGE):
            page = wanted[at : at + SHARED_PAGE]
            rows = [row for row in rows_of(page) if _fits(row["record"])]
            self._lease.check()
            if rows:
                self._server.put(table, self._library, rows, page if twice else np.intersect1d(page, known))
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


def _mixed(first: Int64s, *others: Int64s) -> Int64s:
    """One digest of several."""
    mixed = first.view(np.uint64)
    for each in others:
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + each.view(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        mixed ^= mixed >> np.uint64(29)
    return mixed.view(np.int64)
