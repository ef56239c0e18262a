"""Search on every shape of library, ours beside bare engines, the same queries interleaved in one run.

    python -m bench.search [--rows 40000] [--dim 1024] [--shapes distinct,half-0.988,texts-zipf] [--peers hnswlib]
                           [--queries 1000] [--library 40000]

Prints three tables: answers (recall@1, recall@10, median milliseconds of processor time and of wall time), the indexes
(building, memory, disk, opening, own proof) and conditions.  What takes long, and tells the same on each shape, is done
on five of them only: peers other than hnswlib, the ``Library`` itself (where there are at most ``--library`` rows), and
conditions.  Bounds, at 300,000 x 1280: recall@1 .999, @10 .995, 5 ms where all are distinct, 10 ms elsewhere.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import functools
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from luna_dt import ImageRecord, Library, Settings
from luna_dt.index.base import Bools
from luna_dt.index.engines import SCAN
from luna_dt.index.rows import RowIndex
from luna_dt.index.shelf import Shelf
from luna_dt.records import Batch, Float32s, Int64s
from luna_dt.store import Store

from . import real, shapes
from .opening import QUERIES, TOP, VECTORS, identity, mapped, opened, private
from .peers import Peer, installed

WHOLE = ("distinct", "groups-1", "groups-0.988", "mixed", "means")  # on these shapes everything is measured
WARM, FEW = 20, 8  # queries before any is timed; what is slow is asked every so many queries
SHARES = {"50 %": 0.5, "10 %": 0.1, "1 %": 0.01, "0.1 %": 0.001, "one": 0.0}
CONDITIONED = 200  # queries under conditions


@dataclass
class Asked:
    """One that is asked: ``given`` makes what it takes, untimed; of what it answers, ``rows``."""

    call: Callable[[Any], Any]
    rows: Callable[[Any], Int64s] = lambda answer: answer
    given: Callable[[Float32s], Any] = lambda query: query
    every: int = 1
    here: bool = True  # whether its work is this process's
    found: dict[int, Int64s] = field(default_factory=dict)
    processor: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def ask(self, i: int, query: Float32s) -> None:
        given = self.given(query)
        begun, start = time.process_time(), time.perf_counter()
        answer = self.call(given)
        self.wall.append((time.perf_counter() - start) * 1e3)
        self.processor.append((time.process_time() - begun) * 1e3)
        self.found[i] = self.rows(answer)

    @property
    def p50(self) -> float:
        return statistics.median(self.processor if self.here else self.wall)

    def recalls(self, vectors: Float32s, queries: Float32s, truth: shapes.Float64s) -> tuple[float, float]:
        asked = sorted(self.found)
        exact = shapes.cosines(vectors, queries[asked], [self.found[i] for i in asked], TOP)
        return shapes.recall(exact, truth[asked], 1), shapes.recall(exact, truth[asked], TOP)


def ask(all_of_them: dict[str, Asked], queries: Float32s) -> None:
    """Every query to each, in turns; each is asked another one: who asks the same second finds its rows in the cache."""
    count, apart = len(queries), max(1, len(queries) // len(all_of_them))
    for j, one in enumerate(all_of_them.values()):
        for i in range(0, WARM, one.every):
            one.call(one.given(queries[(i + j * apart) % count]))
    for i in range(count):
        for j, one in enumerate(all_of_them.values()):
            at = (i + j * apart) % count
            if i % one.every == 0:
                one.ask(at, queries[at])


class Building:
    """Seconds (wall and processor) and the most private memory that something took."""

    wall = processor = 0.0
    most = 0

    @contextmanager
    def measured(self) -> Iterator[None]:
        before, done = private(), threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                self.most = max(self.most, private() - before)

        thread = threading.Thread(target=watch)
        thread.start()
        begun, start = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self.wall, self.processor = time.perf_counter() - start, time.process_time() - begun
            done.set()
            thread.join()


def fill(home: Path, vectors: Float32s) -> None:
    """Those vectors as a library's visual layer, with a record for each."""
    with closing(Store(home)) as store, store.sole_writer():
        store.prepare_layer("visual", identity(vectors.shape[1]))
        prompt = "a portrait of a woman in a red coat, detailed, soft light, 85mm, film grain, " * 3
        for at in range(0, len(vectors), 4096):
            part = np.array(vectors[at : at + 4096])
            ids = np.arange(at + 1, at + 1 + len(part))
            records = [
                ImageRecord(
                    int(i), f"D:\\Pictures\\2026\\{i:08d}.png", prompt, "blurry", 832, 1216, "ponyXL", "ab12", "Euler a"
                )
                for i in ids
            ]
            store.put("images", Batch(ids, ids, records))
            store.put("embeddings.visual", Batch(ids, ids, part))
        for kind in ("images", "embeddings.visual"):
            store.finish(kind, "this bench")


