"""Saved indexes, each in checked files beside the store; the same for every engine.

An index is written under a new name, flushed, and only then named by the small JSON file that is replaced in
one step; that JSON holds everything a load must check first, because engines check nothing: a flipped bit
crashes the process, another dimension loads in silence.  It names the vectors that are covered by their checksum,
for their file may be another's, or an older copy may have been put in its place; and it is signed with its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import IndexDamaged, StoreError
from ..files import sha256, sha256_of
from ..identity import Identity
from ..records import Float32s
from .base import Engine
from .points import Points
from .proof import Proof, prove
from .rows import RowIndex

log = logging.getLogger(__name__)

AGAIN = 1.5  # times as many rows as when no engine was right: they are tried again
#: What may be raised in reading a description that is not as it was written.
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Saved:
    """What is known of a vectors file's index without loading it: ``engine`` ("exact" where none was right), the
    ``rows`` it covers, its ``proof``, and the engines that were ``refused`` with their recall."""

    engine: str = "exact"
    rows: int = 0
    proof: Proof | None = None
    refused: tuple[tuple[str, str], ...] = ()


class Shelf:
    """The saved indexes of one library; ``lock`` is held while one is made or changed."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "index"
        # a home that can only be read is searched by the index it has, which is loaded under this lock, too
        self._lock_file = (home if os.access(home, os.W_OK) else Path(tempfile.gettempdir())) / "index.lock"

    @contextlib.contextmanager
    def lock(self, stop: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Held by whoever makes an index: two at once are too much memory.

        Gives False when ``stop`` said so before it was free.  Raises StoreError.
        """
        lock = FileLock(self._lock_file)
        try:
            if self._lock_file.is_dir():
                self._lock_file.rmdir()  # nobody can hold that; with something in it it is not ours
            while not lock.is_locked and not stop():
                with contextlib.suppress(Timeout):  # another process may be building for minutes
                    lock.acquire(timeout=0.5)
        except OSError as error:
            raise StoreError(f"{self._lock_file} cannot be locked ({error}); no index is made meanwhile") from error
        try:
            yield lock.is_locked
        finally:
            lock.release()

    def saved(self, vectors_file: str) -> Saved:
        """What the description of a vectors file's index says, if its files are there; nothing is loaded."""
        try:
            told = self._described(vectors_file)
            saved = _saved(told)
            for each in told["files"].values() if saved.proof else ():
                self._sized(each)
        except BROKEN:
            return Saved()
        return saved

    def is_up(self, engines: Sequence[Engine], vectors_file: str, rows: int) -> bool:
        """Whether an index of one of those engines covers all rows, or none of them is right."""
        saved, names = self.saved(vectors_file), {engine.name for engine in engines}
        refused = {name for name, _ in saved.refused}
        return saved.rows == rows and (saved.engine in names or (saved.engine == "exact" and names <= refused))

    def catch_up(
        self,
        engines: Sequence[Engine],
        vectors: Float32s,
        vectors_file: str,
        identity: Identity,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int], object] = lambda _: None,
    ) -> RowIndex | None:
        """The index over all rows of a vectors file: as saved, extended, or made anew by the first engine that proves
        itself; saved again if it grew, and on the way after every ``part`` of an engine that takes long, so that who
        is stopped goes on from there.  ``progress`` hears how many rows are in.

        None when ``stop`` said so, when there is nothing to index, or when no engine is right: then every vector is to
        be compared.  The caller holds ``lock``.
        """
        if not len(vectors):
            return None
        saved, index = self.saved(vectors_file), None
        refused = dict(saved.refused)
        if not saved.rows or saved.rows * AGAIN < len(vectors):
            refused = {}
        try:
            loaded = (self.load(engine, vectors, vectors_file, identity, stop) for engine in engines)
            index = next((each for each in loaded if each), None)
        except IndexDamaged as error:
            log.warning("the index of %s is made anew: %s", vectors_file, error)
        if index and index.rows == len(vectors):
            return index
        first = index.engine if index else ""
        tried = [each for each in engines if each.name == first or each.name not in refused]
        tried.sort(key=lambda each: each.name != first)
        points = (index.points if index else Points.none()).with_rows(vectors, stop) if tried else None
        if points is None:
            return None
        for engine in tried:
            another, made = engine is not tried[-1], index
            for rows in _parts(engine, points, len(index.points) if index else 0):
                grown = _grown(
                    engine,
                    made,
                    vectors,
                    points.upto(rows),
                    another,
                    stop,
                    lambda done: progress(done * points.rows // len(points)),
                )
                if grown is None:
                    return None
                made, proof = grown
                if not proof.enough(another):
                    break  # nor will it find more among more
                made = self._kept(engine, made, vectors, vectors_file, identity, proof, refused)
            else:
                return made
            refused[engine.name] = str(proof)
            log.warning(
                "%s is not used for %s: it finds too little of what is nearest (%s)", engine.name, vectors_file, proof
            )
            index = None
        try:
            self._describe(vectors_file, {"engine": "exact", "rows": len(vectors), "refused": list(refused.items())})
        except OSError as error:
            log.warning("that no index of %s is right could not be noted: %s", vectors_file, error)
        return None

    def _kept(
        self,
        engine: Engine,
        index: RowIndex,
        vectors: Float32s,
        vectors_file: str,
        identity: Identity,
        proof: Proof,
        refused: dict[str, str],
    ) -> RowIndex:
        try:
            file = self.save(engine, index, vectors, vectors_file, identity, proof, refused)
            if not engine.mapped:
                return index
            return _read(
                engine, file, vectors, index.points, proof
            )  # what was built lies in memory, what is read does not
        except (StoreError, OSError) as error:
            log.warning("the index of %s is used, but could not be saved: %s", vectors_file, error)
            return index

    def save(
        self,
        engine: Engine,
        index: RowIndex,
        vectors: Float32s,
        vectors_file: str,
        identity: Identity,
        proof: Proof,
        refused: dict[str, str] | None = None,
    ) -> Path:
        """Writes the index of ``vectors_file`` so that a kill at any moment leaves the previous one whole.

        Gives the index's own file; raises IndexDamaged when the disk did not take all of it.
        """
        self._make_folder()
        stem = Path(vectors_file).stem
        name = f"{stem}-{index.rows}-{secrets.token_hex(3)}"  # never one that may be mapped: Windows replaces none
        points, file = self._folder / f"{name}.points", self._folder / f"{name}{engine.suffix}"
        try:
            written = {
                "points": _written(points, lambda part: index.points.write(part)),
                "index": _written(file, lambda part: engine.write(index.index, part)),
            }
        except OSError as error:
            raise IndexDamaged(f"{file} could not be written ({error}); is the disk full?") from error
        self._describe(
            vectors_file,
            {
                "engine": engine.name, "vectors": vectors_file, "identity": identity.to_json(), "metric": "cosine",
                "dim": identity.dim, "rows": index.rows, "parameters": dict(engine.parameters), "files": written,
                "vectors_sha256": sha256_of(vectors[: index.rows]), "proof": proof.to_json(),
                "refused": list((refused or {}).items()),
            },
        )  # fmt: skip
        self._sweep(stem, {file, points, self._description(vectors_file)})
        return file

    def load(
        self,
        engine: Engine,
        vectors: Float32s,
        vectors_file: str,
        identity: Identity,
        stop: Callable[[], bool] = lambda: False,
    ) -> RowIndex | None:
        """The saved index of ``vectors_file``; None if there is none, or one made otherwise, or ``stop`` said so.

        Raises IndexDamaged, before the engine sees a byte, when anything about it is not as it was saved.
        """
        described = self._description(vectors_file)
        try:
            told = self._described(vectors_file)
            saved = _saved(told)
            if saved.engine != engine.name or told["parameters"] != engine.parameters:
                return None
            rows, proof = saved.rows, Proof.from_json(told["proof"])
            fits = (
                told["vectors"] == vectors_file and told["metric"] == "cosine" and told["dim"] == identity.dim
                and Identity.from_json(told["identity"]) == identity and 0 <= rows <= len(vectors)
            )  # fmt: skip
            points_file, file = (self._checked(told["files"][name], stop) for name in ("points", "index"))
            fits = fits and sha256_of(vectors[:rows], stop) == told["vectors_sha256"]
        except (InterruptedError, FileNotFoundError):
            return None
        except BROKEN as error:
            raise IndexDamaged(f"{described} cannot be used: {error!r:.200}") from error
        if not fits:
            raise IndexDamaged(f"{described} is of other vectors (file, checksum, rows or identity differ)")
        points = Points.read(points_file)
        if points.rows != rows:
            raise IndexDamaged(f"{points_file} holds {points.rows} rows instead of {rows}")
        return _read(engine, file, vectors, points, proof)

    def remove_others(self, vectors_files: set[str]) -> None:
        """Deletes the indexes of vectors files that are no more."""
        stems = {Path(name).stem for name in vectors_files}
        for file in self._folder.glob("*") if self._folder.is_dir() else ():
            if not any(file.name.startswith(stem) for stem in stems):
                with contextlib.suppress(OSError):  # still in use on Windows: next time
                    _clear(file)

    def _checked(self, told: dict[str, Any], stop: Callable[[], bool]) -> Path:
        file = self._sized(told)
        if sha256(file, stop) != told["sha256"]:
            raise ValueError(f"{file} is not what was saved")
        return file

    def _sized(self, told: dict[str, Any]) -> Path:
        file = self._folder / Path(told["file"]).name
        if not file.is_file() or file.stat().st_size != told["bytes"]:
            raise ValueError(f"{file} is not as large as what was saved, or not there")
        return file

    def _make_folder(self) -> None:
        if not self._folder.is_dir():
            _clear(self._folder)  # a file, or a link to nothing
        self._folder.mkdir(parents=True, exist_ok=True)

    def _description(self, vectors_file: str) -> Path:
        return self._folder / f"{Path(vectors_file).stem}.json"

    def _described(self, vectors_file: str) -> dict[str, Any]:
        told = json.loads(self._description(vectors_file).read_text(encoding="utf-8"))
        if not isinstance(told, dict) or told != signed(told):
            raise ValueError("the description is not what was saved")
        return told

    def _describe(self, vectors_file: str, told: dict[str, Any]) -> None:
        self._make_folder()
        described = self._description(vectors_file)
        part = described.with_suffix(".part")
        for file in (described, part):
            if file.is_dir():
                _clear(file)
        part.write_text(json.dumps(signed(told), indent=1), encoding="utf-8")
        _flush(part)
        part.replace(described)

    def _sweep(self, stem: str, keep: set[Path]) -> None:
        for file in self._folder.glob(f"{stem}*"):
            if file not in keep:
                try:
                    _clear(file)
                except OSError as error:
                    log.info("%s is still in use and stays for now (%s)", file, error)


def signed(told: dict[str, Any]) -> dict[str, Any]:
    """A description with the checksum of all else in it: who edits it by hand gives the index up."""
    rest = {name: value for name, value in told.items() if name != "sha256"}
    return {**rest, "sha256": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def _saved(told: dict[str, Any]) -> Saved:
    """What a description says; raises one of BROKEN."""
    proof = Proof.from_json(told["proof"]) if told.get("proof") else None
    refused = tuple((str(name), str(why)) for name, why in told.get("refused", ()))
    return Saved(str(told["engine"]), int(told["rows"]), proof, refused)


def _read(engine: Engine, file: Path, vectors: Float32s, points: Points, proof: Proof) -> RowIndex:
    """An index as it was written, searched as wide as its proof was."""
    index = engine.read(file, vectors, points)
    if proof.wide:
        index.widen()
    return RowIndex(engine.name, index, points, vectors)


def _parts(engine: Engine, points: Points, known: int) -> Iterator[int]:
    """The numbers of rows up to which an index is made and saved, one after the other, if it has ``known`` points."""
    if engine.part:
        yield from points.first[range(known + engine.part, len(points) - engine.part, engine.part)].tolist()
    yield points.rows


def _grown(
    engine: Engine,
    start: RowIndex | None,
    vectors: Float32s,
    points: Points,
    another: bool,
    stop: Callable[[], bool],
    progress: Callable[[int], object],
) -> tuple[RowIndex, Proof] | None:
    """An index over ``points``, taking up ``start``, searched as wide as it must be to be enough; None when stopped."""
    made = engine.build(vectors, points, start.index if start else None, stop, progress)
    if made is None:
        return None
    index = RowIndex(engine.name, made, points, vectors)
    proof = prove(index, vectors, stop)
    while proof and not proof.enough(another) and made.widen():
        proof = prove(index, vectors, stop)
        proof = proof and replace(proof, wide=True)
    return (index, proof) if proof else None


def _clear(place: Path) -> None:
    """Deletes what stands in a place of ours; a folder too."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _written(file: Path, write: Callable[[Path], int]) -> dict[str, Any]:
    """Writes a file beside its place, checks that the disk took all, and puts it there; what a load must check."""
    part = file.with_name(file.name + ".part")
    try:
        expected = write(part)
        size = part.stat().st_size if part.exists() else 0
        if size != expected:
            raise OSError(f"{size} of {expected} bytes could be written")
        _flush(part)
        checksum = sha256(part)
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return {"file": file.name, "bytes": expected, "sha256": checksum}


def _flush(file: Path) -> None:
    with file.open("r+b") as data:
        os.fsync(data.fileno())
