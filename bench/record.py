"""Recording what was made: what it adds to a node, and how fast it reaches DT.

    python -m bench.record

Times the Metadata Writer on a 1024x1024 image with DT away, ``Library.record`` alone, and sending through the
REST server beside sending straight into PostgreSQL.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import torch

from luna_dt import Library, Settings
from luna_dt.demo import database, served
from tests.pack import load_pack

RUNS, SENT = 100, 500


def median(run: Callable[[int], object]) -> float:
    """Milliseconds of one run."""
    times = []
    for i in range(RUNS):
        start = time.perf_counter()
        run(i)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def sending(home: Path, dt: str) -> float:
    """Records a second that reach DT, recording included."""
    with Library(settings=Settings(home=home, dt=dt)) as library:
        start = time.perf_counter()
        for i in range(SENT):
            library.record({"prompt": "a portrait " * 20, "seed": i})
        while library.outbox.counts()["waiting"]:
            time.sleep(0.01)
        return SENT / (time.perf_counter() - start)


def main() -> None:
    image = torch.rand(1, 1024, 1024, 3)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        os.environ["LUNA_DT_HOME"], os.environ["DT_API_URL"] = str(home / "node"), "http://127.0.0.1:9"
        pack = load_pack()
        node = pack.NODE_CLASS_MAPPINGS["LunaDTMetadataWriter"]()
        whole = median(lambda i: node.run(image, 1, "img2img", prompt="a portrait " * 20, seed=i))
        with Library(settings=Settings(home=home / "bare", dt="http://127.0.0.1:9")) as library:
            alone = median(lambda i: library.record({"prompt": "a portrait " * 20, "seed": i}))
        print(f"Metadata Writer, 1024x1024, DT away: {whole:.2f} ms at the median, of which recording {alone:.2f} ms")
        with database.postgres(home / "postgres") as address:
            with psycopg.connect(address) as connection:
                database.create_tables(connection, "bench", {})
            straight = sending(home / "straight", f"{address}&schema=bench")
            with served(f"{address}&schema=bench") as url:
                through = sending(home / "through", url)
        print(
            f"records a second: into PostgreSQL {straight:.0f}, through the REST server {through:.0f} ({through / straight:.2f})"
        )
        sys.modules[f"{pack.__name__}.nodes.shared"].close_libraries()


if __name__ == "__main__":
    main()
