"""What a batch is asked for beside its ids (ids.py): the seeds and prompts of its items, as people write them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from ..errors import BadInput


def parse_seeds(text: str, count: int) -> list[int | None]:
    """One seed an item: "" leaves the workflow's, ``random`` draws each, else one number, or as many as items."""
    text = text.strip()
    if not text:
        return [None] * count
    if text.lower() == "random":
        return [random.getrandbits(63) for _ in range(count)]
    parts = [part for part in re.split(r"[,;\s]+", text) if part]
    if not all(re.fullmatch("[0-9]{1,20}", part) and int(part) < 2**64 for part in parts):
        raise BadInput(f"seeds are numbers from 0 to 2^64-1, or 'random', not '{text[:60]}'")
    return _for_each("seeds", [int(part) for part in parts], count)


def parse_prompts(text: str, count: int) -> list[str | None]:
    """One prompt an item, a line each: none leaves the workflow's; else one, or as many as items."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _for_each("prompts", lines, count) if lines else [None] * count


def _for_each(what: str, given: Sequence[Any], count: int) -> list[Any]:
    if len(given) not in (1, count):
        raise BadInput(f"there are {len(given)} {what} for {count} items; give one for all, or one for each")
    return [given[0]] * count if len(given) == 1 else list(given)
