"""DT's query language, read once and spoken as SQL to any database that names its columns.

Comma-separated terms match the prompt (all of them, any order; quoted ones exactly), then come
``token: value`` pairs, all of which must hold, ``|`` between alternatives::

    a girl, "blue eyes, smile" model: pony|illustrious rating: > 5 size: portrait date: from 2026-01-01

Images marked for deletion or unavailable are left out unless ``delete:`` asks for them, as in DT.

What a query costs is bounded before anything is made of it (``MAX_LENGTH``, ``MAX_TERMS``, ``MAX_TEXT``).  Texts are
compared by one rule in every database, whatever its locale: that of letters.py.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .errors import BadQuery
from .letters import fold, spellings

Sql = tuple[str, list[object]]

TOKENS = (
    "negative", "steps", "sampler", "cfg", "seed", "size", "model_hash", "model", "aesthetic_score", "rating",
    "favorite", "nsfw", "nometa", "delete", "date", "path", "folder",
)  # fmt: skip
MAX_LENGTH = 5_000  # characters of a query
MAX_TERMS = 30  # of a query, with alternatives; above 32 PostgreSQL compiles each expression anew for each row
MAX_TEXT = 1_000  # characters of one that texts are searched for
#: ImageRecord's fields where a token has another name.
_FIELDS = {"negative": "negative_prompt", "delete": "for_deletion", "nometa": "no_metadata", "date": "created"}
HIDING = ("delete", "unavailable")  # the flags that hide an image, unless a query asks for one
_TOKEN = re.compile(rf"(?<![\w:])((?ai:{'|'.join(TOKENS)})):")  # not the letters that IGNORECASE takes for s and i
_QUOTED = re.compile(r'"[^"]*"')
_NUMBER = r"\s*(-?[0-9]+(?:\.[0-9]+)?)\s*"
_NAMED = 60  # characters of a query that an error repeats


@dataclass(frozen=True)
class Columns:
    """How one database names an image's fields (SQL expressions, by ImageRecord's names), its parameter sign, its operator
    for regular expressions, and its encoding, by Python's name for it."""

    names: Mapping[str, str]
    parameter: str = "?"
    matches: str = "REGEXP"
    encoding: str = "utf-8"

    def __getitem__(self, field: str) -> str:
        try:
            return self.names[_FIELDS.get(field, field)]
        except KeyError:
            raise BadQuery(f"this DT library has no column for '{field}:'; leave it out of the query") from None


def where(text: str, columns: Columns) -> Sql:
    """A query as an SQL condition and its parameters; "" gives every visible image.

    Raises BadQuery, naming the part that cannot be read or the limit that is passed.
    """
    if len(text) > MAX_LENGTH:
        raise BadQuery(f"a query has at most {MAX_LENGTH:,} characters, this one has {len(text):,}; leave some out")
    if re.search("[\0\ud800-\udfff]", text):
        raise BadQuery("a query holds neither NUL nor half a surrogate pair; leave these characters out")
    terms, tokens = _split(text)
    every = [(name, [part.strip() for part in value.split("|") if part.strip()]) for name, value in tokens]
    if (count := len(terms) + sum(len(alternatives) for _, alternatives in every)) > MAX_TERMS:
        raise BadQuery(
            f"a query has at most {MAX_TERMS} terms and alternatives, this one has {count:,}; leave some out"
        )
    found = [_text(columns, "prompt", term) for term in terms]
    for name, alternatives in every:
        if not alternatives:
            raise BadQuery(f"'{name}:' has no value in the query '{_short(text)}'")
        found.append(_any([_READERS[name](columns, name, part) for part in alternatives]))
    asked = {name for name, _ in tokens}
    found += [(f"NOT {columns[flag]}", []) for flag in HIDING if flag not in asked]
    return " AND ".join(sql for sql, _ in found), [value for _, values in found for value in values]


def matches(pattern: str, text: object) -> bool | None:
    """What ``text REGEXP pattern`` says in SQL; SQLite has no such function of its own."""
    return None if text is None else re.search(pattern, str(text)) is not None


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
    return "(" + " OR ".join(f"({sql})" for sql, _ in conditions) + ")", [v for _, values in conditions for v in values]


def _short(text: str) -> str:
    return text if len(text) <= _NAMED else f"{text[:_NAMED]}…"


def _found(columns: Columns, name: str, text: str, start: bool = False, end: bool = False) -> Sql:
    text = text.strip().strip('"')
    if len(text) > MAX_TEXT:
        raise BadQuery(f"a text to search for has at most {MAX_TEXT:,} characters: '{_short(text)}' has {len(text):,}")
    ways: list[object] = [*spellings(text, start, end, columns.encoding)]
    condition = " AND ".join([f"{columns[name]} {columns.matches} {columns.parameter}"] * len(ways))
    if columns.matches != "REGEXP":
        return condition, ways
    # SQLite asks Python for a regular expression; where all is ASCII it tells by itself, in a third of the time
    column, plain, sign = columns[name], fold(text), columns.parameter
    beyond = f"length({column}) <> length(CAST({column} AS BLOB))"
    if not plain.isascii():
        return f"({beyond} AND {condition})", ways
    lower = f"lower({column})"
    if start:
        plainly = f"{lower} = {sign}" if end else f"substr({lower}, 1, {len(plain)}) = {sign}"
    else:
        plainly = f"instr({lower}, {sign}) > 0"
    return f"CASE WHEN {beyond} THEN {condition} ELSE {plainly} END", [*ways, plain]