@dataclass
class Tables:
    """What is printed, row by row."""

    answers: list[dict[str, str]] = field(default_factory=list)
    indexes: list[dict[str, str]] = field(default_factory=list)
    conditions: list[dict[str, str]] = field(default_factory=list)

    def show(self) -> None:
        for rows in (self.answers, self.indexes, self.conditions):
            if rows:
                names = list(dict.fromkeys(name for row in rows for name in row))
                print("\n" + "\n".join([_line(names), "|" + "---|" * len(names)]))
                print("\n".join(_line([row.get(name, "") for name in names]) for row in rows), flush=True)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


@dataclass
class Bench:
    """One run: its tables, and what is to be measured."""

    rows: int
    dim: int
    queries: int
    library_rows: int
    peers: dict[str, Peer]
    tables: Tables = field(default_factory=Tables)

    def shape(self, name: str, folder: Path) -> None:
        made = self._made(name, folder)
        if made is None:
            print(f"{name}: its encoder is not installed", file=sys.stderr)
            return
        vectors, queries = made.vectors, made.queries
        np.save(folder / QUERIES, queries)
        truth = shapes.truth(vectors, queries, TOP)
        scan, facts = self._scan(folder, vectors)
        print(f"{name}: {facts}", file=sys.stderr, flush=True)
        asked = {"scan": Asked(lambda query: scan.query(query, TOP)[0])}
        peers = [each for key, each in self.peers.items() if key == "hnswlib" or name in WHOLE]
        library, built = None, list[Peer]()
        try:
            for peer in peers:
                facts |= _built(peer, vectors, folder)
                built.append(peer)
                asked[peer.name] = _asked(peer)
                print(f"{name}: {peer.name} is there", file=sys.stderr, flush=True)
            if name in WHOLE and len(vectors) <= self.library_rows:
                library, engine = self._library(folder, vectors)
                facts["`auto` takes"] = engine
                facts["a library's first answer s"] = f"{opened('library', folder, vectors.shape[1])['first']:.2f}"
                asked |= _asked_of(library)
            asked["exact"] = Asked(lambda query: np.argpartition(-(vectors @ query), TOP)[:TOP], every=FEW)
            ask(asked, queries)
            row = {"shape": name, "rows": f"{len(vectors):,}", "points": f"{len(scan.points):,}"}
            for what, one in asked.items():
                first, tenth = one.recalls(vectors, queries, truth)
                times = f"{one.p50:.2f}" if one.here else "?"
                row[what] = f"{first:.4f} {tenth:.4f} {times} ({statistics.median(one.wall):.2f})"
            facts["p90 ms"] = f"{np.percentile(asked['scan'].processor, 90):.2f}"
            self.tables.answers.append(row)
            self.tables.indexes.append({"shape": name, **facts})
            print(row, facts, file=sys.stderr, flush=True)
        finally:
            for peer in built:
                peer.close()
            if library:
                library.close()
        if name in WHOLE:
            self._conditions(name, scan, vectors, queries[:CONDITIONED])

    def _made(self, name: str, folder: Path) -> shapes.Shape | None:
        file = folder / VECTORS
        if name in shapes.SHAPES:
            out = np.memmap(file, np.float32, "w+", shape=(self.rows, self.dim))
            return shapes.Shape(mapped(folder, self.dim), shapes.make(name, self.queries, out).queries)
        made = real.make(name, self.rows, self.queries, folder.parent)
        if made is None:
            return None
        made.vectors.tofile(file)
        return shapes.Shape(mapped(folder, made.vectors.shape[1]), made.queries)

    def _scan(self, folder: Path, vectors: Float32s) -> tuple[RowIndex, dict[str, str]]:
        """Our scan, made and saved and read again as a library does it."""
        shelf, building, dim = Shelf(folder), Building(), vectors.shape[1]
        with building.measured(), shelf.lock():
            index = shelf.catch_up([SCAN], vectors, VECTORS, identity(dim))
        if index is None:
            raise SystemExit(f"the scan did not prove itself: {shelf.saved(VECTORS)}")
        disk = sum(file.stat().st_size for file in (folder / "index").iterdir())
        fresh = opened("scan", folder, dim)
        return index, {
            "own proof": str(shelf.saved(VECTORS).proof),
            "build s, processor (wall)": f"{building.processor:.1f} ({building.wall:.1f})",
            "building MB": f"{building.most / 1e6:,.0f}",
            "loaded MB (share)": f"{fresh['private'] / 1e6:.1f} ({fresh['private'] / vectors.nbytes:.4f})",
            "disk MB (share)": f"{disk / 1e6:,.0f} ({disk / vectors.nbytes:.3f})",
            "load s": f"{fresh['load']:.2f}",
        }

    def _library(self, folder: Path, vectors: Float32s) -> tuple[Library, str]:
        """A library with the engine that it chooses, ready; and that engine."""
        home = folder / "library"
        fill(home, vectors)
        library = Library(settings=Settings(home=home, dt="http://127.0.0.1:9"))
        library.nearest(vectors[0])
        library.wait()
        saved = [Shelf(home).saved(f"{file.stem}.f32").engine for file in (home / "index").glob("*.json")]
        return library, saved[0]

    def _conditions(self, name: str, scan: RowIndex, vectors: Float32s, queries: Float32s) -> None:
        """Under conditions that a share of the rows meet, drawn by chance."""
        rng = np.random.default_rng(0)
        asked = {"all": Asked(lambda query: scan.query(query, TOP)[0])}
        truths = {"all": shapes.truth(vectors, queries, TOP)}
        for what, share in SHARES.items():
            allowed = np.zeros(len(vectors), bool)
            allowed[rng.choice(len(vectors), max(1, int(share * len(vectors))), replace=False)] = True
            asked[what] = Asked(functools.partial(_under, scan, allowed))
            truths[what] = shapes.truth(vectors, queries, TOP, np.flatnonzero(allowed))
        ask(asked, queries)
        row = {"shape": name}
        for what, one in asked.items():
            first, tenth = one.recalls(vectors, queries, truths[what])
            row[what] = f"{first:.3f} {tenth:.3f} {one.p50:.2f} ({one.p50 / asked['all'].p50:.2f} x)"
        self.tables.conditions.append(row)
        print(row, file=sys.stderr, flush=True)


