"""Bringing a library that several machines share, on a Milvus server, to what DT has: as sync.py does for a home.

Rows stream from DT to the server, a page at a time; each carries the digest of what it was made of, so a sync that was
killed, or whose server was, goes on where it was, and one with nothing to do moves no row.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from ..dt.catalog import Catalog
from ..dt.milvus.server import MAX_JSON, Server, table_of
from ..errors import AnotherDT
from ..progress import Progress, silent
from ..query import HIDING
from ..records import Captions, ImageRecord, Int64s, Kind, content_digest, now
from ..storable import sifted
from .binding import too_many
from .sync import Change, same_rows

log = logging.getLogger(__name__)

SHARED_PAGE = 2000  # rows asked for and written at once


def share(server: Server, catalog: Catalog, progress: Progress = silent, accept: bool = False) -> list[Change]:
    """Brings the server to what the catalog offers of images, captions and layers; raises CatalogError, keeping what is done.

    A row that cannot be kept is left out.  Where most images would be given up AnotherDT is raised, unless ``accept``.
    """
    library = server.library or catalog.health().library or catalog.address
    about = server.libraries().get(library, {"layers": {}})
    kinds = [kind for kind in catalog.kinds() if kind.name in ("images", "captions") or kind.layer]
    kinds.sort(key=lambda kind: (kind.name != "images", kind.layer is not None))
    images = catalog.digests("images")
    changes = []
    for kind in kinds:
        changes.append(_Sharing(server, catalog, library, kind, images).run(progress, accept))
        if kind.layer and kind.identity:
            about["layers"][kind.layer] = kind.identity.to_json()
        server.note(library, {**about, "synced": now()})
    return changes


class _Sharing:
    """One kind, on its way to the server."""

    def __init__(
        self, server: Server, catalog: Catalog, library: str, kind: Kind, images: tuple[Int64s, Int64s]
    ) -> None:
        self._server, self._catalog, self._library, self._kind = server, catalog, library, kind
        self._table = table_of(kind.name, kind.identity)
        self._images = images
        hide = catalog.hide  # rows that were shared while other flags hid images are written anew
        self._hiding = 0 if hide == HIDING else content_digest(" ".join(hide).encode())

    def run(self, progress: Progress, accept: bool) -> Change:
        start, name = time.monotonic(), self._kind.name
        dim = {"dim": self._kind.identity.dim} if self._kind.identity else {}
        self._server.prepare(self._table, **dim, about=str(self._kind.identity or name))
        ids, digests = self._listed()
        digests = digests ^ np.int64(self._hiding)
        known, known_digests = self._server.digests(self._table, self._library)
        gone = np.setdiff1d(known, ids)
        if name == "images" and not accept and too_many(len(gone), len(known)):
            raise AnotherDT(
                f"the DT at {self._catalog.address} has no more than {len(known) - len(gone):,} of the {len(known):,} images "
                f"on {self._server.address}; nothing was changed. If that is meant, have it so: luna-dt sync --accept"
            )
        self._server.drop(self._table, self._library, gone)
        wanted = ids[~same_rows(ids, digests, known, known_digests)]
        progress(name, 0, len(wanted))
        done = written = 0
        for at in range(0, len(wanted), SHARED_PAGE):
            page = wanted[at : at + SHARED_PAGE]
            rows = list(self._rows(page))
            if rows:
                self._server.put(self._table, self._library, rows)
            written += len(rows)
            done += len(page)
            progress(name, done, len(wanted))
        if written < len(wanted):
            log.warning("%s: %d cannot be kept on %s", name, len(wanted) - written, self._server.address)
        added = int(np.count_nonzero(~np.isin(wanted, known)))
        return Change(
            name, added, len(wanted) - added, len(gone), len(ids), time.monotonic() - start, len(wanted) - written
        )

    def _listed(self) -> tuple[Int64s, Int64s]:
        """What DT has, with the digests that rows are to carry: of a layer's rows, also of the image's record in them."""
        known, of_images = self._images
        if self._kind.name == "images":
            return known[known >= 0], of_images[known >= 0]
        ids, digests = self._catalog.digests(self._kind.name)
        here = np.isin(ids, known[known >= 0])
        ids, digests = ids[here], digests[here]
        return ids, _mixed(digests, of_images[np.searchsorted(known, ids)]) if self._kind.layer else digests

    def _rows(self, page: Int64s) -> Iterator[dict[str, Any]]:
        """What the server is to hold of those ids; what cannot be kept is left out."""
        images: dict[int, tuple[int, ImageRecord]] = {}
        if self._kind.layer:
            for batch in self._catalog.fetch("images", page):
                good = sifted(batch)
                records = cast("list[ImageRecord]", good.rows)
                images |= dict(zip(good.ids.tolist(), zip(good.digests.tolist(), records, strict=True), strict=True))
        for batch in self._catalog.fetch(self._kind.name, page):
            batch = sifted(batch)
            for image_id, digest, row in zip(batch.ids.tolist(), batch.digests.tolist(), batch.rows, strict=True):
                made: dict[str, Any] = {"id": image_id, "digest": digest, "hidden": False}
                record: ImageRecord | Captions
                if self._kind.layer:
                    if image_id not in images or not _can_be_searched(row):
                        continue
                    of_image, record = images[image_id]
                    mixed = _mixed(np.array([digest], np.int64), np.array([of_image], np.int64))
                    made |= {"digest": int(mixed[0]), "vector": row}
                else:
                    record = row
                if isinstance(record, ImageRecord):
                    flags = {"delete": record.for_deletion, "unavailable": record.unavailable, "nsfw": record.nsfw}
                    made["hidden"] = any(flags[flag] for flag in self._catalog.hide)
                made["digest"] ^= self._hiding
                made["record"] = record.to_json()
                if len(json.dumps(made["record"], ensure_ascii=False).encode()) <= MAX_JSON:
                    yield made


def _can_be_searched(vector: Any) -> bool:
    """Milvus takes zero vectors, and others that no cosine can be told of, and answers nonsense."""
    square = float(np.dot(vector, vector))
    return 0 < square < float("inf")


def _mixed(first: Int64s, second: Int64s) -> Int64s:
    mixed: Int64s = (first.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ second.view(np.uint64)).view(np.int64)
    return mixed
