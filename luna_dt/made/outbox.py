"""Records of what was made, on their way to DT: stored first, then sent until DT has them.

A record is on disk before ``put`` returns.  A thread sends what waits, those of one source image in the
order in which they were recorded, and retries with backoff, in growing pauses; the key that travels with each
makes a record that DT stored, although its answer was lost, stored once.  What DT refuses as invalid,
or fails at again and again while it takes others, is parked with the reason, what it does not offer to store is kept
here; both hold nothing up.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from filelock import FileLock, Timeout

from .. import threads
from ..dt.catalog import Catalog
from ..errors import BadAnswer, BadInput, LunaError, NotOffered, Refused, StoreError, UnknownImage, Unreachable
from ..generation import Generation
from ..plain import shown
from ..records import now
from ..store import Store

log = logging.getLogger(__name__)

BACKOFF_FIRST, BACKOFF_LONGEST = 1.0, 300.0  # seconds between a failure and the retry, doubled each time
SPREAD = 0.25  # by which share a pause is longer or shorter, so that many clients do not come back at once
PAUSE_LONGEST = BACKOFF_LONGEST * (1 + SPREAD)
RETRY_LOCK = 5.0  # seconds between two tries to become the process that sends
FAILS_MOST = 6  # tries at which DT fails, while it takes other records, until the fault is the record's
STATES = ("waiting", "sent", "parked", "kept", "dropped")
NOT_SENT = ("waiting", "parked", "kept")  # what DT does not have, and might yet


@dataclass(frozen=True)
class Entry:
    """One record in the outbox.  ``state``: waiting, sent (DT has it, as ``generation.id``), parked (DT refuses it,
    for ``reason``), kept (here alone, for this DT does not offer to store it), dropped (by the user, for ``reason``);
    ``tries`` so far, the last of which failed for ``reason``."""

    position: int
    generation: Generation
    state: str
    tries: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        said = {"position": self.position, "state": self.state, "tries": self.tries, "reason": self.reason}
        return {**said, **self.generation.to_json()}


class Outbox:
    """A library's outbox; safe to use from several threads and processes.

    ``connect`` gives the catalog to send to; ``backoff`` is the first pause after a failure, in seconds.
    """

    def __init__(self, store: Store, connect: Callable[[], Catalog], backoff: float = BACKOFF_FIRST) -> None:
        self._store, self._connect, self._first = store, connect, backoff
        self._lock = threading.Lock()
        self._news, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._taken = 0
        self._failed: dict[
            int, list[int]
        ] = {}  # by a record's position: how many DT had taken then, how often it failed

    # -- recording ----------------------------------------------------------------------------------

    def put(self, record: Generation | Mapping[str, Any]) -> Entry:
        """Stores a record for good and has it sent in the background; one whose key is here already is that one.

        Raises BadInput for a record that makes no sense, StoreError when it could not be stored.
        """
        made = Generation.from_json(record.to_json() if isinstance(record, Generation) else record)
        made = replace(made, key=made.key or str(uuid.uuid4()), created=made.created or now("milliseconds"), id="")
        with self._store.writing() as writer:
            writer.execute(
                "INSERT INTO outbox (key, source, record, state) VALUES (?, ?, ?, 'waiting') ON CONFLICT (key) DO NOTHING",
                [made.key, made.source_image_id, json.dumps(made.to_json())],
            )
            row = writer.execute(f"SELECT {_ENTRY} FROM outbox WHERE key = ?", [made.key]).fetchone()
        self.start()
        return _entry(row)

    def entries(self, *states: str, source_image_id: int | None = None) -> list[Entry]:
        """The records in those states (all), oldest first."""
        wanted = states or STATES
        condition, values = f"state IN ({', '.join('?' * len(wanted))})", list[Any](wanted)
        if source_image_id is not None:
            condition += " AND source = ?"
            values.append(source_image_id)
        rows = self._store.rows(f"SELECT {_ENTRY} FROM outbox WHERE {condition} ORDER BY position", values)
        return [_entry(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """How many records there are in each state, and ``failing``: how many wait after a failed try."""
        found = dict.fromkeys((*STATES, "failing"), 0)
        found.update(self._store.rows("SELECT state, COUNT(*) FROM outbox GROUP BY state"))
        waiting = "SELECT COUNT(*) FROM outbox WHERE state = 'waiting' AND tries > 0"
        found["failing"] = self._store.rows(waiting)[0][0]
        return found

    def drop(self, positions: list[int], reason: str) -> int:
        """Gives records up that DT does not have, and says how many; they stay in the list, with the reason."""
        if not reason.strip():
            raise BadInput("say why the records are dropped; the reason is kept with them")
        marks = ", ".join("?" * len(NOT_SENT))
        with self._store.writing() as writer:
            return sum(
                writer.execute(
                    f"UPDATE outbox SET state = 'dropped', reason = ? WHERE position = ? AND state IN ({marks})",
                    [reason.strip(), position, *NOT_SENT],
                ).rowcount
                for position in positions
            )

    def keep(self) -> None:
        """Has what waits stay here, unsent until ``send``: the home is to belong to another DT."""
        with self._store.writing() as writer:
            writer.execute(
                "UPDATE outbox SET state = 'kept', reason = 'it was made for the DT that this home belonged to before' "
                "WHERE state = 'waiting'"
            )

    # -- sending ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Has what waits sent in the background, now and as more comes."""
        with self._lock:
            self._news.set()
            if self._closing.is_set() or (self._thread and self._thread.is_alive()):
                return
            self._thread = threads.start("outbox", self._run, self._end, network=True)

    def close(self) -> None:
        """Ends the sending after the record under way; what waits is sent after the next ``start`` or ``put``."""
        with self._lock:
            self._end()
        if self._thread:
            self._thread.join()

    def _end(self) -> None:
        self._closing.set()
        self._news.set()

    def send(self, parked: bool = False) -> int:
        """Tries everything once, now, that waits or is kept, and what is ``parked`` if so asked; says how many DT took.

        Raises CatalogError when DT took none because it does not answer, StoreError when another process is sending.
        """
        states = "('waiting', 'kept', 'parked')" if parked else "('waiting', 'kept')"
        with self._store.writing() as writer:
            writer.execute(f"UPDATE outbox SET state = 'waiting', due = 0 WHERE state IN {states}")
        try:
            with self._sole_sender(10.0):
                taken, error, _ = self._send_due(self._connect())
        except Timeout as busy:
            raise StoreError("another process is sending; see what it does with: luna-dt outbox list") from busy
        if error and not taken:
            raise error
        return taken

    def _sole_sender(self, seconds: float) -> FileLock:
        """Held while sending, or two processes would send one source's records out of order."""
        return FileLock(self._store.home / "outbox.lock", timeout=seconds)

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            self._news.clear()
            try:
                with self._sole_sender(0.1):
                    taken, error, wait = self._send_due(self._connect())
                away = isinstance(error, Unreachable)
                failures = 0 if taken or not away else failures
                if away:  # news does not help against a closed door
                    failures += 1
                    self._closing.wait(self._backoff(failures))
                    continue
            except Timeout:
                wait = RETRY_LOCK  # another process sends, what was recorded here as well
            except (LunaError, OSError) as error:  # the store, or the lock's file, cannot be written now
                log.warning("what was made waits, stored, to be sent to DT: %s", error)
                failures += 1
                wait = self._backoff(failures)
            with self._lock:
                if wait is None and not self._news.is_set():
                    self._thread = None  # nothing waits; the next record starts another
                    return
            self._news.wait(wait)

    def _send_due(self, catalog: Catalog) -> tuple[int, LunaError | None, float | None]:
        """Tries each record once that is due now: how many DT took, the last failure that was not the record's own
        fault, and the seconds until the next is due.  A DT that cannot be reached ends it."""
        taken, failure, start = 0, None, time.time()
        while not self._closing.is_set():
            # no pause is longer: what seems due later was noted before the clock was put back
            due_now = "AND (due <= ? OR due > ?)"
            rows = self._store.rows(
                f"SELECT {_ENTRY} {_HEADS} {due_now} ORDER BY position LIMIT 1", [start, time.time() + PAUSE_LONGEST]
            )
            if not rows:
                due = self._store.rows(f"SELECT MIN(due) {_HEADS}")[0][0]
                wait = None if due is None else min(max(0.01, due - time.time()), BACKOFF_LONGEST)
                return taken, failure, wait
            error = self._send_one(catalog, rows[0])
            taken += error is None
            if error and not _given_up(error):
                failure = error
            if isinstance(error, Unreachable):
                break
        return taken, failure, None

    def _send_one(self, catalog: Catalog, row: tuple[Any, ...]) -> LunaError | None:
        entry, change = _entry(row), ("", list[Any]())
        refusal: LunaError | None = None
        try:
            dt_id = catalog.record(_generation(row))
            change = "state = 'sent', reason = '', dt_id = ?", [dt_id]
            self._taken += 1
        except Exception as error:
            if not isinstance(error, LunaError):
                log.exception("record %d cannot be sent", entry.position)
                error = Refused(f"it cannot be sent: {error!r}", LunaError.http_status)
            refusal = error
            if given_up := _given_up(error) or self._fails_alone(entry, error):
                log.warning("a record of what was made, number %d, is %s: %s", entry.position, given_up, error)
                change = "state = ?, tries = tries + 1, reason = ?", [given_up, str(error)]
            else:
                # a DT that is away is no fault of this record: the sender as a whole pauses for that
                due = 0.0 if isinstance(error, Unreachable) else time.time() + self._backoff(entry.tries + 1)
                change = "tries = tries + 1, due = ?, reason = ?", [due, str(error)]
        with self._store.writing() as writer:
            # one that was dropped meanwhile stays dropped, unless DT has it
            only = "" if refusal is None else " AND state = 'waiting'"
            writer.execute(f"UPDATE outbox SET {change[0]} WHERE position = ?{only}", [*change[1], entry.position])
        return refusal

    def _fails_alone(self, entry: Entry, error: LunaError) -> str:
        """``parked`` for a record at which DT fails again and again, and not because it fails at all of them."""
        if not isinstance(error, BadAnswer) and error.http_status != LunaError.http_status:
            return ""
        failed = self._failed.setdefault(entry.position, [self._taken, 0])
        failed[1] += 1
        return "parked" if self._taken > failed[0] and failed[1] >= FAILS_MOST else ""

    def _backoff(self, failures: int) -> float:
        """The pause before the next retry: doubled with each failure, and spread."""
        pause: float = min(BACKOFF_LONGEST, self._first * 2 ** min(failures - 1, 20))
        return pause * random.uniform(1 - SPREAD, 1 + SPREAD)


