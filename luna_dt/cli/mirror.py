"""``luna-dt sync`` and ``status``: mirroring DT, and what is here."""

from __future__ import annotations

from collections.abc import Iterable

import click
from rich.table import Table

from ..library import Library
from ..mirror.sync import Change
from ..settings import Settings
from ..status import Status
from .terminal import ProgressBars, dt_option, json_option, out, plain, print_json, when


@click.command()
@dt_option
@click.option("--accept", is_flag=True, help="Take another DT, or one that has lost most images, for what there is.")
@json_option
@click.pass_obj
def sync(settings: Settings, dt: str | None, accept: bool, as_json: bool) -> None:
    """Bring the library to what DT has now; stop it at any time, it goes on from there."""
    with Library(settings=settings, dt=dt) as library, ProgressBars(shown=not as_json) as progress:
        changes = library.sync(progress, accept)
        found, address = library.status(), library.catalog.address
    if as_json:
        print_json([vars(change) for change in changes])
        return
    out.print(f"from {plain(address)}")
    print_changes(changes, "in DT")
    _print_aside(found)


def print_changes(changes: Iterable[Change], where: str) -> None:
    """A table of what was done to each kind, and how many there are ``where`` it came from."""
    table = Table("kind", box=None)
    for name in (where, "new", "changed", "gone", "seconds"):
        table.add_column(name, justify="right")
    for c in changes:
        table.add_row(c.kind, f"{c.count:,}", f"{c.added:,}", f"{c.changed:,}", f"{c.removed:,}", f"{c.seconds:.1f}")
    out.print(table)


@click.command()
@json_option
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Tell what is synced, layer by layer, how it is searched and how much room it takes."""
    with Library(settings=settings) as library:
        found = library.status()
    if as_json:
        print_json(found.to_json())
        return
    out.print(f"library  {plain(str(found.home))}  ({found.bytes / 1e6:,.1f} MB)\nDT       {plain(found.dt)}")
    table = Table("kind", "count", "last synced", box=None)
    for name, (count, synced) in found.counts.items():
        table.add_row(name, f"{count:,}", when(synced))
    out.print(table)
    if found.maps[0]:
        room = f"{found.maps[1] / 1e6:,.1f} MB of {settings.maps_bytes / 1e6:,.0f}"
        out.print(f"ControlNet maps: {found.maps[0]:,} ({room})")
    _print_aside(found)
    if found.shared:
        out.print(plain(found.shared))
        return
    if not found.layers:
        out.print(found.no_layer)
        return
    table = Table("layer", "vectors", "coverage", "index", "MB", "last synced", "verified", box=None)
    for layer in found.layers:
        s = layer.state
        index = layer.engine
        if layer.proof:
            index += f", {layer.indexed:,} rows, {layer.proof}"
        broken = f" (+{s.unusable} unusable)" if s.unusable else ""
        room = f"{s.bytes / 1e6:,.1f}"
        last = when(s.synced) + (", made here" if s.local else "")
        verified = ("passed " if s.verdict.passed else "FAILED ") + when(s.verdict.when) if s.verdict else "never"
        table.add_row(s.name, f"{s.count:,}{broken}", f"{layer.coverage:.1%}", index, room, last, verified)
    out.print(table)
    for layer in found.layers:
        out.print(
            f"{layer.state.name} is made by {plain(str(layer.state.identity))}; searched by {plain(layer.reason)}"
        )
        if anew := layer.state.anew:
            out.print(
                f"  it is being made anew by {plain(str(anew[0]))}: {anew[1]:,} vectors so far; "
                f"luna-dt embed --layer {layer.state.name} goes on"
            )
        if layer.state.verdict and not layer.state.verdict.passed:
            out.print(f"  but it {plain(str(layer.state.verdict))}")


def _print_aside(found: Status) -> None:
    for rows in found.set_aside:
        where = f"{rows.count:,} of {rows.kind} (the first is {rows.first_id})"
        out.print(f"set aside: {where}, {plain(rows.reason)}; tried again when DT has changed it")
    for reason in found.left_out:
        out.print(f"left out: {plain(reason)}")
