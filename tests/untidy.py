"""Libraries as people have them: prompts that repeat, every script and both forms of its letters, rows that were only half
scanned, numbers that are none.  The same seed makes the same rows, for a database of either DT."""

from __future__ import annotations

import datetime
import random
import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.stock import insert, ticks

PHRASES = (
    "1girl, red hair, (best quality:1.2), <lora:film grain:0.8>", "Eine große KATZE im Garten, Straße, \u017f", "кошка в саду, ёлка",
    "猫の肖像、夜、雨", "صورة قطة في الحديقة", "ΣΟΦΟΣ άνθρωπος, ς", "\u0130stanbul, \u0131\u015f\u0131k, I", "🦊👩‍👩‍👧 emoji, \u202eright to left",
    'quotes "and" \'more\', 100%_\\ $^[a-z]+', "a\r\nb\tc, newline", "x" * 3000, " ", "",
)  # fmt: skip
TAGS = (
    "red hair", "RED HAIR", "1girl", "ärger", "e\u0301clair", "\u00c9CLAIR", "100%", "1_0%", "c\\d", 'the "one"', "it's", "a*b", "two\nlines",
    "\u0131\u015f\u0131k", "猫", "straße", " ", "",
)  # fmt: skip
CLUSTERS = {1: "Luna", 2: None, 3: "Луна 100%_", 4: "", 5: "2", 6: "a\nb*", 7: "LUNA", 9: "empty"}
CAPTIONS = ("A girl.", "größer, 猫", "red hair", " ", "")
FOLDERS = ("D:\\Bilder\\", "/srv/Bilder Ünï/", "\\\\nas\\ai\\", "C:\\Users\\Öz\\猫\\")
#: What stands where numbers should be; databases of both kinds take some of it.
NUMBERS = (0, -1, 1, 20, 2**31 - 1, 2**53 + 1, 2**63 - 1, -(2**63), None)
#: What stands where a file's hash should be; the first two are one, the others are none.
HASHES = ("AB" * 32, "ab" * 32, "ab" * 31 + "xy", "ab12", "ab" * 32 + "\n", "\uff11" * 64, " ", "", None)
ODD_IN_SQLITE = (2.0**70, float("inf"), -0.5, 7.25, "many", "", b"\xff\xfe", "12")