def _built(peer: Peer, vectors: Float32s, folder: Path) -> dict[str, str]:
    building = Building()
    with building.measured():
        peer.build(vectors, folder)
    facts = {f"{peer.name} build s": f"{building.processor if peer.here else building.wall:.1f}"}
    if peer.name == "hnswlib":
        fresh = opened("hnswlib", folder, vectors.shape[1])
        facts["hnswlib loaded MB (share)"] = f"{fresh['private'] / 1e6:.0f} ({fresh['private'] / vectors.nbytes:.3f})"
        facts["hnswlib load s"] = f"{fresh['load']:.2f}"
    return facts


def _asked(peer: Peer) -> Asked:
    return Asked(lambda given: peer.query(given, TOP), given=peer.given, here=peer.here)


def _under(scan: RowIndex, allowed: Bools, query: Float32s) -> Int64s:
    return scan.query(query, TOP, allowed)[0]


def _asked_of(library: Library) -> dict[str, Asked]:
    return {
        "`nearest`": Asked(lambda query: library.nearest(query, top_k=TOP), lambda found: found[0] - 1),
        "`search`": Asked(
            lambda query: library.search(vector=query, top_k=TOP), lambda hits: np.array([hit.id - 1 for hit in hits])
        ),
    }


def main() -> None:
    peers = installed()
    every = (*shapes.SHAPES, *real.REAL)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--library", type=int, default=40_000, help="rows up to which a Library is filled (0: none)")
    parser.add_argument("--shapes", default=",".join(every), help=f"of {', '.join(every)}")
    parser.add_argument("--peers", default=",".join(peers), help=f"of {', '.join(peers)}; empty: none")
    options = parser.parse_args()
    wanted = {key: peers[key] for key in options.peers.split(",") if key}
    bench = Bench(options.rows, options.dim, options.queries, options.library, wanted)
    for stop in (signal.SIGINT, signal.SIGTERM):  # either prints what there is
        signal.signal(stop, signal.default_int_handler)
    print(f"{options.rows:,} x {options.dim}, {options.queries} queries, top {TOP}; {os.cpu_count()} cores")
    print("answers: recall@1, recall@10, median ms of processor time (of wall time)")
    try:
        with tempfile.TemporaryDirectory(prefix="luna-dt-bench-", ignore_cleanup_errors=True) as root:
            for name in options.shapes.split(","):
                with tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True) as folder:
                    bench.shape(name, Path(folder))
    except KeyboardInterrupt:
        print("stopped: what was measured until then")
    bench.tables.show()


if __name__ == "__main__":
    main()
