"""What was seen of a folder's pictures: one small SQLite file in the library's home, ``folders/….db``.

``looked`` holds what each file said when it was last read, and is made anew at need.  ``pictures`` is the truth: which id
is at which path, and by which content it is known.  Content is a file's size with a digest of it, of a large one of its
first, middle and last part: that tells pictures apart, whose texts and packed pixels differ all through, and a library of
100,000 needs 20 GB less to be read.  Two files that are the same in all that are one picture's copies; each has its id.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import BadPicture, Refused, Unreachable
from ..provenance import Made, picture
from ..query import matches
from ..records import content_digest
from .tree import NOT_EVERYWHERE, Stamp, Tree, look

FORMAT = 2
PART_READ = 64 << 10  # bytes of a large file's beginning, middle and end
READERS = 8  # files that are read at once: disks and servers answer several as fast as one
FILES_AT_ONCE = 512  # files whose texts are kept in one transaction
NAMED = 20  # files that are left out by their names; more are counted
_TABLES = """
CREATE TABLE library (identity TEXT NOT NULL, folder TEXT NOT NULL, scanned INTEGER NOT NULL DEFAULT 0);
CREATE TABLE pictures (id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT UNIQUE, content TEXT NOT NULL, name TEXT NOT NULL);
CREATE INDEX pictures_content ON pictures (content);
CREATE TABLE folders (id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE);
CREATE TABLE left_out (reason TEXT NOT NULL);
CREATE TABLE looked (
  path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, content TEXT NOT NULL, problem TEXT NOT NULL,
  folder TEXT NOT NULL, digest INTEGER NOT NULL, prompt TEXT NOT NULL, negative_prompt TEXT NOT NULL,
  width INTEGER NOT NULL, height INTEGER NOT NULL, model TEXT NOT NULL, model_hash TEXT NOT NULL, sampler TEXT NOT NULL,
  scheduler TEXT NOT NULL, steps INTEGER NOT NULL, cfg REAL NOT NULL, seed INTEGER NOT NULL, rating INTEGER,
  no_metadata INTEGER NOT NULL, created TEXT NOT NULL, tags TEXT NOT NULL, reading INTEGER NOT NULL
) WITHOUT ROWID;
"""


class Looked(NamedTuple):
    """What a file said when it was read: the columns of ``looked``."""

    path: str
    size: int
    mtime_ns: int
    content: str
    problem: str
    folder: str
    digest: int = 0
    prompt: str = ""
    negative_prompt: str = ""
    width: int = 0
    height: int = 0
    model: str = ""
    model_hash: str = ""
    sampler: str = ""
    scheduler: str = ""
    steps: int = 0
    cfg: float = 0.0
    seed: int = 0
    rating: int | None = None
    no_metadata: bool = False
    created: str = ""
    tags: str = "[]"
    reading: int = picture.READING


class Seen:
    """The file for one folder.  Raises Refused where it cannot be used, Unreachable where the folder is away."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        named = hashlib.sha256(os.path.normcase(folder).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._file = home / "folders" / f"{named}.db"
        self._skipped = {os.path.normcase(home), os.path.normcase(home / "maps")}
        self._lock, self._scanning = threading.RLock(), threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        with self._lock:
            if self._connection:
                self._connection.close()
            self._connection = None

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        with self._using() as db:
            return db.execute(statement, values).fetchall()

    def scan(self) -> None:
        """Brings what is known to what is there; only files whose size or time is new, or that were understood by an
        older version, are read.

        What was read is kept as it comes, so that a scan that was stopped goes on from there.
        """
        with self._scanning:
            tree = self._find()
            known = {
                path: (Stamp(size, time), reading)
                for path, size, time, reading in self.rows("SELECT path, size, mtime_ns, reading FROM looked")
            }
            new = sorted(
                (path for path, stamp in tree.pictures.items() if known.get(path) != (stamp, picture.READING)),
                key=lambda path: (tree.pictures[path].mtime_ns, path),  # ids in the order in which pictures were made
            )
            failed: dict[str, str] = {}
            keep = f"INSERT OR REPLACE INTO looked VALUES ({', '.join('?' * len(Looked._fields))})"
            pool = ThreadPoolExecutor(READERS, "luna_dt folder")
            try:
                for at in range(0, len(new), FILES_AT_ONCE):
                    part = new[at : at + FILES_AT_ONCE]
                    read = list(pool.map(lambda path: self._read(path, tree.pictures[path], failed), part))
                    with self._writing() as db:
                        db.executemany(keep, filter(None, read))
            finally:
                pool.shutdown(cancel_futures=True)
            gone = [path for path in known if path not in tree.pictures and not _below(path, tree.unread)]
            with self._writing() as db:
                db.executemany("DELETE FROM looked WHERE path = ?", ((path,) for path in gone))
                self._settle(db)
                db.execute("DELETE FROM left_out")
                db.executemany(
                    "INSERT INTO left_out VALUES (?)", ((each,) for each in self._left_out(db, tree, failed))
                )
                db.execute("UPDATE library SET scanned = scanned + 1")

    def must_be_there(self) -> None:
        """Raises Unreachable where the folder is away, or empty as the place of a drive that is away."""
        with self._reaching(), os.scandir(self.folder) as entries:
            if next(entries, None) is None:
                raise self._empty()

    def _find(self) -> Tree:
        with self._reaching():
            tree = look(self.folder, self._skipped)
        if tree.empty:
            raise self._empty()
        return tree

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unreachable(
                f"the folder {self.folder} cannot be read: {error.strerror or error}; is its drive plugged in?"
            ) from error

    def _empty(self) -> Unreachable:
        return Unreachable(f"the folder {self.folder} is empty; is its drive plugged in, or another folder meant?")

    def _settle(self, db: sqlite3.Connection) -> None:
        """Says which id is whose: a picture keeps its own where it lies, and takes it along where its content went.

        A file with the content of an id that is no longer where it was is that picture, moved, even where another file
        took its place.  Of the rest, one at a known path is that picture, changed; all others are new, copies among them.
        """
        files = dict(db.execute("SELECT path, content FROM looked"))
        owners: dict[str, list[tuple[int, str]]] = defaultdict(list)
        at: dict[str, tuple[int, str]] = {}
        for image_id, path, content, name in db.execute("SELECT id, path, content, name FROM pictures ORDER BY id"):
            owners[content].append((image_id, name))
            if path is not None:
                at[path] = image_id, content
        settled = {path: at[path][0] for path, content in files.items() if path in at and at[path][1] == content}
        loose = [path for path in files if path not in settled]
        if not loose and len(settled) == len(at):
            return
        held = set(settled.values())
        for same_name in (True, False):
            for path in loose:
                if path not in settled and files[path]:
                    for image_id, name in owners.get(files[path], ()):
                        if image_id not in held and (name == Path(path).name or not same_name):
                            settled[path] = image_id
                            held.add(image_id)
                            break
        for path in loose:
            if path not in settled and path in at and at[path][0] not in held:
                settled[path] = at[path][0]
                held.add(at[path][0])
        moved = {path: image_id for path, image_id in settled.items() if at.get(path, (0, ""))[0] != image_id}
        away = [image_id for path, (image_id, _) in at.items() if settled.get(path) != image_id]
        db.executemany("UPDATE pictures SET path = NULL WHERE id = ?", ((i,) for i in away))
        changed = {path for path in loose if path in settled} | set(moved)
        db.executemany(
            "UPDATE pictures SET path = ?, content = ?, name = ? WHERE id = ?",
            ((path, files[path], Path(path).name, settled[path]) for path in changed),
        )
        when = dict(db.execute("SELECT path, mtime_ns FROM looked"))
        fresh = sorted((path for path in loose if path not in settled), key=lambda path: (when[path], path))
        db.executemany(
            "INSERT INTO pictures (path, content, name) VALUES (?, ?, ?)",
            ((path, files[path], Path(path).name) for path in fresh),
        )
        db.execute(
            "INSERT OR IGNORE INTO folders (path) SELECT DISTINCT folder FROM looked WHERE folder <> '' ORDER BY 1"
        )

    def _left_out(self, db: sqlite3.Connection, tree: Tree, failed: dict[str, str]) -> Iterator[str]:
        others = dict(tree.others)
        unopened = {ending: others.pop(ending) for ending in sorted(others) if ending in NOT_EVERYWHERE}
        if videos := sum(others.values()):
            yield f"{videos:,} videos, which no picture is of"
        for ending, count in unopened.items():
            if count:
                yield f"{count:,} files {ending}, which cannot be opened here"
        named = {
            **tree.unread,
            **failed,
            **dict(db.execute("SELECT path, problem FROM looked WHERE problem <> ''")),
            **dict.fromkeys(tree.odd, "its name is no Unicode"),
        }
        for path in sorted(named)[:NAMED]:
            shown = os.path.relpath(path, self.folder).encode("utf-8", "backslashreplace").decode()
            yield f"{shown}: {named[path]}"
        if len(named) > NAMED:
            yield f"{len(named) - NAMED:,} more files and folders that cannot be read"

    # -- one file -----------------------------------------------------------------------------------

    def _read(self, path: str, stamp: Stamp, failed: dict[str, str]) -> Looked | None:
        """What a file says; None, and why, where it cannot be opened now, which is tried again at every scan."""
        folder = path[len(str(self.folder)) :].replace(os.sep, "/").strip("/").rpartition("/")[0]
        try:
            with Path(path).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                data: Any = file
                if size <= 3 * PART_READ:
                    data = io.BytesIO(file.read(3 * PART_READ))
                    parts = [data.getvalue()]
                else:
                    parts = [_part(file, at) for at in (0, (size - PART_READ) // 2, size - PART_READ)]
                    file.seek(0)
                base = (path, *stamp, _content(size, parts))
                try:
                    if not size:
                        raise BadPicture("it is empty")
                    return _looked(base, folder, picture.read(data))
                except (BadPicture, MemoryError) as error:
                    return Looked(*base, str(error) or "there is not enough memory for it", folder)
        except OSError as error:
            failed[path] = error.strerror or str(error)
            return None

    # -- the file of our own ------------------------------------------------------------------------

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                yield self._connection
            except (sqlite3.Error, OSError) as error:
                raise Refused(
                    f"{self._file}, which knows the pictures of {self.folder}, cannot be used: {error}; if it is damaged, "
                    "move it away and sync again: every picture gets a new id then"
                ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._using() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                db.rollback()
                raise

    def _connect(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._file, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            db.create_function("REGEXP", 2, matches, deterministic=True)
            db.execute("BEGIN IMMEDIATE")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in filter(str.strip, _TABLES.split(";")):
                    db.execute(statement)
                db.execute(
                    "INSERT INTO library (identity, folder) VALUES (?, ?)", [secrets.token_hex(16), str(self.folder)]
                )
                db.execute(f"PRAGMA user_version = {FORMAT}")
            elif version == 1:
                db.execute("ALTER TABLE looked ADD COLUMN reading INTEGER NOT NULL DEFAULT 0")
                db.execute(f"PRAGMA user_version = {FORMAT}")
            elif version != FORMAT:
                raise Refused(f"{self._file} was written by a newer version of luna_dt; use that one")
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db


def _looked(base: tuple[str, int, int, str], folder: str, told: picture.Told) -> Looked:
    made, seed = told.made, told.made.seed or 0
    said = Looked(
        *base,
        problem="",
        folder=folder,
        prompt=_storable(made.prompt),
        negative_prompt=_storable(made.negative),
        width=told.width,
        height=told.height,
        model=_storable(made.model),
        model_hash=_storable(told.model_hash),
        sampler=_storable(made.sampler),
        scheduler=_storable(made.scheduler),
        steps=made.steps or 0,
        cfg=made.cfg or 0.0,
        seed=seed - 2**64 if seed >= 2**63 else seed,  # as stock DT keeps it
        rating=None if told.rating is None else 2 * told.rating,
        no_metadata=made == Made(),
        created=_local_time(base[2]),
        tags=_storable(json.dumps(told.tags, ensure_ascii=False)),
    )
    return said._replace(digest=content_digest(repr(said._replace(reading=0)).encode()))


def _storable(text: str | None) -> str:
    """A text without half a character, which JSON may hold; "" for what is unknown."""
    return (
        text or ""
        if text is None or text.isascii()
        else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def _local_time(nanoseconds: int) -> str:
    try:
        return datetime.fromtimestamp(nanoseconds // 10**9).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return ""


def _part(file: io.BufferedReader, at: int) -> bytes:
    file.seek(at)
    return file.read(PART_READ)


def _content(size: int, parts: Iterable[bytes]) -> str:
    """What a file is known by; "" for an empty one, which is like no other."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return f"{size}:{digest.hexdigest()}" if size else ""


def _below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder + os.sep) for folder in folders)
