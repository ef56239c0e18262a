"""The ``luna-dt`` command: the library from a shell, as a table for people or ``--json`` for programs.

Exit status: 0 when all of it worked, 1 when something did not (the reason is the last line on standard
error, and an object ``{"error": {"code", "message"}}`` with ``--json``), 2 for a wrong command line.
"""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from typing import Any

import click
from rich.logging import RichHandler

from ..errors import BadQuery, LunaError
from ..settings import Settings
from ..version import __version__
from .batch import batch
from .demo import demo
from .doctor import doctor
from .duplicates import duplicates
from .engine import engine
from .export import export
from .gallery import gallery
from .images import images
from .layers import embed, verify
from .lineage import lineage
from .maps import make_map
from .mirror import status, sync
from .outbox import outbox
from .rescue import rescue
from .search import search
from .serve import serve
from .show import show
from .terminal import PlainLines, err, plain, pointed, print_json


class _Commands(click.Group):
    """Turns our errors into one line and status 1, for every command alike."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except LunaError as error:
            if context.meta.get("json"):
                print_json({"error": {"code": error.code, "message": str(error)}})
            err.print(f"[bold red]luna-dt:[/] {plain(str(error))}", soft_wrap=True)
            if isinstance(error, BadQuery) and error.at is not None:
                err.print(pointed(error.query, error.at), soft_wrap=True)
            context.exit(1)
        except KeyboardInterrupt:
            err.print("luna-dt: stopped; what was done is kept, run it again to go on")
            context.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="luna-dt")
@click.option("--home", type=click.Path(path_type=Path), help="The library's folder (LUNA_DT_HOME).")
@click.option("-v", "--verbose", is_flag=True, help="Tell what goes on.")
@click.pass_context
def main(context: click.Context, home: Path | None, verbose: bool) -> None:
    """Mirror a DiffusionToolkit library and find similar pictures in it, also with DT closed."""
    for stream in (sys.stdout, sys.stderr):  # a Windows pipe cannot hold every prompt otherwise
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
    handler = RichHandler(console=err, show_time=False, show_path=False, show_level=verbose)
    handler.setFormatter(PlainLines())
    ours = logging.getLogger("luna_dt")
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(logging.INFO if verbose else logging.WARNING)
    context.obj = Settings.load(home)


for command in (
    sync, search, images, show, export, duplicates, engine, status, doctor, verify, embed, make_map, outbox, lineage, batch, serve,
    gallery, rescue, demo
):  # fmt: skip
    main.add_command(command)
