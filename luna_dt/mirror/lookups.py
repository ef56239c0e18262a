"""Looking up: what is mirrored here, else what DT says."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import uuid
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..dt.catalog import Catalog
from ..errors import BadInput, BadQuery, CatalogError, LunaError, NotFound, UnknownCluster, UnknownImage, Unreachable
from ..ids import MAX_IDS, parse_ids
from ..query import Part
from ..records import Captions, Cluster, ClusterImage, ImageRecord, layer_of
from ..store import Store

T = TypeVar("T")
LISTED_PAGE = 1000  # images that are asked for at once
MOST_MEMBERS = 10_000  # of a cluster that DT is asked for


def fitting(
    images: Callable[[str, int, int], list[ImageRecord]], query: str, after_id: int = 0
) -> Iterator[ImageRecord]:
    """Every image that fits a query, in id order, asked for page by page; raises BadQuery."""
    while page := images(query, after_id, LISTED_PAGE):
        yield from page
        after_id = page[-1].id


class Lookups:
    """A library's look-ups; ``catalog`` gives DT, which is asked only for what is not here."""

    def __init__(self, store: Store, catalog: Callable[[], Catalog]) -> None:
        self._store, self._catalog = store, catalog

    def mirrors(self, kind: str) -> bool:
        layer = layer_of(kind)
        return self._store.synced(kind) or (layer is not None and self._store.is_local(layer))

    def image(self, image_id: int) -> ImageRecord:
        try:
            return self._store.image(image_id)
        except UnknownImage as here:
            return self._from_dt(here, lambda dt: dt.image(image_id))

    def images(self, query: str, after_id: int, limit: int) -> list[ImageRecord]:
        return self._mirrored_or_dt(
            "images", lambda: self._store.find(query, after_id, limit), lambda dt: dt.images(query, after_id, limit)
        )

    def saved(self, name: str) -> list[Part]:
        """What a search that DT has saved under that name asks for; it is asked of DT each time.  Raises BadQuery."""
        try:
            return self._catalog().saved(name)
        except CatalogError as error:
            raise BadQuery(f"'saved:' names a search saved in DT, and that cannot be asked: {error}") from error

    def captions(self, image_id: int) -> Captions:
        try:
            return self._store.captions(image_id)
        except UnknownImage as here:
            return self._from_dt(here, lambda dt: dt.captions(image_id))

    def clusters(self) -> list[Cluster]:
        return self._mirrored_or_dt("clusters", self._store.clusters, lambda dt: dt.clusters())

    def cluster_images(self, cluster_id: int, min_quality: float) -> list[ClusterImage]:
        """All of a cluster's images of that quality, the best first."""
        try:
            return self._store.cluster_images(cluster_id, min_quality)
        except UnknownCluster as here:
            return self._from_dt(here, lambda dt: dt.cluster_images(cluster_id, MOST_MEMBERS, min_quality, "quality"))

    def ids(self, text: str) -> list[int]:
        """The ids that a text names, or of the images that fit it as a query; raises BadInput, BadQuery."""
        found = parse_ids(text) if text.strip() else []
        if found is None:
            found = [image.id for image in self.images(text, 0, MAX_IDS + 1)]
            if not found:
                raise BadInput(f"no image fits '{text[:100]}'")
        return found

    def fingerprint(self, kinds: tuple[str, ...], image_id: int | None, query: str | None) -> str:
        said = [f"{kind}:{self._store.generation(kind)}" for kind in kinds]
        said += [f"without {flag}" for flag in self._store.hide if kinds]
        if query is not None:
            said.append(_digest(self._store.version_of_query(query)) if self.mirrors("images") else uuid.uuid4().hex)
        if image_id is not None:
            version = self._store.version_of(image_id)
            if not version and image_id > 0:
                with contextlib.suppress(LunaError):  # who asks for the image itself will hear that DT is away
                    version = repr((self._catalog().image(image_id), self._catalog().captions(image_id)))
            said.append(f"{image_id}:{_digest(version)}")
        return " ".join(said)

    def whole_fingerprint(self, whichever: Callable[[], Catalog]) -> str:
        """What any answer depends on: all that is here, the day, and DT (``whichever``) where it has a stamp."""
        said = [self._store.version(), str(self._store.hide), str(datetime.date.today())]
        with contextlib.suppress(LunaError):  # what is here answers without it
            said.append(whichever().stamp())
        return _digest(repr(said))

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


def _digest(version: str) -> str:
    return hashlib.sha256(version.encode("utf-8", "surrogatepass")).hexdigest()[:16]
