"""DT's tables change while they are read: what was learnt of them is learnt anew, and nobody need start anything again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from luna_dt import Library
from luna_dt.dt.catalog import Catalog
from luna_dt.dt.postgres import PostgresCatalog
from luna_dt.errors import LunaError, NotSearchable, Refused
from tests.congruence.test_catalogs import along, fork

FILLED = (
    "ALTER TABLE image DROP COLUMN scheduler",
    f"UPDATE image SET prompt = 'a cat ' || id, rating = 4, seed = id, aesthetic_score = 6, image_embedding = {along(1)}, "
    f"prompt_embedding = {along(2, 1024)}",
    "INSERT INTO image_tags (image_id, tag, confidence) SELECT id, 'tag', 1 FROM image",
    "INSERT INTO image_captions (image_id, caption, source) SELECT id, 'said', 'joycaption' FROM image",
    "INSERT INTO face_group (id, name) VALUES (1, 'Luna')",
    "INSERT INTO face_detection (id, image_id) SELECT id, id FROM image",
    "INSERT INTO face_group_member (face_group_id, face_detection_id, similarity_score) SELECT 1, id, 0.5 FROM image",
)
CHANGES = (
    "ALTER TABLE image DROP COLUMN prompt",
    "ALTER TABLE image DROP COLUMN rating, DROP COLUMN for_deletion, DROP COLUMN created_date",
    "ALTER TABLE image ADD COLUMN scheduler text DEFAULT 'karras'",
    "ALTER TABLE image RENAME COLUMN prompt TO prompt_text",
    "ALTER TABLE image RENAME COLUMN prompt TO x; ALTER TABLE image RENAME COLUMN negative_prompt TO prompt",
    "ALTER TABLE image ALTER rating TYPE text",
    "ALTER TABLE image ALTER rating TYPE bigint, ALTER seed TYPE numeric, ALTER width TYPE double precision",
    "ALTER TABLE image ALTER width DROP DEFAULT, ALTER width TYPE text",
    "ALTER TABLE image ALTER favorite DROP DEFAULT, ALTER favorite TYPE integer USING 1",
    "ALTER TABLE image DROP COLUMN image_embedding",
    "ALTER TABLE image DROP COLUMN image_embedding, DROP COLUMN clip_vision_embedding",
    f"ALTER TABLE image ALTER image_embedding TYPE vector(64) USING {along(3, 64)}",
    f"ALTER TABLE image ALTER image_embedding TYPE vector USING {along(3, 64)}",
    "ALTER TABLE image ALTER image_embedding TYPE halfvec(1280)",
    "ALTER TABLE image ALTER image_embedding TYPE text",
    "ALTER TABLE image RENAME COLUMN image_embedding TO clip_g_prompt_embedding2",
    'COMMENT ON COLUMN image.image_embedding IS \'{"model": "ViT-bigG-14:mine", "tower": "image", "output": "pooled", '
    '"pixels": "squash", "dim": 1280}\'',
    "DROP TABLE image_tags",
    "DROP TABLE image_captions",
    "ALTER TABLE image_captions DROP COLUMN caption",
    "ALTER TABLE face_group ALTER name TYPE varchar(9)",
    "DROP TABLE face_group CASCADE",
    "DROP TABLE face_group_member",
    "DROP TABLE face_detection CASCADE",
    "CREATE SCHEMA IF NOT EXISTS {schema}_vectors; ALTER EXTENSION vector SET SCHEMA {schema}_vectors",
    "DROP TABLE image CASCADE",
    "ALTER TABLE image RENAME TO images",
)


def answers(catalog: Catalog, backwards: bool = False) -> dict[str, Any]:
    """What a catalog answers to all that it can be asked, or the error."""

    def rows(kind: str) -> list[str]:
        ids, digests = catalog.digests(kind)
        batches = list(catalog.fetch(kind, ids))
        assert [digest for batch in batches for digest in batch.digests.tolist()] == digests.tolist()
        return [str(row) for batch in batches for row in batch.rows]

    def near(layer: str) -> list[tuple[int, float]]:
        return [(hit.id, round(hit.similarity, 4)) for hit in catalog.similar(layer, None, 2, 3, -1)]

    questions: dict[str, Callable[[], Any]] = {
        "health": catalog.health,
        "image": lambda: catalog.image(2),
        "images": catalog.images,
        "cats": lambda: catalog.images("cat rating: 4"),
        "captions": lambda: catalog.captions(1),
        "clusters": catalog.clusters,
        "members": lambda: catalog.cluster_images(1),
        "near": lambda: near("visual"),
        "near in prompts": lambda: near("semantic"),
        "identity": lambda: catalog.identity("visual"),
        "rows of images": lambda: rows("images"),
        "rows of captions": lambda: rows("captions"),
        "rows of clusters": lambda: rows("clusters"),
        "rows of vectors": lambda: rows("embeddings.visual"),
        "kinds": catalog.kinds,
    }
    told: dict[str, Any] = {}
    for name in sorted(questions, reverse=backwards):
        try:
            told[name] = questions[name]()
        except LunaError as error:
            told[name] = type(error), str(error)
    return told


def change(postgres: str, schema: str, statement: str) -> None:
    with psycopg.connect(postgres) as connection:
        connection.execute(f"SET search_path TO {schema}, public")
        connection.execute(statement.replace("{schema}", schema))


@pytest.fixture
def vectors_are_back(postgres: str) -> Iterator[None]:
    yield
    change(postgres, "public", "ALTER EXTENSION vector SET SCHEMA public")


@pytest.mark.usefixtures("vectors_are_back")
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("statement", CHANGES)
def test_a_catalog_that_is_open_answers_as_a_new_one(
    postgres: str, schema: str, statement: str, backwards: bool
) -> None:
    catalog = fork(postgres, schema, *FILLED, count=3)
    for _ in range(7):  # often enough for statements to be prepared
        before = answers(catalog)
    assert not [name for name, answer in before.items() if isinstance(answer, tuple)]
    change(postgres, schema, statement)
    after = answers(catalog, backwards)
    fresh = PostgresCatalog(f"{postgres}&schema={schema}")
    assert after == answers(fresh)
    assert after == answers(catalog)
    assert after != before or "halfvec" in statement or "varchar" in statement or "SCHEMA" in statement
    if "image" not in statement.split()[2:3] or "image_" in statement:
        assert not isinstance(after["health"], tuple)
    catalog.close()
    fresh.close()


def test_health_tells_what_no_longer_is_there(postgres: str, schema: str) -> None:
    catalog = fork(postgres, schema, *FILLED, count=3)
    assert catalog.health().left_out == ()
    change(postgres, schema, "ALTER TABLE image ALTER width DROP DEFAULT, ALTER width TYPE text")
    assert "image.width is of type text" in catalog.health().left_out[0]
    change(postgres, schema, "ALTER TABLE image RENAME TO images")
    with pytest.raises(Refused, match="no table 'image'"):
        catalog.health()
    change(postgres, schema, "ALTER TABLE images RENAME TO image; ALTER TABLE image ALTER width TYPE integer USING 7")
    assert (catalog.health().left_out, catalog.image(1).width) == ((), 7)
    catalog.close()


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE image DROP COLUMN prompt",
        "ALTER TABLE image ALTER seed TYPE text",
        f"ALTER TABLE image ALTER image_embedding TYPE vector(64) USING {along(3, 64)}",
    ],
)
@pytest.mark.parametrize("name", ["images", "near", "digests", "rows"])
def test_a_change_in_the_middle_of_a_question(postgres: str, schema: str, statement: str, name: str) -> None:
    """The question waits for the change to be made, then meets other tables than it was put for."""
    catalog = fork(postgres, schema, *FILLED, count=3)
    ids = np.array([1, 2, 3])
    ask: Callable[[], Any] = {
        "images": lambda: [image.prompt for image in catalog.images()],
        "near": lambda: [hit.id for hit in catalog.similar("visual", None, 1, 3, -1)],
        "digests": lambda: catalog.digests("images")[0].tolist(),
        "rows": lambda: [len(row) for batch in catalog.fetch("embeddings.visual", ids) for row in np.asarray(batch.rows)],
    }[name]  # fmt: skip
    ask()
    waiting = "SELECT 1 FROM pg_locks JOIN pg_class c ON c.oid = relation WHERE NOT granted AND c.relname = 'image'"
    with psycopg.connect(postgres) as other, ThreadPoolExecutor(1) as pool:
        other.execute(f"SET search_path TO {schema}, public")
        other.execute(statement)
        asked = pool.submit(ask)
        while not asked.done() and not other.execute(waiting).fetchone():
            pass
        other.commit()
        assert asked.result(60) == ask()
    catalog.close()


def test_a_live_column_is_used_from_its_first_vector(postgres: str, schema: str) -> None:
    """Where DT's migration has made copies, and DT then writes to the column that it left empty."""
    catalog = fork(postgres, schema, f"UPDATE image SET clip_vision_embedding = {along(1)} WHERE id < 3", count=4)
    with pytest.raises(NotSearchable):
        catalog.similar("visual", None, 3, 4, -1)
    change(postgres, schema, f"UPDATE image SET image_embedding = {along(2)} WHERE id > 1")
    near = {hit.id: round(hit.similarity) for hit in catalog.similar("visual", None, 3, 4, -1)}
    assert near == {1: 0, 2: 1, 3: 1, 4: 1}
    catalog.close()


def test_a_library_syncs_what_dt_has_become(postgres: str, schema: str, tmp_path: Path) -> None:
    fork(postgres, schema, *FILLED, count=3).close()
    with Library(tmp_path / "home", dt=f"{postgres}&schema={schema}") as library:
        library.sync()
        for statement in (
            "ALTER TABLE image DROP COLUMN rating",
            "ALTER TABLE image ADD COLUMN rating integer DEFAULT 9",
            "DROP TABLE image_tags",
        ):
            change(postgres, schema, statement)
            library.sync()
        assert (library.image(2).rating, library.captions(2).tags) == (9, ())
        assert [hit.id for hit in library.search(image_id=2, engine="local")]
