"""DT's query language, read once (words.py, values.py) and spoken as SQL to any database that names its columns (tokens.py),
or in whatever other language there is of conditions (``Language``).

Comma-separated terms match the prompt (all of them, any order; quoted ones exactly), then come ``token: value`` pairs,
all of which must hold, ``|`` between alternatives, ``not`` before what must not be so::

    a girl, not hat, "blue eyes, smile" model: pony|illustrious rating: > 5 not tag: "red hair" date: since 2026-01-01

Images that are hidden (``Columns.hide``) are left out unless their flag is asked for, as by ``delete:``.  What a
query costs is bounded before anything is made of it (``MAX_LENGTH``, ``MAX_TERMS``, ``MAX_TEXT``).  Texts are compared by
one rule in every database, whatever its locale: that of letters.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol, TypeVar

from ..errors import BadQuery
from .columns import Columns, Names, Sql
from .tokens import NEVER, InSql, is_called
from .values import MAX_TEXT
from .words import (
    HIDEABLE,
    HIDING,
    MAX_LENGTH,
    MAX_TERMS,
    SAVED,
    SPELLINGS,
    TOKENS,
    Part,
    must_be_sayable,
    parts,
    terms,
)

__all__ = [
    "HIDEABLE", "HIDING", "MAX_LENGTH", "MAX_TERMS", "MAX_TEXT", "NONE_SAVED", "SPELLINGS", "TOKENS", "Columns", "Language", "Names", "Part", "Sql", "hidden",
    "is_called", "matches", "must_be_sayable", "parts", "terms", "translated", "where",
]  # fmt: skip


NONE_SAVED = "'saved:' names a search saved in stock DT, and there is none here; leave it out of the query"


Condition = TypeVar("Condition")


class Language(Protocol[Condition]):
    """One in which a database is asked: what makes conditions of a query's parts, and one of several; raises BadQuery."""

    def condition(self, part: Part) -> Condition: ...

    def any_of(self, found: list[Condition], negated: bool = False) -> Condition:
        """That one of some conditions holds, or that none does."""
        ...

    def all_of(self, found: list[Condition]) -> Condition: ...

    def without(self, flag: str) -> Condition:
        """That an image does not have a flag."""
        ...


def where(text: str, columns: Columns) -> Sql:
    """A query as an SQL condition and its parameters; see ``translated``."""
    return translated(text, InSql(columns), columns.hide, columns.saved)


def translated(
    text: str, language: Language[Condition], hide: tuple[str, ...], saved: Callable[[str], list[Part]] | None
) -> Condition:
    """A query as a condition in a language; "" gives every visible image.

    Raises BadQuery, naming the part that cannot be read or said and where it stands, or the limit that is passed.
    """
    found, asked, terms = list[Condition](), set[str](), 0
    for part in parts(text):
        try:
            searches = [_saved(saved, name) for name in part.values] if part.token == SAVED else [[part]]
            terms += sum(len(each.values) for search in searches for each in search)
            if terms > MAX_TERMS:
                raise BadQuery(f"with its saved searches this query has more than {MAX_TERMS} terms and alternatives")
            if part.token == SAVED:
                every = [language.all_of([language.condition(each) for each in search]) for search in searches]
                found.append(language.any_of(every, part.negated))
            else:
                found.append(language.condition(part))
        except BadQuery as error:
            raise BadQuery(str(error), part.at, text) from None
        asked |= {each.token for search in searches for each in search}
    return language.all_of(found + [language.without(flag) for flag in hide if flag not in asked])


def _saved(saved: Callable[[str], list[Part]] | None, name: str) -> list[Part]:
    """What a saved search asks for; one that names another is refused, so that none can lead to itself."""
    if saved is None:
        raise BadQuery(NONE_SAVED)
    found = saved(name.strip('"'))
    if any(part.token == SAVED for part in found):
        raise BadQuery(f"the saved search '{name[:60]}' names another one; a query names each itself")
    return found


def matches(pattern: str, text: object) -> bool | None:
    """What ``text REGEXP pattern`` says in SQL; SQLite has no such function of its own."""
    return None if text is None else re.search(pattern, str(text)) is not None


def hidden(columns: Columns) -> str:
    """The SQL condition of the images that are hidden."""
    return " OR ".join(columns[flag] for flag in columns.hide) or NEVER
