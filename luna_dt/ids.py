"""Ids of images as people write them: ``12, 15-20``."""

from __future__ import annotations

import re

from .errors import BadInput

MAX_IDS = 10_000  # in one text, and in one batch


def parse_ids(text: str) -> list[int] | None:
    """Ids such as ``12, 15-20`` in their order; None for a text that is not made of numbers, so a query.

    Raises BadInput for a range that goes backwards, or for too many.
    """
    if not re.fullmatch(r"[\d\s,;-]+", text):
        return None
    ids: list[int] = []
    for part in re.split(r"[,;\s]+", re.sub(r"\s*-\s*", "-", text.strip())):
        if not part:
            continue
        match = re.fullmatch(r"(\d{1,19})(?:-(\d{1,19}))?", part)
        if not match:
            raise BadInput(f"'{part}' is no id and no range of ids such as 15-20")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= MAX_IDS:
            raise BadInput(f"the range {part} has no ids, or more than {MAX_IDS:,}")
        ids.extend(range(first, last + 1))
    return ids
