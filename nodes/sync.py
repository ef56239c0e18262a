"""Luna DT Sync."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from ..luna_dt import Change, Library, threads
from ..luna_dt.errors import LunaError, Unreachable
from . import clusters, contact, host, inputs, shared, words

log = logging.getLogger(__name__)

ENDING = threading.Event()


class LunaDTSync:
    """Brings what is mirrored on this machine to what DT has now."""

    TITLE = "Luna DT Sync"
    CATEGORY = inputs.CATEGORY
    DESCRIPTION = (
        "Mirrors your DiffusionToolkit library onto this machine, so that the other nodes work with DT closed. Only what "
        "has changed is fetched; when it is interrupted, the next run goes on from there."
    )
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("changes",)
    OUTPUT_TOOLTIPS = ("What has changed, a line for each kind.",)
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {},
            "optional": {"api_url": inputs.API_URL},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> str:  # noqa: N802
        return str(time.time())  # who queues it wants it done

    def run(self, api_url: str = "", unique_id: Any = "") -> dict[str, Any]:
        opened = shared.library(api_url)
        contact.ask_anew(opened.settings.shown_dt)
        try:
            opened.health()  # a DT that is away is told soon, since a sync waits for it patiently
        except Unreachable:
            raise
        except LunaError:
            pass  # it answers, which is all that was asked
        settings, left = shared.settings(api_url), threading.Event()
        done: list[tuple[str, int, int]] = [("", 0, 1)]
        show = host.progress()

        def tell(kind: str, count: int, total: int) -> None:
            if left.is_set():
                raise contact.Left("the sync was interrupted")
            done[0] = (kind, count, total)

        def sync() -> list[Change]:
            with Library(settings=settings) as patient:
                return patient.sync(tell)

        def look() -> None:
            kind, count, total = done[0]
            show(kind, count, total)
            if kind:
                host.show_text(unique_id, type(self).__name__, f"{kind}: {count:,} of {total:,}")

        try:
            changes = contact.apart(sync, look)
        finally:
            left.set()
        clusters.look()
        told = _told(changes)
        return {"ui": {"text": [told]}, "result": (told,)}


def go_on() -> None:
    """Once ComfyUI is there: lists the clusters, and syncs by itself, now and then, where the settings say so."""
    clusters.look()
    if minutes := shared.settings().sync_minutes:
        threads.start("syncs", lambda: _by_itself(minutes * 60), ENDING.set, network=True, background=True)


def _by_itself(seconds: float) -> None:
    """Syncs now and every so many seconds; a DT that is away is told once, and asked again the next time."""
    told = ""
    while not ENDING.is_set():
        try:
            with Library(settings=shared.settings()) as patient:
                changes = patient.sync(_heed_end)
            clusters.look()
            log.info("synced: %s", _told(changes))
            told = ""
        except (LunaError, OSError) as error:
            if str(error) != told and not ENDING.is_set():
                log.warning("DT is not synced: %s", words.here(str(error)))
            told = str(error)
        ENDING.wait(seconds)


def _heed_end(_kind: str, _done: int, _total: int) -> None:
    if ENDING.is_set():
        raise contact.Left("ComfyUI ends")


def _told(changes: Sequence[Change]) -> str:
    lines = []
    for change in changes:
        counts = {
            "new": change.added, "changed": change.changed, "removed": change.removed, "set aside": change.set_aside,
        }  # fmt: skip
        if said := ", ".join(f"{count:,} {what}" for what, count in counts.items() if count):
            lines.append(f"{change.kind}: {said}; {change.count:,} in all")
    return "\n".join(lines) or "nothing has changed"
