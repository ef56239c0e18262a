"""``luna-dt map``: ControlNet maps of one picture, or kept of many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import LunaError, SettingsError
from ..library import Library
from ..preproc.map_types import HIGH, LOW, RESOLUTION, TYPES, map_type
from .terminal import ProgressBars, dt_option, err, json_option, out, plain, print_json, print_some, write

if TYPE_CHECKING:
    from ..maps.making import ControlMap


@click.command("map")
@click.argument("kinds", metavar="TYPE...", nargs=-1)
@click.option("--id", "image_id", type=int, help="An image of the library by its id.")
@click.option("--image", type=click.Path(path_type=Path), help="A picture.")
@click.option("--where", help="Have maps kept of every image that fits this query, in DT's language.")
@click.option("--all", "every", is_flag=True, help="Every type there is.")
@click.option(
    "-o", "--out", "folder", type=click.Path(path_type=Path), help="Where to put NAME_TYPE.png.  [default: .]"
)
@click.option("--resolution", default=str(RESOLUTION), show_default=True, help="Of the shorter side, or: source.")
@click.option("--low", type=int, default=LOW, show_default=True, help="Canny's low threshold, 0 to 255.")
@click.option("--high", type=int, default=HIGH, show_default=True, help="Canny's high threshold, 0 to 255.")
@click.option("--anew", is_flag=True, help="Make them also if they are there, as with other weights; not with --where.")
@dt_option
@json_option
@click.pass_context
def make_map(
    context: click.Context,
    kinds: tuple[str, ...],
    image_id: int | None,
    image: Path | None,
    where: str | None,
    every: bool,
    folder: Path | None,
    resolution: str,
    low: int,
    high: int,
    anew: bool,
    dt: str | None,
    as_json: bool,
) -> None:
    """Get ControlNet maps of a picture: DT's, else the one kept here, else made now; or have them kept of many."""
    if every == bool(kinds):
        raise click.UsageError(f"name the types of maps, or give --all; there are: {', '.join(TYPES)}")
    if [image_id is None, image is None, where is None].count(False) != 1:
        raise click.UsageError("give one of --id, --image and --where")
    if where is not None and folder is not None:
        raise click.UsageError("--where has maps kept in the library; get single ones out with --id")
    if where is not None and anew:
        raise click.UsageError("--anew is for single pictures, since it could not go on where it was stopped")
    chosen = [map_type(kind).name for kind in dict.fromkeys(kinds or TYPES)]
    if resolution != "source" and not resolution.isdecimal():
        raise click.UsageError("--resolution is a number of pixels, or source")
    asked: dict[str, Any] = {"low": low, "high": high}
    asked["resolution"] = "source" if resolution == "source" else int(resolution)
    with Library(settings=context.obj, dt=dt) as library:
        if where is None:
            asked["anew"] = anew
            failed = _maps_of_one(library, chosen, image, image_id, asked, folder or Path(), as_json)
        else:
            failed = _maps_of_many(library, chosen, where, asked, as_json)
    if failed:
        context.exit(1)


def _maps_of_one(
    library: Library,
    kinds: list[str],
    image: Path | None,
    image_id: int | None,
    asked: Any,
    folder: Path,
    as_json: bool,
) -> bool:
    """Says whether any failed; the others are made all the same."""
    told: dict[str, Any] = {}
    for kind in kinds:
        target = folder / f"{image.stem if image else image_id}_{kind}.png"
        try:
            found = library.map(kind, image, image_id=image_id, **asked)
            _save(target, found)
            told[kind] = {"file": str(target), "was_cached": found.was_cached}
            if found.keypoints is not None:
                told[kind]["keypoints"] = str(target.with_suffix(".json"))
            if not as_json:
                size = f"{found.picture.width}x{found.picture.height}"
                out.print(
                    f"{plain(str(target))}: {size}, {'was there' if found.was_cached else 'made'}", soft_wrap=True
                )
        except LunaError as error:
            told[kind] = {"error": {"code": error.code, "message": str(error)}}
            if not as_json:
                err.print(f"[bold red]{kind}:[/] {plain(str(error))}", soft_wrap=True)
    if as_json:
        print_json(told)
    return any("error" in each for each in told.values())


def _save(target: Path, found: ControlMap) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        found.picture.save(target)
    except OSError as error:
        raise SettingsError(f"{target} cannot be written: {error}") from error
    if found.keypoints is not None:
        write(target.with_suffix(".json"), json.dumps(found.keypoints))


def _maps_of_many(library: Library, kinds: list[str], where: str, asked: Any, as_json: bool) -> bool:
    with ProgressBars(shown=not as_json) as progress:
        done = library.make_maps(where, kinds, progress=progress, **asked)
    if as_json:
        print_json(done.to_json())
    else:
        out.print(f"{done.made:,} maps made, {done.present:,} were there already, {len(done.failed):,} failed")
        print_some([f"{kind}: {reason}" for _, kind, reason in done.failed])
    return bool(done.failed)
