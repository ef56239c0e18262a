"""Syncing vectors beside a bare ``COPY … BINARY`` into NumPy, from one PostgreSQL, in one run.

    python -m bench.sync [--rows 100000] [--dim 1280]

The bare copy reads ids and vectors and keeps them in memory; the syncs also compare digests, write,
flush and commit, each in a process of its own whose peak memory is taken.  Claims: directly at least
half the bare rate, through the REST server a third; memory bounded by the page, not the library.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from luna_dt import Identity, Settings
from luna_dt.demo import database, served
from luna_dt.dt import connect
from luna_dt.mirror import sync
from luna_dt.store import Store


def fill(address: str, rows: int, dim: int) -> None:
    """A fork database with that many images and visual vectors, written by binary COPY."""
    vector = np.dtype([("length", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("values", ">f4", (dim,))])
    row = np.dtype([("fields", ">i2"), ("l", ">i4"), ("id", ">i4"), ("vector", vector)])
    rng = np.random.default_rng(0)
    with psycopg.connect(address) as connection:
        identity = Identity("bench", "", "image", "pooled", "squash", dim)
        database.create_tables(connection, "bench", {"visual": identity})
        connection.execute(
            "INSERT INTO image (id, root_folder_id, folder_id, path, file_name, prompt, created_date, modified_date) "
            "SELECT i, 1, 1, 'D:\\Pictures\\' || i || '.png', i || '.png', 'a portrait of a woman, soft light', now(), now() "
            "FROM generate_series(1, %s) i",
            [rows],
        )
        connection.execute(f"CREATE TEMP TABLE given (id integer, v vector({dim}))")
        with connection.cursor().copy("COPY given FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for at in range(1, rows + 1, 4096):
                part = np.zeros(min(4096, rows + 1 - at), row)
                part["fields"], part["l"], part["id"] = 2, 4, np.arange(at, at + len(part))
                part["vector"]["length"], part["vector"]["dim"] = 4 + 4 * dim, dim
                values = rng.standard_normal((len(part), dim), np.float32)
                part["vector"]["values"] = values / np.linalg.norm(values, axis=1, keepdims=True)
                copy.write(part.tobytes())
            copy.write(b"\xff\xff")
        connection.execute("UPDATE image SET image_embedding = v FROM given WHERE given.id = image.id")
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM (FULL, ANALYZE) image")


def bare(address: str, rows: int, dim: int) -> tuple[float, int]:
    """Seconds for, and rows of, the peer: everything by one COPY, parsed page by page into one array."""
    row = np.dtype(
        [("fields", ">i2"), ("l", ">i4"), ("id", ">i4"), ("m", ">i4"), ("head", ">i4"), ("v", ">f4", (dim,))]
    )
    with psycopg.connect(address) as connection:
        start = time.perf_counter()
        statement = "COPY (SELECT id, image_embedding FROM bench.image) TO STDOUT (FORMAT BINARY)"
        vectors = np.empty((rows, dim), np.float32)
        ids = np.empty(rows, np.int64)
        done, page = 0, b""
        with connection.cursor().copy(statement) as copy:
            blocks = iter(copy)
            while page := b"".join(itertools.islice(blocks, 4096)):
                body = page[19 if not done else 0 :]
                found = np.frombuffer(body, row, count=len(body) // row.itemsize)
                ids[done : done + len(found)] = found["id"]
                vectors[done : done + len(found)] = found["v"]
                done += len(found)
        return time.perf_counter() - start, done


def child(address: str, home: str) -> None:
    """One sync in this process: seconds for the vectors, peak memory in MB before and after."""

    def peak() -> float:  # getrusage's maximum counts the parent's memory, too
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    settings = Settings(home=Path(home), dt=address)
    with closing(Store(settings.home)) as store, closing(connect(settings)) as catalog:
        catalog.health()
        before = peak()
        changes = sync.sync(store, catalog)
        again = sync.sync(store, catalog)
    vectors = next(c for c in changes if c.kind == "embeddings.visual")
    idle = next(c for c in again if c.kind == "embeddings.visual")
    told = {"seconds": vectors.seconds, "again": idle.seconds, "moved": idle.added + idle.changed}
    print(json.dumps({**told, "before": before, "peak": peak()}))


def measured(bench: str, address: object, home: Path) -> dict[str, Any]:
    """What a bench's ``child`` tells of a sync in a process of its own."""
    command = [sys.executable, "-m", f"bench.{bench}", "--child", str(address), str(home)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("ADDRESS", "HOME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    with tempfile.TemporaryDirectory() as folder, database.postgres(Path(folder) / "pg") as address:
        fill(address, options.rows, options.dim)
        there = f"{address}&schema=bench"
        best: dict[str, dict[str, Any]] = {}
        with served(there) as url:
            for i in range(options.rounds):
                seconds, rows = bare(address, options.rows, options.dim)
                runs = {
                    "bare COPY": {"seconds": seconds},
                    "sync, PostgreSQL": measured("sync", there, Path(folder) / f"direct{i}"),
                    "sync, REST": measured("sync", url, Path(folder) / f"rest{i}"),
                }
                for name, run in runs.items():
                    if name not in best or run["seconds"] < best[name]["seconds"]:
                        best[name] = run
    print(f"{rows:,} x {options.dim} vectors, best of {options.rounds} interleaved rounds")
    print(f"{'':18}{'vec/s':>9}{'ratio':>7}{'idle sync s':>13}{'peak MB':>9}{'(growth)':>10}")
    base = best["bare COPY"]["seconds"]
    for name, run in best.items():
        line = f"{name:18}{rows / run['seconds']:9,.0f}{base / run['seconds']:7.2f}"
        if "peak" in run:
            assert run["moved"] == 0
            line += f"{run['again']:13.2f}{run['peak']:9.0f}{run['peak'] - run['before']:10.0f}"
        print(line)
    print(f"the vectors themselves: {rows * options.dim * 4 / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