def _text(columns: Columns, name: str, value: str) -> Sql:
    return _found(columns, name, value)


def _exact(columns: Columns, name: str, value: str) -> Sql:
    return _found(columns, name, value, start=True, end=True)


def _path(columns: Columns, name: str, value: str) -> Sql:
    how, _, rest = value.partition(" ")
    if value.lower().startswith("starts with "):
        return _found(columns, "path", value[12:], start=True)
    if how.lower() == "contains" and rest:
        value = rest
    return _found(columns, "path", value)


def _number(columns: Columns, name: str, value: str) -> Sql:
    column, sign = columns[name], columns.parameter
    if value.lower() == "none":
        return f"{column} IS NULL", []
    if match := re.fullmatch(rf"(>=|<=|>|<|=)?{_NUMBER}", value):
        return f"{column} {match[1] or '='} {sign}", [_value(match[2])]
    if match := re.fullmatch(rf"{_NUMBER}-{_NUMBER}", value):
        return f"{column} BETWEEN {sign} AND {sign}", [_value(match[1]), _value(match[2])]
    raise BadQuery(f"'{name}: {_short(value)}' is not a number, a range like 20-30, a comparison like >= 6, or none")


def _value(digits: str) -> int | float:
    whole, point, _ = digits.lstrip("-").partition(".")
    whole = whole.lstrip("0") or "0"
    number = int(whole) if len(whole) < 20 else 2**64
    if digits.startswith("-"):
        number = -number
    if not -(2**63) <= number < 2**63:
        raise BadQuery(f"the number {_short(digits)} is too large; it may have 64 bits")
    return float(digits) if point else number


def _seed(columns: Columns, name: str, value: str) -> Sql:
    if "*" in value or "?" in value:
        if not re.fullmatch(r"[0-9*?]{1,40}", value):
            raise BadQuery(f"'seed: {_short(value)}' may hold digits, * and ? only, at most 40")
        digits = re.sub(r"\*+", "%", value).replace("?", "_")
        return f"CAST({columns[name]} AS TEXT) LIKE {columns.parameter}", [digits]
    return _number(columns, name, value)


def _size(columns: Columns, _name: str, value: str) -> Sql:
    width, height, sign = columns["width"], columns["height"], columns.parameter
    shapes = {"portrait": "<", "landscape": ">", "square": "="}
    if compare := shapes.get(value.lower()):
        return f"{width} {compare} {height}", []
    if match := re.fullmatch(r"([0-9]{1,9})\s*([x:])\s*([0-9]{1,9})", value.lower()):
        sides = int(match[1]), int(match[3])
        if match[2] == "x":
            return f"({width} = {sign} AND {height} = {sign})", [*sides]
        # decimals, written out: the database's whole numbers may have too few bits for the products
        return f"{height} * {sides[0]}.0 = {width} * {sides[1]}.0", []
    raise BadQuery(f"'size: {_short(value)}' is not like 512x768, 16:9, portrait, landscape or square")


def _flag(columns: Columns, name: str, value: str) -> Sql:
    truth = {"true": True, "yes": True, "false": False, "no": False}.get(value.lower())
    if truth is None:
        raise BadQuery(f"'{name}: {_short(value)}' is neither true nor false")
    return (columns[name] if truth else f"NOT {columns[name]}"), []


def _date(columns: Columns, name: str, value: str) -> Sql:
    column, sign = columns[name], columns.parameter

    def day(text: str) -> str:
        try:
            return datetime.date.fromisoformat(text).isoformat()
        except ValueError:
            raise BadQuery(f"'date: {_short(value)}': '{_short(text)}' is not a date like 2026-01-31") from None

    words = value.lower().split()
    if len(words) == 4 and (words[0], words[2]) == ("between", "and"):
        first, last = day(words[1]), day(words[3])
    elif len(words) == 2 and words[0] in ("from", "before"):
        return f"{column} {'>=' if words[0] == 'from' else '<'} {sign}", [day(words[1])]
    else:
        low = " ".join(words)
        first = last = datetime.date.today().isoformat() if low == "today" else day(low)
    return f"({column} >= {sign} AND {column} < {sign})", [first, f"{last}T24"]  # after the day's last second


_READERS: dict[str, Callable[[Columns, str, str], Sql]] = {
    "negative": _text, "model": _text, "folder": _path, "path": _path, "sampler": _exact, "model_hash": _exact,
    "steps": _number, "cfg": _number, "aesthetic_score": _number, "rating": _number, "seed": _seed,
    "size": _size, "favorite": _flag, "nsfw": _flag, "nometa": _flag, "delete": _flag, "date": _date,
}  # fmt: skip
