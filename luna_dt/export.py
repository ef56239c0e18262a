"""Pictures that fit a query, or are named, in a folder, with captions beside them: a training set."""

from __future__ import annotations

import io
import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

from filelock import FileLock, Timeout

from .errors import BadInput, BadPicture, LunaError, PictureMissing, SettingsError
from .mirror.lookups import Lookups, fitting
from .mirror.pictures import Pictures
from .paths import local_path, on_disk
from .pixels import read_pictures, unread
from .progress import Progress
from .records import Captions, ImageRecord

Caption = Literal["combined", "tags", "joycaption", "prompt", "none"]
#: Where a caption is taken from, for each name of it.
SOURCES: dict[str, Callable[[ImageRecord, Captions], str]] = {
    "combined": lambda _, captions: captions.combined,
    "tags": lambda _, captions: ", ".join(captions.tags),
    "joycaption": lambda _, captions: captions.joycaption,
    "prompt": lambda record, _: record.prompt,
}
LONGEST_STEM = 150  # bytes of a name before its ending; file systems have 255 for all of it
UNFINISHED, LOCK = ".luna-dt.part", ".luna-dt.lock"


@dataclass(frozen=True)
class Exported:
    """What became of an export: how many pictures were put into the ``folder``, and how many were ``present``; each image
    that ``failed`` with the reason, those ``without_caption``, and ``captions_kept``: files that have other words."""

    folder: Path
    exported: int
    present: int
    failed: tuple[tuple[int, str], ...]
    without_caption: tuple[int, ...]
    captions_kept: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        failed = [{"id": image_id, "reason": reason} for image_id, reason in self.failed]
        return {**vars(self), "folder": str(self.folder), "failed": failed}


def export(
    lookups: Lookups,
    pictures: Pictures,
    path_map: Mapping[str, str],
    which: str | Iterable[int],
    folder: Path,
    link: bool,
    captions: Caption,
    trigger: str,
    progress: Progress,
) -> Exported:
    """See Library.export."""
    if captions not in (*SOURCES, "none"):
        raise BadInput(f"captions come from {', '.join(SOURCES)} or none, not from '{captions}'")
    trigger = " ".join(trigger.split())
    if trigger and captions == "none":
        raise BadInput("a trigger begins a caption, and without captions (none) there is none to begin")
    if isinstance(which, str):
        lookups.images(which, 0, 1)  # of a query that cannot be read no folder is made
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=0):
            work = _Export(lookups, pictures, path_map, folder, link, captions, trigger)
            images: list[ImageRecord | int] = (
                [*fitting(lookups.images, which)] if isinstance(which, str) else [*dict.fromkeys(map(int, which))]
            )
            for done, image in enumerate(images, 1):
                work.put(image)
                progress("export", done, len(images))
        (folder / LOCK).unlink(missing_ok=True)
    except Timeout as error:
        raise SettingsError(f"another export into {folder} is running; wait for it or stop it") from error
    except OSError as error:
        raise SettingsError(
            f"{folder} cannot be written ({error}); what is there is whole: make room or name another, and run it again"
        ) from error
    return work.done()


class _Export:
    """One export: which names are taken, and what became of each image."""

    def __init__(
        self, lookups: Lookups, pictures: Pictures, path_map: Mapping[str, str], folder: Path, link: bool,
        source: str, trigger: str,
    ) -> None:  # fmt: skip
        self._lookups, self._pictures, self._path_map, self._folder, self._link = (
            lookups, pictures, path_map, folder, link,
        )  # fmt: skip
        self._source, self._trigger = source, trigger
        self._there: dict[str, set[str]] = {}  # names in the folder by their stems
        for each in folder.iterdir():
            self._there.setdefault(_one_name(each.stem), set()).add(each.name)
        self._used: set[str] = set()
        self._counts: Counter[str] = Counter()
        self.failed: list[tuple[int, str]] = []
        self.kept: list[str] = []  # captions that are there with other words
        self.wordless: list[int] = []

    def put(self, image: ImageRecord | int) -> None:
        """An image's picture and caption; one that was put there before is left as it is.  Raises OSError."""
        image_id = image if isinstance(image, int) else image.id
        try:
            record = self._lookups.image(image_id) if isinstance(image, int) else image
            data, caption = self._pictures.file(record.id), self._caption(record).encode("utf-8", "replace")
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
            self.failed.append((image_id, str(error)))
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
        path = on_disk(local_path(record.path, self._path_map))
        if not _holds(path, data):
            raise PictureMissing(
                f"image {record.id}: {path} is not its picture, so it cannot be linked to; copy it instead (leave out --link)"
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
                        f"{original} cannot be linked to from {self._folder} ({error}); copy it instead (leave out --link)"
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
        captions = self._lookups.captions(record.id) if self._source != "prompt" else Captions(record.id)
        said = " ".join(of(record, captions).split())
        begins = said.casefold() == self._trigger.casefold() or said.casefold().startswith(
            f"{self._trigger.casefold()},"
        )
        return said if begins or not self._trigger else f"{self._trigger}, {said}" if said else self._trigger

    def done(self) -> Exported:
        exported, present = self._counts["exported"], self._counts["present"]
        failed, wordless, kept = tuple(self.failed), tuple(self.wordless), tuple(self.kept)
        return Exported(self._folder, exported, present, failed, wordless, kept)


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
