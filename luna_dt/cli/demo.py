"""``luna-dt demo``: all of it on a drawn library."""

from __future__ import annotations

from pathlib import Path

import click

from .terminal import out, plain


@click.command()
@click.option("-o", "--out", "folder", type=click.Path(path_type=Path), default=Path("demo-out"), show_default=True)
@click.option("--pictures", type=click.IntRange(25, 5000), default=375, show_default=True)
def demo(folder: Path, pictures: int) -> None:
    """Show it all on a drawn library: database, server, sync, search, and search with everything closed."""
    from ..demo import run

    run(folder, pictures, lambda line: out.print(plain(line), soft_wrap=True))
