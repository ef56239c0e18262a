"""``luna-dt export``: the pictures that fit a query in a folder, with captions beside them: a training set."""

from __future__ import annotations

import io
import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any

import click
from filelock import FileLock, Timeout

from ..errors import BadPicture, LunaError, PictureMissing, SettingsError
from ..library import Library
from ..paths import local_path, on_disk
from ..pixels import read_pictures, unread
from ..records import Captions, ImageRecord
from ..settings import Settings
from .images import fitting
from .terminal import ProgressBars, dt_option, json_option, out, print_json, print_some

#: Where a caption is taken from, for each name of it.
SOURCES: dict[str, Callable[[ImageRecord, Captions], str]] = {
    "combined": lambda _, captions: captions.combined,
    "tags": lambda _, captions: ", ".join(captions.tags),
    "joycaption": lambda _, captions: captions.joycaption,
    "prompt": lambda record, _: record.prompt,
}
LONGEST_STEM = 150  # bytes of a name before its ending; file systems have 255 for all of it
UNFINISHED, LOCK = ".luna-dt.part", ".luna-dt.lock"


@click.command()
@click.argument("query")
@click.option(
    "-o", "--out", "folder", type=click.Path(path_type=Path), required=True, help="The folder; made if need be."
)
@click.option("--link", is_flag=True, help="Links to the pictures in the place of copies.")
@click.option("--captions", "source", type=click.Choice((*SOURCES, "none")), default="combined", show_default=True,
              help="What is written beside each picture as .txt.")  # fmt: skip
