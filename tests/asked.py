"""Queries made by hypothesis, each with what it means in plain Python: the language's oracle, which shares no code with it.

A query is made of conditions, and each is made together with its meaning, so that nothing here reads the language; where a
condition cannot be read, or is not known where it is asked, the query must be refused at that condition's place.
"""

from __future__ import annotations

import datetime
import fnmatch
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from hypothesis import strategies as st

from luna_dt import ImageRecord
from tests import untidy


@dataclass(frozen=True)
class Seen:
    """An image as a catalog has it: with its tags, whether it has a caption, and the clusters it is in."""

    record: ImageRecord
    captioned: bool
    clusters: tuple[tuple[int, str], ...]


Holds = Callable[[Seen], bool]


@dataclass(frozen=True)
class Condition:
    """A condition as it is written, and whether it ``holds``; ``flags`` are those it asks for.  It ``needs`` what not every
    source has, or cannot be read at all (``wrong``: "early" where that is told before anything is looked up)."""

    text: str
    holds: Holds = field(default=lambda _: True, repr=False)
    flags: frozenset[str] = frozenset()
    needs: str = ""
    wrong: str = ""
    indent: int = 0  # of the place that is told, behind a "not"


@dataclass(frozen=True)
class Query:
    conditions: tuple[Condition, ...]
    separators: tuple[str, ...]

    def __repr__(self) -> str:
        return ascii(self.text)

    @property
    def text(self) -> str:
        return "".join(s + each.text for s, each in zip(self.separators, self.conditions, strict=True))

    def refused_at(self, knows: frozenset[str]) -> int | None:
        """The character where a source that knows so much must refuse it; None where it must be answered."""
        at, places = 0, list[tuple[bool, int]]()
        for separator, each in zip(self.separators, self.conditions, strict=True):
            at += len(separator)
            if each.wrong or (each.needs and each.needs not in knows):
                places.append((each.wrong != "early", at + each.indent))
            at += len(each.text)
        return min(places)[1] if places else None

    def fits(self, seen: Seen, hide: Iterable[str]) -> bool:
        asked = frozenset[str]().union(*(each.flags for each in self.conditions))
        hidden = any(getattr(seen.record, _FLAG.get(flag, flag)) for flag in hide if flag not in asked)
        return not hidden and all(each.holds(seen) for each in self.conditions)


# -- when a text is found ---------------------------------------------------------------------------------


@lru_cache(100_000)
def folded(text: str) -> str:
    plain = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
    return plain.replace("i\u0307", "i").replace("\u0131", "i")


def ends(piece: str, text: str, start: int, last: bool = False) -> list[int]:
    """Where a piece that begins at a place of a text may end; the ``last`` of a whole text ends with it."""
    sought, found = folded(piece), list[int]()
    for end in range(start, len(text) + 1):
        here = folded(text[start:end])
        if len(here) > len(sought) + 3:
            break
        if here == sought and (end == len(text) if last else not _goes_on(sought, text[end : end + 1])):
            found.append(end)
    return found


def _goes_on(sought: str, after: str) -> bool:
    """Whether the next character belongs to the last letter: ``e`` is not found in an ``é`` of two characters."""
    letter = re.search(r"(?s).(?:[\u0300-\u036f])*\Z", sought)
    accented = unicodedata.normalize("NFC", (letter[0] if letter else "") + folded(after))
    return bool(sought and after and unicodedata.combining(after)) and len(accented) == 1


@lru_cache(100_000)
def within(piece: str, text: str) -> bool:
    return any(ends(piece, text, start) for start in range(len(text) + 1))


@lru_cache(100_000)
def is_whole(pieces: tuple[str, ...], text: str) -> bool:
    """Whether the pieces follow each other in all of a text, with anything of one line between two."""
    places = {0}
    for number, piece in enumerate(pieces):
        if number:
            lines = ((at, (text.find("\n", at) + 1 or len(text) + 1)) for at in places)
            places = {start for at, line in lines for start in range(at, line)}
        last = number == len(pieces) - 1
        places = {end for start in places for end in ends(piece, text, start, last)}
    return bool(places)


# -- texts --------------------------------------------------------------------------------------------------

POOL = (*untidy.PHRASES, "blurry, lowres", "a cat", "red\u0302")
_PLAIN = "ab xyz'éßςİıﬁ_%\\.-#()[]{}+^$猫🦊\u0130\u1ec7"
_CHANGES: list[Callable[[str], str]] = [
    str, str, str.upper, str.lower, str.casefold, lambda text: unicodedata.normalize("NFC", text),
    lambda text: unicodedata.normalize("NFD", text),
]  # fmt: skip


