"""What is well and what is not: DT, the library, its layers, weights and this machine, each finding with one next step."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np

from . import hub, memory
from .dt.catalog import Catalog, Health
from .dt.connection import Connection
from .errors import CatalogError, LunaError, MissingExtra, NotOffered, PictureMissing, Refused, WeightsError
from .identity import LOCAL_IDENTITIES, Identity
from .made.outbox import Outbox
from .mirror.binding import seems_another
from .models import weights
from .paths import local_path, on_disk, proposed_prefix
from .preproc.map_types import TYPES
from .preproc.weights import locate
from .settings import Settings
from .status import LayerStatus, Status
from .store import Store
from .version import __version__

Level = Literal["ok", "note", "trouble"]

FILES_SAMPLED, ROWS_SAMPLED = 64, 256  # images whose files are looked for; vectors of each layer that are checked
COVERED = 0.99  # share of the images that have a vector in a layer that is as good as whole
DISK_LEAST, DISK_LOW = 1e9, 10e9  # bytes that are free: less is trouble, less is worth a note
UNAUTHORISED = (401, 403)
#: What each extra is for, and by which distribution it is known.
EXTRAS = {
    "clip": ("open_clip_torch", "searching by picture"), "text": ("sentence-transformers", "searching DT's texts"),
    "maps": ("controlnet_aux", "making ControlNet maps"), "postgres": ("psycopg", "the LUNA fork's database"),
    "scan": ("numkong", "quick searches of large layers"), "server": ("fastapi", "luna-dt serve"),
}  # fmt: skip
#: About how many bytes are downloaded for a model, where that is known.
DOWNLOADS = {
    "ViT-H-14:laion2b_s32b_b79k": 3.9e9, "ViT-bigG-14:laion2b_s39b_b160k": 10.2e9, "ViT-L-14:openai": 1.7e9,
    "ViT-bigG-14:sdxl": 2.8e9, "ViT-L-14:sdxl": 0.5e9, "BAAI/bge-large-en-v1.5": 1.3e9,
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, ``about`` what: its ``level`` is ok, note (it works, but) or trouble; what it
    ``says``, in a sentence; and one next ``step``, "" where there is nothing to do."""

    about: str
    level: Level
    says: str
    step: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def of_error(about: str, error: LunaError, step: str = "") -> Finding:
    """An error as a finding; our messages end in the next step."""
    says, mark, last = str(error).rpartition("; ")
    if step or not mark:
        return Finding(about, "trouble", str(error), step or "mend that, and run luna-dt doctor again")
    return Finding(about, "trouble", says, last)


def machine(settings: Settings) -> list[Finding]:
    """What needs no library: versions, device, memory and disk."""
    return [*_versions(), *_device(settings), *_room(settings.home)]


def examine(
    settings: Settings, store: Store, dt: Connection, status: Callable[[], Status], outbox: Outbox
) -> list[Finding]:
    """Everything that can be looked at without changing, downloading or sending anything."""
    found: list[Finding] = []
    health: Health | None = None

    def look(about: str, what: Callable[[], Iterator[Finding]]) -> None:
        try:
            found.extend(what())
        except LunaError as error:
            found.append(of_error(about, error))

    def at_dt() -> Iterator[Finding]:
        nonlocal health
        catalog = dt.whichever()
        health = yield from _answers(catalog, settings)
        if health:
            yield from _is_ours(store, catalog, health)

    look("dt", at_dt)
    look("library", lambda: _database(store))
    look("files", lambda: _files(settings, store, bool(health and "files" in health.capabilities)))
    try:
        state = status()
    except LunaError as error:
        found.append(of_error("library", error))
    else:
        look("library", lambda: _mirrored(state))
        for layer in state.layers:
            look(f"layer {layer.state.name}", lambda layer=layer: _layer(store, layer))  # type: ignore[misc]
        look("weights", lambda: _weights(settings, state))
    look("maps", lambda: _map_weights(settings))
    look("outbox", lambda: _outbox(outbox))
    return found + machine(settings)


# -- DT -----------------------------------------------------------------------------------------------


