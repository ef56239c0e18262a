"""What was made, as DT knows it and as it is on its way there; and the tree of what came from what."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable

from ..dt.catalog import Catalog
from ..errors import BadAnswer, CatalogError, NotFound, NotOffered, Unreachable
from ..generation import Generation
from ..mirror.lookups import Lookups
from ..records import ImageRecord
from ..store import Store
from .lineage import Node, tree
from .outbox import NOT_SENT, Outbox

log = logging.getLogger(__name__)

MOST_PAGES = 1000  # of DT's generations


def known(
    outbox: Outbox, catalog: Callable[[], Catalog], source_image_id: int | None, batch_id: str | None
) -> list[Generation]:
    """What was made from an image or in a batch, oldest first; with DT away, what was recorded on this machine."""
    found: dict[str, Generation] = {}
    entries = outbox.entries("sent", *NOT_SENT, source_image_id=source_image_id)
    sent = {entry.generation.id: entry.generation.key for entry in entries if entry.generation.id}
    try:
        last = 0
        for _ in range(MOST_PAGES):
            page = catalog().generations(source_image_id, batch_id, last)
            if not page:
                break
            for made in page:  # a server of another make may know no keys
                key = made.key or sent.get(made.id) or f"dt:{made.id}"
                found[key] = dataclasses.replace(made, key=key)
            if not re.fullmatch("[0-9]{1,18}", page[-1].id) or int(page[-1].id) <= last:
                break  # a server that knows no pages
            last = int(page[-1].id)
        else:
            raise BadAnswer(f"DT sends generations without an end; {MOST_PAGES:,} pages were read")
    except (Unreachable, NotOffered) as error:
        log.info("generations are those of this machine: %s", error)
    for entry in entries:
        if batch_id in (None, entry.generation.batch_id):
            found.setdefault(entry.generation.key, entry.generation)
    return sorted(found.values(), key=lambda made: made.created)


def around(image_id: int, made: list[Generation], store: Store, lookups: Lookups) -> Node:
    """The tree that an image belongs to, among those generations; raises UnknownImage."""
    lookups.image(image_id)
    at_path = store.at_paths(each.output for each in made if each.output)
    seen: dict[int, ImageRecord | None] = {}

    def image(wanted: int) -> ImageRecord | None:
        if wanted not in seen:
            try:
                seen[wanted] = lookups.image(wanted)
            except (NotFound, CatalogError):
                seen[wanted] = None
        return seen[wanted]

    return tree(image_id, made, image, at_path.get)
