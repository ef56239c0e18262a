"""What every way into DT offers; everything above ``dt/`` knows only this."""

# ruff: noqa: ARG002 - the base's own answers need not look at what was asked

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import BadQuery, MapMissing, NotOffered, UnknownLayer
from ..generation import Generation
from ..identity import Identity
from ..query import HIDING, NONE_SAVED, Part
from ..records import Batch, Captions, Cluster, ClusterImage, Float32s, Hit, ImageRecord, Int64s, Kind, StoredMap
from ..version import __version__

Sort = Literal["confidence", "quality", "random"]

#: The parts of the contract: a catalog has one when it writes all of these methods.
CAPABILITIES = {
    "images": ("image", "images"),
    "similar": ("similar",),
    "clusters": ("clusters", "cluster_images"),
    "captions": ("captions",),
    "files": ("file",),
    "sync": ("kinds", "digests", "fetch"),
    "generations": ("record", "generations", "amend"),
    "maps": ("control_map", "put_map"),
}


@dataclass(frozen=True)
class Health:
    """What answers at an address, which parts of the contract it knows ("images", "sync" …), and what it has that
    cannot be used (``left_out``), a sentence each; ``library`` is what this library is known by among all, wherever it is
    asked, "" where that cannot be told."""

    name: str
    version: str
    capabilities: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    library: str = ""


def page_size(kind: str) -> int:
    """How many rows of a kind are asked for at once: 20 MB of 1280-d vectors, and of captions more, for a database that has
    no index from images to their tags reads all of those for each page."""
    return 16_384 if kind == "captions" else 4096


def unknown_kind(kind: str, known: Iterable[str]) -> UnknownLayer:
    """The error for a kind that cannot be mirrored."""
    return UnknownLayer(f"there is nothing called '{kind}' to mirror; there is: {', '.join(known)}")


