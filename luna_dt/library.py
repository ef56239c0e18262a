"""The front door: one library of pictures on this machine, mirrored from DT, searched here."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from filelock import FileLock

from . import search as searching
from . import sync as syncing
from .dt import connect
from .dt.catalog import Catalog
from .errors import BadInput, CatalogError, IdentityMismatch, NoVector, PictureMissing
from .index import hnsw
from .models import Encoders
from .pixels import PictureLike, local_path, read_pictures
from .records import Captions, Cluster, ClusterImage, Float32s, Hit, Identity, ImageRecord, Int64s
from .settings import Settings
from .store import LayerState, Store

if TYPE_CHECKING:
    from PIL import Image


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
    Raises StoreError, SettingsError.
    """

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        dt: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = (settings or Settings.load(home)).replace(home=home, dt=dt)
        self._store = Store(self.settings.home)
        self._encoders = Encoders(self.settings)
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
    ) -> list[Hit]:
        """The images most similar to one reference, best first; images that DT hides are left out.

        Give one of: ``image`` (path, PIL image, bytes, array or ComfyUI tensor [B,H,W,C]; of several
        pictures the mean direction counts), ``image_id`` (its stored vector; the image itself is left
        out unless ``exclude_source`` is False), ``vector`` (float[dim], with ``identity`` if known), or
        ``text``.  ``top_k`` >= 1; ``min_similarity`` is a cosine, -1..1.

        Raises BadInput, BadPicture, BadVector, UnknownLayer, UnknownImage, NoVector, NotSearchable,
        IdentityMismatch, WeightsError.
        """
        if top_k < 1:
            raise BadInput(f"top_k must be at least 1, not {top_k}")
        left_out = set(exclude)
        query = self._query_vector(layer, image, image_id, vector, text, identity)
        if image_id is not None and exclude_source:
            left_out.add(int(image_id))
        ids, similarities = self._searcher(layer).nearest(query, top_k, left_out)
        records = self._store.images(ids.tolist())
        return [
            Hit(found, similarity, records[found])
            for found, similarity in zip(ids.tolist(), similarities.tolist(), strict=True)
            if similarity >= min_similarity and found in records
        ]

    def nearest(self, vector: Any, layer: str = "visual", top_k: int = 10) -> tuple[Int64s, Float32s]:
        """``search`` without the records: ids int64[n] and cosines float32[n], best first, n <= top_k."""
        return self._searcher(layer).nearest(vector, top_k)

    def _query_vector(
        self,
        layer: str,
        image: PictureLike | None,
        image_id: int | None,
        vector: Any,
        text: str | None,
        identity: Identity | None,
    ) -> Float32s:
        given = {"image": image, "image_id": image_id, "vector": vector, "text": text}
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            raise BadInput(f"give one of image, image_id, vector and text, not {' and '.join(names) or 'none'}")
        searcher = self._searcher(layer)
        made_by = searcher.layer().identity
        if image_id is not None:
            own = searcher.vector_of(int(image_id))
            if own is None:
                self._store.image(int(image_id))
                raise NoVector(f"image {image_id} has no vector in layer '{layer}'; search by its picture instead")
            return own
        if vector is not None:
            if identity is not None and identity != made_by:
                raise IdentityMismatch(
                    f"the query vector was made by {identity}, layer '{layer}' by {made_by}: they cannot be compared"
                )
            array = np.asarray(vector)
            return cast("Float32s", array[0] if array.ndim == 2 and len(array) == 1 else array)
        if text is not None:
            if not text.strip():
                raise BadInput("the text to search for is empty")
            return cast("Float32s", self._encoders.texts(made_by, [text])[0])
        assert image is not None
        mean: Float32s = self._encoders.pictures(made_by, read_pictures(image)).mean(axis=0)
        return mean

    def _searcher(self, layer: str) -> searching.Searcher:
        with self._lock:
            if layer not in self._searchers:
                self._store.layer_identity(layer)
                self._searchers[layer] = searching.Searcher(
                    self._store, layer, searching.graphs_wanted(self.settings.index)
                )
            return self._searchers[layer]

    # -- looking up ---------------------------------------------------------------------------------

    def image(self, image_id: int) -> ImageRecord:
        """Raises UnknownImage."""
        return self._store.image(image_id)

    def images(self, query: str = "", after_id: int = 0, limit: int = 100) -> list[ImageRecord]:
        """Images in id order, by DT's query language (query.py); raises BadQuery."""
        return self._store.find(query, after_id, limit)

    def captions(self, image_id: int) -> Captions:
        """Raises UnknownImage."""
        return self._store.captions(image_id)

    def clusters(self) -> list[Cluster]:
        return self._store.clusters()

    def cluster_images(
        self, cluster_id: int, limit: int = 50, min_quality: float = 0, sort: str = "quality"
    ) -> list[ClusterImage]:
        """Raises UnknownCluster, BadInput for a ``sort`` other than confidence, quality and random."""
        return self._store.cluster_images(cluster_id, limit, min_quality, sort)

    def picture(self, image_id: int) -> Image.Image:
        """An image's pixels, RGB and upright: from its own path (through the path map), else from DT.

        Raises UnknownImage, BadPicture; PictureMissing saying what was tried.
        """
        record = self.image(image_id)
        tried = []
        try:
            path = local_path(record.path, self.settings.path_map)
            if path.is_file():
                return read_pictures(path)[0]
            tried.append(f"{path}: no such file")
        except PictureMissing as error:
            tried.append(str(error))
        try:
            return read_pictures(self._catalog().file(image_id))[0]
        except (CatalogError, PictureMissing) as error:
            tried.append(str(error))
        raise PictureMissing(f"image {image_id} could not be opened: {'; '.join(tried)}")

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
        size = sum(file.stat().st_size for file in self._store.home.rglob("*") if file.is_file())
        return Status(self._store.home, self.settings.dt, counts, tuple(layers), size)
