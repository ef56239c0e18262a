"""Small pictures of pictures, made once and kept on disk under a limit; DT's own are used where they fit."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import os
import secrets
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .errors import BadPicture, PictureMissing
from .paths import MAX_FILE
from .pixels import shrunk, upright_size

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

SIDES = (128, 256, 512, 1024)  # pixels of the longer side; a size that is asked for is made as the next of these
LIMIT = 1_000_000_000  # bytes of all that are kept in a home; some 100,000 of the usual size
PIXELS = 1 << 25  # of a picture that a thumbnail is made of: some 130 MB while it is
LARGE = 1 << 22  # pixels, from which on pictures are opened one at a time
STAYS = 0.9  # share of the limit that stays when thumbnails are evicted
ADDED_UNSEEN = 0.02  # share of the limit that may be added before it is looked what others have added
USED_AGAIN = 3600.0  # seconds for which the time of the last use may be behind
DTS = "dt_thumbnails.db"
DTS_BYTES, DTS_SECONDS = 1 << 20, 0.5  # that one of DT's thumbnails may have, and take to be found
_SHAPE = 0.03  # by which share the shape of one of DT's may differ, by its sides' rounding


class Thumbnails:
    """Thumbnails by file, stamp and size; for threads and processes alike, the least recently used (LRU) evicted."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        """``limit`` in bytes; 0 keeps nothing.  The folder is made when there is something to keep."""
        self._folder, self._limit = folder, limit
        self._room = 0  # bytes that may be added before it is looked again
        self._lock, self._large = threading.Lock(), threading.Lock()

    def get(self, path: Path, size: int, stamp: str, file: BinaryIO | None = None) -> bytes:
        """A picture's thumbnail as WebP, upright, 8-bit RGB, its longer side the next of SIDES, or less if it is smaller.

        ``stamp`` changes whenever the file does (files.stamp).  ``file``: the picture as opened by who looked at what
        it is; else ``path`` is opened, which also says where DT's own thumbnails lie.
        Raises BadPicture for what is none or has more than PIXELS, PictureMissing.
        """
        side = side_for(size)
        name = hashlib.blake2b(f"{path}\n{stamp}\n{side}".encode(errors="surrogatepass"), digest_size=16).hexdigest()
        kept = self._folder / name[:2] / f"{name}.webp"
        if found := self._found(kept):
            return found
        try:
            if not file and not path.is_file():  # a pipe could be read for ever
                raise PictureMissing(f"{path}: no such file")
            with contextlib.nullcontext(file) if file else path.open("rb") as data:
                made = self._made(path, side, data)
        except OSError as error:
            raise PictureMissing(f"{path} cannot be opened: {error.strerror or error}") from error
        if self._limit:
            self._keep(kept, made)
        return made

    def _made(self, path: Path, side: int, data: BinaryIO) -> bytes:
        if data.seek(0, os.SEEK_END) > MAX_FILE:
            raise BadPicture(f"{path}: {data.tell():,} bytes are too many for a picture")
        shape = upright_size(data)  # also of what has too many pixels
        if small := _of_dt(path, side, shape):
            return webp(small)
        if shape is None:
            raise BadPicture(f"{path}: not a picture that can be read")
        with self._large if math.prod(shape) > LARGE else contextlib.nullcontext():
            return webp(shrunk(data, str(path), side, PIXELS))

    def _found(self, kept: Path) -> bytes:
        try:
            data = kept.read_bytes()
            if time.time() - kept.stat().st_mtime > USED_AGAIN:
                os.utime(kept)
        except OSError:  # also where it can be read, but not be written
            data = b""
        # a machine that went down may leave a name with nothing behind it, or half of it
        whole = data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 == len(data)
        return data if whole else b""

    def _keep(self, kept: Path, data: bytes) -> None:
        part = kept.with_suffix(f".{secrets.token_hex(8)}.part")
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data)
            part.replace(kept)
        except OSError as error:  # it is made again when it is asked for again
            log.warning("a thumbnail could not be kept as %s: %s", kept, error)
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        with self._lock:
            self._room -= len(data)
            if self._room < 0:
                self._room = min(self._limit - self._evicted(), int(ADDED_UNSEEN * self._limit))

    def _evicted(self) -> int:
        """How many bytes are kept, after the least recently used were evicted if those were too many."""
        found = []
        for each in self._folder.glob("??/*"):
            with contextlib.suppress(OSError):
                seen = each.stat()
                found.append((seen.st_mtime, seen.st_size, each))
        kept = sum(size for _, size, _ in found)
        if kept > self._limit:
            for _, size, each in sorted(found):
                if kept <= STAYS * self._limit:
                    break
                with contextlib.suppress(OSError):  # Windows keeps a file that is being read
                    each.unlink(missing_ok=True)
                    kept -= size
        return kept


def side_for(size: int) -> int:
    """The one of SIDES that a size is made as."""
    return next((side for side in SIDES if side >= size), SIDES[-1])


def webp(picture: Image.Image, quality: int = 75) -> bytes:
    """A picture as WebP, made in a quarter of the usual time, at the same size."""
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=quality, method=0)
    return out.getvalue()


def _of_dt(path: Path, side: int, shape: tuple[int, int] | None) -> Image.Image | None:
    """DT's own thumbnail of a picture, or of a video (no ``shape``), where it is large enough and of this picture.

    DT keeps one database in each folder, by names alone: what is older than the picture may be of another.
    """
    if side > SIDES[1]:  # DT makes none as large
        return None
    try:
        database = path.absolute().with_name(DTS)
        if database.is_symlink() or not database.is_file():
            return None
        logs = [each for each in (database, database.with_name(f"{DTS}-wal")) if each.is_file()]
        if max(each.stat().st_mtime for each in logs) < path.stat().st_mtime:
            return None
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=DTS_SECONDS)) as db:
            end = time.monotonic() + DTS_SECONDS
            db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
            rows = db.execute(
                "SELECT Data FROM Thumbnail WHERE Filename = ? AND length(Data) <= ? ORDER BY Size DESC LIMIT 1",
                (path.name, DTS_BYTES),
            ).fetchall()
        if not rows or not isinstance(rows[0][0], bytes):
            return None
        found = upright_size(io.BytesIO(rows[0][0]))
        least = min(side, max(shape or (side,)))
        if not found or max(found) < least or not _same_shape(found, shape or found):
            return None
        return shrunk(io.BytesIO(rows[0][0]), f"DT's thumbnail of {path}", side, LARGE)
    except (sqlite3.Error, OSError, BadPicture, ValueError) as error:
        log.info("DT's thumbnail of %s is not used: %s", path, error)
        return None


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) < _SHAPE + 1 / min(one)
