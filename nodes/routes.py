"""What ComfyUI's page may ask of this pack: the list of clusters, and the gallery."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..luna_dt.origin import foreign_page, is_loopback
from . import host, shared, words
from .clusters import cluster_labels

CLUSTERS_ROUTE = "/luna_dt/clusters"
GALLERY = "/luna_dt/gallery"
ELSEWHERE = (
    "the settings are shown and changed only by a browser on the machine that ComfyUI runs on, since they say which "
    "folders and addresses it opens; elsewhere set the environment variables or edit settings.toml there"
)
GALLERY_THREADS = 4  # that answer its questions side by side, apart from ComfyUI's own loop and threads


def add_routes() -> None:
    """Serves the list of clusters and the gallery to the page, where there is one."""
    instance = host.server()
    if instance is None:
        return
    from aiohttp import web

    @instance.routes.get(CLUSTERS_ROUTE)  # type: ignore[untyped-decorator]
    async def clusters(_: Any) -> Any:
        return web.json_response(await asyncio.get_running_loop().run_in_executor(None, cluster_labels))

    from ..luna_dt.gallery.answers import Answer, Gallery, page_files, problem

    gallery = Gallery(shared.library, settings=shared.settings, said=words.here, changeable=True)
    files = page_files()
    threads = ThreadPoolExecutor(GALLERY_THREADS, "luna_dt gallery")

    def sent(answer: Answer) -> Any:
        headers = {
            "cache-control": "no-cache", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
            "cross-origin-resource-policy": "same-origin", "content-type": answer.type, **answer.headers,
        }  # fmt: skip
        if not answer.type.startswith("text/"):
            headers["content-security-policy"] = "default-src 'none'; sandbox"
        return web.Response(body=answer.data, status=answer.status, headers=headers)

    def refused(request: Any) -> Any:
        foreign = foreign_page({name.lower(): value for name, value in request.headers.items()})
        return sent(problem(403, "foreign_origin", foreign)) if foreign else None

    @instance.routes.get(GALLERY + "/page/{name}")  # type: ignore[untyped-decorator]
    async def page(request: Any) -> Any:
        name = request.match_info["name"]
        return refused(request) or sent(files.get(name) or problem(404, "not_found", "the page has no such file"))

    async def call(request: Any) -> Any:
        if refusal := refused(request):
            return refusal
        if request.match_info["name"] == "settings" and not _beside(request):
            return sent(problem(403, "not_allowed", ELSEWHERE))
        asked = (request.method, request.match_info["name"], dict(request.query), await request.read())
        answer = await asyncio.get_running_loop().run_in_executor(threads, lambda: gallery.answer(*asked))
        return sent(answer)

    for take in (instance.routes.get, instance.routes.post, instance.routes.put):
        take(GALLERY + "/api/{name}")(call)


def _beside(request: Any) -> bool:
    """Whether it comes from this machine itself, and not by way of a proxy here."""
    return is_loopback(request.remote or "") and not {"x-forwarded-for", "forwarded"} & {
        name.lower() for name in request.headers
    }
