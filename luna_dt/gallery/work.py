"""A sync that goes on in the background, and is looked at and stopped from the page."""

from __future__ import annotations

import logging
import threading
from typing import Any

from .. import threads
from ..errors import LunaError, Unreachable
from ..library import Library
from ..settings import Settings

log = logging.getLogger(__name__)


class _Stopped(Exception):
    pass


class Syncing:
    """One sync at a time: which it is, what it does now, of how much; how the last one ended."""

    def __init__(self) -> None:
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._running, self._number = False, 0
        self._at: tuple[str, int, int] = ("", 0, 0)
        self._ended: dict[str, Any] = {}

    def start(self, settings: Settings, accept: bool = False) -> None:
        """Starts one, unless one runs; with ``accept`` another DT is taken for this library's."""
        with self._lock:
            if self._running:
                return
            self._running, self._at, self._ended = True, ("", 0, 0), {}
            self._number += 1
            self._stopping.clear()
        threads.start("gallery's sync", lambda: self._run(settings, accept), self._stopping.set)

    def stop(self) -> None:
        self._stopping.set()

    def _run(self, settings: Settings, accept: bool) -> None:
        ended: dict[str, Any]
        try:
            with Library(settings=settings) as library:
                changed = library.sync(self._progress, accept)
            ended = {"changed": sum(each.added + each.changed + each.removed for each in changed)}
        except _Stopped:
            ended = {"stopped": True}
        except LunaError as error:
            ended = {"code": error.code, "error": str(error), "dt_away": isinstance(error, Unreachable)}
        except Exception:
            log.exception("the sync failed")
            ended = {"code": "error", "error": "the sync failed; the log says why"}
        with self._lock:
            self._running, self._ended = False, ended

    def _progress(self, kind: str, done: int, total: int) -> None:
        self._at = kind, done, total
        if self._stopping.is_set():
            raise _Stopped

    def to_json(self) -> dict[str, Any]:
        kind, done, total = self._at
        with self._lock:
            return {"running": self._running, "number": self._number, "kind": kind, "done": done, "total": total,
                    "ended": self._ended}  # fmt: skip
