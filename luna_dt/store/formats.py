"""The format of ``library.db`` as migrations: each is done once, in order, so a new library meets them all.

``PRAGMA user_version`` is the number of the last one.  The table ``migrations`` tells which were done, and when;
those of versions that did not write that down yet are not in it.  A library of each format, written by the code
of its time, is kept in tests/formats.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import StoreError
from ..records import now


@dataclass(frozen=True)
class Migration:
    """What makes format ``number`` of the one before: single SQL statements, and what is done to the ``files`` in the
    library's home."""

    number: int
    name: str
    statements: Iterable[str]
    files: Callable[[Path], None] | None = None


def _drop_old_maps(home: Path) -> None:
    """Maps that were fetched from DT by formats 1 and 2, known by its ids; nothing knows of them now."""
    for old in (home / "maps").glob("*-*.png"):
        old.unlink(missing_ok=True)


MIGRATIONS = (
    Migration(
        1,
        "images, captions, clusters, layers",
        (
            "CREATE TABLE kinds (name TEXT PRIMARY KEY, generation INTEGER NOT NULL, synced TEXT, source TEXT)",
            """CREATE TABLE images (
                id INTEGER PRIMARY KEY, path TEXT NOT NULL, prompt TEXT NOT NULL, negative_prompt TEXT NOT NULL,
                width INTEGER NOT NULL, height INTEGER NOT NULL, model TEXT NOT NULL, model_hash TEXT NOT NULL,
                sampler TEXT NOT NULL, scheduler TEXT NOT NULL, steps INTEGER NOT NULL, cfg REAL NOT NULL,
                seed INTEGER NOT NULL, rating INTEGER, aesthetic_score REAL, favorite INTEGER NOT NULL,
                nsfw INTEGER NOT NULL, for_deletion INTEGER NOT NULL, unavailable INTEGER NOT NULL,
                no_metadata INTEGER NOT NULL, created TEXT NOT NULL, custom_tags TEXT NOT NULL, loras TEXT NOT NULL,
                digest INTEGER NOT NULL)""",
            # SQLite uses it where the condition stands word for word, as of what is mostly hidden: records.hidden
            "CREATE INDEX hidden_images ON images (id) WHERE for_deletion OR unavailable",
            """CREATE TABLE captions (
                image_id INTEGER PRIMARY KEY, wd14_tags TEXT NOT NULL, joytag_tags TEXT NOT NULL,
                joycaption TEXT NOT NULL, combined TEXT NOT NULL, tags TEXT NOT NULL, digest INTEGER NOT NULL)""",
            """CREATE TABLE clusters (
                id INTEGER PRIMARY KEY, name TEXT NOT NULL, image_count INTEGER NOT NULL, digest INTEGER NOT NULL)""",
            """CREATE TABLE cluster_members (
                cluster_id INTEGER NOT NULL REFERENCES clusters ON DELETE CASCADE, image_id INTEGER NOT NULL,
                confidence REAL NOT NULL, PRIMARY KEY (cluster_id, image_id)) WITHOUT ROWID""",
            """CREATE TABLE layers (
                name TEXT PRIMARY KEY, identity TEXT NOT NULL, file TEXT NOT NULL, rows INTEGER NOT NULL)""",
            """CREATE TABLE vectors (
                layer TEXT NOT NULL REFERENCES layers ON DELETE CASCADE, image_id INTEGER NOT NULL,
                digest INTEGER NOT NULL, row INTEGER, norm REAL, PRIMARY KEY (layer, image_id)) WITHOUT ROWID""",
        ),
    ),
    Migration(
        2,
        "layers made here, verdicts, files that were read, outbox, batches",
        (
            "ALTER TABLE layers ADD COLUMN local INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE layers ADD COLUMN verdict TEXT",
            "CREATE TABLE files (image_id INTEGER PRIMARY KEY, stamp TEXT NOT NULL, content INTEGER NOT NULL)",
            """CREATE TABLE outbox (
                position INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, source INTEGER,
                record TEXT NOT NULL, state TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
                due REAL NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', dt_id TEXT NOT NULL DEFAULT '')""",
            "CREATE INDEX outbox_states ON outbox (state)",
            "CREATE INDEX outbox_waiting ON outbox (source, position) WHERE state = 'waiting'",
            "CREATE INDEX outbox_sources ON outbox (source)",
            """CREATE TABLE batches (
                id TEXT PRIMARY KEY, created TEXT NOT NULL, operation TEXT NOT NULL, request TEXT NOT NULL,
                comfyui TEXT NOT NULL, workflow TEXT NOT NULL)""",
            """CREATE TABLE batch_items (
                batch TEXT NOT NULL REFERENCES batches ON DELETE CASCADE, position INTEGER NOT NULL,
                image_id INTEGER NOT NULL, seed TEXT, prompt TEXT, prompt_id TEXT NOT NULL UNIQUE,
                state TEXT NOT NULL, error TEXT NOT NULL DEFAULT '', PRIMARY KEY (batch, position)) WITHOUT ROWID""",
        ),
    ),
    Migration(
        3,
        "ControlNet maps by content, hashes of weights",
        (
            """CREATE TABLE maps (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                source INTEGER NOT NULL, kind TEXT NOT NULL, parameters TEXT NOT NULL, weights TEXT NOT NULL,
                file TEXT NOT NULL, bytes INTEGER NOT NULL, used REAL NOT NULL, keypoints TEXT NOT NULL,
                UNIQUE (source, kind, parameters, weights))""",
            "CREATE INDEX maps_used ON maps (used, bytes)",
            "CREATE TABLE weights (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, sha256 TEXT NOT NULL)",
        ),
        _drop_old_maps,
    ),
    Migration(
        4,
        "what of DT cannot be kept or used",
        (
            """CREATE TABLE set_aside (
                kind TEXT NOT NULL, id INTEGER NOT NULL, digest INTEGER NOT NULL, reason TEXT NOT NULL,
                PRIMARY KEY (kind, id)) WITHOUT ROWID""",
            "CREATE TABLE left_out (reason TEXT PRIMARY KEY) WITHOUT ROWID",
        ),
    ),
    Migration(
        5,
        "the DT that a home belongs to, checksums of vectors",
        (
            "CREATE TABLE home (dt TEXT NOT NULL)",
            "ALTER TABLE vectors ADD COLUMN checksum INTEGER",
            "ALTER TABLE layers ADD COLUMN damaged INTEGER NOT NULL DEFAULT 0",
        ),
    ),
    Migration(
        6,
        "what DT was like when all of it was mirrored, checksums of records",
        (
            "CREATE TABLE mirrored (stamp TEXT NOT NULL)",
            *(f"ALTER TABLE {table} ADD COLUMN checksum INTEGER" for table in ("images", "captions", "clusters")),
        ),
    ),
    Migration(
        7,
        "hashes of files",
        (
            "ALTER TABLE images ADD COLUMN hash TEXT NOT NULL DEFAULT ''",
            "UPDATE images SET checksum = NULL",  # those were of rows without it
        ),
    ),
)


