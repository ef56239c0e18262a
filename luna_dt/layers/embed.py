"""Making a layer's vectors here, from the library's own pictures or prompts.

Newest first: what was made last is looked for first.  Threads read, decode and shrink pictures while the encoder works
on those before; what comes out is stored every few seconds, so that a run that was stopped goes on where it was.  A
picture is known by a digest of its content, and is read again only when its file's size or time has changed.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import queue
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from ..errors import BadInput, BadPicture, LunaError
from ..identity import FAST, LOCAL_IDENTITIES, Identity
from ..mirror.pictures import Pictures
from ..models import Encoders, Tower
from ..pixels import read_pictures
from ..progress import Progress
from ..records import EMBEDDINGS, Batch, Float32s, ImageRecord, checked_layer, content_digest
from ..store import BEGUN, Store

log = logging.getLogger(__name__)

T = TypeVar("T")
Quality = Literal["", "fast", "best"]
MEASURED = 1.0  # seconds of work that a forecast is made from, at least
STORED_EVERY, STORED_ROWS = 5.0, 4096  # seconds, rows: what a kill can cost


@dataclass(frozen=True)
class Embedded:
    """What making a layer did: how many vectors were made, how many images had theirs already, how many
    files were read for that, and each image that was ``skipped`` with the reason."""

    layer: str
    identity: Identity
    encoded: int
    unchanged: int
    read: int
    skipped: tuple[tuple[int, str], ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        skipped = [{"id": image_id, "reason": reason} for image_id, reason in self.skipped]
        return {**vars(self), "identity": self.identity.to_json(), "skipped": skipped}


@dataclass(frozen=True)
class Forecast:
    """What is still to be made when a layer's first few pictures (or prompts) were: ``rate`` of these a second on this
    device, and the ``seconds`` that the ``count`` others will take at it."""

    layer: str
    identity: Identity
    count: int
    rate: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "identity": self.identity.to_json()}


def source_text(layer: str, record: ImageRecord) -> str:
    """The text that a layer of texts is made from: the prompt, or the negative one."""
    return (record.negative_prompt if layer == "negative" else record.prompt).strip()


def embed(
    store: Store,
    encoders: Encoders,
    pictures: Pictures,
    layer: str,
    where: str,
    model: str,
    quality: Quality,
    devices: Sequence[str],
    replace: bool,
    progress: Progress,
    begins: Callable[[Forecast], object],
) -> Embedded:
    """Makes the vectors that a layer lacks or whose source has changed, of the images that fit ``where``.

    See Library.embed; what was made before an error is kept.
    """
    start = time.monotonic()
    into, identity = _chosen(store, encoders, layer, model, quality, replace)
    towers = [encoders.tower(identity, device) for device in dict.fromkeys(devices or ("",))]
    store.find(where, 0, 1)  # a query that cannot be read must not cost the layer
    with store.sole_writer():
        begun = store.begun(layer)
        if begun and not (into != layer and begun == identity):
            store.remove_layer(layer + BEGUN)
        store.prepare_layer(into, identity, local=True)
        work = _Work(store, into, identity, pictures.file, towers[0])
        todo = work.plan(where, pictures.stamp)
        progress(f"embed.{layer}", 0, len(todo))
        done = 0
        with work.storing():  # what is made when this is stopped, too
            for part in _parts(todo, lambda count, rate: begins(Forecast(layer, identity, count, rate, count / rate))):
                # ended even if this is stopped: no thread may go on reading
                with contextlib.closing(stream(towers, identity, part, work.prepared)) as results:
                    for image_id, result in results:
                        work.take(image_id, result)
                        done += 1
                        progress(f"embed.{layer}", done, len(todo))
        store.compact(into)
        if into != layer and store.digests(EMBEDDINGS + into)[0].size:  # if no picture was to be had, the old one stays
            store.put_in_use(layer)
        store.finish(EMBEDDINGS + layer, "here")
    return Embedded(
        layer, identity, work.encoded, work.unchanged, work.files_read, tuple(work.skipped), time.monotonic() - start
    )


def _chosen(
    store: Store, encoders: Encoders, layer: str, model: str, quality: Quality, replace: bool
) -> tuple[str, Identity]:
    """Under which name vectors are made, the layer's own or that of one begun beside it, and by what."""
    if model and quality:
        raise BadInput("a model and a quality were given, and a quality is a model; leave one of them out")
    own, begun = LOCAL_IDENTITIES[checked_layer(layer)], store.begun(layer)
    state = next((s for s in store.layers() if s.name == layer), None)
    if quality == "fast":
        model = FAST[own.tower]
    if model:
        identity = encoders.identity(model, own.tower)
    elif quality == "best":
        identity = own
    else:
        identity = begun or (state.identity if state and state.local else own)
    if not state or not state.count:
        return layer, identity
    failed = state.verdict is not None and not state.verdict.passed
    if replace or failed or begun == identity:
        return layer + BEGUN, identity
    if state.local and state.identity == identity:
        return layer, identity
    raise BadInput(
        f"layer '{layer}' holds {state.count:,} vectors {'made here' if state.local else 'from DT'} by "
        f"{state.identity}; making it by {identity} gives them up when all are made: say so with --replace (replace=True)"
    )


