"""The one library that the nodes share, and which addresses of DT a workflow may name."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote, urlsplit

from ..luna_dt import Library, LunaError, Settings, threads
from ..luna_dt.errors import BadInput, NotAllowed
from ..luna_dt.settings import DEFAULT_DT
from . import contact, host

log = logging.getLogger(__name__)

_libraries: dict[str, Library] = {}
_lock = threading.Lock()
_ending = threading.Event()


def settings(api_url: str = "") -> Settings:
    """The settings for an address that the user has configured or allowed; "" and the default mean the configured one.

    Raises NotAllowed: a workflow from elsewhere must not make this machine call a stranger.
    """
    found = Settings.load()
    if host.running():
        device = host.device() if found.device == "auto" else found.device
        found = found.replace(device=device, models=(*found.models_folders, *host.weights_folders()))
    return allowed(found, api_url)


def library(api_url: str = "") -> Library:
    """The library at such an address, which waits for DT no longer than a node may; raises NotAllowed."""
    wanted = settings(api_url)
    wanted = wanted.replace(timeout=min(wanted.timeout, contact.BUDGET))
    with _lock:
        opened = _libraries.get(wanted.dt)
        if opened is not None and opened.settings != wanted:  # changed since, in settings.toml
            opened.close()
            opened = None
        if opened is None:
            # ComfyUI manages what computes where it does; what the settings put elsewhere manages itself
            residency = host.resident if host.running() and wanted.device == host.device() else None
            opened = Library(settings=wanted, residency=residency, connect=contact.connect)
            _libraries[wanted.dt] = opened
            if hasattr(host.server(), "port"):
                _go_on(opened)
        return opened


def allowed(settings: Settings, api_url: str) -> Settings:
    """The settings for an address that a workflow names; raises NotAllowed if the user has not allowed it."""
    address = api_url.strip().rstrip("/")
    if address in ("", DEFAULT_DT, settings.dt.rstrip("/")):
        return settings
    if urlsplit(address).scheme not in ("http", "https"):
        raise NotAllowed(
            f"api_url '{address}' is not http(s); other addresses are set as DT_API_URL, not in a workflow"
        )
    if address not in settings.allowed:
        raise NotAllowed(
            f"api_url '{address}' is none that you allowed; if you trust it, add to "
            f"{settings.home / 'settings.toml'}: allowed = ['{address}']"
        )
    home = settings.home / "others" / quote(address, safe="")  # another DT's mirror must not mix with this one's
    return replace(
        settings, home=home, dt=address, models=settings.models_folders, token=""
    )  # the token is the other's


def close_libraries() -> None:
    """Closes every library that was opened; the next use opens it again."""
    with _lock:
        for opened in _libraries.values():
            opened.close()
        _libraries.clear()


def fingerprint(opened: Library, image_id: int | None) -> str:
    """What a node that shows one image depends on; ComfyUI does not tell a linked id (None) before the run."""
    return opened.fingerprint(image_id=image_id) if image_id else opened.fingerprint("images", "captions")


def fingerprint_of_query(opened: Library, query: str | None, *kinds: str) -> str:
    """What a node that takes a query depends on beside those kinds; ComfyUI does not tell a linked one (None) before
    the run, which may be any."""
    if query is None:
        return opened.fingerprint()
    return opened.fingerprint(*kinds, query=query if query.strip() else None)


def needed_id(image_id: int) -> int:
    if image_id <= 0:
        raise BadInput("image_id is 0: give the id of an image in DT")
    return image_id


# -- what was left undone ---------------------------------------------------------------------------


def in_comfyui() -> bool:
    """Whether there is a ComfyUI that serves pages."""
    return host.server() is not None


def go_on(then: Callable[[], object]) -> None:
    """Goes on, in the background, with what was left undone; does nothing where there is no ComfyUI to go on in."""
    if in_comfyui():
        threads.start("goes on", lambda: _go_on_when_ready(then), _ending.set, network=True)


def _go_on_when_ready(then: Callable[[], object]) -> None:
    """Opens the library once ComfyUI has its port, which it is told when all packs are loaded."""
    while not hasattr(host.server(), "port"):
        if _ending.wait(0.5):
            return
    try:
        library()
    except LunaError as error:
        log.warning("what was left undone waits: %s", error)
    then()


def _go_on(opened: Library) -> None:
    """What was recorded before is sent now, and batches that are open are looked after."""
    opened.outbox.start()
    opened.batches.watch_all(host.own_address())
