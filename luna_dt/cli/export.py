"""``luna-dt export``: a training set in one command."""

from __future__ import annotations

from pathlib import Path

import click

from ..export import SOURCES, Caption, Exported
from ..library import Library
from ..settings import Settings
from .terminal import ProgressBars, dt_option, json_option, out, print_json, print_some


@click.command()
@click.argument("query")
@click.option(
    "-o", "--out", "folder", type=click.Path(path_type=Path), required=True, help="The folder; made if need be."
)
@click.option("--link", is_flag=True, help="Links to the pictures in the place of copies.")
@click.option("--captions", type=click.Choice((*SOURCES, "none")), default="combined", show_default=True,
              help="What is written beside each picture as .txt.")  # fmt: skip
@click.option("--trigger", default="", help="A word that each caption begins with.")
@dt_option
@json_option
@click.pass_context
def export(
    context: click.Context, query: str, folder: Path, link: bool, captions: Caption, trigger: str, dt: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Put the pictures that fit QUERY into a folder, with their captions; overwrites nothing, and may be run again."""
    settings: Settings = context.obj
    if trigger and captions == "none":
        raise click.UsageError("--trigger begins a caption, and --captions none writes none")
    with Library(settings=settings, dt=dt) as library, ProgressBars(shown=not as_json) as progress:
        done = library.export(query, folder, link=link, captions=captions, trigger=trigger, progress=progress)
    if as_json:
        print_json(done.to_json())
    else:
        _tell(done, captions)
    if done.failed or done.captions_kept:
        context.exit(1)


def _tell(done: Exported, captions: Caption) -> None:
    out.print(f"{done.exported:,} exported, {done.present:,} were there already, "
              f"{len(done.failed):,} failed; in {done.folder}", soft_wrap=True, markup=False)  # fmt: skip
    print_some([f"image {image_id}: {reason}" for image_id, reason in done.failed])
    if done.without_caption:
        out.print(f"{len(done.without_caption):,} have no caption ({captions}), so no .txt stands beside them")
    if done.captions_kept:
        out.print(f"{len(done.captions_kept):,} captions were there with other words and stay; "
                  "delete them to have them anew:")  # fmt: skip
        print_some(done.captions_kept)
