"""DT's query language in Milvus's expressions, over the fields that are kept with the rows (fields.py)."""

# ruff: noqa: ARG001 - a reader of one token need not look at all that those of others must

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import BadQuery
from ...query import HIDEABLE, Part
from ...query import values as says
from .fields import WHOLE_NUMBERS, one_way

ANY, NONE = "id >= 0", "id < 0"
IN_SOME = "not (array_length(clusters) == 0)"  # which 2.3 cannot compare in another way
LEAST, MOST = -(2**63), 2**63 - 1
#: Fields where a token has another name, and the flags that say whether a number is there.
_FIELDS = {"": "prompt", "negative": "negative_prompt", "delete": "for_deletion", "nometa": "no_metadata"}
_KNOWN = {"rating": "rated", "aesthetic_score": "scored"}


@dataclass(frozen=True)
class InMilvus:
    """What parts of a query are to a server of a ``version``, as it says itself; every condition is true or false.

    ``clusters`` gives the ids of the clusters that are called what a query says.
    """

    version: str
    clusters: Callable[[str], list[int]]

    def condition(self, part: Part) -> str:
        read = _READERS[part.token]
        return self.any_of([read(self, part.token, value) for value in part.values], part.negated)

    def any_of(self, found: list[str], negated: bool = False) -> str:
        either = " or ".join(f"({each})" for each in found)
        return f"not ({either})" if negated else f"({either})"

    def all_of(self, found: list[str]) -> str:
        return " and ".join(found) or ANY

    def without(self, flag: str) -> str:
        return f"{_FIELDS.get(flag, flag)} == false"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# -- texts ----------------------------------------------------------------------------------------------


def _like(to: InMilvus, field: str, pieces: list[str], start: bool = False, end: bool = False) -> str:
    """That pieces follow each other in a text, which may have to ``start`` and ``end`` with the first and the last."""
    cut = [*([] if start else [""]), *map(one_way, pieces), *([] if end else [""])]
    if len(cut) == 1:
        return f"{field} == {_quoted(cut[0])}"
    cut = [piece for i, piece in enumerate(cut) if piece or i in (0, len(cut) - 1)]
    pattern = "%".join(cut)
    version = re.match(r"\D*(\d+)\.(\d+)", to.version)
    if "%" in pattern[:-1] and version and tuple(map(int, version.groups())) < (2, 4):
        raise BadQuery(
            f"'{says.short('*'.join(pieces))}': Milvus {to.version} does not look for a text within another, only for how one begins "
            "and for all of it; leave it out of the query, or have a server of 2.4 or later"
        )
    return ANY if pattern == "%" else f"{field} like {_quoted(pattern)}"


def _text(to: InMilvus, token: str, value: str) -> str:
    return _like(to, _FIELDS.get(token, token), says.pieces(value, asterisks=False))


def _whole(to: InMilvus, field: str, value: str) -> str:
    return _like(to, field, says.pieces(value, asterisks=True), True, True)


def _model(to: InMilvus, token: str, value: str) -> str:
    return _text(to, "model", value) if says.is_part_of_model(value) else _whole(to, "model", value)


def _model_or_hash(to: InMilvus, token: str, value: str) -> str:
    return to.any_of([_model(to, token, value), _whole(to, "model_hash", value)])


def _path(to: InMilvus, token: str, value: str) -> str:
    start, end, text = says.path(value)
    return _like(to, "path", says.pieces(text, asterisks=start or end), start, end)


def _folder(to: InMilvus, token: str, value: str) -> str:
    return _whole(to, "folder", says.folder(value))


def _tag(to: InMilvus, token: str, value: str) -> str:
    cut = says.pieces(value, asterisks=True)
    if len(cut) == 1:
        return f"array_contains(tags, {_quoted(one_way(cut[0]))})"
    lettered = [piece for piece in cut if piece]
    if len(lettered) > 1:
        raise BadQuery(
            f"'tag: {says.short(value)}' has letters on both sides of an asterisk, which a Milvus server does not look for in tags; "
            "leave it out of the query, or use a home that mirrors DT"
        )
    if not lettered:
        return 'tag_lines != ""'
    return _like(to, "tag_lines", ["\n" * bool(cut[0]) + lettered[0] + "\n" * bool(cut[-1])])


def _cluster(to: InMilvus, token: str, value: str) -> str:
    if re.fullmatch("[0-9]{1,18}", value):
        return f"array_contains(clusters, {int(value)})"
    ids = to.clusters(value)
    return f"array_contains_any(clusters, {ids})" if ids else NONE


def _in_album(to: InMilvus, token: str, value: str) -> str:
    return IN_SOME if says.truth(token, value) else f"not ({IN_SOME})"


def _has(to: InMilvus, token: str, value: str) -> str:
    what = says.had(value)
    known = {"caption": "captioned == true", "tag": 'tag_lines != ""', "cluster": IN_SOME}
    return known[what] if what in known else _elsewhere(to, token, value)


