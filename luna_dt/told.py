"""What a library tells of itself, and of its images one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import get_args

from . import status as state
from .doctor import Finding, examine
from .dt.catalog import Health
from .errors import BadInput
from .generation import Generation
from .identity import Identity
from .known import Known, at_file, known
from .made import generations as making
from .made.lineage import Node
from .paths import picture_file
from .pixels import Picture, read_pictures
from .records import EMBEDDINGS, ImageRecord, Int64s
from .rooms import Rooms
from .store.records import ImageOrder


class Told(Rooms):
    """What a library tells of itself, and of its images one by one."""

    def find(self, query: str = "", order: ImageOrder = "id") -> Int64s:
        """The ids, int64[n], of all mirrored images that fit a query in DT's language and are not hidden.

        ``order``: id, ascending; date, newest first; rating, best first.  DT is not asked.  Raises BadInput, BadQuery.
        """
        if order not in get_args(ImageOrder):
            raise BadInput(f"'{order}' is no order of images; there is: {', '.join(get_args(ImageOrder))}")
        return self._store.ids_of(query, order)

    def records(self, image_ids: Iterable[int]) -> list[ImageRecord]:
        """The records of those ids that are mirrored, in the order asked for; DT is not asked."""
        wanted = list(image_ids)
        found = self._store.images(wanted)
        return [found[image_id] for image_id in wanted if image_id in found]

    def models(self) -> list[tuple[str, int]]:
        """The models that the mirrored images were made with, and how many each, the most used first."""
        return self._store.models()

    def tags(self) -> list[tuple[str, int]]:
        """The tags of the 5,000 mirrored images that were captioned last, and how many have each, the most used first."""
        return self._store.tags()

    def stamp(self, image_id: int) -> str:
        """A text that changes when an image's file does, "" where that is not known; raises UnknownImage."""
        return self._pictures.stamp(self._lookups.image(image_id))

    def images_at(self, file: str | os.PathLike[str]) -> list[ImageRecord]:
        """The mirrored images that DT has at a file of this machine, the path map read backwards."""
        return at_file(Path(file), self._store, self.settings.path_map)

    def known(self, image_id: int) -> Known:
        """All that is known here of an image: captions, clusters, layers, maps, lineage; raises UnknownImage."""
        return known(image_id, self._store, self._lookups, self.lineage(image_id))

    def generations(self, source_image_id: int | None = None, batch_id: str | None = None) -> list[Generation]:
        """What was made, from an image or in a batch, oldest first: what DT knows, and what was recorded here."""
        return making.known(self.outbox, self._dt, source_image_id, batch_id)

    def lineage(self, image_id: int) -> Node:
        """The tree of what came from what around an image, from the first image known; raises UnknownImage."""
        return making.around(image_id, self.generations(), self._store, self._lookups)

    def output(self, made: Generation) -> Picture:
        """The saved picture of a generation, RGB; its path is another's word, so it is opened as DT's paths are.

        Raises PictureMissing, BadPicture.
        """
        return read_pictures(picture_file(made.output, self.settings.path_map), made.output)[0]

    def mirrors(self, kind: str) -> bool:
        """Whether that kind (``images``, ``clusters``, ``embeddings.visual`` …) was synced to its end, or is made here."""
        return self._lookups.mirrors(kind)

    def identity(self, layer: str) -> Identity:
        """What made a layer's vectors; raises UnknownLayer, CatalogError."""
        references = self._search.references
        return references.made_by(layer) if self.mirrors(EMBEDDINGS + layer) else references.made_by_in_dt(layer)

    def fingerprint(self, *kinds: str, image_id: int | None = None, query: str | None = None) -> str:
        """A text that changes when those kinds are synced anew, when the image's record or captions change, or when
        anything does that an answer to the query depends on; of none of them, whenever anything changes at all.

        DT is asked only about an image that is not mirrored and for the searches it has saved; a query that it answers
        itself gives another text each time.  Raises BadQuery.
        """
        if not kinds and image_id is None and query is None:
            return self._lookups.whole_fingerprint(self._dt.whichever)
        return self._lookups.fingerprint(kinds, image_id, query)

    def health(self) -> Health:
        """What answers at DT's address; raises CatalogError."""
        return self.catalog.health()

    def status(self) -> state.Status:
        """What is synced and how it is searched; reads no vector, waits until maps that were made are kept."""
        self._maps.finish()
        found = state.status_of(self._store, self.settings.shown_dt, self._search, self._map_cache)
        return replace(found, shared=self._shared.told()) if self._shared else found

    def explain(self, layer: str = "visual", where: str = "") -> str:
        """One line: what answers a search of a layer, and how many images it is about; raises as ``search``."""
        return self._search.explained(layer, where)

    def doctor(self) -> list[Finding]:
        """What is well and what is not, each finding with one next step; changes, sends and downloads nothing."""
        return examine(self.settings, self._store, self._dt, self.status, self.outbox)
