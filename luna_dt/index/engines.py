"""Which engines are tried for a layer, in which order, and why: the one place that decides.

The scan is right on every shape of data that was tried, installs everywhere and takes next to no memory; a graph
answers ten times faster on layers without dense groups, for as much private memory as their vectors.  So a graph is
tried where that is little, and kept only if it proves itself (proof.py); everything else is scanned.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

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


def choose(index: str) -> Choice:
    """The engines for a library whose setting ``index`` is auto, exact or an engine's name; warns of what is missing."""
    if index == "exact":
        return Choice((), "every vector is compared, as the setting index says")
    graph, scan = HnswEngine(), ScanEngine()
    wanted: dict[str, tuple[Engine, ...]] = {"auto": (graph, scan), graph.name: (graph,), scan.name: (scan,)}
    here = tuple(engine for engine in wanted[index] if engine.installed())
    if here:
        names = " or ".join(engine.name for engine in here)
        return Choice(here, f"{names}, as the setting index says" if index != "auto" else names, index == "auto")
    missing = " and ".join(engine.name for engine in wanted[index])
    extras = {graph.name: "hnswlib", scan.name: "scan"}
    extra = extras[wanted[index][-1].name]
    log.warning(
        '%s cannot be used here: searches compare every vector, exactly (pip install "luna_dt[%s]")', missing, extra
    )
    return Choice((), f"{missing} cannot be used here")
