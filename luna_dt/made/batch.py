"""Many operations queued in ComfyUI as one tracked batch.

Each item is one run of a workflow with its own image id, seed and prompt put into the nodes that take
them.  Batch and items are stored before anything is queued, under the id that ComfyUI will know a run by;
so after a restart of either side what ComfyUI still has is followed, and only what it has lost is queued again.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import logging
import random
import re
import secrets
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from .. import threads
from ..errors import BadInput, NotFound, Refused, Unreachable
from ..generation import OPERATIONS, Generation
from ..store import Store
from .outbox import Outbox

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

MAX_ITEMS = 10_000
DOUBLE_CLICK = 10.0  # seconds within which the same request again is meant to be the same batch
LOOK = 1.0  # seconds between two looks at ComfyUI's queue
OPEN = ("new", "queued", "running", "lost")
QUEUE_NODE, WRITER, INJECTOR = "LunaDTBatchQueue", "LunaDTMetadataWriter", "LunaDTPromptInjector"
ID_INPUTS = ("image_id", "source_image_id", "reference_image_id")
SEED_INPUTS = ("seed", "noise_seed")

Prompt = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One run of a batch.  ``state``: new (not queued yet), queued, running, done, failed (see ``error``), cancelled,
    or lost (ComfyUI knows nothing of it any more; ``resume`` queues it again)."""

    position: int
    image_id: int
    seed: int | None
    prompt: str | None
    prompt_id: str
    state: str
    error: str


@dataclass(frozen=True)
class Batch:
    """A batch and how it stands."""

    id: str
    created: str
    operation: str
    comfyui: str
    items: tuple[Item, ...]

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


# -- what is asked for ------------------------------------------------------------------------------


def parse_ids(text: str) -> list[int] | None:
    """Ids such as ``12, 15-20`` in their order; None for a text that is not made of numbers, so a query.

    Raises BadInput for a range that goes backwards, or for too many.
    """
    if not re.fullmatch(r"[\d\s,;-]+", text):
        return None
    ids: list[int] = []
    for part in re.split(r"[,;\s]+", re.sub(r"\s*-\s*", "-", text.strip())):
        if not part:
            continue
        match = re.fullmatch(r"(\d{1,19})(?:-(\d{1,19}))?", part)
        if not match:
            raise BadInput(f"'{part}' is no id and no range of ids such as 15-20")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= MAX_ITEMS:
            raise BadInput(f"the range {part} has no ids, or more than {MAX_ITEMS:,}")
        ids.extend(range(first, last + 1))
    return ids


def parse_seeds(text: str, count: int) -> list[int | None]:
    """One seed an item: "" leaves the workflow's, ``random`` draws each, else one number, or as many as items."""
    text = text.strip()
    if not text:
        return [None] * count
    if text.lower() == "random":
        return [random.getrandbits(63) for _ in range(count)]
    parts = [part for part in re.split(r"[,;\s]+", text) if part]
    if not all(part.isdigit() and int(part) < 2**64 for part in parts):
        raise BadInput(f"seeds are numbers from 0 to 2^64-1, or 'random', not '{text[:60]}'")
    return _for_each("seeds", [int(part) for part in parts], count)


def parse_prompts(text: str, count: int) -> list[str | None]:
    """One prompt an item, a line each: none leaves the workflow's; else one, or as many as items."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _for_each("prompts", lines, count) if lines else [None] * count


def _for_each(what: str, given: Sequence[Any], count: int) -> list[Any]:
    if len(given) not in (1, count):
        raise BadInput(f"there are {len(given)} {what} for {count} items; give one for all, or one for each")
    return [given[0]] * count if len(given) == 1 else list(given)


# -- workflows --------------------------------------------------------------------------------------


def read_workflow(path: Path) -> Prompt:
    """A workflow saved in ComfyUI's API format; raises BadInput saying how to save one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"the workflow {path} cannot be read: {error}") from error
    if not _is_prompt(found):
        raise BadInput(f"{path} is no workflow in API format; in ComfyUI, save it with Export (API)")
    return dict(found)


def _is_prompt(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(node, dict) and "class_type" in node and "inputs" in node for node in value.values())
    )


