"""One suite for every way into DT: the database itself, and a server over it, say the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import psycopg
import pytest
from hypothesis import given, settings

from luna_dt import ImageRecord, Library
from luna_dt.demo import database
from luna_dt.dt import wire
from luna_dt.dt.catalog import Catalog
from luna_dt.dt.postgres import PostgresCatalog
from luna_dt.dt.postgres.connection import Database
from luna_dt.dt.rest import RestCatalog
from luna_dt.errors import (
    BadAnswer,
    BadInput,
    BadQuery,
    BadVector,
    LunaError,
    MapMissing,
    NotFound,
    NotOffered,
    NotSearchable,
    Refused,
    UnknownCluster,
    UnknownImage,
    UnknownLayer,
)
from luna_dt.generation import Generation
from luna_dt.identity import Identity
from luna_dt.query import MAX_TERMS, MAX_TEXT
from luna_dt.records import StoredMap
from luna_dt.storable import sifted
from tests.conftest import Drawn
from tests.unit.test_query import CASES, LETTERS, QUERIES, RECORDS, fill_records, written
from tests.untidy import HASHES


def made_anew(postgres: str, name: str, options: str) -> str:
    """The address of a new database of that name."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 {options}")
    return urlunsplit(urlsplit(postgres)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
def drawn_in_c(postgres: str, drawn: Drawn) -> str:
    """The address of the same pictures in a database as the fork's compose file makes it, by ``initdb --locale=C``."""
    address = made_anew(postgres, "in_c", "LOCALE 'C' ENCODING 'SQL_ASCII'")
    with psycopg.connect(address, client_encoding="utf8") as connection:
        database.create_tables(connection, "drawn", database.IDENTITIES)
        database.fill(connection, drawn.drawings, drawn.vectors)
    return f"{address}&schema=drawn"


@pytest.fixture(params=["postgres", "postgres of locale C", "rest"])
def catalog(request: pytest.FixtureRequest, drawn: Drawn) -> Iterator[Catalog]:
    opened: Catalog
    if request.param == "rest":
        opened = RestCatalog(request.getfixturevalue("server"))
    else:
        own = request.param == "postgres"
        opened = PostgresCatalog(drawn.address if own else request.getfixturevalue("drawn_in_c"))
    yield opened
    opened.close()


def test_health(catalog: Catalog) -> None:
    known = {"images", "similar", "clusters", "captions", "sync", "generations"}
    own = {"files", "maps"} if isinstance(catalog, RestCatalog) else set()  # of the server, not of the database
    assert set(catalog.health().capabilities) == known | own


def test_an_image_has_what_was_put_in(catalog: Catalog, drawn: Drawn) -> None:
    image, drawing = catalog.image(5), drawn.drawings[4]
    assert (image.id, image.path, image.prompt) == (5, str(drawing.path), drawing.scene.caption)
    assert (image.width, image.height) == drawing.size
    assert (image.seed, image.steps, image.sampler, image.cfg) == (drawing.seed, drawing.steps, drawing.sampler, 7.0)
    assert (image.rating, image.model, image.scheduler) == (drawing.rating, "drawings_v1", "normal")
    assert image.created == "2026-01-01T12:28:00"
    assert image.tags[0] == drawing.scene.subject
    assert image.hash == hashlib.sha256(drawing.path.read_bytes()).hexdigest()


def test_pages_and_queries(catalog: Catalog, drawn: Drawn) -> None:
    assert [image.id for image in catalog.images(limit=3)] == [1, 2, 3]
    assert [image.id for image in catalog.images(after_id=98)] == [99, 100]
    assert catalog.images(after_id=4, limit=1) == [catalog.image(5)]
    assert catalog.similar("visual", None, 5, 1, 0)[0].image == catalog.image(5)
    cats = [i + 1 for i, d in enumerate(drawn.drawings) if d.scene.subject == "cat"]
    assert [image.id for image in catalog.images("cat")] == cats
    with pytest.raises(BadQuery, match="steps: many"):
        catalog.images("steps: many")


@pytest.mark.parametrize("layer", ["visual", "semantic", "composition"])
def test_similar_by_vector_and_by_id(catalog: Catalog, drawn: Drawn, layer: str) -> None:
    vectors = drawn.vectors[layer]
    cosines = vectors @ vectors[11]
    for hits in (catalog.similar(layer, vectors[11], None, 5, -1), catalog.similar(layer, None, 12, 5, -1)):
        np.testing.assert_allclose([hit.similarity for hit in hits], np.sort(cosines)[::-1][:5], atol=1e-5)
        np.testing.assert_allclose(cosines[[hit.id - 1 for hit in hits]], [hit.similarity for hit in hits], atol=1e-5)
    assert all(hit.similarity >= 0.9 for hit in catalog.similar(layer, vectors[11], None, 50, 0.9))


@pytest.mark.parametrize(
    ("layer", "vector", "error"),
    [
        ("visual", np.ones(7, np.float32), BadVector),
        ("visual", np.zeros(128, np.float32), BadVector),
        ("style", np.ones(768, np.float32), NotSearchable),
        ("smell", np.ones(128, np.float32), UnknownLayer),
    ],
)
def test_what_cannot_be_compared(catalog: Catalog, layer: str, vector: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error):
        catalog.similar(layer, vector, None, 5, 0)


def test_clusters(catalog: Catalog, drawn: Drawn) -> None:
    names = {c.id: (c.name, c.image_count) for c in catalog.clusters()}
    assert names == {1: ("Luna", 4), 2: ("Snorri", 4), 3: ("", 4)}
    found = catalog.cluster_images(1, sort="confidence")
    assert [c.confidence for c in found] == sorted((c.confidence for c in found), reverse=True)
    assert {drawn.drawings[c.image.id - 1].scene.subject for c in found} == {"cat"}
    good = catalog.cluster_images(1, min_quality=3)
    assert {c.image.id for c in good} == {c.image.id for c in found if c.image.quality >= 3}
    assert len(catalog.cluster_images(1, limit=2, sort="random")) == 2


def test_captions(catalog: Catalog, drawn: Drawn) -> None:
    scene = drawn.drawings[7].scene
    captions = catalog.captions(8)
    assert captions.wd14_tags == f"{scene.subject}, {scene.colour} {scene.subject}"
    assert captions.joytag_tags == f"{scene.subject}, {scene.texture} background"
    assert captions.joycaption == f"A drawing that shows {scene.caption}."
    assert captions.combined.startswith(
        f"{scene.subject}, {scene.colour} {scene.subject}, {scene.texture} background, A"
    )


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda c: c.image(999), UnknownImage),
        (lambda c: c.captions(999), UnknownImage),
        (lambda c: c.similar("visual", None, 999, 5, 0), UnknownImage),
        (lambda c: c.cluster_images(999), UnknownCluster),
        (lambda c: c.digests("smells"), UnknownLayer),
        (lambda c: list(c.fetch("smells", np.array([1]))), UnknownLayer),
    ],
)
def test_unknown_things(catalog: Catalog, ask: object, error: type[LunaError]) -> None:
    with pytest.raises(error):
        ask(catalog)  # type: ignore[operator]


