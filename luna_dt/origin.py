"""Whose page asks: what a browser says of it, looked at wherever a library is served."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping


def foreign_page(said: Mapping[str, str]) -> str:
    """Why a request comes from another site's page, by its headers (names in lower case); "" where it does not."""
    origin = said.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != said.get("host", "").lower():
        return f"pages from '{origin[:100]}' may not read this library"
    # an <img> or a link sends no Origin; other programs than browsers send neither
    if said.get("sec-fetch-site", "none").lower() not in ("same-origin", "none"):
        return "pages of other sites may not read this library"
    return ""


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
