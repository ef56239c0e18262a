"""Generations: records of what was made, from what and how."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import BadInput
from .plain import checked_json, quoted, shown

OPERATIONS = ("txt2img", "img2img", "upscale", "inpaint", "variation")


@dataclass(frozen=True, slots=True)
class Generation:
    """Something that was made: from what, how, and where it lies.

    ``source_image_id``: DT's id of the image it was made from; ``base``: the key of the generation it was
    made from, where that is not in DT yet.  What is None is unknown, and is absent from its JSON; "" is
    known to be none.  ``operation`` is one of ``OPERATIONS``.  ``output``: the path
    of the saved picture, by which it is found again once DT has scanned it.  ``batch_id``: the batch it
    belongs to.  ``key`` names the record for good: the same key sent twice is stored once.  ``id`` is the
    server's own, "" before it has one; ``created`` is ISO 8601, UTC.
    """

    operation: str = "txt2img"
    source_image_id: int | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    model: str | None = None
    seed: int | None = None
    steps: int | None = None
    cfg: float | None = None
    denoise: float | None = None
    width: int | None = None
    height: int | None = None
    base: str = ""
    output: str = ""
    batch_id: str = ""
    extra_metadata: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    id: str = ""
    created: str = ""

    def to_json(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None or name == "source_image_id"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Generation:
        """Reads the contract's fields and ours, None and absent ones as their default; raises BadInput naming what
        cannot be used."""
        known: dict[str, Any] = {}
        for name, convert in _GENERATION_FIELDS.items():
            given = value.get(name)
            if given is None:
                continue
            try:
                known[name] = convert(given)
            except (TypeError, ValueError, OverflowError) as error:
                raise BadInput(f"a generation's {name} cannot be {quoted(given)}: {shown(error, 200)}") from error
        made = cls(**known)
        if made.operation not in OPERATIONS:
            raise BadInput(f"a generation's operation is one of {', '.join(OPERATIONS)}, not {quoted(made.operation)}")
        numbers = {name: getattr(made, name) for name in ("seed", "steps", "width", "height", "cfg", "denoise")}
        for name, number in numbers.items():
            if number is not None and not 0 <= number < 2**64:  # also false for NaN
                raise BadInput(f"a generation's {name} must be 0 or more, and less than 2^64, not {quoted(number)}")
        if not re.fullmatch(r"[!-~]{0,200}", made.key):  # it travels in an HTTP header
            raise BadInput(f"a generation's key is at most 200 ASCII characters without spaces, not {quoted(made.key)}")
        if made.source_image_id is not None and not 0 < made.source_image_id < 2**63:
            raise BadInput(f"a generation's source_image_id cannot be {quoted(made.source_image_id)}")
        return made


def _mapping(value: Any) -> dict[str, Any]:
    found = dict(value)
    checked_json(found, "it")  # or it could not be stored, or would break each list that it stands in
    return found


def _id(value: Any) -> str:
    return shown(value, 200)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or int(value) != value:
        raise ValueError("not a whole number")
    return int(value)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    value.encode()  # a lone surrogate is no text either
    return value.replace("\0", "")  # which no database takes


_GENERATION_FIELDS: dict[str, Callable[[Any], Any]] = {
    "operation": _string, "source_image_id": _whole, "prompt": _string, "negative_prompt": _string,
    "model": _string, "seed": _whole, "steps": _whole, "cfg": float, "denoise": float, "width": _whole,
    "height": _whole, "base": _string, "output": _string, "batch_id": _string, "extra_metadata": _mapping,
    "key": _string, "id": _id, "created": _string,
}  # fmt: skip
