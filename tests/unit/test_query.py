"""DT's query language, against a real SQLite library; congruence/ compares it with PostgreSQL."""

# ruff: noqa: RUF001 - other scripts are what it is about

from __future__ import annotations

import datetime
import re
import subprocess
import sys
import unicodedata
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as some

from luna_dt import ImageRecord, Library
from luna_dt.errors import BadInput, BadQuery
from luna_dt.ids import MAX_IDS, parse_ids
from luna_dt.letters import spellings
from luna_dt.query import MAX_LENGTH, MAX_TERMS, MAX_TEXT, TOKENS, Columns, where
from luna_dt.query.words import REFUSED, SPELLINGS
from luna_dt.records import Batch, Captions, Cluster, Member
from tests.conftest import IDENTITY, beside, mirror

TODAY = datetime.date.today().isoformat()
RECORDS = [
    ImageRecord(1, r"D:\Bilder\a\1.png", "a red cat, soft light", "blurry", 512, 768, "ponyXL", "ab12", "Euler a",
                "", 20, 7.0, 123, 8, 6.5, True, created="2026-01-15T10:00:00"),
    ImageRecord(2, r"D:\Bilder\b\2.png", "a dog, red collar", "text", 1920, 1080, "illustrious", "cd34", "DPM++ 2M",
                "", 30, 4.5, 12345, None, None, created=f"{TODAY}T09:00:00"),
    ImageRecord(3, "/home/x/3.png", "blue cat", "", 640, 640, "ponyXL", "", "Euler", "", 25, 7.0, 77, 3,
                nsfw=True, no_metadata=True, created="2026-02-01T00:00:00"),
    ImageRecord(4, "/home/x/4.png", "red cat deleted", "", 512, 512, for_deletion=True),
    ImageRecord(5, "/home/x/5.png", "red cat lost", "", 512, 512, unavailable=True, seed=-1),
]  # fmt: skip
CASES = [
    ("", [1, 2, 3]),
    ("cat", [1, 3]),
    ("CAT, red", [1]),
    ("red, a", [1, 2]),
    ('"cat, soft"', [1]),
    ('"steps: 20"', []),
    ("steps: 20", [1]),
    ("STEPS: 20", [1]),
    ("\u017fteps: 20", []),  # which is a text
    ("s\u0131ze: 512x768 n\u017ffw: true", []),
    ("steps: 20-25", [1, 3]),
    ("sampler: euler", [3]),
    ("sampler: euler|euler a", [1, 3]),
    ("cfg: 7", [1, 3]),
    ("cfg: 4.5", [2]),
    ('model: " "', []),  # in which there is a space
    ('model: " pony"', []),
    ('model: "ill, pony"', [1, 2, 3]),
    ("seed: 123", [1]),
    ("seed: 18446744073709551615 unavailable: true", [5]),  # which DT keeps as -1
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
    ("date: before 2026-02-01", [1, 3]),  # the day itself is in it
    ("date: before 2026-01-31", [1]),
    ("date: since 2026-02-01", [2, 3]),
    ("date: from 2026-01-01 to 2026-01-31", [1]),
    ("date: 2026-01-15 - 2026-02-01", [1, 3]),
    ("date: 15-01-2026", [1]),
    ("date: 01/15/2026 | 15.1.2026", [1]),
    ("date: yesterday", []),
    ("not date: today", [1, 3]),
    ("date: 2026-02-01", [3]),
    ("date: today", [2]),
    ("path: contains \\b\\", [2]),
    (r"path: starts with d:\bilder", [1, 2]),
    ("path: ends with .PNG", [1, 2, 3]),
    (r"path: D:\Bilder\a\1.png", [1]),
    ("path: bilder", []),
    ("path: *bilder*1.png", [1]),
    ("path: *b*l*d*r*", [1, 2]),
    ("path: **b***l*" + "*" * 900, [1, 2]),
    (r"folder: d:\bilder\a", [1]),
    (r"folder: D:\Bilder\A\\ | /home/x", [1, 3]),
    (r"folder: d:\bilder", []),
    (r"folder: d:\bilder\*", [1, 2]),
    ("cat, not red", [3]),
    ("NOT cat", [2]),
    ('not "cat"', [2]),
    ('red, not "cat, soft", not  "DOG"', []),
    ('not ""', []),
    ('cat negative: not "blurry"', [3]),
    ('not "a cat", not"b"', []),
    ('model: "pony, "', [1, 3]),
    ('"not cat"', []),
    ("a cat, not red, not blue", []),
    ("not model: pony", [2]),
    ("cat not model: pony|illustrious", []),
    ("not rating: > 5", [2, 3]),
    ("not rating: none not seed: 12*", [3]),
    ("rating: <> 3", [1]),
    ("favorite:", [1]),
    ("fave: model: pony", [1]),
    ("nsfw:, model: pony", [3]),
    ("nometadata:", [3]),
    ("not nsfw:", [1, 2]),
    ("to delete:", [4]),
    ("for deletion: any", [1, 2, 3, 4]),
    ("unavailable:", [5]),
    ("unavailable: any delete: any", [1, 2, 3, 4, 5]),
    ("type: image", [1, 2, 3]),
    ("type: video", []),
    ("size: 512x?", [1]),
    ("size: ?x640", [3]),
    ("cfg scale: 7", [1, 3]),
    ("aesthetic score: > 6", [1]),
    ("negative prompt: blurry", [1]),
    ("negative: blurry, text", []),
    ("not negative: blurry", [2, 3]),
    ("negative: not blurry", [2, 3]),
    ("model hash: ab12", [1]),
    ("model_or_hash: ab12|illus", [1, 2]),
    ('model: "pony, illustrious"', [1, 2, 3]),
    ("model: p*xl", [1, 3]),
    ("model: *x", []),
    ("sampler: eul*", [1, 3]),
    ("tag: red hair", []),
    ("in_album: false", [1, 2, 3]),
    ("faces", []),
    ("a character, cat", []),
    ("negative: blurry", [1]),
    ("cat, red model: pony rating: > 5 size: portrait", [1]),
]


