"""What stands between ``%`` in the name of a file to be saved, filled in as ComfyUI's page does for its own nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

PLACE = re.compile("%([^%]+)%")
DATE = re.compile("dd?|MM?|hh?|mm?|ss?|yyy?y?")
UNFIT = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')


def filled(name: str, graph: Any, extra_pnginfo: Any, when: datetime, batch_index: int = 0) -> str:
    """``%date:yyyy-MM-dd%``, ``%NODE.WIDGET%`` and ``%batch_num%``; ``%width%`` and the like are ComfyUI's own to
    fill in, and what names nothing stays as it is.  A node is named by its title or its class."""

    def value(found: re.Match[str]) -> str:
        place = found[1]
        if place.startswith("date:"):
            return _date(place[5:], when)
        if place == "batch_num":
            return str(batch_index)
        node, _, widget = place.partition(".")
        for inputs in _nodes(graph, extra_pnginfo, node) if widget else ():
            value = inputs.get(widget)
            return found[0] if value is None or isinstance(value, (list, Mapping)) else UNFIT.sub("_", _written(value))
        return found[0]

    return PLACE.sub(value, name)


def _nodes(graph: Any, extra_pnginfo: Any, wanted: str) -> Iterator[Mapping[str, Any]]:
    """The inputs of the nodes of that name: by class first, then by title."""
    nodes = {str(key): node for key, node in graph.items()} if isinstance(graph, Mapping) else {}
    nodes = {key: node for key, node in nodes.items() if isinstance(node, Mapping)}
    by_class = [key for key, node in nodes.items() if node.get("class_type") == wanted]
    by_title = [key for key, node in nodes.items() if _mapping(node.get("_meta")).get("title") == wanted]
    saved = _mapping(_mapping(extra_pnginfo).get("workflow")).get("nodes")
    for node in saved if isinstance(saved, list) else ():
        key = str(_mapping(node).get("id"))
        if _mapping(_mapping(node).get("properties")).get("Node name for S&R") == wanted:
            by_class.insert(0, key)
        if _mapping(node).get("title") == wanted:
            by_title.append(key)
    for key in (*by_class, *by_title):
        if isinstance(inputs := nodes.get(key, {}).get("inputs"), Mapping):
            yield inputs


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _written(value: Any) -> str:
    """As the page writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _date(form: str, when: datetime) -> str:
    parts = {"d": when.day, "M": when.month, "h": when.hour, "m": when.minute, "s": when.second}

    def written(found: re.Match[str]) -> str:
        text = found[0]
        if text[0] == "y":
            return {"yy": f"{when.year:04}"[2:], "yyyy": str(when.year)}.get(text, text)
        return str(parts[text[0]]).zfill(len(text))

    return DATE.sub(written, form)
