"""What can be read of a damaged database's pages, put into a new one of the same format, row by row."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import LunaError
from ..generation import Generation
from ..identity import Identity, Verdict
from ..progress import Progress
from .database import ANOTHER
from .pages import INNER_KEY, LEAF_KEY, LEAF_ROWID, Pages, Row, kind_of

LIST = "(the list of tables)"  # what stands for a table's name where pages of that are bad
_TYPES: dict[str, tuple[type, ...]] = {"INTEGER": (int,), "TEXT": (str,), "REAL": (int, float)}
_OUTBOX_STATES = ("waiting", "sent", "parked", "kept", "dropped")


@dataclass(frozen=True)
class _Column:
    name: str
    type: str
    nullable: bool
    optional: bool  # whether a row may lack it, having been written before there was such a column


class _Tree:
    """A table or an index of the new database: what a row of it looks like."""

    def __init__(self, name: str, columns: list[_Column], is_table: bool, rowids: bool, alias: int | None) -> None:
        self.name, self.columns, self.is_table, self.rowids, self.alias = name, columns, is_table, rowids, alias
        self.least = max((i + 1 for i, column in enumerate(columns) if not column.optional), default=1)

    def fitting(self, row: Row) -> list[Any] | None:
        """The row's values, or None if it cannot be one of this table or index."""
        values = [*row.values]
        if (row.rowid is not None) != self.rowids or not self.least <= len(values) <= len(self.columns):
            return None
        if self.alias is not None:
            if values[self.alias] is not None:
                return None
            values[self.alias] = row.rowid
        for value, column in zip(values, self.columns, strict=False):
            if not (column.nullable if value is None else type(value) in _TYPES.get(column.type, (type(value),))):
                return None
            if type(value) is str and ("\0\0" in value or value == "\0"):  # what was torn off reads as zeros
                return None
        return values


def _trees(db: sqlite3.Connection) -> dict[str, _Tree]:
    """The tables and indexes of a database, by their names."""
    found: dict[str, _Tree] = {}
    for name, sql in db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall():
        info = db.execute(f"PRAGMA table_info('{name}')").fetchall()  # number, name, type, not null, default, key
        rowids = "WITHOUT ROWID" not in sql
        alias = next((i for i, each in enumerate(info) if rowids and each[5] and each[2] == "INTEGER"), None)
        columns = {
            each[1]: _Column(
                each[1],
                each[2],
                not each[3] and not (each[5] and not rowids) and each[0] != alias,
                not each[5] and (not each[3] or each[4] is not None),
            )
            for each in info
        }
        stored = info if rowids else sorted(info, key=lambda each: each[5] or len(info) + 1)
        found[name] = _Tree(name, [columns[each[1]] for each in stored], True, rowids, alias)
        for _, index, *_ in db.execute(f"PRAGMA index_list('{name}')").fetchall():
            keys = db.execute(f"PRAGMA index_xinfo('{index}')").fetchall()
            rowid = _Column("rowid", "INTEGER", False, False)
            shape = [columns[each[2]] if each[1] >= 0 else rowid for each in keys]
            if index not in found and (rowids or [c.name for c in shape] != [c.name for c in found[name].columns]):
                found.setdefault(index, _Tree(index, shape, False, False, None))
    return found


