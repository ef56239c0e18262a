"""``luna-dt search``: similar pictures, as a table or a contact sheet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import click
from rich.table import Table

from ..errors import BadVector, SettingsError
from ..library import Library
from ..records import LAYERS, Alike, Term
from ..search.results import Collapse, Order
from ..settings import Settings
from .terminal import err, json_option, out, plain, print_json

if TYPE_CHECKING:
    from ..records import Hit


def _collapse(_context: click.Context, _parameter: click.Parameter, value: str) -> Collapse:
    try:
        return cast("Alike", value) if value in get_args(Alike) else float(value)
    except ValueError:
        raise click.BadParameter(f"'{value}' is neither a cosine nor seed nor file") from None


@click.command()
@click.option("--image", type=click.Path(path_type=Path), help="A reference picture.")
@click.option("--id", "image_id", type=int, help="An image of the library by its id.")
@click.option("--vector", type=click.Path(path_type=Path), help="A reference vector (.npy).")
@click.option("--text", help="A text, for layers that share a space with texts.")
@click.option("--layer", type=click.Choice(LAYERS), help="[default: visual; for a text one that can answer it]")
@click.option("--where", default="", help="Only images that fit this query, in DT's language.")
@click.option("-k", "--top-k", type=click.IntRange(1), default=10, show_default=True)
@click.option("--min-similarity", type=click.FloatRange(-1, 1), default=-1.0, show_default=True)
@click.option("--order", type=click.Choice(get_args(Order)), default="similarity", show_default=True,
              help="Of what is at least --min-similarity similar: the newest or the best rated first.")  # fmt: skip
@click.option("--offset", type=click.IntRange(0), default=0, help="Pass over so many hits, for pages.")
@click.option("--collapse", metavar="COSINE|seed|file", default="0", callback=_collapse,
              help="Of near copies give the first: of a cosine of so much, of one prompt and seed, or of one file.")  # fmt: skip
@click.option("--diverse", type=click.FloatRange(0, 1), default=0.0, help="How much hits are to differ, 0 to 1.")
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
@click.option("--explain", is_flag=True, help="Say what answers, and how many images it is about.")
@json_option
@click.pass_obj
def search(
    settings: Settings,
    image: Path | None,
    image_id: int | None,
    vector: Path | None,
    text: str | None,
    layer: str | None,
    where: str,
    top_k: int,
    min_similarity: float,
    order: Order,
    offset: int,
    collapse: Collapse,
    diverse: float,
    exclude: tuple[int, ...],
    terms: tuple[tuple[str, float, str], ...],
    contact_sheet: Path | None,
    explain: bool,
    as_json: bool,
) -> None:
    """Find similar pictures: by picture, by id, by vector, by text, or by a weighted sum of such; works with DT closed."""
    if terms and (image or vector or image_id is not None or text is not None):
        raise click.UsageError("--term stands for itself: say the rest of the query in terms, too")
    if not settings.shared:
        settings = settings.replace(index="exact")  # one question does not repay loading a graph
    with Library(settings=settings) as library:
        if text is not None and layer is None:
            layer = library.text_layer()
            err.print(f"the text is searched for in layer {layer}; --layer names another")
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
            where=where,
            order=order,
            offset=offset,
            collapse=collapse,
            diverse=diverse,
        )
        if explain:
            for name in dict.fromkeys(term[0] for term in terms) if terms else [layer or "visual"]:
                err.print(plain(library.explain(name, where)), soft_wrap=True)
        if contact_sheet:
            _draw_sheet(library, contact_sheet, image, image_id, text, hits)
    if as_json:
        print_json([hit.to_json() for hit in hits])
        return
    if not hits:
        out.print(f"nothing is similar enough (at least {min_similarity})" if min_similarity > -1 else "nothing found")
        return
    table = Table("similarity", "id", *(["images"] if collapse else []), "path", "prompt", box=None)
    for hit in hits:
        stands_for = [str(hit.stands_for)] if collapse else []
        row = (f"{hit.similarity:.4f}", str(hit.id), *stands_for, plain(hit.image.path), plain(hit.image.prompt[:80]))
        table.add_row(*row)
    out.print(table)


def _term(layer: str, weight: float, reference: str) -> Term:
    kind, _, value = reference.partition(":")
    if kind == "id" and re.fullmatch("[0-9]{1,18}", value):
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
