"""How the libraries beside this were made: by each format's own code, before the next came.

To keep another, with the last code that wrote it::

    git archive COMMIT | tar -x -C old && PYTHONPATH=old python tests/formats/write.py tests/formats/5
"""

from __future__ import annotations

import base64
import dataclasses
import http.server
import json
import os
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from luna_dt import Identity, Library
from luna_dt.records import Batch, Captions, Cluster, ImageRecord, Member
from luna_dt.store import Store

IDENTITY = Identity("test", "ünï", "image", "pooled", "squash", 4)
PICTURE = b"P6 64 64 255\n" + bytes(255 * (x // 16 % 2) for _ in range(64) for x in range(64) for _ in "rgb")


class DT(http.server.BaseHTTPRequestHandler):
    """One that takes what fits, and has a map of image 1."""

    def do_GET(self) -> None:
        here = self.path == "/api/images/1/controlnet/canny"
        self.answer(*((200, {"image_base64": base64.b64encode(PICTURE).decode()}) if here else (404, {})))

    def do_POST(self) -> None:
        made = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refusal = {"code": "bad_input", "detail": "no such seed, says DT"}
        self.answer(*((400, refusal) if made["seed"] == 13 else (201, {"id": "41"})))

    def answer(self, status: int, told: dict[str, str]) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def serving() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), DT)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def batch(rows: Any, ids: list[int]) -> Batch:
    return Batch(np.array(ids, np.int64), np.array([i * 100 + 1 for i in ids], np.int64), rows)


def write_records(store: Any) -> None:
    whole = ImageRecord(
        2**40, r"D:\Bilder Ünï\日本語 🌙.png", "a, \"b\"\n'c'; DROP", "bäd", 832, 1216, "pony", "ab12", "Euler a",
        "karras", 28, 6.5, 2**62, 9, 7.25, True, True, False, False, True, "2026-01-02T03:04:05", "mine", "[]",
    )  # fmt: skip
    if hasattr(ImageRecord, "hash"):  # what came with format 7
        whole = dataclasses.replace(whole, hash="ab" * 32)
    others = [ImageRecord(2, "/srv/Straße/2.png", for_deletion=True), ImageRecord(3, "3.png", unavailable=True)]
    store.put("images", batch([ImageRecord(1, "1.png", "eins", rating=4), *others, whole], [1, 2, 3, whole.id]))
    captions = [Captions(1, "a, b", "b", "a cät", "a, b, a cät", ("a", "b; c")), Captions(whole.id)]
    store.put("captions", batch(captions, [1, whole.id]))
    store.put("clusters", batch([Cluster(7, "Lüna", 3, (Member(1, 0.5), Member(whole.id, 0.75)))], [7]))
    store.prepare_layer("visual", IDENTITY)
    ids = [1, 2, 3, whole.id]
    rows = np.array([[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0.5, 1]], np.float32)
    store.put("embeddings.visual", batch(rows, ids))
    store.put("embeddings.visual", batch(rows[:1, ::-1], [1]))  # the first row is dead now, the third never was one
    for kind in ("images", "captions", "clusters", "embeddings.visual"):
        store.finish(kind, "http://dt.example:5000")


def write_made(library: Any, store: Any) -> None:
    """What came with format 2."""
    from luna_dt import Verdict

    store.prepare_layer("style", IDENTITY, local=True)
    store.put("embeddings.style", batch(np.ones((1, 4), np.float32), [1]))
    verdict = Verdict("other", IDENTITY, None, 2, 0.5, 0.25, 0.125, 0.75, ((1, 2),), when="2026-01-02T03:04:05+00:00")
    store.judge(store.layer("visual"), verdict)
    store.put_files([(1, "9 1000000000000000000", -5)])
    library.outbox.start = lambda: None  # nothing is sent before it is asked for
    made = {"source_image_id": 1, "prompt": "größer", "created": "2026-01-02T03:04:05.678+00:00"}
    library.record({**made, "key": "first", "seed": 2**64 - 1})
    library.record({**made, "key": "second", "seed": 13})
    library.outbox.send()
    library.record({**made, "key": "third", "extra_metadata": {"größe": [1, 2]}})
    library.record({**made, "key": "fourth"})
    library.outbox.drop([4], "nicht mehr")
    workflow = {"1": {"class_type": "LunaDTImageLoader", "inputs": {"image_id": 1}},
                "2": {"class_type": "KSampler", "inputs": {"seed": 1}}}  # fmt: skip
    queued = library.batches.create([1, 2, 3], "img2img", workflow, "http://127.0.0.1:8188", seeds="5, 6, 7")
    with store.writing() as db:  # as ComfyUI would have it in time
        db.execute("UPDATE batch_items SET state = 'done' WHERE batch = ? AND position = 0", [queued.id])
        db.execute(
            "UPDATE batch_items SET state = 'failed', error = 'zu groß' WHERE batch = ? AND position = 1", [queued.id]
        )


def write_maps(library: Any, store: Any) -> None:
    """What came with format 3."""
    assert library.map("canny", PICTURE).picture.size == (64, 64)
    weights = Path("Gewichte Ünï.pth")
    weights.write_bytes(b"weights")
    os.utime(weights, ns=(0, 10**18))
    if not hasattr(store, "sha256"):  # the map cache hashed weights when format 3 came
        from luna_dt.maps.cache import MapCache

        store = MapCache(store, 0)
    store.sha256(weights)


def write_aside(store: Any) -> None:
    """What came with format 4."""
    store.put_aside("images", [(5, 501, "its seed is no whole number of 64 bits"), (6, 601, "its width größer")])
    store.put_aside("clusters", [(7, 701, "a member is left out")])
    store.put_left_out(["column image.width is of type täxt, which cannot be read"])


def write(home: Path) -> None:
    home.mkdir()
    with sqlite3.connect(home / "library.db") as connection:
        connection.execute("PRAGMA page_size = 1024")  # a small file
        connection.execute("VACUUM")
    connection.close()
    with serving() as dt, Library(home, dt=dt) as opened, closing(Store(home)) as store:
        library: Any = opened
        write_records(store)
        if hasattr(library, "outbox"):
            write_made(library, store)
        if hasattr(library, "map"):
            write_maps(library, store)
        else:
            library.control_map(1, "canny")
        if hasattr(store, "put_aside"):
            write_aside(store)
        if hasattr(store, "bind"):  # what came with format 5
            store.bind("a DT of its own")
    for lock in home.rglob("*.lock"):
        lock.unlink()


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    os.chdir(tempfile.mkdtemp())  # no path of this machine is to be kept
    write(target)
