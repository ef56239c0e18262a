"""A damaged library.db: what stands on no damaged page is saved as it was, and the damaged file is kept."""

from __future__ import annotations

import io
import json
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from luna_dt import Library, Rescued
from luna_dt.cli import main
from luna_dt.errors import StoreError
from luna_dt.records import Batch, Captions, Cluster, Member
from luna_dt.store import Store
from luna_dt.store.pages import Pages
from tests.conftest import IDENTITY, image_batch, unit_vectors

IMAGES, RECORDS, DAMAGES = 300, 120, 36
TABLES = ("images", "captions", "clusters", "cluster_members", "layers", "vectors", "files", "outbox", "batches",
          "batch_items", "weights", "set_aside", "left_out")  # fmt: skip
PARENTS = {"vectors": "layers", "batch_items": "batches", "cluster_members": "clusters"}
WORKFLOW = {
    "1": {"class_type": "LunaDTImageLoader", "inputs": {"image_id": 1}},
    "2": {"class_type": "KSampler", "inputs": {"seed": 1, "note": "ü" * 9000}},
}
PAGE = 4096
NOWHERE = "http://127.0.0.1:9"

Rows = dict[str, dict[Any, tuple[Any, ...]]]  # by table and key
Places = dict[str, dict[Any, set[int]]]  # the pages on which each row stands


@dataclass(frozen=True)
class Made:
    """A library as it lies on the disk: closed, or with all that was written last still in its log (``logged``)."""

    closed: Path
    logged: Path
    rows: Rows
    places: Places  # of each row in ``closed``
    logged_places: Places
    found: list[tuple[int, float]]


def search(home: Path) -> list[tuple[int, float]]:
    with Library(home, dt=NOWHERE) as library:
        hits = library.search(vector=unit_vectors(1, seed=5)[0], layer="style", top_k=20, engine="local")
        return [(hit.id, hit.similarity) for hit in hits]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    home, logged, closed = (tmp_path_factory.mktemp("made") / name for name in ("home", "logged", "closed"))
    ids = np.arange(1, IMAGES + 1, dtype=np.int64)
    with Library(home, dt=NOWHERE) as library:
        with closing(Store(home)) as store:
            store.put("images", image_batch(ids))
            captions = [Captions(int(i), "a, b", "b", f"a cät {i} " + "long " * (i % 60) * 30, "a") for i in ids]
            store.put("captions", Batch(ids, ids * 7, captions))
            clusters = [
                Cluster(c, f"Lüna {c}", 40, tuple(Member(int(i), float(i) / 301) for i in ids[:40])) for c in (3, 9)
            ]
            store.put("clusters", Batch(np.array([3, 9]), np.array([1, 1]), clusters))
            for layer, local in (("visual", False), ("style", True)):
                store.prepare_layer(layer, IDENTITY, local)
                store.put(f"embeddings.{layer}", Batch(ids, ids * 11, unit_vectors(IMAGES, seed=local) * 3))
            for kind in ("images", "captions", "clusters", "embeddings.visual"):
                store.finish(kind, "a test")
            store.put_files((int(i), f"{i} 100", int(i) * 11) for i in ids)
            store.put_aside("images", [(2**40, 5, "its width is none")])
            store.put_left_out(["column x"])
            with store.writing() as db:
                db.execute("INSERT INTO weights VALUES ('a.pth', '7 1', 'ff')")
        with closing(sqlite3.connect(home / "library.db")) as db:  # from here on it is in the log alone
            assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
        batch = library.batches.create([1, 2, 3, 4, 5], "img2img", WORKFLOW, NOWHERE, seeds="7")
        assert len(batch.items) == 5
        with closing(Store(home)) as store:
            store.put("images", image_batch(ids[50:70], digest=2, rating=7))
            store.put("embeddings.style", Batch(ids[90:99], ids[90:99] * 11, unit_vectors(9, seed=9)))
            for i in range(RECORDS):  # as Outbox.put stores them, but that nobody sends them meanwhile
                made = {"key": f"key-{i}", "prompt": f"größer {i}", "source_image_id": i % 9 + 1, "seed": i}
                record = {"operation": "img2img", **made}
                with store.writing() as db:
                    db.execute(
                        "INSERT INTO outbox (key, source, record, state, due) VALUES (?, ?, ?, 'parked', 0.5)",
                        [f"key-{i}", i % 9 + 1, json.dumps(record)],
                    )
        shutil.copytree(home, logged, ignore=shutil.ignore_patterns("*.lock", "*-shm"))
    shutil.copytree(home, closed, ignore=shutil.ignore_patterns("*.lock"))
    assert (logged / "library.db-wal").stat().st_size > 300_000
    assert not (closed / "library.db-wal").exists()
    return Made(closed, logged, rows_of(closed), places(closed), places(logged), search(home))


