"""Saved indexes, each in checked files beside the store; the same for every engine.

An index is written under a new name, flushed, and only then named by the small JSON file that is replaced in
one step; that JSON holds everything a load must check first, because engines check nothing: a flipped bit
crashes the process, another dimension loads in silence.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from ..errors import IndexDamaged, StoreError
from ..files import sha256
from ..identity import Identity
from ..records import Float32s
from .base import Engine, Index

log = logging.getLogger(__name__)


class Shelf:
    """The saved indexes of one library; ``lock`` is held while one is made or changed."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "index"
        self._lock_file = home / "index.lock"

    def lock(self) -> FileLock:
        """Held by whoever makes an index: two at once are too much memory."""
        return FileLock(self._lock_file)

    def rows(self, vectors_file: str) -> int:
        """How many rows the saved index says it covers, without loading or checking it; 0 if there is none."""
        try:
            return int(json.loads(self._description(vectors_file).read_text(encoding="utf-8"))["rows"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def catch_up(
        self,
        engine: Engine,
        vectors: Float32s,
        vectors_file: str,
        identity: Identity,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int], object] = lambda _: None,
    ) -> Index | None:
        """The index over all rows of a vectors file: as saved, extended, or built anew; saved again if it grew.

        None when ``stop`` said so or there is nothing to index.  The caller holds ``lock``.
        """
        index = None
        try:
            index = self.load(engine, vectors_file, identity)
        except IndexDamaged as error:
            log.warning("the index of %s is made anew: %s", vectors_file, error)
        if len(vectors) and (index is None or index.rows < len(vectors)):
            index = engine.build(vectors, index, stop, progress)
            if index:
                try:
                    self.save(engine, index, vectors_file, identity)
                except (StoreError, OSError) as error:
                    log.warning("the index of %s is used, but could not be saved: %s", vectors_file, error)
        return index

    def save(self, engine: Engine, index: Index, vectors_file: str, identity: Identity) -> None:
        """Writes the index of ``vectors_file`` so that a kill at any moment leaves the previous one whole.

        Raises IndexDamaged when the disk did not take all of it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        described = self._description(vectors_file)
        stem = Path(vectors_file).stem
        file = self._folder / f"{stem}-{index.rows}{engine.suffix}"
        part = file.with_suffix(".part")
        expected = engine.write(index, part)
        written = part.stat().st_size if part.exists() else 0
        if written != expected:
            part.unlink(missing_ok=True)
            raise IndexDamaged(f"{part}: {written} of {expected} bytes could be written; is the disk full?")
        checksum = _flush_and_hash(part)
        part.replace(file)
        description = {
            "engine": engine.name, "vectors": vectors_file, "identity": identity.to_json(), "metric": "cosine",
            "dim": identity.dim, "rows": index.rows, "parameters": dict(engine.parameters),
            "file": file.name, "bytes": written, "sha256": checksum,
        }  # fmt: skip
        part = described.with_suffix(".part")
        part.write_text(json.dumps(description, indent=1), encoding="utf-8")
        _flush_and_hash(part)
        part.replace(described)
        self._sweep(stem, {file, described})

    def load(self, engine: Engine, vectors_file: str, identity: Identity) -> Index | None:
        """The saved index of ``vectors_file``; None if there is none, or one of another engine.

        Raises IndexDamaged, before the engine sees a byte, when anything about it is not as it was saved.
        """
        described = self._description(vectors_file)
        if not described.is_file():
            return None
        try:
            saved = json.loads(described.read_text(encoding="utf-8"))
            file, rows, dim = self._folder / Path(saved["file"]).name, int(saved["rows"]), int(saved["dim"])
            if saved["engine"] != engine.name:
                return None
            fits = (
                saved["vectors"] == vectors_file and saved["metric"] == "cosine"
                and Identity.from_json(saved["identity"]) == identity and dim == identity.dim
                and file.stat().st_size == saved["bytes"] and sha256(file) == saved["sha256"]
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise IndexDamaged(f"{described} cannot be used: {error!r}") from error
        if not fits:
            raise IndexDamaged(f"{file} is not what was saved (size, checksum or identity differ)")
        return engine.read(file, dim, rows)

    def remove_others(self, vectors_files: set[str]) -> None:
        """Deletes the indexes of vectors files that are no more."""
        stems = {Path(name).stem for name in vectors_files}
        for file in self._folder.glob("*") if self._folder.is_dir() else ():
            if not any(file.name.startswith(stem) for stem in stems):
                with contextlib.suppress(OSError):  # still in use on Windows: next time
                    file.unlink()

    def _description(self, vectors_file: str) -> Path:
        return self._folder / f"{Path(vectors_file).stem}.json"

    def _sweep(self, stem: str, keep: set[Path]) -> None:
        for file in self._folder.glob(f"{stem}*"):
            if file not in keep:
                try:
                    file.unlink()
                except OSError as error:
                    log.info("%s is still in use and stays for now (%s)", file, error)


def _flush_and_hash(file: Path) -> str:
    with file.open("r+b") as data:
        os.fsync(data.fileno())
    return sha256(file)
