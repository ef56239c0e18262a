"""``luna-dt serve`` and ``demo``: the contract over a database, and all of it on a drawn library."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from ..errors import SettingsError
from ..settings import Settings
from .terminal import err, out, plain


@click.command()
@click.option("--db", help="The database to serve: postgresql://…?schema=NAME  (DT_API_URL).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Any other needs --token.")
@click.option("--port", type=click.IntRange(0, 65535), default=5000, show_default=True)
@click.option("--token", help="What clients must send as a bearer token (DT_API_TOKEN).")
@click.pass_obj
def serve(settings: Settings, db: str | None, host: str, port: int, token: str | None) -> None:
    """Serve a DT database as the REST contract, for ComfyUI and for other machines."""
    from ..dt import connect
    from ..maps.cache import MapCache
    from ..maps.served import ServedMaps
    from ..models import Encoders
    from ..server.app import create_app, is_loopback
    from ..store import Store

    settings = settings.replace(dt=db, token=token)
    if settings.dt.startswith("http"):
        raise SettingsError("name the database to serve with --db postgresql://…, not another server")
    if not is_loopback(host) and not settings.token:
        raise SettingsError(f"listening on {host} lets others in: set a token with --token (or DT_API_TOKEN)")
    import uvicorn

    catalog, encoders = connect(settings), Encoders(settings)
    catalog.health()
    with (
        contextlib.closing(Store(settings.home)) as store,
        contextlib.closing(MapCache(store, settings.maps_bytes)) as maps,
    ):
        app = create_app(
            catalog,
            token=settings.token,
            path_map=settings.path_map,
            encode_text=lambda identity, text: encoders.texts(identity, [text])[0],
            maps=ServedMaps(maps, settings.path_map) if maps.limit else None,
        )
        err.print(f"serving {plain(catalog.address)} at http://{host}:{port}  (Ctrl+C ends)")
        uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=5)


@click.command()
@click.option("-o", "--out", "folder", type=click.Path(path_type=Path), default=Path("demo-out"), show_default=True)
@click.option("--pictures", type=click.IntRange(25, 5000), default=375, show_default=True)
def demo(folder: Path, pictures: int) -> None:
    """Show it all on a drawn library: database, server, sync, search, and search with everything closed."""
    from ..demo import run

    run(folder, pictures, lambda line: out.print(plain(line), soft_wrap=True))
