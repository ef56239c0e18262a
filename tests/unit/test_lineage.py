"""The tree of what came from what."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from luna_dt import ImageRecord, Library
from luna_dt.errors import UnknownImage
from luna_dt.generation import Generation
from luna_dt.made.drawing import as_png, as_svg
from luna_dt.made.lineage import as_text, tree, walk
from luna_dt.records import Batch
from tests.conftest import mirror


@pytest.fixture
def told(library: Library, tmp_path: Path) -> Library:
    """Image 1, upscaled into image 2 (scanned), from that a variation that DT has not scanned, and one more of that."""
    paths = {1: "D:\\Bilder\\one.png", 2: "D:\\Bilder\\Two.PNG", 3: str(tmp_path / "three.png")}
    records = [ImageRecord(i, path, f"prompt {i} <&>") for i, path in paths.items()]
    mirror(library, "images", Batch(np.array([1, 2, 3]), np.ones(3, np.int64), records))
    Image.new("RGB", (30, 20), "red").save(paths[3])
    library.record({"operation": "upscale", "source_image_id": 1, "output": "d:/bilder/two.png", "prompt": "sharp"})
    variation = library.record({"operation": "variation", "source_image_id": 2, "output": "E:\\new.png", "key": "v"})
    library.record({"operation": "inpaint", "base": variation.generation.key, "prompt": "a hat"})
    library.record({"operation": "img2img", "source_image_id": 1, "output": paths[3]})
    return library


def test_the_tree_is_the_same_from_wherever_it_is_asked(told: Library) -> None:
    for image_id in (1, 2, 3):
        lines = as_text(told.lineage(image_id)).splitlines()
        assert [line.rstrip(" <-") for line in lines] == [
            "image 1  prompt 1 <&>",
            "├─ upscale: image 2  sharp",
            "│  └─ variation: E:\\new.png",
            "│     └─ inpaint: not saved  a hat",
            "└─ img2img: image 3  prompt 3 <&>",
        ]
        assert [f"image {image_id}" in line for line in lines if line.endswith("<-")] == [True]
    with pytest.raises(UnknownImage):
        told.lineage(99)


def test_a_loop_in_what_was_recorded_ends(library: Library) -> None:
    records = [ImageRecord(1, "a"), ImageRecord(2, "b")]
    mirror(library, "images", Batch(np.array([1, 2]), np.ones(2, np.int64), records))
    library.record({"source_image_id": 1, "output": "b"})
    library.record({"source_image_id": 2, "output": "a"})
    assert "image 2" in as_text(library.lineage(1))


def test_two_records_of_one_picture_are_one_branch(library: Library) -> None:
    count = 40
    records = [ImageRecord(i, f"{i}.png") for i in range(1, count + 1)]
    mirror(library, "images", Batch(np.arange(1, count + 1), np.ones(count, np.int64), records))
    for i in range(1, count):
        for _ in range(2):
            library.record({"source_image_id": i, "output": f"{i + 1}.png"})
    assert len(as_text(library.lineage(5)).splitlines()) == count


def test_records_without_keys_are_nobodys_base() -> None:
    made = [Generation(source_image_id=1, key=f"dt:{i}", id=str(i)) for i in range(3)]
    found = tree(1, made, lambda i: ImageRecord(i, "a"), lambda _: None)
    assert [len(node.children) for _, node in walk(found)] == [3, 0, 0, 0]


def test_it_is_drawn_with_thumbnails(told: Library, tmp_path: Path) -> None:
    tree = told.lineage(2)
    red = Image.new("RGB", (64, 64), "red")
    png = as_png(tree, lambda node: red if node.image else None)
    colours = {colour for _, colour in png.getcolors(1 << 20) or []}
    assert (255, 0, 0) in colours
    svg = as_svg(tree, lambda node: red if node.image else None)
    drawing = ElementTree.fromstring(svg)  # well-formed, although prompts have < and &
    names = [each.tag.rpartition("}")[2] for each in drawing.iter()]
    assert names.count("image") == 3
    assert names.count("path") == 4
