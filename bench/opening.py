"""One index opened in a process of its own: seconds until it is loaded and until its first answer, and private memory.

    python -m bench.opening scan|library|hnswlib FOLDER DIM

Prints JSON; bench.search starts it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from luna_dt import Identity, Library, Settings
from luna_dt.index.engines import SCAN
from luna_dt.index.shelf import Shelf
from luna_dt.records import Float32s

VECTORS, QUERIES = "bench.f32", "queries.npy"  # in FOLDER, beside the index that the shelf keeps
TOP = 10


def opened(kind: str, folder: Path, dim: int) -> dict[str, float]:
    """``load``, ``first`` (seconds since before the load) and ``private`` (bytes) of the quickest of three fresh processes:
    the files lie in the system's cache then, whoever wrote them last."""
    command = [sys.executable, "-m", "bench.opening", kind, str(folder), str(dim)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(3)]
    found: list[dict[str, float]] = [json.loads(run.stdout) for run in runs]
    return min(found, key=lambda run: run["first"])


def private() -> int:
    """Bytes of this process's memory that are no mapped file's."""
    status = Path("/proc/self/status").read_text()
    whole, mapped = (int(status.split(f"{name}:")[1].split()[0]) for name in ("VmRSS", "RssFile"))
    return (whole - mapped) * 1024


def identity(dim: int) -> Identity:
    return Identity("bench", "", "image", "pooled", "squash", dim)


def mapped(folder: Path, dim: int) -> Float32s:
    return np.memmap(folder / VECTORS, np.float32, "r").reshape(-1, dim)


def _scan(folder: Path, dim: int) -> Callable[[Float32s], Any]:
    index = Shelf(folder).load(SCAN, mapped(folder, dim), VECTORS, identity(dim))
    assert index
    return lambda query: index.query(query, TOP)


def _hnswlib(folder: Path, dim: int) -> Callable[[Float32s], Any]:
    import hnswlib

    graph = hnswlib.Index(space="cosine", dim=dim)
    graph.load_index(str(folder / "hnswlib"))
    return lambda query: graph.knn_query(query, k=TOP, num_threads=1)


def main() -> None:
    kind, folder, dim = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    queries = np.load(folder / QUERIES)
    queries @ queries.T  # so that no library's own buffers are counted
    if SCAN.installed():
        import numkong  # noqa: F401
    if kind == "hnswlib":
        import hnswlib  # noqa: F401
    before, start = private(), time.perf_counter()
    if kind == "library":
        library = Library(settings=Settings(home=folder / "library", dt="http://127.0.0.1:9"))
        ask: Callable[[Float32s], Any] = library.nearest
    else:
        ask = {"scan": _scan, "hnswlib": _hnswlib}[kind](folder, dim)
    load = time.perf_counter() - start
    ask(queries[0])
    first = time.perf_counter() - start
    if kind == "library":
        library.wait()
    for query in queries[:20]:
        ask(query)
    print(json.dumps({"load": load, "first": first, "private": private() - before}))
    if kind == "library":
        library.close()


if __name__ == "__main__":
    main()
