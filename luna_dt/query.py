"""DT's query language, read once and spoken as SQL to any database that names its columns.

Comma-separated terms match the prompt (all of them, any order; quoted ones exactly), then come
``token: value`` pairs, all of which must hold, ``|`` between alternatives::

    a girl, "blue eyes, smile" model: pony|illustrious rating: > 5 size: portrait date: from 2026-01-01

Images marked for deletion or unavailable are left out unless ``delete:`` asks for them, as in DT.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .errors import BadQuery

Sql = tuple[str, list[object]]

TOKENS = (
    "negative", "steps", "sampler", "cfg", "seed", "size", "model_hash", "model", "aesthetic_score", "rating",
    "favorite", "nsfw", "nometa", "delete", "date", "path", "folder",
)  # fmt: skip
HIDING = ("delete", "unavailable")  # the flags that hide an image, unless a query asks for one
_TOKEN = re.compile(rf"(?<![\w:])({'|'.join(TOKENS)}):", re.IGNORECASE)
_QUOTED = re.compile(r'"[^"]*"')
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"


@dataclass(frozen=True)
class Columns:
    """How one database names what a query speaks of (SQL expressions), and its parameter sign."""

    names: Mapping[str, str]
    parameter: str = "?"

    def __getitem__(self, field: str) -> str:
        try:
            return self.names[field]
        except KeyError:
            raise BadQuery(f"this DT library has no column for '{field}:'; leave it out of the query") from None


def where(text: str, columns: Columns) -> Sql:
    """A query as an SQL condition and its parameters; "" gives every visible image.

    Raises BadQuery, naming the part that cannot be read.
    """
    terms, tokens = _split(text)
    found = [_text(columns, "prompt", term) for term in terms]
    for name, value in tokens:
        alternatives = [part.strip() for part in value.split("|") if part.strip()]
        if not alternatives:
            raise BadQuery(f"'{name}:' has no value in the query '{text}'")
        found.append(_any([_READERS[name](columns, name, part) for part in alternatives]))
    asked = {name for name, _ in tokens}
    found += [(f"NOT {columns[flag]}", []) for flag in HIDING if flag not in asked]
    return " AND ".join(sql for sql, _ in found), [value for _, values in found for value in values]


def hidden(columns: Columns) -> str:
    """The SQL condition of the images that DT hides."""
    return " OR ".join(columns[flag] for flag in HIDING)


def _split(text: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The prompt terms and the (token, value) pairs; tokens inside quotes are text."""
    hidden = _QUOTED.sub(lambda m: " " * len(m[0]), text)
    marks = list(_TOKEN.finditer(hidden))
    ends = [mark.start() for mark in marks] + [len(text)]
    pairs = [
        (mark[1].lower(), text[mark.end() : end].strip().rstrip(",").strip())
        for mark, end in zip(marks, ends[1:], strict=True)
    ]
    terms, at = [], 0
    for cut in [*(m.start() for m in re.finditer(",", hidden[: ends[0]])), ends[0]]:
        terms.append(text[at:cut].strip())
        at = cut + 1
    return [term for term in terms if term], pairs


def _any(conditions: list[Sql]) -> Sql:
    if len(conditions) == 1:
        return conditions[0]
    return "(" + " OR ".join(sql for sql, _ in conditions) + ")", [v for _, values in conditions for v in values]


def _like(columns: Columns, expression: str, pattern: str) -> Sql:
    return f"LOWER({expression}) LIKE {columns.parameter} ESCAPE '!'", [pattern]


def _escaped(text: str) -> str:
    return re.sub(r"([!%_])", r"!\1", text.strip().strip('"').lower())


def _text(columns: Columns, name: str, value: str) -> Sql:
    return _like(columns, columns[name], f"%{_escaped(value)}%")


def _exact(columns: Columns, name: str, value: str) -> Sql:
    return _like(columns, columns[name], _escaped(value))


