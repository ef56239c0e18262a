"""How one database names what queries are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..errors import BadQuery
from .words import HIDING, Part

Sql = tuple[str, list[object]]

#: ImageRecord's fields where a token has another name.
_FIELDS = {"negative": "negative_prompt", "delete": "for_deletion", "nometa": "no_metadata", "date": "created"}


@dataclass(frozen=True)
class Names:
    """Names that images have through another table: ``within``, SQL that holds for an image, with {} for a condition on
    the name; SQL for the ``name``, and for the number that may stand for it, without which an empty name is none.
    ``start`` and ``end`` are what stands around a name, as regular expressions, where all of an image's lie in one text."""

    within: str
    name: str
    number: str = ""
    start: str = r"\A"
    end: str = r"\Z"

    @property
    def any(self) -> str:
        """The condition that an image has one."""
        return self.within.format(self.there)

    @property
    def there(self) -> str:
        """The condition, within, that there is a name."""
        return "1 = 1" if self.number else f"{self.name} <> ''"


@dataclass(frozen=True)
class Columns:
    """How one database names an image's fields (SQL expressions, by ImageRecord's names), its parameter sign, its operator
    for regular expressions, and its encoding, by Python's name for it; and what it knows besides: ``names``, of tags and
    clusters, and ``has``, the conditions of what an image may have.  What is not there is had by no image.  ``hide`` are
    the flags that hide one; ``saved`` gives what a saved search of that name asks for, and raises BadQuery."""

    fields: Mapping[str, str]
    parameter: str = "?"
    matches: str = "REGEXP"
    encoding: str = "utf-8"
    names: Mapping[str, Names] = field(default_factory=dict)
    has: Mapping[str, str] = field(default_factory=dict)
    hide: tuple[str, ...] = HIDING
    saved: Callable[[str], list[Part]] | None = None

    def __getitem__(self, token: str) -> str:
        try:
            return self.fields[_FIELDS.get(token, token)]
        except KeyError:
            raise BadQuery(f"this DT library has no column for '{token}:'; leave it out of the query") from None
