"""What each token means, as SQL."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import BadQuery
from ..letters import fold, spellings
from . import values as says
from .columns import Columns, Sql
from .words import HIDEABLE, Part

ALWAYS, NEVER = "1 = 1", "1 = 0"
MOST_JOINED = 4  # conditions whose tables a database may join with the images; of more each is asked by itself


@dataclass(frozen=True)
class InSql:
    """What parts of a query are in SQL: conditions, each with its parameters."""

    columns: Columns

    def condition(self, part: Part) -> Sql:
        read = _READERS[part.token]
        return self.any_of([read(self.columns, part.token, value) for value in part.values], part.negated)

    def any_of(self, found: list[Sql], negated: bool = False) -> Sql:
        sql, values = " OR ".join(f"({sql})" for sql, _ in found), [value for _, values in found for value in values]
        if len(found) == 1:
            sql = found[0][0]
        elif not negated:
            sql = f"({sql})"
        return (f"({sql}) IS NOT TRUE" if negated else sql), values  # what is not known is not so

    def all_of(self, found: list[Sql]) -> Sql:
        # PostgreSQL joins the tables of those that must hold, and to think of a hundred it takes all of a machine's memory
        every = [sql if at < MOST_JOINED else f"({sql}) IS TRUE" for at, (sql, _) in enumerate(found)]
        return " AND ".join(every) or ALWAYS, [value for _, values in found for value in values]

    def without(self, flag: str) -> Sql:
        return f"NOT {self.columns[flag]}", []


# -- texts ----------------------------------------------------------------------------------------------


def _matched(columns: Columns, column: str, text: str, start: str = "", end: str = "", tail: str = "") -> Sql:
    r"""That a text is found in a column; between ``start`` and ``end``, regular expressions, a ``*`` is any characters of
    one line, but for a text in quotes.  ``tail`` is one for what may follow."""
    pieces = says.pieces(text, bool(start or end))
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
    return _text(columns, "model", value) if says.is_part_of_model(value) else _exact(columns, "model", value)


def _model_or_hash(columns: Columns, token: str, value: str) -> Sql:
    (model, first), (key, second) = _model(columns, token, value), _exact(columns, "model_hash", value)
    return f"(({model}) OR ({key}))", [*first, *second]


def _path(columns: Columns, token: str, value: str) -> Sql:
    start, end, text = says.path(value)
    return _matched(columns, columns["path"], text, r"\A" if start else "", r"\Z" if end else "")


def _folder(columns: Columns, token: str, value: str) -> Sql:
    return _matched(columns, columns["path"], says.folder(value), r"\A", r"\Z", r"[\\/][^\\/]*")


# -- names in other tables ------------------------------------------------------------------------------


def is_called(name: str, value: str) -> bool:
    """Whether a name, such as a cluster's, is what a token's value says it is."""
    ways = _ways(Columns({}), says.pieces(value, asterisks=True), r"\A", r"\Z", "")
    return all(re.search(str(way), name) for way in ways)


def _name(columns: Columns, token: str, value: str) -> Sql:
    names = columns.names.get(token)
    if names is None:
        says.pieces(value, asterisks=True)  # what cannot be asked for is refused all the same
        return NEVER, []
    if names.number and re.fullmatch("[0-9]{1,18}", value):
        return names.within.format(f"{names.number} = {columns.parameter}"), [int(value)]
    sql, values = _matched(columns, names.name, value, names.start, names.end)
    return names.within.format(f"{names.there} AND {sql}"), values


def _in_album(columns: Columns, token: str, value: str) -> Sql:
    names = columns.names.get("cluster")
    some = names.any if names else NEVER
    return some if says.truth(token, value) else f"NOT ({some})", []


def _has(columns: Columns, token: str, value: str) -> Sql:
    what = says.had(value)
    if what in columns.names:
        return columns.names[what].any, []
    if what in columns.has:
        return columns.has[what], []
    if what == "map" or what.startswith("vectors."):
        raise BadQuery(
            f"'has: {what}' is known only of a library that was synced; run a sync, or leave it out of the query"
        )
    return NEVER, []


# -- numbers --------------------------------------------------------------------------------------------


def _number(columns: Columns, token: str, value: str) -> Sql:
    column, sign = columns[token], columns.parameter
    found = says.comparisons(token, value)
    if found is None:
        return f"{column} IS NULL", []
    return " AND ".join(f"{column} {compare} {sign}" for compare, _ in found), [number for _, number in found]


def _seed(columns: Columns, token: str, value: str) -> Sql:
    if digits := says.seed_digits(value):
        like = digits.replace("*", "%").replace("?", "_")
        return f"CAST({columns[token]} AS TEXT) LIKE {columns.parameter}", [like]
    return _number(columns, token, value)


def _size(columns: Columns, _token: str, value: str) -> Sql:
    width, height, sign = columns["width"], columns["height"], columns.parameter
    known = f"{width} > 0 AND {height} > 0"  # of a picture that was not looked into it is 0
    wanted = says.size(value)
    if wanted.shape:
        return f"({known} AND {width} {wanted.shape} {height})", []
    if wanted.ratio:
        # decimals, written out: the database's whole numbers may have too few bits for the products
        return f"({known} AND {height} * {wanted.ratio[0]}.0 = {width} * {wanted.ratio[1]}.0)", []
    sides = [(column, side) for column, side in ((width, wanted.width), (height, wanted.height)) if side is not None]
    return f"({' AND '.join([known, *(f'{column} = {sign}' for column, _ in sides)])})", [side for _, side in sides]


def _flag(columns: Columns, token: str, value: str) -> Sql:
    if token in HIDEABLE and value.lower() == "any":
        return ALWAYS, []
    return (columns[token] if says.truth(token, value) else f"NOT {columns[token]}"), []


def _type(columns: Columns, token: str, value: str) -> Sql:
    return (ALWAYS if says.is_image(value) else NEVER), []


def _date(columns: Columns, token: str, value: str) -> Sql:
    column, sign = columns[token], columns.parameter
    first, end = says.days(value)
    if not end:
        return f"{column} >= {sign}", [first]
    if not first:
        return f"({column} <> '' AND {column} < {sign})", [end]
    return f"({column} >= {sign} AND {column} < {sign})", [first, end]


_READERS: dict[str, Callable[[Columns, str, str], Sql]] = {
    "": _text, "negative": _text, "model": _model, "model_or_hash": _model_or_hash, "model_hash": _exact, "sampler": _exact,
    "folder": _folder, "path": _path, "cluster": _name, "tag": _name, "in_album": _in_album, "has": _has,
    "steps": _number, "cfg": _number, "aesthetic_score": _number, "rating": _number, "seed": _seed, "size": _size,
    "favorite": _flag, "nsfw": _flag, "nometa": _flag, "delete": _flag, "unavailable": _flag, "type": _type, "date": _date,
}  # fmt: skip
