"""The front door: one library of pictures on this machine, mirrored from DT, searched here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
from filelock import FileLock

from . import search as searching
from . import sync as syncing
from .dt import connect
from .dt.catalog import Catalog, Health
from .errors import (
    BadInput,
    CatalogError,
    IdentityMismatch,
    LunaError,
    NotFound,
    NotOffered,
    NotSearchable,
    NoVector,
    PictureMissing,
    UnknownCluster,
    UnknownImage,
    Unreachable,
)
from .index import hnsw
from .models import Encoders, Residency
from .pixels import PictureLike, local_path, read_pictures
from .records import (
    DT_IDENTITIES,
    EMBEDDINGS,
    Captions,
    Cluster,
    ClusterImage,
    Float32s,
    Hit,
    Identity,
    ImageRecord,
    Int64s,
    checked_layer,
)
from .settings import Settings
from .store import LayerState, Store

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
Engine = Literal["auto", "local", "dt"]
Given: TypeAlias = Mapping[str, Any]
SORTS = ("quality", "confidence", "random", "diverse")


@dataclass(frozen=True)
class LayerStatus:
    """One layer in ``Status``: ``coverage`` is the share of images that have a vector; ``indexed`` rows
    are in the saved graph of ``rows`` in the file."""

    state: LayerState
    coverage: float
    engine: str
    indexed: int

    def to_json(self) -> dict[str, Any]:
        s = self.state
        return {
            "name": s.name, "vectors": s.count, "unusable": s.unusable, "coverage": self.coverage,
            "bytes": s.bytes, "synced": s.synced, "identity": s.identity.to_json(),
            "engine": self.engine, "indexed": self.indexed,
        }  # fmt: skip


@dataclass(frozen=True)
class Status:
    """What is here: where, from which DT, counts and times of the last whole sync (ISO 8601, UTC)."""

    home: Path
    dt: str
    counts: dict[str, tuple[int, str]]
    layers: tuple[LayerStatus, ...]
    bytes: int

    def to_json(self) -> dict[str, Any]:
        kinds = {name: {"count": count, "synced": synced} for name, (count, synced) in self.counts.items()}
        layers = [layer.to_json() for layer in self.layers]
        return {"home": str(self.home), "dt": self.dt, "kinds": kinds, "layers": layers, "bytes": self.bytes}


class Library:
    """A mirrored library::

        with Library() as library:
            library.sync()
            for hit in library.search("reference.png", top_k=5):
                print(hit.similarity, hit.image.path)

    ``home`` and ``dt`` win over the settings (settings.py); nothing is contacted before ``sync``.  Safe
    to use from several threads; several processes may search one home, one at a time may sync it.
    ``residency`` is for a host that shares its memory with the encoders (models/__init__.py).
    Raises StoreError, SettingsError.
    """

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        dt: str | None = None,
        settings: Settings | None = None,
        residency: Residency | None = None,
    ) -> None:
        self.settings = (settings or Settings.load(home)).replace(home=home, dt=dt)
        self._store = Store(self.settings.home)
        self._encoders = Encoders(self.settings, residency)
        self._searchers: dict[str, searching.Searcher] = {}
        self._dt: Catalog | None = None
        self._lock = threading.Lock()

    def _catalog(self) -> Catalog:
        with self._lock:
            if self._dt is None:
                self._dt = connect(self.settings)
            return self._dt

    def __enter__(self) -> Library:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stops background work and closes files; the library cannot be used after."""
        with self._lock:
            for searcher in self._searchers.values():
                searcher.close()
            self._searchers.clear()
            if self._dt:
                self._dt.close()
        self._encoders.close()
        self._store.close()

    # -- mirroring ----------------------------------------------------------------------------------

    def sync(self, progress: syncing.Progress = lambda *_: None) -> list[syncing.Change]:
        """Brings this library to what DT has now, and its indexes with it.

        ``progress`` hears (kind, done, total), kinds being images, captions, clusters,
        ``embeddings.LAYER`` and ``index.LAYER``.  May be stopped at any moment; the next one goes on.
        Raises CatalogError, StoreError.
        """
        changes = syncing.sync(self._store, self._catalog(), progress)
        self.index(progress)
        return changes

    def index(self, progress: syncing.Progress = lambda *_: None) -> None:
        """Brings the saved indexes up to the synced vectors (``sync`` does so by itself)."""
        if not searching.graphs_wanted(self.settings.index):
            return
        folder = self._store.home / "index"
        states = self._store.layers()
        hnsw.remove_others(folder, {state.file for state in states})
        for state in states:
            if hnsw.saved_rows(folder, state.file) == state.rows:
                continue

            def tell(rows: int, kind: str = f"index.{state.name}", total: int = state.rows) -> None:
                progress(kind, rows, total)

            with FileLock(self._store.home / "index.lock"):
                searching.catch_up(self._store, self._store.layer(state.name), progress=tell)

    # -- searching ----------------------------------------------------------------------------------

    def search(
        self,
        image: PictureLike | None = None,
        *,
        image_id: int | None = None,
        vector: Any = None,
        text: str | None = None,
        layer: str = "visual",
        top_k: int = 10,
        min_similarity: float = -1.0,
        exclude: Iterable[int] = (),
        exclude_source: bool = True,
        identity: Identity | None = None,
        engine: Engine = "auto",
    ) -> list[Hit]:
        """The images most similar to one reference, best first; images that DT hides are left out.

        Give one of: ``image`` (path, PIL image, bytes, array or ComfyUI tensor [B,H,W,C]; of several
        pictures the mean direction counts), ``image_id`` (its stored vector; the image itself is left
        out unless ``exclude_source`` is False), ``vector`` (float[dim], with ``identity`` if known), or
        ``text``.  ``top_k`` >= 1; ``min_similarity`` is a cosine, -1..1.  ``engine``: ``local`` searches
        what is synced, ``dt`` asks DT with the vector made here, ``auto`` prefers local.

        Raises BadInput, BadPicture, BadVector, UnknownLayer, UnknownImage, NoVector, NotSearchable,
        IdentityMismatch, WeightsError; CatalogError when DT is asked.
        """
        if top_k < 1:
            raise BadInput(f"top_k must be at least 1, not {top_k}")
        checked_layer(layer)
        given = {"image": image, "image_id": image_id, "vector": vector, "text": text}
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            raise BadInput(f"give one of image, image_id, vector and text, not {' and '.join(names) or 'none'}")
        left_out = {int(i) for i in exclude}
        if image_id is not None and exclude_source:
            left_out.add(int(image_id))
        asked = (layer, given, identity, top_k, min_similarity, left_out)
        if engine == "local" or (engine == "auto" and self.mirrors(EMBEDDINGS + layer)):
            return self._search_here(*asked)
        try:
            return self._search_in_dt(*asked)
        except Unreachable as away:
            if engine == "auto" and self._store.generation(EMBEDDINGS + layer):
                return self._search_here(*asked)  # the part of the layer that is here
            raise NotSearchable(f"layer '{layer}' is not synced (run: luna-dt sync), and {away}") from away

    def _search_here(
        self, layer: str, given: Given, identity: Identity | None, top_k: int, min_similarity: float, left_out: set[int]
    ) -> list[Hit]:
        searcher = self._searcher(layer)
        image_id = given["image_id"]
        if image_id is not None:
            query = searcher.vector_of(int(image_id))
            if query is None:
                self._store.image(int(image_id))
                raise NoVector(f"image {image_id} has no vector in layer '{layer}'; search by its picture instead")
        else:
            query = self._query_vector(layer, searcher.layer().identity, given, identity)
        ids, similarities = searcher.nearest(query, top_k, left_out)
        records = self._store.images(ids.tolist())
        return [
            Hit(found, similarity, records[found])
            for found, similarity in zip(ids.tolist(), similarities.tolist(), strict=True)
            if similarity >= min_similarity and found in records
        ]

    def _search_in_dt(
        self, layer: str, given: Given, identity: Identity | None, top_k: int, min_similarity: float, left_out: set[int]
    ) -> list[Hit]:
        catalog, count = self._catalog(), top_k + len(left_out)
        hits = None
        if given["text"] is not None:
            with contextlib.suppress(NotOffered):  # then it is encoded here
                hits = catalog.similar(layer, None, None, count, min_similarity, given["text"])
        if hits is None:
            query = None
            if given["image_id"] is None:
                query = self._query_vector(layer, self._identity_in_dt(layer), given, identity)
            hits = catalog.similar(layer, query, given["image_id"], count, min_similarity)
        return [hit for hit in hits if hit.id not in left_out][:top_k]

    def identity(self, layer: str) -> Identity:
        """What made a layer's vectors; raises UnknownLayer, CatalogError."""
        if self.mirrors(EMBEDDINGS + layer):
            return self._store.layer_identity(layer)
        return self._identity_in_dt(layer)

    def mirrors(self, kind: str) -> bool:
        """Whether that kind (``images``, ``clusters``, ``embeddings.visual`` …) was ever synced to its end."""
        return self._store.synced(kind)

    def _identity_in_dt(self, layer: str) -> Identity:
        """What DT says made its layer; a DT that cannot say has its usual one."""
        try:
            return self._catalog().identity(layer)
        except NotOffered:
            return DT_IDENTITIES[layer]

    def nearest(self, vector: Any, layer: str = "visual", top_k: int = 10) -> tuple[Int64s, Float32s]:
        """``search`` without the records: ids int64[n] and cosines float32[n], best first, n <= top_k."""
        return self._searcher(layer).nearest(vector, top_k)

    def _query_vector(self, layer: str, made_by: Identity, given: Given, identity: Identity | None) -> Float32s:
        if given["vector"] is not None:
            if identity is not None and identity != made_by:
                raise IdentityMismatch(
                    f"the query vector was made by {identity}, layer '{layer}' by {made_by}: they cannot be compared"
                )
            array = np.asarray(given["vector"])
            return cast("Float32s", array[0] if array.ndim == 2 and len(array) == 1 else array)
        if given["text"] is not None:
            if not given["text"].strip():
                raise BadInput("the text to search for is empty")
            return cast("Float32s", self._encoders.texts(made_by, [given["text"]])[0])
        mean: Float32s = self._encoders.pictures(made_by, read_pictures(given["image"])).mean(axis=0)
        return mean

    def _searcher(self, layer: str) -> searching.Searcher:
        with self._lock:
            if layer not in self._searchers:
                self._store.layer_identity(layer)
                self._searchers[layer] = searching.Searcher(
                    self._store, layer, searching.graphs_wanted(self.settings.index)
                )
            return self._searchers[layer]

    # -- looking up: what is mirrored here, else what DT says --------------------------------------

    def image(self, image_id: int) -> ImageRecord:
        """Raises UnknownImage."""
        try:
            return self._store.image(image_id)
        except UnknownImage as here:
            return self._from_dt(here, lambda dt: dt.image(image_id))

    def images(self, query: str = "", after_id: int = 0, limit: int = 100) -> list[ImageRecord]:
        """Images in id order, by DT's query language (query.py); raises BadQuery."""
        return self._mirrored_or_dt(
            "images", lambda: self._store.find(query, after_id, limit), lambda dt: dt.images(query, after_id, limit)
        )

    def captions(self, image_id: int) -> Captions:
        """Raises UnknownImage."""
        try:
            return self._store.captions(image_id)
        except UnknownImage as here:
            return self._from_dt(here, lambda dt: dt.captions(image_id))

    def clusters(self) -> list[Cluster]:
        return self._mirrored_or_dt("clusters", self._store.clusters, lambda dt: dt.clusters())

    def cluster_images(
        self, cluster_id: int, limit: int = 50, min_quality: float = 0, sort: str = "quality", seed: int = 0
    ) -> list[ClusterImage]:
        """A cluster's images of at least ``min_quality`` (0..5, half the rating).

        ``sort``: quality; confidence; random, the same for the same ``seed``; diverse, each the farthest
        from those before it in the visual layer, beginning with the best.
        Raises UnknownCluster, BadInput; NotSearchable when diverse ones are asked for without that layer.
        """
        if sort not in SORTS:
            raise BadInput(f"'{sort}' is no way to sort; there is: {', '.join(SORTS)}")
        try:
            found = self._store.cluster_images(cluster_id, min_quality)
        except UnknownCluster as here:
            found = self._from_dt(here, lambda dt: dt.cluster_images(cluster_id, 10_000, min_quality, "quality"))
        if sort == "confidence":
            found.sort(key=lambda member: (-member.confidence, member.image.id))
        elif sort == "random":
            random.Random(seed).shuffle(found)
        elif sort == "diverse":
            found = self._diverse(found, limit)
        return found[:limit]

    def _diverse(self, found: list[ClusterImage], limit: int) -> list[ClusterImage]:
        vectors = self._searcher("visual").vectors_of([member.image.id for member in found])
        having = [(i, vector) for i, vector in enumerate(vectors) if vector is not None]
        if not having:
            return found
        units = np.stack([vector for _, vector in having])
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        chosen, nearest = [0], units @ units[0]
        while len(chosen) < min(limit, len(having)):
            nearest[chosen[-1]] = np.inf
            chosen.append(int(np.argmin(nearest)))
            nearest = np.maximum(nearest, units @ units[chosen[-1]])
        return [found[having[i][0]] for i in chosen] + [m for m, v in zip(found, vectors, strict=True) if v is None]

    def _mirrored_or_dt(self, kind: str, here: Callable[[], T], ask: Callable[[Catalog], T]) -> T:
        """A kind that was synced to its end is answered here; one that was not by DT, or by its part if DT is away."""
        if self.mirrors(kind):
            return here()
        try:
            return ask(self._catalog())
        except Unreachable as away:
            if self._store.generation(kind):
                return here()
            raise NotFound(f"no {kind} are synced yet (run: luna-dt sync), and {away}") from away

    def _from_dt(self, here: NotFound, ask: Callable[[Catalog], T]) -> T:
        try:
            return ask(self._catalog())
        except Unreachable as away:
            raise type(here)(f"{here}; and {away}") from away

    def file(self, image_id: int) -> bytes:
        """An image's file as it is: from its own path (through the path map), else from DT.

        Raises UnknownImage; PictureMissing saying what was tried.
        """
        record = self.image(image_id)
        tried = []
        try:
            return _picture_file(record.path, self.settings.path_map)
        except (PictureMissing, OSError) as error:
            tried.append(str(error))
        try:
            return self._catalog().file(image_id)
        except (CatalogError, NotFound) as error:
            tried.append(str(error))
        raise PictureMissing(f"image {image_id} could not be opened: {'; '.join(tried)}")

    def picture(self, image_id: int) -> Image.Image:
        """An image's pixels, RGB and upright; see ``file``; raises BadPicture as well."""
        return read_pictures(self.file(image_id), f"image {image_id}")[0]

    def control_map(self, image_id: int, kind: str) -> Image.Image:
        """A ControlNet map that DT has stored, RGB; kept here for when DT is away.

        Raises MapMissing, UnknownImage, PictureMissing, BadPicture; CatalogError when DT is away and it is not here.
        """
        kept = self._store.home / "maps" / f"{int(image_id)}-{kind}.png"
        try:
            found = self._catalog().control_map(image_id, kind)
        except Unreachable:
            if not kept.is_file():
                raise
            return read_pictures(kept)[0]
        data = found if isinstance(found, bytes) else _picture_file(found, self.settings.path_map)
        picture = read_pictures(data, f"the {kind} map of image {image_id}")[0]
        kept.parent.mkdir(exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}.part")
        picture.save(part, "PNG")
        part.replace(kept)
        return picture

    def fingerprint(self, *kinds: str, image_id: int | None = None) -> str:
        """A text that changes when those kinds are synced anew, or the image's record or captions change.

        DT is asked only about an image that is not mirrored.
        """
        said = [f"{kind}:{self._store.generation(kind)}" for kind in kinds]
        if image_id is not None:
            version = self._store.version_of(image_id)
            if not version and image_id > 0:
                with contextlib.suppress(LunaError):  # the node itself will say that DT is away
                    version = repr((self._catalog().image(image_id), self._catalog().captions(image_id)))
            said.append(f"{image_id}:{hashlib.sha256(version.encode()).hexdigest()[:16]}")
        return " ".join(said)

    def health(self) -> Health:
        """What answers at DT's address; raises CatalogError."""
        return self._catalog().health()

    def status(self) -> Status:
        """What is synced and how it is searched; reads no vector and contacts nothing."""
        counts = self._store.counts()
        total = counts["images"][0]
        graphs = searching.graphs_wanted(self.settings.index)
        layers = []
        for state in self._store.layers():
            indexed = hnsw.saved_rows(self._store.home / "index", state.file)
            layers.append(
                LayerStatus(state, state.count / total if total else 0.0, "hnswlib" if graphs else "exact", indexed)
            )
        size = 0
        for file in self._store.home.rglob("*"):
            with contextlib.suppress(OSError):  # a sync beside us replaces files
                size += file.stat().st_size if file.is_file() else 0
        return Status(self._store.home, self.settings.shown_dt, counts, tuple(layers), size)


MAX_FILE = 1 << 30  # bytes; no picture is larger, and what is may be no picture


def _picture_file(dt_path: str, path_map: Mapping[str, str]) -> bytes:
    """The bytes of a file that DT names; only a plain file of a picture's size is read."""
    path = local_path(dt_path, path_map)
    if not path.is_file():  # not a device or a pipe, which could be read for ever
        raise PictureMissing(f"{path}: No such file")
    if path.stat().st_size > MAX_FILE:
        raise PictureMissing(f"{path}: {path.stat().st_size:,} bytes are too many for a picture")
    return path.read_bytes()
