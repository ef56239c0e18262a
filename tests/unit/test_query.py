"""DT's query language, against a real SQLite library; congruence/ compares it with PostgreSQL."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from luna_dt import ImageRecord, Library
from luna_dt.errors import BadQuery
from luna_dt.records import Batch
from tests.conftest import mirror

TODAY = datetime.date.today().isoformat()
RECORDS = [
    ImageRecord(1, r"D:\Bilder\a\1.png", "a red cat, soft light", "blurry", 512, 768, "ponyXL", "ab12", "Euler a",
                "", 20, 7.0, 123, 8, 6.5, True, created="2026-01-15T10:00:00"),
    ImageRecord(2, r"D:\Bilder\b\2.png", "a dog, red collar", "text", 1920, 1080, "illustrious", "cd34", "DPM++ 2M",
                "", 30, 4.5, 12345, None, None, created=f"{TODAY}T09:00:00"),
    ImageRecord(3, "/home/x/3.png", "blue cat", "", 640, 640, "ponyXL", "", "Euler", "", 25, 7.0, 77, 3,
                nsfw=True, no_metadata=True, created="2026-02-01T00:00:00"),
    ImageRecord(4, "/home/x/4.png", "red cat deleted", "", 512, 512, for_deletion=True),
    ImageRecord(5, "/home/x/5.png", "red cat lost", "", 512, 512, unavailable=True),
]  # fmt: skip
CASES = [
    ("", [1, 2, 3]),
    ("cat", [1, 3]),
    ("CAT, red", [1]),
    ("red, a", [1, 2]),
    ('"cat, soft"', [1]),
    ('"steps: 20"', []),
    ("steps: 20", [1]),
    ("steps: 20-25", [1, 3]),
    ("sampler: euler", [3]),
    ("sampler: euler|euler a", [1, 3]),
    ("cfg: 7", [1, 3]),
    ("cfg: 4.5", [2]),
    ("seed: 123", [1]),
    ("seed: 12*", [1, 2]),
    ("seed: 12???", [2]),
    ("seed: 70-130", [1, 3]),
    ("size: 512x768", [1]),
    ("size: 16:9", [2]),
    ("size: portrait", [1]),
    ("size: landscape|square", [2, 3]),
    ("cat model: pony", [1, 3]),
    ("model_hash: CD34", [2]),
    ("aesthetic_score: >= 6", [1]),
    ("rating: > 5", [1]),
    ("rating: none", [2]),
    ("rating: none|3", [2, 3]),
    ("favorite: true", [1]),
    ("nsfw: false", [1, 2]),
    ("nometa: true", [3]),
    ("delete: true", [4]),
    ("date: between 2026-01-01 and 2026-01-31", [1]),
    ("date: from 2026-02-01", [2, 3]),
    ("date: before 2026-02-01", [1]),
    ("date: 2026-02-01", [3]),
    ("date: today", [2]),
    ("path: contains \\b\\", [2]),
    (r"path: starts with d:\bilder", [1, 2]),
    ("folder: bilder", [1, 2]),
    ("negative: blurry", [1]),
    ("cat, red model: pony rating: > 5 size: portrait", [1]),
]


def fill_records(library: Library) -> None:
    ids = np.array([r.id for r in RECORDS], np.int64)
    mirror(library, "images", Batch(ids, ids, RECORDS))


@pytest.mark.parametrize(("query", "expected"), CASES)
def test_queries(library: Library, query: str, expected: list[int]) -> None:
    fill_records(library)
    assert [image.id for image in library.images(query)] == expected


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("steps: many", "steps: many"),
        ("size: big", "512x768"),
        ("favorite: perhaps", "neither true nor false"),
        ("date: yesterday-ish", "2026-01-31"),
        ("seed: 1x*", "digits"),
        ("rating:", "no value"),
    ],
)
def test_bad_queries_say_what(library: Library, query: str, told: str) -> None:
    fill_records(library)
    with pytest.raises(BadQuery, match=told):
        library.images(query)


def test_pages(library: Library) -> None:
    fill_records(library)
    assert [image.id for image in library.images(after_id=1, limit=1)] == [2]