@st.composite
def parts_of(draw: st.DrawFn, pool: tuple[str, ...], whole: bool = False) -> str:
    """A part of one of these texts, written otherwise, or some letters; it begins with no accent and holds no quotes."""
    if draw(st.integers(0, 5)) == 0:
        text = draw(st.text(_PLAIN, min_size=1, max_size=6) | st.text(max_size=5))
    else:
        text = draw(st.sampled_from(pool))[:60]
        if not whole:
            start = draw(st.integers(0, max(0, len(text) - 1)))
            text = text[start : start + draw(st.integers(1, 12))]
        text = draw(st.sampled_from(_CHANGES))(text)
    text = re.sub('["\0\ud800-\udfff]', "", text)
    while text and unicodedata.combining(text[0]):
        text = text[1:]
    return text


def bare(text: str, more: str = "") -> bool:
    """Whether a text may stand without quotes, where besides some ``more`` signs would be read."""
    odd = re.search(rf"[,:|*{re.escape(more)}]", text) or re.match(r"(?i)not\s", text)
    return bool(text) and text == text.strip() and not odd and not re.search(r"(?i)(?<!\w)(not|to)\Z", text)


def written(text: str, quoted: bool) -> str:
    return f'"{text}"' if quoted or not bare(text) else text


#: A text that is looked for within others, and as it is written.
sought = st.tuples(parts_of(POOL), st.booleans()).map(lambda made: (made[0], written(*made)))


