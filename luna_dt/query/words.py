"""A query taken apart: terms of the prompt, and tokens with their values, each with the place where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import BadQuery

#: Every token by all names it has; the first is its own.  ``cluster`` is what albums are, and faces' groups.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "negative": ("negative", "negative prompt", "negative_prompt"),
    "steps": ("steps",),
    "sampler": ("sampler",),
    "cfg": ("cfg", "cfg_scale", "cfg scale"),
    "seed": ("seed",),
    "size": ("size",),
    "model": ("model",),
    "model_hash": ("model_hash", "model hash"),
    "model_or_hash": ("model_or_hash", "model or hash"),
    "aesthetic_score": ("aesthetic_score", "aesthetic score"),
    "rating": ("rating",),
    "favorite": ("favorite", "fave"),
    "nsfw": ("nsfw",),
    "nometa": ("nometa", "nometadata"),
    "delete": ("delete", "for deletion", "to delete"),
    "unavailable": ("unavailable",),
    "type": ("type",),
    "cluster": ("cluster", "album"),
    "in_album": ("in_album", "in_cluster"),
    "tag": ("tag",),
    "has": ("has",),
    "folder": ("folder",),
    "path": ("path",),
    "date": ("date",),
    "saved": ("saved",),
}
#: Those that DT knows and no library here can answer.
REFUSED = ("hypernet", "hypernet strength", "faces", "face_count", "has_faces", "character", "char")
TOKENS = tuple(SPELLINGS)
FLAGS = ("favorite", "nsfw", "nometa", "delete", "unavailable", "in_album")  # which mean true if nothing follows
#: The flags that may hide an image unless a query asks for them, and those that do where no setting says otherwise.
HIDEABLE = ("delete", "unavailable", "nsfw")
HIDING: tuple[str, ...] = HIDEABLE[:2]
SAVED = "saved"  # the token of what DT has saved
MAX_LENGTH = 5_000  # characters of a query
MAX_TERMS = 200  # of a query, with alternatives
_OWN = {spelling: token for token, spellings in SPELLINGS.items() for spelling in spellings} | dict.fromkeys(
    REFUSED, ""
)
_ANY = "|".join(sorted(_OWN, key=len, reverse=True))
_TOKEN = re.compile(rf"(?<![\w:])((?ai:{_ANY})):")  # not the letters that IGNORECASE takes for s and i
_QUOTED = re.compile(r'"[^"]*"')
_NOT = re.compile(r"(?<!\w)(?ai:not)\s+")
_NOT_BEFORE = re.compile(r"(?<!\w)(?ai:not)\s*\Z")


@dataclass(frozen=True)
class Part:
    """A condition: ``token`` ("" for a term of the prompt), its ``values`` (of which one must hold; of ``negative`` all),
    whether it must not hold, and the place ``at`` which it begins."""

    token: str
    values: tuple[str, ...]
    negated: bool
    at: int


def parts(text: str) -> list[Part]:
    """A query's conditions, all of which must hold, in their order; raises BadQuery."""
    must_be_sayable(text)
    unquoted = _blanked(text)  # what is quoted is text, whatever it says
    marks = list(_TOKEN.finditer(unquoted))
    begins, ends, negations = [0], [], [False]
    for mark in marks:
        negation = _NOT_BEFORE.search(unquoted, begins[-1], mark.start())
        ends.append(negation.start() if negation else mark.start())
        negations.append(negation is not None)
        begins.append(mark.end())
    ends.append(len(text))
    found = list(_terms("", text, unquoted, begins[0], ends[0]))
    for mark, begin, end, negated in zip(marks, begins[1:], ends[1:], negations[1:], strict=True):
        name = mark[1].lower()
        own = _OWN[name]
        if not own:
            raise BadQuery(
                f"'{name}:' is DT's, and nothing here can answer it; leave it out of the query", mark.start(), text
            )
        if own == "negative":
            values = tuple(_terms(own, text, unquoted, begin, end))
            found += values if not negated else [_none_of(values, mark.start(), text)]
        else:
            found.append(Part(own, _alternatives(own, text, unquoted, begin, end), negated, mark.start()))
        if not found or found[-1].at < mark.start() or not found[-1].values:
            raise BadQuery(f"'{name}:' has no value", mark.start(), text)
    count = sum(len(part.values) for part in found)
    if count > MAX_TERMS:
        raise BadQuery(
            f"a query has at most {MAX_TERMS} terms and alternatives, this one has {count:,}; leave some out",
            query=text,
        )
    return found


def must_be_sayable(text: str) -> None:
    """Raises BadQuery for what can be asked of no DT, whatever it knows."""
    if len(text) > MAX_LENGTH:
        raise BadQuery(
            f"a query has at most {MAX_LENGTH:,} characters, this one has {len(text):,}; leave some out", query=text
        )
    if odd := re.search("[\0\ud800-\udfff]", text):
        raise BadQuery(
            "a query holds neither NUL nor half a surrogate pair; leave these characters out", odd.start(), text
        )


def terms(token: str, text: str) -> tuple[Part, ...]:
    """A text's terms, between its commas, whatever else they look like."""
    return tuple(_terms(token, text, _blanked(text), 0, len(text)))


def _blanked(text: str) -> str:
    """A text with what is in quotes made NUL, which no query holds and which is neither a letter nor a space."""
    return _QUOTED.sub(lambda m: "\0" * len(m[0]), text)


def _none_of(values: tuple[Part, ...], at: int, text: str) -> Part:
    if len(values) == 1 and not values[0].negated:
        return Part(values[0].token, values[0].values, True, values[0].at)
    raise BadQuery("'not negative:' takes one term; write 'not' before each of several", at, text)


def _terms(token: str, text: str, unquoted: str, begin: int, end: int) -> Iterator[Part]:
    """What is between commas."""
    for cut in _cut(unquoted, ",", begin, end):
        start, stop = _stripped(text, *cut)
        negation = _NOT.match(unquoted, start, stop)
        start = negation.end() if negation else start
        if start < stop:
            yield Part(token, (text[start:stop],), negation is not None, start)


def _alternatives(token: str, text: str, unquoted: str, begin: int, end: int) -> tuple[str, ...]:
    begin, end = _stripped(text, begin, end, " \t\r\n,")
    found = [text[slice(*_stripped(text, *cut))] for cut in _cut(unquoted, "|", begin, end)]
    if token in ("model", "model_or_hash"):  # DT's way: "one, another"
        found = [each for part in found for each in (_either(part.strip('"')) if part[:1] == '"' else [part])]
    values = tuple(each for part in found if (each := part.strip()))
    return values or (("true",) if token in FLAGS and begin == end else ())


def _either(names: str) -> list[str]:
    """What stands between commas, each in quotes; without a comma, the text as it stands."""
    if "," not in names:
        return [f'"{names}"']
    return [f'"{name}"' for name in filter(None, map(str.strip, names.split(",")))] or ['""']


def _cut(unquoted: str, at: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
    while (stop := unquoted.find(at, begin, end)) >= 0:
        yield begin, stop
        begin = stop + 1
    yield begin, end


def _stripped(text: str, begin: int, end: int, spaces: str | None = None) -> tuple[int, int]:
    """The same without the white space at both ends."""
    kept = text[begin:end].lstrip(spaces)
    return end - len(kept), end - len(kept) + len(kept.rstrip(spaces))
