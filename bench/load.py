"""The server under many clients at once, over a drawn stock database: ``python -m bench.load``.

    python -m bench.load [--clients 64] [--pictures 100000] [--minutes 10]

Each client asks on and on over a connection of its own, one call after the other: single images most of all, among them
files, thumbnails and lists.  Claims: no call fails, an image's p99 is below FACTOR times its median, and the server's
memory does not grow by more than GROWTH after the first quarter of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from luna_dt.demo import served
from luna_dt.demo.drawing import draw, random_scene
from tests.stock import create, run

FACTOR, GROWTH = 5.0, 50e6  # times the median; bytes
FILES = 200  # pictures that lie on disk, under the lowest ids
#: What is asked, how often of a hundred, and its path.
CALLS = (
    ("image", 70, "/api/images/{id}"),
    ("file", 10, "/api/images/{file}/file"),
    ("thumbnail", 12, "/api/images/{file}/thumbnail"),
    ("list", 4, "/api/images?after_id={id}&limit=100"),
    ("query", 2, "/api/images?query=cat+{id}&limit=10"),
    ("clusters", 1, "/api/clusters"),
    ("health", 1, "/api/health"),
)


def fill(folder: Path, pictures: int, size: int) -> str:
    """A stock database of so many pictures, of which FILES lie on disk; gives its address."""
    file = folder / "diffusion-toolkit.db"
    create(file, "1.10")
    scenes = random.Random(0)
    for i in range(1, min(FILES, pictures) + 1):
        draw(random_scene(scenes), (size, size)).save(folder / f"{i}.png", compress_level=1)
    prompt = "a portrait of a cat in a garden, soft light, film grain, best quality, " * 3
    run(
        file,
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {int(pictures)}) "
        "INSERT INTO Image (Id, Path, FileName, Prompt, NegativePrompt, Steps, Sampler, CFGScale, Seed, Width, Height, "
        "Model, CreatedDate, FolderId, RootFolderId, Type) "
        f"SELECT i, '{folder.as_posix()}/' || i || '.png', i || '.png', '{prompt}' || i, 'blurry, lowres', 28, "
        f"'Euler a', 6.5, i * 7919, {size}, {size}, 'dream', 638000000000000000 + i, 1, 1, 0 FROM n",
        "INSERT INTO Album (Id, Name) VALUES (1, 'cats'), (2, 'others')",
        "INSERT INTO AlbumImage SELECT 1 + Id % 2, Id FROM Image WHERE Id % 10 = 0",
    )
    return str(file)


class Clients:
    """What clients asked of a server, how long each call took, and what went wrong."""

    def __init__(self, url: str, pictures: int) -> None:
        self._host = urlsplit(url)
        self._pictures = pictures
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.wrong: list[str] = []

    async def go_on(self, number: int, end: float) -> None:
        """Asks until the end, one call after the other."""
        draw = random.Random(number)
        reader, writer = await asyncio.open_connection(self._host.hostname, self._host.port, limit=1 << 20)
        while time.monotonic() < end:
            call, _, path = draw.choices(CALLS, [share for _, share, _ in CALLS])[0]
            path = path.format(id=draw.randint(1, self._pictures), file=draw.randint(1, min(FILES, self._pictures)))
            start = time.perf_counter()
            try:
                status, _ = await asyncio.wait_for(self.ask(reader, writer, path), 60)
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
                self.wrong.append(f"{path}: {type(error).__name__} {error}")
                reader, writer = await asyncio.open_connection(self._host.hostname, self._host.port, limit=1 << 20)
                continue
            self.seconds[call].append(time.perf_counter() - start)
            if status != 200:
                self.wrong.append(f"{path}: {status}")
        writer.close()

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> tuple[int, bytes]:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._host.netloc}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        return int(head[9:12]), await reader.readexactly(int(length[1]) if length else 0)

    async def memory(self) -> float:
        """Bytes that the server's process holds, as it says itself."""
        reader, writer = await asyncio.open_connection(self._host.hostname, self._host.port, limit=1 << 20)
        _, told = await self.ask(reader, writer, "/metrics")
        writer.close()
        found = re.search(rb"^process_resident_memory_bytes (\S+)", told, re.MULTILINE)  # on Linux
        return float(found[1]) if found else float("nan")


async def measure(url: str, pictures: int, clients: int, seconds: float) -> tuple[Clients, list[float]]:
    """The calls of all clients, and the server's memory at the quarters of the time."""
    asking, end = Clients(url, pictures), time.monotonic() + seconds
    working = [asyncio.create_task(asking.go_on(number, end)) for number in range(clients)]
    held = []
    for _ in range(4):
        await asyncio.sleep(seconds / 4)
        held.append(await asking.memory())
    await asyncio.gather(*working)
    return asking, held


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--clients", type=int, default=64)
    options.add_argument("--pictures", type=int, default=100_000)
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--size", type=int, default=768, help="pixels of a picture's side")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="luna-dt-load-") as folder:
        address = fill(Path(folder), asked.pictures, asked.size)
        with served(address) as url:
            found, held = asyncio.run(measure(url, asked.pictures, asked.clients, 60 * asked.minutes))
    total = sum(map(len, found.seconds.values()))
    print(f"{total:,} calls of {asked.clients} clients in {asked.minutes:g} min, {len(found.wrong):,} failed")
    print(f"{'call':10} {'calls':>9} {'median':>9} {'p95':>9} {'p99':>9} {'largest':>9}   p99 / median")
    times: dict[str, npt.NDArray[np.float64]] = {call: np.array(found.seconds[call]) * 1e3 for call, *_ in CALLS}
    for call, each in times.items():
        if len(each):
            p50, p95, p99 = np.percentile(each, [50, 95, 99])
            print(f"{call:10} {len(each):9,} {p50:6.1f} ms {p95:6.1f} ms {p99:6.1f} ms {each.max():6.0f} ms   {p99 / p50:.1f}")  # fmt: skip
    print("memory at the quarters:", ", ".join(f"{each / 1e6:.0f} MB" for each in held))
    assert not found.wrong, json.dumps(found.wrong[:10], indent=1)
    p50, p99 = np.percentile(times["image"], [50, 99])
    assert p99 < FACTOR * p50, f"an image's p99 is {p99 / p50:.1f} times its median"
    assert not held[-1] - held[0] > GROWTH, f"the server grew by {(held[-1] - held[0]) / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
