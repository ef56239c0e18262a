"""``luna-dt verify`` and ``embed``: proving layers, and making them here."""

from __future__ import annotations

from datetime import timedelta

import click
from rich.table import Table

from ..errors import LunaError
from ..identity import Verdict
from ..layers.embed import Forecast, Quality
from ..library import Library
from ..records import LAYERS
from .terminal import ProgressBars, err, json_option, out, plain, print_json, print_some


@click.command()
@click.option("--layer", "layers", type=click.Choice(LAYERS), multiple=True, help="Only this layer (repeatable).")
@click.option("--sample", type=click.IntRange(1), default=32, show_default=True, help="How many vectors to make again.")
@click.option("--plot", is_flag=True, help="Draw how the cosines are spread.")
@json_option
@click.pass_context
def verify(context: click.Context, layers: tuple[str, ...], sample: int, plot: bool, as_json: bool) -> None:
    """Prove that the layers match: make some stored vectors again here and compare."""
    found: dict[str, Verdict | LunaError] = {}
    with Library(settings=context.obj) as library, ProgressBars(shown=not as_json) as progress:
        names = layers or tuple(layer.state.name for layer in library.status().layers if layer.state.count)
        for name in names:
            try:
                found[name] = library.verify(name, sample, progress)
            except LunaError as error:
                found[name] = error
    if as_json:
        print_json({n: v.to_json() if isinstance(v, Verdict) else {"error": {"code": v.code, "message": str(v)}}
                     for n, v in found.items()})  # fmt: skip
    elif not found:
        out.print("there is no layer to verify yet; run: luna-dt sync")
    else:
        _print_verdicts(found, plot)
    if not all(isinstance(verdict, Verdict) and verdict.passed for verdict in found.values()):
        context.exit(1)


def _print_verdicts(found: dict[str, Verdict | LunaError], plot: bool) -> None:
    table = Table("layer", "verdict", box=None)
    for name in ("checked", "mean", "worst", "spread"):
        table.add_column(name, justify="right")
    for layer, v in found.items():
        if isinstance(v, Verdict):
            result = "[green]passed[/]" if v.passed else "[bold red]FAILED[/]"
            table.add_row(layer, result, str(v.checked), f"{v.mean:.5f}", f"{v.worst:.5f}", f"{v.spread:.5f}")
        else:
            table.add_row(layer, "[bold red]not verified[/]")
    out.print(table)
    for layer, v in found.items():
        out.print(f"{layer}: {plain(str(v))}", soft_wrap=True)
        if isinstance(v, Verdict):
            if v.unreadable:
                out.print(
                    f"  {v.unreadable} more could not be made again: their pictures or prompts were not to be had"
                )
            if not v.passed:
                out.print(f"  to make the layer here instead: luna-dt embed --layer {layer}")
            if plot:
                _plot(v)


def _plot(verdict: Verdict, bins: int = 10, width: int = 40) -> None:
    """How many cosines lie where, from the worst to 1, as bars."""
    import numpy as np

    counts, edges = np.histogram(verdict.cosines, bins, (min(verdict.worst, 0.999), 1.0001))
    for count, low in zip(counts.tolist(), edges.tolist(), strict=False):
        out.print(f"  {low:8.4f} {'█' * round(width * count / max(counts)):{width}} {count or ''}")


@click.command()
@click.option("--layer", type=click.Choice(LAYERS), required=True)
@click.option("--where", default="", help="Only images that fit this query, in DT's language.")
@click.option("--model", default="", help="ARCHITECTURE:WEIGHTS of open_clip, or a sentence-transformers repository.")
@click.option("--quality", type=click.Choice(("fast", "best")), default=None,
              help="fast: ViT-B/32, 0.6 GB of weights, 10 pictures a second and more on a CPU (for texts BGE small). best, "
              "if nothing was made yet: the models DT uses, for pictures ViT-H/14, 3.9 GB, for a GPU: thirty times the "
              "work.")  # fmt: skip
@click.option("--devices", default="", help="Several, to share the work: cuda:0,cuda:1")
@click.option("--replace", is_flag=True, help="Give up the vectors that are here from DT, or by another model.")
@click.option("--forget", is_flag=True, help="Give up the vectors made here; the next sync takes DT's.")
@json_option
@click.pass_context
def embed(
    context: click.Context,
    layer: str,
    where: str,
    model: str,
    quality: Quality | None,
    devices: str,
    replace: bool,
    forget: bool,
    as_json: bool,
) -> None:
    """Make a layer here, from your own pictures or prompts; stop it at any time, it goes on from there."""
    with Library(settings=context.obj) as library:
        if forget:
            library.forget(layer)
            if not as_json:
                out.print(f"layer {layer} is given up; luna-dt sync takes DT's, if it has one")
            return
        with ProgressBars(shown=not as_json) as progress:
            chosen = [device.strip() for device in devices.split(",") if device.strip()]
            done = library.embed(
                layer, where, model=model, quality=quality or "", devices=chosen, replace=replace, progress=progress,
                begins=_tell,
            )  # fmt: skip
    if as_json:
        print_json(done.to_json())
    else:
        rate = f" ({done.encoded / done.seconds:,.1f} a second)" if done.encoded else ""
        out.print(f"{layer}: {done.encoded:,} made{rate}, {done.unchanged:,} were here already, "
                  f"{len(done.skipped):,} skipped, in {done.seconds:.1f} s")  # fmt: skip
        print_some([reason for _, reason in done.skipped])
    if done.skipped:
        context.exit(1)


def _tell(forecast: Forecast) -> None:
    took = timedelta(seconds=round(forecast.seconds))
    err.print(
        f"{forecast.layer}: {forecast.count:,} to make by {forecast.identity.model}, {forecast.rate:,.1f} a second here: "
        f"about {took}. Newest first, and found as they come; stop at any time, it goes on from there.",
        soft_wrap=True,
    )
