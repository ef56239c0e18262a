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
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .. import threads
from ..errors import BadInput, NotFound, Unreachable
from ..generation import OPERATIONS, Generation
from ..ids import MAX_IDS
from ..progress import Progress, silent
from ..store import Store
from .comfyui import ComfyUI
from .ledger import OPEN, BatchItem, Ledger, TrackedBatch
from .outbox import Outbox
from .request import parse_prompts, parse_seeds
from .workflow import check_takers, filled, has_writer, without_queue_nodes

log = logging.getLogger(__name__)

POLL = 1.0  # seconds between two looks of the watcher
LOOK = 0.1  # seconds between two looks while others queue
#: Seconds between two looks at ComfyUI's queue, which has every workflow whole: where runs seem to be gone, and anyhow;
#: a SMALL_QUEUE is looked at whenever that helps.
GONE_EVERY, QUEUE_EVERY, SMALL_QUEUE = 30.0, 300.0, 16
AT_ONCE = 100  # runs whose end a look asks after at most
QUEUED_BY = "luna_dt_run"  # in ``extra``: the run that queued the batch, which ComfyUI knows until it is ended


@dataclass
class _Watch:
    """A batch that is looked after: who hears of it, and what was said and done last."""

    tell: Callable[[TrackedBatch], None]
    said: str = ""
    queue_seen: float = float("-inf")


