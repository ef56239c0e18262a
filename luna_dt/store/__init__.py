"""The library on disk: ``library.db`` (SQLite) and one file of vectors per layer; the only source of truth."""

from __future__ import annotations

import numpy as np

from ..records import EMBEDDINGS, Batch, Int64s, layer_of
from .aside import Aside, SetAside
from .contents import Contents
from .records import IDS, Records
from .vectors import BEGUN, COMPACT_ROWS, Layer, LayerState, Vectors, no_vectors

__all__ = ["BEGUN", "COMPACT_ROWS", "Layer", "LayerState", "SetAside", "Store", "no_vectors"]


class Store(Records, Vectors, Contents, Aside):
    """A library's files under ``home``; safe to use from several threads and, for reading, processes.

    What is mirrored and made goes by kind: images, captions, clusters, ``embeddings.LAYER``; one sync at a time
    writes it.  Raises StoreError when the files are damaged, belong to a newer version, or cannot be made.
    """

    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        """The ids and digests held of a kind, in id order."""
        layer, fields = layer_of(kind), [("id", "i8"), ("digest", "i8")]
        if layer is not None:
            both = self._array(fields, "SELECT image_id, digest FROM vectors WHERE layer = ? ORDER BY 1", [layer])
        else:
            both = self._array(fields, f"SELECT {IDS[kind]}, digest FROM {kind} ORDER BY 1")
        if (np.diff(both["id"]) <= 0).any():  # the key's own order
            raise self.damaged_file()
        return both["id"].copy(), both["digest"].copy()

    def dt(self) -> str:
        """What the DT is known by that this home belongs to; "" while that is not known."""
        rows = self.rows("SELECT dt FROM home")
        return str(rows[0][0]) if rows else ""

    def bind(self, dt: str) -> None:
        """Has this home belong to that DT."""
        with self.writing() as db:
            db.execute("DELETE FROM home")
            db.execute("INSERT INTO home (dt) VALUES (?)", [dt])

    def stamp(self) -> str:
        """What DT said of itself before it was last mirrored to its end (Catalog.stamp); "" where it said nothing."""
        rows = self.rows("SELECT stamp FROM mirrored")
        return str(rows[0][0]) if rows else ""

    def put_stamp(self, stamp: str) -> None:
        with self.writing() as db:
            db.execute("DELETE FROM mirrored")
            db.execute("INSERT INTO mirrored (stamp) VALUES (?)", [stamp])

    def put(self, kind: str, batch: Batch) -> None:
        """Adds or replaces a batch of one kind, in one transaction."""
        layer = layer_of(kind)
        if layer is not None:
            self._put_vectors(layer, batch)
        else:
            self._put_records(kind, batch)

    def drop(self, kind: str, ids: Int64s) -> None:
        """Removes what is gone; an image takes its captions and vectors with it."""
        gone = [(int(i),) for i in ids]
        if not gone:
            return
        kinds = [kind]
        if kind == "images":
            kinds += ["captions", *(EMBEDDINGS + name for (name,) in self.rows("SELECT name FROM layers"))]
        with self.writing(*kinds) as db:
            for each in kinds:
                layer = layer_of(each)
                if layer is None:
                    db.executemany(f"DELETE FROM {each} WHERE {IDS[each]} = ?", gone)
                else:
                    db.executemany(
                        "DELETE FROM vectors WHERE layer = ? AND image_id = ?", ((layer, i) for (i,) in gone)
                    )
            if kind == "images":
                db.executemany("DELETE FROM files WHERE image_id = ?", gone)
