"""``luna-dt serve``: the contract over a database."""

from __future__ import annotations

import click

from ..errors import SettingsError
from ..library import Library
from ..settings import Settings
from .terminal import err, plain


@click.command()
@click.option(
    "--db",
    help="What to serve: a diffusion-toolkit.db, postgresql://…?schema=NAME, or a folder of pictures  (DT_API_URL).",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Any other needs --token.")
@click.option("--port", type=click.IntRange(0, 65535), default=5000, show_default=True)
@click.option("--token", help="What clients must send as a bearer token (DT_API_TOKEN).")
@click.pass_obj
def serve(settings: Settings, db: str | None, host: str, port: int, token: str | None) -> None:
    """Serve a DT database as the REST contract, for ComfyUI and for other machines."""
    from ..origin import is_loopback
    from ..server.app import create_app
    from ..server.run import listening, prepared

    settings = settings.replace(dt=db, token=token)
    if settings.dt.startswith("http"):
        raise SettingsError(
            "name the database to serve with --db: a diffusion-toolkit.db or postgresql://…, not another server"
        )
    if not is_loopback(host) and not settings.token:
        raise SettingsError(f"listening on {host} lets others in: set a token with --token (or DT_API_TOKEN)")
    with Library(settings=settings) as library:
        library.health()
        app = create_app(
            library.catalog,
            token=settings.token,
            path_map=settings.path_map,
            encode_text=lambda identity, text: library.encoders.texts(identity, [text])[0],
            maps=library.served_maps,
            thumbnails=library.thumbnails,
        )
        listener, address = listening(host, port)
        err.print(f"serving {plain(library.catalog.address)} at {address}  (Ctrl+C ends)")
        prepared(app).run(sockets=[listener])
