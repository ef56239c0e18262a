"""A library of the size that DT's own author has, in PostgreSQL: syncing it, and asking what needs no vector.

    python -m bench.library [--pictures 270000] [--tags 3200000] [--dim 1280] [--bare-tables]

Prompts repeat as prompts do; ``--bare-tables`` leaves out the indexes that a database may lack.  Everything stands beside
its bare measure in the same run: a sync beside its statements alone, read by COPY and thrown away; questions beside the
one statement that they need.  Claims: an idle sync at most IDLE seconds beside the database's own time for the digests,
the first one's peak of memory at most PEAK.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

from bench.sync import fill, measured
from luna_dt import Library
from luna_dt.demo import database
from luna_dt.mirror import sync
from luna_dt.store import Store

IDLE, PEAK = 3.0, 400  # seconds, MB
STARTS, ENDS = ("ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu"), ("rin", "sel", "tor", "van", "wex", "lum")
WORDS = [start + end for start in STARTS for end in ENDS]
#: What an idle sync needs, told by the database itself: %s stands for what is kept of an image.
DIGESTS = {
    "images": "SELECT COUNT(*), bit_xor(hashtextextended(ROW(%s)::text, 0)) FROM bench.image",
    "captions": "SELECT COUNT(*), bit_xor(hashtextextended(h::text, 0)) FROM (SELECT SUM(h) h FROM (SELECT image_id, "
    "hashtextextended(ROW(tag, source, confidence)::text, 0) h FROM bench.image_tags UNION ALL SELECT image_id, "
    "hashtextextended(ROW(caption, source, updated_at)::text, 0) FROM bench.image_captions) said GROUP BY image_id) sums",
    "vectors": "SELECT COUNT(*), bit_xor(hashint8extended(pg_column_toast_chunk_id(image_embedding)::bigint, 1)) FROM bench.image",
}
CONTENT = {
    "images": "(SELECT id, %s FROM bench.image)",
    "captions": "(SELECT image_id, tag, source FROM bench.image_tags)",
    "vectors": "(SELECT id, image_embedding FROM bench.image)",
}
COLUMNS = "path, prompt, negative_prompt, width, height, model, model_hash, sampler, scheduler, steps, cfg_scale, seed, rating, "
COLUMNS += (
    "aesthetic_score, favorite, nsfw, for_deletion, unavailable, no_metadata, created_date, custom_tags, loras, hash"
)


def drawn_prompts(rng: random.Random) -> list[str]:
    return [", ".join(" ".join(rng.choices(WORDS, k=3)) for _ in range(rng.randint(5, 30))) for _ in range(20_000)]


def tell(address: str, tags: int, bare_tables: bool) -> None:
    """Prompts, tags and captions for the pictures of ``fill``."""
    rng = random.Random(0)
    prompts = drawn_prompts(rng)
    with psycopg.connect(address) as connection:
        (pictures,) = connection.execute("SELECT COUNT(*) FROM bench.image").fetchone() or (0,)
        connection.execute("CREATE TEMP TABLE said (id integer, prompt text, model text)")
        with connection.cursor().copy("COPY said FROM STDIN") as copy:
            for i in range(1, pictures + 1):
                # by Zipf: one prompt for a batch, a few for half a library
                copy.write_row((i, prompts[min(int(rng.paretovariate(0.5)), len(prompts)) - 1], f"m{i % 31}"))
        connection.execute(
            "UPDATE bench.image SET prompt = said.prompt, negative_prompt = 'blurry, lowres, bad hands, watermark', seed = "
            "said.id * 7919, steps = 28, cfg_scale = 6.5, sampler = 'Euler a', model = said.model, width = 1024, "
            "height = 1536, rating = said.id % 11, hash = encode(sha256(said.id::text::bytea), 'hex') FROM said WHERE said.id = image.id"
        )
        with connection.cursor().copy("COPY bench.image_tags (image_id, tag, confidence, source) FROM STDIN") as copy:
            for _ in range(tags):
                copy.write_row((rng.randint(1, pictures), rng.choice(WORDS), rng.random(), "joytag+wdv3large"))
        connection.execute(
            "INSERT INTO bench.image_captions (image_id, caption, source) SELECT id, 'A picture that shows ' || "
            "left(prompt, 200), 'joycaption' FROM bench.image WHERE id % 2 = 0"
        )
        connection.commit()
        connection.autocommit = True
        if not bare_tables:
            connection.execute("CREATE INDEX ON bench.image_tags (image_id)")
            connection.execute("CREATE INDEX ON bench.image_captions (image_id)")
        connection.execute("VACUUM (FULL, ANALYZE) bench.image")
        connection.execute("VACUUM (ANALYZE) bench.image_tags, bench.image_captions")


def bare(address: str, statements: dict[str, str]) -> dict[str, float]:
    """Seconds for each statement; the rows of one that is in parentheses come by binary COPY, and are thrown away."""
    found = {}
    with psycopg.connect(address) as connection:
        for name, statement in statements.items():
            begun = time.perf_counter()
            whole = statement.replace("%s", COLUMNS)
            if whole.startswith("("):
                with connection.cursor().copy(f"COPY {whole} TO STDOUT (FORMAT BINARY)") as copy:
                    for _ in copy:
                        pass
            else:
                connection.execute(whole).fetchall()
            found[name] = round(time.perf_counter() - begun, 2)
    return found


def child(address: str, home: str) -> None:
    """A sync in this process: seconds of each kind, and peaks of private memory in MB, until indexes are built and then."""
    peaks, ended, name = {"sync": 0, "index": 0}, threading.Event(), "sync"

    def look() -> None:
        while not ended.wait(0.02):
            private = int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) // 1024
            peaks[name] = max(peaks[name], private)

    threading.Thread(target=look, daemon=True).start()
    begun = time.perf_counter()
    with Library(home, dt=address) as library:
        with closing(Store(Path(home))) as store:
            changes = sync.sync(store, library.catalog)
        seconds, name = time.perf_counter() - begun, "index"
        library.index()
    ended.set()
    print(json.dumps({"seconds": seconds, "peaks": peaks, "kinds": {c.kind: c.seconds for c in changes}}))


def synced(address: str, home: Path) -> tuple[float, str]:
    """Seconds of a sync without its indexes, and what else to tell of it."""
    found = measured("library", address, home)
    kinds = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found["kinds"].items())
    peaks = found["peaks"]
    told = f"{found['seconds']:.1f} s ({kinds}), private memory at most {peaks['sync']} MB"
    return found["seconds"], told + (f", {peaks['index']} MB while the index was built" if peaks["index"] else "")


def median(run: Callable[[], Any]) -> float:
    """Milliseconds."""
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times)


def asked(address: str, home: Path) -> None:
    """Questions to a synced library, each beside the statement that it needs, on a connection of its own."""
    with Library(home, dt=address) as library, closing(sqlite3.connect(home / "library.db")) as bare:
        some = int(bare.execute("SELECT id FROM images LIMIT 1 OFFSET 1000").fetchone()[0])
        like = "SELECT id FROM images WHERE prompt LIKE ?"
        questions: dict[str, tuple[Callable[[], Any], str, tuple[Any, ...]]] = {
            "a query with a word that nobody used": (lambda: library.find("zyzzyva"), like, ("%zyzzyva%",)),
            "a query with a common word": (lambda: library.find("barin"), like, ("%barin%",)),
            "an image": (lambda: library.image(some), "SELECT * FROM images WHERE id = ?", (some,)),
            "its lineage": (lambda: library.lineage(some), "SELECT * FROM images WHERE id = ?", (some,)),
            "status": (library.status, "SELECT COUNT(*), COUNT(row) FROM vectors", ()),
        }
        for name, (ask, statement, values) in questions.items():
            ours = median(ask)
            peer = median(lambda statement=statement, values=values: bare.execute(statement, values).fetchall())  # type: ignore[misc]
            print(f"{name:40}{ours:9.2f} ms{peer:9.2f} ms{ours / peer:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pictures", type=int, default=270_000)
    parser.add_argument("--tags", type=int, default=3_200_000)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--bare-tables", action="store_true", help="without indexes on image_id")
    parser.add_argument("--child", nargs=2, metavar=("ADDRESS", "HOME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    with tempfile.TemporaryDirectory() as folder, database.postgres(Path(folder) / "pg") as address:
        fill(address, options.pictures, options.dim)
        tell(address, options.tags, options.bare_tables)
        there, home = f"{address}&schema=bench", Path(folder) / "home"
        print(f"{options.pictures:,} pictures, {options.tags:,} tags, {options.dim} dimensions")
        content = bare(address, CONTENT)
        seconds, told = synced(there, home)
        print(
            f"first sync: {told} (bound {PEAK} MB); content by COPY alone {content}: {sum(content.values()) / seconds:.2f}"
        )
        for _ in range(3):
            digests = bare(address, DIGESTS)
            seconds, told = synced(there, home)
            beside = seconds - sum(digests.values())
            print(f"idle sync: {told}; the database alone {digests}: {beside:.1f} s beside it (bound {IDLE})")
        print(f"{'':40}{'here':>12}{'bare':>12}{'ratio':>8}")
        asked(there, home)


if __name__ == "__main__":
    main()
