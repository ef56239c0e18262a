"""Saving a damaged ``library.db``: what can be read of it goes into a new one, and the damaged file is kept beside it."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from filelock import FileLock, Timeout

from ..errors import StoreError
from ..progress import Progress, silent
from . import formats
from .database import OPEN, RESCUED, lock
from .pages import Pages
from .salvage import LIST, Salvage, migrations_of

_COMPANIONS = ("", "-wal", "-shm", "-journal")  # a database's files, by what is added to its name


@dataclass(frozen=True)
class RescuedTable:
    """Of one table: how many rows were ``saved``, how many were there but could not be used (``lost``), and how many
    of its ``pages``, some rows or some dozen each, could not be read."""

    table: str
    saved: int
    lost: int
    pages: int


@dataclass(frozen=True)
class Rescued:
    """What a rescue did.  ``kept`` is where the damaged file lies now, None where nothing was damaged and nothing was
    changed; ``log`` says how many of the pages that ``library.db-wal`` holds were damaged; ``unnamed`` are files of
    vectors that no layer could be found for, as they are named now, so that no sync deletes them."""

    home: Path
    kept: Path | None
    tables: tuple[RescuedTable, ...]
    log: int = 0
    unnamed: tuple[Path, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing was lost."""
        return not self.log and not any(each.lost or each.pages for each in self.tables)

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self), "home": str(self.home), "kept": self.kept and str(self.kept),
            "unnamed": [str(path) for path in self.unnamed], "whole": self.whole,
        }  # fmt: skip


def rescue(home: Path, progress: Progress = silent) -> Rescued:
    """Takes what can be read out of a damaged library.db into a new one; see Library.rescue.  Raises StoreError."""
    path = home / "library.db"
    if not any(_files(path)) and not [*home.glob(RESCUED)]:
        raise StoreError(f"there is no library in {home}, so there is nothing to rescue")
    if not all(os.access(each, os.W_OK) for each in (home, path) if each.exists()):
        raise StoreError(
            f"{home} can only be read, so nothing can be rescued there; copy it to where it can be written"
        )
    try:
        with FileLock(home / "open.lock", timeout=30):
            for part in home.glob("library.rescued-*.part*"):  # of a rescue that was killed
                part.unlink()
            for new in sorted(home.glob(RESCUED)):  # a rescue was cut off when all was saved
                if path.exists():  # before anything was moved, and what is there may have been written since
                    new.rename(new.with_name(new.name.replace("rescued", "unused")))
                else:
                    _change_places(path, new)
            return _rescue(path, progress)
    except Timeout as error:
        raise StoreError(f"another program has been opening {home} for 30 s; wait for it or stop it") from error
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path} cannot be rescued: {error}; is the disk full? nothing was changed") from error


def _rescue(path: Path, progress: Progress) -> Rescued:
    home = path.parent
    new = _free_name(home, datetime.now().strftime("%Y-%m-%d-%H%M%S"))
    part = new.with_suffix(".part")
    try:
        with _alone(path) as file:
            pages = Pages(file, path.with_name("library.db-wal"))
            number, is_told = _format(path, pages)
            with contextlib.closing(_new(part, number)) as db:
                salvage = Salvage(pages, db, home)
                salvage.run(progress)
                db.execute("COMMIT")
                saved = salvage.saved
                named = {file for (file,) in db.execute("SELECT file FROM layers")}
            hurt = salvage.hurt or not is_told or pages.free is None or not pages.log.is_sound or not _is_sound(path)
        tables = tuple(
            RescuedTable(table, saved.get(table, 0), salvage.lost[table], salvage.bad_pages[table])
            for table in (*saved, *((LIST,) if salvage.bad_pages[LIST] else ()))
        )
        if not hurt:
            return Rescued(home, None, tables)
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        part.rename(new)
    finally:
        for each in _files(part):
            each.unlink()
    kept = _change_places(path, new)
    return Rescued(home, kept, tables, pages.log.bad, _set_apart(home, named, new))