#: Texts, what is found in each, and what is not.
LETTERS: list[tuple[str, list[str], list[str]]] = [
    ("Рыжая Кошка на столе, ёлка", ["рыжая", "КОШКА НА", "ёлка", "ЁЛКА", "е\u0308лка"],
     ["рыжий", "елка"]),
    ("Straße über dem Fluß", ["straße", "STRASSE", "strasse", "ÜBER", "u\u0308ber", "fluss", "FLU\u1e9e"],
     ["uber", "strase"]),
    ("KISSING ON THE STREET", ["kißing", "kissing", "\ufb06reet", "\u212aissing"], ["kising"]),
    ("İSTANBUL'da ışık, DIŞ kapı", ["istanbul", "ISTANBUL", "İstanbul", "ıstanbul", "i\u0307stanbul", "IŞIK", "işik", "dış",
     "DIS\u0327"], ["isik", "stambul"]),
    ("ΟΔΥΣΣΕΥΣ και σοφός", ["οδυσσευς", "οδυσσευσ", "ΣΟΦΌΣ", "σοφο\u0301σ", "δυσς"], ["σοφος"]),
    ("cafe\u0301 au lait", ["café", "CAFÉ", "afe\u0301", "CAFE\u0301"], ["cafe", "cafè"]),
    ("crème brûlée", ["CRE\u0300ME", "bru\u0302le\u0301e", "BRÛLÉE"], ["creme", "brulée"]),
    ("Việt Nam", ["việt", "VIE\u0323\u0302T", "vie\u0302\u0323t", "vi\u1eb9\u0302t", "vi\u00ea\u0323t"], ["viet", "viêt", "vie"]),
    ("한국의 고양이", ["한국", unicodedata.normalize("NFD", "한국의"), "고양이"], ["하", "한구"]),
    ("e\u0302\u0323 e\u0323\u0302 out of order", ["\u1ec7 \u1ec7", "e\u0302\u0323 e\u0323\u0302", "E\u0302\u0323"], ["e \u1ec7"]),
    ("odd 100% of_it \\d [a-z]+ (x) $ ^ *** {2} !", ["100%", "of_it", r"\d [A-Z]+ (X)", "$ ^ *** {2} !"],
     ["100x", "ofxit", "o.d"]),
    ("𐐀𐐁 \U0001f600 \ufdfa ½ ™", ["𐐨𐐩", "\U0001f600", "½ ™"], ["1/2", "tm"]),
]  # fmt: skip