def test_what_can_be_mirrored(catalog: Catalog, drawn: Drawn) -> None:
    kinds = {kind.name: kind for kind in catalog.kinds()}
    assert {name: kind.count for name, kind in kinds.items()} == {
        "images": 100, "captions": 100, "clusters": 3,
        "embeddings.visual": 100, "embeddings.semantic": 100, "embeddings.composition": 100,
    }  # fmt: skip
    assert kinds["embeddings.visual"].identity == database.TINY_IMAGE
    for name in kinds:
        ids, digests = catalog.digests(name)
        assert ids.tolist() == sorted(ids.tolist())
        batches = list(catalog.fetch(name, ids[::2]))
        assert np.concatenate([b.ids for b in batches]).tolist() == ids[::2].tolist()
        assert np.concatenate([b.digests for b in batches]).tolist() == digests[::2].tolist()
        assert list(catalog.fetch(name, np.array([10**6]))) == []
    (batch,) = catalog.fetch("embeddings.visual", np.array([3, 4]))
    np.testing.assert_allclose(np.asarray(batch.rows), drawn.vectors["visual"][2:4], atol=1e-7)


def test_pictures(catalog: Catalog, drawn: Drawn) -> None:
    if isinstance(catalog, RestCatalog):
        assert catalog.file(3) == drawn.drawings[2].path.read_bytes()
    else:
        with pytest.raises(NotOffered, match="postgresql://"):
            catalog.file(3)


def test_maps(catalog: Catalog) -> None:
    with pytest.raises(MapMissing):
        catalog.control_map(3, "canny")
    if not isinstance(catalog, RestCatalog):
        with pytest.raises(NotOffered, match="postgresql://"):
            catalog.put_map(3, "canny", StoredMap(b"x"))


# -- the same queries in SQLite and in PostgreSQL ---------------------------------------------------


def database_with(address: str, schema: str, records: Sequence[ImageRecord]) -> PostgresCatalog:
    """A catalog over the fork's tables with those records in them."""
    with psycopg.connect(address, client_encoding="utf8") as connection:
        database.create_tables(connection, schema, {})
        for r in records:
            values = {
                "id": r.id, "root_folder_id": 1, "folder_id": 1, "path": r.path, "file_name": "", "prompt": r.prompt,
                "negative_prompt": r.negative_prompt, "width": r.width, "height": r.height, "model": r.model,
                "model_hash": r.model_hash, "sampler": r.sampler, "steps": r.steps, "cfg_scale": r.cfg, "seed": r.seed,
                "rating": r.rating, "aesthetic_score": r.aesthetic_score, "favorite": r.favorite or None,
                "nsfw": r.nsfw, "for_deletion": r.for_deletion, "unavailable": r.unavailable,
                "no_metadata": r.no_metadata, "created_date": r.created or "2020-01-01", "modified_date": "2026-01-01",
            }  # fmt: skip
            database.insert(connection.cursor(), "image", values)
    return PostgresCatalog(f"{address}&schema={schema}")


#: What ``initdb`` makes of a machine's language, and of ``--locale=C`` with and without an encoding.
LOCALES = ("", "LOCALE 'C' ENCODING 'UTF8'", "LOCALE 'C' ENCODING 'SQL_ASCII'")
TEXTS = [
    ImageRecord(100 + i, f"D:\\{text}.png", text, text, model=text, sampler=text, model_hash=text, created="2020-01-01")
    for i, text in enumerate(sorted({form for text, *_ in LETTERS for form in written(text)}))
]


