"""What is sent and answered: bodies of requests, and every error as a problem (RFC 9457) with a stable ``code``."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from ..errors import BadQuery, LunaError
from ..plain import shown
from ..records import ImageRecord

log = logging.getLogger(__name__)

MAX_FETCHED_IDS = 100_000
AT_A_TIME = 200  # records of a list that are put into words at once
WholeNumber = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]  # what a database's column and NumPy's array can hold


class Body(BaseModel):
    """What a request says: numbers as numbers, not as texts, nor true for 1."""

    model_config = ConfigDict(strict=True)


class Similar(Body):
    """A similarity query: one of ``embedding``, ``image_id`` and ``text_query``."""

    query_type: str = Field("visual", max_length=100)
    top_k: int = Field(10, ge=1, le=1000)
    min_similarity: float = Field(0.0, ge=-1, le=1)
    embedding: list[float] | None = Field(None, max_length=1 << 16)
    image_id: WholeNumber | None = None
    text_query: str | None = Field(None, max_length=10_000)


class GivenMap(Body):
    """A ControlNet map, and OpenPose's JSON object if it is a pose."""

    image_base64: str
    keypoints: dict[str, Any] | None = None


class Wanted(Body):
    """The rows to fetch, and for vectors the precision to send."""

    ids: list[WholeNumber] = Field(max_length=MAX_FETCHED_IDS)
    dtype: Literal["float32", "float16"] = "float32"


class Problem(BaseModel):
    """RFC 9457 problem details; ``code`` is stable; ``at``, of a bad_query, is the character where what is wrong begins."""

    status: int
    code: str
    title: str
    detail: str
    at: int | None = None


class Well(BaseModel):
    """That the server answers, and what it offers; ``left_out``: what the database has that cannot be used;
    ``library``: what it is known by wherever it is asked."""

    status: Literal["ok"]
    name: str
    version: str
    capabilities: list[str]
    left_out: list[str] = []
    library: str = ""


@dataclass(frozen=True)
class Similarity(ImageRecord):
    """An image that was found, with its cosine."""

    similarity: float = 0.0


@dataclass(frozen=True)
class MemberImage(ImageRecord):
    """An image of a cluster: how sure DT is of it (0 to 1), and its rating halved (0 to 5)."""

    confidence: float = 0.0
    quality: float = 0.0


class Group(BaseModel):
    """A cluster."""

    id: int
    name: str
    image_count: int


class KeptMap(BaseModel):
    """A ControlNet map that is kept."""

    image_base64: str
    was_cached: Literal[True]
    keypoints: dict[str, Any] | None


class MapStored(BaseModel):
    """Whose map was stored, and of which type."""

    id: int
    type: str


class Mirrorable(BaseModel):
    """What can be mirrored: how many rows, and of vectors what made them."""

    count: int
    model: str | None = None
    tower: Literal["image", "text"] | None = None
    output: Literal["pooled", "projected"] | None = None
    pixels: str | None = None
    dim: int | None = None
    normalized: bool | None = None
    variant: str | None = None


#: What every call may be refused with.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": why}
    for status, why in {
        400: "what is no request: two lengths, NUL, no JSON",
        401: "no token, or a wrong one",
        403: "asked by another site's page",
        404: "unknown image, cluster, layer, kind or generation; a picture that is not to be found",
        409: "a vector of another dimension; a layer without vectors, or made in another way",
        411: "a body of unknown length",
        413: "a body that is too large, or does not come",
        414: "a query that is too long",
        421: "a Host that is not this machine",
        422: "a value that makes no sense",
        431: "too many headers",
        500: "the server failed; its log says why",
        501: "what this server does not offer, or a part that is not installed",
        502: "the database holds what cannot be read",
        503: "the database does not answer, or there is too much to do",
    }.items()
}


def described(app: FastAPI) -> dict[str, Any]:
    """OpenAPI's description, with problems as what they are sent as."""
    told = get_openapi(title=app.title, version=app.version, routes=app.routes)
    for calls in told["paths"].values():
        for call in calls.values():
            for status, answer in call["responses"].items():
                if int(status) >= 400:
                    answer["content"] = {"application/problem+json": next(iter(answer["content"].values()))}
    _bound(told)
    return told


def _bound(told: Any) -> None:
    """Writes bounds of 64 bits as what they are; FastAPI makes floats of some, which are one too large."""
    for at, each in told.items() if isinstance(told, dict) else enumerate(told):
        if isinstance(each, (dict, list)):
            _bound(each)
        elif at in ("maximum", "minimum") and isinstance(each, float) and each.is_integer():
            told[at] = min(int(each), 2**63 - 1)


def binary(*types: str) -> dict[str, Any]:
    """What is no JSON, as OpenAPI describes it."""
    return {"content": {name: {"schema": {"type": "string", "format": "binary"}} for name in types}}


def problem(
    status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, at: int | None = None
) -> JSONResponse:
    """A Problem as an answer, which may repeat what was asked and so is made plain."""
    body = {"status": status, "code": code, "title": code.replace("_", " "), "detail": shown(detail, 1000)}
    where = {} if at is None else {"at": at}
    return JSONResponse(body | where, status, headers, media_type="application/problem+json")


class Record(Protocol):
    def to_json(self) -> dict[str, Any]: ...


def listed(found: Sequence[Record]) -> Response:
    """Records as JSON; many in pieces, so that what nobody reads takes no room."""
    if len(found) <= AT_A_TIME:
        return JSONResponse([each.to_json() for each in found])

    def pieces() -> Iterator[str]:
        for at in range(0, len(found), AT_A_TIME):
            told = json.dumps([each.to_json() for each in found[at : at + AT_A_TIME]], ensure_ascii=False)
            yield ("," if at else "[") + told[1:-1]
        yield "]"

    return StreamingResponse(pieces(), media_type="application/json")


def answer_errors(app: FastAPI) -> None:
    """Has an application answer every error with a problem."""
    app.add_exception_handler(LunaError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_crash)


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, LunaError)
    return problem(error.http_status, error.code, str(error), at=error.at if isinstance(error, BadQuery) else None)


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{'.'.join(map(str, e['loc'][1:])) or 'body'}: {e['msg']}" for e in error.errors())
    return problem(422, "bad_input", told)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {400: "bad_request", 404: "not_found"}.get(error.status_code, "http")
    headers = dict(error.headers or {})
    if error.status_code == 405:  # Starlette names those of one route alone
        at = [each for each in request.app.routes if each.path_regex.match(request.url.path)]
        headers["allow"] = ", ".join(sorted({method for each in at for method in each.methods}))
    return problem(error.status_code, code, str(error.detail), headers)


async def _on_crash(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "error", "the server failed; its log says why", {"x-content-type-options": "nosniff"})
