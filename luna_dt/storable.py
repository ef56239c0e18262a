"""Which of DT's rows can be kept here: one that cannot is set aside with the reason, and stops no other.

A reason speaks of no value, so that rows with the same fault are counted as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from operator import attrgetter
from typing import Any, TypeVar, cast

import numpy as np

from .errors import BadAnswer
from .records import Batch, Captions, Cluster, ImageRecord, Member

LARGEST = 2**63 - 1  # SQLite's largest whole number, and NumPy's
Record = TypeVar("Record", ImageRecord, Captions, Cluster)


def checked(record: Record) -> Record:
    """A record as it can be kept, with whole numbers as int and others as float; raises BadAnswer, saying why it
    cannot be."""
    changed = {}
    for name, read in _FIELDS[type(record)].items():
        value = getattr(record, name)
        good = read(name, value)
        if good is not value:
            changed[name] = good
    return replace(record, **changed) if changed else record


def sifted(batch: Batch) -> Batch:
    """A batch without the records, and members of clusters, that cannot be kept; vectors pass as they are."""
    if isinstance(batch.rows, np.ndarray) or _all_sound(batch.rows):
        return batch
    kept: list[Any] = []
    at: list[int] = []
    aside = dict(batch.aside)
    for i, (record, row) in enumerate(zip(batch.rows, batch.ids.tolist(), strict=True)):
        try:
            found: Any = checked(cast("Any", record))
        except BadAnswer as error:
            aside[row] = str(error)
            continue
        if isinstance(found, Cluster):
            found, reason = _with_sound_members(found)
            if reason:
                aside[row] = reason
        kept.append(found)
        at.append(i)
    return Batch(batch.ids[at], batch.digests[at], kept, aside)


def each(read: Callable[[Any], Record], values: Iterable[Any]) -> list[Record]:
    """What can be read and kept of a list; the rest is left out, as sync leaves it out."""
    found = []
    for value in values:
        try:
            found.append(checked(read(value)))
        except BadAnswer:
            continue
    return found


def _all_sound(records: Sequence[Any]) -> bool:
    """Whether records can be kept just as they are: asked a field at a time, which is ten times as quick."""
    kinds = set(map(type, records))
    if len(kinds) != 1 or not kinds <= {ImageRecord, Captions}:
        return False
    return all(_SOUND[read](list(map(attrgetter(name), records))) for name, read in _FIELDS[kinds.pop()].items())


def _whole_numbers(values: list[Any], least: int = -LARGEST - 1) -> bool:
    return set(map(type, values)) <= {int} and (not values or (least <= min(values) and max(values) <= LARGEST))


def _reals(values: list[Any]) -> bool:
    return set(map(type, values)) <= {float} and all(map(math.isfinite, values))


def _texts(values: list[Any]) -> bool:
    if not set(map(type, values)) <= {str}:
        return False
    try:
        "".join(values).encode()
    except UnicodeError:
        return False
    return True


def _lines(values: list[Any]) -> bool:
    return _texts(values) and all(values) and not any("\n" in value for value in values)


def _known(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _with_sound_members(cluster: Cluster) -> tuple[Cluster, str]:
    """A cluster with the members that can be kept, and why others cannot."""
    kept, reason = [], ""
    for member in cluster.members:
        try:
            kept.append(Member(_whole("image", member.image_id), _real("confidence", member.confidence)))
        except BadAnswer as error:
            reason = f"a member is left out: {error}"
    return replace(cluster, members=tuple(kept)), reason


def _whole(name: str, value: Any) -> int:
    whole = value
    if isinstance(value, (float, Decimal)) and math.isfinite(value) and value == int(value):
        whole = int(value)
    if type(whole) is not int or not -LARGEST - 1 <= whole <= LARGEST:
        raise BadAnswer(f"its {name} is no whole number of 64 bits")
    return whole


def _id(name: str, value: Any) -> int:
    found = _whole(name, value)
    if found < 0:
        raise BadAnswer(f"its {name} is negative")
    return found


def _real(name: str, value: Any) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    try:
        number = float(value) if isinstance(value, (int, Decimal)) and type(value) is not bool else math.nan
    except (OverflowError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadAnswer(f"its {name} is no finite number")
    return number


def _text(name: str, value: Any) -> str:
    if type(value) is not str:
        raise BadAnswer(f"its {name} is no text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeError as error:
            raise BadAnswer(f"its {name} holds half a character") from error
    return value


def _flag(name: str, value: Any) -> bool:
    if value not in (False, True):
        raise BadAnswer(f"its {name} is neither true nor false")
    return bool(value)


def _tags(name: str, value: Any) -> tuple[str, ...]:
    if type(value) is not tuple:
        raise BadAnswer(f"its {name} are no list")
    for tag in value:
        _text("list of tags", tag)
    lines = tuple(tag.replace("\n", " ") for tag in value if tag)  # as they are kept
    return value if lines == value else lines


def _or_none(read: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else read(name, value)


_whole_or_none, _real_or_none = _or_none(_whole), _or_none(_real)
#: Whether all values of a field are just as it is read.
_SOUND: dict[Callable[[str, Any], Any], Callable[[list[Any]], bool]] = {
    _id: lambda values: _whole_numbers(values, 0),
    _whole: _whole_numbers,
    _real: _reals,
    _text: _texts,
    _flag: lambda values: set(map(type, values)) <= {bool},
    _tags: lambda values: set(map(type, values)) <= {tuple} and _lines([tag for tags in values for tag in tags]),
    _whole_or_none: lambda values: _whole_numbers(_known(values)),
    _real_or_none: lambda values: _reals(_known(values)),
}

_FIELDS: dict[type, dict[str, Callable[[str, Any], Any]]] = {
    ImageRecord: {
        "id": _id, "path": _text, "prompt": _text, "negative_prompt": _text, "width": _whole, "height": _whole,
        "model": _text, "model_hash": _text, "sampler": _text, "scheduler": _text, "steps": _whole, "cfg": _real,
        "seed": _whole, "rating": _whole_or_none, "aesthetic_score": _real_or_none, "favorite": _flag,
        "nsfw": _flag, "for_deletion": _flag, "unavailable": _flag, "no_metadata": _flag, "created": _text,
        "custom_tags": _text, "loras": _text, "tags": _tags, "hash": _text,
    },
    Captions: {
        "image_id": _id, "wd14_tags": _text, "joytag_tags": _text, "joycaption": _text, "combined": _text,
        "tags": _tags,
    },
    Cluster: {"id": _id, "name": _text, "image_count": _whole},
}  # fmt: skip
