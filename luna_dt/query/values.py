"""What a token's value says, whatever is asked then: pieces of a text, numbers, sizes, days."""

from __future__ import annotations

import datetime
import re
from typing import Literal, NamedTuple

from ..errors import BadQuery
from ..records import LAYERS

MAX_TEXT = 1_000  # characters of one that texts are searched for
MAX_PIECES = 20  # of a text with asterisks
#: What `has:` may name besides a layer's vectors.
_HAS = ("caption", "tag", "cluster", "map")
_NUMBER = r"\s*(-?[0-9]+(?:\.[0-9]+)?)\s*"
_ISO, _OTHER = (
    re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})"),
    re.compile(r"([0-9]{1,2})[-/.]([0-9]{1,2})[-/.]([0-9]{4})"),
)
SIGNLESS = {"seed"}  # tokens of numbers that ComfyUI has without a sign
_NAMED = 60  # characters of a query that an error repeats
_SHAPES: dict[str, Literal["<", ">", "="]] = {"portrait": "<", "landscape": ">", "square": "="}


class Size(NamedTuple):
    """How a width must compare with its height, or which it must be, None for any, or in which ratio they must stand."""

    shape: Literal["<", ">", "="] | None = None
    width: int | None = None
    height: int | None = None
    ratio: tuple[int, int] | None = None


def short(text: str) -> str:
    return text if len(text) <= _NAMED else f"{text[:_NAMED]}…"


def pieces(value: str, asterisks: bool) -> list[str]:
    """A text to search for, cut at its ``asterisks``, which are letters in a text in quotes."""
    quoted, text = value.strip().startswith('"'), value.strip().strip('"')
    if len(text) > MAX_TEXT:
        raise BadQuery(f"a text to search for has at most {MAX_TEXT:,} characters: '{short(text)}' has {len(text):,}")
    cut = text.split("*") if asterisks and not quoted else [text]
    cut = [piece for i, piece in enumerate(cut) if piece or i in (0, len(cut) - 1)]
    if len(cut) > MAX_PIECES:
        raise BadQuery(f"'{short(text)}' has more than {MAX_PIECES - 1} asterisks")
    return cut


def is_part_of_model(value: str) -> bool:
    """Whether a model's name is to have that in it, rather than to be it."""
    return "*" not in value or value.startswith('"')


def path(value: str) -> tuple[bool, bool, str]:
    """Whether a path is to begin with a text, whether to end with it, and the text."""
    for criterion, start, end in (
        ("starts with ", True, False),
        ("contains ", False, False),
        ("ends with ", False, True),
    ):
        if value.lower().startswith(criterion):
            return start, end, value[len(criterion) :]
    return True, True, value


def folder(value: str) -> str:
    return value.rstrip('\\/"') + ('"' if value.startswith('"') else "")


def had(value: str) -> str:
    """What an image is to have."""
    what = value.lower()
    kind, _, layer = what.partition(".")
    if what not in _HAS and (kind != "vectors" or layer not in LAYERS):
        every = ", ".join([*_HAS, *(f"vectors.{layer}" for layer in LAYERS)])
        raise BadQuery(f"'has: {short(value)}' is none of {every}")
    return what


def comparisons(token: str, value: str) -> list[tuple[str, int | float]] | None:
    """Signs and the numbers that stand after them, all of which must hold; None for what has no number."""
    if value.lower() == "none":
        return None
    if match := re.fullmatch(rf"(>=|<=|<>|>|<|=)?{_NUMBER}", value):
        sign = match[1] or "="
        return [(sign, _value(match[2], signless=token in SIGNLESS and sign in ("=", "<>")))]
    if match := re.fullmatch(rf"{_NUMBER}-{_NUMBER}", value):
        return [(">=", _value(match[1])), ("<=", _value(match[2]))]
    raise BadQuery(f"'{token}: {short(value)}' is not a number, a range like 20-30, a comparison like >= 6, or none")


def _value(digits: str, signless: bool = False) -> int | float:
    """``signless``: one of 64 bits may have no sign, where DT keeps it with one."""
    whole, point, _ = digits.lstrip("-").partition(".")
    whole = whole.lstrip("0") or "0"
    number = int(whole) if len(whole) <= 20 else 2**64
    if digits.startswith("-"):
        number = -number
    if signless and 2**63 <= number < 2**64:
        number -= 2**64
    if not -(2**63) <= number < 2**63:
        raise BadQuery(f"the number {short(digits)} is too large; it may have 64 bits")
    return float(digits) if point else number


def seed_digits(value: str) -> str:
    """A seed's digits, * for any more and ? for any one; "" where it is a number like another."""
    if "*" not in value and "?" not in value:
        return ""
    if not re.fullmatch(r"[0-9*?]{1,40}", value):
        raise BadQuery(f"'seed: {short(value)}' may hold digits, * and ? only, at most 40")
    return re.sub(r"\*+", "*", value)


def size(value: str) -> Size:
    if shape := _SHAPES.get(value.lower()):
        return Size(shape)
    if match := re.fullmatch(r"([0-9]{1,9}|\?)\s*x\s*([0-9]{1,9}|\?)", value.lower()):
        width, height = (None if side == "?" else int(side) for side in match.groups())
        return Size(width=width, height=height)
    if match := re.fullmatch(r"([0-9]{1,9})\s*:\s*([0-9]{1,9})", value):
        return Size(ratio=(int(match[1]), int(match[2])))
    raise BadQuery(f"'size: {short(value)}' is not like 512x768, 512x?, 16:9, portrait, landscape or square")


def truth(token: str, value: str) -> bool:
    found = {"true": True, "yes": True, "false": False, "no": False}.get(value.lower())
    if found is None:
        raise BadQuery(f"'{token}: {short(value)}' is neither true nor false")
    return found


def is_image(value: str) -> bool:
    """Whether a type is that of images, which all are: videos are in no library here."""
    if value.lower() not in ("image", "video"):
        raise BadQuery(f"'type: {short(value)}' is neither image nor video")
    return value.lower() == "image"


def days(value: str) -> tuple[str, str]:
    """The times, as texts, from which, and before which, something was made; "" where either has no end."""
    words = value.lower().split()
    if len(words) == 4 and (words[0], words[2]) in (("between", "and"), ("from", "to")):
        first, last = _day(words[1], value), _day(words[3], value)
    elif len(words) == 3 and words[1] == "-":
        first, last = _day(words[0], value), _day(words[2], value)
    elif len(words) == 2 and words[0] in ("from", "since"):
        return _day(words[1], value), ""
    elif len(words) == 2 and words[0] == "before":  # as DT's help has it: the day itself is in it
        return "", f"{_day(words[1], value)}T24"
    else:
        first = last = _day(" ".join(words), value)
    return first, f"{last}T24"  # after the day's last second


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
                f"'date: {short(value)}': '{text}' may be {year}-{month:02}-{day:02} or {year}-{day:02}-{month:02}; write it "
                "as one of these"
            )
    try:
        return datetime.date(year, month, day).isoformat()
    except ValueError:
        raise BadQuery(f"'date: {short(value)}': '{short(text)}' is not a date like 2026-01-31") from None
