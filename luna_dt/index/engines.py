"""Which engines are tried for a layer, in which order, and why: the one place that decides.

The scan is right on every shape of data that was tried, installs everywhere and takes next to no memory; a graph
answers ten times faster on layers without dense groups, for as much private memory as their vectors.  So a graph is
tried where that is little, and kept only if it proves itself (proof.py); everything else is scanned.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ..errors import SettingsError
from ..settings import is_shared
from .base import Engine
from .hnsw import HnswEngine
from .scan import ScanEngine

log = logging.getLogger(__name__)

GRAPH_BYTES = 256 << 20  # of vectors; of more, a graph's private memory is missed by diffusion models


@dataclass(frozen=True)
class Choice:
    """The ``engines`` whose indexes may be made and used; and the ``reason``.  None: every vector is compared."""

    engines: tuple[Engine, ...]
    reason: str
    free: bool = False  # whether the library chooses among them

    def for_layer(self, size: int) -> tuple[Engine, ...]:
        """The engines to be tried for a layer of vectors of so many bytes, in this order."""
        if not self.free:
            return self.engines
        return tuple(each for each in self.engines if each.mapped or size <= GRAPH_BYTES or len(self.engines) == 1)


GRAPH, SCAN = HnswEngine(), ScanEngine()
ENGINES: dict[str, tuple[Engine, ...]] = {"auto": (GRAPH, SCAN), GRAPH.name: (GRAPH,), SCAN.name: (SCAN,), "exact": ()}
EXTRAS = {GRAPH.name: "hnswlib", SCAN.name: "scan"}  # what pip calls them


def checked(index: str) -> str:
    """A setting ``index`` as it is; raises SettingsError for one that is none."""
    if index not in ENGINES and not is_shared(index):
        raise SettingsError(
            f"the setting index is one of {', '.join(ENGINES)}, or milvus+http://host of a Milvus server, not '{index}'"
        )
    return index


def choose(index: str) -> Choice:
    """The engines for a library with that setting: auto, exact or an engine's name; warns of what is missing."""
    if is_shared(index):
        return Choice((), "what is made here is compared, the rest is on a Milvus server")
    wanted = ENGINES[checked(index)]
    if not wanted:
        return Choice((), "every vector is compared, as the setting index says")
    here = tuple(engine for engine in wanted if engine.installed())
    if here:
        names = " or ".join(engine.name for engine in here)
        return Choice(here, names if index == "auto" else f"{names}, as the setting index says", index == "auto")
    missing, extra = " and ".join(engine.name for engine in wanted), EXTRAS[wanted[-1].name]
    log.warning(
        '%s cannot be used here: searches compare every vector, exactly (pip install "luna_dt[%s]")', missing, extra
    )
    return Choice((), f"{missing} cannot be used here")
