"""A folder's files, found by their names and stamps alone: no file is opened."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..pixels import FORMATS
from .sqlite import VIDEOS

#: Folders of systems and servers, beside those whose names begin with a dot.
SYSTEM_FOLDERS = {
    "$recycle.bin", "recycler", "system volume information", "found.000", "lost+found", "__macosx", "@eadir", "#recycle",
    "#snapshot", "@recycle", "@recently-snapshot", "@tmp", "$windows.~bt", "config.msi",
}  # fmt: skip
NOT_EVERYWHERE = (".avif", ".heic", ".heif", ".jxl")  # pictures that not every Pillow opens
_HIDDEN = getattr(stat, "FILE_ATTRIBUTE_HIDDEN", 2) | getattr(stat, "FILE_ATTRIBUTE_SYSTEM", 4)  # Windows'
_UF_HIDDEN = 0x8000  # macOS'


class Stamp(NamedTuple):
    size: int
    mtime_ns: int


@dataclass
class Tree:
    """The pictures in a folder by their paths; the folders that could not be looked into, each with the reason; how many
    files of other kinds, by their endings; whether there was no file at all."""

    pictures: dict[str, Stamp] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    empty: bool = True


def look(root: Path, skipped: set[str]) -> Tree:
    """Everything below ``root`` but what is hidden or the system's, and the folders ``skipped``; links are followed, and
    each folder is looked into once, by its own path if it has one there.

    Raises OSError where the root itself cannot be read.
    """
    tree, endings, seen = Tree(), _endings(), set[tuple[object, ...]]()
    ahead, linked = [str(root)], list[str]()
    while ahead or linked:
        folder = ahead.pop() if ahead else linked.pop(0)
        try:
            known = os.stat(folder)
            place = (known.st_dev, known.st_ino) if known.st_ino else (os.path.realpath(folder),)
            if place in seen:
                continue
            seen.add(place)
            with os.scandir(folder) as entries:
                for entry in entries:
                    _add(tree, entry, endings, skipped, ahead, linked)
        except OSError as error:
            if folder == str(root):
                raise
            tree.unread[folder] = error.strerror or str(error)
    return tree


def _add(
    tree: Tree, entry: os.DirEntry[str], endings: set[str], skipped: set[str], ahead: list[str], linked: list[str]
) -> None:
    name = entry.name
    if name.startswith(".") or name.lower() in SYSTEM_FOLDERS:
        return
    ending = os.path.splitext(name)[1].lower()
    try:
        if entry.is_dir():
            if not _is_hidden(entry.stat()) and os.path.normcase(entry.path) not in skipped:
                (linked if entry.is_symlink() else ahead).append(entry.path)
        elif entry.is_file():
            known = entry.stat()
            if _is_hidden(known):
                return
            tree.empty = False
            if ending not in endings:
                tree.others[ending] += ending in VIDEOS or ending in NOT_EVERYWHERE
            elif not _is_text(entry.path):
                tree.odd.append(entry.path)
            else:
                tree.pictures[entry.path] = Stamp(known.st_size, known.st_mtime_ns)
        elif entry.is_symlink():
            tree.unread[entry.path] = "the link leads nowhere"
    except OSError as error:
        tree.unread[entry.path] = error.strerror or str(error)


def _is_hidden(known: os.stat_result) -> bool:
    return bool(getattr(known, "st_file_attributes", 0) & _HIDDEN or getattr(known, "st_flags", 0) & _UF_HIDDEN)


def _is_text(path: str) -> bool:
    """Whether a path can be written down: on Linux a name is any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _endings() -> set[str]:
    from PIL import Image

    Image.init()
    return {ending for ending, form in Image.EXTENSION.items() if form in FORMATS and form in Image.OPEN}
