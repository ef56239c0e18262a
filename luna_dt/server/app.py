"""Any catalog, served as the contract (docs/rest.md): ``luna-dt serve``."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import uuid
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Annotated, Any, Protocol

import numpy as np
from fastapi import FastAPI, Header, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from ..dt import wire
from ..dt.catalog import Catalog, Sort
from ..errors import BadInput, BadPicture, NotOffered, PictureMissing
from ..generation import Generation
from ..identity import Identity
from ..paths import local_path, on_disk
from ..pixels import FORMATS
from ..preproc.map_types import TYPES
from ..records import Captions, Float32s, ImageRecord, StoredMap, checked_keypoints, layer_of, now
from ..thumbnails import SIDES, Thumbnails
from ..version import __version__
from .answers import (
    PROBLEMS,
    GivenMap,
    Group,
    KeptMap,
    MapStored,
    MemberImage,
    Mirrorable,
    Problem,
    Similar,
    Similarity,
    Wanted,
    Well,
    WholeNumber,
    answer_errors,
    binary,
    described,
    listed,
)
from .files import served, small
from .guard import Guard
from .metrics import TEXT, Metrics

TextEncoder = Callable[[Identity, str], Float32s]
ImageId = Annotated[int, Path(ge=0, le=2**63 - 1)]
FILE: dict[int | str, dict[str, Any]] = {
    200: binary("image/*", "video/*"),
    206: binary("image/*", "video/*"),
    304: {"description": "the client has it"},
    416: {"model": Problem, "description": "a part that it does not have"},
}
SMALL: dict[int | str, dict[str, Any]] = {200: binary("image/webp"), 304: FILE[304]}
MapType = Annotated[str, Path(json_schema_extra={"enum": [*TYPES]})]  # of which the keeper says what is wrong
Mirrored = Annotated[str, Path(examples=["images", "captions", "clusters", "embeddings.visual"])]
Key = Annotated[str, Header(max_length=200, json_schema_extra={"pattern": "^[!-~]*$"})]
AfterId = Annotated[int, Query(ge=-1, le=2**63 - 1)]
MAX_MAP_PIXELS = 1 << 25  # what a few hundred bytes can say they are is looked at before there is room made for it


class MapKeeper(Protocol):
    """Where ControlNet maps are kept (maps.py); both raise BadInput for an unknown type."""

    def get(self, record: ImageRecord, kind: str) -> StoredMap:
        """Raises MapMissing."""
        ...

    def put(self, record: ImageRecord, kind: str, given: StoredMap) -> None:
        """Raises BadPicture, StoreError."""
        ...


def create_app(
    catalog: Catalog,
    *,
    token: str = "",
    path_map: Mapping[str, str] | None = None,
    encode_text: TextEncoder | None = None,
    maps: MapKeeper | None = None,
    thumbnails: Thumbnails | None = None,
) -> FastAPI:
    """The contract over ``catalog``, as an ASGI application that closes the catalog when it ends.

    ``token``: what clients must send as ``Authorization: Bearer``; "" asks for none, and then only
    requests addressed to this machine by a loopback name are answered.  ``encode_text`` makes a text
    query's vector, ``maps`` keeps ControlNet maps, ``thumbnails`` makes small pictures; what is not given is refused.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        yield
        catalog.close()

    # no pages of its own: they load another site's scripts
    app = FastAPI(
        title="luna_dt",
        version=__version__,
        lifespan=lifespan,
        responses=PROBLEMS,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,  # what a generated client calls them
    )
    app.openapi = lambda: described(app)  # type: ignore[method-assign]
    metrics = Metrics()
    app.add_middleware(Guard, token=token)
    app.add_middleware(metrics.counted)
    answer_errors(app)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {TEXT: {"schema": {"type": "string"}}}}})
    def counts() -> Response:
        return Response(metrics.told(), media_type=TEXT)

    @app.get("/api/health", responses={200: {"model": Well}})
    def health() -> dict[str, Any]:
        found = catalog.health()
        # the server itself opens the files that the catalog names, and keeps the maps
        offered = [part for part in found.capabilities if part not in ("files", "maps")]
        capabilities = [*offered, "files", *(["maps"] if maps else [])]
        said = {"status": "ok", "name": found.name, "version": found.version, "capabilities": capabilities}
        return said | {key: told for key in ("left_out", "library") if (told := getattr(found, key))}

    @app.get("/api/images", responses={200: {"model": list[ImageRecord]}})
    def images(query: str = "", after_id: AfterId = 0, limit: Annotated[int, Query(ge=1, le=10_000)] = 100) -> Response:
        return listed(catalog.images(query, after_id, limit))

    @app.get("/api/images/{image_id}", responses={200: {"model": ImageRecord}})
    def image(image_id: ImageId) -> dict[str, Any]:
        return catalog.image(image_id).to_json()

    @app.get("/api/images/{image_id}/file", response_class=Response, responses=FILE)
    def file(image_id: ImageId, request: Request) -> Response:
        return served(place(image_id), request.headers)

    @app.get("/api/images/{image_id}/thumbnail", response_class=Response, responses=SMALL)
    def thumbnail(
        image_id: ImageId, request: Request, size: Annotated[int, Query(ge=1, le=SIDES[-1])] = 256
    ) -> Response:
        if thumbnails is None:
            raise NotOffered("this server makes no thumbnails")
        return small(place(image_id), size, thumbnails, request.headers)

    def place(image_id: int) -> FilePath:
        path = local_path(catalog.image(image_id).path, path_map or {})
        try:
            return on_disk(path)
        except OSError as error:  # a name that is too long, a folder that may not be read
            raise PictureMissing(f"the file of image {image_id} cannot be looked for: {error.strerror}") from error

    @app.get("/api/images/{image_id}/caption", responses={200: {"model": Captions}})
    def caption(image_id: ImageId) -> dict[str, Any]:
        return catalog.captions(image_id).to_json()

    @app.get("/api/images/{image_id}/controlnet/{kind}", responses={200: {"model": KeptMap}})
    def control_map(image_id: ImageId, kind: MapType) -> dict[str, Any]:
        found = keeper().get(catalog.image(image_id), kind)
        encoded = base64.b64encode(found.data).decode()
        return {"image_base64": encoded, "was_cached": True, "keypoints": found.keypoints}

    @app.put("/api/images/{image_id}/controlnet/{kind}", status_code=201, responses={201: {"model": MapStored}})
    def put_map(image_id: ImageId, kind: MapType, body: GivenMap) -> dict[str, Any]:
        try:
            data = base64.b64decode(body.image_base64, validate=True)
        except ValueError as error:
            raise BadInput("image_base64 is no base64") from error
        _check_pixels(data)
        keeper().put(catalog.image(image_id), kind, StoredMap(data, keypoints=checked_keypoints(body.keypoints)))
        return {"id": image_id, "type": kind}

    def keeper() -> MapKeeper:
        if maps is None:
            raise NotOffered("this server keeps no ControlNet maps")
        return maps

    @app.post("/api/images/similar", responses={200: {"model": list[Similarity]}})
    def similar(body: Similar) -> Response:
        given = [name for name in ("embedding", "image_id", "text_query") if getattr(body, name) is not None]
        if len(given) != 1:
            raise BadInput(f"give one of embedding, image_id and text_query, not {' and '.join(given) or 'none'}")
        vector = None
        if body.embedding is not None:
            vector = np.array(body.embedding, np.float32)
        elif body.text_query is not None:
            vector = _text_vector(body.query_type, body.text_query)
        return listed(catalog.similar(body.query_type, vector, body.image_id, body.top_k, body.min_similarity))

    def _text_vector(layer: str, text: str) -> Float32s:
        if encode_text is None:
            raise NotOffered("this server answers no text queries; send an embedding or an image_id")
        return encode_text(catalog.identity(layer), text)

    @app.get("/api/clusters", responses={200: {"model": list[Group]}})
    def clusters() -> list[dict[str, Any]]:
        return [{"id": c.id, "name": c.name, "image_count": c.image_count} for c in catalog.clusters()]

    @app.get("/api/clusters/{cluster_id}/images", responses={200: {"model": list[MemberImage]}})
    def cluster_images(
        cluster_id: ImageId,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 50,
        min_quality: Annotated[float, Query(ge=0, le=5)] = 0,
        sort: Sort = "quality",
    ) -> Response:
        return listed(catalog.cluster_images(cluster_id, limit, min_quality, sort))

    @app.get("/api/generations", responses={200: {"model": list[Generation]}})
    def generations(
        source_image_id: WholeNumber | None = None,
        batch_id: Annotated[str | None, Query(max_length=1000)] = None,
        after_id: AfterId = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    ) -> Response:
        return listed(catalog.generations(source_image_id, batch_id, after_id, limit))

    @app.post("/api/generations", responses={200: {"model": Generation}})
    def record(body: dict[str, Any], idempotency_key: Key = "") -> dict[str, Any]:
        key = idempotency_key or body.get("key") or str(uuid.uuid4())
        made = Generation.from_json({"created": now("milliseconds"), **body, "key": key, "id": None})
        return replace(made, id=catalog.record(made)).to_json()

    @app.patch("/api/generations/{generation_id}", responses={200: {"model": Generation}})
    def amend(generation_id: str, body: dict[str, Any]) -> dict[str, Any]:
        return catalog.amend(generation_id, body).to_json()

    @app.get("/api/sync", responses={200: {"model": dict[str, Mirrorable]}})
    def kinds() -> dict[str, Any]:
        return {
            kind.name: {"count": kind.count, **(kind.identity.to_json() if kind.identity else {})}
            for kind in catalog.kinds()
        }

    @app.get("/api/sync/{kind}", response_class=Response, responses={200: binary(wire.ARRAYS)})
    def digests(kind: Mirrored) -> Response:
        packed = wire.pieces(wire.pack_digests(*catalog.digests(kind)))
        return StreamingResponse(packed, media_type=wire.ARRAYS)

    @app.post("/api/sync/{kind}/fetch", response_class=Response, responses={200: binary(wire.ARRAYS, wire.LINES)})
    def fetch(kind: Mirrored, body: Wanted) -> StreamingResponse:
        batches = catalog.fetch(kind, np.array(body.ids, np.int64))
        # an error must come before the answer has begun
        batches = itertools.chain(list(itertools.islice(batches, 1)), batches)
        if layer_of(kind):
            return StreamingResponse(wire.pack_vectors(batches, body.dtype), media_type=wire.ARRAYS)
        return StreamingResponse(wire.pack_records(batches), media_type=wire.LINES)

    return app


def _check_pixels(data: bytes) -> None:
    """Raises BadPicture for a picture that says it has too many; what is none, its keeper refuses."""
    from PIL import Image

    Image.init()
    pixels, formats = 0, [form for form in FORMATS if form in Image.OPEN]
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=formats) as seen:
        pixels = seen.width * seen.height
    if pixels > MAX_MAP_PIXELS:
        raise BadPicture(f"a map of {pixels:,} pixels is too large; it may have {MAX_MAP_PIXELS:,}")