class Salvage:
    """Reads what can be read from ``pages`` into ``db``, a new and empty database of their format.

    ``saved`` counts the rows of each table, ``lost`` those that are there but cannot be used, ``bad_pages`` the pages
    of each that cannot be read; ``astray`` is how many pages were found although nothing led to them.
    """

    def __init__(self, pages: Pages, db: sqlite3.Connection, home: Path) -> None:
        self._pages, self._db, self._home = pages, db, home
        self._trees = _trees(db)
        self._tables = [tree.name for tree in self._trees.values() if tree.is_table and tree.name != "sqlite_sequence"]
        self.lost: Counter[str] = Counter()
        self.bad_pages: Counter[str] = Counter()
        self.astray = 0
        self.rootless = False

    @property
    def saved(self) -> dict[str, int]:
        return {name: self._db.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in self._tables}

    def run(self, progress: Progress) -> None:
        """Does it all, within the caller's transaction; ``progress`` hears how many pages are done."""
        self._db.execute("CREATE TEMP TABLE stray AS SELECT * FROM vectors WHERE 0")
        seen, strays, done = set[int](), list[int](), 0
        trees = dict[str, list[int]]()
        roots, self.bad_pages[LIST] = roots_of(self._pages, seen)
        for name, tree in self._trees.items():
            if name in roots:
                trees[name], self.bad_pages[name] = self._pages.tree(roots[name], tree.rowids, seen)
            self.rootless |= name not in roots and name != "migrations"  # which older code did not write
        pages, total = self._pages, self._pages.count
        old = list[tuple[_Tree, int]]()
        # what is read first counts: the newest; then what nothing leads to, what damaged frames hold, and what is old
        led = [(number, self._trees[name]) for name, numbers in trees.items() for number in numbers]
        for number, tree in sorted(led, key=lambda each: pages.log.version.get(each[0], -1), reverse=True):
            progress("rescue", done := done + 1, total)
            if number in pages.log.outdated:
                old.append((tree, number))
            elif tree.is_table and not self._take(tree, number):
                strays.append(number)
        strays += [number for number in range(2, total + 1) if number not in seen and number not in (pages.free or ())]
        for number in strays:
            if number not in pages.overflow:
                self._take_stray(pages[number])
        for page in reversed(pages.log.damaged):
            self._take_stray(page, doubtful=True)
        for tree, number in old:
            if tree.name == "vectors":
                self.bad_pages["vectors"] += 1  # an old row may name another vector now
            elif tree.is_table:
                self._take(tree, number)
        self._settle()
        progress("rescue", total, total)

    def _take(self, tree: _Tree, number: int) -> bool:
        """Saves a page's rows; False, and nothing is saved, where it is no page of that table at all."""
        page = self._pages[number]
        rows = [row and tree.fitting(row) for row in self._pages.rows(page, 100 if number == 1 else 0)]
        good = [row for row in rows if row]
        if rows and not good:
            self.bad_pages[tree.name] += 1
            return False
        # where a page was torn in the middle of a row, that may name another vector
        doubtful = tree.name == "vectors" and len(good) < len(rows)
        self.lost[tree.name] += len(rows) - self._put(tree, "stray" if doubtful else tree.name, good)
        return True

    def _take_stray(self, page: bytes, doubtful: bool = False) -> None:
        """Saves the rows of a page that nothing leads to, if they can be of one table only."""
        if kind_of(page) not in (LEAF_ROWID, LEAF_KEY, INNER_KEY):
            return
        rows = [row for row in self._pages.rows(page) if row]
        fitting = [tree for tree in self._trees.values() if rows and all(map(tree.fitting, rows))]
        if not fitting:  # a row of it may be damaged, too
            fitting = [tree for tree in self._trees.values() if sum(map(bool, map(tree.fitting, rows))) * 2 > len(rows)]
        if len(fitting) != 1 or not fitting[0].is_table or fitting[0].name == "sqlite_sequence":
            return
        tree = fitting[0]
        if not (doubtful and tree.name == "vectors"):
            self.astray += 1
            into = "stray" if tree.name == "vectors" else tree.name
            self._put(tree, into, [values for row in rows if (values := tree.fitting(row))])

    def _put(self, tree: _Tree, into: str, rows: list[list[Any]]) -> int:
        """Inserts what makes sense and is not there yet; gives how many made sense."""
        if tree.name == "sqlite_sequence":
            self._db.executemany("DELETE FROM sqlite_sequence WHERE name = ?", [row[:1] for row in rows])
        names = [column.name for column in tree.columns]
        if tree.name in _SENSE:
            rows = [sense for row in rows if (sense := _sensible(tree.name, names, row))]
        for length in {len(row) for row in rows}:
            columns, marks = ", ".join(names[:length]), ", ".join("?" * length)
            self._db.executemany(
                f"INSERT OR IGNORE INTO {into} ({columns}) VALUES ({marks})",
                [row for row in rows if len(row) == length],
            )
        return len(rows)

    def _settle(self) -> None:
        """Takes out what contradicts the rest, and notes which kinds are not whole any more."""
        db = self._db
        # of a page that nothing leads to nobody knows how old it is, so what contradicts anything is not taken
        db.execute("CREATE INDEX temp.strays ON stray (layer, image_id)")
        db.execute("CREATE TEMP TABLE taken (layer, row, PRIMARY KEY (layer, row)) WITHOUT ROWID")
        if db.execute("SELECT 1 FROM stray").fetchone():
            db.execute("INSERT OR IGNORE INTO taken SELECT layer, row FROM vectors WHERE row IS NOT NULL")
        db.execute(
            "INSERT OR IGNORE INTO vectors SELECT * FROM stray a WHERE NOT EXISTS (SELECT 1 FROM stray b WHERE "
            "b.layer = a.layer AND b.image_id = a.image_id AND (b.row IS NOT a.row OR b.digest IS NOT a.digest)) "
            "AND NOT EXISTS (SELECT 1 FROM taken WHERE taken.layer = a.layer AND taken.row = a.row)"
        )
        missing = "SELECT layer, image_id FROM stray EXCEPT SELECT layer, image_id FROM vectors"
        self.lost["vectors"] += db.execute(f"SELECT COUNT(*) FROM ({missing})").fetchone()[0]
        db.execute("DROP TABLE stray")
        db.execute("DROP TABLE taken")
        twice = "SELECT layer, row FROM vectors WHERE row IS NOT NULL GROUP BY 1, 2 HAVING COUNT(*) > 1"
        self._drop("vectors", f"(layer, row) IN ({twice})")
        for name in self._tables:
            for _, _, parent, ours, *_ in db.execute(f"PRAGMA foreign_key_list({name})").fetchall():
                key = self._trees[parent].columns[0].name
                self._drop(name, f"{ours} NOT IN (SELECT {key} FROM {parent})")
        for layer, identity, file, rows in db.execute("SELECT name, identity, file, rows FROM layers").fetchall():
            self._settle_layer(layer, Identity.from_json(json.loads(identity)).dim, self._home / "vectors" / file, rows)
        if self.hurt:
            whole = {"vectors": "embeddings.%", "cluster_members": "clusters"}
            hurt = [whole.get(name, name) for name in self._tables if self.lost[name] or self.bad_pages[name]]
            for kind in ["%"] if self.rootless else hurt:  # it has to be synced again before it is told to be here
                db.execute("UPDATE kinds SET synced = NULL WHERE name LIKE ?", [kind])
            db.execute(f"UPDATE kinds SET generation = {ANOTHER}")
            for kind in ("images", "captions", "clusters"):  # what is here of it is used while DT is away
                db.execute(
                    f"INSERT OR IGNORE INTO kinds (name, generation) SELECT ?, {ANOTHER} FROM {kind} LIMIT 1", [kind]
                )
            db.execute(
                f"INSERT OR IGNORE INTO kinds (name, generation) SELECT 'embeddings.' || name, {ANOTHER} FROM layers"
            )

    def _settle_layer(self, layer: str, dim: int, file: Path, rows: int) -> None:
        """Takes out what names no vector of the layer's file, or another than it means, as far as lengths tell."""
        there = file.stat().st_size // (4 * dim) if file.is_file() else 0
        if not there:  # that is another damage, which is told and mended where the layer is used
            return
        self._drop("vectors", "layer = ? AND (row < 0 OR row >= ?)", layer, max(rows, there))
        (top,) = self._db.execute("SELECT COALESCE(MAX(row), -1) FROM vectors WHERE layer = ?", [layer]).fetchone()
        if rows <= top or rows > there > top:  # what is appended next must not be written over a vector
            self._db.execute("UPDATE layers SET rows = ? WHERE name = ?", [max(there, top + 1), layer])
            self.lost["layers"] += 1
        if not self.hurt:  # of a file that is damaged itself the database is not to blame
            return
        vectors = np.memmap(file, "<f4", mode="r", shape=(there, dim))
        named = self._db.execute("SELECT row, image_id, norm FROM vectors WHERE layer = ? AND row < ?", [layer, there])
        wrong = list[int]()
        while some := named.fetchmany(4096):
            at, ids, norms = (np.array(column) for column in zip(*some, strict=True))
            rows_there = vectors[at]
            with np.errstate(over="ignore", invalid="ignore"):
                lengths = np.sqrt(np.einsum("ij,ij->i", rows_there, rows_there))
                wrong += ids[~(np.abs(lengths - norms.astype(np.float32)) <= 1e-4 * lengths)].tolist()
        for image_id in wrong:
            self._drop("vectors", "layer = ? AND image_id = ?", layer, image_id)

    def _drop(self, table: str, condition: str, *values: object) -> None:
        self.lost[table] += self._db.execute(f"DELETE FROM {table} WHERE {condition}", values).rowcount

    @property
    def hurt(self) -> bool:
        """Whether the pages hold anything but what they should."""
        return self.rootless or self.astray > 0 or any((self.lost + self.bad_pages).values())