@st.composite
def patterns(draw: st.DrawFn, pool: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """A text that another must be, with asterisks or without, as its pieces, and as it is written."""
    if draw(st.booleans()):
        text = draw(parts_of(pool, whole=draw(st.booleans())))
        return (text,), written(text, draw(st.booleans()))
    pieces = [text for text in draw(st.lists(parts_of(pool), max_size=3)) if bare(text)]
    start, end = draw(st.sampled_from([("*", ""), ("", "*"), ("*", "*"), ("**", "*")]))
    text = start + draw(st.sampled_from(["*", "**"])).join(pieces) + end
    return tuple(re.split(r"\*+", text)), text


# -- conditions ---------------------------------------------------------------------------------------------

_FLAG = {"delete": "for_deletion", "nometa": "no_metadata"}
_HIDEABLE = ("delete", "unavailable", "nsfw")


def _any(holds: list[Holds]) -> Holds:
    return lambda seen: any(each(seen) for each in holds)


def _not(holds: list[Holds]) -> Holds:
    return lambda seen: not any(each(seen) for each in holds)


def _text_of(name: str, piece: str) -> Holds:
    return lambda seen: within(piece, getattr(seen.record, name))


def _whole_of(name: str, pieces: tuple[str, ...]) -> Holds:
    return lambda seen: is_whole(pieces, getattr(seen.record, name))


@st.composite
def terms(draw: st.DrawFn) -> Condition:
    piece, text = draw(sought)
    return negated(draw, Condition(text, _text_of("prompt", piece)), indented=True)


def negated(draw: st.DrawFn, condition: Condition, indented: bool = False) -> Condition:
    """Perhaps what must not be so."""
    no = draw(st.sampled_from(["", "", "", "not ", "NOT  ", "Not\n"]))
    if not no:
        return condition
    return Condition(
        no + condition.text, _not([condition.holds]), condition.flags, condition.needs, condition.wrong, len(no)
    )


@st.composite
def negative(draw: st.DrawFn) -> Condition:
    name = draw(st.sampled_from(["negative", "Negative Prompt", "negative_prompt"]))
    if draw(st.booleans()):
        piece, text = draw(sought)
        return negated(draw, Condition(f"{name}: {text}", _text_of("negative_prompt", piece)))
    made = draw(st.lists(st.tuples(sought, st.booleans()), min_size=1, max_size=3))
    holds = [(_not if no else _any)([_text_of("negative_prompt", piece)]) for (piece, _), no in made]
    text = ", ".join("not " * no + text for (_, text), no in made)
    return Condition(f"{name}:{text}", lambda seen: all(each(seen) for each in holds))


Value = tuple[str, Holds]


@st.composite
def token(draw: st.DrawFn, names: tuple[str, ...], values: st.SearchStrategy[Value], flag: str = "") -> Condition:
    """``name: value | value``, perhaps with ``not`` before it."""
    made = draw(st.lists(values, min_size=1, max_size=3))
    name = draw(st.sampled_from(names))
    name = draw(st.sampled_from([name, name.upper(), name.title()]))
    text = (
        name + draw(st.sampled_from([":", ": ", ":  "])) + draw(st.sampled_from(["|", " | "])).join(t for t, _ in made)
    )
    flags = frozenset([flag] if flag else [])
    return negated(draw, Condition(text, _any([holds for _, holds in made]), flags))


def whole(pool: tuple[str, ...], *fields: str) -> st.SearchStrategy[Value]:
    return patterns(pool).map(lambda made: (made[1], _any([_whole_of(each, made[0]) for each in fields])))


_MODELS = ("pony, v6", "dream", "odd name", "")
_HASHES, _SAMPLERS = ("ab12", ""), ("Euler a", "")


@st.composite
def model(draw: st.DrawFn, with_hash: bool) -> Value:
    pieces, text = draw(patterns(_MODELS))
    quoted = text.startswith('"')
    if quoted and "," in text:  # which stands between two there
        either = [part for part in (each.strip() for each in text.strip('"').split(",")) if part] or [""]
        holds = [_text_of("model", part) for part in either]
        holds += [_whole_of("model_hash", (part,)) for part in either] if with_hash else []
        return text, _any(holds)
    holds = [_whole_of("model", pieces) if len(pieces) > 1 else _text_of("model", pieces[0])]
    return text, _any(holds + [_whole_of("model_hash", pieces)] * with_hash)


_PATHS = tuple(f"{folder}{i:05} {letter}.png" for i, folder in enumerate(untidy.FOLDERS, 1) for letter in "éx")


@st.composite
def path(draw: st.DrawFn) -> Value:
    if draw(st.booleans()):
        pieces, text = draw(patterns(_PATHS))
        return text, _whole_of("path", pieces)
    piece = draw(parts_of(_PATHS).filter(bool))
    text = written(piece, draw(st.booleans()))

    def starts(seen: Seen) -> bool:
        return bool(ends(piece, seen.record.path, 0))

    def stops(seen: Seen) -> bool:
        return any(ends(piece, seen.record.path, at, True) for at in range(len(seen.record.path) + 1))

    ways = [("contains", _text_of("path", piece)), ("Starts With", starts), ("ends with", stops)]
    criterion, holds = draw(st.sampled_from(ways))
    return f"{criterion} {text}", holds


@st.composite
def folder(draw: st.DrawFn) -> Value:
    pieces, text = draw(patterns((*(each[:-1] for each in untidy.FOLDERS), "Bilder", "süb")))
    pieces = (*pieces[:-1], pieces[-1].rstrip("\\/"))
    end = draw(st.sampled_from(["", "\\", "/"])) if bare(text) else ""

    def holds(seen: Seen) -> bool:
        lies_in = re.match(r"(?s)(.*)[\\/]", seen.record.path)
        return lies_in is not None and is_whole(pieces, lies_in[1])

    return text + end, holds


@st.composite
def tag(draw: st.DrawFn) -> Value:
    pieces, text = draw(patterns(untidy.TAGS))
    return text, lambda seen: any(is_whole(pieces, each) for each in seen.record.tags)


@st.composite
def cluster(draw: st.DrawFn) -> Value:
    if draw(st.booleans()):
        number = draw(st.integers(0, 12))
        return str(number), lambda seen: any(each == number for each, _ in seen.clusters)
    pieces, text = draw(patterns((*(name or "" for name in untidy.CLUSTERS.values()), "süb/tief")))
    if re.fullmatch("[0-9]+", text):
        text = f'"{text}"'
    return text, lambda seen: any(is_whole(pieces, name) for _, name in seen.clusters)


# -- numbers, sizes, days, flags ----------------------------------------------------------------------------

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "": lambda a, b: a == b, "=": lambda a, b: a == b, "<": lambda a, b: a < b, ">": lambda a, b: a > b, "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b, "<>": lambda a, b: a != b,
}  # fmt: skip
_WHOLE = st.sampled_from(
    [0, 1, 5, 6, 7, 10, 20, 28, 2**31 - 1, 2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), -1]
) | st.integers(-20, 50)
_WRITTEN = _WHOLE.map(str) | st.sampled_from(
    ["6.5", "7.0", "-0.0", "5.25", "20.50", "28.000", "0007", "6.49999999999999999", "9007199254740992.0"]
)


def _value(text: str) -> float:
    return float(text) if "." in text else int(text)


