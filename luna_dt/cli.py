"""The ``luna-dt`` command: the library from a shell, as a table for people or ``--json`` for programs.

Exit status: 0 when all of it worked, 1 when something did not (the reason is the last line on standard
error, and an object ``{"error": {"code", "message"}}`` with ``--json``), 2 for a wrong command line.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from . import __version__
from .errors import BadInput, BadVector, LunaError, SettingsError, Unreachable
from .library import Library
from .outbox import STATES
from .preproc.catalogue import HIGH, LOW, RESOLUTION, TYPES, map_type
from .records import LAYERS, Term, Verdict
from .settings import Settings

if TYPE_CHECKING:
    from .maps import ControlMap
    from .records import Hit

F = TypeVar("F", bound=Callable[..., None])

out, err = Console(highlight=False), Console(stderr=True, highlight=False)


class _Commands(click.Group):
    """Turns our errors into one line and status 1, for every command alike."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except LunaError as error:
            if context.meta.get("json"):
                _print_json({"error": {"code": error.code, "message": str(error)}})
            err.print(f"[bold red]luna-dt:[/] {_plain(str(error))}", soft_wrap=True)
            context.exit(1)
        except KeyboardInterrupt:
            err.print("luna-dt: stopped; what was done is kept, run it again to go on")
            context.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="luna-dt")
@click.option("--home", type=click.Path(path_type=Path), help="The library's folder (LUNA_DT_HOME).")
@click.option("-v", "--verbose", is_flag=True, help="Tell what goes on.")
@click.pass_context
def main(context: click.Context, home: Path | None, verbose: bool) -> None:
    """Mirror a DiffusionToolkit library and find similar pictures in it, also with DT closed."""
    for stream in (sys.stdout, sys.stderr):  # a Windows pipe cannot hold every prompt otherwise
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
    handler = RichHandler(console=err, show_time=False, show_path=False, show_level=verbose)
    ours = logging.getLogger("luna_dt")
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(logging.INFO if verbose else logging.WARNING)
    context.obj = Settings.load(home)


