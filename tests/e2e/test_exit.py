"""Programs that end while a thread of ours is at work, and close nothing: they end as they should all the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from luna_dt import Library
from luna_dt.demo.database import draw_library
from luna_dt.index.hnsw import HnswEngine
from luna_dt.records import Batch, ImageRecord
from tests.conftest import fill, mirror, unit_vectors
from tests.loopback import Handler, Loopback
from tests.pack import ROOT

#: What every program begins with; SILENT is the address of a server that takes calls and says nothing.
BEGIN = """
import os, sys, threading, time
HOME, SILENT = os.environ["LUNA_DT_HOME"], os.environ["DT_API_URL"]

class Slow:  # its end takes a moment, in which a thread that is still there wants the interpreter back
    def __del__(self, sleep=time.sleep):
        sleep(0.5)

slow = Slow()

def at_work(name, inside):
    while True:  # until such a thread is inside that function
        for thread in threading.enumerate():
            frame = sys._current_frames().get(thread.ident) if thread.name.startswith(name) else None
            while frame:
                if frame.f_code.co_name == inside:
                    return
                frame = frame.f_back
        time.sleep(0.01)
"""

INDEX = """
from luna_dt import Library
import numpy as np
library = Library()
library.search(vector=np.ones(256, np.float32), top_k=1)
while "hnswlib" not in sys.modules:
    time.sleep(0.01)
time.sleep(0.3)  # so that it is well inside compiled code
at_work("luna_dt index of visual", "run")
"""

MEMORY = """
from luna_dt import Library
from luna_dt.demo.database import TINY_TEXT
library = Library()
library.encoders.texts(TINY_TEXT, ["a cat"])
at_work("luna_dt memory", "wait")
"""

OUTBOX = """
from luna_dt import Library
library = Library()
library.record({"prompt": "a cat"})
at_work("luna_dt outbox", "getresponse")
"""

BATCH = """
from luna_dt import Library
library = Library()
workflow = {"1": {"class_type": "LunaDTImageLoader", "inputs": {"image_id": 3}}}
batch = library.batches.create([1, 2, 3], "img2img", workflow, SILENT)
library.batches.watch(batch.id)
at_work("luna_dt batch", "getresponse")
"""

HUB = """
from luna_dt import hub
try:
    hub.reach()
    raise SystemExit("it was reached")
except ConnectionError:
    at_work("luna_dt hub", "select")
"""

MAPS = """
from luna_dt import Library
import numpy as np
library = Library()
assert not library.map("canny", np.random.default_rng(0).random((1024, 1024, 3), np.float32)).was_cached
names = [thread.name for thread in threading.enumerate()]
assert any(each.startswith("luna_dt maps") for each in names), names
"""

#: Left in the middle of what is made, with pictures read ahead and a batch in the encoder.
EMBED = """
from luna_dt import Library
from luna_dt.demo.database import TINY_IMAGE
from luna_dt.layers.embed import stream
from luna_dt.pixels import read_pictures
library = Library()
library.encoders.tower(TINY_IMAGE).batch = 4
read = lambda image_id: library.encoders.tower(TINY_IMAGE).prepared(read_pictures(library.file(image_id))[0], TINY_IMAGE)
made = stream([library.encoders.tower(TINY_IMAGE)], TINY_IMAGE, range(1, 41), read)
next(made)
names = [thread.name for thread in threading.enumerate()]
assert any(each.startswith("luna_dt reader") for each in names), names
assert any(each.startswith("luna_dt encoder") for each in names), names
"""

#: ComfyUI's own modules, as far as the pack asks them, before it has its port.
NODES = f"""
import asyncio, importlib.util, types
handlers = []
routes = types.SimpleNamespace(**dict.fromkeys(("get", "post", "put"), lambda path: handlers.append))
instance = types.SimpleNamespace(routes=routes)
sys.modules["server"] = types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=instance))
web = types.SimpleNamespace(json_response=lambda told: told)
sys.modules["aiohttp"] = types.SimpleNamespace(web=web)
spec = importlib.util.spec_from_file_location(
    "some_pack", {str(ROOT / "__init__.py")!r}, submodule_search_locations=[{str(ROOT)!r}])
pack = sys.modules["some_pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
"""
GOES_ON = NODES + 'at_work("luna_dt goes on", "wait")\n'
CLUSTERS = NODES + 'print(asyncio.run(handlers[0](None)))\nat_work("luna_dt clusters", "getresponse")\n'

WORK = {
    "index": INDEX, "memory": MEMORY, "outbox": OUTBOX, "batch": BATCH, "hub": HUB, "maps": MAPS, "embed": EMBED,
    "goes on": GOES_ON, "clusters": CLUSTERS,
}  # fmt: skip


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    ended = threading.Event()

    class Silent(Handler):
        def do_GET(self) -> None:  # noqa: N802
            ended.wait()

        do_POST = do_GET  # noqa: N815

    server = Loopback(Silent)
    yield server.url
    ended.set()
    server.close()


@pytest.fixture(scope="module")
def full() -> Iterator[str]:
    """An address where a connection is neither taken nor refused: what waits to be taken is full (on Linux)."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with 20,000 vectors whose index is not made yet, and 40 pictures among its images."""
    home = tmp_path_factory.mktemp("filled")
    drawings = draw_library(home / "pictures", 40)
    with Library(home, dt="http://127.0.0.1:9") as library:
        fill(library, unit_vectors(20_000, 256))
        records = [ImageRecord(i, str(drawing.path)) for i, drawing in enumerate(drawings, 1)]
        mirror(library, "images", Batch(np.arange(1, 41), np.full(40, 2, np.int64), records))
    return home


@pytest.mark.parametrize("ending", ["", "raise KeyError('the end')"])
@pytest.mark.parametrize("work", WORK)
def test_a_program_that_closes_nothing_ends_well(
    work: str, ending: str, silent: str, full: str, filled: Path, tmp_path: Path
) -> None:
    if work == "index" and not HnswEngine().installed():
        pytest.skip("hnswlib is not installed")
    if work == "hub" and sys.platform != "linux":
        pytest.skip("a full backlog answers otherwise on other systems")
    home = filled if work in ("index", "embed") else tmp_path
    environment = {
        **os.environ, "LUNA_DT_HOME": str(home), "DT_API_URL": silent, "LUNA_DT_DEVICE": "cpu", "HF_ENDPOINT": full,
        "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    program = tmp_path / "program.py"
    program.write_text(BEGIN + WORK[work] + ending)
    ended = subprocess.run(
        [sys.executable, str(program)],
        env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode == bool(ending), ended.stderr
    assert "terminate called" not in ended.stderr
    assert "Fatal Python error" not in ended.stderr
    last = ended.stderr.strip().splitlines()[-1:]
    assert last == (["KeyError: 'the end'"] if ending else []), ended.stderr