class Catalog:
    """A DT library; what DT has no place for (generations) is kept beside it, DT's own data is only read.

    A catalog writes the methods for what it has, and sets ``address``, without secrets; what it does not write
    raises NotOffered (``control_map`` MapMissing).  Every method may raise CatalogError and its kinds.
    """

    address: str
    #: The flags of images that are left out unless a query asks for them; a server hides by its own setting.
    hide: tuple[str, ...] = HIDING
    #: Whether an id, once given, never becomes another picture's: in a library of the same name all is then as it was.
    lasting_ids = False
    #: How many images ``similar`` gives at most.
    most_similar = 2**31 - 1

    @classmethod
    def capabilities(cls) -> tuple[str, ...]:
        """The parts of the contract that this class of catalogs writes; what answers may know fewer (``health``)."""
        return tuple(
            part
            for part, methods in CAPABILITIES.items()
            if all(getattr(cls, name) is not getattr(Catalog, name) for name in methods)
        )

    def _not_offered(self, what: str) -> NotOffered:
        return NotOffered(f"DT at {self.address} offers no {what}")

    def health(self) -> Health:
        """Proves that it answers; raises Unreachable."""
        self.images(limit=1)
        return Health("luna_dt", __version__, self.capabilities())

    def image(self, image_id: int) -> ImageRecord:
        """Raises UnknownImage."""
        raise self._not_offered("look-up of images")

    def images(self, query: str = "", after_id: int = 0, limit: int = 100) -> list[ImageRecord]:
        """A page in id order, in DT's query language (docs/query.md); raises BadQuery."""
        raise self._not_offered("look-up of images")

    def saved(self, name: str) -> list[Part]:
        """What a search that DT has saved under that name asks for; raises BadQuery."""
        raise BadQuery(NONE_SAVED)

    def similar(
        self,
        layer: str,
        vector: Float32s | None,
        image_id: int | None,
        top_k: int,
        min_similarity: float,
        text: str | None = None,
    ) -> list[Hit]:
        """The nearest images to a vector, to an image's own vector, or to a text that DT encodes, best first.

        Raises NotOffered where DT encodes no texts; UnknownLayer, NotSearchable, BadVector, UnknownImage, NoVector.
        """
        raise self._not_offered("search for similar images")

    def vectors_of(self, layer: str, image_ids: Sequence[int]) -> list[Float32s | None]:
        """For each image its own vector in a layer, None where it has none; raises NotOffered, UnknownLayer."""
        raise self._not_offered(f"vectors of single images in layer '{layer}'")

    def cosines(
        self, layer: str, vector: Float32s, most: int | None = None, among: Int64s | None = None
    ) -> tuple[Int64s, Float32s]:
        """As ``similar``, without the records: the ``most`` nearest images, best first, or of all, or of those ``among``
        some, each that has a vector, in the order of their ids.  Raises NotOffered, UnknownLayer."""
        raise self._not_offered(f"cosines alone in layer '{layer}'")

    def images_of(self, image_ids: Sequence[int]) -> dict[int, ImageRecord]:
        """The records of those images that there are; raises NotOffered."""
        raise self._not_offered("look-up of several images")

    def fitting(self, where: str) -> Catalog:
        """This catalog, of which ``similar`` finds only images that fit a query; raises NotOffered, BadQuery."""
        raise self._not_offered("search among images that fit a condition")

    def clusters(self) -> list[Cluster]:
        raise self._not_offered("clusters")

    def cluster_images(
        self, cluster_id: int, limit: int = 50, min_quality: float = 0, sort: Sort = "quality"
    ) -> list[ClusterImage]:
        """Raises UnknownCluster."""
        raise self._not_offered("clusters")

    def captions(self, image_id: int) -> Captions:
        """Raises UnknownImage."""
        raise self._not_offered("captions")

    def file(self, image_id: int) -> bytes:
        """The picture's own bytes; raises UnknownImage, PictureMissing, NotOffered."""
        raise self._not_offered(f"files of pictures (image {image_id})")

    def as_read(self, image_id: int, data: bytes) -> bool | None:
        """Whether these bytes are those of the file that DT read as that image; None where it did not note any hash."""
        return None

    def control_map(self, image_id: int, kind: str) -> StoredMap:
        """A ControlNet map that DT has; raises MapMissing, UnknownImage."""
        raise MapMissing(f"DT at {self.address} offers no ControlNet maps ({kind} of image {image_id})")

    def put_map(self, image_id: int, kind: str, made: StoredMap) -> None:
        """Hands a map that was made here (its ``data``) to DT; raises NotOffered where it keeps none, UnknownImage."""
        raise self._not_offered(f"place for ControlNet maps ({kind} of image {image_id})")

    def record(self, generation: Generation) -> str:
        """Stores a generation, once for each key, and gives its id; raises BadInput, NotOffered."""
        raise self._not_offered("place for generations")

    def generations(
        self, source_image_id: int | None = None, batch_id: str | None = None, after_id: int = 0, limit: int = 10_000
    ) -> list[Generation]:
        """What was made from an image, or in a batch, oldest first, a page after an id; raises NotOffered."""
        raise self._not_offered("generations")

    def amend(self, generation_id: str, changes: Mapping[str, Any]) -> Generation:
        """Changes fields of a stored generation; raises NotFound, BadInput, NotOffered."""
        raise self._not_offered("generations")

    def identity(self, layer: str) -> Identity:
        """What made a layer's vectors; raises NotOffered where DT cannot say, NotSearchable, UnknownLayer."""
        raise self._not_offered(f"identity of the vectors in layer '{layer}'")

    def kinds(self) -> list[Kind]:
        """What can be mirrored; raises NotOffered where nothing can."""
        raise self._not_offered("mirroring")

    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        """Every id of a kind, ascending, with a 64-bit value that changes when its row does."""
        raise self._not_offered("mirroring")

    def stamp(self) -> str:
        """Differs from an earlier one whenever anything that could be mirrored has changed since; "" where that cannot be
        told without looking at all of it, as most cannot."""
        return ""

    def fetch(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        """The rows of those ids that still exist, in batches of bounded size."""
        raise self._not_offered("mirroring")

    def close(self) -> None:
        """Lets connections go; the catalog cannot be used after."""
