"""A folder of pictures as a library: real files, and the same answers as the mirror made of it gives."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from luna_dt import Library, Settings
from luna_dt.dt import connect
from luna_dt.dt.folder import FolderCatalog, folder_at
from luna_dt.errors import AnotherDT, PictureMissing, Refused, SettingsError, UnknownCluster, UnknownImage, Unreachable
from luna_dt.records import Captions

PARAMETERS = (
    "a fox, größer, 猫,\nsecond line\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 6.5, "
    'Seed: 18446744073709551615, Size: 64x32, Model hash: ab12, Model: "pony, v6"'
)
GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "dream.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["1", 1]}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly", "clip": ["1", 1]}},
    "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 32, "batch_size": 1}},
    "5": {"class_type": "KSampler", "inputs": {
        "seed": 7, "steps": 25, "cfg": 7.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0,
        "model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0]}},
    "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
    "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "x"}},
}  # fmt: skip
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    'xmp:Rating="4"><dc:subject><rdf:Bag><rdf:li>red hair</rdf:li><rdf:li>Ärger &amp; Co</rdf:li></rdf:Bag></dc:subject>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)
QUERIES = (
    "", "fox", "GRÖSSER", "猫", "cat", "negative: blurry", "steps: 20-25", "sampler: euler A", "cfg: 6.5", "seed: -1",
    "seed: 7", "size: 64x32", "size: portrait", "model: pony|dream", "model_hash: AB12", "rating: > 5", "rating: none",
    "aesthetic_score: >= 7", "favorite: true", "nsfw: false", "nometa: true", "nometa: false", "delete: true",
    "date: from 2020-01-01", "date: before 2020-01-01", "path: süb", "folder: Bilder", "path: starts with /nowhere",
    "path: *süb*", "folder: *süb", "path: ends with .png", "not fox", "not steps: 20", "not rating: > 5", "tag: red hair", "tag: *& co",
    "not tag: *", "has: tag", "has: caption", "in_album:", "in_album: false", "cluster: süb", "cluster: SÜB*", "cluster: 1|2",
    "type: image", "fave:", "size: 64x?",
)  # fmt: skip


def draw(file: Path, colour: str = "red", size: tuple[int, int] = (64, 32), **texts: str) -> Path:
    """A picture of one colour; a PNG with those texts."""
    file.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    for name, said in texts.items():
        info.add_text(name, said)
    more: dict[str, Any] = {"pnginfo": info} if file.suffix == ".png" else {}
    Image.new("RGB", size, colour).save(file, **more)
    return file


def exif(comment: bytes = b"", **tags: Any) -> Image.Exif:
    made = Image.Exif()
    for number, value in tags.items():
        made[int(number[1:], 16)] = value
    if comment:
        made.get_ifd(0x8769)[0x9286] = comment
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "Bilder Ünï"


@pytest.fixture
def library(folder: Path, tmp_path: Path) -> Iterator[Library]:
    with Library(tmp_path / "home", dt=str(folder)) as opened:
        yield opened


def ids(library: Library) -> dict[str, int]:
    """Synced anew: each picture's path below the folder, and its id."""
    library.sync()
    found = {Path(each.path).relative_to(library.settings.dt).as_posix(): each.id for each in library.images(limit=500)}
    assert found == {
        Path(each.path).relative_to(library.settings.dt).as_posix(): each.id
        for each in library.catalog.images(limit=500)
    }
    return found


