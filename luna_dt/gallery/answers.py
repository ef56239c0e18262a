"""What the gallery's page asks, answered over a Library: from a question's name and values to what is sent.

The page names images by their ids alone: no path that it sends is ever opened.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import BadInput, BadQuery, LunaError, NotFound, Unreachable
from ..library import Library
from ..plain import shown
from ..query import SPELLINGS, TOKENS
from ..records import Term, checked_layer
from ..settings import Settings
from . import choices
from .sights import Sights
from .work import Syncing

if TYPE_CHECKING:
    from ..export import Caption

log = logging.getLogger(__name__)

MOST_RECORDS = 500  # asked for at once
MOST_HITS = 1000
MOST_TERMS = 20
MOST_MODELS, MOST_SUGGESTED_TAGS = 200, 1000  # that are suggested
MOST_EXPORTED = 1000  # in one go: who asks waits for it
MOST_SENT = 64 << 20  # bytes of a picture that is sent to search by
KEPT_FOR = "private, max-age=3600"  # thumbnails, in the browser
#: The page's files by their names, and as what they are served; nothing else of the folder can be asked for.
PAGE_TYPES = {".mjs": "text/javascript", ".css": "text/css", ".html": "text/html"}


@dataclass(frozen=True)
class Answer:
    """What is sent: bytes of a type, under a status; ``headers`` beside these."""

    data: bytes
    type: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Gallery:
    """Answers over the library that ``library`` gives, which may be another after a change of settings.

    ``said`` puts messages into the words of the place where the page is; ``settings`` gives those by which a sync
    opens the library once more, as it waits for DT longer than whoever looks at a page.  ``changeable``: the page may
    change what Settings.load() reads, as the library is opened anew by it.
    """

    def __init__(
        self,
        library: Callable[[], Library],
        settings: Callable[[], Settings] | None = None,
        said: Callable[[str], str] = str,
        changeable: bool = False,
    ) -> None:
        self._library, self.said, self.changeable = library, said, changeable
        self.settings = settings or (lambda: library().settings)
        self.sights, self.syncing = Sights(), Syncing()
        self.every: dict[tuple[str, str], bytes] = {}  # all ids, by their order and what was synced

    @property
    def library(self) -> Library:
        return self._library()

    def answer(self, method: str, name: str, asked: Mapping[str, Any], body: bytes = b"") -> Answer:
        """The answer to a question: ``asked`` are the values in its address, ``body`` JSON, or of PUT a picture.

        Every error becomes a problem (RFC 9457) with its stable ``code``; a query's also says ``at`` which character, and
        where it came of a DT that does not answer it says ``dt_away``.
        """
        try:
            call = CALLS.get((method, name))
            if call is None:
                raise NotFound(f"the gallery has no {method} '{name[:50]}'")
            if method == "POST":
                asked = _object(body)
            elif method == "PUT":
                asked = {**asked, "body": body}
            found = call(self, asked)
        except LunaError as error:
            more = {"at": error.at} if isinstance(error, BadQuery) and error.at is not None else {}
            if isinstance(error, Unreachable) or isinstance(error.__cause__, Unreachable):
                more["dt_away"] = True
            return problem(error.http_status, error.code, self.said(str(error)), more)
        except Exception:
            log.exception("the gallery could not answer %s", name)
            return problem(500, "error", "this failed; the log says why")
        return found if isinstance(found, Answer) else Answer(json.dumps(found, ensure_ascii=False).encode())


def problem(status: int, code: str, detail: str, more: Mapping[str, Any] | None = None) -> Answer:
    """A problem as an answer, which may repeat what was asked and so is made plain."""
    told = {"status": status, "code": code, "title": code.replace("_", " "), "detail": shown(detail, 1000)}
    return Answer(json.dumps({**told, **(more or {})}).encode(), "application/problem+json", status)


def page_files() -> dict[str, Answer]:
    """The page's own files, by their names."""
    return {
        file.name: Answer(file.read_bytes(), f"{PAGE_TYPES[file.suffix]}; charset=utf-8")
        for file in sorted(Path(__file__).with_name("page").iterdir())
        if file.suffix in PAGE_TYPES
    }


