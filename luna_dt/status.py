"""What is here: how much of each kind, how old, how it is searched, how much room it takes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .index.engines import Choice
from .index.proof import Proof
from .index.shelf import Saved
from .maps.cache import MapCache
from .search.plan import Search
from .store import LayerState, SetAside, Store


@dataclass(frozen=True)
class LayerStatus:
    """One layer in ``Status``: ``coverage`` is the share of images that have a vector; ``indexed`` rows of ``rows`` in the
    file are in the saved index, which ``engine`` made; ``proof`` is its own recall, measured against exact answers
    when it was made; ``reason`` is why this engine was chosen; ``building`` is how much of an index that this library
    is making now there is, 0..1."""

    state: LayerState
    coverage: float
    engine: str
    indexed: int
    proof: Proof | None
    reason: str
    building: float | None = None

    def to_json(self) -> dict[str, Any]:
        s = self.state
        return {
            "name": s.name, "vectors": s.count, "unusable": s.unusable, "coverage": self.coverage,
            "bytes": s.bytes, "synced": s.synced, "identity": s.identity.to_json(), "local": s.local,
            "verdict": s.verdict.to_json() if s.verdict else None,
            "engine": self.engine, "indexed": self.indexed,
            "proof": self.proof.to_json() if self.proof else None, "reason": self.reason,
            "building": self.building,
            "anew": {"identity": s.anew[0].to_json(), "vectors": s.anew[1]} if s.anew else None,
        }  # fmt: skip


@dataclass(frozen=True)
class Status:
    """What is here: where, from which DT, counts and times of the last whole sync (ISO 8601, UTC), bytes on
    disk, and of these how many ControlNet ``maps`` with how many bytes.  ``set_aside`` are DT's rows that cannot be
    kept here, ``left_out`` says in a sentence each what else of DT cannot be used.  ``shared`` says what the Milvus server holds, where the settings name one."""

    home: Path
    dt: str
    counts: dict[str, tuple[int, str]]
    layers: tuple[LayerStatus, ...]
    bytes: int
    maps: tuple[int, int]
    set_aside: tuple[SetAside, ...] = ()
    left_out: tuple[str, ...] = ()
    shared: str = ""

    @property
    def no_layer(self) -> str:
        """Why nothing can be searched by likeness, and what makes that possible; "" where it can."""
        if self.shared or any(layer.state.count for layer in self.layers):
            return ""
        first = "luna-dt sync takes those that DT has" if not self.counts["images"][1] else "DT has none"
        return f"no layer holds vectors: {first}; luna-dt embed --layer visual makes one here"

    def to_json(self) -> dict[str, Any]:
        kinds = {name: {"count": count, "synced": synced} for name, (count, synced) in self.counts.items()}
        layers = [layer.to_json() for layer in self.layers]
        return {"home": str(self.home), "dt": self.dt, "kinds": kinds, "layers": layers, "bytes": self.bytes,
                "maps": {"count": self.maps[0], "bytes": self.maps[1]},
                "set_aside": [rows.to_json() for rows in self.set_aside], "left_out": list(self.left_out), "shared": self.shared}  # fmt: skip


def status_of(store: Store, dt: str, search: Search, maps: MapCache) -> Status:
    """Reads no vector."""
    choice = search.choice
    counts = store.counts()
    total = counts["images"][0]
    layers = []
    for state in store.layers():
        saved, searcher = search.shelf.saved(state.file), search.searchers.get(state.name)
        coverage = state.count / total if total else 0.0
        if saved.engine not in {engine.name for engine in choice.for_layer(state.bytes)}:
            saved = Saved(refused=saved.refused)
        reason = _reason(choice, saved, searcher.trouble if searcher else "")
        building = searcher.building if searcher else None
        layers.append(LayerStatus(state, coverage, saved.engine, saved.rows, saved.proof, reason, building))
    kept = maps.size()
    size = kept[1]
    for folder in (store.home, store.home / "vectors", store.home / "index"):
        for file in folder.glob("*"):
            with contextlib.suppress(OSError):  # a sync beside us replaces files
                size += file.stat().st_size if file.is_file() else 0
    aside = tuple(store.set_aside())
    return Status(store.home, dt, counts, tuple(layers), size, kept, aside, store.left_out())


def _reason(choice: Choice, saved: Saved, trouble: str) -> str:
    """Why a layer is searched as it is, in one sentence."""
    refused = "; ".join(
        f"{engine} is not used, it finds too little of what is nearest ({why})" for engine, why in saved.refused
    )
    return "; ".join(filter(None, [choice.reason, refused, trouble]))
