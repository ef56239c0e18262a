"""A home belongs to one DT, and its vectors are DT's: another one, a lost one, one put back to a copy, damaged files."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from luna_dt import Library
from luna_dt.demo import served
from luna_dt.dt.postgres import PostgresCatalog
from luna_dt.errors import AnotherDT, LunaError, StoreError
from luna_dt.records import Batch
from tests.conftest import IDENTITY, beside, unit_vectors
from tests.congruence.test_catalogs import along, fork

COUNT = 40


def described(what: str) -> tuple[str, str]:
    """Statements that give a DT pictures with prompts, seeds, dates and vectors of its own; names are ComfyUI's."""
    return (
        "UPDATE image SET path = 'C:\\ComfyUI\\output\\ComfyUI_' || id || '_.png', file_name = 'ComfyUI_' || id || '_.png', "
        f"prompt = '{what} ' || id, seed = hashtext('{what}' || id), "
        f"created_date = '2026-01-01'::timestamp + make_interval(secs => abs(hashtext('{what}')) % 1000000 + id)",
        f"UPDATE image SET image_embedding = {along(len(what))}",
    )


def dt(postgres: str, schema: str, what: str, count: int = COUNT) -> str:
    fork(postgres, schema, *described(what), count=count).close()
    return f"{postgres}&schema={schema}"


def run(postgres: str, schema: str, *statements: str) -> None:
    with psycopg.connect(postgres) as connection:
        connection.execute(f"SET search_path TO {schema}, public")
        for statement in statements:
            connection.execute(statement)


def prompts(library: Library) -> dict[int, str]:
    return {image.id: image.prompt for image in library.images(limit=1000)}


@pytest.mark.parametrize("way", ["postgres", "rest"])
def test_another_dt_is_asked_about_and_is_sent_nothing(postgres: str, schema: str, tmp_path: Path, way: str) -> None:
    ours, theirs = dt(postgres, f"{schema}_ours", "a cat"), dt(postgres, f"{schema}_theirs", "the dogs", 2 * COUNT)
    with Library(tmp_path, dt=ours) as library, beside(library) as store:
        library.sync()
        store.prepare_layer("style", IDENTITY, local=True)
        made_here = Batch(np.arange(1, 11), np.ones(10, np.int64), unit_vectors(10))
        store.put("embeddings.style", made_here)
        before = prompts(library)
        with beside(library), closing(PostgresCatalog(theirs)) as other:
            assert library.catalog.health().library != other.health().library != ""
    if way == "rest":
        with served(theirs) as url:
            meet_another(tmp_path, url, before)
    else:
        meet_another(tmp_path, theirs, before)


def meet_another(home: Path, address: str, before: dict[int, str]) -> None:
    with Library(home, dt=address) as library:
        library.record({"source_image_id": 1, "prompt": "made of our cat"})
        with pytest.raises(AnotherDT, match="is another than the one that this home mirrors"):
            library.outbox.send()
        with pytest.raises(LunaError, match="another"):
            library.image(2 * COUNT)  # which is theirs alone
        with pytest.raises(
            AnotherDT,
            match=r"its image 1 is ComfyUI_1_\.png, .*the dogs 1, here .*a cat 1.*nothing was changed.*--accept",
        ):
            library.sync()
        assert prompts(library) == before
        assert library.status().layers[-1].state.count == 10
        assert [(e.state, e.tries) for e in library.outbox.entries()] == [("waiting", 0)]
        changes = {change.kind: change for change in library.sync(accept=True)}
        assert changes["images"].added == 2 * COUNT
        assert prompts(library) == {i: f"the dogs {i}" for i in range(1, 2 * COUNT + 1)}
        style = next(layer.state for layer in library.status().layers if layer.state.name == "style")
        assert (style.count, style.local) == (0, True)
        (entry,) = library.outbox.entries()
        assert entry.state == "kept"
        assert "before" in entry.reason
        assert library.image(2 * COUNT).prompt == f"the dogs {2 * COUNT}"
        assert library.sync() != []
        assert library.catalog.generations() == []


def test_the_same_dt_elsewhere_is_the_same(postgres: str, schema: str, tmp_path: Path) -> None:
    """As after a dump was restored: other names for everything, some pictures renamed, described anew or gone."""
    ours = dt(postgres, schema, "a cat")
    with Library(tmp_path, dt=ours) as library:
        library.sync()
        assert library.record({"source_image_id": 1}).state == "waiting"
    copy = f"{schema}_copy"
    fork(postgres, copy, f"INSERT INTO image SELECT * FROM {schema}.image").close()
    run(postgres, copy,
        "UPDATE image SET path = replace(path, 'C:', 'E:')",
        "UPDATE image SET path = 'E:\\a.png', file_name = 'a.png' WHERE id < 6",
        "UPDATE image SET prompt = prompt || ', better', seed = 5 WHERE id BETWEEN 10 AND 15",
        "DELETE FROM image WHERE id BETWEEN 20 AND 25")  # fmt: skip
    with Library(tmp_path, dt=f"{postgres}&schema={copy}") as library:
        with pytest.raises(AnotherDT, match="moved or restored, sync once"):
            library.outbox.send()
        changes = {change.kind: change for change in library.sync()}
        assert (changes["images"].changed, changes["images"].removed) == (COUNT - 6, 6)
        assert library.outbox.send() >= 0
        library.outbox.close()
        assert [entry.state for entry in library.outbox.entries()] == ["sent"]