def _parts(todo: Sequence[int], tell: Callable[[int, float], object]) -> Iterator[Sequence[int]]:
    """All of ``todo``, in parts: first ever more until they take long enough to measure, then, told of, the rest."""
    at, size, took, rate = 0, 1, 0.0, 1.0
    while at < len(todo) and (size <= 4 or took < MEASURED):  # the very first one warms up
        began, part = time.monotonic(), todo[at : at + size]
        yield part
        took, at, size = time.monotonic() - began, at + size, size * 4
        rate = len(part) / max(took, 1e-9)
    if at < len(todo):
        tell(len(todo) - at, rate)
        yield todo[at:]


def forget(store: Store, layer: str) -> None:
    """Gives up what was made here of a layer, begun or whole; raises BadInput where that is nothing."""
    own, begun = store.is_local(checked_layer(layer)), store.begun(layer)
    if not own and not begun:
        raise BadInput(f"layer '{layer}' was not made here")
    with store.sole_writer():
        for name in [layer] * own + [layer + BEGUN] * bool(begun):
            store.remove_layer(name)


class _Work:
    """What is to be made, from what, and what came of it."""

    def __init__(
        self, store: Store, layer: str, identity: Identity, read: Callable[[int], bytes], tower: Tower
    ) -> None:
        self._store, self._layer, self._identity, self._read, self._tower = store, layer, identity, read, tower
        self._of = layer.removesuffix(BEGUN)
        ids, digests = store.digests(EMBEDDINGS + layer)
        self._known = dict(zip(ids.tolist(), digests.tolist(), strict=True))
        self._stamps: dict[int, str] = {}
        self._digests: dict[int, int] = {}
        self._rows: list[tuple[int, int, Float32s]] = []
        self._files: list[tuple[int, str, int]] = []
        self._stored = time.monotonic()
        self.encoded = self.unchanged = self.files_read = 0
        self.skipped: list[tuple[int, str]] = []

    def plan(self, where: str, stamp: Callable[[ImageRecord], str]) -> list[int]:
        """The ids to look at, the newest first; no picture is read for it."""
        files, todo, emptied = self._store.files(), list[tuple[str, int]](), list[int]()
        for record in self._store.visible(where):
            digest: int | None = None
            if self._identity.tower == "text":
                text = source_text(self._of, record)
                if text:
                    digest = content_digest(text.encode())
                else:
                    emptied.append(record.id)
                    continue
            else:
                self._stamps[record.id] = now = stamp(record)
                before, content = files.get(record.id, ("", 0))
                if before == now:
                    digest = content
            if digest is not None and self._known.get(record.id) == digest:
                self.unchanged += 1
            else:
                todo.append((record.created, record.id))
        gone = [i for i in emptied if i in self._known]
        self._store.drop(EMBEDDINGS + self._layer, np.array(gone, np.int64))
        return [image_id for _, image_id in sorted(todo, reverse=True)]

    def prepared(self, image_id: int) -> Any:
        """An image's source as its tower takes it; None if it has its vector already.  In any thread."""
        if self._identity.tower == "text":
            text = source_text(self._of, self._store.image(image_id))
            self._digests[image_id] = content_digest(text.encode())
            return self._tower.prepared(text, self._identity)
        data = self._read(image_id)
        self._digests[image_id] = digest = content_digest(data)
        if self._known.get(image_id) == digest:
            return None
        return self._tower.prepared(read_pictures(data, f"image {image_id}")[0], self._identity)

    def take(self, image_id: int, result: Float32s | LunaError | None) -> None:
        digest = self._digests.pop(image_id, None)
        if digest is not None and image_id in self._stamps:
            self.files_read += 1
            self._files.append((image_id, self._stamps[image_id], digest))
        if isinstance(result, LunaError):
            self.skipped.append((image_id, str(result)))
            if isinstance(result, BadPicture) and digest is not None:  # not tried again until it changes
                self._rows.append((image_id, digest, np.zeros(self._identity.dim, np.float32)))
        elif result is None:
            self.unchanged += 1
        elif not np.isfinite(result).all():  # not to be taken for a picture that cannot be read: it is tried again
            self.skipped.append((image_id, f"image {image_id}: {self._identity.model} gives no finite vector for it"))
        else:
            assert digest is not None
            self._rows.append((image_id, digest, result))
            self.encoded += 1
        if len(self._rows) >= STORED_ROWS or time.monotonic() - self._stored > STORED_EVERY:
            self._store_rows()

    @contextlib.contextmanager
    def storing(self) -> Iterator[None]:
        """What was taken is stored when this ends, however it ends."""
        try:
            yield
        finally:
            self._store_rows()

    def _store_rows(self) -> None:
        if self._rows:
            ids, digests, vectors = zip(*self._rows, strict=True)
            batch = Batch(np.array(ids, np.int64), np.array(digests, np.int64), np.stack(vectors))
            self._store.put(EMBEDDINGS + self._layer, batch)
        if self._files:
            self._store.put_files(self._files)
        self._rows, self._files, self._stored = [], [], time.monotonic()


