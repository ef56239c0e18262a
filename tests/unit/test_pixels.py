from __future__ import annotations

import io
import os
import struct
import subprocess
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from luna_dt.errors import BadPicture, PictureMissing
from luna_dt.paths import local_path, picture_file
from luna_dt.pixels import read_alpha, read_pictures


def ramp(mode: str = "RGB") -> Image.Image:
    grey = np.tile(np.arange(0, 250, 5, dtype=np.uint8), (20, 1))
    return Image.fromarray(np.stack([grey, grey[:, ::-1], grey // 2], axis=-1)).convert(mode)


def same(a: Image.Image, b: Image.Image, within: int = 0) -> bool:
    return a.size == b.size and int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max()) <= within


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "1", "CMYK", "P"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    picture = ramp(mode)
    suffix = ".tif" if mode == "CMYK" else ".png"
    file = tmp_path / f"bild ünï{suffix}"
    picture.save(file)
    read = read_pictures(file)[0]
    assert read.mode == "RGB"
    assert same(read, picture.convert("RGBA").convert("RGB") if mode == "P" else picture.convert("RGB"))


def test_palette_with_transparency_in_bytes() -> None:
    picture = ramp("P")
    picture.info["transparency"] = bytes([0, 128, 255])
    assert read_pictures(picture)[0].mode == "RGB"


def test_16_bit_greys_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 300).astype(np.uint16).reshape(10, 30)
    Image.fromarray(values).save(tmp_path / "deep.png")
    read = np.asarray(read_pictures(tmp_path / "deep.png")[0])[..., 0]
    assert np.array_equal(read, np.round(values / 257).astype(np.uint8))


@pytest.mark.parametrize("full", [255, 65535])
def test_greys_of_32_bits_are_as_bright_as_their_range(full: int, tmp_path: Path) -> None:
    values = (np.asarray(ramp("L"), np.int32) * (full // 255)).astype(np.int32)
    Image.fromarray(values).save(tmp_path / "deep.tif")
    for source in (Image.fromarray(values), tmp_path / "deep.tif"):
        assert same(read_pictures(source)[0], ramp("L").convert("RGB"))


def test_a_tiff_whose_zero_is_white_is_no_negative(tmp_path: Path) -> None:
    values = 65535 - np.asarray(ramp("L"), np.uint16) * 257
    Image.fromarray(values).save(tmp_path / "white.tif", tiffinfo={262: 0})
    assert same(read_pictures(tmp_path / "white.tif")[0], ramp("L").convert("RGB"))


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    ramp().save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert read_pictures(tmp_path / "turned.jpg")[0].size == (20, 50)


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_pictures(tmp_path / "moving.gif")[0].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    "source",
    [
        np.asarray(ramp()),
        np.asarray(ramp(), np.uint16) * 257,
        np.asarray(ramp(), np.float64) / 255,
        torch.from_numpy(np.array(ramp())).float()[None] / 255,
        torch.from_numpy(np.array(ramp())),
        torch.from_numpy(np.array(ramp())).to(torch.bfloat16)[None] / 255,
        np.dstack([np.asarray(ramp()), np.full((20, 50), 9, np.uint8)]),
    ],
    ids=["uint8", "uint16", "float64", "comfy", "byte tensor", "bfloat16", "alpha dropped"],
)
def test_arrays_and_tensors(source: Any) -> None:
    assert same(read_pictures(source)[0], ramp(), within=1)


def test_a_batch_gives_every_picture() -> None:
    batch = np.stack([np.asarray(ramp()), 255 - np.asarray(ramp())])
    first, second = read_pictures(batch)
    assert same(first, ramp())
    assert not same(second, ramp())


def test_encoded_bytes() -> None:
    out = io.BytesIO()
    ramp().save(out, "PNG")
    assert same(read_pictures(out.getvalue())[0], ramp())


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (b"not a picture", "not a picture"),
        (np.zeros((4, 4, 7)), "1 to 4 channels"),
        (np.zeros((0, 4, 3)), "at least one pixel"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.zeros((4, 4, 3), np.int32), "int32"),
        (np.zeros(5), r"\[H,W\]"),
        (object(), "object"),
    ],
)
def test_what_is_no_picture_is_told(source: Any, told: str) -> None:
    with pytest.raises(BadPicture, match=told):
        read_pictures(source)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadPicture, match=r"gone\.png: no such file"):
        read_pictures(tmp_path / "gone.png")
    ramp().resize((400, 400)).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadPicture, match=r"cut\.png"):
        read_pictures(tmp_path / "cut.png")