def test_the_mirror_gives_the_same_answers(library: Library, folder: Path) -> None:
    draw(folder / "a.png", parameters=PARAMETERS)
    draw(folder / "süb" / "b.png", "blue", prompt=json.dumps(GRAPH))
    draw(folder / "süb" / "tief" / "c.png", "green", (32, 64), **{"XML:com.adobe.xmp": XMP})
    Image.new("RGB", (64, 32)).save(folder / "süb" / "d.jpg", exif=exif(x112=6, x4746=2))
    changes = {change.kind: change.added for change in library.sync()}
    assert changes == {"images": 4, "captions": 1, "clusters": 2}
    assert all((c.added, c.changed, c.removed) == (0, 0, 0) for c in library.sync())
    dt = library.catalog
    for query in QUERIES:
        assert library.images(query) == dt.images(query), query
    by_name = {Path(each.path).name: each for each in library.images()}
    fox, cat, tagged, turned = (by_name[name] for name in ("a.png", "b.png", "c.png", "d.jpg"))
    assert (fox.prompt, fox.negative_prompt) == ("a fox, größer, 猫,\nsecond line", "blurry")
    assert (fox.steps, fox.sampler, fox.cfg, fox.seed) == (20, "Euler a", 6.5, -1)
    assert (fox.model, fox.model_hash, fox.no_metadata) == ("pony, v6", "ab12", False)
    assert (cat.prompt, cat.negative_prompt, cat.seed, cat.steps) == ("a cat", "ugly", 7, 25)
    assert (cat.sampler, cat.scheduler, cat.model) == ("euler", "karras", "dream.safetensors")
    assert (tagged.rating, tagged.tags, tagged.no_metadata) == (8, ("red hair", "Ärger & Co"), True)
    assert (turned.width, turned.height, turned.rating) == (32, 64, 4)
    for asked in (dt.captions, library.captions):
        assert asked(tagged.id) == Captions(tagged.id, combined="red hair, Ärger & Co", tags=tagged.tags)
        assert asked(fox.id) == Captions(fox.id)
    clusters = [(cluster.name, cluster.image_count) for cluster in dt.clusters()]
    assert clusters == [(c.name, c.image_count) for c in library.clusters()] == [("süb", 2), ("süb/tief", 1)]
    inside = library.clusters()[0].id
    assert [m.image.id for m in library.cluster_images(inside)] == [m.image.id for m in dt.cluster_images(inside)]
    assert [m.image.id for m in dt.cluster_images(inside, min_quality=2)] == [turned.id]
    assert library.picture(turned.id).size == (32, 64)
    assert dt.file(fox.id) == (folder / "a.png").read_bytes()
    for ask in (dt.image, dt.captions, dt.file):
        with pytest.raises(UnknownImage):
            ask(77)
    with pytest.raises(UnknownCluster):
        dt.cluster_images(77)
    assert (dt.health().name, dt.health().left_out) == ("folder", ())


def test_an_id_stays_when_its_file_changes_and_follows_it(library: Library, folder: Path) -> None:
    a, b, c = (
        draw(folder / f"{name}.png", colour) for name, colour in zip("abc", ("red", "green", "blue"), strict=True)
    )
    first = ids(library)
    draw(a, "white", prompt=json.dumps(GRAPH))  # changed
    (folder / "deep").mkdir()
    b.rename(folder / "deep" / "b2.png")  # moved and renamed
    shutil.copy(c, folder / "copy.png")
    second = ids(library)
    assert second["a.png"] == first["a.png"]
    assert library.image(first["a.png"]).prompt == "a cat"
    assert second["deep/b2.png"] == first["b.png"]
    assert second["c.png"] == first["c.png"]
    assert second["copy.png"] not in first.values()
    os.utime(a, (1, 1))  # touched
    assert ids(library) == second
    assert library.image(first["a.png"]).created.startswith(("1970-01-01", "1969-12-31"))


def test_ids_follow_through_places_that_others_take(library: Library, folder: Path) -> None:
    a, b, c = (
        draw(folder / f"{name}.png", colour) for name, colour in zip("abc", ("red", "green", "blue"), strict=True)
    )
    first = ids(library)
    a.rename(folder / "x")
    b.rename(a)
    (folder / "x").rename(b)  # they have changed places
    c.rename(folder / "kept.png")
    draw(c, "white")  # ComfyUI has counted to the same number again
    second = ids(library)
    assert (second["a.png"], second["b.png"], second["kept.png"]) == (first["b.png"], first["a.png"], first["c.png"])
    assert second["c.png"] not in first.values()
    b.replace(a)  # over another: that one is gone
    third = ids(library)
    assert third["a.png"] == second["b.png"]
    assert "b.png" not in third


def test_ids_are_never_used_again_but_by_what_comes_back(library: Library, folder: Path, tmp_path: Path) -> None:
    for name, colour in (("a.png", "red"), ("b.png", "green"), ("c.png", "blue")):
        draw(folder / name, colour)
    first = ids(library)
    shutil.move(folder / "c.png", tmp_path / "c.png")
    assert ids(library) == {name: first[name] for name in ("a.png", "b.png")}
    draw(folder / "new.png", "white")
    second = ids(library)
    assert second["new.png"] > max(first.values())
    shutil.move(tmp_path / "c.png", folder / "c again.png")
    assert ids(library)["c again.png"] == first["c.png"]


def test_copies_that_move_keep_their_ids_by_their_names(library: Library, folder: Path) -> None:
    draw(folder / "a.png")
    for name in ("b.png", "z.png"):
        shutil.copy(folder / "a.png", folder / name)
    first = ids(library)
    (folder / "deep").mkdir()
    for name in first:
        (folder / name).rename(folder / "deep" / name)
    assert ids(library) == {f"deep/{name}": i for name, i in first.items()}


