"""``luna-dt search``: similar pictures, as a table or a contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from ..errors import BadVector, SettingsError
from ..library import Library
from ..records import LAYERS, Term
from ..settings import Settings
from .terminal import json_option, out, plain, print_json

if TYPE_CHECKING:
    from ..records import Hit


@click.command()
@click.option("--image", type=click.Path(path_type=Path), help="A reference picture.")
@click.option("--id", "image_id", type=int, help="An image of the library by its id.")
@click.option("--vector", type=click.Path(path_type=Path), help="A reference vector (.npy).")
@click.option("--text", help="A text, for layers that share a space with texts.")
@click.option("--layer", type=click.Choice(LAYERS), default="visual", show_default=True)
@click.option("-k", "--top-k", type=click.IntRange(1), default=10, show_default=True)
@click.option("--min-similarity", type=click.FloatRange(-1, 1), default=-1.0, show_default=True)
@click.option("--exclude", type=int, multiple=True, help="Leave this id out (repeatable).")
@click.option(
    "--term",
    "terms",
    nargs=3,
    type=(click.Choice(LAYERS), float, str),
    multiple=True,
    metavar="LAYER WEIGHT REF",
    help="Part of a weighted query (repeatable): REF is id:4711, text:snow, or a picture; WEIGHT may be negative.",
)
@click.option("--contact-sheet", type=click.Path(path_type=Path), help="Draw query and hits into this picture.")
@json_option
@click.pass_obj
def search(
    settings: Settings,
    image: Path | None,
    image_id: int | None,
    vector: Path | None,
    text: str | None,
    layer: str,
    top_k: int,
    min_similarity: float,
    exclude: tuple[int, ...],
    terms: tuple[tuple[str, float, str], ...],
    contact_sheet: Path | None,
    as_json: bool,
) -> None:
    """Find similar pictures: by picture, by id, by vector, by text, or by a weighted sum of such; works with DT closed."""
    if terms and (image or vector or image_id is not None or text is not None):
        raise click.UsageError("--term stands for itself: say the rest of the query in terms, too")
    # one question does not repay loading a graph
    with Library(settings=settings.replace(index="exact")) as library:
        hits = library.search(
            [_term(*term) for term in terms] or image,
            image_id=image_id,
            vector=None if vector is None else _read_vector(vector),
            text=text,
            layer=layer,
            top_k=top_k,
            min_similarity=min_similarity,
            exclude=exclude,
            engine="local",
        )
        if contact_sheet:
            _draw_sheet(library, contact_sheet, image, image_id, text, hits)
    if as_json:
        print_json([hit.to_json() for hit in hits])
        return
    if not hits:
        out.print(f"nothing is similar enough (at least {min_similarity})" if min_similarity > -1 else "nothing found")
        return
    table = Table("similarity", "id", "path", "prompt", box=None)
    for hit in hits:
        table.add_row(f"{hit.similarity:.4f}", str(hit.id), plain(hit.image.path), plain(hit.image.prompt[:80]))
    out.print(table)


def _term(layer: str, weight: float, reference: str) -> Term:
    kind, _, value = reference.partition(":")
    if kind == "id" and value.isdigit():
        return Term(image_id=int(value), layer=layer, weight=weight)
    if kind == "text":
        return Term(text=value, layer=layer, weight=weight)
    return Term(image=reference, layer=layer, weight=weight)


def _read_vector(path: Path) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadVector(f"{path} cannot be read as a .npy vector: {error}") from error


def _draw_sheet(
    library: Library, target: Path, image: Path | None, image_id: int | None, text: str | None, hits: list[Hit]
) -> None:
    from ..pixels import read_pictures
    from ..sheet import contact_sheet

    query = read_pictures(image)[0] if image else None
    if image_id is not None:
        query = next(library.pictures([image_id]))[1]
    title = str(image.name if image else text or (f"id {image_id}" if image_id is not None else "a vector"))
    pictures = library.pictures(hit.id for hit in hits)
    found = [(picture, hit.caption, hit.image.prompt) for hit, (_, picture, _) in zip(hits, pictures, strict=True)]
    try:
        contact_sheet(query, title, found).save(target)
    except (OSError, ValueError) as error:
        raise SettingsError(f"the contact sheet cannot be written to {target}: {error}") from error
