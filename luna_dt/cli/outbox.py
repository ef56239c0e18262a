"""``luna-dt outbox``: what was made and is on its way to DT."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from ..errors import BadInput
from ..library import Library
from ..made.outbox import NOT_SENT, STATES
from ..plain import as_json
from ..settings import Settings
from .terminal import dt_option, json_option, out, plain, print_json, write


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
        entries = library.outbox.entries(*(states or NOT_SENT))
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
            words = plain((g.prompt or "")[:40])
            table.add_row(str(e.position), e.state, str(e.tries), g.operation, source, words, plain(e.reason))
        out.print(table)


@outbox.command("send")
@click.option("--parked", is_flag=True, help="Also what DT refused before.")
@dt_option
@click.pass_context
def outbox_send(context: click.Context, parked: bool, dt: str | None) -> None:
    """Send now what waits or is kept; the exit status is 1 if DT still does not have all of it."""
    with Library(settings=context.obj, dt=dt) as library:
        taken = library.outbox.send(parked)
        left = library.outbox.counts()
    kept = f", {left['kept']:,} are kept here, for this DT does not offer to store them" if left["kept"] else ""
    out.print(f"DT took {taken:,}; {left['waiting']:,} wait, {left['parked']:,} are parked{kept}", soft_wrap=True)
    if any(left[state] for state in NOT_SENT):
        context.exit(1)


@outbox.command("export")
@click.option("-o", "--out", "target", type=click.Path(path_type=Path), help="A file; without it, standard output.")
@click.pass_obj
def outbox_export(settings: Settings, target: Path | None) -> None:
    """Write every record that was ever made, one JSON object a line."""
    with Library(settings=settings) as library:
        lines = "".join(as_json(e.to_json()) + "\n" for e in library.outbox.entries())
    write(target, lines)


@outbox.command("drop")
@click.argument("numbers", type=int, nargs=-1, required=True)
@click.option("--reason", required=True, help="Why; it is kept with the record.")
@click.pass_obj
def outbox_drop(settings: Settings, numbers: tuple[int, ...], reason: str) -> None:
    """Give up records that DT does not have, by their numbers."""
    with Library(settings=settings) as library:
        dropped = library.outbox.drop([*numbers], reason)
    out.print(f"{dropped} dropped")
    if dropped < len(set(numbers)):
        raise BadInput(
            f"{len(set(numbers)) - dropped} of these are none that waits, is parked or kept; see luna-dt outbox list"
        )