def without_queue_nodes(prompt: Mapping[str, Any]) -> Prompt:
    """A copy without Batch Queue nodes, which would queue themselves for ever, and without what hangs on them."""
    left = {name: copy.deepcopy(dict(node)) for name, node in prompt.items()}
    for node in left.values():
        node.pop("is_changed", None)
    gone = {name for name, node in left.items() if node["class_type"] == QUEUE_NODE}
    while gone:
        for name in gone:
            left.pop(name)
        gone = {
            name
            for name, node in left.items()
            if any(_is_link(value) and str(value[0]) not in left for value in node["inputs"].values())
        }
    return left


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)


def _takers(prompt: Prompt, inputs: Iterable[str], kind: str = "") -> list[tuple[dict[str, Any], str]]:
    """The nodes' inputs of those names that hold a value of their own, not a link."""
    return [
        (node["inputs"], name)
        for node in prompt.values()
        for name in inputs
        if node["class_type"].startswith(kind) and name in node["inputs"] and not _is_link(node["inputs"][name])
    ]


def _checked(prompt: Prompt, seeds: bool, prompts: bool) -> None:
    if not _takers(prompt, ID_INPUTS, "LunaDT"):
        raise BadInput("no Luna node of this workflow takes an image id; add a Luna DT Image Loader or Prompt Injector")
    if seeds and not _takers(prompt, SEED_INPUTS):
        raise BadInput("no node of this workflow has a seed of its own; leave the seeds empty")
    if prompts and not _takers(prompt, ("prompt_override",), INJECTOR):
        raise BadInput("prompts go into a Luna DT Prompt Injector, which this workflow lacks; leave them empty")


def prompt_of(workflow: Prompt, batch_id: str, operation: str, item: Item) -> Prompt:
    """The workflow with an item's id, seed and prompt in the nodes that take them."""
    prompt = copy.deepcopy(workflow)
    for inputs, name in _takers(prompt, ID_INPUTS, "LunaDT"):
        inputs[name] = item.image_id
    if item.seed is not None:
        for inputs, name in _takers(prompt, SEED_INPUTS):
            inputs[name] = item.seed
    if item.prompt is not None:
        for inputs, name in _takers(prompt, ("prompt_override",), INJECTOR):
            inputs[name] = item.prompt
        for inputs, name in _takers(prompt, ("prompt",), WRITER):
            inputs[name] = item.prompt
    for node in prompt.values():
        if node["class_type"] == WRITER:
            node["inputs"].update(operation=operation, batch_id=f"{batch_id}/{item.position}")
    return prompt


# -- ComfyUI ----------------------------------------------------------------------------------------


class ComfyUI:
    """A running ComfyUI, through its own HTTP calls."""

    def __init__(self, address: str) -> None:
        import requests

        self.address = address.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False

    def _call(self, method: str, path: str, **options: Any) -> Any:
        import requests

        try:
            answer = self._session.request(method, self.address + path, timeout=30, **options)
        except requests.RequestException as error:
            raise Unreachable(
                f"ComfyUI at {self.address} does not answer; start it, or name another with --comfyui"
            ) from error
        if answer.status_code == 400:
            raise BadInput(f"ComfyUI refuses the workflow: {_refusal(answer)}")
        if answer.status_code != 200:
            raise Refused(f"ComfyUI at {self.address} answers {path} with {answer.status_code}", answer.status_code)
        return answer.json() if answer.content else None

    def queue(self, prompt: Prompt, prompt_id: str, extra: Mapping[str, Any]) -> None:
        """Raises BadInput with ComfyUI's own reason when it does not take the workflow."""
        body = {"prompt": prompt, "prompt_id": prompt_id, "extra_data": dict(extra)}
        if client := extra.get("client_id"):
            body["client_id"] = client
        self._call("POST", "/prompt", json=body)

    def waiting(self) -> tuple[set[str], set[str]]:
        """The ids that run, and those that wait."""
        found = self._call("GET", "/queue")
        return {str(i[1]) for i in found["queue_running"]}, {str(i[1]) for i in found["queue_pending"]}

    def outcome(self, prompt_id: str) -> tuple[str, str, dict[str, Any]] | None:
        """How a run ended (done, failed, cancelled), its error and what its nodes showed; None if nothing is known."""
        entry = (self._call("GET", f"/history/{prompt_id}") or {}).get(prompt_id)
        if entry is None:
            return None
        status = entry.get("status") or {}
        for kind, told in status.get("messages") or ():
            if kind == "execution_interrupted":
                return "cancelled", "interrupted in ComfyUI", {}
            if kind == "execution_error":
                reason = str(told.get("exception_message")).strip()
                return "failed", f"{told.get('node_type')}: {reason}", {}
        if status.get("status_str") == "error":
            return "failed", "ComfyUI says no more than that it failed", {}
        return "done", "", entry.get("outputs") or {}

    def cancel(self, prompt_ids: Sequence[str]) -> None:
        """Takes runs out of the queue; what runs already is interrupted."""
        self._call("POST", "/queue", json={"delete": list(prompt_ids)})
        running, _ = self.waiting()
        for prompt_id in running & set(prompt_ids):
            self._call("POST", "/interrupt", json={"prompt_id": prompt_id})


