"""The layers' vectors: one file of float32 rows per layer, and what each row is, in ``library.db``.

A vectors file is only ever appended to: a row once named by SQLite never changes, so readers map it without
locks and an index can trust what it has read.  A changed vector becomes a new row; when too many rows are dead
the live ones move to a new file.  Rows are flushed to disk before the transaction that names them, so a kill
leaves at worst unnamed bytes at the end, which the next append writes over.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import BadAnswer, NotSearchable, StoreError
from ..identity import Identity, Verdict
from ..records import EMBEDDINGS, LAYERS, Batch, Float32s, Int64s, checked_layer
from . import register
from .database import Database
from .records import hidden

log = logging.getLogger(__name__)

#: Dead rows a vectors file may hold before it is rewritten, as a share of all its rows and at least.
COMPACT_SHARE, COMPACT_ROWS = 0.5, 1024
REGISTER = ".rows"  # the suffix of what is kept beside a vectors file (register.py)
BEGUN = ".new"  # what a layer is called, after its name, while it is made anew beside the one in use


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer at one moment: ``vectors`` float32[rows, dim] (mapped, read only) and, for each row, the image
    it belongs to (``ids``, -1 where dead), whether that is ``visible`` in DT, its length (``norms``), and the
    ``checksums`` of both (-1 where an older version kept none)."""

    name: str
    identity: Identity
    file: Path
    vectors: Float32s
    ids: Int64s
    visible: npt.NDArray[np.bool_]
    norms: Float32s
    checksums: Int64s
    generation: tuple[int, int]

    @property
    def rows(self) -> int:
        return len(self.ids)

    def is_cut(self) -> bool:
        """Whether the file was cut off, so that to read what is mapped would end the process."""
        try:
            return self.file.stat().st_size < self.vectors.nbytes
        except FileNotFoundError:  # one that was replaced is whole as long as it is mapped
            return False

    def check_length(self) -> None:
        """Raises StoreError where the file was cut off."""
        if self.is_cut():
            raise StoreError(f"{self.file} was cut off; to have its vectors anew, run: luna-dt sync")

    def damaged(self, rows: Int64s) -> Int64s:
        """Those of ``rows`` that are not what was stored for their image."""
        known = self.checksums
        bad = [row for row in rows.tolist() if known[row] not in (-1, _checksum(int(self.ids[row]), self.vectors[row]))]
        return np.array(bad, np.int64)


@dataclass(frozen=True)
class LayerState:
    """What there is of a layer, without its vectors: ``rows`` in its ``file``, of which ``count`` are some
    image's; ``unusable`` counts vectors DT sent that were NaN, infinite or zero, and pictures that could not
    be read; ``local`` says that it is made here; ``verdict`` is what verifying it last found; ``anew`` is what it is being
    made anew by, beside the one in use, and of how many images so far."""

    name: str
    identity: Identity
    file: str
    rows: int
    count: int
    unusable: int
    synced: str
    local: bool
    verdict: Verdict | None
    anew: tuple[Identity, int] | None = None

    @property
    def bytes(self) -> int:
        return self.rows * self.identity.dim * 4


