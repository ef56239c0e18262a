"""What a file is known by: its content's SHA-256, and a stamp that changes when the file does."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; raises OSError."""
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while block := data.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def stamp(file: Path) -> str:
    """A file's size and time of change; raises OSError."""
    seen = file.stat()
    return f"{seen.st_size} {seen.st_mtime_ns}"
