"""Whether the file under an image's path here is the picture that DT means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from luna_dt import ImageRecord, Library
from luna_dt.errors import PictureMissing
from luna_dt.paths import picture_file
from luna_dt.records import Batch
from tests import stock
from tests.conftest import mirror

PROMPT = 'eine Katze, "größer" 猫, looking at the moon'
RECORD = ImageRecord(1, "", PROMPT, width=96, height=64, seed=-5)
OTHER = f"a dog\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: {4242}, Size: 96x64"
OURS = f"{PROMPT}\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: {2**64 - 5}, Size: 96x64"
GRAPH = {"3": {"class_type": "KSampler", "inputs": {"seed": 2**64 - 5, "positive": ["6", 0]}}}
OF_PROMPT = {"6": {"class_type": "CLIPTextEncode", "inputs": {"text": PROMPT, "seed": 1}}}


def png(file: Path, size: tuple[int, int], **texts: str) -> None:
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text) if not text.isascii() else info.add_text(name, text)
    Image.new("RGB", size, "red").save(file, "PNG", pnginfo=info)


def jpeg(file: Path, size: tuple[int, int], text: str, form: str = "utf-16-be") -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode(form)
    Image.new("RGB", size, "red").save(file, "JPEG", exif=exif)


@pytest.mark.parametrize(("change", "write", "ours"), [
    ({}, lambda f: png(f, (96, 64)), True),
    ({}, lambda f: png(f, (64, 96)), True),  # turned by a tag, or DT's numbers are
    ({}, lambda f: png(f, (192, 128)), True),  # enlarged afterwards
    ({}, lambda f: png(f, (97, 64)), True),
    ({}, lambda f: png(f, (64, 64)), False),
    ({}, lambda f: png(f, (512, 200)), False),
    ({"width": 0, "height": 0}, lambda f: png(f, (512, 200)), True),  # quick-scanned: not known yet
    ({}, lambda f: png(f, (512, 200), parameters=OURS), True),  # cut to another shape afterwards
    ({}, lambda f: png(f, (96, 64), parameters=OTHER), False),
    ({}, lambda f: png(f, (96, 64), prompt=json.dumps(GRAPH)), True),
    ({}, lambda f: png(f, (96, 64), prompt=json.dumps(OF_PROMPT)), True),
    ({"seed": 0, "prompt": ""}, lambda f: png(f, (96, 64), parameters=OTHER), True),  # DT knows nothing of it
    ({}, lambda f: png(f, (96, 64), Software="a program"), True),
    ({}, lambda f: jpeg(f, (96, 64), OTHER), False),
    ({}, lambda f: jpeg(f, (96, 64), OURS), True),
    ({}, lambda f: jpeg(f, (96, 64), OTHER, "utf-16-le"), False),
    ({}, lambda f: f.write_bytes(b"no picture"), True),  # which is for whoever reads it to say
])  # fmt: skip
def test_a_file_that_is_another_picture_is_not_taken(
    library: Library, tmp_path: Path, change: dict[str, Any], write: Callable[[Path], None], ours: bool
) -> None:
    file = tmp_path / "ComfyUI_00001_.png"
    write(file)
    known = {name: getattr(RECORD, name) for name in RECORD.__slots__}
    record = ImageRecord(**{**known, "path": str(file), **change})
    mirror(library, "images", Batch(np.array([1]), np.array([1]), [record]))
    if ours:
        assert library.file(1) == file.read_bytes()
        return
    with pytest.raises(
        PictureMissing, match=r"image 1 could not be opened: .*ComfyUI_00001_\.png is another picture here"
    ):
        library.file(1)
    with pytest.raises(PictureMissing, match="another picture"):
        library.map("canny", image_id=1)


KNOWN = {"Prompt": PROMPT, "Seed": -5, "Width": 96, "Height": 64}


@pytest.mark.parametrize(("noted", "ours"), [
    ({}, True),  # those bytes are the picture, however its text was read
    ({"FileSize": None}, True),
    ({"FileSize": 0}, True),
    ({"FileSize": 7}, False),
    ({"Hash": "0" * 64}, False),
    ({"Hash": "no hash"}, False),
    ({"Hash": None}, False),
])  # fmt: skip
@pytest.mark.parametrize(("text", "size"), [(OTHER, (96, 64)), ("", (64, 512))])
def test_a_file_whose_hash_stock_dt_noted_is_its_picture(
    tmp_path: Path, text: str, size: tuple[int, int], noted: dict[str, Any], ours: bool
) -> None:
    file, database = tmp_path / "ComfyUI_00001_.png", tmp_path / "diffusion-toolkit.db"
    png(file, size, parameters=text)
    data = file.read_bytes()
    stock.create(database, "1.10")
    said = {"FileSize": len(data), "Hash": hashlib.sha256(data).hexdigest().upper(), **noted}
    stock.insert(database, "Image", {"Id": 1, "Path": str(file), **KNOWN, **said})
    with Library(tmp_path / "home", dt=str(database)) as library:
        library.sync()
        if ours:
            assert library.file(1) == data
            stock.run(database, "ALTER TABLE Image DROP COLUMN Hash")  # as before 1.9
        with pytest.raises(PictureMissing, match="is another picture here"):
            library.file(1)


@pytest.mark.parametrize(
    ("in_dt", "on_disk"),
    [
        (r"D:\Bilder\Sub\A.PNG", "sub/a.png"),
        ("D:\\Bilder\\\\É\\e\u0301.png", "é/É.png"),
        (r"\\?\D:\Bilder\a.png", "a.png"),
        (r"\\?\UNC\nas\share\a.png", "a.png"),
    ],
)
def test_a_file_is_found_however_its_name_is_written(in_dt: str, on_disk: str, tmp_path: Path) -> None:
    file = tmp_path / on_disk
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"it")
    path_map = {r"\\?\d:\bilder": str(tmp_path), r"\\NAS\share": str(tmp_path)}
    assert picture_file(in_dt, path_map) == b"it"


def test_of_two_files_that_only_case_tells_apart_none_is_guessed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    (tmp_path / "A.png").write_bytes(b"other")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("here case tells no files apart")
    with pytest.raises(PictureMissing):
        picture_file(r"D:\a.PNG", {"D:": str(tmp_path)})
    assert picture_file(r"D:\A.png", {"D:": str(tmp_path)}) == b"other"
