"""A register of what each row of a vectors file is, kept beside it: SQLite takes a microsecond a row to tell it.

Who deletes such a file loses nothing.  Its checksum covers the moment that it is of as well, so one of another moment, or
one that was damaged, counts as none.
"""

from __future__ import annotations

import contextlib
import secrets
import zlib
from pathlib import Path

import numpy as np

from ..records import Float32s, Int64s

#: Of each row its image's id, the checksum of that and the vector, and the vector's length, one column after the other.
COLUMNS = ("<i8", "<i8", "<f4")
CRC = 8  # bytes of the CRC-32 that stands first, little-endian, so that the columns are aligned


def read(file: Path, moment: str, rows: int) -> tuple[Int64s, Int64s, Float32s] | None:
    """Ids int64[rows], checksums int64[rows] and lengths float32[rows] as ``write`` kept them at that moment, or None."""
    try:
        data = bytearray(file.read_bytes())
    except OSError:
        return None
    if len(data) != CRC + rows * sum(np.dtype(each).itemsize for each in COLUMNS):
        return None
    if int.from_bytes(data[:CRC], "little") != _checksum(moment, memoryview(data)[CRC:]):
        return None
    columns, at = [], CRC
    for each in COLUMNS:
        columns.append(np.frombuffer(data, each, rows, at))
        at += columns[-1].nbytes
    ids, checksums, norms = columns
    return ids, checksums, norms


def write(file: Path, moment: str, *columns: Int64s | Float32s) -> None:
    """Keeps the columns for who opens the layer next; where that cannot be, nothing is kept."""
    data = b"".join(column.astype(kind).tobytes() for column, kind in zip(columns, COLUMNS, strict=True))
    part = file.with_name(f"{file.name}.{secrets.token_hex(3)}.part")
    try:
        part.write_bytes(_checksum(moment, memoryview(data)).to_bytes(CRC, "little") + data)
        part.replace(file)
    except OSError:  # a full disk, or on Windows someone who reads it
        with contextlib.suppress(OSError):
            part.unlink()


def _checksum(moment: str, data: memoryview) -> int:
    return zlib.crc32(data, zlib.crc32(moment.encode()))
