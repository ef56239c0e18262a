"""``luna-dt outbox``, ``lineage`` and ``batch``: what was made, and what is being made."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from ..errors import BadInput, LunaError, SettingsError, Unreachable
from ..library import Library
from ..made.outbox import STATES
from ..settings import Settings
from .terminal import dt_option, json_option, out, plain, print_json, when, write


@click.group()
def outbox() -> None:
    """What was made and is on its way to DT: list, send, export, drop."""


@outbox.command("list")
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="Only these (repeatable).")
@json_option
@click.pass_obj
def outbox_list(settings: Settings, states: tuple[str, ...], as_json: bool) -> None:
    """Show the records, oldest first; without --state those that DT does not have."""
    with Library(settings=settings) as library:
        entries = library.outbox.entries(*(states or ("waiting", "parked")))
        counts = library.outbox.counts()
    if as_json:
        print_json([entry.to_json() for entry in entries])
        return
    out.print(", ".join(f"{counts[state]:,} {state}" for state in STATES))
    if entries:
        table = Table("number", "state", "tries", "operation", "from", "prompt", "reason", box=None)
        for e in entries:
            g = e.generation
            source = "" if g.source_image_id is None else str(g.source_image_id)
            words = plain(g.prompt[:40])
            table.add_row(str(e.position), e.state, str(e.tries), g.operation, source, words, plain(e.reason))
        out.print(table)


@outbox.command("send")
@click.option("--parked", is_flag=True, help="Also what DT refused before.")
@dt_option
@click.pass_context
def outbox_send(context: click.Context, parked: bool, dt: str | None) -> None:
    """Send now what waits; the exit status is 1 if DT still does not have all of it."""
    with Library(settings=context.obj, dt=dt) as library:
        taken = library.outbox.send(parked)
        left = library.outbox.counts()
    out.print(f"DT took {taken:,}; {left['waiting']:,} wait, {left['parked']:,} are parked")
    if left["waiting"] or left["parked"]:
        context.exit(1)


@outbox.command("export")
@click.option("-o", "--out", "target", type=click.Path(path_type=Path), help="A file; without it, standard output.")
@click.pass_obj
def outbox_export(settings: Settings, target: Path | None) -> None:
    """Write every record that was ever made, one JSON object a line."""
    with Library(settings=settings) as library:
        lines = "".join(json.dumps(e.to_json(), ensure_ascii=False) + "\n" for e in library.outbox.entries())
    write(target, lines)


@outbox.command("drop")
@click.argument("numbers", type=int, nargs=-1, required=True)
@click.option("--reason", required=True, help="Why; it is kept with the record.")
@click.pass_obj
def outbox_drop(settings: Settings, numbers: tuple[int, ...], reason: str) -> None:
    """Give up records that wait or are parked, by their numbers."""
    with Library(settings=settings) as library:
        dropped = library.outbox.drop([*numbers], reason)
    out.print(f"{dropped} dropped")
    if dropped < len(set(numbers)):
        raise BadInput(
            f"{len(set(numbers)) - dropped} of these are none that waits or is parked; see luna-dt outbox list"
        )


@click.command()
@click.argument("image_id", type=int)
@click.option(
    "-o", "--out", "target", type=click.Path(path_type=Path), help="Draw it into a .svg or .png, with thumbnails."
)
@dt_option
@click.pass_obj
def lineage(settings: Settings, image_id: int, target: Path | None, dt: str | None) -> None:
    """Draw the tree of what came from what around an image."""
    from ..made.lineage import Node, as_png, as_svg, as_text

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


@click.command()
@click.argument("action", type=click.Choice(("list", "show", "resume", "cancel", "retry")))
@click.argument("batch_id", default="")
@click.option("--comfyui", default="", help="For resume: ComfyUI's address, if it is another now.")
@json_option
@click.pass_obj
def batch(settings: Settings, action: str, batch_id: str, comfyui: str, as_json: bool) -> None:
    """What the Batch Queue node queued as one: list all; show one, resume, cancel or retry it."""
    if bool(batch_id) == (action == "list"):
        raise click.UsageError("list takes no batch; every other action takes one, as list shows it")
    with Library(settings=settings) as library:
        batches = library.batches
        if action == "list":
            found = batches.all()
        elif action == "show":
            try:
                found = [batches.follow(batch_id)]
            except Unreachable as error:
                logging.getLogger(__name__).warning("as it was last seen: %s", error)
                found = [batches.get(batch_id)]
        elif action == "resume":
            found = [batches.resume(batch_id, comfyui)]
        else:
            found = [batches.cancel(batch_id) if action == "cancel" else batches.retry(batch_id)]
    if as_json:
        print_json([each.to_json() for each in found] if action == "list" else found[0].to_json())
        return
    if not found:
        out.print("there are no batches; the Batch Queue node makes them")
    for each in found:
        out.print(f"{each.id}  {when(each.created)}  {each.operation}  {each}")
    if action != "list":
        for item in found[0].items:
            if item.error:
                told = f"  item {item.position}, image {item.image_id}: {item.error}"
                out.print(plain(told), soft_wrap=True)
