"""The library on disk: ``library.db`` (SQLite) and one file of vectors per layer; the only source of truth.

A vectors file holds float32 rows, one after the other, and is only ever appended to: a row once named
by SQLite never changes, so readers map it without locks and an index can trust what it has read.  A
changed vector becomes a new row; when too many rows are dead the live ones move to a new file.  Rows
are flushed to disk before the transaction that names them, so a kill leaves at worst unnamed bytes at
the end, which the next append writes over.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from .. import query
from ..errors import BadInput, NotSearchable, StoreError, UnknownCluster, UnknownImage
from ..identity import Identity, Verdict
from ..records import (
    EMBEDDINGS,
    LAYERS,
    Batch,
    Captions,
    Cluster,
    ClusterImage,
    Float32s,
    ImageRecord,
    Int64s,
    checked_layer,
    layer_of,
    now,
)

log = logging.getLogger(__name__)

SCHEMA_VERSION = 3
#: What came with format 2: what was read of which file, records on their way to DT, batches.
SECOND = """
CREATE TABLE files (image_id INTEGER PRIMARY KEY, stamp TEXT NOT NULL, content INTEGER NOT NULL);
CREATE TABLE outbox (
    position INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, source INTEGER, record TEXT NOT NULL,
    state TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '', dt_id TEXT NOT NULL DEFAULT '');
CREATE INDEX outbox_states ON outbox (state);
CREATE INDEX outbox_waiting ON outbox (source, position) WHERE state = 'waiting';
CREATE INDEX outbox_sources ON outbox (source);
CREATE TABLE batches (
    id TEXT PRIMARY KEY, created TEXT NOT NULL, operation TEXT NOT NULL, request TEXT NOT NULL,
    comfyui TEXT NOT NULL, workflow TEXT NOT NULL);
CREATE TABLE batch_items (
    batch TEXT NOT NULL REFERENCES batches ON DELETE CASCADE, position INTEGER NOT NULL, image_id INTEGER NOT NULL,
    seed TEXT, prompt TEXT, prompt_id TEXT NOT NULL UNIQUE, state TEXT NOT NULL, error TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (batch, position)) WITHOUT ROWID;
"""
#: What came with format 3: the ControlNet maps that are kept, and the SHA-256 of weights that were read.
THIRD = """
CREATE TABLE maps (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    source INTEGER NOT NULL, kind TEXT NOT NULL, parameters TEXT NOT NULL, weights TEXT NOT NULL,
    file TEXT NOT NULL, bytes INTEGER NOT NULL, used REAL NOT NULL, keypoints TEXT NOT NULL,
    UNIQUE (source, kind, parameters, weights));
CREATE INDEX maps_used ON maps (used, bytes);
CREATE TABLE weights (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, sha256 TEXT NOT NULL);
"""
SCHEMA = (
    """
CREATE TABLE kinds (name TEXT PRIMARY KEY, generation INTEGER NOT NULL, synced TEXT, source TEXT);
CREATE TABLE images (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL, prompt TEXT NOT NULL, negative_prompt TEXT NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, model TEXT NOT NULL, model_hash TEXT NOT NULL,
    sampler TEXT NOT NULL, scheduler TEXT NOT NULL, steps INTEGER NOT NULL, cfg REAL NOT NULL,
    seed INTEGER NOT NULL, rating INTEGER, aesthetic_score REAL, favorite INTEGER NOT NULL,
    nsfw INTEGER NOT NULL, for_deletion INTEGER NOT NULL, unavailable INTEGER NOT NULL,
    no_metadata INTEGER NOT NULL, created TEXT NOT NULL, custom_tags TEXT NOT NULL, loras TEXT NOT NULL,
    digest INTEGER NOT NULL);
CREATE INDEX hidden_images ON images (id) WHERE for_deletion OR unavailable;
CREATE TABLE captions (
    image_id INTEGER PRIMARY KEY, wd14_tags TEXT NOT NULL, joytag_tags TEXT NOT NULL,
    joycaption TEXT NOT NULL, combined TEXT NOT NULL, tags TEXT NOT NULL, digest INTEGER NOT NULL);
CREATE TABLE clusters (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, image_count INTEGER NOT NULL, digest INTEGER NOT NULL);
CREATE TABLE cluster_members (
    cluster_id INTEGER NOT NULL REFERENCES clusters ON DELETE CASCADE, image_id INTEGER NOT NULL,
    confidence REAL NOT NULL, PRIMARY KEY (cluster_id, image_id)) WITHOUT ROWID;
