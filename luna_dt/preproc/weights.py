"""Where a detector's weights are: the models folders, the hub's cache, else a download; and whether they are the right ones.

In a folder a file may lie by itself, in a folder of its repository's name, or in one of its owner's and its
name, as comfyui_controlnet_aux has them in its ``ckpts``.  What is published with a SHA-256 must have it; a file
``SHA256SUMS`` (as sha256sum writes it) beside the weights, if there is one, decides instead: so one's own weights are used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import hub
from ..errors import MissingExtra, WeightsError
from .map_types import MAKING, MapType, WeightsFile

#: Gives a file's SHA-256; the one in map_cache.py remembers them.
Hasher = Callable[[Path], str]


def locate(wanted: WeightsFile, folders: Sequence[Path]) -> Path | None:
    """The file in the first folder that has it, else in the hub's cache; None if it is not on this machine."""
    owner, _, name = wanted.repository.partition("/")
    places = [f"{owner}/{name}/{wanted.file}", f"{name}/{wanted.file}"]
    if wanted.file != "pytorch_model.bin":  # which would be anybody's
        places.append(wanted.file)
    for folder in folders:
        for place in places:
            if (folder / place).is_file():
                return folder / place
    try:
        return hub.cached(wanted.repository, wanted.file)
    except MissingExtra:
        return None


def identity(kind: MapType, folders: Sequence[Path], sha256: Hasher) -> str | None:
    """Names the weights of a type that are here, for a map to be known by; None if some are not here.

    Raises WeightsError for a file that cannot be read.
    """
    files = [locate(each, folders) for each in kind.weights]
    if None in files:
        return None
    joined = " ".join([str(MAKING), *(sha256(file) for file in files if file)])
    return hashlib.sha256(joined.encode()).hexdigest()[:16]


def find(kind: MapType, folders: Sequence[Path], sha256: Hasher) -> list[Path]:
    """The checked files of a type's weights, downloaded if need be; raises WeightsError, MissingExtra."""
    missing = [each for each in kind.weights if locate(each, folders) is None]
    if missing:
        to = folders[0] / missing[0].repository
        names = [each.file for each in missing]
        listed = " and ".join(f"{each.file} ({each.megabytes} MB)" for each in missing)
        by_hand = hub.by_hand(missing[0].repository, names, to)
        needs = f"{kind.name} needs {listed} of {missing[0].repository} ({kind.licence}), which"
        for each in missing:
            hub.download(each.repository, each.file, needs, f"put it into {to}, or {by_hand}", kind.licence)
    files = []
    for each in kind.weights:
        file = locate(each, folders)
        if file is None:
            raise WeightsError(f"{each.file} was downloaded and is not to be found in the hub's cache; try again")
        expected = _listed(file) or each.sha256
        if expected and sha256(file) != expected:
            raise WeightsError(
                f"{file.resolve()} ({hub.shown_size(file.stat().st_size)}) is not the file that was published as {each.file} of "
                f"{each.repository} ({each.megabytes} MB); it may be damaged: delete it and get it again"
            )
        files.append(file)
    return files


def _listed(file: Path) -> str:
    """What ``SHA256SUMS`` beside a file says of it."""
    try:
        lines = (file.parent / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    pairs = (line.split(maxsplit=1) for line in lines if len(line.split()) == 2)
    return next((digest.lower() for digest, name in pairs if name.lstrip("*") == file.name), "")
