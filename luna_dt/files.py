"""What a file is known by: its content's SHA-256, and a stamp that changes when the file does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BYTES_AT_ONCE = 4 << 20  # bytes read between two looks at whether to stop


def sha256(file: Path, stop: Callable[[], bool] = lambda: False) -> str:
    """The SHA-256 of a file's content, in hexadecimal; raises OSError, InterruptedError when ``stop`` says so."""
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while block := data.read(BYTES_AT_ONCE):
            if stop():
                raise InterruptedError
            digest.update(block)
    return digest.hexdigest()


def sha256_of(rows: npt.NDArray[Any], stop: Callable[[], bool] = lambda: False) -> str:
    """The SHA-256 of an array's bytes, row by row; raises InterruptedError when ``stop`` says so."""
    digest = hashlib.sha256()
    step = max(1, BYTES_AT_ONCE // max(1, rows[:1].nbytes))
    for at in range(0, len(rows), step):
        if stop():
            raise InterruptedError
        digest.update(np.ascontiguousarray(rows[at : at + step]).data)
    return digest.hexdigest()


def stamp(file: Path) -> str:
    """A file's size and time of change; raises OSError."""
    seen = file.stat()
    return f"{seen.st_size} {seen.st_mtime_ns}"
