"""DT's query language, read once (words.py) and spoken as SQL to any database that names its columns (tokens.py).

Comma-separated terms match the prompt (all of them, any order; quoted ones exactly), then come ``token: value`` pairs,
all of which must hold, ``|`` between alternatives, ``not`` before what must not be so::

    a girl, not hat, "blue eyes, smile" model: pony|illustrious rating: > 5 not tag: "red hair" date: since 2026-01-01

Images that are hidden (``Columns.hide``) are left out unless their flag is asked for, as by ``delete:``.  What a
query costs is bounded before anything is made of it (``MAX_LENGTH``, ``MAX_TERMS``, ``MAX_TEXT``).  Texts are compared by
one rule in every database, whatever its locale: that of letters.py.
"""

from __future__ import annotations

import re

from ..errors import BadQuery
from .columns import Columns, Names, Sql
from .tokens import ALWAYS, MAX_TEXT, NEVER, condition
from .words import HIDEABLE, HIDING, MAX_LENGTH, MAX_TERMS, SPELLINGS, TOKENS, Part, parts

__all__ = [
    "HIDEABLE", "HIDING", "MAX_LENGTH", "MAX_TERMS", "MAX_TEXT", "SPELLINGS", "TOKENS", "Columns", "Names", "Part", "Sql", "hidden",
    "matches", "parts", "where",
]  # fmt: skip


def where(text: str, columns: Columns) -> Sql:
    """A query as an SQL condition and its parameters; "" gives every visible image.

    Raises BadQuery, naming the part that cannot be read and where it stands, or the limit that is passed.
    """
    found, asked = list[Sql](), set[str]()
    for part in parts(text):
        try:
            found.append(condition(columns, part))
        except BadQuery as error:
            raise BadQuery(str(error), part.at, text) from None
        asked.add(part.token)
    found += [(f"NOT {columns[flag]}", []) for flag in columns.hide if flag not in asked]
    return " AND ".join(sql for sql, _ in found) or ALWAYS, [value for _, values in found for value in values]


def matches(pattern: str, text: object) -> bool | None:
    """What ``text REGEXP pattern`` says in SQL; SQLite has no such function of its own."""
    return None if text is None else re.search(pattern, str(text)) is not None


def hidden(columns: Columns) -> str:
    """The SQL condition of the images that are hidden."""
    return " OR ".join(columns[flag] for flag in columns.hide) or NEVER
