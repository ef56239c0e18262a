"""Luna DT Connection Status."""

from __future__ import annotations

import datetime
import time
from typing import Any

from ..luna_dt import LunaError
from . import contact, host, inputs, shared, words


class LunaDTConnectionStatus:
    """Whether DT answers, and what is mirrored here for when it does not."""

    TITLE = "Luna DT Connection Status"
    CATEGORY = inputs.CATEGORY
    DESCRIPTION = "Tells whether DiffusionToolkit answers, and what is synced, layer by layer, and how old it is."
    RETURN_TYPES = ("BOOLEAN", "STRING")
    RETURN_NAMES = ("connected", "status_message")
    OUTPUT_TOOLTIPS = ("Whether DT answers now.", "The same in words, with what is synced.")
    FUNCTION = "run"
    OUTPUT_NODE = False

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {},
            "optional": {
                "api_url": inputs.API_URL,
            },
        }

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> str:  # noqa: N802
        return str(time.time())  # a connection may come and go at any moment

    def run(self, api_url: str = "") -> dict[str, Any]:
        connected, lines = False, []
        try:
            library = shared.library(api_url)
            contact.ask_anew(library.settings.shown_dt)  # whoever runs this node wants to know how it is now
            try:
                health = library.health()
                connected = True
                lines.append(
                    f"connected: {health.name} {health.version} at {library.settings.shown_dt}".replace("  ", " ")
                )
            except LunaError as error:
                lines.append(f"not connected: {error}")
            lines += self._synced(library)
        except LunaError as error:
            lines.append(f"not connected: {error}")
        message = words.here("\n".join(lines))
        return {"ui": {"text": [message]}, "result": (connected, message)}

    def _synced(self, library: Any) -> list[str]:
        status = contact.apart(library.status, host.heed_interruption)  # it waits until maps are kept
        count, synced = status.counts["images"]
        if not count:
            return [f"nothing is synced yet: run {words.SYNC}"]
        return [f"synced: {count:,} images, {_age(synced)}"] + [
            f"{layer.state.name}: {layer.state.count:,} vectors ({layer.coverage:.0%}), {_age(layer.state.synced)}"
            + (f"; its index is being made, {layer.building:.0%}" if layer.building is not None else "")
            for layer in status.layers
        ]


def _age(synced: str) -> str:
    if not synced:
        return "not to the end"
    seconds = (datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(synced)).total_seconds()
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"