@pytest.fixture(scope="module")
def filled(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Library, list[PostgresCatalog]]]:
    """The same records in a library and in a database of each locale."""
    catalogs = []
    for number, options in enumerate(LOCALES):
        address = made_anew(postgres, f"locale_{number}", options) if options else postgres
        catalogs.append(database_with(address, "filled", [*RECORDS, *TEXTS]))
    with Library(tmp_path_factory.mktemp("filled"), dt="http://127.0.0.1:9") as library:
        fill_records(library, [*RECORDS, *TEXTS])
        yield library, catalogs
    for catalog in catalogs:
        catalog.close()


Filled = tuple[Library, list[PostgresCatalog]]


def answer(source: Library | PostgresCatalog, query: str) -> list[int] | str:
    """The ids that fit, or what is wrong with the query."""
    try:
        return [image.id for image in source.images(query, limit=1000)]
    except BadQuery as error:
        return str(error)


@pytest.mark.parametrize(("query", "expected"), CASES)
def test_queries_mean_the_same_in_the_database_and_in_the_library(
    filled: Filled, query: str, expected: list[int]
) -> None:
    library, catalogs = filled
    found = answer(library, query)
    assert [i for i in found if isinstance(i, int) and i < 100] == expected
    assert [answer(catalog, query) for catalog in catalogs] == [found] * len(catalogs)


def test_as_many_conditions_as_may_be_asked_for_are_soon_thought_of(drawn: Drawn) -> None:
    catalog = PostgresCatalog(drawn.address, timeout=2)  # of which a statement may take ten times as long
    for condition in ("tag: cat", "in_album:", "has: caption", "cluster: luna", "not tag: dog"):
        once = [image.id for image in catalog.images(condition)]
        for count in (60, MAX_TERMS):
            assert [image.id for image in catalog.images(f"{condition} " * count)] == once != [], condition
    catalog.close()


def test_names_and_captions_mean_the_same_in_the_mirror(catalog: Catalog, tmp_path: Path, drawn: Drawn) -> None:
    texture = drawn.drawings[0].scene.texture
    with Library(tmp_path, dt=drawn.address) as library:
        library.sync()
        for query in (
            "tag: cat", "tag: CAT|dog", "not tag: cat", "tag: *cat", "tag: c*t", f"tag: {texture} background", "tag: * background",
            "tag: *a*r*", 'tag: "*cat"', "tag: nothing", "has: tag", "has: caption", "not has: caption", "has: cluster",
            "cluster: luna", "cluster: 2", "cluster: luna|snorri", "not cluster: l*", "cluster: nobody", "in_album:",
            "in_album: no", "cat not cluster: luna rating: > 3",
        ):  # fmt: skip
            found = [image.id for image in library.images(query, limit=1000)]
            assert [image.id for image in catalog.images(query, limit=1000)] == found, query
        assert len(library.images("cluster: luna")) == 4
        assert {image.tags[0] for image in library.images("tag: cat", limit=1000)} == {"cat"}
        assert library.images("not tag: cat not tag: dog", limit=1000)
        assert len(library.images("has: caption not has: cluster", limit=1000)) == 88
        assert len(library.images("has: vectors.visual", limit=1000)) == 100
    with pytest.raises(BadQuery, match="synced"):
        catalog.images("has: vectors.visual")


@pytest.mark.parametrize(("text", "found", "missed"), LETTERS)
def test_letters_mean_the_same_whatever_the_databases_locale(
    filled: Filled, text: str, found: list[str], missed: list[str]
) -> None:
    library, catalogs = filled
    everyone = {record.id for record in TEXTS if record.prompt in written(text)}
    for sought in (text, *found, *missed):
        for form in written(sought):
            within = [f'{token}"{form}"' for token in ("", "negative: ", "model: ", "path: contains ")]
            whole = (f'sampler: "{form}"', f'model_hash: "{form}"', f"path: *{form}*", f"path: d:\\{form}.png")
            for query in (*within, f"path: starts with d:\\{form}", *whole):
                here = answer(library, query)
                assert [answer(catalog, query) for catalog in catalogs] == [here] * len(catalogs), query
                if query in within:
                    assert everyone.isdisjoint(here) if sought in missed else everyone <= set(here), query


