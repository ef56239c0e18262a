"""Where files that DT names lie on this machine: the path map, and what may be read through it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PureWindowsPath

from .errors import PictureMissing

MOUNTS = ("/mnt", "/media", "/run/media", "/Volumes", *(f"{drive}:/" for drive in "DEFGHC" if os.name == "nt"))
PATHS_ASKED, MOST_FOLDERS = 8, 200  # paths that a map is proposed for; folders of each place that are looked into
MAX_FILE = 1 << 30  # bytes; no picture is larger, and what is may be no picture


def local_path(dt_path: str, path_map: Mapping[str, str]) -> Path:
    r"""Where a file that DT names lies on this machine.

    The longest prefix of ``path_map`` that fits wins; upper and lower case and the two slashes count as
    the same in DT's Windows paths.  Network (``\\host``) and device (``\\.\``) paths are opened only
    under the map, since a shared workflow or database must not make this machine call another.
    Raises PictureMissing, saying what to add to the map.
    """
    dt_path = _short(dt_path)
    wanted = _parts(dt_path)
    if ".." in wanted:
        raise PictureMissing(f"{dt_path}: a path with '..' is not followed")
    best: tuple[int, str] | None = None
    for prefix, target in path_map.items():
        start = _parts(_short(prefix))
        if _same(wanted[: len(start)], start, dt_path) and (best is None or len(start) > best[0]):
            best = (len(start), target)
    if best:
        return Path(best[1]).joinpath(*wanted[best[0] :])
    windows = PureWindowsPath(dt_path)
    network = dt_path.replace("/", "\\").startswith("\\\\")
    if not network and ((os.name == "nt" and windows.drive) or (os.name != "nt" and dt_path.startswith("/"))):
        return Path(dt_path)
    folder = str(windows.parent) if windows.drive else dt_path
    raise PictureMissing(
        f"{dt_path}: not a path of this machine; add to settings.toml under [path_map]: '{folder}' = 'its folder here'"
    )


def _short(path: str) -> str:
    r"""A Windows path without the mark of long ones, ``\\?\``, which names no other place."""
    found = re.match(r"\\\\\?\\(UNC\\|(?=[A-Za-z]:\\))", path, re.IGNORECASE)
    return path if not found else ("\\\\" if found[1] else "") + path[found.end() :]


def on_disk(path: Path) -> Path:
    """A path with each part that is not there as it is spelt otherwise, if that is there.

    To a user ``é`` is one name, whether it is one character (NFC, as Windows writes) or two (NFD, as Macs do), and to
    Windows, where most paths of DT are from, so is a name in either case.
    """
    if path.exists():
        return path
    found = Path(path.anchor)
    for i, part in enumerate(path.parts[len(found.parts) :], len(found.parts)):
        alike = part if (found / part).exists() else _spelt_alike(found, part)
        if not alike:
            return found.joinpath(*path.parts[i:])
        found /= alike
    return found


def _spelt_alike(folder: Path, name: str) -> str:
    """The name in a folder that is that one in another form, else the only one in another case; "" where there is none."""
    try:
        alike = _names(folder, folder.stat().st_mtime_ns).get(_folded(name), [])
    except OSError:
        return ""
    same = [each for each in alike if unicodedata.normalize("NFC", each) == unicodedata.normalize("NFC", name)]
    return min(same) if same else alike[0] if len(alike) == 1 else ""


@functools.lru_cache(maxsize=4)  # since of a folder many may be missing
def _names(folder: Path, changed: int) -> dict[str, list[str]]:  # noqa: ARG001  a folder that changed is read anew
    found: dict[str, list[str]] = {}
    for name in os.listdir(folder):  # noqa: PTH208  a third of the time
        found.setdefault(_folded(name), []).append(name)
    return found


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def picture_file(dt_path: str, path_map: Mapping[str, str]) -> bytes:
    """The bytes of a file that DT names.

    Raises PictureMissing, OSError.
    """
    return plain_file(on_disk(local_path(dt_path, path_map)))


def plain_file(path: Path) -> bytes:
    """The bytes of a file of a picture's size at most; raises PictureMissing, OSError."""
    if not path.is_file():  # not a device or a pipe, which could be read for ever
        raise PictureMissing(f"{path}: No such file")
    if path.stat().st_size > MAX_FILE:
        raise PictureMissing(f"{path}: {path.stat().st_size:,} bytes are too many for a picture")
    return path.read_bytes()


def proposed_prefix(missing: Sequence[str], near: Iterable[Path]) -> tuple[str, str] | None:
    """A prefix of DT's paths and the folder here that it stands for, by which most of those files are found, if any is.

    Looked for in and beside the folders ``near``, in the user's, and where systems mount what is not their own.
    """
    starts = [folder for start in near for folder in (start, start.parent)]
    roots = dict.fromkeys(start for start in (*starts, Path.home(), *map(Path, MOUNTS)) if start.is_dir())
    for start in [*roots]:
        with contextlib.suppress(OSError):
            inside = itertools.islice((each for each in sorted(start.iterdir()) if each.is_dir()), MOST_FOLDERS)
            roots.update(dict.fromkeys(inside))
    asked = missing[:: max(1, len(missing) // PATHS_ASKED)][:PATHS_ASKED]
    found: Counter[tuple[str, str]] = Counter()
    for path in asked:
        parts = list(re.finditer(r"[^\\/]+", path))
        for cut, part in enumerate(parts[:-1], 1):  # the longest way that is the same here comes first
            tail = [each[0] for each in parts[cut:]]
            for root in roots:
                with contextlib.suppress(OSError):
                    if ".." not in tail and root.joinpath(*tail).is_file():
                        found[path[: part.end()], str(root)] += 1
    best = found.most_common(1)
    return best[0][0] if best and 2 * best[0][1] >= len(asked) else None


def _parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]


def _same(parts: list[str], prefix: list[str], dt_path: str) -> bool:
    parts, prefix = ([unicodedata.normalize("NFC", part) for part in each] for each in (parts, prefix))
    if "\\" in dt_path or PureWindowsPath(dt_path).drive:
        return [p.casefold() for p in parts] == [p.casefold() for p in prefix]
    return parts == prefix