def fill_records(library: Library, records: Sequence[ImageRecord] = RECORDS) -> None:
    ids = np.array([r.id for r in records], np.int64)
    mirror(library, "images", Batch(ids, ids, list(records)))


def written(text: str) -> set[str]:
    """A text in other forms of Unicode and in other case."""
    forms = {
        unicodedata.normalize(form, each) for form in ("NFC", "NFD") for each in (text, text.lower(), text.upper())
    }
    return {text, *forms}


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
        ("negative:", "no value"),
        ("hypernet: x", "'hypernet:' is DT's"),
        ("cat faces: 2+", "'faces:' is DT's"),
        ("char: Luna", "'char:' is DT's"),
        ("has: wings", "vectors.visual"),
        ("date: 03-04-2026", "2026-03-04 or 2026-04-03"),
        ("date: 31-31-2026", "2026-01-31"),
        ("type: song", "neither image nor video"),
        ("favorite: any", "neither true nor false"),
        ("not negative: a, b", "one term"),
    ],
)
def test_bad_queries_say_what(library: Library, query: str, told: str) -> None:
    fill_records(library)
    with pytest.raises(BadQuery, match=told):
        library.images(query)


@pytest.mark.parametrize(
    ("query", "at"),
    [
        ("steps: many", 0),
        ("cat, dog  steps: many", 10),
        ("cat not size: big rating: 5", 8),
        ("cat rating: 5 hypernet: x", 14),
        ('"steps: many" cfg: x', 14),
        (f"cat, {'x' * 1001}", 5),
        ("a \0", 2),
        ("x" * 5001, None),
        ("cat," * 201, None),
        (f"cat tag: {'a*' * 20}", 4),  # where there are no tags, too
        (f"cat not album: {'x' * 1001}", 8),
    ],
)
def test_bad_queries_say_where(query: str, at: int | None) -> None:
    with pytest.raises(BadQuery) as error:
        where(query, Columns({"prompt": "prompt", "steps": "steps", "cfg": "cfg"}))
    assert (error.value.at, error.value.query) == (at, query)


def test_names_of_other_tables_and_what_an_image_has(library: Library) -> None:
    fill_records(library)
    ids = np.array([1, 2, 3], np.int64)
    said = [
        Captions(1, combined="Red Hair, 1girl, A girl.", tags=("Red Hair", "1girl")),
        Captions(2, combined="1girl, solo", tags=("1girl", "solo")),
        Captions(3, joycaption="Straße", combined="Straße"),
    ]
    mirror(library, "captions", Batch(ids, ids, said))  # the third has no tags
    groups = [
        Cluster(1, "Luna", 2, (Member(1, 0.9), Member(3, 0.8))), Cluster(2, "луна", 1, (Member(2, 1.0),)),
        Cluster(3, "2026", 0, ()),
    ]  # fmt: skip
    mirror(library, "clusters", Batch(ids, ids, groups))
    with beside(library) as store:
        store.prepare_layer("visual", IDENTITY)
        store.put("embeddings.visual", Batch(ids[:2], ids[:2], np.eye(2, IDENTITY.dim, dtype=np.float32)))
    for query, expected in {
        "tag: red hair": [1], 'tag: "RED HAIR"': [1], "tag: hair": [], "tag: *hair": [1], "tag: 1*": [1, 2],
        "tag: red*1girl": [], "tag: solo|red hair": [1, 2], "not tag: solo": [1, 3], "tag: 1girl not tag: solo": [1],
        "has: tag": [1, 2], "has: caption": [1, 3], "not has: caption": [2], "has: cluster": [1, 2, 3],
        "cluster: luna": [1, 3], "album: ЛУНА": [2], "cluster: 2": [2], "cluster: 2026": [], "cluster: l*": [1, 3],
        "in_album: false": [], "in_album:": [1, 2, 3], "album: luna|2": [1, 2, 3],
        "tag: *": [1, 2], "tag: **": [1, 2], 'tag: ""': [], "not tag: *": [3], "tag: *|solo": [1, 2], 'not tag: ""': [1, 2, 3],
        "cluster: *": [1, 2, 3], 'cluster: ""': [], "has: vectors.visual": [1, 2], "has: vectors.style": [], "has: map": [],
    }.items():  # fmt: skip
        assert [image.id for image in library.images(query)] == expected, query


def test_pages(library: Library) -> None:
    fill_records(library)
    assert [image.id for image in library.images(after_id=1, limit=1)] == [2]