def _files(path: Path) -> list[Path]:
    """The files of a database that are there."""
    return [each for end in _COMPANIONS if (each := path.with_name(path.name + end)).is_file()]


def _free_name(home: Path, when: str) -> Path:
    """What a rescued database is called until it is in its place; nothing of that time is there yet."""
    number = 1
    while any(home.glob(f"library.*-{when}{f'-{number}' if number > 1 else ''}.*")):
        number += 1
    return home / RESCUED.replace("*", when + (f"-{number}" if number > 1 else ""))


def _change_places(path: Path, new: Path) -> Path:
    """Gives the damaged files a name that says so, and the new one theirs; done again, it goes on where it stopped.

    Gives the damaged file's new name.  Raises StoreError, everything being where it was.
    """
    kept = new.with_name(new.name.replace("rescued", "damaged"))
    moved: list[tuple[Path, Path]] = []
    try:
        # the database first: without it none is opened, while this one lies here (database.py)
        for each in _files(path):
            target = kept.with_name(each.name.replace(path.name, kept.name))
            each.rename(target)
            moved.append((each, target))
        new.rename(path)
    except OSError as error:
        for old, target in reversed(moved):
            target.rename(old)
        if path.exists():
            new.unlink()
        raise StoreError(
            f"{path} cannot be moved aside ({error}); close what has it open (ComfyUI, luna-dt serve, a backup, a virus "
            "scanner), then run it again; nothing was changed"
        ) from error
    return kept


def _set_apart(home: Path, named: set[str], new: Path) -> tuple[Path, ...]:
    """Renames vectors files that no layer names any more, which a sync would delete."""
    apart = []
    for file in sorted((home / "vectors").glob("*.f32")):
        if file.name not in named:
            with contextlib.suppress(OSError):
                name = f"{file.name}.{new.stem.replace('library.rescued-', 'unnamed-')}"
                apart.append(file.rename(file.with_name(name)))
    return tuple(apart)


def _format(path: Path, pages: Pages) -> tuple[int, bool]:
    """Of which format a database is, and whether it says so itself; raises StoreError for one that is newer."""
    newest = formats.MIGRATIONS[-1].number
    done = max(migrations_of(pages), default=0)
    if pages.format > newest and not 0 < done <= newest:
        raise formats.newer(path, pages.format)
    if 0 < pages.format <= newest and pages.format >= done:
        return pages.format, True
    return (done if 0 < done <= newest else newest), False


def _new(path: Path, number: int) -> sqlite3.Connection:
    """A new database of a format, in a transaction; only library.db itself is ever in WAL mode."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA synchronous = FULL")
    db.execute("BEGIN IMMEDIATE")
    db.execute(formats.MIGRATIONS_TABLE)
    for migration in formats.MIGRATIONS:
        for statement in migration.statements if migration.number <= number else ():
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {number}")
    return db


def _is_sound(path: Path) -> bool:
    """Whether SQLite, too, finds nothing wrong, indexes among it; it is asked about a copy where there is a log, for it
    changes what it opens."""
    with contextlib.ExitStack() as opened:
        files = [each for each in _files(path) if not each.name.endswith("-shm")]
        if any(each.stat().st_size for each in files if each != path):
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="rescue-", dir=path.parent)))
            for each in files:
                shutil.copyfile(each, folder / each.name)
            db = opened.enter_context(contextlib.closing(sqlite3.connect(folder / path.name)))
        else:
            address = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
            db = opened.enter_context(contextlib.closing(sqlite3.connect(address, uri=True)))
        try:
            return bool(db.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",))
        except sqlite3.DatabaseError:
            return False


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """A database's file to read, while nobody else has it open; raises StoreError if somebody has."""
    busy = StoreError(
        f"{path} is open, here or in another program; close ComfyUI, luna-dt serve and whatever else uses this library, "
        "then run it again"
    )
    if path.resolve() in OPEN:
        raise busy
    if not path.is_file():
        yield io.BytesIO()
        return
    with path.open("rb+", buffering=0) as file:  # a bad sector must not take the page before it along
        try:
            lock(file)
        except OSError as error:
            raise busy from error
        yield file
