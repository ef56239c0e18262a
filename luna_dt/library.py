"""The front door: one library of pictures on this machine, mirrored from DT, searched here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import export as exporting
from .dt.catalog import Catalog
from .generation import Generation
from .identity import Identity, Verdict
from .layers import embed as embedding
from .layers import verify as verifying
from .made.outbox import Entry
from .maps.making import ControlMap, MadeMaps
from .mirror import sync as syncing
from .mirror.mirrored import MirroredCatalog
from .mirror.sharing import share
from .pixels import Picture, PictureLike
from .preproc.map_types import HIGH, LOW, RESOLUTION, Resolution, map_type
from .progress import Progress, silent
from .records import (
    Captions,
    Cluster,
    ClusterImage,
    Duplicates,
    Float32s,
    Hit,
    ImageRecord,
    Int64s,
    Term,
)
from .search.plan import Engine, terms_of
from .search.results import Collapse, Order, Wanted
from .search.sampling import checked_sort, sampled
from .settings import Settings
from .store.rescue import Rescued
from .store.rescue import rescue as rescuing
from .told import Told


class _Copied(Told):
    """How a library is brought to a server, and from there."""

    def copy_to(self, address: str, progress: Progress = silent, accept: bool = False) -> list[syncing.Change]:
        """Brings what is mirrored and made here of images, captions and layers to a Milvus server, as ``sync`` does from DT.

        ``address``: ``milvus+http(s)://[user:password@]host[:port][/database][?library=NAME]``.  What is there and equal is
        not sent; may be stopped at any moment and goes on from there.  ``accept`` as for ``sync``.
        Raises BadInput, CatalogError, StoreError.
        """
        with self._milvus(address) as there:
            return share(there.server, MirroredCatalog(self._store), self._store, progress, accept)

    def copy_from(self, address: str, progress: Progress = silent, accept: bool = False) -> list[syncing.Change]:
        """Mirrors here what a Milvus server has of a library: images, captions and all layers, as ``sync`` does from DT.

        ``address`` and the rest as for ``copy_to``.  Layers made here stay as they are; those that ``copy_to`` brought there
        from a home that made them are then made here, so that ``embed`` goes on with them and no ``sync`` removes them.
        Raises BadInput, AnotherDT, CatalogError, StoreError.
        """
        with self._milvus(address) as there:
            return self._mirror(there, progress, accept)

    def _mirror(self, catalog: Catalog, progress: Progress, accept: bool) -> list[syncing.Change]:
        changes = syncing.sync(self._store, catalog, progress, accept, self.outbox.keep)
        self.index(progress)
        return changes

    def index(self, progress: Progress = silent) -> None:
        """Brings the saved indexes up to the synced vectors (``sync`` does so by itself)."""
        self._search.index(progress)


class Library(_Copied):
    """A mirrored library::

        with Library() as library:
            library.sync()
            for hit in library.search("reference.png", top_k=5):
                print(hit.similarity, hit.image.path)

    ``home`` and ``dt`` win over the settings (settings.py); nothing is contacted before ``sync``.  Safe
    to use from several threads; several processes may search one home, one at a time may sync it.
    ``residency`` is for a host that shares its memory with the models (memory.py), ``connect`` for one that watches over
    what DT is asked.  ``outbox`` and ``batches`` are what was made and what is being made; ``encoders`` make vectors,
    ``thumbnails`` small pictures.
    Raises StoreError, SettingsError.
    """

    @staticmethod
    def rescue(home: str | os.PathLike[str] | None = None, progress: Progress = silent) -> Rescued:
        """Takes what can be read out of a damaged library.db into a new one; the damaged file is kept beside it.

        ``home`` as the settings have it.  Nothing is deleted or written over; where nothing is damaged, nothing is
        changed.  What of DT was lost comes again with the next ``sync``.  ``progress`` hears ("rescue", pages, of all).
        Raises StoreError, saying why, while somebody has the library open, where the home can only be read, and for a
        newer format; SettingsError.
        """
        return rescuing(Settings.load(home).home, progress)

    def sync(self, progress: Progress = silent, accept: bool = False) -> list[syncing.Change]:
        """Brings this library to what DT has now, and its indexes with it.

        A home belongs to one DT: where another answers, or one that has lost most images, AnotherDT is raised and
        nothing is changed.  With ``accept`` that is taken for what there is: what is mirrored, and made here of
        pictures that are gone, is given up; what waits to be sent to another DT is kept here.

        Where the settings name a Milvus server it is that which is brought there, and this home stays empty.

        ``progress`` hears (kind, done, total), kinds being images, captions, clusters,
        ``embeddings.LAYER`` and ``index.LAYER``.  May be stopped at any moment; the next one goes on.
        Raises CatalogError, StoreError.
        """
        if self._shared:
            return share(self._shared.server, self.catalog, self._store, progress, accept)
        return self._mirror(self.catalog, progress, accept)

    def verify(self, layer: str, sample: int = 32, progress: Progress = silent) -> Verdict:
        """Makes ``sample`` of a layer's vectors again and says whether they are what the layer claims.

        What was found is kept with the layer: queries are then made in the way that fits, and a search of
        a layer that failed says so.  Raises UnknownLayer, NotSearchable, WeightsError, MissingExtra.
        """
        verdict = verifying.verify(self._store, self.encoders, layer, self.picture, sample, progress)
        self._search.references.forget_doubt(layer)
        return verdict

    def embed(
        self,
        layer: str,
        where: str = "",
        *,
        model: str = "",
        quality: embedding.Quality = "",
        devices: Sequence[str] = (),
        replace: bool = False,
        progress: Progress = silent,
        begins: Callable[[embedding.Forecast], object] = lambda _: None,
    ) -> embedding.Embedded:
        """Makes a layer's vectors here, from the pictures (or prompts) of the images that fit ``where``.

        Only what is missing or has changed is made, newest first, and found as it comes; may be stopped at any moment
        and goes on from there.  ``model``: ``ARCHITECTURE:WEIGHTS`` of open_clip, or a sentence-transformers repository;
        or ``quality``: ``fast`` (identity.FAST, small enough for a CPU), ``best`` (identity.LOCAL_IDENTITIES); by
        default what the layer was made by here before, else the best.  ``devices``, by default the settings', work side
        by side.  ``begins`` hears a Forecast when the first few are made, if there are more; it may raise to stop.

        Vectors of DT, or of another model, are given up only with ``replace``, or if verifying them failed; then all are
        made anew beside them, and take their place when all are made.  ``sync`` leaves a layer that is made here alone.
        Raises UnknownLayer, BadInput, BadQuery, WeightsError, MissingExtra, OutOfMemory, StoreError.
        """
        done = embedding.embed(
            self._store, self.encoders, self._pictures, layer, where, model, quality, devices, replace, progress, begins
        )
        self.index(progress)
        return done

    def forget(self, layer: str) -> None:
        """Gives up a layer that was made here, or begun; the next sync takes DT's, if it has one.  Raises BadInput."""
        embedding.forget(self._store, layer)

    def search(
        self,
        image: PictureLike | Sequence[Term] | None = None,
        *,
        image_id: int | None = None,
        vector: Any = None,
        text: str | None = None,
        layer: str | None = None,
        top_k: int = 10,
        min_similarity: float = -1.0,
        exclude: Iterable[int] = (),
        exclude_source: bool = True,
        identity: Identity | None = None,
        engine: Engine = "auto",
        where: str = "",
        order: Order = "similarity",
        offset: int = 0,
        collapse: Collapse = 0.0,
        diverse: float = 0.0,
    ) -> list[Hit]:
        """The images most similar to one reference, best first; images that are hidden are left out.

        Give one of: ``image`` (path, PIL image, bytes, array or ComfyUI tensor [B,H,W,C]; of several
        pictures the mean direction counts), ``image_id`` (its stored vector; the image itself is left
        out unless ``exclude_source`` is False), ``vector`` (float[dim], with ``identity`` if known), or
        ``text``.  ``top_k`` >= 1; ``min_similarity`` is a cosine, -1..1.  ``engine``: ``local`` searches
        what is synced, ``dt`` asks DT with the vector made here, ``auto`` prefers local.  ``layer``: by default
        visual; for a text ``text_layer()``.

        Or give a list of ``Term``s, a weighted query; what else was said about one reference must be left out then.

        Only images that fit ``where``, in DT's language, are found.  ``order``: similarity; date, newest first, or
        rating, of all that are at least ``min_similarity`` similar, which must be given then.  ``offset``: hits that
        are passed over, for pages.  ``collapse``: of images with the same prompt and seed (``seed``), of one file
        (``file``, by ImageRecord.hash), or of a cosine of so much (0..1, 0 for none) in the first term's layer, the first
        stands for the others.  ``diverse``, 0..1: how much hits are to differ from each other.  All but ``offset`` are answered from the mirror, or by a Milvus
        server, and not by DT.

        Raises BadInput, BadQuery, BadPicture, BadVector, UnknownLayer, UnknownImage, NoVector, NotSearchable,
        IdentityMismatch, WeightsError; CatalogError when DT is asked.
        """
        if layer is None:
            layer = "visual" if text is None else self._search.text_layer(engine)
        terms = terms_of(image, image_id, vector, text, layer, identity)
        wanted = Wanted(top_k, min_similarity, where, order, offset, collapse, diverse)
        return self._search.hits(terms, wanted, exclude, exclude_source, engine)

    def text_layer(self) -> str:
        """The layer that a text is searched in if none is named: made from pictures if there is one, else semantic."""
        return self._search.text_layer()

    def duplicates(
        self, layer: str | None = "visual", similarity: float = 0.985, where: str = "", progress: Progress = silent
    ) -> list[Duplicates]:
        """Groups of images that are exact copies, and of near ones, the largest first; nothing is deleted.

        Exact copies are those whose files have one hash (ImageRecord.hash); near ones those of equal vectors, and joined
        with these, link by link, those of a cosine of at least ``similarity``, of exact copies the first alone.
        ``layer`` None: only exact copies, which takes no vectors; a layer that has none is an error, since to leave
        near copies out in silence would look as if there were none.
        Raises BadInput, BadQuery, UnknownLayer, NotSearchable.
        """
        return self._search.duplicates(layer, similarity, where, progress)

    def nearest(self, vector: Any, layer: str = "visual", top_k: int = 10) -> tuple[Int64s, Float32s]:
        """``search`` without the records: ids int64[n] and cosines float32[n], best first, n <= top_k."""
        return self._searcher(layer).nearest(vector, Wanted(top_k).top_k)

    def vectors(self, image_ids: Sequence[int], layer: str = "visual") -> list[Float32s | None]:
        """For each image its own vector in a layer that is here, float32[dim] as DT has it, or None where it has none.

        Raises UnknownLayer, NotSearchable.
        """
        if self._shared:
            return self._shared.vectors_of(layer, image_ids)
        return self._searcher(layer).vectors_of(image_ids)

    def image(self, image_id: int) -> ImageRecord:
        """Raises UnknownImage."""
        return self._lookups.image(image_id)

    def images(self, query: str = "", after_id: int = 0, limit: int = 100) -> list[ImageRecord]:
        """Images in id order, by DT's query language (docs/query.md); raises BadQuery."""
        return self._lookups.images(query, after_id, limit)

    def captions(self, image_id: int) -> Captions:
        """Raises UnknownImage."""
        return self._lookups.captions(image_id)

    def clusters(self) -> list[Cluster]:
        """Every cluster, in id order."""
        return self._lookups.clusters()

    def cluster_images(
        self, cluster_id: int, limit: int = 50, min_quality: float = 0, sort: str = "quality", seed: int = 0
    ) -> list[ClusterImage]:
        """A cluster's images of at least ``min_quality`` (0..5, half the rating).

        ``sort``: quality; confidence; random, the same for the same ``seed``; diverse, each the farthest
        from those before it in the visual layer, beginning with the best.
        Raises UnknownCluster, BadInput; NotSearchable when diverse ones are asked for without that layer.
        """
        checked_sort(sort)
        members = self._lookups.cluster_images(cluster_id, min_quality)
        return sampled(members, sort, seed, limit, self.vectors)

    def file(self, image_id: int) -> bytes:
        """An image's file as it is: from its own path (through the path map), else from DT.

        Raises UnknownImage; PictureMissing saying what was tried.
        """
        return self._pictures.file(image_id)

    def picture(self, image_id: int) -> Picture:
        """An image's pixels, RGB and upright; see ``file``; raises BadPicture as well."""
        return self._pictures.picture(image_id)

    def pictures(self, image_ids: Iterable[int]) -> Iterator[tuple[int, Picture | None, str]]:
        """For each image its picture and "", or None and the reason why it could not be opened."""
        return self._pictures.each(image_ids)

    def ids(self, text: str) -> list[int]:
        """The ids that a text names, ``12, 15-20``, or those of the images that fit a query; raises BadInput, BadQuery."""
        return self._lookups.ids(text)

    def export(
        self,
        which: str | Iterable[int],
        folder: str | os.PathLike[str],
        *,
        link: bool = False,
        captions: exporting.Caption = "combined",
        trigger: str = "",
        progress: Progress = silent,
    ) -> exporting.Exported:
        """Puts the pictures that fit a query, or have these ids, into a folder, each with its caption: a training set.

        The folder is made if need be, and nothing in it is overwritten; may be stopped at any moment, and the next one
        goes on.  ``link``: links in the place of copies.  ``captions``: combined, tags, joycaption, prompt or none; each
        is one line of UTF-8 and begins with ``trigger``, unless it does so already.  What fails is told of in the answer.
        Raises BadInput, BadQuery; SettingsError where the folder cannot be written or another export writes it.
        """
        path_map = self.settings.path_map
        return exporting.export(
            self._lookups, self._pictures, path_map, which, Path(folder), link, captions, trigger, progress
        )

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
        """A ControlNet map (``kind`` is one of preproc/map_types.py's) of one picture, or of an image by its id.

        DT's own, if it has one and nothing else is asked for; else the one that is kept here; else, unless
        ``make`` is False, made now, kept, and handed to DT if it takes maps; with ``anew`` it is made now in the
        place of any there is.  ``resolution`` is that at which it is made: pixels of the shorter side (64..4096),
        or ``source`` for the picture's own; made here the map has the picture's size whatever that is.  ``low``
        and ``high`` (0..255) are canny's thresholds.
        Raises BadInput, BadPicture, UnknownImage, PictureMissing, MapMissing, WeightsError, MissingExtra, OutOfMemory.
        """
        parameters = map_type(kind).parameters(resolution, low, high)
        return self._maps.of_one(kind, image, image_id, parameters, make, anew)

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
        return self._maps.of_all(where, kinds, resolution, low, high, progress)

    def record(self, record: Generation | Mapping[str, Any]) -> Entry:
        """Stores what was made, for good, and has DT told of it in the background, now or when it is back.

        A mapping has the contract's fields (generation.Generation).  The same ``key`` is recorded once.  What
        became of it is in ``outbox``.  Raises BadInput, StoreError.
        """
        return self.outbox.put(record)
