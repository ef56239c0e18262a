"""What each token means, as SQL."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable

from ..errors import BadQuery
from ..letters import fold, spellings
from ..records import LAYERS
from .columns import Columns, Sql
from .words import HIDEABLE, Part

MAX_TEXT = 1_000  # characters of one that texts are searched for
MAX_PIECES = 20  # of a text with asterisks
ALWAYS, NEVER = "1 = 1", "1 = 0"
#: What `has:` may name besides a layer's vectors.
_HAS = ("caption", "tag", "cluster", "map")
_NUMBER = r"\s*(-?[0-9]+(?:\.[0-9]+)?)\s*"
_ISO, _OTHER = (
    re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})"),
    re.compile(r"([0-9]{1,2})[-/.]([0-9]{1,2})[-/.]([0-9]{4})"),
)
_NAMED = 60  # characters of a query that an error repeats


def condition(columns: Columns, part: Part) -> Sql:
    """A part of a query as an SQL condition and its parameters; raises BadQuery."""
    read = _READERS[part.token]
    return any_of([read(columns, part.token, value) for value in part.values], part.negated)


def any_of(found: list[Sql], negated: bool = False) -> Sql:
    """That one of some conditions holds, or that none does."""
    sql, values = " OR ".join(f"({sql})" for sql, _ in found), [value for _, values in found for value in values]
    if len(found) == 1:
        sql = found[0][0]
    elif not negated:
        sql = f"({sql})"
    return (f"({sql}) IS NOT TRUE" if negated else sql), values  # what is not known is not so


def all_of(found: list[Sql]) -> Sql:
    return " AND ".join(sql for sql, _ in found) or ALWAYS, [value for _, values in found for value in values]


def _short(text: str) -> str:
    return text if len(text) <= _NAMED else f"{text[:_NAMED]}…"


# -- texts ----------------------------------------------------------------------------------------------


def _matched(columns: Columns, column: str, text: str, start: str = "", end: str = "", tail: str = "") -> Sql:
    r"""That a text is found in a column; between ``start`` and ``end``, regular expressions, a ``*`` is any characters of
    one line, but for a text in quotes.  ``tail`` is one for what may follow."""
    quoted, text = text.strip().startswith('"'), text.strip().strip('"')
    if len(text) > MAX_TEXT:
        raise BadQuery(f"a text to search for has at most {MAX_TEXT:,} characters: '{_short(text)}' has {len(text):,}")
    pieces = text.split("*") if (start or end) and not quoted else [text]
    pieces = [piece for i, piece in enumerate(pieces) if piece or i in (0, len(pieces) - 1)]
    if len(pieces) > MAX_PIECES:
        raise BadQuery(f"'{_short(text)}' has more than {MAX_PIECES - 1} asterisks")
    ways = _ways(columns, pieces, start, end, tail)
    found: Sql = (" AND ".join([f"{column} {columns.matches} {columns.parameter}"] * len(ways)), ways)
    # a regular expression is for other letters than A to Z; where there are none the database tells by itself, in a
    # third of SQLite's time, and PostgreSQL keeps but 32 regular expressions ready
    piece = max(map(fold, pieces), key=len)
    sqlite, sign = columns.matches == "REGEXP", columns.parameter
    beyond = f"length({column}) <> length(CAST({column} AS BLOB))" if sqlite else rf"{column} ~ E'[^\\x01-\\x7f]'"
    if not piece.isascii():
        return f"({beyond} AND {found[0]})", ways
    plainly = rf"{column} LIKE {sign} ESCAPE '\'" if sqlite else f"strpos(lower({column}), {sign}) > 0"
    if sqlite:  # whose LIKE knows no other letters than A to Z
        piece = "%" + re.sub(r"[\\%_]", r"\\\g<0>", piece) + "%"
    if start or end:  # a quick look whether it may be
        return f"(CASE WHEN {beyond} THEN true ELSE {plainly} END AND {found[0]})", [piece, *ways]
    return f"CASE WHEN {beyond} THEN {found[0]} ELSE {plainly} END", [*ways, piece]


def _ways(columns: Columns, pieces: list[str], start: str, end: str, tail: str) -> list[object]:
    """Regular expressions that all match where the pieces follow each other."""
    if len(pieces) == 1 and not tail and start in ("", r"\A") and end in ("", r"\Z"):
        return [*spellings(pieces[0], bool(start), bool(end), columns.encoding)]
    first, *others = ["" if not piece else spellings(piece, encoding=columns.encoding)[-1] for piece in pieces]
    whole = start + first
    for number, piece in enumerate(others, 1):
        if columns.matches == "REGEXP" and number < len(others):
            whole += rf"(?=([^\n]*?{piece}))\{number}"  # the first place where it fits is as good as any: it is not left again
        else:
            whole += rf"[^\n]*{piece}"
    return [whole + tail + end]


def _text(columns: Columns, token: str, value: str) -> Sql:
    return _matched(columns, columns[token or "prompt"], value)


def _exact(columns: Columns, token: str, value: str) -> Sql:
    return _matched(columns, columns[token], value, r"\A", r"\Z")


def _model(columns: Columns, token: str, value: str) -> Sql:
    if "*" in value and not value.startswith('"'):
        return _matched(columns, columns["model"], value, r"\A", r"\Z")
    return _text(columns, "model", value)


def _model_or_hash(columns: Columns, token: str, value: str) -> Sql:
    (model, first), (key, second) = _model(columns, token, value), _exact(columns, "model_hash", value)
    return f"(({model}) OR ({key}))", [*first, *second]


def _path(columns: Columns, token: str, value: str) -> Sql:
    column, low = columns["path"], value.lower()
    for criterion, start, end in (("starts with ", r"\A", ""), ("contains ", "", ""), ("ends with ", "", r"\Z")):
        if low.startswith(criterion):
            return _matched(columns, column, value[len(criterion) :], start, end)
    return _matched(columns, column, value, r"\A", r"\Z")


def _folder(columns: Columns, token: str, value: str) -> Sql:
    folder = value.rstrip('\\/"') + ('"' if value.startswith('"') else "")
    return _matched(columns, columns["path"], folder, r"\A", r"\Z", r"[\\/][^\\/]*")


# -- names in other tables ------------------------------------------------------------------------------


def _name(columns: Columns, token: str, value: str) -> Sql:
    names = columns.names.get(token)
    if names is None:
        return NEVER, []
    if names.number and re.fullmatch("[0-9]{1,18}", value):
        return names.within.format(f"{names.number} = {columns.parameter}"), [int(value)]
    sql, values = _matched(columns, names.name, value, names.start, names.end)
    return names.within.format(sql), values


def _in_album(columns: Columns, token: str, value: str) -> Sql:
    names = columns.names.get("cluster")
    some = names.any if names else NEVER
    return some if _truth(token, value) else f"NOT ({some})", []


def _has(columns: Columns, token: str, value: str) -> Sql:
    what = value.lower()
    if what in columns.names:
        return columns.names[what].any, []
    if what in columns.has:
        return columns.has[what], []
    kind, _, layer = what.partition(".")
    if what not in _HAS and (kind != "vectors" or layer not in LAYERS):
        every = ", ".join([*_HAS, *(f"vectors.{layer}" for layer in LAYERS)])
        raise BadQuery(f"'has: {_short(value)}' is none of {every}")
    if what == "map" or kind == "vectors":
        raise BadQuery(
            f"'has: {what}' is known only of a library that was synced; run a sync, or leave it out of the query"
        )
    return NEVER, []


# -- numbers --------------------------------------------------------------------------------------------


def _number(columns: Columns, token: str, value: str) -> Sql:
    column, sign = columns[token], columns.parameter
    if value.lower() == "none":
        return f"{column} IS NULL", []
    if match := re.fullmatch(rf"(>=|<=|<>|>|<|=)?{_NUMBER}", value):
        return f"{column} {match[1] or '='} {sign}", [_value(match[2])]
    if match := re.fullmatch(rf"{_NUMBER}-{_NUMBER}", value):
        return f"{column} BETWEEN {sign} AND {sign}", [_value(match[1]), _value(match[2])]
    raise BadQuery(f"'{token}: {_short(value)}' is not a number, a range like 20-30, a comparison like >= 6, or none")


def _value(digits: str) -> int | float:
    whole, point, _ = digits.lstrip("-").partition(".")
    whole = whole.lstrip("0") or "0"
    number = int(whole) if len(whole) < 20 else 2**64
    if digits.startswith("-"):
        number = -number
    if not -(2**63) <= number < 2**63:
        raise BadQuery(f"the number {_short(digits)} is too large; it may have 64 bits")
    return float(digits) if point else number


def _seed(columns: Columns, token: str, value: str) -> Sql:
    if "*" in value or "?" in value:
        if not re.fullmatch(r"[0-9*?]{1,40}", value):
            raise BadQuery(f"'seed: {_short(value)}' may hold digits, * and ? only, at most 40")
        digits = re.sub(r"\*+", "%", value).replace("?", "_")
        return f"CAST({columns[token]} AS TEXT) LIKE {columns.parameter}", [digits]
    return _number(columns, token, value)


def _size(columns: Columns, _token: str, value: str) -> Sql:
    width, height, sign = columns["width"], columns["height"], columns.parameter
    known = f"{width} > 0 AND {height} > 0"  # of a picture that was not looked into it is 0
    shapes = {"portrait": "<", "landscape": ">", "square": "="}
    if compare := shapes.get(value.lower()):
        return f"({known} AND {width} {compare} {height})", []
    if match := re.fullmatch(r"([0-9]{1,9}|\?)\s*x\s*([0-9]{1,9}|\?)", value.lower()):
        sides = [
            (column, int(side)) for column, side in zip((width, height), match.groups(), strict=True) if side != "?"
        ]
        return f"({' AND '.join([known, *(f'{column} = {sign}' for column, _ in sides)])})", [side for _, side in sides]
    if match := re.fullmatch(r"([0-9]{1,9})\s*:\s*([0-9]{1,9})", value):
        # decimals, written out: the database's whole numbers may have too few bits for the products
        return f"({known} AND {height} * {int(match[1])}.0 = {width} * {int(match[2])}.0)", []
    raise BadQuery(f"'size: {_short(value)}' is not like 512x768, 512x?, 16:9, portrait, landscape or square")


def _truth(token: str, value: str) -> bool:
    truth = {"true": True, "yes": True, "false": False, "no": False}.get(value.lower())
    if truth is None:
        raise BadQuery(f"'{token}: {_short(value)}' is neither true nor false")
    return truth


def _flag(columns: Columns, token: str, value: str) -> Sql:
    if token in HIDEABLE and value.lower() == "any":
        return ALWAYS, []
    return (columns[token] if _truth(token, value) else f"NOT {columns[token]}"), []


def _type(columns: Columns, token: str, value: str) -> Sql:
    if value.lower() not in ("image", "video"):
        raise BadQuery(f"'type: {_short(value)}' is neither image nor video")
    return (ALWAYS if value.lower() == "image" else NEVER), []  # videos are in no library here


# -- dates ----------------------------------------------------------------------------------------------


def _date(columns: Columns, token: str, value: str) -> Sql:
    column, sign = columns[token], columns.parameter
    words = value.lower().split()
    if len(words) == 4 and (words[0], words[2]) in (("between", "and"), ("from", "to")):
        first, last = _day(words[1], value), _day(words[3], value)
    elif len(words) == 3 and words[1] == "-":
        first, last = _day(words[0], value), _day(words[2], value)
    elif len(words) == 2 and words[0] in ("from", "since"):
        return f"{column} >= {sign}", [_day(words[1], value)]
    elif len(words) == 2 and words[0] == "before":  # as DT's help has it: the day itself is in it
        return f"({column} <> '' AND {column} < {sign})", [f"{_day(words[1], value)}T24"]
    else:
        first = last = _day(" ".join(words), value)
    return f"({column} >= {sign} AND {column} < {sign})", [first, f"{last}T24"]  # after the day's last second


def _day(text: str, value: str) -> str:
    today = datetime.date.today()
    if text in ("today", "yesterday"):
        return (today - datetime.timedelta(days=text == "yesterday")).isoformat()
    year = month = day = 0
    if match := _ISO.fullmatch(text):
        year, month, day = map(int, match.groups())
    elif match := _OTHER.fullmatch(text):
        month, day, year = map(int, match.groups())
        if month > 12:
            month, day = day, month
        if day <= 12 and day != month:
            raise BadQuery(
                f"'date: {_short(value)}': '{text}' may be {year}-{month:02}-{day:02} or {year}-{day:02}-{month:02}; write it "
                "as one of these"
            )
    try:
        return datetime.date(year, month, day).isoformat()
    except ValueError:
        raise BadQuery(f"'date: {_short(value)}': '{_short(text)}' is not a date like 2026-01-31") from None


_READERS: dict[str, Callable[[Columns, str, str], Sql]] = {
    "": _text, "negative": _text, "model": _model, "model_or_hash": _model_or_hash, "model_hash": _exact, "sampler": _exact,
    "folder": _folder, "path": _path, "cluster": _name, "tag": _name, "in_album": _in_album, "has": _has,
    "steps": _number, "cfg": _number, "aesthetic_score": _number, "rating": _number, "seed": _seed, "size": _size,
    "favorite": _flag, "nsfw": _flag, "nometa": _flag, "delete": _flag, "unavailable": _flag, "type": _type, "date": _date,
}  # fmt: skip
