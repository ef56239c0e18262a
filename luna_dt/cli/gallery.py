"""``luna-dt gallery``: the library as pictures, in the browser."""

from __future__ import annotations

import webbrowser

import click

from ..library import Library
from ..settings import Settings
from .terminal import dt_option, err


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=5005, show_default=True)
@click.option("--no-open", is_flag=True, help="Only tell the page's address; open no browser.")
@dt_option
@click.pass_obj
def gallery(settings: Settings, port: int, no_open: bool, dt: str | None) -> None:
    """Look at the library in the browser: find, compare, sync. For this machine alone."""
    from ..gallery.answers import Gallery
    from ..gallery.server import create_app
    from ..server.run import listening, prepared

    with Library(settings=settings, dt=dt) as library:
        server = prepared(create_app(Gallery(lambda: library)))
        listener, address = listening("127.0.0.1", port)
        err.print(f"the gallery is at {address}/  (Ctrl+C ends)")
        if not no_open:
            webbrowser.open(f"{address}/")
        server.run(sockets=[listener])
