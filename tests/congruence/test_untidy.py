"""Untidy libraries of every kind: what DT says of an image is what the mirror says, or the image is set aside by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_dt import ImageRecord, Library, Settings
from luna_dt.demo import database, served
from luna_dt.dt import connect
from luna_dt.dt.catalog import Catalog
from luna_dt.errors import LunaError
from tests import stock, untidy
from tests.congruence.test_catalogs import made_anew

COUNT = 300
QUERIES = (
    "", "katze", "КОШКА", "σοφος", "猫", '"100%_\\\\"', "emoji", "straße", "\u0131\u015f\u0131k", "negative: blurry", "rating: > 3", "rating: none",
    "size: portrait", "steps: 28", "cfg: 1", "seed: >= 0", "model: pony", "not model: dream", "path: *ünï*", "path: *é*", "folder: D:",
    "favorite: true", "nsfw:", "delete: any", "unavailable:", "date: from 2024-03-01", "nometa: true", "not katze, blurry",
)  # fmt: skip


def said(catalog: Catalog, image_id: int) -> ImageRecord | str:
    """An image as DT has it, or why it cannot be read."""
    try:
        return catalog.image(image_id)
    except LunaError as error:
        return str(error)


def check(address: str, home: Path, count: int) -> None:
    """Holds a library that was synced from there to what is there, image by image and query by query."""
    with Library(home, dt=address) as library, closing(connect(Settings(home=home, dt=address))) as there:
        (images,) = (change for change in library.sync() if change.kind == "images")
        assert images.count == count
        aside = [each for each in library.status().set_aside if each.kind == "images"]
        assert sum(each.count for each in aside) == images.set_aside
        kept = 0
        for image_id in range(1, count + 1):
            image = said(there, image_id)
            if isinstance(image, str):
                assert any(each.reason in image for each in aside)
            else:
                kept += 1
                assert library.image(image_id) == image
        assert kept + images.set_aside == count
        for query in QUERIES:
            assert [i.id for i in library.images(query, limit=1000)] == [
                i.id for i in there.images(query, limit=1000)
            ], query
        assert {(change.added, change.changed, change.removed) for change in library.sync()} == {(0, 0, 0)}


@pytest.mark.parametrize(
    ("version", "older"), [(version, "") for version in stock.VERSIONS] + [("1.10", "1.5"), ("1.9", "1.7")]
)
def test_stock(version: str, older: str, tmp_path: Path) -> None:
    file = tmp_path / "diffusion-toolkit.db"
    stock.create(file, version, older)
    untidy.fill_stock(file, COUNT)
    check(str(file), tmp_path / "home", COUNT)


@pytest.fixture(scope="module")
def fork(postgres: str) -> Callable[[str], str]:
    """The address of an untidy fork database of a locale, made once."""
    made: dict[str, str] = {}

    def address(locale: str) -> str:
        if locale not in made:
            options = "LOCALE 'C' ENCODING 'SQL_ASCII'"
            name = made_anew(postgres, "untidy_in_c", options) if locale == "C" else postgres
            with psycopg.connect(name, client_encoding="utf8") as connection:
                database.create_tables(connection, "untidy", {})
                untidy.fill_fork(connection, COUNT)
            made[locale] = f"{name}&schema=untidy"
        return made[locale]

    return address


@pytest.mark.postgres
@pytest.mark.parametrize("locale", ["", "C"])
def test_the_fork(fork: Callable[[str], str], tmp_path: Path, locale: str) -> None:
    check(fork(locale), tmp_path / "home", COUNT)


@pytest.mark.postgres
@pytest.mark.processes
def test_a_server(fork: Callable[[str], str], tmp_path: Path) -> None:
    with served(fork("")) as url:
        check(url, tmp_path / "home", COUNT)


VALUES = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=20), st.binary(max_size=8),
    st.sampled_from(untidy.PHRASES),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(row=st.dictionaries(st.sampled_from([*{*untidy.STOCK.values()} - {"Id", "Path"}]), VALUES))
def test_whatever_stands_in_a_row(tmp_path_factory: pytest.TempPathFactory, row: dict[str, object]) -> None:
    """Any value may stand in any column of SQLite's; it stops no other row."""
    folder = tmp_path_factory.mktemp("row")
    file = folder / "diffusion-toolkit.db"
    stock.create(file, "1.10")
    stock.insert(file, "Image", {"Id": 1, "Path": "a.png", **row}, {"Id": 2, "Path": "b.png", "Prompt": "a cat"})
    with (
        Library(folder / "home", dt=str(file)) as library,
        closing(connect(Settings(home=folder, dt=str(file)))) as there,
    ):
        library.sync()
        assert library.image(2).prompt == "a cat"
        aside = library.status().set_aside
        image = said(there, 1)
        if isinstance(image, str):
            assert [each.reason in image for each in aside] == [True]
        else:
            assert library.image(1) == image
            assert not aside
