"""Images, captions and clusters as they were mirrored: kept, looked up, and found by DT's query language."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import sqlite3
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any, Literal, cast

from .. import query
from ..errors import StoreError, UnknownCluster, UnknownImage
from ..records import (
    EMBEDDINGS,
    FLAGS,
    LAYERS,
    RECORD_KINDS,
    Alike,
    Batch,
    Captions,
    Cluster,
    ClusterImage,
    ImageRecord,
    Int64s,
    Member,
    image_of,
)
from .database import Database

log = logging.getLogger(__name__)

ImageOrder = Literal["id", "date", "rating"]
_ORDERS: dict[ImageOrder, str] = {
    "id": "id", "date": "created DESC, id DESC", "rating": "rating DESC, created DESC, id DESC"
}  # fmt: skip
#: What images have in common that are made alike or the same file; one of which it is not known is like no other.
_ALIKE: dict[Alike, str] = {
    "seed": "prompt, seed, CASE WHEN prompt = '' OR seed = 0 THEN images.id END",
    "file": "hash, CASE WHEN hash = '' THEN images.id END",
}
IDS = {"images": "id", "captions": "image_id", "clusters": "id"}  # what a row of each kind is known by
VISIBLE_PAGE = 1000  # records taken in one go
TAGGED = 5000  # images whose tags are counted
_IMAGE_COLUMNS = [f.name for f in fields(ImageRecord) if f.name != "tags"]  # tags are synced with the captions
#: Where the flags are among them.
_FLAGS = [_IMAGE_COLUMNS.index(flag) for flag in FLAGS]
_WHOLE = len(_IMAGE_COLUMNS) + 2  # values of an image's row, with its digest and checksum
#: Tags lie in one text, a line each; maps are known by the picture's content, or by its path where it was not read.
_COLUMNS = query.Columns(
    {name: name for name in _IMAGE_COLUMNS},
    names={
        "tag": query.Names(
            "id IN (SELECT image_id FROM captions WHERE {})", "captions.tags", start=r"(?:\A|\n)", end=r"(?:\n|\Z)"
        ),
        "cluster": query.Names(
            "id IN (SELECT image_id FROM cluster_members JOIN clusters ON clusters.id = cluster_id WHERE {})",
            "clusters.name", "clusters.id",
        ),
    },
    has={
        "caption": "id IN (SELECT image_id FROM captions WHERE combined <> replace(tags, char(10), ', '))",
        "map": "(id IN (SELECT image_id FROM files JOIN maps ON source = content) "
        "OR unseen(id, path) IN (SELECT source FROM maps))",
        **{
            f"vectors.{layer}": f"id IN (SELECT image_id FROM vectors WHERE layer = '{layer}' AND row IS NOT NULL)"
            for layer in LAYERS
        },
    },
)  # fmt: skip
_CAPTION_COLUMNS = [f.name for f in fields(Captions)]
#: What a row's checksum is of, and the checksum, which rows of earlier versions have not.
_STORED = {
    "images": ", ".join(f"images.{name}" for name in (*_IMAGE_COLUMNS, "digest", "checksum")),
    "captions": ", ".join(f"captions.{name}" for name in (*_CAPTION_COLUMNS, "digest", "checksum")),
    "clusters": "id, name, image_count, digest, checksum",
}
#: An image with its whole captions, for its tags are told only where these are what was stored.
_SELECT_IMAGE = f"{_STORED['images']}, {_STORED['captions']}"
_FROM_IMAGES = "images LEFT JOIN captions ON captions.image_id = id"
_CAPTIONS_OF = f"SELECT {_STORED['captions']} FROM captions WHERE image_id"


def hidden(flags: tuple[str, ...]) -> str:
    """The SQL condition of the images that those flags hide."""
    return query.hidden(replace(_COLUMNS, hide=flags))


class Records(Database):
    """The tables of images, captions and clusters."""

    def images(self, ids: Iterable[int]) -> dict[int, ImageRecord]:
        """The records of those ids that are known."""
        rows = self._of_ids(f"SELECT {_SELECT_IMAGE} FROM {_FROM_IMAGES} WHERE id", ids)
        return {record.id: record for record in self._images(rows)}

    def _of_ids(self, select: str, ids: Iterable[int]) -> list[Any]:
        """What a SELECT that ends in an id's column finds of those ids."""
        wanted, rows = [int(i) for i in ids], list[Any]()
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            rows += self.rows(f"{select} IN ({','.join('?' * len(part))})", part)
        return rows

    def _images(self, rows: list[Any]) -> list[ImageRecord]:
        """The records of rows of _SELECT_IMAGE; what is not as it was stored, of them or their captions, is forgotten."""
        images = self._sound("images", [row[:_WHOLE] for row in rows])
        said = self._sound("captions", [row[_WHOLE:] for row in rows if row[_WHOLE] is not None])
        tags = {row[0]: row[-3] for row in said}
        return [_image([*row[:-2], tags.get(row[0])]) for row in images]

    def _sound(self, kind: str, rows: list[Any]) -> list[Any]:
        """The rows of _STORED that are what was stored; the others are forgotten."""
        good = [row for row in rows if _is_sound(row)]
        if len(good) < len(rows):
            self.forget(kind, [row[0] for row in rows if not _is_sound(row)])
        return good

    def forget(self, kind: str, ids: Iterable[int]) -> None:
        """Takes out rows that are not what was stored, for a damaged file says what never was; the next sync has them anew.

        Raises StoreError where more than rows is damaged.
        """
        self.must_be_sound()
        gone = [(i,) for i in ids]
        log.warning("%s: %d in %s are damaged, and are taken anew by the next sync", kind, len(gone), self.path)
        with contextlib.suppress(StoreError), self.writing(kind) as db:  # where it cannot be written it is met again
            db.executemany(f"DELETE FROM {kind} WHERE {IDS[kind]} = ?", gone)
            db.execute("DELETE FROM mirrored")

    def damaged(self, kind: str, most: int) -> list[int]:
        """The ids of a kind's rows that are not what was stored: of ``most`` rows, others each time, and where any of
        those is damaged of all."""
        ((count,),) = self.rows(f"SELECT COUNT(*) FROM {kind}")
        key, start = IDS[kind], random.randrange(max(1, count - most + 1))
        ((first,),) = self.rows(f"SELECT {key} FROM {kind} ORDER BY {key} LIMIT 1 OFFSET ?", [start]) or [(0,)]
        bad = self._damaged(kind, first, most)
        return self._damaged(kind, -(2**63), count) if bad and most < count else bad

    def _damaged(self, kind: str, first: int, most: int) -> list[int]:
        key, bad = IDS[kind], list[int]()
        while most > 0:
            sql = f"SELECT {_STORED[kind]} FROM {kind} WHERE {key} >= ? ORDER BY {key} LIMIT ?"
            rows = self.rows(sql, [first, min(most, VISIBLE_PAGE)])
            if not rows:
                break
            if kind == "clusters":
                rows = [(*row[:-1], self._members(row[0]), row[-1]) for row in rows]
            bad += [row[0] for row in rows if not _is_sound(row)]
            first, most = rows[-1][0] + 1, most - len(rows)
        return bad

    def _members(self, cluster_id: int) -> tuple[Any, ...]:
        sql = "SELECT image_id, confidence FROM cluster_members WHERE cluster_id = ? ORDER BY image_id"
        return tuple(self.rows(sql, [cluster_id]))

    def image(self, image_id: int) -> ImageRecord:
        found = self.images([image_id])
        if not found:
            raise UnknownImage(f"image {image_id} is not in this library; if DT has it, sync again")
        return found[image_id]

    def find(self, text: str = "", after_id: int = 0, limit: int = 100) -> list[ImageRecord]:
        """Images in id order that fit a query in DT's language (docs/query.md)."""
        return self._find(self._where(text), after_id, limit)

    def ids_of(self, text: str, order: ImageOrder = "id") -> Int64s:
        """The ids of all images that fit a query: ascending, or the newest or the best rated first; raises BadQuery."""
        condition, values = self._where(text)
        sql = f"SELECT id FROM images WHERE {condition} ORDER BY {_ORDERS[order]}"
        return self._array([("id", "i8")], sql, values)["id"].copy()

    def models(self) -> list[tuple[str, int]]:
        """The models that images were made with and how many each, the most used first."""
        return self.rows("SELECT model, COUNT(*) FROM images WHERE model <> '' GROUP BY 1 ORDER BY 2 DESC, 1")

    def tags(self) -> list[tuple[str, int]]:
        """The tags that the images captioned last have, and how many of these, the most used first; of at most
        ``TAGGED`` images, since to count millions takes longer than a page may wait."""
        rows = self.rows(
            f"SELECT {_STORED['captions']} FROM captions WHERE tags <> '' ORDER BY image_id DESC LIMIT ?", [TAGGED]
        )
        counts = Counter(tag for row in self._sound("captions", rows) for tag in _split(row[-3]))
        return sorted(counts.items(), key=lambda each: (-each[1], each[0]))

    def in_order(self, ids: Int64s, order: Literal["date", "rating"]) -> Int64s:
        """The places of those ids that are known, the newest or the best rated first; equal ones stay as they were."""
        by = {"date": "created", "rating": "rating"}[order]
        sql = f"SELECT key FROM json_each(?) JOIN images ON images.id = value ORDER BY {by} DESC, key"
        return self._array([("place", "i8")], sql, [json.dumps(ids.tolist())])["place"].copy()

    def made_alike(self, ids: Int64s, by: Alike) -> tuple[Int64s, Int64s]:
        """The places of those ids that are known and the first with their prompt and seed, or file, in order, and how many
        have the same; one of which that is not known is like no other."""
        sql = (
            "SELECT MIN(key), COUNT(*) FROM json_each(?) JOIN images ON images.id = value "
            f"GROUP BY {_ALIKE[by]} ORDER BY 1"
        )
        found = self._array([("place", "i8"), ("count", "i8")], sql, [json.dumps(ids.tolist())])
        return found["place"].copy(), found["count"].copy()

    def same_files(self, text: str = "") -> list[tuple[int, ...]]:
        """The ids of each file that is there more than once among the images that fit a query and are not hidden."""
        condition, values = self._where(text)
        rows = self.rows(
            f"SELECT json_group_array(id) FROM images WHERE hash <> '' AND {condition} AND NOT ({hidden(self.hide)}) "
            "GROUP BY hash HAVING COUNT(*) > 1",
            values,
        )
        return [tuple(sorted(json.loads(ids))) for (ids,) in rows]

    def _where(self, text: str) -> query.Sql:
        return query.where(text, replace(_COLUMNS, hide=self.hide, saved=self.saved))

    def _find(self, where: query.Sql, after_id: int, limit: int) -> list[ImageRecord]:
        condition, values = where
        rows = self.rows(
            f"SELECT {_SELECT_IMAGE} FROM {_FROM_IMAGES} WHERE id > ? AND {condition} ORDER BY id LIMIT ?",
            [after_id, *values, limit],
        )
        return self._images(rows)

    def visible(self, text: str = "") -> Iterator[ImageRecord]:
        """Every image that fits a query and is not hidden, whatever it asks for, in id order, a page at a time."""
        condition, values = self._where(text)
        last = 0
        while page := self._find((f"{condition} AND NOT ({hidden(self.hide)})", values), last, VISIBLE_PAGE):
            yield from page
            last = page[-1].id

    def at_paths(self, paths: Iterable[str]) -> dict[str, ImageRecord]:
        """The images that DT has at those paths; either form of Unicode counts, in Windows paths any case and slash."""
        wanted: dict[str, list[str]] = {}
        for path in paths:
            wanted.setdefault(_one_path(path), []).append(path)
        found: dict[str, ImageRecord] = {}
        if wanted:
            for image_id, path in self.rows("SELECT id, path FROM images"):
                if _one_path(path) in wanted:
                    record = self.image(image_id)
                    found.update((each, record) for each in wanted[_one_path(path)])
        return found

    def captions(self, image_id: int) -> Captions:
        rows = self._of_ids(_CAPTIONS_OF, [image_id])
        for found in self._captions(rows):
            return found
        if rows:
            raise UnknownImage(f"the captions of image {image_id} are damaged here; sync again to have them anew")
        self.image(image_id)
        return Captions(image_id)

    def captions_of(self, ids: Iterable[int]) -> dict[int, Captions]:
        """What is known to be said of those images."""
        return {each.image_id: each for each in self._captions(self._of_ids(_CAPTIONS_OF, ids))}

    def _captions(self, rows: list[Any]) -> list[Captions]:
        return [Captions(*[*row[:-3], _split(row[-3])]) for row in self._sound("captions", rows)]

    def clusters(self) -> list[Cluster]:
        return [Cluster(*row) for row in self.rows("SELECT id, name, image_count FROM clusters ORDER BY id")]

    def clusters_of(self, ids: Iterable[int]) -> dict[int, Cluster]:
        """Those clusters that are known, with their members."""
        found = {}
        for row in self._of_ids(f"SELECT {_STORED['clusters']} FROM clusters WHERE id", ids):
            members = self._members(row[0])
            if _is_sound((*row[:-1], members, row[-1])):
                found[row[0]] = Cluster(row[0], row[1], row[2], tuple(Member(*each) for each in members))
        return found

    def cluster_images(self, cluster_id: int, min_quality: float = 0) -> list[ClusterImage]:
        """A cluster's visible images, best quality first."""
        if not self.rows("SELECT 1 FROM clusters WHERE id = ?", [cluster_id]):
            raise UnknownCluster(f"cluster {cluster_id} is not in this library; if DT has it, sync again")
        rows = self.rows(
            f"SELECT {_SELECT_IMAGE}, confidence FROM cluster_members JOIN {_FROM_IMAGES} WHERE cluster_members.image_id = id "
            f"AND cluster_id = ? AND NOT ({hidden(self.hide)}) ORDER BY COALESCE(rating, 0) DESC, confidence DESC, id",
            [cluster_id],
        )
        confidences = {row[0]: row[-1] for row in rows}
        members = (ClusterImage(record, confidences[record.id]) for record in self._images([row[:-1] for row in rows]))
        return [member for member in members if member.image.quality >= min_quality]

    def version_of(self, image_id: int) -> str:
        """Changes when the image's record, captions or tags do; "" for an unknown image."""
        rows = self.rows(
            "SELECT i.digest, c.digest FROM images i LEFT JOIN captions c ON c.image_id = i.id WHERE i.id = ?",
            [image_id],
        )
        return f"{rows[0][0]} {rows[0][1]}" if rows else ""

    def version_of_query(self, text: str) -> str:
        """Changes when what fits a query may have: with the tables that its condition names, and with what that is today,
        of what is hidden, and by DT's saved searches; raises BadQuery."""
        condition, values = self._where(text)
        named = {"images": "", "captions": "captions", "clusters": "clusters", "maps": "maps"}
        named |= {EMBEDDINGS + layer: f"layer = '{layer}'" for layer in LAYERS}
        generations = [self.generation(kind) for kind, name in named.items() if name in condition]
        return repr((condition, values, generations))

    def version(self) -> str:
        """Changes whenever a row of any kind does."""
        return repr(self.rows("SELECT name, generation FROM kinds ORDER BY name"))

    def counts(self) -> dict[str, tuple[int, str]]:
        """For every kind of record: how many are here, and when it was last synced to its end."""
        synced = dict(self.rows("SELECT name, COALESCE(synced, '') FROM kinds"))
        return {t: (self.rows(f"SELECT COUNT(*) FROM {t}")[0][0], synced.get(t, "")) for t in RECORD_KINDS}

    def _put_records(self, kind: str, batch: Batch) -> None:
        digests = batch.digests.tolist()
        with self.writing(kind) as db:
            if kind == "images":
                images = cast("list[ImageRecord]", batch.rows)
                values = attrgetter(*_IMAGE_COLUMNS)
                rows = ((*values(image), digest) for image, digest in zip(images, digests, strict=True))
                _insert(db, kind, (*_IMAGE_COLUMNS, "digest"), map(_plain, rows))
            elif kind == "captions":
                rows = (
                    (c.image_id, c.wd14_tags, c.joytag_tags, c.joycaption, c.combined, "\n".join(c.tags), d)
                    for c, d in zip(cast("list[Captions]", batch.rows), digests, strict=True)
                )
                _insert(db, kind, (*_CAPTION_COLUMNS, "digest"), rows)
            else:
                for cluster, digest in zip(cast("list[Cluster]", batch.rows), digests, strict=True):
                    db.execute("DELETE FROM clusters WHERE id = ?", [cluster.id])  # and its members
                    members = {m.image_id: m.confidence for m in cluster.members}
                    row = (cluster.id, cluster.name, cluster.image_count, digest)
                    checksum = _checksum((*row, tuple(sorted(members.items()))))
                    db.execute("INSERT INTO clusters VALUES (?, ?, ?, ?, ?)", (*row, checksum))
                    db.executemany(
                        "INSERT INTO cluster_members (cluster_id, image_id, confidence) VALUES (?, ?, ?)",
                        ((cluster.id, *member) for member in members.items()),
                    )