CREATE TABLE layers (
    name TEXT PRIMARY KEY, identity TEXT NOT NULL, file TEXT NOT NULL, rows INTEGER NOT NULL,
    local INTEGER NOT NULL DEFAULT 0, verdict TEXT);
CREATE TABLE vectors (
    layer TEXT NOT NULL REFERENCES layers ON DELETE CASCADE, image_id INTEGER NOT NULL,
    digest INTEGER NOT NULL, row INTEGER, norm REAL, PRIMARY KEY (layer, image_id)) WITHOUT ROWID;
"""
    + SECOND
    + THIRD
)
#: What brings a library of an older format to the next one.
MIGRATIONS = {
    1: """
    ALTER TABLE layers ADD COLUMN local INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE layers ADD COLUMN verdict TEXT;
    """
    + SECOND,
    2: THIRD,
}
_IMAGE_COLUMNS = [f.name for f in fields(ImageRecord) if f.name != "tags"]  # tags are synced with the captions
_IMAGES = f"INSERT OR REPLACE INTO images VALUES ({', '.join('?' * (len(_IMAGE_COLUMNS) + 1))})"
_COLUMNS = query.Columns(
    {name: name for name in _IMAGE_COLUMNS}
    | {"negative": "negative_prompt", "delete": "for_deletion", "nometa": "no_metadata", "date": "created"}
)
PAGE = 1000  # records taken in one go
#: Dead rows a vectors file may hold before it is rewritten, as a share of all its rows and at least.
COMPACT_SHARE, COMPACT_ROWS = 0.5, 1024


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer at one moment: ``vectors`` float32[rows, dim] (mapped, read only) and, for each row, the image
    it belongs to (``ids``, -1 where dead), whether that is ``visible`` in DT, and its length (``norms``)."""

    name: str
    identity: Identity
    file: Path
    vectors: Float32s
    ids: Int64s
    visible: npt.NDArray[np.bool_]
    norms: Float32s
    generation: tuple[int, int]

    @property
    def rows(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class LayerState:
    """What there is of a layer, without its vectors: ``rows`` in its ``file``, of which ``count`` are some
    image's; ``unusable`` counts vectors DT sent that were NaN, infinite or zero, and pictures that could not
    be read; ``local`` says that it is made here; ``verdict`` is what verifying it last found."""

    name: str
    identity: Identity
    file: str
    rows: int
    count: int
    unusable: int
    synced: str
    local: bool
    verdict: Verdict | None

    @property
    def bytes(self) -> int:
        return self.rows * self.identity.dim * 4


class Store:
    """A library's files under ``home``; safe to use from several threads and, for reading, processes.

    Raises StoreError when the files are damaged, belong to a newer version, or cannot be made.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "library.db"
        try:
            (home / "vectors").mkdir(parents=True, exist_ok=True)
            # one at a time, for SQLite does not wait where two change a new file to WAL
            with (
                FileLock(home / "open.lock", timeout=30),
                contextlib.ExitStack() as opened,
            ):  # closed unless all goes well
                self._reader = self._connect(opened)
                self._writer = self._connect(opened)
                self._create()
                self._opened = opened.pop_all()
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.path} cannot be opened now ({error}); is another program writing it?") from error
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self.path} cannot be opened ({error}); move it away and sync again") from error
        except Timeout as error:
            raise StoreError(f"another program has been opening {home} for 30 s; wait for it or stop it") from error
        except OSError as error:
            raise StoreError(f"{home} cannot be used as the library's home: {error}") from error
        self._read_lock, self._write_lock = threading.RLock(), threading.RLock()

    def _connect(self, opened: contextlib.ExitStack) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        opened.callback(connection.close)
        connection.create_function("LOWER", 1, _lower, deterministic=True)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a file is deleted, and an index saved, only after its commit
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def _create(self) -> None:
        if self._writer.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
            return
        with _transaction(self._writer):
            version = self._writer.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"{self.path} was written by a newer version of luna_dt (format {version}, this one reads "
                    f"{SCHEMA_VERSION}); update luna_dt, or move the file away and sync again"
                )
            steps = [MIGRATIONS[step] for step in range(version, SCHEMA_VERSION)] if version else [SCHEMA]
            for statement in ";".join(steps).split(";"):
                self._writer.execute(statement)
            self._writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            if version in (1, 2):  # maps that were fetched from DT then, known by its ids, of which nothing knows now
                for old in (self.home / "maps").glob("*-*.png"):
                    old.unlink(missing_ok=True)

    def close(self) -> None:
        with self._read_lock, self._write_lock:
            self._opened.close()

    @contextlib.contextmanager
    def sole_writer(self) -> Iterator[None]:
        """Held by whoever syncs or embeds; raises StoreError when another process or thread does already."""
        lock = FileLock(self.home / "sync.lock", timeout=0)
        try:
            with lock:
                yield
        except Timeout as error:
            raise StoreError(f"another sync or embed of {self.home} is running; wait for it or stop it") from error

    # -- reading ------------------------------------------------------------------------------------

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        """What a SELECT finds; raises BadInput for numbers that SQLite cannot hold, StoreError."""
        try:
            with self._read_lock:
                return self._reader.execute(sql, values).fetchall()
        except OverflowError as error:
            raise BadInput("a number is too large for a library's ids and seeds") from error
        except sqlite3.Error as error:
            raise StoreError(f"{self.path} cannot be read: {error}") from error

    def _array(self, fields: list[tuple[str, str]], sql: str, values: Sequence[object] = ()) -> np.ndarray[Any, Any]:
        """The rows as a structured array, taken in parts: a million tuples at once would weigh a gigabyte."""
        parts = [np.empty(0, fields)]
        try:
            with self._read_lock:
                cursor = self._reader.execute(sql, values)
                while rows := cursor.fetchmany(50_000):
                    parts.append(np.array(rows, fields))
        except sqlite3.Error as error:
            raise StoreError(f"{self.path} cannot be read: {error}") from error
        return np.concatenate(parts)

    def images(self, ids: Iterable[int]) -> dict[int, ImageRecord]:
        """The records of those ids that are known."""
        wanted = [int(i) for i in ids]
        found: dict[int, ImageRecord] = {}
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            marks = ",".join("?" * len(part))
            for row in self.rows(f"SELECT {_SELECT_IMAGE} FROM images WHERE id IN ({marks})", part):
                found[row[0]] = _image(row)
        return found

    def image(self, image_id: int) -> ImageRecord:
        found = self.images([image_id])
        if not found:
            raise UnknownImage(f"image {image_id} is not in this library; if DT has it, sync again")
        return found[image_id]

    def find(self, text: str = "", after_id: int = 0, limit: int = 100) -> list[ImageRecord]:
        """Images in id order that fit a query in DT's language (see query.py)."""
        condition, values = query.where(text, _COLUMNS)
        rows = self.rows(
            f"SELECT {_SELECT_IMAGE} FROM images WHERE id > ? AND {condition} ORDER BY id LIMIT ?",
            [after_id, *values, limit],
        )
        return [_image(row) for row in rows]

    def visible(self, text: str = "") -> Iterator[ImageRecord]:
        """Every image that fits a query and that DT does not hide, in id order, a page at a time."""
        last = 0
        while page := self.find(text, last, PAGE):
            yield from (record for record in page if not (record.for_deletion or record.unavailable))
            last = page[-1].id

    def at_paths(self, paths: Iterable[str]) -> dict[str, ImageRecord]:
        """The images that DT has at those paths; its Windows paths are compared without regard to case and slashes."""
        wanted: dict[str, list[str]] = {}
        for path in paths:
            wanted.setdefault(_one_path(path), []).append(path)
        found: dict[str, ImageRecord] = {}
        if wanted:
            for image_id, path in self.rows("SELECT id, path FROM images"):
                if _one_path(path) in wanted:
                    record = self.image(image_id)
                    found.update((each, record) for each in wanted[_one_path(path)])
        return found

    def captions(self, image_id: int) -> Captions:
        rows = self.rows(
            "SELECT image_id, wd14_tags, joytag_tags, joycaption, combined, tags FROM captions WHERE image_id = ?",
            [image_id],
        )
        if rows:
            image_id, wd14, joytag, caption, combined, tags = rows[0]
            return Captions(image_id, wd14, joytag, caption, combined, _split(tags))
        self.image(image_id)
        return Captions(image_id)

    def clusters(self) -> list[Cluster]:
        return [Cluster(*row) for row in self.rows("SELECT id, name, image_count FROM clusters ORDER BY id")]

    def cluster_images(self, cluster_id: int, min_quality: float = 0) -> list[ClusterImage]:
        """A cluster's visible images, best quality first."""
        if not self.rows("SELECT 1 FROM clusters WHERE id = ?", [cluster_id]):
            raise UnknownCluster(f"cluster {cluster_id} is not in this library; if DT has it, sync again")
        rows = self.rows(
            f"SELECT {_SELECT_IMAGE}, confidence FROM cluster_members JOIN images ON id = image_id "
            "WHERE cluster_id = ? AND COALESCE(rating, 0) / 2.0 >= ? AND NOT for_deletion AND NOT unavailable "
            "ORDER BY COALESCE(rating, 0) DESC, confidence DESC, id",
            [cluster_id, min_quality],
        )
        return [ClusterImage(_image(row[:-1]), row[-1]) for row in rows]

    def version_of(self, image_id: int) -> str:
        """Changes when the image's record, captions or tags do; "" for an unknown image."""
        rows = self.rows(
            "SELECT i.digest, c.digest FROM images i LEFT JOIN captions c ON c.image_id = i.id WHERE i.id = ?",
            [image_id],
        )
        return f"{rows[0][0]} {rows[0][1]}" if rows else ""

    def synced(self, kind: str) -> bool:
        """Whether a kind was ever synced to its end, and is still there."""
        return bool(self.rows("SELECT 1 FROM kinds WHERE name = ? AND synced IS NOT NULL", [kind]))

    def generation(self, kind: str) -> int:
        """Changes whenever a row of that kind is added, changed or dropped; 0 for what was never synced."""
        rows = self.rows("SELECT generation FROM kinds WHERE name = ?", [kind])
        return int(rows[0][0]) if rows else 0

    def counts(self) -> dict[str, tuple[int, str]]:
        """For every kind of record: how many are here, and when it was last synced to its end."""
        synced = dict(self.rows("SELECT name, COALESCE(synced, '') FROM kinds"))
        tables = ("images", "captions", "clusters")
        return {t: (self.rows(f"SELECT COUNT(*) FROM {t}")[0][0], synced.get(t, "")) for t in tables}

    def layers(self) -> list[LayerState]:
        rows = self.rows(
            "SELECT l.name, l.identity, l.file, l.rows, COALESCE(k.synced, ''), local, verdict, "
            "(SELECT COUNT(row) FROM vectors v WHERE v.layer = l.name), "
            "(SELECT COUNT(*) FROM vectors v WHERE v.layer = l.name AND row IS NULL) "
            "FROM layers l LEFT JOIN kinds k ON k.name = ? || l.name",
            [EMBEDDINGS],
        )
        states = [
            LayerState(
                name,
                Identity.from_json(json.loads(identity)),
                file,
                written,
                count,
                unusable,
                synced,
                bool(local),
                _verdict(verdict),
            )
            for name, identity, file, written, synced, local, verdict, count, unusable in rows
        ]
        return sorted(states, key=lambda state: LAYERS.index(state.name) if state.name in LAYERS else len(LAYERS))

    def layer_generation(self, layer: str) -> tuple[int, int]:
        """Changes whenever what a search of this layer could find may have changed."""
        return self.generation("images"), self.generation(EMBEDDINGS + layer)

    def layer_identity(self, layer: str) -> Identity:
        """Raises UnknownLayer for a name that is none, NotSearchable for one that holds nothing yet."""
        rows = self.rows("SELECT identity FROM layers WHERE name = ?", [layer])
        if rows:
            return Identity.from_json(json.loads(rows[0][0]))
        raise NotSearchable(f"layer '{checked_layer(layer)}' holds no vectors yet; run: luna-dt sync")

    def is_local(self, layer: str) -> bool:
        """Whether a layer is made here, so that no sync touches it."""
        return bool(self.rows("SELECT 1 FROM layers WHERE name = ? AND local", [layer]))

    def verdict(self, layer: str) -> Verdict | None:
        """What verifying a layer last found; None if it never was."""
        rows = self.rows("SELECT verdict FROM layers WHERE name = ?", [layer])
        return _verdict(rows[0][0]) if rows else None

    def files(self) -> dict[int, tuple[str, int]]:
        """For every picture that was read: its file's stamp then, and a digest of its content."""
        return {i: (stamp, content) for i, stamp, content in self.rows("SELECT image_id, stamp, content FROM files")}

    def content(self, image_id: int, stamp: str | None = None) -> int | None:
        """The digest of a picture's content when it was last read, with that stamp if one is given."""
        rows = self.rows("SELECT content, stamp FROM files WHERE image_id = ?", [image_id])
        return int(rows[0][0]) if rows and stamp in (None, rows[0][1]) else None

    def layer(self, name: str) -> Layer:
        """The layer as it is now; see ``layer_identity`` for the errors."""
        try:
            return self._layer(name)
        except StoreError:  # another process may just have moved the live rows to a new file
            return self._layer(name)

    def _layer(self, name: str) -> Layer:
        self.layer_identity(name)
        with self._read_lock, _transaction(self._reader, "DEFERRED"):
            generation = self.layer_generation(name)
            identity, file, rows = self.rows("SELECT identity, file, rows FROM layers WHERE name = ?", [name])[0]
            named = self._array(
                [("row", "i8"), ("id", "i8"), ("norm", "f4")],
                "SELECT row, image_id, norm FROM vectors WHERE layer = ? AND row IS NOT NULL",
                [name],
            )
            hidden = self._array([("id", "i8")], "SELECT id FROM images WHERE for_deletion OR unavailable")
            made_by = Identity.from_json(json.loads(identity))
            path = self.home / "vectors" / file
            vectors = _mapped(path, rows, made_by.dim)
        ids, norms = np.full(rows, -1, np.int64), np.ones(rows, np.float32)
        ids[named["row"]], norms[named["row"]] = named["id"], named["norm"]
        visible = (ids >= 0) & ~np.isin(ids, hidden["id"])
        return Layer(name, made_by, path, vectors, ids, visible, norms, generation)

    def data_version(self) -> int:
        """Changes whenever another connection has written; a cheap first question."""
        with self._read_lock:
            return int(self._reader.execute("PRAGMA data_version").fetchone()[0])

    # -- writing (by one sync at a time) ------------------------------------------------------------

    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        """The ids and digests held of a kind, in id order."""
        layer, fields = layer_of(kind), [("id", "i8"), ("digest", "i8")]
        if layer is not None:
            both = self._array(fields, "SELECT image_id, digest FROM vectors WHERE layer = ? ORDER BY 1", [layer])
        else:
            both = self._array(fields, f"SELECT {_KEYS[kind]}, digest FROM {kind} ORDER BY 1")
        return both["id"].copy(), both["digest"].copy()

    def put(self, kind: str, batch: Batch) -> None:
        """Adds or replaces a batch of one kind, in one transaction."""
        layer = layer_of(kind)
        if layer is not None:
            self._put_vectors(layer, batch)
            return
        digests = batch.digests.tolist()
        with self.writing(kind):
            if kind == "images":
                self._writer.executemany(_IMAGES, map(_image_row, batch.rows, digests))
            elif kind == "captions":
                rows = (
                    (c.image_id, c.wd14_tags, c.joytag_tags, c.joycaption, c.combined, "\n".join(c.tags), d)
                    for c, d in zip(cast("list[Captions]", batch.rows), digests, strict=True)
                )
                self._writer.executemany("INSERT OR REPLACE INTO captions VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            else:
                self._put_clusters(batch)

    def _put_clusters(self, batch: Batch) -> None:
        for cluster, digest in zip(batch.rows, batch.digests.tolist(), strict=True):
            assert isinstance(cluster, Cluster)
            self._writer.execute("DELETE FROM clusters WHERE id = ?", [cluster.id])
            self._writer.execute(
                "INSERT INTO clusters VALUES (?, ?, ?, ?)", [cluster.id, cluster.name, cluster.image_count, digest]
            )
            self._writer.executemany(
                "INSERT OR REPLACE INTO cluster_members VALUES (?, ?, ?)",
                ((cluster.id, m.image_id, m.confidence) for m in cluster.members),
            )

    def _put_vectors(self, layer: str, batch: Batch) -> None:
        file, rows, dim = self._layer_file(layer)
        vectors = np.ascontiguousarray(batch.rows, dtype="<f4")
        with np.errstate(over="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))  # in float32, as those who search will see it
        usable = np.isfinite(norms) & (norms > 0)
        kept = vectors if usable.all() else vectors[usable]
        try:
            with file.open("r+b") as out:
                out.seek(rows * dim * 4)
                out.write(kept.data)
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise StoreError(f"{file} cannot be written ({error}); is the disk full?") from error
        at = iter(range(rows, rows + len(kept)))
        named = [
            (layer, image_id, digest, next(at) if good else None, norm if good else None)
            for image_id, digest, norm, good in zip(
                batch.ids.tolist(), batch.digests.tolist(), norms.tolist(), usable.tolist(), strict=True
            )
        ]
        with self.writing(EMBEDDINGS + layer):
            # where a vector is replaced, what was judged is not what is there any more
            self._writer.execute(
                "UPDATE layers SET verdict = NULL WHERE name = ? AND verdict IS NOT NULL AND EXISTS (SELECT 1 FROM vectors "
                "WHERE layer = ? AND image_id IN (SELECT value FROM json_each(?)))",
                [layer, layer, json.dumps(batch.ids.tolist())],
            )
            self._writer.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?, ?)", named)
            self._writer.execute("UPDATE layers SET rows = ? WHERE name = ?", [rows + len(kept), layer])

    def drop(self, kind: str, ids: Int64s) -> None:
        """Removes what is gone; an image takes its captions and vectors with it."""
        gone = [(int(i),) for i in ids]
        if not gone:
            return
        kinds = [kind]
        if kind == "images":
            kinds += ["captions", *(EMBEDDINGS + name for (name,) in self.rows("SELECT name FROM layers"))]
        with self.writing(*kinds):
            for each in kinds:
                layer = layer_of(each)
                if layer is None:
                    self._writer.executemany(f"DELETE FROM {each} WHERE {_KEYS[each]} = ?", gone)
                else:
                    self._writer.executemany(
                        "DELETE FROM vectors WHERE layer = ? AND image_id = ?", ((layer, i) for (i,) in gone)
                    )
            if kind == "images":
                self._writer.executemany("DELETE FROM files WHERE image_id = ?", gone)

    def judge(self, judged: Layer, verdict: Verdict) -> None:
        """Keeps what verifying a layer found, with the layer, unless that has changed since."""
        with self.writing(EMBEDDINGS + judged.name):  # a picture may be compared in another way from now on
            self._writer.execute(
                "UPDATE layers SET verdict = ? WHERE name = ? AND file = ? AND rows = ?",
                [json.dumps(verdict.to_json()), judged.name, judged.file.name, judged.rows],
            )

    def put_files(self, files: Iterable[tuple[int, str, int]]) -> None:
        """Remembers (image id, stamp, digest of the content) of pictures that were read."""
        with self.writing():
            self._writer.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", files)

    def finish(self, kind: str, source: str) -> None:
        """Notes that a kind was mirrored to its end, from that address."""
        with self._write_lock, _transaction(self._writer):
            self._writer.execute(
                "INSERT INTO kinds VALUES (?, 1, ?, ?) ON CONFLICT (name) "
                "DO UPDATE SET synced = excluded.synced, source = excluded.source",
                [kind, now(), source],
            )

    def prepare_layer(self, layer: str, identity: Identity, local: bool = False) -> None:
        """Makes room for a layer's vectors; those made with another identity, or elsewhere, are dropped first."""
        if self.rows("SELECT 1 FROM layers WHERE name = ?", [layer]):
            file, rows, dim = self._layer_file(layer)
            whole = file.is_file() and file.stat().st_size >= rows * dim * 4
            if whole and self.layer_identity(layer) == identity and self.is_local(layer) == local:
                return
            reason = "is made in another way" if whole else f"has lost vectors ({file} is missing or cut off)"
            log.warning("layer %s %s: its vectors are taken anew", layer, reason)
            self.remove_layer(layer)
        with self.writing(EMBEDDINGS + layer):
            name = _new_name(layer)
            (self.home / "vectors" / name).write_bytes(b"")
            self._writer.execute(
                "INSERT INTO layers (name, identity, file, rows, local) VALUES (?, ?, ?, 0, ?)",
                [layer, json.dumps(identity.to_json()), name, local],
            )

    def remove_layer(self, layer: str) -> None:
        """Forgets a layer and its vectors."""
        with self.writing(EMBEDDINGS + layer):
            self._writer.execute("DELETE FROM layers WHERE name = ?", [layer])
            self._writer.execute("UPDATE kinds SET synced = NULL WHERE name = ?", [EMBEDDINGS + layer])
        self._sweep()

    def compact(self, layer: str) -> None:
        """Moves the live rows to a new file when too many are dead; readers of the old one go on undisturbed."""
        file, rows, dim = self._layer_file(layer)
        live = self.rows("SELECT row, image_id FROM vectors WHERE layer = ? AND row IS NOT NULL ORDER BY row", [layer])
        if rows - len(live) < max(COMPACT_ROWS, COMPACT_SHARE * rows):
            self._sweep()
            return
        old = _mapped(file, rows, dim)
        at = np.array([row for row, _ in live], np.int64)
        with self.writing(EMBEDDINGS + layer):
            new = file.with_name(_new_name(layer))
            with new.open("wb") as out:
                for start in range(0, len(at), 4096):
                    out.write(np.ascontiguousarray(old[at[start : start + 4096]]).data)
                out.flush()
                os.fsync(out.fileno())
            self._writer.executemany(
                "UPDATE vectors SET row = ? WHERE layer = ? AND image_id = ?",
                ((i, layer, image_id) for i, (_, image_id) in enumerate(live)),
            )
            self._writer.execute("UPDATE layers SET file = ?, rows = ? WHERE name = ?", [new.name, len(live), layer])
        del old
        self._sweep()

    def _sweep(self) -> None:
        """Deletes vectors files that no layer names; Windows keeps one that is still mapped until next time."""
        named = {file for (file,) in self.rows("SELECT file FROM layers")}
        for path in (self.home / "vectors").glob("*.f32"):
            if path.name not in named:
                try:
                    path.unlink()
                except OSError as error:
                    log.info("%s is still in use and stays for now (%s)", path, error)

    def _layer_file(self, layer: str) -> tuple[Path, int, int]:
        identity, file, rows = self.rows("SELECT identity, file, rows FROM layers WHERE name = ?", [layer])[0]
        return self.home / "vectors" / file, rows, Identity.from_json(json.loads(identity)).dim

    @contextlib.contextmanager
    def writing(self, *kinds: str) -> Iterator[sqlite3.Connection]:
        """One transaction, on disk when it ends, that moves those kinds to their next generation; raises StoreError."""
        try:
            with self._write_lock, _transaction(self._writer):
                self._writer.executemany(
                    "INSERT INTO kinds VALUES (?, 1, NULL, NULL) "
                    "ON CONFLICT (name) DO UPDATE SET generation = generation + 1",
                    [(kind,) for kind in kinds],
                )
                yield self._writer
        except sqlite3.Error as error:
            raise StoreError(
                f"{self.path} cannot be written ({error}); is the disk full or the file in use?"
            ) from error


_KEYS = {"images": "id", "captions": "image_id", "clusters": "id"}
_SELECT_IMAGE = (
    ", ".join(f"images.{name}" for name in _IMAGE_COLUMNS)
    + ", (SELECT tags FROM captions WHERE captions.image_id = images.id)"
)
_FLAGS = [i for i, f in enumerate(fields(ImageRecord)) if f.type == "bool"]


def _one_path(path: str) -> str:
    windows = "\\" in path or path[1:2] == ":"
    return path.replace("\\", "/").casefold() if windows else path


def _verdict(text: str | None) -> Verdict | None:
    return Verdict.from_json(json.loads(text)) if text else None


def _new_name(layer: str) -> str:
    """A vectors file's name is never used twice, so that no index can mistake another file for its own."""
    return f"{layer}-{secrets.token_hex(4)}.f32"


def _lower(text: object) -> str | None:
    """SQLite's own LOWER knows ASCII only."""
    return None if text is None else str(text).lower()


def _image(row: Sequence[Any]) -> ImageRecord:
    values = list(row)
    for i in _FLAGS:
        values[i] = bool(values[i])
    values[-1] = _split(values[-1])
    return ImageRecord(*values)


def _split(tags: str | None) -> tuple[str, ...]:
    return tuple(tags.split("\n")) if tags else ()


def _image_row(record: Any, digest: int) -> list[Any]:
    return [*(getattr(record, name) for name in _IMAGE_COLUMNS), digest]


def _mapped(path: Path, rows: int, dim: int) -> Float32s:
    if rows == 0:
        return np.empty((0, dim), np.float32)
    try:
        return np.memmap(path, "<f4", mode="r", shape=(rows, dim))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path} is missing or shorter than its {rows} vectors ({error}); to fetch them anew, run: luna-dt sync"
        ) from error


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, mode: str = "IMMEDIATE") -> Iterator[None]:
    if connection.in_transaction:
        yield
        return
    connection.execute(f"BEGIN {mode}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
