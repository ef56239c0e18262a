"""What every way into DT offers; everything above ``dt/`` knows only this."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..generation import Generation
from ..identity import Identity
from ..records import Batch, Captions, Cluster, ClusterImage, Float32s, Hit, ImageRecord, Int64s, Kind, StoredMap

Sort = Literal["confidence", "quality", "random"]


@dataclass(frozen=True)
class Health:
    """What answers at an address, and which parts of the contract it knows ("images", "sync" …)."""

    name: str
    version: str
    capabilities: tuple[str, ...]


class Catalog(Protocol):
    """A DT library; what DT has no place for (generations) is kept beside it, DT's own data is only read.

    Every method may raise CatalogError and its kinds.
    """

    address: str

    def health(self) -> Health:
        """Proves that it answers; raises Unreachable."""
        ...

    def image(self, image_id: int) -> ImageRecord:
        """Raises UnknownImage."""
        ...

    def images(self, query: str = "", after_id: int = 0, limit: int = 100) -> list[ImageRecord]:
        """A page in id order, in DT's query language (see query.py); raises BadQuery."""
        ...

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
        ...

    def clusters(self) -> list[Cluster]: ...

    def cluster_images(
        self, cluster_id: int, limit: int = 50, min_quality: float = 0, sort: Sort = "quality"
    ) -> list[ClusterImage]:
        """Raises UnknownCluster."""
        ...

    def captions(self, image_id: int) -> Captions:
        """Raises UnknownImage."""
        ...

    def file(self, image_id: int) -> bytes:
        """The picture's own bytes; raises UnknownImage, PictureMissing, NotOffered."""
        ...

    def control_map(self, image_id: int, kind: str) -> StoredMap:
        """A ControlNet map that DT has; raises MapMissing, UnknownImage."""
        ...

    def put_map(self, image_id: int, kind: str, made: StoredMap) -> None:
        """Hands a map that was made here (its ``data``) to DT; raises NotOffered where it keeps none, UnknownImage."""
        ...

    def record(self, generation: Generation) -> str:
        """Stores a generation, once for each key, and gives its id; raises BadInput, NotOffered."""
        ...

    def generations(
        self, source_image_id: int | None = None, batch_id: str | None = None, after_id: int = 0, limit: int = 10_000
    ) -> list[Generation]:
        """What was made from an image, or in a batch, oldest first, a page after an id; raises NotOffered."""
        ...

    def amend(self, generation_id: str, changes: Mapping[str, Any]) -> Generation:
        """Changes fields of a stored generation; raises NotFound, BadInput, NotOffered."""
        ...

    def identity(self, layer: str) -> Identity:
        """What made a layer's vectors; raises NotOffered where DT cannot say, NotSearchable, UnknownLayer."""
        ...

    def kinds(self) -> list[Kind]:
        """What can be mirrored; raises NotOffered where nothing can."""
        ...

    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        """Every id of a kind, ascending, with a 64-bit value that changes when its row does."""
        ...

    def fetch(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        """The rows of those ids that still exist, in batches of bounded size."""
        ...

    def close(self) -> None: ...
