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
    for part in re.split(r"[,;\s]+", re.sub(r"(?<!\s)\s*-\s*", "-", text.strip())):
        if not part:
            continue
        match = re.fullmatch(r"(\d{1,19})(?:-(\d{1,19}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 2**63)
        if last >= 2**63:
            raise BadInput(f"'{part[:60]}' is no id and no range of ids such as 15-20")
        if last < first:
            raise BadInput(f"the range {part} has no ids; write the smaller one first")
        if len(ids) + last - first >= MAX_IDS:
            raise BadInput(f"with {part} there are more than {MAX_IDS:,} ids; name fewer at once")
        ids.extend(range(first, last + 1))
    return ids
