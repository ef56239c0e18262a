"""The gallery as a page of its own: ``luna-dt gallery``."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..server.guard import Guard
from .answers import Answer, Gallery, page_files, problem

#: What the page may load and run: its own files, and pictures that it made itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def create_app(gallery: Gallery) -> Starlette:
    """The page and what it asks, as an ASGI application that answers to this machine alone."""
    files = page_files()

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        found = files.get(name)
        return _sent(found or problem(404, "not_found", f"the page has no file '{name[:50]}'"))

    async def call(request: Request) -> Response:
        body = b"" if request.method == "GET" else await request.body()
        name = request.path_params["name"]
        return _sent(await run_in_threadpool(gallery.answer, request.method, name, dict(request.query_params), body))

    routes = [
        Route("/", page),
        Route("/page/{name}", page),
        Route("/api/{name}", call, methods=["GET", "POST", "PUT"]),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(Guard)
    return app


def _sent(answer: Answer) -> Response:
    headers = {"cache-control": "no-store", "referrer-policy": "no-referrer", **answer.headers}
    if answer.type.startswith("text/html"):
        headers["content-security-policy"] = POLICY
    return Response(answer.data, answer.status, headers, media_type=answer.type)
