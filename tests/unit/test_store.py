"""The library on disk: what survives, what heals, and what is told."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luna_dt import Identity, Library
from luna_dt.errors import (
    BadInput,
    BadQuery,
    NotSearchable,
    PictureMissing,
    StoreError,
    UnknownCluster,
    UnknownImage,
    UnknownLayer,
    WeightsError,
)
from luna_dt.maps.cache import MapCache, MapKey
from luna_dt.mirror.mirrored import MirroredCatalog
from luna_dt.records import Batch, Captions, Cluster, ImageRecord, Member, StoredMap
from luna_dt.store import COMPACT_ROWS, Store
from luna_dt.store.vectors import Layer
from tests.conftest import IDENTITY, beside, fill, image_batch, unit_vectors


def ids_of(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(numbers, np.int64)


def test_a_record_comes_back_whole(library: Library, store: Store) -> None:
    record = ImageRecord(
        2**40, r"D:\Ünï\x.png", "a, \"b\"\n'c'", "bad", 832, 1216, "pony", "ab12", "Euler a", "karras", 28, 6.5,
        2**62, 9, 7.25, True, True, False, False, True, "2026-01-02T03:04:05", "mine", "[]", ("cat", "red, hat"),
    )  # fmt: skip
    store.put("images", Batch(ids_of(record.id), ids_of(-(2**63)), [record]))
    store.put("captions", Batch(ids_of(record.id), ids_of(1), [Captions(record.id, tags=record.tags)]))
    assert library.image(record.id) == record
    assert store.digests("images")[1].tolist() == [-(2**63)]


def test_captions_that_are_damaged_say_nothing(library: Library, store: Store) -> None:
    ids = ids_of(*range(1, 8))
    store.put("images", image_batch(ids))
    store.put("captions", Batch(ids, ids, [Captions(i, combined="cat", tags=("cat",)) for i in ids.tolist()]))
    store.put("clusters", Batch(ids[:1], ids[:1], [Cluster(1, "all", 7, tuple(Member(i, 1.0) for i in ids.tolist()))]))
    for kind in ("images", "captions", "clusters"):
        store.finish(kind, "a test")
    mirrored = MirroredCatalog(store)

    def shared() -> list[tuple[str, ...]]:
        return [row.tags for batch in mirrored.fetch("captions", ids) for row in batch.rows]  # type: ignore[union-attr]

    asks: list[Callable[[], object]] = [
        lambda: library.image(3).tags, lambda: library.images(limit=10)[2].tags, lambda: dict(store.tags()).get("rat", ()),
        lambda: {each.image.id: each.image.tags for each in library.cluster_images(1)}[3], lambda: shared()[6:],
    ]  # fmt: skip
    for ask in asks:
        with contextlib.closing(sqlite3.connect(library.settings.home / "library.db")) as db:
            db.execute("INSERT OR REPLACE INTO captions SELECT 3, wd14_tags, joytag_tags, joycaption, combined, tags, digest, checksum FROM captions WHERE image_id = 1")  # fmt: skip
            db.execute("UPDATE captions SET tags = 'rat' WHERE image_id = 3")
            db.commit()
        assert not ask()
        assert store.digests("captions")[0].tolist() == [1, 2, 4, 5, 6, 7]  # so that they are taken anew
        assert library.image(2).tags == ("cat",)


def test_unknown_things_are_told(library: Library) -> None:
    with pytest.raises(UnknownImage, match="image 5"):
        library.image(5)
    with pytest.raises(UnknownImage, match="image 5"):
        library.captions(5)
    with pytest.raises(UnknownCluster, match="cluster 5"):
        library.cluster_images(5)
    with pytest.raises(NotSearchable, match="luna-dt sync"):
        library.search(image_id=1)
    with pytest.raises(UnknownLayer, match="layers are: visual"):
        library.search(image_id=1, layer="smell")


def test_captions_and_clusters(library: Library, store: Store) -> None:
    records = [ImageRecord(i, f"{i}.png", rating=rating) for i, rating in ((1, 10), (2, None), (3, 4))]
    store.put("images", Batch(ids_of(1, 2, 3), ids_of(1, 1, 1), records))
    store.put("captions", Batch(ids_of(1), ids_of(1), [Captions(1, "a, b", "b", "a cat", "a, b, a cat")]))
    cluster = Cluster(7, "Luna", 3, (Member(1, 0.5), Member(2, 0.9), Member(3, 0.7)))
    store.put("clusters", Batch(ids_of(7), ids_of(1), [cluster]))
    assert library.captions(1).joycaption == "a cat"
    assert library.captions(2) == Captions(2)
    assert library.clusters() == [Cluster(7, "Luna", 3)]
    assert [c.image.id for c in library.cluster_images(7, sort="confidence")] == [2, 3, 1]
    assert [c.image.id for c in library.cluster_images(7, sort="quality")] == [1, 3, 2]
    assert [c.image.id for c in library.cluster_images(7, min_quality=2)] == [1, 3]
    shuffled = [[c.image.id for c in library.cluster_images(7, sort="random", seed=seed)] for seed in range(20)]
    assert all(sorted(ids) == [1, 2, 3] for ids in shuffled)
    assert len({tuple(ids) for ids in shuffled}) > 1
    assert shuffled[3] == [c.image.id for c in library.cluster_images(7, sort="random", seed=3)]
    with pytest.raises(BadInput, match="quality, confidence, random, diverse"):
        library.cluster_images(7, sort="beauty")


def test_diverse_images_are_each_the_farthest_from_those_before(library: Library, store: Store) -> None:
    directions = np.array([[1, 0], [1, 0.05], [1, -0.05], [0, 1], [-1, 0]], np.float32)
    fill(library, directions)
    members = tuple(Member(i, 1 - i / 10) for i in (1, 2, 3, 4, 5, 6))
    store.put("images", image_batch(ids_of(6)))  # known, but without a vector
    store.put("clusters", Batch(ids_of(7), ids_of(1), [Cluster(7, "Luna", 6, members)]))
    assert [c.image.id for c in library.cluster_images(7, sort="diverse", limit=3)] == [1, 5, 4]
    assert [c.image.id for c in library.cluster_images(7, sort="diverse")][-1] == 6


def test_a_fingerprint_changes_with_what_it_speaks_of_and_with_nothing_else(library: Library, store: Store) -> None:
    fill(library, unit_vectors(3))

    def prints() -> list[str]:
        return [
            library.fingerprint(image_id=1),
            library.fingerprint(image_id=2),
            library.fingerprint("embeddings.visual"),
        ]

    def changed(kind: str, batch: Batch) -> list[bool]:
        before = prints()
        store.put(kind, batch)
        return [a != b for a, b in zip(before, prints(), strict=True)]

    assert changed("images", image_batch(ids_of(1), digest=2, rating=9)) == [True, False, False]
    assert changed("captions", Batch(ids_of(2), ids_of(5), [Captions(2, "a")])) == [False, True, False]
    assert changed("embeddings.visual", Batch(ids_of(3), ids_of(5), unit_vectors(1))) == [False, False, True]
    assert prints() == prints()


def test_a_querys_fingerprint_changes_with_what_it_asks_for_and_with_nothing_else(
    library: Library, store: Store
) -> None:
    fill(library, unit_vectors(3))
    maps = MapCache(store, 10**6)
    queries = ("cat", "tag: cat", "in_album: yes", "cluster: Luna", "has: vectors.visual", "has: map", "date: today")

    def changed(change: Callable[[], object]) -> set[str]:
        before = {query: library.fingerprint(query=query) for query in queries}
        whole = library.fingerprint()
        change()
        assert library.fingerprint() != whole
        return {query for query in queries if library.fingerprint(query=query) != before[query]}

    def put(kind: str, rows: Any) -> set[str]:
        return changed(lambda: store.put(kind, Batch(ids_of(2), ids_of(5), rows)))

    assert put("captions", [Captions(2, "a")]) == {"tag: cat"}
    assert put("clusters", [Cluster(2, "Luna", 1, (Member(2, 0.5),))]) == {"in_album: yes", "cluster: Luna"}
    assert put("embeddings.visual", unit_vectors(1)) == {"has: vectors.visual"}
    assert changed(lambda: maps.keep(MapKey.of(4, "canny", {}), "w", StoredMap(b"a map"))) == {"has: map"}
    assert changed(lambda: store.put_files([(2, "now", 4)])) == {"has: map"}
    assert changed(lambda: store.put("images", image_batch(ids_of(1), digest=2))) == {*queries}

    with Library(settings=library.settings.replace(hide=("nsfw",))) as hiding:
        assert all(hiding.fingerprint(query=query) != library.fingerprint(query=query) for query in queries)
    assert library.fingerprint(query="cat") == library.fingerprint(query="cat")
    with pytest.raises(BadQuery):
        library.fingerprint(query="steps: many")


def test_what_dt_itself_answers_may_always_have_changed(library: Library) -> None:
    assert library.fingerprint(query="cat") != library.fingerprint(query="cat")


def test_an_image_takes_everything_with_it(library: Library, store: Store) -> None:
    fill(library, unit_vectors(3))
    store.put("captions", Batch(ids_of(2), ids_of(1), [Captions(2, "a")]))
    store.put("clusters", Batch(ids_of(7), ids_of(1), [Cluster(7, "", 1, (Member(2, 0.5),))]))
    store.drop("images", ids_of(2))
    assert store.digests("embeddings.visual")[0].tolist() == [1, 3]
    assert store.digests("captions")[0].tolist() == []
    assert library.cluster_images(7) == []
    store.put("images", image_batch(ids_of(2)))  # DT has it again, and never changed the cluster
    assert [c.image.id for c in library.cluster_images(7)] == [2]


def test_a_number_too_large_for_sqlite_is_told(library: Library) -> None:
    fill(library, unit_vectors(1))
    with pytest.raises(BadInput, match="too large"):
        library.images("seed: 18446744073709551616")  # one more than the largest without a sign


def test_what_is_half_synced_is_used_only_while_dt_is_away(library: Library, store: Store) -> None:
    store.put("images", image_batch(ids_of(1, 2)))
    store.prepare_layer("visual", IDENTITY)
    store.put("embeddings.visual", Batch(ids_of(1, 2), ids_of(1, 1), unit_vectors(2)))
    assert not library.mirrors("images")
    assert len(library.images()) == len(library.search(vector=unit_vectors(1)[0])) == 2
    store.finish("embeddings.visual", "a test")
    assert library.mirrors("embeddings.visual")
    store.remove_layer("visual")
    assert not library.mirrors("embeddings.visual")
    for _ in range(2):
        with pytest.raises(NotSearchable):
            library.search(vector=unit_vectors(1)[0], engine="local")


def test_only_plain_files_are_read(library: Library, store: Store) -> None:
    paths = ["/dev/zero", str(library.settings.home)]
    records = [ImageRecord(i, path) for i, path in enumerate(paths, 1)]
    store.put("images", Batch(ids_of(1, 2), ids_of(1, 1), records))
    for i in (1, 2):
        with pytest.raises(PictureMissing, match="No such file"):
            library.file(i)


def test_a_changed_vector_is_a_new_row_and_readers_keep_theirs(library: Library, store: Store) -> None:
    vectors = unit_vectors(3)
    fill(library, vectors)
    before = store.layer("visual")
    store.put("embeddings.visual", Batch(ids_of(2), ids_of(9), -vectors[1:2]))
    after = store.layer("visual")
    assert np.array_equal(before.vectors[1], vectors[1])
    assert after.rows == 4
    assert after.ids.tolist() == [1, -1, 3, 2]
    assert np.array_equal(after.vectors[3], -vectors[1])
    assert after.generation != before.generation


def test_bytes_that_no_transaction_named_are_written_over(library: Library, store: Store) -> None:
    """What a kill between writing rows and committing leaves behind."""
    vectors = unit_vectors(5)
    fill(library, vectors[:3])
    file = store.layer("visual").file
    with file.open("ab") as out:
        out.write(b"\xff" * 100)
    fill(library, vectors[3:], first_id=4)
    layer = store.layer("visual")
    assert layer.ids.tolist() == [1, 2, 3, 4, 5]
    assert np.array_equal(layer.vectors, vectors)


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    with pytest.raises(AttributeError):
        store.put("images", Batch(ids_of(1, 2), ids_of(1, 1), [ImageRecord(1, "a"), object()]))  # type: ignore[arg-type]
    assert store.find() == []


def test_unusable_vectors_are_remembered_but_not_kept(library: Library, store: Store) -> None:
    vectors = unit_vectors(4)
    vectors[1], vectors[2, 3] = 0, np.nan
    fill(library, vectors)
    state = library.status().layers[0].state
    assert (state.count, state.unusable) == (2, 2)
    assert store.digests("embeddings.visual")[0].tolist() == [1, 2, 3, 4]
    assert {hit.id for hit in library.search(vector=vectors[0])} == {1, 4}


def test_dead_rows_are_cleared_away(library: Library, store: Store) -> None:
    rows = 2 * COMPACT_ROWS + 10
    vectors = unit_vectors(rows, dim=4)
    ids = fill(library, vectors)
    store.put("embeddings.visual", Batch(ids, np.full(rows, 2, np.int64), vectors[::-1].copy()))
    old = store.layer("visual")
    assert old.rows == 2 * rows
    (old.file.parent / "visual-1234abcd.rows.123abc.part").touch()  # as a process that is killed leaves it
    store.compact("visual")
    new = store.layer("visual")
    assert new.rows == rows
    assert np.array_equal(new.vectors[np.argsort(new.ids)], vectors[::-1])
    assert np.array_equal(old.vectors[rows:], vectors[::-1])  # a reader's map outlives the file
    assert {file.stem for file in new.file.parent.iterdir()} == {new.file.stem}


def visual_of(home: Path) -> Layer:
    with contextlib.closing(Store(home)) as store:
        return store.layer("visual")


def test_what_the_rows_are_is_read_from_beside_the_vectors(tmp_path: Path) -> None:
    with Library(tmp_path, dt="http://127.0.0.1:9") as library:
        fill(library, unit_vectors(31))
    first = visual_of(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "library.db")) as db:  # so that it can be told where it was read
        db.execute("UPDATE vectors SET norm = 7")
        db.commit()
    again = visual_of(tmp_path)
    for name in ("ids", "checksums", "norms"):
        assert np.array_equal(getattr(again, name), getattr(first, name))
        assert getattr(again, name).dtype == getattr(first, name).dtype
    assert not len(again.damaged(np.arange(31)))
    again.ids[3] = -1  # who finds damage takes a row out


@pytest.mark.parametrize("harm", ["gone", "cut", "longer", "flip", "folder", "another layer's"])
def test_a_damaged_register_is_not_read(tmp_path: Path, harm: str) -> None:
    with Library(tmp_path, dt="http://127.0.0.1:9") as library:
        ids = fill(library, unit_vectors(31))
        fill(library, unit_vectors(31, seed=2), first_id=40, layer="style")
    with contextlib.closing(Store(tmp_path)) as store:
        store.layer("style")
    visual_of(tmp_path)
    (file,) = (tmp_path / "vectors").glob("visual-*.rows")
    data = bytearray(file.read_bytes())
    if harm in ("gone", "folder"):
        file.unlink()
    if harm == "folder":
        file.mkdir()
    elif harm == "cut":
        file.write_bytes(data[:-20])
    elif harm == "longer":
        file.write_bytes(data + bytes(20))
    elif harm == "flip":
        data[40] ^= 1
        file.write_bytes(data)
    elif harm == "another layer's":
        (other,) = (tmp_path / "vectors").glob("style-*.rows")
        file.write_bytes(other.read_bytes())
    assert np.array_equal(visual_of(tmp_path).ids, ids)
    assert np.array_equal(visual_of(tmp_path).ids, ids)


def test_a_register_of_another_time_is_not_read(tmp_path: Path) -> None:
    """An older copy of ``library.db`` was put back, and other vectors came than before, as many, into the same rows."""
    home = tmp_path / "home"
    with Library(home, dt="http://127.0.0.1:9") as library:
        fill(library, unit_vectors(10))
    shutil.copyfile(home / "library.db", tmp_path / "older.db")
    for first_id in (50, 70):
        shutil.copyfile(tmp_path / "older.db", home / "library.db")
        with Library(home, dt="http://127.0.0.1:9") as library:
            fill(library, unit_vectors(5, seed=first_id), first_id)
        assert visual_of(home).ids.tolist() == [*range(1, 11), *range(first_id, first_id + 5)]


def test_another_identity_starts_the_layer_anew(library: Library, store: Store) -> None:
    fill(library, unit_vectors(3))
    other = Identity("other", "", "image", "projected", "crop", 16)
    store.prepare_layer("visual", other)
    assert store.layer_identity("visual") == other
    assert len(store.digests("embeddings.visual")[0]) == 0


def test_a_lost_vectors_file_is_told_and_fetched_anew(library: Library, store: Store) -> None:
    fill(library, unit_vectors(3))
    file = store.layer("visual").file
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(StoreError, match=r"visual-.*missing or shorter"):
        store.layer("visual")
    store.prepare_layer("visual", IDENTITY)
    assert store.layer("visual").rows == 0


def test_a_newer_library_is_not_touched(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "library.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="newer version"):
        Store(tmp_path)


def test_a_library_of_the_first_format_goes_on(tmp_path: Path) -> None:
    with Library(tmp_path, dt="http://127.0.0.1:9") as library:
        fill(library, unit_vectors(5))
    with sqlite3.connect(tmp_path / "library.db") as connection:
        connection.executescript(
            "ALTER TABLE layers DROP COLUMN local; ALTER TABLE layers DROP COLUMN verdict; DROP TABLE files;"
            "DROP TABLE outbox; DROP TABLE batch_items; DROP TABLE batches; DROP TABLE maps; DROP TABLE weights;"
            "DROP TABLE set_aside; DROP TABLE left_out; DROP TABLE home; DROP TABLE mirrored; "
            "ALTER TABLE images DROP COLUMN checksum; ALTER TABLE images DROP COLUMN hash; ALTER TABLE captions DROP COLUMN checksum; "
            "ALTER TABLE clusters DROP COLUMN checksum; ALTER TABLE vectors DROP COLUMN checksum; ALTER TABLE layers DROP COLUMN damaged; PRAGMA user_version = 1;"
        )
    connection.close()
    for _ in range(2):
        with Library(tmp_path, dt="http://127.0.0.1:9") as library, beside(library) as store:
            assert [hit.id for hit in library.search(vector=unit_vectors(5)[3], top_k=1)] == [4]
            assert not library.status().layers[0].state.local
            assert store.files() == {}


def test_programs_may_open_a_new_home_at_once(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom luna_dt.store import Store\n"
        "for line in sys.stdin:\n    Store(Path(line.strip())).close()\n    print('opened', flush=True)\n"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with contextlib.ExitStack() as running:
        programs: list[Any] = [
            running.enter_context(subprocess.Popen([sys.executable, "-c", code], **pipes)) for _ in range(4)
        ]
        for n in range(20):
            for program in programs:
                program.stdin.write(f"{tmp_path / str(n)}\n")
            assert [program.stdout.readline() for program in programs] == ["opened\n"] * 4


def test_a_file_that_is_no_library_is_told(tmp_path: Path) -> None:
    (tmp_path / "library.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(StoreError, match=r"library\.db"):
        Store(tmp_path)


def test_only_one_may_sync(library: Library, store: Store) -> None:
    with store.sole_writer(), pytest.raises(StoreError, match="another sync"):
        library.sync()


def test_names_with_markup_and_case(library: Library, store: Store) -> None:
    store.put("images", image_batch(ids_of(1), negative_prompt="ÄRGER 100%"))
    store.finish("images", "a test")
    assert [i.id for i in library.images("negative: ärger 100%")] == [1]
    assert library.images("negative: 100_") == []


def test_a_file_of_weights_is_read_again_only_when_it_has_changed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "a.pth"
    weights.write_bytes(b"one")
    first = store.sha256(weights)
    assert first == hashlib.sha256(b"one").hexdigest()
    with monkeypatch.context() as unread:
        unread.setattr("luna_dt.files.sha256", None)
        assert store.sha256(weights) == first
    weights.write_bytes(b"three")
    assert store.sha256(weights) == hashlib.sha256(b"three").hexdigest()


def test_a_file_that_cannot_be_read_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.pth cannot be read"):
        store.sha256(tmp_path / "gone.pth")


def test_an_image_is_found_at_its_path_in_either_form_of_unicode(store: Store) -> None:
    paths = [unicodedata.normalize("NFD", "D:\\Ünï\\é.png"), unicodedata.normalize("NFC", "/srv/ü.png"), "/srv/U.png"]
    records = [ImageRecord(i, path) for i, path in enumerate(paths, 1)]
    store.put("images", Batch(ids_of(1, 2, 3), ids_of(1, 1, 1), records))
    asked = [unicodedata.normalize("NFC", "d:/ünï/É.png"), unicodedata.normalize("NFD", "/srv/ü.png"), "/srv/u.png"]
    found = store.at_paths(asked)
    assert {path: record.id for path, record in found.items()} == {asked[0]: 1, asked[1]: 2}


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Makes the home of ``library`` one that can only be read, for whoever asks first; gives it."""
    home, may = tmp_path / "home", os.access

    def seal() -> Path:
        monkeypatch.setattr(
            os,
            "access",
            lambda path, mode: not (mode == os.W_OK and Path(path).is_relative_to(home)) and may(path, mode),
        )
        return home

    return seal