def _json_option(command: F) -> F:
    """Adds --json and remembers it, so that an error, too, is told as JSON."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> bool:
        context.meta["json"] = value
        return value

    added: F = click.option("--json", "as_json", is_flag=True, callback=remember, help="Answer for programs.")(command)
    return added


def _dt_option(command: F) -> F:
    help_text = "DT's address: http://… or postgresql://…  (DT_API_URL)."
    added: F = click.option("--dt", help=help_text)(command)
    return added


@main.command()
@_dt_option
@_json_option
@click.pass_obj
def sync(settings: Settings, dt: str | None, as_json: bool) -> None:
    """Bring the library to what DT has now; stop it at any time, it goes on from there."""
    with Library(settings=settings, dt=dt) as library, _Progress(shown=not as_json) as progress:
        changes = library.sync(progress)
    if as_json:
        _print_json([vars(change) for change in changes])
        return
    table = Table("kind", box=None)
    for name in ("in DT", "new", "changed", "gone", "seconds"):
        table.add_column(name, justify="right")
    for c in changes:
        table.add_row(c.kind, f"{c.count:,}", f"{c.added:,}", f"{c.changed:,}", f"{c.removed:,}", f"{c.seconds:.1f}")
    out.print(table)


@main.command()
@click.option("--image", type=click.Path(path_type=Path), help="A reference picture.")
@click.option("--id", "image_id", type=int, help="An image of the library by its id.")
@click.option("--vector", type=click.Path(path_type=Path), help="A reference vector (.npy).")
@click.option("--text", help="A text, for layers that share a space with texts.")
@click.option("--layer", type=click.Choice(LAYERS), default="visual", show_default=True)
@click.option("-k", "--top-k", type=click.IntRange(1), default=10, show_default=True)
@click.option("--min-similarity", type=click.FloatRange(-1, 1), default=-1.0, show_default=True)
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
@_json_option
@click.pass_obj
def search(
    settings: Settings,
    image: Path | None,
    image_id: int | None,
    vector: Path | None,
    text: str | None,
    layer: str,
    top_k: int,
    min_similarity: float,
    exclude: tuple[int, ...],
    terms: tuple[tuple[str, float, str], ...],
    contact_sheet: Path | None,
    as_json: bool,
) -> None:
    """Find similar pictures: by picture, by id, by vector, by text, or by a weighted sum of such; works with DT closed."""
    if terms and (image or vector or image_id is not None or text is not None):
        raise click.UsageError("--term stands for itself: say the rest of the query in terms, too")
    # one question does not repay loading a graph
    with Library(settings=settings.replace(index="exact")) as library:
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
        )
        if contact_sheet:
            _draw_sheet(library, contact_sheet, image, image_id, text, hits)
    if as_json:
        _print_json([hit.to_json() for hit in hits])
        return
    if not hits:
        out.print(f"nothing is similar enough (at least {min_similarity})" if min_similarity > -1 else "nothing found")
        return
    table = Table("similarity", "id", "path", "prompt", box=None)
    for hit in hits:
        table.add_row(f"{hit.similarity:.4f}", str(hit.id), _plain(hit.image.path), _plain(hit.image.prompt[:80]))
    out.print(table)


def _term(layer: str, weight: float, reference: str) -> Term:
    kind, _, value = reference.partition(":")
    if kind == "id" and value.isdigit():
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
    from .pixels import read_pictures
    from .sheet import contact_sheet

    def opened(wanted: int) -> Any:
        try:
            return library.picture(wanted)
        except LunaError as error:
            logging.getLogger(__name__).warning("%s", error)
            return None

    query = read_pictures(image)[0] if image else None if image_id is None else opened(image_id)
    title = str(image.name if image else text or (f"id {image_id}" if image_id is not None else "a vector"))
    found = [(opened(hit.id), f"{hit.similarity:.3f}   id {hit.id}", hit.image.prompt) for hit in hits]
    try:
        contact_sheet(query, title, found).save(target)
    except (OSError, ValueError) as error:
        raise SettingsError(f"the contact sheet cannot be written to {target}: {error}") from error


@main.command()
@_json_option
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Tell what is synced, layer by layer, how it is searched and how much room it takes."""
    with Library(settings=settings) as library:
        found = library.status()
    if as_json:
        _print_json(found.to_json())
        return
    out.print(f"library  {found.home}  ({found.bytes / 1e6:,.1f} MB)\nDT       {_plain(found.dt)}")
    table = Table("kind", "count", "last synced", box=None)
    for name, (count, synced) in found.counts.items():
        table.add_row(name, f"{count:,}", _when(synced))
    out.print(table)
    if found.maps[0]:
        room = f"{found.maps[1] / 1e6:,.1f} MB of {settings.maps_bytes / 1e6:,.0f}"
        out.print(f"ControlNet maps: {found.maps[0]:,} ({room})")
    if not found.layers:
        out.print("no layer is synced yet; run: luna-dt sync")
        return
    table = Table("layer", "vectors", "coverage", "index", "MB", "last synced", "verified", box=None)
    for layer in found.layers:
        s = layer.state
        index = layer.engine
        if layer.engine != "exact":
            index += f", {layer.indexed:,} rows" if layer.indexed else ", not built yet"
        broken = f" (+{s.unusable} unusable)" if s.unusable else ""
        room = f"{s.bytes / 1e6:,.1f}"
        when = _when(s.synced) + (", made here" if s.local else "")
        verified = ("passed " if s.verdict.passed else "FAILED ") + _when(s.verdict.when) if s.verdict else "never"
        table.add_row(s.name, f"{s.count:,}{broken}", f"{layer.coverage:.1%}", index, room, when, verified)
    out.print(table)
    for layer in found.layers:
        out.print(f"{layer.state.name} is made by {_plain(str(layer.state.identity))}")
        if layer.state.verdict and not layer.state.verdict.passed:
            out.print(f"  but it {_plain(str(layer.state.verdict))}")


