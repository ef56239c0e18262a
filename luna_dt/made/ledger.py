"""Batches and their items as they are stored: the tables ``batches`` and ``batch_items``."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from ..errors import NotFound
from ..store import Store
from .workflow import Prompt

DOUBLE_CLICK = timedelta(seconds=10)  # within which the same request again is meant to be the same batch
OPEN = ("new", "queued", "running", "lost")


@dataclass(frozen=True)
class BatchItem:
    """One run of a batch.  ``state``: new (not queued yet), queued, running, done, failed (see ``error``), cancelled
    (also by whoever took it out of ComfyUI's queue), or lost (with a ComfyUI that was ended; ``resume`` queues it
    again)."""

    position: int
    image_id: int
    seed: int | None
    prompt: str | None
    prompt_id: str
    state: str
    error: str


@dataclass(frozen=True)
class TrackedBatch:
    """A batch and how it stands."""

    id: str
    created: str
    operation: str
    comfyui: str
    items: tuple[BatchItem, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many items are in each state that occurs."""
        states = [item.state for item in self.items]
        return {state: states.count(state) for state in (*OPEN, "done", "failed", "cancelled") if state in states}

    @property
    def is_open(self) -> bool:
        return any(item.state in OPEN for item in self.items)

    def __str__(self) -> str:
        said = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        return f"{len(self.items)} items: {said}"

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "items": [vars(item) for item in self.items], "counts": self.counts}


class Ledger:
    """What is stored of a library's batches; raises StoreError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(
        self,
        request: str,
        operation: str,
        comfyui: str,
        template: Prompt,
        extra: Mapping[str, Any],
        items: Iterable[tuple[int, int | None, str | None]],
    ) -> str:
        """Stores a batch of new items (image id, seed, prompt) and gives its id; while one of the same ``request``
        is under way, or was made a moment ago, that one's."""
        now = datetime.now(timezone.utc)
        batch_id = secrets.token_hex(6)
        with self._store.writing() as writer:
            same = writer.execute(
                "SELECT id FROM batches b WHERE request = ? AND EXISTS (SELECT 1 FROM batch_items WHERE batch = b.id "
                "AND (state IN ('new', 'queued', 'running') OR (state = 'done' AND b.created > ?)))",
                [request, (now - DOUBLE_CLICK).isoformat()],
            ).fetchone()
            if same:
                return str(same[0])
            workflow = json.dumps({"prompt": template, "extra": dict(extra)})
            writer.execute(
                "INSERT INTO batches (id, created, operation, request, comfyui, workflow) VALUES (?, ?, ?, ?, ?, ?)",
                [batch_id, now.isoformat(), operation, request, comfyui.rstrip("/"), workflow],
            )
            writer.executemany(
                "INSERT INTO batch_items (batch, position, image_id, seed, prompt, prompt_id, state) "
                "VALUES (?, ?, ?, ?, ?, ?, 'new')",
                [
                    (batch_id, i, image_id, None if seed is None else str(seed), prompt, str(uuid.uuid4()))
                    for i, (image_id, seed, prompt) in enumerate(items)
                ],
            )
        return batch_id

    def ids(self) -> list[str]:
        """Every batch's id, newest first."""
        return [batch_id for (batch_id,) in self._store.rows("SELECT id FROM batches ORDER BY created DESC")]

    def open_at(self, comfyui: str) -> list[str]:
        """The ids of those at that address that have items which have not ended."""
        marks = ", ".join("?" * len(OPEN))
        rows = self._store.rows(
            "SELECT id FROM batches WHERE comfyui = ? "
            f"AND EXISTS (SELECT 1 FROM batch_items WHERE batch = id AND state IN ({marks}))",
            [comfyui, *OPEN],
        )
        return [batch_id for (batch_id,) in rows]

    def get(self, batch_id: str) -> TrackedBatch:
        """Raises NotFound."""
        rows = self._store.rows("SELECT id, created, operation, comfyui FROM batches WHERE id = ?", [batch_id])
        if not rows:
            raise NotFound(f"there is no batch {batch_id}; luna-dt batch list shows those there are")
        items = self._store.rows(
            "SELECT position, image_id, seed, prompt, prompt_id, state, error FROM batch_items "
            "WHERE batch = ? ORDER BY position",
            [batch_id],
        )
        made = (BatchItem(p, i, None if s is None else int(s), t, q, state, e) for p, i, s, t, q, state, e in items)
        name, created, operation, comfyui = rows[0]
        return TrackedBatch(name, created, operation, comfyui, tuple(made))

    def workflow(self, batch_id: str) -> tuple[Prompt, dict[str, Any]]:
        """The workflow without any item's values, and what goes with each run (ComfyUI's ``extra_data``)."""
        found = json.loads(self._store.rows("SELECT workflow FROM batches WHERE id = ?", [batch_id])[0][0])
        return found["prompt"], found["extra"]

    def is_new(self, batch_id: str, position: int) -> bool:
        """Whether an item is new now: another thread or process may have changed it since it was read."""
        return bool(
            self._store.rows(
                "SELECT 1 FROM batch_items WHERE batch = ? AND position = ? AND state = 'new'", [batch_id, position]
            )
        )

    def note(
        self, batch_id: str, positions: Sequence[int], state: str, error: str = "", was: Sequence[str] = OPEN
    ) -> None:
        """Changes items that are in one of the states they ``was``: another program may have changed them since."""
        if positions:
            marks = ", ".join("?" * len(was))
            with self._store.writing() as writer:
                writer.executemany(
                    f"UPDATE batch_items SET state = ?, error = ? WHERE batch = ? AND position = ? AND state IN ({marks})",
                    [(state, error, batch_id, position, *was) for position in positions],
                )

    def change(
        self, batch_id: str, items: Iterable[BatchItem], state: str, error: str = "", was: Sequence[str] = OPEN
    ) -> None:
        """As ``note``, for items whose run is still the one that was read: what was seen of a run says nothing of the
        one for which the item has been queued anew since."""
        marks = ", ".join("?" * len(was))
        with self._store.writing() as writer:
            writer.executemany(
                "UPDATE batch_items SET state = ?, error = ? "
                f"WHERE batch = ? AND position = ? AND prompt_id = ? AND state IN ({marks})",
                [(state, error, batch_id, item.position, item.prompt_id, *was) for item in items],
            )

    def renew(self, batch_id: str, states: Sequence[str]) -> None:
        """Makes what is in one of those states new, under other ids of its runs."""
        again = [item for item in self.get(batch_id).items if item.state in states]
        with self._store.writing() as writer:
            writer.executemany(
                "UPDATE batch_items SET state = 'new', error = '', prompt_id = ? "
                "WHERE batch = ? AND position = ? AND prompt_id = ? AND state = ?",
                [(str(uuid.uuid4()), batch_id, item.position, item.prompt_id, item.state) for item in again],
            )

    def cancel(self, batch_id: str) -> None:
        """Notes every item that has not ended as cancelled, in one step."""
        marks = ", ".join("?" * len(OPEN))
        with self._store.writing() as writer:
            writer.execute(
                "UPDATE batch_items SET state = 'cancelled', error = 'cancelled by the user' "
                f"WHERE batch = ? AND state IN ({marks})",
                [batch_id, *OPEN],
            )

    def move(self, batch_id: str, comfyui: str) -> None:
        """Notes a batch's new address."""
        with self._store.writing() as writer:
            writer.execute("UPDATE batches SET comfyui = ? WHERE id = ?", [comfyui.rstrip("/"), batch_id])
