"""``luna-dt lineage``: what came from what."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from ..errors import BadInput, LunaError, SettingsError
from ..library import Library
from ..settings import Settings
from .terminal import dt_option, out, plain, write


@click.command()
@click.argument("image_id", type=int)
@click.option(
    "-o", "--out", "target", type=click.Path(path_type=Path), help="Draw it into a .svg or .png, with thumbnails."
)
@dt_option
@click.pass_obj
def lineage(settings: Settings, image_id: int, target: Path | None, dt: str | None) -> None:
    """Draw the tree of what came from what around an image."""
    from ..made.drawing import as_png, as_svg
    from ..made.lineage import Node, as_text

    with Library(settings=settings, dt=dt) as library:
        found = library.lineage(image_id)

        def picture(node: Node) -> Any:
            try:
                if node.image:
                    return library.picture(node.image.id)
                return library.output(node.made) if node.made and node.made.output else None
            except LunaError as error:
                logging.getLogger(__name__).info("%s", error)
                return None

        if target is None:
            out.print(plain(as_text(found)), soft_wrap=True)
        elif target.suffix.lower() == ".svg":
            write(target, as_svg(found, picture))
        elif target.suffix.lower() == ".png":
            try:
                as_png(found, picture).save(target)
            except OSError as error:
                raise SettingsError(f"{target} cannot be written: {error}") from error
        else:
            raise BadInput(f"{target} must end in .svg or .png")