def _elsewhere(to: InMilvus, token: str, value: str) -> str:
    raise BadQuery(
        f"'{token}: {says.short(value)}' asks for what a Milvus server does not keep; leave it out of the query, or use a home that "
        "mirrors DT"
    )


# -- numbers --------------------------------------------------------------------------------------------


def _number(to: InMilvus, token: str, value: str) -> str:
    found = says.comparisons(token, value)
    flag = _KNOWN.get(token)
    if found is None:
        return f"{flag} == false" if flag else NONE
    whole = token in WHOLE_NUMBERS
    every = [
        _compared(token, sign, n) if whole else f"{token} {_SIGNS.get(sign, sign)} {float(n)!r}" for sign, n in found
    ]
    return " and ".join([*([f"{flag} == true"] if flag else []), *(f"({each})" for each in every)])


_SIGNS = {"=": "==", "<>": "!="}


def _compared(field: str, sign: str, number: float) -> str:
    """A field of whole numbers compared with one that may not be whole."""
    least, most = math.ceil(number), math.floor(number)
    ranges = {
        "=": (least, most),
        ">=": (least, MOST),
        ">": (most + 1, MOST),
        "<=": (LEAST, most),
        "<": (LEAST, least - 1),
    }
    return f"not ({_within(field, least, most)})" if sign == "<>" else _within(field, *ranges[sign])


def _within(field: str, least: int, most: int) -> str:
    """That a field's whole number is in a range, whose ends Milvus cannot read if they are the least that there is."""
    if least > most or least > MOST or most < LEAST:
        return NONE
    ends = [f"{field} >= {least}"] if least > LEAST else []
    if most == LEAST:
        ends.append(f"{field} < {LEAST + 1}")
    elif most < MOST:
        ends.append(f"{field} <= {most}")
    return " and ".join(ends) or ANY


def _seed(to: InMilvus, token: str, value: str) -> str:
    digits = says.seed_digits(value)
    if not digits:
        return _number(to, token, value)
    match = re.fullmatch(r"([0-9]*)([*?]*)", digits)
    if match is None:
        raise BadQuery(
            f"'seed: {says.short(value)}' has digits after * or ?, which a Milvus server does not look for; leave them out, or "
            "use a home that mirrors DT"
        )
    begins, any_one = match[1], match[2].count("?")
    if digits == "*":
        return ANY
    every = range(any_one, 21 - len(begins)) if "*" in digits else [any_one]
    found = [_within("seed", *ends) for more in every for ends in _seeds(begins, more)]
    return to.any_of([each for each in found if each != NONE] or [NONE])


def _seeds(begins: str, more: int) -> list[tuple[int, int]]:
    """The ranges of seeds that begin with those digits and have so many characters more."""
    if begins:
        first = int(begins) * 10**more
        return [] if begins[0] == "0" and len(begins) + more > 1 else [(first, min(MOST, first + 10**more - 1))]
    least = 10 ** (more - 1) if more > 1 else 0
    below = [(1 - 10 ** (more - 1), -(10 ** (more - 2)))] if more > 1 else []  # whose first character is the sign
    return [(least, min(MOST, 10**more - 1)), *((max(low, LEAST), high) for low, high in below)]


def _size(to: InMilvus, token: str, value: str) -> str:
    wanted, known = says.size(value), "width > 0 and height > 0"
    if wanted.shape:
        return f"{known} and width {_SIGNS.get(wanted.shape, wanted.shape)} height"
    if wanted.ratio:
        w, h = wanted.ratio
        if not w or not h:
            return NONE if w or h else known
        least = math.gcd(w, h)
        return f'aspect == "{w // least}:{h // least}"'
    sides = {"width": wanted.width, "height": wanted.height}
    return " and ".join([known, *(f"{name} == {side}" for name, side in sides.items() if side is not None)])


def _flag(to: InMilvus, token: str, value: str) -> str:
    if token in HIDEABLE and value.lower() == "any":
        return ANY
    return f"{_FIELDS.get(token, token)} == {str(says.truth(token, value)).lower()}"


def _type(to: InMilvus, token: str, value: str) -> str:
    return ANY if says.is_image(value) else NONE


def _date(to: InMilvus, token: str, value: str) -> str:
    first, end = says.days(value)
    ends = [f'created >= "{first}"' if first else 'created != ""', *([f'created < "{end}"'] if end else [])]
    return " and ".join(ends)


_READERS: dict[str, Callable[[InMilvus, str, str], str]] = {
    "": _text, "negative": _text, "model": _model, "model_or_hash": _model_or_hash, "model_hash": _whole, "sampler": _whole,
    "folder": _folder, "path": _path, "cluster": _cluster, "in_album": _in_album, "tag": _tag, "has": _has,
    "steps": _number, "cfg": _number, "aesthetic_score": _number, "rating": _number, "seed": _seed, "size": _size,
    "favorite": _flag, "nsfw": _flag, "nometa": _flag, "delete": _flag, "unavailable": _flag, "type": _type, "date": _date,
}  # fmt: skip
