"""Real parts, shared by a test session: a PostgreSQL with drawn pictures in it, and a server over it."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luna_dt import Library, Settings
from luna_dt.demo import database, served
from luna_dt.identity import Identity
from luna_dt.models import Encoders
from luna_dt.pixels import read_pictures
from luna_dt.records import Batch, Float32s, ImageRecord, Int64s
from luna_dt.store import Store
from tests.pack import pack_module

#: What a test needs, by the fixtures it asks for and the names in its body; the rest is said by ``pytestmark``.
NEEDS = {
    "postgres": ("postgres", "processes"),
    "either": ("postgres", "processes"),  # test_nodes.py's, which asks for the server only when it runs
    "weights": ("models",),
    "subprocess": ("processes",),
    "served": ("processes",),
}
#: Modules that import torch or what stands on it; where there is no torch (a light environment) they are left out.
if importlib.util.find_spec("torch") is None:
    heavy = (
        "clip",
        "contact",
        "doctor",
        "gate",
        "interruption",
        "layers",
        "nodes",
        "pixels",
        "preproc",
        "results",
        "sentence",
    )
    collect_ignore = ["comfyui", "e2e", *(f"unit/test_{name}.py" for name in heavy)]

IDENTITY = Identity("test", "", "image", "pooled", "squash", 16)
_numbers = itertools.count(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function):
            for name in NEEDS.keys() & {*item.fixturenames, *item.function.__code__.co_names}:
                for mark in NEEDS[name]:
                    item.add_marker(mark)
            # side by side (pytest-xdist): what shares something that is slow to make runs in one worker
            group = "weights" if "weights" in item.fixturenames else item.path.name
            item.add_marker(pytest.mark.xdist_group(group))
    # the longest of them first, so that no worker waits for it at the end
    items.sort(key=lambda item: "weights" not in getattr(item, "fixturenames", ()))


@pytest.fixture(autouse=True)
def _no_process_unmarked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that starts Python or a database without being marked fails, since `make quick` starts none.

    Other programs are let be: libraries ask ldconfig and its like for where they are.
    """
    if any(map(request.node.get_closest_marker, ("processes", "comfyui"))):
        return
    start = subprocess.Popen.__init__

    def marked(self: Any, args: Any, *rest: Any, **named: Any) -> None:
        program = Path(os.fsdecode(args if isinstance(args, (str, bytes, os.PathLike)) else args[0])).name
        if program.startswith(("python", "initdb", "pg_ctl", "postgres", "luna-dt")):
            pytest.fail(f"{request.node.name} starts {program} and is not marked with pytest.mark.processes")
        start(self, args, *rest, **named)

    monkeypatch.setattr(subprocess.Popen, "__init__", marked)


@pytest.fixture(autouse=True)
def _the_log_as_it_was() -> Iterator[None]:
    """The command, called in this process, takes our log to the terminal."""
    ours = logging.getLogger("luna_dt")
    handlers, passed_on, level = ours.handlers, ours.propagate, ours.level
    yield
    ours.handlers, ours.propagate = handlers, passed_on
    ours.setLevel(level)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("DT_API_", "LUNA_DT_")) and name != "LUNA_DT_KILLS"]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of an empty PostgreSQL with pgvector; not in pytest's own folder, which it closes to others."""
    data = tempfile.TemporaryDirectory(prefix="luna-dt-pg-", ignore_cleanup_errors=True)
    with data as folder, database.postgres(Path(folder)) as address:
        yield address


@dataclass(frozen=True)
class Drawn:
    """A fork database with 100 drawn pictures; what was put in, and where."""

    address: str
    drawings: list[database.Drawing]
    vectors: dict[str, Float32s]


@pytest.fixture(scope="session")
def drawn(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    import psycopg

    drawings = database.draw_library(tmp_path_factory.mktemp("pictures") / "Bilder Ünï", 100, seed=11)
    encoders = Encoders(Settings(home=tmp_path_factory.mktemp("nowhere")))
    prompts = encoders.texts(database.TINY_TEXT, [d.scene.caption for d in drawings])
    pictures = encoders.pictures(database.TINY_IMAGE, [read_pictures(d.path)[0] for d in drawings])
    vectors = {"visual": pictures, "semantic": prompts, "composition": prompts}
    with psycopg.connect(postgres) as connection:
        database.create_tables(connection, "drawn", database.IDENTITIES)
        database.fill(connection, drawings, vectors)
    return Drawn(f"{postgres}&schema=drawn", drawings, vectors)


@pytest.fixture(scope="session")
def server(drawn: Drawn) -> Iterator[str]:
    """``luna-dt serve`` over the drawn database, in a process of its own."""
    with served(drawn.address) as url:
        yield url


@pytest.fixture(scope="session")
def weights() -> Iterator[Path]:
    """A folder with weights for every type of map (weights.py); gone after the session, since it is large."""
    from tests.weights import write

    with tempfile.TemporaryDirectory(prefix="luna-dt-weights-", ignore_cleanup_errors=True) as folder:
        write(Path(folder))
        yield Path(folder)


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache with nothing in it, here and in processes that are started, and no network to fill it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


@pytest.fixture
def schema(postgres: str) -> str:
    """The name of a schema of the session's PostgreSQL that no other test uses."""
    return f"schema_{next(_numbers)}"


@pytest.fixture
def up(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home of the pack's own library, beside a DT that answers; nothing is synced."""
    monkeypatch.setenv("LUNA_DT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DT_API_URL", server)
    yield tmp_path / "home"
    pack_module("nodes.shared").close_libraries()


@pytest.fixture
def down(up: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, synced, and then DT closed."""
    with Library(up) as library:
        library.sync()
    monkeypatch.setenv("DT_API_URL", "http://127.0.0.1:9")
    return up


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    """An empty library that knows no DT."""
    with Library(tmp_path / "home", dt="http://127.0.0.1:9") as opened:
        yield opened


@contextmanager
def beside(library: Library) -> Iterator[Store]:
    """The store of a library, opened once more, as another process would that syncs or reads it."""
    with closing(Store(library.settings.home)) as opened:
        yield opened


@pytest.fixture
def store(library: Library) -> Iterator[Store]:
    """The store of ``library``, as another process has it."""
    with beside(library) as opened:
        yield opened


def unit_vectors(rows: int, dim: int = 16, seed: int = 0) -> Float32s:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def image_batch(ids: Int64s, digest: int = 1, **changes: object) -> Batch:
    records = [ImageRecord(int(i), f"D:\\Bilder\\{i}.png", f"prompt {i}", **changes) for i in ids]  # type: ignore[arg-type]
    return Batch(ids, np.full(len(ids), digest, np.int64), records)


def mirror(library: Library, kind: str, batch: Batch) -> None:
    """Puts a batch into a library, which is all there is of that kind then, as a sync by another process would."""
    with beside(library) as store:
        store.put(kind, batch)
        store.finish(kind, "a test")


def fill(library: Library, vectors: Float32s, first_id: int = 1, layer: str = "visual") -> Int64s:
    """Puts vectors, and a record for each, into a library as a sync would; gives their ids."""
    ids = np.arange(first_id, first_id + len(vectors), dtype=np.int64)
    with beside(library) as store:
        store.put("images", image_batch(ids))
        store.prepare_layer(layer, Identity("test", "", "image", "pooled", "squash", vectors.shape[1]))
        store.put(f"embeddings.{layer}", Batch(ids, np.full(len(ids), 1, np.int64), vectors))
        for kind in ("images", f"embeddings.{layer}"):
            store.finish(kind, "a test")
    return ids
