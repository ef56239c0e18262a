"""What comes from elsewhere, made plain: text without what a terminal or log obeys, JSON that every program reads."""

from __future__ import annotations

import json
import re
import reprlib
from typing import Any

from .errors import BadInput

MAX_DEPTH = 32  # lists and objects in each other; many programs read 64, and ours stand in a record in a list
MAX_VALUES = 1_000_000
#: Controls but tab and newline, marks that turn the direction of writing or hide, halves of characters, no characters.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff]")  # fmt: skip

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 100


def shown(text: object, most: int = 0) -> str:
    """Text as it may be shown: each control, turn of direction and half of a character is �; cut after ``most``."""
    told = str(text)
    if most and len(told) > most:
        told = told[: most - 1] + "…"
    return _OBEYED.sub("\N{REPLACEMENT CHARACTER}", told)


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON for a terminal or a file: what is not to be shown is there by its number, which JSON reads as the same."""
    said = json.dumps(value, ensure_ascii=False, indent=indent)
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", said)


def quoted(value: object) -> str:
    """Some value as an error names it: short, on one line, whatever it is."""
    try:
        return shown(_SHORT.repr(value), 120)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return f"a {type(value).__name__}"


def checked_json(value: Any, name: str) -> str:
    """A value as JSON that every program can read and store; raises BadInput: no numbers without end, half characters,
    nothing deeper than ``MAX_DEPTH``."""
    todo, seen = [(value, 1)], 0
    while todo:
        found, depth = todo.pop()
        seen += 1
        if depth > MAX_DEPTH or seen > MAX_VALUES:  # also what holds itself
            raise BadInput(f"{name} has more than {MAX_DEPTH} levels, or than {MAX_VALUES:,} values")
        if isinstance(found, dict):
            todo += [(each, depth + 1) for each in found.values()]
        elif isinstance(found, (list, tuple)):
            todo += [(each, depth + 1) for each in found]
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"{name} cannot be said in JSON: {shown(error, 200)}") from error
    return text