def content(home: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in home.rglob("*") if file.is_file() and file.suffix != ".lock"}


def test_a_home_that_can_only_be_read_is_searched(library: Library, sealed: Callable[[], Path]) -> None:
    fill(library, unit_vectors(3000))
    library.index()
    expected = [hit.id for hit in library.search(image_id=5)]
    library.close()
    home = sealed()
    before = content(home)
    with Library(home, dt="http://127.0.0.1:9") as reader:
        assert [hit.id for hit in reader.search(image_id=5)] == expected
        reader.wait()
        assert reader.status().layers[0].indexed == 3000
        assert [hit.id for hit in reader.search(image_id=5)] == expected
        assert (len(reader.images(limit=9)), reader.status().counts["images"][0]) == (9, 3000)
        for change in (reader.sync, lambda: reader.record({"operation": "img2img"})):
            with pytest.raises(StoreError, match="can only be read"):
                change()
    assert content(home) == before


def test_what_must_be_done_before_a_home_can_only_be_read_is_told(library: Library, sealed: Callable[[], Path]) -> None:
    library.close()
    home = sealed()
    with sqlite3.connect(home / "library.db") as connection:
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    with pytest.raises(StoreError, match=r"is of format 3.*once where it can be written"):
        Store(home)
    (home / "library.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(StoreError, match="cannot be read"):
        Store(home)
