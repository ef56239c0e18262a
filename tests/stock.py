"""Databases as stock DiffusionToolkit makes them: the tables of each version, columns and quirks as its code has them."""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

VERSIONS = ("1.5", "1.6", "1.7", "1.8", "1.9", "1.10")
_IMAGE = {
    "1.5": (
        "Id integer primary key autoincrement", "FolderId integer", "Path varchar", "Prompt varchar",
        "NegativePrompt varchar", "Steps integer", "Sampler varchar", "CFGScale float", "Seed bigint", "Width integer",
        "Height integer", "ModelHash varchar", "Model varchar", "BatchSize integer", "BatchPos integer",
        "CreatedDate bigint", "CustomTags varchar", "Rating integer", "Favorite integer", "ForDeletion integer",
        "NSFW integer", "AestheticScore float", "HyperNetwork varchar", "HyperNetworkStrength float", "ClipSkip integer",
        "ENSD integer", "FileSize bigint", "NoMetadata integer",
    ),
    "1.6": ("FileName varchar", "ModifiedDate bigint"),
    "1.7": ("Unavailable integer", "Workflow varchar", "WorkflowId varchar"),
    "1.8": ("HasError integer",),
    "1.9": ("RootFolderId integer", "Hash varchar", "ViewedDate bigint", "TouchedDate bigint"),
    "1.10": ("Type integer",),
}  # fmt: skip


def ticks(when: str) -> int:
    """.NET's ticks of a local time, 100 ns since year 1."""
    past = datetime.datetime.fromisoformat(when) - datetime.datetime(1, 1, 1)
    return (past.days * 86_400 + past.seconds) * 10_000_000


def create(file: Path, version: str, upgraded_from: str = "", extra: tuple[str, ...] = ()) -> None:
    """An empty database; one that was ``upgraded_from`` an older version has the newer columns last, and NULL in them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    at = VERSIONS.index(version)
    columns = [column for each in VERSIONS[: at + 1] for column in _IMAGE[each]]
    with closing(sqlite3.connect(file)) as db:
        if at >= VERSIONS.index("1.9"):
            db.execute("PRAGMA journal_mode = WAL")
        if upgraded_from:
            old = VERSIONS.index(upgraded_from)
            first = [column for each in VERSIONS[: old + 1] for column in _IMAGE[each]]
            db.execute(f"CREATE TABLE Image ({', '.join(first)})")
            for column in (*columns[len(first) :], *extra):
                db.execute(f"ALTER TABLE Image ADD COLUMN {column}")
        else:  # in an order of its own
            db.execute(f"CREATE TABLE Image ({', '.join([columns[0], *reversed(columns[1:]), *extra])})")
        db.execute(
            'CREATE TABLE Album (Id integer primary key autoincrement, Name varchar, "Order" integer, LastUpdated bigint)'
        )
        db.execute("CREATE TABLE AlbumImage (AlbumId integer, ImageId integer)")
        if at >= VERSIONS.index("1.9"):
            db.execute(
                "CREATE TABLE Query (Id integer primary key autoincrement, Name varchar unique, QueryJson varchar)"
            )
        db.execute("CREATE TABLE Folder (Id integer primary key autoincrement, ParentId integer, Path varchar)")
        if version == "1.10":
            db.execute("CREATE TABLE Tag (Id integer primary key autoincrement, Name varchar)")
            db.execute("CREATE TABLE ImageTag (ImageId integer, TagId integer)")
        db.commit()


def insert(file: Path, table: str, *rows: Mapping[str, Any]) -> None:
    with closing(sqlite3.connect(file)) as db:
        there = {name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")}
        for row in rows:
            known = {name: value for name, value in row.items() if name in there}
            names = ", ".join(f'"{name}"' for name in known)
            db.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(known))})", list(known.values()))
        db.commit()


def run(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
