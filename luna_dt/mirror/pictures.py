"""Images' pictures: from DT's own path (through the path map), else from DT."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

from .. import files
from ..dt.catalog import Catalog
from ..errors import CatalogError, LunaError, NotFound, PictureMissing
from ..paths import local_path, picture_file
from ..pixels import Picture, read_pictures
from ..records import ImageRecord
from ..store import Store
from .lookups import Lookups

log = logging.getLogger(__name__)


class Pictures:
    """The pictures of a library's images, wherever they are to be had."""

    def __init__(
        self, store: Store, lookups: Lookups, catalog: Callable[[], Catalog], path_map: Mapping[str, str]
    ) -> None:
        self._store, self._lookups, self._catalog, self._path_map = store, lookups, catalog, path_map

    def file(self, image_id: int) -> bytes:
        record = self._lookups.image(image_id)
        tried = []
        try:
            return picture_file(record.path, self._path_map)
        except (PictureMissing, OSError) as error:
            tried.append(str(error))
        try:
            return self._catalog().file(image_id)
        except (CatalogError, NotFound) as error:
            tried.append(str(error))
        raise PictureMissing(f"image {image_id} could not be opened: {'; '.join(tried)}")

    def picture(self, image_id: int) -> Picture:
        return read_pictures(self.file(image_id), f"image {image_id}")[0]

    def each(self, image_ids: Iterable[int]) -> Iterator[tuple[int, Picture | None, str]]:
        for image_id in image_ids:
            try:
                yield image_id, self.picture(image_id), ""
            except LunaError as error:
                log.warning("%s", error)
                yield image_id, None, str(error)

    def stamp(self, record: ImageRecord) -> str:
        """Changes when an image's file does: its size and time, or DT's record where the file is not to be reached.

        "" where neither is known here.
        """
        try:
            return files.stamp(local_path(record.path, self._path_map))
        except (PictureMissing, OSError):
            version = self._store.version_of(record.id)
            return f"dt {version}" if version else ""
