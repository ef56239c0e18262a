"""The LUNA fork's PostgreSQL database, read directly and never written.

The address is libpq's with one addition, ``?schema=NAME`` for the collection (default ``public``).
Columns are discovered, since they drift between versions of the fork; for each layer the newest name
of its column that holds anything counts.  What made a layer is known for DT's own columns
(records.DT_IDENTITIES); a JSON identity in the column's comment (``COMMENT ON COLUMN``, in the
contract's form) says otherwise.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import numpy as np

from ... import query
from ...errors import (
    BadAnswer,
    MapMissing,
    MissingExtra,
    NotOffered,
    NotSearchable,
    NoVector,
    Refused,
    UnknownCluster,
    UnknownImage,
    UnknownLayer,
    Unreachable,
)
from ...generation import Generation
from ...identity import DT_IDENTITIES, Identity
from ...records import (
    EMBEDDINGS,
    Batch,
    Captions,
    Cluster,
    ClusterImage,
    Float32s,
    Hit,
    ImageRecord,
    Int64s,
    Kind,
    Member,
    StoredMap,
    checked_layer,
    checked_vectors,
    layer_of,
)
from ...settings import without_secrets
from ...version import __version__
from ..catalog import Health, Sort
from .generations import Generations

try:
    import psycopg
    import psycopg_pool
    from psycopg import sql
except ImportError as missing:
    raise MissingExtra("psycopg", "postgres") from missing

log = logging.getLogger(__name__)

#: For each layer the names its column has had, newest first.
LAYER_COLUMNS = {
    "visual": ("clip_vision_embedding", "image_embedding"),
    "semantic": ("bge_prompt_embedding", "prompt_embedding"),
    "negative": ("negative_prompt_embedding",),
    "composition": ("clip_g_prompt_embedding", "clip_g_embedding"),
    "style": ("clip_l_prompt_embedding", "clip_l_embedding"),
}
#: ImageRecord's fields (but tags) in their order: column, SQL with {} for it, SQL where it is missing.
IMAGE_FIELDS = {
    "id": ("id", "{}::bigint", ""),
    "path": ("path", "{}", "''"),
    "prompt": ("prompt", "COALESCE({}, '')", "''"),
    "negative_prompt": ("negative_prompt", "COALESCE({}, '')", "''"),
    "width": ("width", "COALESCE({}, 0)", "0"),
    "height": ("height", "COALESCE({}, 0)", "0"),
    "model": ("model", "COALESCE({}, '')", "''"),
    "model_hash": ("model_hash", "COALESCE({}, '')", "''"),
    "sampler": ("sampler", "COALESCE({}, '')", "''"),
    "scheduler": ("scheduler", "COALESCE({}, '')", "''"),
    "steps": ("steps", "COALESCE({}, 0)", "0"),
    "cfg": ("cfg_scale", "COALESCE({}, 0)::float8", "0::float8"),
    "seed": ("seed", "COALESCE({}, 0)", "0"),
    "rating": ("rating", "{}", "NULL::integer"),
    "aesthetic_score": ("aesthetic_score", "{}::float8", "NULL::float8"),
    "favorite": ("favorite", "COALESCE({}, false)", "false"),
    "nsfw": ("nsfw", "COALESCE({}, false)", "false"),
    "for_deletion": ("for_deletion", "COALESCE({}, false)", "false"),
    "unavailable": ("unavailable", "COALESCE({}, false)", "false"),
    "no_metadata": ("no_metadata", "COALESCE({}, false)", "false"),
    "created": ("created_date", "COALESCE(to_char({}, 'YYYY-MM-DD\"T\"HH24:MI:SS'), '')", "''"),
    "custom_tags": ("custom_tags", "COALESCE({}, '')", "''"),
    "loras": ("loras", "COALESCE({}::text, '')", "''"),
}
PROBES = 10  # of an ivfflat index's lists; the server's default, 1, misses most neighbours
PAGE = 4096  # rows read at once
WAIT = 5  # seconds for a connection


@dataclass(frozen=True)
class _LayerColumn:
    name: str
    identity: Identity


class PostgresCatalog:
    """A catalog over the fork's tables in one schema of one database; see dt/catalog.py."""

    def __init__(self, address: str, timeout: float = 30.0) -> None:
        base, _, query = address.partition("?")
        options = [option for option in query.split("&") if option]
        schemas = [unquote(option[7:]) for option in options if option.startswith("schema=")]
        self.schema = schemas[-1] if schemas else "public"
        libpqs = "&".join(option for option in options if not option.startswith("schema="))
        self._conninfo = f"{base}?{libpqs}" if libpqs else base
        self.address = without_secrets(address)
        self._timeout = timeout
        self._pool = psycopg_pool.ConnectionPool(
            self._conninfo,
            min_size=0,
            max_size=8,
            timeout=WAIT,
            open=False,
            kwargs={"connect_timeout": WAIT, "application_name": "luna_dt"},
            configure=self._configure,
            check=psycopg_pool.ConnectionPool.check_connection,
        )
        self._known: dict[str, dict[str, tuple[str, str]]] | None = None
        self._found_layers: dict[str, _LayerColumn] | None = None
        self._places: tuple[int, int | None] | None = None
        self._generations = Generations(self._connection, self.schema)

    def _configure(self, connection: psycopg.Connection[Any]) -> None:
        connection.read_only = True
        connection.execute("SELECT set_config('search_path', %s, false)", [f'"{self.schema}", public'])
        connection.execute("SELECT set_config('statement_timeout', %s, false)", [f"{int(self._timeout * 10_000)}"])
        connection.commit()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            self._pool.open()
            with self._pool.connection() as connection:
                yield connection
        except (psycopg_pool.PoolTimeout, psycopg.OperationalError) as error:
            raise Unreachable(f"the database at {self.address} does not answer: {self._reason(error)}") from error
        except psycopg.Error as error:
            reason = str(error).splitlines()[0]
            raise Refused(f"the database at {self.address} refuses what was asked: {reason}") from error

    def _reason(self, error: Exception) -> str:
        """The pool says only that time ran out; asking once more directly tells why."""
        if isinstance(error, psycopg_pool.PoolTimeout):
            try:
                psycopg.connect(self._conninfo, connect_timeout=WAIT).close()
            except psycopg.Error as reason:
                error = reason
        return str(error).strip().splitlines()[0]

    def close(self) -> None:
        self._pool.close()

    def _rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._connection() as connection:
            return connection.execute(_trusted(statement), values or None).fetchall()

    # -- what is there ------------------------------------------------------------------------------

    def _columns(self, table: str) -> dict[str, tuple[str, str]]:
        """A table's columns: name -> (type, comment); empty where there is no such table."""
        tables = self._known
        if tables is None:
            known: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
            for name, column, kind, comment in self._rows(
                "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), col_description(c.oid, a.attnum) "
                "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
                "WHERE n.nspname = %s AND c.relkind IN ('r', 'v', 'm', 'p')",
                [self.schema],
            ):
                known[name][column] = (kind, comment or "")
            if "image" not in known:
                raise Refused(
                    f"schema '{self.schema}' of {self.address} has no table 'image': not a collection of "
                    "DiffusionToolkit's LUNA fork; name the collection with ?schema=NAME"
                )
            tables = self._known = dict(known)
        return tables.get(table, {})

    def _select(self) -> dict[str, str]:
        """SQL for each of ImageRecord's fields, with what this database's ``image`` table has."""
        there = self._columns("image")
        return {
            name: present.format(f"image.{column}") if column in there else absent
            for name, (column, present, absent) in IMAGE_FIELDS.items()
        }

    def _layers(self, anew: bool = False) -> dict[str, _LayerColumn]:
        if anew or self._found_layers is None:
            if anew:
                self._known = None
            found = {}
            for layer, names in LAYER_COLUMNS.items():
                for name in names:
                    column = self._layer_column(layer, name)
                    if column:
                        found[layer] = column
                        break
            self._found_layers = found
        return self._found_layers

    def _layer_column(self, layer: str, name: str) -> _LayerColumn | None:
        kind, comment = self._columns("image").get(name, ("", ""))
        if not kind.startswith("vector"):
            return None
        first = self._rows(f"SELECT vector_dims({name}) FROM image WHERE {name} IS NOT NULL LIMIT 1")
        if not first:
            return None
        dim = int(first[0][0])
        identity = DT_IDENTITIES[layer]
        if comment.lstrip().startswith("{"):
            try:
                identity = Identity.from_json(json.loads(comment))
            except (ValueError, BadAnswer) as error:
                log.warning("the comment of column image.%s is not an identity and is ignored: %s", name, error)
        if identity.dim != dim:
            log.warning("image.%s has %d dimensions, not those of %s: what made it is not known", name, dim, identity)
            identity = replace(identity, architecture="unknown", weights="", dim=dim)
        return _LayerColumn(name, identity)

    def _layer(self, layer: str) -> _LayerColumn:
        checked_layer(layer)
        found = self._layers().get(layer) or self._layers(anew=True).get(layer)
        if found is None:
            raise NotSearchable(f"DT has no vectors in layer '{layer}' ({' or '.join(LAYER_COLUMNS[layer])} is empty)")
        return found

    def health(self) -> Health:
        self._rows("SELECT 1")
        self._columns("image")
        return Health(
            "luna_dt", __version__, ("images", "similar", "clusters", "captions", "files", "sync", "generations")
        )

    # -- section 1 of the contract ------------------------------------------------------------------

    def image(self, image_id: int) -> ImageRecord:
        rows = self._rows(f"SELECT {', '.join(self._select().values())} FROM image WHERE id = %s", [image_id])
        if not rows:
            raise UnknownImage(f"DT has no image {image_id}")
        return self._records(rows)[0]

    def _records(self, rows: Iterable[Sequence[Any]]) -> list[ImageRecord]:
        """Rows of an image's fields, with each image's tags."""
        found = [ImageRecord(*row) for row in rows]
        tags = self._tags([record.id for record in found])
        return [
            replace(r, tags=tuple(dict.fromkeys(tag for tag, _ in tags[r.id]))) if r.id in tags else r for r in found
        ]

    def images(self, query: str = "", after_id: int = 0, limit: int = 100) -> list[ImageRecord]:
        condition, values = self._where(query)
        rows = self._rows(
            f"SELECT {', '.join(self._select().values())} FROM image "
            f"WHERE id > %s AND {condition} ORDER BY id LIMIT %s",
            [after_id, *values, limit],
        )
        return self._records(rows)

    def _where(self, text: str) -> query.Sql:
        there = self._columns("image")
        names = {name: expression for name, expression in self._select().items() if IMAGE_FIELDS[name][0] in there}
        missing = {name: "false" for name in ("for_deletion", "unavailable") if name not in names}
        names = {**missing, **names, "rating": "rating", "date": names.get("created", "''")}
        names |= {"negative": names["negative_prompt"], "delete": names["for_deletion"]}
        if "no_metadata" in names:
            names["nometa"] = names["no_metadata"]
        return query.where(text, query.Columns(names, "%s"))

    def similar(
        self,
        layer: str,
        vector: Float32s | None,
        image_id: int | None,
        top_k: int,
        min_similarity: float,
        text: str | None = None,
    ) -> list[Hit]:
        column = self._layer(layer)
        if text is not None:
            raise NotOffered("the database itself encodes no texts")
        if vector is None:
            rows = self._rows(f"SELECT {column.name}::text FROM image WHERE id = %s", [image_id])
            if not rows:
                raise UnknownImage(f"DT has no image {image_id}")
            if rows[0][0] is None:
                raise NoVector(f"image {image_id} has no vector in layer '{layer}'")
            wanted = rows[0][0]
        else:
            wanted = json.dumps(checked_vectors(vector, column.identity.dim).tolist())
        fields = ", ".join(self._select().values())
        visible, _ = self._where("")
        with self._connection() as connection:
            connection.execute("SELECT set_config('ivfflat.probes', %s, true)", [str(PROBES)])
            connection.execute("SELECT set_config('hnsw.ef_search', %s, true)", [str(min(1000, max(100, 2 * top_k)))])
            rows = connection.execute(
                _trusted(
                    f"SELECT {fields}, 1 - ({column.name} <=> %(v)s::vector) FROM image "
                    f"WHERE {column.name} IS NOT NULL AND {visible} ORDER BY {column.name} <=> %(v)s::vector LIMIT %(k)s"
                ),
                {"v": wanted, "k": top_k},
            ).fetchall()
        near = [row for row in rows if row[-1] >= min_similarity]
        records = self._records(row[:-1] for row in near)
        return [Hit(record.id, row[-1], record) for row, record in zip(near, records, strict=True)]

    def clusters(self) -> list[Cluster]:
        if not self._columns("face_group"):
            return []
        rows = self._rows(
            "SELECT g.id::bigint, COALESCE(g.name, ''), COUNT(DISTINCT d.image_id) FROM face_group g "
            "LEFT JOIN face_group_member m ON m.face_group_id = g.id "
            "LEFT JOIN face_detection d ON d.id = m.face_detection_id GROUP BY g.id ORDER BY g.id"
        )
        return [Cluster(*row) for row in rows]

    def cluster_images(
        self, cluster_id: int, limit: int = 50, min_quality: float = 0, sort: Sort = "quality"
    ) -> list[ClusterImage]:
        known = bool(self._columns("face_group"))
        if not known or not self._rows("SELECT 1 FROM face_group WHERE id = %s", [cluster_id]):
            raise UnknownCluster(f"DT has no cluster {cluster_id}")
        select = self._select()
        order = {
            "confidence": "best.confidence DESC, image.id",
            "quality": f"COALESCE({select['rating']}, 0) DESC, best.confidence DESC, image.id",
            "random": "random()",
        }[sort]
        visible, _ = self._where("")
        rows = self._rows(
            f"SELECT {', '.join(select.values())}, best.confidence FROM image JOIN ("
            "  SELECT d.image_id, MAX(m.similarity_score)::float8 AS confidence FROM face_group_member m"
            "  JOIN face_detection d ON d.id = m.face_detection_id WHERE m.face_group_id = %s GROUP BY d.image_id"
            f") best ON best.image_id = image.id WHERE COALESCE({select['rating']}, 0) / 2.0 >= %s AND {visible} "
            f"ORDER BY {order} LIMIT %s",
            [cluster_id, min_quality, limit],
        )
        records = self._records(row[:-1] for row in rows)
        return [ClusterImage(record, row[-1] or 0.0) for row, record in zip(rows, records, strict=True)]

    def captions(self, image_id: int) -> Captions:
        if not self._rows("SELECT 1 FROM image WHERE id = %s", [image_id]):
            raise UnknownImage(f"DT has no image {image_id}")
        return self._captions([image_id])[0]

    def _tags(self, ids: list[int]) -> dict[int, list[tuple[str, str]]]:
        """For each image its (tag, source), most certain first."""
        found: dict[int, list[tuple[str, str]]] = defaultdict(list)
        if self._columns("image_tags"):
            for image_id, tag, source in self._rows(
                "SELECT image_id, tag, source FROM image_tags WHERE image_id = ANY(%s) "
                "ORDER BY image_id, confidence DESC, tag",
                [ids],
            ):
                found[image_id].append((tag, source))
        return found

    def _captions(self, ids: list[int]) -> list[Captions]:
        tags = self._tags(ids)
        latest: dict[int, dict[str, str]] = defaultdict(dict)
        if self._columns("image_captions"):
            for image_id, source, caption in self._rows(
                "SELECT DISTINCT ON (image_id, source) image_id, source, caption FROM image_captions "
                "WHERE image_id = ANY(%s) ORDER BY image_id, source, updated_at DESC NULLS LAST, id DESC",
                [ids],
            ):
                latest[image_id][source] = caption
        made = []
        for image_id in ids:
            own, texts = tags[image_id], latest[image_id]
            every = list(dict.fromkeys(tag for tag, _ in own))
            best = next((texts[source] for source in ("manual", "joycaption", "openai") if texts.get(source)), "")
            made.append(
                Captions(
                    image_id,
                    ", ".join(tag for tag, source in own if _by(source, "wd")),
                    ", ".join(tag for tag, source in own if _by(source, "joytag")),
                    texts.get("joycaption", ""),
                    ", ".join([*every, best] if best else every),
                    tuple(every),
                )
            )
        return made

    def file(self, image_id: int) -> bytes:
        raise NotOffered(f"the database holds no pictures, only their paths (image {image_id})")

    def control_map(self, image_id: int, kind: str) -> StoredMap:
        raise MapMissing(f"DT's database stores no ControlNet maps (asked for {kind} of image {image_id})")

    def put_map(self, image_id: int, kind: str, made: StoredMap) -> None:
        raise NotOffered(
            f"DT's database keeps no ControlNet maps ({kind} of image {image_id}, {len(made.data):,} bytes)"
        )

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

    def kinds(self) -> list[Kind]:
        layers = self._layers(anew=True)
        kinds = [Kind("images", self._count("SELECT COUNT(*) FROM image"))]
        if rows := self._caption_rows():
            kinds.append(Kind("captions", self._count(f"SELECT COUNT(DISTINCT image_id) FROM ({rows}) r")))
        if self._columns("face_group"):
            kinds.append(Kind("clusters", self._count("SELECT COUNT(*) FROM face_group")))
        for layer, column in layers.items():
            count = self._count(f"SELECT COUNT({column.name}) FROM image")
            kinds.append(Kind(EMBEDDINGS + layer, count, column.identity))
        return kinds

    def _count(self, statement: str) -> int:
        return int(self._rows(statement)[0][0])

    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        layer = layer_of(kind)
        if layer is not None:
            column = self._layer(layer).name
            statement = f"SELECT id::bigint, {self._vector_digest(column)} FROM image WHERE {column} IS NOT NULL"
        elif kind == "images":
            statement = f"SELECT id::bigint, {self._image_digest()} FROM image"
        elif kind == "captions":
            statement = self._caption_digests("true")
        elif kind == "clusters":
            statement = self._cluster_digests("true")
        else:
            raise self._unknown(kind)
        both = self._copy(f"{statement} ORDER BY 1", np.dtype([("id", ">i8"), ("digest", ">i8")]))
        return both["id"].astype(np.int64), both["digest"].astype(np.int64)

    def fetch(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        for at in range(0, max(1, len(ids)), PAGE):
            yield from self._fetch_page(kind, ids[at : at + PAGE])

    def _fetch_page(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        layer = layer_of(kind)
        if layer is not None:
            yield from self._fetch_vectors(self._layer(layer), ids)
            return
        wanted = ids.tolist()
        found: Sequence[Any]
        if kind == "images":
            select = ", ".join(self._select().values())
            rows = self._rows(
                f"SELECT {self._image_digest()}, {select} FROM image WHERE id = ANY(%s) ORDER BY id", [wanted]
            )
            digests, found = [row[0] for row in rows], [ImageRecord(*row[1:]) for row in rows]
        elif kind == "captions":
            pairs = self._rows(self._caption_digests("image_id = ANY(%s)") + " ORDER BY 1", [wanted])
            digests, found = [digest for _, digest in pairs], self._captions([i for i, _ in pairs])
        elif kind == "clusters":
            digests, found = self._fetch_clusters(wanted)
        else:
            raise self._unknown(kind)
        keys = [record.image_id if isinstance(record, Captions) else record.id for record in found]
        if keys:
            yield Batch(np.array(keys, np.int64), np.array(digests, np.int64), list(found))

    def identity(self, layer: str) -> Identity:
        return self._layer(layer).identity

    def _unknown(self, kind: str) -> UnknownLayer:
        names = ", ".join(known.name for known in self.kinds())
        return UnknownLayer(f"there is nothing called '{kind}' to mirror; there is: {names}")

    def _fetch_clusters(self, ids: list[int]) -> tuple[list[int], list[Cluster]]:
        digests = dict(self._rows(self._cluster_digests("g.id = ANY(%s)"), [ids]))
        members: dict[int, list[Member]] = defaultdict(list)
        for cluster_id, image_id, confidence in self._rows(
            "SELECT m.face_group_id, d.image_id, MAX(m.similarity_score)::float8 FROM face_group_member m "
            "JOIN face_detection d ON d.id = m.face_detection_id WHERE m.face_group_id = ANY(%s) GROUP BY 1, 2",
            [ids],
        ):
            members[cluster_id].append(Member(image_id, confidence or 0.0))
        names = self._rows("SELECT id::bigint, COALESCE(name, '') FROM face_group WHERE id = ANY(%s) ORDER BY 1", [ids])
        found = [Cluster(i, name, len(members[i]), tuple(members[i])) for i, name in names if i in digests]
        return [digests[cluster.id] for cluster in found], found

    def _fetch_vectors(self, column: _LayerColumn, ids: Int64s) -> Iterator[Batch]:
        dim = column.identity.dim
        # pgvector's binary form: two 16-bit integers (dimension, unused), then big-endian floats
        vector = np.dtype([("dim", ">i2"), ("unused", ">i2"), ("values", ">f4", (dim,))])
        rows = self._copy(
            f"SELECT id::bigint, {self._vector_digest(column.name)}, {column.name} FROM image "
            f"WHERE {column.name} IS NOT NULL AND id = ANY('{{{','.join(map(str, ids.tolist()))}}}') ORDER BY id",
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
        command = _trusted(f"COPY ({statement}) TO STDOUT (FORMAT BINARY)")
        with self._connection() as connection, connection.cursor() as cursor, cursor.copy(command) as copy:
            data = b"".join(copy)
        body = memoryview(data)[19:-2]  # without the signature (11 bytes), flags and extension (8), and the end mark
        if len(body) % row.itemsize:
            raise BadAnswer(f"{self.address} sent rows of other lengths than the column's dimension says")
        return np.frombuffer(body, row)

    def _vector_digest(self, column: str) -> str:
        """A vector's digest without reading it, where PostgreSQL (17 and later) can tell where it lies.

        A vector above 2 kB lies in the table's TOAST relation under a number that is new whenever the value is
        written and stays when only other columns are; the number comes from one counter of the whole
        database cluster, whose identifier seeds the hash, so that a restored copy starts afresh.
        """
        if self._places is None:
            self._places = self._where_values_lie()
        major, seed = self._places
        content = (
            f"hashbyteaextended(vector_send({column}), 0)"
            if major >= 18
            else f"('x' || left(md5(vector_send({column})), 16))::bit(64)::bigint"
        )
        if seed is None:
            return content
        return f"COALESCE(hashint8extended(pg_column_toast_chunk_id({column})::bigint, {seed}), {content})"

    def _where_values_lie(self) -> tuple[int, int | None]:
        """PostgreSQL's version, and the database cluster's identifier if both let us ask where a value lies."""
        with self._connection() as connection:
            major = connection.info.server_version // 10_000
        if major < 17:
            return major, None
        try:
            return major, self._count("SELECT system_identifier FROM pg_control_system()")
        except Refused as error:
            log.info("vectors are compared by their content, which is slower: %s", error)
            return major, None

    def _image_digest(self) -> str:
        return f"hashtextextended(ROW({', '.join(self._select().values())})::text, 0)"

    def _caption_rows(self) -> str:
        """Every tag and caption with a hash of what we keep of it."""
        parts = []
        if self._columns("image_tags"):
            parts.append(
                "SELECT image_id, hashtextextended(ROW(tag, source, confidence)::text, 0) AS h FROM image_tags"
            )
        if self._columns("image_captions"):
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


def _by(source: str, maker: str) -> bool:
    """Whether a tag's source, such as ``joytag+wdv3large``, names that maker."""
    return any(part.startswith(maker) for part in source.lower().split("+"))


def _trusted(statement: str) -> sql.SQL:
    """Statements are built from this file's own text and discovered column names; values are parameters."""
    return sql.SQL(statement)