def roots_of(pages: Pages, seen: set[int]) -> tuple[dict[str, int], int]:
    """On which page each table and index begins, as the database says, and how many pages of that list are bad."""
    numbers, bad = pages.tree(1, True, seen) if pages.count else ([], 1)
    roots: dict[str, int] = {}
    for number in numbers:
        for row in pages.rows(pages[number], 100 if number == 1 else 0):
            if row is None or len(row.values) != 5:
                bad += 1
            elif isinstance(row.values[1], str) and isinstance(row.values[3], int):
                roots[row.values[1]] = row.values[3]
    return roots, bad


def migrations_of(pages: Pages) -> set[int]:
    """Which migrations a database says were done; none where that cannot be read."""
    root = roots_of(pages, set())[0].get("migrations", 0)
    numbers, _ = pages.tree(root, True, set())
    return {
        row.rowid
        for number in numbers
        for row in pages.rows(pages[number])
        if row and row.rowid and len(row.values) == 3
    }


def _sensible(table: str, names: list[str], values: list[Any]) -> list[Any] | None:
    """A row as it can be used; None where a text in it is not what it must be, so that reading it would fail."""
    row = dict(zip(names, values, strict=False))
    try:
        _SENSE[table](row)
    except (LunaError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return [*row.values()]


def _record(row: dict[str, Any]) -> None:
    made = Generation.from_json(json.loads(row["record"]))
    if made.key != row["key"]:
        raise ValueError
    row["source"] = made.source_image_id
    if row["state"] not in _OUTBOX_STATES:  # sent again, a record is stored once
        row["state"] = "waiting"


def _layer(row: dict[str, Any]) -> None:
    Identity.from_json(json.loads(row["identity"]))
    if Path(row["file"]).name != row["file"] or row["rows"] < 0:
        raise ValueError
    try:
        if row.get("verdict") is not None:
            Verdict.from_json(json.loads(row["verdict"]))
    except (LunaError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        row["verdict"] = None  # it is found again by verifying


def _batch(row: dict[str, Any]) -> None:
    workflow = json.loads(row["workflow"])
    dict(workflow["prompt"]), dict(workflow["extra"])


def _item(row: dict[str, Any]) -> None:
    if row["seed"] is not None:
        int(row["seed"])


_SENSE: dict[str, Callable[[dict[str, Any]], None]] = {
    "outbox": _record, "layers": _layer, "batches": _batch, "batch_items": _item,
}  # fmt: skip
