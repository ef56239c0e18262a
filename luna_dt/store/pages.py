"""A database's pages and what stands on each, read without SQLite, which goes no further than the first damage.

SQLite finds a row by a tree of pages, so one bad page hides all below it, and one bad frame of the log (``-wal``) all
that were written after it.  Here every page is looked at by itself: https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

MAGIC = b"SQLite format 3\0"
PAGE_SIZE = 4096  # bytes, where the file does not say it; SQLite's default, which no library changes
INNER_ROWID, INNER_KEY, LEAF_ROWID, LEAF_KEY = 5, 2, 13, 10  # a page's first byte; KEY: of an index, or WITHOUT ROWID
_DECODED = (struct.error, IndexError, ValueError, OverflowError)  # by what stands there being no row


@dataclass(frozen=True)
class Row:
    """What stands in one place of a page; ``rowid`` is None where the table or index has none."""

    rowid: int | None
    values: tuple[Any, ...]


class Log:
    """The log beside a database: for each page its newest version that was committed, and what of it is damaged.

    A frame's checksum goes on from that of the frame before; reckoned backwards it says from which, so a frame proves
    itself wherever those before it are damaged or it was moved.
    """

    def __init__(self, content: bytes) -> None:
        self.pages: dict[int, bytes] = {}
        #: Which frame that is, in the order in which they were written.
        self.version: dict[int, int] = {}
        #: How many frames are damaged, what stands in those that were the newest of their page, and those pages' numbers.
        self.bad = 0
        self.damaged: list[bytes] = []
        self.outdated: set[int] = set()
        #: Whether SQLite reads all of it as well, and how many transactions it would leave out.
        self.is_sound, self.left_out = True, 0
        self.page_size = 0
        if len(content) >= 32:
            self._read(content)

    def _read(self, content: bytes) -> None:
        magic, _, size, _, *salts, first, second = struct.unpack(">8I", content[:32])
        order = ">" if magic == 0x377F0683 else "<"
        head = np.frombuffer(content[:24], f"{order}u4").astype(np.uint32)[None]
        whole = magic & ~1 == 0x377F0682 and _before(head, np.array([[first, second]], np.uint32)).tolist() == [[0, 0]]
        self.page_size = size if whole else 0
        size = self.page_size or PAGE_SIZE
        count = (len(content) - 32) // (24 + size)
        frames = np.frombuffer(content, np.uint8, count * (24 + size), 32).reshape(count, 24 + size)
        heads = frames[:, :24].copy().view(">u4").astype(np.int64)
        if not count:
            return
        sums = heads[:, 4:].astype(np.uint32)
        words = np.hstack([frames[:, :8], frames[:, 24:]]).view(f"{order}u4").astype(np.uint32)
        starts = [tuple(pair) for pair in _before(words, sums).tolist()]
        ends = [tuple(pair) for pair in sums.tolist()]
        ours = (heads[:, 2:4] == (salts if whole else heads[0, 2:4])).all(axis=1).tolist()
        known = {(first, second), *ends, *([] if whole else [starts[0]])}
        # one behind a frame whose checksum is gone with all of it proves nothing, but is not damaged for that
        sound = [i for i in range(count) if ours[i] and (starts[i] in known or (i and not ours[i - 1]))]
        commits = heads[:, 1] != 0
        last = max((i for i in sound if commits[i]), default=-1)
        bad = sorted({*range(count)}.difference(sound))
        # behind the last commit lies what was never committed, or is older than the log: unless a frame says otherwise
        bad = [i for i in bad if i < last or (ours[i] and commits[i])]
        written = _in_order(sound, starts, ends, (first, second))
        if not any(i > last for i in bad):
            while written and not commits[written[-1]]:
                written.pop()
        page_of = heads[:, 0].tolist()
        follows = [ours[i] and starts[i] == (ends[i - 1] if i else (first, second)) for i in range(count)]
        stop = next((i for i in range(count) if not (whole and follows[i])), count)
        self.left_out = sum(1 for i in range(stop, count) if ours[i] and commits[i])
        if not whole and any(content[:32]):  # without its head SQLite reads nothing of it, however much there is
            self.left_out = max(2, self.left_out)
        self.is_sound = not bad and (whole or not written) and written == sorted(written)
        self.version = {page_of[i]: i for i in written}
        self.pages = {number: frames[i, 24:].tobytes() for number, i in self.version.items()}
        newest = [i for i in bad if i > self.version.get(page_of[i], -1)]
        self.bad, self.damaged = len(bad), [frames[i, 24:].tobytes() for i in newest]
        self.outdated = {page_of[i] for i in newest}


def _before(words: npt.NDArray[np.uint32], sums: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The checksums from which those words lead to these: uint32[n, words], uint32[n, 2]."""
    first, second = sums[:, 0].copy(), sums[:, 1].copy()
    for at in range(words.shape[1] - 2, -1, -2):
        second -= words[:, at + 1] + first
        first -= words[:, at] + second
    return np.stack([first, second], axis=1)


