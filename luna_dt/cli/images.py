"""``luna-dt images``: the images that fit a query, as a table, as ids, or as JSON."""

from __future__ import annotations

import itertools

import click
from rich.table import Table

from ..library import Library
from ..mirror.lookups import fitting
from ..settings import Settings
from .terminal import dt_option, err, json_option, out, plain, print_json


@click.command()
@click.argument("query", default="")
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="How many; 0 for all.")
@click.option("--after", type=int, default=0, help="Only those with a higher id, for pages.")
@click.option("--ids", "ids_only", is_flag=True, help="Only the ids, one a line.")
@dt_option
@json_option
@click.pass_obj
def images(
    settings: Settings, query: str, limit: int, after: int, ids_only: bool, dt: str | None, as_json: bool
) -> None:
    """List the images that fit QUERY, in DT's language, by their ids; without it all that are not hidden."""
    with Library(settings=settings, dt=dt) as library:
        every = fitting(library.images, query, after)
        found = list(itertools.islice(every, limit or None))
        more = next(every, None) is not None
    if as_json:
        print_json([record.id if ids_only else record.to_json() for record in found])
    elif ids_only:
        for record in found:
            click.echo(record.id)
    elif found:
        table = Table("id", "path", "prompt", box=None)
        for record in found:
            table.add_row(str(record.id), plain(record.path), plain(" ".join(record.prompt.split())[:80]))
        out.print(table)
    else:
        out.print("no image fits")
    if more:
        err.print(f"there are more; go on with --after {found[-1].id}, or take all with --limit 0")
