"""ControlNet maps: the one DT has, else the one that is kept here, else made now, and kept.

A map is known by the content of its source, its type, its parameters and the weights that made it.  It is a PNG
file under ``maps`` in the home, beside its row in the store; the least recently used leave when the limit is
reached.  DT holds one map of a type, so only those made with the usual parameters are asked of it and handed to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from .dt.catalog import Catalog
from .errors import BadPicture, CatalogError, MapMissing, NotFound, PictureMissing, StoreError, Unreachable
from .pixels import local_path, picture_file, read_pictures
from .preproc import Detectors
from .preproc.catalogue import MapType
from .records import ImageRecord, StoredMap, content_digest
from .store import Store

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

FROM_DT = "dt"  # in the place of the weights of a map that came from DT
PNG = b"\x89PNG\r\n\x1a\n"
AWAY = 30.0  # seconds for which a DT that did not answer is not asked again
LOCKS = 64  # files that keep two processes from making the same map
SPARED = 0.9  # share of the limit that stays when it was reached, so that not every map has to make room


@dataclass(frozen=True)
class ControlMap:
    """A ControlNet map: ``picture`` is RGB; made here it has exactly its source's size.

    ``was_cached`` says that it was there already, in DT or here.  ``keypoints`` is OpenPose's JSON object
    (pixels of the source) for a pose that was made here, else None.
    """

    kind: str
    picture: Image.Image
    was_cached: bool
    keypoints: dict[str, Any] | None = None


@dataclass(frozen=True)
class Source:
    """What maps are made of: the ``digest`` of its content, how to open it, and its id if it is DT's."""

    digest: int
    open: Callable[[], Image.Image]
    name: str
    image_id: int | None = None


@dataclass(frozen=True)
class MadeMaps:
    """What making many did: maps ``made``, maps that were ``present``, and (image id, type, reason) of each that failed.

    Where the id is None the whole type failed, as for weights that are not to be had.
    """

    made: int
    present: int
    failed: tuple[tuple[int | None, str, str], ...]

    def to_json(self) -> dict[str, Any]:
        failed = [{"id": image_id, "type": kind, "reason": reason} for image_id, kind, reason in self.failed]
        return {**vars(self), "failed": failed}


