"""What is sent and answered: bodies of requests, and every error as a problem (RFC 9457) with a stable ``code``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from ..errors import LunaError
from ..plain import shown

log = logging.getLogger(__name__)

MAX_FETCHED_IDS = 100_000
WholeNumber = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]  # what a database's column and NumPy's array can hold


class Similar(BaseModel):
    """A similarity query: one of ``embedding``, ``image_id`` and ``text_query``."""

    query_type: str = Field("visual", max_length=100)
    top_k: int = Field(10, ge=1, le=1000)
    min_similarity: float = Field(0.0, ge=-1, le=1)
    embedding: list[float] | None = Field(None, max_length=1 << 16)
    image_id: WholeNumber | None = None
    text_query: str | None = Field(None, max_length=10_000)


class GivenMap(BaseModel):
    """A ControlNet map, and OpenPose's JSON object if it is a pose."""

    image_base64: str
    keypoints: dict[str, Any] | None = None


class Wanted(BaseModel):
    """The rows to fetch, and for vectors the precision to send."""

    ids: list[WholeNumber] = Field(max_length=MAX_FETCHED_IDS)
    dtype: Literal["float32", "float16"] = "float32"


class Problem(BaseModel):
    """RFC 9457 problem details; ``code`` is stable."""

    status: int
    code: str
    title: str
    detail: str


def problem(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A Problem as an answer, which may repeat what was asked and so is made plain."""
    body = {"status": status, "code": code, "title": code.replace("_", " "), "detail": shown(detail, 1000)}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def answer_errors(app: FastAPI) -> None:
    """Has an application answer every error with a problem."""
    app.add_exception_handler(LunaError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_crash)


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, LunaError)
    return problem(error.http_status, error.code, str(error))


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{'.'.join(map(str, e['loc'][1:])) or 'body'}: {e['msg']}" for e in error.errors())
    return problem(422, "bad_input", told)


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {400: "bad_request", 404: "not_found"}.get(error.status_code, "http")
    return problem(error.status_code, code, str(error.detail), error.headers)


async def _on_crash(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "error", "the server failed; its log says why", {"x-content-type-options": "nosniff"})
