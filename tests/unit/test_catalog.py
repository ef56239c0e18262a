"""The base of every way into DT: what a catalog does not write is answered for it, and not claimed by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from luna_dt.dt.catalog import CAPABILITIES, Catalog
from luna_dt.dt.postgres import PostgresCatalog
from luna_dt.dt.rest import RestCatalog
from luna_dt.errors import LunaError, MapMissing, NotOffered, UnknownImage
from luna_dt.generation import Generation
from luna_dt.records import ImageRecord, StoredMap

RECORD = ImageRecord(3, "/pictures/x.png")
MADE = Generation.from_json({"operation": "txt2img", "key": "k", "created": "2026-01-01T00:00:00"})


class OnlyImages(Catalog):
    address = "a folder"

    def image(self, image_id: int) -> ImageRecord:
        if image_id != RECORD.id:
            raise UnknownImage(f"DT has no image {image_id}")
        return RECORD

    def images(self, query: str = "", after_id: int = 0, limit: int = 100) -> list[ImageRecord]:
        return [RECORD][:limit] if not query and after_id < RECORD.id else []


def test_a_catalog_claims_what_it_writes() -> None:
    catalog = OnlyImages()
    assert catalog.images() == [catalog.image(3)]
    assert catalog.health().capabilities == ("images",)
    assert Catalog.capabilities() == ()
    assert set(CAPABILITIES) - set(PostgresCatalog.capabilities()) == {"files", "maps"}
    assert RestCatalog.capabilities() == tuple(CAPABILITIES)


def test_half_of_a_capability_is_not_claimed() -> None:
    class Readable(OnlyImages):
        def generations(self, *_: object, **__: object) -> list[Generation]:
            return []

    assert Readable.capabilities() == ("images",)


@pytest.mark.parametrize(
    ("ask", "error", "told"),
    [
        (lambda c: c.similar("visual", None, 3, 5, 0), NotOffered, "search for similar images"),
        (lambda c: c.clusters(), NotOffered, "clusters"),
        (lambda c: c.cluster_images(1), NotOffered, "clusters"),
        (lambda c: c.captions(3), NotOffered, "captions"),
        (lambda c: c.file(3), NotOffered, "files of pictures"),
        (lambda c: c.control_map(3, "canny"), MapMissing, "ControlNet maps"),
        (lambda c: c.put_map(3, "canny", StoredMap(b"x")), NotOffered, "ControlNet maps"),
        (lambda c: c.record(MADE), NotOffered, "generations"),
        (lambda c: c.generations(), NotOffered, "generations"),
        (lambda c: c.amend("1", {}), NotOffered, "generations"),
        (lambda c: c.identity("visual"), NotOffered, "layer 'visual'"),
        (lambda c: c.kinds(), NotOffered, "mirroring"),
        (lambda c: c.digests("images"), NotOffered, "mirroring"),
        (lambda c: c.fetch("images", np.array([3])), NotOffered, "mirroring"),
    ],
)
def test_what_a_catalog_does_not_write_is_not_offered(
    ask: Callable[[Catalog], Any], error: type[LunaError], told: str
) -> None:
    catalog = OnlyImages()
    with pytest.raises(error, match=f"^DT at a folder offers no .*{told}"):
        ask(catalog)
    catalog.close()


def test_a_catalog_of_nothing_looks_nothing_up() -> None:
    nothing = Catalog()
    nothing.address = "nowhere"
    for ask in (nothing.health, nothing.images, lambda: nothing.image(1)):
        with pytest.raises(NotOffered, match="nowhere offers no look-up of images"):
            ask()