@pytest.mark.parametrize(("text", "found", "missed"), LETTERS)
def test_letters_are_letters_in_every_language(
    library: Library, text: str, found: list[str], missed: list[str]
) -> None:
    fill_records(
        library,
        [
            ImageRecord(i, f"D:\\{form}\\1.png", form, form, model=form, sampler=form)
            for i, form in enumerate(sorted(written(text)), 1)
        ],
    )
    everyone = list(range(1, len(written(text)) + 1))
    for sought in {*found, text}:
        for form in written(sought):
            for token in ("", "negative: ", "model: ", "path: contains "):
                assert [image.id for image in library.images(f'{token}"{form}"')] == everyone, (token, form)
    for form in written(text):
        whole = (f"path: d:\\{form}\\1.png", f"folder: d:\\{form}", f"path: *{form}\\?.png".replace("?", "1"))
        for query in (f'sampler: "{form}"', f"path: starts with d:\\{form}", *whole):
            assert [image.id for image in library.images(query)] == everyone, query
    for sought in missed:
        for form in written(sought):
            assert library.images(f'"{form}"') == [], form
            assert library.images(f"sampler: *{form}*") == library.images(f"path: *{form}*.png") == []
    for sought in found:  # which is not the whole of it
        assert library.images(f'sampler: "{sought}"') == []


@given(text=some.text(min_size=1, max_size=200), start=some.booleans(), end=some.booleans())
@example(text="sßs", start=True, end=True)
@example(text="ê\u0323" * 100, start=True, end=True)
def test_a_text_is_found_as_it_stands(text: str, start: bool, end: bool) -> None:
    assert all(re.search(way, text) for way in spellings(text, start, end))


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("x" * (MAX_LENGTH + 1), "5,000 characters"),
        ("x" * 10**6, "5,000 characters"),
        ("a," * (MAX_TERMS + 1), "200 terms"),
        ("model: " + "a|" * (MAX_TERMS + 1), "200 terms"),
        (", ".join(["a"] * 190) + " steps: " + "1|" * 11, "200 terms"),
        ("x" * (MAX_TEXT + 1), "1,000 characters"),
        ("sampler: " + "x" * (MAX_TEXT + 1), "1,000 characters"),
        ("path: " + "a*" * 20, "19 asterisks"),
        ("a\0b", "NUL"),
        ("path: \0", "NUL"),
        ("a \ud800 b", "surrogate"),
        ("steps: " + "9" * 4900, "too large"),
        ("cfg: " + "9" * 4900 + ".5", "too large"),
        ("steps: 9223372036854775808", "64 bits"),
        ("seed: -9223372036854775809", "64 bits"),
        ("seed: " + "1*" * 400, "at most 40"),
        ("size: 9999999999x1", "512x768"),
        ("size: " + "1" * 3000 + ":" + "1" * 900, "512x768"),
        ("date: 0000-01-01", "2026-01-31"),
        ("date: 99999", "2026-01-31"),
        ("date: 10000-01-01", "2026-01-31"),
        ("date: between 2026-01-01 and", "2026-01-31"),
        ("date: between" + " " * 4900, "2026-01-31"),
        ("rating: " + "|" * 4900, "no value"),
    ],
)
def test_what_is_too_much_is_refused_in_words(library: Library, query: str, told: str) -> None:
    fill_records(library)
    with pytest.raises(BadQuery, match=told) as error:
        library.images(query)
    assert len(str(error.value)) < 250


def test_what_is_just_not_too_much_is_answered(library: Library) -> None:
    fill_records(library)
    assert library.images("x" * MAX_TEXT) == []
    assert library.images(", ".join(["cat"] * MAX_TERMS)) == library.images("cat")
    assert library.images("model: " + "|".join(["ponyxl"] * MAX_TERMS)) == library.images("model: pony")
    assert library.images("seed: <= 9223372036854775807") == library.images()
    assert library.images("cfg: 7." + "0" * 400 + "|" + "0" * 4500 + "7") == library.images("cfg: 7")
    assert library.images("size: 999999999:999999999") == library.images("size: square")
    assert [image.id for image in library.images("date: between 0001-01-01 and 9999-12-31")] == [1, 2, 3]
    assert library.images("date: 9999-12-31") == library.images("date: from 9999-12-31") == []
    assert library.images("date:   BETWEEN  2026-01-01   AND 2026-01-15 ") == library.images("seed: 123")


