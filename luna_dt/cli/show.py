"""``luna-dt show``: everything known of an image, by its id or its file; and what a file says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from ..errors import BadPicture, UnknownImage
from ..library import Library
from ..settings import Settings
from .terminal import dt_option, json_option, out, plain, print_json

if TYPE_CHECKING:
    from ..known import Known
    from ..provenance.picture import Told


@click.command()
@click.argument("what", metavar="ID|FILE")
@dt_option
@json_option
@click.pass_obj
def show(settings: Settings, what: str, dt: str | None, as_json: bool) -> None:
    """Tell everything known of an image by its id, or of a file: what it says of its making, and which image it is."""
    from ..provenance import picture

    file = Path(what)
    with Library(settings=settings, dt=dt) as library:
        if what.isascii() and what.isdigit() and not file.is_file():
            said, known = None, [library.known(int(what))]
        elif file.is_file():
            try:
                with file.open("rb") as data:
                    said = picture.read(data)
            except (OSError, BadPicture) as error:
                raise BadPicture(f"{what} cannot be opened as a picture: {error}") from error
            known = [library.known(record.id) for record in library.images_at(file)]
        elif file.exists():
            raise BadPicture(f"{what} is no file; name a picture, or an image of the library by its id")
        else:
            raise UnknownImage(f"{what} is neither a file nor an image's id; luna-dt images lists the ids")
    if as_json:
        print_json({"file": said and said.to_json(), "images": [each.to_json() for each in known]})
        return
    if said:
        _print_said(what, said)
    for each in known:
        _print_known(each)
    if not known:
        out.print("this library has no image at that path")


def _print_said(name: str, said: Told) -> None:
    out.print(f"{name}: {said.width}x{said.height}", markup=False, soft_wrap=True)
    values = said.to_json()
    loras = [f"{lora} ({strength})" if strength is not None else lora for lora, strength in said.made.loras or ()]
    told = {**values["made"], "loras": ", ".join(loras), "model hash": said.model_hash, "rating": said.rating}
    told["tags"] = ", ".join(said.tags)
    if told := {name: value for name, value in told.items() if value not in ("", None)}:
        _print_table(told)
    else:
        out.print("it says nothing of its making that is understood", markup=False, soft_wrap=True)


def _print_known(known: Known) -> None:
    from ..made.lineage import as_text

    record = known.image.to_json()
    record |= {name: value for name, value in known.captions.to_json().items() if name not in ("image_id", "tags")}
    record["tags"] = ", ".join(known.captions.tags or known.image.tags)
    record["clusters"] = ", ".join(f"{name or 'without a name'} ({i})" for i, name, _ in known.clusters)
    record |= {"vectors in": ", ".join(known.layers), "maps kept": ", ".join(known.maps)}
    _print_table({name: value for name, value in record.items() if value not in ("", None, 0, False)})
    if known.lineage.children:
        out.print(plain(as_text(known.lineage)), soft_wrap=True)


def _print_table(values: dict[str, Any]) -> None:
    table = Table(box=None, show_header=False)
    for name, value in values.items():
        table.add_row(name.replace("_", " "), plain(str(value)))
    out.print(table)
