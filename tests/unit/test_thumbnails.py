"""Thumbnails: what they look like, what is kept, what of DT's is used, and what is refused before it is decoded."""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from luna_dt.errors import BadPicture, PictureMissing
from luna_dt.files import stamp
from luna_dt.thumbnails import DTS, SIDES, Thumbnails, side_for

RED, BLUE = (250, 10, 10), (10, 10, 250)


def two_coloured(width: int, height: int, left: tuple[int, int, int] = RED) -> Image.Image:
    picture = Image.new("RGB", (width, height), BLUE)
    picture.paste(left, (0, 0, width // 2, height))
    return picture


def shown(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    assert (picture.format, picture.mode) == ("WEBP", "RGB")
    return picture


def is_red(picture: Image.Image, x: float, y: float) -> bool:
    r, _, b = picture.getpixel((int(x * picture.width), int(y * picture.height)))  # type: ignore[misc]
    return bool(r > b)


@pytest.fixture
def thumbnails(tmp_path: Path) -> Thumbnails:
    return Thumbnails(tmp_path / "kept")


def kept(tmp_path: Path) -> list[Path]:
    return [each for each in (tmp_path / "kept").rglob("*") if each.is_file()]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tif", "bmp"])
def test_a_thumbnail_is_small_and_looks_alike(suffix: str, tmp_path: Path, thumbnails: Thumbnails) -> None:
    file = tmp_path / f"Bild ünï.{suffix}"
    two_coloured(900, 600).save(file)
    small = shown(thumbnails.get(file, 256, stamp(file)))
    assert small.size == (256, 171)
    assert (is_red(small, 0.2, 0.5), is_red(small, 0.8, 0.5)) == (True, False)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_it_stands_upright(suffix: str, tmp_path: Path, thumbnails: Thumbnails) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    file = tmp_path / f"turned.{suffix}"
    two_coloured(2400, 1200).save(file, exif=exif)
    small = shown(thumbnails.get(file, 128, stamp(file)))
    assert small.size == (64, 128)
    assert (is_red(small, 0.5, 0.2), is_red(small, 0.5, 0.8)) == (True, False)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_every_mode_has_one(mode: str, tmp_path: Path, thumbnails: Thumbnails) -> None:
    file = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    drawn = Image.new("I;16", (1000, 500), 40_000) if mode == "I;16" else two_coloured(1000, 500).convert(mode)
    drawn.save(file)
    assert shown(thumbnails.get(file, 128, stamp(file))).size == (128, 64)


def test_sizes_are_few(tmp_path: Path, thumbnails: Thumbnails) -> None:
    assert [side_for(size) for size in (1, 128, 129, 300, 1024, 5000)] == [128, 128, 256, 512, 1024, 1024]
    file = tmp_path / "small.png"
    two_coloured(90, 60).save(file)
    assert shown(thumbnails.get(file, 200, "s")).size == (90, 60)  # none is made larger
    thumbnails.get(file, 256, "s")
    assert len(kept(tmp_path)) == 1


def test_it_is_made_once_and_anew_when_the_file_changes(tmp_path: Path, thumbnails: Thumbnails) -> None:
    file = tmp_path / "a.png"
    two_coloured(300, 200).save(file)
    first = thumbnails.get(file, 128, "before")
    file.write_bytes(b"no picture any more")
    assert thumbnails.get(file, 128, "before") == first
    with pytest.raises(BadPicture):
        thumbnails.get(file, 128, "after")
    half = first[: len(first) // 2]
    kept(tmp_path)[0].write_bytes(half)  # as a machine that went down may leave it
    two_coloured(300, 200).save(file)
    assert thumbnails.get(file, 128, "before") == first


def test_the_least_recently_used_are_evicted(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    two_coloured(300, 200).save(file)
    size = len(Thumbnails(tmp_path / "none", 0).get(file, 128, "x"))
    assert not (tmp_path / "none").exists()
    some = Thumbnails(tmp_path / "kept", 10 * size)
    for i in range(10):
        some.get(file, 128, f"{i}")
        for each in kept(tmp_path):
            os.utime(each, (each.stat().st_atime - 10_000,) * 2)
    oldest, *_, newest = sorted(kept(tmp_path), key=lambda each: each.stat().st_mtime)
    some.get(file, 128, "0")  # used again
    Thumbnails(tmp_path / "kept", 10 * size).get(file, 128, "10")  # another process's
    left = kept(tmp_path)
    assert sum(each.stat().st_size for each in left) <= 9 * size
    assert oldest in left
    assert newest in left


def test_what_cannot_be_kept_is_shown_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    two_coloured(300, 200).save(file)
    (tmp_path / "kept").write_bytes(b"in the way")
    assert shown(Thumbnails(tmp_path / "kept").get(file, 128, "x")).size == (128, 85)


def test_a_file_may_be_given_opened(tmp_path: Path, thumbnails: Thumbnails) -> None:
    data = io.BytesIO()
    two_coloured(300, 200).save(data, "PNG")
    assert shown(thumbnails.get(Path("D:\\elsewhere\\a.png"), 128, "x", data)).size == (128, 85)
    assert not data.closed


def test_what_is_no_picture_is_named(tmp_path: Path, thumbnails: Thumbnails) -> None:
    with pytest.raises(PictureMissing, match=r"none\.png"):
        thumbnails.get(tmp_path / "none.png", 128, "x")
    with pytest.raises(PictureMissing):
        thumbnails.get(tmp_path, 128, "x")
    for content in (b"", b"<svg/>", b"\x89PNG\r\n\x1a\n", b"GIF89a"):
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(BadPicture, match=r"bad\.png"):
            thumbnails.get(tmp_path / "bad.png", 128, "x")


def png(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_pixels_are_counted_before_they_are_decoded(tmp_path: Path, thumbnails: Thumbnails) -> None:
    for width, height in ((6000, 6000), (33_554_433, 1), (9000, 9000), (10**9, 10**9)):
        file = tmp_path / "huge.png"
        file.write_bytes(png(width, height))
        with pytest.raises(BadPicture, match=r"huge\.png.*"):
            thumbnails.get(file, 128, "x")


class TestOfDT:
    """``dt_thumbnails.db`` beside the pictures, with a red and blue picture's thumbnail in green."""

    GREEN = (10, 250, 10)

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "a.png"
        two_coloured(900, 600).save(file)
        return file

    def keep(self, file: Path, size: int = 256, shape: tuple[int, int] = (3, 2), data: bytes | None = None) -> None:
        out = io.BytesIO()
        width, height = (round(size * side / max(shape)) for side in shape)
        Image.new("RGB", (width, height), self.GREEN).save(out, "JPEG")
        with contextlib.closing(sqlite3.connect(file.with_name(DTS))) as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS Thumbnail (Filename varchar, Data blob, Size integer)")
            content = out.getvalue() if data is None else data
            db.execute("INSERT INTO Thumbnail VALUES (?, ?, ?)", (file.name, content, size))

    def is_used(self, file: Path, thumbnails: Thumbnails, size: int = 128) -> bool:
        r, g, b = shown(thumbnails.get(file, size, stamp(file))).getpixel((20, 20))  # type: ignore[misc]
        return bool(g > r + b)

    def test_it_is_used_where_it_fits(self, file: Path, thumbnails: Thumbnails) -> None:
        self.keep(file, 64)
        self.keep(file, 256)
        assert self.is_used(file, thumbnails, 128)
        assert self.is_used(file, thumbnails, 256)
        assert not self.is_used(file, thumbnails, 512)
        assert shown(thumbnails.get(file, 128, stamp(file))).width == 128

    @pytest.mark.parametrize("shape", [(2, 3), (1, 1)])
    def test_it_is_not_that_of_another_shape(self, shape: tuple[int, int], file: Path, thumbnails: Thumbnails) -> None:
        self.keep(file, shape=shape)
        assert not self.is_used(file, thumbnails)

    def test_it_is_not_too_small_nor_another_files(self, file: Path, thumbnails: Thumbnails) -> None:
        self.keep(file, 64)
        self.keep(file.with_name("b.png"))
        assert not self.is_used(file, thumbnails)

    def test_it_is_none_that_is_older_than_the_picture(self, file: Path, thumbnails: Thumbnails) -> None:
        self.keep(file)
        later = file.stat().st_mtime + 1000
        os.utime(file, (later, later))
        assert not self.is_used(file, thumbnails)

    def test_a_video_may_have_one(self, file: Path, thumbnails: Thumbnails) -> None:
        video = file.with_name("a.mp4")
        video.write_bytes(b"\0\0\0\x18ftypmp42")
        with pytest.raises(BadPicture):
            thumbnails.get(video, 128, stamp(video))
        self.keep(video)
        assert self.is_used(video, thumbnails)

    @pytest.mark.parametrize("data", [b"", b"no picture", png(9000, 9000), bytes(2 << 20)])
    def test_an_odd_one_is_left(self, data: bytes, file: Path, thumbnails: Thumbnails) -> None:
        self.keep(file, data=data)
        assert not self.is_used(file, thumbnails)

    def test_a_database_that_is_none_is_left(self, file: Path, thumbnails: Thumbnails) -> None:
        file.with_name(DTS).write_bytes(b"SQLite format 3\0" + bytes(5000))
        assert not self.is_used(file, thumbnails)
        file.with_name(DTS).unlink()
        with contextlib.closing(sqlite3.connect(file.with_name(DTS))) as db, db:
            db.execute(
                "CREATE VIEW Thumbnail AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
                "SELECT 'z' AS Filename, x'' AS Data, x AS Size FROM n"
            )
        assert not self.is_used(file, thumbnails, SIDES[1])  # and does not go on for ever
