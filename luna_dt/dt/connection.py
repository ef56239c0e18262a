"""DT at the settings' address, connected to when it is first asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..errors import AnotherDT
from ..settings import Settings
from .catalog import Catalog

ASKED_AGAIN = 60.0  # seconds after which DT is asked anew which one it is


class Connection:
    """Called, gives the catalog of the DT that a home belongs to; safe to use from several threads.

    ``ours`` says what that DT is known by (``Health.library``), "" while that is not known.
    """

    def __init__(self, settings: Settings, connect: Callable[[Settings], Catalog], ours: Callable[[], str]) -> None:
        self._settings, self._connect, self._ours = settings, connect, ours
        self._catalog: Catalog | None = None
        self._lock = threading.Lock()
        self._seen, self._until = "", 0.0

    def __call__(self) -> Catalog:
        """Raises AnotherDT where another one has taken its place, CatalogError; and as ``whichever`` does."""
        catalog, ours = self.whichever(), self._ours()
        if ours:
            if self._seen != ours or time.monotonic() >= self._until:
                self._seen = catalog.health().library
                self._until = time.monotonic() + ASKED_AGAIN
            if self._seen and self._seen != ours:
                raise AnotherDT(
                    f"the DT at {catalog.address} is another than the one that this home mirrors, so it is not asked and "
                    "is sent nothing; if it is the same one, moved or restored, sync once: luna-dt sync"
                )
        return catalog

    def whichever(self) -> Catalog:
        """The catalog at the address, the same each time, not contacted yet.

        Raises SettingsError for an address of no known form, MissingExtra.
        """
        with self._lock:
            if self._catalog is None:
                self._catalog = self._connect(self._settings)
            return self._catalog

    def close(self) -> None:
        with self._lock:
            if self._catalog:
                self._catalog.close()