def test_a_long_text_is_found_where_all_of_it_is(library: Library) -> None:
    text = "Ein Haus am Fluß, " * 50
    fill_records(library, [ImageRecord(1, "a", text), ImageRecord(2, "b", text[:-9] + "x" + text[-8:])])
    assert [image.id for image in library.images(f'"{text.upper()}"')] == [1]
    assert [image.id for image in library.images(f'"{text[:400]}"')] == [1, 2]


HOSTILE = """
from luna_dt import ImageRecord, errors, query
from luna_dt.ids import parse_ids
columns = query.Columns({name: name for name in ImageRecord.__slots__})
for size in (2_400, 4_900, 1_000_000):
    for made in (" {0}", '"{0}', "{0}:", ",{0}", "date:between{0}", "date:between 1{0}and{0}", "date: from{0}", "steps:{0}-",
                 "steps: 1{0}", "steps: 1{0}-{0}", "size: 1{0}x{0}", "size: {0}:", "seed: {0}*", "path: starts with{0}", "path:{0}",
                 "model:{0}|", "{0}-{0}", "1{0}-{0}", "model_hash: {0}|{0}", "rating: >={0}"):
        for unit in (" ", "\t", "9", "*", '"', "|", ",", "a", "-", " and ", "between ", "date:", "1.", "\u0301", "\u1ec7", "\ufb03"):
            text = made.format(unit * (size // len(unit) // made.count("{0}")))
            for read in (lambda: query.where(text, columns), lambda: parse_ids(text)):
                try:
                    read()
                except errors.BadInput:
                    pass
"""


@pytest.mark.processes
@pytest.mark.slow
def test_no_query_takes_more_than_linear_time() -> None:
    """Some 640 texts of 2,400 characters to a megabyte: seconds, but hours where anything is quadratic."""
    subprocess.run([sys.executable, "-c", HOSTILE], check=True, timeout=300)


def test_ids_are_bounded_together() -> None:
    assert parse_ids(f"1-{MAX_IDS}") == list(range(1, MAX_IDS + 1))
    assert parse_ids(str(2**63 - 1)) == [2**63 - 1]
    for bad in (f"1-{MAX_IDS}, 1", "1-9000 1-9000", str(2**63), "9" * 5000, "1-" + "9" * 5000, "5-3"):
        with pytest.raises(BadInput) as error:
            parse_ids(bad)
        assert len(str(error.value)) < 150


#: Queries as people and enemies write them.
_WORDS = some.one_of(
    some.sampled_from(["cat", "red", "KOŠKA", "ß", "ΣΑΣ", "İı", "e\u0301", '"', '"a, b"', "|", ",", "*", "?", "%", "_", "\\", "!", "***:",
                       "none", "today", "between", "and", "from", "before", "starts with", "contains", "ends with", "not", "since", "to", "yesterday", "<>", "any", "image", "03-04-2026", "true", "no", "portrait",
                       "16:9", "512x768", ">=", "<", "=", "-", "20-30", "7.5", "9" * 19, "9" * 20, "-1", "9999-12-31", "2026-02-30",
                       "\0", "\ud800", "\n", "  ", "(?", "[", "1*2?"]),
    some.text(max_size=8),
    some.integers(-(2**70), 2**70).map(str),
    some.dates().map(str),
)  # fmt: skip
_VALUES = some.lists(_WORDS, max_size=5).map(" ".join)
QUERIES = some.tuples(
    _VALUES,
    some.lists(
        some.tuples(
            some.sampled_from(["", "", "not ", "NOT  "]),
            some.sampled_from([spelling for token in TOKENS for spelling in SPELLINGS[token]] + [*REFUSED]),
            some.sampled_from([":", ": ", ":  "]),
            _VALUES,
        ),
        max_size=3,
    ),
).map(lambda made: " ".join([made[0], *("".join(pair) for pair in made[1])]))


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=QUERIES)
def test_no_query_ends_in_another_error(library: Library, query: str) -> None:
    if not library.mirrors("images"):
        fill_records(library)
    try:
        assert {image.id for image in library.images(query)} <= {1, 2, 3, 4, 5}
    except BadQuery as error:
        assert str(error)  # noqa: PT017 - either is an answer
