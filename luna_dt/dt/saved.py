"""A search that stock DT saved (table Query), as the conditions that it stands for.

DT writes down the query's text, or its filter, which counts where anything of it is in use; what is hidden then is not
taken from it, for that is a setting of ours.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import BadQuery
from ..query import Part, parts, terms

#: What nothing here can answer, in words.
_BEYOND = {
    "Models": "models chosen from a list",
    "TagIds": "tags chosen from a list",
    "SearchView": "one of DT's views (favourites, a folder …)",
}


def conditions(text: str) -> list[Part]:
    """What a saved search, its JSON, asks for; raises BadQuery, naming what nothing here can answer."""
    try:
        said = json.loads(text)
        chosen = said.get("Filter") or {}
        in_use = [
            name.removeprefix("Use") for name, value in chosen.items() if name.startswith("Use") and value is True
        ]
        nodes = [each for each in chosen.get("NodeFilters") or () if each.get("IsActive")]
        found = list(parts(said.get("Query") or "") if not (in_use or nodes) else ())
        for name, what in _BEYOND.items():
            if said.get(name):
                raise BadQuery(f"it asks for {what}, and nothing here can answer that")
        unknown = [name for name in in_use if name not in _FILTERS] + ["NodeFilters"] * bool(nodes)
        if unknown:
            raise BadQuery(f"it filters by {', '.join(unknown)}, and nothing here can answer that")
        for name in in_use:
            found += _FILTERS[name](chosen)
        for albums in (said.get("AlbumIds"), chosen.get("AlbumIds")):
            if albums:
                found.append(_part("cluster", *(str(int(each)) for each in albums)))
    except BadQuery:
        raise
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        raise BadQuery("it is not as DT writes it down") from error
    if any(re.search("[\0\ud800-\udfff]", value) for part in found for value in part.values):
        raise BadQuery("it holds NUL, or half a surrogate pair")
    return found


def _part(token: str, *values: str) -> Part:
    return Part(token, values, False, 0)


def _either(token: str, field: str, sign: str) -> Callable[[Mapping[str, Any]], Iterable[Part]]:
    """One of the values of a field, which stand between such signs."""

    def read(chosen: Mapping[str, Any]) -> Iterable[Part]:
        values = [each.strip() for each in (chosen[field] or "").split(sign)]
        return [_part(token, *filter(None, values))] if any(values) else []

    return read


def _texts(token: str, field: str, negated: bool) -> Callable[[Mapping[str, Any]], Iterable[Part]]:
    return lambda chosen: [replace(each, negated=negated) for each in terms(token, chosen[field] or "")]


def _flag(token: str, field: str) -> Callable[[Mapping[str, Any]], Iterable[Part]]:
    return lambda chosen: [_part(token, str(bool(chosen[field])).lower())]


def _named(token: str, field: str) -> Callable[[Mapping[str, Any]], Iterable[Part]]:
    return lambda chosen: [_part(token, f'"{chosen[field]}"')]


def _compared(token: str, field: str, none: str) -> Callable[[Mapping[str, Any]], Iterable[Part]]:
    def read(chosen: Mapping[str, Any]) -> Iterable[Part]:
        if chosen.get(none):
            return [_part(token, "none")]
        compare, value = chosen.get(f"{field}Op"), chosen.get(field)
        return [_part(token, f"{compare} {value}")] if compare and value is not None else []

    return read


def _seed(chosen: Mapping[str, Any]) -> Iterable[Part]:
    first, last = chosen["SeedStart"], chosen.get("SeedEnd")
    return [_part("seed", str(first) if last in (None, "") else f"{first}-{last}")]


def _size(chosen: Mapping[str, Any]) -> Iterable[Part]:
    if chosen.get("SizeOp"):
        raise BadQuery(f"it compares sizes ({chosen['SizeOp']}), and nothing here can answer that")
    sides = [str(chosen.get(side) or "") for side in ("Width", "Height")]
    sides = [side if side.isascii() and side.isdigit() else "?" for side in sides]
    return [_part("size", "x".join(sides))] if sides != ["?", "?"] else []


def _date(chosen: Mapping[str, Any]) -> Iterable[Part]:
    """Between two days, of which one that is not given is today."""
    today = datetime.date.today().isoformat()
    first, last = sorted((chosen.get(side) or today)[:10] for side in ("Start", "End"))
    return [_part("date", f"between {first} and {last}")]


def _types(chosen: Mapping[str, Any]) -> Iterable[Part]:
    return [_part("type", *(("image", "video")[int(each)] for each in chosen["Types"]))] if chosen["Types"] else []


#: What a filter in use stands for, by its name behind "Use".
_FILTERS: dict[str, Callable[[Mapping[str, Any]], Iterable[Part]]] = {
    "Prompt": _texts("", "Prompt", False), "PromptEx": _texts("", "PromptEx", True),
    "NegativePrompt": _texts("negative", "NegativePrompt", False),
    "NegativePromptEx": _texts("negative", "NegativePromptEx", True),
    "Steps": _either("steps", "Steps", "|"), "Sampler": _either("sampler", "Sampler", ","),
    "CFGScale": _either("cfg", "CFGScale", "|"), "ModelHash": _either("model_hash", "ModelHash", "|"),
    "ModelName": _either("model", "ModelName", ","), "Seed": _seed, "Size": _size, "CreationDate": _date, "Types": _types,
    "Rating": _compared("rating", "Rating", "Unrated"),
    "AestheticScore": _compared("aesthetic_score", "AestheticScore", "NoAestheticScore"),
    "Favorite": _flag("favorite", "Favorite"), "NSFW": _flag("nsfw", "NSFW"),
    "ForDeletion": _flag("delete", "ForDeletion"), "Unavailable": _flag("unavailable", "Unavailable"),
    "NoMetadata": _flag("nometa", "NoMetadata"), "InAlbum": _flag("in_album", "InAlbum"),
    "Path": lambda chosen: [_part("path", str(chosen["Path"] or ""))],
    "Folder": _named("folder", "Folder"), "Album": _named("cluster", "Album"),
}  # fmt: skip
