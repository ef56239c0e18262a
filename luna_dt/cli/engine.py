"""``luna-dt engine copy``: this home's library, brought to a Milvus server or back."""

from __future__ import annotations

import click

from ..library import Library
from ..settings import Settings
from .mirror import print_changes
from .terminal import ProgressBars, json_option, print_json


@click.group()
def engine() -> None:
    """Bring a library to another engine."""


@engine.command()
@click.argument("address", metavar="milvus+http://HOST")
@click.option("--back", is_flag=True, help="From the server to this home.")
@click.option("--accept", is_flag=True, help="Also where most of the library's images would be lost.")
@json_option
@click.pass_obj
def copy(settings: Settings, address: str, back: bool, accept: bool, as_json: bool) -> None:
    """Copy images, captions and layers, also those made here, to a Milvus server, or back; what is there already is left."""
    with Library(settings=settings) as library, ProgressBars(shown=not as_json) as progress:
        changes = (library.copy_from if back else library.copy_to)(address, progress, accept)
    if as_json:
        print_json([vars(change) for change in changes])
    else:
        print_changes(changes, "the server" if back else "here")
