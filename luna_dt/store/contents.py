"""What was read of which file: the digests of pictures' contents and the SHA-256 of weights, with the files' stamps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .. import files
from ..errors import WeightsError
from .database import Database


class Contents(Database):
    """The tables ``files`` and ``weights``; a file is read again only when its stamp has changed."""

    def files(self) -> dict[int, tuple[str, int]]:
        """For every picture that was read: its file's stamp then, and a digest of its content."""
        return {i: (stamp, content) for i, stamp, content in self.rows("SELECT image_id, stamp, content FROM files")}

    def content(self, image_id: int, stamp: str | None = None) -> int | None:
        """The digest of a picture's content when it was last read, with that stamp if one is given."""
        rows = self.rows("SELECT content, stamp FROM files WHERE image_id = ?", [image_id])
        return int(rows[0][0]) if rows and stamp in (None, rows[0][1]) else None

    def put_files(self, read: Iterable[tuple[int, str, int]]) -> None:
        """Remembers (image id, stamp, digest of the content) of pictures that were read."""
        with self.writing("maps") as db:  # which are known by the pictures' contents
            db.executemany("INSERT OR REPLACE INTO files (image_id, stamp, content) VALUES (?, ?, ?)", read)

    def sha256(self, file: Path) -> str:
        """The SHA-256 of a file of weights, read again only when its size or time has changed; raises WeightsError."""
        try:
            stamp = files.stamp(file)
            known = self.rows("SELECT sha256 FROM weights WHERE path = ? AND stamp = ?", [str(file), stamp])
            if known:
                return str(known[0][0])
            digest = files.sha256(file)
        except OSError as error:
            raise WeightsError(f"the weights {file} cannot be read: {error}") from error
        with self.writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO weights (path, stamp, sha256) VALUES (?, ?, ?)", [str(file), stamp, digest]
            )
        return digest