def _answers(catalog: Catalog, settings: Settings) -> Generator[Finding, None, Health | None]:
    """Whether DT answers, and who it is; returns its Health, None where it does not."""
    try:
        health = catalog.health()
        if "images" in health.capabilities:
            catalog.images(limit=1)
    except Refused as error:
        if error.http_status not in UNAUTHORISED:
            yield of_error("dt", error, "see what is wrong there, or name another address of DT: DT_API_URL or --dt")
            return None
        which = "the token that is set" if settings.token else "requests without a token, and none is set"
        yield Finding(
            "token", "trouble", f"DT at {catalog.address} refuses {which}", "set DT_API_TOKEN to the server's token"
        )
        return None
    except CatalogError as error:
        step = "start DT or its server, or name another address: DT_API_URL or --dt; what is synced is searched all the same"
        yield of_error("dt", error, step)
        return None
    offers = ", ".join(health.capabilities) or "nothing"
    yield Finding("dt", "ok", f"{health.name} {health.version} answers at {catalog.address}; it offers {offers}")
    if urlsplit(catalog.address).scheme in ("http", "https"):
        yield Finding("token", "ok", "the token is accepted" if settings.token else "no token is asked for")
    for reason in health.left_out:
        yield Finding("dt", "note", f"left out of DT: {reason}", "nothing, unless you miss it")
    return health


def _is_ours(store: Store, catalog: Catalog, health: Health) -> Iterator[Finding]:
    step = "use another home for it (LUNA_DT_HOME), or have this one belong to it: luna-dt sync --accept"
    try:
        how = seems_another(store, catalog)
    except NotOffered:
        how = ""
    renamed = store.dt() and health.library and store.dt() != health.library
    if how:
        yield Finding(
            "home", "trouble", f"the DT at {catalog.address} is another than the one this home mirrors: {how}", step
        )
    elif renamed:
        yield Finding(
            "home", "trouble", f"the DT at {catalog.address} was moved or restored since the last sync, so it is asked and "
            "sent nothing", "sync once: luna-dt sync",
        )  # fmt: skip
    elif store.ids_of("").size:
        yield Finding("home", "ok", f"the home {store.home} mirrors this DT")


# -- the library --------------------------------------------------------------------------------------


def _database(store: Store) -> Iterator[Finding]:
    wrong = [str(row[0]) for row in store.rows("PRAGMA quick_check(3)") if row[0] != "ok"]
    if wrong:
        yield Finding(
            "library", "trouble", f"{store.path} is damaged: {'; '.join(wrong)[:300]}", "save what can be read of it: luna-dt rescue"
        )  # fmt: skip
    else:
        yield Finding("library", "ok", f"{store.path} is whole")
    if store.read_only:
        yield Finding("library", "note", f"{store.home} can only be read, so nothing is synced, made or kept there",
                      "let yourself write there, or name another home: LUNA_DT_HOME")  # fmt: skip


def _mirrored(status: Status) -> Iterator[Finding]:
    if status.shared:
        yield Finding("library", "ok", status.shared)
        return
    images, synced = status.counts["images"]
    if not images:
        yield Finding("library", "trouble", "nothing is synced yet", "mirror DT: luna-dt sync")
        return
    unfinished = [name for name, (count, when) in status.counts.items() if count and not when]
    if unfinished:
        yield Finding(
            "library", "note", f"the sync of {', '.join(unfinished)} has not come to its end", "go on: luna-dt sync"
        )
    yield Finding("library", "ok", f"{images:,} images are here, synced {synced or 'in part'}")
    for rows in status.set_aside:
        yield Finding("library", "note", f"{rows.count:,} of {rows.kind} are set aside (the first is {rows.first_id}): {rows.reason}",
                      "mend them in DT; they are tried again when they have changed")  # fmt: skip
    if not status.layers:
        yield Finding("layers", "note", "no layer has vectors, so nothing can be searched by likeness",
                      "make one here: luna-dt embed --layer visual")  # fmt: skip


