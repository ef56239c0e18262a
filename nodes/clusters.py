"""DT's clusters as a list to choose from that is always there, and the ids in what was chosen."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from ..luna_dt import Cluster, ClusterImage, Library, LunaError, threads
from ..luna_dt.errors import BadInput, UnknownCluster
from . import shared, words

log = logging.getLogger(__name__)

NO_CLUSTERS = f"no clusters yet: run {words.SYNC}, or start DT"
ASK_EVERY = 30.0  # seconds between two questions to a DT that may be away

_seen: list[Cluster] = []
_asked = 0.0
_listed = [NO_CLUSTERS]
_looking = threading.Lock()


def listed() -> list[str]:
    """The labels as they were last seen, at once; it is looked again in the background."""
    if shared.in_comfyui() and not _looking.locked():
        threads.start("lists clusters", look, lambda: None)
    return list(_listed)


def look() -> None:
    """Has the list be as it is now."""
    with _looking:
        _listed[:] = cluster_labels()


def cluster_labels() -> list[str]:
    """Every cluster as ``id: name``: from the mirror, else from what DT last told in the background."""
    global _asked
    try:
        opened = shared.library()
        if opened.mirrors("clusters"):
            return _labels(opened.clusters()) or [NO_CLUSTERS]
    except LunaError as error:
        log.warning("clusters cannot be listed: %s", words.here(str(error)))
        return [NO_CLUSTERS]
    if time.monotonic() - _asked > ASK_EVERY:
        _asked = time.monotonic()
        threads.start("clusters", lambda: _ask(opened), lambda: None, network=True)
    return _labels(_seen) or [NO_CLUSTERS]


def _ask(opened: Library) -> None:
    try:
        _seen[:] = opened.clusters()
    except LunaError as error:
        log.info("DT tells no clusters: %s", words.here(str(error)))


def _labels(clusters: Iterable[Cluster]) -> list[str]:
    return [each.label for each in clusters]


def cluster_id(label: str) -> int:
    """The id in a label; a saved label's name may be out of date.  Raises BadInput."""
    number = str(label).partition(":")[0].strip()
    if not number.isdigit():
        raise BadInput(f"'{label}' is no cluster; choose one from the list (R in the page has it looked up again)")
    return int(number)


def members(
    opened: Library, label: str, limit: int, min_quality: float, sort: str, seed: int = 0
) -> list[ClusterImage]:
    """A chosen cluster's images; raises BadInput, UnknownCluster naming what was chosen."""
    try:
        return opened.cluster_images(cluster_id(label), limit, min_quality, sort, seed)
    except UnknownCluster as error:
        raise UnknownCluster(f"cluster '{label}' is there no more, choose another: {error}") from error
