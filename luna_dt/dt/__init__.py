"""DiffusionToolkit, seen through one protocol (catalog.py) whatever the way in."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..errors import SettingsError
from ..settings import Settings
from .catalog import Catalog


def connect(settings: Settings) -> Catalog:
    """The catalog at ``settings.dt``: ``http(s)://`` a DT server, ``postgresql://`` the LUNA fork's database.

    Nothing is contacted yet.  Raises SettingsError for an address of another form.
    """
    scheme = urlsplit(settings.dt).scheme.lower()
    if scheme in ("http", "https"):
        from .rest import RestCatalog

        return RestCatalog(settings.dt, token=settings.token, timeout=settings.timeout)
    if scheme in ("postgresql", "postgres"):
        from .postgres import PostgresCatalog

        return PostgresCatalog(settings.dt, timeout=settings.timeout)
    raise SettingsError(
        f"'{settings.shown_dt}' is no address of DT; use http://host:5000 for a DT server "
        "or postgresql://user:password@host:5436/diffusion_images for the LUNA fork's database"
    )