def _in_order(
    sound: list[int], starts: list[tuple[int, ...]], ends: list[tuple[int, ...]], start: tuple[int, ...]
) -> list[int]:
    """Frames as they follow each other; where the chain is broken it goes on with the first that is left."""
    after, left, order = {starts[i]: i for i in sound}, dict.fromkeys(sound), list[int]()
    at = after.get(start)
    while left:
        if at is None or at not in left:
            at = next(iter(left))
        del left[at]
        order.append(at)
        at = after.get(ends[at])
    return order


def is_cut(file: BinaryIO, log: Log) -> bool:
    """Whether a database's file ends before the pages do that its header counts; raises OSError."""
    file.seek(0)
    head = (log.pages.get(1) or file.read(100))[:100]
    if head[:16] != MAGIC or head[24:28] != head[92:96]:  # then what it counts may be of an earlier time
        return False
    size = int.from_bytes(head[16:18], "big")
    there, count = file.seek(0, 2) // (65536 if size == 1 else max(size, 512)), int.from_bytes(head[28:32], "big")
    return count - there > len(log.pages) or any(number not in log.pages for number in range(there + 1, count + 1))


class Pages:
    """The pages of a database file, 1 to ``count``, each as its log has it, else as the file has it; raises OSError."""

    def __init__(self, file: BinaryIO, log: Path) -> None:
        self._file = file
        self.log = Log(log.read_bytes() if log.is_file() else b"")
        length = file.seek(0, 2)
        self.size = self.log.page_size or self._likely_size(length)
        self.count = max([-(-length // self.size), *(n for n in self.log.pages if n < 2**31)])
        head = self[1][:100] if self.count else b""
        self.headed = head[:18] == MAGIC + struct.pack(">H", self.size % 0xFFFF)
        self.format = int.from_bytes(head[60:64], "big") if self.headed else 0
        self.free = self._free(head)
        #: Pages that hold the rest of rows that were read.
        self.overflow: set[int] = set()

    def _likely_size(self, length: int) -> int:
        """That by which pages begin as pages do: what the file says, or the usual."""
        self._file.seek(16)
        said = int.from_bytes(self._file.read(2), "big")
        sizes = {size for size in (PAGE_SIZE, 65536 if said == 1 else said) if size in (1 << n for n in range(9, 17))}

        def fitting(size: int) -> float:
            numbers = range(2, min(length // size, 1000) + 1)
            kinds = [self._at(number, size)[:1] for number in numbers]
            return sum(kind in (b"\5", b"\2", b"\15", b"\12") for kind in kinds) / max(1, len(kinds))

        # where a page of the smaller size begins, one of the larger does every so often: the smaller, unless it fits ill
        return next(size for size in sorted(sizes) if fitting(size) >= 0.6 * max(map(fitting, sizes)))

    def _at(self, number: int, size: int) -> bytes:
        try:
            self._file.seek((number - 1) * size)
            return self._file.read(size).ljust(size, b"\0")
        except OSError:  # a bad sector: the pages behind it may be well
            return bytes(size)

    def __getitem__(self, number: int) -> bytes:
        return self.log.pages.get(number) or self._at(number, self.size)

    def _free(self, head: bytes) -> set[int] | None:
        """The pages that are not in use, which may hold what was deleted; None where that cannot be known."""
        if not self.headed:
            return None
        trunk, said = struct.unpack(">2I", head[32:40])
        found: set[int] = set()
        while trunk:
            if trunk in found or not 1 < trunk <= self.count:
                return None
            page = self[trunk]
            found.add(trunk)
            trunk, count = struct.unpack(">2I", page[:8])
            if count > self.size // 4 - 2:
                return None
            found.update(struct.unpack(f">{count}I", page[8 : 8 + 4 * count]))
        return found if len(found) == said else None

    def tree(self, root: int, rowids: bool, seen: set[int]) -> tuple[list[int], int]:
        """The pages of a tree that are what they should be, in order, which are ``seen`` from now on; and how many
        are not."""
        inner, leaf = (INNER_ROWID, LEAF_ROWID) if rowids else (INNER_KEY, LEAF_KEY)
        todo, good, bad = [root], list[int](), 0
        while todo:
            number = todo.pop()
            page = self[number] if 1 <= number <= self.count and number not in seen else b""
            kind = kind_of(page, number)
            if kind not in (inner, leaf):
                bad += 1
                continue
            seen.add(number)
            good.append(number)
            if kind == inner:
                start = 100 if number == 1 else 0
                places = [*_places(page, start), start + 8]
                todo += [int.from_bytes(page[at : at + 4], "big") for at in reversed(places)]
        return good, bad

    def rows(self, page: bytes, start: int = 0) -> Iterator[Row | None]:
        """What stands on a page, which begins at ``start``; None for what cannot be read or is not in its order."""
        kind = page[start]
        if kind == INNER_ROWID:
            return
        try:
            places = _places(page, start)
        except _DECODED:
            yield None
            return
        found = [self._row(page, at, kind) for at in places]
        keys = [row and (row.values if row.rowid is None else row.rowid) for row in found]
        for i, row in enumerate(found):
            known = row is not None and row.rowid is not None
            beside = [keys[i - 1] if i else None, keys[i + 1] if i + 1 < len(keys) else None]
            if known and any(
                key is not None and (key >= keys[i] if before else key <= keys[i])  # type: ignore[operator]
                for key, before in zip(beside, (True, False), strict=True)
            ):
                row = None
            yield row

    def _row(self, page: bytes, at: int, kind: int) -> Row | None:
        try:
            at += 4 if kind == INNER_KEY else 0
            length, at = _varint(page, at)
            rowid = None
            if kind == LEAF_ROWID:
                rowid, at = _varint(page, at)
                rowid -= (rowid >> 63) << 64
            return Row(rowid, _values(self._payload(page, at, length, kind == LEAF_ROWID)))
        except _DECODED:
            return None

    def _payload(self, page: bytes, at: int, length: int, rowids: bool) -> bytes:
        """A row's bytes, the rest of which lies on pages of its own where they are many."""
        size = self.size
        most = size - 35 if rowids else (size - 12) * 64 // 255 - 23
        if length <= most:
            return _cut(page, at, length)
        if length > self.count * size:
            raise ValueError
        least = (size - 12) * 32 // 255 - 23
        here = least + (length - least) % (size - 4)
        here = here if here <= most else least
        parts, left, number = [_cut(page, at, here)], length - here, int.from_bytes(_cut(page, at + here, 4), "big")
        numbers: list[int] = []
        while left > 0:
            if not 1 < number <= self.count or len(numbers) > self.count:
                raise ValueError
            numbers.append(number)
            rest = self[number]
            parts.append(rest[4 : 4 + min(left, size - 4)])
            left -= size - 4
            number = int.from_bytes(rest[:4], "big")
        if number:
            raise ValueError
        self.overflow.update(numbers)
        return b"".join(parts)


def kind_of(page: bytes, number: int = 0) -> int:
    """What kind of page it says it is; 0 for what is none."""
    start = 100 if number == 1 else 0
    return page[start] if len(page) > start and page[start] in (INNER_ROWID, INNER_KEY, LEAF_ROWID, LEAF_KEY) else 0


def _places(page: bytes, start: int) -> list[int]:
    """Where on a page its cells begin."""
    count = int.from_bytes(page[start + 3 : start + 5], "big")
    first = start + (8 if page[start] in (LEAF_ROWID, LEAF_KEY) else 12)
    count = min(count, (len(page) - first) // 4)  # as many as there is room for, whatever it says
    return list(struct.unpack_from(f">{count}H", page, first))


def _cut(page: bytes, at: int, length: int) -> bytes:
    if at + length > len(page):
        raise ValueError
    return page[at : at + length]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for _ in range(8):
        byte = data[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    return value << 8 | data[at], at + 1


_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


def _values(data: bytes) -> tuple[Any, ...]:
    """A row's values; raises ValueError and its like where they are not exactly as long as the row."""
    head, at = _varint(data, 0)
    body, values = head, list[Any]()
    while at < head:
        kind, at = _varint(data, at)
        length = _INTEGERS.get(kind, 8 if kind == 7 else (kind - 12) // 2 if kind >= 12 else 0)
        part = _cut(data, body, length)
        body += length
        if kind == 0:
            values.append(None)
        elif kind in _INTEGERS:
            values.append(int.from_bytes(part, "big", signed=True))
        elif kind == 7:
            values.append(struct.unpack(">d", part)[0])
        elif kind in (8, 9):
            values.append(kind - 8)
        elif kind in (10, 11):
            raise ValueError
        else:
            values.append(part.decode() if kind % 2 else part)
    if at != head or body != len(data):
        raise ValueError
    return tuple(values)