def stream(
    towers: Sequence[Tower], identity: Identity, items: Iterable[T], prepare: Callable[[T], Any]
) -> Generator[tuple[T, Float32s | LunaError | None], None, None]:
    """Each item, in order, with its unit vector, or with the error that preparing it raised, or None.

    ``prepare`` runs in threads, ahead of the towers; items for which it gives None are passed by.  Towers
    on several devices share the batches.  No more is held than keeps all of them busy.
    """
    free: queue.SimpleQueue[Tower] = queue.SimpleQueue()
    slots = [tower for tower in towers for _ in range(2 if tower.on_cuda else 1)]  # one computes, one hands over
    for tower in slots:
        free.put(tower)

    def encode(prepared: list[Any]) -> Float32s:
        tower = free.get()
        try:
            return tower.vectors(prepared, identity)
        finally:
            free.put(tower)

    def attempt(item: T) -> Any:
        try:
            return prepare(item)
        except LunaError as error:
            return error

    readers = ThreadPoolExecutor(min(32, os.cpu_count() or 1), "luna_dt reader")
    runners = ThreadPoolExecutor(len(slots), "luna_dt encoder")
    ahead: collections.deque[tuple[T, Future[Any]]] = collections.deque()
    running: collections.deque[tuple[list[tuple[T, Any]], Future[Float32s]]] = collections.deque()
    todo = iter(items)
    try:
        while True:
            size = min(tower.batch for tower in towers)
            for item in todo:
                ahead.append((item, readers.submit(attempt, item)))
                if len(ahead) >= size * (len(slots) + 1):
                    break
            part: list[tuple[T, Any]] = []
            ready: list[Any] = []
            while ahead and len(ready) < size and len(part) < 4 * size:
                item, future = ahead.popleft()
                result = future.result()
                part.append((item, result))
                if result is not None and not isinstance(result, LunaError):
                    ready.append(result)
            if part:
                running.append((part, runners.submit(encode, ready)))
            while running and (len(running) > len(slots) or not part):
                yield from _joined(*running.popleft())
            if not part:
                return
    finally:
        readers.shutdown(cancel_futures=True)
        runners.shutdown(cancel_futures=True)


def _joined(part: list[tuple[T, Any]], future: Future[Float32s]) -> Iterator[tuple[T, Float32s | LunaError | None]]:
    vectors = iter(future.result())
    for item, result in part:
        yield item, result if result is None or isinstance(result, LunaError) else next(vectors)
