"""DiffusionToolkit, seen through one protocol (catalog.py) whatever the way in."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from ..errors import SettingsError
from ..query import HIDEABLE, HIDING
from ..settings import DEFAULT_DT, Settings
from .catalog import Catalog

ANSWER_WAIT = 0.5  # seconds in which a server on this machine takes a connection


class AddressForm(NamedTuple):
    """A form that DT's address may have: how it is known, in words, and what opens it."""

    fits: Callable[[str], object]
    words: str
    load: Callable[[Settings], Catalog]


def _of(*schemes: str) -> Callable[[str], bool]:
    return lambda address: address.partition(":")[0].lower() in schemes


def _is_database(address: str) -> object:
    from .sqlite import database_in

    return database_in(address)


def _rest(settings: Settings) -> Catalog:
    from .rest import RestCatalog

    return RestCatalog(settings.dt, token=settings.token, timeout=settings.timeout)


def _postgres(settings: Settings) -> Catalog:
    from .postgres import PostgresCatalog

    return PostgresCatalog(settings.dt, timeout=settings.timeout)


def _sqlite(settings: Settings) -> Catalog:
    from .sqlite import SqliteCatalog, database_in

    file = database_in(settings.dt)
    assert file is not None
    return SqliteCatalog(file)


def _is_folder(address: str) -> object:
    from .folder import folder_at

    return folder_at(address)


def _folder(settings: Settings) -> Catalog:
    from .folder import FolderCatalog, folder_at

    folder = folder_at(settings.dt)
    assert folder is not None
    return FolderCatalog(folder, settings.home)


ADDRESS_FORMS = (
    AddressForm(_of("http", "https"), "http://host:5000 for a DT server", _rest),
    AddressForm(
        _of("postgresql", "postgres"),
        "postgresql://user:password@host:5436/diffusion_images for the LUNA fork's database",
        _postgres,
    ),
    AddressForm(_is_database, "the path of DiffusionToolkit's diffusion-toolkit.db, or of its folder", _sqlite),
    AddressForm(_is_folder, "the path of a folder of pictures", _folder),
)


def connect(settings: Settings) -> Catalog:
    """The catalog at ``settings.dt``, whose form (ADDRESS_FORMS) tells the way in; nothing is contacted yet.

    Where no address was set and no server is there, it is the database of an installed DiffusionToolkit, if there is one.
    Raises SettingsError for an address of another form.
    """
    catalog = _opened(settings)
    catalog.hide = hidden_at(settings)
    return catalog


def hidden_at(settings: Settings, mirrored: str = "") -> tuple[str, ...]:
    """The flags of images that are hidden: those set, else the usual ones, and NSFW where the stock DT hides it itself that
    was ``mirrored``, else that at the address, or an installed one where none is set."""
    from .sqlite import database_in, hides_nsfw, installed_database

    if settings.hide is not None:
        return settings.hide
    place = mirrored or settings.dt
    file = installed_database() if place == DEFAULT_DT else database_in(place)
    return HIDEABLE if file and hides_nsfw(file) else HIDING


def _opened(settings: Settings) -> Catalog:
    if settings.dt == DEFAULT_DT and not _answers(DEFAULT_DT):
        from .sqlite import SqliteCatalog, installed_database

        if file := installed_database():
            return SqliteCatalog(file)
    for form in ADDRESS_FORMS:
        if form.fits(settings.dt):
            return form.load(settings)
    forms = " or ".join(form.words for form in ADDRESS_FORMS)
    raise SettingsError(f"'{settings.shown_dt}' is no address of DT; use {forms}")


def _answers(address: str) -> bool:
    at = urlsplit(address)
    try:
        socket.create_connection((at.hostname, at.port or 80), timeout=ANSWER_WAIT).close()
    except OSError:
        return False
    return True
