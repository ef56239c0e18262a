"""``luna-dt doctor``: what is well and what is not, each with one next step."""

from __future__ import annotations

import click

from ..doctor import Finding, machine, of_error
from ..errors import LunaError
from ..library import Library
from ..settings import Settings
from .terminal import dt_option, json_option, out, plain, print_json

COLOURS = {"ok": "green", "note": "yellow", "trouble": "bold red"}


@click.command()
@dt_option
@json_option
@click.pass_context
def doctor(context: click.Context, dt: str | None, as_json: bool) -> None:
    """Look at DT, the library, layers, weights and this machine; the exit status is 1 if there is trouble."""
    settings: Settings = context.obj
    try:
        with Library(settings=settings, dt=dt) as library:
            findings = library.doctor()
    except LunaError as error:  # it cannot even be opened
        findings = [of_error("library", error), *machine(settings)]
    if as_json:
        print_json([finding.to_json() for finding in findings])
    else:
        for finding in findings:
            _print_finding(finding)
    if any(finding.level == "trouble" for finding in findings):
        context.exit(1)


def _print_finding(finding: Finding) -> None:
    mark = f"[{COLOURS[finding.level]}]{finding.level:8}[/]"
    out.print(f"{mark}{plain(finding.about)}: {plain(finding.says)}", soft_wrap=True)
    if finding.step:
        out.print(f"{'':8}  -> {plain(finding.step)}", soft_wrap=True)
