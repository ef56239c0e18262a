"""A Milvus server: one table for each kind of records, and for each layer and what made it; libraries share them.

A row is ``key`` (its library's and its id), ``library`` (the partition key), ``id``, ``source`` (the digest that DT has of it),
``digest`` (of all that is in the row), ``record`` (JSON), the fields by which images are found (fields.py) and ``vector``;
tables without vectors have a short one, since Milvus takes no table without.  Every vector is compared (FLAT): that is right
on every shape of data and under every condition, needs no building, and takes time in proportion to the rows of a machine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from ...errors import BadAnswer, MissingExtra, NotSearchable, Refused, Unreachable
from ...identity import Identity
from ...plain import shown
from ...records import Float32s, Int64s
from ...settings import without_secrets
from .fields import MAX_LISTED, MAX_VARCHAR

Consistency = Literal["Bounded", "Strong"]

LISTED, RECORDS = 50_000, 1000  # rows in one answer: of ids and digests, of records
FARTHER = 64  # times as wide as the last is the next range of ids that is looked at
END = 2**63 - 1  # above every id
MOST_NEAREST = 16_384  # nearest rows that Milvus gives at most
TABLES = "luna_dt_3"  # which begins the names of tables; of another form are other versions'
LIBRARIES = f"{TABLES}_libraries"
PARTITIONS = 16  # over which libraries are spread
NO_VECTOR = (1.0, 0.0)  # of a row in a table without vectors
MAX_JSON = 65_000  # bytes of a record; Milvus takes 65,536


class Server:
    """One database of a Milvus server at ``milvus+http(s)://[user:password@]host:19530[/database][?library=NAME]``.

    Connected to when it is first asked; safe to use from several threads.  Every method raises Unreachable, within
    ``timeout`` seconds; Refused; MissingExtra.
    """

    def __init__(self, address: str, timeout: float) -> None:
        at = urlsplit(address.removeprefix("milvus+"))
        self.address = without_secrets(address)
        self.library = parse_qs(at.query).get("library", [""])[0]
        host = f"[{at.hostname}]" if ":" in (at.hostname or "") else at.hostname
        self._where = {
            "uri": f"{at.scheme}://{host}:{at.port or 19530}",
            "user": unquote(at.username or ""),
            "password": unquote(at.password or ""),
            "db_name": at.path.strip("/"),
        }
        self._timeout = timeout
        self._client: Any = None
        self._loaded: set[str] = set()
        self._lock = threading.Lock()

    def version(self) -> str:
        return str(self._ask("get_server_version"))

    def tables(self) -> list[str]:
        return [name for name in self._ask("list_collections") if name.startswith(f"{TABLES}_")]

    def prepare(
        self, table: str, dim: int = len(NO_VECTOR), about: str = "", fields: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Makes a table ready to be asked and written; one that is missing is made, with ``fields`` by their types."""
        if table in self._loaded:
            return
        if not self._ask("has_collection", table):
            from pymilvus import DataType, MilvusClient

            schema = MilvusClient.create_schema(description=about)
            schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=64)
            schema.add_field("library", DataType.VARCHAR, is_partition_key=True, max_length=1024)
            schema.add_field("id", DataType.INT64)
            schema.add_field("source", DataType.INT64)
            schema.add_field("digest", DataType.INT64)
            schema.add_field("record", DataType.JSON)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
            for name, type_ in fields.items():
                outer, _, inner = type_.partition(" ")
                more: dict[str, Any] = {"max_length": MAX_VARCHAR} if "VARCHAR" in type_ else {}
                if inner:
                    more |= {"element_type": DataType[inner], "max_capacity": MAX_LISTED}
                schema.add_field(name, DataType[outer], **more)
            index = MilvusClient.prepare_index_params()
            index.add_index("vector", index_type="FLAT", metric_type="COSINE")
            self._ask(
                "create_collection",
                table,
                schema=schema,
                index_params=index,
                consistency_level="Bounded",
                num_partitions=PARTITIONS,
            )
        self._ask("load_collection", table)
        self._loaded.add(table)

    def put(self, table: str, library: str, rows: Sequence[Mapping[str, Any]], instead: Int64s) -> None:
        """Writes rows (``id``, ``digest``, ``record``, the table's fields and, where it differs from the digest or there are
        such, ``source`` and ``vector``), ``instead`` of those of these ids."""
        full = {"vector": NO_VECTOR, "library": library}
        data = [{**full, "source": row["digest"], **row, "key": key_of(library, row["id"])} for row in rows]
        # not upsert, which a server of 2.3 puts into the partition of the key: no search of its library finds it there
        self.drop(table, library, instead)
        self._ask("insert", table, data=data)

    def drop(self, table: str, library: str, ids: Int64s) -> None:
        for at in range(0, len(ids), LISTED):
            keys = [key_of(library, i) for i in ids[at : at + LISTED].tolist()]
            self._ask("delete", table, ids=keys)

    def digests(self, table: str, library: str, of: Literal["digest", "source"] = "digest") -> tuple[Int64s, Int64s]:
        """Every id of a library, ascending, with its digest, as of now; where rows are there twice, with other digests."""
        total = self.count(table, library)
        ids, digests, last = array("q"), array("q"), -1
        asked = partial(self._query, table, fields=["id", of])
        for row in self._in_order(table, library, asked, 0, LISTED, "Strong", total):
            if row["id"] != last:
                ids.append(last := row["id"])
                digests.append(row[of])
        once = total == len(ids)
        found = np.array(digests, np.int64)
        return np.array(ids, np.int64), found if once else ~found

    def count(self, table: str, library: str) -> int:
        """How many rows a library has in a table, as of now."""
        return self._count(table, _of(library))

    def fitting(self, table: str, library: str, condition: str) -> int:
        """How many of a library's rows fit a condition, as readers see them."""
        return self._count(table, _of(library, condition), "Bounded")

    def rows(
        self, table: str, library: str, ids: Sequence[int], fields: Sequence[str], consistency: Consistency = "Bounded"
    ) -> dict[int, dict[str, Any]]:
        """Those of the ids that are there, with the named fields."""
        keys, fields = [key_of(library, i) for i in ids], ["id", *fields]
        asked = {"output_fields": fields, "consistency_level": consistency}
        given = self._ask("query", self._ready(table), ids=keys, **asked) if keys else []
        return {row["id"]: dict(row) for row in given}

    def page(
        self, table: str, library: str, condition: str, after_id: int = -1, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Rows that fit a condition, in the order of their ids, with their records."""
        asked = partial(self._query, table, fields=["id", "record"], consistency="Bounded")
        also = f" and ({condition})"
        return list(islice(self._in_order(table, library, asked, max(0, after_id + 1), RECORDS, also=also), limit))

    def _in_order(
        self, table: str, library: str, asked: Callable[[str], list[dict[str, Any]]], first: int, most: int,
        consistency: Consistency = "Bounded", total: int = END, also: str = "",
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """A library's rows from an id on, ascending, until there are ``total``; no more than ``most`` are ``asked`` for, by a
        condition, and held at a time.

        Milvus gives the rows of a query in no order, and its client's iterator leaves some out on a server of 2.3: so
        ranges of ids are asked for, halved until they hold few enough.
        """
        width, ranges = most, [(first, min(first + most, END))]
        while ranges and total > 0:
            low, high = ranges.pop()
            condition = f"{_of(library)} and id >= {low} and id < {high}{also}"
            if high - low > most and (count := self._count(table, condition, consistency)) > most:
                middle = (low + high) // 2
                ranges += [(middle, high), (low, middle)]
                continue
            held = 0
            if high - low <= most or count:
                rows = asked(condition)
                held = len(rows)
                total -= held
                yield from sorted(rows, key=lambda row: int(row["id"]))
            if not ranges and high < END:
                width = most if held > most // FARTHER else width * FARTHER
                ranges = [(high, min(high + width, END))]

    def _count(self, table: str, condition: str, consistency: Consistency = "Strong") -> int:
        return int(self._query(table, condition, ["count(*)"], consistency)[0]["count(*)"])

    def _query(
        self, table: str, condition: str, fields: list[str], consistency: Consistency = "Strong"
    ) -> list[dict[str, Any]]:
        asked = {"filter": condition, "output_fields": fields, "consistency_level": consistency}
        return list(self._ask("query", self._ready(table), **asked))

    def nearest(
        self, table: str, library: str, condition: str, vector: Float32s, k: int
    ) -> list[tuple[int, float, Any]]:
        """The ``k`` nearest rows that fit a condition: id, cosine and record, best first."""
        found = self._search(table, _of(library, condition), vector, k, ["id", "record"])
        return [(hit["entity"]["id"], float(hit["distance"]), hit["entity"]["record"]) for hit in found]

    def cosines(
        self, table: str, library: str, condition: str, vector: Float32s, k: int | None
    ) -> tuple[Int64s, Float32s]:
        """The ids and cosines of the ``k`` nearest rows that fit a condition, best first, or of all, by their ids."""

        def asked(where: str) -> list[dict[str, Any]]:
            found = self._search(table, where, vector, min(k or MOST_NEAREST, MOST_NEAREST), ["id"])
            return [{"id": hit["entity"]["id"], "cosine": hit["distance"]} for hit in found]

        if k is None:
            rows = [*self._in_order(table, library, asked, 0, MOST_NEAREST, also=f" and ({condition})")]
        else:
            rows = asked(_of(library, condition))
        cosines = np.array([row["cosine"] for row in rows], np.float32)
        return np.array([row["id"] for row in rows], np.int64), np.minimum(cosines, np.float32(1))

    def _search(self, table: str, condition: str, vector: Float32s, k: int, fields: list[str]) -> list[Any]:
        found = self._ask(
            "search", self._ready(table), data=[vector], limit=min(k, MOST_NEAREST), output_fields=fields, filter=condition,
            search_params={"metric_type": "COSINE"}, consistency_level="Bounded",
        )  # fmt: skip
        return list(found[0])

    def index_type(self, table: str) -> str:
        """Milvus's name for how a table's vectors are searched."""
        return str(self._ask("describe_index", self._ready(table), index_name="vector")["index_type"])

    def libraries(self) -> dict[str, dict[str, Any]]:
        """What is known of each library here: its ``layers`` with what made them, their ``recall``, what was synced when."""
        if LIBRARIES not in self.tables():
            return {}
        rows = self._query(LIBRARIES, "id == 0", ["library", "record"])
        return {row["library"]: row["record"] for row in rows}

    def note(self, library: str, about: Mapping[str, Any]) -> None:
        self.prepare(LIBRARIES)
        row = {"id": 0, "digest": 0, "record": dict(about)}
        self.put(LIBRARIES, library, [row], instead=np.zeros(1, np.int64))

    def writers(self, library: str) -> list[tuple[int, dict[str, Any]]]:
        """The signs of life of who writes a library, as of now: numbers, and what was noted with them."""
        self.prepare(LIBRARIES)
        rows = self._query(LIBRARIES, f"{_of(library)} and id > 0", ["id", "record"])
        return [(row["id"] - 1, row["record"]) for row in rows]

    def begin_writing(self, library: str, number: int, about: Mapping[str, Any]) -> None:
        """Notes a sign of life of a number that was never given before."""
        row = {"id": number + 1, "digest": 0, "record": dict(about)}
        self.put(LIBRARIES, library, [row], instead=np.empty(0, np.int64))

    def end_writing(self, library: str, numbers: Iterable[int]) -> None:
        self.drop(LIBRARIES, library, np.fromiter(numbers, np.int64) + 1)

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def _ready(self, table: str) -> str:
        if table not in self._loaded:
            if table not in self.tables():
                raise NotSearchable(f"{self.address} has no {table.removeprefix(f'{TABLES}_')} yet; run: luna-dt sync")
            self.prepare(table)
        return table

    def _ask(self, what: str, *args: Any, **named: Any) -> Any:
        return self._bounded(lambda: getattr(self._connected(), what)(*args, timeout=self._timeout, **named))

    def _bounded(self, ask: Callable[[], Any]) -> Any:
        try:
            import grpc
            from pymilvus.exceptions import MilvusException
        except ImportError as error:
            raise MissingExtra("pymilvus", "milvus") from error
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)  # it prints what is raised as well
        try:
            return ask()
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError, ConnectionError) as error:
            told = shown(str(getattr(error, "message", "") or error or type(error).__name__), 300)
            low = (
                f"{told} {error.__cause__ or error.__context__ or ''}".lower()
            )  # its client hides why it is not let in
            if "auth" in low or "permission" in low:
                raise Refused(f"Milvus at {self.address} lets nobody in with that name and password", 401) from error
            if any(sign in low for sign in _AWAY):
                self._loaded.clear()  # one that was started anew may have to load its tables, which is waited for
                raise Unreachable(
                    f"Milvus at {self.address} does not answer ({told}); see that it runs, or wait until it has started"
                ) from error
            raise Refused(f"Milvus at {self.address} refuses: {told}") from error
        except (KeyError, TypeError, IndexError) as error:
            raise BadAnswer(f"Milvus at {self.address} gave an answer that cannot be read: {error!r}") from error

    def _connected(self) -> Any:
        from pymilvus import MilvusClient

        with self._lock:
            if self._client is None:
                self._client = MilvusClient(**self._where, timeout=self._timeout)
            return self._client


_AWAY = (
    "unavailable", "connect", "deadline", "timeout", "timed out", "not ready", "no available", "closed", "not loaded",
    "not fully loaded", "recovering", "channel", "server is not", "node not", "initializing", "abnormal", "retry",
)  # fmt: skip


def key_of(library: str, image_id: int) -> str:
    """A row's key: ids are counted from 1 in every DT."""
    return f"{hashlib.sha256(library.encode()).hexdigest()[:24]}{image_id:020d}"


def _of(library: str, condition: str = "") -> str:
    """The condition that a row is a library's, and another."""
    return f"library == {json.dumps(library)}" + (f" and ({condition})" if condition else "")


def table_of(kind: str, identity: Identity | None = None) -> str:
    """The table of a kind of records, or of a layer made in that way."""
    made_by = (
        hashlib.sha256(json.dumps(identity.to_json(), sort_keys=True).encode()).hexdigest()[:8] if identity else ""
    )
    return "_".join(filter(None, [TABLES, kind.replace(".", "_"), made_by]))