def rows_of(home: Path) -> Rows:
    """Every row of a library by its table and key, read by SQLite."""
    with closing(sqlite3.connect(home / "library.db")) as db:
        found: Rows = {}
        for table in TABLES:
            keys = [i for i, each in enumerate(db.execute(f"PRAGMA table_info({table})")) if each[5]]
            found[table] = {tuple(row[i] for i in keys): row for row in db.execute(f"SELECT * FROM {table}")}
    return found


def places(home: Path) -> Places:
    """On which pages each row of an undamaged library stands."""
    found: Places = {}
    with closing(sqlite3.connect(f"file:{home / 'library.db'}?mode=ro", uri=True)) as db:
        roots = dict(db.execute("SELECT name, rootpage FROM sqlite_master WHERE type = 'table'"))
        infos = {table: list(db.execute(f"PRAGMA table_info({table})")) for table in TABLES}
    with (home / "library.db").open("rb") as file:
        pages = Pages(file, home / "library.db-wal")
        for table in TABLES:
            keys = [i for i, each in enumerate(infos[table]) if each[5]]
            rowids = table not in ("vectors", "cluster_members", "batch_items", "set_aside", "left_out")
            numbers, bad = pages.tree(roots[table], rowids, set())
            assert not bad
            found[table] = {}
            for number in numbers:
                pages.overflow.clear()
                rows = list(pages.rows(pages[number]))
                for row in rows:
                    assert row is not None
                    values = [row.rowid if value is None and i in keys else value for i, value in enumerate(row.values)]
                    found[table][tuple(values[i] for i in keys)] = {number, *pages.overflow}
    return found


@pytest.fixture
def home(made: Made, tmp_path: Path) -> Path:
    return shutil.copytree(made.closed, tmp_path / "home")


@pytest.fixture
def logged(made: Made, tmp_path: Path) -> Path:
    return shutil.copytree(made.logged, tmp_path / "home")


Damage = Callable[[random.Random, bytearray, int, int], set[int]]


