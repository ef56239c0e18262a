"""Which engine searches a library, and why: the one place that decides."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from .base import Engine
from .hnsw import HnswEngine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """The ``engine`` whose indexes are made and used, None where every vector is compared; and the ``reason``."""

    engine: Engine | None
    reason: str

    @property
    def name(self) -> str:
        return self.engine.name if self.engine else "exact"


def choose(index: str) -> Choice:
    """The engine for a library whose setting ``index`` is auto or exact; warns when the usual one is missing."""
    if index == "exact":
        return Choice(None, "every vector is compared, as the setting index says")
    engine = HnswEngine()
    if engine.installed():
        return Choice(engine, f"{engine.name} is installed")
    reason = f"{engine.name} is not installed"
    log.warning('%s: searches compare every vector, exactly (pip install "luna_dt[hnswlib]")', reason)
    return Choice(None, reason)
