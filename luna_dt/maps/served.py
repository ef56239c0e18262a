"""The maps of a catalog's images, kept where the server runs."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import MapMissing, PictureMissing
from ..paths import picture_file
from ..pixels import read_pictures
from ..preproc.map_types import map_type
from ..records import ImageRecord, StoredMap, content_digest, unseen_digest
from .cache import FROM_DT, MapCache, MapKey, encoded

PNG = b"\x89PNG\r\n\x1a\n"


class ServedMaps:
    """The maps of a catalog's images, kept where the server runs; what the server finds and stores."""

    def __init__(self, cache: MapCache, path_map: Mapping[str, str]) -> None:
        self._cache, self._path_map = cache, path_map

    def get(self, record: ImageRecord, kind: str) -> StoredMap:
        """Raises BadInput for an unknown type, MapMissing."""
        kept = self._cache.find(self._key(record, kind), None)
        if kept is None:
            raise MapMissing(f"there is no {kind} map of image {record.id}")
        return kept.stored

    def put(self, record: ImageRecord, kind: str, given: StoredMap) -> None:
        """Keeps a map in the place of any before; raises BadInput, BadPicture, StoreError."""
        key = self._key(record, kind)
        picture = read_pictures(given.data, f"the {kind} map of image {record.id}")[0]
        data = given.data if given.data.startswith(PNG) else encoded(picture)
        self._cache.keep(key, FROM_DT, StoredMap(data, keypoints=given.keypoints))
        self._cache.drop_others(key, FROM_DT)

    def _key(self, record: ImageRecord, kind: str) -> MapKey:
        """By the picture's content where the server can read it, else by where DT says it is."""
        usual = map_type(kind).parameters()
        try:
            digest = content_digest(picture_file(record.path, self._path_map))
        except (PictureMissing, OSError):
            digest = unseen_digest(record.id, record.path)
        return MapKey.of(digest, kind, usual)