def flip(draw: random.Random, data: bytearray, start: int, size: int) -> set[int]:
    at = draw.sample(range(start, len(data)), draw.randint(1, 8))
    for each in at:
        data[each] ^= 1 << draw.randrange(8)
    return {(each - start) // size for each in at}


def overwrite(draw: random.Random, data: bytearray, start: int, size: int) -> set[int]:
    pages = set(draw.sample(range((len(data) - start) // size), draw.randint(1, 3)))
    for page in pages:
        junk = draw.choice([bytes(size), draw.randbytes(size), b"\xff" * size])
        data[start + page * size : start + (page + 1) * size] = junk
    return pages


def half(draw: random.Random, data: bytearray, start: int, size: int) -> set[int]:
    page = draw.randrange((len(data) - start) // size)
    data[start + page * size + size // 2 : start + (page + 1) * size] = bytes(size - size // 2)
    return {page}


def cut(draw: random.Random, data: bytearray, start: int, size: int) -> set[int]:
    at = draw.randrange(start, len(data))
    gone = set(range((at - start) // size, (len(data) - start) // size + 1))
    del data[at:]
    return gone


def swap(draw: random.Random, data: bytearray, start: int, size: int) -> set[int]:
    """Nothing is gone, it is only elsewhere; but the first page can be nowhere else."""
    one, other = draw.sample(range(1, (len(data) - start) // size), 2)
    a, b = (slice(start + page * size, start + (page + 1) * size) for page in (one, other))
    data[a], data[b] = data[b], data[a]
    return {one, other}


def head(draw: random.Random, data: bytearray, start: int, size: int) -> set[int]:
    length = draw.choice([4, 16, 32, 100]) if not start else 32
    data[:length] = draw.choice([bytes(length), draw.randbytes(length)])
    return set()


KINDS: list[Damage] = [flip, overwrite, half, cut, swap, head]


def rescued(home: Path) -> Rescued:
    """Rescues a library and sees to it that what was there is kept, byte by byte, and that the new one is sound."""
    before = {file.name: file.read_bytes() for file in home.glob("library.db*")}
    vectors = sorted(file.read_bytes() for file in (home / "vectors").iterdir())
    found = Library.rescue(home)
    assert sorted(file.read_bytes() for file in (home / "vectors").iterdir()) == vectors
    if found.kept is None:
        assert {file.name: file.read_bytes() for file in home.glob("library.db*")} == before
    else:
        for name, content in before.items():
            assert found.kept.with_name(name.replace("library.db", found.kept.name)).read_bytes() == content
    with closing(sqlite3.connect(home / "library.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    assert not list(home.glob("*.part*"))
    return found


def lacking(home: Path, before: Rows, where: Places, bad: set[int]) -> dict[str, set[Any]]:
    """The rows that stood on no bad page, and whose parents did not, and that are not there as they were."""
    after = rows_of(home)
    lacks = {}
    for table in TABLES:
        parent = PARENTS.get(table)
        missing = {
            key
            for key, row in before[table].items()
            if after[table].get(key) != row
            and not where[table][key] & bad
            and (parent is None or not where[parent][key[:1]] & bad)
        }
        if missing:
            lacks[table] = missing
    return lacks


def altered(home: Path, before: Rows, where: Places, kind: Damage) -> list[Any]:
    """The rows that are not as they were put in, beyond what nobody can see: flipped bits, a row in the midst of which
    the page is torn, and the rest of a long row, on a page of its own, that is another's."""
    after = rows_of(home)
    rows = ((table, key, row) for table in TABLES for key, row in after[table].items())
    other = [(table, key, row) for table, key, row in rows if before[table].get(key) != row]
    unseen = 8 if kind is flip else 1 if kind in (cut, half) else 0
    short = [each for each in other if len(where[each[0]].get(each[1], ())) < 2]
    return short[unseen:]


@pytest.mark.parametrize("seed", range(DAMAGES))
def test_what_stands_on_no_damaged_page_is_saved_as_it_was(made: Made, home: Path, seed: int) -> None:
    draw, kind = random.Random(seed), KINDS[seed % len(KINDS)]
    before, where = made.rows, made.places
    file = home / "library.db"
    data = bytearray(file.read_bytes())
    bad = {page + 1 for page in kind(draw, data, 0, PAGE)}
    same = data == file.read_bytes()
    file.write_bytes(data)
    found = rescued(home)
    assert lacking(home, before, where, bad) == {}
    assert altered(home, before, where, kind) == []
    said = {each.table: each.saved for each in found.tables}
    assert {table: len(rows) for table, rows in rows_of(home).items()} == {table: said[table] for table in TABLES}
    assert found.kept is not None or kind in (flip, swap) or same  # of a letter that became another nobody can know
    check_use(home)


def check_use(home: Path) -> None:
    """A rescued library opens, tells what is in it, searches, and takes new records."""
    with Library(home, dt=NOWHERE) as library:
        library.status()
        library.batches.all()
        count = len(library.outbox.entries())
        if library.status().counts["images"][0]:
            library.images(limit=IMAGES)
        if any(layer.state.name == "style" and layer.state.count for layer in library.status().layers):
            library.search(vector=unit_vectors(1)[0], layer="style", engine="local")
        library.outbox.drop([library.record({"key": "new"}).position], "a test")
        assert len(library.outbox.entries()) == count + 1


def last_frames(log: bytes) -> dict[int, int]:
    """Which frame of a log has a page's newest version."""
    frames = range((len(log) - 32) // (PAGE + 24))
    return {int.from_bytes(log[(at := 32 + i * (PAGE + 24)) : at + 4], "big"): i for i in frames}


@pytest.mark.parametrize("seed", range(DAMAGES))
def test_what_stands_in_no_damaged_frame_of_the_log_is_saved_as_it_was(made: Made, logged: Path, seed: int) -> None:
    draw, kind = random.Random(seed), KINDS[seed % len(KINDS)]
    before, where = made.rows, made.logged_places
    file = logged / "library.db-wal"
    data = bytearray(file.read_bytes())
    frames = last_frames(bytes(data))
    damaged = kind(draw, data, 32, PAGE + 24)
    file.write_bytes(data)
    found = rescued(logged)
    if kind is not cut:  # then it ends sooner, and whatever was written later is not there
        bad = {page for page, frame in frames.items() if frame in damaged} if kind is not swap else set()
        assert lacking(logged, before, where, bad) == {}
        assert found.kept is not None
        assert 0 < found.log <= 2 * len(damaged) if kind not in (swap, head) else found.log == 0
    else:
        records = list(rows_of(logged)["outbox"].values())
        assert records == list(before["outbox"].values())[: len(records)]
    check_use(logged)


def cut_out(home: Path, pages: set[int]) -> None:
    with (home / "library.db").open("rb+") as file:
        for page in pages:
            file.seek((page - 1) * PAGE)
            file.write(bytes(PAGE))


def read_all(home: Path) -> None:
    with Library(home, dt=NOWHERE) as library:
        library.status()
        library.captions(5)
        library.images()


@pytest.mark.parametrize("table", ["images", "captions", "kinds", "vectors"])
def test_damage_to_one_table_takes_nothing_of_the_others(made: Made, home: Path, table: str) -> None:
    with closing(sqlite3.connect(home / "library.db")) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", [table]).fetchone()
    pages = {root, *(page for where in made.places.get(table, {}).values() for page in where)}
    cut_out(home, pages)
    with pytest.raises(StoreError) as told:
        read_all(home)
    assert f'do not delete it: close what uses it and run luna-dt --home "{home}" rescue' in str(told.value)
    found = rescued(home)
    after = rows_of(home)
    assert {other: rows for other, rows in after.items() if other != table} == {
        other: rows for other, rows in made.rows.items() if other != table
    }
    assert after.get(table, {}) == {}
    assert {each.table for each in found.tables if each.pages} == {table}
    assert not found.whole
    with Library(home, dt=NOWHERE) as library:
        assert [entry.generation.key for entry in library.outbox.entries()] == [f"key-{i}" for i in range(RECORDS)]
        assert [len(batch.items) for batch in library.batches.all()] == [5]
    if table in ("captions", "kinds"):
        assert search(home) == made.found


def test_inner_pages_and_the_list_of_tables_can_be_done_without(made: Made, home: Path) -> None:
    with closing(sqlite3.connect(home / "library.db")) as db:
        roots = {root for (root,) in db.execute("SELECT rootpage FROM sqlite_master WHERE rootpage")}
    data = (home / "library.db").read_bytes()
    inner = {page for page in roots if data[(page - 1) * PAGE] == 5}
    assert len(inner) >= 4
    cut_out(home, {1, *inner})
    rescued(home)
    assert rows_of(home) == made.rows
    assert search(home) == made.found


def test_what_was_deleted_stays_deleted(made: Made, home: Path) -> None:
    with closing(sqlite3.connect(home / "library.db")) as db:
        db.execute("PRAGMA secure_delete = OFF")
        db.execute("DELETE FROM images WHERE id > 100")
        db.execute("DELETE FROM vectors WHERE layer = 'visual'")
        db.commit()
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'images'").fetchone()
    cut_out(home, {root})
    rescued(home)
    after = rows_of(home)
    assert {key for (key,) in after["images"]} <= set(range(1, 101))
    assert {layer for layer, _ in after["vectors"]} == {"style"}


def test_where_nothing_is_damaged_nothing_is_changed(made: Made, home: Path) -> None:
    for each in (home, shutil.copytree(made.logged, home.with_name("logged"))):
        found = rescued(each)
        assert (found.kept, found.whole) == (None, True)
        assert {table.table: table.saved for table in found.tables}["outbox"] == RECORDS


@pytest.mark.parametrize("content", [b"", b"\0" * 9000, b"something else entirely" * 1000])
def test_nothing_of_the_file_can_be_read(made: Made, home: Path, content: bytes) -> None:
    (home / "library.db").write_bytes(content)
    vectors = {file.read_bytes() for file in (home / "vectors").iterdir()}
    found = rescued(home)
    assert found.kept is not None
    assert found.kept.read_bytes() == content
    assert len(found.unnamed) == 2
    with closing(Store(home)) as store:  # what follows a sync deletes vectors that nobody names
        store.prepare_layer("visual", IDENTITY)
        store.remove_layer("visual")
    assert {file.read_bytes() for file in found.unnamed} == vectors


@pytest.mark.parametrize("content", [None, b""])
def test_a_log_whose_database_is_lost_is_not_thrown_away(logged: Path, content: bytes | None) -> None:
    (logged / "library.db").unlink()
    if content is not None:
        (logged / "library.db").write_bytes(content)
    with pytest.raises(StoreError, match=r"missing or empty.*luna-dt .* rescue"):
        Library(logged)
    rescued(logged)
    with Library(logged, dt=NOWHERE) as library:
        assert len(library.outbox.entries()) == RECORDS


def test_a_log_that_is_damaged_before_its_end_is_not_thrown_away(made: Made, logged: Path) -> None:
    """SQLite reads it to the damage, says nothing, and deletes it when the library is closed."""
    with (logged / "library.db-wal").open("rb+") as file:
        file.seek(32 + 100 * (PAGE + 24) + 2000)
        file.write(b"!")
    with pytest.raises(StoreError, match=r"library\.db-wal is damaged before its end: .* rescue"):
        Library(logged)
    assert rescued(logged).log == 1
    with Library(logged, dt=NOWHERE) as library:
        assert len(library.outbox.entries()) == RECORDS


@pytest.mark.parametrize("seed", range(12))
def test_a_log_that_ends_somewhere_is_none_that_is_damaged(made: Made, logged: Path, seed: int) -> None:
    """As a kill leaves it: what was not written to its end was never acknowledged."""
    log = (logged / "library.db-wal").read_bytes()
    cut = random.Random(seed).randrange(32, len(log))
    (logged / "library.db-wal").write_bytes(log[:cut] + bytes(seed % 3 * 5000))
    with Library(logged, dt=NOWHERE) as library:
        records = [entry.generation.key for entry in library.outbox.entries()]
    assert records == [f"key-{i}" for i in range(len(records))]


class BadSector(io.FileIO):
    """A file of which one page cannot be read."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() == 4 * PAGE:
            raise OSError(5, "Input/output error")
        return super().read(-1 if size is None else size)


def test_a_bad_sector_hides_only_its_page(home: Path) -> None:
    with BadSector(str(home / "library.db")) as bad, (home / "library.db").open("rb") as good:
        found, whole = (Pages(file, home / "none") for file in (bad, good))
        assert [n for n in range(1, whole.count + 1) if found[n] != whole[n]] == [5]


def test_a_library_that_is_open_is_left_alone(home: Path) -> None:
    cut_out(home, {4})
    before = (home / "library.db").read_bytes()
    with closing(Store(home)), pytest.raises(StoreError, match="is open, here or in another program; close ComfyUI"):
        Library.rescue(home)
    assert (home / "library.db").read_bytes() == before


@pytest.mark.processes
@pytest.mark.parametrize("header", [True, False])
def test_a_library_that_another_process_has_open_is_left_alone(home: Path, header: bool) -> None:
    code = "import sys\nfrom luna_dt import Library\nwith Library(sys.argv[1]):\n    print('open', flush=True)\n    input()\n"
    command = [sys.executable, "-c", code, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        if not header:  # which SQLite would look at first
            with (home / "library.db").open("rb+") as file:
                file.write(bytes(100))
        with pytest.raises(StoreError, match="is open, here or in another program"):
            Library.rescue(home)
        other.communicate("\n")
    assert not list(home.glob("library.damaged*"))


def test_a_home_that_can_only_be_read_and_one_that_is_none_are_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="there is no library in"):
        Library.rescue(tmp_path / "elsewhere")
    before = sorted(file.name for file in home.iterdir())
    monkeypatch.setattr("os.access", lambda *_: False)  # chmod holds nobody off who is root
    with pytest.raises(StoreError, match="can only be read"):
        Library.rescue(home)
    assert sorted(file.name for file in home.iterdir()) == before


def test_a_newer_format_is_refused_and_left_as_it_is(home: Path) -> None:
    with closing(sqlite3.connect(home / "library.db")) as db:
        db.execute("PRAGMA user_version = 99")
        db.execute("INSERT INTO migrations VALUES (99, 'of another time', 'then')")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    cut_out(home, {9})
    before = (home / "library.db").read_bytes()
    with pytest.raises(StoreError, match=r"newer version of luna_dt \(format 99, .*; update luna_dt.*do not delete it"):
        Library.rescue(home)
    assert (home / "library.db").read_bytes() == before
    assert not list(home.glob("library.*-*.*"))


def test_a_number_of_the_format_that_is_damaged_is_found_elsewhere(made: Made, home: Path) -> None:
    for wrong in (0, 3, 2**30):
        with (home / "library.db").open("rb+") as file:
            file.seek(60)
            file.write(struct.pack(">I", wrong))
        with pytest.raises(StoreError):
            Library(home)
        rescued(home)
        assert rows_of(home) == made.rows


def test_a_rescue_that_was_cut_off_is_ended(made: Made, home: Path) -> None:
    """As a loss of power leaves it: all is saved, and the damaged file has been moved away."""
    new, kept = home / "library.rescued-2026-01-01-000000.db", home / "library.damaged-2026-01-01-000000.db"
    shutil.copyfile(home / "library.db", new)
    (home / "library.db").rename(kept)
    with pytest.raises(StoreError, match="missing or empty"):
        Library(home)
    assert Library.rescue(home).kept is None
    assert rows_of(home) == made.rows
    assert kept.exists()
    assert not new.exists()


def test_a_rescue_that_cannot_move_the_file_changes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_out(home, {7, 8, 9})
    before = {file.name: file.read_bytes() for file in home.glob("library*")}
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self.name == "library.db":
            raise PermissionError(13, "it is used by another process", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(StoreError, match=r"cannot be moved aside .*close what has it open .*nothing was changed"):
        Library.rescue(home)
    assert {file.name: file.read_bytes() for file in home.glob("library*")} == before


def test_each_format_is_rescued_and_goes_on(made: Made, tmp_path: Path) -> None:
    formats = [folder for folder in (Path(__file__).parents[1] / "formats").iterdir() if folder.is_dir()]
    for folder in formats:
        whole, home = (
            shutil.copytree(folder, tmp_path / "w" / folder.name),
            shutil.copytree(folder, tmp_path / folder.name),
        )
        with (home / "library.db").open("rb+") as file:
            file.write(b"not SQLite's")
        assert rescued(home).kept
        for each in (home, whole):
            Store(each).close()
        after, before = rows_of(home), rows_of(whole)
        assert after == before


def test_the_command_says_what_was_saved(home: Path) -> None:
    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["--home", str(home), "rescue", *words])
        return done.exit_code, done.stdout

    code, said = run()
    assert (code, "nothing is damaged" in said) == (0, True)
    with closing(sqlite3.connect(home / "library.db")) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'files'").fetchone()
        (index,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'outbox_states'").fetchone()
    cut_out(home, {index})  # nothing is lost by that
    code, said = run("--json")
    assert (code, json.loads(said)["whole"]) == (0, True)
    assert json.loads(said)["kept"]
    cut_out(home, {root, index})
    code, said = run()
    assert code == 1
    assert "outbox" in said
    assert "the damaged file is kept as" in said
