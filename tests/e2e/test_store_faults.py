"""Damage to any file of a library: no answer is wrong for longer than until the next sync, which heals, or names a rescue.

``LUNA_DT_FAULTS=500 pytest tests/e2e/test_store_faults.py`` injects as many; each is the same whenever it is run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luna_dt import ImageRecord, Library
from luna_dt.dt.catalog import Catalog
from luna_dt.errors import LunaError, StoreError
from luna_dt.identity import Identity
from luna_dt.mirror import sync
from luna_dt.records import Batch, Captions, Cluster, Int64s, Kind, Member
from luna_dt.store import Store
from luna_dt.store.rescue import rescue
from tests.conftest import unit_vectors

FAULTS = int(os.environ.get("LUNA_DT_FAULTS", "60"))
IMAGES, DIM, RECORDS = 400, 16, 5
NOWHERE = "http://127.0.0.1:9"
WORDS = ["cat", "dog", "tree", "river", "house", "sun", "moon", "star", "lamp", "road"]
IDENTITY = Identity("test", "", "image", "pooled", "squash", DIM)


class DT(Catalog):
    """What the library mirrors, and what every answer is held to."""

    address = "a test"

    def __init__(self) -> None:
        words = random.Random(1)
        self.images_ = [
            ImageRecord(
                i, f"D:\\Bilder\\{i}.png", f"{' '.join(words.choices(WORDS, k=30))} nr {i}, größer", "blurry", 512, 768, "m",
                "ab12", "Euler", "normal", 20 + i % 5, 7.5, i * 99, i % 10 + 1, 5.5, i % 7 == 0, created="2026-01-01T00:00:00",
                tags=("a", WORDS[i % 10]),
            )
            for i in range(1, IMAGES + 1)
        ]  # fmt: skip
        self.captions_ = [
            Captions(image.id, "a", "b", f"caption {image.id} " + "long " * 20, "all", image.tags)
            for image in self.images_
        ]
        self.cluster = Cluster(3, "Lüna", 40, tuple(Member(i, i / 500) for i in range(1, 41)))
        self.vectors = unit_vectors(IMAGES, DIM)

    def kinds(self) -> list[Kind]:
        return [Kind("images", IMAGES), Kind("captions", IMAGES), Kind("clusters", 1),
                Kind("embeddings.visual", IMAGES, IDENTITY)]  # fmt: skip

    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        ids = np.array([3]) if kind == "clusters" else np.arange(1, IMAGES + 1)
        return ids, ids * 7

    def fetch(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        rows: dict[str, Callable[[int], Any]] = {
            "images": lambda i: replace(self.images_[i - 1], tags=()),
            "captions": lambda i: self.captions_[i - 1],
            "clusters": lambda _: self.cluster,
            "embeddings.visual": lambda i: self.vectors[i - 1],
        }
        found = [rows[kind](i) for i in ids.tolist()]
        yield Batch(ids, ids * 7, np.array(found) if kind.startswith("embeddings") else found)


THERE = DT()


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A library as it is closed, and with all that was written last in its log alone; records wait in both to be sent."""
    folder = tmp_path_factory.mktemp("homes")
    home = folder / "home"
    with Library(home, dt=NOWHERE) as library:
        with closing(Store(home)) as store:
            sync.sync(store, THERE)
            library.index()
            with closing(sqlite3.connect(home / "library.db")) as db:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with store.writing() as writing:
                for i in range(1, RECORDS + 1):
                    record = {"operation": "img2img", "key": f"key-{i}", "prompt": f"größer {i}", "source_image_id": i}
                    writing.execute(
                        "INSERT INTO outbox (key, source, record, state, due) VALUES (?, ?, ?, 'parked', 0.5)",
                        [f"key-{i}", i, json.dumps(record)],
                    )
            for batch in THERE.fetch("images", np.arange(50, 90)):
                store.put("images", batch)
        shutil.copytree(home, folder / "logged", ignore=shutil.ignore_patterns("*.lock", "*-shm"))
    shutil.copytree(home, folder / "closed", ignore=shutil.ignore_patterns("*.lock"))
    return [folder / "closed", folder / "logged"]