MIGRATIONS_TABLE = (
    "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, done TEXT NOT NULL)"
)


def format_of(connection: sqlite3.Connection) -> int:
    """The number of the last migration of a database; 0 for a new one."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def is_current(connection: sqlite3.Connection) -> bool:
    return format_of(connection) == MIGRATIONS[-1].number


def newer(path: Path, found: int) -> StoreError:
    """The error for a database of a format that only a newer version of luna_dt reads."""
    return StoreError(
        f"{path} was written by a newer version of luna_dt (format {found}, this one reads {MIGRATIONS[-1].number}); "
        "update luna_dt, or use another home (LUNA_DT_HOME) with this one: what DT does not have (records not sent, batches, "
        "layers made here) is in that file alone, so do not delete it"
    )


def migrate(connection: sqlite3.Connection, home: Path) -> None:
    """Brings ``home``'s database to the newest format, within the caller's transaction.

    Raises StoreError for a format that is newer, sqlite3.Error, OSError.
    """
    found, newest = format_of(connection), MIGRATIONS[-1].number
    if found > newest:
        raise newer(home / "library.db", found)
    connection.execute(MIGRATIONS_TABLE)
    missing = [each for each in MIGRATIONS if each.number > found]
    for each in missing:
        for statement in each.statements:
            connection.execute(statement)
        connection.execute(
            "INSERT OR REPLACE INTO migrations (number, name, done) VALUES (?, ?, ?)", [each.number, each.name, now()]
        )
    connection.execute(f"PRAGMA user_version = {newest}")
    for each in missing:  # last, for a transaction does not bring files back
        if each.files:
            each.files(home)