@st.composite
def number(draw: st.DrawFn, name: str) -> Value:
    form = draw(st.sampled_from(["one", "one", "range", "none"]))
    if form == "none":
        return draw(st.sampled_from(["none", "NONE"])), lambda seen: getattr(seen.record, name) is None
    if form == "range":
        first, last = draw(_WRITTEN), draw(_WRITTEN)
        low, high = _value(first), _value(last)
        text = f"{first}{draw(st.sampled_from(['-', ' - ']))}{last}"
        return text, lambda seen: (n := getattr(seen.record, name)) is not None and low <= n <= high
    sign, text = draw(st.sampled_from(sorted(_COMPARE))), draw(_WRITTEN)
    compare, value = _COMPARE[sign], _value(text)
    spaces = draw(st.sampled_from(["", " "]))
    return sign + spaces + text, lambda seen: (n := getattr(seen.record, name)) is not None and compare(n, value)


@st.composite
def seed(draw: st.DrawFn) -> Value:
    if draw(st.booleans()):
        return draw(number("seed"))
    text = draw(st.text("0123456789*?", min_size=1, max_size=8).filter(lambda text: "*" in text or "?" in text))
    return text, lambda seen: fnmatch.fnmatchcase(str(seen.record.seed), text)


@st.composite
def size(draw: st.DrawFn) -> Value:
    sides = st.sampled_from([0, 1, 16, 32, 48, 64, 512, 832, 1024, 1216])
    width, height = draw(sides), draw(sides)
    any_width, any_height = draw(st.booleans()), draw(st.booleans())
    text, fits = draw(
        st.sampled_from(
            [
                ("portrait", lambda w, h: w < h), ("Landscape", lambda w, h: w > h), ("square", lambda w, h: w == h),
                (f"{width}:{height}", lambda w, h: w * height == h * width),
                (f"{'?' if any_width else width}x{'?' if any_height else height}",
                 lambda w, h: (any_width or w == width) and (any_height or h == height)),
                (f"{width} X {height}", lambda w, h: (w, h) == (width, height)),
            ]
        )
    )  # fmt: skip
    return (
        text,
        lambda seen: seen.record.width > 0 and seen.record.height > 0 and fits(seen.record.width, seen.record.height),
    )


_DAYS = st.sampled_from(
    ["2024-02-28", "2024-02-29", "2024-03-01", "2024-03-02", "2026-01-15", "0001-01-01", "9999-12-31"]
)


@st.composite
def day(draw: st.DrawFn) -> tuple[str, str]:
    """A day, in one of the ways to write it that cannot be mistaken."""
    if draw(st.integers(0, 5)) == 0:
        back = draw(st.booleans())
        return ("yesterday" if back else "Today"), (datetime.date.today() - datetime.timedelta(days=back)).isoformat()
    iso = draw(_DAYS)
    year, month, number = iso.split("-")
    ways = [iso]
    if int(number) > 12 or number == month:
        ways += [f"{number}-{month}-{year}", f"{month}/{number}/{year}", f"{int(number)}.{int(month)}.{year}"]
    return draw(st.sampled_from(ways)), iso


@st.composite
def date(draw: st.DrawFn) -> Value:
    (text, first), (other, last) = draw(day()), draw(day())
    form, first_day, last_day = draw(
        st.sampled_from(
            [
                (text, first, first), (f"since {text}", first, "9"), (f"FROM  {text}", first, "9"), (f"before {text}", "0", first),
                (f"between {text} and {other}", first, last), (f"from {text} TO {other}", first, last), (f"{text} - {other}", first, last),
            ]
        )
    )  # fmt: skip
    return (
        form,
        lambda seen: (
            bool(seen.record.created)
            and first_day <= seen.record.created[:10]
            and (last_day == "9" or seen.record.created[:10] <= last_day)
        ),
    )


@st.composite
def flag(draw: st.DrawFn) -> Condition:
    own, names = draw(
        st.sampled_from(
            [
                ("favorite", ("favorite", "fave")), ("nsfw", ("nsfw",)), ("nometa", ("nometa", "nometadata")),
                ("delete", ("delete", "for deletion", "to delete")), ("unavailable", ("unavailable",)),
                ("in_album", ("in_album", "in_cluster")),
            ]
        )
    )  # fmt: skip

    def truth(seen: Seen) -> bool:
        return bool(seen.clusters) if own == "in_album" else getattr(seen.record, _FLAG.get(own, own))

    if draw(st.booleans()):
        flags = frozenset([own] if own in _HIDEABLE else [])
        return negated(draw, Condition(f"{draw(st.sampled_from(names))}:", truth, flags))
    values: list[Value] = [(word, truth) for word in ("true", "YES")] + [
        (word, lambda seen: not truth(seen)) for word in ("false", "no")
    ]
    values += [("any", lambda _: True)] if own in _HIDEABLE else []
    return draw(token(names, st.sampled_from(values), own if own in _HIDEABLE else ""))


