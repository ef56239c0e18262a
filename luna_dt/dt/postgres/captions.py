"""What taggers and captioners said of images."""

from __future__ import annotations

import functools
from collections import defaultdict

from ...records import Captions
from .columns import CAPTIONERS, LATEST, TAG, TableColumns
from .connection import Database, among


def read_tags(database: Database, columns: TableColumns, ids: list[int]) -> dict[int, list[tuple[str, str]]]:
    """For each image its (tag, source), most certain first."""
    found: dict[int, list[tuple[str, str]]] = defaultdict(list)
    if columns.of("image_tags"):
        for image_id, tag, source in database.rows(
            f"SELECT image_id::bigint, {TAG}, COALESCE(source::text, '') FROM image_tags "
            f"WHERE image_id {among(ids)} AND {TAG} <> '' ORDER BY image_id, confidence DESC NULLS LAST, {TAG}"
        ):
            found[image_id].append((tag, source))
    return found


def read_captions(database: Database, columns: TableColumns, ids: list[int]) -> list[Captions]:
    """For each id its Captions, in the ids' order."""
    tags = read_tags(database, columns, ids)
    latest: dict[int, dict[str, str]] = defaultdict(dict)
    if columns.of("image_captions"):
        for image_id, source, caption in database.rows(LATEST.format(f"WHERE image_id {among(ids)} ")):
            latest[image_id][source] = caption
    made = []
    for image_id in ids:
        own, texts = tags[image_id], latest[image_id]
        every = list(dict.fromkeys(tag for tag, _ in own))
        best = next((texts[source] for source in CAPTIONERS if texts.get(source)), "")
        made.append(
            Captions(
                image_id,
                ", ".join(tag for tag, source in own if _by(source, "wd")),
                ", ".join(tag for tag, source in own if _by(source, "joytag")),
                texts.get("joycaption", ""),
                ", ".join([*every, best] if best else every),
                tuple(every),
            )
        )
    return made


@functools.lru_cache(1000)
def _by(source: str, maker: str) -> bool:
    """Whether a tag's source, such as ``joytag+wdv3large``, names that maker."""
    return any(part.startswith(maker) for part in source.lower().split("+"))