# -- what is here -----------------------------------------------------------------------------------


def status(gallery: Gallery, _: Mapping[str, Any]) -> Any:
    """What is here and what goes on: enough to say what a page that is empty waits for."""
    library = gallery.library
    told = library.status()
    count, synced = told.counts["images"]
    layers = [
        {"name": each.state.name, "vectors": each.state.count, "coverage": each.coverage}
        for each in told.layers
        if each.state.count
    ]
    return {
        "images": count, "synced": synced, "dt": told.dt, "layers": layers, "text_layer": library.text_layer(),
        "no_layer": gallery.said(told.no_layer), "sync": _syncing(gallery), "outbox": library.outbox.counts(), "left_out": list(told.left_out),
    }  # fmt: skip


def find(gallery: Gallery, asked: Mapping[str, Any]) -> Answer:
    """The ids that fit a query, all of them, as a page takes numbers: little-endian float64."""
    query, order = _text(asked, "query"), _text(asked, "order", "date")
    now = (order, gallery.library.fingerprint("images"))  # all of a large library take a second to put in order
    data = gallery.every.get(now) if not query.strip() else None
    if data is None:
        data = gallery.library.find(query, order).astype("<f8").tobytes()  # type: ignore[arg-type]
        if not query.strip():
            gallery.every = {each: kept for each, kept in gallery.every.items() if each[1] == now[1]} | {now: data}
    return Answer(data, "application/octet-stream")


def records(gallery: Gallery, asked: Mapping[str, Any]) -> Any:
    """The records of some ids, of those that are here."""
    return [record.to_json() for record in gallery.library.records(_ids(asked, MOST_RECORDS))]


def one(gallery: Gallery, asked: Mapping[str, Any]) -> Any:
    """All that is known of one image."""
    return gallery.library.known(_whole(asked, "id")).to_json()


def suggest(gallery: Gallery, _: Mapping[str, Any]) -> Any:
    """What a query can be made of: tokens, models, tags, clusters."""
    library = gallery.library
    return {
        "tokens": [spelling for token in TOKENS for spelling in SPELLINGS[token]],
        "models": library.models()[:MOST_MODELS],
        "tags": [tag for tag, _ in library.tags()[:MOST_SUGGESTED_TAGS]],
        "clusters": clusters(gallery, {}),
    }


def clusters(gallery: Gallery, _: Mapping[str, Any]) -> Any:
    """Every cluster that is here, with the ``label`` that a node's list has of it."""
    library = gallery.library
    return [
        {"id": each.id, "name": each.name, "label": each.label, "images": each.image_count}
        for each in (library.clusters() if library.mirrors("clusters") else [])
    ]


# -- searches ---------------------------------------------------------------------------------------


def search(gallery: Gallery, asked: Mapping[str, Any]) -> Any:
    """The ids most similar to some references, each with its weight and layer; their similarities; how many each
    stands for."""
    given = asked.get("terms")
    if not isinstance(given, list) or not 0 < len(given) <= MOST_TERMS:
        raise BadInput(f"a search has 1 to {MOST_TERMS} references")
    terms = [_term(gallery, each) for each in given]
    hits = gallery.library.search(
        terms,
        top_k=_whole(asked, "top_k", 200, 1, MOST_HITS),
        min_similarity=_number(asked, "min_similarity", -1.0, -1, 1),
        where=_text(asked, "where"),
        order=_text(asked, "order", "similarity"),  # type: ignore[arg-type]
        collapse=_number(asked, "collapse", 0.0, 0, 1),
        engine="local",
    )
    return {
        "ids": [hit.id for hit in hits],
        "similarities": [round(hit.similarity, 4) for hit in hits],
        "stands_for": [hit.stands_for for hit in hits],
    }


