"""A database as stock DiffusionToolkit 1.10 makes it: one SQLite file, with drawn pictures in it."""

from __future__ import annotations

import datetime
import hashlib
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from .database import NEGATIVE, Drawing

_STOCK_TABLES = """
CREATE TABLE Image (
  Id integer primary key autoincrement, RootFolderId integer, FolderId integer, Path varchar unique, FileName varchar,
  Prompt varchar, NegativePrompt varchar, Steps integer, Sampler varchar, CFGScale float, Seed bigint, Width integer,
  Height integer, ModelHash varchar, Model varchar, CreatedDate bigint, ModifiedDate bigint, Rating integer,
  Favorite integer, ForDeletion integer, NSFW integer, Unavailable integer, NoMetadata integer, FileSize bigint,
  Hash varchar, Type integer);
CREATE TABLE Album (Id integer primary key autoincrement, Name varchar);
CREATE TABLE AlbumImage (AlbumId integer, ImageId integer);
CREATE TABLE Tag (Id integer primary key autoincrement, Name varchar);
CREATE TABLE ImageTag (ImageId integer, TagId integer);
CREATE TABLE Query (Id integer primary key autoincrement, Name varchar unique, QueryJson varchar);
"""
SAVED_SEARCH = "the best cats"  # a search that is saved in it


def create(file: Path, drawings: Sequence[Drawing]) -> None:
    """Writes the file anew: drawings as images 1, 2 …, an album and a tag for each subject, and a saved search."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for old in (file, file.with_name(file.name + "-wal"), file.with_name(file.name + "-shm")):
        old.unlink(missing_ok=True)
    subjects = sorted({drawing.scene.subject for drawing in drawings})
    start = datetime.datetime(2026, 1, 1, 12) - datetime.datetime(1, 1, 1)
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(_STOCK_TABLES)
        for i, drawing in enumerate(drawings, 1):
            data = drawing.path.read_bytes()
            made = (start.days * 86_400 + start.seconds + 420 * i) * 10_000_000  # .NET's ticks
            values = {
                "Id": i, "RootFolderId": 0, "FolderId": -1, "Path": str(drawing.path), "FileName": drawing.path.name,
                "Prompt": drawing.scene.caption, "NegativePrompt": NEGATIVE, "Steps": drawing.steps,
                "Sampler": drawing.sampler, "CFGScale": 7.0, "Seed": drawing.seed, "Width": drawing.size[0],
                "Height": drawing.size[1], "ModelHash": "d2a31f", "Model": "drawings_v1", "CreatedDate": made,
                "ModifiedDate": made, "Rating": drawing.rating, "Favorite": 0, "ForDeletion": 0, "NSFW": 0, "Unavailable": 0,
                "NoMetadata": 0, "FileSize": len(data), "Hash": hashlib.sha256(data).hexdigest(), "Type": 0,
            }  # fmt: skip
            names = ", ".join(values)
            db.execute(f"INSERT INTO Image ({names}) VALUES ({', '.join('?' * len(values))})", [*values.values()])
            group = subjects.index(drawing.scene.subject) + 1
            db.execute("INSERT INTO AlbumImage VALUES (?, ?)", [group, i])
            db.execute("INSERT INTO ImageTag VALUES (?, ?)", [i, group])
        for table in ("Album", "Tag"):
            db.executemany(f"INSERT INTO {table} (Name) VALUES (?)", ((subject,) for subject in subjects))
        said = {"Query": "cat rating: >= 6", "SearchView": 0}
        db.execute("INSERT INTO Query (Name, QueryJson) VALUES (?, ?)", [SAVED_SEARCH, json.dumps(said)])
        db.commit()
