"""Draws docs/layers.jpg: what each layer finds, on a drawn library with the tiny model.

python tools/draw_layers.py
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from luna_dt import Hit, ImageRecord, Library, Settings
from luna_dt.demo.database import TINY_IMAGE, draw_library
from luna_dt.pixels import read_pictures
from luna_dt.records import Batch
from luna_dt.sheet import contact_sheet
from luna_dt.store import Store

TARGET = Path(__file__).resolve().parents[1] / "docs" / "layers.jpg"
NEGATIVE = ("blurry, low quality", "text, watermark, signature", "extra fingers, bad anatomy", "")
MODEL, QUERY = "luna-tiny:drawings", 58


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        drawings = draw_library(Path(folder) / "pictures", 375)
        settings = Settings(home=Path(folder) / "home", dt="http://127.0.0.1:9", device="cpu")
        with Library(settings=settings) as library, closing(Store(settings.home)) as store:
            ids = np.arange(1, len(drawings) + 1)
            records = [
                ImageRecord(i, str(d.path), d.scene.caption, NEGATIVE[i % len(NEGATIVE)])
                for i, d in enumerate(drawings, 1)
            ]
            store.put("images", Batch(ids, ids, records))
            store.finish("images", "a drawing")
            store.prepare_layer("visual", TINY_IMAGE)  # as DT has it: before the projection
            shown = [read_pictures(d.path)[0] for d in drawings]
            store.put("embeddings.visual", Batch(ids, ids, library.encoders.pictures(TINY_IMAGE, shown)))
            for layer in ("semantic", "negative", "composition"):
                library.embed(layer, model=MODEL)
            rows = [
                ("visual", QUERY, library.search(image_id=QUERY, top_k=5), False),
                ("semantic: prompts", QUERY, library.search(image_id=QUERY, layer="semantic", top_k=5), False),
                ("negative: what was unwanted", QUERY, library.search(image_id=QUERY, layer="negative", top_k=5), True),
                ("composition, by picture", QUERY, library.search(image_id=QUERY, layer="composition", top_k=5), False),
                (
                    "composition, by text",
                    0,
                    library.search(text="a small red mushroom", layer="composition", top_k=5),
                    False,
                ),
            ]
            sheets = [row(library, *each) for each in rows]
    whole = Image.new("RGB", (sheets[0].width, sum(sheet.height for sheet in sheets)))
    at = 0
    for sheet in sheets:
        whole.paste(sheet, (0, at))
        at += sheet.height
    whole.save(TARGET, quality=82)


def row(library: Library, title: str, query: int, hits: list[Hit], negative: bool) -> Image.Image:
    def said(record: ImageRecord) -> str:
        return record.negative_prompt if negative else record.prompt

    found = [(library.picture(hit.id), f"{hit.similarity:.3f}", said(hit.image)) for hit in hits]
    return contact_sheet(library.picture(query) if query else None, title, found, columns=6)


if __name__ == "__main__":
    main()
