"""Many operations queued in ComfyUI as one tracked batch.

Each item is one run of a workflow with its own image id, seed and prompt put into the nodes that take
them.  Batch and items are stored before anything is queued, under the id that ComfyUI will know a run by;
so after a restart of either side what ComfyUI still has is followed, and only what it has lost is queued again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from .. import threads
from ..errors import BadInput, Unreachable
from ..generation import OPERATIONS, Generation
from ..ids import MAX_IDS
from ..store import Store
from .comfyui import ComfyUI
from .ledger import OPEN, BatchItem, Ledger, TrackedBatch
from .outbox import Outbox
from .request import parse_prompts, parse_seeds
from .workflow import check_takers, filled, has_writer, without_queue_nodes

log = logging.getLogger(__name__)

POLL_QUEUE = 1.0  # seconds between two looks of a watcher at ComfyUI's queue


class Batches:
    """A library's batches; what is done is recorded through the outbox, with its batch.

    Raises NotFound for an unknown batch, StoreError.
    """

    def __init__(self, store: Store, outbox: Outbox) -> None:
        self._home, self._outbox, self._ledger = store.home, outbox, Ledger(store)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._watchers: dict[str, threading.Thread] = {}

    def create(
        self,
        ids: Sequence[int],
        operation: str,
        workflow: Mapping[str, Any],
        comfyui: str,
        *,
        seeds: str = "",
        prompts: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> TrackedBatch:
        """Stores a batch of one run of ``workflow`` (API format) for each id; ``queue`` sets it going.

        ``extra`` goes with each run (ComfyUI's ``extra_data``).  The same request again while the batch is under
        way, or within ten seconds, as of a double click, gives the batch that is there.  Raises BadInput when
        ids, seeds, prompts and workflow do not fit each other.
        """
        if not ids:
            raise BadInput("there are no images to queue; give ids such as 12, 15-20, or a query that finds some")
        if len(ids) > MAX_IDS:
            raise BadInput(f"{len(ids):,} items are more than a batch may have ({MAX_IDS:,}); queue fewer at once")
        if operation not in OPERATIONS:
            raise BadInput(f"an operation is one of {', '.join(OPERATIONS)}, not '{operation}'")
        template = without_queue_nodes(workflow)
        each_seed, each_prompt = parse_seeds(seeds, len(ids)), parse_prompts(prompts, len(ids))
        check_takers(template, each_seed[0] is not None, each_prompt[0] is not None)
        asked = json.dumps([list(ids), operation, template, comfyui, seeds, prompts], sort_keys=True)
        request = hashlib.sha256(asked.encode()).hexdigest()
        items = zip(ids, each_seed, each_prompt, strict=True)
        return self.get(self._ledger.add(request, operation, comfyui, template, extra or {}, items))

    def all(self) -> list[TrackedBatch]:
        """Every batch, newest first."""
        return [self.get(batch_id) for batch_id in self._ledger.ids()]

    def get(self, batch_id: str) -> TrackedBatch:
        """A batch as it was last seen."""
        return self._ledger.get(batch_id)

    def queue(self, batch_id: str) -> TrackedBatch:
        """Queues the items that are new; raises BadInput when ComfyUI refuses the first, Unreachable."""
        with self._alone():
            batch = self.get(batch_id)
            if any(item.state != "new" for item in batch.items):  # a kill may have come between queueing and noting
                self.follow(batch_id)
            return self._queue(batch_id)

    def _alone(self) -> FileLock:
        """Held while something is queued, or two processes would both queue what is new."""
        return FileLock(self._home / "batch.lock")

    def _queue(self, batch_id: str) -> TrackedBatch:
        batch = self.get(batch_id)
        workflow, extra = self._ledger.workflow(batch_id)
        comfyui, queued = ComfyUI(batch.comfyui), list[int]()
        try:
            for item in batch.items:
                # looked at again before each, for it may be cancelled meanwhile
                if item.state == "new" and self._ledger.is_new(batch_id, item.position):
                    which = f"{batch_id}/{item.position}"
                    prompt = filled(workflow, item.image_id, item.seed, item.prompt, batch.operation, which)
                    try:
                        comfyui.queue(prompt, item.prompt_id, extra)
                        queued.append(item.position)
                    except BadInput as error:
                        self._ledger.note(batch_id, [item.position], "failed", str(error), ("new",))
                        if not queued:  # the workflow's fault, so every item's
                            rest = [i.position for i in batch.items if i.state == "new" and i.position != item.position]
                            told = "not queued: ComfyUI refused the first"
                            self._ledger.note(batch_id, rest, "cancelled", told, ("new",))
                            raise
        finally:
            self._ledger.note(batch_id, queued, "queued", was=("new",))
        after = self.get(batch_id)
        if {item.position for item in after.items if item.state == "cancelled"}.intersection(queued):
            return self._take_out(batch_id)  # cancelled while they were on their way
        return after

    def follow(self, batch_id: str, states: Sequence[str] = OPEN) -> TrackedBatch:
        """Asks ComfyUI how a batch's items in those states stand, notes it, and records what was done; raises
        Unreachable."""
        batch = self.get(batch_id)
        watched = [item for item in batch.items if item.state in states]
        if not watched:
            return batch
        comfyui = ComfyUI(batch.comfyui)
        running, pending = comfyui.waiting()  # before the history: what leaves the queue is in the history
        changed: dict[tuple[str, str, Sequence[str]], list[int]] = {}
        done: list[tuple[BatchItem, dict[str, Any]]] = []
        for item in watched:
            state, error = item.state, ""
            cancelled = state == "cancelled"
            if item.prompt_id in running:
                state = state if cancelled else "running"  # whoever has cancelled it takes it out
            elif item.prompt_id in pending:
                state = state if cancelled else "queued"
            elif ended := comfyui.outcome(item.prompt_id):
                state, error, shown = ended
                if state == "done":
                    done.append((item, shown))
            elif state != "new":
                lost = state if cancelled else "lost"
                state = "done" if self._is_made(batch_id, item) else lost
            if state != item.state:
                was: Sequence[str] = ("cancelled",) if cancelled else OPEN
                changed.setdefault((state, error, was), []).append(item.position)
        if done and not has_writer(self._ledger.workflow(batch_id)[0]):
            for item, shown in done:
                self._record(batch, item, shown)
        for (state, error, was), positions in changed.items():
            self._ledger.note(batch_id, positions, state, error, was)
        return self.get(batch_id)

    def resume(self, batch_id: str, comfyui: str = "") -> TrackedBatch:
        """Queues what ComfyUI has lost, or was never told, and nothing that it has; ``comfyui``: its new address."""
        if comfyui:
            self._ledger.move(batch_id, comfyui)
        with self._alone():
            batch = self.follow(batch_id)
            lost = [item.position for item in batch.items if item.state == "lost"]
            self._ledger.note(batch_id, lost, "new", was=("lost",))
            return self._queue(batch_id)

    def cancel(self, batch_id: str) -> TrackedBatch:
        """Takes what is not done out of ComfyUI's queue; what is lost or new is just not queued.

        What had ended before ComfyUI heard of it is noted as it ended, and so is, by whoever follows the batch, a
        run that was interrupted too late.
        """
        self.get(batch_id)
        self._ledger.cancel(batch_id)  # noted first: whoever queues this batch now looks before each item
        with contextlib.suppress(Unreachable):  # what a ComfyUI that is away had, it has lost
            self._take_out(batch_id)
        return self.get(batch_id)

    def _take_out(self, batch_id: str) -> TrackedBatch:
        """Has ComfyUI drop what is noted as cancelled, and notes of it what had ended, or still runs for a moment."""
        batch = self.get(batch_id)
        gone = [item for item in batch.items if item.state == "cancelled"]
        if not gone:
            return batch
        interrupted = ComfyUI(batch.comfyui).cancel([item.prompt_id for item in gone])
        still = [item.position for item in gone if item.prompt_id in interrupted]
        self._ledger.note(batch_id, still, "running", was=("cancelled",))
        return self.follow(batch_id, ("running", "cancelled"))

    def retry(self, batch_id: str) -> TrackedBatch:
        """Queues what failed or was cancelled once more."""
        with self._alone():
            self._take_out(batch_id)  # or what a ComfyUI that was away still has would run twice
            self.follow(batch_id)
            self._ledger.retry(batch_id)
            return self._queue(batch_id)

    def watch(self, batch_id: str, tell: Callable[[TrackedBatch], None] = lambda _: None) -> None:
        """Follows a batch in the background until all its items have ended; ``tell`` hears of each change."""
        with self._lock:
            if batch_id in self._watchers and self._watchers[batch_id].is_alive():
                return
            self._watchers[batch_id] = threads.start(
                f"batch {batch_id}", lambda: self._watch(batch_id, tell), self._closing.set, network=True
            )

    def watch_all(self, comfyui: str) -> None:
        """Watches every batch at that address that has not ended."""
        for batch_id in self._ledger.open_at(comfyui):
            self.watch(batch_id)

    def close(self) -> None:
        """Ends the following; it goes on when the batch is next watched, or asked for."""
        self._closing.set()
        for thread in self._watchers.values():
            thread.join()

    def _watch(self, batch_id: str, tell: Callable[[TrackedBatch], None]) -> None:
        said = ""
        states: Sequence[str] = OPEN
        while not self._closing.is_set():
            try:
                batch = self.follow(batch_id, states)
                if not batch.is_open:
                    batch = self._take_out(batch_id)  # what was cancelled may not have ended yet
                states = ("queued", "running")  # what is lost or new waits for whoever resumes it
                if str(batch) != said:
                    said = str(batch)
                    tell(batch)
                if not batch.is_open:
                    return
            except Exception as error:  # noqa: BLE001  it is followed for as long as this program runs
                log.info("batch %s cannot be followed now: %s", batch_id, error)
            self._closing.wait(POLL_QUEUE)

    def _is_made(self, batch_id: str, item: BatchItem) -> bool:
        """Whether a run that ComfyUI has forgotten has recorded and saved its picture before."""
        for entry in self._outbox.entries(source_image_id=item.image_id):
            made = entry.generation
            if made.batch_id == batch_id and made.extra_metadata.get("batch_item") == item.position:
                return bool(made.output) and Path(made.output).is_file()
        return False

    def _record(self, batch: TrackedBatch, item: BatchItem, shown: Mapping[str, Any]) -> None:
        """Tells DT of an item that is done."""
        files = [
            "/".join(filter(None, (picture.get("subfolder"), picture.get("filename"))))
            for node in shown.values()
            for picture in node.get("images") or ()
            if picture.get("type") == "output"
        ]
        self._outbox.put(
            Generation(
                operation=batch.operation,
                source_image_id=item.image_id or None,
                prompt=item.prompt,
                seed=item.seed,
                batch_id=batch.id,
                key=f"{batch.id}/{item.position}",
                extra_metadata={"batch_item": item.position, "files": files},
            )
        )
