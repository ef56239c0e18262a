"""Look-ups in the fork's tables, and the whole catalog put together."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from ...errors import LunaError, NotOffered, NoVector, Refused, UnknownCluster, UnknownImage
from ...generation import Generation
from ...identity import Identity
from ...records import (
    Batch,
    Captions,
    Cluster,
    ClusterImage,
    Float32s,
    Hit,
    ImageRecord,
    Int64s,
    Kind,
    checked_vectors,
    image_of,
)
from ...storable import checked, each
from ...version import __version__
from ..catalog import Catalog, Health, Sort, page_size
from .captions import read_captions, read_tags
from .columns import LayerColumns, TableColumns
from .connection import Database, trusted
from .generations import Generations
from .mirroring import Mirroring

Question = TypeVar("Question", bound=Callable[..., Any])
PROBES = 10  # of an ivfflat index's lists; the server's default, 1, misses most neighbours


def _of_the_tables(ask: Question) -> Question:
    """A question about DT's tables as they are now: DT may change them at any time, while it is asked too."""

    @functools.wraps(ask)
    def asked(self: PostgresCatalog, *given: Any, **named: Any) -> Any:
        before = self._columns.refresh()
        try:
            return ask(self, *given, **named)
        except LunaError:
            if self._columns.refresh() == before:
                raise
        return ask(self, *given, **named)

    return cast("Question", asked)


