"""A library on a real Milvus server: written by one home, read by others that mirror nothing, while things are killed."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luna_dt import Library, Settings, Term
from luna_dt.dt import connect
from luna_dt.dt.catalog import Catalog, Health
from luna_dt.dt.milvus.fields import TYPES
from luna_dt.dt.milvus.lease import DEAD_AFTER
from luna_dt.dt.milvus.server import Server as Tables
from luna_dt.dt.milvus.server import table_of
from luna_dt.errors import (
    BadInput,
    BadQuery,
    NotSearchable,
    NoVector,
    Refused,
    SettingsError,
    UnknownCluster,
    UnknownImage,
    UnknownLayer,
    Unreachable,
)
from luna_dt.query import HIDEABLE, HIDING
from luna_dt.records import Batch, Captions, Cluster, Float32s, ImageRecord, Int64s, Kind, Member, content_digest
from luna_dt.storable import sifted
from tests import stock, untidy
from tests.conftest import IDENTITY, beside, fill, unit_vectors
from tests.congruence import test_untidy as untidy_queries
from tests.milvus_server import Lite, Server
from tests.unit.test_query import CASES, LETTERS, RECORDS, written

missing = [name for name in ("milvus", "pymilvus") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # the wheel leaves sockets and files to be collected
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(bool(missing), reason=f"not installed (pip install milvus pymilvus): {', '.join(missing)}"),
]


class Memory(Catalog):
    """A DT of which everything is in memory: images 1 to n, every hundredth hidden, each with a vector but the last; the
    records are made up, and so are captions, where none are given."""

    address = "a DT in memory"

    def __init__(
        self, name: str, vectors: Float32s, records: list[ImageRecord] | None = None, said: list[Captions] | None = None,
        groups: list[Cluster] | None = None, style: Float32s | None = None,
    ) -> None:  # fmt: skip
        self.name, self.vectors, self.asked = name, vectors, 0
        self.records, self.groups, self.style = records, groups, style
        said = [Captions(1, joycaption="ein Bild", tags=("tree",))] if said is None else said
        self.said = {each.image_id: each for each in said}
        self.ids = np.arange(1, len(vectors) + 1)
        self.stamps = np.full(len(vectors), 7)

    def health(self) -> Health:
        return Health("memory", "1", (), library=self.name)

    def kinds(self) -> list[Kind]:
        count = len(self.ids)
        captions = [Kind("captions", len(self.said))] if self.said else []
        clusters = [Kind("clusters", len(self.groups))] if self.groups is not None else []
        style = [Kind("embeddings.style", len(self._styled()), IDENTITY)] if self.style is not None else []
        return [Kind("images", count), *captions, *clusters, Kind("embeddings.visual", count - 1, IDENTITY), *style]

    def _styled(self) -> Int64s:
        """Two of three images have a vector in the second layer, the last among them."""
        styled: Int64s = self.ids[self.ids % 3 != (len(self.vectors) + 1) % 3]
        return styled

    def digests(self, kind: str) -> tuple[Int64s, Int64s]:
        if kind == "captions":
            ids = np.array(sorted(self.said), np.int64)
            return ids, np.full(len(ids), 7)
        if kind == "clusters":
            every = {each.id: content_digest(repr(each).encode()) for each in self.groups or []}
            return np.array(sorted(every), np.int64), np.array([every[i] for i in sorted(every)], np.int64)
        if kind == "embeddings.style":
            ids = self._styled()
            return ids, self.stamps[np.searchsorted(self.ids, ids)]
        last = None if kind == "images" else -1
        return self.ids[:last].copy(), self.stamps[:last].copy()

    def fetch(self, kind: str, ids: Int64s) -> Iterator[Batch]:
        self.asked += len(ids)
        at = np.searchsorted(self.ids, ids)
        rows: Any = self.vectors[ids - 1]
        if kind == "embeddings.style":
            assert self.style is not None
            rows = self.style[ids - 1]
        if kind == "images" and self.records:
            rows = [self.records[i - 1] for i in ids]
        elif kind == "images":
            rows = [
                ImageRecord(int(i), f"D:/{i}.png", f"prompt {s}", steps=int(i), unavailable=i % 100 == 0)
                for i, s in zip(ids, self.stamps[at], strict=True)
            ]
        elif kind in ("captions", "clusters"):
            known, digests = self.digests(kind)
            clusters = {each.id: each for each in self.groups or []}
            rows = [self.said[i] if kind == "captions" else clusters[i] for i in ids.tolist()]
            yield Batch(ids, digests[np.searchsorted(known, ids)], rows)
            return
        yield Batch(ids, self.stamps[at], rows)

    def nearest(self, vector: Float32s, k: int, among: Any = None) -> tuple[list[int], Float32s]:
        """What a search must find, by comparing everything, or what is ``among`` those ids."""
        ids = self.ids[:-1][self.ids[:-1] % 100 != 0]
        ids = ids if among is None else ids[np.isin(ids, among)]
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
        ("captions", 1),
        ("images", 3000),
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
    told = reader.status().shared
    assert "visual: 2,999 vectors, index FLAT" in told
    assert "of 64 asked for by themselves 64 are found" in told
    assert "consistency Bounded" in told
    with pytest.raises(UnknownImage):
        reader.image(4000)
    with pytest.raises(NoVector):
        reader.search(image_id=3000)


#: Of what is kept nowhere on a server, or is found there in another way; what is only of later servers says so itself.
NOT_THERE = {"has: map", "has: vectors", "red*1girl"}
BEYOND = (
    "tag: red hair", 'tag: "RED HAIR"', "tag: hair", "tag: *hair", "tag: 1*", "tag: *d h*", "tag: red*1girl", "not tag: solo",
    "has: tag", "has: caption", "not has: caption", "has: cluster", "has: map", "has: vectors.visual",
    "not has: cluster", "cluster: luna", "album: ЛУНА", "cluster: 2", "cluster: 2026", "cluster: l*", "cluster: *a|7", "cluster: *",
    'cluster: ""', 'cluster: "*"', "not cluster: luna", "cluster: nobody", "not cluster: nobody", "in_album:", "in_album: no",
    "cluster: luna rating: > 3", "cluster: 9",
    "seed: *", "seed: ?", "seed: ??", "seed: ?*", "seed: -9223372036854775808", "seed: <= -9223372036854775808",
    "seed: > -9223372036854775808", "seed: <> 123", "steps: > 19.5", "steps: 20.5", "steps: <> 20.5", "steps: none", "steps: <= 24.5",
    "cfg: 4-6.5", "cfg: <> 7", "aesthetic_score: 5.25|none", "rating: none|>= 9223372036854775807", "size: 0:0", "size: 0:9",
    "size: 832x?", "size: 2:3|1:1", "not size: portrait", "path: starts with /srv/bilder ünï", "path: *100 é.png", "folder: *ünï",
    "folder: C:\\Users\\Öz\\猫", "folder: \\\\nas\\*", "model: *", 'model: "pony, v6"', 'sampler: ""', "sampler: euler*", "nsfw: any",
)  # fmt: skip


@pytest.fixture(scope="module", params=["Milvus", "milvus-lite"])
def conditions(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Library, Library]]:
    """One library of odd records twice: on a server and mirrored."""
    if request.param == "milvus-lite":
        pytest.importorskip("milvus_lite", reason="not installed (pip install milvus-lite)")
        server: Any = Lite(tmp_path_factory.mktemp("lite"))
        server.start()
    else:
        server = request.getfixturevalue("milvus")
    folder = tmp_path_factory.mktemp("conditions")
    stock.create(folder / "dt.db", "1.10")
    untidy.fill_stock(folder / "dt.db", 300)
    records, made = list(RECORDS), [form for text, *_ in LETTERS for form in sorted(written(text))]
    records += [
        ImageRecord(0, f"D:\\{form}\\1.png", form, form, model=form, sampler=form, model_hash=form) for form in made
    ]
    with closing(connect(Settings(home=folder / "seen", dt=str(folder / "dt.db")))) as untidy_dt:
        for batch in map(sifted, untidy_dt.fetch("images", untidy_dt.digests("images")[0])):
            records += batch.rows  # type: ignore[arg-type]
    records = [replace(record, id=at) for at, record in enumerate(records, 1)]
    said = [
        Captions(1, combined="Red Hair, 1girl, A girl.", tags=("Red Hair", "1girl")),
        Captions(2, combined="1girl, solo", tags=("1girl", "solo")),
        Captions(3, joycaption="Straße", combined="Straße"), Captions(6, combined="rote Straße", tags=("rote Straße",)),
    ]  # fmt: skip
    groups = [
        Cluster(1, "Luna", 4, tuple(Member(i, i / 300) for i in range(2, 200, 3))), Cluster(2, "Луна", 1, (Member(2, 0.5),)),
        Cluster(7, "", 9, tuple(Member(i, 1 - i / 1000) for i in (1, 2, 9000, *range(5, 90, 7)))), Cluster(9, "empty", 0),
    ]  # fmt: skip
    style = unit_vectors(len(records), seed=22)
    dt = Memory("conditions", unit_vectors(len(records), seed=2), records, said, groups, style)
    with Library(folder / "mirror", connect=lambda _: dt) as mirror, ExitStack() as opened:
        mirror.sync()
        for home in ("writer", "reader"):
            settings = Settings(home=folder / home, dt="http://127.0.0.1:9", index=server.address, timeout=30)
            settings = settings.replace(index=f"{server.address}?library=conditions")
            shared = opened.enter_context(Library(settings=settings, connect=lambda _: dt))
            if home == "writer":
                shared.sync()
        yield mirror, shared
        if isinstance(server, Lite):
            server.kill()


def test_conditions_find_what_they_find_in_a_mirror(conditions: tuple[Library, Library]) -> None:
    mirror, shared = conditions
    letters = [
        f"{token}{form}" for _, found, missed in LETTERS for form in found + missed for token in ("", "sampler: ")
    ]
    vector, refused = unit_vectors(1, seed=8)[0], dict[str, str]()
    queries = dict.fromkeys([*(query for query, _ in CASES), *untidy_queries.QUERIES, *BEYOND, *letters])
    for query in queries:
        try:
            found = [image.id for image in shared.images(query, limit=1000)]
        except BadQuery as error:
            refused[query] = str(error)
            continue
        assert found == [image.id for image in mirror.images(query, limit=1000)], query
        hits = shared.search(vector=vector, where=query, top_k=1000)
        assert [hit.id for hit in hits] == [hit.id for hit in mirror.search(vector=vector, where=query, top_k=1000)]
    later = {query for query, told in refused.items() if "2.4 or later" in told}
    assert (len(queries) * 0.6 if "2.3." in shared.status().shared else 0) >= len(later)
    assert all(any(name in query for name in NOT_THERE) for query in refused.keys() - later)
    assert [hit.image for hit in shared.search(vector=vector, top_k=300)] == [
        hit.image for hit in mirror.search(vector=vector, top_k=300)
    ]
    with pytest.raises(BadQuery, match="steps: many"):
        shared.search(vector=vector, where="steps: many")


@pytest.mark.parametrize("hide", [(), ("nsfw",), HIDEABLE])
def test_what_is_hidden_is_what_a_mirror_hides(
    opened: Callable[..., Library], tmp_path: Path, hide: tuple[str, ...]
) -> None:
    name, vector = f"hiding {len(hide)}", unit_vectors(1, seed=8)[0]
    records = [
        ImageRecord(i, f"D:/{i}.png", "a cat", nsfw=bool(i & 1), for_deletion=bool(i & 2), unavailable=bool(i & 4), rating=i % 5 or None)
        for i in range(1, 66)
    ]  # fmt: skip
    dt = Memory(name, unit_vectors(len(records), seed=17), records)
    dt.hide = hide
    settings = Settings(home=tmp_path / "mirror", dt="http://127.0.0.1:9", hide=hide)
    with Library(settings=settings, connect=lambda _: dt) as mirror:
        mirror.sync()
        opened(name, dt).sync()
        for shared in (opened(name, dt), opened(name)):
            for query in ("", "rating: > 3", "rating: none", "delete:", "delete: any nsfw: any unavailable: any", "nsfw: no", "nsfw: any",
                          "not nsfw:", "not delete: any", "unavailable: yes|no", "nsfw: delete: no"):  # fmt: skip
                for library in (shared, mirror):
                    found = [
                        [image.id for image in library.images(query, limit=1000)],
                        [hit.id for hit in library.search(vector=vector, where=query, top_k=1000)],
                    ]
                    if library is shared:
                        here = found
                assert here == found, query
            assert [hit.id for hit in shared.search(image_id=7)] == [hit.id for hit in mirror.search(image_id=7)]
            assert shared.image(7) == mirror.image(7)
        assert len(mirror.images(limit=100)) == len([image for image in records if not any(hidden(image, hide))])
    dt.hide = HIDING  # which changes no row
    assert [(each.added, each.changed, each.removed) for each in opened(name, dt).sync()] == [(0, 0, 0)] * 3
    seen = [image.id for image in opened(name).images(limit=100)]
    assert seen == [image.id for image in records if not any(hidden(image, HIDING))]


def hidden(image: ImageRecord, hide: tuple[str, ...]) -> list[bool]:
    return [getattr(image, {"delete": "for_deletion"}.get(flag, flag)) for flag in hide]


def test_orders_pages_near_copies_and_several_references_are_as_in_a_mirror(
    conditions: tuple[Library, Library],
) -> None:
    mirror, shared = conditions
    first, second = unit_vectors(2, seed=9)
    asked: list[dict[str, Any]] = [
        {"order": "date", "min_similarity": 0.2, "top_k": 40}, {"order": "rating", "min_similarity": 0.1, "top_k": 40, "offset": 7},
        {"order": "date", "min_similarity": 0.1, "where": "rating: > 3"}, {"offset": 10}, {"collapse": 0.6, "top_k": 30},
        {"collapse": 0.6, "top_k": 5, "offset": 5, "where": "not nsfw:"}, {"collapse": "seed", "top_k": 30}, {"collapse": 0.01},
        {"collapse": "file", "top_k": 60}, {"collapse": "file", "top_k": 7, "offset": 4},
        {"diverse": 0.5}, {"diverse": 1.0, "collapse": 0.5, "where": "steps: 28"}, {"order": "date", "min_similarity": 0.99},
    ]  # fmt: skip
    for options in asked:
        found = [library.search(vector=first, **options) for library in (shared, mirror)]
        assert [(hit.id, hit.stands_for) for hit in found[0]] == [(hit.id, hit.stands_for) for hit in found[1]], options
        assert [hit.similarity for hit in found[0]] == pytest.approx([hit.similarity for hit in found[1]], abs=1e-4)
    terms = [Term(vector=first), Term(image_id=9, weight=0.5), Term(vector=second, weight=-0.7)]
    for options in ({}, {"exclude_source": False}, {"where": "rating: > 3", "collapse": 0.5}, {"exclude": range(100)}):
        found = [library.search(terms, **options) for library in (shared, mirror)]
        assert [hit.id for hit in found[0]] == [hit.id for hit in found[1]], options
        assert [hit.similarity for hit in found[0]] == pytest.approx([hit.similarity for hit in found[1]], abs=1e-4)
    with pytest.raises(BadInput, match="cancel each other"):
        shared.search([Term(vector=first), Term(vector=first, weight=-1)])
    terms = [
        Term(vector=first),
        Term(image_id=10, weight=0.5, layer="style"),
        Term(vector=second, weight=-0.7, layer="style"),
    ]
    asked += [{"exclude": range(100)}, {"exclude_source": False, "where": "cluster: luna"}, {"min_similarity": 0.3}, {}]
    for options in asked:
        found = [library.search(terms, **options) for library in (shared, mirror)]
        assert [(hit.id, hit.stands_for, hit.image) for hit in found[0]] == [
            (hit.id, hit.stands_for, hit.image) for hit in found[1]
        ]
        assert [hit.similarity for hit in found[0]] == pytest.approx([hit.similarity for hit in found[1]], abs=1e-4)
    with pytest.raises(BadInput, match="layer 'style' cancel each other"):
        shared.search([Term(vector=first), *(Term(vector=first, layer="style", weight=weight) for weight in (1, -1))])
    with pytest.raises(NoVector):
        shared.search([Term(vector=first), Term(image_id=9, layer="style")])
    with pytest.raises(UnknownLayer):
        shared.search([Term(vector=first), Term(vector=first, layer="negative")])
    for library in (shared, mirror):
        assert [vector is None for vector in library.vectors([7, 8, 9], "style")] == [False, False, True]


def test_a_query_over_several_layers_is_exact_however_far_its_images_lie(
    opened: Callable[..., Library], tmp_path: Path
) -> None:
    def aside(vector: Float32s) -> Float32s:
        """Another of length 1, whose cosine to it is -.5."""
        across = np.roll(vector, 1) - vector * np.dot(np.roll(vector, 1), vector)
        found: Float32s = np.float32(0.75**0.5) * across / np.linalg.norm(across) - np.float32(0.5) * vector
        return found

    count = 6000
    visual, style = unit_vectors(count, seed=51), unit_vectors(count, seed=52)
    visual[100:1900] = visual[100]  # more that are equal than are looked at first
    style[1500:3500] = style[1500] + np.float32(0.01) * style[1500:3500]
    middling = np.arange(5970, 6000)  # not among the nearest of either layer, and best by both
    visual[2000:3500], style[2000:3500] = visual[5], aside(style[7])
    visual[3500:5970], style[3500:5970] = aside(visual[5]), style[7]
    visual[middling] += np.float32(0.7) * visual[5]
    style[middling] += np.float32(0.7) * style[7]
    dt = Memory("layers", visual, style=style)
    opened("layers", dt).sync()
    reader = opened("layers")
    with Library(tmp_path / "mirror", connect=lambda _: dt) as mirror:
        mirror.sync()
        both = [Term(vector=visual[5]), Term(vector=style[7], layer="style")]
        hits = reader.search(both, top_k=5)
        assert {hit.id - 1 for hit in hits} <= {5, 7, *middling.tolist()}
        assert [hit.id for hit in hits] == [hit.id for hit in mirror.search(both, top_k=5)]
        points = [visual[5], visual[150], style[1600], *unit_vectors(3, seed=53)]
        for at, first in enumerate(points):
            second = points[at - 1]
            asked: list[tuple[float, dict[str, Any]]] = [
                (1.0, {}), (0.05, {"top_k": 30}), (-0.4, {"offset": 700}), (3.0, {"where": "steps: 1-2000"}),
                (1.0, {"top_k": 9000}), (0.6, {"min_similarity": 0.2, "top_k": 2000}), (1.0, {"collapse": 0.99, "top_k": 50}),
            ]  # fmt: skip
            for weight, options in asked:
                terms = [Term(vector=first), Term(vector=second, layer="style", weight=weight)]
                there, here = (library.search(terms, **options) for library in (reader, mirror))
                assert [hit.similarity for hit in there] == pytest.approx([hit.similarity for hit in here], abs=1e-4), (
                    options
                )
                score = {hit.id: hit.similarity for hit in mirror.search(terms, top_k=count)}
                assert len({hit.id for hit in there}) == len(there)
                assert [hit.similarity for hit in there] == pytest.approx([score[hit.id] for hit in there], abs=1e-4), (
                    options
                )


def test_the_command_takes_conditions_and_names_what_a_server_does_not_know(
    conditions: tuple[Library, Library],
) -> None:
    _, shared = conditions

    def search(where: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "luna_dt", "search", "--id", "1", "--where", where, "--explain", "--json"]
        env = {**os.environ, "LUNA_DT_INDEX": shared.settings.index, "LUNA_DT_HOME": str(shared.settings.home)}
        return subprocess.run(command, env=env, capture_output=True, encoding="utf-8", timeout=120, check=False)

    done = search("rating: 10 not nsfw:")
    assert "is compared by milvus+http://" in done.stderr.replace("\n", "")
    hits = json.loads(done.stdout)
    assert hits == [hit.to_json() for hit in shared.search(image_id=1, where="rating: 10 not nsfw:")]
    assert len(hits) == 10
    assert json.loads(search("rating: 10 cluster: Luna").stdout)
    refused = search("rating: 10 has: map")
    assert refused.returncode != 0
    assert "'has: map' asks for what a Milvus server does not keep" in refused.stdout + refused.stderr


def test_conditions_are_right_at_every_share_of_rows_that_fit(opened: Callable[..., Library]) -> None:
    vectors = unit_vectors(4000, seed=12)
    vectors[500:900] = vectors[500]
    dt = Memory("shares", vectors)
    opened("shares", dt).sync()
    reader = opened("shares")
    for most in (4000, 2000, 400, 40, 4, 0):
        right = wanted = 0
        for vector in (*unit_vectors(10, seed=13), vectors[600]):
            hits = reader.search(vector=vector, where=f"steps: 1-{most}", top_k=10)
            _, cosines = dt.nearest(vector, 10, np.arange(1, most + 1))
            assert [hit.similarity for hit in hits] == pytest.approx(cosines.tolist(), abs=1e-4)
            right += sum(hit.id <= most and hit.similarity >= cosines[-1] - 1e-4 for hit in hits)
            wanted += len(cosines)
        assert right >= 0.99 * wanted, most


def test_clusters_are_as_in_a_mirror_also_after_their_members_changed(
    opened: Callable[..., Library], tmp_path: Path
) -> None:
    groups = [
        Cluster(1, "Luna", 30, tuple(Member(i, i / 100) for i in range(1, 31))),
        Cluster(2, "Sol", 2, (Member(30, 0.1), Member(61, 1.0))),
        Cluster(3, "Mars", 1, (Member(40, 0.25),)),
    ]
    records = [ImageRecord(i, f"D:/{i}.png", f"a {i}", rating=i % 4 or None, nsfw=i == 7) for i in range(1, 62)]
    dt = Memory("grouped", unit_vectors(61, seed=41), records, groups=groups)
    dt.ids, dt.stamps = dt.ids[:-1], dt.stamps[:-1]
    dt.hide = ("nsfw",)
    queries = ("cluster: luna", "cluster: 2", "not cluster: luna", "cluster: sol|mars", "in_album:", "cluster: terra")
    settings = Settings(home=tmp_path / "mirror", dt="http://127.0.0.1:9", hide=dt.hide)
    with Library(settings=settings, connect=lambda _: dt) as mirror:
        for change in range(7):
            if change == 1:
                groups[0] = Cluster(1, "Luna", 3, (Member(3, 0.9), Member(50, 0.8), Member(7, 0.7)))
            elif change == 2:
                groups[1] = replace(groups[1], name="Terra")
            elif change == 3:
                groups.pop()
            elif change == 4:  # an image that was in a cluster before it was there
                dt.ids, dt.stamps = np.arange(1, 62), np.full(61, 7)
            elif change == 5:
                records[2], dt.stamps[2] = replace(records[2], rating=9), 8
            elif change == 6:
                groups.clear()
            mirror.sync()
            opened("grouped", dt).sync()
            dt.asked = 0
            assert all(each.added == each.changed == each.removed == 0 for each in opened("grouped", dt).sync())
            assert dt.asked == 0
            reader = opened("grouped")
            assert reader.clusters() == mirror.clusters()
            for cluster in mirror.clusters():
                for sort in ("quality", "confidence"):
                    there, here = (each.cluster_images(cluster.id, 100, 0.5, sort) for each in (reader, mirror))
                    assert there == here
            for query in queries:
                found = [[image.id for image in each.images(query)] for each in (reader, mirror)]
                assert found[0] == found[1], query
                hits = [each.search(vector=dt.vectors[3], where=query, top_k=60) for each in (reader, mirror)]
                assert [hit.id for hit in hits[0]] == [hit.id for hit in hits[1]], query
        with pytest.raises(UnknownCluster):
            reader.cluster_images(3)


def test_a_mirror_and_the_layers_made_there_are_copied_to_a_server(
    milvus: Server, opened: Callable[..., Library], tmp_path: Path
) -> None:
    groups = [Cluster(4, "Luna", 2, (Member(7, 0.5), Member(9, 0.25)))]
    dt = Memory("copied", unit_vectors(150, seed=21), groups=groups)
    made = unit_vectors(150, seed=22)
    with Library(tmp_path / "mirror", connect=lambda _: dt) as mirror:
        mirror.sync()
        with beside(mirror) as store:
            store.prepare_layer("style", IDENTITY, local=True)
            store.put("embeddings.style", Batch(dt.ids, dt.stamps, made))
        address = f"{milvus.address}?library=copied"
        assert {each.kind: each.added for each in mirror.copy_to(address)} == {
            "captions": 1, "clusters": 1, "images": 150, "embeddings.visual": 149, "embeddings.style": 150,
        }  # fmt: skip
        assert all(each.added == each.changed == each.removed == 0 for each in mirror.copy_to(address))
        assert all(each.added == each.changed == each.removed == 0 for each in opened("copied", dt).sync())
        reader = opened("copied")
        for layer, vectors in (("visual", dt.vectors), ("style", made)):
            hits = [library.search(vector=vectors[7], layer=layer) for library in (mirror, reader)]
            assert [hit.image for hit in hits[0]] == [hit.image for hit in hits[1]]
        with pytest.raises(BadInput, match="Milvus server"):
            mirror.copy_to("http://127.0.0.1:9")
        with Library(tmp_path / "back") as back:  # with DT closed
            assert {each.kind: each.added for each in back.copy_from(address)} == {
                "captions": 1, "clusters": 1, "images": 150, "embeddings.visual": 149, "embeddings.style": 150,
            }  # fmt: skip
            assert all(each.added == each.changed == each.removed == 0 for each in back.copy_from(address))
            assert back.images() == mirror.images()
            assert back.captions(7) == mirror.captions(7)
            assert back.clusters() == mirror.clusters()
            assert back.cluster_images(4) == mirror.cluster_images(4) == reader.cluster_images(4)
            for layer, vectors in (("visual", dt.vectors), ("style", made)):
                found = [library.nearest(vectors[7], layer=layer) for library in (mirror, back)]
                np.testing.assert_array_equal(found[0][0], found[1][0])
                np.testing.assert_array_equal(found[0][1], found[1][1])
            with beside(back) as store:
                assert {state.name: state.local for state in store.layers()} == {"visual": False, "style": True}
                assert store.digests("embeddings.style")[1].tolist() == dt.stamps.tolist()  # by which embed goes on
        with Library(tmp_path / "back", connect=lambda _: dt) as back:
            assert all(each.added == each.changed == each.removed == 0 for each in back.sync())
            assert (
                back.nearest(made[7], layer="style")[0].tolist() == mirror.nearest(made[7], layer="style")[0].tolist()
            )


def test_what_changed_and_what_is_gone_is_followed_and_other_libraries_are_let_be(
    opened: Callable[..., Library],
) -> None:
    first, other = Memory("changing", unit_vectors(300, seed=4)), Memory("beside", unit_vectors(50, seed=5), said=[])
    assert [change.kind for change in opened("beside", other).sync()] == ["images", "embeddings.visual"]
    writer = opened("changing", first)
    writer.sync()
    first.stamps[10] += 1  # the record and the vector of image 11
    first.vectors[10] = -first.vectors[10]
    first.ids, first.stamps = first.ids[5:], first.stamps[5:]
    _, images, visual = writer.sync()
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
    writer = opened("killed", dt)
    for kind in ("images", "embeddings.visual"):

        def kill(now: str, done: int, total: int, kind: str = kind) -> None:
            if now == kind and 0 < done < total:
                milvus.kill()

        while milvus.runs():  # a busy machine may also be too slow for an answer
            with pytest.raises(Unreachable):
                writer.sync(kill)
        with pytest.raises(Unreachable):
            opened("killed").search(vector=dt.vectors[0])
        milvus.start()
    writer.sync()
    assert all(change.added == change.changed == 0 for change in opened("killed", dt).sync())
    reader = opened("killed")
    for row in range(0, 4999, 500):
        hits = reader.search(vector=dt.vectors[row], top_k=5)
        ids, cosines = dt.nearest(dt.vectors[row], 5)
        assert [hit.id for hit in hits] == ids
        assert [hit.similarity for hit in hits] == pytest.approx(cosines.tolist(), abs=1e-4)
    assert "4,999 vectors" in reader.status().shared


WRITER = """
import sys
from pathlib import Path
from luna_dt import Library, Settings, Term
from tests.e2e.test_milvus import changing
home, index, after = sys.argv[1:]
settings = Settings(home=Path(home), dt="http://127.0.0.1:9", index=index, timeout=60)
with Library(settings=settings, connect=lambda _: changing(int(after))) as library:
    library.sync(lambda kind, done, total: print(kind, done, total, flush=True))