_ENTRY = "position, record, state, tries, reason, dt_id, key, source"
#: The records that wait, and before which no earlier one of the same source image waits.
_HEADS = """FROM outbox o WHERE state = 'waiting' AND NOT EXISTS (
    SELECT 1 FROM outbox e WHERE e.source = o.source AND e.state = 'waiting' AND e.position < o.position)"""
FAULTS = (400, 409, 410, 413, 422)  # refusals for what the record is; others are for a token, an address, a queue


def _given_up(error: LunaError) -> str:
    """The state of a record that this DT will refuse for ever, so that no retry helps; "" where one may."""
    status = error.http_status if isinstance(error, Refused) else None
    if isinstance(error, NotOffered) or status == NotOffered.http_status:
        return "kept"
    return "parked" if isinstance(error, (BadInput, UnknownImage)) or status in FAULTS else ""


def _generation(row: tuple[Any, ...]) -> Generation:
    """The record in a row; raises BadInput for one that an earlier version stored, and that no DT should be given."""
    try:
        return replace(Generation.from_json(json.loads(row[1])), id=row[5])
    except (ValueError, RecursionError) as error:
        raise BadInput(f"it cannot be sent: {shown(error, 300)}") from error


def _entry(row: tuple[Any, ...]) -> Entry:
    position, _, state, tries, reason, dt_id, key, source = row
    try:
        made = _generation(row)
    except BadInput:  # listed by what names it
        made = Generation(key=key, source_image_id=source, id=dt_id)
    return Entry(position, made, state, tries, reason)
