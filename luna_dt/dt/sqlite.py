"""Stock DT's database, ``diffusion-toolkit.db`` of 1.5 to 1.10, read directly and never written.

DT writes while we read, and before 1.9 an open read makes its write fail after a second: so all is read in pages by
key, each taken whole at once.  Columns are read by name, since upgraded databases have another order, and of those that
a version lacks nothing is known.  Albums are its clusters.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..errors import BadQuery, Refused, UnknownCluster, UnknownImage, Unreachable
from ..letters import fold
from ..plain import shown
from ..query import Columns, Names, Part, matches, where
from ..records import (
    FLAGS,
    Batch,
    Captions,
    Cluster,
    ClusterImage,
    ImageRecord,
    Int64s,
    Kind,
    Member,
    content_digest,
    file_hash,
    image_of,
)
from ..storable import checked, each
from .catalog import Catalog, Health, Sort, unknown_kind
from .saved import conditions

NAME = "diffusion-toolkit.db"
ROWS_READ = 2000
BUSY_WAIT = 5.0  # seconds that a write of DT is waited for
YOUNG = 5_000_000_000  # ns; file systems keep times in steps of 2 s and less
VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov")  # some of which 1.10 calls images
_DATE = (  # .NET's ticks of local time: 100 ns since year 1, of which the first is no date that anybody noted
    "CASE typeof({0}) WHEN 'integer' THEN COALESCE(CASE WHEN {0} > 0 THEN strftime('%Y-%m-%dT%H:%M:%S', {0} / 10000000 - 62135596800, "
    "'unixepoch') END, '') ELSE COALESCE({0}, '') END"
)
_TEXT, _COUNT, _FLAG = ("COALESCE({0}, '')", "''"), ("COALESCE({0}, 0)", "0"), ("COALESCE({0}, 0) <> 0", "0")
_REAL = "COALESCE({0}, 0.0)", "0.0"
_KNOWN = "{0}", "NULL"
_TAG = "replace(Tag.Name, char(10), ' ')"  # which is one line, and an empty one is none
#: ImageRecord's fields (but tags) in their order: column, SQL with {0} for it, SQL where there is none.
IMAGE_FIELDS = {
    "id": ("Id", "{0}", ""), "path": ("Path", *_KNOWN), "prompt": ("Prompt", *_TEXT),
    "negative_prompt": ("NegativePrompt", *_TEXT), "width": ("Width", *_COUNT), "height": ("Height", *_COUNT),
    "model": ("Model", *_TEXT), "model_hash": ("ModelHash", *_TEXT), "sampler": ("Sampler", *_TEXT),
    "scheduler": ("Scheduler", *_TEXT), "steps": ("Steps", *_COUNT), "cfg": ("CFGScale", *_REAL),
    "seed": ("Seed", *_COUNT), "rating": ("Rating", *_KNOWN), "aesthetic_score": ("AestheticScore", *_KNOWN),
    "favorite": ("Favorite", *_FLAG), "nsfw": ("NSFW", *_FLAG), "for_deletion": ("ForDeletion", *_FLAG),
    "unavailable": ("Unavailable", *_FLAG), "no_metadata": ("NoMetadata", *_FLAG), "created": ("CreatedDate", _DATE, "''"),
    "custom_tags": ("CustomTags", *_TEXT), "loras": ("", "''", "''"), "hash": ("Hash", *_TEXT),
}  # fmt: skip
#: Columns of Image by the version that added them, newest first.
ADDED = {"type": "1.10", "hash": "1.9", "haserror": "1.8", "workflow": "1.7", "filename": "1.6"}
_FLAG_PLACES = [list(IMAGE_FIELDS).index(flag) for flag in FLAGS]


def database_in(place: str) -> Path | None:
    """The database's file that an address names: itself (also as ``sqlite:///``), or the folder that it lies in."""
    named = re.sub(r"^sqlite:/{2,4}(?=/|[A-Za-z]:)|^sqlite://", "", place)
    file = Path(named).expanduser()
    if (file / NAME).is_file():
        return file / NAME
    return file if named != place or file.suffix.lower() == ".db" else None


