"""``luna-dt rescue``: a new library.db out of what can be read of a damaged one."""

from __future__ import annotations

import click
from rich.table import Table

from ..library import Library
from .terminal import ProgressBars, json_option, out, plain, print_json


@click.command()
@json_option
@click.pass_context
def rescue(context: click.Context, as_json: bool) -> None:
    """Save what can be read of a damaged library.db; the damaged file is kept, and nothing is deleted.

    Close whatever uses the library first. The exit status is 1 if something could not be read.
    """
    with ProgressBars(shown=not as_json) as progress:
        found = Library.rescue(context.obj.home, progress)
    if as_json:
        print_json(found.to_json())
    elif found.kept is None:
        out.print(f"nothing is damaged in {plain(str(found.home))}, and nothing was changed", soft_wrap=True)
    else:
        table = Table("table", box=None)
        for name in ("saved", "lost", "pages that cannot be read"):
            table.add_column(name, justify="right")
        for each in found.tables:
            table.add_row(plain(each.table), f"{each.saved:,}", f"{each.lost:,}", f"{each.pages:,}")
        out.print(table)
        if found.log:
            out.print(f"pages of the log (library.db-wal) that are damaged: {found.log:,}")
        for file in found.unnamed:
            out.print(f"no layer names these vectors any more, they are kept as {plain(str(file))}", soft_wrap=True)
        out.print(f"the damaged file is kept as {plain(str(found.kept))}", soft_wrap=True)
        out.print("what DT has comes again with: luna-dt sync")
    if found.kept and not found.whole:
        context.exit(1)
