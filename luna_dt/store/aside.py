"""What DT has and this library does not: rows that cannot be kept, and whatever cannot be used, each with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..records import Int64s
from .database import Database


@dataclass(frozen=True)
class SetAside:
    """How many rows of a kind are set aside for one reason, and the first of their ids."""

    kind: str
    reason: str
    count: int
    first_id: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Aside(Database):
    """The tables ``set_aside`` and ``left_out``; a row that is set aside is tried again when its digest has changed."""

    def set_aside(self) -> list[SetAside]:
        """What is set aside, by kind and reason, most first."""
        rows = self.rows("SELECT kind, reason, COUNT(*), MIN(id) FROM set_aside GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2")
        return [SetAside(*row) for row in rows]

    def aside(self, kind: str) -> tuple[Int64s, Int64s]:
        """The ids and digests of a kind's rows that are set aside, in id order."""
        both = self._array(
            [("id", "i8"), ("digest", "i8")], "SELECT id, digest FROM set_aside WHERE kind = ? ORDER BY 1", [kind]
        )
        return both["id"].copy(), both["digest"].copy()

    def put_aside(self, kind: str, rows: Iterable[tuple[int, int, str]]) -> None:
        """Notes rows as (id, digest, reason)."""
        with self.writing() as db:
            db.executemany(
                "INSERT OR REPLACE INTO set_aside (kind, id, digest, reason) VALUES (?, ?, ?, ?)",
                ((kind, *row) for row in rows),
            )

    def take_back(self, kind: str, ids: Int64s) -> None:
        """Forgets that rows were set aside."""
        with self.writing() as db:
            db.executemany("DELETE FROM set_aside WHERE kind = ? AND id = ?", ((kind, i) for i in ids.tolist()))

    def left_out(self) -> tuple[str, ...]:
        """What DT was found to have at the last sync that cannot be used, a sentence each."""
        return tuple(reason for (reason,) in self.rows("SELECT reason FROM left_out ORDER BY 1"))

    def put_left_out(self, reasons: Iterable[str]) -> None:
        with self.writing() as db:
            db.execute("DELETE FROM left_out")
            db.executemany("INSERT OR REPLACE INTO left_out (reason) VALUES (?)", ((reason,) for reason in reasons))
