"""A library's rooms, put together and taken apart: what there is of it in this process, without a question asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from typing import TypeVar

from .dt import connect as connect_to
from .dt import hidden_at
from .dt.catalog import Catalog
from .dt.connection import Connection
from .dt.milvus.catalog import MilvusCatalog
from .dt.milvus.server import Server
from .errors import BadInput, SettingsError
from .made.batch import Batches
from .made.outbox import Outbox
from .maps.cache import MapCache
from .maps.making import Maps
from .maps.served import ServedMaps
from .memory import Memory, Residency
from .mirror.lookups import Lookups
from .mirror.pictures import Pictures
from .models import Encoders
from .preproc import Detectors
from .search.plan import Search
from .settings import Settings, is_shared
from .store import Store
from .thumbnails import Thumbnails

Opened = TypeVar("Opened", bound="Rooms")


class Rooms:
    """A library's rooms, put together and taken apart; Library is what is asked of them."""

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        dt: str | None = None,
        settings: Settings | None = None,
        residency: Residency | None = None,
        connect: Callable[[Settings], Catalog] = connect_to,
    ) -> None:
        self.settings = (settings or Settings.load(home)).replace(home=home, dt=dt)
        folders = self.settings.models_folders
        with ExitStack() as opened:  # closed, the last first, unless all goes well
            store = Store(self.settings.home, lambda name: self._lookups.saved(name))
            self._store = opened.enter_context(closing(store))
            store.hide = hidden_at(self.settings, store.source())
            self._memory = Memory(residency)
            opened.callback(self._memory.release)
            self._dt = opened.enter_context(closing(Connection(self.settings, connect, self._store.dt)))
            self.encoders = Encoders(self.settings, self._memory)
            self._shared = self._opened_shared(opened)
            asked: Callable[[], Catalog] = self._shared.itself if self._shared else self._dt
            self._lookups = Lookups(self._store, asked)
            self._pictures = Pictures(self._store, self._lookups, self._dt, self._path_map)
            self._search = opened.enter_context(
                closing(Search(self._store, self._lookups, self.encoders, asked, self.settings.index))
            )
            self._searcher = self._search.searcher
            self._map_cache = opened.enter_context(closing(MapCache(self._store, self.settings.maps_bytes)))
            detectors = Detectors(self.settings.device, folders, self._memory, self._store.sha256)
            self.thumbnails = Thumbnails(self.settings.home / "thumbnails")
            self._maps = opened.enter_context(
                closing(Maps(self._store, self._map_cache, detectors, self._pictures, self._dt, self._path_map))
            )
            self.outbox = opened.enter_context(closing(Outbox(self._store, self._dt)))
            self.batches = opened.enter_context(closing(Batches(self._store, self.outbox)))
            self._opened = opened.pop_all()

    def _opened_shared(self, opened: ExitStack) -> MilvusCatalog | None:
        """The library on a Milvus server, where the settings name one; nothing is contacted yet."""
        if not self.settings.shared:
            return None
        if self._store.digests("images")[0].size:
            raise SettingsError(
                f"{self.settings.home} mirrors a DT; a library on a Milvus server takes a home of its own (LUNA_DT_HOME)"
            )
        server = Server(self.settings.shared, self.settings.timeout)
        return opened.enter_context(closing(MilvusCatalog(server, self._dt)))

    def _milvus(self, address: str) -> closing[MilvusCatalog]:
        """A library on another Milvus server than this one's, closed with the context; raises BadInput."""
        if not is_shared(address) or self._shared:
            raise BadInput(
                "a library that is mirrored here is copied to a Milvus server and back, at milvus+http://host:19530"
            )
        return closing(MilvusCatalog(Server(address, self.settings.timeout), self._dt))

    def _path_map(self) -> Mapping[str, str]:
        return self.settings.path_map  # as it is now

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops background work and closes files; the library cannot be used after."""
        self._opened.close()

    def release(self) -> None:
        """Lets the models' memory go; they are loaded again when next needed."""
        self._memory.release()

    def wait(self) -> None:
        """Returns when nothing goes on in the background: no index is made, no map is on its way to the disk."""
        self._search.wait()
        self._maps.finish()

    @property
    def catalog(self) -> Catalog:
        """DT itself, through the one protocol; not contacted before something is asked of it."""
        return self._dt.whichever()

    @property
    def served_maps(self) -> ServedMaps | None:
        """The maps that a server of this library keeps for its clients; None where none are kept (``maps_gb`` 0)."""
        return ServedMaps(self._map_cache, self.settings.path_map) if self._map_cache.limit else None
