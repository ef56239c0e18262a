"""What is sent and answered: bodies of requests, and every error as a problem (RFC 9457) with a stable ``code``."""

from __future__ import annotations

import logging
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from ..errors import LunaError

log = logging.getLogger(__name__)

MAX_FETCHED_IDS = 100_000


class Similar(BaseModel):
    """A similarity query: one of ``embedding``, ``image_id`` and ``text_query``."""

    query_type: str = "visual"
    top_k: int = Field(10, ge=1, le=1000)
    min_similarity: float = Field(0.0, ge=-1, le=1)
    embedding: list[float] | None = None
    image_id: int | None = None
    text_query: str | None = None


class GivenMap(BaseModel):
    """A ControlNet map, and OpenPose's JSON object if it is a pose."""

    image_base64: str
    keypoints: dict[str, Any] | None = None


class Wanted(BaseModel):
    """The rows to fetch, and for vectors the precision to send."""

    ids: list[int] = Field(max_length=MAX_FETCHED_IDS)
    dtype: Literal["float32", "float16"] = "float32"


class Problem(BaseModel):
    """RFC 9457 problem details; ``code`` is stable."""

    status: int
    code: str
    title: str
    detail: str


def problem(status: int, code: str, detail: str) -> JSONResponse:
    """A Problem as an answer."""
    title = code.replace("_", " ")
    body = {"status": status, "code": code, "title": title, "detail": detail}
    return JSONResponse(body, status, media_type="application/problem+json")


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
    return problem(error.status_code, "not_found" if error.status_code == 404 else "http", str(error.detail))


async def _on_crash(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "error", "the server failed; its log says why")
