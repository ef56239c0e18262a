"""Syncing stock DT's database beside bare pages by key of the same rows into Python, while DT goes on writing.

    python -m bench.stock [--pictures 270000] [--rounds 3]

Claims, with a second process writing 50 times a second all the while: the first sync of records at least FIRST of the
bare rate, an idle one at most IDLE of the first, PEAK MB of memory, and none of its writes refused.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from bench.library import WORDS, drawn_prompts
from bench.sync import measured
from luna_dt import Library
from tests.stock import create, ticks

FIRST, IDLE, PEAK = 0.5, 0.1, 200
PAUSE, PAGE = 1 / 50, 2000  # seconds, rows


def fill(file: Path, pictures: int) -> None:
    create(file, "1.10")
    rng, begun = random.Random(0), ticks("2024-01-01T00:00:00")
    prompts = drawn_prompts(rng)
    with closing(sqlite3.connect(file)) as db:
        db.executemany(
            "INSERT INTO Image (Id, Path, FileName, Prompt, NegativePrompt, Steps, Sampler, CFGScale, Seed, Width, Height, "
            "ModelHash, Model, CreatedDate, ModifiedDate, Rating, Favorite, NSFW, FolderId, RootFolderId, Type, FileSize, Hash) "
            "VALUES (?, ?, ?, ?, 'blurry, lowres, bad hands', 28, 'Euler a', 6.5, ?, 1024, 1536, 'ab12cd34', ?, ?, ?, ?, "
            "?, 0, 1, 1, 0, 2000000, ?)",
            (
                (i, f"D:\\Pictures\\{i // 1000}\\{i:08}.png", f"{i:08}.png", rng.choice(prompts), rng.getrandbits(48),
                 f"m{i % 31}", begun + i * 10**7, begun, i % 11 or None, i % 7 == 0, f"{rng.getrandbits(256):064x}")
                for i in range(1, pictures + 1)
            ),
        )  # fmt: skip
        db.executemany("INSERT INTO Tag (Id, Name) VALUES (?, ?)", enumerate(WORDS, 1))
        db.executemany(
            "INSERT INTO ImageTag (ImageId, TagId) VALUES (?, ?)",
            ((rng.randint(1, pictures), rng.randint(1, len(WORDS))) for _ in range(pictures // 10)),
        )
        db.executemany("INSERT INTO Album (Id, Name) VALUES (?, ?)", [(1, "cats"), (2, "others")])
        db.execute("INSERT INTO AlbumImage SELECT 1 + Id % 2, Id FROM Image WHERE Id % 10 = 0")
        db.commit()


def write(file: Path) -> None:
    """DT beside us: waits a second for a lock, as DT does, and tells how many writes there were, and how many refused."""
    written = refused = 0
    with closing(sqlite3.connect(file, timeout=1, isolation_level=None)) as db:
        print("begun", flush=True)
        stop = file.with_name("stop")
        while not stop.exists():
            try:
                db.execute("UPDATE Folder SET Path = ? WHERE Id = 1", [f"D:\\Pictures{written}"])
                written += 1
            except sqlite3.OperationalError:
                refused += 1
            time.sleep(PAUSE)
    print(json.dumps([written, refused]))


def bare(file: Path, copy: Path | None = None) -> float:
    """Seconds of pages by key of all columns that are kept, into Python's values, and from there into a ``copy``."""
    begun, last = time.perf_counter(), 0
    with (
        closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, isolation_level=None)) as db,
        closing(sqlite3.connect(copy or ":memory:")) as kept,
    ):
        kept.execute("PRAGMA journal_mode = WAL")
        kept.execute(f"CREATE TABLE images (id INTEGER PRIMARY KEY, {', '.join(f'c{i}' for i in range(21))})")
        while rows := db.execute(
            "SELECT Id, Path, Prompt, NegativePrompt, Width, Height, Model, ModelHash, Sampler, Steps, CFGScale, Seed, Rating, "
            "AestheticScore, Favorite, NSFW, ForDeletion, Unavailable, NoMetadata, CreatedDate, CustomTags, Hash "
            "FROM Image WHERE Id > ? ORDER BY Id LIMIT ?",
            [last, PAGE],
        ).fetchall():
            last = rows[-1][0]
            if copy:
                kept.executemany(f"INSERT INTO images VALUES (?{', ?' * 21})", rows)
                kept.commit()
    return time.perf_counter() - begun


def child(file: str, home: str) -> None:
    """A sync in this process: its seconds, and the process's peak memory in MB."""
    with Library(home, dt=file) as library:
        begun = time.perf_counter()
        changes = library.sync()
        seconds = time.perf_counter() - begun
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    moved = sum(change.added + change.changed for change in changes)
    print(json.dumps({"seconds": seconds, "peak": peak, "moved": moved}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pictures", type=int, default=270_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("FILE", "HOME"), help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
    elif options.write:
        write(options.write)
    else:
        measure(options.pictures, options.rounds)


def measure(pictures: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "diffusion-toolkit.db"
        fill(file, pictures)
        times: dict[str, list[float]] = {"bare pages": [], "and written": [], "first sync": [], "idle sync": []}
        peak, written, refused = 0.0, 0, 0
        for i in range(rounds):
            times["bare pages"].append(bare(file))
            times["and written"].append(bare(file, Path(place) / f"copy{i}.db"))
            with subprocess.Popen(
                [sys.executable, "-m", "bench.stock", "--write", str(file)], stdout=subprocess.PIPE, text=True
            ) as writer:
                assert writer.stdout is not None
                writer.stdout.readline()
                first = measured("stock", file, Path(place) / f"home{i}")
                (file.parent / "stop").touch()
                one, two = json.loads(writer.stdout.read())
            (file.parent / "stop").unlink()
            idle = measured("stock", file, Path(place) / f"home{i}")
            assert first["moved"] >= pictures
            assert not idle["moved"]
            times["first sync"].append(first["seconds"])
            times["idle sync"].append(idle["seconds"])
            peak, written, refused = max(peak, first["peak"]), written + one, refused + two
    base, both, first_time, idle_time = (min(each) for each in times.values())
    print(f"{pictures:,} pictures, best of {rounds} interleaved rounds")
    for name, each in times.items():
        print(f"{name:14}{min(each):8.2f} s{pictures / min(each):12,.0f} pictures/s")
    print(f"first sync: {base / first_time:.2f} of the bare rate (bound {FIRST}), {both / first_time:.2f} with writing")
    print(f"at most {peak:.0f} MB (bound {PEAK})")
    print(f"idle sync: {idle_time / first_time:.3f} of the first (bound {IDLE})")
    print(f"writes beside the first syncs: {written}, refused {refused} (bound 0)")


if __name__ == "__main__":
    main()