@pytest.mark.parametrize(
    ("dt_path", "expected"),
    [
        (r"D:\Bilder\Ünï\x.png", "/mnt/bilder/Ünï/x.png"),
        (r"d:\BILDER\y.png", "/mnt/bilder/y.png"),
        ("D:/Bilder/z.png", "/mnt/bilder/z.png"),
        (r"D:\Bilder\deep\x.png", "/mnt/deep/x.png"),
        (r"\\nas\share\a.png", "/mnt/nas/a.png"),
    ],
)
def test_windows_paths_are_found_through_the_map(dt_path: str, expected: str) -> None:
    path_map = {r"D:\Bilder": "/mnt/bilder", r"D:\Bilder\deep": "/mnt/deep", r"\\nas\share": "/mnt/nas"}
    assert local_path(dt_path, path_map) == Path(expected)


@pytest.mark.parametrize(
    "dt_path",
    [r"\\stranger\share\x.png", "//stranger/share/x.png", "/\\stranger\\share\\x.png", "\\/stranger/share/x.png", r"\\.\PhysicalDrive0", r"\\?\C:\x.png", "x.png", "",
     r"D:\Bilder\..\..\secret.png", "/mnt/../etc/passwd"],
)  # fmt: skip
def test_strange_paths_are_refused(dt_path: str) -> None:
    with pytest.raises(PictureMissing):
        local_path(dt_path, {r"D:\Bilder": "/mnt/bilder"})


@pytest.mark.skipif(os.name == "nt", reason="a drive letter is at home there")
def test_an_unmapped_windows_path_says_what_to_add() -> None:
    with pytest.raises(PictureMissing, match=r"\[path_map\]: 'E:\\new' ="):
        local_path(r"E:\new\x.png", {})


def png(picture: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", **options)
    return out.getvalue()


def test_what_is_beside_the_pixels_of_a_png_is_in_nobodys_way() -> None:
    text = PngInfo()
    text.add_text("parameters", "x" * 3_000_000, zip=True)
    whole = png(ramp(), icc_profile=bytes(4_000_000))
    after = png(ramp())
    chunk = b"zTXt" + b"a\0\0" + zlib.compress(bytes(5_000_000))
    after = after[:-12] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + after[-12:]
    wrong = whole[:45] + b"\xff" + whole[46:]  # within the profile, whose sum is wrong then
    clear = ramp("RGBA")
    clear.putalpha(7)
    for data in (png(ramp(), pnginfo=text), whole, after, wrong, png(ramp("P").convert("RGB"), pnginfo=text)):
        assert read_pictures(data)[0].size == ramp().size
    assert same(read_pictures(after)[0], ramp())
    alpha = read_alpha(png(clear, pnginfo=text, icc_profile=bytes(2_000_000)))
    assert alpha is not None
    assert alpha.getextrema() == (7, 7)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_whose_tags_cannot_be_written_again(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    ramp().save(out, "JPEG", exif=exif, quality=95)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(out.getvalue()))).convert("RGB")

    def refuse(*_: Any, **__: Any) -> bytes:
        raise TypeError("a tag that cannot be written")

    monkeypatch.setattr(Image.Exif, "tobytes", refuse)
    assert same(read_pictures(out.getvalue())[0], expected)


