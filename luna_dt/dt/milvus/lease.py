"""Who writes a library on a server: one at a time, whichever machine it is on."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ... import threads
from ...errors import AnotherWriter, CatalogError
from ...records import now
from .server import Server

log = logging.getLogger(__name__)

BEAT = 5.0  # seconds after which a writer gives a sign of life
MAY_WRITE = 30.0  # seconds for which a writer may write after its last
DEAD_AFTER = 60.0  # seconds without one, after which a writer is taken for dead
WATCH = 1.0  # seconds after which one that waits looks again
BEATS = 1 << 20  # numbers of a writer's rows


class Lease:
    """The right to write a library from a ``home``, of which one at a time asks, for as long as this context is open.

    A server of 2.3 neither changes a row in one step nor has a clock that can be asked.  So a writer's row is never
    changed: each sign of life is a row of its own, in the place of the one before, and others go by what they see change.
    Who wants to write puts a row first and looks then: of two at least one sees the other.
    A writer that stood still in the midst of a page may send that one late: its digests tell, and the next sync mends it.
    ``waits`` is called while it is not known whether another still writes, and may raise to stop.
    Raises AnotherWriter, within a few seconds, where another writes; CatalogError.
    """

    def __init__(self, server: Server, library: str, home: Path, waits: Callable[[], object]) -> None:
        self._server, self._library, self._waits = server, library, waits
        self._mine = secrets.randbelow(1 << 42)
        self._beat: int | None = None  # of the row that is there; 0 is that of one that only asks
        who = f"{socket.gethostname()}, {home.resolve()}"
        self._record = {"who": who, "home": f"{uuid.getnode():x} {who}", "since": now()}
        self._trusted_until = 0.0
        self._taken_by = ""
        self._closing, self._lock = threading.Event(), threading.Lock()

    def __enter__(self) -> Lease:
        try:
            self._wait_for_others()
            self._renew()
            self.check()
        except BaseException:
            self._withdraw()
            raise
        self._thread = threads.start(f"lease of {self._library}", self._go_on, self._closing.set, network=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        self._withdraw()

    def check(self) -> None:
        """Raises AnotherWriter where the right to write was lost: asked before each write."""
        if not self._taken_by and time.monotonic() > self._trusted_until:
            self._renew()  # on a busy machine, or from a slow server, no answer may have come in time
        if self._taken_by:
            raise AnotherWriter(
                f"library {self._library} on {self._server.address} is not this sync's to write any more ({self._taken_by}); "
                "what was written stays, and the next sync goes on from there"
            )

    def _wait_for_others(self) -> None:
        seen: dict[int, tuple[int, float]] = {}
        while True:
            others = self._others(self._server.writers(self._library))
            if not others and self._beat is not None:
                return
            if not others:
                self._put(0)
                continue
            if self._beat is not None and any(beat or owner < self._mine for owner, (beat, _) in others.items()):
                self._withdraw()  # who writes, or has the smaller number, goes first
            for owner, (beat, record) in others.items():
                if owner not in seen:
                    log.warning(
                        "%s may be written by %s, since %s; it is known in a minute at most",
                        self._library,
                        record["who"],
                        record["since"],
                    )
                first, at = seen.setdefault(owner, (beat, time.monotonic()))
                if beat != first:
                    raise AnotherWriter(
                        f"library {self._library} on {self._server.address} is written by {record['who']}, since "
                        f"{record['since']}; wait until that is done, and sync again"
                    )
                if time.monotonic() - at > DEAD_AFTER or record["home"] == self._record["home"]:
                    log.warning("%s began to write %s and was cut off", record["who"], self._library)
                    self._end(owner, beat)
            self._waits()
            time.sleep(WATCH)

    def _end(self, owner: int, beat: int) -> None:
        """Takes a writer's rows away: the last, and the one before, which may have been left."""
        self._server.end_writing(self._library, [owner * BEATS + each for each in (beat - 1, beat) if each >= 0])

    def _others(self, signs: Sequence[tuple[int, Any]]) -> dict[int, tuple[int, Any]]:
        """The last sign of life of each other, and what is told of it."""
        found: dict[int, tuple[int, Any]] = {}
        for number, record in signs:
            owner, beat = divmod(number, BEATS)
            if owner != self._mine and beat >= found.get(owner, (0,))[0]:
                found[owner] = beat, record
        return found

    def _go_on(self) -> None:
        while not self._closing.wait(BEAT) and not self._taken_by:
            try:
                self._renew()
            except CatalogError as error:
                log.info("no sign of life could be given: %s", error)

    def _renew(self) -> None:
        """A sign of life, unless the right was lost: it does not come back, for others have written meanwhile."""
        with self._lock:
            began, signs = time.monotonic(), self._server.writers(self._library)
            if self._mine * BEATS + (self._beat or 0) not in dict(signs):
                self._taken_by = "another took it for dead"
            for beat, record in self._others(signs).values():
                if beat:
                    self._taken_by = f"{record['who']} writes it, since {record['since']}"
            if not self._taken_by:
                self._put((self._beat or 0) + 1)
                self._trusted_until = began + MAY_WRITE

    def _put(self, beat: int) -> None:
        before = self._beat
        self._server.begin_writing(self._library, self._mine * BEATS + beat, self._record)
        self._beat = beat
        if before is not None:
            self._server.end_writing(self._library, [self._mine * BEATS + before])

    def _withdraw(self) -> None:
        if self._beat is not None:
            try:
                self._end(self._mine, self._beat)
            except CatalogError as error:
                log.info("others will wait a minute before they write %s: %s", self._library, error)
        self._beat = None