class Vectors(Database):
    """The tables ``layers`` and ``vectors``, and the files in ``vectors/``."""

    def layers(self) -> list[LayerState]:
        """The layers in use, in their order; those that are only begun are not among them."""
        rows = self.rows(
            "SELECT l.name, l.identity, l.file, l.rows, COALESCE(k.synced, ''), local, verdict, "
            "(SELECT COUNT(row) FROM vectors v WHERE v.layer = l.name), "
            "(SELECT COUNT(*) FROM vectors v WHERE v.layer = l.name AND row IS NULL) "
            "FROM layers l LEFT JOIN kinds k ON k.name = ? || l.name WHERE l.name NOT LIKE '%' || ?",
            [EMBEDDINGS, BEGUN],
        )
        anew = {
            name.removesuffix(BEGUN): (self._made_by(identity), count)
            for name, identity, count in self.rows(
                "SELECT name, identity, (SELECT COUNT(row) FROM vectors WHERE layer = name) FROM layers "
                "WHERE name LIKE '%' || ?",
                [BEGUN],
            )
        }
        states = [
            LayerState(
                name,
                self._made_by(identity),
                file,
                written,
                count,
                unusable,
                synced,
                bool(local),
                _verdict(verdict),
                anew.get(name),
            )
            for name, identity, file, written, synced, local, verdict, count, unusable in rows
        ]
        return sorted(states, key=lambda state: LAYERS.index(state.name) if state.name in LAYERS else len(LAYERS))

    def layer_generation(self, layer: str) -> tuple[int, int]:
        """Changes whenever what a search of this layer could find may have changed."""
        return self.generation("images"), self.generation(EMBEDDINGS + layer)

    def layer_identity(self, layer: str) -> Identity:
        """Raises UnknownLayer for a name that is none, NotSearchable for one that holds nothing yet."""
        rows = self.rows("SELECT identity FROM layers WHERE name = ?", [layer])
        if rows:
            return self._made_by(rows[0][0])
        raise no_vectors(checked_layer(layer))

    def is_local(self, layer: str) -> bool:
        """Whether a layer is made here, so that no sync touches it."""
        return bool(self.rows("SELECT 1 FROM layers WHERE name = ? AND local", [layer]))

    def take_as_local(self, layer: str) -> None:
        """Has a layer that was synced be one that is made here."""
        with self.writing(EMBEDDINGS + layer) as db:
            db.execute("UPDATE layers SET local = 1 WHERE name = ?", [layer])

    def begun(self, layer: str) -> Identity | None:
        """What a layer is being made anew by, beside the one in use; None where that was not begun."""
        rows = self.rows("SELECT identity FROM layers WHERE name = ?", [layer + BEGUN])
        return self._made_by(rows[0][0]) if rows else None

    def put_in_use(self, layer: str) -> None:
        """Has what was begun take the layer's place, all at once; readers of the old one go on undisturbed."""
        begun = layer + BEGUN
        with self.writing(EMBEDDINGS + layer) as db:
            db.execute("DELETE FROM layers WHERE name = ?", [layer])
            db.execute(
                "INSERT INTO layers (name, identity, file, rows, local, damaged) "
                "SELECT ?, identity, file, rows, local, damaged FROM layers WHERE name = ?",
                [layer, begun],
            )
            db.execute("UPDATE vectors SET layer = ? WHERE layer = ?", [layer, begun])
            db.execute("DELETE FROM layers WHERE name = ?", [begun])
            db.execute("DELETE FROM kinds WHERE name = ?", [EMBEDDINGS + begun])
        self._sweep()

    def verdict(self, layer: str) -> Verdict | None:
        """What verifying a layer last found; None if it never was."""
        rows = self.rows("SELECT verdict FROM layers WHERE name = ?", [layer])
        return _verdict(rows[0][0]) if rows else None

    def layer(self, name: str) -> Layer:
        """The layer as it is now; see ``layer_identity`` for the errors."""
        try:
            return self._layer(name)
        except StoreError:  # another process may just have moved the live rows to a new file
            return self._layer(name)

    def _layer(self, name: str) -> Layer:
        self.layer_identity(name)
        with self.reading():
            generation = self.layer_generation(name)
            identity, file, rows = self.rows("SELECT identity, file, rows FROM layers WHERE name = ?", [name])[0]
            made_by = self._made_by(identity)
            path = self.home / "vectors" / file
            vectors = _mapped(path, rows, made_by.dim)
            ids, checksums, norms = self._named(name, path, rows)
            unseen = self._array([("id", "i8")], f"SELECT id FROM images WHERE {hidden(self.hide)}")
        visible = (ids >= 0) & ~np.isin(ids, unseen["id"])
        return Layer(name, made_by, path, vectors, ids, visible, norms, checksums, generation)

    def _named(self, layer: str, file: Path, rows: int) -> tuple[Int64s, Int64s, Float32s]:
        """Of each row its image's id, checksum and length (Layer), as they are at this moment."""
        kept, moment = file.with_suffix(REGISTER), f"{file.stem} {self.generation(EMBEDDINGS + layer)}"
        if (known := register.read(kept, moment, rows)) is not None:
            return known
        named = self._array(
            [("row", "i8"), ("id", "i8"), ("norm", "f4"), ("checksum", "i8")],
            "SELECT row, image_id, norm, COALESCE(checksum, -1) FROM vectors WHERE layer = ? AND row IS NOT NULL",
            [layer],
        )
        at = named["row"]
        if len(at) and not 0 <= at.min() <= at.max() < rows:
            raise self.damaged_file()
        ids, norms, checksums = np.full(rows, -1, np.int64), np.ones(rows, np.float32), np.full(rows, -1, np.int64)
        ids[at], norms[at], checksums[at] = named["id"], named["norm"], named["checksum"]
        if not self.read_only:
            register.write(kept, moment, ids, checksums, norms)
        return ids, checksums, norms

    def _put_vectors(self, layer: str, batch: Batch) -> None:
        file, rows, dim = self._layer_file(layer)
        vectors = np.ascontiguousarray(batch.rows, dtype="<f4")
        with np.errstate(over="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))  # in float32, as those who search will see it
        usable = np.isfinite(norms) & (norms > 0)
        kept = vectors if usable.all() else vectors[usable]
        try:
            with file.open("r+b") as out:
                out.seek(rows * dim * 4)
                out.write(kept.data)
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise StoreError(f"{file} cannot be written ({error}); is the disk full?") from error
        at = iter(range(rows, rows + len(kept)))
        sums = map(_checksum, batch.ids[usable].tolist(), kept)
        named = [
            (layer, image_id, digest, *((next(at), norm, next(sums)) if good else (None, None, None)))
            for image_id, digest, norm, good in zip(
                batch.ids.tolist(), batch.digests.tolist(), norms.tolist(), usable.tolist(), strict=True
            )
        ]
        with self.writing(EMBEDDINGS + layer) as db:
            # where a vector is replaced, what was judged is not what is there any more
            db.execute(
                "UPDATE layers SET verdict = NULL WHERE name = ? AND verdict IS NOT NULL AND EXISTS (SELECT 1 FROM vectors "
                "WHERE layer = ? AND image_id IN (SELECT value FROM json_each(?)))",
                [layer, layer, json.dumps(batch.ids.tolist())],
            )
            db.executemany(
                "INSERT OR REPLACE INTO vectors (layer, image_id, digest, row, norm, checksum) VALUES (?, ?, ?, ?, ?, ?)",
                named,
            )
            db.execute("UPDATE layers SET rows = ? WHERE name = ?", [rows + len(kept), layer])

    def distrust(self, layer: str, ids: Int64s) -> None:
        """Forgets vectors that are not what they should be, so that the next sync, or embed, has them anew."""
        log.warning(
            "layer %s: %d vectors are not what was stored, and are taken anew by the next sync", layer, len(ids)
        )
        with self.writing(EMBEDDINGS + layer) as db:
            db.executemany("DELETE FROM vectors WHERE layer = ? AND image_id = ?", ((layer, i) for i in ids.tolist()))
            db.execute("UPDATE layers SET damaged = 1 WHERE name = ?", [layer])  # no engine could take such a row

    def judge(self, judged: Layer, verdict: Verdict) -> None:
        """Keeps what verifying a layer found, with the layer, unless that has changed since."""
        with self.writing(EMBEDDINGS + judged.name) as db:  # a picture may be compared in another way from now on
            db.execute(
                "UPDATE layers SET verdict = ? WHERE name = ? AND file = ? AND rows = ?",
                [json.dumps(verdict.to_json()), judged.name, judged.file.name, judged.rows],
            )

    def prepare_layer(self, layer: str, identity: Identity, local: bool = False) -> None:
        """Makes room for a layer's vectors; those made with another identity, or elsewhere, are dropped first."""
        if self.rows("SELECT 1 FROM layers WHERE name = ?", [layer]):
            file, rows, dim = self._layer_file(layer)
            whole = file.is_file() and file.stat().st_size >= rows * dim * 4
            if whole and self.layer_identity(layer) == identity and self.is_local(layer) == local:
                return
            reason = "is made in another way" if whole else f"has lost vectors ({file} is missing or cut off)"
            log.warning("layer %s %s: its vectors are taken anew", layer, reason)
            self.remove_layer(layer)
        with self.writing(EMBEDDINGS + layer) as db:
            name = _new_name(layer)
            (self.home / "vectors" / name).write_bytes(b"")
            db.execute(
                "INSERT INTO layers (name, identity, file, rows, local) VALUES (?, ?, ?, 0, ?)",
                [layer, json.dumps(identity.to_json()), name, local],
            )

    def remove_layer(self, layer: str) -> None:
        """Forgets a layer and its vectors."""
        with self.writing(EMBEDDINGS + layer) as db:
            db.execute("DELETE FROM layers WHERE name = ?", [layer])
            db.execute("UPDATE kinds SET synced = NULL WHERE name = ?", [EMBEDDINGS + layer])
        self._sweep()

    def compact(self, layer: str) -> None:
        """Moves the live rows to a new file when too many are dead, or one was damaged; readers of the old one go on
        undisturbed."""
        file, rows, dim = self._layer_file(layer)
        ((count,),) = self.rows("SELECT COUNT(row) FROM vectors WHERE layer = ?", [layer])
        damaged = self.rows("SELECT 1 FROM layers WHERE name = ? AND damaged", [layer])
        if not damaged and rows - count < max(COMPACT_ROWS, COMPACT_SHARE * rows):
            self._sweep()
            return
        live = self.rows("SELECT row, image_id FROM vectors WHERE layer = ? AND row IS NOT NULL ORDER BY row", [layer])
        old = _mapped(file, rows, dim)
        at = np.array([row for row, _ in live], np.int64)
        with self.writing(EMBEDDINGS + layer) as db:
            new = file.with_name(_new_name(layer))
            with new.open("wb") as out:
                for start in range(0, len(at), 4096):
                    out.write(np.ascontiguousarray(old[at[start : start + 4096]]).data)
                out.flush()
                os.fsync(out.fileno())
            db.executemany(
                "UPDATE vectors SET row = ? WHERE layer = ? AND image_id = ?",
                ((i, layer, image_id) for i, (_, image_id) in enumerate(live)),
            )
            db.execute("UPDATE layers SET file = ?, rows = ?, damaged = 0 WHERE name = ?", [new.name, len(live), layer])
        del old
        self._sweep()

    def _sweep(self) -> None:
        """Deletes vectors files that no layer names, and what is kept beside them; Windows keeps one that is still mapped
        until next time."""
        named = {Path(file).stem for (file,) in self.rows("SELECT file FROM layers")}
        for path in (self.home / "vectors").glob("*"):
            if path.suffix in (".f32", REGISTER, ".part") and path.stem not in named:  # .part: who wrote it was killed
                try:
                    path.unlink()
                except OSError as error:
                    log.info("%s is still in use and stays for now (%s)", path, error)

    def _made_by(self, identity: str) -> Identity:
        try:
            return Identity.from_json(json.loads(identity))
        except (ValueError, BadAnswer) as error:
            raise self.damaged_file() from error

    def _layer_file(self, layer: str) -> tuple[Path, int, int]:
        identity, file, rows = self.rows("SELECT identity, file, rows FROM layers WHERE name = ?", [layer])[0]
        return self.home / "vectors" / file, rows, self._made_by(identity).dim


def _checksum(image_id: int, vector: Float32s) -> int:
    """CRC-32 of an image's id, 8 bytes, and its vector, little-endian both."""
    return zlib.crc32(vector.data, zlib.crc32(image_id.to_bytes(8, "little", signed=True)))


def _verdict(text: str | None) -> Verdict | None:
    return Verdict.from_json(json.loads(text)) if text else None


def no_vectors(layer: str) -> NotSearchable:
    """What is to be raised where a layer holds nothing; stock DT and a folder never have any."""
    return NotSearchable(
        f"layer '{layer}' holds no vectors yet; run: luna-dt sync, or if DT has none: luna-dt embed --layer {layer}"
    )


def _new_name(layer: str) -> str:
    """A vectors file's name is never used twice, so that no index can mistake another file for its own."""
    return f"{layer.removesuffix(BEGUN)}-{secrets.token_hex(4)}.f32"


def _mapped(path: Path, rows: int, dim: int) -> Float32s:
    if rows == 0:
        return np.empty((0, dim), np.float32)
    try:
        return np.memmap(path, "<f4", mode="r", shape=(rows, dim))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path} is missing or shorter than its {rows} vectors ({error}); to have them anew, run: luna-dt sync, or for a "
            f"layer made here: luna-dt embed --layer {path.name.partition('-')[0]}"
        ) from error
