"""DiffusionToolkit, seen through one protocol (catalog.py) whatever the way in."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..errors import SettingsError
from ..settings import Settings
from .catalog import Catalog


class AddressForm(NamedTuple):
    """A form that DT's address may have: by which schemes it is known, in words, and what opens it."""

    schemes: tuple[str, ...]
    words: str
    load: Callable[[Settings], Catalog]


def _rest(settings: Settings) -> Catalog:
    from .rest import RestCatalog

    return RestCatalog(settings.dt, token=settings.token, timeout=settings.timeout)


def _postgres(settings: Settings) -> Catalog:
    from .postgres import PostgresCatalog

    return PostgresCatalog(settings.dt, timeout=settings.timeout)


ADDRESS_FORMS = (
    AddressForm(("http", "https"), "http://host:5000 for a DT server", _rest),
    AddressForm(
        ("postgresql", "postgres"),
        "postgresql://user:password@host:5436/diffusion_images for the LUNA fork's database",
        _postgres,
    ),
)


def connect(settings: Settings) -> Catalog:
    """The catalog at ``settings.dt``, whose form (ADDRESS_FORMS) tells the way in; nothing is contacted yet.

    Raises SettingsError for an address of another form.
    """
    scheme = settings.dt.partition(":")[0].lower()
    for form in ADDRESS_FORMS:
        if scheme in form.schemes:
            return form.load(settings)
    forms = " or ".join(form.words for form in ADDRESS_FORMS)
    raise SettingsError(f"'{settings.shown_dt}' is no address of DT; use {forms}")