def test_a_dt_that_has_lost_its_images_is_asked_about(postgres: str, schema: str, tmp_path: Path) -> None:
    address = dt(postgres, schema, "a cat")
    with Library(tmp_path, dt=address) as library:
        library.sync()
        before = prompts(library)
        run(
            postgres,
            schema,
            "CREATE TABLE away AS SELECT * FROM image WHERE id > 12",
            "DELETE FROM image WHERE id > 12",
        )
        with pytest.raises(AnotherDT, match=r"no more than 12 of the 40 images.*nothing was changed.*being restored"):
            library.sync()
        run(postgres, schema, "CREATE TABLE others AS SELECT * FROM image", "DELETE FROM image")
        with pytest.raises(AnotherDT, match="no more than 0 of the 40"):
            library.sync()
        assert prompts(library) == before
        assert len(library.search(image_id=3, engine="local", top_k=50)) == COUNT - 1
        run(postgres, schema, "INSERT INTO image SELECT * FROM away", "INSERT INTO image SELECT * FROM others")
        assert [(c.added, c.changed, c.removed) for c in library.sync() if c.kind == "images"] == [(0, 0, 0)]
        run(postgres, schema, "DELETE FROM image WHERE id > 20")  # half of them may go
        assert [c.removed for c in library.sync() if c.kind == "images"] == [20]
        run(postgres, schema, "DELETE FROM image")
        assert [c.removed for c in library.sync(accept=True) if c.kind == "images"] == [20]
        assert library.images() == []


def test_all_vectors_are_compared_where_a_sample_differs(postgres: str, schema: str, tmp_path: Path) -> None:
    """A DT put back to a copy gives other vectors the digests that those of before had: where they lie in the file."""
    address = dt(postgres, schema, "a cat", 600)
    with Library(tmp_path, dt=address) as library:
        library.sync()
        catalog: Any = library.catalog
        as_before, digests = catalog.digests("embeddings.visual"), catalog.digests
        run(postgres, schema, f"UPDATE image SET image_embedding = {along(77)} WHERE id > 100")
        catalog.digests = lambda kind: as_before if kind == "embeddings.visual" else digests(kind)
        changes = {change.kind: change for change in library.sync()}
        assert changes["embeddings.visual"].changed == 500
        catalog.digests = digests
        assert {change.kind: change.changed for change in library.sync()}["embeddings.visual"] == 0
        with beside(library) as store:
            layer = store.layer("visual")
            live = np.flatnonzero(layer.ids >= 0)
            axes = dict(zip(layer.ids[live].tolist(), layer.vectors[live].argmax(axis=1).tolist(), strict=True))
        assert axes == {i: 77 if i > 100 else 5 for i in range(1, 601)}


def test_a_damaged_vector_is_fetched_again_by_the_next_sync(postgres: str, schema: str, tmp_path: Path) -> None:
    address = dt(postgres, schema, "a cat")
    with Library(tmp_path, dt=address) as library:
        library.sync()
        good = library.search(image_id=3, engine="local", top_k=5)
        (file,) = (tmp_path / "vectors").glob("visual-*.f32")
        whole = file.read_bytes()
        damage(file, 10, flip)
        damage(file, 20, nothing)
        library.sync()
        with beside(library) as store:
            layer = store.layer("visual")
            assert len(layer.damaged(np.flatnonzero(layer.ids >= 0))) == 0
            assert sorted(layer.ids.tolist()) == [*range(1, COUNT + 1)]  # in a file of no damaged row
        assert library.status().layers[0].proof is not None
        assert library.search(image_id=3, engine="local", top_k=5) == good
        (file,) = (tmp_path / "vectors").glob("visual-*.f32")
        os.truncate(file, len(whole) // 2)
        with pytest.raises(StoreError, match=r"visual-.*cut off.*sync"):
            library.search(image_id=3, engine="local")
        library.sync()
        assert library.search(image_id=3, engine="local", top_k=5) == good


def damage(file: Path, row: int, how: Callable[[bytes], bytes], dim: int = 1280) -> None:
    with file.open("r+b") as out:
        out.seek(row * dim * 4)
        old = out.read(dim * 4)
        out.seek(row * dim * 4)
        out.write(how(old))


def flip(vector: bytes) -> bytes:
    """The highest bit of an exponent: the number is some 1e38 now, or 0."""
    numbers = np.frombuffer(vector, np.uint32).copy()
    numbers[np.argmax(np.abs(numbers.view(np.float32)))] ^= 1 << 30
    return numbers.tobytes()


def nothing(vector: bytes) -> bytes:
    return bytes(len(vector))