def test_what_cannot_be_used_is_left_out_by_name(library: Library, folder: Path) -> None:
    sound = draw(folder / "sound.png")
    damaged = draw(folder / "damaged.jpg")
    first = ids(library)
    damaged.write_bytes(b"no picture any more" * 100)
    (folder / "empty.png").write_bytes(b"")
    (folder / "other.webp").write_bytes(sound.read_bytes()[:20])
    for name in ("film.mp4", "film.MKV", "notes.txt"):
        (folder / name).write_bytes(b"x")
    assert ids(library) == {"sound.png": first["sound.png"]}
    assert set(library.status().left_out) == {
        "2 videos, which no picture is of",
        "damaged.jpg: it is no picture that can be read",
        "empty.png: it is empty",
        "other.webp: it is no picture that can be read",
    }
    draw(damaged, "blue")  # mended
    assert ids(library)["damaged.jpg"] == first["damaged.jpg"]


def test_what_is_hidden_or_the_systems_is_passed_over(library: Library, folder: Path) -> None:
    draw(folder / "a.png")
    for name in (
        ".hidden.png",
        "._a.png",
        ".git/b.png",
        "@eaDir/a.png",
        "$RECYCLE.BIN/c.png",
        "System Volume Information/d.png",
    ):
        draw(folder / name)
    (folder / "dt_thumbnails.db").write_bytes(b"x")
    draw(folder / "more.dots" / "B.PNG")
    assert ids(library) == {"a.png": 1, "more.dots/B.PNG": 2}
    assert library.status().left_out == ()


def test_the_librarys_own_home_is_none_of_its_pictures(folder: Path) -> None:
    draw(folder / "a.png")
    draw(folder / "home" / "maps" / "b.png")
    with Library(folder / "home", dt=str(folder)) as library:
        assert set(ids(library)) == {"a.png"}


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_lead_into_no_circle(library: Library, folder: Path, tmp_path: Path) -> None:
    draw(folder / "deep" / "a.png")
    draw(tmp_path / "elsewhere" / "b.png", "blue")
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "again").symlink_to(folder / "deep")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    found = ids(library)
    assert set(found) == {"deep/a.png", "linked/b.png"}
    (tmp_path / "elsewhere").rename(tmp_path / "away")  # a drive that a link leads to
    assert ids(library) == found
    assert library.status().left_out == ("linked: the link leads nowhere",)


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="nothing is forbidden there")
def test_a_folder_that_is_forbidden_keeps_its_pictures(library: Library, folder: Path) -> None:
    draw(folder / "a.png")
    hidden = draw(folder / "mine" / "b.png", "blue").parent
    locked = draw(folder / "c.png", "green")
    found = ids(library)
    hidden.chmod(0)
    locked.chmod(0)
    os.utime(locked, (1, 1))
    try:
        assert ids(library) == found
        assert library.status().left_out == ("c.png: Permission denied", "mine: Permission denied")
    finally:
        hidden.chmod(0o755)
        locked.chmod(0o644)
    assert ids(library) == found
    assert library.status().left_out == ()


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_no_text_is_told(library: Library, folder: Path) -> None:
    draw(folder / "a.png")
    odd = os.fsencode(folder) + b"/\xff.png"
    try:
        shutil.copy(folder / "a.png", os.fsdecode(odd))
    except OSError:
        pytest.skip("no such name can be given here")
    assert set(ids(library)) == {"a.png"}
    assert library.status().left_out == ("\\udcff.png: its name is no Unicode",)


def test_a_folder_that_is_away_is_never_empty(library: Library, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="is its drive plugged in"):
        library.sync()
    for name, colour in (("a.png", "red"), ("sub/b.png", "blue")):
        draw(folder / name, colour)
    found = ids(library)
    folder.rename(tmp_path / "away")
    for place in (None, folder, folder / "sub"):  # gone; the empty place of a drive
        if place:
            place.mkdir()
        with pytest.raises(Unreachable, match="is its drive plugged in"):
            library.sync()
    assert len(library.images()) == 2
    draw(folder / "other.png", "white")  # another drive
    with pytest.raises(AnotherDT, match="no more than 0 of the 2 images"):
        library.sync()
    shutil.rmtree(folder)
    (tmp_path / "away").rename(folder)
    assert ids(library) == found


