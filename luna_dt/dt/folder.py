"""A folder of pictures as a library: no DT at all.

The folder is looked through once in each sync (seen.py), when it is asked what there is to mirror; everything else is
answered from what was seen then.  Its subfolders are clusters, each of the pictures that lie in it itself.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from ..errors import PictureMissing, UnknownCluster, UnknownImage
from ..paths import plain_file
from ..query import Columns, Names, where
from ..records import (
    RECORD_KINDS,
    Batch,
    Captions,
    Cluster,
    ClusterImage,
    ImageRecord,
    Int64s,
    Kind,
    Member,
    content_digest,
)
from ..version import __version__
from .catalog import Catalog, Health, Sort, unknown_kind
from .seen import Seen

RECORDS_AT_ONCE = 500
#: ImageRecord's fields (but tags) that a folder knows; of the others nothing is known.
FIELDS = ("id", "path", "prompt", "negative_prompt", "width", "height", "model", "model_hash", "sampler", "scheduler",
          "steps", "cfg", "seed", "rating", "no_metadata", "created")  # fmt: skip
_COLUMNS = Columns(
    {field: field for field in FIELDS}
    | {"aesthetic_score": "NULL"}
    | dict.fromkeys(("favorite", "nsfw", "for_deletion", "unavailable"), "0"),
    names={
        "tag": Names("EXISTS (SELECT 1 FROM json_each(tags) each WHERE {})", "each.value"),
        "cluster": Names("folder IN (SELECT path FROM folders WHERE {})", "folders.path", "folders.id"),
    },
)
_PICTURES = "pictures JOIN looked USING (path) WHERE problem = ''"
_SELECT = f"SELECT digest, tags, {', '.join(FIELDS)}, replace(looked.content, ':', '') FROM {_PICTURES}"


def folder_at(place: str) -> Path | None:
    """The folder that an address names; it need not be there now, as on a drive that is away."""
    if not place.strip() or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", place):
        return None
    folder = Path(place).expanduser()
    whole = folder.is_absolute() or PureWindowsPath(place).is_absolute()
    return Path(os.path.abspath(folder)) if folder.is_dir() or (whole and not folder.exists()) else None  # noqa: PTH100


class FolderCatalog(Catalog):
    """A catalog over a folder; what was seen of it is kept in ``home``.  Raises Unreachable where it is away, Refused."""

    lasting_ids = True

    def __init__(self, folder: Path, home: Path) -> None:
        self.address = str(folder)
        self._seen = Seen(folder, home)

    def close(self) -> None:
        self._seen.close()

    def health(self) -> Health:
        self._seen.must_be_there()
        identity = self._seen.rows("SELECT identity FROM library")[0][0]
        left_out = tuple(reason for (reason,) in self._seen.rows("SELECT reason FROM left_out"))
        return Health("folder", __version__, self.capabilities(), left_out, identity)

    def image(self, image_id: int) -> ImageRecord:
        found = self._found("id = ?", [image_id])
        if not found:
            raise UnknownImage(f"the folder {self.address} has no picture {image_id}")
        return found[0]

    def images(self, query: str = "", after_id: int = 0, limit: int = 100) -> list[ImageRecord]:
        condition, values = where(query, replace(_COLUMNS, hide=self.hide))
        return self._found(f"id > ? AND {condition} ORDER BY id LIMIT ?", [after_id, *values, limit])

    def clusters(self) -> list[Cluster]:
        return [cluster for _, cluster in self._folders()]

    def cluster_images(
        self, cluster_id: int, limit: int = 50, min_quality: float = 0, sort: Sort = "quality"
    ) -> list[ClusterImage]:
        if cluster_id not in {cluster.id for cluster in self.clusters()}:
            raise UnknownCluster(f"the folder {self.address} has no subfolder {cluster_id}")
        order = "random()" if sort == "random" else "COALESCE(rating, 0) DESC, id"
        found = self._found(
            "folder = (SELECT path FROM folders WHERE folders.id = ?) AND COALESCE(rating, 0) / 2.0 >= ? "
            f"ORDER BY {order} LIMIT ?",
            [cluster_id, min_quality, limit],
        )
        return [ClusterImage(record, 1.0) for record in found]

    def captions(self, image_id: int) -> Captions:
        return Captions.of_tags(image_id, self.image(image_id).tags)

    def file(self, image_id: int) -> bytes:
        file = Path(self.image(image_id).path)
        try:
            return plain_file(file)
        except OSError as error:
            raise PictureMissing(f"{file}: {error.strerror or error}") from error

    # -- sync ---------------------------------------------------------------------------------------

    def kinds(self) -> list[Kind]:
        self._seen.scan()
        return [Kind(name, len(self.digests(name)[0])) for name in RECORD_KINDS]

    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        self._ready()
        if kind == "images":
            pairs = self._seen.rows(f"SELECT id, digest FROM {_PICTURES} ORDER BY id")
        elif kind == "captions":
            rows = self._seen.rows(f"SELECT id, tags FROM {_PICTURES} AND tags <> '[]' ORDER BY id")
            pairs = [(image_id, content_digest(tags.encode())) for image_id, tags in rows]
        elif kind == "clusters":
            pairs = [(cluster.id, digest) for digest, cluster in self._folders()]
        else:
            raise unknown_kind(kind, RECORD_KINDS)
        both = np.array(pairs, np.int64).reshape(-1, 2)
        return both[:, 0].copy(), both[:, 1].copy()

    def fetch(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        self._ready()
        for at in range(0, len(ids), RECORDS_AT_ONCE):
            wanted = ids[at : at + RECORDS_AT_ONCE].tolist()
            if kind == "clusters":
                found: list[tuple[int, int, Any]] = [
                    (digest, cluster.id, cluster) for digest, cluster in self._folders() if cluster.id in set(wanted)
                ]
            elif kind in ("images", "captions"):
                marks = ", ".join("?" * len(wanted))
                rows = self._seen.rows(f"{_SELECT} AND id IN ({marks}) ORDER BY id", wanted)
                if kind == "images":
                    found = [(row[0], row[2], _record(row)) for row in rows]
                else:
                    found = [
                        (content_digest(row[1].encode()), row[2], Captions.of_tags(row[2], json.loads(row[1])))
                        for row in rows
                        if row[1] != "[]"
                    ]
            else:
                raise unknown_kind(kind, RECORD_KINDS)
            if found:
                digests, keys, records = zip(*found, strict=True)
                yield Batch(np.array(keys, np.int64), np.array(digests, np.int64), list(records))

    # -- what was seen ------------------------------------------------------------------------------

    def _ready(self) -> None:
        if not self._seen.rows("SELECT scanned FROM library")[0][0]:
            self._seen.scan()

    def _found(self, condition: str, values: Sequence[object]) -> list[ImageRecord]:
        self._ready()
        return [_record(row) for row in self._seen.rows(f"{_SELECT} AND {condition}", values)]

    def _folders(self) -> list[tuple[int, Cluster]]:
        """Every subfolder with pictures, with its digest, in id order."""
        self._ready()
        found: dict[tuple[int, str], list[int]] = {}
        for folder_id, name, image_id in self._seen.rows(
            "SELECT folders.id, folder, pictures.id FROM pictures JOIN looked USING (path) "
            "JOIN folders ON folders.path = folder WHERE problem = '' ORDER BY 1, 3"
        ):
            found.setdefault((folder_id, name), []).append(image_id)
        return [
            (
                content_digest(f"{name}\0{members}".encode()),
                Cluster(folder_id, name, len(members), tuple(Member(i, 1.0) for i in members)),
            )
            for (folder_id, name), members in found.items()
        ]


def _record(row: Sequence[Any]) -> ImageRecord:
    _, tags, *values, content = row
    told = ImageRecord(**dict(zip(FIELDS, values, strict=True)), hash=content)
    return replace(told, no_metadata=bool(told.no_metadata), tags=tuple(json.loads(tags)))