def _refusal(answer: requests.Response) -> str:
    try:
        told = answer.json()
        reasons = [str(told["error"]["message"])]
        for node in (told.get("node_errors") or {}).values():
            reasons += [f"{node['class_type']}: {each['message']} ({each['details']})" for each in node["errors"]]
        return "; ".join(reasons)
    except (ValueError, KeyError, TypeError):
        return answer.text[:300]


# -- batches ----------------------------------------------------------------------------------------


class Batches:
    """A library's batches; what is done is recorded through the outbox, with its batch.

    Raises NotFound for an unknown batch, StoreError.
    """

    def __init__(self, store: Store, outbox: Outbox) -> None:
        self._store, self._outbox = store, outbox
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
    ) -> Batch:
        """Stores a batch of one run of ``workflow`` (API format) for each id; ``queue`` sets it going.

        ``extra`` goes with each run (ComfyUI's ``extra_data``).  The same request again while the batch is under
        way, or within ten seconds, as of a double click, gives the batch that is there.  Raises BadInput when
        ids, seeds, prompts and workflow do not fit each other.
        """
        if not ids:
            raise BadInput("there are no images to queue; give ids such as 12, 15-20, or a query that finds some")
        if len(ids) > MAX_ITEMS:
            raise BadInput(f"{len(ids):,} items are more than a batch may have ({MAX_ITEMS:,}); queue fewer at once")
        if operation not in OPERATIONS:
            raise BadInput(f"an operation is one of {', '.join(OPERATIONS)}, not '{operation}'")
        template = without_queue_nodes(workflow)
        each_seed, each_prompt = parse_seeds(seeds, len(ids)), parse_prompts(prompts, len(ids))
        _checked(template, each_seed[0] is not None, each_prompt[0] is not None)
        asked = json.dumps([list(ids), operation, template, comfyui, seeds, prompts], sort_keys=True)
        request = hashlib.sha256(asked.encode()).hexdigest()
        now = datetime.now(timezone.utc)
        since = datetime.fromtimestamp(now.timestamp() - DOUBLE_CLICK, timezone.utc).isoformat()
        batch_id = secrets.token_hex(6)
        with self._store.writing() as writer:
            same = writer.execute(
                "SELECT id FROM batches b WHERE request = ? AND EXISTS (SELECT 1 FROM batch_items WHERE batch = b.id "
                "AND (state IN ('new', 'queued', 'running') OR (state = 'done' AND b.created > ?)))",
                [request, since],
            ).fetchone()
            if same:
                return self.get(same[0])
            whole = json.dumps({"prompt": template, "extra": dict(extra or {})})
            writer.execute(
                "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?)",
                [batch_id, now.isoformat(), operation, request, comfyui.rstrip("/"), whole],
            )
            writer.executemany(
                "INSERT INTO batch_items (batch, position, image_id, seed, prompt, prompt_id, state) "
                "VALUES (?, ?, ?, ?, ?, ?, 'new')",
                [
                    (batch_id, i, image_id, None if seed is None else str(seed), prompt, str(uuid.uuid4()))
                    for i, (image_id, seed, prompt) in enumerate(zip(ids, each_seed, each_prompt, strict=True))
                ],
            )
        return self.get(batch_id)

    def all(self) -> list[Batch]:
        """Every batch, newest first."""
        return [self.get(batch_id) for (batch_id,) in self._store.rows("SELECT id FROM batches ORDER BY created DESC")]

    def get(self, batch_id: str) -> Batch:
        rows = self._store.rows("SELECT id, created, operation, comfyui FROM batches WHERE id = ?", [batch_id])
        if not rows:
            raise NotFound(f"there is no batch {batch_id}; luna-dt batch list shows those there are")
        items = self._store.rows(
            "SELECT position, image_id, seed, prompt, prompt_id, state, error FROM batch_items "
            "WHERE batch = ? ORDER BY position",
            [batch_id],
        )
        made = (Item(p, i, None if s is None else int(s), t, q, state, e) for p, i, s, t, q, state, e in items)
        name, created, operation, comfyui = rows[0]
        return Batch(name, created, operation, comfyui, tuple(made))

    def queue(self, batch_id: str) -> Batch:
        """Queues the items that are new; raises BadInput when ComfyUI refuses the first, Unreachable."""
        with self._alone():
            batch = self.get(batch_id)
            if any(item.state != "new" for item in batch.items):  # a kill may have come between queueing and noting
                self.follow(batch_id)
            return self._queue(batch_id)

    def _alone(self) -> FileLock:
        """Held while something is queued, or two processes would both queue what is new."""
        return FileLock(self._store.home / "batch.lock")

    def _queue(self, batch_id: str) -> Batch:
        batch = self.get(batch_id)
        workflow = self._workflow(batch_id)
        comfyui, queued = ComfyUI(batch.comfyui), list[int]()
        try:
            for item in batch.items:
                if item.state == "new" and self._is_new(batch_id, item):  # it may be cancelled meanwhile
                    prompt = prompt_of(workflow["prompt"], batch_id, batch.operation, item)
                    try:
                        comfyui.queue(prompt, item.prompt_id, workflow["extra"])
                        queued.append(item.position)
                    except BadInput as error:
                        self._note(batch_id, [item.position], "failed", str(error), ("new",))
                        if not queued:  # the workflow's fault, so every item's
                            rest = [i.position for i in batch.items if i.state == "new" and i.position != item.position]
                            self._note(batch_id, rest, "cancelled", "not queued: ComfyUI refused the first", ("new",))
                            raise
        finally:
            self._note(batch_id, queued, "queued", was=("new",))
        after = self.get(batch_id)
        late = [i.prompt_id for i in after.items if i.state == "cancelled" and i.position in set(queued)]
        if late:  # cancelled while they were on their way
            comfyui.cancel(late)
        return after

    def follow(self, batch_id: str, states: Sequence[str] = OPEN) -> Batch:
        """Asks ComfyUI how a batch's items in those states stand, notes it, and records what was done; raises
        Unreachable."""
        batch = self.get(batch_id)
        watched = [item for item in batch.items if item.state in states]
        if not watched:
            return batch
        comfyui = ComfyUI(batch.comfyui)
        running, pending = comfyui.waiting()  # before the history: what leaves the queue is in the history
        changed: dict[tuple[str, str], list[int]] = {}
        done: list[tuple[Item, dict[str, Any]]] = []
        for item in watched:
            state, error = item.state, ""
            if item.prompt_id in running:
                state = "running"
            elif item.prompt_id in pending:
                state = "queued"
            elif ended := comfyui.outcome(item.prompt_id):
                state, error, shown = ended
                if state == "done":
                    done.append((item, shown))
            elif item.state != "new":
                state = "done" if self._is_made(batch_id, item) else "lost"
            if state != item.state:
                changed.setdefault((state, error), []).append(item.position)
        if done and not self._has_writer(batch_id):
            for item, shown in done:
                self._record(batch, item, shown)
        for (state, error), positions in changed.items():
            self._note(batch_id, positions, state, error)
        return self.get(batch_id)

    def resume(self, batch_id: str, comfyui: str = "") -> Batch:
        """Queues what ComfyUI has lost, or was never told, and nothing that it has; ``comfyui``: its new address."""
        if comfyui:
            with self._store.writing() as writer:
                writer.execute("UPDATE batches SET comfyui = ? WHERE id = ?", [comfyui.rstrip("/"), batch_id])
        with self._alone():
            batch = self.follow(batch_id)
            self._note(batch_id, [i.position for i in batch.items if i.state == "lost"], "new", was=("lost",))
            return self._queue(batch_id)

    def cancel(self, batch_id: str) -> Batch:
        """Takes what is not done out of ComfyUI's queue; what is lost or new is just not queued."""
        with contextlib.suppress(Unreachable):  # what is done is done; what a ComfyUI that is away had, it has lost
            self.follow(batch_id)
        batch = self.get(batch_id)
        waiting = [item for item in batch.items if item.state in OPEN]
        # noted first: whoever queues this batch now looks before each item
        self._note(batch_id, [item.position for item in waiting], "cancelled", "cancelled by the user")
        with contextlib.suppress(Unreachable):
            ComfyUI(batch.comfyui).cancel([item.prompt_id for item in waiting])
        return self.get(batch_id)

    def retry(self, batch_id: str) -> Batch:
        """Queues what failed or was cancelled once more."""
        with self._alone():
            batch = self.follow(batch_id)
            again = [item for item in batch.items if item.state in ("failed", "cancelled")]
            with self._store.writing() as writer:
                writer.executemany(
                    "UPDATE batch_items SET state = 'new', error = '', prompt_id = ? WHERE batch = ? AND position = ?",
                    [(str(uuid.uuid4()), batch_id, item.position) for item in again],
                )
            return self._queue(batch_id)

    def watch(self, batch_id: str, tell: Callable[[Batch], None] = lambda _: None) -> None:
        """Follows a batch in the background until all its items have ended; ``tell`` hears of each change."""
        with self._lock:
            if batch_id in self._watchers and self._watchers[batch_id].is_alive():
                return
            watch = threads.start(
                f"batch {batch_id}", lambda: self._watch(batch_id, tell), self._closing.set, network=True
            )
            self._watchers[batch_id] = watch

    def watch_all(self, comfyui: str) -> None:
        """Watches every batch at that address that has not ended."""
        marks = ", ".join("?" * len(OPEN))
        for (batch_id,) in self._store.rows(
            "SELECT id FROM batches WHERE comfyui = ? "
            f"AND EXISTS (SELECT 1 FROM batch_items WHERE batch = id AND state IN ({marks}))",
            [comfyui, *OPEN],
        ):
            self.watch(batch_id)

    def close(self) -> None:
        """Ends the following; it goes on when the batch is next watched, or asked for."""
        self._closing.set()
        for thread in self._watchers.values():
            thread.join()

    def _watch(self, batch_id: str, tell: Callable[[Batch], None]) -> None:
        said = ""
        states: Sequence[str] = OPEN
        while not self._closing.is_set():
            try:
                batch = self.follow(batch_id, states)
                states = ("queued", "running")  # what is lost or new waits for whoever resumes it
                if str(batch) != said:
                    said = str(batch)
                    tell(batch)
                if not batch.is_open:
                    return
            except Exception as error:  # noqa: BLE001  it is followed for as long as this program runs
                log.info("batch %s cannot be followed now: %s", batch_id, error)
            self._closing.wait(LOOK)

    def _workflow(self, batch_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self._store.rows("SELECT workflow FROM batches WHERE id = ?", [batch_id])[0][0]
        )
        return found

    def _note(
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

    def _is_new(self, batch_id: str, item: Item) -> bool:
        return bool(
            self._store.rows(
                "SELECT 1 FROM batch_items WHERE batch = ? AND position = ? AND state = 'new'",
                [batch_id, item.position],
            )
        )

    def _is_made(self, batch_id: str, item: Item) -> bool:
        """Whether a run that ComfyUI has forgotten has recorded and saved its picture before."""
        for entry in self._outbox.entries(source_image_id=item.image_id):
            made = entry.generation
            if made.batch_id == batch_id and made.extra_metadata.get("batch_item") == item.position:
                return bool(made.output) and Path(made.output).is_file()
        return False

    def _has_writer(self, batch_id: str) -> bool:
        """Whether a Metadata Writer in the workflow tells DT of what is done."""
        return any(node["class_type"] == WRITER for node in self._workflow(batch_id)["prompt"].values())

    def _record(self, batch: Batch, item: Item, shown: Mapping[str, Any]) -> None:
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
                prompt=item.prompt or "",
                seed=item.seed or 0,
                batch_id=batch.id,
                key=f"{batch.id}/{item.position}",
                extra_metadata={"batch_item": item.position, "files": files},
            )
        )