@pytest.mark.parametrize("letter", ["x", "i", "st", "\u1ec7", "\ufb03", "\u1f82", "\u0390", "\u0301", "(", "가"])
def test_the_longest_texts_that_may_be_asked_for_can_be(filled: Filled, letter: str) -> None:
    library, catalogs = filled
    query = letter * (MAX_TEXT // len(letter))
    assert answer(library, query) == answer(library, f"sampler: {query}") == []
    for catalog in catalogs:
        assert answer(catalog, query) == answer(catalog, f"sampler: {query}") == []


@settings(max_examples=500, deadline=None)
@given(query=QUERIES)
def test_any_query_has_one_answer_and_no_other_error(filled: Filled, query: str) -> None:
    library, catalogs = filled
    assert [answer(catalog, query) for catalog in catalogs] == [answer(library, query)] * len(catalogs)


def test_letters_that_a_databases_encoding_lacks_are_not_found(postgres: str) -> None:
    records = [ImageRecord(1, "a", "Straße über KAPI"), ImageRecord(2, "b", "cafe")]
    catalog = database_with(made_anew(postgres, "latin", "LOCALE 'C' ENCODING 'LATIN1'"), "latin", records)
    for query, found in {
        "STRASSE": [1], "u\u0308ber": [1], "kapi": [1], "\u212aapi": [1], "ﬆrasse": [1], "ΣΑΣ": [], "кошка": [], "e\u0301": [],
        "cafe": [2], "\U0001f600": [], "sampler: ёж": [], "model: я|cafe": [],
    }.items():  # fmt: skip
        assert answer(catalog, query) == found, query
    catalog.close()


# -- what only the database can show ----------------------------------------------------------------


def test_columns_are_discovered_and_the_live_one_counts(postgres: str, schema: str) -> None:
    with psycopg.connect(postgres) as connection:
        database.create_tables(connection, schema, {})
        connection.execute("ALTER TABLE image DROP COLUMN scheduler, DROP COLUMN aesthetic_score, DROP COLUMN loras")
        connection.execute("DROP TABLE image_tags, image_captions, face_group, face_group_member")
        connection.execute(
            "INSERT INTO image (id, root_folder_id, folder_id, path, file_name, created_date, modified_date, image_embedding)"
            " VALUES (1, 1, 1, 'x.png', 'x.png', now(), now(), array_fill(0.5, ARRAY[1280])::vector)"
        )
    catalog = PostgresCatalog(f"{postgres}&schema={schema}")
    kinds = catalog.kinds()
    assert [kind.name for kind in kinds] == ["images", "embeddings.visual"]
    assert kinds[1].identity == Identity("ViT-H-14", "laion2b_s32b_b79k", "image", "pooled", "squash", 1280)
    assert catalog.image(1).scheduler == ""
    assert catalog.captions(1).combined == ""
    assert catalog.clusters() == []
    with pytest.raises(BadQuery, match="aesthetic_score"):
        catalog.images("aesthetic_score: > 5")
    with psycopg.connect(postgres) as connection:
        connection.execute(f"UPDATE {schema}.image SET clip_vision_embedding = array_fill(0.25, ARRAY[1280])::vector")
    catalog.kinds()
    (batch,) = catalog.fetch("embeddings.visual", np.array([1]))
    assert np.asarray(batch.rows)[0, 0] == 0.5
    catalog.close()


@pytest.mark.parametrize("encoding", ["UTF8", "SQL_ASCII"])
def test_a_files_hash_is_that_of_the_file_in_one_form_or_none(
    postgres: str, schema: str, tmp_path: Path, encoding: str
) -> None:
    address = made_anew(postgres, f"hashes_{encoding.lower()}", f"LOCALE 'C' ENCODING '{encoding}'")
    columns = "UPDATE image SET metadata_hash = repeat('cd', 32), model_hash = repeat('ef', 32)"
    fork(address, schema, columns, count=len(HASHES)).close()
    with psycopg.connect(address, client_encoding="utf8") as connection:
        for i, value in enumerate(HASHES, 1):
            connection.execute(f"UPDATE {schema}.image SET hash = %s WHERE id = %s", [value, i])
    copies, every = [1, 2], range(1, len(HASHES) + 1)
    with Library(tmp_path, dt=f"{address}&schema={schema}") as library:
        library.sync()
        assert {i: library.image(i).hash for i in every if library.image(i).hash} == dict.fromkeys(copies, "ab" * 32)
        assert [library.catalog.image(i) for i in every] == library.catalog.images() == library.records(every)
        assert [group.ids for group in library.duplicates(None)] == [tuple(copies)]
        for statement, changed, left in (
            ("UPDATE image SET hash = repeat('12', 32) WHERE id IN (1, 3)", [1, 3], [(1, 3)]),
            ("ALTER TABLE image ALTER hash TYPE bytea USING decode('ab12', 'hex')", [1, 2, 3], []),
            ("ALTER TABLE image DROP COLUMN hash", [], []),
        ):
            with psycopg.connect(address) as connection:
                connection.execute(f"SET search_path TO {schema}, public")
                connection.execute(statement)
            (images,) = (change for change in library.sync() if change.kind == "images")
            assert (images.added, images.changed, images.removed) == (0, len(changed), 0), statement
            assert [group.ids for group in library.duplicates(None)] == left, statement


def fork(postgres: str, schema: str, *statements: str, count: int = 0) -> PostgresCatalog:
    """A catalog over a schema of its own with the fork's tables, ``count`` bare images and what statements do."""
    with psycopg.connect(postgres) as connection:
        database.create_tables(connection, schema, {})
        connection.execute(
            "INSERT INTO image (id, root_folder_id, folder_id, path, file_name, created_date, modified_date) "
            f"SELECT i, 1, 1, 'D:\\x\\' || i || '.png', i || '.png', now(), now() FROM generate_series(1, {count}) i"
        )
        for statement in statements:
            connection.execute(statement)
    return PostgresCatalog(f"{postgres}&schema={schema}")


def along(axis: int, dim: int = 1280, kind: str = "vector", length: float = 1.0) -> str:
    """SQL of a vector along one axis, with ``image.id`` in its last place, by which a row is told from another."""
    return f"(array_fill(0::real, ARRAY[{axis}]) || {length}::real || array_fill(0::real, ARRAY[{dim - axis - 2}]) || (id / 1e4)::real)::{kind}({dim})"


def axes(catalog: Catalog, layer: str = "visual") -> dict[int, int]:
    ids, digests = catalog.digests(f"embeddings.{layer}")
    batches = list(catalog.fetch(f"embeddings.{layer}", ids))
    assert np.array_equal(np.concatenate([b.ids for b in batches]), ids)
    assert np.array_equal(np.concatenate([b.digests for b in batches]), digests)
    found = {i: int(np.argmax(row)) for b in batches for i, row in zip(b.ids.tolist(), np.asarray(b.rows), strict=True)}
    assert next(kind.count for kind in catalog.kinds() if kind.layer == layer) == len(found)
    return found


def test_row_by_row_the_live_vector_counts_and_the_copy_where_there_is_none(postgres: str, schema: str) -> None:
    catalog = fork(
        postgres,
        schema,
        f"UPDATE image SET clip_vision_embedding = {along(1)} WHERE id <= 30",  # what was copied once
        f"UPDATE image SET image_embedding = {along(2)} WHERE id > 20 AND id <= 32",  # what was made since
        f"UPDATE image SET bge_prompt_embedding = {along(3, 1024)} WHERE id <= 39",
        f"UPDATE image SET prompt_embedding = {along(4, 1024)} WHERE id = 40",  # a single picture of the newest code
        count=40,
    )
    assert axes(catalog) == {**dict.fromkeys(range(1, 21), 1), **dict.fromkeys(range(21, 33), 2)}
    assert axes(catalog, "semantic") == {**dict.fromkeys(range(1, 40), 3), 40: 4}
    assert catalog.health().left_out == ()
    query = np.zeros(1280, np.float32)
    query[1] = 1
    near = catalog.similar("visual", query, None, 50, -1)
    assert [hit.similarity > 0.9 for hit in near] == [True] * 20 + [False] * 12
    assert {hit.id for hit in near[:20]} == set(range(1, 21))
    assert {hit.id for hit in catalog.similar("visual", None, 25, 20, 0.9)} == set(range(21, 33))
    catalog.close()


def test_a_digest_follows_the_vector_that_counts(postgres: str, schema: str) -> None:
    catalog = fork(postgres, schema, f"UPDATE image SET clip_vision_embedding = {along(1)} WHERE id < 4", count=4)

    def changed_by(assignment: str) -> list[int]:
        before = dict(zip(*map(np.ndarray.tolist, catalog.digests("embeddings.visual")), strict=True))
        with psycopg.connect(postgres) as connection:
            connection.execute(f"SET search_path TO {schema}, public")
            connection.execute(f"UPDATE image SET {assignment}")
        catalog.kinds()
        after = dict(zip(*map(np.ndarray.tolist, catalog.digests("embeddings.visual")), strict=True))
        return sorted(i for i in before.keys() | after.keys() if before.get(i) != after.get(i))

    assert changed_by(f"image_embedding = {along(2)} WHERE id > 2") == [3, 4]
    assert changed_by(f"clip_vision_embedding = {along(5)} WHERE id > 2") == []  # nobody looks at these any more
    assert changed_by(f"clip_vision_embedding = {along(5)} WHERE id = 1") == [1]
    assert changed_by("image_embedding = NULL WHERE id = 3") == [3]
    assert axes(catalog) == {1: 5, 2: 1, 3: 5, 4: 2}
    assert changed_by("clip_vision_embedding = NULL") == [1, 2, 3]
    assert axes(catalog) == {4: 2}
    catalog.close()


def test_columns_that_do_not_fit_the_live_one_are_left_out_and_told_once(
    postgres: str, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = fork(
        postgres,
        schema,
        "ALTER TABLE image ALTER image_embedding TYPE vector(64)",
        "ALTER TABLE image ALTER bge_prompt_embedding TYPE vector",  # of any dimension
        f"UPDATE image SET image_embedding = {along(1, 64)}, clip_vision_embedding = {along(2)}",
        f"UPDATE image SET prompt_embedding = {along(1, 1024)} WHERE id = 1",
        f"UPDATE image SET bge_prompt_embedding = {along(2, 1024)}",
        f"UPDATE image SET bge_prompt_embedding = {along(2, 7)} WHERE id > 4",
        f"UPDATE image SET clip_g_prompt_embedding = {along(1)}, clip_g_embedding = {along(2)}",
        'COMMENT ON COLUMN image.clip_g_embedding IS \'{"model": "ViT-bigG-14:mine", "tower": "text", "output": "projected", "pixels": "", "dim": 1280}\'',
        count=6,
    )
    assert axes(catalog) == dict.fromkeys(range(1, 7), 1)
    assert axes(catalog, "semantic") == {1: 1, 2: 2, 3: 2, 4: 2}
    assert axes(catalog, "composition") == dict.fromkeys(range(1, 7), 1)
    visual, semantic, composition = catalog.health().left_out
    assert "clip_vision_embedding have 1280 dimensions, those of image.image_embedding 64" in visual
    assert "2 vectors of image.bge_prompt_embedding have another dimension" in semantic
    assert "clip_g_embedding are made by ViT-bigG-14:mine" in composition
    catalog.kinds()
    told = [record.message for record in caplog.records if record.message.startswith("left out")]
    assert len(told) == 3
    assert catalog.similar("semantic", None, 1, 9, 0.9)[0].id == 1
    assert len(catalog.similar("semantic", None, 3, 9, -1)) == 4
    catalog.close()


ODD = (
    "ALTER TABLE image ALTER seed TYPE numeric, ALTER cfg_scale TYPE numeric, ALTER width TYPE double precision, "
    "ALTER path DROP NOT NULL",
    "UPDATE image SET seed = 18446744073709551615 WHERE id = 2",
    "UPDATE image SET cfg_scale = 'NaN' WHERE id = 3",
    "UPDATE image SET cfg_scale = 1e400 WHERE id = 4",
    "UPDATE image SET width = 'Infinity' WHERE id = 5",
    "UPDATE image SET path = NULL WHERE id = 6",
    "UPDATE image SET seed = 77, width = 512, cfg_scale = 6.5 WHERE id = 7",
    "INSERT INTO image (id, root_folder_id, folder_id, path, file_name, created_date, modified_date) "
    "VALUES (-8, 1, 1, '-8.png', '', now(), now())",
    "INSERT INTO face_group (id, name) VALUES (1, 'Luna')",
    "INSERT INTO face_detection (id, image_id) SELECT i, i FROM generate_series(1, 9) i",
    "INSERT INTO face_group_member (face_group_id, face_detection_id, similarity_score) SELECT 1, i, 0.5 "
    "FROM generate_series(1, 9) i",
    "UPDATE face_group_member SET similarity_score = 'NaN' WHERE face_detection_id = 9",
)


def test_one_odd_row_stops_no_other(postgres: str, schema: str, tmp_path: Path) -> None:
    catalog = fork(postgres, schema, *ODD, f"UPDATE image SET image_embedding = {along(1)} WHERE id > 0", count=9)
    seen = [image.id for image in catalog.images(limit=4)]
    assert (seen, [image.id for image in catalog.images(after_id=1, limit=2)]) == ([1, 7, 8, 9], [7, 8])
    assert catalog.image(7) == replace(catalog.image(7), seed=77, width=512, cfg=6.5)
    with pytest.raises(BadAnswer, match="its cfg is no finite number"):
        catalog.image(3)
    assert [found.image.id for found in catalog.cluster_images(1)] == [1, 7, 8]
    for kind in ("images", "captions", "clusters"):  # as a server sends them on
        batches = list(catalog.fetch(kind, catalog.digests(kind)[0]))
        sent = b"".join(wire.pack_records(batches)).splitlines()
        for here, there in zip(map(sifted, batches), wire.unpack_records(kind, sent), strict=True):
            assert (here.rows, here.ids.tolist(), here.aside) == (there.rows, there.ids.tolist(), there.aside)
    with Library(tmp_path / "home", dt=f"{postgres}&schema={schema}") as library:
        changes = {change.kind: change for change in library.sync()}
        assert [image.id for image in library.images()] == [1, 7, 8, 9]
        assert (changes["images"].added, changes["images"].set_aside) == (4, 6)
        assert [hit.id for hit in library.search(image_id=7, engine="local", top_k=9)] == [8, 9, 1]
        assert {(rows.kind, rows.reason, rows.count, rows.first_id) for rows in library.status().set_aside} == {
            ("images", "its cfg is no finite number", 2, 3),
            ("images", "its seed is no whole number of 64 bits", 1, 2),
            ("images", "its width is no whole number of 64 bits", 1, 5),
            ("images", "its path is no text", 1, 6),
            ("images", "its id is negative", 1, -8),
            ("clusters", "a member is left out: its confidence is no finite number", 1, 1),
        }
        assert [member.image.id for member in library.cluster_images(1)] == [1, 7, 8]
        asked = catalog_asked(library)
        assert [(change.added, change.changed, change.removed) for change in library.sync()] == [(0, 0, 0)] * 4
        compared = ("embeddings.visual", [1, 7, 8, 9])  # a sample of what should be as it was
        assert asked == [compared]
        with psycopg.connect(postgres) as connection:
            connection.execute(f"UPDATE {schema}.image SET seed = 5 WHERE id = 2")
            connection.execute(f"UPDATE {schema}.image SET cfg_scale = 'NaN' WHERE id = 7")
            connection.execute(f"DELETE FROM {schema}.image WHERE id = 5")
            connection.execute(
                f"UPDATE {schema}.face_group_member SET similarity_score = 1 WHERE face_detection_id = 9"
            )
        library.sync()
        sample = ("embeddings.visual", [1, 8, 9])
        assert asked == [compared, ("images", [2, 7]), ("clusters", [1]), sample, ("embeddings.visual", [2])]
        assert [image.id for image in library.images()] == [1, 2, 8, 9]
        assert [hit.id for hit in library.search(image_id=2, engine="local", top_k=9)] == [1, 8, 9]
        said = {(rows.kind, rows.reason): rows.count for rows in library.status().set_aside}
        assert said == {
            ("images", "its cfg is no finite number"): 3,
            ("images", "its path is no text"): 1,
            ("images", "its id is negative"): 1,
        }
    catalog.close()


def catalog_asked(library: Library) -> list[tuple[str, list[int]]]:
    """What a library's DT is asked to send from now on."""
    asked: list[tuple[str, list[int]]] = []
    catalog: Any = library.catalog
    fetch = catalog.fetch

    def noted(kind: str, ids: Any) -> Any:
        asked.append((kind, ids.tolist()))
        return fetch(kind, ids)

    catalog.fetch = noted
    return asked


def test_text_that_is_not_in_utf_8_stops_no_other_row(postgres: str, tmp_path: Path) -> None:
    """A database of the encoding SQL_ASCII, which ``--locale=C`` gives, takes any bytes."""
    address = made_anew(postgres, "ascii", "LOCALE 'C' ENCODING 'SQL_ASCII'")
    catalog = fork(address, "odd", count=40)
    with psycopg.connect(address) as connection:
        connection.execute("SET client_encoding TO SQL_ASCII")
        connection.execute("SET search_path TO odd, public")
        connection.execute("UPDATE image SET prompt = convert_from('\\xc3a4'::bytea, 'SQL_ASCII') WHERE id = 3")
        connection.execute("UPDATE image SET prompt = convert_from('\\xe4'::bytea, 'SQL_ASCII') WHERE id = 29")
        connection.execute(
            "INSERT INTO image_tags (image_id, tag) VALUES (4, 'a'), (5, convert_from('\\xff'::bytea, 'SQL_ASCII'))"
        )
    with Library(tmp_path / "home", dt=f"{address}&schema=odd") as library:
        library.sync()
        assert [image.id for image in library.images()] == [i for i in range(1, 41) if i != 29]
        assert (library.image(3).prompt, library.captions(4).tags, library.captions(5).tags) == ("ä", ("a",), ())
        said = {(rows.kind, rows.reason, rows.first_id) for rows in library.status().set_aside}
        assert said == {(k, "its text is not in UTF-8", i) for k, i in (("images", 29), ("captions", 5))}
    catalog.close()


def test_vectors_are_read_wherever_pgvector_is_and_as_halves(postgres: str, tmp_path: Path) -> None:
    address = made_anew(postgres, "elsewhere", "")
    with psycopg.connect(address) as connection:
        connection.execute('CREATE SCHEMA "Other Place"')
        connection.execute('CREATE EXTENSION vector SCHEMA "Other Place"')
        connection.execute('SET search_path TO public, "Other Place"')
        connection.execute(
            f"CREATE TABLE image AS SELECT i AS id, i || '.png' AS path, {along(1).replace('id', 'i')} AS image_embedding, "
            f"{along(2, 1024, 'halfvec').replace('id', 'i')} AS prompt_embedding FROM generate_series(1, 5) i"
        )
    catalog = PostgresCatalog(address)
    assert axes(catalog) == dict.fromkeys(range(1, 6), 1)
    assert axes(catalog, "semantic") == dict.fromkeys(range(1, 6), 2)
    assert len(catalog.similar("semantic", None, 4, 5, 0.9)) == 5
    catalog.close()


def test_what_cannot_be_used_is_told(postgres: str, schema: str, tmp_path: Path) -> None:
    catalog = fork(
        postgres,
        schema,
        "ALTER TABLE image ALTER width DROP DEFAULT, ALTER width TYPE text, ALTER favorite DROP DEFAULT, ALTER favorite TYPE "
        "integer USING 1",
        "ALTER TABLE image DROP COLUMN image_embedding, ADD COLUMN image_embedding bytea DEFAULT '\\x00'",
        f"UPDATE image SET clip_vision_embedding = {along(3)}",
        "ALTER TABLE image_tags DROP COLUMN confidence",
        "INSERT INTO image_captions (image_id, caption) VALUES (1, 'a cat')",
        count=3,
    )
    with Library(tmp_path / "home", dt=f"{postgres}&schema={schema}") as library:
        library.sync()
        told = library.status().left_out
        for part in ("image.width is of type text", "image.favorite is of type integer", "image_embedding is of type bytea",
                     "table image_tags has no confidence"):  # fmt: skip
            assert any(part in reason for reason in told), part
        assert len(told) == 4
        assert (library.image(2).width, library.captions(1).tags) == (0, ())
        assert library.status().to_json()["left_out"] == list(told)
        assert axes(catalog) == {1: 3, 2: 3, 3: 3}
    catalog.close()


def test_a_digest_changes_with_its_row_and_with_no_other(postgres: str, schema: str) -> None:
    """Both ways to tell a vector's state: by where it lies (1280-d), and by its content (128-d)."""
    with psycopg.connect(postgres) as connection:
        database.create_tables(connection, schema, {"semantic": database.TINY_TEXT})
        connection.execute(
            "INSERT INTO image (id, root_folder_id, folder_id, path, file_name, created_date, modified_date,"
            " clip_vision_embedding, prompt_embedding)"
            " SELECT i, 1, 1, 'x.png', 'x.png', now(), now(), array_fill(random(), ARRAY[1280])::vector,"
            " array_fill(random(), ARRAY[128])::vector FROM generate_series(1, 4) i"
        )
    catalog = PostgresCatalog(f"{postgres}&schema={schema}")

    def changed_by(statement: str) -> dict[str, list[int]]:
        kinds = ("images", "embeddings.visual", "embeddings.semantic")
        before = {kind: catalog.digests(kind) for kind in kinds}
        with psycopg.connect(postgres) as connection:
            connection.execute(f"SET search_path TO {schema}, public")
            connection.execute(statement)
        after = {kind: catalog.digests(kind) for kind in kinds}
        return {kind: before[kind][0][before[kind][1] != after[kind][1]].tolist() for kind in kinds}

    assert changed_by("UPDATE image SET rating = 9, touched_date = now() WHERE id = 2") == {
        "images": [2], "embeddings.visual": [], "embeddings.semantic": [],
    }  # fmt: skip
    assert changed_by("UPDATE image SET clip_vision_embedding = array_fill(7, ARRAY[1280])::vector WHERE id = 3") == {
        "images": [], "embeddings.visual": [3], "embeddings.semantic": [],
    }  # fmt: skip
    assert changed_by("UPDATE image SET prompt_embedding = array_fill(7, ARRAY[128])::vector WHERE id = 4") == {
        "images": [], "embeddings.visual": [], "embeddings.semantic": [4],
    }  # fmt: skip
    assert changed_by("UPDATE image SET viewed_date = now()") == {
        "images": [], "embeddings.visual": [], "embeddings.semantic": [],
    }  # fmt: skip
    catalog.close()


def test_a_schema_that_is_none_and_a_database_that_is_away(postgres: str) -> None:
    catalog = PostgresCatalog(f"{postgres}&schema=nowhere")
    with pytest.raises(LunaError, match=r"no table 'image'.*\?schema=NAME"):
        catalog.health()
    catalog.close()
    away = PostgresCatalog("postgresql://someone:hidden@127.0.0.1:9/x")
    with pytest.raises(LunaError, match="does not answer") as told:
        away.health()
    assert "hidden" not in str(told.value)
    away.close()


def test_nothing_can_be_written_through_the_catalogs_connection(drawn: Drawn) -> None:
    connection = Database(drawn.address)
    with pytest.raises(LunaError, match="read-only"):
        connection.rows("DELETE FROM image")
    connection.close()


def generation(key: str, **more: Any) -> Generation:
    return Generation.from_json({"operation": "img2img", "key": key, "created": "2026-01-01T00:00:00", **more})


def test_generations_are_stored_once_found_and_amended(catalog: Catalog) -> None:
    name = type(catalog).__name__
    wild = {"Ünï": ["\U0001f600", None, {"zero": "a\u0000b"}], "number": 1e-9}
    first = generation(
        f"{name}-1", source_image_id=5, prompt="a 'cat' \\ \u2603", seed=2**64 - 1, cfg=6.5, extra_metadata=wild
    )
    second = generation(f"{name}-2", source_image_id=5, batch_id=f"{name}-b", base=first.key, output="D:\\x\\ü.png")
    ids = [catalog.record(first), catalog.record(second)]
    assert catalog.record(first) == ids[0]  # whose answer was lost, and which is sent again
    found = [made for made in catalog.generations(source_image_id=5) if made.key.startswith(name)]
    assert found == [replace(first, id=ids[0]), replace(second, id=ids[1])]
    assert catalog.generations(batch_id=f"{name}-b") == found[1:]
    assert catalog.generations(source_image_id=5, batch_id="none") == []
    assert catalog.generations(limit=1)
    with pytest.raises(BadInput, match="that of another generation"):
        catalog.record(replace(first, prompt="another"))
    changed = catalog.amend(ids[1], {"source_image_id": 6, "extra_metadata": {"a": 1}})
    assert (changed.source_image_id, changed.extra_metadata, changed.base) == (6, {"a": 1}, first.key)
    assert catalog.generations(batch_id=f"{name}-b") == [changed]
    assert catalog.record(second) == ids[1]  # sent again after it was amended: still the same
    after = catalog.generations(after_id=int(ids[0]), limit=1)
    assert [made.id for made in after] == [ids[1]]
    assert [g.key for g in catalog.generations(source_image_id=6) if g.key.startswith(name)] == [second.key]
    with pytest.raises(BadInput, match="operation is one of"):
        catalog.amend(ids[1], {"operation": "photo"})
    with pytest.raises(BadInput, match="key cannot be changed"):
        catalog.amend(ids[1], {"key": "x"})
    for unknown in ("999999", "x/y"):
        with pytest.raises(NotFound):
            catalog.amend(unknown, {"prompt": "x"})


def test_collections_keep_their_generations_apart_and_an_empty_one_has_none(postgres: str, schema: str) -> None:
    with psycopg.connect(postgres) as connection:
        database.create_tables(connection, schema, {})
    catalog = PostgresCatalog(f"{postgres}&schema={schema}")
    assert catalog.generations() == []
    catalog.record(generation("only-here"))
    assert [made.key for made in catalog.generations()] == ["only-here"]
    catalog.close()


def test_a_user_who_may_not_create_a_schema_is_told_what_to_run(postgres: str, drawn: Drawn) -> None:
    address = urlsplit(postgres)
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS luna_dt CASCADE")
        connection.execute("CREATE ROLE reader LOGIN PASSWORD 'x'")
        connection.execute("GRANT USAGE ON SCHEMA drawn TO reader")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA drawn TO reader")
    whole = urlunsplit(address._replace(netloc=f"reader:x@{address.netloc.rpartition('@')[2]}")) + "&schema=drawn"
    catalog = PostgresCatalog(whole)
    assert catalog.image(5).id == 5
    with pytest.raises(Refused, match="CREATE SCHEMA luna_dt AUTHORIZATION reader"):
        catalog.record(generation("x"))
    assert catalog.generations() == []
    with psycopg.connect(postgres, autocommit=True) as connection:  # as the error said
        connection.execute("CREATE SCHEMA luna_dt AUTHORIZATION reader")
    assert catalog.record(generation("now-it-may"))
    catalog.close()
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP SCHEMA luna_dt CASCADE")