def _path(columns: Columns, name: str, value: str) -> Sql:
    how, _, rest = value.partition(" ")
    if value.lower().startswith("starts with "):
        return _like(columns, columns["path"], _escaped(value[12:]) + "%")
    if how.lower() == "contains" and rest:
        value = rest
    return _text(columns, "path", value)


def _number(columns: Columns, name: str, value: str) -> Sql:
    column, sign = columns[name], columns.parameter
    if value.lower() == "none":
        return f"{column} IS NULL", []
    if match := re.fullmatch(rf"(>=|<=|>|<|=)?{_NUMBER}", value):
        return f"{column} {match[1] or '='} {sign}", [_value(match[2])]
    if match := re.fullmatch(rf"{_NUMBER}-{_NUMBER}", value):
        return f"{column} BETWEEN {sign} AND {sign}", [_value(match[1]), _value(match[2])]
    raise BadQuery(f"'{name}: {value}' is not a number, a range like 20-30, a comparison like >= 6, or none")


def _value(digits: str) -> int | float:
    return float(digits) if "." in digits else int(digits)


def _seed(columns: Columns, name: str, value: str) -> Sql:
    if "*" in value or "?" in value:
        if not re.fullmatch(r"[\d*?]+", value):
            raise BadQuery(f"'seed: {value}' may hold digits, * and ? only")
        return _like(columns, f"CAST({columns[name]} AS TEXT)", value.replace("*", "%").replace("?", "_"))
    return _number(columns, name, value)


def _size(columns: Columns, _name: str, value: str) -> Sql:
    width, height, sign = columns["width"], columns["height"], columns.parameter
    shapes = {"portrait": "<", "landscape": ">", "square": "="}
    if compare := shapes.get(value.lower()):
        return f"{width} {compare} {height}", []
    if match := re.fullmatch(r"(\d+)\s*([x:])\s*(\d+)", value.lower()):
        sides: list[object] = [int(match[1]), int(match[3])]
        if match[2] == "x":
            return f"({width} = {sign} AND {height} = {sign})", sides
        return f"{height} * {sign} = {width} * {sign}", sides
    raise BadQuery(f"'size: {value}' is not like 512x768, 16:9, portrait, landscape or square")


def _flag(columns: Columns, name: str, value: str) -> Sql:
    truth = {"true": True, "yes": True, "false": False, "no": False}.get(value.lower())
    if truth is None:
        raise BadQuery(f"'{name}: {value}' is neither true nor false")
    return (columns[name] if truth else f"NOT {columns[name]}"), []


def _date(columns: Columns, name: str, value: str) -> Sql:
    column, sign = columns[name], columns.parameter

    def day(text: str, plus: int = 0) -> str:
        try:
            return (datetime.date.fromisoformat(text.strip()) + datetime.timedelta(days=plus)).isoformat()
        except ValueError:
            raise BadQuery(f"'date: {value}': '{text.strip()}' is not a date like 2026-01-31") from None

    low = value.lower()
    if match := re.fullmatch(r"between\s+(.+?)\s+and\s+(.+)", low):
        return f"({column} >= {sign} AND {column} < {sign})", [day(match[1]), day(match[2], 1)]
    if low.startswith("from "):
        return f"{column} >= {sign}", [day(low[5:])]
    if low.startswith("before "):
        return f"{column} < {sign}", [day(low[7:])]
    low = datetime.date.today().isoformat() if low == "today" else low
    return f"({column} >= {sign} AND {column} < {sign})", [day(low), day(low, 1)]


_READERS: dict[str, Callable[[Columns, str, str], Sql]] = {
    "negative": _text, "model": _text, "folder": _path, "path": _path, "sampler": _exact, "model_hash": _exact,
    "steps": _number, "cfg": _number, "aesthetic_score": _number, "rating": _number, "seed": _seed,
    "size": _size, "favorite": _flag, "nsfw": _flag, "nometa": _flag, "delete": _flag, "date": _date,
}  # fmt: skip
