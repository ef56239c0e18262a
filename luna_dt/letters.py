"""When a text counts as found in another: the one rule, for every database.

The case of letters does not matter, nor whether an accent is part of its letter or a character after it, nor whether
a letter stands as two: ``STRASSE`` is found in ``Straße``, ``ΣΟΦΟΣ`` in ``σοφος``.  Every Turkish i is an i.  An
accent itself matters: ``cafe`` is not found in ``café``.

How a database lowers letters hangs on its locale, and under ``C`` only A to Z are letters to it.  So the text that is
looked for becomes a regular expression that spells out each way to write it.  PostgreSQL and Python read it alike; it
has no classes and no ranges, for a database of the encoding SQL_ASCII takes bytes for characters.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import defaultdict

_FIRST = 64  # letters of a long text that are looked for first: only where they are is the rest worth its cost
_PLANES = 0x30000  # no character beyond has a case or is composed
_NEVER = r"(?!a)a"


def spellings(text: str, start: bool = False, end: bool = False, encoding: str = "utf-8") -> list[str]:
    """Regular expressions that all match where ``text`` is found: anywhere, at the ``start``, up to the ``end``.

    They name no character that ``encoding``, the database's, lacks: it would refuse them.
    """
    singles, tails, longest = _letters()
    folded, letters, at = fold(text), list[str](), 0
    while at < len(folded):
        sizes = range(min(longest, len(folded) - at), 1, -1)
        size = next((size for size in sizes if folded[at : at + size] in singles), 1)
        letters.append(folded[at : at + size])
        at += size
    first = r"\A" if start else ""
    parts = [_spelled(letter, encoding) for letter in letters]
    whole = "".join(parts)
    heads = [first + "".join(parts[:_FIRST])] if len(parts) > 2 * _FIRST else []
    if _can(text, encoding) and not re.search(rf"\A{whole}\Z", text):  # as it stands, however that is
        whole, heads = f"(?:{whole}|{re.escape(text)})", []
    if end:
        whole += r"\Z"
    elif letters:  # "e" is not found in "e" and an accent, since it is not in the one character for both
        more = [c for c in tails if unicodedata.normalize("NFD", letters[-1] + c) in singles and _can(c, encoding)]
        whole += f"(?!{'|'.join(more)})" if more else ""
    return [*heads, first + whole]


def fold(text: str) -> str:
    """A text in one way to write it: another that is found to be the same has the same."""
    plain = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
    return plain.replace("i\u0307", "i").replace("\u0131", "i")


@functools.cache
def _letters() -> tuple[dict[str, list[str]], list[str], int]:
    """The characters that fold to each text, what follows a letter where both have one character, and the length of
    the longest text that one character folds to."""
    singles: dict[str, list[str]] = defaultdict(list)
    for character in map(chr, range(_PLANES)):
        folded = fold(character)
        if folded != character:
            singles[folded].append(character)
    for folded, written in singles.items():
        if len(folded) == 1:
            written.append(folded)
    singles["i"] += ["i\u0307", "I\u0307"]
    tails = {folded[-1] for folded in singles if len(folded) > 1 and len(unicodedata.normalize("NFC", folded)) == 1}
    return dict(singles), sorted(tails), max(map(len, singles))


@functools.lru_cache(maxsize=10_000)
def _spelled(folded: str, encoding: str) -> str:
    written = _letters()[0].get(folded, [folded])
    ways = [re.escape(way) for way in written if _can(way, encoding)]
    if len(folded) > 1:
        ways.append(_spelled(folded[:-1], encoding) + _spelled(folded[-1], encoding))
    if len(folded) > 2:  # accents above and below are also written in the other order
        below, above = folded[-2], folded[-1]
        if 0 < unicodedata.combining(below) < unicodedata.combining(above):
            ways.append(_spelled(folded[:-2] + above, encoding) + _spelled(below, encoding))
    return ways[0] if len(ways) == 1 else f"(?:{'|'.join(ways or [_NEVER])})"


def _can(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
