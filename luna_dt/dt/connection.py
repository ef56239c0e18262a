"""DT at the settings' address, connected to when it is first asked."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..settings import Settings
from .catalog import Catalog


class Connection:
    """Called, gives the catalog, the same each time; safe to use from several threads."""

    def __init__(self, settings: Settings, connect: Callable[[Settings], Catalog]) -> None:
        self._settings, self._connect = settings, connect
        self._catalog: Catalog | None = None
        self._lock = threading.Lock()

    def __call__(self) -> Catalog:
        """Raises SettingsError for an address of no known form, MissingExtra."""
        with self._lock:
            if self._catalog is None:
                self._catalog = self._connect(self._settings)
            return self._catalog

    def close(self) -> None:
        with self._lock:
            if self._catalog:
                self._catalog.close()