def _term(gallery: Gallery, said: Any) -> Term:
    if not isinstance(said, dict):
        raise BadInput("a reference is an object with an image_id, a text or a picture")
    weight, text = _number(said, "weight", 1.0, -100, 100), said.get("text")
    if isinstance(text, str) and text.strip():
        return Term(text=text[:10_000], layer=_layer(said, gallery.library.text_layer()), weight=weight)
    if "picture" in said:
        picture = gallery.sights.sent(_text(said, "picture"))
        return Term(picture, layer=_layer(said, "visual"), weight=weight)
    return Term(image_id=_whole(said, "image_id"), layer=_layer(said, "visual"), weight=weight)


def reference(gallery: Gallery, asked: Mapping[str, Any]) -> Any:
    """Takes a picture to search by, dropped or pasted, and gives the name it is known by for now."""
    body = asked["body"]
    if len(body) > MOST_SENT:
        raise BadInput(f"a picture to search by may have {MOST_SENT:,} bytes")
    return {"picture": gallery.sights.take(body)}


# -- pictures ---------------------------------------------------------------------------------------


def thumbnail(gallery: Gallery, asked: Mapping[str, Any]) -> Answer:
    """A small picture, WebP."""
    data = gallery.sights.thumbnail(gallery.library, _whole(asked, "id"), _whole(asked, "size", 256, 32, 1024))
    return Answer(data, "image/webp", headers={"cache-control": KEPT_FOR})


def cluster(gallery: Gallery, asked: Mapping[str, Any]) -> Answer:
    """What a cluster looks like: some of its surest pictures in one; with ``veil`` those that are NSFW are blurred."""
    size, veil = _whole(asked, "size", 256, 32, 1024), _text(asked, "veil") == "1"
    data = gallery.sights.cluster(gallery.library, _whole(asked, "id"), size, veil)
    return Answer(data, "image/webp", headers={"cache-control": KEPT_FOR})


def picture(gallery: Gallery, asked: Mapping[str, Any]) -> Answer:
    """An image's own file where a browser shows its kind, else made one that it does."""
    return Answer(*gallery.sights.whole(gallery.library.file(_whole(asked, "id"))))


def map_of(gallery: Gallery, asked: Mapping[str, Any]) -> Answer:
    """A ControlNet map that is kept; none is made."""
    out = io.BytesIO()
    gallery.library.map(_text(asked, "kind"), image_id=_whole(asked, "id"), make=False).picture.save(out, "PNG")
    return Answer(out.getvalue(), "image/png")


# -- what goes on -----------------------------------------------------------------------------------


def sync(gallery: Gallery, asked: Mapping[str, Any]) -> Any:
    """Starts a sync, unless one runs."""
    gallery.syncing.start(gallery.settings(), bool(asked.get("accept")))
    return _syncing(gallery)


def stop(gallery: Gallery, _: Mapping[str, Any]) -> Any:
    """Has the sync stop; the next one goes on from there."""
    gallery.syncing.stop()
    return _syncing(gallery)


def _syncing(gallery: Gallery) -> dict[str, Any]:
    told = gallery.syncing.to_json()
    ended = told["ended"]
    return {**told, "ended": {**ended, "error": gallery.said(ended["error"])}} if "error" in ended else told


def export(gallery: Gallery, asked: Mapping[str, Any]) -> Any:
    """Puts some pictures and their captions into a new folder of the library's home, and tells what became of them."""
    folder = gallery.library.settings.home / "exports" / time.strftime("%Y-%m-%d %H-%M-%S")
    captions = cast("Caption", _text(asked, "captions", "combined"))
    return gallery.library.export(
        _ids(asked, MOST_EXPORTED), folder, captions=captions, trigger=_text(asked, "trigger")
    ).to_json()


def batches(gallery: Gallery, _: Mapping[str, Any]) -> Any:
    """Every batch and how it stands, newest first."""
    return [
        {"id": each.id, "created": each.created, "operation": each.operation, "items": len(each.items),
         "counts": each.counts, "open": each.is_open}
        for each in gallery.library.batches.all()
    ]  # fmt: skip