def installed_database() -> Path | None:
    """Where DT puts its database when it is installed; a portable one lies beside the program, which its user names."""
    roaming = os.environ.get("APPDATA")
    file = Path(roaming) / "DiffusionToolkit" / NAME if roaming else None
    return file if file and file.is_file() else None


def hides_nsfw(database: Path) -> bool:
    """Whether the ``config.json`` beside a database has DT hide what is not safe for work; False where it cannot be read."""
    try:
        said = json.loads(database.with_name("config.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("HideNSFW") is True


class SqliteCatalog(Catalog):
    """A catalog over one file; see dt/catalog.py.  Raises Unreachable, Refused."""

    def __init__(self, file: Path) -> None:
        self._file = file.absolute()
        self.address = str(self._file)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        with self._lock:
            if self._connection:
                self._connection.close()
            self._connection = None

    def health(self) -> Health:
        columns = self._columns()
        left_out = []
        if videos := self._rows(f"SELECT COUNT(*) FROM Image WHERE NOT ({_pictures(columns)})")[0][0]:
            left_out.append(f"{videos:,} videos, which no picture is of")
        return Health("DiffusionToolkit", self._version(), self.capabilities(), tuple(left_out))

    def image(self, image_id: int) -> ImageRecord:
        found = self._records([image_id])
        if not found:
            raise UnknownImage(f"DT has no image {image_id}")
        return self._with_tags([checked(_image(found[0]))])[0]

    def images(self, query: str = "", after_id: int = 0, limit: int = 100) -> list[ImageRecord]:
        columns = self._columns()
        condition, values = where(query, Columns(columns, names=self._names(), hide=self.hide, saved=self.saved))
        found: list[ImageRecord] = []
        while (wanted := limit - len(found)) > 0:
            rows = self._rows(
                f"SELECT {_selected(columns)} FROM Image WHERE Id > ? AND {_pictures(columns)} AND {condition} "
                "ORDER BY Id LIMIT ?",
                [after_id, *values, min(wanted, ROWS_READ)],
            )
            found += each(_image, rows)
            if not rows:
                break
            after_id = rows[-1][0]
        return self._with_tags(found)

    def saved(self, name: str) -> list[Part]:
        there: dict[str, str] = {}
        if self._has("Query"):
            there = {
                str(each): str(said) for each, said in self._rows("SELECT Name, QueryJson FROM Query ORDER BY Name")
            }
        found = [each for each in (name, *there) if each in there and fold(each) == fold(name)]
        if not found:
            known = ", ".join(f"'{shown(each, 60)}'" for each in [*there][:20]) or "none at all"
            raise BadQuery(f"DT has no saved search '{shown(name, 60)}'; it has: {known}")
        try:
            return conditions(there[found[0]])
        except BadQuery as error:
            raise BadQuery(f"DT's saved search '{shown(found[0], 60)}' cannot be asked here: {error}") from error

    def clusters(self) -> list[Cluster]:
        return [cluster for _, cluster in self._albums()]

    def cluster_images(
        self, cluster_id: int, limit: int = 50, min_quality: float = 0, sort: Sort = "quality"
    ) -> list[ClusterImage]:
        if not self._has("Album") or not self._rows("SELECT 1 FROM Album WHERE Id = ?", [cluster_id]):
            raise UnknownCluster(f"DT has no album {cluster_id}")
        columns = self._columns()
        rating = columns["rating"]
        order = "random()" if sort == "random" else f"COALESCE({rating}, 0) DESC, Id"
        condition, values = where("", Columns(columns, hide=self.hide))
        rows = self._rows(
            f"SELECT {_selected(columns)} FROM Image WHERE Id IN (SELECT ImageId FROM AlbumImage WHERE AlbumId = ?) "
            f"AND {_pictures(columns)} AND COALESCE({rating}, 0) / 2.0 >= ? AND {condition} ORDER BY {order} LIMIT ?",
            [cluster_id, min_quality, *values, limit],
        )
        records = self._with_tags(each(_image, rows))
        return [ClusterImage(record, 1.0) for record in records]

    def captions(self, image_id: int) -> Captions:
        if not self._rows("SELECT 1 FROM Image WHERE Id = ?", [image_id]):
            raise UnknownImage(f"DT has no image {image_id}")
        return Captions.of_tags(image_id, self._tags([image_id])[image_id])

    def as_read(self, image_id: int, data: bytes) -> bool | None:
        if "hash" not in self._there():
            return None
        for size, noted in self._rows("SELECT FileSize, Hash FROM Image WHERE Id = ?", [image_id]):
            if isinstance(noted, str) and re.fullmatch("[0-9A-Fa-f]{64}", noted):
                return size in (None, 0, len(data)) and hashlib.sha256(data).hexdigest() == noted.lower()
        return None

    # -- sync ---------------------------------------------------------------------------------------

    def kinds(self) -> list[Kind]:
        kinds = [Kind("images", self._rows(f"SELECT COUNT(*) FROM Image WHERE {_pictures(self._columns())}")[0][0])]
        if self._has("Tag") and self._has("ImageTag"):
            kinds.append(Kind("captions", self._rows("SELECT COUNT(DISTINCT ImageId) FROM ImageTag")[0][0]))
        if self._has("Album") and self._has("AlbumImage"):
            kinds.append(Kind("clusters", self._rows("SELECT COUNT(*) FROM Album")[0][0]))
        return kinds

    def stamp(self) -> str:
        """A digest of what SQLite itself goes by: the count of changes in the file's header; in WAL mode, where it does not
        count them there, the heads of the log and its index, and the files' times, unless they are so young that a write
        in the same moment could have left them as they are."""
        log, index = (self._file.with_name(self._file.name + end) for end in ("-wal", "-shm"))
        try:
            head = _first(self._file, 100)
            heads = _first(log, 32), _first(index, 96)  # the index's is there twice
            files = map(os.stat, filter(Path.exists, (self._file, log)))
            times = [(each.st_size, each.st_mtime_ns) for each in files if each.st_size]
        except OSError:
            return ""
        in_wal_mode = head[18:19] != b"\1"
        if not head or (in_wal_mode and time.time_ns() - max(changed for _, changed in times) < YOUNG):
            return ""
        said = (self.address, _selected(self._columns()), head, heads if heads[0] else (), times)
        return f"{_digest(repr(said)):x}"

    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        if kind == "images":
            columns, pairs, last = self._columns(), list[tuple[int, int]](), -(2**63)
            while rows := self._rows(
                f"SELECT {_selected(columns)} FROM Image WHERE Id > ? AND {_pictures(columns)} ORDER BY Id LIMIT ?",
                [last, ROWS_READ],
            ):
                pairs += [(row[0], _digest(repr(row))) for row in rows]
                last = rows[-1][0]
        elif kind == "captions":
            pairs = [(i, _digest("\0".join(tags))) for i, tags in self._tags(None).items()]
        elif kind == "clusters":
            pairs = [(cluster.id, digest) for digest, cluster in self._albums()]
        else:
            raise unknown_kind(kind, (known.name for known in self.kinds()))
        both = np.array(sorted(pairs), np.int64).reshape(-1, 2)
        return both[:, 0].copy(), both[:, 1].copy()

    def fetch(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        for at in range(0, len(ids), ROWS_READ):
            wanted = ids[at : at + ROWS_READ].tolist()
            rows: Sequence[Any]
            if kind == "images":
                found = self._records(wanted)
                digests, rows = [_digest(repr(row)) for row in found], [_image(row) for row in found]
                keys = [row[0] for row in found]
            elif kind == "captions":
                tags = self._tags(wanted)
                keys = sorted(tags)
                digests, rows = (
                    [_digest("\0".join(tags[i])) for i in keys],
                    [Captions.of_tags(i, tags[i]) for i in keys],
                )
            elif kind == "clusters":
                albums = self._albums(wanted)
                digests, rows = [digest for digest, _ in albums], [cluster for _, cluster in albums]
                keys = [cluster.id for cluster in rows]
            else:
                raise unknown_kind(kind, (known.name for known in self.kinds()))
            if keys:
                yield Batch(np.array(keys, np.int64), np.array(digests, np.int64), list(rows))

    # -- the database -------------------------------------------------------------------------------

    def _records(self, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        """The fields of each image."""
        columns = self._columns()
        return self._rows(
            f"SELECT {_selected(columns)} FROM Image WHERE Id IN (SELECT value FROM json_each(?)) AND {_pictures(columns)} "
            "ORDER BY Id",
            [json.dumps(list(ids))],
        )

    def _tags(self, ids: Sequence[int] | None) -> dict[int, list[str]]:
        """For each image (of ``ids``; None for every one) its tags: names may be there twice, links lead nowhere."""
        found: dict[int, list[str]] = defaultdict(list)
        if not (self._has("Tag") and self._has("ImageTag")):
            return found
        links = (
            f"SELECT ImageId, {_TAG}, ImageTag.rowid FROM ImageTag JOIN Tag ON Tag.Id = TagId "
            f"WHERE ImageId IS NOT NULL AND typeof(Name) = 'text' AND {_TAG} <> '' AND"
        )
        if ids is None:
            for image_id, tag in self._paged(links, "ImageTag.rowid"):
                found[image_id].append(tag)
        else:
            for at in range(0, len(ids), 500):
                part = ids[at : at + 500]
                marks = ", ".join("?" * len(part))
                for image_id, tag, _ in self._rows(f"{links} ImageId IN ({marks})", part):
                    found[image_id].append(tag)
        return defaultdict(list, {i: sorted(set(tags)) for i, tags in found.items()})

    def _albums(self, ids: Sequence[int] | None = None) -> list[tuple[int, Cluster]]:
        """Every album (of ``ids``) with its digest, in id order."""
        if not (self._has("Album") and self._has("AlbumImage")):
            return []
        members: dict[int, set[int]] = defaultdict(set)
        for album, image_id in self._paged(
            "SELECT AlbumId, ImageId, rowid FROM AlbumImage WHERE ImageId IS NOT NULL AND"
        ):
            members[album].add(image_id)
        found = []
        for album, name in self._rows("SELECT Id, COALESCE(Name, '') FROM Album ORDER BY Id"):
            if ids is None or album in ids:
                own = sorted(members[album])
                cluster = Cluster(album, str(name), len(own), tuple(Member(i, 1.0) for i in own))
                found.append((_digest(f"{name}\0{own}"), cluster))
        return found

    def _paged(self, statement: str, key: str = "rowid") -> Iterator[tuple[Any, ...]]:
        """The rows of a statement that ends in ``AND`` and gives the rowid, its ``key``, last, in pages by it, without it."""
        last = -(2**63)
        while rows := self._rows(f"{statement} {key} > ? ORDER BY {key} LIMIT ?", [last, 10 * ROWS_READ]):
            yield from (row[:-1] for row in rows)
            last = rows[-1][-1]

    def _with_tags(self, records: list[ImageRecord]) -> list[ImageRecord]:
        tags = self._tags([record.id for record in records])
        return [replace(record, tags=tuple(tags[record.id])) if tags.get(record.id) else record for record in records]

    def _names(self) -> dict[str, Names]:
        names = dict[str, Names]()
        if self._has("Tag") and self._has("ImageTag"):
            names["tag"] = Names(
                "Image.Id IN (SELECT ImageId FROM ImageTag JOIN Tag ON Tag.Id = TagId WHERE typeof(Name) = 'text' AND {})",
                _TAG,
            )
        if self._has("Album") and self._has("AlbumImage"):
            names["cluster"] = Names(
                "Image.Id IN (SELECT ImageId FROM AlbumImage JOIN Album ON Album.Id = AlbumId WHERE {})",
                "COALESCE(Album.Name, '')",
                "Album.Id",
            )
        return names

    def _has(self, table: str) -> bool:
        return bool(self._rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE", [table]))

    def _version(self) -> str:
        """The version of DT that has such tables, at least."""
        there = self._there()
        return next((version for column, version in ADDED.items() if column in there), "1.5")

    def _there(self) -> dict[str, str]:
        """The columns of Image, in SQL, by their names in small letters."""
        return {name.lower(): f'"{name}"' for _, name, *_ in self._rows("PRAGMA table_info(Image)")}

    def _columns(self) -> dict[str, str]:
        """For each field of an image, and ``type``, its SQL; asked anew each time, since DT upgrades its database."""
        there = self._there()
        if "id" not in there or "path" not in there:
            raise Refused(f"{self._file} is no database of DiffusionToolkit: it has no table Image with Id and Path")
        columns = {
            field: sql.format(there[name.lower()]) if name.lower() in there else missing
            for field, (name, sql, missing) in IMAGE_FIELDS.items()
        }
        return {**columns, "type": there.get("type", "0")}

    def _rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows at once, so that no read stays open."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                return _all(self._connection, statement, values)
            except sqlite3.OperationalError as error:
                if self._connection:  # it may be another file by now
                    self._connection.close()
                self._connection = None
                locked = "locked" in str(error) or "busy" in str(error)
                reason = "DT has been writing it for seconds; try again" if locked else str(error)
                raise Unreachable(f"DT's database {self._file} cannot be read: {reason}") from error
            except (sqlite3.Error, OverflowError) as error:
                raise Refused(f"DT's database {self._file} cannot be read: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        if not self._file.is_file():
            raise Unreachable(
                f"DT's database {self._file} is not there; name it, or its folder, as DT's address (--dt)"
            )
        address = f"file:{quote(str(self._file))}?mode=ro"
        log = self._file.with_name(self._file.name + "-wal")
        if not os.access(self._file.parent, os.W_OK) and not (log.is_file() and log.stat().st_size):
            address += "&immutable=1"  # where nothing can be written SQLite could not read a database in WAL mode
        connection = sqlite3.connect(
            address, timeout=BUSY_WAIT, isolation_level=None, check_same_thread=False, uri=True
        )
        connection.create_function("REGEXP", 2, matches, deterministic=True)
        return connection


def _selected(columns: dict[str, str]) -> str:
    return ", ".join(columns[field] for field in IMAGE_FIELDS)


def _pictures(columns: dict[str, str]) -> str:
    """The condition of what is no video."""
    ends = {length: [f"'{end}'" for end in VIDEOS if len(end) == length] for length in map(len, VIDEOS)}
    return f"COALESCE({columns['type']}, 0) <> 1 AND " + " AND ".join(
        f"lower(substr(COALESCE({columns['path']}, ''), -{length})) NOT IN ({', '.join(those)})"
        for length, those in ends.items()
    )


def _first(file: Path, size: int) -> bytes:
    """A file's first bytes, unbuffered, since those behind them may be locked; none where it is not there."""
    with contextlib.suppress(FileNotFoundError), file.open("rb", buffering=0) as opened:
        return opened.read(size)
    return b""


def _all(connection: sqlite3.Connection, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
    """A statement's rows; what is no text in them is set aside later, so it is read as it is."""
    try:
        return connection.execute(statement, values).fetchall()
    except sqlite3.OperationalError as error:
        if "decode to UTF-8" not in str(error):
            raise
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")  # takes many times as long
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.text_factory = str


def _image(row: Sequence[Any]) -> ImageRecord:
    values = list(row)
    for place in _FLAG_PLACES:
        values[place] = bool(values[place])
    values[-1] = file_hash(values[-1])
    return image_of(values)


def _digest(said: str) -> int:
    return content_digest(said.encode("utf-8", "surrogateescape"))
