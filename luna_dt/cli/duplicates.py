"""``luna-dt duplicates``: groups of exact and of near copies, listed and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from ..errors import NotSearchable, SettingsError
from ..library import Library
from ..records import LAYERS
from ..settings import Settings
from .terminal import ProgressBars, json_option, out, plain, print_json

if TYPE_CHECKING:
    from ..records import Duplicates

SHOWN, DRAWN, DRAWN_EACH = 50, 20, 10  # groups in the table; in the picture, and images of each there


@click.command()
@click.option("--layer", type=click.Choice(LAYERS), default="visual", show_default=True)
@click.option("--similarity", type=click.FloatRange(-1, 1, min_open=True), default=0.985, show_default=True,
              help="The cosine from which two images are near copies; 1 for equal vectors.")  # fmt: skip
@click.option("--exact", is_flag=True, help="Only exact copies, by their files' hashes; --layer is not looked at.")
@click.option("--where", default="", help="Only images that fit this query, in DT's language.")
@click.option("--contact-sheet", type=click.Path(path_type=Path), help="Draw the largest groups into this picture.")
@json_option
@click.pass_obj
def duplicates(
    settings: Settings,
    layer: str,
    similarity: float,
    exact: bool,
    where: str,
    contact_sheet: Path | None,
    as_json: bool,
) -> None:
    """List groups of images that are exact copies, by their files' hashes, and of near ones, by their vectors, the
    largest first; nothing is deleted."""
    with Library(settings=settings) as library:
        with ProgressBars(shown=not as_json) as progress:
            try:
                groups = library.duplicates(None if exact else layer, similarity, where, progress)
            except NotSearchable as error:
                if exact or not library.mirrors("images"):
                    raise
                raise NotSearchable(f"{error}; exact copies take no vectors: luna-dt duplicates --exact") from error
        if contact_sheet:
            _draw_sheet(library, contact_sheet, groups[:DRAWN])
        if as_json:
            print_json([_to_json(library, group) for group in groups])
            return
        table = Table("images", "similarity", "ids", "path of the first", box=None)
        for group in groups[:SHOWN]:
            ids = ", ".join(map(str, group.ids[:8])) + (", …" if len(group.ids) > 8 else "")
            path = plain(library.image(group.ids[0]).path)
            table.add_row(f"{len(group.ids):,}", _told(group, 4), ids, path)
    if not groups:
        out.print(f"no image is {'an exact' if exact else 'a'} copy of another")
        return
    out.print(table)
    if len(groups) > SHOWN:
        out.print(f"and {len(groups) - SHOWN:,} smaller groups; --json lists them all")
    more = [sum(len(group.ids) - 1 for group in groups if group.exact is is_exact) for is_exact in (True, False)]
    out.print(f"{len(groups):,} groups; {more[0]:,} images are exact copies of another one, {more[1]:,} near copies")


def _told(group: Duplicates, digits: int) -> str:
    return "exact" if group.exact else f"{group.similarity:.{digits}f}"


def _to_json(library: Library, group: Duplicates) -> dict[str, Any]:
    images = [{"id": image_id, "path": library.image(image_id).path} for image_id in group.ids]
    return {"count": len(images), "similarity": group.similarity, "exact": group.exact, "images": images}


def _draw_sheet(library: Library, target: Path, groups: list[Duplicates]) -> None:
    from ..sheet import group_sheet

    drawn = []
    for group in groups:
        pictures = library.pictures(group.ids[:DRAWN_EACH])
        tiles = [(picture, f"id {image_id}", "") for image_id, picture, _ in pictures]
        first = (tiles[0][0], tiles[0][1], f"{len(group.ids):,} images, {_told(group, 3)}")
        drawn.append([first, *tiles[1:]])
    try:
        group_sheet(drawn).save(target)
    except (OSError, ValueError) as error:
        raise SettingsError(f"the contact sheet cannot be written to {target}: {error}") from error