HAS: dict[str, Holds] = {
    "caption": lambda seen: seen.captioned, "tag": lambda seen: bool(seen.record.tags), "Cluster": lambda seen: bool(seen.clusters),
}  # fmt: skip
#: What stock DT has saved: what it writes down, and what that means.
SAVED: dict[str, tuple[str, Holds, frozenset[str]]] = {
    "rated 100%": ("rating: > 4", lambda seen: (seen.record.rating or 0) > 4, frozenset()),
    "Größe": ("not size: portrait|square", lambda seen: not 0 < seen.record.width <= seen.record.height, frozenset()),
    "gone": ("delete:", lambda seen: seen.record.for_deletion, frozenset(["delete"])),
}


@st.composite
def saved(draw: st.DrawFn) -> Condition:
    names = draw(st.lists(st.sampled_from(sorted(SAVED)), min_size=1, max_size=2))
    values = "|".join(draw(st.sampled_from([f'"{name}"', name.upper()])) for name in names)
    holds, flags = _any([SAVED[name][1] for name in names]), frozenset[str]().union(*(SAVED[name][2] for name in names))
    return negated(draw, Condition(f"saved: {values}", holds, flags, needs="saved"))


@st.composite
def elsewhere(draw: st.DrawFn) -> Condition:
    """What only a library that was synced can tell, which is that nothing here has any."""
    what = draw(st.sampled_from(["map", "vectors.visual", "Vectors.Style"]))
    return negated(draw, Condition(f"has: {what}", lambda _: False, needs="synced"))


@st.composite
def wrong(draw: st.DrawFn) -> Condition:
    """What cannot be read."""
    early, text = draw(
        st.sampled_from(
            [
                *((True, text) for text in ("hypernet: x", "faces: 2+", "char: Luna", "hypernet strength: 1", "steps:", "steps: |", "tag:  ",
                                            "negative:", "path: ,", "not negative: a, b")),
                *((False, text) for text in (
                    "steps: many", "rating: 5..6", "cfg: 7,5", "size: big", "size: 12", "seed: 1x*", f"seed: {'1' * 41}*", "date: 03-04-2026",
                    "date: 2026-02-30", "date: soon", "date: between today", "has: wings", "has: vectors.smell", "type: song", "favorite: any",
                    "nsfw: perhaps", "steps: 9223372036854775808", f"sampler: {'x' * 1001}", f"tag: {'a*' * 20}", "rating: > none", "seed: ٣")),
            ]
        )
    )  # fmt: skip
    no = "" if text.startswith("not ") else draw(st.sampled_from(["", "not "]))
    return Condition(no + text, wrong="early" if early else "late", indent=4 if no or text.startswith("not ") else 0)


conditions = st.one_of(
    negative(),
    token(("sampler",), whole(_SAMPLERS, "sampler")), token(("model_hash", "model hash"), whole(_HASHES, "model_hash")),
    token(("model",), model(with_hash=False)), token(("model_or_hash", "model or hash"), model(with_hash=True)),
    token(("path",), path()), token(("folder",), folder()), token(("tag",), tag()), token(("tag",), tag()),
    token(("cluster", "album"), cluster()), token(("cluster", "album"), cluster()),
    token(("steps",), number("steps")), token(("cfg", "cfg_scale", "cfg scale"), number("cfg")),
    token(("aesthetic_score", "aesthetic score"), number("aesthetic_score")), token(("rating",), number("rating")),
    token(("seed",), seed()), token(("size",), size()), token(("date",), date()), flag(), flag(),
    token(("has",), st.sampled_from([*HAS.items()])),
    token(("type",), st.sampled_from([("image", lambda _: True), ("Video", lambda _: False)])),
    saved(), elsewhere(),
)  # fmt: skip


@st.composite
def queries(draw: st.DrawFn) -> Query:
    """Texts, then tokens, of which one may be wrong."""
    texts = draw(st.lists(terms(), max_size=3))
    tokens = draw(st.lists(conditions, min_size=0 if texts else 1, max_size=3))
    if draw(st.integers(0, 9)) == 0:
        tokens.insert(draw(st.integers(0, len(tokens))), draw(wrong()))
    separators = [draw(st.sampled_from(["", " "]))] + [", "] * (len(texts) - 1)
    separators = separators[: len(texts)] + [draw(st.sampled_from([" ", "  ", ", ", "\n"])) for _ in tokens]
    return Query((*texts, *tokens), tuple(separators))
