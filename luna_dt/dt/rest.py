"""A DT server that speaks the contract (docs/rest.md), over a pooled session."""

from __future__ import annotations

import base64
import logging
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from ..errors import (
    BadAnswer,
    BadInput,
    BadQuery,
    MapMissing,
    NotFound,
    NotOffered,
    NotSearchable,
    PictureMissing,
    UnknownImage,
    Unreachable,
)
from ..generation import Generation
from ..identity import Identity
from ..plain import shown
from ..query import must_be_sayable
from ..records import (
    EMBEDDINGS,
    LAYERS,
    RECORD_KINDS,
    Batch,
    Captions,
    Cluster,
    ClusterImage,
    Float32s,
    Hit,
    ImageRecord,
    Int64s,
    Kind,
    StoredMap,
    checked_keypoints,
    layer_of,
)
from ..storable import LARGEST, checked, each
from . import wire
from .calls import RETRIES, Calls
from .catalog import Catalog, Health, Sort

log = logging.getLogger(__name__)

#: The most bytes that an answer may have, by what is asked for; a server that sends more is not read to its end.
ONE_RECORD, ONE_LIST, DIGESTS = 1 << 20, 64 << 20, 512 << 20
ONE_PICTURE, WITH_PICTURE, WITH_MAP = 256 << 20, 352 << 20, 192 << 20
EACH_RECORD = 16 << 10  # of a record in a sync, beside ONE_LIST for the whole
EACH_BLOCK = 1 << 10  # of a vector beside its numbers: servers may send each in a block of its own
SPARE = 1000  # lines beside those asked for, and as many more; what nobody asked for is not taken
MAX_DIM = 1 << 16
ROWS_AT_ONCE = 1000  # images in a page
SYNC_TIMES = 10  # by which a sync's calls may take longer


