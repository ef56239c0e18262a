"""One untidy library in every catalog, behind servers and mirrored: any query has one answer, and that of plain Python."""

from __future__ import annotations

import json
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import psycopg
import pytest

pytest.importorskip("fastapi")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luna_dt import ImageRecord, Library, Settings
from luna_dt.demo import database
from luna_dt.dt import connect
from luna_dt.dt.catalog import Catalog
from luna_dt.errors import BadQuery
from luna_dt.plain import shown
from luna_dt.query import HIDEABLE, HIDING
from luna_dt.server.app import create_app
from luna_dt.server.run import listening, prepared
from luna_dt.storable import sifted
from luna_dt.store import Store
from tests import stock, untidy
from tests.asked import SAVED, Query, Seen, queries
from tests.congruence.test_catalogs import made_anew
from tests.congruence.test_folder import GRAPH, XMP, draw
from tests.unit.test_query import QUERIES

COUNT, PICTURES, PATIENCE = 120, 40, 300.0  # seconds: many are asked, on a machine that others may use
EXAMPLES = int(os.environ.get("LUNA_DT_EXAMPLES", "120"))
each_the_same = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)

Images = Callable[[str, tuple[str, ...], int, int], list[ImageRecord]]


@dataclass(frozen=True)
class Source:
    """Whom a query is asked of: ``images`` answers, of what the ``library`` (all sources of one have the same) holds; it
    ``knows`` what not all do, and what it hides may be ``fixed``."""

    name: str
    library: str
    images: Images
    world: dict[int, Seen]
    knows: frozenset[str]
    fixed: bool = False

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        printer.text(self.name)


def world_of(catalog: Catalog) -> dict[int, Seen]:
    """All that a catalog has, as a sync gets it."""
    rows: dict[str, list[Any]] = {}
    for kind in catalog.kinds():
        if kind.layer is None:
            batches = map(sifted, catalog.fetch(kind.name, catalog.digests(kind.name)[0]))
            rows[kind.name] = [row for batch in batches for row in batch.rows]
    said = {each.image_id: each for each in rows.get("captions", ())}
    clusters = defaultdict[int, list[tuple[int, str]]](list)
    for each in rows.get("clusters", ()):
        for member in each.members:
            clusters[member.image_id].append((each.id, each.name))
    found = {}
    for image in rows["images"]:
        own = said.get(image.id)
        tags = own.tags if own else ()
        captioned = own is not None and own.combined != ", ".join(tags)
        found[image.id] = Seen(replace(image, tags=tags), captioned, tuple(clusters[image.id]))
    return dict(sorted(found.items()))


def fill_folder(folder: Path) -> None:
    """The same images as pictures, as far as a file says such things of itself."""
    for row, (_, tags, *_) in zip(untidy.rows(PICTURES), untidy.names(PICTURES), strict=True):
        i = row["id"]
        graph = json.loads(json.dumps(GRAPH))
        graph["1"]["inputs"]["ckpt_name"] = row.get("model") or "dream"
        graph["2"]["inputs"]["text"], graph["3"]["inputs"]["text"] = (
            row.get("prompt") or "",
            row.get("negative_prompt") or "",
        )
        graph["5"]["inputs"] |= {name: row[name] for name in ("seed", "steps", "cfg") if row.get(name) is not None}
        rating, subject = str(row.get("rating") or 3), "".join(f"<rdf:li>{escape(tag)}</rdf:li>" for tag in tags)
        xmp = XMP.replace('Rating="4"', f'Rating="{rating}"')
        xmp = xmp.replace(XMP[XMP.index("<rdf:li>") : XMP.rindex("</rdf:Bag>")], subject)
        texts = {"prompt": json.dumps(graph)} if row.get("prompt") else {}
        texts |= {"XML:com.adobe.xmp": xmp} if tags else {}
        below = ("", "süb", "süb/tief", "100%_", "Ünï\\x")[i % 5]
        file = draw(folder / below / f"{i:05} {'éüx'[i % 3]}.png", size=((64, 32), (32, 64), (48, 48))[i % 3], **texts)
        os.utime(file, (1_709_200_000 + 420 * i,) * 2)


def fill_stock(file: Path, version: str, older: str) -> None:
    stock.create(file, version, older)
    untidy.fill_stock(file, COUNT)
    untidy.name_stock(file, COUNT, tagged=version == "1.10")
    if version in ("1.9", "1.10"):
        rows = ({"Name": name, "QueryJson": json.dumps({"Query": text})} for name, (text, *_) in SAVED.items())
        stock.insert(file, "Query", *rows)