@click.option("--trigger", default="", help="A word that each caption begins with.")
@dt_option
@json_option
@click.pass_context
def export(
    context: click.Context, query: str, folder: Path, link: bool, source: str, trigger: str, dt: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Put the pictures that fit QUERY into a folder, with their captions; overwrites nothing, and may be run again."""
    settings: Settings = context.obj
    if trigger and source == "none":
        raise click.UsageError("--trigger begins a caption, and --captions none writes none")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=0), Library(settings=settings, dt=dt) as library:
            exported = _Export(library, folder, link, source, " ".join(trigger.split()))
            with ProgressBars(shown=not as_json) as progress:
                records = list(fitting(library, query))
                for done, record in enumerate(records, 1):
                    exported.put(record)
                    progress("export", done, len(records))
        (folder / LOCK).unlink(missing_ok=True)
    except Timeout as error:
        raise SettingsError(f"another export into {folder} is running; wait for it or stop it") from error
    except OSError as error:
        raise SettingsError(
            f"{folder} cannot be written ({error}); what is there is whole: make room or name another, and run it again"
        ) from error
    if as_json:
        print_json(exported.to_json())
    else:
        exported.tell()
    if exported.failed or exported.kept:
        context.exit(1)


class _Export:
    """One export: which names are taken, and what became of each image."""

    def __init__(self, library: Library, folder: Path, link: bool, source: str, trigger: str) -> None:
        self._library, self._folder, self._link = library, folder, link
        self._source, self._trigger = source, trigger
        self._there: dict[str, set[str]] = {}  # names in the folder by their stems
        for each in folder.iterdir():
            self._there.setdefault(_one_name(each.stem), set()).add(each.name)
        self._used: set[str] = set()
        self._counts: Counter[str] = Counter()
        self.failed: list[tuple[int, str]] = []
        self.kept: list[str] = []  # captions that are there with other words
        self.wordless: list[int] = []

    def put(self, record: ImageRecord) -> None:
        """An image's picture and caption; one that was put there before is left as it is.  Raises OSError."""
        try:
            data, caption = self._library.file(record.id), self._caption(record).encode("utf-8", "replace")
            original = self._original(record, data) if self._link else None
            stem, suffix = _name(record, data)
            name = self._free(stem, suffix, record.id, data, caption)
            if (self._folder / name).exists():
                self._counts["present"] += 1
            else:
                read_pictures(data, f"image {record.id}")  # what nobody can open is no use to a trainer
                self._write(name, data, original)
                self._counts["exported"] += 1
        except LunaError as error:
            self.failed.append((record.id, str(error)))
            return
        self._put_caption(Path(name).with_suffix(".txt").name, caption, record.id)

    def _free(self, stem: str, suffix: str, image_id: int, data: bytes, caption: bytes) -> str:
        """The first name that nobody has, or under which this very picture, or its caption alone, is there already."""
        others = (f"{stem}-{image_id}-{number}" for number in itertools.count(2))
        for each in itertools.chain([stem, f"{stem}-{image_id}"], others):
            key, name, text = _one_name(each), f"{each}{suffix}", f"{each}.txt"
            there = self._there.get(key, set())
            ours = (name, data) if name in there else (text, caption)
            if key not in self._used and (
                not there or (there <= {name, text} and _holds(self._folder / ours[0], ours[1]))
            ):
                break
        self._used.add(key)
        return name

    def _original(self, record: ImageRecord, data: bytes) -> Path:
        path = on_disk(local_path(record.path, self._library.settings.path_map))
        if not _holds(path, data):
            raise PictureMissing(
                f"image {record.id}: {path} is not its picture, so it cannot be linked to; leave out --link"
            )
        return path.absolute()

    def _write(self, name: str, data: bytes, original: Path | None) -> None:
        """Whole or not at all: under another name first."""
        part = self._folder / UNFINISHED
        part.unlink(missing_ok=True)
        if original is None:
            part.write_bytes(data)
        else:
            try:
                part.symlink_to(original)
            except OSError:  # Windows lets only some users
                try:
                    os.link(original, part)
                except OSError as error:
                    raise SettingsError(
                        f"{original} cannot be linked to from {self._folder} ({error}); leave out --link"
                    ) from error
        part.rename(self._folder / name)

    def _put_caption(self, name: str, caption: bytes, image_id: int) -> None:
        if self._source == "none":
            return
        if not caption:
            self.wordless.append(image_id)
            return
        file = self._folder / name
        if not file.exists():
            self._write(name, caption, None)
        elif not _holds(file, caption):
            self.kept.append(name)

    def _caption(self, record: ImageRecord) -> str:
        """One line, as trainers read it, the trigger first; "" where nothing is to be said."""
        if self._source == "none":
            return ""
        of = SOURCES[self._source]
        captions = self._library.captions(record.id) if self._source != "prompt" else Captions(record.id)
        said = " ".join(of(record, captions).split())
        begins = said.casefold() == self._trigger.casefold() or said.casefold().startswith(
            f"{self._trigger.casefold()},"
        )
        return said if begins or not self._trigger else f"{self._trigger}, {said}" if said else self._trigger

    def tell(self) -> None:
        out.print(f"{self._counts['exported']:,} exported, {self._counts['present']:,} were there already, "
                  f"{len(self.failed):,} failed; in {self._folder}", soft_wrap=True, markup=False)  # fmt: skip
        print_some([f"image {image_id}: {reason}" for image_id, reason in self.failed])
        if self.wordless:
            out.print(f"{len(self.wordless):,} have no caption ({self._source}), so no .txt stands beside them")
        if self.kept:
            out.print(
                f"{len(self.kept):,} captions were there with other words and stay; delete them to have them anew:"
            )
            print_some(self.kept)

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self._folder), "exported": self._counts["exported"], "present": self._counts["present"],
            "failed": [{"id": image_id, "reason": reason} for image_id, reason in self.failed],
            "without_caption": self.wordless, "captions_kept": self.kept,
        }  # fmt: skip


def _one_name(stem: str) -> str:
    """A name as file systems know it that tell no upper case and no form of Unicode apart."""
    return unicodedata.normalize("NFC", stem).casefold()


def _holds(file: Path, data: bytes) -> bool:
    try:
        return file.is_file() and file.stat().st_size == len(data) and file.read_bytes() == data
    except OSError:
        return False


def _name(record: ImageRecord, data: bytes) -> tuple[str, str]:
    """A file's name as every system takes it, and an ending that says what the picture is; raises BadPicture."""
    from PIL import Image

    given = PureWindowsPath(record.path)  # which knows both slashes
    stem = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "_", given.stem).encode("utf-8", "replace")[:LONGEST_STEM]
    name = stem.decode("utf-8", "ignore").strip(" .") or "image"
    if re.fullmatch(r"(con|prn|aux|nul|(com|lpt)\d)(\..*)?", name, re.IGNORECASE):
        name = f"_{name}"
    try:
        with unread(io.BytesIO(data)) as opened:
            form = opened.format or ""
    except Exception as error:  # decoders fail in many ways
        raise BadPicture(f"image {record.id} is no picture that can be opened: {error}") from error
    endings = {ending for ending, of in Image.registered_extensions().items() if of == form}
    if given.suffix.lower() in endings:
        return name, given.suffix.lower()
    return name, {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}.get(form, f".{form.lower()}")