def batch(gallery: Gallery, asked: Mapping[str, Any]) -> Any:
    """Cancels a batch, or has what failed of it tried again."""
    do = {"cancel": gallery.library.batches.cancel, "retry": gallery.library.batches.retry}.get(_text(asked, "do"))
    if do is None:
        raise BadInput("of a batch there is: cancel, retry")
    return {"counts": do(_text(asked, "id")).counts}


def outbox(gallery: Gallery, _: Mapping[str, Any]) -> Any:
    """What DT does not have yet, and why."""
    return [
        {"position": each.position, "state": each.state, "tries": each.tries, "reason": each.reason,
         "operation": each.generation.operation, "created": each.generation.created,
         "source_image_id": each.generation.source_image_id}
        for each in gallery.library.outbox.entries("waiting", "parked", "kept")
    ]  # fmt: skip


def send(gallery: Gallery, _: Mapping[str, Any]) -> Any:
    """Tries once, now, all that waits."""
    return {"sent": gallery.library.outbox.send()}


def doctor(gallery: Gallery, _: Mapping[str, Any]) -> Any:
    """What is well and what is not, each with one next step."""
    return [
        {**each.to_json(), "says": gallery.said(each.says), "step": gallery.said(each.step)}
        for each in gallery.library.doctor()
    ]


def settings(gallery: Gallery, _: Mapping[str, Any]) -> Any:
    """The settings, where whoever serves the page lets it change them."""
    if not gallery.changeable:
        raise NotFound("here the settings are those that the page was started with")
    return choices.told()


def change(gallery: Gallery, asked: Mapping[str, Any]) -> Any:
    """Writes some settings, and gives all of them as they are then."""
    settings(gallery, asked)  # or they are none of the page's
    choices.change(asked)
    return settings(gallery, asked)


# -- values that the page sent ----------------------------------------------------------------------


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise BadInput("the question is no JSON") from error
    if not isinstance(found, dict):
        raise BadInput("the question is no JSON object")
    return found


def _text(asked: Mapping[str, Any], name: str, otherwise: str = "") -> str:
    found = asked.get(name, otherwise)
    if not isinstance(found, str):
        raise BadInput(f"{name} is no text")
    return found


def _layer(asked: Mapping[str, Any], otherwise: str) -> str:
    return checked_layer(_text(asked, "layer") or otherwise)


def _number(asked: Mapping[str, Any], name: str, otherwise: float | None, least: float, most: float) -> float:
    try:
        found = float(asked.get(name, otherwise))
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name} is no number") from error
    if not least <= found <= most:
        raise BadInput(f"{name} must be {least:g} to {most:g}")
    return found


def _whole(asked: Mapping[str, Any], name: str, otherwise: int | None = None, least: int = 0, most: int = 2**53) -> int:
    found = _number(asked, name, otherwise, least, most)
    if found != int(found):
        raise BadInput(f"{name} is no whole number")
    return int(found)


def _ids(asked: Mapping[str, Any], most: int) -> list[int]:
    said = [each for each in _text(asked, "ids").split(",") if each]
    if len(said) > most:
        raise BadInput(f"at most {most:,} images can be asked for at once")
    return [_whole({"id": each}, "id") for each in said]


CALLS: Mapping[tuple[str, str], Callable[[Gallery, Mapping[str, Any]], Any]] = {
    ("GET", "status"): status, ("GET", "find"): find, ("GET", "records"): records, ("GET", "one"): one,
    ("GET", "suggest"): suggest, ("GET", "clusters"): clusters, ("GET", "cluster"): cluster, ("POST", "search"): search, ("PUT", "reference"): reference,
    ("GET", "thumbnail"): thumbnail, ("GET", "picture"): picture, ("GET", "map"): map_of, ("POST", "sync"): sync,
    ("POST", "stop"): stop, ("GET", "batches"): batches, ("POST", "batch"): batch, ("GET", "outbox"): outbox,
    ("POST", "send"): send, ("GET", "doctor"): doctor, ("GET", "settings"): settings, ("POST", "settings"): change,
    ("POST", "export"): export,
}  # fmt: skip