@pytest.fixture(scope="module")
def addresses(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the library is, in each of the ways to have one."""
    folder = tmp_path_factory.mktemp("everywhere")
    found = {}
    for name, options in {"the fork": "", "the fork in C": "LOCALE 'C' ENCODING 'SQL_ASCII'"}.items():
        address = made_anew(postgres, name.replace(" ", "_").lower(), options) if options else postgres
        with psycopg.connect(address, client_encoding="utf8") as connection:
            database.create_tables(connection, "everywhere", {})
            untidy.fill_fork(connection, COUNT)
            untidy.name_fork(connection, COUNT)
        found[name] = f"{address}&schema=everywhere"
    for version, older in [(version, "") for version in stock.VERSIONS] + [("1.10", "1.5")]:
        name = f"stock {version}{' of ' * bool(older)}{older}"
        found[name] = str(folder / name / "diffusion-toolkit.db")
        fill_stock(Path(found[name]), version, older)
    found["a folder"] = str(folder / "Bilder Ünï")
    fill_folder(Path(found["a folder"]))
    return found


@pytest.fixture(scope="module")
def everywhere(addresses: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Source]]:
    """Every catalog; servers over one of each kind; the mirror of each of these."""
    homes = tmp_path_factory.mktemp("homes")
    sources: list[Source] = []
    with ExitStack() as opened:
        every = {name: (name, address) for name, address in addresses.items()}
        for name in ("the fork", "the fork in C", "stock 1.10", "a folder"):
            served = connect(Settings(home=homes / f"server of {name}", dt=addresses[name], timeout=PATIENCE))
            every[f"a server over {name}"] = name, opened.enter_context(serving(served))
        worlds: dict[str, dict[int, Seen]] = {}
        for name, (library, address) in every.items():
            home = homes / name
            with Library(home, dt=address) as synced:
                synced.sync()
            dt = opened.enter_context(closing(connect(Settings(home=home, dt=address, timeout=PATIENCE))))
            store = opened.enter_context(closing(Store(home, saved=dt.saved)))
            world = world_of(dt)
            assert worlds.setdefault(library, world) == world, f"{name} says of images what {library} does not"
            saves = frozenset(["saved"] if library in ("stock 1.9", "stock 1.10", "stock 1.10 of 1.5") else [])
            is_server = name != library
            sources.append(Source(name, library, images_of(dt), world, saves, fixed=is_server))
            own = saves - {"saved"} if is_server else saves  # a server asks for itself, and tells nobody
            sources.append(Source(f"the mirror of {name}", library, mirrored_in(store), world, own | {"synced"}))
        yield sources


@contextmanager
def serving(catalog: Catalog) -> Iterator[str]:
    """The URL of a server over a catalog, in a thread of its own."""
    listener, url = listening("127.0.0.1", 0)
    server = prepared(create_app(catalog))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield url
    server.should_exit = True
    thread.join(30)


def images_of(dt: Catalog) -> Images:
    def images(query: str, hide: tuple[str, ...], after_id: int, limit: int) -> list[ImageRecord]:
        dt.hide = hide
        return dt.images(query, after_id, limit)

    return images


def mirrored_in(store: Store) -> Images:
    def images(query: str, hide: tuple[str, ...], after_id: int, limit: int) -> list[ImageRecord]:
        store.hide = hide
        return store.find(query, after_id, limit)

    return images


def test_what_can_be_said_everywhere_is_the_same(everywhere: list[Source]) -> None:
    """The fork's words, and stock DT's newest, of the images that both can hold."""
    worlds = {each.library: each.world for each in everywhere}
    assert worlds["the fork"] == worlds["the fork in C"]
    assert worlds["stock 1.10"] == worlds["stock 1.10 of 1.5"]
    both = worlds["the fork"].keys() & worlds["stock 1.10"].keys()
    assert len(both) > 0.9 * COUNT
    for image_id in both:
        fork, other = (worlds[name][image_id] for name in ("the fork", "stock 1.10"))
        if image_id % 20:  # these have numbers that one of them cannot hold
            assert replace(fork.record, created="", tags=()) == replace(other.record, created="", tags=())
        assert (set(fork.record.tags), fork.clusters) == (set(other.record.tags), other.clusters)


HIDDEN = st.sampled_from([HIDING, HIDING, HIDEABLE, (), ("nsfw",), ("unavailable",)])


@each_the_same
@given(query=queries(), hide=HIDDEN, after_id=st.sampled_from([0, 0, 0, 37]), limit=st.sampled_from([1000, 1000, 7]))
def test_any_query_finds_what_it_says(
    everywhere: list[Source], query: Query, hide: tuple[str, ...], after_id: int, limit: int
) -> None:
    expected: dict[str, list[ImageRecord]] = {}
    for source in everywhere:
        flags = HIDING if source.fixed else hide
        at = query.refused_at(source.knows)
        try:
            found = source.images(query.text, flags, after_id, limit)
        except BadQuery as error:
            told: object = (error.at, error.query)
        else:
            told = None if at is None else found
        assert told == (None if at is None else (at, query.text)), source.name
        if at is not None:
            continue
        known = f"{source.library} {flags}"
        if known not in expected:
            seen = (each for i, each in source.world.items() if i > after_id)
            expected[known] = [each.record for each in seen if query.fits(each, flags)][:limit]
        assert [image.id for image in found] == [image.id for image in expected[known]], source.name
        assert found == expected[known], source.name


FREE = QUERIES | st.tuples(QUERIES, st.integers(1, 300)).map(lambda made: (made[0] * made[1])[:5100])


@each_the_same
@given(query=FREE)
def test_whatever_is_asked_is_answered_alike(everywhere: list[Source], query: str) -> None:
    answers: dict[str, dict[str, object]] = defaultdict(dict)
    for source in everywhere:
        try:
            found: object = [image.id for image in source.images(query, HIDING, 0, 1000)]
        except BadQuery as error:
            found = (shown(error), error.at, error.query)
        answers[source.library][source.name] = found
    for library, said in answers.items():
        first, *others = said.items()
        for name, found in others:
            if "a library that was synced" not in str(first[1]) and "saved" not in str((first[1], found)):
                assert found == first[1], (library, name)
