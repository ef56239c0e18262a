"""What every command has in common: where it writes, its options, progress, errors as text or JSON."""

from __future__ import annotations

import datetime
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from ..errors import SettingsError
from ..plain import as_json, shown

F = TypeVar("F", bound=Callable[..., None])

# no emoji: <lora:x:1> is a LoRA
out, err = Console(highlight=False, emoji=False), Console(stderr=True, highlight=False, emoji=False)


def json_option(command: F) -> F:
    """Adds --json and remembers it, so that an error, too, is told as JSON."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> bool:
        context.meta["json"] = value
        return value

    added: F = click.option("--json", "as_json", is_flag=True, callback=remember, help="Answer for programs.")(command)
    return added


def dt_option(command: F) -> F:
    help_text = (
        "DT's address: http://…, postgresql://…, its diffusion-toolkit.db, or a folder of pictures  (DT_API_URL)."
    )
    added: F = click.option("--dt", help=help_text)(command)
    return added


class ProgressBars:
    """One bar for each kind that has something to do: count, rate, time left."""

    def __init__(self, shown: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        class Rate(TextColumn):
            def render(self, task: Any) -> Any:
                from rich.text import Text

                speed = task.finished_speed or task.speed
                return Text(f"{speed:,.0f}/s" if speed else "")

        self._bars = Progress(
            TextColumn("{task.description:22}"), BarColumn(), MofNCompleteColumn(), Rate(""), TimeRemainingColumn(),
            console=err, disable=not shown,
        )  # fmt: skip
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, kind: str, done: int, total: int) -> None:
        if total:
            if kind not in self._tasks:
                self._tasks[kind] = self._bars.add_task(kind, total=total)
            self._bars.update(self._tasks[kind], completed=done)


def plain(text: str) -> str:
    """Text from elsewhere: neither read as rich's markup, nor obeyed by the terminal."""
    from rich.markup import escape

    return escape(shown(text))


def pointed(query: str, at: int) -> str:
    """The place in a query, shown by what stands around it."""
    from rich.cells import cell_len

    before, after = query[max(0, at - 40) : at], query[at : at + 40]
    return f"  {plain(before)}{plain(after)}\n  {' ' * cell_len(shown(before))}^"


class PlainLines(logging.Formatter):
    """Lines of a log, which may hold what a server or a picture said."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record), 20_000)


def print_some(reasons: Sequence[str], most: int = 20) -> None:
    for reason in reasons[:most]:
        out.print(f"  {plain(reason)}", soft_wrap=True)
    if len(reasons) > most:
        out.print(f"  and {len(reasons) - most:,} more; --json lists them all")


def when(synced: str) -> str:
    """A time of the store (ISO 8601, UTC) as this machine's clock would tell it."""
    return datetime.datetime.fromisoformat(synced).astimezone().strftime("%Y-%m-%d %H:%M") if synced else "never"


def print_json(value: Any) -> None:
    sys.stdout.write(as_json(value, indent=2) + "\n")


def write(target: Path | None, text: str) -> None:
    if target is None:
        sys.stdout.write(text)
        return
    try:
        target.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise SettingsError(f"{target} cannot be written: {error}") from error
