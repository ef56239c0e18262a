"""The reader's side of a shared library: asked as DT is, so that nothing need be mirrored."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import BadInput, NotOffered, NotSearchable, NoVector, UnknownCluster, UnknownImage, UnknownLayer
from ...identity import Identity
from ...query import Part, is_called, translated
from ...records import (
    EMBEDDINGS,
    RECORD_KINDS,
    Batch,
    Captions,
    Cluster,
    ClusterImage,
    Float32s,
    Hit,
    ImageRecord,
    Int64s,
    Kind,
    Member,
    checked_vectors,
    layer_of,
)
from ..catalog import Catalog, Health, Sort, unknown_kind
from .conditions import ANY, InMilvus
from .server import MOST_NEAREST, RECORDS, Server, table_of

MOST_COMPARED = 1_000_000  # rows whose cosines are all asked for
KNOWN_FOR = 60.0  # seconds for which what a server said of a library is taken for true


class MilvusCatalog(Catalog):
    """One library on a Milvus server; saved searches are asked of ``dt``, which need not answer for anything else."""

    most_similar = MOST_NEAREST

    def __init__(self, server: Server, dt: Callable[[], Catalog]) -> None:
        self.server, self._dt = server, dt
        self.address = server.address
        self._chosen: tuple[str, dict[str, Any]] | None = None
        self._chosen_at = 0.0
        self._query = ""

    def itself(self) -> Catalog:
        """This catalog, for whoever asks for the one that answers."""
        return self

    def library(self) -> tuple[str, dict[str, Any]]:
        """The library's name, and what is known of it, asked anew after a while; raises NotSearchable where it cannot be told
        which is meant."""
        if self._chosen is None or time.monotonic() - self._chosen_at > KNOWN_FOR:
            every = self.server.libraries()
            wanted = self.server.library or (next(iter(every)) if len(every) == 1 else "")
            if not every:
                raise NotSearchable(
                    f"{self.address} holds no library yet; on the machine that can reach DT: luna-dt sync"
                )
            if wanted not in every:
                raise NotSearchable(
                    f"{self.address} holds {len(every)} libraries; add ?library= and one of {', '.join(sorted(every))}"
                )
            self._chosen, self._chosen_at = (wanted, every[wanted]), time.monotonic()
        return self._chosen

    def _condition(self, query: str) -> str:
        """A query in the server's words; raises BadQuery."""
        language = InMilvus(self.server.version() if query.strip() else "", self._called)
        return translated(query, language, tuple(self.library()[1]["hide"]), self.saved)

    def _called(self, value: str) -> list[int]:
        """The ids of the clusters that are called so."""
        return [cluster.id for cluster in self.clusters() if is_called(cluster.name, value)]

    def fitting(self, where: str) -> MilvusCatalog:
        self._condition(where)
        found = copy.copy(self)
        found._query = where
        return found

    def saved(self, name: str) -> list[Part]:
        return self._dt().saved(name)

    def health(self) -> Health:
        name, _ = self.library()
        return Health(
            "Milvus", self.server.version(), ("images", "similar", "clusters", "captions", "sync"), library=name
        )

    def told(self) -> str:
        """What the server is and holds, in words."""
        version = self.server.version()
        try:
            name, about = self.library()
        except NotSearchable as none:
            return f"Milvus {version}: {none}"
        lines = [
            f"Milvus {version} at {self.address}: library {name}, synced {about['synced']}; searched as of the last seconds "
            "(consistency Bounded)"
        ]
        for layer, made_by in sorted(about["layers"].items()):
            identity = Identity.from_json(made_by)
            table = table_of(EMBEDDINGS + layer, identity)
            index, rows = self.server.index_type(table), self.server.count(table, name)
            line = f"{layer}: {rows:,} vectors, index {index}, made by {identity}"
            if proof := about.get("recall", {}).get(layer):
                line += f"; of {proof['asked']} asked for by themselves {proof['found']} are found ({proof['when']})"
            lines.append(line)
        return "\n".join(lines)

    def image(self, image_id: int) -> ImageRecord:
        found = self.server.rows(table_of("images"), self.library()[0], [image_id], ["record"])
        if image_id not in found:
            raise UnknownImage(f"image {image_id} is not on {self.address}; if DT has it, sync again")
        return ImageRecord.from_json(found[image_id]["record"])

    def images(self, query: str = "", after_id: int = 0, limit: int = 100) -> list[ImageRecord]:
        rows = self.server.page(table_of("images"), self.library()[0], self._condition(query), after_id, limit)
        return sorted((ImageRecord.from_json(row["record"]) for row in rows), key=lambda image: image.id)

    def captions(self, image_id: int) -> Captions:
        found = self.server.rows(table_of("captions"), self.library()[0], [image_id], ["record"])
        if image_id in found:
            return Captions.from_json(found[image_id]["record"], image_id)
        self.image(image_id)
        return Captions(image_id)

    def similar(
        self,
        layer: str,
        vector: Float32s | None,
        image_id: int | None,
        top_k: int,
        min_similarity: float,
        text: str | None = None,
    ) -> list[Hit]:
        if text is not None:
            raise NotOffered(f"{self.address} encodes no texts")
        made_by = self.identity(layer)
        table, library = table_of(EMBEDDINGS + layer, made_by), self.library()[0]
        if image_id is not None:
            vector = self.vectors_of(layer, [image_id])[0]
            if vector is None:
                self.image(image_id)
                raise NoVector(f"image {image_id} has no vector in layer '{layer}'; search by its picture instead")
        vector = checked_vectors(vector, made_by.dim)
        nearest = self.server.nearest(table, library, self._searched(), vector, top_k)
        return [
            Hit(each, min(1.0, cosine), ImageRecord.from_json(record))
            for each, cosine, record in nearest
            if cosine >= min_similarity
        ]

    def _searched(self) -> str:
        """The condition on what a search finds: what is hidden is not found, whatever a query asks for."""
        return self._condition("") + (f" and {self._condition(self._query)}" if self._query else "")

    def vectors_of(self, layer: str, image_ids: Sequence[int]) -> list[Float32s | None]:
        table = table_of(EMBEDDINGS + layer, self.identity(layer))
        found = self._rows(table, image_ids, "vector")
        return [np.array(found[i]["vector"], np.float32) if i in found else None for i in image_ids]

    def cosines(
        self, layer: str, vector: Float32s, most: int | None = None, among: Int64s | None = None
    ) -> tuple[Int64s, Float32s]:
        table, name, condition = table_of(EMBEDDINGS + layer, self.identity(layer)), self.library()[0], self._searched()
        if among is not None:
            parts = [among[at : at + RECORDS].tolist() for at in range(0, len(among), RECORDS)]
            found = [
                self.server.cosines(table, name, f"{condition} and id in {part}", vector, len(part)) for part in parts
            ]
            ids = np.concatenate([np.empty(0, np.int64), *(each for each, _ in found)])
            cosines = np.concatenate([np.empty(0, np.float32), *(each for _, each in found)])
            order = np.argsort(ids)
            return ids[order], cosines[order]
        if most is None and (count := self.server.fitting(table, name, condition)) > MOST_COMPARED:
            raise BadInput(
                f"{count:,} images of layer '{layer}' would have to be compared one by one, more than {MOST_COMPARED:,}; "
                "narrow it down with where, or ask for one layer"
            )
        return self.server.cosines(table, name, condition, vector, most)

    def images_of(self, image_ids: Sequence[int]) -> dict[int, ImageRecord]:
        found = self._rows(table_of("images"), image_ids, "record")
        return {image_id: ImageRecord.from_json(row["record"]) for image_id, row in found.items()}

    def _rows(self, table: str, ids: Sequence[int], field: str) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for at in range(0, len(ids), RECORDS):
            found |= self.server.rows(table, self.library()[0], ids[at : at + RECORDS], [field])
        return found

    def identity(self, layer: str) -> Identity:
        layers = self.library()[1]["layers"]
        if layer not in layers:
            raise UnknownLayer(
                f"{self.address} has no layer '{layer}'; there is: {', '.join(sorted(layers)) or 'none yet'}"
            )
        return Identity.from_json(layers[layer])

    def kinds(self) -> list[Kind]:
        name, about = self.library()
        made_by = {EMBEDDINGS + layer: Identity.from_json(told) for layer, told in about["layers"].items()}
        tables = {**dict.fromkeys(RECORD_KINDS), **made_by}
        return [
            Kind(kind, self.server.count(table_of(kind, each), name), each, layer_of(kind) in about.get("local", []))
            for kind, each in tables.items()
        ]

    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        return self.server.digests(self._table(kind), self.library()[0], "source")

    def fetch(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        table, name, layer = self._table(kind), self.library()[0], layer_of(kind)
        for at in range(0, len(ids), RECORDS):
            asked = ids[at : at + RECORDS].tolist()
            found = self.server.rows(table, name, asked, ["source", "vector" if layer else "record"], "Strong")
            here = [i for i in asked if i in found]
            if layer:
                rows: Any = np.array([found[i]["vector"] for i in here], np.float32)
            elif kind == "images":
                rows = [ImageRecord.from_json(found[i]["record"]) for i in here]
            elif kind == "clusters":
                members = self._members(here)
                rows = [replace(_cluster(i, found[i]["record"]), members=members[i]) for i in here]
            else:
                rows = [Captions.from_json(found[i]["record"], i) for i in here]
            if here:
                yield Batch(np.array(here, np.int64), np.array([found[i]["source"] for i in here], np.int64), rows)

    def _table(self, kind: str) -> str:
        if kind not in RECORD_KINDS and layer_of(kind) is None:
            raise unknown_kind(kind, [each.name for each in self.kinds()])
        return table_of(kind, self.identity(layer) if (layer := layer_of(kind)) else None)

    def clusters(self) -> list[Cluster]:
        rows = self.server.page(table_of("clusters"), self.library()[0], ANY)
        return [_cluster(row["id"], row["record"]) for row in rows]

    def cluster_images(
        self, cluster_id: int, limit: int = 50, min_quality: float = 0, sort: Sort = "quality"
    ) -> list[ClusterImage]:
        name = self.library()[0]
        if not self.server.rows(table_of("clusters"), name, [cluster_id], []):
            raise UnknownCluster(f"cluster {cluster_id} is not on {self.address}; if DT has it, sync again")
        confidences = {each.image_id: each.confidence for each in self._members([cluster_id])[cluster_id]}
        condition = f"{self._condition('')} and array_contains(clusters, {cluster_id})"
        rows = self.server.page(table_of("images"), name, condition)
        images = [ImageRecord.from_json(row["record"]) for row in rows]
        found = [ClusterImage(each, confidences.get(each.id, 0.0)) for each in images if each.quality >= min_quality]
        if sort == "random":
            random.shuffle(found)
        else:
            found.sort(key=lambda each: (-each.image.quality, -each.confidence))
        if sort == "confidence":
            found.sort(key=lambda each: -each.confidence)
        return found[:limit]

    def _members(self, cluster_ids: Sequence[int]) -> dict[int, tuple[Member, ...]]:
        """The members of clusters, in the order of their images."""
        found: dict[int, list[Member]] = {each: [] for each in cluster_ids}
        condition = f"array_contains_any(clusters, {[*cluster_ids]})"
        for row in self.server.page(table_of("members"), self.library()[0], condition):
            for cluster_id, confidence in row["record"].items():
                if int(cluster_id) in found:
                    found[int(cluster_id)].append(Member(row["id"], confidence))
        return {each: tuple(members) for each, members in found.items()}

    def close(self) -> None:
        self.server.close()


def _cluster(cluster_id: int, record: Mapping[str, Any]) -> Cluster:
    return Cluster(cluster_id, record["name"], record["image_count"])
