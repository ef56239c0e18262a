"""How rows travel between our server and our client: JSON lines for records, .npy for numbers.

``GET /api/sync/{kind}`` answers one .npy array, int64[n, 2]: id and digest, ids ascending.
``POST /api/sync/{kind}/fetch`` answers, for an embedding layer, blocks one after the other until the
stream ends, each of two .npy arrays: int64[n, 2] (id, digest) and float32 (or float16) [n, dim]; for
other kinds JSON lines, one record each, with its ``digest`` as a string, since JavaScript's numbers are
too narrow for it; a row that cannot be kept has its id, and in ``set_aside`` why.  .npy is little-endian here, version 1.0, C order.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, cast

import numpy as np

from ..errors import BadAnswer
from ..plain import shown
from ..records import Batch, Captions, Cluster, ImageRecord, Int64s
from ..storable import LARGEST, sifted

log = logging.getLogger(__name__)

LINES = "application/x-ndjson"
ARRAYS = "application/x-npy"


PIECE = 1 << 18  # bytes


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def pack_digests(ids: Int64s, digests: Int64s) -> bytes:
    return _npy(np.column_stack([ids, digests]).astype("<i8"))


def pieces(data: bytes | memoryview) -> Iterator[bytes]:
    """Data in pieces, so that a client that does not read holds up, and fills, only its own."""
    view = memoryview(data)
    for at in range(0, len(view), PIECE):
        yield bytes(view[at : at + PIECE])


def unpack_digests(body: Readable) -> tuple[Int64s, Int64s]:
    both = _read_npy(body, np.int64, 2)
    return both[:, 0].copy(), both[:, 1].copy()


def pack_vectors(batches: Iterable[Batch], dtype: str) -> Iterator[bytes]:
    for batch in batches:
        yield pack_digests(batch.ids, batch.digests)
        vectors = np.ascontiguousarray(batch.rows, dtype=dtype)
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(vectors))
        yield head.getvalue()
        yield from pieces(vectors.reshape(-1).view(np.uint8).data)


def unpack_vectors(body: Readable, dim: int) -> Iterator[Batch]:
    while first := body.read(1):
        keys = _read_npy(body, np.int64, 2, first)
        vectors = _read_npy(body, np.float32, dim)
        if len(keys) != len(vectors):
            raise BadAnswer(f"DT sent {len(keys)} ids with {len(vectors)} vectors")
        yield Batch(keys[:, 0].copy(), keys[:, 1].copy(), vectors)


def pack_records(batches: Iterable[Batch]) -> Iterator[bytes]:
    for batch in map(sifted, batches):
        lines = [
            json.dumps({**cast("Any", record).to_json(), "digest": str(digest)}, ensure_ascii=False)
            for record, digest in zip(batch.rows, batch.digests.tolist(), strict=True)
        ]
        lines += [json.dumps({"id": i, "digest": "0", "set_aside": reason}) for i, reason in batch.aside.items()]
        yield from pieces(("\n".join(lines) + "\n").encode())


def unpack_records(kind: str, lines: Iterable[bytes]) -> Iterator[Batch]:
    records: list[Any] = []
    keys: list[int] = []
    digests: list[int] = []
    aside: dict[int, str] = {}
    for line in lines:
        try:  # bytes that are no UTF-8 become half characters, which can be kept nowhere
            value = json.loads(line.decode(errors="surrogateescape"))
            digest = int(value["digest"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise BadAnswer(f"DT sent a line that cannot be read ({shown(error, 100)}): {line[:200]!r}") from error
        try:
            key = int(value["image_id" if kind == "captions" and "set_aside" not in value else "id"])
        except (ValueError, KeyError, TypeError, OverflowError):
            key = LARGEST + 1
        if not all(-LARGEST - 1 <= number <= LARGEST for number in (key, digest)):  # nobody can have asked for it
            log.warning("DT sent %s with an id or digest that is none: %s", kind, line[:200])
            continue
        try:
            if "set_aside" in value:
                raise BadAnswer(shown(value["set_aside"], 200))
            records.append(_READERS[kind](value))
        except BadAnswer as error:
            aside[key] = str(error)
            continue
        keys.append(key)
        digests.append(digest)
    if records or aside:
        yield Batch(np.array(keys, np.int64), np.array(digests, np.int64), records, aside)


_READERS: dict[str, Callable[[Any], Any]] = {
    "images": ImageRecord.from_json,
    "captions": lambda value: Captions.from_json(value, value["image_id"]),
    "clusters": Cluster.from_json,
}


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return out.getvalue()


def _read_npy(body: Readable, dtype: type[np.generic], width: int, first: bytes = b"") -> Any:
    """An array, whose size is looked at before there is room made for it; ``first``: what was read of it already."""
    head = io.BytesIO(first + _exactly(body, 10 - len(first)))
    length = int.from_bytes(head.getvalue()[8:], "little")
    try:
        if np.lib.format.read_magic(head) != (1, 0):
            raise ValueError("not of version 1.0")
        lines = io.BytesIO(head.getvalue()[8:] + _exactly(body, length))
        shape, in_columns, sent = np.lib.format.read_array_header_1_0(lines, max_header_size=1000)
    except BadAnswer:
        raise
    except Exception as error:  # what reads the line as Python fails in many ways
        raise BadAnswer(f"DT sent numbers that cannot be read: {shown(error, 200)}") from error
    if len(shape) != 2 or shape[1] != width or sent.kind != np.dtype(dtype).kind or in_columns:
        raise BadAnswer(f"DT sent {sent}{list(shape)} where [n, {width}] was due")
    data = _exactly(body, shape[0] * shape[1] * sent.itemsize)
    return np.frombuffer(data, sent).reshape(shape).astype(dtype, copy=False)


def _exactly(body: Readable, size: int) -> bytes:
    """So many bytes; memory is taken only for what comes, since a size is soon said."""
    pieces = []
    while size and (piece := body.read(min(size, 1 << 20))):
        pieces.append(piece)
        size -= len(piece)
    if size:
        raise BadAnswer(f"DT sent numbers that break off {size:,} bytes before their end")
    return b"".join(pieces)
