"""What can be mirrored: kinds, each row's digest, and the rows themselves, vectors by binary COPY."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psycopg

from ...errors import BadAnswer, Refused
from ...records import EMBEDDINGS, Batch, Captions, Cluster, Int64s, Kind, Member, image_of, layer_of
from ..catalog import unknown_kind
from .captions import read_captions
from .columns import LayerColumns, TableColumns, VectorColumn
from .connection import Database, among, trusted

log = logging.getLogger(__name__)


class Mirroring:
    """Catalog's ``kinds`` and ``digests``, and ``fetch`` a page at a time, over one database."""

    def __init__(self, database: Database, columns: TableColumns) -> None:
        self._database, self._columns = database, columns
        self._places: tuple[int, int | None] | None = None

    def kinds(self) -> list[Kind]:
        layers = self._columns.layers(anew=True)
        kinds = [Kind("images", self._database.count("SELECT COUNT(*) FROM image"))]
        if rows := self._caption_rows():
            kinds.append(Kind("captions", self._database.count(f"SELECT COUNT(DISTINCT image_id) FROM ({rows}) r")))
        if self._columns.of("face_group"):
            kinds.append(Kind("clusters", self._database.count("SELECT COUNT(*) FROM face_group")))
        for layer, columns in layers.items():
            count = self._database.count(f"SELECT COUNT(*) FROM image WHERE {columns.there}")
            kinds.append(Kind(EMBEDDINGS + layer, count, columns.identity))
        return kinds

    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        layer = layer_of(kind)
        if layer is not None:
            columns = self._columns.layer(layer)
            statement = f"SELECT id::bigint, {columns.first(self._vector_digest)} FROM image WHERE {columns.there}"
        elif kind == "images":
            statement = f"SELECT id::bigint, {self._image_digest()} FROM image"
        elif kind == "captions":
            statement = self._caption_digests("image_id IS NOT NULL")
        elif kind == "clusters":
            statement = self._cluster_digests("true")
        else:
            raise unknown_kind(kind, (known.name for known in self.kinds()))
        # all in one value: to send and read a row of each would take longer than to find them
        ((count, data),) = self._database.rows(
            "SELECT COUNT(*), COALESCE(string_agg(int8send(id) || int8send(digest), ''), '') "
            f"FROM ({statement}) r (id, digest)"
        )
        both = np.frombuffer(data, ">i8").astype(np.int64).reshape(-1, 2)
        if len(both) != count:
            raise BadAnswer(f"{self._database.address} has rows of {kind} without an id or a digest")
        both = both[np.argsort(both[:, 0])]
        return both[:, 0].copy(), both[:, 1].copy()

    def page(self, kind: str, ids: Int64s) -> list[Batch]:
        """The rows of a page; halved again and again around a row that the database, or psycopg, cannot put into words."""
        try:
            return list(self._fetch_page(kind, ids))
        except Refused as error:
            cause = error.__cause__
            if not isinstance(cause, (psycopg.DataError, UnicodeError)):
                raise
            if len(ids) > 1:
                return [*self.page(kind, ids[: len(ids) // 2]), *self.page(kind, ids[len(ids) // 2 :])]
            no_text = isinstance(cause, (psycopg.errors.CharacterNotInRepertoire, UnicodeError))
            reason = "its text is not in UTF-8" if no_text else f"the database cannot say it: {cause}"
            return [Batch(ids[:0], ids[:0], [], {int(i): reason for i in ids})]

    def _fetch_page(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        layer = layer_of(kind)
        if layer is not None:
            yield from self._fetch_vectors(self._columns.layer(layer), ids)
            return
        wanted = ids.tolist()
        found: Sequence[Any]
        if kind == "images":
            select = ", ".join(self._columns.select().values())
            rows = self._database.rows(
                f"SELECT {self._image_digest()}, {select} FROM image WHERE id {among(wanted)} ORDER BY id"
            )
            digests, found = [row[0] for row in rows], [image_of(row[1:]) for row in rows]
        elif kind == "captions":
            pairs = self._database.rows(self._caption_digests(f"image_id {among(wanted)}") + " ORDER BY 1")
            digests = [digest for _, digest in pairs]
            found = read_captions(self._database, self._columns, [i for i, _ in pairs])
        elif kind == "clusters":
            digests, found = self._fetch_clusters(wanted)
        else:
            raise unknown_kind(kind, (known.name for known in self.kinds()))
        keys = [record.image_id if isinstance(record, Captions) else record.id for record in found]
        if keys:
            yield Batch(np.array(keys, np.int64), np.array(digests, np.int64), list(found))

    def _fetch_clusters(self, ids: list[int]) -> tuple[list[int], list[Cluster]]:
        digests = dict(self._database.rows(self._cluster_digests(f"g.id {among(ids)}")))
        members: dict[int, list[Member]] = defaultdict(list)
        for cluster_id, image_id, confidence in self._database.rows(
            "SELECT m.face_group_id, d.image_id, MAX(m.similarity_score)::float8 FROM face_group_member m "
            f"JOIN face_detection d ON d.id = m.face_detection_id WHERE m.face_group_id {among(ids)} GROUP BY 1, 2"
        ):
            members[cluster_id].append(Member(image_id, 0.0 if confidence is None else confidence))
        names = self._database.rows(
            f"SELECT id::bigint, COALESCE(name, '') FROM face_group WHERE id {among(ids)} ORDER BY 1"
        )
        found = [Cluster(i, name, len(members[i]), tuple(members[i])) for i, name in names if i in digests]
        return [digests[cluster.id] for cluster in found], found

    def _fetch_vectors(self, columns: LayerColumns, ids: Int64s) -> Iterator[Batch]:
        dim = columns.identity.dim
        # pgvector's binary form: two 16-bit integers (dimension, unused), then big-endian floats
        vector = np.dtype([("dim", ">i2"), ("unused", ">i2"), ("values", ">f4", (dim,))])
        rows = self._copy(
            f"SELECT id::bigint, {columns.first(self._vector_digest)}, {columns.vector} FROM image "
            f"WHERE {columns.there} AND id {among(ids.tolist())} ORDER BY id",
            np.dtype([("id", ">i8"), ("digest", ">i8"), ("vector", vector)]),
        )
        if len(rows):
            vectors = rows["vector"]["values"].astype(np.float32)
            yield Batch(rows["id"].astype(np.int64), rows["digest"].astype(np.int64), vectors)

    def _copy(self, statement: str, fields: np.dtype[Any]) -> np.ndarray[Any, np.dtype[Any]]:
        """A statement's rows by binary COPY, read in one step, since every row has the same length."""
        columns: list[tuple[Any, ...]] = [("fields", ">i2")]
        for name in fields.names or ():
            columns += [(f"length of {name}", ">i4"), (name, fields[name])]
        row = np.dtype(columns)
        command = trusted(f"COPY ({statement}) TO STDOUT (FORMAT BINARY)")
        with self._database.connection() as connection, connection.cursor() as cursor:
            # locks the tables: COPY would see none of the rows of one that is rewritten while it waits for it
            cursor.execute(trusted(f"SELECT FROM ({statement}) r LIMIT 0"))
            with cursor.copy(command) as copy:
                data = b"".join(copy)
        body = memoryview(data)[19:-2]  # without the signature (11 bytes), flags and extension (8), and the end mark
        rows = np.frombuffer(body, row) if len(body) % row.itemsize == 0 else None
        lengths = {f"length of {name}": fields[name].itemsize for name in fields.names or ()}
        if rows is None or any((rows[name] != length).any() for name, length in lengths.items()):
            raise BadAnswer(f"{self._database.address} sent rows of other lengths than the column's dimension says")
        return rows

    def _vector_digest(self, column: VectorColumn) -> str:
        """A vector's digest without reading it, where PostgreSQL (17 and later) can tell where it lies.

        A vector above 2 kB lies in the table's TOAST relation under a number that is new whenever the value is
        written and stays when only other columns are; the number comes from one counter of the whole
        database cluster, whose identifier seeds the hash, so that a restored copy starts afresh.
        """
        if self._places is None:
            self._places = self._where_values_lie()
        major, seed = self._places
        content = (
            f"hashbyteaextended(vector_send({column.vector}), 0)"
            if major >= 18
            else f"('x' || left(md5(vector_send({column.vector})), 16))::bit(64)::bigint"
        )
        if seed is None:
            return content
        return f"COALESCE(hashint8extended(pg_column_toast_chunk_id({column.stored})::bigint, {seed}), {content})"

    def _where_values_lie(self) -> tuple[int, int | None]:
        """PostgreSQL's version, and the database cluster's identifier if both let us ask where a value lies."""
        with self._database.connection() as connection:
            major = connection.info.server_version // 10_000
        if major < 17:
            return major, None
        try:
            return major, self._database.count("SELECT system_identifier FROM pg_control_system()")
        except Refused as error:
            log.info("vectors are compared by their content, which is slower: %s", error)
            return major, None

    def _image_digest(self) -> str:
        return f"hashtextextended(ROW({', '.join(self._columns.select().values())})::text, 0)"

    def _caption_rows(self) -> str:
        """Every tag and caption with a hash of what we keep of it."""
        parts = []
        if self._columns.of("image_tags"):
            parts.append(
                "SELECT image_id, hashtextextended(ROW(tag, source, confidence)::text, 0) AS h FROM image_tags"
            )
        if self._columns.of("image_captions"):
            parts.append(
                "SELECT image_id, hashtextextended(ROW(caption, source, updated_at, id)::text, 0) AS h FROM image_captions"
            )
        return " UNION ALL ".join(parts)

    def _caption_digests(self, condition: str) -> str:
        # the sum is the same in any order, so nothing needs sorting
        return (
            f"SELECT image_id::bigint, hashtextextended(SUM(h)::text, 0) FROM ({self._caption_rows()}) r "
            f"WHERE {condition} GROUP BY image_id"
        )

    def _cluster_digests(self, condition: str) -> str:
        return (
            "SELECT g.id::bigint, hashtextextended(ROW(g.name, "
            "SUM(hashtextextended(ROW(d.image_id, m.similarity_score)::text, 0)))::text, 0) FROM face_group g "
            "LEFT JOIN face_group_member m ON m.face_group_id = g.id "
            f"LEFT JOIN face_detection d ON d.id = m.face_detection_id WHERE {condition} GROUP BY g.id"
        )