@main.command()
@click.option("--layer", "layers", type=click.Choice(LAYERS), multiple=True, help="Only this layer (repeatable).")
@click.option("--sample", type=click.IntRange(1), default=32, show_default=True, help="How many vectors to make again.")
@click.option("--plot", is_flag=True, help="Draw how the cosines are spread.")
@_json_option
@click.pass_context
def verify(context: click.Context, layers: tuple[str, ...], sample: int, plot: bool, as_json: bool) -> None:
    """Prove that the layers match: make some stored vectors again here and compare."""
    found: dict[str, Verdict | LunaError] = {}
    with Library(settings=context.obj) as library, _Progress(shown=not as_json) as progress:
        names = layers or tuple(layer.state.name for layer in library.status().layers if layer.state.count)
        for name in names:
            try:
                found[name] = library.verify(name, sample, progress)
            except LunaError as error:
                found[name] = error
    if as_json:
        _print_json({n: v.to_json() if isinstance(v, Verdict) else {"error": {"code": v.code, "message": str(v)}}
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
        out.print(f"{layer}: {_plain(str(v))}", soft_wrap=True)
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


@main.command()
@click.option("--layer", type=click.Choice(LAYERS), required=True)
@click.option("--where", default="", help="Only images that fit this query, in DT's language.")
@click.option("--model", default="", help="ARCHITECTURE:WEIGHTS of open_clip, or a sentence-transformers repository.")
@click.option("--devices", default="", help="Several, to share the work: cuda:0,cuda:1")
@click.option("--replace", is_flag=True, help="Give up the vectors that are here from DT, or by another model.")
@click.option("--forget", is_flag=True, help="Give up the vectors made here; the next sync takes DT's.")
@_json_option
@click.pass_context
def embed(
    context: click.Context,
    layer: str,
    where: str,
    model: str,
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
        with _Progress(shown=not as_json) as progress:
            chosen = [device.strip() for device in devices.split(",") if device.strip()]
            done = library.embed(layer, where, model=model, devices=chosen, replace=replace, progress=progress)
    if as_json:
        _print_json(done.to_json())
    else:
        rate = f" ({done.encoded / done.seconds:,.1f} a second)" if done.encoded else ""
        out.print(f"{layer}: {done.encoded:,} made{rate}, {done.unchanged:,} were here already, "
                  f"{len(done.skipped):,} skipped, in {done.seconds:.1f} s")  # fmt: skip
        _print_some([reason for _, reason in done.skipped])
    if done.skipped:
        context.exit(1)


@main.command("map")
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
@_dt_option
@_json_option
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
                    f"{_plain(str(target))}: {size}, {'was there' if found.was_cached else 'made'}", soft_wrap=True
                )
        except LunaError as error:
            told[kind] = {"error": {"code": error.code, "message": str(error)}}
            if not as_json:
                err.print(f"[bold red]{kind}:[/] {_plain(str(error))}", soft_wrap=True)
    if as_json:
        _print_json(told)
    return any("error" in each for each in told.values())


def _save(target: Path, found: ControlMap) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        found.picture.save(target)
    except OSError as error:
        raise SettingsError(f"{target} cannot be written: {error}") from error
    if found.keypoints is not None:
        _write(target.with_suffix(".json"), json.dumps(found.keypoints))


def _maps_of_many(library: Library, kinds: list[str], where: str, asked: Any, as_json: bool) -> bool:
    with _Progress(shown=not as_json) as progress:
        done = library.make_maps(where, kinds, progress=progress, **asked)
    if as_json:
        _print_json(done.to_json())
    else:
        out.print(f"{done.made:,} maps made, {done.present:,} were there already, {len(done.failed):,} failed")
        _print_some([f"{kind}: {reason}" for _, kind, reason in done.failed])
    return bool(done.failed)


def _print_some(reasons: Sequence[str], most: int = 20) -> None:
    for reason in reasons[:most]:
        out.print(f"  {_plain(reason)}", soft_wrap=True)
    if len(reasons) > most:
        out.print(f"  and {len(reasons) - most:,} more; --json lists them all")


def _when(synced: str) -> str:
    """A time of the store (ISO 8601, UTC) as this machine's clock would tell it."""
    return datetime.datetime.fromisoformat(synced).astimezone().strftime("%Y-%m-%d %H:%M") if synced else "never"


@main.group()
def outbox() -> None:
    """What was made and is on its way to DT: list, send, export, drop."""


@outbox.command("list")
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="Only these (repeatable).")
@_json_option
@click.pass_obj
def outbox_list(settings: Settings, states: tuple[str, ...], as_json: bool) -> None:
    """Show the records, oldest first; without --state those that DT does not have."""
    with Library(settings=settings) as library:
        entries = library.outbox.entries(*(states or ("waiting", "parked")))
        counts = library.outbox.counts()
    if as_json:
        _print_json([entry.to_json() for entry in entries])
        return
    out.print(", ".join(f"{counts[state]:,} {state}" for state in STATES))
    if entries:
        table = Table("number", "state", "tries", "operation", "from", "prompt", "reason", box=None)
        for e in entries:
            g = e.generation
            source = "" if g.source_image_id is None else str(g.source_image_id)
            words = _plain(g.prompt[:40])
            table.add_row(str(e.position), e.state, str(e.tries), g.operation, source, words, _plain(e.reason))
        out.print(table)


@outbox.command("send")
@click.option("--parked", is_flag=True, help="Also what DT refused before.")
@_dt_option
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
    _write(target, lines)


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


@main.command()
@click.argument("image_id", type=int)
@click.option(
    "-o", "--out", "target", type=click.Path(path_type=Path), help="Draw it into a .svg or .png, with thumbnails."
)
@_dt_option
@click.pass_obj
def lineage(settings: Settings, image_id: int, target: Path | None, dt: str | None) -> None:
    """Draw the tree of what came from what around an image."""
    from .lineage import Node, as_png, as_svg, as_text

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
            out.print(_plain(as_text(found)), soft_wrap=True)
        elif target.suffix.lower() == ".svg":
            _write(target, as_svg(found, picture))
        elif target.suffix.lower() == ".png":
            try:
                as_png(found, picture).save(target)
            except OSError as error:
                raise SettingsError(f"{target} cannot be written: {error}") from error
        else:
            raise BadInput(f"{target} must end in .svg or .png")


def _write(target: Path | None, text: str) -> None:
    if target is None:
        sys.stdout.write(text)
        return
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{target} cannot be written: {error}") from error


@main.command()
@click.argument("action", type=click.Choice(("list", "show", "resume", "cancel", "retry")))
@click.argument("batch_id", default="")
@click.option("--comfyui", default="", help="For resume: ComfyUI's address, if it is another now.")
@_json_option
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
        _print_json([each.to_json() for each in found] if action == "list" else found[0].to_json())
        return
    if not found:
        out.print("there are no batches; the Batch Queue node makes them")
    for each in found:
        out.print(f"{each.id}  {_when(each.created)}  {each.operation}  {each}")
    if action != "list":
        for item in found[0].items:
            if item.error:
                told = f"  item {item.position}, image {item.image_id}: {item.error}"
                out.print(_plain(told), soft_wrap=True)


@main.command()
@click.option("--db", help="The database to serve: postgresql://…?schema=NAME  (DT_API_URL).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Any other needs --token.")
@click.option("--port", type=click.IntRange(0, 65535), default=5000, show_default=True)
@click.option("--token", help="What clients must send as a bearer token (DT_API_TOKEN).")
@click.pass_obj
def serve(settings: Settings, db: str | None, host: str, port: int, token: str | None) -> None:
    """Serve a DT database as the REST contract, for ComfyUI and for other machines."""
    from .dt import connect
    from .dt.server import create_app, is_loopback
    from .map_cache import MapCache
    from .maps import ServedMaps
    from .models import Encoders
    from .store import Store

    settings = settings.replace(dt=db, token=token)
    if settings.dt.startswith("http"):
        raise SettingsError("name the database to serve with --db postgresql://…, not another server")
    if not is_loopback(host) and not settings.token:
        raise SettingsError(f"listening on {host} lets others in: set a token with --token (or DT_API_TOKEN)")
    import uvicorn

    catalog, encoders = connect(settings), Encoders(settings)
    catalog.health()
    with (
        contextlib.closing(Store(settings.home)) as store,
        contextlib.closing(MapCache(store, settings.maps_bytes)) as maps,
    ):
        app = create_app(
            catalog,
            token=settings.token,
            path_map=settings.path_map,
            encode_text=lambda identity, text: encoders.texts(identity, [text])[0],
            maps=ServedMaps(maps, settings.path_map) if maps.limit else None,
        )
        err.print(f"serving {_plain(catalog.address)} at http://{host}:{port}  (Ctrl+C ends)")
        uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=5)


@main.command()
@click.option("-o", "--out", "folder", type=click.Path(path_type=Path), default=Path("demo-out"), show_default=True)
@click.option("--pictures", type=click.IntRange(25, 5000), default=375, show_default=True)
def demo(folder: Path, pictures: int) -> None:
    """Show it all on a drawn library: database, server, sync, search, and search with everything closed."""
    from .demo import run

    run(folder, pictures, lambda line: out.print(_plain(line), soft_wrap=True))


class _Progress:
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

    def __enter__(self) -> _Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, kind: str, done: int, total: int) -> None:
        if total:
            if kind not in self._tasks:
                self._tasks[kind] = self._bars.add_task(kind, total=total)
            self._bars.update(self._tasks[kind], completed=done)


def _plain(text: str) -> str:
    """Text from elsewhere must not be read as rich's markup."""
    from rich.markup import escape

    return escape(text)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