class PostgresCatalog(Catalog):
    """A catalog over the fork's tables in one schema of one database; see dt/catalog.py."""

    def __init__(self, address: str, timeout: float = 30.0) -> None:
        self._database = Database(address, timeout)
        self.address = self._database.address
        self._columns = TableColumns(self._database)
        self._mirroring = Mirroring(self._database, self._columns)
        self._generations = Generations(self._database.connection, self._database.schema)

    def close(self) -> None:
        self._database.close()

    @_of_the_tables
    def health(self) -> Health:
        self._database.rows(f"SELECT {', '.join(self._columns.select().values())} FROM image LIMIT 0")
        return Health("luna_dt", __version__, self.capabilities(), self._columns.left_out(), self._library())

    def _library(self) -> str:
        """A hash of the database cluster's own number, the database's and the schema's, which no address changes."""
        try:
            named = self._database.rows(
                "SELECT system_identifier, d.oid, n.oid FROM pg_control_system(), pg_database d, pg_namespace n "
                "WHERE d.datname = current_database() AND n.nspname = %s",
                [self._database.schema],
            )
        except Refused:  # a role that may not ask
            return ""
        return hashlib.sha256(repr(named).encode()).hexdigest()[:32] if named else ""

    @_of_the_tables
    def image(self, image_id: int) -> ImageRecord:
        rows = self._database.rows(
            f"SELECT {', '.join(self._columns.select().values())} FROM image WHERE id = %s", [image_id]
        )
        if not rows:
            raise UnknownImage(f"DT has no image {image_id}")
        return self._with_tags([checked(image_of(rows[0]))])[0]

    @_of_the_tables
    def images(self, query: str = "", after_id: int = 0, limit: int = 100) -> list[ImageRecord]:
        condition, values = self._columns.where(query, self.hide)
        fields, records = ", ".join(self._columns.select().values()), list[ImageRecord]()
        statement = f"SELECT {fields} FROM image WHERE id > %s AND {condition} ORDER BY id LIMIT %s"
        while (wanted := limit - len(records)) > 0:
            rows = self._database.rows(statement, [after_id, *values, wanted])
            records += each(image_of, rows)
            if len(rows) < wanted:
                break
            after_id = rows[-1][0]
        return self._with_tags(records)

    @_of_the_tables
    def similar(
        self,
        layer: str,
        vector: Float32s | None,
        image_id: int | None,
        top_k: int,
        min_similarity: float,
        text: str | None = None,
    ) -> list[Hit]:
        columns = self._columns.layer(layer)
        if text is not None:
            raise NotOffered("the database itself encodes no texts")
        if vector is None:
            rows = self._database.rows(f"SELECT {columns.vector}::text FROM image WHERE id = %s", [image_id])
            if not rows:
                raise UnknownImage(f"DT has no image {image_id}")
            if rows[0][0] is None:
                raise NoVector(f"image {image_id} has no vector in layer '{layer}'")
            wanted = rows[0][0]
        else:
            wanted = json.dumps(checked_vectors(vector, columns.identity.dim).tolist())
        fields = ", ".join(self._columns.select().values())
        visible, _ = self._columns.where("", self.hide)
        with self._database.connection() as connection:
            connection.execute("SELECT set_config('ivfflat.probes', %s, true)", [str(PROBES)])
            connection.execute("SELECT set_config('hnsw.ef_search', %s, true)", [str(min(1000, max(100, 2 * top_k)))])
            # each column by itself, or the live one's index would be of no use
            rows = [
                row
                for condition, distance in _nearest(columns)
                for row in connection.execute(
                    trusted(
                        f"SELECT {fields}, 1 - ({distance}) FROM image WHERE {condition} AND {visible} "
                        f"ORDER BY {distance} LIMIT %(k)s"
                    ),
                    {"v": wanted, "k": top_k},
                )
            ]
        near = sorted((row for row in rows if row[-1] >= min_similarity), key=lambda row: -row[-1])[:top_k]
        similarities = {row[0]: row[-1] for row in near}
        return [Hit(record.id, similarities[record.id], record) for record in self._records(near)]

    @_of_the_tables
    def clusters(self) -> list[Cluster]:
        if not self._columns.of("face_group"):
            return []
        rows = self._database.rows(
            "SELECT g.id::bigint, COALESCE(g.name, ''), COUNT(DISTINCT d.image_id) FROM face_group g "
            "LEFT JOIN face_group_member m ON m.face_group_id = g.id "
            "LEFT JOIN face_detection d ON d.id = m.face_detection_id GROUP BY g.id ORDER BY g.id"
        )
        return [Cluster(*row) for row in rows]

    @_of_the_tables
    def cluster_images(
        self, cluster_id: int, limit: int = 50, min_quality: float = 0, sort: Sort = "quality"
    ) -> list[ClusterImage]:
        known = bool(self._columns.of("face_group"))
        if not known or not self._database.rows("SELECT 1 FROM face_group WHERE id = %s", [cluster_id]):
            raise UnknownCluster(f"DT has no cluster {cluster_id}")
        select = self._columns.select()
        order = {
            "confidence": "best.confidence DESC, image.id",
            "quality": f"COALESCE({select['rating']}, 0) DESC, best.confidence DESC, image.id",
            "random": "random()",
        }[sort]
        visible, _ = self._columns.where("", self.hide)
        rows = self._database.rows(
            f"SELECT {', '.join(select.values())}, best.confidence FROM image JOIN ("
            "  SELECT d.image_id, MAX(m.similarity_score)::float8 AS confidence FROM face_group_member m"
            "  JOIN face_detection d ON d.id = m.face_detection_id WHERE m.face_group_id = %s GROUP BY d.image_id"
            f") best ON best.image_id = image.id WHERE COALESCE({select['rating']}, 0) / 2.0 >= %s AND {visible} "
            f"ORDER BY {order} LIMIT %s",
            [cluster_id, min_quality, limit],
        )
        confidences = {row[0]: row[-1] or 0.0 for row in rows}
        return [
            ClusterImage(record, confidences[record.id])
            for record in self._records(rows)
            if math.isfinite(confidences[record.id])
        ]

    @_of_the_tables
    def captions(self, image_id: int) -> Captions:
        if not self._database.rows("SELECT 1 FROM image WHERE id = %s", [image_id]):
            raise UnknownImage(f"DT has no image {image_id}")
        return read_captions(self._database, self._columns, [image_id])[0]

    @_of_the_tables
    def identity(self, layer: str) -> Identity:
        return self._columns.layer(layer).identity

    def _records(self, rows: Iterable[Sequence[Any]]) -> list[ImageRecord]:
        """Rows of an image's fields and one more value, with each image's tags; those that cannot be read are left out."""
        return self._with_tags(each(lambda row: image_of(row[:-1]), rows))

    def _with_tags(self, found: list[ImageRecord]) -> list[ImageRecord]:
        tags = read_tags(self._database, self._columns, [record.id for record in found])
        return [
            replace(r, tags=tuple(dict.fromkeys(tag for tag, _ in tags[r.id]))) if r.id in tags else r for r in found
        ]

    # -- generations, in a schema of our own ----------------------------------------------------------

    def record(self, generation: Generation) -> str:
        return self._generations.add(generation)

    def generations(
        self, source_image_id: int | None = None, batch_id: str | None = None, after_id: int = 0, limit: int = 10_000
    ) -> list[Generation]:
        return self._generations.find(source_image_id, batch_id, after_id, limit)

    def amend(self, generation_id: str, changes: Mapping[str, Any]) -> Generation:
        return self._generations.amend(generation_id, changes)

    # -- sync ---------------------------------------------------------------------------------------

    @_of_the_tables
    def kinds(self) -> list[Kind]:
        return self._mirroring.kinds()

    @_of_the_tables
    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        return self._mirroring.digests(kind)

    def fetch(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        size = page_size(kind)
        for at in range(0, max(1, len(ids)), size):
            yield from self._fetched(kind, ids[at : at + size])

    @_of_the_tables
    def _fetched(self, kind: str, ids: Int64s) -> list[Batch]:
        return self._mirroring.page(kind, ids)


def _nearest(columns: LayerColumns) -> Iterator[tuple[str, str]]:
    """For each of a layer's columns the condition that a row's vector is there, and its distance to ``%(v)s``.

    Of the copy the few rows that count are compared one by one: its index would mostly find others.
    """
    live, *copies = columns.columns
    yield f"{live.stored} IS NOT NULL", f"{live.stored} <=> %(v)s::{live.kind}"
    for copy in copies:
        yield f"{live.stored} IS NULL AND {copy.stored} IS NOT NULL", f"({copy.vector} <=> %(v)s::vector) + 0"