def header(width: int, height: int, depth: int, colour: int) -> bytes:
    """A PNG that promises that size, and has next to nothing."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0")),
    )
    made = b"\x89PNG\r\n\x1a\n"
    for kind, data in (*chunks, (b"IEND", b"")):
        made += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return made


@pytest.mark.parametrize("size", [(1, 178_000_000), (170_000_000, 1), (13_370, 13_400), (20_000, 20_000)])
def test_a_cap_on_the_memory_that_a_picture_takes(size: tuple[int, int]) -> None:
    with pytest.raises(BadPicture):
        read_pictures(header(*size, 16, 0))


def test_no_memory_is_told_as_a_picture_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError

    sources = (png(ramp("L")), ramp("L"))
    monkeypatch.setattr(Image.Image, "convert", full)
    for source in sources:
        with pytest.raises(BadPicture, match="not enough memory"):
            read_pictures(source)


@pytest.mark.parametrize("form", ["EPS", "PCX", "SGI", "PDF"])
def test_only_pictures_are_opened(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    ramp().save(out, form)
    monkeypatch.setattr(subprocess, "Popen", None)  # Ghostscript, for one
    with pytest.raises(BadPicture, match="not a picture"):
        read_pictures(out.getvalue())


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_the_usual_forms_are_opened(form: str) -> None:
    out = io.BytesIO()
    ramp().save(out, form)
    assert same(read_pictures(out.getvalue())[0], ramp(), within=60)


@pytest.mark.parametrize("full", [1, 255, 65535])
def test_floats_of_a_file_are_in_the_range_that_they_fill(full: int, tmp_path: Path) -> None:
    values = np.linspace(0, full, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "floats.tif")
    read = np.asarray(read_pictures(tmp_path / "floats.tif")[0])[..., 0]
    assert np.array_equal(read.ravel(), np.arange(256))


@pytest.mark.parametrize("there", ["NFC", "NFD", "mixed"])
@pytest.mark.parametrize("asked", ["NFC", "NFD", "mixed"])
def test_the_forms_of_a_name_are_one_name(asked: str, there: str, tmp_path: Path) -> None:
    def spelt(form: Any) -> list[str]:
        names = ("Bilder Ünï", "Ångström é", "が é.png")
        if form == "mixed":
            return [unicodedata.normalize("NFC", name[:-5]) + unicodedata.normalize("NFD", name[-5:]) for name in names]
        return [unicodedata.normalize(form, name) for name in names]

    folder = tmp_path.joinpath(*spelt(there)[:2])
    folder.mkdir(parents=True)
    (folder / spelt(there)[2]).write_bytes(b"the picture")
    dt_path = "D:\\Größe\\" + "\\".join(spelt(asked))
    path_map = {"d:\\" + unicodedata.normalize("NFD", "Größe"): str(tmp_path)}
    assert picture_file(dt_path, path_map) == b"the picture"
    with pytest.raises(PictureMissing, match="No such file"):
        picture_file(dt_path[:-5] + "ä.png", path_map)


def test_dts_own_spelling_comes_first(tmp_path: Path) -> None:
    forms: list[Any] = ["NFC", "NFD"]
    for form in forms:
        (tmp_path / unicodedata.normalize(form, "é.png")).write_bytes(form.encode())
    for form in forms:
        assert picture_file("D:\\" + unicodedata.normalize(form, "é.png"), {"D:\\": str(tmp_path)}) == form.encode()


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_colours_that_are_multiplied_with_their_alpha_are_read(mode: str) -> None:
    plain = Image.new({"La": "LA", "RGBa": "RGBA"}[mode], (3, 2), (100, 255) if mode == "La" else (100, 100, 100, 255))
    assert read_pictures(plain.convert(mode))[0].getpixel((0, 0)) == (100, 100, 100)


@pytest.mark.parametrize("values", [(0, 200), (-1, 1)])
def test_floats_of_another_range_are_refused(values: tuple[float, float]) -> None:
    with pytest.raises(BadPicture, match="a picture of floats"):
        read_pictures(np.linspace(*values, 48, dtype=np.float32).reshape(4, 4, 3))
    assert read_pictures(np.full((4, 4, 3), 1.3))[0].getpixel((0, 0)) == (255, 255, 255)


def test_what_is_no_picture_is_said_plainly() -> None:
    with pytest.raises(BadPicture, match=r"not a picture that can be read \(cannot identify image file\)$"):
        read_pictures(b"<html>")
