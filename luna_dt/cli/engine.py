"""``luna-dt engine copy``: this home's library, brought to a Milvus server."""

from __future__ import annotations

import click

from ..library import Library
from ..settings import Settings
from .mirror import print_changes
from .terminal import ProgressBars, json_option, print_json


@click.group()
def engine() -> None:
    """Bring a library that is mirrored here to another engine."""


@engine.command()
@click.argument("address", metavar="milvus+http://HOST")
@click.option("--accept", is_flag=True, help="Also where the server would lose most of the library's images.")
@json_option
@click.pass_obj
def copy(settings: Settings, address: str, accept: bool, as_json: bool) -> None:
    """Copy images, captions and layers, also those made here, to a Milvus server; what is there already is left."""
    with Library(settings=settings) as library, ProgressBars(shown=not as_json) as progress:
        changes = library.copy_to(address, progress, accept)
    if as_json:
        print_json([vars(change) for change in changes])
    else:
        print_changes(changes, "here")