def rows(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Images by ImageRecord's names and ``hash``, ids from 1; most as tidy as they get, a tenth without anything but a
    path, every twentieth with a number that no picture has."""
    rng = random.Random(seed)
    day = datetime.datetime(2024, 2, 29, 23, 59, 58)
    for i in range(1, count + 1):
        path = f"{rng.choice(FOLDERS)}{i:05} {rng.choice(('é', 'ü', 'x'))}.png"
        row: dict[str, Any] = {"id": i, "path": unicodedata.normalize(rng.choice(("NFC", "NFD")), path)}
        if rng.random() < 0.9:
            # by Zipf: few prompts for half of all, and most negative prompts the same
            prompt = PHRASES[min(int(rng.paretovariate(0.7)), len(PHRASES)) - 1]
            row |= {
                "prompt": unicodedata.normalize(rng.choice(("NFC", "NFD")), prompt) if rng.random() < 0.9 else None,
                "negative_prompt": "blurry, lowres" if rng.random() < 0.8 else rng.choice(PHRASES),
                "width": rng.choice((512, 832, 1024, 0, None)), "height": rng.choice((512, 1216, 1024, 0, None)),
                "steps": rng.choice((20, 28, None)), "cfg": rng.choice((7.0, 6.5, 1, None)),
                "seed": rng.getrandbits(rng.choice((8, 32, 62))), "sampler": rng.choice(("Euler a", "", None)),
                "model": rng.choice(("pony, v6", "dream", 'odd "name"', None)), "model_hash": rng.choice(("ab12", "", None)),
                "rating": rng.choice((None, None, 1, 5, 10)), "aesthetic_score": rng.choice((None, 5.25, 9)),
                "custom_tags": rng.choice((None, "mine")), "hash": f"{i // 3:064x}",  # copies share it
                "created": day + datetime.timedelta(minutes=7 * i),
            }  # fmt: skip
        for flag in ("favorite", "nsfw", "for_deletion", "unavailable", "no_metadata"):
            row[flag] = rng.choice((False, False, False, True, None))
        if i % 20 == 0:
            row[rng.choice(("seed", "width", "steps", "rating"))] = rng.choice(NUMBERS)
        yield row


def names(count: int, seed: int = 0) -> Iterator[tuple[int, list[str], list[int], list[str]]]:
    """For each image its tags, clusters and captions: half have any, one or two in four more than once."""
    rng = random.Random(seed)
    for i in range(1, count + 1):
        tags, clusters = (
            rng.choices(TAGS, k=rng.choice((0, 0, 1, 3))),
            rng.choices(range(1, 8), k=rng.choice((0, 0, 1, 3))),
        )
        yield i, tags, clusters, rng.choices(CAPTIONS, k=rng.choice((0, 0, 1, 2)))


STOCK = {
    "id": "Id", "path": "Path", "prompt": "Prompt", "negative_prompt": "NegativePrompt", "width": "Width", "height": "Height",
    "steps": "Steps", "cfg": "CFGScale", "seed": "Seed", "sampler": "Sampler", "model": "Model", "model_hash": "ModelHash",
    "rating": "Rating", "aesthetic_score": "AestheticScore", "custom_tags": "CustomTags", "hash": "Hash",
    "created": "CreatedDate", "favorite": "Favorite", "nsfw": "NSFW", "for_deletion": "ForDeletion",
    "unavailable": "Unavailable", "no_metadata": "NoMetadata",
}  # fmt: skip
FORK = {**{name: name for name in STOCK}, "cfg": "cfg_scale", "created": "created_date"}


def fill_stock(file: Path, count: int, seed: int = 0) -> None:
    """Fills a stock database (stock.create); besides, every fiftieth row has in a number's place what SQLite lets stand."""
    rng = random.Random(seed)
    with closing(sqlite3.connect(file)) as db:
        there = {name for _, name, *_ in db.execute("PRAGMA table_info(Image)")}
        for row in rows(count, seed):
            if isinstance(row.get("created"), datetime.datetime):
                row["created"] = ticks(row["created"].isoformat())
            if row["id"] % 50 == 0:
                row[rng.choice(("seed", "width", "cfg", "rating", "created", "prompt"))] = rng.choice(ODD_IN_SQLITE)
            known = {STOCK[name]: value for name, value in row.items() if STOCK[name] in there}
            db.execute(
                f"INSERT INTO Image ({', '.join(known)}) VALUES ({', '.join('?' * len(known))})", [*known.values()]
            )
        db.commit()


def name_stock(file: Path, count: int, seed: int = 0, tagged: bool = True) -> None:
    """Puts images of a stock database into albums, and gives them tags where it has tables of any."""
    every = [*names(count, seed)]
    insert(file, "Album", *({"Id": i, "Name": name} for i, name in CLUSTERS.items()))
    insert(file, "AlbumImage", *({"AlbumId": album, "ImageId": i} for i, _, albums, _ in every for album in albums))
    if tagged:
        known = {tag: number for number, tag in enumerate(TAGS, 1)}
        insert(file, "Tag", *({"Id": number, "Name": tag} for tag, number in known.items()), {"Id": 99, "Name": None})
        links = [(i, known[tag]) for i, tags, *_ in every for tag in tags]
        insert(file, "ImageTag", *({"ImageId": i, "TagId": tag} for i, tag in [*links, (1, 99), (2, 1000)]))


def fill_fork(connection: Any, count: int, seed: int = 0) -> None:
    """Fills the fork's table in the search path of a psycopg connection, as far as its types let it."""
    for row in rows(count, seed):
        known = {FORK[name]: value for name, value in row.items()}
        for name in ("width", "height", "steps", "rating"):
            if known.get(name) is not None:
                known[name] = max(-(2**31), min(2**31 - 1, known[name]))
        when = known.pop("created_date", None) or datetime.datetime(1, 1, 1)
        known |= {"root_folder_id": 1, "folder_id": 1, "file_name": "", "created_date": when, "modified_date": when}
        marks = ", ".join(["%s"] * len(known))
        connection.execute(f"INSERT INTO image ({', '.join(known)}) VALUES ({marks})", [*known.values()])
    connection.commit()


def name_fork(connection: Any, count: int, seed: int = 0) -> None:
    """Gives the fork's images tags, captions and faces, of which one may have several in a group."""
    for cluster, name in CLUSTERS.items():
        connection.execute("INSERT INTO face_group (id, name) VALUES (%s, %s)", [cluster, name])
    for image_id, tags, clusters, captions in names(count, seed):
        for number, tag in enumerate(sorted(tags)):
            values = [image_id, tag, 1 - number / 10, ("joytag", "wdv3large", "manual")[number]]
            connection.execute(
                "INSERT INTO image_tags (image_id, tag, confidence, source) VALUES (%s, %s, %s, %s)", values
            )
        for caption, source in zip(captions, ("joycaption", "manual"), strict=False):
            values = [image_id, caption, source]
            connection.execute("INSERT INTO image_captions (image_id, caption, source) VALUES (%s, %s, %s)", values)
        for cluster in clusters:
            face = "INSERT INTO face_detection (image_id) VALUES (%s) RETURNING id"
            ((face_id,),) = connection.execute(face, [image_id]).fetchall()
            member = "INSERT INTO face_group_member (face_group_id, face_detection_id, similarity_score) VALUES (%s, %s, 0.5)"
            connection.execute(member, [cluster, face_id])
    connection.commit()
