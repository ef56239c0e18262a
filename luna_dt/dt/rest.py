"""A DT server that speaks the contract (docs/rest.md), over a pooled session."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Retry

from ..errors import (
    BadAnswer,
    BadInput,
    LunaError,
    MapMissing,
    NotFound,
    NotOffered,
    NotSearchable,
    PictureMissing,
    Refused,
    UnknownImage,
    Unreachable,
    by_code,
)
from ..generation import Generation
from ..identity import Identity
from ..records import (
    EMBEDDINGS,
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
from ..storable import checked, each
from . import wire
from .catalog import Catalog, Health, Sort

RETRIES = 3  # of calls that only read, when the connection breaks or the server says 502, 503 or 504
CONNECT_TIMEOUT = 5  # seconds to reach the server at all; its answer may take ``timeout``


class RestCatalog(Catalog):
    """A catalog behind ``http(s)://``; see dt/catalog.py.  Tolerates absent optional fields, and answers
    wrapped as ``{"images": […]}`` or ``{"clusters": […]}``."""

    def __init__(self, address: str, token: str = "", timeout: float = 30.0) -> None:
        self.address = address.rstrip("/")
        self._timeout = (min(CONNECT_TIMEOUT, timeout), timeout)
        self._session, self._once = requests.Session(), requests.Session()
        for session in (self._session, self._once):
            session.trust_env = False  # a proxy has no business between two programs of one user
            if token:
                session.headers["Authorization"] = f"Bearer {token}"
        retry = Retry(
            total=RETRIES,
            connect=1,  # a server that is not there, or says nothing, is told soon
            read=1,
            backoff_factor=0.2,
            status_forcelist=(502, 503, 504),
            allowed_methods=None,  # every call made with it may be repeated
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))
        self._identities: dict[str, Identity] = {}

    def close(self) -> None:
        self._session.close()
        self._once.close()

    # -- calls --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _call(
        self, method: str, path: str, session: requests.Session | None = None, **options: Any
    ) -> Iterator[requests.Response]:
        """An answer with status 200 or 201; everything else becomes a typed error, also while its body is read."""
        try:
            timeout = (self._timeout[0], self._timeout[1] * (10 if path.startswith("/api/sync") else 1))
            with (session or self._session).request(
                method, self.address + path, timeout=timeout, stream=True, allow_redirects=False, **options
            ) as answer:
                if answer.status_code not in (200, 201):
                    raise self._refusal(answer, f"{method} {path}")
                yield answer
        except (requests.RequestException, HTTPError, OSError) as error:
            if isinstance(error, LunaError):
                raise
            raise Unreachable(
                f"DT at {self.address} does not answer ({_reason(error)}); is its server running?"
            ) from error

    def _refusal(self, answer: requests.Response, call: str) -> LunaError:
        try:
            problem = answer.json()
        except (ValueError, requests.RequestException):
            problem = {}
        problem = problem if isinstance(problem, Mapping) else {}
        message = str(problem.get("detail") or problem.get("title") or answer.reason or "no reason given")
        kind = by_code(str(problem.get("code")))
        if kind is not None and kind not in (LunaError, Refused):
            return kind(message)
        if answer.status_code == 404:
            return NotFound(f"DT at {self.address} has no {call}: {message}")
        if answer.status_code in (405, 501):
            return NotOffered(f"DT at {self.address} does not offer {call}: {message}")
        return Refused(f"DT at {self.address} refuses {call} with {answer.status_code}: {message}", answer.status_code)

    def _json(self, method: str, path: str, **options: Any) -> Any:
        with self._call(method, path, **options) as answer:
            try:
                return answer.json()
            except requests.JSONDecodeError as error:
                raise BadAnswer(f"DT at {self.address} answers {path} with something that is not JSON") from error

    def _list(self, wrapper: str, method: str, path: str, **options: Any) -> list[Mapping[str, Any]]:
        found = self._json(method, path, **options)
        if isinstance(found, Mapping):
            found = found.get(wrapper)
        if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
            raise BadAnswer(f"DT at {self.address} answers {path} with something that is no list of {wrapper}")
        return found

    # -- section 1 of the contract ------------------------------------------------------------------

    def health(self) -> Health:
        found = self._json("GET", "/api/health")
        if not isinstance(found, Mapping) or found.get("status") != "ok":
            raise BadAnswer(f"DT at {self.address} does not say that it is well: {str(found)[:200]}")
        capabilities, left_out = (tuple(map(str, found.get(name) or ())) for name in ("capabilities", "left_out"))
        name, version, library = (str(found.get(key) or "") for key in ("name", "version", "library"))
        return Health(name or "DT", version, capabilities, left_out, library)

    def image(self, image_id: int) -> ImageRecord:
        found = self._json("GET", f"/api/images/{int(image_id)}")
        if not isinstance(found, Mapping):
            raise BadAnswer(f"DT at {self.address} answers with an image {image_id} that is none: {str(found)[:200]}")
        return checked(ImageRecord.from_json(found))

    def images(self, query: str = "", after_id: int = 0, limit: int = 100) -> list[ImageRecord]:
        wanted = {"query": query, "after_id": after_id, "limit": limit}
        return each(ImageRecord.from_json, self._list("images", "GET", "/api/images", params=wanted))

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
        for found in self._list("images", "POST", "/api/images/similar", json=body):
            try:
                similarity = float(found["similarity"])
            except (KeyError, TypeError, ValueError) as error:
                raise BadAnswer(
                    f"DT at {self.address} sent a hit without its similarity: {str(found)[:200]}"
                ) from error
            hits += [
                Hit(record.id, similarity, record) for record in each(ImageRecord.from_json, [{"path": "", **found}])
            ]
        return hits

    def clusters(self) -> list[Cluster]:
        return each(Cluster.from_json, self._list("clusters", "GET", "/api/clusters"))

    def cluster_images(
        self, cluster_id: int, limit: int = 50, min_quality: float = 0, sort: Sort = "quality"
    ) -> list[ClusterImage]:
        wanted = {"limit": limit, "min_quality": min_quality, "sort": sort}
        found = self._list("images", "GET", f"/api/clusters/{int(cluster_id)}/images", params=wanted)
        return [
            ClusterImage(record, float(item.get("confidence") or 0))
            for item in found
            for record in each(ImageRecord.from_json, [item])
        ]

    def captions(self, image_id: int) -> Captions:
        return Captions.from_json(self._json("GET", f"/api/images/{int(image_id)}/caption"), int(image_id))

    def file(self, image_id: int) -> bytes:
        try:
            with self._call("GET", f"/api/images/{int(image_id)}/file") as answer:
                return answer.content
        except UnknownImage:
            raise
        except (NotFound, NotOffered) as refusal:  # a plain DT server may send the pixels with the record
            found = self._json("GET", f"/api/images/{int(image_id)}")
            if not found.get("image_base64"):
                raise PictureMissing(f"{refusal}; and its record has no image_base64") from refusal
            return _decoded(found["image_base64"], f"image {image_id}")

    def control_map(self, image_id: int, kind: str) -> StoredMap:
        try:
            found = self._json("GET", _map_path(image_id, kind))
        except UnknownImage:
            raise
        except (NotFound, NotOffered) as refusal:
            raise MapMissing(f"DT has no {kind} map of image {image_id}") from refusal
        if not isinstance(found, Mapping) or not (found.get("image_base64") or found.get("path")):
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
        self._json("PUT", _map_path(image_id, kind), json=body)

    # -- generations ----------------------------------------------------------------------------------

    def record(self, generation: Generation) -> str:
        # sent once: whether to send it again is the outbox's to say, who knows of servers without keys
        stored = self._json(
            "POST",
            "/api/generations",
            session=self._once,
            json={name: value for name, value in generation.to_json().items() if name != "id"},
            headers={"Idempotency-Key": generation.key},
        )
        if not isinstance(stored, Mapping) or stored.get("id") in (None, ""):
            raise BadAnswer(f"DT at {self.address} does not say under which id it stored a generation")
        return str(stored["id"])

    def generations(
        self, source_image_id: int | None = None, batch_id: str | None = None, after_id: int = 0, limit: int = 10_000
    ) -> list[Generation]:
        asked = {"source_image_id": source_image_id, "batch_id": batch_id, "after_id": after_id, "limit": limit}
        found = self._list("generations", "GET", "/api/generations", params=asked)
        return [_generation(each) for each in found]

    def amend(self, generation_id: str, changes: Mapping[str, Any]) -> Generation:
        path = f"/api/generations/{quote(generation_id, safe='')}"
        return _generation(self._json("PATCH", path, json=dict(changes)))

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
            found = self._json("GET", "/api/sync")
        except NotFound as error:
            raise NotOffered(
                f"DT at {self.address} cannot be synced from: it has no /api/sync; give the database itself instead, "
                "or serve it with: luna-dt serve --db URL"
            ) from error
        if not isinstance(found, Mapping):
            raise BadAnswer(f"DT at {self.address} answers /api/sync with something that is no mapping")
        kinds = []
        for name, described in found.items():
            identity = Identity.from_json(described) if layer_of(name) else None
            if identity:
                self._identities[name] = identity
            kinds.append(Kind(name, int(described.get("count") or 0), identity))
        return kinds

    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        with self._call("GET", f"/api/sync/{quote(kind)}") as answer:
            return wire.unpack_digests(_body(answer))

    def fetch(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        for attempt in range(RETRIES + 1):
            try:
                batches = self._fetched(kind, ids)
                break
            except Unreachable:  # an answer that broke off in its middle: nothing of it was used, so ask again
                if attempt == RETRIES:
                    raise
        yield from batches

    def _fetched(self, kind: str, ids: Int64s) -> list[Batch]:
        layer = layer_of(kind)
        with self._call("POST", f"/api/sync/{quote(kind)}/fetch", json={"ids": ids.tolist()}) as answer:
            if layer is not None:
                return list(wire.unpack_vectors(_body(answer), self.identity(layer).dim))
            return list(wire.unpack_records(kind, answer.iter_lines(1 << 20)))


def _map_path(image_id: int, kind: str) -> str:
    return f"/api/images/{int(image_id)}/controlnet/{quote(kind, safe='')}"


def _decoded(text: Any, name: str) -> bytes:
    """Base64, with or without a data URL's head."""
    try:
        return base64.b64decode(str(text).rpartition(",")[2], validate=True)
    except ValueError as error:
        raise BadAnswer(f"DT sent {name} in something that is no base64") from error


def _body(answer: requests.Response) -> BinaryIO:
    answer.raw.decode_content = True
    return cast("BinaryIO", answer.raw)


def _reason(error: Exception) -> str:
    """The innermost cause's own words; requests and urllib3 wrap it in several layers."""
    seen: BaseException = error
    while True:
        if isinstance(seen, (requests.Timeout, TimeoutError, ReadTimeoutError)):
            return "no answer in time"
        inner = getattr(seen, "reason", None) or (seen.args[0] if seen.args else None)
        if not isinstance(inner, BaseException):
            return str(inner or seen).split(": ", 1)[-1][:200] or type(seen).__name__
        seen = inner


def _generation(value: Mapping[str, Any]) -> Generation:
    try:
        return Generation.from_json(value)
    except BadInput as error:
        raise BadAnswer(f"a generation from DT cannot be read ({error}): {str(value)[:200]}") from error
