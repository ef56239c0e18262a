"""Everything that is known here of one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .made.lineage import Node, walk
from .mirror.lookups import Lookups
from .records import Captions, ImageRecord, unseen_digest
from .store import Store


@dataclass(frozen=True)
class Known:
    """An image's record and captions; the ``clusters`` it is in (id, name, confidence 0..1); the ``layers`` in which it
    has a vector; the types of the ControlNet ``maps`` of it that are kept here; and its ``lineage``, the whole tree."""

    image: ImageRecord
    captions: Captions
    clusters: tuple[tuple[int, str, float], ...]
    layers: tuple[str, ...]
    maps: tuple[str, ...]
    lineage: Node

    def to_json(self) -> dict[str, Any]:
        clusters = [{"id": i, "name": name, "confidence": confidence} for i, name, confidence in self.clusters]
        tree = [
            {
                "depth": depth,
                "image_id": node.image.id if node.image else None,
                "generation": node.made.to_json() if node.made else None,
            }
            for depth, node in walk(self.lineage)
        ]
        return {
            "image": self.image.to_json(), "captions": asdict(self.captions), "clusters": clusters,
            "layers": list(self.layers), "maps": list(self.maps), "lineage": tree,
        }  # fmt: skip


def known(image_id: int, store: Store, lookups: Lookups, lineage: Node) -> Known:
    """Raises UnknownImage."""
    clusters = store.rows(
        "SELECT id, name, confidence FROM cluster_members JOIN clusters ON id = cluster_id WHERE image_id = ? ORDER BY id",
        [image_id],
    )
    layers = store.rows("SELECT layer FROM vectors WHERE image_id = ? AND row IS NOT NULL ORDER BY layer", [image_id])
    record = lookups.image(image_id)
    sources = [
        store.content(image_id),
        unseen_digest(record.id, record.path),
    ]  # maps are known by the picture's content, if it was read
    maps = store.rows("SELECT DISTINCT kind FROM maps WHERE source IN (?, ?) ORDER BY kind", sources)
    return Known(
        record,
        lookups.captions(image_id),
        tuple(map(tuple, clusters)),
        tuple(layer for (layer,) in layers),
        tuple(kind for (kind,) in maps),
        lineage,
    )


def at_file(file: Path, store: Store, path_map: Mapping[str, str]) -> list[ImageRecord]:
    """The images that DT has at a file of this machine, the path map read backwards."""
    places = {str(file.absolute()), str(file.resolve())}
    for prefix, target in path_map.items():
        for place in map(Path, [*places]):
            for folder in {Path(target).absolute(), Path(target).resolve()}:
                if place.is_relative_to(folder):
                    slash = "\\" if "\\" in prefix or prefix[1:2] == ":" else "/"
                    places.add(slash.join([prefix.rstrip("\\/"), *place.relative_to(folder).parts]))
    return list({record.id: record for record in store.at_paths(places).values()}.values())