def _files(settings: Settings, store: Store, served: bool) -> Iterator[Finding]:
    """Whether the pictures are where DT and the path map say, on a sample."""
    ids = store.ids_of("")
    sample = store.images(ids[:: max(1, len(ids) // FILES_SAMPLED)][:FILES_SAMPLED].tolist())
    missing, reason = [], ""
    for record in sample.values():
        try:
            if (path := on_disk(local_path(record.path, settings.path_map))).is_file():
                continue
            reason = reason or f"{path} is not there"
        except (PictureMissing, OSError) as error:
            reason = reason or str(error).partition("; add to")[0]
        missing.append(record.path)
    if not sample:
        return
    here = f"of {len(sample):,} images looked at, {len(sample) - len(missing):,} have their file on this machine"
    if not missing:
        yield Finding("files", "ok", here)
        return
    database = Path(settings.dt).parent if not urlsplit(settings.dt).netloc else settings.home  # a stock DT's
    proposed = proposed_prefix(missing, [*map(Path, settings.path_map.values()), database, settings.home])
    if proposed:
        step = f"add to {settings.home / 'settings.toml'} under [path_map]: '{proposed[0]}' = '{proposed[1]}'"
    elif served:
        step = "nothing, DT sends them; quicker is a path map: [path_map] in settings.toml"
    else:
        step = "say where DT's folders lie here: [path_map] in settings.toml"
    bad = not served and 2 * len(missing) > len(sample)
    yield Finding("files", "trouble" if bad else "note", f"{here}: {reason}", step)


def _layer(store: Store, status: LayerStatus) -> Iterator[Finding]:
    state, name = status.state, f"layer {status.state.name}"
    again = f"luna-dt embed --layer {state.name}" if state.local else "luna-dt sync"
    layer = store.layer(state.name)
    rows = np.flatnonzero(layer.ids >= 0)
    if len(damaged := layer.damaged(rows[:: max(1, len(rows) // ROWS_SAMPLED)])):
        yield Finding(
            name,
            "trouble",
            f"vectors on disk are damaged (image {layer.ids[damaged[0]]} is one)",
            f"have them anew: {again}",
        )
    whole = f"{state.count:,} vectors, {status.coverage:.1%} of the images"
    unusable = f"; {state.unusable:,} more cannot be used" if state.unusable else ""
    level: Level = "ok" if status.coverage >= COVERED else "note"
    yield Finding(
        name,
        level,
        whole + unusable,
        "" if level == "ok" else f"have the rest: luna-dt embed --layer {state.name}, or sync",
    )
    verify, embed = f"luna-dt verify --layer {state.name}", f"luna-dt embed --layer {state.name}"
    if state.verdict is None:
        yield Finding(
            name, "note", "it was never verified, so nobody knows whether it is what it says", f"prove it: {verify}"
        )
    elif not state.verdict.passed:
        yield Finding(name, "trouble", f"it {state.verdict}", f"make it here instead: {embed}")
    else:
        yield Finding(name, "ok", f"it {state.verdict}")
    recall = f"{status.engine}, {status.indexed:,} of {state.rows:,} rows" + (
        f", {status.proof}" if status.proof else ""
    )
    behind = status.engine != "exact" and status.indexed < state.rows
    if status.proof and not status.proof.enough():
        yield Finding(
            name,
            "note",
            f"its index finds too little ({recall})",
            'compare every vector: index = "exact" in settings.toml',
        )
    else:
        yield Finding(name, "ok", f"searched by {recall}" + ("; the rest is compared exactly" if behind else ""))


def _outbox(outbox: Outbox) -> Iterator[Finding]:
    counts = outbox.counts()
    look = "see why: luna-dt outbox list"
    if counts["parked"]:
        yield Finding(
            "outbox",
            "trouble",
            f"{counts['parked']:,} records are parked, for DT refuses them",
            f"{look} --state parked",
        )
    if counts["failing"]:
        yield Finding(
            "outbox", "trouble", f"{counts['failing']:,} records wait after a failed try", f"{look} --state waiting"
        )
    elif counts["waiting"]:
        yield Finding(
            "outbox", "note", f"{counts['waiting']:,} records wait to be sent", "send them now: luna-dt outbox send"
        )
    if counts["kept"]:
        yield Finding("outbox", "note", f"{counts['kept']:,} records are kept here alone, for DT takes none",
                      "once a DT is there that does: luna-dt outbox send")  # fmt: skip
    if not any(counts[state] for state in ("parked", "waiting", "kept")):
        yield Finding("outbox", "ok", f"nothing waits; DT has taken {counts['sent']:,} records")


# -- weights ------------------------------------------------------------------------------------------


def _weights(settings: Settings, status: Status) -> Iterator[Finding]:
    """Whether the model of each layer is here; of a library without layers that which would be made first."""
    wanted: dict[Identity, list[str]] = {}
    for layer in status.layers:
        verdict = layer.state.verdict
        wanted.setdefault((verdict and verdict.fits) or layer.state.identity, []).append(layer.state.name)
    for identity, layers in (wanted or {LOCAL_IDENTITIES["visual"]: ["visual"]}).items():
        name = f"{identity.model} for {', '.join(layers)}"
        find = weights.find_sentence_model if identity.is_sentence else weights.find
        try:
            place = find(identity.architecture if identity.is_sentence else identity, settings.models_folders, False)  # type: ignore[arg-type]
            file = place if isinstance(place, Path) else place.file
            size = sum(each.stat().st_size for each in (file.rglob("*") if file.is_dir() else [file]) if each.is_file())
            yield Finding("weights", "ok", f"{name}: {file} ({hub.shown_size(size)})")
        except MissingExtra as error:
            yield Finding(
                "weights",
                "note",
                f"{name} cannot be used: {error}".partition("; run: ")[0],
                str(error).partition("run: ")[2],
            )
        except (WeightsError, OSError) as error:
            about = f" (about {hub.shown_size(needed)})" if (needed := DOWNLOADS.get(identity.model)) else ""
            says, _, by_hand = str(error).partition("; ")
            if not wanted:
                yield Finding("weights", "note", f"{name}: not here{about}", by_hand)
            elif _online():
                yield Finding(
                    "weights", "note", f"{name}: not here{about}", "nothing: they are downloaded when first needed"
                )
            else:
                yield Finding(
                    "weights", "trouble", f"{name}: not here{about}: {says}", by_hand or "get them, see docs/layers.md"
                )


def _map_weights(settings: Settings) -> Iterator[Finding]:
    there = {each: locate(each, settings.models_folders) for kind in TYPES.values() for each in kind.weights}
    able = [name for name, kind in TYPES.items() if all(there[each] for each in kind.weights)]
    missing = ", ".join(f"{each.file} ({each.megabytes} MB)" for each, file in there.items() if not file)
    says = f"{len(able)} of {len(TYPES)} types can be made now ({', '.join(able)})"
    if missing:
        yield Finding(
            "maps",
            "note",
            f"{says}; not here: {missing}",
            "nothing, unless offline: they are downloaded when first needed",
        )
    else:
        yield Finding("maps", "ok", says)


def _online() -> bool:
    try:
        hub.reach()
    except (ImportError, OSError):
        return False
    return True


# -- this machine -------------------------------------------------------------------------------------


def _versions() -> Iterator[Finding]:
    found = {}
    for name in ("torch", "numpy", "pillow", *(distribution for distribution, _ in EXTRAS.values())):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    told = ", ".join(f"{name} {version}" for name, version in found.items())
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("versions", "ok", f"luna_dt {__version__}, Python {python}, {platform.system()}; {told}")
    missing = {extra: what for extra, (distribution, what) in EXTRAS.items() if distribution not in found}
    if missing:
        step = str(MissingExtra("", ",".join(missing))).partition("run: ")[2]
        yield Finding("versions", "note", f"not installed: what is for {', '.join(missing.values())}", step)


def _device(settings: Settings) -> Iterator[Finding]:
    try:
        chosen, precision = memory.place(settings.device)
    except MissingExtra as error:
        yield Finding(
            "device", "note", f"models cannot run: {error}".partition("; run: ")[0], str(error).partition("run: ")[2]
        )
        return
    except LunaError as error:
        yield of_error("device", error)
        return
    room = ""
    if chosen.type == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info(chosen)
        room = f", {torch.cuda.get_device_name(chosen)}, {hub.shown_size(free)} of {hub.shown_size(total)} free"
    yield Finding("device", "ok", f"models run on {chosen} in {str(precision).removeprefix('torch.')}{room}")


def _room(home: Path) -> Iterator[Finding]:
    try:  # Linux's own count; other systems have none that Python could ask for
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        yield Finding("memory", "ok", f"{hub.shown_size(kilobytes * 1024)} of memory are free")
    except (OSError, StopIteration, ValueError):
        pass
    folder = next(each for each in (home, *home.parents) if each.is_dir())
    free = shutil.disk_usage(folder).free
    level: Level = "trouble" if free < DISK_LEAST else "note" if free < DISK_LOW else "ok"
    step = "make room, or move the home: LUNA_DT_HOME; ControlNet maps may be deleted" if level != "ok" else ""
    yield Finding("disk", level, f"{hub.shown_size(free)} are free where the home lies ({home})", step)
