"""Generations in PostgreSQL: a schema of our own, ``luna_dt``, beside DT's tables, which are never written."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import psycopg

from ...errors import BadAnswer, BadInput, NotFound, Refused
from ...generation import Generation
from ...plain import quoted, shown
from .connection import trusted

log = logging.getLogger(__name__)

TABLE = """
CREATE TABLE IF NOT EXISTS luna_dt.generations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, collection text NOT NULL, key text NOT NULL,
    source_image_id bigint, batch_id text NOT NULL, posted json NOT NULL,
    record json NOT NULL, UNIQUE (collection, key));
CREATE INDEX IF NOT EXISTS generations_source ON luna_dt.generations (collection, source_image_id);
CREATE INDEX IF NOT EXISTS generations_batch ON luna_dt.generations (collection, batch_id);
"""
FOUND = "SELECT id, record::text FROM luna_dt.generations WHERE collection = %s AND "
POSTED = "SELECT id, posted::text FROM luna_dt.generations WHERE collection = %s AND key = %s"
CREATING = 0x6C756E61  # an advisory lock: two servers that create the table at once would fail


class Generations:
    """The generations of one collection (a schema of DT's); ``connect`` gives a connection that commits at its end."""

    def __init__(self, connect: Callable[[], AbstractContextManager[psycopg.Connection[Any]]], collection: str) -> None:
        self._connect, self._collection = connect, collection

    def add(self, generation: Generation) -> str:
        """Stores a record, once for each key, and gives its id; raises BadInput when the key is another record's."""
        if not generation.key:
            raise BadInput("a generation needs a key, by which it is stored once")
        record = json.dumps(replace(generation, id="").to_json())
        values = [self._collection, generation.key, generation.source_image_id, generation.batch_id, record, record]
        with self._writing() as connection:
            # the id is taken only if the key is new, so that a repeated record leaves no gap
            connection.execute(
                "INSERT INTO luna_dt.generations (collection, key, source_image_id, batch_id, posted, record) "
                "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (collection, key) DO NOTHING",
                values,
            )
            found = connection.execute(POSTED, [self._collection, generation.key]).fetchone()
        assert found is not None
        stored = _generation(found)  # as it was sent; it may have been amended since
        if _told(stored) != _told(generation):
            raise BadInput(f"the key '{generation.key}' is that of another generation, {stored.id}")
        return stored.id

    def find(self, source_image_id: int | None, batch_id: str | None, after_id: int, limit: int) -> list[Generation]:
        """The generations made from an image, or in a batch, or both; oldest first, a page after an id."""
        condition, values = "id > %s AND ", list[Any]([self._collection, after_id])
        if source_image_id is not None:
            condition += "source_image_id = %s AND "
            values.append(source_image_id)
        if batch_id is not None:
            condition += "batch_id = %s AND "
            values.append(batch_id)
        found = list[Generation]()
        while (wanted := limit - len(found)) > 0:
            rows = self._rows(f"{FOUND} {condition} true ORDER BY id LIMIT %s", [*values, wanted])
            for row in rows:
                try:
                    found.append(_generation(row))
                except BadAnswer as error:  # one that cannot be read stops no other
                    log.warning("%s; it is left out", error)
            if len(rows) < wanted:
                break
            values[1] = rows[-1][0]
        return found

    def _rows(self, statement: str, values: list[Any]) -> list[tuple[Any, ...]]:
        try:
            with self._connect() as connection:
                return connection.execute(trusted(statement), values).fetchall()
        except (Refused, psycopg.Error):
            with self._connect() as connection:
                if _is_missing(connection, "to_regclass('luna_dt.generations')"):
                    return []  # nothing was ever recorded
            raise

    def amend(self, generation_id: str, changes: Mapping[str, Any]) -> Generation:
        """Changes some fields of a stored record; raises BadInput for the key or the id, NotFound."""
        fixed = {"key", "id", "created"} & set(changes)
        if fixed:
            raise BadInput(f"a generation's {' and '.join(sorted(fixed))} cannot be changed")
        with self._writing() as connection:
            found = None
            if re.fullmatch("[0-9]{1,19}", generation_id) and int(generation_id) < 2**63:
                condition = f"{FOUND} id = %s FOR UPDATE"
                found = connection.execute(condition, [self._collection, int(generation_id)]).fetchone()
            if found is None:
                raise NotFound(f"there is no generation {quoted(generation_id)}")
            changed = Generation.from_json({**_generation(found).to_json(), **changes})
            connection.execute(
                "UPDATE luna_dt.generations SET source_image_id = %s, batch_id = %s, record = %s WHERE id = %s",
                [changed.source_image_id, changed.batch_id, json.dumps(replace(changed, id="").to_json()), found[0]],
            )
        return changed

    @contextlib.contextmanager
    def _writing(self) -> Any:
        with self._connect() as connection:
            connection.read_only = False
            try:
                with connection.transaction():
                    if _is_missing(connection, "to_regclass('luna_dt.generations')"):
                        connection.execute("SELECT pg_advisory_xact_lock(%s)", [CREATING])
                        # asked first: PostgreSQL wants the right to create also where there is nothing to create
                        if _is_missing(connection, "to_regnamespace('luna_dt')"):
                            connection.execute("CREATE SCHEMA luna_dt")
                        connection.execute(TABLE)
                    yield connection
            except psycopg.errors.InsufficientPrivilege as error:
                raise Refused(
                    "the database's user may not keep generations; let an administrator run, once: "
                    f"CREATE SCHEMA luna_dt AUTHORIZATION {connection.info.user}"
                ) from error
            finally:
                if not connection.closed:
                    connection.rollback()
                    connection.read_only = True


def _told(generation: Generation) -> dict[str, Any]:
    """What makes two records the same; one of an earlier version has these values where nothing was known."""
    former = {"prompt": "", "negative_prompt": "", "model": "", "seed": 0, "steps": 0, "cfg": 0.0, "denoise": 1.0}
    return {**former, "width": 0, "height": 0, **replace(generation, id="", created="").to_json()}


def _is_missing(connection: psycopg.Connection[Any], what: str) -> bool:
    return connection.execute(f"SELECT {what}").fetchone() == (None,)


def _generation(row: tuple[Any, ...]) -> Generation:
    """A stored record; raises BadAnswer for one that an earlier version, or somebody else, stored in a way that cannot
    be read."""
    try:
        return replace(Generation.from_json(json.loads(row[1])), id=str(row[0]))
    except (ValueError, AttributeError, RecursionError) as error:
        raise BadAnswer(f"generation {row[0]} is stored in a way that cannot be read: {shown(error, 200)}") from error
