"""The ControlNet maps that are kept on this machine: PNG files, each beside its row in the store, up to a limit.

A map is known by the content of its source, its type, its parameters and the weights that made it.  The least
recently used (LRU) are evicted when the limit is reached.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import secrets
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock, Timeout

from ..errors import StoreError
from ..records import StoredMap, content_digest
from ..store import Store

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

FROM_DT = "dt"  # in the place of the weights of a map that came from DT
LOCKS = 64  # files that keep two processes from making the same map
LOCK_TIMEOUT = 3600.0  # seconds after which whoever makes that map is taken to hang
SPARED = 0.9  # share of the limit that stays when maps are evicted, so that not every new one has to evict
TRUSTED = 0.01  # share of the limit that may be kept before it is looked what other processes have kept


class MapKey(NamedTuple):
    """What a map is of: the digest of its source's content, its type, and its parameters as JSON."""

    source: int
    kind: str
    parameters: str

    @classmethod
    def of(cls, source: int, kind: str, parameters: Mapping[str, Any]) -> MapKey:
        return cls(source, kind, json.dumps(parameters, sort_keys=True))


@dataclass(frozen=True)
class KeptMap:
    """A map with its row's ``number`` and ``file``, and the ``weights`` that made it, or FROM_DT."""

    number: int
    file: str
    weights: str
    stored: StoredMap


class MapCache:
    """The maps that are kept; for threads and processes alike."""

    def __init__(self, store: Store, limit: int) -> None:
        """``limit`` in bytes; 0 keeps nothing."""
        self._store, self.limit = store, limit
        self._folder = store.home / "maps"
        self._room, self._lock = 0, threading.Lock()
        self._used: dict[int, float] = {}

    def close(self) -> None:
        """Writes down which maps were used last."""
        with contextlib.suppress(StoreError):  # which costs no map, only its place in the order
            if self._used:
                with self._store.writing() as db:
                    self._note_used(db)

    def find(self, key: MapKey, weights: str | None) -> KeptMap | None:
        """The map that is kept; one from DT counts for all weights, and so does any where ``weights`` is None."""
        row = self._row(key, weights)
        if row is None:
            return None
        number, name, keypoints, made_by = row
        file = self._folder / name
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            log.info("the map %s that was kept is gone", file)
            self._drop_rows([(number, name)])
            return None
        except OSError as error:
            log.warning("a map that was kept cannot be read: %s", error)
            return None
        self._used[number] = time.time()
        return KeptMap(number, name, made_by, StoredMap(data, keypoints=json.loads(keypoints)))

    def has(self, key: MapKey, weights: str | None) -> bool:
        row = self._row(key, weights)
        return row is not None and (self._folder / row[1]).is_file()

    def _row(self, key: MapKey, weights: str | None) -> Any:
        rows = self._store.rows(
            "SELECT number, file, keypoints, weights FROM maps WHERE source = ? AND kind = ? AND parameters = ? "
            "ORDER BY used DESC",
            key,
        )
        fit = [row for row in rows if weights is None or row[3] in (weights, FROM_DT)]
        return min(fit, key=lambda row: row[3] != FROM_DT, default=None)

    def keep(self, key: MapKey, weights: str, made: StoredMap) -> None:
        """Keeps a map in the place of the one before; raises StoreError where that cannot be done."""
        keypoints = json.dumps(made.keypoints)
        size = len(made.data) + len(keypoints)
        if size > self.limit:
            raise StoreError(
                f"a {key.kind} map of {size:,} bytes is not kept: all maps together may have {self.limit:,} (maps_gb)"
            )
        name = hashlib.blake2b(json.dumps([*key, weights]).encode(), digest_size=16).hexdigest()
        path = self._folder / name[:2] / f"{name}.png"
        part = path.with_suffix(f".{secrets.token_hex(8)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(made.data)
            part.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise StoreError(f"a {key.kind} map could not be kept as {path}: {error}; is the disk full?") from error
        with self._store.writing("maps") as db:
            self._note_used(db)
            db.execute(
                "INSERT OR REPLACE INTO maps (source, kind, parameters, weights, file, bytes, used, keypoints) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [*key, weights, f"{name[:2]}/{name}.png", size, time.time(), keypoints],
            )
        self._evict(size)

    def drop(self, kept: KeptMap) -> None:
        """Forgets a map, as one that turned out to be damaged."""
        self._drop_rows([(kept.number, kept.file)])

    def drop_others(self, key: MapKey, weights: str) -> None:
        """Forgets the maps of that key that other weights made."""
        rows = self._store.rows(
            "SELECT number, file FROM maps WHERE source = ? AND kind = ? AND parameters = ? AND weights != ?",
            [*key, weights],
        )
        self._drop_rows(rows)

    def _drop_rows(self, rows: list[tuple[int, str]]) -> None:
        # the file first: a row without its file is noticed, a file without its row is not
        gone = [(number,) for number, file in rows if self._gone(self._folder / file)]
        with self._store.writing("maps") as db:
            db.executemany("DELETE FROM maps WHERE number = ?", gone)

    @staticmethod
    def _gone(file: Path) -> bool:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:  # Windows keeps a file that is being read
            log.info("%s is in use and stays for now (%s)", file, error)
            return False
        return True

    def _note_used(self, db: Any) -> None:
        used, self._used = self._used, {}
        db.executemany("UPDATE maps SET used = ? WHERE number = ?", [(at, number) for number, at in list(used.items())])

    def _evict(self, added: int) -> None:
        with self._lock:
            self._room -= added
            if self._room >= 0:
                return
            size = self.size()[1]
            if size > self.limit:
                evicted, excess = [], size - int(SPARED * self.limit)
                for number, file, each in self._store.rows("SELECT number, file, bytes FROM maps ORDER BY used"):
                    if excess <= 0:
                        break
                    evicted.append((number, file))
                    excess -= each
                self._drop_rows(evicted)
                size = self.size()[1]
            self._room = min(self.limit - size, int(TRUSTED * self.limit))

    def size(self) -> tuple[int, int]:
        """How many maps are kept, and their bytes."""
        count, size = self._store.rows("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM maps")[0]
        return int(count), int(size)

    def slot(self, key: MapKey) -> int:
        """Which of the locks is that of a map."""
        return content_digest(json.dumps(key).encode()) % LOCKS

    def hold(self, key: MapKey, held: contextlib.ExitStack) -> None:
        """Makes ``held`` hold a map's lock, so that the next who wants the same map finds it; any thread may let it go.

        Where that is not possible the map may be made twice, and no more.
        """
        folder = self._folder / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # not without end: newer filelocks take a lock that another thread will let go for a deadlock then
            held.enter_context(FileLock(folder / f"{self.slot(key)}.lock", thread_local=False).acquire(LOCK_TIMEOUT))
        except (OSError, Timeout) as error:
            log.warning("a %s map is made without a lock: %s", key.kind, error)


def encoded(picture: Image.Image) -> bytes:
    """A map as the PNG that is kept."""
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1, compress_type=zlib.Z_RLE)  # a fifth of the usual time
    return out.getvalue()
