"""Stock DiffusionToolkit's SQLite file: every version, its quirks, and the same answers as the mirror made of it gives."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from luna_dt import Identity, ImageRecord, Library, Settings
from luna_dt.dt import connect
from luna_dt.dt import sqlite as sqlite_catalog
from luna_dt.dt.catalog import Catalog
from luna_dt.dt.sqlite import SqliteCatalog
from luna_dt.errors import (
    BadQuery,
    LunaError,
    NotOffered,
    Refused,
    SettingsError,
    UnknownCluster,
    UnknownImage,
    Unreachable,
)
from luna_dt.records import Batch, Captions, Int64s
from tests import stock, untidy
from tests.conftest import beside

DATE = stock.ticks("2026-01-31T23:59:58")
CAT = {
    "Id": 1, "Path": "D:\\Bilder Ünï\\katze.png", "FileName": "katze.png", "Prompt": "Eine KATZE, größer, 猫",
    "NegativePrompt": "blurry", "Steps": 28, "Sampler": "Euler a", "CFGScale": 6.5, "Seed": -5, "Width": 832, "Height": 1216,
    "ModelHash": "ab12", "Model": "pony, v6", "CreatedDate": DATE, "CustomTags": "mine", "Rating": 9, "Favorite": 1,
    "ForDeletion": 0, "NSFW": 1, "AestheticScore": 7.25, "NoMetadata": 0, "Unavailable": 0, "Type": 0,
}  # fmt: skip
BARE = {"Id": 2, "Path": "D:\\x\\bare.png"}  # all else NULL
GONE = {"Id": 3, "Path": "D:\\x\\gone.png", "Prompt": "a cat", "ForDeletion": 1}
VIDEO = {"Id": 4, "Path": "D:\\x\\film.mp4", "Prompt": "a cat", "Type": 1}
MKV = {"Id": 5, "Path": "D:\\x\\film.MKV", "Prompt": "a cat", "Type": 0}
DOG = {"Id": 9, "Path": "/srv/dog.png", "Prompt": "a dog, ΣΟΦΟΣ", "Rating": 4, "Width": 512, "Height": 512, "Steps": 20,
       "CreatedDate": stock.ticks("2025-12-31T00:00:00")}  # fmt: skip
READ = ImageRecord(
    1, "D:\\Bilder Ünï\\katze.png", "Eine KATZE, größer, 猫", "blurry", 832, 1216, "pony, v6", "ab12", "Euler a", "", 28,
    6.5, -5, 9, 7.25, True, True, False, False, False, "2026-01-31T23:59:58", "mine",
)  # fmt: skip
QUERIES = (
    "", "katze", "GRÖSSER", "σοφος", '"Eine Katze, größer"', "100%", "a_dog", "negative: blurry", "steps: 20-28", "steps: 28",
    "sampler: euler A", "cfg: 6.5", "seed: -5", "seed: *5", "size: 832x1216", "size: portrait", "size: square", "model: pony",
    "model_hash: AB12", "rating: > 5", "rating: none", "aesthetic_score: >= 7", "favorite: true", "nsfw: false",
    "nometa: false", "delete: true", "date: 2026-01-31", "date: from 2026-01-01", "date: before 2026-01-01",
    "path: bilder ünï", "folder: D:", "katze rating: none",
    "path: *bilder*", "path: contains bilder ünï", "path: ends with .PNG", r"folder: D:\\x", r"folder: d:\\*", "not katze", "katze, not größer",
    "not rating: > 5", "not model: *v6", "not nsfw:", "fave:", "delete: any", "unavailable:", "type: image", "type: video", "size: 832x?",
    "not size: square", "model_or_hash: ab12", 'model: "pony, dream"', "date: since 2026-01-31", "date: 31-01-2026", "rating: <> 9",
    "tag: red hair", "tag: *hair|är*", "not tag: ärger", "has: tag", "has: caption", "has: cluster", "in_album:", "in_album: false",
    "album: KÄTZCHEN", "cluster: 3", "cluster: *", "hypernet: x", "has: wings", "size: big",
)  # fmt: skip
CASES = [(version, "") for version in stock.VERSIONS] + [("1.10", old) for old in stock.VERSIONS[:-1]]


def answer(source: Library | Catalog, query: str) -> list[ImageRecord] | str:
    """What fits, or what is wrong with the query."""
    try:
        return source.images(query)
    except BadQuery as error:
        return str(error)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]} from {case[1] or 'new'}")
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    version, old = request.param
    made = tmp_path / "Diffusion Toolkit Ünï" / "diffusion-toolkit.db"
    stock.create(made, version, old)
    stock.insert(made, "Image", CAT, BARE, GONE, VIDEO, MKV, DOG)
    return made


@pytest.fixture
def catalog(file: Path) -> Iterator[SqliteCatalog]:
    with closing(SqliteCatalog(file)) as opened:
        yield opened


@pytest.fixture
def newest(tmp_path: Path) -> Path:
    made = tmp_path / "diffusion-toolkit.db"
    stock.create(made, "1.10")
    stock.insert(made, "Image", CAT, BARE, GONE, DOG)
    return made


def test_an_image_is_what_its_columns_say(catalog: SqliteCatalog) -> None:
    assert catalog.image(1) == READ
    bare = catalog.image(2)
    assert bare == ImageRecord(2, "D:\\x\\bare.png")
    assert [image.id for image in catalog.images()] == [1, 2, 9]
    assert [image.id for image in catalog.images(after_id=1, limit=1)] == [2]
    for no_picture in (4, 5, 77):  # videos are none
        with pytest.raises(UnknownImage):
            catalog.image(no_picture)
    assert catalog.health().left_out == ("2 videos, which no picture is of",)
    assert (catalog.health().name, catalog.health().capabilities) == (
        "DiffusionToolkit",
        ("images", "clusters", "captions", "sync"),
    )


def test_the_mirror_gives_the_same_answers(file: Path, tmp_path: Path) -> None:
    with Library(tmp_path / "home", dt=str(file.parent)) as library:
        assert {change.kind: change.added for change in library.sync()}["images"] == 4
        assert [(c.added, c.changed, c.removed) for c in library.sync()] == [(0, 0, 0)] * len(library.sync())
        catalog = library.catalog
        assert catalog.address == str(file)
        for query in QUERIES:
            assert answer(library, query) == answer(catalog, query), query
        assert [image.id for image in library.images("katze")] == [1]
        assert [image.id for image in library.images("delete: true")] == [3]
        assert [image.id for image in library.images("σοφος")] == [9]
        assert library.status().left_out == ("2 videos, which no picture is of",)


def test_a_files_hash_is_that_of_the_file_in_one_form_or_none(newest: Path, tmp_path: Path) -> None:
    noted = [*untidy.HASHES, b"ab" * 32, "ab" * 32 + "\0", 0.5]
    stock.insert(newest, "Image", *({"Id": i, "Path": f"{i}.png", "Hash": each} for i, each in enumerate(noted, 100)))
    with Library(tmp_path / "home", dt=str(newest)) as library:
        library.sync()
        known = {image.id: image.hash for image in library.images(limit=500) if image.hash}
        assert known == {100: "ab" * 32, 101: "ab" * 32}
        assert library.images(limit=500) == library.catalog.images(limit=500)
        assert [group.ids for group in library.duplicates(None)] == [(100, 101)]
        stock.run(newest, "UPDATE Image SET Hash = (SELECT Hash FROM Image WHERE Id = 100) WHERE Id = 9")
        assert {change.kind: change.changed for change in library.sync()}["images"] == 1
        assert [group.ids for group in library.duplicates(None)] == [(9, 100, 101)]


def test_albums_are_clusters_and_tags_are_tags(newest: Path, tmp_path: Path) -> None:
    stock.insert(newest, "Album", {"Id": 3, "Name": "Kätzchen"}, {"Id": 7, "Name": None})
    stock.insert(
        newest, "AlbumImage", *({"AlbumId": 3, "ImageId": i} for i in (9, 1, 1, 3, 777)), {"AlbumId": 99, "ImageId": 1}
    )
    stock.insert(
        newest,
        "Tag",
        {"Id": 1, "Name": "red hair"},
        {"Id": 2, "Name": "ärger"},
        {"Id": 3, "Name": "red hair"},
        {"Id": 4, "Name": None},
        {"Id": 5, "Name": ""},
        {"Id": 6, "Name": "two\nlines"},
    )
    links = (1, 2), (1, 1), (1, 3), (1, 4), (1, 99), (888, 1), (9, 2), (2, 5), (9, 5), (9, 6)
    stock.insert(newest, "ImageTag", *({"ImageId": i, "TagId": t} for i, t in links))
    with Library(tmp_path / "home", dt=str(newest)) as library:
        library.sync()
        dt = library.catalog
        for query in QUERIES:
            assert answer(library, query) == answer(dt, query), query
        for query, ids in {
            "tag: red hair": [1], "tag: ärger": [1, 9], "not tag: ärger": [2], "album: KÄTZCHEN": [1, 9], "in_album: false": [2],
            "album: kätzchen delete: any": [1, 3, 9], "cluster: 7": [], "tag: *": [1, 9], "has: tag": [1, 9], 'tag: ""': [],
            "tag: two lines": [9], "tag: two*": [9], "tag: lines": [],
        }.items():  # fmt: skip
            assert [image.id for image in dt.images(query)] == ids, query
        for asked in (dt.captions, library.captions):
            assert asked(1) == Captions(1, combined="red hair, ärger", tags=("red hair", "ärger"))
            assert asked(2) == Captions(2)
            assert asked(9).tags == ("two lines", "ärger")
        assert dt.image(1).tags == library.image(1).tags == ("red hair", "ärger")
        assert (
            [(c.id, c.name) for c in dt.clusters()]
            == [(c.id, c.name) for c in library.clusters()]
            == [(3, "Kätzchen"), (7, "")]
        )
        assert [m.image.id for m in dt.cluster_images(3)] == [m.image.id for m in library.cluster_images(3)] == [1, 9]
        assert [m.image.id for m in dt.cluster_images(3, min_quality=3)] == [1]
        with pytest.raises(UnknownCluster, match="album 5"):
            dt.cluster_images(5)
        stock.run(newest, "DELETE FROM AlbumImage WHERE ImageId = 9", "DELETE FROM ImageTag WHERE TagId = 2",
                  "UPDATE Image SET Prompt = 'a fox' WHERE Id = 2")  # fmt: skip
        changes = {c.kind: (c.added, c.changed, c.removed) for c in library.sync()}
        assert changes == {"images": (0, 1, 0), "captions": (0, 2, 0), "clusters": (0, 1, 0)}
        assert library.image(2).prompt == "a fox"
        with pytest.raises(NotOffered):
            dt.generations()


@pytest.mark.parametrize(
    ("config", "hide", "found"),
    [
        (None, None, [2, 9]),  # what is mostly hidden
        ('\ufeff{"HideNSFW": true, "HideDeleted": false}', None, [2]),
        ('{"HideNSFW": true}', ("unavailable",), [2, 3, 9]),  # a setting of ours decides
        ('{"HideNSFW": "true"', None, [2, 9]),  # no JSON
        ("[]", (), [2, 3, 5, 9]),
        (None, ("delete", "unavailable", "nsfw"), [2]),
    ],
)
def test_what_is_hidden_is_one_setting(
    tmp_path: Path, config: str | None, hide: tuple[str, ...] | None, found: list[int]
) -> None:
    made = tmp_path / "diffusion-toolkit.db"
    stock.create(made, "1.10")
    stock.insert(made, "Image", BARE, GONE, {"Id": 5, "Path": "away.png", "Unavailable": 1}, {**DOG, "NSFW": 1})
    stock.insert(made, "Album", {"Id": 3, "Name": "all"})
    stock.insert(made, "AlbumImage", *({"AlbumId": 3, "ImageId": i} for i in (2, 3, 5, 9)))
    if config is not None:
        made.with_name("config.json").write_text(config, encoding="utf-8")
    settings = Settings(home=tmp_path / "home", dt=str(made), hide=hide)
    with Library(settings=settings) as library:
        dt = library.catalog
        library.sync()
        for query in (
            "",
            "nsfw:",
            "nsfw: any",
            "not nsfw:",
            "delete: any",
            "unavailable: any delete: any nsfw: any",
            "nsfw: false",
        ):
            assert library.images(query) == dt.images(query), query
        assert [image.id for image in dt.images()] == found
        assert [image.id for image in dt.images("unavailable: any delete: any nsfw: any")] == [2, 3, 5, 9]
        assert sorted(library.find().tolist()) == found
        assert sorted(m.image.id for m in dt.cluster_images(3)) == found
        assert sorted(m.image.id for m in library.cluster_images(3)) == found
        assert library.image(3).for_deletion  # by its id it is there
        ids, vectors = np.array([2, 3, 5, 9]), np.eye(4, dtype=np.float32)
        with beside(library) as store:
            store.prepare_layer("visual", Identity("test", "", "image", "pooled", "squash", 4))
            store.put("embeddings.visual", Batch(ids, ids, vectors))
        assert sorted(library.nearest(vectors.sum(0))[0].tolist()) == found
    with Library(settings=settings.replace(dt="http://127.0.0.1:9")) as elsewhere:  # the home knows whose it is
        assert sorted(elsewhere.find().tolist()) == found


def test_odd_rows_are_set_aside(newest: Path, tmp_path: Path) -> None:
    stock.run(newest, "UPDATE Image SET Seed = 1e30 WHERE Id = 2", "UPDATE Image SET Width = 'wide' WHERE Id = 9",
              "INSERT INTO Image (Id, Path) VALUES (20, NULL)", "INSERT INTO Image (Id, Path, Prompt) VALUES (21, 'a.png', x'ff00')",
              "INSERT INTO Image (Id, Path, CreatedDate) VALUES (22, 'b.png', 9223372036854775807)",
              "INSERT INTO Image (Id, Path, CreatedDate, Prompt) VALUES (23, 'c.png', '2026-02-03 04:05:06', CAST(x'e4' AS TEXT))")  # fmt: skip
    with Library(tmp_path / "home", dt=str(newest)) as library:
        library.sync()
        here = [image.id for image in library.images()]
        assert set(here) >= {1, 22}
        assert not set(here) & {2, 9, 20, 23}
        told = {rows.first_id for rows in library.status().set_aside}
        assert told >= {2, 9, 20, 23}
        assert [(c.added, c.changed) for c in library.sync() if c.kind == "images"] == [(0, 0)]


def test_dts_own_writes_are_never_refused(tmp_path: Path) -> None:
    """With the rollback journal of versions before 1.9 an open read would make them fail."""
    made = tmp_path / "diffusion-toolkit.db"
    stock.create(made, "1.8")
    stock.insert(
        made, "Image", *({**DOG, "Id": i, "Path": f"{i}.png", "Prompt": "a dog " * 20} for i in range(1, 8001))
    )
    refused, done, written = list[str](), threading.Event(), 0

    def write() -> None:
        nonlocal written
        with closing(sqlite3.connect(made, timeout=1.0, isolation_level=None)) as db:
            while not done.is_set():
                try:
                    db.execute("UPDATE Image SET Rating = ? WHERE Id = ?", [written % 10 + 1, written % 8000 + 1])
                    written += 1
                except sqlite3.OperationalError as error:
                    refused.append(str(error))
                done.wait(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with Library(tmp_path / "home", dt=str(made)) as library:
            for _ in range(3):
                library.sync()
            assert len(library.images(limit=10_000)) == 8000
    finally:
        done.set()
        writer.join()
    assert refused == []
    assert written > 3


@pytest.mark.slow
def test_a_lock_is_waited_for_and_then_told(newest: Path) -> None:
    stock.run(newest, "PRAGMA journal_mode = DELETE")
    with closing(SqliteCatalog(newest)) as catalog, closing(sqlite3.connect(newest, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unreachable, match="DT has been writing it for seconds; try again"):
            catalog.image(1)
        db.execute("COMMIT")
        assert catalog.image(1).id == 1


def test_the_database_is_found_by_every_form_of_its_address(
    newest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = [
        str(newest),
        str(newest.parent),
        f"sqlite:///{newest}".replace("////", "///"),
        f"sqlite:///{newest}",
        f"sqlite://{newest}",
    ]
    for form in forms:
        catalog = connect(Settings(home=tmp_path / "home", dt=form))
        assert catalog.address == str(newest), form
        assert catalog.health().name == "DiffusionToolkit"
        catalog.close()
    roaming = tmp_path / "Roaming"
    stock.create(roaming / "DiffusionToolkit" / "diffusion-toolkit.db", "1.9")
    monkeypatch.setenv("APPDATA", str(roaming))
    monkeypatch.setattr("luna_dt.dt.DEFAULT_DT", "http://127.0.0.1:9")
    found = connect(Settings(home=tmp_path / "home", dt="http://127.0.0.1:9"))  # where nothing answers
    assert found.address == str(roaming / "DiffusionToolkit" / "diffusion-toolkit.db")
    found.close()


def test_what_is_no_database_of_dt_is_told(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE x (y)")
    text = tmp_path / "text.db"
    text.write_bytes(b"no database at all, but long enough to look like one" * 100)
    for file, kind, said in ((other, Refused, "no table Image"), (text, Refused, "cannot be read"),
                             (tmp_path / "none.db", Unreachable, "is not there")):  # fmt: skip
        with closing(SqliteCatalog(file)) as catalog, pytest.raises(kind, match=said):
            catalog.health()
    with (
        Library(tmp_path / "home", dt=str(other)) as library,
        pytest.raises(LunaError, match="no database of DiffusionToolkit"),
    ):
        library.sync()
    with pytest.raises(SettingsError, match=r"is no address of DT; use .*diffusion-toolkit\.db"):
        connect(Settings(home=tmp_path / "home", dt="ftp://host/x"))


def test_it_can_be_read_where_nothing_can_be_written(newest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = newest.read_bytes()
    monkeypatch.setattr("os.access", lambda *_: False)
    with closing(SqliteCatalog(newest)) as catalog:
        assert catalog.image(1) == replace(READ)
    assert newest.read_bytes() == before


def test_columns_of_forks_are_used_or_passed_over(tmp_path: Path) -> None:
    made = tmp_path / "diffusion-toolkit.db"
    stock.create(made, "1.10", extra=("Scheduler varchar", "PerceptualHash varchar"), upgraded_from="1.6")
    stock.insert(made, "Image", {**CAT, "Scheduler": "karras", "PerceptualHash": "ff"})
    with closing(SqliteCatalog(made)) as catalog:
        assert catalog.image(1) == replace(READ, scheduler="karras")
        stock.run(made, "ALTER TABLE Image RENAME COLUMN Scheduler TO Other")  # an upgrade while we run
        assert catalog.image(1) == READ


# -- whether anything has changed, without reading it -------------------------------------------------------


@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE", "PERSIST", "WAL"])
def test_no_change_is_missed_and_what_did_not_change_is_not_read(
    newest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Whatever DT does between two syncs: writes, keeps the file open, closes it, tidies up, is put back to a copy."""
    monkeypatch.setattr(sqlite_catalog, "YOUNG", 0)  # every step below gives the files a time of its own
    stock.run(newest, f"PRAGMA journal_mode = {mode}")
    rng, when, read = random.Random(5), 1_700_000_000, list[str]()
    digests = SqliteCatalog.digests

    def noted(self: SqliteCatalog, kind: str) -> tuple[Int64s, Int64s]:
        read.append(kind)
        return digests(self, kind)

    monkeypatch.setattr(SqliteCatalog, "digests", noted)
    program = sqlite3.connect(newest, isolation_level=None)
    copies = list[bytes]()
    with Library(tmp_path / "home", dt=str(newest)) as library:
        for step in range(40):
            what = rng.choice(["write", "write", "tag", "tidy", "close", "copy", "back", "nothing"])
            if what == "write":
                program.execute("UPDATE Image SET Prompt = ? WHERE Id = ?", [f"step {step}", rng.choice((1, 2, 9))])
            elif what == "tag":
                program.execute("INSERT INTO Album (Name) VALUES (?)", [f"album {step}"])
            elif what == "tidy":
                program.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                program.execute("VACUUM")
            elif what in ("close", "copy", "back"):
                program.close()
                library.catalog.close()  # as a later run would
                if what == "copy":
                    copies.append(newest.read_bytes())
                elif what == "back" and copies:
                    newest.write_bytes(rng.choice(copies))
                    for end in ("-wal", "-shm"):
                        newest.with_name(newest.name + end).unlink(missing_ok=True)
                program = sqlite3.connect(newest, isolation_level=None)
                program.execute("SELECT COUNT(*) FROM Image").fetchall()
            when += 60
            for end in ("", "-wal"):
                if (file := newest.with_name(newest.name + end)).exists():
                    os.utime(file, (when, when))
            library.sync()
            with closing(SqliteCatalog(newest)) as there:
                assert library.images() == there.images()
                assert library.clusters() == there.clusters()
            read.clear()
            assert [(c.added, c.changed, c.removed) for c in library.sync()] == [(0, 0, 0)] * 3
            assert not read or what in ("close", "copy", "back", "tidy")  # SQLite may tidy up when a program leaves
    program.close()


def test_a_file_that_was_just_written_is_read_again(newest: Path, tmp_path: Path) -> None:
    """In WAL mode a write in the same moment may leave the times as they are."""
    with closing(SqliteCatalog(newest)) as catalog:
        assert catalog.stamp() == ""
        os.utime(newest, (1_700_000_000, 1_700_000_000))
        first = catalog.stamp()
        assert first
        assert catalog.stamp() == first
        stock.run(newest, "UPDATE Image SET Rating = 1")
        assert catalog.stamp() != first
    with closing(SqliteCatalog(tmp_path / "nowhere.db")) as missing:
        assert missing.stamp() == ""