"""


def changing(after: int) -> Memory:
    """A DT as it is after so many changes, each of a fifth of its rows."""
    dt = Memory("kills", unit_vectors(9000, seed=30))
    for change in range(1, after + 1):
        rows = slice(change % 5, None, 5)
        dt.stamps[rows] = 7 + change
        dt.vectors[rows] = unit_vectors(9000, seed=30 + change)[rows]
    return dt


def test_after_kills_of_writer_and_server_there_is_exactly_what_dt_has(
    milvus: Server, opened: Callable[..., Library], tmp_path: Path
) -> None:
    kills, rng = int(os.environ.get("LUNA_DT_KILLS", "2")), random.Random(5)
    index = f"{milvus.address}?library=kills"
    killed = 0
    for change in range(10 * kills):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "writer"), index, str(change)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8") as writer:
            assert writer.stdout
            for _ in range(rng.randint(2, 6)):
                writer.stdout.readline()
            time.sleep(rng.random() / 3)
            if writer.poll() is None:
                (milvus if killed % 2 else writer).kill()
                killed += 1
            writer.communicate()
        if not milvus.runs():
            milvus.start()
        if killed == kills:
            break
    assert killed == kills
    dt = changing(change)
    opened("kills", dt).sync()
    assert all(each.added == each.changed == each.removed == 0 for each in opened("kills", dt).sync())
    with closing(Tables(milvus.address, 60)) as there:
        for table, ids in ((table_of("images"), dt.ids), (table_of("embeddings.visual", IDENTITY), dt.ids[:-1])):
            assert there.count(table, "kills") == len(ids)
            assert there.digests(table, "kills")[0].tolist() == ids.tolist()
        for at in range(0, len(ids), 1000):
            rows = there.rows(table, "kills", ids[at : at + 1000].tolist(), ["vector", "record"], "Strong")
            for image_id, row in rows.items():
                np.testing.assert_array_equal(np.float32(row["vector"]), dt.vectors[image_id - 1])
                assert row["record"]["prompt"] == f"prompt {dt.stamps[image_id - 1]}"


def test_of_two_writers_one_is_refused_until_the_other_is_done_or_dead(milvus: Server, tmp_path: Path) -> None:
    index = f"{milvus.address}?library=kills"

    def writer(home: str, change: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITER, str(tmp_path / home), index, str(change)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")

    def begun(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
        """When it has the right to write."""
        assert process.stdout
        while not process.stdout.readline().startswith("captions"):
            assert process.poll() is None
        return process

    def library(change: int) -> Library:
        settings = Settings(home=tmp_path / "here", dt="http://127.0.0.1:9", index=index, timeout=60)
        return Library(settings=settings, connect=lambda _: changing(change))

    told: list[str] = []

    def meanwhile(kind: str, done: int, total: int) -> None:
        if kind == "images" and done and not told:
            with writer("second", 20) as second:
                told.append(second.communicate(timeout=300)[1])

    with library(21) as here:
        here.sync(meanwhile)
    assert re.search(r"AnotherWriter: library kills on milvus.* is written by .*, since 20", told[0])
    assert str(tmp_path / "here") in told[0]
    with begun(writer("dead", 22)) as dead:
        dead.kill()
    start = time.monotonic()
    with begun(writer("second", 23)) as second:  # it looked for a sign of life first
        assert time.monotonic() - start > DEAD_AFTER
        second.send_signal(signal.SIGSTOP)
        with library(24) as here:
            changes = here.sync()
            assert sum(each.changed for each in changes) > 0
            second.send_signal(signal.SIGCONT)
            told.append(second.communicate(timeout=300)[1])  # what it waited for may also have come too late
            assert re.search("AnotherWriter: .* is not this sync's to write any more|Unreachable: ", told[-1])
            here.sync()  # mends the page that it was about to send, if it was
            assert all(each.added == each.changed == each.removed == 0 for each in here.sync())
    with writer("dead", 24) as again:
        assert again.wait(timeout=300) == 0


def test_rows_that_are_there_twice_are_written_anew(milvus: Server, opened: Callable[..., Library]) -> None:
    dt = Memory("twice", unit_vectors(2000, seed=61))
    opened("twice", dt).sync()
    with closing(Tables(milvus.address, 60)) as there:
        for table, more in ((table_of("images"), ()), (table_of("embeddings.visual", IDENTITY), ("vector",))):
            fields = ["digest", "source", "record", *TYPES, *more]
            late = there.rows(table, "twice", range(1, 501), fields, "Strong").values()
            there.put(table, "twice", [{**row, "tags": [], "clusters": [], "digest": 5} for row in late], dt.ids[:0])
            assert there.count(table, "twice") > 2000
    opened("twice", dt).sync()
    assert all(each.added == each.changed == each.removed == 0 for each in opened("twice", dt).sync())
    assert [hit.id for hit in opened("twice").search(vector=dt.vectors[7], top_k=50)] == dt.nearest(dt.vectors[7], 50)[
        0
    ]


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