def _insert(db: sqlite3.Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    marks = ", ".join("?" * (len(columns) + 1))
    db.executemany(
        f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}, checksum) VALUES ({marks})",
        ((*row, _checksum(row)) for row in rows),
    )


def _checksum(row: Sequence[object]) -> int:
    """CRC-32 of a row's values, as SQLite gives them back."""
    return zlib.crc32(repr(tuple(row)).encode("utf-8", "surrogatepass"))


def _is_sound(row: Sequence[Any]) -> bool:
    """Whether a row, whose checksum is last, is what was stored; that of an earlier version has none."""
    return row[-1] is None or row[-1] == _checksum(row[:-1])


def _plain(row: tuple[Any, ...]) -> list[object]:
    """An image's row as SQLite gives it back, to which true is 1."""
    values = list(row)
    for i in _FLAGS:
        values[i] = int(values[i])
    return values


def _image(row: Sequence[Any]) -> ImageRecord:
    values = list(row)
    for i in _FLAGS:
        values[i] = bool(values[i])
    return image_of(values[:-1], _split(values[-1]))


def _split(tags: str | None) -> tuple[str, ...]:
    return tuple(tags.split("\n")) if tags else ()


def _one_path(path: str) -> str:
    windows = "\\" in path or path[1:2] == ":"
    path = unicodedata.normalize("NFC", path)
    return path.replace("\\", "/").casefold() if windows else path
