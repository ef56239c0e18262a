"""A library on a real Milvus server: written by one home, read by others that mirror nothing, while things are killed."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luna_dt import Library, Settings
from luna_dt.dt.catalog import Catalog, Health
from luna_dt.errors import BadInput, NotSearchable, NoVector, Refused, SettingsError, UnknownImage, Unreachable
from luna_dt.records import Batch, Captions, Float32s, ImageRecord, Int64s, Kind
from tests.conftest import IDENTITY, fill, unit_vectors
from tests.milvus_server import Server

missing = [name for name in ("milvus", "pymilvus") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # the wheel leaves sockets and files to be collected
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(bool(missing), reason=f"not installed (pip install milvus pymilvus): {', '.join(missing)}"),
]


class Memory(Catalog):
    """A DT of which everything is in memory: images 1 to n, every hundredth hidden, each with a vector but the last."""

    address = "a DT in memory"

    def __init__(self, name: str, vectors: Float32s) -> None:
        self.name, self.vectors, self.asked = name, vectors, 0
        self.ids = np.arange(1, len(vectors) + 1)
        self.stamps = np.full(len(vectors), 7)

    def health(self) -> Health:
        return Health("memory", "1", (), library=self.name)

    def kinds(self) -> list[Kind]:
        count = len(self.ids)
        return [Kind("images", count), Kind("captions", 1), Kind("embeddings.visual", count - 1, IDENTITY)]

    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        if kind == "captions":
            return self.ids[:1], self.stamps[:1]
        last = None if kind == "images" else -1
        return self.ids[:last].copy(), self.stamps[:last].copy()

    def fetch(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        self.asked += len(ids)
        at = np.searchsorted(self.ids, ids)
        rows: Any = self.vectors[ids - 1]
        if kind == "images":
            rows = [
                ImageRecord(int(i), f"D:/{i}.png", f"prompt {s}", unavailable=i % 100 == 0)
                for i, s in zip(ids, self.stamps[at], strict=True)
            ]
        elif kind == "captions":
            rows = [Captions(1, joycaption="ein Bild", tags=("tree",))]
        yield Batch(ids, self.stamps[at], rows)

    def nearest(self, vector: Float32s, k: int) -> tuple[list[int], Float32s]:
        """What a search must find, by comparing everything."""
        ids = self.ids[:-1][self.ids[:-1] % 100 != 0]
        unit = self.vectors[ids - 1] / np.linalg.norm(self.vectors[ids - 1], axis=1, keepdims=True)
        cosines = unit @ (vector / np.linalg.norm(vector))
        best = np.lexsort((ids, -cosines))[:k]
        return ids[best].tolist(), cosines[best]


@pytest.fixture(scope="module")
def milvus() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="luna-dt-milvus-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.kill()


@pytest.fixture
def opened(milvus: Server, tmp_path: Path) -> Iterator[Callable[..., Library]]:
    """Opens the library of a DT on the server, each time in a new home; without a DT, as a reader does."""
    libraries: list[Library] = []

    def of(name: str, dt: Catalog | None = None) -> Library:
        home = tmp_path / f"home {len(libraries)}"
        settings = Settings(home=home, dt="http://127.0.0.1:9", index=f"{milvus.address}?library={name}", timeout=30)
        libraries.append(Library(settings=settings, connect=lambda _: dt) if dt else Library(settings=settings))
        return libraries[-1]

    yield of
    for library in libraries:
        library.close()


def test_a_home_that_never_synced_searches_what_another_wrote(opened: Callable[..., Library]) -> None:
    vectors = unit_vectors(3000, seed=3) * np.float32(2.5)
    vectors[1000:1600] = vectors[1000]  # a repeated prompt
    dt = Memory("searched", vectors)
    writer = opened("searched", dt)
    assert [(c.kind, c.added) for c in writer.sync()] == [
        ("images", 3000),
        ("captions", 1),
        ("embeddings.visual", 2999),
    ]
    dt.asked = 0
    assert [(c.added, c.changed, c.removed) for c in writer.sync()] == [(0, 0, 0)] * 3
    assert dt.asked == 0
    reader = opened("searched")
    for repeated, query in ((False, vectors[5]), (True, vectors[1000]), (False, unit_vectors(1, seed=9)[0])):
        hits = reader.search(vector=query, top_k=10)
        ids, cosines = dt.nearest(query, 10)
        assert [hit.similarity for hit in hits] == pytest.approx(cosines.tolist(), abs=1e-4)
        assert repeated or [hit.id for hit in hits] == ids
        assert [hit.image for hit in hits] == [reader.image(hit.id) for hit in hits]
    assert reader.search(image_id=6, top_k=1)[0].id == dt.nearest(vectors[5], 2)[0][1]
    assert [image.id for image in reader.images(after_id=98, limit=3)] == [99, 101, 102]
    assert (reader.captions(1).tags, reader.captions(2)) == (("tree",), Captions(2))
    assert "2,999 vectors" in reader.status().shared
    with pytest.raises(UnknownImage):
        reader.image(4000)
    with pytest.raises(NoVector):
        reader.search(image_id=3000)
    with pytest.raises(BadInput, match="without conditions"):
        reader.search(image_id=1, where="rating: 5")


def test_what_changed_and_what_is_gone_is_followed_and_other_libraries_are_let_be(
    opened: Callable[..., Library],
) -> None:
    first, other = Memory("changing", unit_vectors(300, seed=4)), Memory("beside", unit_vectors(50, seed=5))
    opened("beside", other).sync()
    writer = opened("changing", first)
    writer.sync()
    first.stamps[10] += 1  # the record and the vector of image 11
    first.vectors[10] = -first.vectors[10]
    first.ids, first.stamps = first.ids[5:], first.stamps[5:]
    images, _, visual = writer.sync()
    assert (images.changed, images.removed, visual.changed, visual.removed) == (1, 5, 1, 5)
    reader = opened("changing")
    assert reader.search(vector=first.vectors[10], top_k=1)[0].image.prompt == "prompt 8"
    with pytest.raises(UnknownImage):
        reader.image(3)
    assert opened("beside").image(3).id == 3
    assert opened("beside").search(vector=other.vectors[2], top_k=1)[0].id == 3


def test_a_server_that_is_killed_in_mid_sync_has_all_of_it_after_the_next(
    milvus: Server, opened: Callable[..., Library]
) -> None:
    dt = Memory("killed", unit_vectors(5000, seed=6))
    for kind in ("images", "embeddings.visual"):
        writer = opened("killed", dt)

        def kill(now: str, done: int, total: int, kind: str = kind) -> None:
            if now == kind and 0 < done < total:
                milvus.kill()

        while milvus.runs():  # a busy machine may also be too slow for an answer
            with pytest.raises(Unreachable):
                writer.sync(kill)
        with pytest.raises(Unreachable):
            opened("killed").search(vector=dt.vectors[0])
        milvus.start()
    opened("killed", dt).sync()
    assert all(change.added == change.changed == 0 for change in opened("killed", dt).sync())
    reader = opened("killed")
    for row in range(0, 4999, 500):
        hits = reader.search(vector=dt.vectors[row], top_k=5)
        ids, cosines = dt.nearest(dt.vectors[row], 5)
        assert [hit.id for hit in hits] == ids
        assert [hit.similarity for hit in hits] == pytest.approx(cosines.tolist(), abs=1e-4)
    assert "4,999 vectors" in reader.status().shared


def test_a_wrong_password_or_library_is_said_and_no_password_is_shown(milvus: Server, tmp_path: Path) -> None:
    def refused(address: str) -> str:
        with (
            Library(settings=Settings(home=tmp_path / "home", index=address, timeout=10)) as library,
            pytest.raises((Refused, NotSearchable)) as error,
        ):
            library.search(vector=np.ones(16))
        return str(error.value)

    assert "password" in refused(milvus.address.replace("Not-Milvus-1", "another-one"))
    assert "another-one" not in refused(milvus.address.replace("Not-Milvus-1", "another-one"))
    told = refused(f"{milvus.address}?library=nobody's")
    assert "***" in told
    assert "Not-Milvus-1" not in told


def test_a_home_that_mirrors_a_dt_takes_no_server(milvus: Server, library: Library) -> None:
    fill(library, unit_vectors(3))
    settings = library.settings
    with pytest.raises(SettingsError, match="home of its own"):
        Library(settings=settings.replace(index=milvus.address))