class Batches:
    """A library's batches; what is done is recorded through the outbox, with its batch.

    Raises NotFound for an unknown batch, StoreError.
    """

    def __init__(self, store: Store, outbox: Outbox) -> None:
        self._home, self._outbox, self._ledger = store.home, outbox, Ledger(store)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._watches: dict[str, _Watch] = {}
        self._watcher: threading.Thread | None = None

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

    def queue(self, batch_id: str, progress: Progress = silent) -> TrackedBatch:
        """Queues the items that are new; raises BadInput when ComfyUI refuses the first, Unreachable.

        ``progress`` is told before each; where it raises, what is not queued yet is cancelled.
        """
        new = [item for item in self.get(batch_id).items if item.state == "new"]
        with self._alone(lambda: self._tell(batch_id, new, progress, 0, len(new))):
            batch = self.get(batch_id)
            if any(item.state != "new" for item in batch.items):  # a kill may have come between queueing and noting
                self.follow(batch_id)
            return self._queue(batch_id, progress)

    @contextlib.contextmanager
    def _alone(self, heed: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Held while something is queued, or two would queue what is new; ``heed`` is called meanwhile, and may raise."""
        lock = FileLock(self._home / "batch.lock")
        while not lock.is_locked:
            try:
                lock.acquire(timeout=LOOK)
            except Timeout:
                heed()
        try:
            yield
        finally:
            lock.release()

    def _tell(self, batch_id: str, rest: Sequence[BatchItem], progress: Progress, done: int, total: int) -> None:
        """Tells how far the queueing is; where that raises, ``rest`` is cancelled."""
        try:
            progress("queue", done, total)
        except BaseException:
            self._give_up(batch_id, rest, "not queued: interrupted")
            raise

    def _queue(self, batch_id: str, progress: Progress = silent) -> TrackedBatch:
        batch = self.get(batch_id)
        workflow, extra = self._ledger.workflow(batch_id)
        comfyui, queued = ComfyUI(batch.comfyui), list[int]()
        todo = [item for item in batch.items if item.state == "new"]
        try:
            for count, item in enumerate(todo):
                self._tell(batch_id, todo[count:], progress, count, len(todo))
                # looked at again before each, for it may be cancelled meanwhile
                if not self._ledger.is_new(batch_id, item.position):
                    continue
                which = f"{batch_id}/{item.position}"
                prompt = filled(workflow, item.image_id, item.seed, item.prompt, batch.operation, which)
                try:
                    comfyui.queue(prompt, item.prompt_id, extra)
                    queued.append(item.position)
                except BadInput as error:
                    self._ledger.note(batch_id, [item.position], "failed", str(error), ("new",))
                    if not queued:  # the workflow's fault, so every item's
                        self._give_up(batch_id, todo[count + 1 :], "not queued: ComfyUI refused the first")
                        raise
        finally:
            self._ledger.note(batch_id, queued, "queued", was=("new",))
        after = self.get(batch_id)
        if {item.position for item in after.items if item.state == "cancelled"}.intersection(queued):
            return self._take_out(batch_id)  # cancelled while they were on their way
        return after

    def _give_up(self, batch_id: str, rest: Sequence[BatchItem], why: str) -> None:
        self._ledger.note(batch_id, [item.position for item in rest], "cancelled", why, ("new",))

    def follow(self, batch_id: str, states: Sequence[str] = OPEN) -> TrackedBatch:
        """Asks ComfyUI how a batch's items in those states stand, notes it, and records what was done; raises
        Unreachable."""
        batch = self.get(batch_id)  # before ComfyUI is asked: what is queued here is known there, or gone
        watched = [item for item in batch.items if item.state in states]
        if not watched:
            return batch
        comfyui = ComfyUI(batch.comfyui)
        running, pending = comfyui.waiting()  # before the history: what leaves the queue is in the history
        # what is there and noted as cancelled is taken out by whoever has cancelled it
        open_now = [item for item in watched if item.state != "cancelled"]
        self._ledger.change(batch_id, [item for item in open_now if item.prompt_id in running], "running")
        self._ledger.change(batch_id, [item for item in open_now if item.prompt_id in pending], "queued")
        left = [item for item in watched if item.prompt_id not in running | pending]
        ended = [(item, *told) for item in left if (told := comfyui.outcome(item.prompt_id))]
        self._note_ended(batch, ended)
        done = {item.position for item, *_ in ended}
        gone = [item for item in left if item.position not in done and item.state in ("queued", "running")]
        made = [item for item in gone if self._is_made(batch_id, item)]
        self._ledger.change(batch_id, made, "done")
        if gone := [item for item in gone if item not in made]:
            if ended or len(left) < len(watched) or self._knows(comfyui, batch):
                self._ledger.change(batch_id, gone, "cancelled", "taken out of ComfyUI's queue")
            else:
                self._ledger.change(batch_id, gone, "lost")
        return self.get(batch_id)

    def _note_ended(self, batch: TrackedBatch, ended: Sequence[tuple[BatchItem, str, str, dict[str, Any]]]) -> None:
        """Notes runs of which ComfyUI told the end, and records those that are done."""
        if ended and not has_writer(self._ledger.workflow(batch.id)[0]):
            for item, state, _, shown in ended:
                if state == "done":
                    self._record(batch, item, shown)
        for item, state, error, _ in ended:
            was = ("cancelled",) if item.state == "cancelled" else OPEN
            self._ledger.change(batch.id, [item], state, error, was)

    def _knows(self, comfyui: ComfyUI, batch: TrackedBatch) -> bool:
        """Whether ComfyUI knows any run from before, so that it has not been ended since: what it lacks was taken out."""
        before = [item.prompt_id for item in batch.items if item.state in ("done", "failed")][-SMALL_QUEUE:]
        queued_by = self._ledger.workflow(batch.id)[1].get(QUEUED_BY)
        return any(comfyui.outcome(run) for run in (*reversed(before), *([str(queued_by)] if queued_by else ())))

    def resume(self, batch_id: str, comfyui: str = "") -> TrackedBatch:
        """Queues what ComfyUI has lost, or was never told, and nothing that it has; ``comfyui``: its new address."""
        if comfyui:
            self._ledger.move(batch_id, comfyui)
        with self._alone():
            self.follow(batch_id)
            self._ledger.renew(batch_id, ("lost",))
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
            self._ledger.renew(batch_id, ("failed", "cancelled"))
            return self._queue(batch_id)

    def watch(self, batch_id: str, tell: Callable[[TrackedBatch], None] = lambda _: None) -> None:
        """Follows a batch in the background until all its items have ended; ``tell`` hears of each change."""
        with self._lock:
            self._watches.setdefault(batch_id, _Watch(tell))
            if self._watcher is None:
                self._watcher = threads.start("batches", self._watch, self._closing.set, network=True)

    def watch_all(self, comfyui: str) -> None:
        """Watches every batch at that address that has not ended."""
        for batch_id in self._ledger.open_at(comfyui):
            self.watch(batch_id)

    def close(self) -> None:
        """Ends the following; it goes on when the batch is next watched, or asked for."""
        self._closing.set()
        if (watcher := self._watcher) is not None:
            watcher.join()

    def _watch(self) -> None:
        while True:
            with self._lock:
                watches = dict(self._watches)
                if not watches or self._closing.is_set():
                    self._watcher = None
                    return
            for batch_id, watch in watches.items():
                try:
                    batch = self._look(batch_id, watch)
                    if not batch.is_open:
                        batch = self._take_out(batch_id)  # what was cancelled may not have ended yet
                    if str(batch) != watch.said:
                        watch.said = str(batch)
                        watch.tell(batch)
                    if not batch.is_open:
                        with self._lock:
                            del self._watches[batch_id]
                except NotFound:
                    with self._lock:
                        del self._watches[batch_id]
                except Exception as error:  # noqa: BLE001  it is followed for as long as this program runs
                    log.info("batch %s cannot be followed now: %s", batch_id, error)
                if self._closing.is_set():
                    break
            self._closing.wait(POLL)

    def _look(self, batch_id: str, watch: _Watch) -> TrackedBatch:
        """What has become of a batch: the first of its runs are asked after, and the queue only where that is needed."""
        batch = self.get(batch_id)
        now = time.monotonic()
        states: Sequence[str] = ("queued", "running")  # what is lost or new waits for whoever resumes it
        if watch.queue_seen < 0:
            states = OPEN
        else:
            waiting = [item for item in batch.items if item.state in states]
            if not waiting:
                return batch
            comfyui = ComfyUI(batch.comfyui)
            remaining = comfyui.remaining()
            ended = []
            for item in waiting[:AT_ONCE]:
                if (told := comfyui.outcome(item.prompt_id)) is None:
                    break  # it runs or waits, and those after it wait, if none has been put before them
                ended.append((item, *told))
            self._note_ended(batch, ended)
            since = now - watch.queue_seen
            if remaining is not None and since < QUEUE_EVERY:
                some_gone = remaining < len(waiting) - len(ended)
                if not some_gone or (remaining > SMALL_QUEUE and since < GONE_EVERY):
                    return self.get(batch_id)
        found = self.follow(batch_id, states)
        watch.queue_seen = now
        return found

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
