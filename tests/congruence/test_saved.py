"""Searches that stock DT saved, asked by name: of its database, of the mirror, and of what has none."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from luna_dt import Library
from luna_dt.dt.folder import FolderCatalog
from luna_dt.errors import BadQuery
from luna_dt.query import MAX_TERMS
from tests import stock

#: As DT serialises it, with what is not in use.
EMPTY = {
    "Query": None, "AlbumIds": None, "Models": None, "TagIds": None, "SearchView": 0, "HideDeleted": True, "HideNSFW": True,
    "SearchNodes": True, "Folder": None,
    "Filter": {"UsePrompt": False, "Prompt": None, "UseSteps": False, "Steps": None, "IsEmpty": True, "UseFolder": False,
               "UseAlbum": False, "NodeFilters": [{"IsActive": False}], "AlbumIds": None},
}  # fmt: skip
ROWS = (
    {"Id": 1, "Path": "D:\\a\\1.png", "Prompt": "a red cat, soft light", "NegativePrompt": "blurry", "Steps": 20, "Sampler":
     "Euler a", "CFGScale": 7.0, "Seed": 123, "Width": 512, "Height": 768, "Model": "ponyXL", "ModelHash": "ab12", "Rating": 8,
     "Favorite": 1, "AestheticScore": 6.5, "CreatedDate": stock.ticks("2026-01-15T23:00:00"), "NoMetadata": 0, "Type": 0},
    {"Id": 2, "Path": "D:\\a\\b\\2.png", "Prompt": "a dog, not a cat", "Steps": 30, "Sampler": "DPM++ 2M", "Seed": 77, "Width":
     640, "Height": 640, "Model": "illustrious", "CreatedDate": stock.ticks("2026-02-01T00:00:00"), "Type": 0},
    {"Id": 3, "Path": "D:\\a\\3.png", "Prompt": "a fox", "ForDeletion": 1, "Type": 0},
    {"Id": 4, "Path": "D:\\a\\4.png", "NSFW": 1, "NoMetadata": 1, "Type": 0},
)  # fmt: skip
SAVED: dict[str, tuple[dict[str, Any], list[int]]] = {
    "by text": ({"Query": "cat not rating: > 5"}, [2]),
    "all": ({}, [1, 2, 4]),
    "albums": ({"AlbumIds": [7, 8]}, [1, 4]),
    "text in albums": ({"Query": "red", "AlbumIds": [7]}, [1]),
    "filter over text": ({"Query": "dog", "Filter": {"UseSteps": True, "Steps": "20|25"}}, [1]),
    "terms": ({"Filter": {"UsePrompt": True, "Prompt": 'cat, "red cat, soft"'}}, [1]),
    "terms that look like tokens": ({"Filter": {"UsePrompt": True, "Prompt": "steps: 20"}}, []),
    "other terms": ({"Filter": {"UsePrompt": True, "Prompt": "a", "UsePromptEx": True, "PromptEx": "red"}}, [2]),
    "negative": ({"Filter": {"UseNegativePrompt": True, "NegativePrompt": "blurry"}}, [1]),
    "not negative": ({"Filter": {"UseNegativePromptEx": True, "NegativePromptEx": "blurry"}}, [2, 4]),
    "samplers": ({"Filter": {"UseSampler": True, "Sampler": "euler a,Heun"}}, [1]),
    "cfg": ({"Filter": {"UseCFGScale": True, "CFGScale": "7"}}, [1]),
    "seeds": ({"Filter": {"UseSeed": True, "SeedStart": "70", "SeedEnd": "80"}}, [2]),
    "seed": ({"Filter": {"UseSeed": True, "SeedStart": "12*", "SeedEnd": None}}, [1]),
    "size": ({"Filter": {"UseSize": True, "Width": "640", "Height": ""}}, [2]),
    "hash": ({"Filter": {"UseModelHash": True, "ModelHash": "AB12"}}, [1]),
    "model": ({"Filter": {"UseModelName": True, "ModelName": "pony, illus"}}, [1, 2]),
    "rated": ({"Filter": {"UseRating": True, "RatingOp": ">=", "Rating": 8}}, [1]),
    "unrated": ({"Filter": {"UseRating": True, "Unrated": True}}, [2, 4]),
    "beautiful": ({"Filter": {"UseAestheticScore": True, "AestheticScoreOp": ">", "AestheticScore": 6.25}}, [1]),
    "favourites": ({"Filter": {"UseFavorite": True, "Favorite": True}}, [1]),
    "deleted": ({"Filter": {"UseForDeletion": True, "ForDeletion": True}}, [3]),
    "nsfw": ({"Filter": {"UseNSFW": True, "NSFW": True}}, [4]),
    "no metadata": ({"Filter": {"UseNoMetadata": True, "NoMetadata": True}}, [4]),
    "in no album": ({"Filter": {"UseInAlbum": True, "InAlbum": False}}, [2]),
    "path": ({"Filter": {"UsePath": True, "Path": "*\\b\\*"}}, [2]),
    "folder": ({"Filter": {"UseFolder": True, "Folder": "D:\\a"}}, [1, 4]),
    "album": ({"Filter": {"UseAlbum": True, "Album": "7"}}, [4]),  # a name, not a number
    "january": ({"Filter": {"UseCreationDate": True, "Start": "2026-01-31T00:00:00", "End": "2026-01-01T00:00:00"}}, [1]),
    "since february": ({"Filter": {"UseCreationDate": True, "Start": "2026-02-01T00:00:00", "End": None}}, [2]),
    "pictures": ({"Filter": {"UseTypes": True, "Types": [0]}}, [1, 2, 4]),
    "ÜBER Größe": ({"Query": "size: portrait"}, [1]),
}  # fmt: skip
REFUSED: dict[str, tuple[Any, str]] = {
    "models": ({"Models": [{"Name": "x", "Hash": "y"}]}, "models chosen from a list"),
    "view": ({"SearchView": 2}, "one of DT's views"),
    "tags": ({"TagIds": [1]}, "tags chosen from a list"),
    "batch": ({"Filter": {"UseBatchSize": True, "BatchSize": 4, "UseHyperNet": True}}, "BatchSize, HyperNet"),
    "nodes": ({"Filter": {"NodeFilters": [{"IsActive": True, "Property": "text", "Value": "x"}]}}, "NodeFilters"),
    "sizes": ({"Filter": {"UseSize": True, "SizeOp": "ratio", "Width": "1", "Height": "1"}}, "compares sizes"),
    "token": ({"Query": "hypernet: x"}, "'hypernet:' is DT's"),
    "steps": ({"Filter": {"UseSteps": True, "Steps": "many"}}, "steps: many"),
    "a circle": ({"Query": "saved: a circle"}, "names another one"),
    "no object": ([1], "not as DT writes it down"),
    "odd types": ({"Filter": {"UseTypes": True, "Types": [7]}}, "not as DT writes it down"),
    "odd text": ({"Filter": {"UsePath": True, "Path": "\ud800"}}, "half a surrogate pair"),
    "long": ({"Filter": {"UseSteps": True, "Steps": "|".join("1" * 150)}}, ""),
}  # fmt: skip


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    made = tmp_path / "diffusion-toolkit.db"
    stock.create(made, "1.10")
    stock.insert(made, "Image", *ROWS)
    stock.insert(made, "Album", {"Id": 7, "Name": "cats"}, {"Id": 8, "Name": "7"})
    stock.insert(made, "AlbumImage", {"AlbumId": 7, "ImageId": 1}, {"AlbumId": 8, "ImageId": 4})
    stock.insert(
        made,
        "Query",
        *(
            {"Name": name, "QueryJson": json.dumps({**EMPTY, **said} if isinstance(said, dict) else said)}
            for name, (said, _) in {**SAVED, **REFUSED}.items()
        ),
        {"Name": "broken", "QueryJson": "{"},
    )
    with Library(tmp_path / "home", dt=str(made)) as opened:
        opened.sync()
        yield opened


def test_a_saved_search_finds_what_it_asks_for(library: Library) -> None:
    for name, (_, found) in SAVED.items():
        for source in (library.catalog, library):
            assert [image.id for image in source.images(f'saved: "{name}"')] == found, (name, source)
    for query, found in {
        "saved: über grösse": [1], "not saved: rated": [2, 4], "saved: seeds|seed": [1, 2], "saved: seeds saved: seed": [],
        "saved: deleted | rated": [1, 3], "dog saved: all": [2], "not saved: seeds | seed": [4],
    }.items():  # fmt: skip
        for source in (library.catalog, library):
            assert [image.id for image in source.images(query)] == found, query
    assert library.find("saved: seeds").tolist() == [2]


def test_what_it_cannot_ask_is_refused_by_name(library: Library) -> None:
    for source in (library.catalog, library):
        for name, (_, told) in {
            **REFUSED,
            "broken": (None, "not as DT writes it down"),
            "none": (None, "it has: 'a circle', "),
        }.items():
            if told:
                with pytest.raises(BadQuery, match=told) as raised:
                    source.images(f"cat saved: {name}")
                assert raised.value.at == 4
        assert source.images("saved: long") == []
        with pytest.raises(BadQuery, match=f"more than {MAX_TERMS} terms"):
            source.images("saved: long|long")


def test_a_fingerprint_changes_when_a_saved_search_does(library: Library) -> None:
    file = Path(library.catalog.address)

    def prints() -> list[str]:
        for each in file.parent.glob(f"{file.name}*"):
            os.utime(each, (10**9, 10**9))  # what is younger may have changed in the same moment
        return [library.fingerprint(query="saved: rated"), library.fingerprint(query="cat"), library.fingerprint()]

    before = prints()
    assert prints() == before
    said = json.dumps({**EMPTY, "Query": "dog"})
    stock.run(file, f"UPDATE Query SET QueryJson = '{said}' WHERE Name = 'rated'")
    assert [a != b for a, b in zip(before, prints(), strict=True)] == [True, False, True]


def test_where_there_are_none_it_is_refused_by_name(library: Library, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.txt").write_text("x")
    folder = FolderCatalog(tmp_path / "folder", tmp_path / "home")
    with closing(folder), pytest.raises(BadQuery, match="'saved:' names a search saved in stock DT"):
        folder.images("saved: all")
    with (
        Library(tmp_path / "home", dt="http://127.0.0.1:9") as other,
        pytest.raises(BadQuery, match="there is none here"),
    ):
        other.images("saved: all")
    file = Path(library.catalog.address)
    library.close()
    file.rename(tmp_path / "away.db")
    with (
        Library(tmp_path / "home", dt=str(file)) as away,
        pytest.raises(BadQuery, match=r"cannot be asked: .* is not there"),
    ):
        away.images("saved: all")


def test_days_that_are_not_given_are_today(library: Library) -> None:
    today = datetime.date.today().isoformat()
    file = library.catalog.address
    said = {**EMPTY, "Filter": {"UseCreationDate": True, "Start": None, "End": None}}
    stock.insert(Path(file), "Query", {"Name": "now", "QueryJson": json.dumps(said)})
    stock.run(Path(file), f"UPDATE Image SET CreatedDate = {stock.ticks(today + 'T12:00:00')} WHERE Id = 2")
    assert [image.id for image in library.catalog.images("saved: now")] == [2]
