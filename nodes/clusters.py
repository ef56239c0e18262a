"""DT's clusters as a list to choose from that is always there, and the ids in what was chosen."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from ..luna_dt import Cluster, Library, LunaError, threads
from ..luna_dt.errors import BadInput
from . import shared

log = logging.getLogger(__name__)

NO_CLUSTERS = "no clusters yet: sync, or start DT"
ASK_EVERY = 30.0  # seconds between two questions to a DT that may be away

_seen: list[Cluster] = []
_asked = 0.0


def cluster_labels() -> list[str]:
    """Every cluster as ``id: name (count)``, at once: from the mirror, else from what DT last told in the background."""
    global _asked
    try:
        opened = shared.library()
        if opened.mirrors("clusters"):
            return _labels(opened.clusters()) or [NO_CLUSTERS]
    except LunaError as error:
        log.warning("clusters cannot be listed: %s", error)
        return [NO_CLUSTERS]
    if time.monotonic() - _asked > ASK_EVERY:
        _asked = time.monotonic()
        threads.start("clusters", lambda: _ask(opened), lambda: None, network=True)
    return _labels(_seen) or [NO_CLUSTERS]


def _ask(opened: Library) -> None:
    try:
        _seen[:] = opened.clusters()
    except LunaError as error:
        log.info("DT tells no clusters: %s", error)


def _labels(clusters: Iterable[Cluster]) -> list[str]:
    return [f"{c.id}: {c.name or 'unnamed'} ({c.image_count})" for c in clusters]


def cluster_id(label: str) -> int:
    """The id in a label; a saved label's name and count may be out of date.  Raises BadInput."""
    number = str(label).partition(":")[0].strip()
    if not number.isdigit():
        raise BadInput(f"'{label}' is no cluster; choose one from the list again (it may take a moment to load)")
    return int(number)
