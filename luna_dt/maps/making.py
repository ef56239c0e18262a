"""ControlNet maps: the one DT has, else the one that is kept here, else made now, and kept.

DT holds one map of a type, so only those made with the usual parameters are asked of it and handed to it.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from ..dt.catalog import Catalog
from ..errors import (
    BadInput,
    BadPicture,
    LunaError,
    MapMissing,
    MissingExtra,
    NotFound,
    OutOfMemory,
    Refused,
    StoreError,
    Unreachable,
    WeightsError,
)
from ..mirror.pictures import Pictures, Source, source_of
from ..paths import picture_file
from ..pixels import Picture, PictureLike, read_pictures
from ..preproc import Detectors
from ..preproc.map_types import MapType, Resolution, map_type
from ..progress import Progress
from ..records import StoredMap, one_of
from ..store import Store
from .cache import FROM_DT, MapCache, MapKey, encoded

log = logging.getLogger(__name__)

DT_AWAY = 30.0  # seconds for which a DT that did not answer is not asked again


@dataclass(frozen=True)
class ControlMap:
    """A ControlNet map: ``picture`` is RGB; made here it has exactly its source's size.

    ``was_cached`` says that it was there already, in DT or here.  ``keypoints`` is OpenPose's JSON object
    (pixels of the source) for a pose that was made here, else None.
    """

    kind: str
    picture: Picture
    was_cached: bool
    keypoints: dict[str, Any] | None = None


@dataclass(frozen=True)
class MadeMaps:
    """What making many did: maps ``made``, maps that were ``present``, and (image id, type, reason) of each that failed.

    Where the id is None the whole type failed, as for weights that are not to be had.
    """

    made: int
    present: int
    failed: tuple[tuple[int | None, str, str], ...]

    def to_json(self) -> dict[str, Any]:
        failed = [{"id": image_id, "type": kind, "reason": reason} for image_id, kind, reason in self.failed]
        return {**vars(self), "failed": failed}


@dataclass(frozen=True)
class _Wanted:
    """One map that is asked for; ``hand_to`` is the image of which DT is to be given it."""

    kind: MapType
    source: Source
    parameters: Mapping[str, Any]
    key: MapKey
    hand_to: int | None = None

    def __str__(self) -> str:
        return f"the {self.kind.name} map of {self.source.name}"


class Maps:
    """The three places a map may come from, in their order."""

    def __init__(
        self,
        store: Store,
        cache: MapCache,
        detectors: Detectors,
        pictures: Pictures,
        catalog: Callable[[], Catalog],
        path_map: Callable[[], Mapping[str, str]],
    ) -> None:
        self._store, self._cache, self._detectors = store, cache, detectors
        self._pictures, self._catalog, self._path_map = pictures, catalog, path_map
        self._away = (0.0, "")  # until when, and why
        self._keeper = ThreadPoolExecutor(1, "luna_dt maps")
        self._keeping: tuple[int, Future[None]] | None = None  # the slot whose lock is held meanwhile
        self._one_waits = threading.Lock()

    def close(self) -> None:
        self._keeper.shutdown()  # which waits until all is kept

    def finish(self, slot: int | None = None) -> None:
        """Waits until what was made, or what is made under that lock, is kept, and handed to DT."""
        if self._keeping and slot in (None, self._keeping[0]):
            self._keeping[1].result()

    def of_one(
        self,
        kind: str,
        image: PictureLike | None,
        image_id: int | None,
        parameters: Mapping[str, Any],
        make: bool,
        anew: bool,
    ) -> ControlMap:
        """The map of a picture, or of an image by its id; see Library.map."""
        one_of({"image": image, "image_id": image_id})
        source = source_of(image) if image_id is None else self._pictures.source(int(image_id))
        return self.get(map_type(kind), source, parameters, make, anew)

    def get(
        self, kind: MapType, source: Source, parameters: Mapping[str, Any], make: bool = True, anew: bool = False
    ) -> ControlMap:
        """The map of a source; raises MapMissing where there is none and it is not to be made; see Library.map."""
        wanted = _Wanted(kind, source, parameters, MapKey.of(source.digest, kind.name, parameters))
        why_away = ""
        if source.image_id is not None and parameters == kind.parameters():
            found, dt_has_none = None, anew
            if not anew and not self._why_away():
                try:
                    found = self._in_dt(wanted, source.image_id)
                except MapMissing:
                    dt_has_none = True
            if found is not None:
                return found
            why_away = self._why_away()
            if dt_has_none:
                wanted = replace(wanted, hand_to=source.image_id)
        self.finish(self._cache.slot(wanted.key))
        found = None if anew else self._kept(wanted)
        if found is None and not make:
            raise MapMissing(
                f"no {kind.name} map of {source.name} is kept, and none is to be made{why_away and '; and ' + why_away}"
            )
        return found or self._make(wanted, anew)

    def has(self, kind: MapType, source: Source, parameters: Mapping[str, Any]) -> bool:
        """Whether a map is kept here."""
        key = MapKey.of(source.digest, kind.name, parameters)
        return self._cache.has(key, self._detectors.identity(kind))

    def of_all(
        self, where: str, kinds: Sequence[str], resolution: Resolution, low: int, high: int, progress: Progress
    ) -> MadeMaps:
        """The maps of those types of every image that fits ``where``; see Library.make_maps."""
        chosen = [map_type(kind) for kind in kinds]
        todo = list(self._store.visible(where))
        made = present = 0
        failed: list[tuple[int | None, str, str]] = []
        for each in chosen:  # one type after the other, since one detector is in memory at a time
            parameters, make = each.parameters(resolution, low, high), True
            for done, record in enumerate(todo):
                progress(f"map.{each.name}", done, len(todo))
                try:
                    source = self._pictures.source(record.id)
                    there = self.has(each, source, parameters)
                    if there or self.get(each, source, parameters, make).was_cached:
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
        self.finish()
        return MadeMaps(made, present, tuple(failed))

    def _kept(self, wanted: _Wanted) -> ControlMap | None:
        kept = self._cache.find(wanted.key, self._detectors.identity(wanted.kind))
        if kept is None:
            return None
        try:
            picture = read_pictures(kept.stored.data, str(wanted))[0]
        except BadPicture as error:
            log.warning("%s; it is made again", error)
            self._cache.drop(kept)
            return None
        if kept.weights != FROM_DT:  # a DT that names a file of this machine as its map is not to be sent the file
            self._hand_back(wanted, kept.stored)
        return ControlMap(wanted.kind.name, picture, True, kept.stored.keypoints)

    def _make(self, wanted: _Wanted, anew: bool) -> ControlMap:
        """A map made now; while it is kept and handed to DT, it is used already, and the next may be made."""

        def keep(held: contextlib.ExitStack) -> None:
            try:
                with held:
                    stored = StoredMap(encoded(made.picture), keypoints=made.keypoints)
                    self._keep(wanted, weights, stored)
                self._hand_back(wanted, stored)
            except Exception:  # nobody waits for this to fail
                log.exception("%s is not kept", wanted)

        self._detectors.fetch(wanted.kind)
        with contextlib.ExitStack() as held:
            self._cache.hold(wanted.key, held)
            found = None if anew else self._kept(wanted)  # by another who held the lock before
            if found is not None:
                return found
            made = self._detectors.make(wanted.kind, wanted.source.open(), wanted.parameters)
            weights = self._detectors.identity(wanted.kind) or ""
            answer = ControlMap(wanted.kind.name, made.picture.convert("RGB"), False, copy.deepcopy(made.keypoints))
            with self._one_waits:
                self.finish()  # so that memory holds one at the most that is not kept yet
                self._keeping = self._cache.slot(wanted.key), self._keeper.submit(keep, held.pop_all())
        return answer

    def _keep(self, wanted: _Wanted, weights: str, stored: StoredMap) -> None:
        if not self._cache.limit:
            return
        try:
            self._cache.keep(wanted.key, weights, stored)
        except StoreError as error:  # the map is there all the same
            log.warning("%s", error)

    # -- DT -------------------------------------------------------------------------------------------

    def _in_dt(self, wanted: _Wanted, image_id: int) -> ControlMap | None:
        """DT's own map, kept here for when DT is away; None if it is not to be had; raises MapMissing if DT has none."""
        try:
            stored = self._catalog().control_map(image_id, wanted.kind.name)
            data = stored.data or picture_file(stored.path, self._path_map())
            picture = read_pictures(data, str(wanted))[0]
        except MapMissing:
            raise
        except (LunaError, OSError) as error:
            if not self._is_away(error):
                log.warning("%s is not to be had from DT: %s", wanted, error)
            return None
        kept = self._cache.find(wanted.key, FROM_DT)
        if kept is None or kept.stored.data != data:
            self._keep(wanted, FROM_DT, StoredMap(data, keypoints=stored.keypoints))
        return ControlMap(wanted.kind.name, picture, True, stored.keypoints)

    def _hand_back(self, wanted: _Wanted, made: StoredMap) -> None:
        if wanted.hand_to is None or self._why_away() or not wanted.source.unchanged():
            return  # DT would take it for a map of the picture as it is now
        try:
            self._catalog().put_map(wanted.hand_to, wanted.kind.name, made)
        except LunaError as error:
            if not self._is_away(error):
                log.info("%s is not handed to DT: %s", wanted, error)

    def _why_away(self) -> str:
        """Why DT is not asked now; "" if it is."""
        until, why = self._away
        return why if time.monotonic() < until else ""

    def _is_away(self, error: Exception) -> bool:
        """Whether an error says that it is of no use to ask DT again soon."""
        away = isinstance(error, Unreachable) or (isinstance(error, Refused) and error.http_status in (502, 503, 504))
        if away:
            self._away = time.monotonic() + DT_AWAY, str(error)
        return away