class MapCache:
    """The maps that are kept, and the SHA-256 of weights that were read; for threads and processes alike."""

    def __init__(self, store: Store, limit: int) -> None:
        """``limit`` in bytes."""
        self._store, self._limit = store, limit
        self._room: int | None = None
        self._used: dict[int, float] = {}

    def close(self) -> None:
        """Writes down which maps were used last."""
        with contextlib.suppress(StoreError):  # which costs no map, only its place in the order
            if self._used:
                with self._store.writing() as db:
                    self._note_used(db)

    def find(self, source: int, kind: str, parameters: Mapping[str, Any], weights: str | None) -> StoredMap | None:
        """The map that is kept, encoded; one from DT counts for all weights, and so does any if these are not known."""
        row = self._row(source, kind, parameters, weights)
        if row is None:
            return None
        try:
            data = (self._folder / row[1]).read_bytes()
        except OSError as error:
            log.info("a map that was kept is gone: %s", error)
            self._forget(row)
            return None
        self._used[row[0]] = time.time()
        return StoredMap(data, keypoints=json.loads(row[2]))

    def has(self, source: int, kind: str, parameters: Mapping[str, Any], weights: str | None) -> bool:
        return self._row(source, kind, parameters, weights) is not None

    def _row(self, source: int, kind: str, parameters: Mapping[str, Any], weights: str | None) -> Any:
        rows = self._store.rows(
            "SELECT rowid, file, keypoints, weights FROM maps WHERE source = ? AND kind = ? AND parameters = ? "
            "ORDER BY used DESC",
            [source, kind, _text(parameters)],
        )
        fit = [row for row in rows if weights is None or row[3] in (weights, FROM_DT)]
        return min(fit, key=lambda row: row[3] != FROM_DT, default=None)

    def keep(self, source: int, kind: str, parameters: Mapping[str, Any], weights: str, made: StoredMap) -> None:
        """Keeps a map if it fits; what goes wrong is logged, for the map is there all the same."""
        if len(made.data) > self._limit:
            return
        key = [source, kind, _text(parameters), weights]
        name = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()
        file = f"{name[:2]}/{name}.png"
        try:
            path = self._folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            part.write_bytes(made.data)
            part.replace(path)
            values = [*key, file, len(made.data), time.time(), json.dumps(made.keypoints)]
            with self._store.writing() as db:
                self._note_used(db)
                db.execute("INSERT OR REPLACE INTO maps VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            self._make_room(len(made.data))
        except (OSError, StoreError) as error:
            log.warning("a %s map could not be kept: %s", kind, error)

    def drop(self, source: int, kind: str, parameters: Mapping[str, Any], weights: str | None) -> None:
        """Forgets a map, as one that turned out to be damaged."""
        row = self._row(source, kind, parameters, weights)
        if row is not None:
            self._forget(row)

    def _forget(self, row: Any) -> None:
        with contextlib.suppress(OSError):  # Windows keeps a file that is being read; a new one takes its place
            (self._folder / row[1]).unlink(missing_ok=True)
        with self._store.writing() as db:
            db.execute("DELETE FROM maps WHERE rowid = ?", [row[0]])

    def _note_used(self, db: Any) -> None:
        used, self._used = self._used, {}
        db.executemany("UPDATE maps SET used = ? WHERE rowid = ?", [(when, row) for row, when in list(used.items())])

    def _make_room(self, added: int) -> None:
        if self._room is not None:
            self._room -= added
            if self._room >= 0:
                return
        self._room = self._limit - self.size()[1]
        if self._room >= 0:
            return
        gone = []
        for row, file, size in self._store.rows("SELECT rowid, file, bytes FROM maps ORDER BY used"):
            if self._room >= (1 - SPARED) * self._limit:
                break
            try:  # the file first: a row without its file is noticed, a file without its row is not
                (self._folder / file).unlink(missing_ok=True)
            except OSError as error:
                log.info("%s is in use and stays for now (%s)", file, error)
                continue
            gone.append((row,))
            self._room += size
        with self._store.writing() as db:
            db.executemany("DELETE FROM maps WHERE rowid = ?", gone)

    def size(self) -> tuple[int, int]:
        """How many maps are kept, and their bytes."""
        count, size = self._store.rows("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM maps")[0]
        return int(count), int(size)

    def sha256(self, file: Path) -> str:
        """The SHA-256 of a file, read again only when its size or time has changed."""
        seen = file.stat()
        stamp = f"{seen.st_size} {seen.st_mtime_ns}"
        known = self._store.rows("SELECT sha256 FROM weights WHERE path = ? AND stamp = ?", [str(file), stamp])
        if known:
            return str(known[0][0])
        digest = hashlib.sha256()
        with file.open("rb") as data:
            while block := data.read(1 << 20):
                digest.update(block)
        with self._store.writing() as db:
            db.execute("INSERT OR REPLACE INTO weights VALUES (?, ?, ?)", [str(file), stamp, digest.hexdigest()])
        return digest.hexdigest()

    def lock(self, source: int, kind: str, parameters: Mapping[str, Any]) -> FileLock:
        """Held until a map is made and kept, so that the next who wants the same finds it; any thread may let it go."""
        folder = self._folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        at = content_digest(f"{source} {kind} {_text(parameters)}".encode()) % LOCKS
        return FileLock(folder / f"{at}.lock", thread_local=False)

    @property
    def _folder(self) -> Path:
        return self._store.home / "maps"


class Maps:
    """The three places a map may come from, in their order."""

    def __init__(
        self, cache: MapCache, detectors: Detectors, catalog: Callable[[], Catalog], path_map: Mapping[str, str]
    ) -> None:
        self._cache, self._detectors, self._catalog, self._path_map = cache, detectors, catalog, path_map
        self._away: tuple[float, Unreachable] | None = None
        self._keeper = ThreadPoolExecutor(1, "luna_dt maps")
        self._keeping: tuple[str, Future[None]] | None = None  # the file of the lock that is held meanwhile
        self._one_waits = threading.Lock()

    def finish(self, lock: str = "") -> None:
        """Waits until what was made, or what is made under that lock, is kept, and handed to DT."""
        if self._keeping and lock in ("", self._keeping[0]):
            self._keeping[1].result()

    def close(self) -> None:
        self.finish()
        self._keeper.shutdown()

    def get(self, kind: MapType, source: Source, parameters: Mapping[str, Any], make: bool = True) -> ControlMap:
        """The map of a source; raises MapMissing where there is none and it is not to be made; see Library.map."""
        of_dt = source.image_id is not None and parameters == kind.parameters()
        dt_has_none, away = False, ""
        if of_dt:
            try:
                found = self._in_dt(kind, source, parameters)
                if found:
                    return found
            except MapMissing:
                dt_has_none = True
            except Unreachable as error:
                away = f"; and {error}"
        lock, wanted = self._cache.lock(source.digest, kind.name, parameters), source.image_id if dt_has_none else None
        self.finish(lock.lock_file)
        found = self._kept(kind, source, parameters, wanted)
        if found is None:
            if not make:
                raise MapMissing(f"no {kind.name} map of {source.name} is kept, and none is to be made{away}")
            found = self._make(kind, source, parameters, wanted, lock)
        return found

    def has(self, kind: MapType, source: Source, parameters: Mapping[str, Any]) -> bool:
        """Whether a map is kept here."""
        return self._cache.has(source.digest, kind.name, parameters, self._weights(kind))

    def _weights(self, kind: MapType) -> str | None:
        return self._detectors.identity(kind)

    def _kept(
        self, kind: MapType, source: Source, parameters: Mapping[str, Any], wanted: int | None
    ) -> ControlMap | None:
        """A map that is kept here, handed to DT as that of the image ``wanted``."""
        weights = self._weights(kind)
        stored = self._cache.find(source.digest, kind.name, parameters, weights)
        if stored is None:
            return None
        try:
            picture = _decoded(stored.data, f"the {kind.name} map of {source.name}")
        except BadPicture as error:
            log.warning("%s; it is made again", error)
            self._cache.drop(source.digest, kind.name, parameters, weights)
            return None
        self._hand_back(wanted, kind, stored)
        return ControlMap(kind.name, picture, True, stored.keypoints)

    def _make(
        self, kind: MapType, source: Source, parameters: Mapping[str, Any], wanted: int | None, lock: FileLock
    ) -> ControlMap:
        """A map made now; while it is kept and handed to DT, it is used already, and the next may be made."""

        def keep(held: contextlib.ExitStack) -> None:
            with held:
                stored = StoredMap(encoded(made.picture), keypoints=made.keypoints)
                self._cache.keep(source.digest, kind.name, parameters, weights, stored)
            self._hand_back(wanted, kind, stored)

        with contextlib.ExitStack() as held:
            held.enter_context(lock)
            found = self._kept(kind, source, parameters, wanted)  # by another who held the lock before
            if found is not None:
                return found
            made = self._detectors.make(kind, source.open(), parameters)
            weights = self._weights(kind) or ""
            with self._one_waits:
                self.finish()  # so that memory holds one at the most that is not kept yet
                self._keeping = lock.lock_file, self._keeper.submit(keep, held.pop_all())
        return ControlMap(kind.name, made.picture.convert("RGB"), False, made.keypoints)

    def _in_dt(self, kind: MapType, source: Source, parameters: Mapping[str, Any]) -> ControlMap | None:
        """DT's own map, kept here for when DT is away; None if it cannot be used; raises MapMissing, Unreachable."""
        assert source.image_id is not None
        if self._away and time.monotonic() < self._away[0]:
            raise self._away[1]
        name = f"the {kind.name} map of {source.name}"
        try:
            stored = self._catalog().control_map(source.image_id, kind.name)
            data = stored.data or picture_file(stored.path, self._path_map)
            picture = _decoded(data, name)
        except MapMissing:
            raise
        except Unreachable as error:
            self._away = time.monotonic() + AWAY, error
            raise
        except (CatalogError, NotFound, PictureMissing, BadPicture, OSError) as error:
            log.warning("%s is not to be had from DT: %s", name, error)
            return None
        kept = self._cache.find(source.digest, kind.name, parameters, FROM_DT)
        if kept is None or kept.data != data:
            kept = StoredMap(data, keypoints=stored.keypoints)
            self._cache.keep(source.digest, kind.name, parameters, FROM_DT, kept)
        return ControlMap(kind.name, picture, True, stored.keypoints)

    def _hand_back(self, image_id: int | None, kind: MapType, made: StoredMap) -> None:
        if image_id is None:
            return
        try:
            self._catalog().put_map(image_id, kind.name, made)
        except (CatalogError, NotFound) as error:
            log.info("a %s map is not handed to DT: %s", kind.name, error)


class ServedMaps:
    """The maps of a catalog's images, kept where the server runs; what dt/server.py finds and stores."""

    def __init__(self, cache: MapCache, store: Store, path_map: Mapping[str, str]) -> None:
        self._cache, self._store, self._path_map = cache, store, path_map

    def get(self, record: ImageRecord, kind: str) -> StoredMap:
        """Raises BadInput for an unknown type, MapMissing."""
        found = self._cache.find(self._source(record), *_usual(kind), None)
        if found is None:
            raise MapMissing(f"there is no {kind} map of image {record.id}")
        return found

    def put(self, record: ImageRecord, kind: str, given: StoredMap) -> None:
        """Keeps a map in the place of any before; raises BadInput, BadPicture."""
        picture = _decoded(given.data, f"the {kind} map of image {record.id}")
        data = given.data if given.data.startswith(PNG) else encoded(picture)
        source, usual = self._source(record), _usual(kind)
        while self._cache.has(source, *usual, None):
            self._cache.drop(source, *usual, None)
        self._cache.keep(source, *usual, FROM_DT, StoredMap(data, keypoints=given.keypoints))

    def _source(self, record: ImageRecord) -> int:
        """By the picture's content where the server can read it, else by where DT says it is."""
        try:
            return source_digest(self._store, record, self._path_map, lambda: picture_file(record.path, self._path_map))
        except (PictureMissing, OSError):
            return content_digest(f"{record.id} {record.path}".encode())


def source_digest(store: Store, record: ImageRecord, path_map: Mapping[str, str], read: Callable[[], bytes]) -> int:
    """The digest of an image's content; the file is read only if it was not since it last changed.

    Raises what ``read`` does.
    """
    stamp = file_stamp(store, record, path_map)
    known = store.content(record.id, stamp)
    if known is None:
        known = content_digest(read())
        if stamp:
            store.put_files([(record.id, stamp, known)])
    return known


def file_stamp(store: Store, record: ImageRecord, path_map: Mapping[str, str]) -> str:
    """Changes when an image's file does: its size and time, or DT's record where the file is not to be reached.

    "" where neither is known here.
    """
    try:
        seen = local_path(record.path, path_map).stat()
        return f"{seen.st_size} {seen.st_mtime_ns}"
    except (PictureMissing, OSError):
        version = store.version_of(record.id)
        return f"dt {version}" if version else ""


def encoded(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1, compress_type=zlib.Z_RLE)  # a fifth of the usual time
    return out.getvalue()


def _decoded(data: bytes, name: str) -> Image.Image:
    return read_pictures(data, name)[0]


def _usual(kind: str) -> tuple[str, dict[str, Any]]:
    from .preproc.catalogue import map_type

    return kind, map_type(kind).parameters()


def _text(parameters: Mapping[str, Any]) -> str:
    return json.dumps(parameters, sort_keys=True)