class RestCatalog(Catalog):
    """A catalog behind ``http(s)://``; see dt/catalog.py.  Tolerates absent optional fields, and answers
    wrapped as ``{"images": […]}`` or ``{"clusters": […]}``.

    ``timeout``: the seconds that a call may take in all, retries and the server's pauses included (a sync's ten times
    that).
    """

    def __init__(self, address: str, token: str = "", timeout: float = 30.0) -> None:
        self._calls = Calls(address, token, timeout)
        self.address = self._calls.address
        self._identities: dict[str, Identity] = {}

    def close(self) -> None:
        self._calls.close()

    def _mapping(self, method: str, path: str, most: int = ONE_RECORD, **options: Any) -> Mapping[str, Any]:
        found = self._calls.json(method, path, most, **options)
        if not isinstance(found, Mapping):
            raise self._bad(path, "something that is no mapping", found)
        return found

    def _list(self, wrapper: str, method: str, path: str, **options: Any) -> list[Mapping[str, Any]]:
        found = self._calls.json(method, path, ONE_LIST, **options)
        if isinstance(found, Mapping):
            found = found.get(wrapper)
        if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
            raise self._bad(path, f"something that is no list of {wrapper}")
        return found

    def _bad(self, path: str, what: str, sent: Any = "") -> BadAnswer:
        return BadAnswer(f"DT at {self.address} answers {path} with {what}" + (f": {shown(sent, 200)}" if sent else ""))

    # -- section 1 of the contract ------------------------------------------------------------------

    def health(self) -> Health:
        found = self._calls.json("GET", "/api/health", ONE_RECORD)
        if not isinstance(found, Mapping) or found.get("status") != "ok":
            raise BadAnswer(f"DT at {self.address} does not say that it is well: {shown(found, 200)}")
        name, version, library = (shown(found.get(key) or "", 200) for key in ("name", "version", "library"))
        capabilities, left_out = _texts(found.get("capabilities")), _texts(found.get("left_out"))
        return Health(name or "DT", version, capabilities, left_out, library)

    def image(self, image_id: int) -> ImageRecord:
        # a plain DT server may send the pixels with it
        found = checked(ImageRecord.from_json(self._mapping("GET", f"/api/images/{int(image_id)}", WITH_PICTURE)))
        if found.id != image_id:
            raise self._bad(f"/api/images/{int(image_id)}", f"image {found.id}")
        return found

    def images(self, query: str = "", after_id: int = 0, limit: int = 100) -> list[ImageRecord]:
        """Asked in pages, each of which must go on from the one before it."""
        must_be_sayable(query)
        until, found = self._calls.until(), list[ImageRecord]()
        while (wanted := min(limit - len(found), ROWS_AT_ONCE)) > 0:
            asked = {"query": query, "after_id": after_id, "limit": wanted}
            try:
                rows = self._list("images", "GET", "/api/images", params=asked, until=until)
            except BadQuery as error:
                at = error.at if error.at is not None and 0 <= error.at <= len(query) else None
                raise BadQuery(str(error), at, query) from error
            ids = [i for row in rows if (i := _id(row)) is not None]
            if any(i <= before for before, i in zip([after_id, *ids], ids, strict=False)) or (rows and not ids):
                raise self._bad("/api/images", f"images that do not go on after {after_id} in the order of their ids")
            found += each(ImageRecord.from_json, rows)
            if len(rows) != wanted:  # fewer: there are no more; more: a server that knows no pages
                break
            after_id = ids[-1]
        return found[:limit]

    def similar(
        self,
        layer: str,
        vector: Float32s | None,
        image_id: int | None,
        top_k: int,
        min_similarity: float,
        text: str | None = None,
    ) -> list[Hit]:
        body: dict[str, Any] = {"query_type": layer, "top_k": top_k, "min_similarity": min_similarity}
        if vector is not None:
            body["embedding"] = [float(value) for value in vector]
        elif text is not None:
            body["text_query"] = text
        else:
            body["image_id"] = image_id
        hits = []
        for found in self._list("images", "POST", "/api/images/similar", json=body)[:top_k]:
            similarity = _finite(found.get("similarity"))
            if similarity is None:
                raise self._bad("/api/images/similar", "a hit without its similarity", found)
            records = each(ImageRecord.from_json, [{"path": "", **found}])
            hits += [Hit(record.id, similarity, record) for record in records]
        return hits

    def clusters(self) -> list[Cluster]:
        return each(Cluster.from_json, self._list("clusters", "GET", "/api/clusters"))

    def cluster_images(
        self, cluster_id: int, limit: int = 50, min_quality: float = 0, sort: Sort = "quality"
    ) -> list[ClusterImage]:
        wanted = {"limit": limit, "min_quality": min_quality, "sort": sort}
        found = self._list("images", "GET", f"/api/clusters/{int(cluster_id)}/images", params=wanted)
        return [
            ClusterImage(record, confidence)
            for item in found[:limit]
            if (confidence := _finite(item.get("confidence") or 0)) is not None
            for record in each(ImageRecord.from_json, [item])
        ]

    def captions(self, image_id: int) -> Captions:
        found = self._mapping("GET", f"/api/images/{int(image_id)}/caption")
        return checked(Captions.from_json(found, int(image_id)))

    def file(self, image_id: int) -> bytes:
        path, until = f"/api/images/{int(image_id)}", self._calls.until()
        try:
            with self._calls.call("GET", f"{path}/file", ONE_PICTURE, until) as body:
                return body.read()
        except UnknownImage:
            raise
        except (NotFound, NotOffered) as refusal:  # a plain DT server may send the pixels with the record
            found = self._mapping("GET", path, WITH_PICTURE, until=until)
            if not found.get("image_base64"):
                raise PictureMissing(f"{refusal}; and its record has no image_base64") from refusal
            return _decoded(found["image_base64"], f"image {image_id}")

    def control_map(self, image_id: int, kind: str) -> StoredMap:
        try:
            found = self._mapping("GET", _map_path(image_id, kind), WITH_MAP)
        except UnknownImage:
            raise
        except (NotFound, NotOffered) as refusal:
            raise MapMissing(f"DT has no {kind} map of image {image_id}") from refusal
        if not (found.get("image_base64") or found.get("path")):
            raise BadAnswer(f"DT sent the {kind} map of image {image_id} with neither image_base64 nor path")
        data = b""
        if found.get("image_base64"):
            data = _decoded(found["image_base64"], f"the {kind} map of image {image_id}")
        try:
            keypoints = checked_keypoints(found.get("keypoints"))
        except BadInput as error:
            raise BadAnswer(f"DT sent the {kind} map of image {image_id} with keypoints that are none") from error
        return StoredMap(data, str(found.get("path") or ""), keypoints)

    def put_map(self, image_id: int, kind: str, made: StoredMap) -> None:
        if "maps" not in self.health().capabilities:
            raise NotOffered(f"DT at {self.address} keeps no ControlNet maps that are made elsewhere")
        body = {"image_base64": base64.b64encode(made.data).decode(), "keypoints": made.keypoints}
        self._calls.json("PUT", _map_path(image_id, kind), ONE_RECORD, json=body)

    # -- generations ----------------------------------------------------------------------------------

    def record(self, generation: Generation) -> str:
        # sent once: whether to send it again is the outbox's to say, who knows of servers without keys
        stored = self._mapping(
            "POST",
            "/api/generations",
            retries=0,
            json={name: value for name, value in generation.to_json().items() if name != "id"},
            headers={"Idempotency-Key": generation.key},
        )
        dt_id = stored.get("id")
        if not isinstance(dt_id, (str, int)) or not 0 < len(shown(dt_id)) <= 200:
            raise BadAnswer(f"DT at {self.address} does not say under which id it stored a generation")
        return shown(dt_id)

    def generations(
        self, source_image_id: int | None = None, batch_id: str | None = None, after_id: int = 0, limit: int = 10_000
    ) -> list[Generation]:
        asked = {"source_image_id": source_image_id, "batch_id": batch_id, "after_id": after_id, "limit": limit}
        found = self._list("generations", "GET", "/api/generations", params=asked)
        made = []
        for value in found[:limit]:
            try:
                made.append(Generation.from_json(value))
            except BadInput as error:
                log.warning("DT sent a generation that is left out: %s", error)
        return made

    def amend(self, generation_id: str, changes: Mapping[str, Any]) -> Generation:
        path = f"/api/generations/{quote(generation_id, safe='')}"
        found = self._mapping("PATCH", path, ONE_LIST, json=dict(changes))
        try:
            return Generation.from_json(found)
        except BadInput as error:
            raise self._bad(path, "a generation that is none") from error

    # -- sync ---------------------------------------------------------------------------------------

    def identity(self, layer: str) -> Identity:
        kind = EMBEDDINGS + layer
        if kind not in self._identities:
            self.kinds()
        if kind not in self._identities:
            raise NotSearchable(f"DT at {self.address} has no vectors in layer '{layer}'")
        return self._identities[kind]

    def kinds(self) -> list[Kind]:
        try:
            found = self._mapping("GET", "/api/sync", until=self._calls.until(SYNC_TIMES))
        except NotFound as error:
            raise NotOffered(
                f"DT at {self.address} cannot be synced from: it has no /api/sync; give the database itself instead, "
                "or serve it with: luna-dt serve --db URL"
            ) from error
        kinds = []
        for name in (*RECORD_KINDS, *(EMBEDDINGS + layer for layer in LAYERS)):
            if name not in found:
                continue
            try:
                identity = Identity.from_json(found[name]) if layer_of(name) else None
                kind = Kind(name, int(found[name].get("count") or 0), identity)
            except (AttributeError, TypeError, ValueError, OverflowError) as error:
                raise self._bad("/api/sync", f"{name} described in a way that is none", found[name]) from error
            if identity:
                if identity.dim > MAX_DIM:
                    raise self._bad("/api/sync", f"{name} of {identity.dim:,} dimensions")
                self._identities[name] = identity
            kinds.append(kind)
        return kinds

    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        path, until = f"/api/sync/{quote(kind, safe='')}", self._calls.until(SYNC_TIMES)
        with self._calls.call("GET", path, DIGESTS, until) as body:
            return wire.unpack_digests(body)

    def fetch(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        until = self._calls.until(SYNC_TIMES)
        for attempt in range(RETRIES + 1):
            try:
                batches = self._fetched(kind, ids, until)
                break
            except Unreachable:  # an answer that broke off in its middle: nothing of it was used, so ask again
                if attempt == RETRIES or time.monotonic() >= until:
                    raise
        yield from batches

    def _fetched(self, kind: str, ids: Int64s, until: float) -> list[Batch]:
        layer = layer_of(kind)
        dim = self.identity(layer).dim if layer is not None else 0
        most = ONE_LIST + len(ids) * EACH_RECORD if layer is None else ONE_RECORD + len(ids) * (8 * dim + EACH_BLOCK)
        path, wanted = f"/api/sync/{quote(kind, safe='')}/fetch", {"ids": ids.tolist()}
        with self._calls.call("POST", path, most, until, json=wanted) as body:
            if layer is not None:
                return list(wire.unpack_vectors(body, dim))
            return list(wire.unpack_records(kind, body.lines(2 * len(ids) + SPARE)))


def _map_path(image_id: int, kind: str) -> str:
    return f"/api/images/{int(image_id)}/controlnet/{quote(kind, safe='')}"


def _decoded(text: Any, name: str) -> bytes:
    """Base64, with or without a data URL's head."""
    try:
        return base64.b64decode(str(text).rpartition(",")[2], validate=True)
    except ValueError as error:
        raise BadAnswer(f"DT sent {name} in something that is no base64") from error


def _id(row: Mapping[str, Any]) -> int | None:
    try:
        found = int(row["id"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return found if 0 <= found <= LARGEST else None


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(shown(each, 300) for each in value[:100]) if isinstance(value, list) else ()
