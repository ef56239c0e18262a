"""The Hugging Face hub: what is in its cache here, else a download; without a network an error within a second."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import threads
from .errors import MissingExtra, WeightsError

log = logging.getLogger(__name__)

HUB_TIMEOUT = 0.8  # seconds for the hub, or the proxy before it, to take a connection; its own client tries for 23


def cached(repository: str, file: str) -> Path | None:
    """A file that was downloaded before; raises MissingExtra."""
    found = _client().try_to_load_from_cache(repository, file)
    copied = (folder / file for folder in _snapshots(repository))
    return Path(found) if isinstance(found, str) else next((each for each in copied if each.is_file()), None)


def _snapshots(repository: str) -> list[Path]:
    """A repository's folders in the cache, whether or not it says which is the newest: one that was copied may not."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE, "models--" + repository.replace("/", "--"), "snapshots")
    return sorted(place.iterdir()) if place.is_dir() else []


def download(repository: str, file: str, missing: str, instead: str, licence: str = "") -> Path:
    """Downloads a file into the hub's cache, its size and licence said before and its progress shown.

    Raises WeightsError, which says what is ``missing`` and what to do ``instead``; MissingExtra.
    """
    huggingface_hub = _client()
    try:
        reach()
        url = huggingface_hub.hf_hub_url(repository, file)
        size = huggingface_hub.get_hf_file_metadata(url, timeout=5).size or 0
        terms = licence and f" ({licence})"
        log.warning("downloading %s of %s%s: %s", file, repository, terms, shown_size(size))
        return Path(huggingface_hub.hf_hub_download(repository, file))
    except Exception as error:
        raise _error(missing, instead, error) from error


def folder(
    repository: str,
    patterns: Sequence[str],
    largest: Sequence[str],
    lacking: Callable[[Path], str],
    instead: str,
    may_download: bool = True,
) -> Path:
    """A repository's files that fit the patterns, from the cache if nothing is ``lacking`` there.

    ``largest`` names the largest of them, that which is to be downloaded first.  See ``download``.
    """
    huggingface_hub = _client()
    newest = cached(repository, "config.json")
    for found in [*([newest.parent] if newest else []), *_snapshots(repository)]:
        if lack := lacking(found):
            log.info("%s in the hub's cache lacks %s", repository, lack)
        else:
            return found
    missing = f"the model {repository}"
    if not may_download:
        raise WeightsError(f"{missing} is not on this machine; {instead}")
    download(repository, largest[0], missing, instead)
    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=[*patterns]))
    except Exception as error:
        raise _error(missing, instead, error) from error


def by_hand(repository: str, files: Sequence[str], to: Path) -> str:
    """The command that fetches files on a machine with a network."""
    return f'on a machine with a network run: hf download {" ".join([repository, *files])} --local-dir "{to}"'


def shown_size(size: float) -> str:
    """A number of bytes as people read it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _client() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:  # which whatever else loads from the hub brings with it
        raise MissingExtra("huggingface_hub", "maps") from error
    return huggingface_hub


def _error(missing: str, instead: str, error: Exception) -> WeightsError:
    reason = str(error).partition("\n")[0][:200] or type(error).__name__
    return WeightsError(f"{missing} is not on this machine and cannot be downloaded ({reason}); {instead}")


def reach() -> None:
    """Raises ConnectionError where nothing will come of asking the hub, soon."""
    import asyncio
    from urllib.request import getproxies, proxy_bypass

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    hub = urlsplit(constants.ENDPOINT)
    proxy = "" if proxy_bypass(hub.netloc) else getproxies().get(hub.scheme, "")
    through = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else hub
    host, port = through.hostname or "", through.port or (443 if through.scheme == "https" else 80)
    failed: list[str] = ["no answer"]

    async def connect() -> None:
        # all its addresses at once, for those of IPv6 may lead nowhere
        _, writer = await asyncio.open_connection(host, port, happy_eyeballs_delay=0.1)
        writer.close()
        failed.clear()

    def attempt() -> None:
        try:
            asyncio.run(connect())
        except OSError as error:
            failed[:] = [str(error)]

    # in a thread, for a name that cannot be looked up is waited for at length
    threads.start("hub", attempt, lambda: None, network=True).join(HUB_TIMEOUT)
    if failed:
        raise ConnectionError(f"{host} is not to be reached: {failed[0]}")
