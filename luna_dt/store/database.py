"""``library.db``: its connections, transactions and locks, and the generation of each kind of record."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np
from filelock import FileLock, Timeout

from ..errors import BadInput, StoreError
from ..query import HIDING, Part, matches
from ..records import now, unseen_digest
from . import formats
from .pages import Log, is_cut

#: The databases that this process has open: file locks do not hold off the process that has them.
OPEN: list[Path] = []
#: A generation, as SQL: drawn, for one counted on would come again after an older copy of the database was put back.
ANOTHER = "(abs(random() / 2) + 1)"
#: What a rescued database is called until the damaged one has made room for it (rescue.py).
RESCUED = "library.rescued-*.db"
#: Where SQLite locks a database's file for as long as a connection that has read or written it is open.
LOCKED_AT, LOCKED_BYTES = 0x40000002, 510


class Database:
    """A library's database under ``home``, one connection that reads and one that writes, in WAL mode; ``hide`` are the
    flags of images that are not found, ``saved`` gives what a saved search of DT's asks for (query.Columns).

    Raises StoreError when it is damaged, belongs to a newer version, or cannot be made.
    """

    def __init__(self, home: Path, saved: Callable[[str], list[Part]] | None = None) -> None:
        self.home, self.hide, self.saved = home, HIDING, saved
        self.path = home / "library.db"
        #: Whether the home lies where nothing can be written: what is there can be read and searched all the same.
        self.read_only = self.path.is_file() and not all(os.access(each, os.W_OK) for each in (home, self.path))
        self._read_lock, self._write_lock = threading.RLock(), threading.RLock()
        if self.read_only:
            self._reader = self._writer = self._connect_to_read()
            return
        try:
            (home / "vectors").mkdir(parents=True, exist_ok=True)
            # one at a time, for SQLite does not wait where two change a new file to WAL
            with (
                FileLock(home / "open.lock", timeout=30),
                contextlib.ExitStack() as opened,
            ):  # closed unless all goes well
                self._must_be_whole()
                OPEN.append(self.path.resolve())
                opened.callback(OPEN.remove, self.path.resolve())  # last, when the connections are closed
                self._reader = self._connect(opened)
                self._writer = self._connect(opened)
                if not formats.is_current(self._writer):
                    with _transaction(self._writer):
                        formats.migrate(self._writer, home)
                self._opened = opened.pop_all()
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"{self.path} cannot be opened now ({error}); is another program writing it? If none is: "
                f"{rescuing(home)}"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self.path} cannot be opened ({error}): {rescuing(home)}") from error
        except Timeout as error:
            raise StoreError(f"another program has been opening {home} for 30 s; wait for it or stop it") from error
        except OSError as error:
            raise StoreError(f"{home} cannot be used as the library's home: {error}") from error

    def _connect_to_read(self) -> sqlite3.Connection:
        """The one connection of a home that cannot be written; raises StoreError, saying what must be done first."""
        elsewhere = f"open {self.home} once where it can be written (luna-dt status), then it can be read here"
        address = f"file:{quote(str(self.path.absolute()))}?mode=ro"
        log = self.path.with_name("library.db-wal")
        with contextlib.ExitStack() as opened:
            try:
                if not (log.is_file() and log.stat().st_size):  # all is in the file itself, which nobody writes
                    address += "&immutable=1"
                connection = sqlite3.connect(
                    address, timeout=30, isolation_level=None, check_same_thread=False, uri=True
                )
                opened.callback(connection.close)
                _teach(connection)
                current = formats.is_current(connection)
            except (sqlite3.Error, OSError) as error:
                if _is_damage(error):
                    elsewhere = f"copy {self.home} to where it can be written; {rescuing(Path('THE COPY'))}"
                raise StoreError(f"{self.path} cannot be read ({error}); {elsewhere}") from error
            if not current:
                raise StoreError(
                    f"{self.path} is of format {formats.format_of(connection)}, not this version's; {elsewhere}"
                )
            self._opened = opened.pop_all()
        return connection

    def _must_be_whole(self) -> None:
        """Raises StoreError where SQLite would leave out in silence, and then delete, what is in the log."""
        log = self.path.with_name("library.db-wal")
        size = log.stat().st_size if log.is_file() else 0
        if not (self.path.is_file() and self.path.stat().st_size):
            if size or any(self.home.glob(RESCUED)):
                raise StoreError(
                    f"{self.path} is missing or empty, and what belongs to it is there: {rescuing(self.home)}"
                )
        elif self.path.resolve() not in OPEN:
            with self.path.open("rb+") as file:
                try:
                    lock(file)
                except OSError:  # another program has it open, so it is read already
                    return
                # a transaction that was under way when the power failed may be there in part; not two of them
                read = Log(log.read_bytes() if size else b"")
                if read.left_out > 1:
                    raise StoreError(f"{log} is damaged before its end: {rescuing(self.home)}")
                if is_cut(file, read):
                    raise StoreError(f"{self.path} was cut off: {rescuing(self.home)}")

    def must_be_sound(self) -> None:
        """Raises StoreError where the pages of the database do not fit together; reads all of them."""
        if self.rows("PRAGMA quick_check(1)") != [("ok",)]:
            raise self.damaged_file()

    def damaged_file(self) -> StoreError:
        """The error for a database whose pages do not fit together."""
        return StoreError(f"{self.path} is damaged: {rescuing(self.home)}")

    def _must_be_writable(self) -> None:
        if self.read_only:
            raise StoreError(f"{self.home} can only be read, so nothing can be changed or kept there")

    def _connect(self, opened: contextlib.ExitStack) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        opened.callback(connection.close)
        _teach(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a file is deleted, and an index saved, only after its commit
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def close(self) -> None:
        with self._read_lock, self._write_lock:
            self._opened.close()

    @contextlib.contextmanager
    def sole_writer(self) -> Iterator[None]:
        """Held by whoever syncs or embeds; raises StoreError when another process or thread does already."""
        self._must_be_writable()
        lock = FileLock(self.home / "sync.lock", timeout=0)
        try:
            with lock:
                yield
        except Timeout as error:
            raise StoreError(f"another sync or embed of {self.home} is running; wait for it or stop it") from error

    # -- reading ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """What is read within is of one moment, whoever writes meanwhile."""
        with self._read_lock, _transaction(self._reader, "DEFERRED"):
            yield

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        """What a SELECT finds; raises BadInput for numbers that SQLite cannot hold, StoreError."""
        try:
            with self._read_lock:
                return self._reader.execute(sql, values).fetchall()
        except OverflowError as error:
            raise BadInput("a number is too large for a library's ids and seeds") from error
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def _array(self, fields: list[tuple[str, str]], sql: str, values: Sequence[object] = ()) -> np.ndarray[Any, Any]:
        """The rows as a structured array, taken in parts: a million tuples at once would weigh a gigabyte."""
        parts = [np.empty(0, fields)]
        try:
            with self._read_lock:
                cursor = self._reader.execute(sql, values)
                while rows := cursor.fetchmany(50_000):
                    parts.append(np.array(rows, fields))
        except (TypeError, ValueError) as error:  # what is no number stands where numbers must be
            raise self.damaged_file() from error
        except OverflowError as error:
            raise BadInput("a number is too large for a library's ids and seeds") from error
        except sqlite3.Error as error:
            raise self._unreadable(error) from error
        return np.concatenate(parts)

    def _unreadable(self, error: sqlite3.Error) -> StoreError:
        advice = f"; {rescuing(self.home)}" if _is_damage(error) else ""
        return StoreError(f"{self.path} cannot be read: {error}{advice}")

    def data_version(self) -> int:
        """Changes whenever another connection has written; a cheap first question."""
        with self._read_lock:
            return int(self._reader.execute("PRAGMA data_version").fetchone()[0])

    def generation(self, kind: str) -> int:
        """Another number whenever a row of that kind was added, changed or dropped; 0 for what was never synced."""
        rows = self.rows("SELECT generation FROM kinds WHERE name = ?", [kind])
        return int(rows[0][0]) if rows else 0

    def synced(self, kind: str) -> bool:
        """Whether a kind was ever synced to its end, and is still there."""
        return bool(self.rows("SELECT 1 FROM kinds WHERE name = ? AND synced IS NOT NULL", [kind]))

    # -- writing ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, *kinds: str) -> Iterator[sqlite3.Connection]:
        """One transaction, on disk when it ends, that moves those kinds to their next generation; raises StoreError."""
        self._must_be_writable()
        try:
            with self._write_lock, _transaction(self._writer):
                self._writer.executemany(
                    f"INSERT INTO kinds (name, generation) VALUES (?, {ANOTHER}) "
                    "ON CONFLICT (name) DO UPDATE SET generation = excluded.generation",
                    [(kind,) for kind in kinds],
                )
                yield self._writer
        except sqlite3.Error as error:
            advice = rescuing(self.home) if _is_damage(error) else "is the disk full or the file in use?"
            raise StoreError(f"{self.path} cannot be written ({error}); {advice}") from error

    def source(self) -> str:
        """The address that the images were last mirrored from to their end; "" where they never were."""
        rows = self.rows("SELECT source FROM kinds WHERE name = 'images' AND source IS NOT NULL")
        return str(rows[0][0]) if rows else ""

    def finish(self, kind: str, source: str) -> None:
        """Notes that a kind was mirrored to its end, from that address."""
        with self.writing() as db:
            db.execute(
                f"INSERT INTO kinds (name, generation, synced, source) VALUES (?, {ANOTHER}, ?, ?) ON CONFLICT (name) "
                "DO UPDATE SET synced = excluded.synced, source = excluded.source",
                [kind, now(), source],
            )


def _teach(connection: sqlite3.Connection) -> None:
    """Functions that queries ask for and SQLite has not."""
    connection.create_function("REGEXP", 2, matches, deterministic=True)
    connection.create_function("unseen", 2, unseen_digest, deterministic=True)


def lock(file: BinaryIO) -> None:
    """Takes the lock that SQLite takes to be alone, until the file is closed; raises OSError."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(LOCKED_AT)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, LOCKED_BYTES)
    else:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, LOCKED_BYTES, LOCKED_AT)


def rescuing(home: Path) -> str:
    """What to do about a damaged database, for an error's message."""
    return (
        "it holds what DT does not have (records not sent, batches, layers made here), so do not delete it: close what "
        f'uses it and run luna-dt --home "{home}" rescue (or python -m luna_dt, with the same words behind it)'
    )


def _is_damage(error: Exception) -> bool:
    """Whether SQLite says that what it reads cannot be, rather than that it cannot read or write now."""
    told = ("decode to UTF-8", "no such table", "no such column", "already exists")
    return type(error) is sqlite3.DatabaseError or any(each in str(error) for each in told)


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