def test_an_idle_scan_opens_no_picture(library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(20):
        draw(folder / f"{i}.png", f"#{i:02}0000")
    found = ids(library)
    opened: list[str] = []
    real = Path.open

    def noted(self: Path, *given: Any, **named: Any) -> Any:
        opened.append(self.name)
        return real(self, *given, **named)

    monkeypatch.setattr(Path, "open", noted)
    library.sync()
    assert opened == []
    draw(folder / "3.png", "white")
    assert ids(library) == found
    assert opened == ["3.png"]


def test_copies_have_one_hash_as_long_as_they_are_copies(library: Library, folder: Path) -> None:
    for name, size in (("a.png", (64, 32)), ("big.bmp", (400, 300))):
        first = draw(folder / name, "red", size)
        shutil.copy(first, folder / f"copy of {name}")
    draw(folder / "other.png", "blue")
    found = ids(library)
    images = library.records(found.values())
    assert all(re.fullmatch("[0-9a-f]{33,}", image.hash) for image in images)
    assert images == [library.catalog.image(image.id) for image in images]
    big, small = ((found[name], found[f"copy of {name}"]) for name in ("big.bmp", "a.png"))
    groups = [group.ids for group in library.duplicates(None)]
    assert sorted(groups) == sorted(tuple(sorted(pair)) for pair in (big, small))
    draw(folder / "copy of big.bmp", "white", (400, 300))
    ids(library)
    assert [group.ids for group in library.duplicates(None)] == [tuple(sorted(small))]


def test_what_an_older_version_understood_is_read_again(library: Library, folder: Path) -> None:
    draw(folder / "a.png", parameters=PARAMETERS)
    draw(folder / "b.png", "blue", parameters=PARAMETERS)
    found = ids(library)
    told = library.records(found.values())
    (known,) = (library.settings.home / "folders").glob("*.db")
    for older in (
        "UPDATE looked SET reading = reading - 1",
        "ALTER TABLE looked DROP COLUMN reading; PRAGMA user_version = 1",  # the format that did not keep it
    ):
        library.catalog.close()
        with closing(sqlite3.connect(known)) as db:
            db.executescript(f"UPDATE looked SET prompt = '', steps = 0, digest = digest + 1; {older}")
        assert [image.prompt for image in library.catalog.images()] == ["", ""]  # nothing is read before a sync
        assert ids(library) == found
        assert library.records(found.values()) == told
        assert all((c.added, c.changed, c.removed) == (0, 0, 0) for c in library.sync())


def test_what_was_read_before_an_interruption_is_kept(
    library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luna_dt.dt.seen.FILES_AT_ONCE", 5)
    for i in range(20):
        os.utime(draw(folder / f"{i:02}.png", f"#{i:02}0000"), (i, i))
    opened: list[str] = []
    real, last = Path.open, ["12.png"]

    def stopped(self: Path, *given: Any, **named: Any) -> Any:
        opened.append(self.name)
        if self.name in last:
            raise KeyboardInterrupt
        return real(self, *given, **named)

    monkeypatch.setattr(Path, "open", stopped)
    with pytest.raises(KeyboardInterrupt):
        library.sync()
    assert "00.png" in opened
    opened.clear()
    last.clear()
    assert len(ids(library)) == 20
    assert set(opened) == {f"{i}.png" for i in range(10, 20)}


def test_its_own_file_is_told_of_when_it_cannot_be_used(library: Library, folder: Path) -> None:
    draw(folder / "a.png")
    ids(library)
    library.close()
    (known,) = (library.settings.home / "folders").glob("*.db")
    for content, said in ((b"no database at all" * 100, "cannot be used"), (None, "newer version")):
        if content is None:
            known.unlink()
            with closing(sqlite3.connect(known)) as db:
                db.execute("PRAGMA user_version = 99")
        else:
            known.write_bytes(content)
        with closing(FolderCatalog(folder, library.settings.home)) as catalog, pytest.raises(Refused, match=said):
            catalog.kinds()


def test_a_library_is_known_again(folder: Path, tmp_path: Path) -> None:
    draw(folder / "a.png")
    told = []
    for home in ("home", "home", "other"):
        with closing(FolderCatalog(folder, tmp_path / home)) as catalog:
            told.append(catalog.health().library)
            assert catalog.image(1).path == str(folder / "a.png")  # looked through at the first question
    assert told[0] == told[1] != told[2]


def test_the_forms_of_its_address(folder: Path, tmp_path: Path) -> None:
    draw(folder / "a.png")
    for form in (str(folder), str(folder) + os.sep, str(folder / "x" / "..")):
        with closing(connect(Settings(home=tmp_path / "home", dt=form))) as catalog:
            assert catalog.address == str(folder)
    assert folder_at("E:\\Pictures") is not None  # a drive that is away
    assert folder_at("\\\\server\\share\\Pictures") is not None
    for other in ("", "pictures that are not there", str(folder / "a.png"), "ftp://host/x"):
        assert folder_at(other) is None, other
    with pytest.raises(SettingsError, match="or the path of a folder of pictures"):
        connect(Settings(home=tmp_path / "home", dt="ftp://host/x"))


def test_a_picture_that_went_meanwhile_is_told(library: Library, folder: Path) -> None:
    file = draw(folder / "a.png")
    ids(library)
    file.unlink()
    draw(folder / "b.png")
    with pytest.raises(PictureMissing, match=r"a\.png: No such file"):
        library.catalog.file(1)
