"""Libraries of every format, written by the code of their time (tests/formats), go on; a migration is whole or not."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luna_dt import Captions, Cluster, Identity, ImageRecord, Library, Verdict
from luna_dt.errors import StoreError
from luna_dt.query import HIDING
from luna_dt.store import Store, formats
from luna_dt.store.records import hidden
from tests.conftest import beside

KEPT = Path(__file__).parents[1] / "formats"
FORMATS = [1, 2, 3, 4, 5, 6, 7]
NEWEST = FORMATS[-1]

SYNCED = {
    1: "2026-11-25T22:26:39+00:00", 2: "2026-11-25T22:26:40+00:00", 3: "2026-11-25T22:26:42+00:00",
    4: "2026-11-25T23:45:28+00:00", 5: "2026-11-26T05:51:46+00:00", 6: "2026-11-26T20:21:51+00:00",
    7: "2026-11-27T05:09:33+00:00",
}  # fmt: skip
IDENTITY = Identity("test", "ünï", "image", "pooled", "squash", 4)
LUNA = 2**40
IMAGES = [
    ImageRecord(1, "1.png", "eins", rating=4, tags=("a", "b; c")),
    ImageRecord(2, "/srv/Straße/2.png", for_deletion=True),
    ImageRecord(3, "3.png", unavailable=True),
    ImageRecord(
        LUNA, r"D:\Bilder Ünï\日本語 🌙.png", "a, \"b\"\n'c'; DROP", "bäd", 832, 1216, "pony", "ab12", "Euler a",
        "karras", 28, 6.5, 2**62, 9, 7.25, True, True, False, False, True, "2026-01-02T03:04:05", "mine", "[]",
    ),
]  # fmt: skip
VERDICT = Verdict("other", IDENTITY, None, 2, 0.5, 0.25, 0.125, 0.75, ((1, 2),), when="2026-01-02T03:04:05+00:00")
#: Of each batch: its id, when it was made, and what ComfyUI knows its runs by.
BATCHES = {
    2: ("2f89b21ab419", "2026-11-25T22:26:40.802708+00:00", [
        "fd813868-eeaa-4146-b6cd-0a614bc89c08", "38c20cda-fc2a-4988-8a0d-e75fd50d7398",
        "b1785946-571a-4487-9d9e-410963a61931"]),
    3: ("3b91bb24ae11", "2026-11-25T22:26:42.481576+00:00", [
        "35fdbb13-c792-4c2e-8b5a-7e8a2fa3cad2", "b3056d13-e3b4-4e3a-9633-096977e6e9f3",
        "62d1bb00-3eae-417c-bf19-bb9f416b4a24"]),
    4: ("9755d1cf4c9f", "2026-11-25T23:45:29.357602+00:00", [
        "8a9c8aaa-24ec-4e2a-bd83-1c3ef697c1a1", "9de6dc3d-5ff7-4972-963d-8f31e32d1ef4",
        "b2ee2490-d64f-4435-9169-2c647fcedf86"]),
    5: ("8631940f3def", "2026-11-26T05:51:47.186722+00:00", [
        "992aeec1-0a7a-4827-b870-4bcd12be8a14", "113c8c03-6044-440e-884a-89837bb292cf",
        "2f8b6054-da36-4e3d-a0c5-36db18dc49c5"]),
    6: ("a370a826ccf8", "2026-11-26T20:21:51.865684+00:00", [
        "d1ffcbf8-ee50-4d6e-9b27-c982fd8016b9", "79452638-1d1e-4830-944c-a48465f245b7",
        "8522ede0-30f0-44d2-b631-280b2225125d"]),
    7: ("1ba81d9d1aef", "2026-11-27T05:09:33.815110+00:00", [
        "7d665002-27f6-4599-baba-e597641f2896", "3f9ef609-8e61-410f-afa9-cd1c3368a36f",
        "c208a679-0627-486a-b3a6-cfa2449d844e"]),
}  # fmt: skip
WORKFLOW = ('{"prompt": {"1": {"class_type": "LunaDTImageLoader", "inputs": {"image_id": 1}}, '
            '"2": {"class_type": "KSampler", "inputs": {"seed": 1}}}, "extra": {}}')  # fmt: skip
STRIPES = b"P6 64 64 255\n" + bytes(255 * (x // 16 % 2) for _ in range(64) for x in range(64) for _ in "rgb")


@pytest.fixture
def kept(tmp_path: Path) -> Callable[[int], Path]:
    """Copies the library of a format."""
    numbers = itertools.count()

    def copied(number: int) -> Path:
        return shutil.copytree(KEPT / str(number), tmp_path / f"kept {next(numbers)}")

    return copied


def opened(home: Path) -> Library:
    return Library(home, dt="http://127.0.0.1:9")


def read(home: Path, question: Callable[[sqlite3.Connection], Any]) -> Any:
    connection = sqlite3.connect(home / "library.db")
    try:
        return question(connection)
    finally:
        connection.close()


def everything(home: Path) -> list[str]:
    """The format and every table and row of a library, and the names of its files."""
    said: list[str] = read(home, lambda db: [str(db.execute("PRAGMA user_version").fetchone()), *db.iterdump()])
    return said + sorted(str(file) for folder in ("vectors", "maps") for file in (home / folder).rglob("*"))


def schema(home: Path) -> dict[str, str]:
    """The statement of every table and index, whitespace apart."""
    found = read(home, lambda db: db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall())
    return {name: re.sub(r"\s+", " ", sql) for name, sql in found}


@pytest.mark.parametrize("number", FORMATS)
def test_a_library_of_each_format_goes_on(kept: Callable[[int], Path], number: int) -> None:
    home = kept(number)
    for _ in range(2):  # when it is migrated, and once it was
        with opened(home) as library, beside(library) as store:
            check_records(library, store, number)
            check_vectors(library, store, number)
            check_made(library, store, number)
            check_maps(library, store, number)
            check_aside(library, number)


def check_records(library: Library, store: Store, number: int) -> None:
    images = [*IMAGES[:3], dataclasses.replace(IMAGES[3], hash="ab" * 32 if number >= 7 else "")]
    assert store.images([1, 2, 3, LUNA]) == {record.id: record for record in images}
    assert [type(library.image(LUNA).nsfw), type(library.image(2).for_deletion)] == [bool, bool]
    assert library.images() == [images[0], images[3]]
    assert library.captions(1) == Captions(1, "a, b", "b", "a cät", "a, b, a cät", ("a", "b; c"))
    assert library.captions(LUNA) == Captions(LUNA)
    assert library.clusters() == [Cluster(7, "Lüna", 3)]
    assert [(m.image.id, m.confidence) for m in library.cluster_images(7)] == [(LUNA, 0.75), (1, 0.5)]
    assert library.status().counts == {
        "images": (4, SYNCED[number]), "captions": (2, SYNCED[number]), "clusters": (1, SYNCED[number])
    }  # fmt: skip
    assert [store.generation(kind) for kind in ("images", "captions", "clusters")] == [1, 1, 1]
    for kind, ids in (("images", [1, 2, 3, LUNA]), ("captions", [1, LUNA]), ("clusters", [7])):
        held, digests = store.digests(kind)
        assert held.tolist() == ids
        assert digests.tolist() == [i * 100 + 1 for i in ids]


def check_vectors(library: Library, store: Store, number: int) -> None:
    layer = store.layer("visual")
    assert layer.identity == IDENTITY
    assert layer.ids.tolist() == [-1, 2, LUNA, 1]
    assert layer.visible.tolist() == [False, False, True, True]
    assert np.array_equal(layer.vectors, np.array([[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0.5, 1], [0, 0, 0, 1]]))
    assert np.array_equal(layer.norms[1:], np.sqrt(np.array([4, 1.25, 1], np.float32)))
    assert layer.checksums.tolist() == ([-1] * 4 if number < 5 else [-1, 2758280488, 3669479513, 2936085105])
    assert store.dt() == ("" if number < 5 else "a DT of its own")
    assert layer.generation == (1, 3 if number == 1 else 4)
    assert store.digests("embeddings.visual")[1].tolist() == [i * 100 + 1 for i in (1, 2, 3, LUNA)]
    visual, *others = store.layers()
    assert (visual.count, visual.unusable, visual.synced, visual.local) == (3, 1, SYNCED[number], False)
    assert visual.verdict == (None if number == 1 else VERDICT)
    assert [hit.id for hit in library.search(vector=[0, 0, 0, 1], engine="local", identity=IDENTITY)] == [1, LUNA]
    if number == 1:
        assert others == []
    else:
        assert [(s.name, s.identity, s.count, s.local, s.synced) for s in others] == [("style", IDENTITY, 1, True, "")]
        assert np.array_equal(store.layer("style").vectors, np.ones((1, 4)))


def check_made(library: Library, store: Store, number: int) -> None:
    if number == 1:
        assert (library.outbox.entries(), library.batches.all(), store.files()) == ([], [], {})
        return
    assert store.files() == {1: ("9 1000000000000000000", -5)}
    said = [
        (e.position, e.generation.key, e.state, e.tries, e.reason, e.generation.id) for e in library.outbox.entries()
    ]
    assert said == [
        (1, "first", "sent", 0, "", "41"),
        (2, "second", "parked", 1, "no such seed, says DT", ""),
        (3, "third", "waiting", 0, "", ""),
        (4, "fourth", "dropped", 0, "nicht mehr", ""),
    ]
    made = [entry.generation for entry in library.outbox.entries()]
    unknown = 0 if number < 5 else None  # which none of the older ones could say
    assert [m.seed for m in made] == [2**64 - 1, 13, unknown, unknown]
    assert [dict(m.extra_metadata) for m in made] == [{}, {}, {"größe": [1, 2]}, {}]
    for each in made:
        assert (each.source_image_id, each.prompt, each.operation) == (1, "größer", "txt2img")
        assert each.created == "2026-01-02T03:04:05.678+00:00"
    batch_id, created, runs = BATCHES[number]
    (batch,) = library.batches.all()
    assert (batch.id, batch.created, batch.operation) == (batch_id, created, "img2img")
    assert batch.comfyui == "http://127.0.0.1:8188"
    assert [(i.position, i.image_id, i.seed, i.prompt, i.prompt_id, i.state, i.error) for i in batch.items] == [
        (0, 1, 5, None, runs[0], "done", ""),
        (1, 2, 6, None, runs[1], "failed", "zu groß"),
        (2, 3, 7, None, runs[2], "new", ""),
    ]
    assert store.rows("SELECT workflow FROM batches") == [(WORKFLOW,)]


def check_maps(library: Library, store: Store, number: int) -> None:
    files = sorted(f.relative_to(library.settings.home).as_posix() for f in library.settings.home.glob("maps/**/*.png"))
    weights = store.rows("SELECT path, stamp, sha256 FROM weights")
    if number < 3:  # that of DT is not known by its content
        assert (library.status().maps, files, weights) == ((0, 0), [], [])
        return
    assert files == ["maps/61/616b752b5e7eb0c909a6410a9727962e.png"]
    assert library.status().maps == (1, 169)
    found = library.map("canny", STRIPES, make=False)
    assert (found.was_cached, found.picture.size, found.keypoints) == (True, (64, 64), None)
    lines = np.flatnonzero(np.asarray(found.picture)[32, :, 0])
    assert len(lines) == 3
    assert all(abs(at - edge) <= 1 for at, edge in zip(lines, (16, 32, 48), strict=True))
    sha256 = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    assert weights == [("Gewichte Ünï.pth", "7 1000000000000000000", sha256)]


def check_aside(library: Library, number: int) -> None:
    found = library.status()
    if number < 4:
        assert (found.set_aside, found.left_out) == ((), ())
        return
    assert [(rows.kind, rows.reason, rows.count, rows.first_id) for rows in found.set_aside] == [
        ("clusters", "a member is left out", 1, 7),
        ("images", "its seed is no whole number of 64 bits", 1, 5),
        ("images", "its width größer", 1, 6),
    ]
    assert found.left_out == ("column image.width is of type täxt, which cannot be read",)


@pytest.mark.parametrize("number", FORMATS)
def test_a_migrated_library_is_a_new_one(kept: Callable[[int], Path], tmp_path: Path, number: int) -> None:
    Store(tmp_path / "new").close()
    home = kept(number)
    Store(home).close()
    new, old = schema(tmp_path / "new"), schema(home)
    assert new.pop("migrations")
    old.pop("migrations", None)  # the code that wrote format 3 kept no record
    newest = schema(kept(NEWEST))
    newest.pop("migrations", None)
    assert new == old == newest


def test_it_is_told_which_migrations_were_done_and_when(kept: Callable[[int], Path], tmp_path: Path) -> None:
    Store(tmp_path / "new").close()
    home = kept(1)
    Store(home).close()
    told = "SELECT number, name, done FROM migrations ORDER BY number"
    new, old = (read(each, lambda db: db.execute(told).fetchall()) for each in (tmp_path / "new", home))
    assert [(number, name) for number, name, _ in new] == [(m.number, m.name) for m in formats.MIGRATIONS]
    assert [row[:2] for row in old] == [row[:2] for row in new[1:]]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", done) for _, _, done in new + old)


def test_each_format_has_its_migration_and_its_library(kept: Callable[[int], Path]) -> None:
    assert [each.number for each in formats.MIGRATIONS] == FORMATS
    assert len({each.name for each in formats.MIGRATIONS}) == len(FORMATS)
    for number in FORMATS:
        assert read(kept(number), lambda db: db.execute("PRAGMA user_version").fetchone()) == (number,)
    assert sorted(int(folder.name) for folder in KEPT.iterdir() if folder.is_dir()) == FORMATS


@pytest.mark.parametrize("number", [1, 2])
def test_a_migration_that_fails_leaves_the_old_format_whole(
    kept: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    home = kept(number)
    before = everything(home)
    whole = formats.MIGRATIONS
    for at in range(number, len(whole)):
        statements = list(whole[at].statements)
        for done in range(len(statements) + 1):
            cut = dataclasses.replace(whole[at], statements=[*statements[:done], "SELECT 1 FROM nowhere"])
            monkeypatch.setattr(formats, "MIGRATIONS", (*whole[:at], cut, *whole[at + 1 :]))
            with pytest.raises(StoreError, match="nowhere"):
                Store(home)
            assert everything(home) == before
    monkeypatch.setattr(formats, "MIGRATIONS", whole)
    test_a_library_of_each_format_goes_on(lambda _: home, number)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_a_migration_that_is_killed_leaves_the_old_format_whole(
    kept: Callable[[int], Path], number: int, done: int
) -> None:
    code = (
        "import dataclasses, os, sys\nfrom pathlib import Path\nfrom luna_dt.store import Store, formats\n"
        "def cut(statements, done):\n    yield from statements[:done]\n    os._exit(9)\n"
        "*others, last = formats.MIGRATIONS\n"
        "last = dataclasses.replace(last, statements=cut(last.statements, int(sys.argv[2])))\n"
        "formats.MIGRATIONS = (*others, last)\nStore(Path(sys.argv[1]))\n"
    )
    home = kept(number)
    before = everything(home)
    assert subprocess.run([sys.executable, "-c", code, str(home), str(done)], check=False).returncode == 9
    assert everything(home) == before
    test_a_library_of_each_format_goes_on(lambda _: home, number)


def test_a_newer_format_is_refused_and_left_as_it_is(kept: Callable[[int], Path]) -> None:
    home = kept(NEWEST)
    with sqlite3.connect(home / "library.db") as connection:
        connection.execute(f"PRAGMA user_version = {NEWEST + 1}")
    connection.close()

    def content() -> dict[str, bytes]:
        return {str(f): f.read_bytes() for f in home.rglob("*") if f.is_file() and f.name != "open.lock"}

    before = content()
    with pytest.raises(
        StoreError, match=rf"written by a newer version .*format {NEWEST + 1}, this one reads {NEWEST}.*update luna_dt"
    ):
        Store(home)
    assert content() == before


def test_hidden_images_are_found_by_their_index(kept: Callable[[int], Path]) -> None:
    """The rule as the query language has it, and as the first migration made an index of it, are one."""
    with closing(Store(kept(1))) as store:
        plan = store.rows(f"EXPLAIN QUERY PLAN SELECT id FROM images WHERE {hidden(HIDING)}")
        assert "hidden_images" in plan[0][-1]
        assert store.rows(f"SELECT id FROM images WHERE {hidden(HIDING)}") == [(2,), (3,)]
        assert [record.id for record in store.visible("delete: true | false")] == [1, LUNA]
