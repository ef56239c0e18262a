"""What ComfyUI's page may ask of this pack."""

from __future__ import annotations

import asyncio
from typing import Any

from . import host
from .clusters import cluster_labels

CLUSTERS_ROUTE = "/luna_dt/clusters"


def add_routes() -> None:
    """Serves the list of clusters to the page, where there is one."""
    instance = host.server()
    if instance is None:
        return
    from aiohttp import web

    @instance.routes.get(CLUSTERS_ROUTE)  # type: ignore[untyped-decorator]
    async def clusters(_: Any) -> Any:
        return web.json_response(await asyncio.get_running_loop().run_in_executor(None, cluster_labels))
