"""The front door: one library of pictures on this machine, mirrored from DT, searched here."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import math
import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
from filelock import FileLock

from . import files
from .dt import connect
from .dt.catalog import Catalog, Health
from .errors import (
    BadInput,
    BadPicture,
    CatalogError,
    IdentityMismatch,
    LunaError,
    MapMissing,
    MissingExtra,
    NotFound,
    NotOffered,
    NotSearchable,
    NoVector,
    OutOfMemory,
    PictureMissing,
    UnknownCluster,
    UnknownImage,
    Unreachable,
    WeightsError,
)
from .generation import Generation
from .identity import DT_IDENTITIES, LOCAL_IDENTITIES, Identity, Verdict
from .ids import MAX_IDS, parse_ids
from .index import hnsw
from .layers import embed as embedding
from .layers import verify as verifying
from .made.batch import Batches
from .made.outbox import NOT_SENT, Entry, Outbox
from .maps.cache import MapCache
from .maps.making import ControlMap, MadeMaps, Maps, ServedMaps, Source, unseen_digest
from .memory import Memory, Residency
from .mirror import sync as syncing
from .models import Encoders
from .paths import local_path, picture_file
from .pixels import PictureLike, read_pictures
from .preproc import Detectors
from .preproc.map_types import HIGH, LOW, RESOLUTION, Resolution, map_type
from .progress import Progress, silent
from .records import (
    EMBEDDINGS,
    Captions,
    Cluster,
    ClusterImage,
    Float32s,
    Hit,
    ImageRecord,
    Int64s,
    Term,
    checked_layer,
    checked_vectors,
    content_digest,
    layer_of,
)
from .search import searcher as searching
from .settings import Settings
from .store import LayerState, Store

if TYPE_CHECKING:
    from PIL import Image

    from .made.lineage import Node

log = logging.getLogger(__name__)

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
            "bytes": s.bytes, "synced": s.synced, "identity": s.identity.to_json(), "local": s.local,
            "verdict": s.verdict.to_json() if s.verdict else None,
            "engine": self.engine, "indexed": self.indexed,
        }  # fmt: skip


@dataclass(frozen=True)
class Status:
    """What is here: where, from which DT, counts and times of the last whole sync (ISO 8601, UTC), bytes on
    disk, and of these how many ControlNet ``maps`` with how many bytes."""

    home: Path
    dt: str
    counts: dict[str, tuple[int, str]]
    layers: tuple[LayerStatus, ...]
    bytes: int
    maps: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        kinds = {name: {"count": count, "synced": synced} for name, (count, synced) in self.counts.items()}
        layers = [layer.to_json() for layer in self.layers]
        return {"home": str(self.home), "dt": self.dt, "kinds": kinds, "layers": layers, "bytes": self.bytes,
                "maps": {"count": self.maps[0], "bytes": self.maps[1]}}  # fmt: skip


class Library:
    """A mirrored library::

        with Library() as library:
            library.sync()
            for hit in library.search("reference.png", top_k=5):
                print(hit.similarity, hit.image.path)

    ``home`` and ``dt`` win over the settings (settings.py); nothing is contacted before ``sync``.  Safe
    to use from several threads; several processes may search one home, one at a time may sync it.
    ``residency`` is for a host that shares its memory with the models (memory.py).
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
        self._memory = Memory(residency)
        self.encoders = Encoders(self.settings, self._memory)
        self._searchers: dict[str, searching.Searcher] = {}
        self._dt: Catalog | None = None
        self._map_cache = MapCache(self._store, self.settings.maps_bytes)
        detectors = Detectors(self.settings.device, self.settings.models_folders, self._memory, self._map_cache.sha256)
        self._maps = Maps(self._map_cache, detectors, lambda: self.catalog, self.settings.path_map)
        self.outbox = Outbox(self._store, lambda: self.catalog)
        self.batches = Batches(self._store, self.outbox)
        self._lock = threading.Lock()
        self._doubted: set[str] = set()  # layers of which it was said that verifying them failed

    @property
    def catalog(self) -> Catalog:
        """DT itself, through the one protocol; not contacted before something is asked of it."""
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
        self._maps.close()
        self.batches.close()
        self.outbox.close()
        with self._lock:
            for searcher in self._searchers.values():
                searcher.close()
            self._searchers.clear()
            if self._dt:
                self._dt.close()
        self._memory.release()
        self._map_cache.close()
        self._store.close()

    def release(self) -> None:
        """Lets the models' memory go; they are loaded again when next needed."""
        self._memory.release()

    def wait(self) -> None:
        """Returns when nothing goes on in the background: no index is made, no map is on its way to the disk."""
        for searcher in list(self._searchers.values()):
            searcher.wait()
        self._maps.finish()

    @property
    def served_maps(self) -> ServedMaps | None:
        """The maps that a server of this library keeps for its clients; None where none are kept (``maps_gb`` 0)."""
        return ServedMaps(self._map_cache, self.settings.path_map) if self._map_cache.limit else None

    # -- mirroring ----------------------------------------------------------------------------------

    def sync(self, progress: Progress = silent) -> list[syncing.Change]:
        """Brings this library to what DT has now, and its indexes with it.

        ``progress`` hears (kind, done, total), kinds being images, captions, clusters,
        ``embeddings.LAYER`` and ``index.LAYER``.  May be stopped at any moment; the next one goes on.
        Raises CatalogError, StoreError.
        """
        changes = syncing.sync(self._store, self.catalog, progress)
        self.index(progress)
        return changes

    def index(self, progress: Progress = silent) -> None:
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

    # -- layers that are proven, and made, here -------------------------------------------------------

    def verify(self, layer: str, sample: int = 32, progress: Progress = silent) -> Verdict:
        """Makes ``sample`` of a layer's vectors again and says whether they are what the layer claims.

        What was found is kept with the layer: queries are then made in the way that fits, and a search of
        a layer that failed says so.  Raises UnknownLayer, NotSearchable, WeightsError, MissingExtra.
        """
        if sample < 1:
            raise BadInput(f"sample must be at least 1, not {sample}")
        verdict = verifying.verify(self._store, self.encoders, layer, self.picture, sample, progress)
        self._doubted.discard(layer)
        return verdict

    def embed(
        self,
        layer: str,
        where: str = "",
        *,
        model: str = "",
        devices: Sequence[str] = (),
        replace: bool = False,
        progress: Progress = silent,
    ) -> embedding.Embedded:
        """Makes a layer's vectors here, from the pictures (or prompts) of the images that fit ``where``.

        Only what is missing or has changed is made; it may be stopped at any moment and goes on from there.
        ``model`` (``ARCHITECTURE:WEIGHTS`` of open_clip, or a sentence-transformers repository) is by default
        the layer's own (records.LOCAL_IDENTITIES), or what the layer was made by here before; ``devices``,
        by default the settings', work side by side.  A layer that is made here is left alone by ``sync``.
        Vectors of DT, or made by another model, are given up only with ``replace``, or if verifying them failed;
        then, and with ``replace``, all are made anew.
        Raises UnknownLayer, BadInput, BadQuery, WeightsError, MissingExtra, OutOfMemory, StoreError.
        """
        state = next((s for s in self._store.layers() if s.name == checked_layer(layer)), None)
        if model:
            identity = self.encoders.identity(model, LOCAL_IDENTITIES[layer].tower)
        else:
            identity = state.identity if state and state.local else LOCAL_IDENTITIES[layer]
        failed = bool(state and state.verdict and not state.verdict.passed)
        same = state and state.local and state.identity == identity
        if state and state.count and not (same or failed or replace):
            raise BadInput(
                f"layer '{layer}' holds {state.count:,} vectors {'made here' if state.local else 'from DT'} by "
                f"{state.identity}; making it by {identity} gives them up: say so with --replace (replace=True)"
            )
        towers = [self.encoders.tower(identity, device) for device in dict.fromkeys(devices or ("",))]
        done = embedding.embed(
            self._store, towers, layer, identity, where, self.file, self._stamp, progress, anew=replace or failed
        )
        self.index(progress)
        return done

    def forget(self, layer: str) -> None:
        """Gives up a layer that was made here; the next sync takes DT's, if it has one.  Raises BadInput."""
        if not self._store.is_local(checked_layer(layer)):
            raise BadInput(f"layer '{layer}' was not made here")
        with self._store.sole_writer():
            self._store.remove_layer(layer)

    def _stamp(self, record: ImageRecord) -> str:
        """Changes when an image's file does: its size and time, or DT's record where the file is not to be reached.

        "" where neither is known here.
        """
        try:
            return files.stamp(local_path(record.path, self.settings.path_map))
        except (PictureMissing, OSError):
            version = self._store.version_of(record.id)
            return f"dt {version}" if version else ""

    # -- searching ----------------------------------------------------------------------------------

    def search(
        self,
        image: PictureLike | Sequence[Term] | None = None,
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

        Or give a list of ``Term``s, each a reference in a layer with a weight: an image's similarity is then
        the sum of weight times cosine over the terms, divided by the sum of the weights' sizes, so -1..1
        again; where an image has no vector in a term's layer that cosine counts as 0, and images without any of
        them are not found.  Always searched here; what else was said about one reference must be left out.

        Raises BadInput, BadPicture, BadVector, UnknownLayer, UnknownImage, NoVector, NotSearchable,
        IdentityMismatch, WeightsError; CatalogError when DT is asked.
        """
        if top_k < 1:
            raise BadInput(f"top_k must be at least 1, not {top_k}")
        left_out = {int(i) for i in exclude}
        if isinstance(image, (list, tuple)) and image and isinstance(image[0], Term):
            if engine == "dt" or any(value is not None for value in (image_id, vector, text, identity)):
                raise BadInput("a query of several terms is searched here, and has everything in its terms")
            if exclude_source:
                left_out.update(int(term.image_id) for term in image if term.image_id is not None)
            return self._search_terms(image, top_k, min_similarity, left_out)
        given = _one({"image": image, "image_id": image_id, "vector": vector, "text": text})
        checked_layer(layer)
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
        found = searcher.nearest(self._reference(layer, given, identity), top_k, left_out)
        return self._hits(*found, min_similarity)

    def _hits(self, ids: Int64s, similarities: Float32s, min_similarity: float) -> list[Hit]:
        records = self._store.images(ids.tolist())
        return [
            Hit(found, similarity, records[found])
            for found, similarity in zip(ids.tolist(), similarities.tolist(), strict=True)
            if similarity >= min_similarity and found in records
        ]

    def _search_terms(self, terms: Sequence[Term], top_k: int, min_similarity: float, left_out: set[int]) -> list[Hit]:
        directions: dict[str, Float32s] = {}
        for term in terms:
            given = _one({name: getattr(term, name) for name in ("image", "image_id", "vector", "text")})
            if not math.isfinite(term.weight) or not term.weight:
                raise BadInput(f"a term's weight must be a number other than 0, not {term.weight}")
            vector = np.asarray(self._reference(checked_layer(term.layer), given, None), np.float32)
            vector = checked_vectors(vector, self._searcher(term.layer).layer().identity.dim)
            weighted = term.weight * vector / np.linalg.norm(vector)
            directions[term.layer] = directions.get(term.layer, 0) + weighted
        total = sum(abs(term.weight) for term in terms)
        layers = {layer: (self._searcher(layer), direction / total) for layer, direction in directions.items()}
        return self._hits(*searching.fused(layers, top_k, left_out), min_similarity)

    def _reference(self, layer: str, given: Given, identity: Identity | None) -> Float32s:
        """The vector of one reference, to be compared with a layer that is here."""
        searcher, image_id = self._searcher(layer), given["image_id"]
        if image_id is None:
            return self._query_vector(layer, self._made_by(layer), given, identity)
        query = searcher.vector_of(int(image_id))
        if query is None:
            self._store.image(int(image_id))
            raise NoVector(f"image {image_id} has no vector in layer '{layer}'; search by its picture instead")
        return query

    def _made_by(self, layer: str) -> Identity:
        """What makes a layer's vectors: as verified, else as it says; warns, once, of a layer that failed."""
        verdict = self._store.verdict(layer)
        if verdict is None or verdict.passed:
            return self._store.layer_identity(layer)
        if layer not in self._doubted:
            self._doubted.add(layer)
            log.warning("layer %s, verified %s, %s; to make it anew: luna-dt embed --layer %s",
                        layer, verdict.when[:10], verdict, layer)  # fmt: skip
        return verdict.fits or verdict.claim

    def _search_in_dt(
        self, layer: str, given: Given, identity: Identity | None, top_k: int, min_similarity: float, left_out: set[int]
    ) -> list[Hit]:
        catalog, count = self.catalog, top_k + len(left_out)
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
            return self._made_by(layer)
        return self._identity_in_dt(layer)

    def mirrors(self, kind: str) -> bool:
        """Whether that kind (``images``, ``clusters``, ``embeddings.visual`` …) was synced to its end, or is made here."""
        layer = layer_of(kind)
        return self._store.synced(kind) or (layer is not None and self._store.is_local(layer))

    def _identity_in_dt(self, layer: str) -> Identity:
        """What DT says made its layer; a DT that cannot say has its usual one."""
        try:
            return self.catalog.identity(layer)
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
            return cast("Float32s", self.encoders.texts(made_by, [given["text"]])[0])
        mean: Float32s = self.encoders.pictures(made_by, read_pictures(given["image"])).mean(axis=0)
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
            return ask(self.catalog)
        except Unreachable as away:
            if self._store.generation(kind):
                return here()
            raise NotFound(f"no {kind} are synced yet (run: luna-dt sync), and {away}") from away

    def _from_dt(self, here: NotFound, ask: Callable[[Catalog], T]) -> T:
        try:
            return ask(self.catalog)
        except Unreachable as away:
            raise type(here)(f"{here}; and {away}") from away

    def file(self, image_id: int) -> bytes:
        """An image's file as it is: from its own path (through the path map), else from DT.

        Raises UnknownImage; PictureMissing saying what was tried.
        """
        record = self.image(image_id)
        tried = []
        try:
            return picture_file(record.path, self.settings.path_map)
        except (PictureMissing, OSError) as error:
            tried.append(str(error))
        try:
            return self.catalog.file(image_id)
        except (CatalogError, NotFound) as error:
            tried.append(str(error))
        raise PictureMissing(f"image {image_id} could not be opened: {'; '.join(tried)}")

    def picture(self, image_id: int) -> Image.Image:
        """An image's pixels, RGB and upright; see ``file``; raises BadPicture as well."""
        return read_pictures(self.file(image_id), f"image {image_id}")[0]

    def pictures(self, image_ids: Iterable[int]) -> Iterator[tuple[int, Image.Image | None, str]]:
        """For each image its picture and "", or None and the reason why it could not be opened."""
        for image_id in image_ids:
            try:
                yield image_id, self.picture(image_id), ""
            except LunaError as error:
                log.info("%s", error)
                yield image_id, None, str(error)

    # -- ControlNet maps ------------------------------------------------------------------------------

    def map(
        self,
        kind: str,
        image: PictureLike | None = None,
        *,
        image_id: int | None = None,
        resolution: Resolution = RESOLUTION,
        low: int = LOW,
        high: int = HIGH,
        make: bool = True,
        anew: bool = False,
    ) -> ControlMap:
        """A ControlNet map (``kind`` is one of preproc/catalogue.py's) of one picture, or of an image by its id.

        DT's own, if it has one and nothing else is asked for; else the one that is kept here; else, unless
        ``make`` is False, made now, kept, and handed to DT if it takes maps; with ``anew`` it is made now in the
        place of any there is.  ``resolution`` is that at which it is made: pixels of the shorter side (64..4096),
        or ``source`` for the picture's own; made here the map has the picture's size whatever that is.  ``low``
        and ``high`` (0..255) are canny's thresholds.
        Raises BadInput, BadPicture, UnknownImage, PictureMissing, MapMissing, WeightsError, MissingExtra, OutOfMemory.
        """
        chosen = map_type(kind)
        parameters = chosen.parameters(resolution, low, high)
        given = _one({"image": image, "image_id": image_id})
        source = _given_source(image) if given["image"] is not None else self._source(self.image(int(image_id or 0)))
        return self._maps.get(chosen, source, parameters, make, anew)

    def make_maps(
        self,
        where: str,
        kinds: Sequence[str],
        *,
        resolution: Resolution = RESOLUTION,
        low: int = LOW,
        high: int = HIGH,
        progress: Progress = silent,
    ) -> MadeMaps:
        """Has maps of those types kept here of every image that fits ``where``, in DT's language.

        May be stopped at any moment and goes on from there; see ``map``.  What fails is told of in the answer.
        Raises BadInput, BadQuery.
        """
        chosen = [map_type(kind) for kind in kinds]
        todo = list(self._store.visible(where))
        made = present = 0
        failed: list[tuple[int | None, str, str]] = []
        for each in chosen:  # one type after the other, since one detector is in memory at a time
            parameters, make = each.parameters(resolution, low, high), True
            for done, record in enumerate(todo):
                progress(f"map.{each.name}", done, len(todo))
                try:
                    source = self._source(record)
                    there = self._maps.has(each, source, parameters)
                    if there or self._maps.get(each, source, parameters, make).was_cached:
                        present += 1
                    else:
                        made += 1
                except (WeightsError, MissingExtra) as error:  # said once; those that DT has are fetched all the same
                    failed.append((None, each.name, str(error)))
                    make = False
                except (BadInput, NotFound, OutOfMemory) as error:
                    if make or not isinstance(error, MapMissing):
                        failed.append((record.id, each.name, str(error)))
            progress(f"map.{each.name}", len(todo), len(todo))
        self._maps.finish()
        return MadeMaps(made, present, tuple(failed))

    def _source(self, record: ImageRecord) -> Source:
        """An image as a source of maps; its file is read only if it was not since it last changed."""
        name, held = f"image {record.id}", list[bytes]()

        def opened() -> Image.Image:
            return read_pictures(held.pop() if held else self.file(record.id), name)[0]

        stamp = self._stamp(record)
        digest = self._store.content(record.id, stamp)
        if digest is None:
            try:
                held.append(self.file(record.id))
                digest = content_digest(held[0])
                if stamp:
                    self._store.put_files([(record.id, stamp, digest)])
            except PictureMissing:  # what was made of it last, or DT's map of it, may be there all the same
                digest = self._store.content(record.id) or unseen_digest(record)
        return Source(digest, opened, name, record.id, lambda: self._stamp(record) == stamp)

    def record(self, record: Generation | Mapping[str, Any]) -> Entry:
        """Stores what was made, for good, and has DT told of it in the background, now or when it is back.

        A mapping has the contract's fields (records.Generation).  The same ``key`` is recorded once.  What
        became of it is in ``outbox``.  Raises BadInput, StoreError.
        """
        return self.outbox.put(record)

    def ids(self, text: str) -> list[int]:
        """The ids that a text names: ``12, 15-20``, or those of the images that fit a query in DT's language.

        Raises BadInput, BadQuery.
        """
        found = parse_ids(text) if text.strip() else []
        if found is None:
            found = [image.id for image in self.images(text, limit=MAX_IDS + 1)]
            if not found:
                raise BadInput(f"no image fits '{text[:100]}'")
        return found

    def generations(self, source_image_id: int | None = None, batch_id: str | None = None) -> list[Generation]:
        """What was made, from an image or in a batch: what DT knows and what is on its way there, oldest first.

        With DT away, what was recorded on this machine.
        """
        found: dict[str, Generation] = {}
        entries = self.outbox.entries("sent", *NOT_SENT, source_image_id=source_image_id)
        sent = {entry.generation.id: entry.generation.key for entry in entries if entry.generation.id}
        try:
            last = 0
            while page := self.catalog.generations(source_image_id, batch_id, last):
                for made in page:  # a server of another make may know no keys
                    key = made.key or sent.get(made.id) or f"dt:{made.id}"
                    found[key] = dataclasses.replace(made, key=key)
                if not page[-1].id.isdigit() or int(page[-1].id) <= last:
                    break  # a server that knows no pages
                last = int(page[-1].id)
        except (Unreachable, NotOffered) as error:
            log.info("generations are those of this machine: %s", error)
        for entry in entries:
            if batch_id in (None, entry.generation.batch_id):
                found.setdefault(entry.generation.key, entry.generation)
        return sorted(found.values(), key=lambda made: made.created)

    def lineage(self, image_id: int) -> Node:
        """The tree of what came from what around an image, from the first image known; raises UnknownImage."""
        from .made.lineage import tree

        self.image(image_id)
        made = self.generations()
        at_path = self._store.at_paths(each.output for each in made if each.output)
        known: dict[int, ImageRecord | None] = {}

        def image(wanted: int) -> ImageRecord | None:
            if wanted not in known:
                try:
                    known[wanted] = self.image(wanted)
                except (NotFound, CatalogError):
                    known[wanted] = None
            return known[wanted]

        return tree(image_id, made, image, at_path.get)

    def output(self, made: Generation) -> Image.Image:
        """The saved picture of a generation, RGB; its path is another's word, so it is opened as DT's paths are.

        Raises PictureMissing, BadPicture.
        """
        return read_pictures(picture_file(made.output, self.settings.path_map), made.output)[0]

    def fingerprint(self, *kinds: str, image_id: int | None = None) -> str:
        """A text that changes when those kinds are synced anew, or the image's record or captions change.

        DT is asked only about an image that is not mirrored.
        """
        said = [f"{kind}:{self._store.generation(kind)}" for kind in kinds]
        if image_id is not None:
            version = self._store.version_of(image_id)
            if not version and image_id > 0:
                with contextlib.suppress(LunaError):  # the node itself will say that DT is away
                    version = repr((self.catalog.image(image_id), self.catalog.captions(image_id)))
            said.append(f"{image_id}:{hashlib.sha256(version.encode()).hexdigest()[:16]}")
        return " ".join(said)

    def health(self) -> Health:
        """What answers at DT's address; raises CatalogError."""
        return self.catalog.health()

    def status(self) -> Status:
        """What is synced and how it is searched; reads no vector, waits until maps that were made are kept."""
        counts = self._store.counts()
        total = counts["images"][0]
        graphs = searching.graphs_wanted(self.settings.index)
        layers = []
        for state in self._store.layers():
            indexed = hnsw.saved_rows(self._store.home / "index", state.file)
            layers.append(
                LayerStatus(state, state.count / total if total else 0.0, "hnswlib" if graphs else "exact", indexed)
            )
        self._maps.finish()
        maps = self._map_cache.size()
        size = maps[1]
        for folder in (self._store.home, self._store.home / "vectors", self._store.home / "index"):
            for file in folder.glob("*"):
                with contextlib.suppress(OSError):  # a sync beside us replaces files
                    size += file.stat().st_size if file.is_file() else 0
        return Status(self._store.home, self.settings.shown_dt, counts, tuple(layers), size, maps)


def _one(given: Given) -> Given:
    """The ways in which a reference can be given, of which one must be used; raises BadInput."""
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        *ways, last = given
        raise BadInput(f"give one of {', '.join(ways)} and {last}, not {' and '.join(names) or 'none'}")
    return given


def _given_source(image: PictureLike) -> Source:
    """A picture that is not DT's: a file by its bytes, which are not decoded until a map must be made."""
    if isinstance(image, (str, os.PathLike)):
        try:
            data, name = Path(image).read_bytes(), str(image)
        except OSError as error:
            raise BadPicture(f"{image}: {error.strerror or error}") from error
    elif isinstance(image, (bytes, bytearray, memoryview)):
        data, name = bytes(image), "the given picture"
    else:
        pictures = read_pictures(image)
        if len(pictures) != 1:
            raise BadInput(f"a map is made of one picture, not of a batch of {len(pictures)}")
        digest = content_digest(pictures[0].tobytes(), f"{pictures[0].size}".encode())
        return Source(digest, lambda: pictures[0], "the given picture")
    return Source(content_digest(data), lambda: read_pictures(data, name)[0], name)