def damage(rng: random.Random, home: Path) -> tuple[str, Path]:
    files = [file for file in sorted(home.rglob("*")) if file.is_file() and file.stat().st_size]
    file = rng.choice([*files, *(file for file in files if file.name.startswith("library.db"))])
    data = bytearray(file.read_bytes())
    at, kind = rng.randrange(len(data)), rng.choice(["flip", "flip", "flip", "hole", "cut", "garbage", "swap"])
    if kind == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "swap" and len(data) >= 8192:
        one, two = (4096 * page for page in rng.sample(range(len(data) // 4096), 2))
        data[one : one + 4096], data[two : two + 4096] = data[two : two + 4096], data[one : one + 4096]
    else:
        size = rng.choice([4, 64, 512, 4096])
        data[at : at + size] = bytes(size) if kind == "hole" else rng.randbytes(size)
    file.write_bytes(data)
    return kind, file


def meet(home: Path) -> None:
    """Uses a damaged library: what it says of an image is so, or it says why it does not; no file ends the process."""
    with Library(home, dt=NOWHERE) as library:
        for record in THERE.images_[::3]:
            with suppress(LunaError):
                assert library.image(record.id) in (record, replace(record, tags=()))
        for ask in (lambda: library.find("moon"), library.clusters, lambda: library.cluster_images(3), library.status,
                    lambda: library.nearest(THERE.vectors[0], "visual", 5), lambda: library.captions(7)):  # fmt: skip
            with suppress(LunaError):
                ask()


def check(home: Path) -> None:
    """Every answer is as before the damage."""
    with Library(home, dt=NOWHERE) as library:
        assert library.images(limit=1000) == THERE.images_
        for image in THERE.images_[::9]:
            assert library.captions(image.id) == THERE.captions_[image.id - 1]
        assert [int(i) for i in library.find("moon cat, nr")] == [i.id for i in THERE.images_ if "moon cat" in i.prompt]
        assert [int(i) for i in library.find("tag: sun")] == [i.id for i in THERE.images_ if "sun" in i.tags]
        found = {Member(each.image.id, each.confidence) for each in library.cluster_images(3)}
        assert found == set(THERE.cluster.members)
        for query in THERE.vectors[::37]:
            cosines = THERE.vectors @ query
            ids, similarities = library.nearest(query, "visual", 5)
            assert np.abs(similarities - np.sort(cosines)[::-1][:5]).max() < 1e-5
            assert np.abs(similarities - cosines[ids - 1]).max() < 1e-5


def said_of(use: Callable[[Path], object], home: Path) -> str:
    """What a damaged library says when it cannot be used; "" where it can."""
    try:
        use(home)
    except StoreError as error:
        return str(error)
    return ""


def synced(home: Path) -> None:
    with closing(Store(home)) as store:
        sync.sync(store, THERE)


def test_a_sync_heals_any_damage_or_names_the_rescue_that_does(homes: list[Path], tmp_path: Path) -> None:
    for seed in range(FAULTS):
        rng, home = random.Random(seed), tmp_path / f"home {seed}"
        shutil.copytree(rng.choice(homes), home)
        kind, file = damage(rng, home)
        try:
            assert "rescue" in (said_of(meet, home) or "rescue")
            rescued = said_of(synced, home)
            if rescued:
                assert "rescue" in rescued
                rescue(home)
                synced(home)
            check(home)
            with closing(sqlite3.connect(home / "library.db")) as db:
                ((records,),) = db.execute("SELECT COUNT(*) FROM outbox").fetchall()
            # what was written last may be gone with the log's end, as after a power failure
            assert records == RECORDS or rescued or file.name == "library.db-wal"
        except BaseException as error:
            raise AssertionError(f"fault {seed}, {kind} of {file.name}, was too much") from error
        shutil.rmtree(home)
